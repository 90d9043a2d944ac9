r"""A mean, or any statistic of documents, with how sure it is.

Documents are the sample, never their tokens. Documents that share a passage are one draw, so their
errors add up before they are squared (Liang & Zeger, 1986, as in Miller, 2024, eq. 4):

$$\mathrm{se}^2 = \frac{1}{n^2} \frac{G}{G - 1} \sum_g \Big(\sum_{i \in g} (x_i - \bar x)\Big)^2 .$$

>>> mean_estimate([1, 1, 0, 1])
Estimate(value=0.75, stderr=0.25, low=0.300..., high=0.954..., n=4)
>>> mean_estimate([1, 1, 1, 1]).low < 1  # four of four prove little
True
>>> mean_estimate([1, 1, 0, 0], clusters="aabb").stderr  # two draws, not four
0.5
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shared.require import require


@dataclass(frozen=True)
class Estimate:
    """A statistic of n documents; standard error and interval are None where n does not say."""

    value: float
    stderr: float | None
    low: float | None
    high: float | None
    n: int


def mean_estimate(
    values: Sequence[float], *, clusters: Sequence[Hashable] | None = None, level: float = 0.95
) -> Estimate:
    """The mean of a value per document.

    The interval of values of 0 and 1 is Wilson's, which four right of four do not shrink to a point
    and which stays between 0 and 1; clusters count as the fewer documents that would be as unsure
    (Korn & Graubard, 1998, from memory). Else it is Student's, with the degrees of freedom of
    documents or of clusters.

    Raises
    ------
    ValueError
        No values, or clusters that are not as many.
    """
    from scipy.special import stdtrit

    x = np.asarray(values, np.float64)
    n, mean = len(x), float(np.mean(x)) if len(x) else math.nan
    require(n > 0, "values must be at least one", n)
    groups = np.unique(np.arange(n) if clusters is None else cluster_codes(clusters, n))
    if len(groups) < 2:
        return Estimate(mean, None, None, None, n)
    codes = np.arange(n) if clusters is None else cluster_codes(clusters, n)
    errors = np.bincount(codes, x - mean)
    count = len(groups)
    stderr = math.sqrt(count / (count - 1) * float(errors @ errors)) / n
    if np.isin(x, (0.0, 1.0)).all():
        size = n if count == n else _effective(mean, stderr, n, count, level)
        return Estimate(mean, stderr, *wilson(mean, size, level), n)
    half = float(stdtrit(count - 1, (1 + level) / 2)) * stderr
    return Estimate(mean, stderr, mean - half, mean + half, n)


def _effective(share: float, stderr: float, n: int, clusters: int, level: float) -> float:
    """How many independent documents would be as unsure of a share as these clusters are."""
    from scipy.special import ndtri, stdtrit

    spread = share * (1 - share)
    if spread == 0:  # unanimous: each cluster has said it once
        size: float = clusters
    else:
        size = min(n, spread / stderr**2) if stderr else n
    return size * float(ndtri((1 + level) / 2) / stdtrit(clusters - 1, (1 + level) / 2)) ** 2


def wilson(share: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (1927) of a share of n independent draws."""
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    middle = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    low, high = (middle - half) / scale, (middle + half) / scale
    return (low if share > 0 else 0.0), (high if share < 1 else 1.0)  # no rest of rounding there


def bootstrap_estimate(
    items: Sequence[Any],
    statistic: Callable[[Sequence[Any]], float],
    *,
    seed: int = 0,
    clusters: Sequence[Hashable] | None = None,
    level: float = 0.95,
    n_resamples: int = 1000,
) -> Estimate:
    """Any statistic of items, with the percentile interval of resampled documents or clusters."""
    n = len(items)
    require(n > 0, "items must be at least one", n)
    value = float(statistic(items))
    codes = np.arange(n) if clusters is None else cluster_codes(clusters, n)
    members = [np.flatnonzero(codes == code) for code in range(codes.max() + 1)]
    if len(members) < 2:
        return Estimate(value, None, None, None, n)
    rng = np.random.default_rng(seed)
    known = np.empty(n, object)  # picks a thousand items at once
    known[:] = items
    draws = []
    for _ in range(n_resamples):
        chosen = rng.integers(0, len(members), len(members))
        places = chosen if len(members) == n else np.concatenate([members[g] for g in chosen])
        draws.append(float(statistic(known[places].tolist())))
    draws = [draw for draw in draws if math.isfinite(draw)]
    if len(draws) < 2:
        return Estimate(value, None, None, None, n)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(np.std(draws, ddof=1)), float(low), float(high), n)


def minimum_detectable(stderr: float, *, level: float = 0.95, power: float = 0.8) -> float:
    """The smallest true difference that a two-sided test of this standard error mostly finds."""
    from scipy.special import ndtri

    return float(ndtri((1 + level) / 2) + ndtri(power)) * stderr


def cluster_codes(clusters: Sequence[Hashable], n: int) -> np.ndarray:
    """Clusters as numbers from 0, in the order of first coming."""
    require(len(clusters) == n, f"clusters must be as many as values, {n}", len(clusters))
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(name, len(known)) for name in clusters])
