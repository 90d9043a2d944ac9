"""What makes a model's answers its own, as digests: of weights and tokenizer, not of their names.

>>> import torch
>>> weights = {"w": torch.ones(2), "b": torch.zeros(1)}
>>> tensors_digest(weights)[:12]
'd8658af30504'
>>> tensors_digest(weights) == tensors_digest(dict(reversed(weights.items())))
True
>>> tensors_digest(weights) == tensors_digest({**weights, "b": torch.tensor([-0.0])})
False
"""

import hashlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llm_eval.types import digest
from shared import artifacts
from shared.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Of the code in this package: raised when the same weights would answer otherwise.
VERSION = "2"


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 of files by their names, whatever folder they lie in.

    A file is read again only where its size or its time has changed since.

    Raises
    ------
    UserError
        One cannot be read.
    """
    found = hashlib.sha256()
    for path in sorted(map(Path, paths), key=lambda path: path.name):
        try:
            stat = path.stat()
            content = _file_digest(path, stat.st_size, stat.st_mtime_ns)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
        found.update(f"{path.suffix}\0{content}\n".encode())
    return found.hexdigest()


@lru_cache
def _file_digest(path: Path, size: int, mtime: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def artifact_digests(folder: Path) -> dict[str, str]:
    """Digests of a compressed model, from its manifest: when and how it was made does not count."""
    said = artifacts.manifest_of(folder)
    files = {name: facts["sha256"] for name, facts in said["files"].items()}
    weights = [files.pop(name) for name in (artifacts.TENSORS, "config.json")]
    return {"weights": digest([*weights, said["metadata"]["layers"]]), "tokenizer": digest(files)}


def tensors_digest(tensors: "Mapping[str, Tensor]") -> str:
    """SHA-256 of named tensors: their bits, dtypes and shapes, in the order of their names."""
    import torch

    found = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        found.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
