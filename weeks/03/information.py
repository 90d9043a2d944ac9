r"""Information in nats: entropy, divergence, mutual information, and how to estimate them.

$$H(p) = -\sum_x p \ln p, \qquad D(p \,\|\, q) = \sum_x p \ln \frac{p}{q}, \qquad
  I(X; Y) = D(p_{xy} \,\|\, p_x p_y) .$$

From tables they are sums; for Gaussians they are closed forms; from samples they must be
estimated, and the obvious estimators (a histogram for I, an average of ln p/q for D) are biased or
noisy in ways that can be computed.

    >>> p, q = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    >>> print(f"{entropy(p):.4f} {kl_divergence(p, q):.4f} {kl_divergence(q, p):.4f}")
    0.6931 0.1438 0.1308
    >>> softmax_cross_entropy(np.array([[0.0, 1000.0]]), np.array([0]))
    array([1000.])

    uv run weeks/03/information.py

Source: Cover & Thomas, *Elements of Information Theory* (2nd ed., 2006), chapters 2 and 8;
Kraskov, Stögbauer & Grassberger, "Estimating mutual information", Phys. Rev. E 69 (2004), eq. 8.
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week03.distributions import require_distribution
from week03.special_functions import Number

# ---- softmax and cross-entropy, from logits


@checked
def log_sum_exp(x: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch"]:
    """ln Σ e^x over the last axis. The largest term is taken out: no exponential can overflow."""
    require(x.shape[-1] > 0, "x must hold at least one entry to sum", f"shape {x.shape}")
    largest = x.max(axis=-1, keepdims=True)
    # All -inf, or one +inf: there is nothing to take out, and inf - inf would be NaN.
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore", over="ignore"):
        return np.asarray(np.log(np.exp(x - largest).sum(axis=-1)) + largest[..., 0])


@checked
def log_softmax(logits: Float[np.ndarray, "*batch n"]) -> Float[np.ndarray, "*batch n"]:
    """ln of softmax, without ever forming a probability that could underflow to ln 0."""
    return logits - log_sum_exp(logits)[..., None]


@checked
def softmax_cross_entropy(
    logits: Float[np.ndarray, "batch n"], targets: Int[np.ndarray, " batch"]
) -> Float[np.ndarray, " batch"]:
    """-ln softmax(logits)[target], a row each: the negative log-likelihood of the labels."""
    n = logits.shape[1]
    require(((targets >= 0) & (targets < n)).all(), f"targets must lie in 0..{n - 1}", targets)
    return -np.take_along_axis(log_softmax(logits), targets[:, None], axis=1)[:, 0]


# ---- from tables of probabilities, in nats


@checked
def entropy(p: Float[np.ndarray, "*shape"]) -> float:
    """H(p) = -Σ p ln p with 0 ln 0 = 0; a joint table gives the joint entropy."""
    p = require_distribution("p", p)
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@checked
def cross_entropy(p: Float[np.ndarray, "*shape"], q: Float[np.ndarray, "*shape"]) -> float:
    """-Σ p ln q: nats per symbol of p under a code for q; infinite if q rules out p's."""
    p, q = require_distribution("p", p), require_distribution("q", q)
    with np.errstate(divide="ignore"):
        return float(-(p[p > 0] * np.log(q[p > 0])).sum())


@checked
def kl_divergence(p: Float[np.ndarray, "*shape"], q: Float[np.ndarray, "*shape"]) -> float:
    """D(p‖q) = Σ p ln(p/q), the cross-entropy beyond the entropy. Not symmetric, never negative."""
    p, q = require_distribution("p", p), require_distribution("q", q)
    with np.errstate(divide="ignore"):
        return float((p[p > 0] * (np.log(p[p > 0]) - np.log(q[p > 0]))).sum())


@checked
def mutual_information(joint: Float[np.ndarray, "n m"]) -> float:
    """I(X; Y): the divergence of the joint table from the product of its margins."""
    joint = require_distribution("joint", joint)
    return kl_divergence(joint, joint.sum(axis=1, keepdims=True) * joint.sum(axis=0))


# ---- Gaussians, in closed form


@checked
def normal_entropy(cov: Float[np.ndarray, "d d"]) -> float:
    """½ ln det(2πe Σ), Cover & Thomas theorem 8.4.1; negative for narrow densities."""
    factor = _cholesky("cov", cov)
    return float(0.5 * len(cov) * math.log(2 * math.pi * math.e) + np.log(np.diag(factor)).sum())


@checked
def normal_kl(
    mean_p: Float[np.ndarray, " d"],
    cov_p: Float[np.ndarray, "d d"],
    mean_q: Float[np.ndarray, " d"],
    cov_q: Float[np.ndarray, "d d"],
) -> float:
    """D(p‖q) = ½ (tr(Σq⁻¹ Σp) + |μq - μp|²_{Σq⁻¹} - d + ln det Σq - ln det Σp)."""
    lp, lq = _cholesky("cov_p", cov_p), _cholesky("cov_q", cov_q)
    # tr(Σq⁻¹ Σp) is the squared length of Lq⁻¹ Lp: no inverse, and never negative.
    spread = (np.linalg.solve(lq, lp) ** 2).sum()
    distance = (np.linalg.solve(lq, mean_q - mean_p) ** 2).sum()
    volume = np.log(np.diag(lq)).sum() - np.log(np.diag(lp)).sum()
    return float(0.5 * (spread + distance - len(mean_p)) + volume)


