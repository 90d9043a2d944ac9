r"""Simulation-based calibration: a sampler is right if the truth has no favorite rank.

Draw a parameter from its prior, data from the parameter, and draws from the posterior given the
data. Truth and draws then come from the same law, whatever the data:

$$p(\tilde\theta, \theta) = \int p(\tilde\theta)\, p(y \mid \tilde\theta)\, p(\theta \mid y)\, dy
  \quad\text{is symmetric in } \tilde\theta \text{ and } \theta ,$$

so the number of draws below the truth is uniform over $0 \dots L$. Nothing about the posterior has
to be known. With autocorrelated draws the ranks pile up at the ends, so draws are thinned.

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
from week24.chains import ChainsKernel, Moves, Numbers, Points, Targets, grow, with_momenta
from week24.hmc import State


@no_type_check
def unweighted(
    target: Targets, state: State, step: Numbers, inverse_mass: Points, rng: np.random.Generator
) -> Moves:
    """NUTS that takes the latest state of its trajectory, whatever its weight: it is wrong."""
    grown = grow(target, with_momenta(state, inverse_mass, rng), step, inverse_mass, rng)
    return grown.moves._replace(state=grown.right)


def ranks(
    kernel: ChainsKernel, replicates: int, rng: np.random.Generator, n_draws: int = 19
) -> Int[np.ndarray, "replicates 3"]:
    """Of a true mean among draws from its posterior, for as many data sets, a chain for each.

    mu ~ N(0, I) in three dimensions, y ~ N(mu, diag(0.3, 1, 3)); every third draw is kept.
    """
    require(replicates >= 1, "replicates must be at least 1", replicates)
    noise = np.array([0.3, 1.0, 3.0])
    precision, mu = 1 + 1 / noise, rng.normal(size=(replicates, 3))
    mean = (mu + np.sqrt(noise) * rng.normal(size=mu.shape)) / noise / precision

    def target(q):
        pull = precision * (q - mean)
        return -0.5 * (pull * (q - mean)).sum(axis=1), -pull

    q, below = rng.normal(size=mu.shape), np.zeros(mu.shape, int)
    state = State(q, np.zeros_like(q), *target(q))
    for t in range(3 * n_draws + 9):
        state = kernel(target, state, np.full(replicates, 0.7), np.ones_like(q), rng).state
        if t >= 9 and t % 3 == 2:
            below += state.q < mu
    return below


def uniformity(found: Int[np.ndarray, "replicates dim"]) -> float:
    """The smallest p of the coordinates, times their number; ranks 0 to 19 in ten bins."""
    p = [
        chisquare(np.bincount(found[:, i] // 2, minlength=10)).pvalue for i in range(found.shape[1])
    ]
    return float(min(1.0, len(p) * min(p)))
