"""Arrays and tensors as bytes, through safetensors and never through pickles."""

import contextlib
import ctypes
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["Lazy", "give_back_memory", "pack", "unpack"]


def pack(tensors: "Mapping[str, np.ndarray] | Mapping[str, torch.Tensor]") -> bytes:
    """Return arrays or tensors in the safetensors format.

    Those that share memory (tied weights) or are views are stored one by one.

    Raises
    ------
    TypeError
        Arrays and tensors are mixed, a value is neither, or an array's dtype (such as str) cannot
        be stored.
    """
    if all(isinstance(value, np.ndarray) for value in tensors.values()):
        from safetensors import SafetensorError
        from safetensors.numpy import save

        # safetensors writes an array's memory as it lies, so it has to lie in C order.
        arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
        try:
            return save(arrays, metadata={"format": "np"})
        except SafetensorError as error:
            raise TypeError(f"tensors must have dtypes that can be stored: {error}") from None
    import torch
    from safetensors.torch import save

    for name, value in tensors.items():
        if not isinstance(value, torch.Tensor):
            raise TypeError(
                "tensors must be all NumPy arrays or all torch tensors, "
                f"got {type(value).__name__} for {name!r}"
            )
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    return save(copies, metadata={"format": "pt"})


def unpack(data: bytes) -> "dict[str, np.ndarray] | dict[str, torch.Tensor]":
    """Return what was packed, as the kind it was packed from, on the CPU."""
    # safetensors: 8 bytes with the header's size, then the header as JSON.
    header: dict[str, Any] = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    if header.get("__metadata__", {}).get("format") == "pt":
        from safetensors.torch import load
    else:
        from safetensors.numpy import load
    return load(data)


class Lazy(Mapping):
    """The torch tensors of a safetensors file, each read anew whenever it is asked for.

    What is given has memory of its own; the file is mapped as long as this lives.

    Raises
    ------
    Exception
        Of several kinds, if the file is no such one: safetensors names no narrower.
    """

    def __init__(self, path: Path):
        from safetensors import safe_open

        self._file = safe_open(path, framework="pt")
        self._names = dict.fromkeys(self._file.keys())

    def __getitem__(self, name: str) -> "torch.Tensor":
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def give_back_memory() -> None:
    """Hand what was freed back to the system, where the C library (glibc) would keep it."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
