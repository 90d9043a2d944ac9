"""A compressed model as a folder: packed bits, config, tokenizer, and a manifest that says it all.

    tensors.safetensors     blocks.0.q_proj.codes, .scale, .zero, .mask …; floats by their names
    config.json             as Hugging Face's, of the sizes that the model has now
    tokenizer.json …        the tokenizer's own files
    MANIFEST.json           digests of all files; recipe, calibration, what happened to each layer

It is written whole or not at all, and read only if every byte is as it was written.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.artifact.packing import Packed, unpack
from compress.layers import install
from compress.models.opened import OpenedModel
from compress.models.tokenizers import of_files
from compress.pipeline.compressed import Compressed
from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from week18.llama3 import Llama
from week18.pretrained import Skeleton, config_from_hugging_face, hugging_face_config

FORMAT = "compression 1"
# What content that is not as it was written may lead to, under whatever seal.
CONTENT = (ArithmeticError, LookupError, TypeError, AttributeError, ValueError, RuntimeError)


def save(compressed: Compressed, out: Path, *, identity: str = "") -> None:
    """Write the folder, replacing an artifact that is there.

    Parameters
    ----------
    identity
        What tells this run from others, so that it need not be done again.
    """
    dtype = getattr(torch, compressed.dtype)
    tensors: dict[str, Tensor] = {}
    for name, p in compressed.model.named_parameters():
        if name.removesuffix(".weight") not in compressed.layers:
            tensors[name] = p.detach().to(dtype)
    for name, packed in compressed.layers.items():
        tensors |= {f"{name}.{part}": tensor for part, tensor in packed.tensors.items()}
    text = compressed.calibration
    metadata = {
        "format": FORMAT,
        "identity": identity,
        "source": compressed.source,
        "recipe": compressed.recipe.as_json(),
        "calibration": text and text.as_json(),
        "tokenizer": compressed.tokenizer.kind,
        "dtype": compressed.dtype,
        "layers": {name: packed.meta for name, packed in compressed.layers.items()},
        "records": compressed.records,
    }
    config = hugging_face_config(compressed.model.config)
    files = {**compressed.tokenizer.files, "config.json": json.dumps(config, indent=1).encode()}
    artifacts.save_tensors(out, tensors, metadata=metadata, files=files)


def load(folder: Path, *, kernels: bool = False) -> OpenedModel:
    """Read it back; the model computes what it computed in memory, to the bit.

    Parameters
    ----------
    kernels
        Keep integers where torch has a kernel for them (see `compress.layers.install`).

    Raises
    ------
    ArtifactError
        If it is none, or was altered or torn.
    """
    tensors, artifact = artifacts.load_tensors(folder)
    metadata = checked(folder, artifact.metadata)
    try:
        config = config_from_hugging_face(json.loads(artifact.files["config.json"]))
        tokenizer = of_files(metadata["tokenizer"], artifact.files)
        with Skeleton():
            model = Llama(config)
        model.to_empty(device="cpu")
        if config.tied:
            model.head.weight = model.embed.weight
        model.eval().requires_grad_(False)
        fill(model, tensors, metadata["layers"], kernels=kernels)
    except (UserError, *CONTENT) as error:
        raise ArtifactError(
            f"artifact {folder} holds another model than it says ({error})"
        ) from error
    digest = artifacts._facts((artifact.path / artifacts.MANIFEST).read_bytes())["sha256"]
    return OpenedModel(model, tokenizer, f"compress:{folder}", digest, Path(folder))


def checked(folder: Path, metadata: Mapping[str, Any]) -> Mapping[str, Any]:
    """The metadata, if it is that of a compressed model."""
    if metadata.get("format") != FORMAT:
        raise ArtifactError(f"artifact {folder} is no compressed model of {FORMAT!r}")
    return metadata


def fill(
    model: Llama,
    tensors: Mapping[str, Tensor],
    layers: Mapping[str, Mapping[str, Any]],
    *,
    kernels: bool,
) -> None:
    """Give a model its numbers, each exactly once."""
    left = dict(tensors)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.removesuffix(".weight") not in layers:
                tensor = left.pop(name)
                if tensor.shape != p.shape:
                    raise ValueError(f"{name} has shape {tuple(tensor.shape)}")
                p.copy_(tensor)
        for name, weight in weights_of(left, layers):
            install(model, name, weight, kernels=kernels)
    if left:
        raise ValueError(f"{min(left)} is of no layer")


def weights_of(left: dict[str, Tensor], layers: Mapping[str, Mapping[str, Any]]):
    """Each packed layer's name and weight; its tensors are taken out of `left`."""
    for name, meta in layers.items():
        parts = {
            key.removeprefix(f"{name}."): left.pop(key)
            for key in list(left)
            if key.rpartition(".")[0] == name
        }
        yield name, unpack(*Packed({k: _float32(v) for k, v in parts.items()}, dict(meta)))


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
