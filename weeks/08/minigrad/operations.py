"""How operations are made: a function of arrays and, for each input, a rule that leads back.

>>> import week08.minigrad
>>> square = elementwise("Square", np.square, lambda g, x: g * x * 2, 0)
>>> x = week08.minigrad.Tensor([1.0, 3.0], requires_grad=True)
>>> square(x).sum().backward()
>>> x.grad
tensor([2., 6.])
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import numpy as np

from week08.minigrad.array import DEFAULTS, RANK, Array, Scalar, wrap
from week08.minigrad.autograd import OUT, Mode, Node

OPERAND = Array | Scalar | np.generic | np.ndarray


def apply(name: str, forward: Callable, inputs: tuple[Array, ...], *rules: tuple) -> Array:
    """Compute forward(arrays) and, if an input needs it, record the rules that lead back.

    A rule is (function, *saved): what the function needs besides the gradient of the output.
    """
    with np.errstate(all="ignore"):  # log(0) is -inf and no warning, as in torch
        out = wrap(forward(*[x.data for x in inputs]))
    if Mode.recording and out.dtype.kind == "f" and any(x.requires_grad for x in inputs):
        out.grad_fn, out.requires_grad = Node(name, out, inputs, rules), True
    return out


def apply_view(name: str, forward: Callable, x: Array, rule: Callable) -> Array:
    """An operation whose result may share memory with x, and then its version counter too."""
    out = apply(name, forward, (x,), (rule,))
    if np.may_share_memory(out.data, x.data):
        out._counter = x._counter
    return out


def accumulator(dtype: np.dtype) -> np.dtype:
    """The dtype that sums of a dtype are added up in; in half precision 2048 + 1 is 2048."""
    if dtype.kind != "f":
        return np.dtype(np.int64)
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def wide(function: Callable) -> Callable:
    """A function that computes in float32 where tensors are half, and rounds its result once."""

    def widened(x: Any) -> Any:
        return x.to(np.float32) if isinstance(x, Array) and x.dtype == np.float16 else x

    @wraps(function)
    def method(x: Array, *others: Any, **options: Any) -> Array:
        if x.dtype != np.float16:
            return function(x, *others, **options)
        options = {name: widened(value) for name, value in options.items()}
        return function(widened(x), *map(widened, others), **options).to(x.dtype)

    return method


def elementwise(name: str, function: Callable, rule: Callable, *saved: Any, ints: bool = False):
    """A function of each number; unless it keeps `ints`, they become float32 first."""

    @wide
    def method(self: Array) -> Array:
        x = self if ints or self.dtype.kind == "f" else self.to(np.float32)
        return apply(name, function, (x,), (rule, *[s if s is OUT else x for s in saved]))

    return method


def binary(name: str, function: Callable, rule_a: tuple, rule_b: tuple) -> Callable:
    """A function of two operands, of which one may be a number; rules save operand 0 or 1."""

    def operator(a, b):
        pair, dtype = promoted(a, b)
        if function is np.divide and dtype.kind != "f":
            dtype = DEFAULTS[float]
        rules = [(rule, *[pair[i] for i in saved]) for rule, *saved in (rule_a, rule_b)]

        def forward(x, y):
            return function(x.astype(dtype, copy=False), y.astype(dtype, copy=False))

        return apply(name, forward, pair, *rules)

    return operator


def swapped(operator: Callable) -> Callable:
    """b - a from a - b, for a number on the left."""
    return lambda self, other: operator(other, self)


def comparison(function: Callable, kinds: str = "biuf") -> Callable:
    """A function of two operands of certain kinds, whose result has no gradient."""

    def operator(a, b):
        if not isinstance(b, OPERAND):
            return NotImplemented
        x, y = a.data, b.item() if isinstance(b, np.generic) else b
        if not isinstance(y, Scalar):
            (a, b), dtype = promoted(a, b)
            x, y = a.data.astype(dtype, copy=False), b.data.astype(dtype, copy=False)
        dtype = np.result_type(x, y)
        if dtype.kind not in kinds:
            raise TypeError(f"{function.__name__} needs integers or truth values, got {dtype}")
        return wrap(function(x, y))

    return operator


def promoted(a: Any, b: Any) -> tuple[tuple[Array, Array], np.dtype]:
    """Two operands as tensors, and the dtype of what they make together."""
    a = as_tensor(a, b.dtype if isinstance(b, Array) else np.dtype(bool))
    b = as_tensor(b, a.dtype)
    return (a, b), result_type(a, b)


def as_tensor(value: Any, like: np.dtype) -> Array:
    """A tensor; a Python number gets the dtype `like` if that can hold its kind."""
    if isinstance(value, Array):
        return value
    if isinstance(value, np.ndarray):
        return Array.made(value)  # a copy: what the way back needs must not change
    if not isinstance(value, Scalar | np.generic):
        raise TypeError(f"a tensor, an array or a number is needed, got {type(value).__name__}")
    value = value.item() if isinstance(value, np.generic) else value
    own = DEFAULTS[type(value)]
    return wrap(np.array(value, own if RANK[own.kind] > RANK[like.kind] else like))


def result_type(a: Array, b: Array) -> np.dtype:
    """The dtype of a op b by torch's rules: kind first, then tensors that have dimensions."""
    rank_a, rank_b = RANK[a.dtype.kind], RANK[b.dtype.kind]
    if rank_a != rank_b:
        return a.dtype if rank_a > rank_b else b.dtype
    if (a.ndim == 0) != (b.ndim == 0):
        return a.dtype if a.ndim else b.dtype
    return np.promote_types(a.dtype, b.dtype)
