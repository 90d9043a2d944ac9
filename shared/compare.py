"""How far two arrays of numbers differ."""

from __future__ import annotations

import numpy as np


def compare(
    ours: np.ndarray, reference: np.ndarray, rtol: float, atol: float
) -> tuple[float, bool]:
    """Largest error (infinite if one is NaN), and whether all are within the tolerance."""
    ours, reference = _wide(ours), _wide(reference)
    with np.errstate(invalid="ignore", over="ignore"):
        if ours.dtype.kind in "iu" and reference.dtype.kind in "iu":  # exact beyond 2**53
            error = np.where(ours > reference, *_wrapped(ours, reference)).astype(float)
        else:
            error = np.where(ours == reference, 0.0, np.abs(ours - reference))
        size = np.abs(reference.astype(float) if reference.dtype.kind in "iu" else reference)
        allowed = np.where(np.isfinite(size), atol + rtol * size, 0.0)
    error = np.where(np.isnan(error), np.inf, error)
    return float(error.max()), bool((error <= allowed).all())


def _wrapped(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a - b and b - a modulo 2**64: the one that is not negative is exact."""
    a, b = a.astype(np.uint64), b.astype(np.uint64)
    return a - b, b - a


def as_array(name: str, values) -> np.ndarray:
    if isinstance(values, list | tuple) and any(hasattr(v, "detach") for v in values):
        values = [v.item() if hasattr(v, "detach") else v for v in values]
    if hasattr(values, "detach"):
        values = values.detach().cpu().resolve_conj().resolve_neg()
        values = values.double() if values.is_floating_point() else values
    array = np.asarray(values)
    if array.dtype.kind not in "biufc":
        raise ValueError(f"{name} compares numbers, got {array.dtype}")
    return array


def _wide(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind in "iu":
        return array
    return array.astype(complex if array.dtype.kind == "c" else float)


def place(array: np.ndarray) -> tuple:
    return array.__array_interface__["data"][0], array.shape, array.strides, array.dtype
