r"""Derivatives by dual numbers and by a tape: digits kept, costs counted.

One table holds the partial derivatives of a dozen primitives. The chain rule does the rest, from
the inputs to the outputs (a column of the Jacobian $J$ per pass) or back (a row per pass):

$$\dot y = J \dot x \quad \text{(forward, dual numbers)}, \qquad
  \bar x = J^\top \bar y \quad \text{(reverse, a tape)}.$$

Neither subtracts nearly equal numbers, so neither loses digits; `finite_differences` do.

    >>> x = Dual(2.0, 1.0)  # the number 2, which changes at rate 1
    >>> float((x * x + 3.0 * x).derivative)
    7.0
    >>> gradient(lambda v: v[0] * v[1] ** 2, np.array([2.0, 3.0]))
    array([ 9., 12.])
    >>> hessian(lambda v: v[0] * v[1] ** 2, np.array([2.0, 3.0]))
    array([[0., 6.],
           [6., 4.]])

    uv run weeks/02/gradients_and_jacobians.py

Source: Griewank and Walther, *Evaluating Derivatives*, 2nd ed. (SIAM, 2008), chapters 2 to 4;
Siskind and Pearlmutter, "Perturbation confusion and referential transparency" (IFL, 2005).
"""

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require

# ---- the rules, and the numbers that follow them

# Each primitive: its value, and its partial derivatives from its inputs and its output.
RULES: dict[str, tuple[Callable, Callable]] = {
    "add": (operator.add, lambda x, y, out: (1.0, 1.0)),
    "sub": (operator.sub, lambda x, y, out: (1.0, -1.0)),
    "mul": (operator.mul, lambda x, y, out: (y, x)),
    "div": (operator.truediv, lambda x, y, out: (1.0 / y, -out / y)),
    "pow": (operator.pow, lambda x, n, out: (n * x ** (n - 1) if n != 0 else 0.0, 0.0)),
    "neg": (operator.neg, lambda x, out: (-1.0,)),
    "exp": (np.exp, lambda x, out: (out,)),
    "log": (np.log, lambda x, out: (1.0 / x,)),
    "sin": (np.sin, lambda x, out: (cos(x),)),
    "cos": (np.cos, lambda x, out: (-sin(x),)),
    "tanh": (np.tanh, lambda x, out: (1.0 - out * out,)),
    "sqrt": (np.sqrt, lambda x, out: (0.5 / out,)),
}
_levels = itertools.count(3)  # 2 is for a `Dual` made by hand, 1 for what is no derivative


def apply(name: str, *inputs: Any) -> Any:
    """Evaluate a primitive on numbers of any kind; the innermost derivative acts first.

    Each derivative that is taken has a level, and one inside another a higher level. To the inner
    one the outer one's numbers are constants: without levels d/dx (x · d/dy (x + y)) comes out
    as 2 and not as 1, "perturbation confusion".
    """
    top = max(inputs, key=_level)
    return RULES[name][0](*inputs) if _level(top) == 0 else top._apply(name, inputs)


def _level(number: Any) -> int:
    return getattr(number, "level", 0)


class Number:
    """Arithmetic by `apply`, comparisons by value: what `Dual` and `Var` share."""

    __array_ufunc__ = None  # so that array + Number asks Number and not each entry of the array

    def _apply(self, name: str, inputs: tuple) -> "Number":
        values = [n.value if _level(n) == self.level else n for n in inputs]
        out = apply(name, *values)
        active = [
            (number, partial)
            for number, partial in zip(inputs, RULES[name][1](*values, out), strict=True)
            if _level(number) == self.level
        ]
        return self._follow(out, active)

    __add__, __radd__ = (lambda a, b: apply("add", a, b)), (lambda a, b: apply("add", b, a))
    __sub__, __rsub__ = (lambda a, b: apply("sub", a, b)), (lambda a, b: apply("sub", b, a))
    __mul__, __rmul__ = (lambda a, b: apply("mul", a, b)), (lambda a, b: apply("mul", b, a))
    __truediv__, __rtruediv__ = (lambda a, b: apply("div", a, b)), (lambda a, b: apply("div", b, a))

    def __neg__(self):
        return apply("neg", self)

    def __pow__(self, n):
        return exp(n * log(self)) if _level(n) else apply("pow", self, n)

    def __rpow__(self, base):
        return exp(self * np.log(base))

    __lt__, __gt__ = (lambda a, b: _plain(a) < _plain(b)), (lambda a, b: _plain(a) > _plain(b))
    __le__, __ge__ = (lambda a, b: _plain(a) <= _plain(b)), (lambda a, b: _plain(a) >= _plain(b))
    __eq__, __hash__ = (lambda a, b: _plain(a) == _plain(b)), None


def exp(x: Any) -> Any:
    """Exponential of a number of any kind (so are the next five)."""
    return apply("exp", x)


def log(x: Any) -> Any:
    """Natural logarithm."""
    return apply("log", x)


def sin(x: Any) -> Any:
    """Sine of x in radians."""
    return apply("sin", x)


def cos(x: Any) -> Any:
    """Cosine of x in radians."""
    return apply("cos", x)


def tanh(x: Any) -> Any:
    """Hyperbolic tangent."""
    return apply("tanh", x)


def sqrt(x: Any) -> Any:
    """Square root."""
    return apply("sqrt", x)


