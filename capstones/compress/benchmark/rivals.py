"""What other libraries make of the same model: in the same run, on the same text, in turns.

torchao and optimum-quanto replace the linear layers of our LLaMA, so that nothing but these
differs; onnxruntime gets the model as a graph with a cache. llm-compressor does not install beside
this torch: it works in an environment of its own, reads the windows that ours read and hands back
floats, so it has a loss and no speed. Where a library keeps weights as integers and reads floats,
its loss is that of the floats that the integers stand for; the products of its kernels differ from
those by rounding.

>>> packed_bytes(torch.nn.Linear(3, 2))  # plain floats, with the bias
32
"""

import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from compress.benchmark import quality
from compress.benchmark.bench import RUNS, source
from compress.benchmark.forms import FORMS, FloatSums
from compress.benchmark.speed import speeds
from compress.calibration import calibrate
from compress.models.opening import open_model
from shared.files import write_atomic
from shared.measuring import read_record, save, seconds
from shared.tensors import pack
from week18.llama3 import Llama
from week18.pretrained import load_pretrained

DECODE = 4  # new tokens per turn: some of these take a second for each
COMPRESSOR = "llm-compressor int4 GPTQ"
COMPRESSOR_VERSION = "0.14.0.1"
NAMES = (
    "torchao int8",
    "torchao int8 dynamic",
    "torchao int4",
    "quanto int8",
    "quanto int4",
    "onnxruntime float32",
    "onnxruntime int8 dynamic",
    COMPRESSOR,
)
# Ours beside each, which rounds in the same way or is meant for the same.
OURS = {
    "torchao int8": "int8 weight-only",
    "torchao int8 dynamic": "int8 dynamic",
    "torchao int4": "int4 RTN g64 sym",
    "quanto int8": "int8 weight-only",
    "quanto int4": "int4 RTN g64",
    "onnxruntime float32": "float32",
    "onnxruntime int8 dynamic": "int8 dynamic",
    COMPRESSOR: "int4 GPTQ g64 sym",
}


def measure(
    record: dict[str, Any],
    *,
    metrics: Sequence[str],
    out: Path,
    quick: bool,
    say: Callable[[str], None] = lambda line: None,
    names: Sequence[str] = NAMES,
    home: Path = RUNS / "rivals",
) -> dict[str, Any]:
    """Add what other libraries do to the record of a bench, on its model and by its protocol.

    Parameters
    ----------
    home
        Where the models that they write are kept.
    """
    about = record["about"]
    base, size = source(about["model"], say=say), about["size"]
    folder = home / "onnx"
    if "ppl" in metrics:
        counts = {name: size[name] for name in ("windows", "context", "pages")}
        text = quality.wikitext(open_model(base).tokenizer.encode, **counts)
        for name in names:
            say(f"reading with {name}")
            try:
                found = judged(base, name, text, folder, size)
            except (subprocess.CalledProcessError, FileNotFoundError) as error:
                say(f"{name} is left out: {(getattr(error, 'stderr', '') or str(error))[-300:]}")
                continue
            row = read_record(out).get(name, {}) | {"rival": OURS[name], "ppl": found.pop("ppl")}
            save(out, name, row | found, quick=quick, threads=torch.get_num_threads())
    if "speed" in metrics:
        counts = {name: size[name] for name in ("prefill", "repeats")} | {"decode": DECODE}
        names = [name for name in names if name != COMPRESSOR]
        for name in names:
            if name.startswith("onnx") and not _graph(folder, int8="int8" in name).exists():
                say(f"writing {name}")
                onnx_file(open_model(base).model, folder, int8="int8" in name)
        forms = [(str(folder) if name.startswith("onnx") else base, name) for name in names]
        forms = [(base, "float32"), *forms]  # in the same turns
        found = speeds(forms, threads=size["threads"][:1], say=say, **counts)
        floats = found.pop(0)
        for name, speed in zip(names, found, strict=True):
            row = read_record(out).get(name, {}) | {"speed": speed, "beside": floats}
            save(out, name, row, quick=quick, threads=torch.get_num_threads())
    return read_record(out)


