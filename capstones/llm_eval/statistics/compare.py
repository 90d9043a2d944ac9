r"""Whether one model is better than another: over the same documents, pair by pair.

What a document does to both models cancels in $d_i = a_i - b_i$; two intervals side by side do not
know that. The interval is that of resampled documents, or clusters of them. The tests:

- *paired-bootstrap*: how often a resampled difference lies as far from the resamples' mean as the
  difference itself lies from 0 (Riezler & Maxwell, 2005). Both tails count; sacreBLEU's paired
  bootstrap counts one, so that its p is about half of this.
- *permutation*: how often exchanging the two models' answers, at random by document or cluster,
  gives as large a difference.
- *mcnemar*: exact, for independent values of 0 and 1. Of the documents that one model alone has
  right, each has with even chances (Dietterich, 1998, section 3.1).

>>> def run(right):
...     return [Sample("t", str(i), {}, (), (), values={"acc": x}) for i, x in enumerate(right)]
>>> found = compare(run([1] * 9 + [0]), run([0] * 6 + [1] * 3 + [0]), "acc", test="mcnemar")
>>> round(found.value, 3), found.p, found.better, found.worse, found.n
(0.6, 0.03125, 6, 0, 10)
"""

import itertools
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Literal

import numpy as np

from llm_eval.statistics.estimates import cluster_codes, mean_estimate, minimum_detectable
from llm_eval.statistics.multiple import CORRECTIONS
from llm_eval.statistics.paired import (
    Aggregate,
    bootstrap_p,
    differences,
    mcnemar,
    permutation_p,
)
from llm_eval.types import Number, Sample
from shared.errors import UserError
from shared.require import require

Test = Literal["paired-bootstrap", "mcnemar", "permutation"]


@dataclass(frozen=True)
class Difference:
    """A metric of one run minus that of another.

    Attributes
    ----------
    a, b, value
        Both over the paired documents, and a - b.
    stderr, low, high, p
        None where the documents do not say.
    n, unpaired, failed
        Pairs it rests on; documents that only one run has; pairs of which one got no answer.
    better, worse
        Documents on which a is the higher, the lower; None for values that are no numbers.
    detectable
        The smallest true difference that so many pairs mostly show.
    corrected
        p corrected for all comparisons that were made with it.
    """

    task: str
    metric: str
    template: str
    a: float | None
    b: float | None
    value: float | None
    stderr: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    unpaired: int
    failed: int
    better: int | None
    worse: int | None
    test: str
    higher_is_better: bool | None = True
    signature: str = ""
    detectable: float | None = None
    corrected: float | None = None
    note: str = ""


def compare(
    samples_a: Iterable[Sample],
    samples_b: Iterable[Sample],
    metric: str,
    *,
    test: Test = "paired-bootstrap",
    aggregate: Aggregate | None = None,
    signatures: tuple[str, str] = ("", ""),
    seed: int = 0,
    level: float = 0.95,
    n_resamples: int = 1999,
) -> Difference:
    """Compare two runs in one metric.

    Parameters
    ----------
    samples_a, samples_b
        Paired by task, template and id.
    aggregate
        Makes the metric of samples' values; by default it is their mean.
    signatures
        The protocol of each.

    Raises
    ------
    UserError
        Signatures differ, nothing is paired, or the test does not fit the values.
    """
    if signatures[0] != signatures[1]:
        raise UserError(
            f"signatures of {metric} must be equal, got {signatures[0]!r} and {signatures[1]!r}: "
            "what was measured in two ways is not compared"
        )
    first, second = _by_document(samples_a), _by_document(samples_b)
    both = [key for key in first if key in second]
    pairs = [(first[key], second[key]) for key in both]
    good = [(x, y) for x, y in pairs if not (x.error or y.error)]
    must = f"two runs must have answered documents in common to compare {metric}"
    require(good, must, "none", error=UserError)
    if not all(metric in sample.values for pair in good for sample in pair):
        raise UserError(f"{metric} must be a metric of every sample; some do not have it")
    a, b = ([sample.values[metric] for sample in side] for side in zip(*good, strict=True))
    plain = aggregate is None
    if plain and not all(isinstance(value, Real) for value in (*a, *b)):
        raise UserError(f"{metric} is no mean of documents; it must be compared by its aggregate")
    if test == "mcnemar" and not (plain and _mcnemar_fits(metric, itertools.chain(*good))):
        raise UserError(
            f"mcnemar must have independent values of 0 and 1, and {metric} has others or "
            "documents in clusters; take paired-bootstrap or permutation"
        )
    clusters = [(x.task, x.cluster) if x.cluster else (x.task, x.template, x.id) for x, _ in good]
    codes = cluster_codes(clusters, len(good))
    rng = np.random.default_rng(seed)
    draws = differences(a, b, codes, aggregate, rng, n_resamples)
    draws = draws[np.isfinite(draws)]
    mean_a, mean_b = (float(np.mean(side) if plain else aggregate(side)) for side in (a, b))
    value, stderr, low, high, p = mean_a - mean_b, None, None, None, None
    better = int(np.greater(a, b).sum()) if plain else None
    worse = int(np.less(a, b).sum()) if plain else None
    if codes.max() > 0 and len(draws) > 1:
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2]).tolist()
        stderr = float(np.std(draws, ddof=1))
        if plain:
            stderr = mean_estimate(
                np.subtract(a, b, dtype=float).tolist(), clusters=clusters
            ).stderr
        if test == "mcnemar":
            p = mcnemar(better, worse)
        elif test == "permutation":
            p = permutation_p(a, b, codes, aggregate, rng, n_resamples)
        else:
            p = bootstrap_p(draws, value)
    one = good[0][0]
    unpaired = len(first) + len(second) - 2 * len(both)
    counts = (len(good), unpaired, len(pairs) - len(good), better, worse)
    return Difference(
        *(one.task, metric, one.template, mean_a, mean_b, value, stderr, low, high, p, *counts),
        test=test,
        signature=signatures[0],
        detectable=None if stderr is None else minimum_detectable(stderr, level=level),
    )


