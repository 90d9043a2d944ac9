"""Predictions: the reader says what will hold before the record does."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import records
from shared.judge import rule_text, value_text
from shared.practice.desk import Desk
from shared.practice.exercises import Exercise
from shared.practice.hints import hints
from shared.tables import GOOD

WORDS = {"y": 1.0, "yes": 1.0, "n": 0.0, "no": 0.0}


def claims(exercise: Exercise) -> list[dict]:
    """The claims that the script's record holds."""
    return records.load(records.record_of(records.ROOT / exercise.file))["claims"]


def probability(word: str) -> float | None:
    """`y`, `n`, or how sure one is in percent; None for anything else."""
    word = word.strip().lower().removesuffix("%").strip()
    if word in WORDS:
        return WORDS[word]
    return int(word) / 100 if word.isdecimal() and int(word) <= 100 else None


def score(rows: list[dict], said: dict[str, float]) -> tuple[int, int, float]:
    """How many were right, of how many, and the Brier score: the mean square of what it was off."""
    pairs = [(said[r["name"]], r["verdict"] in GOOD) for r in rows if r["name"] in said]
    right = sum((p >= 0.5) == held for p, held in pairs)
    brier = sum((p - held) ** 2 for p, held in pairs) / len(pairs) if pairs else 0.0
    return right, len(pairs), brier


def ask(
    console: Console, desk: Desk, exercise: Exercise, read: Callable[[str], str] = input
) -> bool:
    """Ask for each claim, then show what the record says; False if the answers end before."""
    rows, said = claims(exercise), {}
    idea, *on_claims = hints(exercise)
    console.print()
    console.print(Text(f"Predict · week {exercise.week} · {exercise.why}", "bold cyan"))
    console.print(
        "  Will it hold? y, n, or how sure you are that it does, in percent; h for a hint.",
        style="dim",
    )
    for number, row in enumerate(rows, 1):
        console.print(f"\n  {number}/{len(rows)}  {row['name']}", style="bold")
        unit = f" ({row['unit']})" if row["unit"] else ""
        console.print(f"       rule: {rule_text(row)}{unit}", style="dim")
        while row["name"] not in said:
            try:
                word = read("       > ")
            except EOFError:
                console.print("\nNot all claims are answered; nothing was kept.")
                return False
            answer = probability(word)
            if answer is not None:
                said[row["name"]] = answer
            elif word.strip().lower() == "h":
                text = "\n".join(filter(None, [idea, on_claims[number - 1]]))
                console.print(textwrap.indent(text, "       "), style="yellow")
                idea = ""  # once is enough
            else:
                console.print("       y, n, a number from 0 to 100, or h", style="yellow")
    desk.progress.predicted[exercise.name] = said
    desk.progress.save(desk.home)
    reveal(console, rows, said)
    return True


def reveal(console: Console, rows: list[dict], said: dict[str, float]) -> None:
    """What was said beside verdict, value and interval."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("", "claim", "you", "record", "measured"):
        grid.add_column(column, overflow="fold")
    for row in rows:
        if row["name"] not in said:
            continue
        p = said[row["name"]]
        right = (p >= 0.5) == (row["verdict"] in GOOD)
        mark = Text("✓", "green") if right else Text("✗", "red")
        grid.add_row(mark, row["name"], f"{p:.0%}", row["verdict"], value_text(row))
    right, of, brier = score(rows, said)
    console.print()
    console.print(grid)
    console.print(f"\n{right} of {of} right, Brier score {brier:.2f} (0 is best, 0.25 a coin)")


def total(desk: Desk) -> tuple[int, int, float]:
    """The score over all predictions."""
    right, of, square = 0, 0, 0.0
    for name, said in desk.progress.predicted.items():
        exercise = desk.named(name)
        if exercise is not None:
            r, n, brier = score(claims(exercise), said)
            right, of, square = right + r, of + n, square + n * brier
    return right, of, square / of if of else 0.0
