"""How sure a measured number is: intervals, and a test of whether two differ.

Sources: B. Efron and R. Tibshirani, *An Introduction to the Bootstrap* (1993), chapters 13 and 15;
B. Phipson and G. Smyth, *Permutation P-values Should Never Be Zero* (2010).
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

__all__ = [
    "Interval",
    "bootstrap_interval",
    "mean_interval",
    "paired_bootstrap",
    "permutation_test",
]

_CHUNK = 1 << 20  # random numbers held at a time


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval.

    Attributes
    ----------
    mean
        The estimate: the mean, or the statistic asked for.
    low, high
        The interval's ends.
    n
        How many values it rests on.
    """

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        """Return ``1.312 ± 0.004 (n = 3)``, or ``1.312 [1.305, 1.314] (n = 3)`` if lopsided."""
        if np.isnan(self.low):  # nothing is known of its spread
            return f"{self.mean:.6g} (n = {self.n})"
        below, above = self.mean - self.low, self.high - self.mean
        width = max(abs(below), abs(above))
        if width <= 1e-14 * abs(self.mean):  # float64 knows nothing so small about such a number
            return f"{self.mean:.6g} ± 0 (n = {self.n})"
        if not math.isfinite(width):
            return f"{self.mean:.6g} ± {width:g} (n = {self.n})"
        # Digits below the first one of the uncertainty would only look exact.
        decimals = max(0, -math.floor(math.log10(width)))
        if decimals > 6:
            digits = max(0, decimals + math.floor(math.log10(max(abs(self.mean), width))))
            return f"{self.mean:.{digits}e} ± {width:.0e} (n = {self.n})"
        if math.isclose(below, above, rel_tol=1e-6):
            return f"{self.mean:.{decimals}f} ± {width:.{decimals}f} (n = {self.n})"
        decimals += 1  # the two sides differ by less than they measure
        ends = f"[{self.low:.{decimals}f}, {self.high:.{decimals}f}]"
        return f"{self.mean:.{decimals}f} {ends} (n = {self.n})"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    r"""Return the mean with Student's t interval, :math:`\bar x ± t_{n-1}\, s / \sqrt n`.

    Exact for independent normal values; with few seeds the usual choice.

    Parameters
    ----------
    values
        (n,) at least two finite numbers.
    level
        The coverage, between 0 and 1.

    Raises
    ------
    ValueError
        Too few values, a value that is not finite, or a level out of range.
    """
    from scipy.special import stdtrit

    sample = _sample("values", values)
    _check_level(level)
    n = len(sample)
    mean = float(sample.mean())
    quantile = float(stdtrit(n - 1, (1 + level) / 2))
    half = quantile * float(sample.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def bootstrap_interval(
    values: ArrayLike,
    statistic: Callable[..., np.ndarray] = np.mean,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    n_resamples: int = 9999,
) -> Interval:
    """Return a statistic with its percentile bootstrap interval.

    The percentile interval is simple and keeps within the statistic's range, but it is too narrow
    for small samples: a mean's is √((n-1)/n) z/t of Student's, 0.82 at n = 10. For few values
    prefer `mean_interval`.

    Parameters
    ----------
    values
        (n,) at least two finite numbers.
    statistic
        Called with an array and ``axis``, as `numpy.mean` and `numpy.median` can be.
    rng
        Where the resamples come from.
    level
        The coverage, between 0 and 1.
    n_resamples
        How many samples are drawn with replacement.

    Raises
    ------
    ValueError
        As `mean_interval`, or n_resamples below 1.
    """
    sample = _sample("values", values)
    _check_level(level)
    _check_rng(rng)
    n = len(sample)
    draws = np.concatenate(
        [
            statistic(sample[rng.integers(0, n, (rows, n))], axis=1)
            for rows in _chunks("n_resamples", n_resamples, n)
        ]
    )
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(sample, axis=0)), float(low), float(high), n)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator,
    level: float = 0.95,
    n_resamples: int = 9999,
) -> Interval:
    """Return the mean of a - b, pair by pair, with its percentile bootstrap interval.

    For two systems measured on the same items or seeds: pairs are resampled, so that what an item
    does to both cancels.

    Parameters
    ----------
    a, b
        (n,) finite numbers, a[i] and b[i] belonging together.
    rng, level, n_resamples
        As in `bootstrap_interval`.

    Raises
    ------
    ValueError
        As `bootstrap_interval`, or lengths that differ.
    """
    a, b = _sample("a", a), _sample("b", b)
    _check_pairs(a, b)
    return bootstrap_interval(a - b, rng=rng, level=level, n_resamples=n_resamples)


