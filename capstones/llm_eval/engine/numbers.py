"""What a task's samples say: its judge's numbers, its summaries, and how much prompts matter."""

import importlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from llm_eval.engine.samples import Part, Samples, Task
from llm_eval.statistics.compare import averaged
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
            standard = next(n for n in numbers if n.metric == metric and not n.group)
            numbers += prompt_numbers(by_prompt, standard, clusters=clusters, seed=seed)
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


def about(task: Task, documents: int, failed: int) -> dict[str, Any]:
    """A task's entry in results.json."""
    entry: Mapping[str, Any] = {
        name: getattr(task, name) for name in ("title", "license", "source", "version", "size")
    }
    return {**entry, "documents": documents, "failed": failed, "tags": list(task.tags)}
