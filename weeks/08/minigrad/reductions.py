"""Sums, means, extremes and what is built from them.

>>> from week08.minigrad import Tensor
>>> x = Tensor([[1.0, 2.0], [3.0, 5.0]])
>>> x.mean(dim=0), x.max(dim=1).indices
(tensor([2. , 3.5]), tensor([1, 1]))
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from shared.require import require
from week08.minigrad.arithmetic import where
from week08.minigrad.array import Array, wrap
from week08.minigrad.autograd import OUT
from week08.minigrad.operations import accumulator, apply, wide

Dims = int | tuple[int, ...] | list[int] | None


class MaxResult(NamedTuple):
    """What max and min along one dimension return."""

    values: Array
    indices: Array


class Reductions(Array):
    """Operations that make fewer numbers of many, along some dimensions or all."""

    __slots__ = ()

    def sum(self, dim: Dims = None, keepdim: bool = False) -> Array:
        """Sum over some dimensions, or over all."""
        axes, kept, shape = *self._axes(dim), self.shape

        def forward(a):
            out = a.sum(axes, dtype=accumulator(a.dtype), keepdims=keepdim)
            return out.astype(a.dtype, copy=False) if a.dtype.kind == "f" else out

        return apply("Sum", forward, (self,), (lambda g: g.reshape(kept).expand(shape),))

    @wide
    def prod(self, dim: Dims = None, keepdim: bool = False) -> Array:
        """Product over some dimensions, or over all: of halves, so that a 0 harms no gradient."""
        axes, kept = self._axes(dim)
        rest = [i for i in range(self.ndim) if i not in axes]
        shape = tuple(self.shape[i] for i in rest)
        x = self.permute(*axes, *rest).reshape(self._count(dim), *shape)
        x = x if x.dtype.kind == "f" else x.to(np.int64)
        out = wrap(np.ones(shape, x.dtype))
        while len(x):
            out = out * x[-1] if len(x) % 2 else out
            half = len(x) // 2
            x = x[:half] * x[half : 2 * half]
        return out.reshape(kept) if keepdim else out

    def cumsum(self, dim: int) -> Array:
        """Sums of the numbers up to each."""
        ((axis,), _), dtype = self._axes(dim), accumulator(self.dtype)
        back = (slice(None),) * axis + (slice(None, None, -1),)

        def forward(a):
            out = a.cumsum(axis, dtype=dtype)
            return out.astype(a.dtype, copy=False) if a.dtype.kind == "f" else out

        return apply("Cumsum", forward, (self,), (lambda g: g[back].cumsum(axis)[back],))

    def sum_to_size(self, shape: tuple[int, ...]) -> Array:
        """Sum what broadcasting from `shape` would have repeated: its transpose."""
        if shape == self.shape:
            return self
        new = self.ndim - len(shape)
        stretched = [i for i, n in enumerate(shape, new) if n == 1 != self.shape[i]]
        return self.sum((*range(new), *stretched), keepdim=True).reshape(shape)

    @wide
    def mean(self, dim: Dims = None, keepdim: bool = False) -> Array:
        """Mean over some dimensions, or over all."""
        return self.sum(dim, keepdim) / self._count(dim)

    @wide
    def var(self, dim: Dims = None, correction: int = 1, keepdim: bool = False) -> Array:
        """Variance, over n - correction."""
        centered = self - self.mean(dim, keepdim=True)
        return (centered * centered).sum(dim, keepdim) / max(self._count(dim) - correction, 0)

    @wide
    def std(self, dim: Dims = None, correction: int = 1, keepdim: bool = False) -> Array:
        """Square root of the variance; where it is 0, so is its gradient."""

        def rule(g, y):
            return where(y == 0, 0.0, g / (2 * y))

        return apply("Std", np.sqrt, (self.var(dim, correction, keepdim),), (rule, OUT))

    def amax(self, dim: Dims = None, keepdim: bool = False) -> Array:
        """Largest over some dimensions; equal ones share the gradient evenly."""
        return self._extreme(np.max, dim, keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Array | MaxResult:
        """Largest of all; or, along one dimension, (values, indices): the first of equals."""
        return self.amax() if dim is None else self._pick(np.argmax, dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> Array | MaxResult:
        """Smallest of all; or, along one dimension, (values, indices): the first of equals."""
        return self._extreme(np.min) if dim is None else self._pick(np.argmin, dim, keepdim)

    def _extreme(self, reduce: Callable, dim: Dims = None, keepdim: bool = False) -> Array:
        (axes, kept), _ = self._axes(dim), self._some(dim)

        def rule(g, x, out):
            ties = (x == out.reshape(kept)) | (x != x)  # a NaN among them is the extreme
            return where(ties, g.reshape(kept) / ties.sum(axes, keepdim=True), 0.0)

        forward = partial(reduce, axis=axes, keepdims=keepdim)
        return apply("Extreme", forward, (self,), (rule, self, OUT))

    def _pick(self, choose: Callable, dim: int, keepdim: bool) -> MaxResult:
        self._some(dim)
        indices = wrap(choose(self.data, dim, keepdims=True))
        values = self.gather(dim, indices)
        if not keepdim:
            values, indices = values.squeeze(dim), indices.squeeze(dim)
        return MaxResult(values, indices)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Array:
        """Where the largest stands; the first of equals."""
        self._some(dim)
        return wrap(np.argmax(self.data, dim, keepdims=keepdim))

    def argmin(self, dim: int | None = None, keepdim: bool = False) -> Array:
        """Where the smallest stands; the first of equals."""
        self._some(dim)
        return wrap(np.argmin(self.data, dim, keepdims=keepdim))

    @wide
    def logsumexp(self, dim: Dims, keepdim: bool = False) -> Array:
        """log of the sum of exponentials: the largest is taken out first, so nothing overflows."""
        x = self if self.dtype.kind == "f" else self.to(np.float32)
        top = x.data.max(self._axes(dim)[0], keepdims=True, initial=-np.inf)
        top = wrap(np.where(np.isfinite(top), top, x.dtype.type(0)))
        out = (x - top).exp().sum(dim, keepdim=True).log() + top
        return out if keepdim else out.sum(dim)  # over a length of 1

    @wide
    def log_softmax(self, dim: int) -> Array:
        """x - logsumexp(x), in one step: the difference of two large numbers would be rounded."""

        def forward(a):
            shifted = a - np.max(a, dim, keepdims=True, initial=-np.inf)
            return shifted - np.log(np.exp(shifted).sum(dim, keepdims=True))

        def rule(g, out):
            return g - out.exp() * g.sum(dim, keepdim=True)

        return apply("LogSoftmax", forward, (self,), (rule, OUT))

    @wide
    def softmax(self, dim: int) -> Array:
        """Exponentials over their sum."""
        return self.log_softmax(dim).exp()

    def _axes(self, dim: Dims) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The dimensions as a tuple of positive numbers, and the shape with them kept as 1."""
        axes = normalize_axis_tuple(range(self.ndim) if dim is None else dim, self.ndim, "dim")
        return axes, tuple(1 if i in axes else n for i, n in enumerate(self.shape))

    def _some(self, dim: Dims) -> None:
        """Of no numbers none is the largest."""
        got = f"dim = {dim} of shape {self.shape}"
        require(self._count(dim), "dim must have at least one number to choose from", got)

    def _count(self, dim: Dims) -> int:
        """How many numbers a sum over these dimensions adds up."""
        return math.prod(self.shape[axis] for axis in self._axes(dim)[0])
