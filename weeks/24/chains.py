r"""HMC and NUTS for many chains at once: each array has a row per chain, and nothing recurses.

The chains double together. In the $j$-th doubling each adds $2^j$ states at one of its two ends;
one whose half has turned waits for the others. The sub-trees of such a half are the blocks of
$2, 4, 8, \dots$ states that a binary counter runs through. State $n$ opens a block of $2^k$ where
$2^k$ divides $n$, and closes one where it divides $n + 1$:

    n        0    1    2    3    4    5    6    7
    opens  2 4 8       2       2 4         2
    closes       2         2 4        2         2 4 8

so that one place per size remembers all that the criterion needs, and sums over a block are
differences of running sums. A weighted draw from a stream needs one place as well: the $n$-th state
replaces what is held with probability $w_n / (w_0 + \dots + w_n)$.

>>> normal = lambda q: (-0.5 * (q**2).sum(-1), -q)
>>> found = sample_chains(normal, np.zeros((20, 5)), nuts(), 150, 100, np.random.default_rng(0))
>>> print(found.draws.shape, f"{found.draws.std():.1f}", found.diverged.sum())
(20, 100, 5) 1.0 0

    uv run weeks/24/hmc_nuts.py

Source: the recursion in hmc_nuts.py, unrolled as in Phan, Pradhan & Jankowiak, "Composable effects
for flexible and accelerated probabilistic programming in NumPyro" (2019), section 3.
"""

from collections.abc import Callable
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Float, Int

from shared.arguments import checked
from shared.require import require
from week24.adaptation import DualAveraging, Sample, reasonable_step, shrunk, windows
from week24.hmc import MAX_ENERGY_ERROR, Metric, State, at

Points = Float[np.ndarray, "chains dim"]
Numbers = Float[np.ndarray, " chains"]
Targets = Callable[[Points], tuple[Numbers, Points]]  # each row may have a target of its own


class Moves(NamedTuple):
    """What hmc.Transition holds, for all chains."""

    state: State
    accept: Numbers
    n_leapfrogs: Int[np.ndarray, " chains"]
    diverged: Bool[np.ndarray, " chains"]
    depth: Int[np.ndarray, " chains"]


# One step of all chains, given their step sizes and diagonals of M⁻¹.
ChainsKernel = Callable[[Targets, State, Numbers, Points, np.random.Generator], Moves]


@no_type_check
def where(condition: Bool[np.ndarray, " chains"], one: State, other: State) -> State:
    """States of `one` in the rows where the condition is true."""
    rows = condition[:, None]
    return State(
        np.where(rows, one.q, other.q),
        np.where(rows, one.p, other.p),
        np.where(condition, one.log_density, other.log_density),
        np.where(rows, one.gradient, other.gradient),
    )


@no_type_check
def energies(state: State, inverse_mass: Points) -> Numbers:
    """H of each row; infinite where the density is zero or not a number."""
    h = 0.5 * (inverse_mass * state.p**2).sum(axis=1) - state.log_density
    return np.where(np.isnan(h), np.inf, h)


@no_type_check
def leapfrogs(target: Targets, state: State, step: Numbers, inverse_mass: Points) -> State:
    """One step of each row."""
    step = step[:, None]
    p_half = state.p + 0.5 * step * state.gradient
    q = state.q + step * inverse_mass * p_half
    log_density, gradient = target(q)
    return State(q, p_half + 0.5 * step * gradient, log_density, gradient)


@no_type_check
def turned(p_one: Points, p_other: Points, rho: Points, inverse_mass: Points):
    """Whether stretches with these momenta at their ends, and these sums, have turned back."""
    along = inverse_mass * rho
    return ((p_one * along).sum(axis=1) <= 0) | ((p_other * along).sum(axis=1) <= 0)


class Half(NamedTuple):
    """The states that one doubling adds: hmc_nuts.Tree, for all chains."""

    end: State
    chosen: State
    log_weight: Numbers
    rho: Points
    first_p: Points  # momentum of the state next to where it was added
    stop: Bool[np.ndarray, " chains"]
    diverged: Bool[np.ndarray, " chains"]
    accept: Numbers
    size: Int[np.ndarray, " chains"]


