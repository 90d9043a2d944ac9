"""Folders that are whole or not there.

An artifact is a flat folder with a ``MANIFEST.json`` that lists every file's digest. It is written
beside its target, synced to the disk and renamed into place, so that a crash at any instant leaves
the old one or the new one to load::

    .NAME.saving      being written; worthless after a crash, the next save clears it away
    NAME              the artifact
    .NAME.previous    the old one, for the moment between two renames; `load` falls back on it

Weights are stored as safetensors, never as pickles.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from shared.errors import UserError
from shared.files import locked, sync_folder, write_atomic, write_synced
from shared.tensors import Lazy, pack, unpack

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = [
    "Artifact",
    "ArtifactError",
    "inside",
    "load",
    "load_tensors",
    "open_tensors",
    "save",
    "save_tensors",
    "verify",
    "write_atomic",
]

T = TypeVar("T")
MANIFEST = "MANIFEST.json"
TENSORS = "tensors.safetensors"
# One path component that means the same on every system: no separator, no leading dot.
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class ArtifactError(UserError):
    """An artifact that is not there, or not as it was saved."""

    status = 3


@dataclass(frozen=True)
class Artifact:
    """A verified artifact: its folder, its files' contents by name, what was said about it."""

    path: Path
    files: dict[str, bytes]
    metadata: dict[str, Any]


def save(
    target: Path, contents: Mapping[str, bytes], *, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write an artifact, replacing the one that is there; at no instant is neither loadable.

    Concurrent saves to one target take turns and the last one stays (on Windows, where folders
    cannot be locked, they are not supported).

    Parameters
    ----------
    target
        The folder to write.
    contents
        Each file's bytes by name; a name is one path component of letters, digits and ``_.-``.
    metadata
        Anything JSON can hold, given back by `load`.

    Raises
    ------
    ValueError
        A file name or the metadata is not allowed.
    ArtifactError
        Something that is not an artifact stands at the target.
    UserError
        The folder cannot be written.
    """
    target = absolute(target)
    for name in contents:
        if not _FILE_NAME.fullmatch(name) or name == MANIFEST:
            raise ValueError(f"contents must have plain file names, got {name!r}")
    manifest = _manifest(contents, metadata or {})
    saving, previous = beside(target, "saving"), beside(target, "previous")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent):
            refuse_to_replace_others(target)
            remove(saving)
            try:
                saving.mkdir()
                for name, data in {**contents, MANIFEST: manifest}.items():
                    write_synced(saving / name, data)
                sync_folder(saving)
                swap(saving, target, previous)
            except BaseException:
                remove(saving)
                raise
    except OSError as error:
        raise UserError(f"{target} cannot be saved ({error.strerror or error})") from error


def load(target: Path) -> Artifact:
    """Read an artifact and verify every byte of it.

    Raises
    ------
    ArtifactError
        There is none, or a file is missing, altered, torn, unexpected or a link; the message
        names it.
    """
    return _settled(target, _read)


def _settled(target: Path, read: Callable[[Path, Path], T]) -> T:
    """What is read of one folder: if a save swaps it under our eyes, the new one is read."""
    target = absolute(target)
    while True:
        folder, identity = current(target)
        try:
            if identity is None:
                raise ArtifactError(f"there is no artifact at {target}")
            found = read(target, folder)
        except ArtifactError:
            if current(target) == (folder, identity):
                raise
        else:
            if current(target) == (folder, identity):
                return found


def verify(target: Path) -> None:
    """Check every byte as `load` does, without keeping any: for files that will be mapped.

    Raises
    ------
    ArtifactError
        As `load`.
    """
    _settled(target, partial(_read, keep=lambda name: False))


def save_tensors(
    target: Path,
    tensors: "Mapping[str, np.ndarray] | Mapping[str, torch.Tensor]",
    *,
    metadata: Mapping[str, Any] | None = None,
    files: Mapping[str, bytes] | None = None,
) -> None:
    """Write an artifact that holds arrays or tensors, and other files beside them.

    Parameters
    ----------
    target, metadata
        As in `save`.
    tensors
        All NumPy arrays or all torch tensors, of any shape; those that share memory (tied
        weights) or are views are stored one by one.
    files
        More files by name, such as a configuration.

    Raises
    ------
    TypeError
        Arrays and tensors are mixed, a value is neither, or a dtype cannot be stored.
    """
    save(target, {**(files or {}), TENSORS: pack(tensors)}, metadata=metadata)


def load_tensors(
    target: Path,
) -> "tuple[dict[str, np.ndarray] | dict[str, torch.Tensor], Artifact]":
    """Read what `save_tensors` wrote: tensors of the kind that was saved, on the CPU.

    Returns
    -------
    tensors
        Arrays or tensors by name, with the dtypes and shapes they were saved with.
    artifact
        The metadata and the other files.

    Raises
    ------
    ArtifactError
        As `load`, or the artifact holds no tensors.
    """
    artifact = load(target)
    data = artifact.files.get(TENSORS)
    if data is None:
        raise ArtifactError(f"artifact {artifact.path} holds no tensors: {TENSORS} is missing")
    try:
        return unpack(data), artifact
    except Exception as error:  # whatever a header may say that is none
        what = f"{artifact.path / TENSORS} is no safetensors file ({error})"
        raise ArtifactError(what) from error


def open_tensors(target: Path) -> "tuple[Mapping[str, torch.Tensor], Artifact]":
    """As `load_tensors`, but each tensor is read from the file when it is asked for.

    Every byte is verified first. A big model is never in memory twice, as bytes and as tensors.
    """

    def read(target: Path, folder: Path) -> tuple[Lazy, Artifact]:
        artifact = _read(target, folder, keep=lambda name: name != TENSORS)
        if not (folder / TENSORS).exists():
            raise ArtifactError(f"artifact {target} holds no tensors: {TENSORS} is missing")
        try:
            return Lazy(folder / TENSORS), artifact
        except Exception as error:  # whatever a header may say that is none
            what = f"{target / TENSORS} is no safetensors file ({error})"
            raise ArtifactError(what) from error

    return _settled(target, read)


def _manifest(contents: Mapping[str, bytes], metadata: Mapping[str, Any]) -> bytes:
    sealed(dict(metadata))  # says what is wrong with it
    body = {
        "program": f"ml-studies {importlib.metadata.version('ml-studies')}",
        "argv": sys.argv,
        "metadata": json.loads(json.dumps(dict(metadata))),
        "files": {name: _facts(data) for name, data in sorted(contents.items())},
    }
    return sealed(body)


def _facts(data: bytes) -> dict[str, Any]:
    """A file's size and digest, as manifests have them."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def _facts_on_disk(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}


def sealed(body: dict[str, Any]) -> bytes:
    """Return the manifest's bytes, the last entry being the digest of all others."""
    try:
        text = json.dumps(body, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be what JSON can hold: {error}") from error
    seal = hashlib.sha256(text.encode()).hexdigest()
    return json.dumps({**body, "sha256": seal}, indent=1).encode() + b"\n"


def opened(raw: bytes) -> dict[str, Any] | None:
    """The body that `sealed` gave these bytes, which holds files by name; None if they are not."""
    with contextlib.suppress(ValueError, TypeError, LookupError, RecursionError):
        body = json.loads(raw)
        del body["sha256"]
        if sealed(body) == raw and isinstance(body["files"], dict):
            return body
    return None


def inside(folder: Path, name: str) -> Path:
    """A file in a folder by its plain name, if it is a regular one: no link, no pipe, no device."""
    if not _FILE_NAME.fullmatch(name):
        raise ArtifactError(f"{folder} names {name!r}, which is not a plain file name")
    path = Path(folder) / name
    try:
        mode = path.lstat().st_mode
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror})") from error
    if not stat.S_ISREG(mode):
        raise ArtifactError(f"{path} is not a regular file")
    return path


