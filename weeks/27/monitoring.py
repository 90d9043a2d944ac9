r"""Monitoring: has the world moved? Windows of inputs against a reference, alarms at a known rate.

A model in use gives no errors when its inputs drift, so inputs are compared with those it was
judged on. Any two samples differ; a monitor is one whose false alarms come at a known rate:

* **KS**, one number per input: $D = \sup_x |F_n(x) - G_m(x)|$, with its exact law.
* **PSI**, counts in $B$ bins: $\sum_b (p_b - q_b) \ln (p_b / q_b)$, without drift about
  $(1/n + 1/m)\,\chi^2_{B-1}$. The usual thresholds 0.1 and 0.25 know neither n nor B.
* **Energy distance**, vectors: $2\,E|X-Y| - E|X-X'| - E|Y-Y'|$, judged by exchanging labels.

Windows come for ever, so a level $\alpha$ per window is an alarm in the end. The k-th window gets
$\alpha / (k(k+1))$, which sums to $\alpha$ over all of them.

>>> rng = np.random.default_rng(0)
>>> reference, window = rng.normal(size=500), rng.normal(0.5, size=50)
>>> round(ks_p_value(ks_gap(reference, window), 500, 50), 4)
0.0001
>>> edges = bin_edges(reference, 10)
>>> round(psi(counts(reference, edges), counts(window, edges)), 2)
0.53
>>> round(psi_threshold(500, 50, 10, level=0.05), 2)
0.37
>>> monitor = Monitor(reference[:, None], level=0.05)
>>> monitor.alarms(window[:, None]), monitor.alarms(window[:, None])  # level 1/40, then 1/120
([0], [0])

    uv run weeks/27/monitoring.py

[latencies](latencies.py) watches the other side, how long answers take. Sources: Hodges, "The
significance probability of the Smirnov two-sample test" (1958), for the paths; Yurdakul,
"Statistical properties of population stability index" (2018); Székely & Rizzo, "Energy statistics"
(2013).
"""

import functools

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray

from shared.require import require

# ---- one number per input


def ks_gap(a: Float[ndarray, "n"], b: Float[ndarray, "m"]) -> int:
    """The statistic times nm, max |m #{a <= x} - n #{b <= x}|: a whole number, so ties are ties."""
    n, m = len(a), len(b)
    require(n and m, "a and b must hold a number each", n, m)
    both = np.concatenate([a, b])
    require(np.isfinite(both).all(), "a and b must be finite", "a value that is not")
    below = [np.searchsorted(np.sort(side), both, side="right") for side in (a, b)]
    return int(np.abs(m * below[0] - n * below[1]).max())


@functools.lru_cache(4096)
def ks_p_value(gap: int, n: int, m: int) -> float:
    """How likely samples of one continuous law have a gap as large: exact, by counting paths.

    In order of size the two samples are a path from (0, 0) to (n, m), all equally likely. Row by
    row, `paths` holds how many reach each place without ever having the gap, as a share of all.
    """
    n, m = sorted((n, m))
    j = np.arange(m + 1)
    paths = (n * j < gap).astype(float)
    for i in range(1, n + 1):
        inside = np.abs(m * i - n * j) < gap
        paths = np.where(inside, (paths * inside).cumsum(), 0.0) * (i / (m + i))
    return float(1 - paths[m])


# ---- counts in bins


def bin_edges(reference: Float[ndarray, "n"], n_bins: int) -> Float[ndarray, "inner"]:
    """Inner edges of bins that hold equal shares of the reference; the outer two are open."""
    require(n_bins >= 2, "n_bins must be at least 2", n_bins)
    edges = np.quantile(reference, np.arange(1, n_bins) / n_bins)
    distinct = len(np.unique(edges))
    must = f"reference must have values for {n_bins} bins"
    require(distinct == n_bins - 1, must, f"{distinct + 1} different ones")
    return edges


def counts(x: Float[ndarray, "n"], edges: Float[ndarray, "inner"]) -> Int[ndarray, "bins"]:
    """How many values fall into each bin, its lower edge included."""
    return np.bincount(np.searchsorted(edges, x, side="right"), minlength=len(edges) + 1)


def psi(
    expected: Int[ndarray, "bins"], actual: Int[ndarray, "bins"], *, prior: float = 0.5
) -> float:
    """Population stability index of counts; `prior` is added to each, so that none is empty."""
    p, q = ((c + prior) / (c + prior).sum() for c in (expected, actual))
    require(min(p.min(), q.min()) > 0, "prior must be positive where a bin is empty", prior)
    return float(((p - q) * np.log(p / q)).sum())


def psi_threshold(n: int, m: int, n_bins: int, *, level: float) -> float:
    """What PSI exceeds at rate `level` without drift, for samples of n and m that are not small."""
    from scipy.special import chdtri

    require(0 < level < 1, "level must be between 0 and 1", level)
    return float((1 / n + 1 / m) * chdtri(n_bins - 1, level))


# ---- vectors


def distances(x: Float[ndarray, "n dim"]) -> Float[ndarray, "n n"]:
    """Euclidean distances of all pairs."""
    from scipy.spatial.distance import pdist, squareform

    return squareform(pdist(x))


def energy_test(
    between: Float[ndarray, "n n"],
    first: int,
    *,
    rng: np.random.Generator,
    n_permutations: int = 199,
) -> tuple[float, float]:
    """Energy distance of the first rows from the others, and its p-value by exchanged labels.

    With 1/n for a row of the one sample and -1/m for one of the other as z, it is -z'Dz. The order
    at hand counts among the permutations, so p is at least 1 / (n_permutations + 1).

    Parameters
    ----------
    between
        Distances of all pairs, as `distances` gives them.
    """
    total = len(between)
    require(0 < first < total, f"first must be between 1 and {total - 1}", first)
    require(n_permutations >= 1, "n_permutations must be at least 1", n_permutations)
    z = np.where(np.arange(total) < first, 1 / first, -1 / (total - first))
    rows = np.stack([z, *(rng.permutation(z) for _ in range(n_permutations))])
    found = -((rows @ between) * rows).sum(1)
    # Equal splits in another order of sums are equal.
    p = (found >= found[0] - 1e-12 * abs(found[0])).mean()
    return float(found[0]), float(p)


# ---- window after window


def spent(level: float, k: int) -> float:
    """The share of `level` that the k-th window gets, from k = 1; all of them sum to it."""
    require(0 < level < 1, "level must be between 0 and 1", level)
    require(k >= 1, "k must be at least 1", k)
    return level / (k * (k + 1))


class Monitor:
    """Each feature of each window by KS, at most `level` false alarms in all windows ever.

    A union bound: it holds although all windows share one reference, and whatever the features
    have to do with each other. The price is that later windows need more evidence.
    """

    def __init__(self, reference: Float[ndarray, "n dim"], *, level: float = 0.05):
        self.reference, self.level, self.windows = reference, level, 0
        spent(level, 1)

    def alarms(self, window: Float[ndarray, "m dim"]) -> list[int]:
        """Which features of the next window are not the reference's."""
        wide = self.reference.shape[1]
        require(window.shape[1] == wide, f"window must have {wide} features", window.shape[1])
        self.windows += 1
        level = spent(self.level, self.windows) / wide
        n, m = len(self.reference), len(window)
        gaps = (ks_gap(a, b) for a, b in zip(self.reference.T, window.T, strict=True))
        return [i for i, gap in enumerate(gaps) if ks_p_value(gap, n, m) <= level]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