@no_type_check
def half(
    target: Targets,
    edge: State,
    step: Numbers,
    inverse_mass: Points,
    before: Numbers,
    going: Bool[np.ndarray, " chains"],
    depth: int,
    rng: np.random.Generator,
) -> Half:
    """2^depth states from `edge` on, until none of the chains that are `going` has one to add."""
    chains = len(before)
    state, chosen, first_p = edge, edge, edge.p
    log_weight, rho = np.full(chains, -np.inf), np.zeros_like(edge.p)
    accept, size = np.zeros(chains), np.zeros(chains, int)
    diverged, on = np.zeros(chains, bool), going.copy()
    opened = [None] * (depth + 1)  # of a block of 2^k: first momentum; sum and momentum before it
    for n in range(2**depth):
        last_p, last_rho = state.p, rho
        state = leapfrogs(target, state, step, inverse_mass)
        rho = rho + state.p
        first_p = first_p if n else state.p
        gain = before - energies(state, inverse_mass)
        size += on
        accept += np.where(on, np.exp(np.minimum(0.0, gain)), 0.0)
        diverged |= on & ~(gain > -MAX_ENERGY_ERROR)
        log_weight = np.logaddexp(log_weight, gain)
        taken = np.log(rng.random(chains)) < gain - log_weight
        chosen = where(taken, state, chosen)
        stop = diverged.copy()
        for k in range(1, depth + 1):
            if n % 2**k == 0:
                opened[k] = state.p, last_rho, last_p
            if (n + 1) % 2**k == 0:
                p_open, rho_open, _ = opened[k]
                stop |= turned(p_open, state.p, rho - rho_open, inverse_mass)
                if k > 1:  # across the seam, where the block's second half was opened
                    p_new, rho_new, p_old = opened[k - 1]
                    stop |= turned(p_open, p_new, rho_new - rho_open + p_new, inverse_mass)
                    stop |= turned(p_old, state.p, rho - rho_new + p_old, inverse_mass)
        on &= ~stop
        if not on.any():
            break
    return Half(state, chosen, log_weight, rho, first_p, ~on, diverged, accept, size)


class Grown(NamedTuple):
    """Final trajectories, and a state of each."""

    left: State
    right: State
    chosen: State
    log_weight: Numbers
    moves: Moves


@no_type_check
@np.errstate(over="ignore", invalid="ignore")  # of rows that wait
def grow(
    target: Targets,
    start: State,
    step: Numbers,
    inverse_mass: Points,
    rng: np.random.Generator,
    max_depth: int = 10,
) -> Grown:
    """Double each chain's trajectory until it turns: hmc_nuts.trajectory for all rows."""
    chains, before = len(step), energies(start, inverse_mass)
    left = right = chosen = start
    log_weight, rho = np.zeros(chains), start.p
    accept, size, depth = np.zeros(chains), np.zeros(chains, int), np.zeros(chains, int)
    diverged, going = np.zeros(chains, bool), np.ones(chains, bool)
    for j in range(max_depth):
        forward = rng.integers(2, size=chains) == 1
        edge, signed = where(forward, right, left), np.where(forward, step, -step)
        new = half(target, edge, signed, inverse_mass, before, going, j, rng)
        accept, size, diverged = accept + new.accept, size + new.size, diverged | new.diverged
        added = going & ~new.stop
        share = np.minimum(0.0, new.log_weight - log_weight)  # biased: prefers the new half
        chosen = where(added & (np.log(rng.random(chains)) < share), new.chosen, chosen)
        far = where(forward, left, right)  # the other end of the whole
        both = rho + new.rho
        stop = turned(far.p, new.end.p, both, inverse_mass)
        stop |= turned(far.p, new.first_p, rho + new.first_p, inverse_mass)
        stop |= turned(edge.p, new.end.p, edge.p + new.rho, inverse_mass)
        left, right = where(added & ~forward, new.end, left), where(added & forward, new.end, right)
        log_weight = np.where(added, np.logaddexp(log_weight, new.log_weight), log_weight)
        rho, depth = np.where(added[:, None], both, rho), depth + added
        going = added & ~stop
        if not going.any():
            break
    moves = Moves(chosen, accept / size, size, diverged, depth)
    return Grown(left, right, chosen, log_weight, moves)


@no_type_check
def with_momenta(state: State, inverse_mass: Points, rng: np.random.Generator) -> State:
    """The same points, with new momenta from N(0, M)."""
    return state._replace(p=rng.normal(size=state.q.shape) / np.sqrt(inverse_mass))


