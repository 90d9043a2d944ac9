"""Whether a run, a checkpoint or prepared data is intact: every byte is read."""

import json
import os
import re
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from shared import artifacts
from shared.artifacts import ArtifactError
from shared.errors import UserError
from tiny_gpt import seal
from tiny_gpt.data.shards import open_data
from tiny_gpt.report.describe import kind_of
from tiny_gpt.training import checkpoints

__all__ = ["Finding", "verify"]

FILES = ("settings.toml", "log.jsonl", "timing.jsonl")
FILES += ("samples.json", "evaluation.json", "report.html")


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written: a file, or the folder where no file is to blame.

    If it is not `fatal`, the program deals with it by itself; `good` is the checkpoint to go back
    to, if there is one.
    """

    file: Path
    what: str
    fatal: bool
    good: Path | None = None

    def __str__(self) -> str:
        back = f"; go back to {self.good}" if self.good and self.fatal else ""
        return f"{'fatal' if self.fatal else 'note'}: {self.file}: {self.what}{back}"


def verify(path: Path) -> list[Finding]:
    """Read every byte of a run, a checkpoint or prepared data; an intact one gives no finding.

    Of an export what is wrong is raised, as an ArtifactError.
    """
    path = Path(path)
    kind = kind_of(path)
    if kind == "export":
        artifacts.load(path)
        return []
    if kind == "data":
        try:
            open_data(path)
        except UserError as error:
            return [Finding(_file_named(error, path), str(error), True)]
        return []
    if kind == "checkpoint":
        found = _verify_checkpoint(path)
        return [replace(f, good=checkpoints.previous_good(path)) for f in found]
    return _verify_run(path)


def _verify_run(run: Path) -> list[Finding]:
    found: list[Finding] = []
    steps = checkpoints.steps_saved(run)
    folders = [checkpoints.folder_of(run, step) for step in steps]
    wrong = {folder: _verify_checkpoint(folder) for folder in folders}
    if best := checkpoints.best_of(run):
        wrong[best] = _verify_checkpoint(best)
    good = next((f for f in (*reversed(folders), best) if wrong.get(f) == []), None)
    found += [finding for findings in wrong.values() for finding in findings]
    for folder in (run, run / "checkpoints"):
        for left in sorted(folder.glob(".*.saving")) if folder.is_dir() else ():
            found.append(Finding(left, "left by a save that was interrupted", False))
    found += _verify_files(run)
    last = steps[-1] if steps else 0
    known = 0 if good is None else checkpoints.load_checkpoint(good).state.get("log_bytes", 0)
    found += _verify_log(run / "log.jsonl", last, known)
    return [replace(f, good=good) for f in found]


def _verify_files(run: Path) -> list[Finding]:
    """The files beside the checkpoints, by the run's seal."""
    found: list[Finding] = []
    try:
        sealed = seal.sealed(run)
    except ArtifactError as error:
        # The seal is older than the first checkpoint; before that there is nothing to lose.
        saved = checkpoints.steps_saved(run) or checkpoints.best_of(run)
        return [Finding(run / seal.SEAL, str(error), bool(saved))]
    for name in sorted({*FILES, *sealed}):
        if not os.path.lexists(run / name):
            if name in sealed or name == "log.jsonl":
                found.append(Finding(run / name, "is missing", True))
        elif name not in sealed:
            what = "is not sealed: its writing was interrupted, or it is not the run's"
            found.append(Finding(run / name, what, False))
        else:
            try:
                if len(seal.read(run, name)) < (run / name).stat().st_size:
                    what = "goes on after what was saved; that is not believed"
                    found.append(Finding(run / name, what, False))
            except ArtifactError as error:
                found.append(Finding(run / name, str(error), True))
    return found


def _verify_checkpoint(folder: Path) -> list[Finding]:
    try:
        checkpoints.load_checkpoint(folder)
    except UserError as error:
        # The loader's hint is left out: `good` says it.
        cause = error.__cause__ if isinstance(error.__cause__, ArtifactError) else error
        return [Finding(_file_named(cause, folder), str(cause), True)]
    return []


def _verify_log(path: Path, last: int, known: int) -> list[Finding]:
    """Steps one by one, nothing torn but the end, and all that a checkpoint counts on.

    `last` is the step of the newest checkpoint, `known` the bytes the log had at a good one.
    """
    if path.is_symlink() or not path.is_file():
        return []
    found, steps = [], [0]
    *lines, tail = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            step = int(record["step"])
            trained = "loss" in record
        except (ValueError, TypeError, LookupError, RecursionError, OverflowError):
            is_end = number == len(lines) and not tail
            found.append(Finding(path, f"line {number} is torn or altered", not is_end))
            continue
        if trained:
            steps.append(step)
        elif step != steps[-1]:
            found.append(Finding(path, f"line {number} validates step {step} out of place", True))
    for before, after in pairwise(steps):
        if after != before + 1:
            found.append(Finding(path, f"step {before} is followed by step {after}", True))
    if tail:
        found.append(Finding(path, f"line {len(lines) + 1} is torn; resuming cuts it off", False))
    size = path.stat().st_size
    if size < known or steps[-1] < last:
        what = f"ends at step {steps[-1]} with {size} bytes, before the checkpoint of step {last}"
        found.append(Finding(path, what, True))
    return found


def _file_named(error: BaseException, folder: Path) -> Path:
    """The file in `folder` that a message blames; the folder if it blames none."""
    inside = re.escape(str(folder.absolute())) + r"/([A-Za-z0-9_.-]*\w)"
    match = re.search(rf"cannot be trusted: ([A-Za-z0-9_.-]+) |{inside}", str(error))
    return folder / (match[1] or match[2]) if match else folder
