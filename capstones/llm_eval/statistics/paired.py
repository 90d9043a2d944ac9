r"""Draws and p-values of a paired comparison.

p is $(c + 1)/(B + 1)$ for c of B draws, never 0: the data are one draw of what is to be refuted
(Phipson & Smyth, 2010, *Permutation P-values Should Never Be Zero*).

>>> mcnemar(better=6, worse=0)  # 2 / 2⁶
0.03125
>>> a, b, rng = [1, 1, 1, 0] * 5, [0, 1, 0, 0] * 5, np.random.default_rng(0)
>>> bootstrap_p(differences(a, b, np.arange(20), None, rng, n_resamples=99), 0.5)
0.01
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from shared.stats import permutation_test

Aggregate = Callable[[Sequence[Any]], float]


def differences(
    a: Sequence[Any],
    b: Sequence[Any],
    codes: np.ndarray,
    aggregate: Aggregate | None,
    rng: np.random.Generator,
    n_resamples: int,
) -> np.ndarray:
    """Differences of two metrics over documents that are resampled, the same ones for both.

    Parameters
    ----------
    codes
        The cluster of each document, from 0; clusters are drawn whole.
    aggregate
        As `compare`.

    Returns
    -------
    (n_resamples,).
    """
    count, draws = int(codes.max()) + 1, np.empty(n_resamples)
    members = [np.flatnonzero(codes == code) for code in range(count)] if aggregate else []
    if not aggregate:
        sums, sizes = np.bincount(codes, np.subtract(a, b, dtype=np.float64)), np.bincount(codes)
    for i in range(n_resamples):
        chosen = rng.integers(0, count, count)
        if aggregate:
            at = [j for cluster in chosen for j in members[cluster]]
            draws[i] = aggregate([a[j] for j in at]) - aggregate([b[j] for j in at])
        else:
            draws[i] = sums[chosen].sum() / sizes[chosen].sum()
    return draws


def mcnemar(better: int, worse: int) -> float:
    """Exact p: how often so many tosses of a fair coin fall as unevenly, to either side."""
    from scipy.special import bdtr

    n, less = better + worse, min(better, worse)
    return min(1.0, 2 * float(bdtr(less, n, 0.5))) if n else 1.0


def bootstrap_p(draws: np.ndarray, value: float) -> float:
    """How often a draw lies as far from the draws' mean as the value does from 0."""
    away = np.abs(draws - draws.mean())
    hits = int(np.sum(away >= abs(value) - 1e-12 * max(1.0, abs(value))))
    return (hits + 1) / (len(draws) + 1)


def permutation_p(
    a: Sequence[Any],
    b: Sequence[Any],
    codes: np.ndarray,
    aggregate: Aggregate | None,
    rng: np.random.Generator,
    n_resamples: int,
) -> float:
    """How often exchanged answers differ as much; exact where all exchanges are few enough."""
    if aggregate is None:  # exchanging a cluster's answers exchanges its sums
        sums = (np.bincount(codes, np.asarray(x, np.float64)) for x in (a, b))
        return permutation_test(*sums, rng=rng, paired=True, n_permutations=n_resamples)
    value, hits = abs(aggregate(a) - aggregate(b)), 0
    for _ in range(n_resamples):
        swap = rng.integers(0, 2, int(codes.max()) + 1)[codes].astype(bool).tolist()
        x = [q if s else p for p, q, s in zip(a, b, swap, strict=True)]
        y = [p if s else q for p, q, s in zip(a, b, swap, strict=True)]
        hits += abs(aggregate(x) - aggregate(y)) >= value - 1e-12 * max(1.0, value)
    return (hits + 1) / (n_resamples + 1)