def manifest_of(folder: Path, manifest: str = MANIFEST) -> dict[str, Any]:
    """What a sealed folder's manifest says, in which nothing lies but regular files it names.

    The message of the ArtifactError begins with the name of the file that is to blame.
    """
    entries = {entry.name: entry for entry in os.scandir(folder)}
    odd = sorted(n for n, entry in entries.items() if not entry.is_file(follow_symlinks=False))
    body = None if manifest in odd else opened((folder / manifest).read_bytes())
    if body is None:
        raise ArtifactError(f"{manifest} was altered or is torn")
    if odd:
        raise ArtifactError(f"{odd[0]} is not a regular file")
    for name in body["files"]:
        if not _FILE_NAME.fullmatch(name):
            raise ArtifactError(f"{manifest} names {name!r}, which is not a plain file name")
    if extra := entries.keys() - body["files"].keys() - {manifest}:
        raise ArtifactError(f"{min(extra)} does not belong to it")
    return body


def _read(target: Path, folder: Path, *, keep: Callable[[str], bool] = lambda _: True) -> Artifact:
    try:
        body, files = manifest_of(folder), {}
        for name, facts in body["files"].items():
            if not (folder / name).exists():
                raise ArtifactError(f"{name} is missing")
            if keep(name):
                files[name] = (folder / name).read_bytes()
            found = _facts(files[name]) if keep(name) else _facts_on_disk(folder / name)
            if found != facts:
                raise ArtifactError(f"{name} was altered or is torn")
        if not isinstance(body.get("metadata"), dict):
            raise ArtifactError(f"{MANIFEST} holds no metadata")
    except (ArtifactError, OSError) as error:
        what = error
        if isinstance(error, OSError):
            what = f"{error.filename} cannot be read ({error.strerror})"
        what = f"artifact {target} cannot be trusted: {what}; save it again"
        raise ArtifactError(what) from error
    return Artifact(target, files, body["metadata"])


def current(target: Path) -> tuple[Path, tuple[int, int] | None]:
    """Return the folder to load, and what tells it from one that takes its place later."""
    for folder in (target, beside(target, "previous")):
        with contextlib.suppress(OSError):
            stat = folder.stat()
            return folder, (stat.st_ino, stat.st_mtime_ns)
    return target, None


def refuse_to_replace_others(target: Path, manifest: str = MANIFEST) -> None:
    """Only a folder with such a manifest, an empty one or none may stand where one is written."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ArtifactError(f"{target} is not a folder, so nothing is saved there")
    if target.is_dir() and any(target.iterdir()) and not (target / manifest).exists():
        raise ArtifactError(f"{target} holds something else ({manifest} is missing): not replaced")


def absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def beside(target: Path, what: str) -> Path:
    return target.with_name(f".{target.name}.{what}")


def swap(saving: Path, target: Path, previous: Path) -> None:
    """Put the new folder in the old one's place."""
    if target.exists():
        remove(previous)
        os.rename(target, previous)
    try:
        os.rename(saving, target)
    except BaseException:
        if previous.exists() and not target.exists():
            os.rename(previous, target)
        raise
    sync_folder(target.parent)
    remove(previous)


def remove(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