class Dual(Number):
    """value + derivative · ε with ε² = 0: a number that knows how fast it changes.

    Parameters
    ----------
    value, derivative
        Numbers of a lower level, or arrays of independent ones.
    level
        Which derivative this belongs to; see `apply`.
    """

    def __init__(self, value: Any, derivative: Any = 0.0, level: int = 2):
        self.value, self.derivative, self.level = value, derivative, level

    def _follow(self, out, active) -> "Dual":
        terms = [_times(partial, number.derivative) for number, partial in active]
        return Dual(out, sum(terms[1:], start=terms[0]), self.level)


class Tape:
    """The list of what was computed, in order; reading it backwards is reverse mode."""

    def __init__(self):
        self.level = next(_levels)
        self.parents: list[list[tuple[int, Any]]] = []  # of each entry: (index, partial)

    def variable(self, value: Any) -> "Var":
        """A new input."""
        return self._record(value, [])

    def _record(self, value, parents) -> "Var":
        self.parents.append(parents)
        return Var(value, len(self.parents) - 1, self)

    def adjoints(self, seeds: dict[int, Any]) -> list:
        """∂(Σ seed · entry)/∂(each entry) for entries given by index.

        A parent always stands before its children, so the order of the tape is a topological
        order: when an entry is passed on, all that flows into it has arrived. No recursion.
        """
        adjoint: list[Any] = [0.0] * len(self.parents)
        for index, seed in seeds.items():
            adjoint[index] = adjoint[index] + seed
        for i in reversed(range(len(self.parents))):
            if isinstance(adjoint[i], float) and adjoint[i] == 0.0:
                continue  # nothing flows through here
            for parent, partial in self.parents[i]:
                term, before = _times(partial, adjoint[i]), adjoint[parent]
                nothing = isinstance(before, float) and before == 0.0
                # Add, never assign: an entry that is used twice is reached by two paths.
                adjoint[parent] = term if nothing else before + term
        return adjoint


class Var(Number):
    """A number whose history stands on a tape; made by `Tape.variable` and by arithmetic."""

    def __init__(self, value: Any, index: int, tape: Tape):
        self.value, self.index, self.tape, self.level = value, index, tape, tape.level

    def _follow(self, out, active) -> "Var":
        return self.tape._record(out, [(number.index, partial) for number, partial in active])


# ---- derivatives


def jvp(f: Callable, x: Sequence, direction: Sequence) -> tuple[list, list]:
    """f(x) and J · direction, in one pass at two to three times the cost of f."""
    level = next(_levels)
    duals = [Dual(v, d, level) for v, d in zip(x, direction, strict=True)]
    found = [y if _level(y) == level else Dual(y, 0.0, level) for y in _outputs(f(duals))]
    return [y.value for y in found], [y.derivative for y in found]


def vjp(f: Callable, x: Sequence) -> tuple[list, Callable[[Sequence], list]]:
    """f(x), and the function that takes weights of the outputs to Jᵀ · weights."""
    tape = Tape()
    variables = [tape.variable(v) for v in x]
    found = _outputs(f(variables))

    def pull_back(weights: Sequence) -> list:
        seeds: dict[int, Any] = {}
        for y, weight in zip(found, weights, strict=True):
            if _level(y) == tape.level:  # an output that does not depend on x is a plain number
                seeds[y.index] = seeds.get(y.index, 0.0) + weight
        return tape.adjoints(seeds)[: len(variables)]

    return [y.value if _level(y) == tape.level else y for y in found], pull_back


@checked
def jacobian_forward(f: Callable, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m n"]:
    """Jacobian by dual numbers, one pass for each of the n inputs."""
    _validate(x)
    return np.array([jvp(f, list(x), list(e))[1] for e in np.eye(len(x))], dtype=float).T


@checked
def jacobian_reverse(f: Callable, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "m n"]:
    """Jacobian by a tape, one pass back for each of the m outputs."""
    _validate(x)
    values, pull_back = vjp(f, list(x))
    return np.array([pull_back(list(e)) for e in np.eye(len(values))], dtype=float)


@checked
def gradient(f: Callable, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Gradient of f with one output, in one pass back.

    Raises
    ------
    ValueError
        If f gives several outputs.
    """
    _validate(x)
    return np.array(_gradient(f, list(x)), dtype=float)


@checked
def hessian(f: Callable, x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n n"]:
    """Second derivatives of f with one output: forward mode through the reverse mode's gradient."""
    return jacobian_forward(lambda numbers: _gradient(f, numbers), x)


def _gradient(f: Callable, x: Sequence) -> list:
    values, pull_back = vjp(f, x)
    require(len(values) == 1, "f must give one number (or use jacobian_reverse)", len(values))
    return pull_back([1.0])


def _times(partial, number):
    """partial · number, free of charge where the partial is one."""
    return number if isinstance(partial, float) and partial == 1.0 else partial * number


def _plain(number):
    return _plain(number.value) if _level(number) else number


def _outputs(y) -> list:
    found = list(y) if isinstance(y, list | tuple | np.ndarray) else [y]
    numbers = found and all(isinstance(n, Number | int | float) for n in found)
    require(numbers, "f must give a number or a sequence of numbers", repr(y))
    return found


def _validate(x: np.ndarray) -> None:
    finite = len(x) > 0 and np.isfinite(x).all()
    require(finite, "x must be a vector of at least one finite number", x)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
