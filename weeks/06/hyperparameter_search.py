r"""Hyper-parameter search: spend a fixed budget of trials where it pays.

A grid and random points choose in advance. Successive halving runs many candidates cheaply and
keeps the best third for longer runs. Bayesian optimization fits a Gaussian process to the trials
so far (`gaussian_process.py`), with mean $\mu(x)$ and standard deviation $\sigma(x)$, and tries the
point that promises most: the expected improvement on the best value $y^*$ so far,

$$\mathrm{EI}(x) = \mathbb{E}\,\max(0,\, y^* - f(x))
  = (y^* - \mu)\,\Phi(z) + \sigma\,\varphi(z), \qquad z = \frac{y^* - \mu}{\sigma} .$$

>>> mean, std = np.array([1.0, 1.0, 0.5]), np.array([0.0, 1.0, 0.0])
>>> expected_improvement(mean, std, best=1.0).round(4)  # no doubt, no gain; doubt; sure to gain
array([0.    , 0.3989, 0.5   ])
>>> rungs = successive_halving(lambda c, n: c / n, 9, min_resource=1, max_resource=9)
>>> [(rung.resource, rung.candidates.tolist()) for rung in rungs]
[(1, [0, 1, 2, 3, 4, 5, 6, 7, 8]), (3, [0, 1, 2]), (9, [0])]

    uv run weeks/06/hyperparameter_search.py

Source: Bergstra and Bengio, "Random search for hyper-parameter optimization" (2012); Jamieson and
Talwalkar (2016), successive halving; Jones, Schonlau and Welch (1998), equation 15.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from shared.require import require
from week06.gaussian_process import Points, fit_by_likelihood

Bounds = Float[np.ndarray, "d 2"]
Objective = Callable[[np.ndarray], float]


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
    require(per_axis >= 1, "per_axis must be at least 1", per_axis)
    ticks = (np.arange(per_axis) + 0.5) / per_axis
    unit = np.array(list(itertools.product(ticks, repeat=len(bounds))))
    return bounds[:, 0] + unit * (bounds[:, 1] - bounds[:, 0])


def random_points(bounds: Bounds, n: int, rng: np.random.Generator) -> Points:
    """Uniform points; give bounds in logarithms for what matters by its order of magnitude."""
    _check_bounds(bounds)
    require(n >= 1, "n must be at least 1", n)
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
    require(n_candidates >= 1, "n_candidates must be at least 1", n_candidates)
    require(factor >= 2, "factor must be at least 2", factor)
    must = f"min_resource must be between 1 and max_resource = {max_resource}"
    require(1 <= min_resource <= max_resource, must, min_resource)
    alive, resource, rungs = np.arange(n_candidates), min_resource, []
    while True:  # ends: the resource grows
        values = np.array([float(objective(int(c), resource)) for c in alive])
        rungs.append(Rung(alive, resource, values))
        # Integers, not logarithms: log(243) / log(3) is less than 5 in floating point.
        if factor ** len(rungs) > n_candidates or resource * factor > max_resource:
            return rungs
        alive = alive[np.argsort(values, kind="stable")[: math.ceil(len(alive) / factor)]]
        resource *= factor


# ---- where a model of the objective promises most


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
    must = f"n_initial must be between 2 and budget = {budget}"
    require(2 <= n_initial <= budget, must, n_initial)
    low, width = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
    points = list(random_points(bounds, n_initial, rng))
    values = [float(objective(point)) for point in points]
    while len(values) < budget:
        X, y = (np.array(points) - low) / width, np.array(values)
        scale = y.std() if y.std() > 0 else 1.0
        y = (y - y.mean()) / scale
        process = fit_by_likelihood(
            X,
            y,
            length_scales=np.geomspace(0.05, 2.0, 8),
            noise_ratios=np.array([1e-6, 1e-3, 1e-1]),
        )
        candidates = rng.uniform(size=(n_candidates, len(bounds)))
        # Half of them far and wide, half around the best trial: the peak of EI can be narrow.
        local = X[y.argmin()] + 0.05 * rng.standard_normal((n_candidates // 2, len(bounds)))
        candidates[: n_candidates // 2] = local.clip(0, 1)
        gain = expected_improvement(*process.predict(candidates), float(y.min()))
        points.append(low + width * candidates[gain.argmax()])
        values.append(float(objective(points[-1])))
    return Trace(np.array(points), np.array(values))


def _check_bounds(bounds: np.ndarray) -> None:
    ordered = np.isfinite(bounds).all() and (bounds[:, 0] < bounds[:, 1]).all()
    require(ordered, "bounds must be finite with low < high", bounds.tolist())


# ---- a function to try them on


def branin(x: Float[np.ndarray, " 2"]) -> float:
    """Branin's function on [-5, 10] × [0, 15]: three minima of 0.397887."""
    a = x[1] - 5.1 / (4 * math.pi**2) * x[0] ** 2 + 5 / math.pi * x[0] - 6
    return float(a**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x[0]) + 10)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
