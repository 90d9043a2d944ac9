r"""Convergence rates: theorems about gradient descent and momentum, stated and then measured.

For a function whose curvature lies between $m$ and $L$, with $\kappa = L / m$ and minimum $x^*$:

* gradient descent, step $2/(L + m)$:  $\|x_k - x^*\| \le \big(\frac{\kappa-1}{\kappa+1}\big)^k R$,
* heavy ball on quadratics:  $\big(\frac{\sqrt\kappa-1}{\sqrt\kappa+1}\big)^k$, up to a factor $k$,
* Nesterov, $m = 0$:  $f(x_k) - f^* \le 2 L R^2 / (k+1)^2$; gradient descent: $L R^2 / (4k + 2)$,
* any method that adds up gradients:  $f(x_k) - f^* \ge 3 L R^2 / (32 (k+1)^2)$ on some function,
* SGD, constant step:  never below a noise floor, $\eta \sigma^2 / (\lambda (2 - \eta \lambda))$,

where $R = \|x_0 - x^*\|$ and $\lambda$ is an eigenvalue of a quadratic's Hessian.

>>> curvatures = np.array([1.0, 100.0])
>>> lr, momentum, rate = best_parameters("heavy ball", m=1.0, L=100.0)
>>> points = heavy_ball(curvatures.__mul__, np.ones(2), lr, momentum)
>>> steps_until(points, lambda x: np.linalg.norm(x) < 1e-6, limit=10_000)
95
>>> points = gradient_descent(curvatures.__mul__, np.ones(2), 2 / 101)
>>> steps_until(points, lambda x: np.linalg.norm(x) < 1e-6, limit=10_000)
709

    uv run weeks/09/convergence.py

Sources: Nesterov, "Introductory Lectures on Convex Optimization" (2004), sections 2.1-2.2;
Polyak (1964); Beck & Teboulle (2009), theorem 4.4; Drori & Teboulle (2014), section 3;
Lessard, Recht & Packard (2016), section 4.6; Polyak & Juditsky (1992).
"""

import math
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from jaxtyping import Float

from shared.require import require

Gradient = Callable[[np.ndarray], np.ndarray]

# ---- methods: each is an endless sequence of points, the start first


def gradient_descent(
    grad: Gradient, x0: Float[np.ndarray, " n"], lr: float
) -> Iterator[Float[np.ndarray, " n"]]:
    """x ← x - lr ∇f(x): heavy ball without its momentum."""
    return heavy_ball(grad, x0, lr, 0.0)


def heavy_ball(
    grad: Gradient, x0: Float[np.ndarray, " n"], lr: float, momentum: float
) -> Iterator[Float[np.ndarray, " n"]]:
    """x ← x - lr ∇f(x) + momentum (x - previous x), starting at rest (Polyak, 1964)."""
    _check(lr, momentum)

    def points():
        x = previous = x0
        while True:
            yield x
            x, previous = x - lr * grad(x) + momentum * (x - previous), x

    return points()


def nesterov(
    grad: Gradient, x0: Float[np.ndarray, " n"], lr: float, momentum: float | None = None
) -> Iterator[Float[np.ndarray, " n"]]:
    r"""Gradient step from a point ahead of $x$, not from $x$ itself.

    Parameters
    ----------
    momentum
        Constant, for strongly convex functions. None: the growing
        $(t_k - 1) / t_{k+1}$, $t_{k+1} = (1 + \sqrt{1 + 4 t_k^2}) / 2$, that needs no $m$.

    References
    ----------
    Nesterov (2004), section 2.2.1; Beck & Teboulle (2009), equations 4.1-4.3.
    """
    _check(lr, momentum or 0.0)

    def points():
        x = ahead = x0
        t = 1.0
        while True:
            yield x
            x, previous = ahead - lr * grad(ahead), x
            t, last = (1 + math.sqrt(1 + 4 * t * t)) / 2, t
            ahead = x + ((last - 1) / t if momentum is None else momentum) * (x - previous)

    return points()


def conjugate_gradient(
    apply: Gradient, b: Float[np.ndarray, " n"], x0: Float[np.ndarray, " n"]
) -> Iterator[Float[np.ndarray, " n"]]:
    """The best point of x0 + span(r, Ar, A²r, …) at each step, for f = xᵀAx/2 - bᵀx.

    Parameters
    ----------
    apply
        x ↦ Ax, with A symmetric and positive definite.
    """

    def points():
        x, residual = x0, b - apply(x0)
        direction, square = residual, residual @ residual
        while True:
            yield x
            if square == 0:
                continue  # solved exactly: 0/0 would follow
            image = apply(direction)
            step = square / (direction @ image)
            x, residual = x + step * direction, residual - step * image
            square, last = residual @ residual, square
            direction = residual + square / last * direction

    return points()


