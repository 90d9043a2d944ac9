r"""int8 for a graph: matrices become whole numbers once, what they multiply at each call.

With one grid for all activations of a call (scale $\Delta_x$, zero point $z_x$) and one for each
channel $j$ of the weight, a product is one of whole numbers and a scale at its end:

$$ y_{j} \approx \Delta_x \Delta_j \sum_i (p_i - z_x)(q_{ij} - z_j) . $$

>>> w = torch.tensor([[1.0, -0.5], [0.25, 0.5]])
>>> q, scale, zero = int8_weight(w, per_channel=True, symmetric=True)
>>> q
tensor([[ 127, -127],
        [  32,  127]], dtype=torch.int8)
>>> dynamic_product(torch.tensor([[1.0, 2.0]]), q, scale, zero)
tensor([[1.5000, 0.5020]])

`uv run weeks/27/onnx_export.py` compares with onnxruntime's own quantizer. Sources: ONNX operator
schemas of `DynamicQuantizeLinear` and `MatMulInteger`; onnxruntime's documentation of quantization,
for the overflow.
"""

from pathlib import Path

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from shared.artifacts import write_atomic
from week27.onnx_export import Graph

FLOAT = 1  # ONNX's number of the type


def int8_weight(
    w: Float[Tensor, "n_in n_out"], *, per_channel: bool = False, symmetric: bool = True
) -> tuple[Integer[Tensor, "n_in n_out"], Float[Tensor, "grid"], Integer[Tensor, "grid"]]:
    """Integers, scales and zero points as onnxruntime chooses them; a column is a channel.

    Symmetric are int8 from -127 to 127, others uint8. The scale is computed in float64, the zero
    point from it, and only then is it rounded to float32, which divides the weights.
    """
    low, high = (w.amin(0), w.amax(0)) if per_channel else (w.min()[None], w.max()[None])
    low, high = low.clamp(max=0).double(), high.clamp(min=0).double()
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    bottom, top = (-127, 127) if symmetric else (0, 255)
    scale = (high - low) / (top - bottom)
    scale = torch.where(scale < torch.finfo(torch.float32).tiny, 1.0, scale)
    zero = (bottom - low / scale).round()  # 0 of a symmetric grid
    q = ((w / scale.float()).round() + zero.float()).clamp(bottom, top)
    dtype = torch.int8 if symmetric else torch.uint8
    return q.to(dtype), scale.float(), zero.to(dtype)


def dynamic_product(
    x: Float[Tensor, "*batch n_in"],
    q: Integer[Tensor, "n_in n_out"],
    scale: Float[Tensor, "grid"],
    zero: Integer[Tensor, "grid"],
) -> Float[Tensor, "*batch n_out"]:
    """What an int8 graph computes for x @ w: all of x on one grid of uint8, the sum exact."""
    p, step, origin = int8_weight(x.reshape(-1, 1), symmetric=False)
    whole = (p.double() - origin).reshape(x.shape) @ (q.double() - zero)
    return (whole * step * scale).float()


def quantize_llama(
    path: Path, out: Path, *, per_channel: bool = True, symmetric: bool = False
) -> None:
    """Write the int8 form of a file of `export_llama`: every matrix, the embedding among them.

    The channels of the embedding are its rows, which are those of a tied head.

    Parameters
    ----------
    symmetric
        Take int8 for the weights, not uint8. On x86 processors without VNNI onnxruntime adds pairs
        of products of uint8 and int8 in 16 bits, which overflow without a word.
    """
    import onnx

    proto = onnx.load(path)
    nodes, weights = list(proto.graph.node), {w.name: w for w in proto.graph.initializer}
    graph, activations, embedding = Graph("int8."), {}, []
    op = graph.op

    def integers(name: str, *, rows: bool = False) -> list[str]:
        w = torch.tensor(onnx.numpy_helper.to_array(weights[name]))
        parts = int8_weight(w.T if rows else w, per_channel=per_channel, symmetric=symmetric)
        names = [f"{name}.{part}" for part in ("q", "scale", "zero")]
        return [graph.weight(*pair) for pair in zip(names, parts, strict=True)]

    def grid(x: str) -> list[str]:
        if x not in activations:  # queries, keys and values share that of their input
            activations[x] = [f"{x}.{part}" for part in ("q", "scale", "zero")]
            op("DynamicQuantizeLinear", x, outputs=activations[x])
        return activations[x]

    for node in nodes:
        if node.op_type == "Gather":
            q, scale, zero = embedding = integers("embed.weight", rows=True)
            tokens, last = node.input[1], graph.weight("last", torch.tensor([-1]))
            if per_channel:
                picked = [op("Gather", each, tokens) for each in (scale, zero)]
                scale, zero = (op("Unsqueeze", each, last) for each in picked)
            rows = op("Gather", op("Transpose", q, perm=[1, 0]), tokens)
            rows, zero = (op("Cast", value, to=FLOAT) for value in (rows, zero))
            op("Mul", op("Sub", rows, zero), scale, outputs=node.output)
        elif node.op_type == "MatMul":
            w = node.input[1]
            (p, step, origin), (q, scale, zero) = (
                grid(node.input[0]),
                integers(w) if w in weights else embedding,
            )
            whole = op("Cast", op("MatMulInteger", p, q, origin, zero), to=FLOAT)
            op("Mul", whole, op("Mul", step, scale), outputs=node.output)
        elif node.op_type != "Transpose":  # that of a tied head
            graph.nodes.append(node)
    used = {name for node in graph.nodes for name in node.input}
    kept = [weights[name] for name in weights if name in used]
    kept += [onnx.numpy_helper.from_array(w, name) for name, w in graph.weights.items()]
    for field, new in ((proto.graph.node, graph.nodes), (proto.graph.initializer, kept)):
        del field[:]
        field.extend(new)
    onnx.checker.check_model(proto)
    write_atomic(Path(out), proto.SerializeToString())
