r"""The No-U-Turn sampler: Hamiltonian Monte Carlo that finds out itself how far to go.

HMC with too short a path walks at random, with too long a one it comes back. NUTS doubles its
trajectory, forwards or backwards in time by a coin, until it turns back on itself. With $\rho$ the
sum of the momenta of a trajectory, and $v = M^{-1} p$ the velocities at its ends, it goes on while

$$v_- \cdot \rho > 0 \qquad\text{and}\qquad v_+ \cdot \rho > 0 ,$$

in every sub-tree of the doubling, and across the seam of two sub-trees too. From what it has
visited it takes state $z$ with probability in proportion to $e^{-H(z)}$: inside a new half exactly
so, and between the old half and the new one with a preference for the new, $\min(1, w' / w)$, which
leaves the law the same and moves further. The doubling is what keeps it reversible: each state of a
final trajectory would have grown the same one equally often.

>>> normal = lambda q: (-0.5 * q @ q, -q)
>>> found = sample(normal, np.zeros((2, 5)), nuts(), 200, 500, np.random.default_rng(0))
>>> print(f"{found.draws.std():.1f}", found.depth.max(), found.diverged.sum())
1.0 3 0

    uv run weeks/24/hmc_nuts.py

Source: Hoffman & Gelman, "The No-U-Turn sampler" (2014), algorithm 3; multinomial weights and the
criterion on sums of momenta: Betancourt (2017), appendix A. hmc.py and adaptation.py come before.
"""

import math
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float

from shared.require import require
from week24.adaptation import sample
from week24.hmc import (
    MAX_ENERGY_ERROR,
    Kernel,
    Metric,
    State,
    Target,
    Transition,
    Vector,
    energy,
    leapfrog,
)

__all__ = ["Tree", "join", "nuts", "sample", "trajectory", "turns"]


class Tree(NamedTuple):
    """A stretch of trajectory: its ends in time, and a state drawn from it."""

    left: State
    right: State
    chosen: State
    log_weight: float  # log of the sum of e^(H₀ - H) over its states
    rho: Vector  # sum of its momenta
    stop: bool  # it turned or diverged: nothing of it may be used
    diverged: bool
    accept: float  # sum over its states of min(1, e^(H₀ - H))
    size: int


@no_type_check
def turns(p_left: Vector, p_right: Vector, rho: Float[np.ndarray, " dim"], metric: Metric) -> bool:
    """Whether a stretch with these momenta at its ends, and this sum, has begun to turn back.

    References
    ----------
    Betancourt (2017), appendix A.4.2.
    """
    along = metric.velocity(rho)  # M⁻¹ is symmetric: v · ρ = p · M⁻¹ρ
    return bool(p_left.dot(along) <= 0 or p_right.dot(along) <= 0)


@no_type_check
def leaf(state: State, initial_energy: float, metric: Metric) -> Tree:
    """A tree of one state."""
    gain = initial_energy - energy(state, metric)
    diverged = not gain > -MAX_ENERGY_ERROR
    accept = math.exp(min(0.0, gain))
    return Tree(state, state, state, gain, state.p, diverged, diverged, accept, 1)


@no_type_check
def join(
    old: Tree,
    new: Tree,
    forward: bool,
    metric: Metric,
    rng: np.random.Generator,
    *,
    biased: bool = False,
) -> Tree:
    """Two neighboring stretches as one, and a draw from it.

    Parameters
    ----------
    forward
        Whether `new` comes after `old` in time.
    biased
        Take the new half's draw with min(1, w' / w) instead of w' / (w + w'). Only for the two
        halves of the whole trajectory: one of them holds the state that the step began from.
    """
    total = np.logaddexp(old.log_weight, new.log_weight)
    first, last = (old, new) if forward else (new, old)
    rho = old.rho + new.rho
    stop = (
        old.stop
        or new.stop
        or turns(first.left.p, last.right.p, rho, metric)
        or turns(first.left.p, last.left.p, first.rho + last.left.p, metric)  # across the seam
        or turns(first.right.p, last.right.p, first.right.p + last.rho, metric)
    )
    log_share = new.log_weight - (old.log_weight if biased else total)
    chosen = new.chosen if rng.random() < math.exp(min(0.0, log_share)) else old.chosen
    return Tree(
        first.left,
        last.right,
        chosen,
        float(total),
        rho,
        stop,
        old.diverged or new.diverged,
        old.accept + new.accept,
        old.size + new.size,
    )


@no_type_check
def trajectory(
    target: Target,
    state: State,
    step: float,
    metric: Metric,
    rng: np.random.Generator,
    max_depth: int = 10,
) -> tuple[Tree, int]:
    """Double until it turns; give the whole of it, with the state drawn, and how often it doubled.

    A last half that turned or diverged is counted in `size` and `accept` and else left out.
    """
    before = energy(state, metric)

    @no_type_check
    def build(edge: State, depth: int, forward: bool) -> Tree:
        """2^depth states from `edge` on, left off as soon as one of its parts turns."""
        if depth == 0:
            return leaf(leapfrog(target, edge, step if forward else -step, metric), before, metric)
        half = build(edge, depth - 1, forward)
        if half.stop:
            return half
        rest = build(half.right if forward else half.left, depth - 1, forward)
        return join(half, rest, forward, metric, rng)

    tree = leaf(state, before, metric)
    tree = tree._replace(accept=0.0, size=0)  # the start cost nothing, and is accepted anyway
    for depth in range(max_depth):
        forward = rng.integers(2) == 1
        new = build(tree.right if forward else tree.left, depth, forward)
        if new.stop:
            cost = {"accept": tree.accept + new.accept, "size": tree.size + new.size}
            return tree._replace(diverged=new.diverged, **cost), depth
        tree = join(tree, new, forward, metric, rng, biased=True)
        if tree.stop:
            return tree, depth + 1
    return tree, max_depth


def nuts(max_depth: int = 10) -> Kernel:
    """The kernel: trajectories of up to 2^max_depth - 1 leapfrogs.

    Examples
    --------
    >>> normal = lambda q: (-0.5 * q @ q, -q)
    >>> start = State(np.zeros(2), np.zeros(2), 0.0, np.zeros(2))
    >>> moved = nuts()(normal, start, 0.5, Metric(np.ones(2)), np.random.default_rng(0))
    >>> moved.n_leapfrogs, moved.diverged
    (5, False)
    """
    require(1 <= max_depth <= 20, "max_depth must be between 1 and 20", max_depth)

    @no_type_check
    def kernel(
        target: Target, state: State, step: float, metric: Metric, rng: np.random.Generator
    ) -> Transition:
        start = state._replace(p=metric.draw(rng))
        tree, depth = trajectory(target, start, step, metric, rng, max_depth)
        accept = tree.accept / tree.size
        return Transition(tree.chosen, accept, tree.size, tree.diverged, depth)

    return kernel


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
