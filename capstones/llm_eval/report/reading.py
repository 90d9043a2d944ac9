"""Results that were saved, read back only if every byte is as it was written.

`results.json` ends with a digest of itself and holds that of `samples.jsonl`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from llm_eval.types import Number, Sample
from shared import artifacts
from shared.artifacts import ArtifactError

VERSION = 1
RESULTS, SAMPLES, RUN, PAGE = "results.json", "samples.jsonl", "run.json", "index.html"
_KINDS = {float | None: (float, int, type(None)), bool | None: (bool, type(None))}


@dataclass(frozen=True)
class Results:
    """What a run found, without its samples.

    Attributes
    ----------
    model
        `name` and `identity`.
    settings
        What the run was asked for: limit, seed, num_fewshot, chat, templates.
    tasks
        By name: title, license, source, version, documents, size, failed, tags.
    missing
        Documents that were not asked yet when a run was broken off.
    """

    model: Mapping[str, Any]
    settings: Mapping[str, Any]
    tasks: Mapping[str, Mapping[str, Any]]
    numbers: tuple[Number, ...]
    missing: int = 0

    def as_json(self) -> dict[str, Any]:
        """The body of results.json."""
        return {
            "version": VERSION,
            "model": dict(self.model),
            "settings": dict(self.settings),
            "tasks": {name: dict(task) for name, task in self.tasks.items()},
            "numbers": [number.as_json() for number in self.numbers],
        } | ({"missing": self.missing} if self.missing else {})


def read_results(folder: Path) -> Results:
    """The results in a folder.

    Raises
    ------
    ArtifactError
        There are none, or results.json is torn, altered or of another version.
    """
    path, body = _opened(folder)
    if body.get("version") != VERSION:
        raise ArtifactError(f"{path} must be of version {VERSION}, got {body.get('version')!r}")
    try:
        model, settings, tasks = body["model"], body["settings"], body["tasks"]
        parts = [model, settings, tasks, *tasks.values()]
        if not all(isinstance(part, dict) for part in parts):
            raise TypeError("its parts are not named")
        numbers, missing = tuple(_number(row) for row in body["numbers"]), body.get("missing", 0)
        if not isinstance(missing, int):
            raise TypeError(f"missing is {missing!r}")
        return Results(model, settings, tasks, numbers, missing)
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} holds no results ({error})") from error


def read_samples(folder: Path) -> Iterator[Sample]:
    """The samples in a folder, one after the other; all bytes are verified before the first.

    Raises
    ------
    ArtifactError
        There are none, or samples.jsonl is not the one that the results were made of.
    """
    path, body = _opened(folder)
    path = path.with_name(SAMPLES)
    try:
        with path.open("rb") as stream:
            if facts_of(stream) != body["files"].get(SAMPLES):
                raise ArtifactError(f"{path} was altered or is torn; run the evaluation again")
            stream.seek(0)
            for line in stream:
                yield Sample.of(json.loads(line))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error})") from error


def facts_of(stream: BinaryIO) -> dict[str, Any]:
    """A file's digest and size, from where the stream stands."""
    digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"sha256": digest, "bytes": stream.tell()}


def _opened(folder: Path) -> tuple[Path, dict[str, Any]]:
    found, _ = artifacts.current(artifacts.absolute(folder))
    path = found / RESULTS
    try:
        body = artifacts.opened(path.read_bytes())
    except FileNotFoundError as error:
        raise ArtifactError(f"there are no results in {folder} ({RESULTS} is missing)") from error
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror or error})") from error
    if body is None:
        raise ArtifactError(f"{path} was altered or is torn; run the evaluation again")
    return path, body


def _number(row: Mapping[str, Any]) -> Number:
    number = Number(**row)
    for name, kind in Number.__annotations__.items():
        value = getattr(number, name)
        if not isinstance(value, _KINDS.get(kind, kind)):
            raise TypeError(f"{name} of a number is {value!r}")
    return number
