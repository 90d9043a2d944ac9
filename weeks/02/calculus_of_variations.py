r"""Calculus of variations: the best curve, density and posterior, by Newton's method.

A functional $J[y] = \int L(x, y, y')\,dx$ takes a whole function to a number. It is stationary
where its first variation vanishes, the Euler–Lagrange equation

$$\frac{\partial L}{\partial y} - \frac{d}{dx} \frac{\partial L}{\partial y'} = 0 .$$

Replace the function by its values at n points, as Euler did in 1744, and it becomes an ordinary
gradient. This is done here for the fastest slide (a cycloid), the density of largest entropy with
a given variance (the Gaussian), and the density that maximizes the ELBO (the posterior).

    >>> x = graded(3.0, 41)  # meters to the side; the slide ends 1 m below its start
    >>> y = minimize_path(slide_time, x, x / 3.0)
    >>> print(f"{functional(slide_time, x, x / 3.0):.3f} s, {functional(slide_time, x, y):.3f} s")
    1.428 s, 1.018 s

    uv run weeks/02/calculus_of_variations.py

Source: Gelfand and Fomin, *Calculus of Variations* (1963), sections 1 to 4, 12 and 40; Jaynes,
"Information theory and statistical mechanics" (Physical Review, 1957); Jordan et al., "An
introduction to variational methods for graphical models" (Machine Learning, 1999), section 6.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require
from week02.gradients_and_jacobians import jvp, sqrt

GRAVITY = 9.81  # m/s²

# ---- curves: a functional as a sum over segments


def midpoint(lagrangian: Callable) -> Callable:
    """The segment's share of ∫ L(x, y, y') dx by the midpoint rule.

    Parameters
    ----------
    lagrangian
        L(x, y, slope), made of arithmetic and the functions of `gradients_and_jacobians`.
    """

    def segment(x0, y0, x1, y1):
        return (x1 - x0) * lagrangian(0.5 * (x0 + x1), 0.5 * (y0 + y1), (y1 - y0) / (x1 - x0))

    return segment


def slide_time(x0: Any, y0: Any, x1: Any, y1: Any) -> Any:
    """Seconds for a frictionless bead on a straight segment, released at depth 0; meters, y down.

    Its speed √(2gy) grows evenly in time, so length over mean speed is exact, even from rest.
    """
    length = sqrt((x1 - x0) ** 2 + (y1 - y0) ** 2)
    return length * 2.0 / (math.sqrt(2.0 * GRAVITY) * (sqrt(y0) + sqrt(y1)))


@checked
def functional(segment: Callable, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> float:
    """J of the path through the points (x, y): the sum of its segments' shares."""
    _validate_path(x, y)
    return float(np.sum(segment(x[:-1], y[:-1], x[1:], y[1:])))


@checked
def first_variation(
    segment: Callable, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n-2"]:
    """∂J/∂y at the inner points: spacing times (∂L/∂y - d/dx ∂L/∂y')."""
    _validate_path(x, y)
    # A point touches the segment that ends in it and the one that begins there. The derivative
    # in the fixed first point is never asked for: at depth 0 that of √y would be infinite.
    return _derivative(segment, x[:-1], y[:-1], x[1:], y[1:], "1")[:-1] + _derivative(
        segment, x[1:-1], y[1:-1], x[2:], y[2:], "0"
    )


@checked
def second_variation(
    segment: Callable, x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]
) -> Float[np.ndarray, "n-2 n-2"]:
    """∂²J/∂y² at the inner points; tridiagonal, since only neighbors share a segment."""
    _validate_path(x, y)
    ends = _derivative(segment, x[:-1], y[:-1], x[1:], y[1:], "11")[:-1]
    begins = _derivative(segment, x[1:-1], y[1:-1], x[2:], y[2:], "00")
    H = np.diag(ends + begins)
    if len(x) > 3:
        mixed = _derivative(segment, x[1:-2], y[1:-2], x[2:-1], y[2:-1], "01")
        H += np.diag(mixed, 1) + np.diag(mixed, -1)
    return H


def _derivative(segment: Callable, x0, y0, x1, y1, which: str) -> np.ndarray:
    """∂/∂y0 ("0"), ∂²/∂y0∂y1 ("01") … of all segments at once, by dual numbers in dual numbers."""

    def take(rest: str, at: dict):
        if not rest:
            return segment(x0, at["0"], x1, at["1"])

        def moved(v):
            return take(rest[1:], {**at, rest[0]: v[0]})

        return jvp(moved, [at[rest[0]]], [1.0])[1][0]

    return np.broadcast_to(take(which, {"0": y0, "1": y1}), x0.shape).astype(float)


