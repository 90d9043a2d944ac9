r"""Simulation-based calibration: a sampler is right if the truth has no favorite rank.

Draw a parameter from its prior, data from the parameter, and draws from the posterior given the
data. Truth and draws then come from the same law, whatever the data:

$$p(\tilde\theta, \theta) = \int p(\tilde\theta)\, p(y \mid \tilde\theta)\, p(\theta \mid y)\, dy
  \quad\text{is symmetric in } \tilde\theta \text{ and } \theta ,$$

so the number of draws below the truth is uniform over $0 \dots L$. Nothing about the posterior has
to be known. Draws that hang together pile up at the ends, so they are thinned.

>>> exact = np.random.default_rng(0).integers(0, 20, size=(500, 3))  # what a right one gives
>>> uniformity(exact) > 0.01, uniformity(exact // 2) > 0.01
(True, False)

    uv run weeks/24/hmc_nuts.py

Source: Talts, Betancourt, Simpson, Vehtari & Gelman, "Validating Bayesian inference algorithms with
simulation-based calibration" (2018), section 4.
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Int
from scipy.stats import chisquare

from shared.require import require
from week24.hmc import Kernel, Metric, State, Target, Transition, at
from week24.hmc_nuts import trajectory


@no_type_check
def unweighted(
    target: Target, state: State, step: float, metric: Metric, rng: np.random.Generator
) -> Transition:
    """NUTS that takes the latest state of its trajectory, whatever its weight: it is wrong."""
    start = state._replace(p=metric.draw(rng))
    tree, depth = trajectory(target, start, step, metric, rng)
    return Transition(tree.right, tree.accept / tree.size, tree.size, tree.diverged, depth)


def ranks(
    kernel: Kernel, replicates: int, rng: np.random.Generator, n_draws: int = 19
) -> Int[np.ndarray, "replicates 3"]:
    """Of a true mean among draws from its posterior, for as many data sets.

    mu ~ N(0, I) in three dimensions, y ~ N(mu, diag(0.3, 1, 3)); every third draw is kept.
    """
    require(replicates >= 1, "replicates must be at least 1", replicates)
    noise = np.array([0.3, 1.0, 3.0])
    precision, metric, found = 1 + 1 / noise, Metric(np.ones(3)), []
    for _ in range(replicates):
        mu = rng.normal(size=3)
        mean = (mu + np.sqrt(noise) * rng.normal(size=3)) / noise / precision

        @no_type_check
        def target(q, mean=mean):
            pull = precision * (q - mean)
            return -0.5 * float(pull.dot(q - mean)), -pull

        state, below = at(target, rng.normal(size=3)), np.zeros(3, int)
        for t in range(3 * n_draws + 9):
            state = kernel(target, state, 0.7, metric, rng).state
            if t >= 9 and t % 3 == 2:
                below += state.q < mu
        found.append(below)
    return np.array(found)


def uniformity(found: Int[np.ndarray, "replicates dim"]) -> float:
    """The smallest p of the coordinates, times their number; ranks 0 to 19 in ten bins."""
    p = [
        chisquare(np.bincount(found[:, i] // 2, minlength=10)).pvalue for i in range(found.shape[1])
    ]
    return float(min(1.0, len(p) * min(p)))
