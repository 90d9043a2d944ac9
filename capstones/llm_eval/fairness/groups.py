r"""Groups: how each fares, the worst of them, and how far the best is ahead.

The best minus the worst of equal groups is above 0 by chance. So beside the gap stand what it would
be if groups did not matter (labels shuffled), how rarely it would then be as large, and an
interval that holds for all pairs of groups at once (Bonferroni), each pair's by Newcombe's (1998)
method 10 from the limits l, u of either mean:

$$m_i - m_j - \sqrt{(m_i - l_i)^2 + (u_j - m_j)^2} .$$

>>> even = [mean_estimate([1, 0] * 50) for _ in range(3)]
>>> low, high = range_interval(even)
>>> low, round(high, 3)
(0.0, 0.136)

Sagawa et al. (2020), Distributionally robust neural networks, for the worst group.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import permutations

import numpy as np
from jaxtyping import Float, Int

from llm_eval.fairness.estimating import answered, in_order, measures, number, parts
from llm_eval.statistics.estimates import Estimate, mean_estimate
from llm_eval.types import Number, Sample

SHUFFLES = 1000
Values = tuple[list[float], list[str]]  # of the answered, with the cluster of each


def groups(samples: Sequence[Sample], *, task: str, signature: str, seed: int = 0) -> list[Number]:
    """The samples' first numeric value, of which more is better, by group; the worst and the gap.

    Parameters
    ----------
    samples
        With `Sample.group`; documents of a cluster are shuffled together if they are of one group,
        else among themselves.

    Returns
    -------
    list[Number]
        Of a value such as acc: acc_by_group; acc_worst_group, its interval wide enough for having
        been chosen; acc_group_gap, and acc_group_gap_by_chance, its mean if groups were equal.
        Nothing of a single group.

    Raises
    ------
    UserError
        The samples have no numeric value.
    """
    make = partial(number, task=task, signature=f"{signature}|groups:v1")
    samples = in_order(samples)
    names = measures(samples)
    split = {g: part for g, part in parts(samples, lambda s: s.group).items() if g and names}
    found, told = [], {}
    for group, part in split.items():
        values = _values(part, names[0])
        row = partial(make, part, f"{names[0]}_by_group", group=group, higher_is_better=True)
        found.append(row(mean_estimate(values[0], clusters=values[1]) if values[0] else None))
        told |= {group: values} if values[0] else {}
    if len(told) > 1:
        found += _extremes(told, partial(make, samples), names[0], seed)
    return found


def _extremes(
    told: Mapping[str, Values], make: Callable[..., Number], metric: str, seed: int
) -> list[Number]:
    """The worst group, the gap, and the gap by chance."""
    k, n = len(told), sum(len(values) for values, _ in told.values())
    means = {g: mean_estimate(x, clusters=c, level=1 - 0.05 / k) for g, (x, c) in told.items()}
    worst = min(means, key=lambda group: means[group].value)

    gap, draws = shuffled_gaps(
        np.concatenate([x for x, _ in told.values()]),
        np.repeat(np.arange(k), [len(x) for x, _ in told.values()]),
        [cluster for _, clusters in told.values() for cluster in clusters],
        seed=seed,
    )
    p = (1 + int(np.sum(draws >= gap - 1e-12))) / (1 + len(draws))
    chance = Estimate(float(draws.mean()), None, None, None, n)
    level = 1 - 0.05 / math.comb(k, 2)
    means_of_pairs = [mean_estimate(x, clusters=c, level=level) for x, c in told.values()]
    estimate = Estimate(gap, _stderr(means_of_pairs), *range_interval(means_of_pairs), n)
    note = f"best minus worst of {k} groups; equal ones would show {chance.value:.3f}, p = {p:.3f}"
    return [
        make(f"{metric}_worst_group", means[worst], higher_is_better=True, note=f"it is {worst}"),
        make(f"{metric}_group_gap", estimate, note=note),
        make(f"{metric}_group_gap_by_chance", chance, note="the mean of gaps of shuffled labels"),
    ]


def range_interval(means: Sequence[Estimate]) -> tuple[float | None, float | None]:
    """Of the true largest minus the true smallest mean, from each mean's own limits.

    Limits at level 1 - a / (number of pairs) give the interval level 1 - a. None where a group is
    too small to have limits.
    """
    if any(mean.low is None or mean.high is None for mean in means):
        return None, None
    low, high = 0.0, 0.0
    for a, b in permutations(means, 2):
        apart = a.value - b.value
        low = max(low, apart - math.hypot(a.value - a.low, b.high - b.value))
        high = max(high, apart + math.hypot(a.high - a.value, b.value - b.low))
    return low, high


def shuffled_gaps(
    values: Float[np.ndarray, "n"],
    labels: Int[np.ndarray, "n"],
    clusters: Sequence[str],
    *,
    seed: int = 0,
) -> tuple[float, Float[np.ndarray, "shuffles"]]:
    """The best group's mean minus the worst's, as labeled, and with labels shuffled."""
    _, codes = np.unique(np.asarray(clusters), return_inverse=True)
    first = np.full(codes.max() + 1, -1)
    first[codes] = labels
    nested = bool((first[codes] == labels).all())  # every cluster is of one group
    rng = np.random.default_rng(seed)
    by_cluster = np.argsort(codes, kind="stable")
    draws = []
    for _ in range(SHUFFLES):
        if nested:
            drawn = rng.permutation(first)[codes]
        else:
            drawn = np.empty_like(labels)
            drawn[by_cluster] = labels[np.lexsort((rng.random(len(labels)), codes))]
        draws.append(_gap(values, drawn))
    return _gap(values, labels), np.array(draws)


def _gap(values: np.ndarray, labels: np.ndarray) -> float:
    counts = np.bincount(labels)
    means = np.bincount(labels, values)[counts > 0] / counts[counts > 0]
    return float(means.max() - means.min())


def _values(part: Sequence[Sample], metric: str) -> Values:
    told = answered(part)
    return [float(s.values[metric]) for s in told], [s.cluster or f"id {s.id}" for s in told]


def _stderr(means: Sequence[Estimate]) -> float | None:
    """Of the difference between the two that are farthest apart."""
    best = max(means, key=lambda mean: mean.value)
    worst = min(means, key=lambda mean: mean.value)
    if best.stderr is None or worst.stderr is None:
        return None
    return math.hypot(best.stderr, worst.stderr) or None
