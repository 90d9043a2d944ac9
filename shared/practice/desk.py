"""The reader's folder: exercises laid out as files, checked, hinted at, reset."""

from __future__ import annotations

import difflib
import hashlib
import re
from itertools import chain
from pathlib import Path

from shared.errors import UserError
from shared.files import write_atomic
from shared.practice import exercises, progress
from shared.practice.exercises import Exercise
from shared.practice.grading import Copy, Outcome
from shared.practice.hints import hints

TASK = {
    "find": "# Find the bug\n\nOne classic mistake is planted in `{target}` of week {week}:\n"
    "\n> {why}\n\nEdit it until this test is green:\n",
    "write": "# Write it\n\nThe body of `{function}` in `{target}` is gone. Its docstring says:\n"
    "\n> {why}\n\nWrite it until these tests are green:\n",
}

CHANGED = (
    "The repository's module has changed since you began; `study practice reset` lays out the new "
    "one and keeps yours."
)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Desk:
    """A reader's exercises and progress in the folder `home`."""

    def __init__(self, home: Path):
        self.home = home
        self.progress, self.notice = progress.load(home)

    def path(self, exercise: Exercise) -> Path:
        """The reader's file of an exercise."""
        return self.home / exercise.name / exercise.target

    def done(self, exercise: Exercise) -> bool:
        """Whether it is solved, or predicted."""
        return exercise.name in self.progress.solved or exercise.name in self.progress.predicted

    def next(self, week: str = "", kind: str = "") -> Exercise | None:
        """The current exercise if it is open and of that week and kind, else the first open one."""
        current = self.named(self.progress.current) if self.progress.current else None
        wanted = current and week in ("", current.week) and kind in ("", current.kind)
        if wanted and not self.done(current):
            return current
        return next((e for e in exercises.every(week, kind) if not self.done(e)), None)

    def after(self, exercise: Exercise, week: str = "", kind: str = "") -> Exercise | None:
        """The open exercise that follows `exercise`, from the start again after the last."""
        numbers = [week] if week else exercises.weeks()
        at = numbers.index(exercise.week) if exercise.week in numbers else 0
        own = list(exercises.every(numbers[at], kind))
        here = own.index(exercise) + 1 if exercise in own else 0
        others = (e for n in [*numbers[at + 1 :], *numbers[:at]] for e in exercises.every(n, kind))
        turns = chain(own[here:], others, own[:here])
        return next((e for e in turns if e != exercise and not self.done(e)), None)

    def named(self, name: str) -> Exercise | None:
        """The exercise of a name, which the kind in front need not be part of."""
        found = re.search(r"week(\d\d)-", name)
        if not found or found[1] not in exercises.weeks():
            return None
        known = exercises.of_week(found[1])
        return next((e for e in known if name in (e.name, e.name.split("/")[1])), None)

    def chosen(self, name: str = "") -> Exercise:
        """The exercise of a name, or the current one.

        Raises
        ------
        UserError
            If there is none.
        """
        if not name and not self.progress.current:
            raise UserError("no exercise is begun: `uv run study practice` begins one")
        exercise = self.named(name or self.progress.current)
        if exercise is None:
            wanted = name or self.progress.current
            near = difflib.get_close_matches(wanted, exercises.names(wanted), n=2)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise UserError(
                f"no exercise is named {wanted!r}{hint}: `study practice list --week NN` has them"
            )
        return exercise

    def open(self, exercise: Exercise) -> None:
        """Make it the current one and lay out its files, unless they are there."""
        if exercise.kind != "predict":
            path = self.path(exercise)
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                write_atomic(path, exercise.start)
                self.progress.begun[exercise.name] = _digest(exercise.start)
            write_atomic(path.with_name("README.md"), self._task(exercise))
        self.progress.current = exercise.name
        self.progress.save(self.home)

    def _task(self, exercise: Exercise) -> str:
        fields = {n: getattr(exercise, n) for n in ("target", "week", "why", "function")}
        tests = "".join(f"- `{test}`\n" for test in exercise.tests)
        end = "\nThen `uv run study practice check`. The tests are the repository's own.\n"
        return TASK[exercise.kind].format(**fields) + "\n" + tests + end

    def check(self, exercise: Exercise, copy: Copy, limit: float) -> Outcome:
        """Grade the reader's file; a green one is kept as solved."""
        try:
            text = self.path(exercise).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise UserError(
                f"{self.path(exercise)} is not there: `study practice reset` lays it out again"
            ) from None
        except UnicodeDecodeError:
            return Outcome(False, f"{exercise.target} is not UTF-8 text")
        outcome = copy.grade(exercise, text, limit)
        began = self.progress.begun.get(exercise.name)
        if not outcome.passed and began not in (None, _digest(exercise.start)):
            outcome = Outcome(False, f"{outcome.said}\n{CHANGED}")
        if outcome.passed and exercise.name not in self.progress.solved:
            self.progress.solved.append(exercise.name)
            self.progress.save(self.home)
        return outcome

    def hint(self, exercise: Exercise) -> tuple[int, int, str]:
        """The next hint, as its number, how many there are, and its text; the last one stays."""
        known = hints(exercise)
        number = min(self.progress.hints.get(exercise.name, 0) + 1, len(known))
        self.progress.hints[exercise.name] = number
        self.progress.save(self.home)
        return number, len(known), known[number - 1]

    def reset(self, exercise: Exercise) -> Path | None:
        """Lay the exercise out anew; what the reader had is kept under the name that is given."""
        path, aside = self.path(exercise), None
        if path.exists() and path.read_bytes() != exercise.start.encode():
            aside = progress.free_name(path)
            path.rename(aside)
        for done in (self.progress.solved, self.progress.seen):
            if exercise.name in done:
                done.remove(exercise.name)
        self.progress.hints.pop(exercise.name, None)
        self.open(exercise)
        return aside
