"""Whether one run is better than another: over the same queries, pair by pair.

>>> ours = {f"q{i}": {"ndcg@10": 0.6 + i % 3 / 10} for i in range(30)}
>>> theirs = {f"q{i}": {"ndcg@10": 0.5 + i % 2 / 10} for i in range(30)}
>>> found = compare(ours, theirs, "ndcg@10")
>>> print(found.difference, found.better, found.worse, found.p < 0.01)
0.15 ± 0.03 (n = 30) 25 0 True
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from shared.require import require
from shared.stats import Interval, paired_bootstrap, permutation_test


class Comparison(NamedTuple):
    """A run against another.

    Attributes
    ----------
    difference
        Mean of ours minus theirs, with its paired bootstrap interval.
    p
        Two-sided, of the randomization test: the two names of each query's pair are exchanged.
    better, worse
        Queries on which ours is.
    """

    difference: Interval
    p: float
    better: int
    worse: int


def compare(
    ours: Mapping[str, Mapping[str, float]],
    theirs: Mapping[str, Mapping[str, float]],
    metric: str,
    *,
    seed: int = 0,
    n_resamples: int = 9999,
) -> Comparison:
    """Compare two results of `evaluate` in a metric, over all their queries."""
    require(ours.keys() == theirs.keys(), "ours and theirs must have the same queries", "others")
    a = np.array([of[metric] for of in ours.values()])
    b = np.array([theirs[query][metric] for query in ours])
    rng = np.random.default_rng(seed)
    difference = paired_bootstrap(a, b, rng=rng, n_resamples=n_resamples)
    p = permutation_test(a, b, rng=rng, paired=True, n_permutations=n_resamples)
    return Comparison(difference, p, int(np.sum(a > b)), int(np.sum(a < b)))
