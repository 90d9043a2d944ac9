"""Where the data sets come from, and how their files get here whole.

The registry (``datasets.toml``) pins every address to a commit and every file to a digest. A file
that already lies in the cache folder is verified once a process and never touched; any other is
downloaded beside its final name, verified, and only then renamed.

Environment
-----------
ML_STUDIES_DATA
    The cache folder. It may be read-only if it already holds the files.
ML_STUDIES_OFFLINE
    Anything but an empty string or 0: never try to download.
"""

import contextlib
import difflib
import hashlib
import os
import secrets
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

from shared.errors import UserError

__all__ = [
    "Dataset",
    "File",
    "cache_dir",
    "fetch",
    "note",
    "path",
    "registry",
    "resolved",
    "unknown_name",
    "used",
]

# Data that this process has read since a run began, by name: digest. Records name it.
used: dict[str, str] = {}

_REGISTRY = Path(__file__).with_name("datasets.toml")
_TIMEOUT = 10  # seconds to connect, and between two reads

# (path, mtime, size, digest) of the files this process has already found to be right.
_verified: set[tuple[Path, int, int, str]] = set()


@dataclass(frozen=True)
class File:
    """One file of a data set.

    Attributes
    ----------
    path
        Below the cache folder, with ``/``: ``"mnist/mnist_batch_0.png"``.
    url
        The address, pinned to a commit.
    digest
        ``"sha256:…"``, ``"md5:…"`` or ``"git:…"`` (the id of a git blob).
    bytes
        The size, None where it is not known.
    """

    path: str
    url: str
    digest: str
    bytes: int | None


@dataclass(frozen=True)
class Dataset:
    """A data set, its license and its files."""

    name: str
    description: str
    license: str
    files: tuple[File, ...]


def registry() -> dict[str, Dataset]:
    """Return the known data sets by name."""
    return dict(_parse(_REGISTRY))


@cache
def _parse(toml: Path) -> dict[str, Dataset]:
    def files(entry: dict) -> tuple[File, ...]:
        return tuple(
            File(
                path=f"{entry['folder']}/{file['path']}",
                url=source["base"] + quote(file["path"]),
                digest=file["digest"],
                bytes=file.get("bytes"),
            )
            for source in entry["sources"]
            for file in source["files"]
        )

    entries = tomllib.loads(toml.read_text(encoding="utf-8"))
    return {
        name: Dataset(name, entry["description"], entry["license"], files(entry))
        for name, entry in entries.items()
    }


def cache_dir() -> Path:
    """Return the folder the data sets live in: ``$ML_STUDIES_DATA`` or the user's cache."""
    if folder := os.environ.get("ML_STUDIES_DATA"):
        return Path(os.path.abspath(Path(folder).expanduser()))
    import pooch

    return Path(pooch.os_cache("ml-studies"))


def fetch(name: str, file: str | None = None, *, progress: bool = False) -> list[Path]:
    """Return the verified files of a data set, downloading those that are not there yet.

    Parameters
    ----------
    name
        A name of the registry, such as ``"mnist"``.
    file
        One file of the data set, as its path below the data set's folder; None for all.
    progress
        Show a progress bar for each download.

    Returns
    -------
    paths
        Absolute paths, in the registry's order.

    Raises
    ------
    UserError
        The name is not known, a file's digest is wrong, a file is missing and cannot be
        downloaded, or the cache folder cannot be written.
    """
    datasets = registry()
    if name not in datasets:
        raise unknown_name("data set", name, datasets)
    files = {entry.path.split("/", 1)[1]: entry for entry in datasets[name].files}
    if file is not None and file not in files:
        raise unknown_name(f"file of {name}", file, files)
    wanted = files.values() if file is None else [files[file]]
    found = [_fetch(name, entry, progress=progress) for entry in wanted]
    for entry in wanted:
        used[entry.path] = entry.digest
    return found


