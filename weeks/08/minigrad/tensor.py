"""`Tensor`: a NumPy array that remembers how it was computed.

Every operation is a function of arrays and, for each input, a rule: how the gradient of the
output becomes the gradient of that input. Names and dtypes are torch's.

    x = Tensor([1.0, 2.0], requires_grad=True)
    (x**2).sum().backward()
    x.grad                          # tensor([2., 4.])
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Union

import numpy as np
from jaxtyping import Shaped
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from scipy import special

from week08.minigrad.autograd import OUT, Mode, Node, set_grad_enabled, walk_back

Scalar = bool | int | float
Dims = int | tuple[int, ...] | list[int] | None
RANK = {"b": 0, "i": 1, "u": 1, "f": 2}  # a kind of higher rank decides the dtype
DEFAULTS = {bool: np.dtype(bool), int: np.dtype("int64"), float: np.dtype("float32")}


class MaxResult(NamedTuple):
    """What max and min along one dimension return."""

    values: "Tensor"
    indices: "Tensor"


# ---- how operations are made


def _wrap(array: Any) -> "Tensor":
    """A tensor around an array, not copied."""
    out = Tensor.__new__(Tensor)
    out.data, out.grad, out.grad_fn = np.asarray(array), None, None
    out.requires_grad, out._counter = False, [0]
    return out


def _apply(name: str, forward: Callable, inputs: tuple["Tensor", ...], *rules: tuple) -> "Tensor":
    """Compute forward(arrays) and, if an input needs it, record the rules that lead back.

    A rule is (function, *saved): what the function needs besides the gradient of the output.
    """
    with np.errstate(all="ignore"):  # log(0) is -inf and no warning, as in torch
        out = _wrap(forward(*[x.data for x in inputs]))
    if Mode.recording and out.dtype.kind == "f" and any(x.requires_grad for x in inputs):
        out.grad_fn, out.requires_grad = Node(name, out, inputs, rules), True
    return out


def _view(name: str, forward: Callable, x: "Tensor", rule: Callable) -> "Tensor":
    """An operation whose result may share memory with x, and then its version counter too."""
    out = _apply(name, forward, (x,), (rule,))
    if np.may_share_memory(out.data, x.data):
        out._counter = x._counter
    return out


def _elementwise(name: str, function: Callable, rule: Callable, *saved: Any, ints: bool = False):
    """A function of each number; unless it keeps `ints`, they become float32 first."""

    def method(self: "Tensor") -> "Tensor":
        x = self if ints or self.dtype.kind == "f" else self.to(np.float32)
        return _apply(name, function, (x,), (rule, *[s if s is OUT else x for s in saved]))

    return method


def _binary(name: str, function: Callable, rule_a: tuple, rule_b: tuple) -> Callable:
    """A function of two operands, of which one may be a number; rules save operand 0 or 1."""

    def operator(a, b):
        if not (isinstance(a, OPERAND) and isinstance(b, OPERAND)):
            return NotImplemented
        a = a if isinstance(a, Tensor) else _tensor(a, b.dtype)
        pair = a, b = a, _tensor(b, a.dtype)
        dtype = _result_type(a, b)
        if function is np.divide and dtype.kind != "f":
            dtype = DEFAULTS[float]
        rules = [(rule, *[pair[i] for i in saved]) for rule, *saved in (rule_a, rule_b)]

        def forward(x, y):
            return function(x.astype(dtype, copy=False), y.astype(dtype, copy=False))

        return _apply(name, forward, pair, *rules)

    return operator


def _swapped(operator: Callable) -> Callable:
    """b - a from a - b, for a number on the left."""
    return lambda self, other: operator(other, self)


def _comparison(function: Callable) -> Callable:
    def operator(a, b):
        if not isinstance(b, OPERAND):
            return NotImplemented
        return _wrap(function(a.data, b.data if isinstance(b, Tensor) else b))

    return operator


def _tensor(value: Any, like: np.dtype) -> "Tensor":
    """A tensor; a Python number gets the dtype `like` if that can hold its kind."""
    if isinstance(value, Tensor):
        return value
    value = value.item() if isinstance(value, np.generic) else value
    own = DEFAULTS[type(value)]
    return _wrap(np.array(value, own if RANK[own.kind] > RANK[like.kind] else like))


def _result_type(a: "Tensor", b: "Tensor") -> np.dtype:
    """The dtype of a op b by torch's rules: kind first, then tensors that have dimensions."""
    rank_a, rank_b = RANK[a.dtype.kind], RANK[b.dtype.kind]
    if rank_a != rank_b:
        return a.dtype if rank_a > rank_b else b.dtype
    if (a.ndim == 0) != (b.ndim == 0):
        return a.dtype if a.ndim else b.dtype
    return np.promote_types(a.dtype, b.dtype)


