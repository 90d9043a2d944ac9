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

from shared.require import require
from week08.minigrad.array import Array, Scalar, wrap
from week08.minigrad.autograd import OUT
from week08.minigrad.operations import (
    OPERAND,
    apply,
    binary,
    comparison,
    elementwise,
    promoted,
    swapped,
    wide,
)

# For the first operand of `maximum`, and for its second: equal ones share the gradient.
NOT_BELOW = (lambda g, a, b: where(a < b, 0.0, where(a == b, g / 2, g)), 0, 1)
NOT_ABOVE = (lambda g, a, b: where(a > b, 0.0, where(a == b, g / 2, g)), 0, 1)


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
    # Where a branch is masked its gradient is *selected* to be 0: 0 times infinity would be NaN.
    relu = elementwise(
        "Relu", lambda a: a.clip(0), lambda g, y: where(y <= 0, 0.0, g), OUT, ints=True
    )
    maximum = binary("Maximum", np.maximum, NOT_BELOW, NOT_ABOVE)
    minimum = binary("Minimum", np.minimum, NOT_ABOVE, NOT_BELOW)
    abs = elementwise("Abs", np.abs, lambda g, x: g * _sign(x), 0, ints=True)
    __neg__ = elementwise("Neg", np.negative, lambda g: -g, ints=True)

    __eq__, __ne__ = comparison(np.equal), comparison(np.not_equal)
    __lt__, __le__ = comparison(np.less), comparison(np.less_equal)
    __gt__, __ge__ = comparison(np.greater), comparison(np.greater_equal)
    __and__ = __rand__ = comparison(np.bitwise_and, kinds="biu")
    __or__ = __ror__ = comparison(np.bitwise_or, kinds="biu")
    __xor__ = __rxor__ = comparison(np.bitwise_xor, kinds="biu")
    __hash__ = object.__hash__  # == compares elements, and takes object's hash away

    def __invert__(self):
        whole = self.dtype.kind != "f"
        require(whole, "~ needs integers or truth values", self.dtype, error=TypeError)
        return wrap(np.invert(self.data))

    def __pow__(self, exponent):
        exponent = exponent.item() if isinstance(exponent, np.generic) else exponent
        if not isinstance(exponent, Scalar):
            return _power(self, exponent)
        x = self if isinstance(exponent, int) or self.dtype.kind == "f" else self.to(np.float32)

        def rule(g, x):
            return g * exponent * x ** (exponent - 1) if exponent else wrap(np.zeros_like(g.data))

        return apply("Pow", lambda a: a**exponent, (x,), (rule, x))

    def __rpow__(self, base):
        return _power(base, self)

    def clamp(self, min: Scalar | None = None, max: Scalar | None = None) -> Array:
        """Numbers below `min` become `min`, those above `max` become `max`; they learn nothing."""
        bounds = [bound for bound in (min, max) if bound is not None]
        numbers = bounds and all(isinstance(bound, Scalar | np.generic) for bound in bounds)
        require(numbers, "min or max must be a number", min, max, error=TypeError)
        x = self.to(promoted(self, sum(bounds))[1])

        def rule(g, x):
            above = x == x if min is None else x > min
            return where(above if max is None else above & (x < max), g, 0.0)

        return apply("Clamp", lambda a: a.clip(min, max), (x,), (rule, x))

    def masked_fill(self, mask: OPERAND, value: OPERAND) -> Array:
        """`value` where the mask holds, which learns nothing there; the dtype stays."""
        return where(mask, value, self).to(self.dtype)

    def matmul(self, other: OPERAND) -> Array:
        """Matrix product of the last two dimensions; the others broadcast; vectors are 1-D."""
        (a, b), _ = promoted(self, other)
        fit = a.ndim and b.ndim and a.shape[-1] == b.shape[-2:][0]
        must = "matmul needs (…, n, k) and (…, k, m), or vectors of length k"
        require(fit, must, a.shape, b.shape)
        one = a.dtype == b.dtype
        require(one, "matmul needs two of one dtype", a.dtype, b.dtype, error=RuntimeError)
        return a._matmul(b)

    __matmul__ = matmul

    def __rmatmul__(self, other):
        return promoted(other, self)[0][0].matmul(self)

    @wide
    def _matmul(self, other: Array) -> Array:
        a, b = self, other
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


def _sign(x: Array) -> Array:
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)  # 0 for NaN, unlike NumPy's


_power = binary(
    "Power",
    np.power,
    (lambda g, a, b: where(b == 0, 0.0, g * b * a ** (b - 1)), 0, 1),
    (lambda g, a, b: g * where((a == 0) & (b >= 0), 0.0, a**b * a.log()), 0, 1),
)


def where(condition: OPERAND, a: OPERAND, b: OPERAND) -> Array:
    """a where the condition holds, else b; so are their gradients."""
    mask = np.array(condition)  # a copy: the way back needs it unchanged
    require(mask.dtype == bool, "condition must hold truth values", mask.dtype, error=TypeError)
    choose = binary(
        "Where",
        lambda x, y: np.where(mask, x, y),
        (lambda g: where(mask, g, 0.0),),
        (lambda g: where(mask, 0.0, g),),
    )
    return choose(a, b)


def maximum(a: Array, b: OPERAND) -> Array:
    """The larger of each pair; equal ones share the gradient."""
    return a.maximum(b)


def minimum(a: Array, b: OPERAND) -> Array:
    """The smaller of each pair; equal ones share the gradient."""
    return a.minimum(b)
