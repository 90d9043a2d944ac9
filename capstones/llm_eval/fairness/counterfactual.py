r"""Counterfactual pairs: the same text about different groups, and how far a value then moves.

Documents that differ only in the group they name share `pair`; a gap is taken within each pair,
where everything else is equal, and only then averaged over pairs.

>>> complete = {"p1": {"her": 1.0, "him": 0.5}, "p2": {"her": 0.0, "him": 0.5}}
>>> spreads(complete)
[0.5, 0.5]
>>> deviations(complete, "her")  # in one pair up, in the other down
[0.25, -0.25]

Kusner et al. (2017), Counterfactual fairness, is the idea; Rudinger et al. (2018), Winogender
schemas, the paired sentences.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from llm_eval.fairness.estimating import answered, field, in_order, measures, number
from llm_eval.statistics.estimates import Estimate, mean_estimate
from llm_eval.types import Number, Sample

Pairs = dict[str, dict[str, float]]  # the mean value by group by pair


def paired(samples: Sequence[Sample], metric: str, by: str = "group") -> Pairs:
    """Values of the pairs of which two groups or more have an answer."""
    values: dict[str, dict[str, list[float]]] = {}
    for sample in answered(samples):
        groups = values.setdefault(str(field(sample, "pair")), {})
        groups.setdefault(str(field(sample, by)), []).append(float(sample.values[metric]))
    return {
        pair: {group: float(np.mean(x)) for group, x in sorted(groups.items())}
        for pair, groups in sorted(values.items())
        if len(groups) > 1
    }


def clusters(samples: Sequence[Sample]) -> dict[str, str]:
    """By pair, what it is not independent of; itself if the task does not say."""
    return {
        str(field(sample, "pair")): sample.cluster or f"pair {field(sample, 'pair')}"
        for sample in samples
    }


def spreads(pairs: Mapping[str, Mapping[str, float]]) -> list[float]:
    """The largest minus the smallest value of each pair."""
    return [max(groups.values()) - min(groups.values()) for groups in pairs.values()]


def deviations(pairs: Mapping[str, Mapping[str, float]], group: str) -> list[float]:
    """A group's value minus the mean of the pair's groups, in each pair that has it."""
    return [
        groups[group] - float(np.mean(list(groups.values())))
        for groups in pairs.values()
        if group in groups
    ]


def counterfactual(
    samples: Sequence[Sample], *, task: str, signature: str, seed: int = 0
) -> list[Number]:
    """Gaps within pairs, of each value that all samples have.

    Parameters
    ----------
    samples
        With `pair` and `group` in their documents.

    Returns
    -------
    list[Number]
        Of a value such as acc: acc_spread, the mean of the pairs' largest minus smallest;
        acc_spread_largest; acc_gap by group, the mean deviation from the pair's mean.
        Intervals are over pairs, n counts their documents.

    Raises
    ------
    UserError
        Documents lack these fields, or there is no such value.
    """
    make = partial(number, task=task, signature=f"{signature}|counterfactual:v1")
    samples = in_order(samples)
    owner = clusters(samples)
    found = []
    for metric in measures(samples):
        pairs = paired(samples, metric)
        n = sum(str(field(s, "pair")) in pairs for s in answered(samples))
        apart = spreads(pairs)
        lacking = len(owner) - len(pairs)
        note = f"{len(pairs)} pairs" + (f", {lacking} incomplete left out" if lacking else "")

        mean = _mean(apart, [owner[pair] for pair in pairs], n)
        remark = f"{note}; of spreads, which chance alone makes positive"
        found.append(make(samples, f"{metric}_spread", mean, note=remark))

        largest = Estimate(max(apart), None, None, None, n) if apart else None
        remark = f"{note}; the more pairs, the larger by chance"
        found.append(make(samples, f"{metric}_spread_largest", largest, note=remark))

        for group in sorted({group for groups in pairs.values() for group in groups}):
            theirs = [s for s in samples if str(field(s, "group")) == group]
            having = [pair for pair, groups in pairs.items() if group in groups]
            count = sum(str(field(s, "pair")) in pairs for s in answered(theirs))
            mean = _mean(deviations(pairs, group), [owner[pair] for pair in having], count)
            remark = f"above 0: {metric} is higher for this group than in its pairs"
            name = f"{metric}_gap"
            found.append(make(theirs, name, mean, group=group, note=remark))
    return found


def _mean(values: list[float], owners: list[str], n: int) -> Estimate | None:
    if not values:
        return None
    found = mean_estimate(values, clusters=owners)
    return Estimate(found.value, found.stderr, found.low, found.high, n)
