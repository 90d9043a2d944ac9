"""What all summaries of bias share: whom they split by, and numbers with their doubt.

>>> tallies = [(3, 4), (1, 4), (2, 4)]  # hits and documents, by template
>>> estimate = of_totals(tallies, "abc", lambda total: total[0] / total[1])
>>> estimate.value, estimate.low, estimate.high
(0.5, 0.25, 0.75)
>>> of_totals([(1, 1), (1, 1)], "ab", lambda total: total[0] / total[1]).low is None  # unanimous
True
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np

from llm_eval.statistics.estimates import Estimate, bootstrap_estimate, minimum_detectable
from llm_eval.types import Number, Sample
from shared.errors import UserError


def in_order(samples: Sequence[Sample]) -> list[Sample]:
    """By template and id, so that no number depends on the order in which documents came."""
    return sorted(samples, key=lambda sample: (sample.template, sample.id))


def answered(samples: Sequence[Sample]) -> list[Sample]:
    """Those without an error."""
    return [sample for sample in samples if not sample.error]


def parts(samples: Sequence[Sample], key: Callable[[Sample], str]) -> dict[str, list[Sample]]:
    """All samples under "", then each group's if there are several; failed ones are among them."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        groups.setdefault(key(sample), []).append(sample)
    return {"": list(samples)} | (dict(sorted(groups.items())) if len(groups) > 1 else {})


def field(sample: Sample, name: str) -> Any:
    """A field of the document.

    Raises
    ------
    UserError
        The document has none, so that this summary is not for this task.
    """
    if name not in sample.document:
        known = ", ".join(sorted(sample.document))
        raise UserError(f"{sample.task}: document {sample.id} must have {name!r}, got {known}")
    return sample.document[name]


def choice(sample: Sample) -> int:
    """The index of the choice that the model took."""
    if not isinstance(sample.prediction, int):
        must = f"{sample.task}: prediction of {sample.id} must be the index of a choice"
        raise UserError(f"{must}, got {sample.prediction!r}")
    return sample.prediction


def measures(samples: Sequence[Sample]) -> list[str]:
    """Names of the values that are one number in each answered sample.

    Raises
    ------
    UserError
        There is none.
    """
    every = [sample.values for sample in answered(samples)]
    names = [n for n in (every[0] if every else ()) if all(_finite(v.get(n)) for v in every)]
    if every and not names:
        must = f"{samples[0].task}: every sample must have the same numeric value"
        raise UserError(f"{must}, got {', '.join(every[0]) or 'none'}")
    return names


def of_totals(
    tallies: Sequence[Sequence[float]],
    clusters: Sequence[Hashable],
    statistic: Callable[[np.ndarray], float],
    *,
    seed: int = 0,
) -> Estimate | None:
    """A statistic of the documents' summed tallies, with the interval of resampled clusters.

    None where there is no document or the statistic is not defined; without an interval where
    every resample says the same, which tells nothing of the next template.
    """
    totals: dict[Hashable, np.ndarray] = {}
    for tally, cluster in zip(tallies, clusters, strict=True):
        totals[cluster] = totals.get(cluster, 0) + np.asarray(tally, np.float64)
    if not totals:
        return None
    rows = np.array([totals[cluster] for cluster in sorted(totals)])
    places = list(range(len(rows)))
    estimate = bootstrap_estimate(places, lambda at: statistic(rows[at].sum(0)), seed=seed)
    if not math.isfinite(estimate.value):
        return None
    if not estimate.stderr:
        estimate = replace(estimate, stderr=None, low=None, high=None)
    return replace(estimate, n=len(tallies))


def number(
    part: Sequence[Sample],
    metric: str,
    estimate: Estimate | None,
    *,
    task: str,
    signature: str,
    group: str = "",
    higher_is_better: bool | None = None,
    note: str = "",
) -> Number:
    """The row of an estimate; None is a number that these samples do not define."""
    found = estimate or Estimate(math.nan, None, None, None, 0)
    return Number(
        task=task,
        metric=metric,
        value=None if estimate is None else found.value,
        stderr=found.stderr,
        low=found.low,
        high=found.high,
        n=found.n,
        failed=sum(bool(sample.error) for sample in part),
        higher_is_better=higher_is_better,
        signature=signature,
        group=group,
        template=part[0].template if part else "",
        detectable=minimum_detectable(found.stderr) if found.stderr else None,
        note=note,
    )


def _finite(value: Any) -> bool:
    return isinstance(value, Real) and math.isfinite(value)
