r"""Warm-up: a step size by dual averaging, a metric from growing windows, and then neither moves.

The step $\varepsilon$ shall give mean acceptance $\delta$. With errors $\delta - \alpha_t$ and $m$
draws so far, Nesterov's dual averaging moves $\log\varepsilon$ away from a center $\mu$,

$$\log \varepsilon_{t+1} = \mu - \frac{\sqrt t}{\gamma}\, \bar h_t, \qquad
  \bar h_t = \Big(1 - \frac1{t + t_0}\Big) \bar h_{t-1} + \frac{\delta - \alpha_t}{t + t_0},$$

and what is kept at the end is an average with weights $t^{-\kappa}$, which forgets the first tries.
The metric is the covariance of the draws of a window, a little shrunk; windows double, so that what
was learned from bad draws is thrown away. A chain that adapts is no Markov chain with the right
law: **the draws of the warm-up are not returned.**

>>> normal = lambda q: (-0.5 * q @ q, -q)
>>> found = sample(normal, np.zeros((2, 3)), hmc(1.5), 300, 500, np.random.default_rng(0))
>>> print(found.draws.shape, f"{found.draws.std():.1f}", found.diverged.sum())
(2, 500, 3) 1.0 0
>>> windows(1000)
[(75, 100), (100, 150), (150, 250), (250, 450), (450, 950)]

    uv run weeks/24/hmc_nuts.py

Source: Hoffman & Gelman, "The No-U-Turn sampler" (2014), section 3.2 and algorithm 4; the windows
and the shrinkage are those of the Stan reference manual, chapter "HMC algorithm parameters".
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from shared.arguments import checked
from shared.require import require
from week24.hmc import Kernel, Metric, State, Target, at, energy, hmc, leapfrog

__all__ = ["DualAveraging", "Sample", "hmc", "reasonable_step", "sample", "shrunk", "windows"]

Numbers = float | Float[np.ndarray, " chains"]


class DualAveraging:
    """The step size, from one acceptance probability after another; or those of many chains.

    Attributes
    ----------
    step
        To use next.
    averaged
        To keep when the warm-up ends.
    """

    def __init__(self, first: Numbers, target_accept: float = 0.8):
        require(0 < target_accept < 1, "target_accept must be in (0, 1)", target_accept)
        self.target_accept, self.center = target_accept, np.log(10 * first)
        self.step, self.averaged, self._error, self._t = first, first, 0.0, 0

    def update(self, accept: Numbers) -> Numbers:
        """Learn from the acceptance of the last step; give the next step size."""
        gamma, t0, kappa = 0.05, 10, 0.75
        self._t += 1
        t = self._t
        self._error += (self.target_accept - accept - self._error) / (t + t0)
        log_step = self.center - math.sqrt(t) / gamma * self._error
        weight = t**-kappa
        log_averaged = weight * log_step + (1 - weight) * np.log(self.averaged)
        self.step, self.averaged = np.exp(log_step), np.exp(log_averaged)
        return self.step


def reasonable_step(
    target: Target, state: State, metric: Metric, rng: np.random.Generator, first: float = 1.0
) -> float:
    """Double or halve until the acceptance of one leapfrog crosses one half.

    References
    ----------
    Hoffman & Gelman (2014), algorithm 4.
    """
    start = state._replace(p=metric.draw(rng))
    before = energy(start, metric)

    def good(step: float) -> bool:
        return before - energy(leapfrog(target, start, step, metric), metric) > math.log(0.5)

    step, grow = first, good(first)
    while good(step) == grow and 1e-10 < step < 1e10:
        step *= 2.0 if grow else 0.5
    return step


def windows(n_warmup: int) -> list[tuple[int, int]]:
    """Where draws are collected for a metric: windows that double, between two calm ends.

    Of fewer than 150 draws, 15 % go before and 10 % after one window; of fewer than 20, there is
    none, and only the step size is tuned.
    """
    if n_warmup < 20:
        return []
    first, last, size = 75, 50, 25
    if n_warmup < first + size + last:
        first, last = int(0.15 * n_warmup), int(0.1 * n_warmup)
        return [(first, n_warmup - last)]
    found, end = [], n_warmup - last
    while first < end:
        stop = first + size if first + 3 * size <= end else end  # no short one at the end
        found.append((first, stop))
        first, size = stop, 2 * size
    return found


def shrunk(
    draws: Float[np.ndarray, "n dim"], dense: bool
) -> Float[np.ndarray, " dim"] | Float[np.ndarray, "dim dim"]:
    """Variances, or all covariances, as if five more draws had shown 0.001."""
    n, dim = draws.shape
    covariance = np.cov(draws.T).reshape(dim, dim) if dense else draws.var(axis=0, ddof=1)
    return n / (n + 5) * covariance + 1e-3 * 5 / (n + 5) * (np.eye(dim) if dense else 1.0)


@dataclass(frozen=True)
class Sample:
    """What was drawn after the warm-up, and at which cost."""

    draws: Float[np.ndarray, "chains draws dim"]
    accept: Float[np.ndarray, "chains draws"]
    n_leapfrogs: Int[np.ndarray, "chains draws"]
    diverged: Bool[np.ndarray, "chains draws"]
    depth: Int[np.ndarray, "chains draws"]
    step: Float[np.ndarray, " chains"]
    metrics: list[Metric]
    warmup_leapfrogs: int

    @property
    def flat(self) -> Float[np.ndarray, "all_draws dim"]:
        """All chains' draws in one table."""
        return self.draws.reshape(-1, self.draws.shape[-1])