def permutation_test(
    a: ArrayLike,
    b: ArrayLike,
    *,
    rng: np.random.Generator,
    paired: bool = False,
    n_permutations: int = 9999,
) -> float:
    """Return the two-sided p-value of the difference of means, if a and b were exchangeable.

    It is exact where all rearrangements are at most n_permutations. Otherwise rearrangements are
    drawn, and the observed one counts among them, (hits + 1) / (n_permutations + 1): without that
    p could be zero and the test would be wrong too often.

    Parameters
    ----------
    a, b
        (n,) and (m,) at least two finite numbers each; n = m if paired.
    rng
        Where the rearrangements come from.
    paired
        Whether a[i] and b[i] belong together; then only they are exchanged.
    n_permutations
        How many rearrangements to try at most.

    Raises
    ------
    ValueError
        Too few values, a value that is not finite, lengths that differ if paired, or
        n_permutations below 1.
    """
    a, b = _sample("a", a), _sample("b", b)
    _check_rng(rng)
    if paired:
        _check_pairs(a, b)
    # The test statistic is |weights of a rearrangement · values|.
    values = a - b if paired else np.concatenate([a, b]) - np.concatenate([a, b]).mean()
    start = np.ones(len(a)) if paired else np.repeat([1.0, 0.0], [len(a), len(b)])
    n_all = 2 ** len(a) if paired else math.comb(len(values), len(a))
    observed = abs(start @ values)
    # Sums of the same numbers in another order differ by rounding, and are ties all the same.
    least = observed - 1e-12 * np.abs(values).sum()

    exact = n_all <= n_permutations
    if exact:
        blocks = _all_weights(len(a), len(values), paired)
    else:
        blocks = (
            rng.choice([-1.0, 1.0], (rows, len(values)))
            if paired
            else rng.permuted(np.tile(start, (rows, 1)), axis=1)
            for rows in _chunks("n_permutations", n_permutations, len(values))
        )
    hits = sum(int(np.sum(np.abs(weights @ values) >= least)) for weights in blocks)
    return hits / n_all if exact else (hits + 1) / (n_permutations + 1)


def _all_weights(n: int, size: int, paired: bool) -> Iterator[np.ndarray]:
    """Yield every rearrangement's weights, (1, size) each."""
    if paired:
        yield from (np.array([signs]) for signs in itertools.product([1.0, -1.0], repeat=n))
        return
    for chosen in itertools.combinations(range(size), n):
        weights = np.zeros((1, size))
        weights[0, list(chosen)] = 1.0
        yield weights


def _chunks(name: str, total: int, width: int) -> Iterator[int]:
    """Yield numbers of rows that add up to total, each small enough to hold at once."""
    if total < 1:
        raise ValueError(f"{name} must be at least 1, got {total}")
    rows = max(1, _CHUNK // width)
    yield from (min(rows, total - start) for start in range(0, total, rows))


def _sample(name: str, values: ArrayLike) -> np.ndarray:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1 or len(sample) < 2:
        raise ValueError(f"{name} must be at least 2 numbers in one row, got shape {sample.shape}")
    if not np.isfinite(sample).all():
        bad = int(np.flatnonzero(~np.isfinite(sample))[0])
        raise ValueError(f"{name} must be finite, got {sample[bad]} at index {bad}")
    return sample


def _check_rng(rng: np.random.Generator) -> None:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng must be a numpy.random.Generator, got {type(rng).__name__}")


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")


def _check_pairs(a: np.ndarray, b: np.ndarray) -> None:
    if len(a) != len(b):
        raise ValueError(f"a and b must have as many values, got {len(a)} and {len(b)}")
