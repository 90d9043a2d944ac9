r"""Markov chain Monte Carlo: draw from a density that you can only evaluate, up to a constant.

A chain whose step $T$ satisfies *detailed balance* leaves $\pi$ as it is: summed over $x$,

$$\pi(x)\, T(x \to y) = \pi(y)\, T(y \to x) \quad\Longrightarrow\quad
  \sum_x \pi(x)\, T(x \to y) = \pi(y) .$$

Metropolis and Hastings get it from nearly any proposal $q$ by refusing some of its steps,

$$\alpha(x \to y) = \min\!\left(1, \frac{\pi(y)\, q(x \mid y)}{\pi(x)\, q(y \mid x)}\right) .$$

*Gibbs* proposes from the exact conditional law of one coordinate, and is never refused. *Slice*
sampling draws a height under the density and then a place where the density exceeds it; its width
sets the price and not the law. *Parallel tempering* runs copies at $\pi^\beta$ and lets neighbors
swap, so that a copy which crosses between modes easily carries the others over.

>>> rng = np.random.default_rng(0)
>>> chain = metropolis_hastings(
...     lambda x: -0.5 * (x**2).sum(-1), np.zeros((4, 1)), 5000, random_walk(2.4), rng
... )
>>> print(chain.draws.shape, f"{chain.draws.std():.1f} {chain.accepted.mean():.2f}")
(4, 5000, 1) 1.0 0.44
>>> balance = np.array([0.2, 0.5, 0.3])  # three states, any of them proposed
>>> T = transition_matrix(balance, np.full((3, 3), 1 / 3))
>>> np.allclose(balance @ T, balance)
True

    uv run weeks/24/mcmc.py

Source: Hastings, "Monte Carlo sampling methods using Markov chains and their applications" (1970);
Geman & Geman (1984); Neal, "Slice sampling" (2003), sections 3 and 4; Geyer (1991) on swaps.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from shared.arguments import checked
from shared.require import require

Points = Float[np.ndarray, "chains dim"]
LogDensity = Callable[[Points], Float[np.ndarray, " chains"]]  # one number per chain, no constant
# A point and its log q(x | y) - log q(y | x): what the proposal's own asymmetry has to pay.
Proposal = Callable[[Points, np.random.Generator], tuple[Points, Float[np.ndarray, " chains"]]]
Conditional = Callable[[Points, np.random.Generator], Float[np.ndarray, " chains"]]


class Chain(NamedTuple):
    """Draws of all chains, and which of the steps that led to them were accepted."""

    draws: Float[np.ndarray, "chains draws dim"]
    accepted: Bool[np.ndarray, "chains draws"]


# ---- Metropolis and Hastings


def acceptance(
    log_x: Float[np.ndarray, "..."],
    log_y: Float[np.ndarray, "..."],
    correction: Float[np.ndarray, "..."] | float = 0.0,
) -> Float[np.ndarray, "..."]:
    """Probability that a step from x to y is taken.

    Parameters
    ----------
    log_x, log_y
        Log densities at both ends. Minus infinity at y is never taken.
    correction
        log q(x | y) - log q(y | x); zero for symmetric proposals.

    References
    ----------
    Hastings (1970), equation 8.
    """
    return np.exp(np.minimum(0.0, log_y - log_x + correction))


def transition_matrix(
    p: Float[np.ndarray, " n"], q: Float[np.ndarray, "n n"]
) -> Float[np.ndarray, "n n"]:
    """All the probabilities of a step over n states: proposed and accepted, or stayed.

    Parameters
    ----------
    p
        The target; need not be normalized.
    q
        q[i, j] is the probability that i proposes j; j must then propose i as well.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        correction = np.log(q.T) - np.log(q)
        taken = acceptance(np.log(p)[:, None], np.log(p)[None, :], correction)
    moves = np.where(q > 0, q * taken, 0.0)
    np.fill_diagonal(moves, 0.0)
    return moves + np.diag(1 - moves.sum(axis=1))


