r"""What a model answered, kept so that no crash loses it and no other model is given it.

A folder per model, `CACHE/DIGEST/`, and in it a file per process, to which records are only ever
appended. A record is a line,

    length  CRC-32  key of the request  key of its batch  response as JSON

of which the first two vouch for the rest. The answers to a batch are written at once and are on the
disk before the next batch begins. After a crash the last line may be torn: it is passed over, and
so is a line that was altered on the disk; both are asked again. Only places are held in memory,
texts are read when they are wanted.

A batch's answers depend, in their last bits, on what was computed beside them. So a batch is taken
from the journal only whole, and where several runs answered a request, the answer of the very batch
comes first: a run that was killed and resumed gives the bits of one that was not.

>>> import tempfile
>>> with tempfile.TemporaryDirectory() as cache, Journal(Path(cache), {"weights": "ab12"}) as a:
...     a.add("batch", {"key": Response(logprob=-1.5)})
...     with Journal(Path(cache), {"weights": "ab12"}) as again:
...         print(again.get("key"))
Response(logprob=-1.5, greedy=None, ...)
"""

import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from llm_eval.types import Response, digest
from shared.errors import UserError
from shared.files import sync_folder

VERSION = 1
HEADER = "-"  # stands where records have a key


class Place(NamedTuple):
    """Where a record begins, and of which batch it is."""

    file: Path
    offset: int
    batch: str


class Journal:
    """Answers of one model, by request.

    Parameters
    ----------
    cache
        Folder of all journals; made if it is not there.
    identity
        The model's.

    Attributes
    ----------
    damaged
        Lines that were altered on the disk and therefore are passed over.

    Raises
    ------
    UserError
        A file is of another model or of another version, or cannot be read or written.
    """

    def __init__(self, cache: Path, identity: Mapping[str, str]):
        self.identity = dict(identity)
        self.folder = Path(cache) / digest(self.identity)[:16]
        self.damaged = 0
        self._places: dict[str, tuple[Place, ...]] = {}
        self._read: dict[Path, int] = {}  # how far each file was read
        self._own: tuple[Path, int] | None = None
        self._open: dict[Path, BinaryIO] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        self.refresh()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: str, batch: str = "") -> Response | None:
        """The answer to a request, of this batch if it is there; None if there is none."""
        places = self._places.get(key)
        if places is None:
            return None
        place = next((place for place in places if place.batch == batch), places[0])
        try:
            if place.file not in self._open:
                self._open[place.file] = place.file.open("rb")
            self._open[place.file].seek(place.offset)
            fields = _checked(self._open[place.file].readline())
        except OSError as error:
            raise _unusable(place.file, error) from error
        if fields is None:
            raise UserError(f"{place.file} was altered while it was read; run again")
        return Response.of(json.loads(fields[2]))

    def holds(self, keys: Iterable[str], batch: str = "") -> bool:
        """Whether each of these requests is answered; in this batch, if it was begun."""
        known = [self._places.get(key, ()) for key in keys]
        own = [any(place.batch == batch for place in places) for places in known]
        return all(own) if any(own) else all(known)

    def add(self, batch: str, answers: Mapping[str, Response]) -> None:
        """Write the answers to a batch, and return when they are on the disk.

        An answer that is an error is not written, so that it is asked again.
        """
        lines = {
            key: _line(key, batch, answer.as_json())
            for key, answer in answers.items()
            if not answer.error
        }
        try:
            path, descriptor = self._own = self._own or self._new_file()
            offset = os.fstat(descriptor).st_size
            _write(descriptor, b"".join(lines.values()))
            os.fsync(descriptor)
        except OSError as error:
            raise _unusable(self.folder, error) from error
        for key, line in lines.items():
            self._found(key, Place(path, offset, batch))
            offset += len(line)
        self._read[path] = offset

    def refresh(self) -> int:
        """Read what was written since, by whatever process; return how many records it was."""
        n = 0
        for path in sorted(self.folder.glob("*.jsonl")):
            start = self._read.get(path, 0)
            try:
                if path.stat().st_size <= start:
                    continue
                for offset, line in self._lines(path, start):
                    n += self._take(path, offset, line)
            except OSError as error:
                raise _unusable(path, error) from error
        return n

    def close(self) -> None:
        """Close the files; nothing is lost without it."""
        for stream in self._open.values():
            stream.close()
        if self._own:
            os.close(self._own[1])
        self._open, self._own = {}, None

    def _lines(self, path: Path, start: int) -> Iterator[tuple[int, bytes]]:
        """Whole lines from there on; what has no end yet may still be in the writing, or torn."""
        with path.open("rb") as stream:
            stream.seek(start)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                yield start, line
                start += len(line)
        self._read[path] = start

    def _take(self, path: Path, offset: int, line: bytes) -> bool:
        fields = _checked(line)
        if fields is None:
            self.damaged += 1
        elif fields[0] == HEADER:
            self._check_header(path, json.loads(fields[2]))
        else:
            self._found(fields[0], Place(path, offset, fields[1]))
        return fields is not None and fields[0] != HEADER

    def _found(self, key: str, place: Place) -> None:
        places = self._places.get(key, ())
        if all(place.batch != other.batch for other in places):
            self._places[key] = (*places, place)

    def _check_header(self, path: Path, header: Mapping[str, object]) -> None:
        if header["version"] != VERSION:
            raise UserError(f"{path} must be of version {VERSION}, got {header['version']}")
        if header["identity"] != self.identity:
            raise UserError(
                f"{path} holds answers of another model: its identity must be "
                f"{self.identity}, got {header['identity']}"
            )

    def _new_file(self) -> tuple[Path, int]:
        """A file that no other process has."""
        known = [int(p.stem) for p in self.folder.glob("*.jsonl") if p.stem.isdecimal()]
        number = max(known, default=-1) + 1
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
        while True:
            path = self.folder / f"{number:03d}.jsonl"
            with suppress(FileExistsError):
                descriptor = os.open(path, flags, 0o644)
                break
            number += 1
        header = {"version": VERSION, "identity": self.identity}
        _write(descriptor, _line(HEADER, "", header))
        sync_folder(self.folder)
        return path, descriptor


def batch_key(keys: Iterable[str]) -> str:
    """The name of a batch: what is in it and in which order."""
    return digest(list(keys))


def _line(key: str, batch: str, content: object) -> bytes:
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    rest = f"{key} {batch} {text}".encode()
    return b"%d %08x " % (len(rest), zlib.crc32(rest)) + rest + b"\n"


def _checked(line: bytes) -> tuple[str, str, str] | None:
    """Key, batch and JSON of a line, or None if it is not as it was written."""
    length, crc, rest = [*line[:-1].split(b" ", 2), b"", b""][:3]
    if length != b"%d" % len(rest) or crc != b"%08x" % zlib.crc32(rest):
        return None
    key, batch, content = rest.decode().split(" ", 2)
    return key, sys.intern(batch), content


def _write(descriptor: int, content: bytes) -> None:
    while content:
        content = content[os.write(descriptor, content) :]


def _unusable(path: Path, error: OSError) -> UserError:
    return UserError(f"the journal {path} cannot be used ({error.strerror or error})")
