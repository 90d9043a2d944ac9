r"""GGUF, the one-file format of llama.cpp: fields, a table of tensors, and their bytes.

    "GGUF"  version  n_tensors  n_fields
    fields:   name  type  value               strings, numbers, arrays; the tokenizer is among them
    tensors:  name  n_dims  dims  kind  offset
    padding to the alignment, then the data

Numbers are little-endian, a string is its length in 8 bytes and UTF-8. Dimensions stand in the
**reverse** of NumPy's order: the first is the one whose neighbors lie side by side.

The file is mapped, not read, and what it says of itself is not believed: a length is compared with
the bytes that are left before anything is made of that size.

>>> import io, struct
>>> field = struct.pack("<Q4sII", 4, b"size", 4, 7)  # name, type 4 (uint32), value
>>> tensor = struct.pack("<Q1sIQQIQ", 1, b"w", 2, 3, 2, 0, 0)  # dims 3, 2; kind 0: F32
>>> head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + field + tensor
>>> data = np.arange(6, dtype="<f4").tobytes()
>>> found = GGUF.parse(head + bytes(-len(head) % 32) + data, "w.gguf")
>>> found.fields, found.tensors["w"].shape, found.array("w")[1]
({'size': 7}, (2, 3), array([3., 4., 5.], dtype=float32))

`uv run weeks/18/smollm2.py` reads a real one. Source: ggml project, "GGUF specification" (2023).
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from shared.errors import UserError
from week18.gguf_blocks import LAYOUT, NUMBERS, dequantize

# Type of a field's value → its NumPy type; 8 is a string, 9 an array.
NUMBER = dict(enumerate(("u1", "i1", "<u2", "<i2", "<u4", "<i4", "<f4", "u1")))
NUMBER |= dict(enumerate(("<u8", "<i8", "<f8"), 10))
BOOL, STRING, ARRAY = 7, 8, 9
KIND = {0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}
KIND |= {12: "Q4_K", 14: "Q6_K", 30: "BF16"}


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies, and what its bytes mean; the shape is in NumPy's order."""

    shape: tuple[int, ...]
    kind: str
    start: int
    n_bytes: int


@dataclass(frozen=True)
class GGUF:
    """A file's fields and tensors; the data stay in the file until `array` asks for some."""

    name: str
    fields: dict[str, Any]
    tensors: dict[str, Entry]
    data: np.ndarray

    @classmethod
    def open(cls, path: Path) -> "GGUF":
        """Map a file.

        Raises
        ------
        UserError
            If it cannot be read, is torn, contradicts itself, or holds what is not known here.
        """
        try:
            data = np.memmap(path, np.uint8, mode="r")
        except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
            raise UserError(f"{path} cannot be read ({error})") from error
        return cls.parse(data, str(path))

    @classmethod
    def parse(cls, data: np.ndarray | bytes, name: str) -> "GGUF":
        """The same for bytes; `name` stands in errors."""
        data = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
        reader = Reader(memoryview(data))
        try:
            fields, tensors = reader.header()
            return cls(name, fields, tensors, data)
        except Malformed as error:
            raise UserError(f"{name} is not a GGUF file that can be read: {error}") from error

    def array(self, name: str) -> Float32[np.ndarray, "..."]:
        """One tensor in float32."""
        entry = self.tensors[name]
        raw = self.data[entry.start : entry.start + entry.n_bytes]
        return dequantize(np.asarray(raw), entry.kind).reshape(entry.shape)


class Malformed(Exception):
    """What is wrong with a file."""


def _must(holds: bool, what: str) -> None:
    if not holds:
        raise Malformed(what)


class Reader:
    """Reads on from a position, never past the end."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def take(self, n: int) -> memoryview:
        """The next n bytes."""
        left = len(self.data) - self.at
        _must(n <= left, f"{n} bytes are announced at byte {self.at}, where {left} are left")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, code: str) -> Any:
        """One number, by its code in `struct`."""
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        """A length and so many bytes of UTF-8."""
        raw = bytes(self.take(self.number("Q")))
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Malformed(f"the string before byte {self.at} is no UTF-8") from error

    def value(self, kind: int) -> Any:
        """A number, a string, or a list of either."""
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            kind, n = self.number("I"), self.number("Q")
            if kind == STRING:
                return [self.string() for _ in range(n)]  # 8 bytes each: the file ends it
            return self.numbers(kind, n)
        return self.numbers(kind, 1)[0]

    def numbers(self, kind: int, n: int) -> list:
        """Numbers of one type."""
        _must(kind in NUMBER, f"the value at byte {self.at} has the unknown type {kind}")
        dtype = np.dtype(NUMBER[kind])
        found = np.frombuffer(self.take(n * dtype.itemsize), dtype)
        return (found.astype(bool) if kind == BOOL else found).tolist()

    def table(self, n: int, what: str, read: Callable[[], Any]) -> dict[str, Any]:
        """So many names with what follows each; the end of the file ends an absurd count."""
        found: dict[str, Any] = {}
        for _ in range(n):
            name = self.string()
            _must(name not in found, f"there are two {what}s {name!r}")
            found[name] = read()
        return found

    def entry(self) -> Entry:
        """A line of the table of tensors; its start counts from the data's."""
        n_dims = self.number("I")
        _must(1 <= n_dims <= 4, f"a tensor must have 1 to 4 dimensions, got {n_dims}")
        dims = [self.number("Q") for _ in range(n_dims)]
        code, start = self.number("I"), self.number("Q")
        _must(code in KIND, f"tensors of type {code} are not known, only {KIND}")
        kind = KIND[code]
        per_block = NUMBERS[kind]
        whole = min(dims) > 0 and dims[0] % per_block == 0
        _must(whole, f"dimensions {dims} of a {kind} tensor are not whole blocks of {per_block}")
        n_bytes = prod(dims) // per_block * LAYOUT[kind].itemsize
        return Entry(tuple(reversed(dims)), kind, start, n_bytes)

    def header(self) -> tuple[dict[str, Any], dict[str, Entry]]:
        """All that stands before the data, which must lie where it says."""
        _must(bytes(self.take(4)) == b"GGUF", "it does not begin with GGUF")
        version = self.number("I")
        _must(version in (2, 3), f"its version must be 2 or 3, little-endian, got {version}")
        n_tensors, n_fields = self.number("Q"), self.number("Q")
        fields = self.table(n_fields, "field", lambda: self.value(self.number("I")))
        tensors = self.table(n_tensors, "tensor", self.entry)
        align = fields.get("general.alignment", 32)
        power = type(align) is int and align >= 8 and align & (align - 1) == 0
        _must(power, f"general.alignment must be a power of 2 from 8, got {align!r}")
        base = -(-self.at // align) * align
        for name, entry in tensors.items():
            _must(entry.start % align == 0, f"tensor {name!r} is not aligned to {align} bytes")
            entry = tensors[name] = replace(entry, start=base + entry.start)
            end = entry.start + entry.n_bytes
            _must(end <= len(self.data), f"tensor {name!r} ends at {end} of {len(self.data)} bytes")
        for (a, first), (b, second) in pairwise(
            sorted(tensors.items(), key=lambda item: item[1].start)
        ):
            apart = first.start + first.n_bytes <= second.start
            _must(apart, f"tensors {a!r} and {b!r} overlap")
        return fields, tensors
