"""A session at a terminal: the test runs at every save, keys ask for help."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from rich.console import Console

from shared.practice import exercises, predict, screen
from shared.practice.desk import Desk
from shared.practice.exercises import Exercise
from shared.practice.grading import Copy

KEYS = "h hint · a answer · r run · n another exercise · q quit (then Enter)"
STOPPED = "\nStopped. Your work is kept; `uv run study practice` goes on."


def session(
    console: Console, desk: Desk, exercise: Exercise | None, week: str, kind: str, limit: float
) -> bool:
    """Go from exercise to exercise until the reader stops."""
    try:
        with Copy() as copy:
            while exercise is not None:
                desk.open(exercise)
                if exercise.kind == "predict":
                    go_on = predict.ask(console, desk, exercise)
                else:
                    go_on = _work(console, desk, exercise, copy, limit)
                if not go_on:
                    break
                if desk.done(exercise):
                    _total(console, desk, exercise)
                    if not _enter(console):
                        break
                exercise = desk.after(exercise, week, kind)
    except KeyboardInterrupt:
        pass
    console.print(STOPPED)
    return True


def _work(console: Console, desk: Desk, exercise: Exercise, copy: Copy, limit: float) -> bool:
    """Check at every save until green or another is wanted; False to stop."""
    screen.exercise(console, desk, exercise)
    for event in chain(["r"], events(desk.path(exercise))):  # red before anything is edited
        if event in ("save", "r"):
            if _checked(console, desk, exercise, copy, limit):
                return True
        elif event == "h":
            number, of, text = desk.hint(exercise)
            console.print(f"Hint {number} of {of}. {text}", style="yellow")
        elif event == "a":
            reveal(console, desk, exercise)
        elif event == "n":
            return True
        elif event == "q":
            return False
        else:
            console.print(KEYS, style="dim")
    return False


def _checked(console: Console, desk: Desk, exercise: Exercise, copy: Copy, limit: float) -> bool:
    with console.status("running the test …"):
        found = desk.check(exercise, copy, limit)
    screen.outcome(console, exercise, found, helped=exercise.name in desk.progress.seen)
    if not found.passed:
        console.print("\nNext: edit the file and save it.", style="bold")
        console.print(KEYS, style="dim")
    return found.passed


def reveal(console: Console, desk: Desk, exercise: Exercise) -> None:
    """Show the answer and remember that it was seen."""
    if exercise.name not in desk.progress.seen:
        desk.progress.seen.append(exercise.name)
        desk.progress.save(desk.home)
    console.print(exercise.why)
    screen.diff(console, exercise)


def events(path: Path) -> Iterator[str]:
    """`save` whenever the file's content changed, else a line that was typed."""
    from watchfiles import watch

    last = path.read_bytes()
    for _ in watch(path.parent, rust_timeout=300, yield_on_timeout=True, raise_interrupt=True):
        try:
            now = path.read_bytes()
        except OSError:  # between an editor's two renames
            continue
        if now != last:
            last = now
            yield "save"
        if os.name != "nt" and select.select([sys.stdin], [], [], 0)[0]:
            line = sys.stdin.readline()
            yield line.strip().lower() if line else "q"


def _total(console: Console, desk: Desk, exercise: Exercise) -> None:
    own = exercises.of_week(exercise.week)
    everything = list(exercises.every())
    console.print()
    console.print(f"week {exercise.week}", screen.bar(sum(map(desk.done, own)), len(own)))
    console.print("log    ", screen.bar(sum(map(desk.done, everything)), len(everything)))


def _enter(console: Console) -> bool:
    console.print("\nNext: Enter begins another exercise, Ctrl-C stops.", style="bold")
    return bool(sys.stdin.readline())
