"""The prepared folder: what `prepare` writes, and what training reads without loading it.

A split is a stream of documents' tokens in files of equal size, each document closed by the
tokenizer's `end_of_text`, and a file that says where each document ends. A manifest has every
file's digest and is sealed by its own::

    DATA/
      data.json              the manifest, written last
      tokenizer.json
      train-00000.tokens …   train.documents
      val-00000.tokens …     val.documents
      report.json            what `prepare` found

A token file's header (`tiny_gpt.data.token_files`) holds the digests of its tokens and of the
tokenizer that made them: files that were swapped, or are stale, are found without reading tokens.
Opening reads and checks all of it, at the speed of SHA-256, about a second for each gigabyte.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Integer

# Folders are sealed and swapped as artifacts are; only their content is read in another way.
from shared import artifacts
from shared.artifacts import ArtifactError, absolute, beside, current, sealed, swap
from shared.errors import UserError
from shared.files import locked, write_atomic
from shared.require import require
from tiny_gpt.data.token_files import DOCUMENTS, TOKENS, TokenFile, digest, mapped, read_header
from tiny_gpt.data.tokenizers import Tokenizer, tokenizer_from_bytes

__all__ = ["PreparedData", "ShardWriter", "Split", "open_data", "publish", "write_data_manifest"]

MANIFEST = "data.json"
TOKENIZER = "tokenizer.json"
FORMAT = "tiny-gpt data 1"
FILE_NAME = re.compile(r"([a-z][a-z0-9_]*)(-\d{5}\.tokens|\.documents)")


class ShardWriter:
    """Writes one split, document by document, in constant memory; a context manager.

    Leaving the block by an exception leaves files without headers, which nobody reads. A token
    takes two bytes up to a `vocab_size` of 65,536, else four.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        tokenizer_sha256: str,
        vocab_size: int,
        shard_tokens: int = 2**27,
    ):
        named = FILE_NAME.fullmatch(f"{split}.documents")
        require(named, "split must be a name in small letters", repr(split))
        hexadecimal = re.fullmatch("[0-9a-f]{64}", tokenizer_sha256)
        require(hexadecimal, "tokenizer_sha256 must be 64 digits", repr(tokenizer_sha256))
        require(1 <= vocab_size <= 2**32, "vocab_size must be between 1 and 2^32", vocab_size)
        require(shard_tokens >= 1, "shard_tokens must be at least 1", shard_tokens)
        self.folder, self.split, self.tokenizer = Path(folder), split, tokenizer_sha256
        self.vocab_size, self.shard_tokens = vocab_size, shard_tokens
        self.dtype = np.dtype("<u2" if vocab_size <= 2**16 else "<u4")
        self.n_tokens = self.n_documents = self.n_bytes = self.n_shards = 0
        self._shard: TokenFile | None = None
        path = self.folder / f"{split}.documents"
        self._documents = TokenFile(path, DOCUMENTS, 16, tokenizer_sha256)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        for file in (self._documents, self._shard):
            if file is not None:
                file.stream.close()

    def append(self, tokens: Integer[np.ndarray, " n"], n_bytes: int) -> None:
        """Add a document: its ids, with the `end_of_text` that closes it; bytes of its text."""
        if len(tokens):
            low, high = tokens.min(), tokens.max()
            must = f"tokens must lie between 0 and {self.vocab_size - 1}"
            require(0 <= low <= high < self.vocab_size, must, low, high)
        require(n_bytes >= 0, "n_bytes must be at least 0", n_bytes)
        items = tokens.astype(self.dtype)
        while len(items):
            if self._shard is None:
                path = self.folder / f"{self.split}-{self.n_shards:05d}.tokens"
                self._shard = TokenFile(path, TOKENS, self.dtype.itemsize, self.tokenizer)
                self.n_shards += 1
            room = self.shard_tokens - self._shard.n_items
            self._shard.write(items[:room])
            items = items[room:]
            if self._shard.n_items == self.shard_tokens:
                self._shard.finish()
                self._shard = None
        self.n_tokens += len(tokens)
        self.n_documents += 1
        self.n_bytes += n_bytes
        self._documents.write(np.array([self.n_tokens, n_bytes], dtype="<i8"))

    def close(self) -> None:
        """Write the headers and wait until all of it is on the disk."""
        if self._shard is not None:
            self._shard.finish()
            self._shard = None
        self._documents.finish()


