"""A megabyte of text, and two sides timed in turns: what both benchmarks of the week share."""

import statistics
import time
from collections.abc import Callable

from shared import datasets
from shared.study import UserError


def megabyte() -> tuple[str, str]:
    """About a million characters of real text, and its name."""
    try:
        return datasets.tinyshakespeare()[:1_000_000], "tinyshakespeare"
    except UserError:
        return (datasets.pydocs_text() * 3)[:1_000_000], "Python's manual, repeated"


def in_turns(sides: list[Callable], repeats: int) -> list[float]:
    """Median seconds of each side, timed in turns after one round to warm up."""
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    seconds = [[] for _ in sides]
    for _ in range(repeats + 1):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]