@checked
def sample(
    target: Target,
    start: Float[np.ndarray, "chains dim"],
    kernel: Kernel,
    n_warmup: int,
    n_draws: int,
    rng: np.random.Generator,
    *,
    target_accept: float = 0.8,
    dense: bool = False,
    step: float | None = None,
) -> Sample:
    """Tune and draw, one chain after the other.

    Parameters
    ----------
    kernel
        `hmc(…)`, or `nuts` of hmc_nuts.py.
    n_warmup
        Steps that tune and are thrown away. With 0 the metric stays the identity.
    dense
        Whether the metric has covariances.
    step
        The step size; given, it is not tuned.

    Raises
    ------
    ValueError
        If the density is zero at a start, or there is nothing to draw.
    """
    require(n_warmup >= 0, "n_warmup must be at least 0", n_warmup)
    require(n_draws >= 1, "n_draws must be at least 1", n_draws)
    require(step is None or step > 0, "step must be positive", step)
    chains, dim = start.shape
    stats = {k: np.zeros((chains, n_draws)) for k in ("accept", "n_leapfrogs", "diverged", "depth")}
    draws, steps, metrics, warmup_leapfrogs = np.empty((chains, n_draws, dim)), [], [], 0
    for c in range(chains):
        state = at(target, start[c])
        require(np.isfinite(state.log_density), "start must have positive density", start[c])
        metric = Metric(np.eye(dim) if dense else np.ones(dim))
        first = reasonable_step(target, state, metric, rng) if step is None else step
        tuned = DualAveraging(first, target_accept)
        starts, seen = dict(windows(n_warmup)), []
        stop = -1
        for t in range(n_warmup):
            if t in starts:
                stop, seen = starts[t], []
            moved = kernel(target, state, step or tuned.step, metric, rng)
            state, warmup_leapfrogs = moved.state, warmup_leapfrogs + moved.n_leapfrogs
            tuned.update(moved.accept)
            seen.append(state.q)
            if t + 1 == stop:  # a new metric asks for another step size
                metric = Metric(shrunk(np.array(seen), dense))
                tuned = DualAveraging(
                    reasonable_step(target, state, metric, rng, tuned.averaged), target_accept
                )
        final = step or tuned.averaged
        for t in range(n_draws):
            moved = kernel(target, state, final, metric, rng)
            state, draws[c, t] = moved.state, moved.state.q
            for name, values in stats.items():
                values[c, t] = getattr(moved, name)
        steps.append(final)
        metrics.append(metric)
    return Sample(
        draws,
        stats["accept"],
        stats["n_leapfrogs"].astype(int),
        stats["diverged"].astype(bool),
        stats["depth"].astype(int),
        np.array(steps),
        metrics,
        warmup_leapfrogs,
    )
