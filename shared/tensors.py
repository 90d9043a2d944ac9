"""Arrays and tensors as bytes, through safetensors and never through pickles."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["pack", "unpack"]


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
