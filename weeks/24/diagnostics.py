r"""Has the chain forgotten its start, and how many independent draws is it worth?

*R̂* compares chains with each other: the variance of all draws over the variance inside a chain,
1 where every chain has found the same distribution. Chains are split in halves, so that one which
drifts disagrees with itself. Draws are replaced by normal scores of their ranks, which exist even
where a variance does not, and the same is done with distances from the median, which sees chains
of equal place and unequal width. The larger of the two counts.

The *effective sample size* divides the number of draws by how long they remember,

$$\mathrm{ESS} = \frac{S}{-1 + 2 \sum_k \hat P_k}, \qquad
  \hat P_k = \hat\rho_{2k} + \hat\rho_{2k+1},$$

with autocorrelations $\hat\rho$ over all chains and sums of pairs cut where they turn negative and
kept from growing: for a reversible chain the true ones are positive and fall (Geyer). The error of
a mean is then $\mathrm{MCSE} = s / \sqrt{\mathrm{ESS}}$.

>>> draws = np.random.default_rng(0).normal(size=(4, 1000))
>>> print(round(rhat(draws), 3), round(rhat(draws + np.arange(4)[:, None]), 3))
1.0 1.56
>>> walk = np.random.default_rng(0).normal(size=(4, 1000)).cumsum(axis=1)
>>> print(round(ess_bulk(draws)), round(ess_bulk(walk)))  # of 4,000 draws
3926 5

Source: Vehtari, Gelman, Simpson, Carpenter & Bürkner, "Rank-normalization, folding, and
localization: an improved R̂" (2021), equations 3, 4 and 10–14; Geyer, "Practical Markov chain
Monte Carlo" (1992), section 3.3.
"""

import numpy as np
from jaxtyping import Float
from scipy.stats import norm, rankdata

from shared.arguments import checked
from shared.require import require

Draws = Float[np.ndarray, "chains draws"]


# ---- transformations of the draws


def split_chains(draws: Draws) -> Float[np.ndarray, "split half"]:
    """Each chain as two, its first half and its last; a middle draw is left out."""
    half = draws.shape[1] // 2
    return np.concatenate([draws[:, :half], draws[:, -half:]])


def rank_normalize(draws: Draws) -> Draws:
    """Normal scores of the ranks among all draws; ties share their average rank.

    References
    ----------
    Vehtari et al. (2021), equation 14.
    """
    ranks = rankdata(draws, method="average").reshape(draws.shape)
    return norm.ppf((ranks - 3 / 8) / (draws.size + 1 / 4))


def fold(draws: Draws) -> Draws:
    """Distances from the median: chains of unequal width become chains of unequal place."""
    return abs(draws - np.median(draws))


# ---- have the chains mixed?


@checked
def rhat(draws: Draws) -> float:
    """Rank-normalized split R̂, the larger of bulk and folded.

    Parameters
    ----------
    draws
        Of one quantity, at least two chains of at least four draws.

    References
    ----------
    Vehtari et al. (2021), section 4.

    Examples
    --------
    >>> print(rhat(np.zeros((2, 10))))  # chains that do not move say nothing
    nan
    """
    _check(draws, least_chains=2)
    split = split_chains(draws)
    return max(_rhat_of(rank_normalize(split)), _rhat_of(rank_normalize(fold(split))))


def _rhat_of(x: Draws) -> float:
    n = x.shape[1]
    between, within = n * x.mean(axis=1).var(ddof=1), x.var(axis=1, ddof=1).mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt((between / within + n - 1) / n))


# ---- how many draws are they worth?


def autocovariance(x: Draws) -> Draws:
    """At all lags, for each chain, divided by n (and not by n - lag), in O(n log n)."""
    n = x.shape[1]
    spectrum = np.fft.rfft(x - x.mean(axis=1, keepdims=True), n=2 * n)
    return np.fft.irfft(abs(spectrum) ** 2, n=2 * n)[:, :n] / n


def _ess_of(x: Float[np.ndarray, "chains draws"]) -> float:
    chains, n = x.shape
    size = chains * n
    if np.ptp(x) < np.finfo(float).resolution:
        return float(size)
    covariance = autocovariance(x).mean(axis=0)
    within = covariance[0] * n / (n - 1)
    total = covariance[0] + (x.mean(axis=1).var(ddof=1) if chains > 1 else 0.0)
    rho = 1 - (within - covariance) / total
    rho[0] = 1.0
    last = max((n - 3) // 2, 0)
    pairs = rho[: 2 * last + 2].reshape(-1, 2).sum(axis=1)
    stops = np.flatnonzero(pairs <= 0)
    cut = stops[0] if len(stops) else last
    kept = np.minimum.accumulate(pairs[:cut])
    edge = rho[2 * cut] if pairs[cut] >= 0 else max(rho[2 * cut], 0.0)  # half of the pair cut off
    tau = -1 + 2 * kept.sum() + edge
    return float(size / max(tau, 1 / np.log10(size)))  # antithetic chains are not believed further


@checked
def ess_bulk(draws: Draws) -> float:
    """Effective draws for the middle of the distribution: of rank-normalized split chains."""
    _check(draws)
    return _ess_of(rank_normalize(split_chains(draws)))


@checked
def ess_tail(draws: Draws) -> float:
    """Effective draws for the tails: the smaller of those for the quantiles .05 and .95."""
    _check(draws)
    cuts = np.quantile(draws, [0.05, 0.95])
    return min(_ess_of(split_chains((draws <= cut).astype(float))) for cut in cuts)


@checked
def ess_mean(draws: Draws) -> float:
    """Effective draws for the mean: of split chains as they are."""
    _check(draws)
    return _ess_of(split_chains(draws))


@checked
def mcse_mean(draws: Draws) -> float:
    """Standard error of the mean of all draws."""
    return float(draws.std(ddof=1) / np.sqrt(ess_mean(draws)))


@checked
def mcse_sd(draws: Draws) -> float:
    """Standard error of the standard deviation of all draws, by the delta method."""
    squares = (draws - draws.mean()) ** 2
    return float(np.sqrt(squares.var() / ess_mean(squares) / squares.mean()) / 2)


def _check(draws: Draws, least_chains: int = 1) -> None:
    chains, n = draws.shape
    require(chains >= least_chains, f"draws must have at least {least_chains} chains", chains)
    require(n >= 4, "draws must have at least 4 draws per chain", n)
    require(np.isfinite(draws).all(), "draws must be finite")
