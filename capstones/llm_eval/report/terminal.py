"""Numbers on a terminal: by tag, each with its interval, what failed, and how to read it."""

from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llm_eval.report import labels
from llm_eval.report.reading import Results
from llm_eval.types import Number

# columns; below the first no table of gaps, which has more columns, below the other none
NARROW, SLIM = 96, 64


def show(
    console: Console, results: Results, *, parts: bool = False, signatures: bool = False
) -> None:
    """Print a table per tag.

    Parameters
    ----------
    parts
        Also print the numbers of groups, of other prompts than the standard one, and those that
        only explain others.
    signatures
        Also print each number's protocol.

    Raises
    ------
    ValueError
        A number has no signature.
    """
    labels.require_signatures(results.numbers)
    shown = [x for x in results.numbers if parts or not labels.is_detail(x)]
    for tag, numbers in labels.sections(results.tasks, shown).items():
        if console.width < (NARROW if _gaps(numbers) else SLIM):
            console.print(Text(labels.plain(tag), style="bold"))
            for line in _lines(numbers):
                console.print(line)
        else:
            console.print(_table(tag, numbers))
        console.print()
    for note in _notes(results, shown):
        console.print(note)
    if signatures:
        protocols = {f"{x.task}.{x.metric}": x.signature for x in shown}
        for name, signature in protocols.items():
            console.print(Text(f"{labels.plain(name)}  {signature}", style="dim"), soft_wrap=True)


def _table(tag: str, numbers: Sequence[Number]) -> Table:
    title = Text(labels.plain(tag), style="bold")
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    gaps = _gaps(numbers)
    failures = any(number.failed for number in numbers)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    shown = {"value": True, "95 % interval": True, "n": True, "failed": failures}
    shown |= {"neutral": gaps, "detectable": gaps}
    for name, there in shown.items():
        if there:
            table.add_column(name, justify="right", no_wrap=True)
    last = None
    for number in numbers:
        cells = {
            "value": labels.digits(number.value),
            "95 % interval": labels.interval(number),
            "n": str(number.n),
            "failed": str(number.failed or ""),
        } | _bias(number)
        row = [_name(number, last), _metric(number)]
        row += [cells.get(name, "") for name, there in shown.items() if there]
        style = "yellow" if number.failed or number.value is None else None
        table.add_row(*(Text(cell) for cell in row), style=style)  # Text: no markup in it
        last = number.task
    return table


def _gaps(numbers: Iterable[Number]) -> bool:
    return any(labels.neutral(number) is not None for number in numbers)


def _lines(numbers: Sequence[Number]) -> Iterable[Text]:
    """A table's rows where there is no room for columns."""
    last = None
    for number in numbers:
        if name := _name(number, last):
            yield Text(name)
        facts = [f"n {number.n}"] + ([f"failed {number.failed}"] if number.failed else [])
        facts += [f"{name} {value}" for name, value in _bias(number).items()]
        style = "yellow" if number.failed or number.value is None else "none"
        value = f"{labels.digits(number.value)} {labels.interval(number)}".strip()
        yield Text(f"    {_metric(number)} {value}, {', '.join(facts)}", style=style)
        last = number.task


def _metric(number: Number) -> str:
    return f"{labels.plain(number.metric)} {labels.arrow(number.higher_is_better)}"


def _bias(number: Number) -> dict[str, str]:
    neutral = labels.neutral(number)
    found = {} if neutral is None else {"neutral": neutral, "detectable": number.detectable}
    return {name: labels.digits(value) for name, value in found.items() if value is not None}


def _name(number: Number, last: str | None) -> str:
    """The task once, its parts indented below it."""
    template = f"“{number.template}”" if number.template else ""
    part = labels.plain(" · ".join(x for x in (number.group, template) if x))
    task = labels.plain(number.task)
    if not part:
        return "" if number.task == last else task
    return f"  {part}" if number.task == last else f"{task} · {part}"


def _notes(results: Results, shown: Sequence[Number]) -> Iterable[Text]:
    """How to read the tables, what the numbers say of themselves, and what is in none of them."""
    used = {number.higher_is_better for number in shown}
    ways = [f"{labels.arrow(w)} {labels.DIRECTIONS[w]}" for w in (True, False, None) if w in used]
    legend = f"{', '.join(ways)}; [ ] 95 % interval"
    if _gaps(shown):
        legend += "; detectable: the smallest gap that n shows with power 0.8"
    yield Text(legend, style="dim")
    if hidden := len(results.numbers) - len(shown):
        more = "numbers are of groups, of other prompts or details; --parts shows them"
        yield Text(f"{hidden} more {more}", style="dim")
    for note, names in labels.notes(shown).items():
        yield Text(labels.plain(labels.told(note, names), 1000), style="dim")
    if results.missing:
        told = f"not finished: {results.missing} documents are in no number"
        yield Text(told, style="yellow")
    for name, task in results.tasks.items():
        if task.get("failed"):
            told = f"{task['failed']} of {task.get('documents', '?')} documents got no answer"
            yield Text(f"{labels.plain(name)}: {told} and are in no number", style="yellow")
