"""Tasks by name, by tag, or from a file.

>>> [task.name for task in open_tasks(["mini_copy", "mini_facts"])]
['mini_copy', 'mini_facts']
>>> open_tasks(["boolqq"])
Traceback (most recent call last):
shared.errors.UserError: unknown task or tag 'boolqq'; did you mean boolq?
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from llm_eval.tasks.reading import read_task
from llm_eval.tasks.task import BUILTIN, Task
from shared.errors import UserError
from shared.registry import unknown_name


def open_tasks(names: Sequence[str], *, allow_code: bool = False) -> list[Task]:
    """The tasks of names, each once, in order.

    Parameters
    ----------
    names
        Built-in tasks; tags, such as core, bias or all, which mean their tasks whose data is here;
        paths of YAML files.
    allow_code
        Programs that a model wrote may be run.

    Raises
    ------
    UserError
        A name is unknown, a tag has no task with data here, or two files have one task's name.
    """
    found: dict[str, Task] = {}
    for name in names:
        for task in _named(name):
            known = found.setdefault(task.name, task)
            if known.config.path != task.config.path:
                where = f"{known.config.path} and {task.config.path}"
                raise UserError(f"two tasks are called {task.name}: {where}")
    if not found:
        raise UserError("tasks must be at least one, got none")
    return [Task(task.config, allow_code=allow_code) for task in found.values()]


def left_out(names: Sequence[str]) -> list[str]:
    """Tasks that tags among the names mean, and whose data is not here."""
    tags = [name for name in names if name in tagged()]
    return list(dict.fromkeys(t.name for tag in tags for t in tagged()[tag] if not t.here))


@cache
def builtin() -> dict[str, Path]:
    """The files of built-in tasks, by task; others that they include begin with _."""
    paths = sorted(BUILTIN.glob("*.yaml"))
    return {path.stem: path for path in paths if not path.stem.startswith("_")}


@cache
def tagged() -> dict[str, tuple[Task, ...]]:
    """Built-in tasks by tag."""
    tasks = [_built_in(name) for name in builtin()]
    tags = {tag for task in tasks for tag in task.tags}
    found = {tag: tuple(task for task in tasks if tag in task.tags) for tag in sorted(tags)}
    return found | {"all": tuple(tasks)}


@cache
def _built_in(name: str) -> Task:
    return read_task(builtin()[name])


def _named(name: str) -> list[Task]:
    if name in builtin():
        return [_built_in(name)]
    if name.endswith((".yaml", ".yml")):
        return [read_task(name)]
    if name not in tagged():
        raise unknown_name("task or tag", name, [*builtin(), *tagged()])
    if here := [task for task in tagged()[name] if task.here]:
        return here
    raise UserError(f"no task of {name} has its data here; `study fetch` gets data when online")