def sgd(
    grad: Gradient,
    x0: Float[np.ndarray, "*batch n"],
    lrs: Float[np.ndarray, " steps"],
    sigma: float,
    rng: np.random.Generator,
    momentum: float = 0.0,
) -> Float[np.ndarray, "points *batch n"]:
    """Heavy ball on gradients with added N(0, σ²) noise; one independent chain per batch row.

    Parameters
    ----------
    lrs
        Step size of each step; the result has one point more.
    """
    _check(1.0, momentum)
    points = np.empty((len(lrs) + 1, *x0.shape))
    points[0] = x0
    velocity = np.zeros_like(x0)
    for k, lr in enumerate(lrs):
        noisy = grad(points[k]) + sigma * rng.normal(size=x0.shape)
        velocity = momentum * velocity - lr * noisy
        points[k + 1] = points[k] + velocity
    return points


def polyak_average(
    points: Float[np.ndarray, "points *batch n"],
) -> Float[np.ndarray, "points *batch n"]:
    """Mean of all points so far, the start left out (it is an assumption, not a measurement)."""
    count = np.arange(1, len(points)).reshape(-1, *[1] * (points.ndim - 1))
    return np.concatenate([points[:1], np.cumsum(points[1:], axis=0) / count])


# ---- theory


def best_parameters(method: str, m: float, L: float) -> tuple[float, float, float]:
    """Step size, momentum and rate per step of ‖x - x*‖ on quadratics with m ≤ curvature ≤ L.

    Parameters
    ----------
    method
        "gradient descent", "heavy ball" or "nesterov".

    References
    ----------
    Lessard, Recht & Packard (2016), section 2.2, proposition 1.
    """
    require(0 < m <= L, "m and L must satisfy 0 < m <= L", f"m = {m}", f"L = {L}")
    root = math.sqrt(L / m)
    if method == "gradient descent":
        return 2 / (L + m), 0.0, (L - m) / (L + m)
    slow = (root - 1) / (root + 1)
    if method == "heavy ball":
        return (2 / (math.sqrt(L) + math.sqrt(m))) ** 2, slow**2, slow
    must = "method must be 'gradient descent', 'heavy ball' or 'nesterov'"
    require(method == "nesterov", must, repr(method))
    return 1 / L, slow, 1 - 1 / root


def iteration_matrix(
    hessian: Float[np.ndarray, "n n"], lr: float, momentum: float, ahead: bool = False
) -> Float[np.ndarray, "two_n two_n"]:
    """What one step does to (x_k, x_{k-1}) - x* on a quadratic; `ahead`: Nesterov's gradient."""
    identity = np.eye(len(hessian))
    step = identity - lr * hessian
    shift = momentum * (step if ahead else identity)
    return np.block([[step + shift, -shift], [identity, np.zeros_like(identity)]])


def noise_floor(
    eigenvalues: Float[np.ndarray, " n"], lr: float, sigma: float, momentum: float = 0.0
) -> Float[np.ndarray, " n"]:
    """Stationary variance of SGD along each eigenvector of a quadratic's Hessian.

    Raises
    ------
    ValueError
        If lr is so large that there is none.
    """
    _check(lr, momentum)
    limit = 2 * (1 + momentum) / eigenvalues.max()
    stable = eigenvalues.min() > 0 and lr < limit
    require(stable, f"lr must be below 2 (1 + momentum) / L = {limit:g}", lr)
    gain = (1 + momentum) / (1 - momentum)
    return gain * lr * sigma**2 / (eigenvalues * (2 * (1 + momentum) - lr * eigenvalues))


def worst_function(
    n: int, L: float = 1.0
) -> tuple[Float[np.ndarray, "{n} {n}"], Float[np.ndarray, "{n}"]]:
    """A and b of Nesterov's f = xᵀAx/2 - bᵀx: a chain along which news travels one link per step.

    From x0 = 0 only the first gradient entry is non-zero, and each later gradient reaches one
    coordinate more: whatever a method does with them, after k steps n - k coordinates are still 0.

    References
    ----------
    Nesterov (2004), section 2.1.2.
    """
    require(n >= 1, "n must be at least 1", n)
    chain = 2 * np.eye(n) - np.eye(n, k=1) - np.eye(n, k=-1)
    return L / 4 * chain, L / 4 * np.eye(n)[0]


def bent_gradient(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Curvature 25, then 1, then 25: so m = 1 and L = 25, yet heavy ball may never converge on it.

    References
    ----------
    Lessard, Recht & Packard (2016), section 4.6.
    """
    return np.where(x < 1, 25 * x, np.where(x < 2, x + 24, 25 * x - 24))


def take(points: Iterator[Float[np.ndarray, " n"]], steps: int) -> Float[np.ndarray, "points n"]:
    """The start and the next `steps` points."""
    return np.stack(list(islice(points, steps + 1)))


def steps_until(
    points: Iterator[Float[np.ndarray, " n"]], done: Callable[[np.ndarray], bool], limit: int
) -> int:
    """How many steps until `done(x)`; `limit` if it takes longer."""
    return next((k for k, x in enumerate(islice(points, limit)) if done(x)), limit)


def _check(lr: float, momentum: float) -> None:
    require(lr > 0, "lr must be greater than 0", lr)
    require(0 <= momentum < 1, "momentum must lie in [0, 1)", momentum)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
