"""A run: all requests, planned together, asked once, journaled; samples and numbers out of them.

    documents -> requests -> batches -> journal -> samples -> numbers

The plan is made from all requests of the run, whatever is known already, and a batch of which an
answer is missing is computed whole. So neither a crash nor the number of processes changes a bit.
What another run left in the cache is used too where it has all of a batch; had it other batches,
such an answer may differ in a last digit from what would be computed now.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from llm_eval.engine.answers import Answers, Progress
from llm_eval.engine.distributed import World, find_world
from llm_eval.engine.numbers import task_numbers
from llm_eval.engine.samples import Part, Samples, Task, parts_of
from llm_eval.types import Model, Number, Request, digest
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require


@dataclass(frozen=True)
class Outcome:
    """What a run gives.

    Attributes
    ----------
    samples
        May be gone through again and again; each time they are made anew from the journal.
    settings
        limit, seed, num_fewshot, chat, templates.
    model
        Its name and identity.
    tasks
        By name, what a reader must know of each: license, version, documents, failed, …
    missing
        Documents that are not yet answered; only a recovered run has such.
    notes
        What a user should know of how it went; the same numbers may come with other notes.
    """

    numbers: list[Number]
    samples: Samples
    settings: dict[str, Any]
    model: dict[str, Any]
    tasks: dict[str, dict[str, Any]]
    missing: int = 0
    notes: tuple[str, ...] = ()


def evaluate(
    model: Model,
    tasks: Sequence[Task],
    *,
    limit: int | float | None = None,
    templates: bool = False,
    num_fewshot: int | None = None,
    chat: bool = False,
    seed: int = 0,
    cache: Path | None = None,
    progress: Progress | None = None,
    world: World | None = None,
) -> Outcome | None:
    """Ask a model what the tasks ask, and judge the answers.

    Parameters
    ----------
    model, tasks
        As `open_model` and `open_tasks` give them.
    limit
        Documents of each task, from its first on.
    templates
        Ask with each of a task's prompts, not just the standard one.
    num_fewshot, chat, seed
        For the tasks' judges; the seed is also that of intervals.
    cache
        Folder of the journals. Without one nothing is kept.
    progress
        Told after each batch how many requests are answered, of how many.
    world
        This process among others; by default as `find_world` finds it.

    Returns
    -------
    None in all processes but the first.

    Raises
    ------
    UserError
        A task has no documents, there are several processes but no cache, or as `Journal` raises.
    """
    world = world or find_world()
    must = "cache must be a folder that all processes share where there are several"
    require(world.size == 1 or cache is not None, must, "none", error=UserError)
    settings = {"limit": limit, "seed": seed, "num_fewshot": num_fewshot, "chat": chat}
    settings |= {"templates": templates}
    parts = parts_of(tasks, settings)
    answers = Answers(model, cache, progress)
    about = {"name": model.name, "identity": dict(model.identity)}
    with world.alive(answers.journal.folder):
        asked = gather(parts)
        if world.rank == 0:  # not before the documents are there: what recover opens did begin
            note_run(answers.journal.folder, about, [task.reference for task in tasks], settings)
        notes = [answers.ask(asked, world)]
    if world.rank:
        return None
    if damaged := answers.journal.damaged:
        notes.append(f"{damaged} answers were altered on the disk and asked again")
    samples = Samples(parts, answers)
    return conclude(samples, settings, about, notes=tuple(filter(None, notes)))


def gather(parts: Sequence[Part]) -> list[Request]:
    """Each request once, in the order of first coming."""
    requests: dict[str, Request] = {}
    for part in parts:
        n = 0
        for _, _, asked, _ in part.asked():
            n += 1
            for request in asked:
                requests.setdefault(request.key, request)
        require(n > 0, f"task {part.task.name} must have a document", "none", error=UserError)
    return list(requests.values())


def conclude(
    samples: Samples,
    settings: Mapping[str, Any],
    model: Mapping[str, Any],
    *,
    missing: int = 0,
    notes: tuple[str, ...] = (),
) -> Outcome:
    """The numbers of samples, task by task."""
    numbers: list[Number] = []
    tasks = {}
    for name, parts in groupby(samples.parts, key=lambda part: part.task.name):
        found, tasks[name] = task_numbers(list(parts), samples, settings["seed"])
        numbers += found
    return Outcome(numbers, samples, dict(settings), dict(model), tasks, missing, notes)


def note_run(
    folder: Path, model: Mapping[str, Any], tasks: Sequence[str], settings: Mapping[str, Any]
) -> None:
    """Leave beside the journal what is being run, for `recover`."""
    note = {"model": model, "tasks": list(tasks), "settings": settings}
    runs = folder / "runs"
    runs.mkdir(exist_ok=True)
    write_atomic(runs / f"{digest(note)[:16]}.json", json.dumps(note, indent=1))
