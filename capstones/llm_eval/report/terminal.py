"""Numbers on a terminal: by tag, each with its interval, what failed, and how to read it."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_eval.report import labels
from llm_eval.report.reading import Results
from llm_eval.types import Number

NARROW = 88  # columns; below it the interval is told as ±


def show(console: Console, results: Results, *, signatures: bool = False) -> None:
    """Print a table per tag.

    Parameters
    ----------
    signatures
        Also print each number's protocol.

    Raises
    ------
    ValueError
        A number has no signature.
    """
    labels.require_signatures(results.numbers)
    narrow = console.width < NARROW
    for tag, numbers in labels.sections(results.tasks, results.numbers).items():
        console.print(_table(tag, numbers, narrow))
        console.print()
    used = {number.higher_is_better for number in results.numbers}
    ways = [f"{labels.arrow(w)} {labels.DIRECTIONS[w]}" for w in (True, False, None) if w in used]
    legend = f"{', '.join(ways)}; {'±' if narrow else '[ ]'} 95 % interval"
    if any(number.detectable is not None for number in results.numbers):
        legend += "; detectable: the smallest gap that n shows with power 0.8"
    console.print(Text(legend, style="dim"))
    _failures(console, results.tasks)
    if signatures:
        for name, signature in _signatures(results.numbers).items():
            console.print(Text(f"{name}  {signature}", style="dim"), soft_wrap=True)


def _table(tag: str, numbers: Sequence[Number], narrow: bool) -> Table:
    table = Table(title=Text(tag), title_justify="left", title_style="bold", box=None, pad_edge=False)
    gaps = any(labels.neutral(number) is not None for number in numbers)
    failures = any(number.failed for number in numbers)
    table.add_column("task", overflow="fold", ratio=None)
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right", no_wrap=True)
    if not narrow:
        table.add_column("95 % interval", justify="right", no_wrap=True)
    for name, there in (("n", True), ("failed", failures), ("neutral", gaps), ("detectable", gaps)):
        if there:
            table.add_column(name, justify="right", no_wrap=True)
    last = None
    for number in numbers:
        value = labels.plus_minus(number) if narrow else labels.digits(number.value)
        row = [_name(number, last), f"{number.metric} {labels.arrow(number.higher_is_better)}", value]
        row += [] if narrow else [labels.interval(number)]
        row += [str(number.n)]
        row += [str(number.failed) if number.failed else ""] if failures else []
        if gaps:
            middle, least = labels.neutral(number), number.detectable
            row += ["" if x is None else labels.digits(x) for x in (middle, least)]
        style = "yellow" if number.failed or number.value is None else None
        table.add_row(*(Text(cell) for cell in row), style=style)  # Text: no markup in it
        last = number.task
    return table


def _name(number: Number, last: str | None) -> str:
    """The task once, its parts indented below it."""
    part = " · ".join(x for x in (number.group, number.template and f"“{number.template}”") if x)
    if not part:
        return "" if number.task == last else number.task
    return f"  {part}" if number.task == last else f"{number.task} · {part}"


def _failures(console: Console, tasks: Mapping[str, Mapping[str, Any]]) -> None:
    for name, task in tasks.items():
        if task.get("failed"):
            told = f"{name}: {task['failed']} of {task.get('documents', '?')} documents got no "
            console.print(Text(f"{told}answer and are in no number", style="yellow"))


def _signatures(numbers: Sequence[Number]) -> dict[str, str]:
    return {f"{number.task}.{number.metric}": number.signature for number in numbers}
