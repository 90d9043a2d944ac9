"""The standard suites on SmolLM2, as a user's first command runs them, with nothing cached."""

import tempfile
from pathlib import Path
from typing import Any

from llm_eval.engine.run import evaluate
from llm_eval.models.dummy import Dummy
from llm_eval.models.opening import open_model
from llm_eval.options import SUITES
from llm_eval.report.writing import save
from llm_eval.tasks.opening import open_tasks
from shared.measuring import seconds

FOLDER = Path("runs/llm_eval/standard")


def standard(quick: bool = False) -> dict[str, Any]:
    """Seconds of the whole run; its page lies in runs/llm_eval/standard."""
    tasks = open_tasks(SUITES.split(","))
    limit = 3 if quick else None
    with tempfile.TemporaryDirectory(prefix="llm-eval-") as cache:

        def whole() -> list[dict[str, Any]]:
            model = Dummy() if quick else open_model("smollm2")
            outcome = evaluate(model, tasks, limit=limit, cache=Path(cache))
            folder = Path(cache) / "out" if quick else FOLDER
            return [number.as_json() for number in save(outcome, folder).numbers]

        took, numbers = seconds(whole)
    return {"seconds": took, "tasks": {t.name: list(t.tags) for t in tasks}, "numbers": numbers}
