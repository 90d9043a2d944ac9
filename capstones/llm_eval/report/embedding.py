"""The samples that a page carries: the worst first, as many as fit, said how many do not.

Samples are gone through once and never held: of each task the worst few are kept, as text that is
safe inside a page's script element.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llm_eval.types import Sample

LONGEST = 3000  # characters of a prompt or an answer
MOST_CHOICES = 30


@dataclass
class Embedded:
    """What a page shows of a task's samples.

    Attributes
    ----------
    total, wrong, errors
        How many there are, had the worst value, or got no answer.
    entries
        The samples that are shown, the worst first, each as JSON.
    """

    total: int = 0
    wrong: int = 0
    errors: int = 0
    entries: list[str] = field(default_factory=list)


def embed(
    samples: Iterable[Sample],
    directions: Mapping[tuple[str, str], bool | None],
    *,
    per_task: int = 200,
    budget: int = 2_000_000,
) -> dict[str, Embedded]:
    """Choose what a page carries of each task.

    Parameters
    ----------
    directions
        Whether higher is better, by task and metric.
    budget
        Bytes of all entries together; every task gives up the same share of its samples.
    """
    found: dict[str, Embedded] = {}
    kept: dict[str, list[tuple[tuple[int, float, int], str]]] = {}
    for sample in samples:
        task = found.setdefault(sample.task, Embedded())
        entry = entry_of(sample, directions)
        task.total += 1
        task.errors += bool(sample.error)
        task.wrong += entry["right"] is False
        worst = kept.setdefault(sample.task, [])
        rank = (not sample.error, entry.pop("worth"), task.total)
        worst.append((rank, safe_json(entry)))
        if len(worst) > 2 * per_task:
            worst[:] = sorted(worst)[:per_task]
    for name, task in found.items():
        task.entries = [text for _, text in sorted(kept[name])[:per_task]]
    share = budget / max(1, sum(_size(text) for task in found.values() for text in task.entries))
    if share < 1:
        for task in found.values():
            task.entries = _fitting(task.entries, share)
    return found


def _fitting(entries: list[str], share: float) -> list[str]:
    """The first entries, up to a share of the bytes of all."""
    sizes = np.cumsum([_size(entry) for entry in entries])
    return entries[: int(np.searchsorted(sizes, share * sizes[-1], side="right"))]


def _size(entry: str) -> int:
    return len(entry.encode("utf-8", "replace")) + 1  # and a comma


def entry_of(sample: Sample, directions: Mapping[tuple[str, str], bool | None]) -> dict[str, Any]:
    """A sample as the page reads it; `worth` orders them, the worst lowest."""
    worth, right = 0.0, None
    for metric, value in sample.values.items():
        better = directions.get((sample.task, metric))
        if better is not None and isinstance(value, bool | int | float) and value == value:
            worth = float(value) if better else -float(value)
            right = bool(value) if better and value in (0, 1) else None
            break
    entry: dict[str, Any] = {"id": sample.id, "worth": worth, "right": right}
    entry |= {"group": sample.group, "template": sample.template, "error": sample.error}
    entry["values"] = {name: _short(value) for name, value in sample.values.items()}
    entry |= {"target": _short(sample.target), "prediction": _short(sample.prediction)}
    return entry | _asked(sample)


def _asked(sample: Sample) -> dict[str, Any]:
    """What was asked and answered: choices with log-probabilities, or texts."""
    requests, responses = sample.requests, sample.responses
    if not requests:
        return {"prompt": "", "kind": ""}
    contexts = [_turns(request.context) for request in requests]
    prompt = _common(contexts)
    told: dict[str, Any] = {"kind": requests[0].kind, "prompt": _cut(prompt)}
    pairs = list(zip(requests, contexts, strict=True))[:MOST_CHOICES]
    if requests[0].kind == "generate":
        told["answers"] = [
            {"text": _cut(r.text or ""), "ended": r.ended, "truncated": r.truncated}
            for r in responses[:MOST_CHOICES]
        ]
        return told
    told["choices"] = [
        [_cut(context[len(prompt) :] + request.continuation), *_logprob(sample, i)]
        for i, (request, context) in enumerate(pairs)
    ]
    told["left_out"] = len(requests) - len(pairs)
    return told


def _common(contexts: list[str]) -> str:
    """What all begin with, whole words; choices may differ before their continuation."""
    first, last = min(contexts), max(contexts)
    if first == last:
        return first
    n = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: max(first.rfind(" ", 0, n), first.rfind("\n", 0, n)) + 1]


def _logprob(sample: Sample, i: int) -> tuple[Any, int]:
    if i >= len(sample.responses):
        return None, 0
    return _short(sample.responses[i].logprob), sample.responses[i].n_tokens


def safe_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in, whatever is in its texts."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def _turns(context: Any) -> str:
    if isinstance(context, str):
        return context
    return "\n\n".join(f"[{role}] {text}" for role, text in context)


def _cut(text: str) -> str:
    """The beginning and the end of a long text, said how much is missing between."""
    if len(text) <= LONGEST:
        return text
    head, tail = LONGEST // 3, LONGEST - LONGEST // 3
    missing = len(text) - head - tail
    return f"{text[:head]}\n[… {missing:,} characters left out …]\n{text[-tail:]}"


def _short(value: Any) -> Any:
    """A value as the page writes it: numbers that JSON holds, everything else as text."""
    if isinstance(value, bool | int) or value is None:
        return value
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else str(value)
    return _cut(value if isinstance(value, str) else json.dumps(value, default=str))
