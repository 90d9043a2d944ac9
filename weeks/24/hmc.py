r"""Hamiltonian Monte Carlo: a gradient carries the chain far, and it is rarely refused.

Give the point $q$ a momentum $p \sim \mathcal N(0, M)$ and let it move as a particle would under

$$H(q, p) = -\log \pi(q) + \tfrac12 p^\top M^{-1} p .$$

Exact motion keeps $H$, volume, and can be run backwards, so its end is a proposal that is always
accepted. A leapfrog with step $\varepsilon$ keeps volume and reversibility *exactly* and $H$ up to
$O(\varepsilon^2)$,

$$p \mathrel{+}= \tfrac\varepsilon2 \nabla \log\pi(q), \qquad q \mathrel{+}= \varepsilon M^{-1} p,
  \qquad p \mathrel{+}= \tfrac\varepsilon2 \nabla \log\pi(q),$$

and what it loses of $H$ is settled by accepting with $\min(1, e^{H - H'})$.

>>> normal = lambda q: (-0.5 * q @ q, -q)
>>> metric = Metric(np.ones(2))
>>> start = at(normal, np.array([1.0, 0.0]), np.array([0.0, 1.0]))
>>> end = leapfrog(normal, start, 0.1, metric)
>>> print(round(energy(start, metric), 4), round(energy(end, metric), 4))
1.0 1.0
>>> back = leapfrog(normal, end, -0.1, metric)
>>> print(abs(back.q - start.q).max() < 1e-15, abs(back.p - start.p).max() < 1e-15)
True True

    uv run weeks/24/hmc_nuts.py

Source: Neal, "MCMC using Hamiltonian dynamics" (2011), sections 2 and 3; Betancourt, "A conceptual
introduction to Hamiltonian Monte Carlo" (2017). Next: adaptation.py, then hmc_nuts.py.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Float
from scipy.linalg import solve_triangular

from shared.require import require

Vector = Float[np.ndarray, " dim"]
# Log density without its constant, and its gradient. For chains.py it takes tables of points too.
Target = Callable[[Vector], tuple[float, Vector]]

MAX_ENERGY_ERROR = 1000.0  # a trajectory that is off by more has left the level set: it diverged


class Metric:
    """The kinetic energy: momenta of covariance M, of which the *inverse* is given.

    The best inverse is the target's covariance: in its units the target is round.

    Parameters
    ----------
    inverse_mass
        M⁻¹, a vector (a diagonal) or a matrix.
    """

    def __init__(self, inverse_mass: Float[np.ndarray, " dim"] | Float[np.ndarray, "dim dim"]):
        self.inverse_mass = np.asarray(inverse_mass, dtype=float)
        self.dense = self.inverse_mass.ndim == 2
        diagonal = np.diag(self.inverse_mass) if self.dense else self.inverse_mass
        require((diagonal > 0).all(), "inverse_mass must be positive", inverse_mass)
        # with M⁻¹ = L Lᵀ, L⁻ᵀ z has covariance L⁻ᵀ L⁻¹ = M; L⁻¹ z and L z have not
        self._root = np.linalg.cholesky(self.inverse_mass) if self.dense else diagonal**-0.5

    @no_type_check
    def draw(self, rng: np.random.Generator) -> Vector:
        """A momentum from N(0, M)."""
        z = rng.normal(size=len(self.inverse_mass))
        return solve_triangular(self._root.T, z, lower=False) if self.dense else self._root * z

    @no_type_check
    def velocity(self, p: Vector) -> Vector:
        """M⁻¹ p."""
        return self.inverse_mass @ p if self.dense else self.inverse_mass * p


class State(NamedTuple):
    """A point, a momentum, and the log density and gradient there."""

    q: Vector
    p: Vector
    log_density: float
    gradient: Vector


@no_type_check
def at(target: Target, q: Vector, p: Vector | None = None) -> State:
    """The state of a point; momentum zero if none is given."""
    log_density, gradient = target(q)
    return State(q, np.zeros_like(q) if p is None else p, float(log_density), gradient)


@no_type_check  # at each leapfrog: checks of shapes would take most of a test's time
def energy(state: State, metric: Metric) -> float:
    """H; infinite where the density is zero or not a number."""
    h = 0.5 * state.p.dot(metric.velocity(state.p)) - state.log_density
    return float(h) if h == h else np.inf


@no_type_check
def leapfrog(target: Target, state: State, step: float, metric: Metric) -> State:
    """One step; a negative one goes back in time."""
    p_half = state.p + 0.5 * step * state.gradient
    q = state.q + step * metric.velocity(p_half)
    log_density, gradient = target(q)
    return State(q, p_half + 0.5 * step * gradient, float(log_density), gradient)


class Transition(NamedTuple):
    """Where a kernel went, and what the adaptation and the reader want to know."""

    state: State
    accept: float  # mean acceptance probability: what the step size is tuned by
    n_leapfrogs: int
    diverged: bool
    depth: int = 0


# A kernel makes one step of the chain.
Kernel = Callable[[Target, State, float, Metric, np.random.Generator], Transition]


def hmc(path_length: float, max_leapfrogs: int = 1000) -> Kernel:
    """The kernel with trajectories of one length: path_length / step leapfrogs, at least one.

    Parameters
    ----------
    path_length
        In units of time. For N(0, I) half a turn, π / 2, forgets the start; a whole one, 2π,
        comes back to it.

    References
    ----------
    Neal (2011), figure 2.
    """
    require(path_length > 0, "path_length must be positive", path_length)
    require(max_leapfrogs >= 1, "max_leapfrogs must be at least 1", max_leapfrogs)

    @no_type_check
    def kernel(
        target: Target, state: State, step: float, metric: Metric, rng: np.random.Generator
    ) -> Transition:
        start = state._replace(p=metric.draw(rng))  # old momentum would keep the old direction
        end, before = start, energy(start, metric)
        n = int(np.clip(round(path_length / step), 1, max_leapfrogs))
        for done in range(1, n + 1):
            end = leapfrog(target, end, step, metric)
            error = energy(end, metric) - before
            if error > MAX_ENERGY_ERROR:
                return Transition(state, 0.0, done, True)
        accept = math.exp(min(0.0, -error))
        return Transition(end if rng.random() < accept else state, accept, n, False)

    return kernel
