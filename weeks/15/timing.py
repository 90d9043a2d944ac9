"""Two sides timed in turns, and a megabyte of text to time them on.

>>> import time
>>> short, long = in_turns([lambda: time.sleep(0.001), lambda: time.sleep(0.02)], repeats=3)
>>> short < long
True

    uv run study bench 15
"""

import statistics
import time
from collections.abc import Callable

from shared import datasets
from shared.errors import UserError
from shared.require import require


def megabyte() -> tuple[str, str]:
    """About a million characters of real text, and its name."""
    try:
        return datasets.tinyshakespeare()[:1_000_000], "tinyshakespeare"
    except UserError:
        return (datasets.pydocs_text() * 3)[:1_000_000], "Python's manual, repeated"


def in_turns(sides: list[Callable], repeats: int) -> list[float]:
    """Median seconds of each side, timed in turns after one round to warm up."""
    require(repeats >= 1, "repeats must be at least 1", repeats)
    seconds = [[] for _ in sides]
    for _ in range(repeats + 1):
        for side, times in zip(sides, seconds, strict=True):
            start = time.perf_counter()
            side()
            times.append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds]
