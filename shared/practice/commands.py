"""Exercises from the log: find a planted bug, write a function anew, predict what will hold.

Exercises are files in a folder of yours (practice/); the repository is never
changed. Without a command: go on where you were.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter
from rich.console import Console

from shared import records
from shared.errors import UserError
from shared.practice import exercises, predict, screen, watching
from shared.practice.desk import Desk
from shared.practice.exercises import Exercise
from shared.practice.grading import Copy

app = cyclopts.App(name="practice", help=__doc__, help_format="plaintext", version_flags=[])
console = Console(
    width=None if sys.stdout.isatty() else 110, highlight=False, markup=False, emoji=False
)

Kind = Literal["find", "write", "predict"]
Home = Annotated[Path | None, Parameter(help="Folder of your exercises; practice/ if not given.")]
Limit = Annotated[float, Parameter(help="Seconds that a run of tests may take.")]
Week = Annotated[str, Parameter(help="A week (13); all if not given.")]
Which = Annotated[Kind | None, Parameter(help="find, write or predict; all if not given.")]
Name = Annotated[str, Parameter(help="An exercise; the current one if not given.")]
LIMIT = 120.0


@app.default
def practice(
    *, week: Week = "", kind: Which = None, home: Home = None, limit: Limit = LIMIT
) -> bool | None:
    """Go on with the current exercise, or begin the next one; runs its test at every save."""
    desk, week = _desk(home), _week(week)
    exercise = desk.next(week, kind or "")
    if exercise is None:
        console.print("Nothing is left here: all is done. `study practice list` shows it.")
        return None
    return _begin(desk, exercise, week, kind or "", limit)


@app.command(name="open")
def open_(name: str, /, *, home: Home = None, limit: Limit = LIMIT) -> bool | None:
    """Begin an exercise of your choice, or go on with it.

    Parameters
    ----------
    name
        As `study practice list --week 13` shows it; find/, write/ or predict/ may be left out.
    """
    desk = _desk(home)
    exercise = desk.chosen(name)
    if exercise.kind == "predict" and desk.done(exercise):
        raise UserError(f"{exercise.name} is predicted: `study practice check {name}` shows it")
    return _begin(desk, exercise, exercise.week, "", limit)


def _begin(desk: Desk, exercise: Exercise, week: str, kind: str, limit: float) -> bool | None:
    """A session at a terminal, which goes on with that week and kind; elsewhere, its task."""
    if not limit > 0:  # nan too
        raise UserError(f"--limit must be above 0 seconds, got {limit:g}")
    if sys.stdin.isatty() and sys.stdout.isatty():
        return watching.session(console, desk, exercise, week, kind, limit)
    desk.open(exercise)
    if exercise.kind == "predict":
        return predict.ask(console, desk, exercise, read=lambda prompt: input())
    screen.exercise(console, desk, exercise)
    console.print("Next: edit the file, then `uv run study practice check`")
    return None


@app.command(name="list")
def list_(*, week: Week = "", kind: Which = None, home: Home = None) -> None:
    """Show how far you are in each week; of one week, its exercises."""
    desk = _desk(home)
    screen.overview(console, desk, _week(week), kind or "")
    if desk.progress.predicted:
        right, of, brier = predict.total(desk)
        console.print(f"predictions: {right} of {of} right, Brier score {brier:.2f}")


@app.command
def check(name: Name = "", /, *, home: Home = None, limit: Limit = LIMIT) -> bool:
    """Run the exercise's tests on your file; exit 1 if one is red."""
    desk = _desk(home)
    exercise = desk.chosen(name)
    if exercise.kind == "predict":
        said = desk.progress.predicted.get(exercise.name)
        if said is None:
            raise UserError(f"not predicted yet: `study practice open {exercise.name}` asks")
        predict.reveal(console, predict.claims(exercise), said)
        return True
    if not limit > 0:  # nan too
        raise UserError(f"--limit must be above 0 seconds, got {limit:g}")
    with Copy() as copy:
        found = desk.check(exercise, copy, limit)
    screen.outcome(console, exercise, found, helped=exercise.name in desk.progress.seen)
    action = "`uv run study practice` for the next one" if found.passed else "edit, check again"
    console.print(f"\nNext: {action}{'' if found.passed else '; `study practice hint` helps'}")
    return found.passed


@app.command
def hint(name: Name = "", /, *, home: Home = None) -> None:
    """Tell a little more, each time it is called."""
    desk = _desk(home)
    exercise = desk.chosen(name)
    number, of, text = desk.hint(exercise)
    console.print(f"Hint {number} of {of}. {text}")
    if number == of:
        action = "answer` shows the change"
        if exercise.kind == "predict":
            action = f"open {exercise.name}` asks what you believe"
            if desk.done(exercise):
                action = f"check {exercise.name}` shows what came out"
        console.print(f"Next: `study practice {action}", style="dim")


@app.command
def answer(name: Name = "", /, *, home: Home = None) -> None:
    """Show the change that solves the exercise."""
    desk = _desk(home)
    exercise = desk.chosen(name)
    if exercise.kind == "predict":
        raise UserError("a prediction's answer is the record: `study show` prints it")
    watching.reveal(console, desk, exercise)


@app.command
def reset(name: Name = "", /, *, home: Home = None) -> None:
    """Lay an exercise out anew; your file is kept under another name."""
    desk = _desk(home)
    exercise = desk.chosen(name)
    if exercise.kind == "predict":
        raise UserError("a prediction is made once: what the record says is known by then")
    aside = desk.reset(exercise)
    kept = f"; yours is kept as {os.path.relpath(aside)}" if aside else ""
    console.print(f"{os.path.relpath(desk.path(exercise))} is as at the start{kept}")


def _desk(home: Path | None) -> Desk:
    folder = (home or records.ROOT / "practice").resolve()
    inside = folder.is_relative_to(records.ROOT)
    if inside and folder.relative_to(records.ROOT).parts[:1] != ("practice",):
        raise UserError(f"--home must lie outside the project or in practice/, got {home}")
    desk = Desk(folder)
    if desk.notice:
        console.print(desk.notice, style="yellow")
    return desk


def _week(week: str) -> str:
    number = week.zfill(2) if week else ""
    if number and number not in exercises.weeks():
        raise UserError(f"--week must be one of {', '.join(exercises.weeks())}, got {week}")
    return number
