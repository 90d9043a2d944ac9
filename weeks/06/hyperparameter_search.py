r"""Hyper-parameter search: spend a fixed budget of trials where it pays.

A grid and random points choose in advance. Successive halving runs many candidates cheaply and
keeps the best third for longer runs. Bayesian optimization fits a Gaussian process to the trials
so far, with mean $\mu(x)$ and standard deviation $\sigma(x)$, and tries the point that promises
most: the expected improvement on the best value $y^*$ so far,

$$\mathrm{EI}(x) = \mathbb{E}\,\max(0,\, y^* - f(x))
  = (y^* - \mu)\,\Phi(z) + \sigma\,\varphi(z), \qquad z = \frac{y^* - \mu}{\sigma} .$$

    uv run weeks/06/hyperparameter_search.py

Source: Bergstra and Bengio, "Random search for hyper-parameter optimization" (2012); Jamieson and
Talwalkar (2016), successive halving; Rasmussen and Williams, *Gaussian Processes for Machine
Learning* (2006), algorithm 2.1 and equations 4.14 to 4.17; Jones, Schonlau and Welch (1998),
equation 15.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

Points = Float[np.ndarray, "n d"]
Bounds = Float[np.ndarray, "d 2"]
Objective = Callable[[np.ndarray], float]
Kernel = Literal["rbf", "matern32", "matern52"]


@dataclass(frozen=True)
class Trace:
    """Trials in order: where, and what came out (smaller is better)."""

    points: Points
    values: Float[np.ndarray, " n"]

    @property
    def best_so_far(self) -> Float[np.ndarray, " n"]:
        """The smallest value up to each trial."""
        return np.minimum.accumulate(self.values)


# ---- chosen in advance


def grid_points(bounds: Bounds, per_axis: int) -> Points:
    """All combinations of `per_axis` values on each axis, the middles of equal cells."""
    _check_bounds(bounds)
    if per_axis < 1:
        raise ValueError(f"per_axis must be at least 1, got {per_axis}")
    ticks = (np.arange(per_axis) + 0.5) / per_axis
    unit = np.array(list(itertools.product(ticks, repeat=len(bounds))))
    return bounds[:, 0] + unit * (bounds[:, 1] - bounds[:, 0])


def random_points(bounds: Bounds, n: int, rng: np.random.Generator) -> Points:
    """Uniform points; give bounds in logarithms for what matters by its order of magnitude."""
    _check_bounds(bounds)
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    return rng.uniform(bounds[:, 0], bounds[:, 1], (n, len(bounds)))


def evaluate(objective: Objective, points: Points) -> Trace:
    """Try every point in order."""
    return Trace(points, np.array([float(objective(point)) for point in points]))


# ---- cheap trials first


@dataclass(frozen=True)
class Rung:
    """One round of successive halving: who ran, with how much, and what came out."""

    candidates: Int[np.ndarray, " k"]
    resource: int
    values: Float[np.ndarray, " k"]


def successive_halving(
    objective: Callable[[int, int], float],
    n_candidates: int,
    *,
    min_resource: int,
    max_resource: int,
    factor: int = 3,
) -> list[Rung]:
    """Give every candidate a little, keep the best 1/factor, give those factor times as much.

    Parameters
    ----------
    objective
        `objective(candidate, resource)`, smaller is better; a NaN is worse than anything.
    min_resource, max_resource
        What a candidate gets in the first rung, and at most.

    Returns
    -------
    rungs
        As many as max_resource allows, and at most until fewer than `factor` candidates are left
        or would be if each rung kept exactly one in `factor`.

    References
    ----------
    Jamieson and Talwalkar (2016), figure 2; kept are ceil(n / factor), as in scikit-learn.
    """
    if n_candidates < 1:
        raise ValueError(f"n_candidates must be at least 1, got {n_candidates}")
    if factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")
    if not 1 <= min_resource <= max_resource:
        raise ValueError(
            f"min_resource must be between 1 and max_resource = {max_resource}, got {min_resource}"
        )
    alive, resource, rungs = np.arange(n_candidates), min_resource, []
    while True:  # ends: the resource grows
        values = np.array([float(objective(int(c), resource)) for c in alive])
        rungs.append(Rung(alive, resource, values))
        # Integers, not logarithms: log(243) / log(3) is less than 5 in floating point.
        if factor ** len(rungs) > n_candidates or resource * factor > max_resource:
            return rungs
        alive = alive[np.argsort(values, kind="stable")[: math.ceil(len(alive) / factor)]]
        resource *= factor


# ---- a model of the objective


def kernel_matrix(
    a: Float[np.ndarray, "n d"],
    b: Float[np.ndarray, "m d"],
    *,
    length_scale: float,
    kernel: Kernel = "matern52",
) -> Float[np.ndarray, "n m"]:
    r"""Correlation of two points at distance r, in units of the length scale.

    rbf: $e^{-r^2/2}$, infinitely smooth. matern52: $(1 + s + s^2/3) e^{-s}$ with $s = \sqrt5 r$,
    twice differentiable. matern32: $(1 + s) e^{-s}$ with $s = \sqrt3 r$, once.

    References
    ----------
    Rasmussen and Williams (2006), equations 4.9 and 4.17.
    """
    if not length_scale > 0:
        raise ValueError(f"length_scale must be positive, got {length_scale}")
    squared = ((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=-1) / length_scale**2
    if kernel == "rbf":
        return np.exp(-squared / 2)
    if kernel == "matern32":
        s = np.sqrt(3 * squared)
        return (1 + s) * np.exp(-s)
    s = np.sqrt(5 * squared)
    return (1 + s + s**2 / 3) * np.exp(-s)


class GaussianProcess:
    """Regression by a Gaussian process with mean zero.

    Parameters
    ----------
    length_scale
        Distance over which values are alike.
    variance
        Variance of the values before any is seen.
    noise
        Variance of each observation's error.
    kernel
        rbf, matern32 or matern52.

    Attributes
    ----------
    log_marginal_likelihood_ : float
        Log-density of the observations under the model.

    References
    ----------
    Rasmussen and Williams (2006), algorithm 2.1.
    """

    def __init__(
        self,
        length_scale: float = 1.0,
        variance: float = 1.0,
        noise: float = 1e-6,
        kernel: Kernel = "matern52",
    ):
        for name, value in (("length_scale", length_scale), ("variance", variance)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if not noise >= 0:
            raise ValueError(f"noise must be at least 0, got {noise}")
        self.length_scale, self.variance, self.noise = length_scale, variance, noise
        self.kernel: Kernel = kernel

    def fit(self, X: Points, y: Float[np.ndarray, " n"]) -> "GaussianProcess":
        """Factor the covariance of the observations."""
        if len(y) == 0 or not (np.isfinite(X).all() and np.isfinite(y).all()):
            raise ValueError("X and y must hold at least one sample, and finite numbers only")
        K = self.variance * self._correlation(X, X) + self.noise * np.eye(len(X))
        # A Cholesky factor and two triangular solves, never an inverse: K is nearly singular as
        # soon as two trials are close.
        self.L_ = np.linalg.cholesky(K + 1e-12 * self.variance * np.eye(len(X)))
        self.X_, self.alpha_ = X, np.linalg.solve(self.L_.T, np.linalg.solve(self.L_, y))
        self.log_marginal_likelihood_ = float(
            -0.5 * y @ self.alpha_
            - np.log(np.diag(self.L_)).sum()
            - 0.5 * len(y) * math.log(2 * math.pi)
        )
        return self

    def predict(self, X: Points) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
        """Mean and standard deviation of the function (without the noise) at each point."""
        if not hasattr(self, "L_"):
            raise ValueError("GaussianProcess must be fitted before use: call fit(X, y) first")
        if X.shape[1] != self.X_.shape[1]:
            raise ValueError(f"X must have {self.X_.shape[1]} columns as in fit, got {X.shape[1]}")
        cross = self.variance * self._correlation(self.X_, X)
        v = np.linalg.solve(self.L_, cross)
        variance = self.variance - (v**2).sum(axis=0)
        return cross.T @ self.alpha_, np.sqrt(variance.clip(min=0))

    def _correlation(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return kernel_matrix(a, b, length_scale=self.length_scale, kernel=self.kernel)


def fit_by_likelihood(
    X: Points,
    y: Float[np.ndarray, " n"],
    *,
    length_scales: Float[np.ndarray, " s"],
    noise_ratios: Float[np.ndarray, " r"],
    kernel: Kernel = "matern52",
) -> GaussianProcess:
    r"""Return the process whose hyper-parameters make the observations likeliest.

    Writing $K = v\,(R + \lambda I)$, the best variance for a given length scale and noise ratio λ
    is $y^\top (R + \lambda I)^{-1} y / n$ (the derivative of the log-likelihood vanishes there),
    so only those two are searched.
    """
    best = None
    for length_scale, ratio in itertools.product(length_scales.tolist(), noise_ratios.tolist()):
        unit = GaussianProcess(length_scale, 1.0, ratio, kernel).fit(X, y)
        variance = max(float(y @ unit.alpha_) / len(y), 1e-12)
        process = GaussianProcess(length_scale, variance, ratio * variance, kernel).fit(X, y)
        if best is None or process.log_marginal_likelihood_ > best.log_marginal_likelihood_:
            best = process
    if best is None:
        raise ValueError("length_scales and noise_ratios must hold at least one value each")
    return best


def expected_improvement(
    mean: Float[np.ndarray, " n"], std: Float[np.ndarray, " n"], best: float
) -> Float[np.ndarray, " n"]:
    """Expected gain over `best` (smaller is better) of a Gaussian prediction.

    References
    ----------
    Jones, Schonlau and Welch (1998), equation 15.
    """
    from scipy.special import ndtr

    if (std < 0).any():
        raise ValueError(f"std must be at least 0, got {std.min()}")
    gain = best - mean
    z = gain / np.where(std > 0, std, 1.0)
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return np.where(std > 0, gain * ndtr(z) + std * density, gain.clip(min=0))


def bayesian_search(
    objective: Objective,
    bounds: Bounds,
    budget: int,
    rng: np.random.Generator,
    *,
    n_initial: int = 6,
    n_candidates: int = 1000,
) -> Trace:
    """Try n_initial random points, then always the one with the largest expected improvement.

    Points are scaled to the unit cube and values to mean 0 and deviation 1 before each fit:
    a process with mean zero and length scales near 1 knows nothing of units.
    """
    if not 2 <= n_initial <= budget:
        raise ValueError(f"n_initial must be between 2 and budget = {budget}, got {n_initial}")
    low, width = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    points = list(random_points(bounds, n_initial, rng))
    values = [float(objective(point)) for point in points]
    while len(values) < budget:
        X, y = (np.array(points) - low) / width, np.array(values)
        scale = y.std() if y.std() > 0 else 1.0
        y = (y - y.mean()) / scale
        process = fit_by_likelihood(
            X, y,
            length_scales=np.geomspace(0.05, 2.0, 8), noise_ratios=np.array([1e-6, 1e-3, 1e-1]),
        )  # fmt: skip
        candidates = rng.uniform(size=(n_candidates, len(bounds)))
        # Half of them far and wide, half around the best trial: the peak of EI can be narrow.
        local = X[y.argmin()] + 0.05 * rng.standard_normal((n_candidates // 2, len(bounds)))
        candidates[: n_candidates // 2] = local.clip(0, 1)
        gain = expected_improvement(*process.predict(candidates), float(y.min()))
        points.append(low + width * candidates[gain.argmax()])
        values.append(float(objective(points[-1])))
    return Trace(np.array(points), np.array(values))


def _check_bounds(bounds: np.ndarray) -> None:
    if not (np.isfinite(bounds).all() and (bounds[:, 0] < bounds[:, 1]).all()):
        raise ValueError(f"bounds must be finite with low < high, got {bounds.tolist()}")


# ---- what is tuned


class KernelClassifier:
    """Ridge regression on one-hot classes with an RBF kernel: two hyper-parameters, no training.

    Parameters
    ----------
    length_scale
        Width of the kernel.
    ridge
        Strength of the regularization.
    """

    def __init__(self, length_scale: float, ridge: float):
        self.length_scale, self.ridge = length_scale, ridge

    def fit(
        self, X: Float[np.ndarray, "n d"], y: Int[np.ndarray, " n"], n_classes: int
    ) -> "KernelClassifier":
        """Solve (K + ridge I) W = one-hot(y) − 1/n_classes."""
        K = kernel_matrix_fast(X, X, self.length_scale)
        self.X_, self.n_classes_ = X, n_classes
        target = np.eye(n_classes)[y] - 1 / n_classes
        self.W_ = np.linalg.solve(K + self.ridge * np.eye(len(X)), target)
        return self

    def decision_function(self, X: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "m c"]:
        """Estimate of each class's indicator."""
        return kernel_matrix_fast(X, self.X_, self.length_scale) @ self.W_ + 1 / self.n_classes_


def kernel_matrix_fast(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "m d"], length_scale: float
) -> Float[np.ndarray, "n m"]:
    """RBF kernel by one matrix product, for many dimensions (rounding is of no account here)."""
    squared = (a**2).sum(axis=1)[:, None] - 2 * a @ b.T + (b**2).sum(axis=1)
    return np.exp(-squared.clip(min=0) / (2 * length_scale**2))


def branin(x: Float[np.ndarray, " 2"]) -> float:
    """Branin's function on [-5, 10] × [0, 15]: three minima of 0.397887."""
    a = x[1] - 5.1 / (4 * math.pi**2) * x[0] ** 2 + 5 / math.pi * x[0] - 6
    return float(a**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
