r"""Five distributions that samplers are judged on, each with its gradient written out.

A target takes one point, or a table of points.

A density of $\tau > 0$ is sampled in $\log\tau$, which multiplies it by $d\tau / d\log\tau = \tau$:
the Jacobian adds $\log\tau$ to the log density. The *funnel* and the *centered* eight schools are
the hard ones: where $\tau$ is small, $\theta$ has no room, and no single step size suits both its
ends. Writing $\theta = \mu + \tau z$ and sampling $z$ instead takes the funnel out.

>>> target = eight_schools(centered=False)
>>> log_density, gradient = target(np.zeros(10))  # mu, log tau, and eight z
>>> print(f"{log_density:.2f}", gradient.shape)
-4.17 (10,)
>>> school = schools_theta(np.array([[4.0, np.log(2.0), *[0.5] * 8]]), centered=False)
>>> print(school[0, 0])  # mu + tau z
5.0

Source: Gelman et al., *Bayesian Data Analysis* (2013), section 5.5 (the data of Rubin, 1981);
Neal, "Slice sampling" (2003), section 8 (the funnel).
"""

from typing import no_type_check

import numpy as np
from jaxtyping import Float
from scipy.special import expit

from shared.arguments import checked
from shared.require import require
from week24.hmc import Target, Vector

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])  # y of the eight schools
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])  # and their sigma


@checked
def gaussian(covariance: Float[np.ndarray, "dim dim"]) -> Target:
    """N(0, covariance)."""
    precision = np.linalg.inv(covariance)

    @no_type_check
    def target(q: Vector) -> tuple[float, Vector]:
        pull = q @ precision
        return -0.5 * (q * pull).sum(-1), -pull

    return target


@checked
def random_covariance(
    dim: int, condition: float, rng: np.random.Generator
) -> Float[np.ndarray, "dim dim"]:
    """Variances from 1 / condition to 1 along random axes."""
    require(condition >= 1, "condition must be at least 1", condition)
    axes = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    return (axes * np.geomspace(1 / condition, 1, dim)) @ axes.T


def funnel(dim: int) -> Target:
    """Neal's funnel: v ~ N(0, 3²) and dim - 1 numbers x ~ N(0, eᵛ); v comes first.

    Parameters
    ----------
    dim
        At least 2.
    """
    require(dim >= 2, "dim must be at least 2", dim)

    @no_type_check
    def target(q: Vector) -> tuple[float, Vector]:
        v, x = q[..., :1], q[..., 1:]
        with np.errstate(over="ignore", invalid="ignore"):
            pull = np.exp(-v) * x
            squares = (x * pull).sum(-1, keepdims=True)
            log_density = -(v**2) / 18 - 0.5 * squares - 0.5 * (dim - 1) * v
            slope = -v / 9 + 0.5 * squares - 0.5 * (dim - 1)
            return log_density[..., 0], np.concatenate([slope, -pull], axis=-1)

    return target


def eight_schools(*, centered: bool) -> Target:
    """mu ~ N(0, 5²), tau ~ half-Cauchy(5), theta ~ N(mu, tau²), y ~ N(theta, sigma²).

    Parameters
    ----------
    centered
        Whether the last eight coordinates are theta, or z = (theta - mu) / tau. The first two are
        mu and log tau.
    """

    @no_type_check
    def target(q: Vector) -> tuple[float, Vector]:
        mu, log_tau, last = q[..., :1], q[..., 1:2], q[..., 2:]
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            tau = np.exp(log_tau)
            ratio = tau**2 / (25 + tau**2)
            # half-Cauchy(5), and the Jacobian of the logarithm
            log_density = -(mu**2) / 50 - np.log1p(tau**2 / 25) + log_tau
            d_mu, d_log_tau = -mu / 25, -2 * ratio + 1
            z = (last - mu) / tau if centered else last
            theta = last if centered else mu + tau * last
            residual = (EFFECTS - theta) / ERRORS
            d_theta = residual / ERRORS
            log_density = log_density - 0.5 * _sum(residual**2 + z**2)
            if centered:
                log_density = log_density - 8 * log_tau
                d_mu, d_log_tau = d_mu + _sum(z) / tau, d_log_tau + _sum(z**2) - 8
                d_last = d_theta - z / tau
            else:
                d_mu, d_log_tau = d_mu + _sum(d_theta), d_log_tau + tau * _sum(d_theta * z)
                d_last = tau * d_theta - z
        return log_density[..., 0], np.concatenate([d_mu, d_log_tau, d_last], axis=-1)

    return target


@checked
def schools_theta(
    draws: Float[np.ndarray, "n dim"], *, centered: bool
) -> Float[np.ndarray, "n schools"]:
    """The schools' effects, from draws of either form."""
    mu, tau, last = draws[:, :1], np.exp(draws[:, 1:2]), draws[:, 2:]
    return last if centered else mu + tau * last


@checked
def logistic(X: Float[np.ndarray, "n_samples n_features"], y: Float[np.ndarray, "n_samples"]):
    """Labels 0 and 1 from X, with N(0, 1) on each weight; the intercept comes first.

    Returns
    -------
    target
        Of 1 + n_features numbers.
    """
    require(set(np.unique(y)) <= {0.0, 1.0}, "y must hold 0 and 1", np.unique(y))
    table = np.column_stack([np.ones(len(X)), X])

    @no_type_check
    def target(q: Vector) -> tuple[float, Vector]:
        logits = q @ table.T
        log_density = logits @ y - np.logaddexp(0, logits).sum(-1) - 0.5 * (q**2).sum(-1)
        return log_density, (y - expit(logits)) @ table - q

    return target


def _sum(x):
    return x.sum(-1, keepdims=True)
