"""A model, compressed or not, in the format that was asked for."""

import json
from pathlib import Path
from typing import Any, Literal

from compress.artifact.folder import checked, weights_of
from compress.export.compressed_tensors import save_compressed_tensors
from compress.export.gguf import save_gguf
from compress.models.opened import OpenedModel
from compress.models.opening import open_model
from compress.weights import Weight
from shared import artifacts
from shared.errors import UserError
from shared.require import require
from shared.tensors import pack
from week18.llama3 import Llama
from week18.pretrained import hugging_face_config, hugging_face_name

Format = Literal["hf", "compressed-tensors", "onnx", "gguf"]
FILES = ("onnx", "gguf")


def write(ref: str, out: Path, format: Format, *, kind: str = "Q8_0") -> dict[str, Any]:
    """Write a model; return where, and how many bytes.

    Raises
    ------
    UserError
        If the format cannot hold the model, or nothing can be written there.
    """
    opened, out = open_model(ref), Path(out)
    tokenizer = dict(opened.tokenizer.files)
    if format in FILES:
        right = out.suffix == f".{format}"
        require(right, f"out must end in .{format} for {format}", out, error=UserError)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"out {out} cannot be written ({error.strerror})") from error
    if format != "compressed-tensors":
        plain(opened, format)
    if format == "gguf":
        save_gguf(opened.model, out, kind=kind, files=tokenizer)
    elif format == "onnx":
        from week27.onnx_export import export_llama

        export_llama(opened.model, out)
    elif format == "hf":
        save_floats(opened.model, out, tokenizer)
    else:
        weights = codes_of(opened)
        save_compressed_tensors(opened.model, weights, out, tokenizer)
    files = [out] if out.is_file() else sorted(out.iterdir())
    return {"out": str(out), "format": format, "bytes": sum(f.stat().st_size for f in files)}


def plain(opened: OpenedModel, format: str) -> None:
    """Refuse a model that rounds what its layers read: floats alone would not compute that."""
    from week19.quantized_linear import DynamicInt8Linear

    rounds = any(isinstance(module, DynamicInt8Linear) for module in opened.model.modules())
    must = f"MODEL must not round its inputs to int8 for {format}; compressed-tensors can"
    require(not rounds, must, error=UserError)


def save_floats(model: Llama, out: Path, files: dict[str, bytes]) -> None:
    """A Hugging Face folder of dense float32 weights, with the tokenizer."""
    tensors = {hugging_face_name(name): p.detach() for name, p in model.named_parameters()}
    config = hugging_face_config(model.config) | {"dtype": "float32"}
    content = {"config.json": (json.dumps(config, indent=2) + "\n").encode()}
    artifacts.save(out, {**files, **content, "model.safetensors": pack(tensors)})


def codes_of(opened: OpenedModel) -> dict[str, Weight]:
    """The layers of an artifact as they are kept.

    Raises
    ------
    UserError
        If the model is no artifact.
    """
    ours = opened.name.startswith("compress:") and opened.folder is not None
    must = "MODEL must be an artifact, compress:DIR, for compressed-tensors"
    require(ours, must, opened.name, error=UserError)
    tensors, artifact = artifacts.open_tensors(opened.folder)
    return dict(weights_of(tensors, checked(opened.folder, artifact.metadata)["layers"]))
