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

from week08.minigrad.arithmetic import where
from week08.minigrad.array import Array, wrap
from week08.minigrad.autograd import OUT
from week08.minigrad.operations import apply

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
            dtype = a.dtype if a.dtype.kind == "f" else np.int64
            return a.sum(axes, dtype=dtype, keepdims=keepdim)

        return apply("Sum", forward, (self,), (lambda g: g.reshape(kept).expand(shape),))

    def sum_to_size(self, shape: tuple[int, ...]) -> Array:
        """Sum what broadcasting from `shape` would have repeated: its transpose."""
        if shape == self.shape:
            return self
        new = self.ndim - len(shape)
        stretched = [i for i, n in enumerate(shape, new) if n == 1 != self.shape[i]]
        return self.sum((*range(new), *stretched), keepdim=True).reshape(shape)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> Array:
        """Mean over some dimensions, or over all."""
        return self.sum(dim, keepdim) / self._count(dim)

    def var(self, dim: Dims = None, correction: int = 1, keepdim: bool = False) -> Array:
        """Variance, over n - correction."""
        centered = self - self.mean(dim, keepdim=True)
        return (centered * centered).sum(dim, keepdim) / max(self._count(dim) - correction, 0)

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
        axes, kept = self._axes(dim)

        def rule(g, x, out):
            ties = (x == out.reshape(kept)).to(g.dtype)
            return g.reshape(kept) * ties / ties.sum(axes, keepdim=True)

        forward = partial(reduce, axis=axes, keepdims=keepdim)
        return apply("Extreme", forward, (self,), (rule, self, OUT))

    def _pick(self, choose: Callable, dim: int, keepdim: bool) -> MaxResult:
        indices = wrap(choose(self.data, dim, keepdims=True))
        values = self.gather(dim, indices)
        if not keepdim:
            values, indices = values.squeeze(dim), indices.squeeze(dim)
        return MaxResult(values, indices)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> Array:
        """Where the largest stands; the first of equals."""
        return wrap(np.argmax(self.data, dim, keepdims=keepdim))

    def logsumexp(self, dim: Dims, keepdim: bool = False) -> Array:
        """log of the sum of exponentials: the largest is taken out first, so nothing overflows."""
        top = self.detach().amax(dim, keepdim=True)
        top = where(wrap(np.isfinite(top.data)), top, 0.0)
        out = (self - top).exp().sum(dim, keepdim=True).log() + top
        return out if keepdim else out.sum(dim)  # over a length of 1

    def log_softmax(self, dim: int) -> Array:
        """x - logsumexp(x), in one step: the difference of two large numbers would be rounded."""

        def forward(a):
            shifted = a - np.max(a, dim, keepdims=True, initial=-np.inf)
            return shifted - np.log(np.exp(shifted).sum(dim, keepdims=True))

        def rule(g, out):
            return g - out.exp() * g.sum(dim, keepdim=True)

        return apply("LogSoftmax", forward, (self,), (rule, OUT))

    def softmax(self, dim: int) -> Array:
        """Exponentials over their sum."""
        return self.log_softmax(dim).exp()

    def _axes(self, dim: Dims) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The dimensions as a tuple of positive numbers, and the shape with them kept as 1."""
        axes = normalize_axis_tuple(range(self.ndim) if dim is None else dim, self.ndim, "dim")
        return axes, tuple(1 if i in axes else n for i, n in enumerate(self.shape))

    def _count(self, dim: Dims) -> int:
        """How many numbers a sum over these dimensions adds up."""
        return math.prod(self.shape[axis] for axis in self._axes(dim)[0])