@checked
def metropolis_hastings(
    log_density: LogDensity,
    start: Float[np.ndarray, "chains dim"],
    n_draws: int,
    propose: Proposal,
    rng: np.random.Generator,
) -> Chain:
    """Chains side by side, one proposal per draw; a refused step repeats the old point.

    Raises
    ------
    ValueError
        If the density is zero at a start.
    """
    x, log_x = _started(log_density, start, n_draws)
    draws, accepted = np.empty((len(x), n_draws, x.shape[1])), np.empty((len(x), n_draws), bool)
    for t in range(n_draws):
        y, correction = propose(x, rng)
        log_y = log_density(y)
        taken = rng.random(len(x)) < acceptance(log_x, log_y, correction)
        x, log_x = np.where(taken[:, None], y, x), np.where(taken, log_y, log_x)
        draws[:, t], accepted[:, t] = x, taken
    return Chain(draws, accepted)


def random_walk(scale: float | Float[np.ndarray, "chains 1"]) -> Proposal:
    """A normal step of standard deviation `scale`: symmetric, nothing to correct."""
    require(np.all(scale > 0), "scale must be positive", scale)
    return lambda x, rng: (x + scale * rng.normal(size=x.shape), np.zeros(len(x)))


def log_random_walk(scale: float) -> Proposal:
    """A normal step of log x, x > 0; in x it is lopsided: q(x | y) / q(y | x) = y / x."""
    require(scale > 0, "scale must be positive", scale)

    def propose(x: Points, rng: np.random.Generator) -> tuple[Points, Float[np.ndarray, " chains"]]:
        step = scale * rng.normal(size=x.shape)
        return x * np.exp(step), step.sum(axis=-1)

    return propose


def langevin(gradient: Callable[[Points], Points], step: float) -> Proposal:
    """Uphill by step²/2 times the gradient of log density, plus noise; lopsided as well."""
    require(step > 0, "step must be positive", step)

    def propose(x: Points, rng: np.random.Generator) -> tuple[Points, Float[np.ndarray, " chains"]]:
        there = x + step**2 / 2 * gradient(x)
        y = there + step * rng.normal(size=x.shape)
        back = y + step**2 / 2 * gradient(y)
        return y, (((y - there) ** 2 - (x - back) ** 2) / (2 * step**2)).sum(axis=-1)

    return propose


# ---- one coordinate at a time


@checked
def gibbs(
    conditionals: Sequence[Conditional],
    start: Float[np.ndarray, "chains dim"],
    n_draws: int,
    rng: np.random.Generator,
) -> Chain:
    """Renew each coordinate in turn from its law given the *newest* values of the others.

    Parameters
    ----------
    conditionals
        The i-th draws coordinate i of all chains, given all of them.
    """
    dim = start.shape[1]
    require(len(conditionals) == dim, f"conditionals must be {dim}", len(conditionals))
    require(n_draws >= 1, "n_draws must be at least 1", n_draws)
    x, draws = start.copy(), np.empty((len(start), n_draws, dim))
    for t in range(n_draws):
        for i, conditional in enumerate(conditionals):
            x[:, i] = conditional(x, rng)
        draws[:, t] = x
    return Chain(draws, np.ones(draws.shape[:2], bool))