def nuts(max_depth: int = 10) -> ChainsKernel:
    """hmc_nuts.nuts, for all chains."""
    require(1 <= max_depth <= 20, "max_depth must be between 1 and 20", max_depth)

    @no_type_check
    def kernel(target, state, step, inverse_mass, rng):
        start = with_momenta(state, inverse_mass, rng)
        return grow(target, start, step, inverse_mass, rng, max_depth).moves

    return kernel


def hmc(path_length: float, max_leapfrogs: int = 1000) -> ChainsKernel:
    """hmc.hmc, for all chains; those with fewer leapfrogs wait."""
    require(path_length > 0, "path_length must be positive", path_length)

    @no_type_check
    @np.errstate(over="ignore", invalid="ignore")
    def kernel(target, state, step, inverse_mass, rng):
        start = end = with_momenta(state, inverse_mass, rng)
        before = energies(start, inverse_mass)
        n = np.clip(np.round(path_length / step), 1, max_leapfrogs).astype(int)
        diverged, size = np.zeros(len(n), bool), np.zeros(len(n), int)
        for done in range(n.max()):
            on = ~diverged & (done < n)
            end = where(on, leapfrogs(target, end, step, inverse_mass), end)
            error = energies(end, inverse_mass) - before
            size, diverged = size + on, diverged | (error > MAX_ENERGY_ERROR)
        accept = np.where(diverged, 0.0, np.exp(-np.maximum(0.0, error)))
        moved = where(rng.random(len(n)) < accept, end, start)
        return Moves(moved, accept, size, diverged, np.zeros(len(n), int))

    return kernel


@checked
def sample_chains(
    target: Targets,
    start: Points,
    kernel: ChainsKernel,
    n_warmup: int,
    n_draws: int,
    rng: np.random.Generator,
    *,
    target_accept: float = 0.8,
) -> Sample:
    """adaptation.sample for all chains at once: each has its own step size and diagonal metric.

    Parameters
    ----------
    target
        Takes a table of points, and one point too: first step sizes are found chain by chain.
    kernel
        `nuts` or `hmc` of this module.
    """
    require(n_warmup >= 0, "n_warmup must be at least 0", n_warmup)
    require(n_draws >= 1, "n_draws must be at least 1", n_draws)
    chains, dim = start.shape
    log_density, gradient = target(start)
    require(np.isfinite(log_density).all(), "start must have positive density", start)
    state = State(start, np.zeros_like(start), log_density, gradient)
    inverse_mass = np.ones((chains, dim))

    def tuner(first: Numbers) -> DualAveraging:
        steps = [
            reasonable_step(target, at(target, q), Metric(diagonal), rng, one)
            for q, diagonal, one in zip(state.q, inverse_mass, first, strict=True)
        ]
        return DualAveraging(np.array(steps), target_accept)

    draws, warmup_leapfrogs = np.empty((chains, n_draws, dim)), 0
    accept, diverged = np.empty((chains, n_draws)), np.empty((chains, n_draws), bool)
    n_leapfrogs, depth = np.empty((2, chains, n_draws), int)
    tuned, starts, seen, stop = tuner(np.ones(chains)), dict(windows(n_warmup)), [], -1
    for t in range(n_warmup):
        if t in starts:
            stop, seen = starts[t], []
        moved = kernel(target, state, tuned.step, inverse_mass, rng)
        state, warmup_leapfrogs = moved.state, warmup_leapfrogs + int(moved.n_leapfrogs.sum())
        tuned.update(moved.accept)
        seen.append(state.q.ravel())
        if t + 1 == stop:
            inverse_mass = shrunk(np.array(seen), dense=False).reshape(chains, dim)
            tuned = tuner(tuned.averaged)
    step = tuned.averaged
    for t in range(n_draws):
        moved = kernel(target, state, step, inverse_mass, rng)
        state, draws[:, t], accept[:, t] = moved.state, moved.state.q, moved.accept
        n_leapfrogs[:, t], diverged[:, t] = moved.n_leapfrogs, moved.diverged
        depth[:, t] = moved.depth
    metrics = [Metric(row) for row in inverse_mass]
    return Sample(draws, accept, n_leapfrogs, diverged, depth, step, metrics, warmup_leapfrogs)
