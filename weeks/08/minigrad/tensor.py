"""`Tensor`: a NumPy array that remembers how it was computed.

Every operation is a function of arrays and, for each input, a rule: how the gradient of the
output becomes the gradient of that input. Names and dtypes are torch's.

>>> x = Tensor([1.0, 2.0], requires_grad=True)
>>> (x**2).sum().backward()
>>> x.grad
tensor([2., 4.])
"""

from collections.abc import Callable, Sequence
from typing import Any, Union

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from week08.minigrad.arithmetic import Arithmetic
from week08.minigrad.array import Array, Scalar, wrap
from week08.minigrad.autograd import Mode, set_grad_enabled, walk_back
from week08.minigrad.operations import apply, as_tensor
from week08.minigrad.reductions import Reductions
from week08.minigrad.views import Views, as_index


class Tensor(Arithmetic, Reductions, Views):
    """An array with a gradient: its way back, and writing in place."""

    __slots__ = ()

    def backward(
        self,
        gradient: Union["Tensor", None] = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
    ) -> None:
        """Add the gradient of this tensor to the `.grad` of every leaf that it depends on.

        It starts from `gradient`, or from 1 if the tensor is a single number; the other options
        are those of `grad`.
        """
        retain_graph = create_graph if retain_graph is None else retain_graph
        with set_grad_enabled(create_graph):
            for leaf, share in walk_back([self], [gradient], None, retain_graph):
                if leaf.grad is None:
                    leaf.grad = share.clone()  # the leaves of a + b are sent the same array
                elif create_graph:
                    leaf.grad = leaf.grad + share
                else:
                    leaf.grad.add_(share)

    def detach(self) -> "Tensor":
        """The same memory, without history."""
        return self.alias(None)

    def clone(self) -> "Tensor":
        """A copy that passes gradients on."""
        return apply("Clone", np.copy, (self,), (lambda g: g,))

    def to(self, dtype: Any) -> "Tensor":
        """In another dtype; the tensor itself if it has it already."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        return apply("To", lambda a: a.astype(dtype), (self,), (lambda g: g,))

    def ones_like(self) -> "Tensor":
        """Ones of its shape and dtype."""
        return wrap(np.ones_like(self.data))

    # ---- in place: never recorded, always counted

    def add_(self, other: Union["Tensor", Scalar], alpha: Scalar = 1) -> "Tensor":
        """self += alpha * other."""
        return self._write(np.add, other if alpha == 1 else other * alpha)

    def sub_(self, other: Union["Tensor", Scalar], alpha: Scalar = 1) -> "Tensor":
        """self -= alpha * other."""
        return self._write(np.subtract, other if alpha == 1 else other * alpha)

    def mul_(self, other: Union["Tensor", Scalar]) -> "Tensor":
        """self *= other."""
        return self._write(np.multiply, other)

    def div_(self, other: Union["Tensor", Scalar]) -> "Tensor":
        """self /= other."""
        return self._write(np.divide, other)

    __iadd__, __isub__, __imul__, __itruediv__ = add_, sub_, mul_, div_

    def copy_(self, other: Union["Tensor", Scalar]) -> "Tensor":
        """Self = other, broadcast."""
        self[...] = other
        return self

    def zero_(self) -> "Tensor":
        """Self = 0."""
        return self.copy_(0)

    def __setitem__(self, index, value):
        index = as_index(index)

        def assign(a, b, **_):
            a[index] = b

        self._write(assign, value)

    def _write(self, function: Callable, other: Union["Tensor", Scalar]) -> "Tensor":
        """Overwrite self's memory with function(self, other).

        The version counter, which all views share, goes up: a value saved for the way back that
        is overwritten here is found out there.
        """
        other = as_tensor(other, self.dtype)
        if Mode.recording and (self.requires_grad or other.requires_grad):
            raise RuntimeError(
                "an in-place operation is not recorded: make a new tensor, or write under no_grad"
            )
        with np.errstate(all="ignore"):
            function(self.data, other.data, out=self.data, casting="same_kind")
        self._counter[0] += 1
        return self


Array.made = Tensor


def cat(tensors: Sequence["Tensor"], dim: int = 0) -> "Tensor":
    """Joined along an existing dimension."""
    if not tensors:
        raise ValueError("tensors must not be empty")
    before = (slice(None),) * normalize_axis_index(dim, tensors[0].ndim)
    ends = np.cumsum([t.shape[dim] for t in tensors]).tolist()
    spans = [(*before, slice(i, j)) for i, j in zip([0, *ends], ends, strict=False)]
    rules = [(lambda g, span=span: g[span],) for span in spans]
    return apply("Cat", lambda *arrays: np.concatenate(arrays, dim), tuple(tensors), *rules)


def stack(tensors: Sequence["Tensor"], dim: int = 0) -> "Tensor":
    """Joined along a new dimension."""
    return cat([t.unsqueeze(dim) for t in tensors], dim)
