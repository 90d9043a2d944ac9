"""What the reader sees: one exercise, one outcome, one next action."""

from __future__ import annotations

import os

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import log
from shared.practice import exercises
from shared.practice.desk import Desk
from shared.practice.exercises import KINDS, Exercise
from shared.practice.grading import Outcome
from shared.practice.hints import answer

TITLE = {"find": "Find the bug", "write": "Write it", "predict": "Predict"}
WIDTH = 24  # of a bar
STYLES = {"+": "green", "-": "red", "@": "cyan"}


def exercise(console: Console, desk: Desk, shown: Exercise) -> None:
    """The task: what is wrong or missing, which file, which test."""
    console.print()
    console.print(Text(f"{TITLE[shown.kind]} · week {shown.week}", "bold cyan"))
    console.print(f"  {shown.why}")
    console.print()
    if shown.kind == "write":
        console.print(f"  write  {shown.function}")
    console.print(f"  edit   {os.path.relpath(desk.path(shown))}", soft_wrap=True)
    more = f" and {len(shown.tests) - 1} more" if len(shown.tests) > 1 else ""
    console.print(f"  test   {shown.tests[0]}{more}", style="dim", soft_wrap=True)
    console.print()


def outcome(console: Console, shown: Exercise, found: Outcome, *, helped: bool) -> None:
    """Red with the reason, or green with what there was to learn."""
    if not found.passed:
        console.print(Text("✗ red", "bold red"))
        for line in found.said.split("\n"):
            console.print(Text(f"  {line}", "red" if line.startswith("E ") else "dim"))
        return
    console.print(Text("✓ green", "bold green"), "(after the answer)" if helped else "")
    if shown.kind == "find":
        console.print(f"  What the mistake does: {shown.why}")
    else:
        console.print("  In the repository:")
    diff(console, shown)


def diff(console: Console, shown: Exercise) -> None:
    """The way from what the reader got to what stands in the repository."""
    for line in answer(shown).split("\n"):
        console.print(Text(f"  {line}", STYLES.get(line[:1], "dim")))


def bar(done: int, of: int) -> Text:
    """`━━━━──── 3 of 9`."""
    full = WIDTH * done // of if of else WIDTH
    full = max(full, 1) if done else 0
    return Text.assemble(("━" * full, "green"), ("─" * (WIDTH - full), "dim"), f" {done} of {of}")


def overview(console: Console, desk: Desk, week: str, kind: str) -> None:
    """A bar for each week; of one week, its exercises."""
    chosen = list(exercises.every(week, kind))
    if week:
        for one in chosen:
            mark = Text("✓", "green") if desk.done(one) else Text("·", "dim")
            now = " ← now" if one.name == desk.progress.current else ""
            what = f"{one.function}: {one.why}" if one.kind == "write" else one.why
            console.print(mark, Text(one.name, "bold"), Text(f"{what}{now}"))
    else:
        grid = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("week", "title", *KINDS, ""):
            grid.add_column(column, justify="right" if column in KINDS else "left")
        titles = {w["number"]: w["title"] for w in log.curriculum()["week"]}
        for number in exercises.weeks():
            own = [e for e in chosen if e.week == number]
            cells = []
            for name in KINDS:
                of_kind = [e for e in own if e.kind == name]
                cells.append(f"{sum(map(desk.done, of_kind))}/{len(of_kind)}" if of_kind else "")
            grid.add_row(number, titles[number], *cells, bar(sum(map(desk.done, own)), len(own)))
        console.print(grid)
    console.print()
    console.print("all  ", bar(sum(map(desk.done, chosen)), len(chosen)), end="\n")
