"""Two runs side by side: what differs, by how much, and whether that is more than chance.

Numbers are compared only where they were measured in the same way, which their signatures say.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_eval.report import labels
from llm_eval.report.page import render
from llm_eval.report.pictures import Row, plot
from llm_eval.report.reading import Results
from shared.errors import UserError

if TYPE_CHECKING:
    from llm_eval.statistics.compare import Difference

LEVEL = 0.05
NARROW, WIDE = 96, 124  # columns; below the one no table, from the other on both values too
LEGEND = (
    "difference: the first minus the second, over the documents both answered, with its 95 % "
    "interval; corrected: p for as many comparisons as there are rows"
)


def refuse_differing(a: Results, b: Results) -> None:
    """Refuse two runs if a number of both was measured in two ways.

    Raises
    ------
    UserError
        Such a number, and what differs in how it was measured; or there is no number of both.
    """
    there = {_key(x): x.signature for x in b.numbers}
    common = [x for x in a.numbers if _key(x) in there]
    if not common:
        raise UserError("two runs must share a task and a metric to be compared; these share none")
    differing = [x for x in common if x.signature != there[_key(x)]]
    if differing:
        first = differing[0]
        how = labels.differing(there[_key(first)], first.signature)
        more = f", and {len(differing) - 1} more numbers" if len(differing) > 1 else ""
        raise UserError(f"{first.task}.{first.metric} cannot be compared: {how}{more}")


def verdict(difference: "Difference") -> str:
    """Which run is better, if that is more than chance, after the correction."""
    p = difference.p if difference.corrected is None else difference.corrected
    if p is None or difference.value is None:
        return "not tested"
    if p >= LEVEL:
        return "no difference shown"
    if difference.higher_is_better is None:
        return "they differ"
    first = (difference.value > 0) == difference.higher_is_better
    return f"the {'first' if first else 'second'} is better"


def show_comparison(
    console: Console, a: Results, b: Results, differences: Sequence["Difference"]
) -> None:
    """Print a table of differences.

    Raises
    ------
    UserError
        As `refuse_differing`.
    """
    refuse_differing(a, b)
    console.print(Text(labels.plain(f"first: {_named(a)}, second: {_named(b)}", 200), style="bold"))
    if console.width < NARROW:
        for name, rows in groupby(_rows(differences), key=lambda row: row["name"]):
            console.print(Text(labels.plain(name)))
            for row in rows:
                console.print(Text(f"    {_told(row)}"))
    else:
        console.print(_table(differences, wide=console.width >= WIDE))
    console.print(Text(LEGEND, style="dim"))
    for note in _notes(differences):
        console.print(Text(labels.plain(note, 1000), style="yellow"))


def _table(differences: Sequence["Difference"], *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    sides = ("first", "second") if wide else ()
    for name in (*sides, "difference", "95 % interval", "p", "corrected", "n"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    for row in _rows(differences):
        cells = [row["name"], f"{row['metric']} {row['arrow']}"]
        cells += [row["a"], row["b"]] if wide else []
        cells += [row["value"], row["interval"], row["p"], row["corrected"], str(row["of"].n)]
        table.add_row(*(Text(labels.plain(cell)) for cell in (*cells, row["verdict"])))
    return table


def _told(row: Mapping[str, Any]) -> str:
    """A row of the table where there is no room for columns."""
    metric = labels.plain(row["metric"])
    parts = [f"{metric} {row['arrow']} {row['value']} {row['interval']}".strip()]
    parts += [f"{name} {row[name]}" for name in ("p", "corrected") if row[name]]
    return ", ".join([*parts, f"n {row['of'].n}", row["verdict"]])


def comparison_page(a: Results, b: Results, differences: Sequence["Difference"]) -> str:
    """A page of differences, as safe and as whole as a run's.

    Raises
    ------
    UserError
        As `refuse_differing`.
    """
    refuse_differing(a, b)
    by_task: dict[str, list[Row]] = {}
    for row in _rows(differences):
        of = row["of"]
        if of.value is not None and of.low is not None:
            text = f"{row['value']} {row['interval']}".strip()
            ends = (of.value, of.low, of.high)
            more = {"neutral": 0.0, "detectable": of.detectable}
            picture = Row(row["name"], of.metric, *ends, text, **more)
            small = all(x is None or abs(x) <= 1 for x in ends)
            by_task.setdefault("" if small else of.metric, []).append(picture)
    return render(
        "comparison.html",
        scripts=("table.js",),
        title=f"{_named(a)} and {_named(b)}",
        names=(_named(a), _named(b)),
        results=(a, b),
        plots=[plot(name or "First minus second", "", rows) for name, rows in by_task.items()],
        rows=_rows(differences),
        notes=_notes(differences),
        legend=LEGEND,
    )


def _rows(differences: Sequence["Difference"]) -> list[dict[str, Any]]:
    return [
        {
            "of": x,
            "name": f"{x.task} “{x.template}”" if x.template else x.task,
            "metric": x.metric,
            "arrow": labels.arrow(x.higher_is_better),
            "a": labels.digits(x.a),
            "b": labels.digits(x.b),
            "value": _signed(x.value),
            "interval": ""
            if x.low is None or x.high is None
            else f"[{_signed(x.low)}, {_signed(x.high)}]",
            "p": _p(x.p),
            "corrected": _p(x.corrected),
            "verdict": verdict(x),
        }
        for x in differences
    ]


def _notes(differences: Sequence["Difference"]) -> list[str]:
    """What is in no difference, and what the tests say of themselves."""
    told: dict[str, list[str]] = {}
    for x in differences:
        of = [f"{x.unpaired} documents are in only one of the runs"] if x.unpaired else []
        of += [f"{x.failed} pairs lack an answer and are left out"] if x.failed else []
        for note in [*of, x.note] if x.note else of:
            told.setdefault(note, []).append(f"{x.task}.{x.metric}")
    return [labels.told(note, names) for note, names in told.items()]


def _key(number: Any) -> tuple[str, ...]:
    return number.task, number.metric, number.group, number.template


def _named(results: Results) -> str:
    return str(results.model.get("name", "model"))


def _signed(value: float | None) -> str:
    text = labels.digits(value)
    return f"+{text}" if value is not None and value > 0 else text


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