@checked
def minimize_path(
    segment: Callable,
    x: Float[np.ndarray, "n"],
    y: Float[np.ndarray, "n"],
    *,
    max_iterations: int = 100,
) -> Float[np.ndarray, "n"]:
    """Newton's method on the inner points; the ends stay.

    Parameters
    ----------
    segment
        A share of the functional, such as `slide_time` or `midpoint(lagrangian)`.
    x, y
        Where to look, strictly increasing, and the first guess.

    Raises
    ------
    ArithmeticError
        If it does not converge.
    """
    _validate_path(x, y)
    y, value = y.copy(), functional(segment, x, y)
    for _ in range(max_iterations):
        gradient, H = first_variation(segment, x, y), second_variation(segment, x, y)
        lowest = float(np.linalg.eigvalsh(H)[0])
        if lowest <= 0.0:  # no bowl here: tilt it into one, so that the step goes down
            H += (1e-3 * np.abs(H).max() - lowest) * np.eye(len(H))
        step = -np.linalg.solve(H, gradient)
        decrease = float(-gradient @ step)
        rate = 1.0
        while rate > 1e-12:
            moved = y.copy()
            moved[1:-1] += rate * step
            with np.errstate(invalid="ignore"):  # √ of a depth above the start: refused below
                new = functional(segment, x, moved)
            if new <= value - 1e-4 * rate * decrease + 1e-15 * abs(value):
                break
            rate /= 2.0
        y, value = moved, new
        if decrease <= 1e-20 * max(1.0, abs(value)):
            return y
    raise ArithmeticError(f"no stationary path in max_iterations = {max_iterations}")


def _validate_path(x: np.ndarray, y: np.ndarray) -> None:
    increasing = len(x) >= 3 and (np.diff(x) > 0).all()
    require(increasing, "x must be at least 3 numbers, strictly increasing", x)
    require(np.isfinite(y[[0, -1]]).all(), "y must have finite ends", y[0], y[-1])


# ---- the brachistochrone's closed forms


def cycloid(x_end: float, y_end: float) -> tuple[float, float]:
    """Radius R and last angle θ of x = R (t - sin t), y = R (1 - cos t) through the end point.

    The bead needs θ √(R/g) seconds.
    """
    require(x_end > 0.0 and y_end > 0.0, "x_end and y_end must be positive", x_end, y_end)
    low, high = 0.0, 2.0 * math.pi
    for _ in range(200):  # (t - sin t)/(1 - cos t) grows from 0 to infinity
        t = 0.5 * (low + high)
        small = (t - math.sin(t)) * y_end < (1.0 - math.cos(t)) * x_end
        low, high = (t, high) if small else (low, t)
    return y_end / (1.0 - math.cos(t)), t


def graded(x_end: float, n: int) -> Float[np.ndarray, "n"]:
    """n points, dense at 0 like k³: even in a cycloid's angle, where y ~ x^(2/3) is steep."""
    require(n >= 3, "n must be at least 3", n)
    return x_end * np.linspace(0.0, 1.0, n) ** 3


# ---- densities: entropy, moments, the ELBO


def quadrature(
    low: float, high: float, n: int
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """Gauss–Legendre points and weights: ∫ f dx ≈ Σ weights · f(points)."""
    require(-math.inf < low < high < math.inf, "low must be below high, both finite", low, high)
    points, weights = np.polynomial.legendre.leggauss(n)
    return low + (high - low) * (points + 1.0) / 2.0, weights * (high - low) / 2.0


@checked
def free_energy(
    p: Float[np.ndarray, "n"],
    weights: Float[np.ndarray, "n"],
    reward: Float[np.ndarray, "n"],
    *,
    temperature: float = 1.0,
) -> float:
    """∫ p (reward - temperature · ln p): the entropy if reward is 0, the ELBO if ln p(x, z)."""
    return float(weights @ (p * (reward - temperature * np.log(p))))


@checked
def maximize_free_energy(
    weights: Float[np.ndarray, "n"],
    reward: Float[np.ndarray, "n"],
    moments: Float[np.ndarray, "k n"],
    targets: Float[np.ndarray, "k"],
    *,
    start: Float[np.ndarray, "n"] | None = None,
    temperature: float = 1.0,
    max_iterations: int = 500,
) -> Float[np.ndarray, "iteration n"]:
    """Density of largest `free_energy` among those with ∫ p · moments = targets; all its iterates.

    Newton's method on the values of p, from any positive start, whether or not it meets the
    constraints (Boyd and Vandenberghe, 2004, section 10.3). No form of p is assumed.

    Raises
    ------
    ArithmeticError
        If it does not converge, as when no density has such moments.
    """
    require(temperature > 0.0, "temperature must be positive", temperature)
    p = np.full(len(weights), 1.0 / weights.sum()) if start is None else start
    require((p > 0.0).all(), "start must be positive everywhere", f"a smallest value of {p.min()}")
    path = [p]
    for _ in range(max_iterations):
        # First variation of ∫ p (reward - τ ln p) - λ·moments, linearized in p: δp/p is ...
        slope = reward / temperature - np.log(p) - 1.0
        mass = weights * p
        # ... slope - λ·moments/τ, with the λ that makes p + δp meet the constraints.
        A = (moments * mass) @ moments.T / temperature
        try:
            multipliers = np.linalg.solve(A, moments @ (mass * (1.0 + slope)) - targets)
        except np.linalg.LinAlgError:  # p shrank to a point: no density has these moments
            break
        relative = slope - multipliers @ moments / temperature
        # Where the step would make p negative, it takes nine tenths of it.
        p = np.maximum(p * np.maximum(1.0 + relative, 0.1), 1e-300)
        path.append(p)
        if not np.isfinite(p).all():
            break
        if np.abs(mass * relative).max() < 1e-14:
            return np.array(path)
    raise ArithmeticError(f"no density found in max_iterations = {max_iterations}")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
