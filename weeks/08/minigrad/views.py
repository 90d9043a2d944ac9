"""Other ways to read the same memory, and reading at an index.

>>> from week08.minigrad import Tensor
>>> x = Tensor([[1.0, 2.0], [3.0, 4.0]])
>>> x.T[0].zero_(), x  # a view: x changes too
(tensor([0., 0.]), tensor([[0., 2.],
        [0., 4.]]))
"""

import math
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple

from shared.require import require
from week08.minigrad.array import Array
from week08.minigrad.operations import accumulator, apply, apply_view


class Views(Array):
    """Shapes, orders of dimensions, indices; the way back of each is another of them."""

    __slots__ = ()

    def reshape(self, *shape: Any) -> Array:
        """The same numbers in another shape; one length may be -1."""
        shape, before = flat(shape), self.shape
        return apply_view("Reshape", lambda a: a.reshape(shape), self, lambda g: g.reshape(before))

    view = reshape

    def flatten(self, start_dim: int = 0) -> Array:
        """The dimensions from `start_dim` on made one."""
        start = normalize_axis_index(start_dim, self.ndim)
        return self.reshape(*self.shape[:start], math.prod(self.shape[start:]))

    def permute(self, *dims: Any) -> Array:
        """Dimensions in another order."""
        dims = normalize_axis_tuple(flat(dims), self.ndim, "dims")
        back = tuple(np.argsort(dims).tolist())
        return apply_view("Permute", lambda a: a.transpose(dims), self, lambda g: g.permute(back))

    def transpose(self, dim0: int, dim1: int) -> Array:
        """Two dimensions exchanged."""
        order = list(range(self.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self.permute(order)

    def expand(self, *shape: Any) -> Array:
        """Repeated along dimensions of length 1, without memory; -1 leaves one as it is."""
        shape = flat(shape)
        new = len(shape) - self.ndim
        shape = tuple(self.shape[i - new] if n == -1 else n for i, n in enumerate(shape))
        return apply_view("Expand", lambda a: np.broadcast_to(a, shape), self, lambda g: g)

    def squeeze(self, dim: int | None = None) -> Array:
        """Without the dimensions of length 1, or without `dim` if its length is 1."""
        drop = range(self.ndim) if dim is None else [normalize_axis_index(dim, self.ndim)]
        return self.reshape([n for i, n in enumerate(self.shape) if n != 1 or i not in drop])

    def unsqueeze(self, dim: int) -> Array:
        """With a new dimension of length 1 at `dim`."""
        at = normalize_axis_index(dim, self.ndim + 1)
        return self.reshape(*self.shape[:at], 1, *self.shape[at:])

    def __getitem__(self, index):
        index, shape = as_index(index), self.shape
        return apply_view("Index", lambda a: a[index], self, lambda g: scatter(g, index, shape))

    def split(self, sizes: int | list[int], dim: int = 0) -> tuple[Array, ...]:
        """Views of so many at a time (the last may have fewer), or of these sizes."""
        axis = normalize_axis_index(dim, self.ndim)
        length, before = self.shape[axis], (slice(None),) * axis
        if isinstance(sizes, int):
            require(sizes >= 1, "sizes must be at least 1", sizes)
            sizes = [min(sizes, length - i) for i in range(0, max(length, 1), sizes)]
        whole = sum(sizes) == length and min(sizes, default=0) >= 0
        require(whole, f"sizes must add up to {length}", list(sizes))
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        spans = (slice(i, i + n) for i, n in zip(starts, sizes, strict=True))
        return tuple(self[(*before, span)] for span in spans)

    def gather(self, dim: int, index: Array) -> Array:
        """out[i, j] = self[i, index[i, j]] for dim = 1, and so on."""
        check_range("index", index, self.shape[dim])
        grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
        grid[dim] = index.data
        return self[tuple(grid)]


def flat(sizes: tuple) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) as from f((2, 3))."""
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes


def as_index(index: Any) -> tuple:
    """An index as NumPy takes it; arrays are copied, so that the way back finds them unchanged."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = Array | np.ndarray | list
    parts = tuple(np.array(part) if isinstance(part, arrays) else part for part in parts)
    # With an Ellipsis NumPy gives a 0-d view where it would give a scalar.
    return parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)


def check_range(name: str, index: Array, size: int) -> None:
    """Negative numbers count from the end in x[index] alone."""
    low, high = (index.data.min(), index.data.max()) if index.numel() else (0, -1)
    known = low >= 0 and high < size
    require(known, f"{name} must be in [0, {size})", f"{low} to {high}", error=IndexError)


def scatter(g: Array, index: tuple, shape: tuple[int, ...]) -> Array:
    """Zeros with g added at `index`: the transpose of x[index]."""
    repeats = any(isinstance(i, np.ndarray) and i.dtype.kind != "b" for i in index)

    def forward(a):
        out = np.zeros(shape, accumulator(a.dtype))
        if repeats:  # entries that were read twice get two gradients; `out[index] = a` loses one
            np.add.at(out, index, a)
        else:
            out[index] = a
        return out.astype(a.dtype, copy=False)

    return apply("Scatter", forward, (g,), (lambda h: h[index],))
