"""What a run that was killed left: numbers of the documents that are answered, without a model."""

import json
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

from llm_eval.engine.journal import Journal
from llm_eval.engine.run import Outcome, conclude
from llm_eval.engine.samples import Samples, Task, parts_of
from shared.errors import UserError


def recover(
    cache: Path, *, open_tasks: Callable[[Sequence[str]], Sequence[Task]] | None = None
) -> Outcome:
    """The outcome of the last run in a cache, as far as it came.

    Parameters
    ----------
    cache
        The folder that the run had.
    open_tasks
        Opens the tasks by the names that the run noted; by default the built-in ones.

    Returns
    -------
    Its samples are the documents of which all answers are there; `missing` counts the others.

    Raises
    ------
    UserError
        No run began there, or as `Journal` and `open_tasks` raise.
    """
    runs = sorted(Path(cache).glob("*/runs/*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not runs:
        raise UserError(f"{cache} holds no run; it must be the cache folder of one that began")
    try:
        note = json.loads(runs[-1].read_text(encoding="utf-8"))
        model, names, settings = note["model"], note["tasks"], note["settings"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{runs[-1]} is no note of a run ({error})") from error
    if open_tasks is None:
        from llm_eval.tasks.opening import open_tasks
    journal = Journal(cache, model["identity"])
    samples = Samples(parts_of(open_tasks(names), settings), lambda r: journal.get(r.key))
    asked = sum(1 for _ in chain.from_iterable(part.asked() for part in samples.parts))
    missing = asked - sum(1 for _ in samples)
    damaged = f"{journal.damaged} answers were altered on the disk" if journal.damaged else ""
    return conclude(samples, settings, model, missing=missing, notes=(damaged,) * bool(damaged))
