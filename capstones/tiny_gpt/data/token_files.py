"""Token files: a header of 128 bytes and then raw numbers, to be mapped into memory.

The file is as large as its tokens, and it says what made them. All numbers are little-endian::

    offset  bytes
         0      8  magic, TINYGPT and a zero
         8      4  version of the format, 1
        12      4  kind: 0 tokens, 1 documents
        16      4  bytes of an item: 2 or 4 for a token, 16 for a document
        20      4  zero
        24      8  number of items
        32     32  SHA-256 of tokenizer.json
        64     32  SHA-256 of the items
        96     28  zero
       124      4  CRC-32 of the 124 bytes before it

A file of documents has two 64-bit numbers for each: where it ends, in tokens from the beginning of
its split, and how many bytes of UTF-8 it has.
"""

import hashlib
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shared.artifacts import ArtifactError

__all__ = ["DOCUMENTS", "TOKENS", "Header", "TokenFile", "digest", "mapped", "read_header"]

MAGIC = b"TINYGPT\0"
LAYOUT = struct.Struct("<8sIII4xQ32s32s28x")  # and the CRC
HEADER_BYTES = 128
TOKENS, DOCUMENTS = 0, 1
ITEMS = {
    (TOKENS, 2): np.dtype("<u2"),
    (TOKENS, 4): np.dtype("<u4"),
    (DOCUMENTS, 16): np.dtype(("<i8", 2)),
}


@dataclass(frozen=True)
class Header:
    """What the first 128 bytes of a token file say; digests in hexadecimal."""

    kind: int
    item_bytes: int
    n_items: int
    tokenizer: str
    payload: str

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return HEADER_BYTES + self.n_items * self.item_bytes

    def to_bytes(self) -> bytes:
        """The header itself."""
        digests = bytes.fromhex(self.tokenizer), bytes.fromhex(self.payload)
        data = LAYOUT.pack(MAGIC, 1, self.kind, self.item_bytes, self.n_items, *digests)
        return data + zlib.crc32(data).to_bytes(4, "little")


def read_header(path: Path) -> Header:
    """The header of a token file, checked against its CRC and the file's size."""
    with path.open("rb") as stream:
        data = stream.read(HEADER_BYTES)
        size = os.fstat(stream.fileno()).st_size
    if len(data) < HEADER_BYTES or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
        raise ArtifactError(f"{path} has no intact header: it was altered or is torn")
    magic, version, kind, item_bytes, n_items, tokenizer, payload = LAYOUT.unpack(data[:-4])
    if magic != MAGIC or version != 1 or (kind, item_bytes) not in ITEMS:
        raise ArtifactError(f"{path} is not a token file that this version can read")
    header = Header(kind, item_bytes, n_items, tokenizer.hex(), payload.hex())
    if size != header.file_bytes:
        raise ArtifactError(f"{path} is torn: it has {size} of {header.file_bytes} bytes")
    return header


class TokenFile:
    """A new token file; its header comes last, so a torn one is known as such.

    `kind` and `item_bytes` are a key of `ITEMS`, `tokenizer` is a digest in hexadecimal.
    """

    def __init__(self, path: Path, kind: int, item_bytes: int, tokenizer: str):
        self.kind, self.item_bytes, self.tokenizer = kind, item_bytes, tokenizer
        self.n_items = 0
        self.hash = hashlib.sha256()
        self.stream = path.open("xb")
        self.stream.write(bytes(HEADER_BYTES))

    def write(self, items: np.ndarray) -> None:
        """Append items, of the dtype in `ITEMS`."""
        data = items.tobytes()
        self.stream.write(data)
        self.hash.update(data)
        self.n_items += len(data) // self.item_bytes

    def finish(self) -> None:
        """Write the header, wait until all of it is on the disk, and close the file."""
        payload = self.hash.hexdigest()
        header = Header(self.kind, self.item_bytes, self.n_items, self.tokenizer, payload)
        self.stream.seek(0)
        self.stream.write(header.to_bytes())
        self.stream.flush()
        os.fsync(self.stream.fileno())
        self.stream.close()


def digest(path: Path) -> str:
    """SHA-256 of a token file's items."""
    with path.open("rb") as stream:
        stream.seek(HEADER_BYTES)
        return hashlib.file_digest(stream, "sha256").hexdigest()


def mapped(path: Path) -> np.ndarray:
    """A token file's items, read-only and not yet read; documents have shape (n, 2)."""
    header = read_header(path)
    dtype = ITEMS[header.kind, header.item_bytes]
    if not header.n_items:  # an empty range cannot be mapped
        return np.empty(0, dtype=dtype)
    shape = (header.n_items, *dtype.shape)
    return np.memmap(path, dtype=dtype.base, mode="r", offset=HEADER_BYTES, shape=shape)