def _flat(sizes: tuple) -> tuple[int, ...]:
    """(2, 3) from f(2, 3) as from f((2, 3))."""
    return tuple(sizes[0]) if len(sizes) == 1 and not isinstance(sizes[0], int) else sizes


def _index(index: Any) -> tuple:
    """An index as NumPy takes it; arrays are copied, so that the way back finds them unchanged."""
    parts = index if isinstance(index, tuple) else (index,)
    arrays = Tensor | np.ndarray | list
    parts = tuple(np.array(part) if isinstance(part, arrays) else part for part in parts)
    # With an Ellipsis NumPy gives a 0-d view where it would give a scalar.
    return parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)


def _scatter(g: "Tensor", index: tuple, shape: tuple[int, ...]) -> "Tensor":
    """Zeros with g added at `index`: the transpose of x[index]."""
    repeats = any(isinstance(i, np.ndarray) and i.dtype.kind != "b" for i in index)

    def forward(a):
        out = np.zeros(shape, a.dtype)
        if repeats:  # entries that were read twice get two gradients; `out[index] = a` loses one
            np.add.at(out, index, a)
        else:
            out[index] = a
        return out

    return _apply("Scatter", forward, (g,), (lambda h: h[index],))


class Tensor:
    """An array with a gradient.

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

    __slots__ = ("_counter", "data", "grad", "grad_fn", "requires_grad")
    __array_ufunc__ = None  # numpy_scalar * tensor is ours, not NumPy's

    def __init__(self, data: Any, dtype: Any = None, requires_grad: bool = False):
        array = np.array(data.data if isinstance(data, Tensor) else data, dtype=dtype)
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

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self.item())

    def __repr__(self):
        numbers = np.array2string(self.data, separator=", ", prefix="tensor(")
        dtype = "" if self.dtype in DEFAULTS.values() else f", dtype={self.dtype}"
        history = f", grad_fn={self.grad_fn}" if self.grad_fn else ""
        return f"tensor({numbers}{dtype}{history or ', requires_grad=True' * self.requires_grad})"

    # ---- in and out of the graph

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

    def alias(self, grad_fn: Node | None) -> "Tensor":
        """The same memory and version counter under another history."""
        out = _wrap(self.data)
        out._counter, out.grad_fn, out.requires_grad = self._counter, grad_fn, grad_fn is not None
        return out

    def clone(self) -> "Tensor":
        """A copy that passes gradients on."""
        return _apply("Clone", np.copy, (self,), (lambda g: g,))

    def to(self, dtype: Any) -> "Tensor":
        """In another dtype; the tensor itself if it has it already."""
        dtype = np.dtype(dtype)
        if dtype == self.dtype:
            return self
        return _apply("To", lambda a: a.astype(dtype), (self,), (lambda g: g,))

    def ones_like(self) -> "Tensor":
        """Ones of its shape and dtype."""
        return _wrap(np.ones_like(self.data))

    # ---- the table of derivatives: a rule for each input, then what it needs besides g

    __add__ = __radd__ = _binary("Add", np.add, (lambda g: g,), (lambda g: g,))
    __sub__ = _binary("Sub", np.subtract, (lambda g: g,), (lambda g: -g,))
    __mul__ = __rmul__ = _binary(
        "Mul", np.multiply, (lambda g, b: g * b, 1), (lambda g, a: g * a, 0)
    )
    __truediv__ = _binary(
        "Div", np.divide, (lambda g, b: g / b, 1), (lambda g, a, b: -g * a / (b * b), 0, 1)
    )
    __rsub__, __rtruediv__ = _swapped(__sub__), _swapped(__truediv__)

    exp = _elementwise("Exp", np.exp, lambda g, y: g * y, OUT)
    log = _elementwise("Log", np.log, lambda g, x: g / x, 0)
    sqrt = _elementwise("Sqrt", np.sqrt, lambda g, y: g / (2 * y), OUT)
    sin = _elementwise("Sin", np.sin, lambda g, x: g * x.cos(), 0)
    cos = _elementwise("Cos", np.cos, lambda g, x: -g * x.sin(), 0)
    tanh = _elementwise("Tanh", np.tanh, lambda g, y: g * (1 - y * y), OUT)
    sigmoid = _elementwise("Sigmoid", special.expit, lambda g, y: g * y * (1 - y), OUT)
    erf = _elementwise("Erf", special.erf, lambda g, x: g * (-x * x).exp() * 2 / math.pi**0.5, 0)
    relu = _elementwise("Relu", lambda a: a.clip(0), lambda g, y: g * (y > 0), OUT, ints=True)
    abs = _elementwise("Abs", np.abs, lambda g, x: g * _wrap(np.sign(x.data)), 0, ints=True)
    __neg__ = _elementwise("Neg", np.negative, lambda g: -g, ints=True)

    __eq__, __ne__ = _comparison(np.equal), _comparison(np.not_equal)
    __lt__, __le__ = _comparison(np.less), _comparison(np.less_equal)
    __gt__, __ge__ = _comparison(np.greater), _comparison(np.greater_equal)
    __and__, __or__ = _comparison(np.logical_and), _comparison(np.logical_or)
    __hash__ = object.__hash__  # == compares elements, and takes object's hash away

    def __invert__(self):
        return _wrap(np.logical_not(self.data))

    def __pow__(self, exponent):
        if not isinstance(exponent, Scalar | np.generic):
            return NotImplemented
        exponent = exponent.item() if isinstance(exponent, np.generic) else exponent
        x = self if isinstance(exponent, int) or self.dtype.kind == "f" else self.to(np.float32)

        def rule(g, x):
            return g * exponent * x ** (exponent - 1) if exponent else g * 0  # also where x is 0

        return _apply("Pow", lambda a: a**exponent, (x,), (rule, x))

    def matmul(self, other: "Tensor") -> "Tensor":
        """Matrix product of the last two dimensions; the others broadcast; vectors are 1-D."""
        a, b = self, other
        if a.dtype != b.dtype:
            raise RuntimeError(f"matmul needs two tensors of one dtype, got {a.dtype}, {b.dtype}")
        if a.ndim == 1:
            return a.unsqueeze(0).matmul(b).squeeze(-1 if b.ndim == 1 else -2)
        if b.ndim == 1:
            return a.matmul(b.unsqueeze(1)).squeeze(-1)
        if a.ndim > 2 and b.ndim == 2:  # one large product instead of many small ones
            rows = a.reshape(math.prod(a.shape[:-1]), a.shape[-1])
            return rows.matmul(b).reshape(*a.shape[:-1], b.shape[1])
        # gᵀa, transposed, is aᵀg laid out as b is in a linear layer, where b = Wᵀ: nothing to copy.
        rules = (lambda g, b: g @ b.mT, b), (lambda g, a: (g.mT @ a).mT, a)
        return _apply("Matmul", np.matmul, (a, b), *rules)

    __matmul__ = matmul

    # ---- reductions

    def sum(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Sum over some dimensions, or over all."""
        axes, kept, shape = *self._axes(dim), self.shape

        def forward(a):
            dtype = a.dtype if a.dtype.kind == "f" else np.int64
            return a.sum(axes, dtype=dtype, keepdims=keepdim)

        return _apply("Sum", forward, (self,), (lambda g: g.reshape(kept).expand(shape),))

    def sum_to_size(self, shape: tuple[int, ...]) -> "Tensor":
        """Sum what broadcasting from `shape` would have repeated: its transpose."""
        if shape == self.shape:
            return self
        new = self.ndim - len(shape)
        stretched = [i for i, n in enumerate(shape, new) if n == 1 != self.shape[i]]
        return self.sum((*range(new), *stretched), keepdim=True).reshape(shape)

    def mean(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Mean over some dimensions, or over all."""
        return self.sum(dim, keepdim) / self._count(dim)

    def var(self, dim: Dims = None, correction: int = 1, keepdim: bool = False) -> "Tensor":
        """Variance, over n - correction."""
        centered = self - self.mean(dim, keepdim=True)
        return (centered * centered).sum(dim, keepdim) / max(self._count(dim) - correction, 0)

    def amax(self, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        """Largest over some dimensions; equal ones share the gradient evenly."""
        return self._extreme(np.max, dim, keepdim)

    def max(self, dim: int | None = None, keepdim: bool = False) -> Union["Tensor", MaxResult]:
        """Largest of all; or, along one dimension, (values, indices): the first of equals."""
        return self.amax() if dim is None else self._pick(np.argmax, dim, keepdim)

    def min(self, dim: int | None = None, keepdim: bool = False) -> Union["Tensor", MaxResult]:
        """Smallest of all; or, along one dimension, (values, indices): the first of equals."""
        return self._extreme(np.min) if dim is None else self._pick(np.argmin, dim, keepdim)

    def _extreme(self, reduce: Callable, dim: Dims = None, keepdim: bool = False) -> "Tensor":
        axes, kept = self._axes(dim)

        def rule(g, x, out):
            ties = (x == out.reshape(kept)).to(g.dtype)
            return g.reshape(kept) * ties / ties.sum(axes, keepdim=True)

        forward = partial(reduce, axis=axes, keepdims=keepdim)
        return _apply("Extreme", forward, (self,), (rule, self, OUT))

    def _pick(self, choose: Callable, dim: int, keepdim: bool) -> MaxResult:
        indices = _wrap(choose(self.data, dim, keepdims=True))
        values = self.gather(dim, indices)
        if not keepdim:
            values, indices = values.squeeze(dim), indices.squeeze(dim)
        return MaxResult(values, indices)

    def argmax(self, dim: int | None = None, keepdim: bool = False) -> "Tensor":
        """Where the largest stands; the first of equals."""
        return _wrap(np.argmax(self.data, dim, keepdims=keepdim))

    def logsumexp(self, dim: Dims, keepdim: bool = False) -> "Tensor":
        """log of the sum of exponentials: the largest is taken out first, so nothing overflows."""
        top = self.detach().amax(dim, keepdim=True)
        top = where(_wrap(np.isfinite(top.data)), top, 0.0)
        out = (self - top).exp().sum(dim, keepdim=True).log() + top
        return out if keepdim else out.sum(dim)  # over a length of 1

    def log_softmax(self, dim: int) -> "Tensor":
        """x - logsumexp(x), in one step: the difference of two large numbers would be rounded."""

        def forward(a):
            shifted = a - np.max(a, dim, keepdims=True, initial=-np.inf)
            return shifted - np.log(np.exp(shifted).sum(dim, keepdims=True))

        def rule(g, out):
            return g - out.exp() * g.sum(dim, keepdim=True)

        return _apply("LogSoftmax", forward, (self,), (rule, OUT))

    def softmax(self, dim: int) -> "Tensor":
        """Exponentials over their sum."""
        return self.log_softmax(dim).exp()

    def _axes(self, dim: Dims) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The dimensions as a tuple of positive numbers, and the shape with them kept as 1."""
        axes = normalize_axis_tuple(range(self.ndim) if dim is None else dim, self.ndim, "dim")
        return axes, tuple(1 if i in axes else n for i, n in enumerate(self.shape))

    def _count(self, dim: Dims) -> int:
        """How many numbers a sum over these dimensions adds up."""
        return math.prod(self.shape[axis] for axis in self._axes(dim)[0])

    # ---- views: other ways to read the same memory

    def reshape(self, *shape: Any) -> "Tensor":
        """The same numbers in another shape; one length may be -1."""
        shape, before = _flat(shape), self.shape
        return _view("Reshape", lambda a: a.reshape(shape), self, lambda g: g.reshape(before))

    view = reshape

    def flatten(self, start_dim: int = 0) -> "Tensor":
        """The dimensions from `start_dim` on made one."""
        start = normalize_axis_index(start_dim, self.ndim)
        return self.reshape(*self.shape[:start], math.prod(self.shape[start:]))

    def permute(self, *dims: Any) -> "Tensor":
        """Dimensions in another order."""
        dims = normalize_axis_tuple(_flat(dims), self.ndim, "dims")
        back = tuple(np.argsort(dims).tolist())
        return _view("Permute", lambda a: a.transpose(dims), self, lambda g: g.permute(back))

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Two dimensions exchanged."""
        order = list(range(self.ndim))
        order[dim0], order[dim1] = order[dim1], order[dim0]
        return self.permute(order)

    def expand(self, *shape: Any) -> "Tensor":
        """Repeated along dimensions of length 1, without memory; -1 leaves one as it is."""
        shape = _flat(shape)
        new = len(shape) - self.ndim
        shape = tuple(self.shape[i - new] if n == -1 else n for i, n in enumerate(shape))
        return _view("Expand", lambda a: np.broadcast_to(a, shape), self, lambda g: g)

    def squeeze(self, dim: int | None = None) -> "Tensor":
        """Without the dimensions of length 1, or without `dim` if its length is 1."""
        drop = range(self.ndim) if dim is None else [normalize_axis_index(dim, self.ndim)]
        return self.reshape([n for i, n in enumerate(self.shape) if n != 1 or i not in drop])

    def unsqueeze(self, dim: int) -> "Tensor":
        """With a new dimension of length 1 at `dim`."""
        at = normalize_axis_index(dim, self.ndim + 1)
        return self.reshape(*self.shape[:at], 1, *self.shape[at:])

    def __getitem__(self, index):
        index, shape = _index(index), self.shape
        return _view("Index", lambda a: a[index], self, lambda g: _scatter(g, index, shape))

    def gather(self, dim: int, index: "Tensor") -> "Tensor":
        """out[i, j] = self[i, index[i, j]] for dim = 1, and so on."""
        grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
        grid[dim] = index.data
        return self[tuple(grid)]

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
        index = _index(index)

        def assign(a, b, **_):
            a[index] = b

        self._write(assign, value)

    def _write(self, function: Callable, other: Union["Tensor", Scalar]) -> "Tensor":
        """Overwrite self's memory with function(self, other).

        The version counter, which all views share, goes up: a value saved for the way back that
        is overwritten here is found out there.
        """
        other = _tensor(other, self.dtype)
        if Mode.recording and (self.requires_grad or other.requires_grad):
            raise RuntimeError(
                "an in-place operation is not recorded: make a new tensor, or write under no_grad"
            )
        with np.errstate(all="ignore"):
            function(self.data, other.data, out=self.data, casting="same_kind")
        self._counter[0] += 1
        return self


OPERAND = Tensor | Scalar | np.generic


# ---- functions of several tensors


def where(condition: "Tensor", a: Union["Tensor", Scalar], b: Union["Tensor", Scalar]) -> "Tensor":
    """a where the condition holds, else b."""
    mask = condition.clone()
    choose = _binary(
        "Where",
        lambda x, y: np.where(mask.data, x, y),
        (lambda g: g * mask,),
        (lambda g: g * ~mask,),
    )
    return choose(a, b)


def cat(tensors: Sequence["Tensor"], dim: int = 0) -> "Tensor":
    """Joined along an existing dimension."""
    if not tensors:
        raise ValueError("tensors must not be empty")
    before = (slice(None),) * normalize_axis_index(dim, tensors[0].ndim)
    ends = np.cumsum([t.shape[dim] for t in tensors]).tolist()
    spans = [(*before, slice(i, j)) for i, j in zip([0, *ends], ends, strict=False)]
    rules = [(lambda g, span=span: g[span],) for span in spans]
    return _apply("Cat", lambda *arrays: np.concatenate(arrays, dim), tuple(tensors), *rules)


def stack(tensors: Sequence["Tensor"], dim: int = 0) -> "Tensor":
    """Joined along a new dimension."""
    return cat([t.unsqueeze(dim) for t in tensors], dim)
