"""`Array`: the numbers of a tensor, how they came about, and what can be asked of them.

The operations are added by the classes built upon it, one module for each kind; `Tensor` is all
of them together, and the class of whatever an operation returns.

>>> from week08.minigrad import Tensor
>>> Tensor([1.0, 2.0], requires_grad=True) * 3
tensor([3., 6.], grad_fn=<MulBackward>)
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

from week08.minigrad.autograd import Node

Scalar = bool | int | float
RANK = {"b": 0, "i": 1, "u": 1, "f": 2}  # a kind of higher rank decides the dtype
DEFAULTS = {bool: np.dtype(bool), int: np.dtype("int64"), float: np.dtype("float32")}


class Array:
    """Numbers that may have a history, and through it a gradient.

    Parameters
    ----------
    data
        Numbers, nested lists of them (floats become float32), or an array, which is copied and
        keeps its dtype.
    dtype
        The dtype to convert to.
    requires_grad
        Whether operations on it are recorded and `backward` fills its `.grad`.

    Attributes
    ----------
    data : numpy.ndarray
        The numbers. Writing to them directly is seen by no version counter.
    grad : Tensor or None
        The accumulated gradient of a leaf.
    grad_fn : Node or None
        The operation that made it; None for a leaf.
    """

    made: type  # the class of what operations return: Tensor, once it is defined

    __slots__ = ("_counter", "data", "grad", "grad_fn", "requires_grad")
    __array_ufunc__ = None  # numpy_scalar * tensor is ours, not NumPy's

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = False):
        array = np.array(data.data if isinstance(data, Array) else data, dtype=dtype)
        if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
            array = array.astype(np.float32)
        if array.dtype.kind not in RANK:
            raise TypeError(f"data must be numbers, got {array.dtype}")
        if requires_grad and array.dtype.kind != "f":
            raise RuntimeError("only Tensors of floating point dtype can require gradients")
        self.data, self.grad, self.grad_fn, self.requires_grad = array, None, None, requires_grad
        self._counter = [0]  # of writes in place; a list, since views share it

    # ---- what it is

    shape = property(lambda self: self.data.shape, doc="Length of each dimension.")
    ndim = property(lambda self: self.data.ndim, doc="Number of dimensions.")
    dtype = property(lambda self: self.data.dtype, doc="NumPy's dtype of the numbers.")
    is_leaf = property(lambda self: self.grad_fn is None, doc="Made by no recorded operation.")
    version = property(lambda self: self._counter[0], doc="How often it was written in place.")
    T = property(lambda self: self.permute(*reversed(range(self.ndim))), doc="All dims reversed.")
    mT = property(lambda self: self.transpose(-2, -1), doc="Last two dimensions exchanged.")

    def numel(self) -> int:
        """How many numbers it holds."""
        return self.data.size

    def item(self) -> Scalar:
        """Its only number, as Python's."""
        return self.data.item()

    def tolist(self) -> Any:
        """Its numbers in nested lists."""
        return self.data.tolist()

    def numpy(self) -> Shaped[np.ndarray, "..."]:
        """Its array, memory shared."""
        if self.requires_grad:
            raise RuntimeError("a tensor that requires grad has no numpy(): use detach().numpy()")
        return self.data

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __len__(self):
        return len(self.data)

    def __iter__(self) -> Iterator["Array"]:
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.item())

    def __repr__(self):
        numbers = np.array2string(self.data, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype in DEFAULTS.values() else f", dtype={self.dtype}"
        history = f", grad_fn={self.grad_fn}" if self.grad_fn else ""
        return f"tensor({numbers}{dtype}{history or ', requires_grad=True' * self.requires_grad})"

    def alias(self, grad_fn: Node | None) -> "Array":
        """The same memory and version counter under another history."""
        out = wrap(self.data)
        out._counter, out.grad_fn, out.requires_grad = self._counter, grad_fn, grad_fn is not None
        return out


def wrap(array: Any) -> Array:
    """A tensor around an array, not copied."""
    out = Array.made.__new__(Array.made)
    out.data, out.grad, out.grad_fn = np.asarray(array), None, None
    out.requires_grad, out._counter = False, [0]
    return out