def judged(
    base: str, name: str, text: quality.Text, folder: Path, size: Mapping[str, Any]
) -> dict[str, Any]:
    """Loss, bytes and seconds of what a library makes of a model."""
    opened = open_model(base)
    model = opened.model
    if name == COMPRESSOR:
        ids = calibrate(opened.tokenizer, n=size["n_calib"], seqlen=size["seqlen"]).ids
        out = folder.with_name("llm-compressor")
        took, _ = seconds(lambda: llm_compressor(opened.folder, ids, out))
        nats, size = quality.window_nats(load_pretrained(out).eval(), text), {}
    elif name.startswith("onnxruntime"):
        took, path = seconds(lambda: onnx_file(model, folder, int8="int8" in name))
        from week27.onnx_export import OnnxLlama

        graph = Called(OnnxLlama(path, threads=torch.get_num_threads()))
        nats, size = quality.window_nats(graph, text), {"file": path.stat().st_size}
    else:
        took, model = seconds(lambda: FORMS[name](model))
        size = {"blocks": packed_bytes(model.blocks)}
        nats = quality.window_nats(floats_of(model), text)
    ppl = {"signature": text.signature, "nats": nats, "word_perplexity": None}
    return {"ppl": ppl, "seconds": round(took, 2), "bytes": size}


def llm_compressor(model: Path, ids: Int64[Tensor, "window seqlen"], out: Path) -> None:
    """What it makes of a folder, four bits in groups of 64, as floats.

    Raises
    ------
    FileNotFoundError, CalledProcessError
        uv is not here, or the library cannot be had or fails.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows, worker = out / "ids.safetensors", Path(__file__).with_name("llm_compressor_worker.py")
    rows.write_bytes(pack({"ids": ids}))
    uv = ["uv", "run", "--no-project", "--with", f"llmcompressor=={COMPRESSOR_VERSION}"]
    words = [*uv, str(worker), *(str(path.absolute()) for path in (model, rows, out))]
    subprocess.run(words, check=True, capture_output=True, text=True, cwd=out)


class Called(nn.Module):
    """A function from tokens to logits, where a module is asked for."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def forward(self, tokens: Tensor) -> Tensor:
        """The function's logits."""
        return self.function(tokens)


def onnx_file(model: Llama, folder: Path, *, int8: bool) -> Path:
    """The model as a graph, or what onnxruntime's `quantize_dynamic` makes of it."""
    from week27.onnx_export import export_llama

    folder.mkdir(parents=True, exist_ok=True)
    plain, small = _graph(folder, int8=False), _graph(folder, int8=True)
    if not int8 or not plain.exists():
        export_llama(model, plain)
    if not int8:
        return plain
    from onnxruntime.quantization import QuantType, quantize_dynamic

    options = {"weight_type": QuantType.QInt8, "per_channel": True}
    options["op_types_to_quantize"] = ["MatMul"]
    # Without VNNI its kernels add pairs of products in 16 bits, which 8 bits of weights overflow.
    options["reduce_range"] = not torch.cpu._is_vnni_supported()
    temporary = folder / "writing.onnx"
    quantize_dynamic(plain, temporary, **options)
    write_atomic(small, temporary.read_bytes())
    temporary.unlink()
    return small


def _graph(folder: Path, *, int8: bool) -> Path:
    return folder / ("int8.onnx" if int8 else "float32.onnx")


def packed_bytes(module: nn.Module) -> int:
    """Bytes of all numbers that a library keeps, those inside its tensors too."""
    tensors = [*module.parameters(), *module.buffers()]
    return sum(_bytes(tensor) for tensor in {id(t): t for t in tensors}.values())


def _bytes(tensor: Tensor) -> int:
    if hasattr(tensor, "__tensor_flatten__"):
        return sum(_bytes(getattr(tensor, name)) for name in tensor.__tensor_flatten__()[0])
    return tensor.numel() * tensor.element_size()


def floats_of(model: Llama) -> Llama:
    """The same model with the floats that a library's integers stand for, to be judged.

    Where it rounds inputs too, so does what is judged: a symmetric grid per token.
    """
    for name, module in list(model.named_modules()):
        if not name.startswith("blocks.") or not hasattr(module, "weight") or "_proj" not in name:
            continue
        weight = module.weight
        dense = weight.dequantize() if hasattr(weight, "dequantize") else weight
        plain = nn.Linear(dense.shape[1], dense.shape[0], bias=False)
        plain.weight = nn.Parameter(dense.detach().float(), requires_grad=False)
        if getattr(weight, "act_quant_kwargs", None) is not None:
            plain = FloatSums(plain.weight)
            plain.q, plain.scale = weight.qdata, weight.scale.flatten()
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, plain)
    return model
