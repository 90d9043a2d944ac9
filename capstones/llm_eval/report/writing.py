"""A run's results in a folder: what was found, every sample, when and with what, and a page.

    results.json   numbers, settings, model, tasks; the same run gives the same bytes
    samples.jsonl  a line per document and prompt: what was asked, answered and made of it
    run.json       when, with which versions
    index.html     a page for people

The folder is written beside its target and renamed into place: a crash at any instant leaves the
old results or the new ones.
"""

import dataclasses
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llm_eval.report.labels import require_signatures
from llm_eval.report.page import page
from llm_eval.report.reading import PAGE, RESULTS, RUN, SAMPLES, Results, facts_of, read_samples
from llm_eval.types import Number, Sample
from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from shared.files import locked, sync_folder, write_synced

FILES = {RESULTS, SAMPLES, RUN, PAGE}


@runtime_checkable
class Outcome(Protocol):
    """What a run hands over; samples are gone through once.

    Attributes
    ----------
    model
        Has a name and an identity, as an object or by key.
    tasks, missing
        As in `Results`; notes go to run.json.
    """

    numbers: Iterable[Number]
    samples: Iterable[Sample]
    settings: Mapping[str, Any]
    model: Any
    tasks: Mapping[str, Mapping[str, Any]]
    missing: int
    notes: Sequence[str]


def save(outcome: Outcome, folder: Path, *, run: Mapping[str, Any] | None = None) -> Results:
    """Write a run's results, replacing the ones that are there.

    Parameters
    ----------
    run
        What else run.json should hold, such as seconds and arguments.

    Raises
    ------
    ValueError
        A number has no signature.
    UserError
        The folder holds something else, or cannot be written.
    """
    results = results_of(outcome)
    target = artifacts.absolute(folder)
    saving, previous = (artifacts.beside(target, what) for what in ("saving", "previous"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.parent):
            _refuse(target)
            artifacts.remove(saving)
            try:
                saving.mkdir()
                more = {"notes": list(outcome.notes)} | dict(run or {})
                _write(saving, results, outcome.samples, more)
                sync_folder(saving)
                artifacts.swap(saving, target, previous)
            except BaseException:
                artifacts.remove(saving)
                raise
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error})") from error
    return results


def results_of(outcome: Outcome) -> Results:
    """What of a run is kept in results.json."""
    model = outcome.model
    if not isinstance(model, Mapping):
        model = {"name": model.name, "identity": dict(model.identity)}
    numbers = tuple(_finite(number) for number in outcome.numbers)
    require_signatures(numbers)
    return Results(model, outcome.settings, outcome.tasks, numbers, outcome.missing)


def _write(folder: Path, results: Results, samples: Iterable[Sample], run: dict[str, Any]) -> None:
    with (folder / SAMPLES).open("x+b") as stream:
        for sample in samples:
            text = json.dumps(sample.as_json(), default=_plain, separators=(",", ":"))
            stream.write(text.encode() + b"\n")
        stream.flush()
        os.fsync(stream.fileno())
        stream.seek(0)
        files = {SAMPLES: facts_of(stream)}
    write_synced(folder / RESULTS, artifacts.sealed({**results.as_json(), "files": files}))
    write_synced(folder / RUN, json.dumps(_made() | run, indent=1).encode() + b"\n")
    write_synced(folder / PAGE, page(results, read_samples(folder)).encode())


def _made() -> dict[str, Any]:
    packages = ("ml-studies", "torch", "numpy")
    return {
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def _refuse(target: Path) -> None:
    """A folder with more in it than results is not replaced, which would delete the rest."""
    artifacts.refuse_to_replace_others(target, RESULTS)
    if target.is_dir() and (others := {path.name for path in target.iterdir()} - FILES):
        raise ArtifactError(f"{target} also holds {min(others)}: not replaced")


def _finite(number: Number) -> Number:
    """JSON has no infinity: such a value becomes none, and the note says so."""
    odd = {
        name: None
        for name in ("value", "stderr", "low", "high", "detectable")
        if (value := getattr(number, name)) is not None and not math.isfinite(value)
    }
    if "value" in odd:
        odd["note"] = f"{number.note} The value is {number.value}.".strip()
    return dataclasses.replace(number, **odd) if odd else number


def _plain(value: Any) -> Any:
    """NumPy's scalars and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else str(value)