def resolved() -> dict[str, str]:
    """Name and digest of the data read since `used` was cleared; a set of files has one digest."""
    folders: dict[str, list[tuple[str, str]]] = {}
    for name, digest in sorted(used.items()):
        folders.setdefault(name.split("/")[0], []).append((name, digest))
    found = {}
    for folder, files in folders.items():
        if len(files) == 1:
            found |= dict(files)
        else:
            joined = "\n".join(f"{name} {digest}" for name, digest in files)
            digest = hashlib.sha256(joined.encode()).hexdigest()
            found[f"{folder} ({len(files)} files)"] = f"sha256:{digest}"
    return dict(sorted(found.items()))


def note(name: str, content: bytes) -> None:
    """Remember that data which comes with a package (or from the user) was read."""
    used[name] = f"sha256:{hashlib.sha256(content).hexdigest()}"


def path(name: str, file: str, *, progress: bool = False) -> Path:
    """Return one verified file of a data set; see `fetch`."""
    return fetch(name, file, progress=progress)[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for a name that is not among the known ones, with the nearest of them."""
    if near := difflib.get_close_matches(name, known, n=3, cutoff=0.5):
        return UserError(f"unknown {kind} {name!r}; did you mean {' or '.join(near)}?")
    return UserError(f"unknown {kind} {name!r}; known are {', '.join(sorted(known))}")


def _fetch(name: str, file: File, *, progress: bool) -> Path:
    folder = cache_dir()
    target = folder / file.path
    if not target.exists():
        _download(name, file, target, progress=progress)
    elif problem := _problem(target, file):
        raise UserError(f"{target} {problem}; delete it and run `study fetch {name}` again")
    return target


def _download(name: str, file: File, target: Path, *, progress: bool) -> None:
    def missing(reason: str) -> UserError:
        return UserError(
            f"{file.path} is not in {cache_dir()} and cannot be downloaded from {file.url} "
            f"({reason}); run `study fetch {name}` when online, or set ML_STUDIES_DATA to a "
            "folder that holds it"
        )

    if os.environ.get("ML_STUDIES_OFFLINE", "0") not in ("", "0"):
        raise missing("ML_STUDIES_OFFLINE is set")
    import requests
    from pooch import HTTPDownloader

    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    download = HTTPDownloader(progressbar=progress, chunk_size=1 << 16, timeout=_TIMEOUT)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch(exist_ok=False)  # a folder that cannot be written is found out here
        download(file.url, str(part), None)
        if problem := _problem(part, file):
            raise UserError(f"{file.path} as downloaded from {file.url} {problem}; nothing is kept")
        os.replace(part, target)
    except requests.HTTPError as error:
        raise missing(f"HTTP status {error.response.status_code}") from error
    except requests.RequestException as error:  # an OSError too, so it comes first
        raise missing(type(error).__name__) from error
    except OSError as error:
        raise UserError(
            f"cannot write {file.path} to the cache folder {cache_dir()} ({error.strerror}); set "
            "ML_STUDIES_DATA to a folder that you can write to"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink()


def _problem(location: Path, file: File) -> str | None:
    """Say what is wrong with a file's content, None if nothing is."""
    try:
        stat = location.stat()
        key = (location, stat.st_mtime_ns, stat.st_size, file.digest)
        if key in _verified:
            return None
        found = _digest(location, file.digest.split(":")[0], stat.st_size)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if found != file.digest:
        return f"has the digest {found}, expected {file.digest}"
    _verified.add(key)
    return None


def _digest(location: Path, algorithm: str, size: int) -> str:
    # A git blob's id is the SHA-1 of a header with its size, then the content.
    hasher = hashlib.new("sha1" if algorithm == "git" else algorithm, usedforsecurity=False)
    if algorithm == "git":
        hasher.update(b"blob %d\0" % size)
    with location.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return f"{algorithm}:{hasher.hexdigest()}"
