"""A compressed model as a folder: packed bits, config, tokenizer, and a manifest that says it all.

    tensors.safetensors     blocks.0.q_proj.codes, .scale, .zero, .mask …; floats by their names
    config.json             as Hugging Face's, of the sizes that the model has now
    tokenizer.json …        the tokenizer's own files
    MANIFEST.json           digests of all files; recipe, calibration, what happened to each layer

It is written whole or not at all, and read only if every byte is as it was written.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compress.artifact.packing import Packed, unpack
from compress.layers import install, install_floats
from compress.models.opened import OpenedModel
from compress.models.tokenizers import of_files
from compress.pipeline.compressed import Compressed
from compress.weights import Weight
from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.tensors import give_back_memory
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

    Layer by layer, from the file to what computes: there never is another copy of the model.

    Parameters
    ----------
    kernels
        Keep integers where torch has a kernel for them (see `compress.layers.install`), and of 16
        bits an embedding and a head that are floats.

    Raises
    ------
    ArtifactError
        If it is none, or was altered or torn.
    """
    tensors, artifact = artifacts.open_tensors(folder)
    metadata = checked(folder, artifact.metadata)
    try:
        config = config_from_hugging_face(json.loads(artifact.files["config.json"]))
        tokenizer = of_files(metadata["tokenizer"], artifact.files)
        with Skeleton():
            model = Llama(config)
        fill(model, tensors, metadata["layers"], kernels=kernels)
        model.eval().requires_grad_(False)
        give_back_memory()
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
    floats = [name.removesuffix(".weight") for name, _ in model.named_parameters()]
    floats = [name for name in floats if name not in layers]
    known = {f"{name}.weight" for name in floats}
    unknown = [name for name in tensors if name not in known and _layer_of(name) not in layers]
    if unknown:
        raise ValueError(f"{min(unknown)} is of no layer")
    for name in floats:
        install_floats(model, name, tensors[f"{name}.weight"], kernels=kernels)
    for name, weight in weights_of(tensors, layers):
        install(model, name, weight, kernels=kernels)


def weights_of(
    tensors: Mapping[str, Tensor], layers: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Weight]]:
    """Each packed layer's name and weight, read when it is its turn."""
    names: dict[str, list[str]] = {}
    for name in tensors:
        names.setdefault(_layer_of(name), []).append(name)
    for name, meta in layers.items():
        parts = {each.removeprefix(f"{name}."): tensors[each] for each in names.get(name, [])}
        yield name, unpack(*Packed({k: _float32(v) for k, v in parts.items()}, dict(meta)))


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
