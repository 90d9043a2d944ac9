"""The log at a glance: weeks by part, papers and programs, with what was judged of them."""

from __future__ import annotations

from collections.abc import Container
from itertools import zip_longest

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shared import log, records, tables

HINTS = ("study show 13", "study search WORD", "study practice", "study demo")


def overview(console: Console, commands: Container[str]) -> None:
    """Print the log, and the hints whose commands there are."""
    _weeks(console)
    _papers(console)
    _capstones(console)
    there = [hint for hint in HINTS if hint.split()[1] in commands]
    console.print(f"\nNext: uv run {' · '.join(there)}", style="bold")


def _weeks(console: Console) -> None:
    grid = _grid("", "", "checks", "held", "failed", "inconclusive", wide=1)
    everything: list[dict] = []
    for part, weeks in log.parts().items():
        if everything:
            grid.add_row()
        grid.add_row("", Text(part, "bold"))
        for week in weeks:
            found = tables.recorded("weeks", week["number"])
            title = week["title"] + ("" if "date" in week else " (planned)")
            cells = (tables.counts(found)[0], *_tally(found)) if found else ()
            grid.add_row(week["number"], title, *cells, style=None if found else "dim")
            everything += found
    grid.add_row()
    grid.add_row("", Text("Together", "bold"), tables.counts(everything)[0], *_tally(everything))
    console.print(grid)


def _tally(found: list[dict]) -> list[str]:
    """Claims held, failed, inconclusive; nothing for none."""
    return [f"{n or ''}" for n in tables.tally(c for r in found for c in r["claims"])]


def _papers(console: Console) -> None:
    """Two beside each other, in the order of their years down the left side, then the right."""
    cells, everything = [], []
    for paper in log.papers():
        claims = [
            c for r in tables.recorded("papers", paper["folder"]) for c in r["claims"] if c["paper"]
        ]
        verdict = f"{tables.tally(claims)[0]}/{len(claims)}" if claims else ""
        title = Text(tables.short_title(paper), "" if claims else "dim")
        cells.append((str(paper["year"]), title, verdict))
        everything += claims
    good, bad, open_ = tables.tally(everything)
    said = f" · {good} claims reproduced, {bad} not, {open_} inconclusive"
    console.print(Text.assemble("\n", ("Papers", "bold"), said))
    half = (len(cells) + 1) // 2  # the left side has the odd one
    grid = Table.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in range(2):
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, ratio=1)
        grid.add_column(justify="right", no_wrap=True)
    for left, right in zip_longest(cells[:half], cells[half:], fillvalue=("", "", "")):
        grid.add_row(*left, *right)
    console.print(grid, width=min(console.width, 100))


def _capstones(console: Console) -> None:
    console.print(Text("\nPrograms", "bold"))
    grid = _grid("", "", wide=1)
    for capstone in log.curriculum()["capstone"]:
        there = (records.ROOT / "capstones" / capstone["name"]).is_dir()
        command = capstone["command"] if there else "(planned)"
        grid.add_row(capstone["title"], command, style=None if there else "dim")
    console.print(grid)


def _grid(*columns: str, wide: int) -> Table:
    """Columns without lines between them, numbers to the right but in the first `wide` + 1.

    Where all do not fit, the column `wide` goes on in the next line.
    """
    grid = Table(box=None, pad_edge=False, show_header=any(columns), header_style="dim")
    for at, name in enumerate(columns):
        grid.add_column(name, justify="left" if at <= wide else "right", no_wrap=at != wide)
    return grid
