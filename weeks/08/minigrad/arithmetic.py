"""The table of derivatives: arithmetic, functions of each number, the matrix product.

>>> from week08.minigrad import Tensor
>>> x = Tensor(3.0, requires_grad=True)
>>> (x * x + x.exp().log()).backward()  # the derivative of x² + x
>>> x.grad
tensor(7.)
"""

import math

import numpy as np
from scipy import special

from week08.minigrad.array import Array, Scalar, wrap
from week08.minigrad.autograd import OUT
from week08.minigrad.operations import apply, binary, comparison, elementwise, swapped


class Arithmetic(Array):
    """Operators and functions; a rule for each input, then what it needs besides g."""

    __slots__ = ()

    __add__ = __radd__ = binary("Add", np.add, (lambda g: g,), (lambda g: g,))
    __sub__ = binary("Sub", np.subtract, (lambda g: g,), (lambda g: -g,))
    __mul__ = __rmul__ = binary(
        "Mul", np.multiply, (lambda g, b: g * b, 1), (lambda g, a: g * a, 0)
    )
    __truediv__ = binary(
        "Div", np.divide, (lambda g, b: g / b, 1), (lambda g, a, b: -g * a / (b * b), 0, 1)
    )
    __rsub__, __rtruediv__ = swapped(__sub__), swapped(__truediv__)

    exp = elementwise("Exp", np.exp, lambda g, y: g * y, OUT)
    log = elementwise("Log", np.log, lambda g, x: g / x, 0)
    sqrt = elementwise("Sqrt", np.sqrt, lambda g, y: g / (2 * y), OUT)
    sin = elementwise("Sin", np.sin, lambda g, x: g * x.cos(), 0)
    cos = elementwise("Cos", np.cos, lambda g, x: -g * x.sin(), 0)
    tanh = elementwise("Tanh", np.tanh, lambda g, y: g * (1 - y * y), OUT)
    sigmoid = elementwise("Sigmoid", special.expit, lambda g, y: g * y * (1 - y), OUT)
    erf = elementwise("Erf", special.erf, lambda g, x: g * (-x * x).exp() * 2 / math.pi**0.5, 0)
    relu = elementwise("Relu", lambda a: a.clip(0), lambda g, y: g * (y > 0), OUT, ints=True)
    abs = elementwise("Abs", np.abs, lambda g, x: g * wrap(np.sign(x.data)), 0, ints=True)
    __neg__ = elementwise("Neg", np.negative, lambda g: -g, ints=True)

    __eq__, __ne__ = comparison(np.equal), comparison(np.not_equal)
    __lt__, __le__ = comparison(np.less), comparison(np.less_equal)
    __gt__, __ge__ = comparison(np.greater), comparison(np.greater_equal)
    __and__, __or__ = comparison(np.logical_and), comparison(np.logical_or)
    __hash__ = object.__hash__  # == compares elements, and takes object's hash away

    def __invert__(self):
        return wrap(np.logical_not(self.data))

    def __pow__(self, exponent):
        if not isinstance(exponent, Scalar | np.generic):
            return NotImplemented
        exponent = exponent.item() if isinstance(exponent, np.generic) else exponent
        x = self if isinstance(exponent, int) or self.dtype.kind == "f" else self.to(np.float32)

        def rule(g, x):
            return g * exponent * x ** (exponent - 1) if exponent else g * 0  # also where x is 0

        return apply("Pow", lambda a: a**exponent, (x,), (rule, x))

    def matmul(self, other: Array) -> Array:
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
        return apply("Matmul", np.matmul, (a, b), *rules)

    __matmul__ = matmul


def where(condition: Array, a: Array | Scalar, b: Array | Scalar) -> Array:
    """a where the condition holds, else b."""
    mask = condition.clone()
    choose = binary(
        "Where",
        lambda x, y: np.where(mask.data, x, y),
        (lambda g: g * mask,),
        (lambda g: g * ~mask,),
    )
    return choose(a, b)
