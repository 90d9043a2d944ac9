r"""Mean-field variational inference: coordinate ascent for a mixture whose parameters are unknown.

For any density $q$ over what is unknown, here components $z$ and parameters $\theta$,

$$\ln p(X) = \underbrace{E_q[\ln p(X, z, \theta) - \ln q(z, \theta)]}_{\text{ELBO}}
  + \mathrm{KL}(q \,\|\, p(z, \theta \mid X)),$$

so raising the bound is coming nearer to the posterior. Let $q(z, \theta) = q(z)\, q(\theta)$ and
nothing else. The best factor for a given other one is $\ln q_j = E_{-j}[\ln p] + \text{const}$: for
priors that are conjugate it has the prior's form, Dirichlet for the weights and Normal–Wishart for
mean and precision of each component. Two updates take turns, each exact, so the bound never falls.

>>> X = np.array([[0.0], [1.0], [9.0], [11.0]])
>>> prior = Prior(0.1, np.zeros(1), 0.01, 1.0, np.eye(1))
>>> found = fit(X, prior, np.array([[1.0, 0.0], [0.6, 0.4], [0.4, 0.6], [0.0, 1.0]]))
>>> print(found.shares.round(2)[:, 0], (np.diff(found.bounds) >= 0).all())
[1. 1. 0. 0.] True

    uv run weeks/24/variational_inference.py

Source: Bishop, *Pattern Recognition and Machine Learning* (2006), section 10.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import digamma, gammaln, multigammaln, xlogy

from shared.arguments import checked
from shared.require import require
from week05.gaussian_mixture import log_sum_exp

__all__ = [
    "Fit",
    "Posterior",
    "Prior",
    "as_posterior",
    "elbo",
    "expected_log_joint",
    "expected_log_precision",
    "fit",
    "kl_from_prior",
    "log_normalizer",
    "update_parameters",
    "update_shares",
]


class Prior(NamedTuple):
    """Weights ~ Dir(concentration), Λ ~ W(dof, spread⁻¹), μ | Λ ~ N(mean, (mean_precision Λ)⁻¹).

    The expected precision is dof spread⁻¹. As everywhere here, names are Bishop's symbols α₀, m₀,
    β₀, ν₀ and W₀⁻¹.
    """

    concentration: float
    mean: Float[np.ndarray, " d"]
    mean_precision: float
    dof: float
    spread: Float[np.ndarray, "d d"]


class Posterior(NamedTuple):
    """q(θ): the same family, with numbers of its own for each component."""

    concentration: Float[np.ndarray, " k"]
    means: Float[np.ndarray, "k d"]
    mean_precision: Float[np.ndarray, " k"]
    dof: Float[np.ndarray, " k"]
    spreads: Float[np.ndarray, "k d d"]


class Fit(NamedTuple):
    """What coordinate ascent found, and the bound after each sweep, in nats."""

    shares: Float[np.ndarray, "n k"]
    posterior: Posterior
    bounds: Float[np.ndarray, " sweeps"]


@checked
def update_parameters(
    X: Float[np.ndarray, "n d"], shares: Float[np.ndarray, "n k"], prior: Prior
) -> Posterior:
    """The best q(θ) for given shares: the conjugate update with fractions of points.

    References
    ----------
    Bishop (2006), eqs. 10.58 to 10.63.
    """
    sizes = shares.sum(axis=0)
    means = shares.T @ X / np.maximum(sizes, np.finfo(float).tiny)[:, None]
    mean_precision = prior.mean_precision + sizes
    spreads = []
    for r, size, mean in zip(shares.T, sizes, means, strict=True):
        apart = mean - prior.mean
        pull = prior.mean_precision * size / (prior.mean_precision + size)
        scatter = (r * (X - mean).T) @ (X - mean)
        spreads.append(prior.spread + scatter + pull * np.outer(apart, apart))
    return Posterior(
        prior.concentration + sizes,
        (prior.mean_precision * prior.mean + sizes[:, None] * means) / mean_precision[:, None],
        mean_precision,
        prior.dof + sizes,
        np.array(spreads),
    )


def expected_log_precision(
    dof: Float[np.ndarray, " k"], spreads: Float[np.ndarray, "k d d"]
) -> Float[np.ndarray, " k"]:
    """E[ln |Λ|] for Λ ~ W(dof, spread⁻¹); it lies below ln |E[Λ]|.

    References
    ----------
    Bishop (2006), eq. 10.65.
    """
    d = spreads.shape[-1]
    halves = (dof[:, None] - np.arange(d)) / 2
    return digamma(halves).sum(axis=1) + d * np.log(2) - np.linalg.slogdet(spreads)[1]


@checked
def expected_log_joint(X: Float[np.ndarray, "n d"], q: Posterior) -> Float[np.ndarray, "n k"]:
    """E[ln π_j N(x_i; μ_j, Λ_j⁻¹)] under q(θ).

    The distance grows by d / β_j, because the mean is not known.

    References
    ----------
    Bishop (2006), eqs. 10.46 and 10.64 to 10.66.
    """
    d = X.shape[1]
    log_weights = digamma(q.concentration) - digamma(q.concentration.sum())
    apart = X[:, None] - q.means
    precisions = q.dof[:, None, None] * np.linalg.inv(q.spreads)
    distances = np.einsum("nkd,kde,nke->nk", apart, precisions, apart) + d / q.mean_precision
    log_precision = expected_log_precision(q.dof, q.spreads)
    return log_weights + (log_precision - d * np.log(2 * np.pi) - distances) / 2


@checked
def update_shares(X: Float[np.ndarray, "n d"], q: Posterior) -> Float[np.ndarray, "n k"]:
    """The best q(z) for given q(θ): a softmax of expected log joints.

    References
    ----------
    Bishop (2006), eq. 10.49.
    """
    joint = expected_log_joint(X, q)
    return np.exp(joint - log_sum_exp(joint)[:, None])


def log_normalizer(q: Posterior) -> float:
    """Log of what the unnormalized Dirichlet and Normal–Wishart densities integrate to."""
    d = q.means.shape[1]
    dirichlet = gammaln(q.concentration).sum() - gammaln(q.concentration.sum())
    wishart = multigammaln(q.dof / 2, d) + q.dof / 2 * (
        d * np.log(2) - np.linalg.slogdet(q.spreads)[1]
    )
    return float(dirichlet + (wishart - d / 2 * np.log(q.mean_precision)).sum())


def as_posterior(prior: Prior, k: int) -> Posterior:
    """The prior, once for each component."""
    ones = np.ones(k)
    return Posterior(
        prior.concentration * ones,
        np.tile(prior.mean, (k, 1)),
        prior.mean_precision * ones,
        prior.dof * ones,
        np.tile(prior.spread, (k, 1, 1)),
    )


def kl_from_prior(q: Posterior, prior: Prior) -> float:
    """KL(q(θ) ‖ p(θ)): that of the weights and, per component, of precision and mean.

    Between members of one exponential family it is the difference of their natural parameters
    times the expected statistics of q, plus the difference of their log normalizers.
    """
    k, d = q.means.shape
    log_weights = digamma(q.concentration) - digamma(q.concentration.sum())
    weights = ((q.concentration - prior.concentration) * log_weights).sum()
    inverses = np.linalg.inv(q.spreads)
    log_precision = expected_log_precision(q.dof, q.spreads)
    traces = np.einsum("kij,ji->k", inverses, prior.spread)
    wishart = (q.dof - prior.dof) * log_precision + q.dof * (traces - d)
    apart = q.means - prior.mean
    shift = prior.mean_precision * q.dof * np.einsum("kd,kde,ke->k", apart, inverses, apart)
    normal = d * (prior.mean_precision / q.mean_precision - 1) + shift
    constants = log_normalizer(as_posterior(prior, k)) - log_normalizer(q)
    return float(weights + (wishart + normal).sum() / 2 + constants)


@checked
def elbo(
    X: Float[np.ndarray, "n d"], shares: Float[np.ndarray, "n k"], q: Posterior, prior: Prior
) -> float:
    """The bound on ln p(X) for any q(z) and q(θ), in nats; no constant is left out.

    References
    ----------
    Bishop (2006), eq. 10.70.
    """
    expected = (shares * expected_log_joint(X, q)).sum()
    entropy = -xlogy(shares, shares).sum()
    return float(expected + entropy - kl_from_prior(q, prior))


@checked
def fit(
    X: Float[np.ndarray, "n d"],
    prior: Prior,
    shares: Float[np.ndarray, "n k"],
    *,
    sweeps: int = 200,
    tol: float = 1e-9,
) -> Fit:
    """Coordinate ascent from given shares, until a sweep gains less than `tol` nats.

    Raises
    ------
    ValueError
        If shares are not distributions, or the prior is not proper.
    """
    proper = (shares >= 0).all() and np.allclose(shares.sum(axis=1), 1)
    require(proper, "shares must have rows of probabilities that sum to 1")
    d = X.shape[1]
    require(prior.dof > d - 1, f"dof must be above n_features - 1 = {d - 1}", prior.dof)
    for name in ("concentration", "mean_precision"):
        value = getattr(prior, name)
        require(value > 0, f"{name} must be positive", value)
    q, bounds = update_parameters(X, shares, prior), []
    for _ in range(sweeps):
        shares = update_shares(X, q)
        q = update_parameters(X, shares, prior)
        bounds.append(elbo(X, shares, q, prior))
        if len(bounds) > 1 and bounds[-1] - bounds[-2] < tol:
            break
    return Fit(shares, q, np.array(bounds))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
