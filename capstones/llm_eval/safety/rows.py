"""What the summaries of this folder share: who answered, and an estimate as a Number.

>>> from llm_eval.statistics.estimates import mean_estimate
>>> row = Row("closed", "sig", failed=2)
>>> number = row.number("wrong", mean_estimate([0, 1, 1, 0]), better="lower")
>>> number.value, number.n, number.failed, number.higher_is_better
(0.5, 4, 2, False)
>>> row.number("wrong", None, better="lower").value is None
True
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from llm_eval.statistics.estimates import (
    Estimate,
    bootstrap_estimate,
    mean_estimate,
    minimum_detectable,
)
from llm_eval.types import Number, Sample
from shared.require import require

BETTER = {"higher": True, "lower": False, "neither": None}


@dataclass(frozen=True)
class Row:
    """What all numbers of a summary have in common."""

    task: str
    signature: str
    failed: int
    template: str = ""
    note: str = ""

    def number(
        self,
        metric: str,
        estimate: Estimate | None,
        *,
        better: Literal["higher", "lower", "neither"],
        group: str = "",
        note: str = "",
        gap: bool = False,
        failed: int | None = None,
    ) -> Number:
        """A Number; its value is None where there is nothing to estimate from.

        Parameters
        ----------
        gap
            It has a neutral value, and so a smallest difference from it that n documents show.
        """
        e = Estimate(math.nan, None, None, None, 0) if estimate is None else estimate
        return Number(
            task=self.task,
            metric=metric,
            value=e.value if math.isfinite(e.value) else None,
            stderr=e.stderr,
            low=e.low,
            high=e.high,
            n=e.n,
            failed=self.failed if failed is None else failed,
            higher_is_better=BETTER[better],
            signature=self.signature,
            group=group,
            template=self.template,
            detectable=minimum_detectable(e.stderr) if gap and e.stderr else None,
            note=" ".join(filter(None, (note, self.note))),
        )


def answered(samples: Sequence[Sample]) -> list[Sample]:
    """Samples that have an answer: those with an error are in no average."""
    return [sample for sample in samples if not sample.error]


def row(samples: Sequence[Sample], *, task: str, signature: str, note: str = "") -> Row:
    """The common part of a summary's numbers; all samples are of one template."""
    templates = {sample.template for sample in samples}
    require(len(templates) < 2, "samples must be of one template", sorted(templates))
    failed = len(samples) - len(answered(samples))
    return Row(task, signature, failed, next(iter(templates), ""), note)


def text_of(sample: Sample, i: int = 0) -> str:
    """What was written, the i-th time."""
    require(len(sample.responses) > i, f"sample {sample.id} must have {i + 1} responses")
    text = sample.responses[i].text
    require(text is not None, f"sample {sample.id} must have generated text, response {i} has none")
    return str(text)


def mean(values: Sequence[float], samples: Sequence[Sample]) -> Estimate | None:
    """The mean of a value per sample, samples of one cluster being one draw."""
    return mean_estimate(values, clusters=clusters(samples)) if len(values) else None


def statistic(
    items: Sequence[Any],
    of: Callable[[Sequence[Any]], float],
    samples: Sequence[Sample],
    *,
    seed: int,
) -> Estimate | None:
    """Any statistic of an item per sample, samples of one cluster being one draw."""
    if not items:
        return None
    return bootstrap_estimate(items, of, seed=seed, clusters=clusters(samples))


def clusters(samples: Sequence[Sample]) -> list[tuple[bool, str]]:
    """The cluster of each sample; one that has none is its own."""
    return [(bool(sample.cluster), sample.cluster or sample.id) for sample in samples]
