"""SmolLM2's known figures beside ours, all documents, with intervals and what differs.

The figures of the authors are of the unquantized model by lighteval; the second column's are of an
independent run of lm-eval on the same. Ours are of the packaged weights in 4-bit blocks.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llm_eval.engine.run import evaluate
from llm_eval.models.dummy import Dummy
from llm_eval.models.opening import open_model
from llm_eval.tasks.opening import open_tasks
from llm_eval.types import Number

# task, metric, lm-eval on the unquantized model [read, third party], the card [from memory]
KNOWN = (
    ("arc_easy", "acc", 0.5412, None),
    ("arc_challenge", "acc_norm", 0.2773, None),
    ("piqa", "acc_norm", 0.6692, 0.663),
)
ARC = 0.373  # the card's average of both parts, acc_norm [from memory]


def card(quick: bool = False, cache: Path = Path("runs/llm_eval/cache")) -> dict[str, Any]:
    """All documents of the tasks that are here and whose figure is known."""
    model = Dummy() if quick else open_model("smollm2")
    tasks = open_tasks([name for name, *_ in KNOWN])
    outcome = evaluate(model, tasks, limit=5 if quick else 1.0, cache=None if quick else cache)
    lines = []
    for task, metric, rival, authors in KNOWN:
        ours = _number(outcome.numbers, task, metric)
        line = {"task": task, "metric": metric, "lm_eval": rival, "card": authors}
        lines.append(line | {"value": ours.value, "low": ours.low, "high": ours.high, "n": ours.n})
    both = [_number(outcome.numbers, name, "acc_norm") for name in ("arc_easy", "arc_challenge")]
    middle = sum(number.value for number in both) / 2
    half = 1.96 * sum(number.stderr**2 for number in both) ** 0.5 / 2
    row = {"task": "arc, both parts", "metric": "acc_norm", "lm_eval": None, "card": ARC}
    row |= {"value": middle, "low": middle - half, "high": middle + half}
    return {"lines": [*lines, row | {"n": sum(number.n for number in both)}]}


def _number(numbers: Sequence[Number], task: str, metric: str) -> Number:
    found = (x for x in numbers if x.task == task and x.metric == metric)
    return next(x for x in found if not x.group and not x.template)