def normal_mutual_information(correlation: Number) -> float:
    """-½ ln(1 - ρ²) of two jointly normal variables, Cover & Thomas example 8.5.1."""
    require(-1 < correlation < 1, "correlation must be strictly between -1 and 1", correlation)
    return -0.5 * math.log1p(-(correlation**2))


# ---- from samples


@checked
def kl_terms(
    log_p: Float[np.ndarray, " n"], log_q: Float[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Terms whose mean over draws of p estimates D(p‖q), both without bias.

    Parameters
    ----------
    log_p, log_q
        Log-densities of the draws.

    Returns
    -------
    plain, corrected
        ln p/q, which may be negative; and ln p/q + q/p - 1, which never is, because
        ln r <= r - 1. The correction has mean zero and is anticorrelated with ln p/q
        where p and q are close.

    References
    ----------
    Schulman, "Approximating KL divergence" (2020), k1 and k3.
    """
    log_ratio = log_q - log_p
    # expm1 keeps the digits that e^r - 1 - r loses for small r.
    return -log_ratio, np.expm1(log_ratio) - log_ratio


@checked
def mutual_information_binned(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], bins: int, *, corrected: bool = False
) -> float:
    """I(X; Y) of a histogram with bins of equal counts.

    Parameters
    ----------
    corrected
        Whether to subtract the leading bias, (rows - 1)(columns - 1) / 2n (Miller 1955).
    """
    _check_pairs(x, y)
    n = len(x)
    require(1 <= bins <= n, f"bins must be between 1 and the number of pairs {n}", bins)
    i, j = (np.argsort(np.argsort(v, kind="stable")) * bins // n for v in (x, y))
    table = np.bincount(i * bins + j, minlength=bins**2).reshape(bins, bins)
    bias = (bins - 1) ** 2 / (2 * n) if corrected else 0.0
    return mutual_information(table / n) - bias


@checked
def mutual_information_ksg(
    x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"], k: int = 3
) -> float:
    """I(X; Y) from distances to the k-th neighbor, without bins.

    Around each point the square that just holds its k nearest neighbors is cast on both axes; if
    more points fall into these shadows than dependence explains, there is information:
    ψ(k) + ψ(n) - <ψ(n_x + 1) + ψ(n_y + 1)>, eq. 8 of Kraskov et al. Compares all pairs, O(n²).
    """
    _check_pairs(x, y)
    n = len(x)
    require(1 <= k < n, f"k must be between 1 and n - 1 = {n - 1}", k)
    # One square for both axes needs a common scale; the information does not depend on it.
    x, y = (v / (v.std() or 1.0) for v in (x, y))
    digamma = np.concatenate([[np.nan], np.cumsum(np.append(-np.euler_gamma, 1 / np.arange(1, n)))])
    total = 0.0
    for rows in np.array_split(np.arange(n), max(1, n // 256)):
        dx, dy = np.abs(x[rows, None] - x), np.abs(y[rows, None] - y)
        # The point itself is at distance 0, so index k is its k-th neighbor.
        reach = np.partition(np.maximum(dx, dy), k, axis=1)[:, k, None]
        # Strictly nearer: the k-th neighbor lies on the border and must not count (-1: itself).
        # With ties nothing is nearer, itself included: count it as the only one.
        n_x, n_y = (np.maximum((dv < reach).sum(axis=1), 1) - 1 for dv in (dx, dy))
        total += (digamma[n_x + 1] + digamma[n_y + 1]).sum()
    return float(digamma[k] + digamma[n] - total / n)


def fit_normal_reverse(
    score: Callable[[np.ndarray], np.ndarray], mean: float, sd: float, *, steps: int = 500
) -> tuple[float, float]:
    """The normal q with the least D(q‖p), by gradient descent from a given start.

    With x = mean + sd z, D = -ln sd - <ln p(x)> + constant, so its derivatives are
    -<s(x)> and -1/sd - <z s(x)>, s = (ln p)'; the averages are trapezoidal sums over z, which
    converge fast even where s turns sharply (Gauss–Hermite sums do not).

    Parameters
    ----------
    score
        Derivative of ln p.
    mean, sd
        Where to start: the divergence may have several minima.
    """
    require(sd > 0, "sd must be positive", sd)
    z = np.linspace(-8, 8, 401)
    weight = np.exp(-0.5 * z**2) / np.exp(-0.5 * z**2).sum()
    log_sd = math.log(sd)
    for _ in range(steps):
        sd = math.exp(log_sd)
        s = score(mean + sd * z)
        mean += 0.1 * sd**2 * float(weight @ s)  # sd² and 1 are the natural gradient's scales
        log_sd += 0.1 * (1 + sd * float(weight @ (z * s)))
    return mean, math.exp(log_sd)


def _cholesky(name: str, cov: np.ndarray) -> np.ndarray:
    try:
        if not np.allclose(cov, cov.T):
            raise np.linalg.LinAlgError
        return np.linalg.cholesky(cov)
    except np.linalg.LinAlgError:
        raise ValueError(f"{name} must be symmetric and positive definite, got\n{cov}") from None


def _check_pairs(x: np.ndarray, y: np.ndarray) -> None:
    for name, values in (("x", x), ("y", y)):
        bad = int((~np.isfinite(values)).sum())
        require(bad == 0, f"{name} must be finite", f"{bad} NaN or inf")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
