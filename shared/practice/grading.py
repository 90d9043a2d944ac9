"""Run an exercise's tests on the reader's module, in a copy of the project, for a limited time."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

from shared import records
from shared.bug_runner import environment_of, link_packages
from shared.errors import UserError
from shared.practice.exercises import Exercise

SHOWN = 12  # lines of a failure's reason
KEPT = 20_000  # characters of output that are read for them


@dataclass(frozen=True)
class Outcome:
    """Whether the tests are green, and what they said if not."""

    passed: bool
    said: str = ""


class Copy:
    """A throw-away copy of the project with one module replaced: `with Copy() as copy`.

    The tests are the repository's; what the reader writes is one file.
    """

    def __enter__(self) -> Copy:
        names = [name for name in records.git_files() if not name.endswith(".png")]
        if not names:
            raise UserError("study practice copies what git knows, and this is not a git checkout")
        self.scratch = tempfile.TemporaryDirectory(prefix="study-practice-")
        self.folder = Path(self.scratch.name)
        for name in names:
            if (records.ROOT / name).is_file():
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(records.ROOT / name, self.folder / name)
        link_packages(self.folder)
        return self

    def __exit__(self, *error) -> None:
        self.scratch.cleanup()

    def grade(self, exercise: Exercise, text: str, limit: float) -> Outcome:
        """Run the tests of `exercise` with `text` as its module, for `limit` seconds at most."""
        try:
            compile(text, exercise.target, "exec")
        except (SyntaxError, ValueError) as error:
            where = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            said = getattr(error, "msg", None) or str(error)
            return Outcome(False, f"{exercise.target}{where}: {said}")
        (self.folder / exercise.file).write_text(text, encoding="utf-8")
        report = self.folder / "practice-report.xml"
        report.unlink(missing_ok=True)
        options = ["-q", "-x", "-n0", "--tb=short", "-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", *options, f"--junitxml={report}"]
        status, output = _limited([*command, *exercise.tests], self.folder, limit)
        if status is None:
            said = f"ended after {limit:g} s: does a loop not end? (--limit gives more time)"
            return Outcome(False, said)
        if status == 0:
            return _green(report)
        return Outcome(False, shortened(output))


def _limited(command: list[str], folder: Path, limit: float) -> tuple[int | None, str]:
    """Exit status and output; None as status where time ran out. No child outlives the call."""
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=environment_of(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        finally:  # also on Ctrl-C
            _end(process)
        output.seek(0)
        return status, output.read().decode(errors="replace")[-KEPT:]


def _end(process: subprocess.Popen) -> None:
    """End a process and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _green(report: Path) -> Outcome:
    """Exit status 0 counts only where tests ran: one may be skipped, or the process ended."""
    try:
        suite = ElementTree.parse(report).getroot().find("testsuite")
        ran, skipped = int(suite.get("tests")), int(suite.get("skipped"))
    except (OSError, ElementTree.ParseError, AttributeError):
        return Outcome(False, "the process ended before the tests did")
    if skipped or not ran:
        return Outcome(False, "the test was skipped: something that it needs is not here")
    return Outcome(True)


def shortened(output: str) -> str:
    """Of pytest's output, the test's line, the last lines before it failed, and why it did."""
    places, reasons, foreign = [], [], False
    for line in output.split("= short test summary")[0].split("= warnings summary")[0].split("\n"):
        if line.startswith("E   "):
            reasons.append(line)
        elif not reasons and re.match(r"\S.*:\d+: in ", line):
            foreign = not re.match(r"(?:tests|weeks|imports)/[\w/]+\.py:", line)
            line = re.sub(r"^imports/week(\d\d)/", r"weeks/\1/", line)
            places += [] if foreign else [line]
        elif not reasons and places and not foreign and re.match(r"    \s*[^\s^~]", line):
            places.append(line)
    if not reasons:
        return "\n".join([line for line in output.split("\n") if line.strip()][-SHOWN:])
    if len(places) > SHOWN // 2:
        places = [*places[:2], *places[2 - SHOWN // 2 :]]
    more = [f"… {len(reasons) - SHOWN} more lines"] if len(reasons) > SHOWN else []
    return "\n".join(line[:160].rstrip() for line in [*places, *reasons[:SHOWN], *more])