def compare_runs(
    numbers_a: Sequence[Number],
    samples_a: Iterable[Sample],
    numbers_b: Sequence[Number],
    samples_b: Iterable[Sample],
    *,
    test: Test | Literal["auto"] = "auto",
    correction: Literal["holm", "benjamini-hochberg"] = "holm",
    aggregates: Mapping[tuple[str, str], Aggregate] | None = None,
    seed: int = 0,
) -> list[Difference]:
    """Compare two runs in all metrics that both have, corrected for how many there are.

    Parameters
    ----------
    test
        auto is McNemar's where it fits, else the permutation test, which hold for few documents
        too; the bootstrap does not.
    aggregates
        By task and metric, what makes the metric where it is no mean; where none is given, the
        difference comes without interval and p, and says so.

    Raises
    ------
    UserError
        As `compare`, or the runs share no number.
    """
    theirs = {(n.task, n.template, n.metric): n for n in numbers_b if not n.group}
    common = [n for n in numbers_a if not n.group and (n.task, n.template, n.metric) in theirs]
    require(common, "two runs must have a task and metric in common", "none", error=UserError)
    parts_a, parts_b = _by_part(samples_a), _by_part(samples_b)
    found = []
    for ours in common:
        other = theirs[ours.task, ours.template, ours.metric]
        a, b = (parts.get((ours.task, ours.template), []) for parts in (parts_a, parts_b))
        aggregate = (aggregates or {}).get((ours.task, ours.metric))
        options = {"aggregate": aggregate, "signatures": (ours.signature, other.signature)}
        if aggregate or (averaged(ours, a) and averaged(other, b)):
            fits = test in ("auto", "mcnemar") and _mcnemar_fits(ours.metric, [*a, *b])
            chosen = "mcnemar" if fits else "permutation" if test in ("auto", "mcnemar") else test
            one = compare(a, b, ours.metric, test=chosen, seed=seed, **options)
        else:
            one = _untested(ours, other)
        found.append(replace(one, higher_is_better=ours.higher_is_better))
    tested = [i for i, one in enumerate(found) if one.p is not None]
    corrected = CORRECTIONS[correction]([found[i].p for i in tested])
    for i, p in zip(tested, corrected, strict=True):
        found[i] = replace(found[i], corrected=p)
    return found


def averaged(number: Number, samples: Sequence[Sample]) -> dict[str, float] | None:
    """By document, what a number is the mean of; None if it is no mean."""
    if number.group or number.value is None:
        return None
    values = {s.id: s.values.get(number.metric) for s in samples if not s.error}
    if not values or not all(isinstance(value, Real) for value in values.values()):
        return None
    mean = sum(values.values()) / len(values)
    return values if math.isclose(mean, number.value, rel_tol=1e-9, abs_tol=1e-12) else None


def _mcnemar_fits(metric: str, samples: Iterable[Sample]) -> bool:
    good = [sample for sample in samples if not sample.error]
    return all(s.values.get(metric) in (0, 1) and not s.cluster for s in good)


def _by_document(samples: Iterable[Sample]) -> dict[Hashable, Sample]:
    found: dict[Hashable, Sample] = {}
    for sample in samples:
        key = (sample.task, sample.template, sample.id)
        if key in found:
            raise UserError(f"documents must have different ids, got {sample.id!r} twice")
        found[key] = sample
    return found


def _by_part(samples: Iterable[Sample]) -> dict[tuple[str, str], list[Sample]]:
    """Without what was asked and answered: a run's values fit into memory, its texts may not."""
    parts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        bare = replace(sample, document={}, requests=(), responses=())
        parts.setdefault((sample.task, sample.template), []).append(bare)
    return parts


def _untested(a: Number, b: Number) -> Difference:
    if a.signature != b.signature:
        compare((), (), a.metric, signatures=(a.signature, b.signature))
    value = None if a.value is None or b.value is None else a.value - b.value
    counts = (min(a.n, b.n), 0, a.failed + b.failed, None, None)
    return Difference(
        *(a.task, a.metric, a.template, a.value, b.value, value, None, None, None, None, *counts),
        test="none",
        signature=a.signature,
        note="no mean of documents, so not tested",
    )
