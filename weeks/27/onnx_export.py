r"""ONNX: a model as a graph of standard operators, for runtimes that know nothing of torch.

A graph is nodes (operator, names of inputs, names of outputs) and the weights. It has no branches,
no Python, and no memory, so what a model keeps between calls becomes inputs and outputs. The
key-value cache comes in as `past` and goes out as `present`, and a token's position follows from
its length and from the row's padding on the left:

$$ p_{bt} = \max(\text{past} + t - \text{padding}_b,\, 0), \qquad
   \text{key } s \text{ seen by } t \iff \text{padding}_b \le s \le \text{past} + t . $$

Batch, length and past are symbols: one graph serves all. [onnx_int8](onnx_int8.py) rewrites such a
graph for whole numbers.

>>> import tempfile
>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50, n_kv_heads=2), torch.Generator().manual_seed(0))
>>> path = Path(tempfile.mkdtemp()) / "llama.onnx"
>>> export_llama(model, path)
>>> graph, cache, tokens = OnnxLlama(path), OnnxCache(), torch.arange(8)[None]
>>> parts = [graph(part, cache=cache) for part in tokens.split([5, 1, 2], dim=1)]
>>> torch.allclose(torch.cat(parts, dim=1), model(tokens), atol=1e-5)
True

    uv run weeks/27/onnx_export.py

Source: ONNX operator schemas, opset 23 (2025), for `Attention`, `RotaryEmbedding` and
`RMSNormalization`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from shared.artifacts import write_atomic
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Llama

OPSET, IR_VERSION = 23, 11


# ---- the graph


class Graph:
    """Nodes and weights as they are added; values are known by names that begin with `prefix`."""

    def __init__(self, prefix: str = ""):
        self.prefix, self.nodes, self.weights = prefix, [], {}

    def op(self, kind: str, *inputs: str, outputs: Sequence[str] = (), **attributes) -> str:
        """Add a node; give the name of its first output."""
        from onnx import helper

        outputs = outputs or (f"{self.prefix}{kind}.{len(self.nodes)}",)
        self.nodes.append(helper.make_node(kind, inputs, outputs, **attributes))
        return outputs[0]

    def weight(self, name: str, value: Shaped[Tensor, "..."]) -> str:
        """Add an initializer; give its name."""
        self.weights[name] = value.detach().cpu().contiguous().numpy()
        return name


def export_llama(model: Llama, path: Path, *, cache: bool = True) -> None:
    """Write a model as one ONNX file.

    Inputs are `tokens` (batch, seq) and `padding` (batch), how many tokens on the left of a row are
    no text; with a cache also `past_k.0`, `past_v.0`, … (batch, kv_head, past, head_dim). Outputs
    are `logits` and `present_k.0`, …, which the next call gets as its past.

    Raises
    ------
    ValueError
        If the weights are not float32, or the rotary angles depend on the text's length.
    """
    import onnx

    config, dtype = model.config, model.embed.weight.dtype
    require(dtype == torch.float32, "model must have weights of float32", dtype)
    scaling = config.rope_scaling
    must = "rope_scaling must be one whose angles do not depend on the text's length"
    require(scaling is None or not scaling.by_length, must, scaling)
    graph = Graph()
    _nodes(graph, model, cache)
    kv = ("batch", config.n_kv_heads, "past", config.head_dim)
    inputs = {"tokens": ("batch", "seq"), "padding": ("batch",)}
    outputs = {"logits": ("batch", "seq", config.vocab_size)}
    for name in cache_names(config.n_layers) if cache else ():
        inputs[f"past_{name}"] = kv
        outputs[f"present_{name}"] = (*kv[:2], "total", kv[3])
    whole = {"tokens", "padding"}
    values = [
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.TensorProto.INT64 if name in whole else onnx.TensorProto.FLOAT, shape
            )
            for name, shape in side.items()
        ]
        for side in (inputs, outputs)
    ]
    weights = [onnx.numpy_helper.from_array(w, name) for name, w in graph.weights.items()]
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(graph.nodes, "llama", *values, weights),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    onnx.helper.set_model_props(proto, {"context": str(config.context)})
    onnx.checker.check_model(proto)
    write_atomic(Path(path), proto.SerializeToString())


def cache_names(n_layers: int) -> list[str]:
    """Names of a cache's arrays: k.0, v.0, k.1, …"""
    return [f"{kind}.{layer}" for layer in range(n_layers) for kind in "kv"]