class Split:
    """The tokens of a split, mapped into memory: reading touches only what is read.

    Attributes
    ----------
    offsets
        (n_documents + 1) where each document starts, in tokens; the last one is `n_tokens`.
    document_bytes
        (n_documents) of each document's text, in UTF-8.
    end_of_text
        The id that closes each document, if the tokenizer has one.
    """

    def __init__(self, name: str, shards: list[Path], documents: Path, end_of_text: int | None):
        self.name, self.end_of_text = name, end_of_text
        # Plain views of the maps: an index into np.memmap costs several times as much.
        self._shards = [np.asarray(mapped(path)) for path in shards]
        ends, self.document_bytes = np.array(mapped(documents)).T.copy()
        self.offsets = np.concatenate([[0], ends])
        self.n_documents = len(ends)
        sizes = [len(shard) for shard in self._shards]
        self.n_tokens = sum(sizes)
        self._shard_tokens = sizes[0] if sizes else 1
        if any(n != self._shard_tokens for n in sizes[:-1]) or sizes[-1:] > [self._shard_tokens]:
            raise ArtifactError(f"{documents.parent} has {name} tokens in files of unequal size")
        if (
            [path.name for path in shards] != [f"{name}-{i:05d}.tokens" for i in range(len(sizes))]
            or self.offsets[-1] != self.n_tokens
            or min(np.diff(self.offsets).min(initial=0), self.document_bytes.min(initial=0)) < 0
        ):
            raise ArtifactError(f"{documents} does not fit the {self.n_tokens} tokens of {name}")
        self.n_bytes = int(self.document_bytes.sum())

    def read(self, start: int, stop: int) -> Int64[np.ndarray, " n"]:
        """Tokens from `start` to before `stop`."""
        must = f"start and stop must be in order within {self.n_tokens} tokens"
        require(0 <= start <= stop <= self.n_tokens, must, start, stop)
        found = np.empty(stop - start, dtype=np.int64)
        at = start
        while at < stop:
            shard, within = divmod(at, self._shard_tokens)
            part = self._shards[shard][within : within + stop - at]
            found[at - start : at - start + len(part)] = part
            at += len(part)
        return found

    def gather(
        self, starts: Int64[np.ndarray, " b"], length: int
    ) -> Int64[np.ndarray, "b {length}"]:
        """Rows of `length` tokens, one from each of `starts`, across the files' borders."""
        if len(starts):
            low, high = starts.min(), starts.max()
            must = f"starts must leave room for {length} of {self.n_tokens} tokens"
            require(0 <= low <= high <= self.n_tokens - length, must, low, high)
        index = starts[:, None] + np.arange(length)
        if len(self._shards) == 1:
            return self._shards[0][index].astype(np.int64)
        found = np.empty(index.shape, dtype=np.int64)
        shards, within = np.divmod(index, self._shard_tokens)
        for shard in np.unique(shards):
            here = shards == shard
            found[here] = self._shards[shard][within[here]]
        return found


@dataclass(frozen=True)
class PreparedData:
    """A prepared folder: its tokenizer, what was said about it, and its splits by name.

    `sha256` is of the content, tokens and tokenizer, wherever the folder lies.
    """

    path: Path
    tokenizer: Tokenizer
    meta: dict[str, Any]
    splits: dict[str, Split]
    sha256: str

    def check_ids(self) -> None:
        """An ArtifactError if there are tokens that the tokenizer has not; reads all of them."""
        for name, split in self.splits.items():
            must = f"{self.path} must hold tokens of {name} below {self.tokenizer.vocab_size}"
            largest = max((int(shard.max(initial=0)) for shard in split._shards), default=0)
            require(largest < self.tokenizer.vocab_size, must, largest, error=ArtifactError)


def write_data_manifest(folder: Path, meta: Mapping[str, Any]) -> None:
    """Seal a folder with the digests of the files in it: the last step before `publish`.

    All files are on the disk already; `meta`, anything JSON can hold, is given back by `open_data`.
    """
    folder = Path(folder)
    names = sorted(path.name for path in folder.iterdir() if path.name != MANIFEST)
    if TOKENIZER not in names:
        raise ArtifactError(f"{folder / TOKENIZER} is missing")
    files = {name: _facts(folder / name) for name in names}
    body = {"format": FORMAT, "meta": dict(meta), "files": files}
    write_atomic(folder / MANIFEST, sealed(body))
    open_data(folder, verify=False)