@checked
def slice_sample(
    log_density: LogDensity,
    start: Float[np.ndarray, "chains dim"],
    n_draws: int,
    width: float,
    rng: np.random.Generator,
) -> Chain:
    """Each coordinate in turn: step out until both ends are below the height, then shrink.

    References
    ----------
    Neal (2003), figures 3 and 5.
    """
    require(width > 0, "width must be positive", width)
    x, log_x = _started(log_density, start, n_draws)
    x, draws = x.copy(), np.empty((len(x), n_draws, x.shape[1]))

    def at(i: int, value: Float[np.ndarray, " chains"]) -> Float[np.ndarray, " chains"]:
        moved = x.copy()
        moved[:, i] = value
        return log_density(moved)

    for t in range(n_draws):
        for i in range(x.shape[1]):
            height = log_x - rng.exponential(size=len(x))  # log of uniform times density
            low = x[:, i] - width * rng.random(len(x))  # the interval falls anywhere around x
            high = low + width
            while (out := at(i, low) > height).any():
                low[out] -= width
            while (out := at(i, high) > height).any():
                high[out] += width
            waiting, found = np.ones(len(x), bool), x[:, i].copy()
            while waiting.any():
                tried = low + (high - low) * rng.random(len(x))
                log_tried = at(i, tried)
                kept = waiting & (log_tried > height)
                found[kept], log_x[kept] = tried[kept], log_tried[kept]
                waiting &= ~kept
                left = tried < x[:, i]  # a refused place becomes the nearer end, x stays inside
                low, high = np.where(left, tried, low), np.where(left, high, tried)
            x[:, i] = found
        draws[:, t] = x
    return Chain(draws, np.ones(draws.shape[:2], bool))


# ---- many temperatures


@checked
def parallel_tempering(
    log_density: LogDensity,
    start: Float[np.ndarray, "chains dim"],
    n_draws: int,
    betas: Sequence[float],
    scale: float,
    rng: np.random.Generator,
) -> Chain:
    """Random walks at inverse temperatures `betas`, the first of them 1; its draws are returned.

    Steps grow as 1 / √β. Even and odd pairs of neighbors try to swap in turns. `accepted` says
    whether the copy at β = 1 was swapped out.
    """
    require(len(betas) > 0 and betas[0] == 1, "betas must begin with 1", list(betas))
    require(min(betas) > 0, "betas must be positive", list(betas))
    _, log_start = _started(log_density, start, n_draws)
    levels, (chains, dim) = np.array(betas), start.shape
    x = np.repeat(start[:, None], len(levels), axis=1)  # chains, temperatures, dim
    log_x = np.repeat(log_start[:, None], len(levels), axis=1)
    draws, swapped = np.empty((chains, n_draws, dim)), np.zeros((chains, n_draws), bool)
    for t in range(n_draws):
        y = x + scale / np.sqrt(levels)[:, None] * rng.normal(size=x.shape)
        log_y = log_density(y.reshape(-1, dim)).reshape(log_x.shape)
        taken = rng.random(log_x.shape) < acceptance(levels * log_x, levels * log_y)
        x, log_x = np.where(taken[..., None], y, x), np.where(taken, log_y, log_x)
        for k in range(t % 2, len(levels) - 1, 2):
            swap = rng.random(chains) < swap_acceptance(
                log_x[:, k], log_x[:, k + 1], levels[k], levels[k + 1]
            )
            x[swap, k : k + 2] = x[swap, k : k + 2][:, ::-1]
            log_x[swap, k : k + 2] = log_x[swap, k : k + 2][:, ::-1]
            swapped[:, t] |= swap & (k == 0)
        draws[:, t] = x[:, 0]
    return Chain(draws, swapped)


def swap_acceptance(
    log_a: Float[np.ndarray, "..."], log_b: Float[np.ndarray, "..."], beta_a: float, beta_b: float
) -> Float[np.ndarray, "..."]:
    """Probability that copies at inverse temperatures β_a and β_b exchange their points."""
    before, after = beta_a * log_a + beta_b * log_b, beta_a * log_b + beta_b * log_a
    return acceptance(before, after)


def _started(
    log_density: LogDensity, start: Points, n_draws: int
) -> tuple[Points, Float[np.ndarray, " chains"]]:
    require(n_draws >= 1, "n_draws must be at least 1", n_draws)
    log_start = np.array(log_density(start), dtype=float)
    require(np.isfinite(log_start).all(), "start must have positive density", log_start)
    return start, log_start


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