def _nodes(graph: Graph, model: Llama, cache: bool) -> None:
    """Week 18's `Llama.forward`, line by line."""
    op, config = graph.op, model.config
    weights = dict(model.named_parameters())

    def norm(x: str, name: str) -> str:
        gain = graph.weight(f"{name}.weight", weights[f"{name}.weight"])
        return op("RMSNormalization", x, gain, epsilon=config.norm_eps)

    def linear(x: str, name: str) -> str:
        return op("MatMul", x, graph.weight(f"{name}.weight", weights[f"{name}.weight"].T))

    positions, allowed = _positions(graph, cache)
    waves = model.waves(torch.arange(config.context), None)
    tables = [graph.weight(n, w[0, 0]) for n, w in zip(("cos", "sin"), waves, strict=True)]
    x = op("Gather", graph.weight("embed.weight", model.embed.weight), "tokens")
    n_heads, n_kv = config.n_heads, config.n_kv_heads
    for i in range(config.n_layers):
        block = f"blocks.{i}"
        u = norm(x, f"{block}.attention_norm")
        q, k, v = (linear(u, f"{block}.{p}_proj") for p in "qkv")
        q = op("RotaryEmbedding", q, *tables, positions, num_heads=n_heads)
        k = op("RotaryEmbedding", k, *tables, positions, num_heads=n_kv)
        names = cache_names(config.n_layers)[2 * i : 2 * i + 2] if cache else []
        past, present = ([f"{when}_{n}" for n in names] for when in ("past", "present"))
        heads = {"q_num_heads": n_heads, "kv_num_heads": n_kv}
        outputs = (f"{block}.heads", *present)
        attended = op("Attention", q, k, v, allowed, *past, outputs=outputs, **heads)
        x = op("Add", x, linear(attended, f"{block}.out_proj"))
        u = norm(x, f"{block}.mlp_norm")
        gate = linear(u, f"{block}.gate_proj")
        silu = op("Mul", gate, op("Sigmoid", gate))
        gated = op("Mul", silu, linear(u, f"{block}.up_proj"))
        x = op("Add", x, linear(gated, f"{block}.down_proj"))
    x = norm(x, "norm")
    if config.tied:  # one copy in the file, turned when it is loaded
        head = op("Transpose", "embed.weight", perm=[1, 0])
    else:
        head = graph.weight("head.weight", weights["head.weight"].T)
    op("MatMul", x, head, outputs=("logits",))


def _positions(graph: Graph, cache: bool) -> tuple[str, str]:
    """Names of the positions (batch, seq) and of which keys are seen (batch, 1, seq, key)."""
    op = graph.op
    zero, one = (graph.weight(name, torch.tensor(i)) for i, name in enumerate(("zero", "one")))
    row, column = (graph.weight(n, torch.tensor(a)) for n, a in (("row", [1, 2]), ("column", [1])))
    n = op("Squeeze", op("Shape", "tokens", start=1, end=2))
    past = op("Squeeze", op("Shape", "past_k.0", start=2, end=3)) if cache else zero
    total = op("Add", past, n)
    at, key = op("Range", past, total, one), op("Range", zero, total, one)
    positions = op("Max", op("Sub", at, op("Unsqueeze", "padding", column)), zero)
    query = op("Unsqueeze", at, column)
    text = op("GreaterOrEqual", key, op("Unsqueeze", "padding", row))
    seen = op("And", op("LessOrEqual", key, query), text)
    # Padding sees itself: a row without any key would be 0/0.
    return positions, op("Unsqueeze", op("Or", seen, op("Equal", key, query)), column)


# ---- running it


class OnnxCache:
    """What the last call gave out as present, and how many tokens that is."""

    def __init__(self):
        self.length, self.arrays = 0, {}


class OnnxLlama:
    """A file of `export_llama` in onnxruntime, called as a `Llama` is.

    Raises
    ------
    UserError
        If the file is missing, torn or not such a graph.
    """

    def __init__(self, path: Path, *, threads: int = 1):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        require(Path(path).is_file(), f"{path} must be a file", "none", error=UserError)
        try:
            where = {"providers": ["CPUExecutionProvider"]}
            self.session = onnxruntime.InferenceSession(str(path), options, **where)
            self.context = int(self.session.get_modelmeta().custom_metadata_map["context"])
        except Exception as error:  # onnxruntime's errors have no common base
            raise UserError(f"{path} is not an ONNX file of a Llama: {error!r}") from error
        inputs = {i.name: i.shape for i in self.session.get_inputs()}
        self.kv = {name[5:]: shape for name, shape in inputs.items() if name.startswith("past_")}

    def __call__(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        cache: OnnxCache | None = None,
        padding: Int[Tensor, " batch"] | None = None,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token after each one; the cache grows by the tokens."""
        past, (batch, n) = 0 if cache is None else cache.length, tokens.shape
        require(past + n <= self.context, f"tokens must fit in context = {self.context}", past + n)
        require(cache is None or self.kv, "cache must be None: the graph was exported without one")
        feeds = {"tokens": tokens.cpu().numpy()}
        feeds["padding"] = np.zeros(batch, np.int64) if padding is None else padding.cpu().numpy()
        for name, (_, heads, _, dim) in self.kv.items():
            empty = np.zeros((batch, heads, 0, dim), np.float32)
            feeds[f"past_{name}"] = cache.arrays[name] if past else empty
        wanted = ["logits", *(f"present_{name}" for name in self.kv if cache is not None)]
        logits, *present = self.session.run(wanted, feeds)
        if cache is not None:
            cache.arrays, cache.length = dict(zip(self.kv, present, strict=True)), past + n
        return torch.from_numpy(logits)

    def greedy(self, prompt: list[int], most: int, *, cache: bool = True) -> list[int]:
        """The likeliest next token, again and again; without a cache all is read again."""
        memory, new, found = OnnxCache() if cache else None, prompt, []
        for _ in range(most):
            token = int(self(torch.tensor([new]), cache=memory)[0, -1].argmax())
            found.append(token)
            new = [token] if cache else [*new, token]
        return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
