"""The commands that ask no model: list, validate, score, compare, report, contamination."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from llm_eval.options import Json
from llm_eval.terminal import console, errors, put
from shared.errors import UserError
from shared.study import PositiveInt, whole

Seed = Annotated[int, whole(0)]


def ls(what: Literal["tasks", "metrics", "models"] = "tasks", *, json_: Json = False) -> None:
    """List what is built in, tasks with their license and size.

    Parameters
    ----------
    what
        tasks, metrics or models.
    json_
        Print one JSON list.
    """
    from llm_eval.report.listing import show_rows
    from llm_eval.tasks.catalog import list_models, list_tasks

    if what == "tasks":
        rows = list_tasks()
    elif what == "models":
        rows = list_models()
    else:
        from llm_eval.metrics.registry import list_metrics

        rows = list_metrics()
    if json_:
        put(rows)
    else:
        show_rows(console, rows)


def validate(*files: Path) -> int:
    """Read task files, and say what is wrong with each in one line.

    Parameters
    ----------
    files
        YAML files in the subset of lm-eval's format.
    """
    from llm_eval.tasks.reading import read_task

    if not files:
        raise UserError("files must name at least one task file")
    wrong = 0
    for file in files:
        try:
            task = read_task(file)
        except UserError as error:
            errors.print(str(error))
            wrong += 1
        else:
            console.print(f"{file}: {task.name}, {task.size} documents")
    return 1 if wrong else 0
