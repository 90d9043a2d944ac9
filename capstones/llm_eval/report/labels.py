"""How a number is written: its arrow, its digits, its interval, the value that would be neutral.

>>> number = Number(
...     "bbq", "s_AMB", 0.1234, 0.05, 0.02, 0.22, 90, 0, None, "bbq|v:1", detectable=0.14
... )
>>> arrow(number.higher_is_better), digits(number.value), interval(number), neutral(number)
('○', '0.123', '[0.020, 0.220]', 0.0)
>>> differing("acc|shots:0|v:1", "acc|shots:5|v:1")
'shots:0 there and shots:5 here'
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llm_eval.types import Number
from shared.require import require

ARROWS = {True: "↑", False: "↓", None: "○"}
_CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
ABOVE_0 = ("likelihood_diff",)  # means of |difference|
DIRECTIONS = {True: "higher is better", False: "lower is better", None: "neither is better"}


def arrow(higher_is_better: bool | None) -> str:
    """Which way is better; a circle where a gap should be neither high nor low."""
    return ARROWS[higher_is_better]


def digits(value: float | None) -> str:
    """Three decimals, fewer for large values; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e6 or 0 < size < 5e-4:
        return f"{value:.2e}"
    text = f"{value:.{3 if size < 10 else 2 if size < 1000 else 0}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def plain(text: str, longest: int = 60) -> str:
    """A name on one line of a terminal: no control or direction characters, not too long."""
    kept = "".join("�" if unicodedata.category(c) in _CONTROL else c for c in text)
    return kept if len(kept) <= longest else f"{kept[: longest - 1]}…"


def interval(number: Number) -> str:
    """The 95 % interval, its low end first; empty where nothing is known of it."""
    if number.low is None or number.high is None:
        return ""
    return f"[{digits(number.low)}, {digits(number.high)}]"


def neutral(number: Number) -> float | None:
    """The value that shows no bias; None where there is none, as of what should be high.

    A gap has one: a number of which neither direction is better and whose detectable gap is known.
    It is 0 unless the number's note names another ("neutral is 0.5"). What chance alone makes
    positive has none.
    """
    said = re.search(r"\bneutral(?: value)?(?: is|:| =)? ?(\d*\.?\d+)", number.note)
    by_chance = number.metric.endswith(("_spread", "_group_gap")) or number.metric in ABOVE_0
    if number.higher_is_better is not None or by_chance:
        return None
    if not said and number.detectable is None:
        return None
    return float(said[1]) if said else 0.0


def require_signatures(numbers: Iterable[Number]) -> None:
    """Refuse numbers of which nobody can say how they were measured.

    Raises
    ------
    ValueError
        A number has no signature.
    """
    for number in numbers:
        named = f"{number.task}.{number.metric}"
        require(number.signature, "a number must have a signature", f"none for {named}")


def is_detail(number: Number) -> bool:
    """Whether a number only explains another one."""
    part = number.group or number.template or number.metric in ("ece_mass", "confidence")
    return bool(part) or number.metric.endswith(("_by_chance", "_largest"))


def sections(tasks: Mapping[str, Mapping[str, Any]], numbers: Iterable[Number]) -> dict[str, list]:
    """Numbers by their task's first tag that is a subject, those of a task together, in order."""
    by_task: dict[str, list[Number]] = {name: [] for name in tasks}
    for number in numbers:
        by_task.setdefault(number.task, []).append(number)
    found: dict[str, list[Number]] = {}
    for task, of_task in by_task.items():
        tags = tasks.get(task, {}).get("tags", ())
        tag = next((tag for tag in tags if tag != "mini"), "mini" if tags else "other")
        found.setdefault(tag, []).extend(of_task)
    return {tag: of_tag for tag, of_tag in found.items() if of_tag}


def notes(numbers: Iterable[Number]) -> dict[str, list[str]]:
    """Each sentence of the notes once, with the names of the numbers it is about."""
    found: dict[str, list[str]] = {}
    for number in numbers:
        for sentence in filter(None, re.split(r"(?<=\.) (?=[A-Z])", number.note)):
            found.setdefault(sentence, []).append(f"{number.task}.{number.metric}")
    return found


def told(note: str, names: Sequence[str]) -> str:
    """A note after the names of the numbers it is about, the first few of them."""
    unique = list(dict.fromkeys(names))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return f"{', '.join(unique[:3])}{more}: {note}"


def differing(there: str, here: str) -> str:
    """In words, which parts of two signatures are not the same; empty if they all are."""
    a, b = there.split("|"), here.split("|")
    only_a, only_b = [x for x in a if x not in b], [x for x in b if x not in a]
    if there == here:
        return ""
    return f"{', '.join(only_a) or 'nothing'} there and {', '.join(only_b) or 'nothing'} here"
