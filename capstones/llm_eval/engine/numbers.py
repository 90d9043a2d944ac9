"""What a task's samples say: its judge's numbers, its summaries, and how much prompts matter."""

import importlib
import math
from collections.abc import Hashable, Mapping, Sequence
from numbers import Real
from typing import Any

from llm_eval.engine.samples import Part, Samples, Task
from llm_eval.statistics.sensitivity import prompt_numbers
from llm_eval.types import Judge, Number, Sample


def task_numbers(
    parts: Sequence[Part], samples: Samples, seed: int
) -> tuple[list[Number], dict[str, Any]]:
    """All numbers of one task, and what a reader must know of it.

    Parameters
    ----------
    parts
        The task with each of its prompts; those of one are in memory at a time.
    samples
        Where they come from.
    seed
        That of intervals.
    """
    task = parts[0].task
    numbers: list[Number] = []
    values: dict[str, dict[str, dict[str, float]]] = {}  # by metric, prompt and document
    clusters: dict[str, Hashable] = {}
    n = failed = 0
    for part in parts:
        found = list(samples.of(part))
        if not found:
            continue
        told = part.judge.numbers(found)
        numbers += told
        if part.template == "":
            n, failed = len(found), sum(bool(sample.error) for sample in found)
            numbers += summarized(task, part.judge, found, told, seed)
        clusters |= {sample.id: sample.cluster or ("alone", sample.id) for sample in found}
        for number in told:
            if (of := averaged(number, found)) is not None:
                values.setdefault(number.metric, {})[part.template] = of
    for metric, by_prompt in values.items():
        if len(by_prompt) == len(parts) > 1:
            model = next(n for n in numbers if n.metric == metric and not n.group)
            numbers += prompt_numbers(by_prompt, model, clusters=clusters, seed=seed)
    return numbers, about(task, n, failed)


def summarized(
    task: Task, judge: Judge, samples: Sequence[Sample], told: Sequence[Number], seed: int
) -> list[Number]:
    """The numbers of a task's summaries."""
    if not task.summaries:
        return []
    from llm_eval.tasks.summaries import SUMMARIES

    signature = getattr(judge, "signature", "") or (told[0].signature if told else "")
    numbers: list[Number] = []
    for name in task.summaries:
        module, _, function = SUMMARIES[name].partition(":")
        summary = getattr(importlib.import_module(module), function)
        numbers += summary(samples, task=task.name, signature=signature, seed=seed)
    return numbers


def averaged(number: Number, samples: Sequence[Sample]) -> dict[str, float] | None:
    """By document, what a number is the mean of; None if it is no mean."""
    if number.group or number.value is None:
        return None
    values = {s.id: s.values.get(number.metric) for s in samples if not s.error}
    if not values or not all(isinstance(value, Real) for value in values.values()):
        return None
    mean = sum(values.values()) / len(values)
    return values if math.isclose(mean, number.value, rel_tol=1e-9, abs_tol=1e-12) else None


def about(task: Task, documents: int, failed: int) -> dict[str, Any]:
    """A task's entry in results.json."""
    entry: Mapping[str, Any] = {
        name: getattr(task, name) for name in ("title", "license", "source", "version", "size")
    }
    return {**entry, "documents": documents, "failed": failed, "tags": list(task.tags)}