def publish(staging: Path, target: Path) -> None:
    """Move a finished folder into its place; at every instant the old one or the new one opens.

    The target is a new name on the same file system, an older prepared folder, or an empty one.
    """
    staging, target = absolute(staging), absolute(target)
    sealed_ = (staging / MANIFEST).exists()
    require(sealed_, f"staging must be a sealed folder, but {staging} has no {MANIFEST}")
    try:
        with locked(target.parent):
            refuse_to_replace_others(target)
            swap(staging, target, beside(target, "previous"))
    except OSError as error:
        raise UserError(f"{target} cannot be written ({error.strerror or error})") from error


def refuse_to_replace_others(target: Path) -> None:
    """Only a prepared folder, an empty one or none may stand where one is to be written."""
    artifacts.refuse_to_replace_others(target, MANIFEST)
    if (target / MANIFEST).exists():
        try:
            _manifest(target / MANIFEST)
        except (ArtifactError, OSError) as error:
            what = f"{target} is not as it was prepared and is not replaced ({error})"
            raise ArtifactError(f"{what}; remove it first") from error


def is_prepared(folder: Path) -> bool:
    """Whether a folder looks like a prepared one."""
    return (current(absolute(folder))[0] / MANIFEST).exists()


def open_data(folder: Path, *, verify: bool = True) -> PreparedData:
    """Open a prepared folder and verify every byte of it; its tokens are mapped into memory.

    Without `verify` the tokens are not read. All else is checked in any case: manifest, tokenizer,
    documents, headers, sizes, which tokenizer made each file, and that there is no other.

    Raises
    ------
    ArtifactError
        If there is none, or a file is missing, altered, torn, unexpected, a link, or of another
        tokenizer; the message names it.
    """
    target = absolute(Path(folder))
    while True:
        found, identity = current(target)
        try:
            if identity is None:
                raise ArtifactError(f"there is no prepared data at {target}")
            return _open(target, found, verify)
        except ArtifactError:
            # A new folder may have been moved here under our eyes; then that one is read.
            if current(target) == (found, identity):
                raise


def _open(target: Path, folder: Path, verify: bool) -> PreparedData:
    try:
        body = _manifest(folder / MANIFEST)
        files = body["files"]
        splits: dict[str, list[Path]] = {}
        tokenizer = (folder / TOKENIZER).read_bytes()
        for name, facts in sorted(files.items()):
            path = folder / name
            if match := FILE_NAME.fullmatch(name):
                header = read_header(path)
                if header.tokenizer != hashlib.sha256(tokenizer).hexdigest():
                    raise ArtifactError(
                        f"{path} is stale: it was made with another tokenizer than {TOKENIZER}; "
                        "prepare again"
                    )
                if (header.kind == DOCUMENTS) != name.endswith(".documents"):
                    raise ArtifactError(f"{path} is not what its name says; prepare again")
                # The documents are read in any case, and bits per byte depend on them.
                if (verify or header.kind == DOCUMENTS) and digest(path) != header.payload:
                    raise ArtifactError(f"{path} was altered; prepare again")
                splits.setdefault(match[1], []).append(path)
            if _facts(path) != facts:
                raise ArtifactError(f"{path} is not the one that was prepared; prepare again")
        opened, learned = {}, tokenizer_from_bytes(tokenizer)
        for name, paths in splits.items():
            documents = paths.pop()  # sorted: "-" comes before "."
            if documents.suffix != ".documents":
                raise ArtifactError(f"{folder / name}.documents is missing")
            opened[name] = Split(name, paths, documents, learned.end_of_text)
    except OSError as error:
        raise ArtifactError(f"{error.filename} cannot be read ({error.strerror})") from error
    # Not the report, which tells the same content's story.
    content = {name: facts for name, facts in files.items() if name != "report.json"}
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return PreparedData(target, learned, body["meta"], opened, sha256)


def _manifest(path: Path) -> dict[str, Any]:
    try:
        body = artifacts.manifest_of(path.parent, path.name)
        if body.get("format") != FORMAT or not isinstance(body.get("meta"), dict):
            raise ArtifactError(f"{MANIFEST} is of another format")
    except ArtifactError as error:
        raise ArtifactError(f"{path.parent}/{error}; prepare again") from error
    return body


def _facts(path: Path) -> dict[str, Any]:
    """A file's size and digest; a token file's digest is the one in its header."""
    if FILE_NAME.fullmatch(path.name):
        header = read_header(path)
        return {"bytes": header.file_bytes, "sha256": header.payload}
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
