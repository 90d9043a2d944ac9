"""How it looks on a terminal: where lines go, and a bar where somebody watches."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

plain = {"highlight": False, "soft_wrap": True, "markup": False}
console, errors = Console(highlight=False, markup=False), Console(stderr=True, **plain)


def put(value: Any) -> None:
    """One JSON value, on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def progress(what: str = "layers") -> Iterator[Callable[[int, int], None]]:
    """A function that is told how many of how many are done."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal)
    with shown:
        bar = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(bar, completed=done, total=total)
