r"""What is taken of a generated text before it is judged, as lm-eval's filters.

A pipeline turns the texts of a document (one per repeat) into texts; the first is judged.

>>> numbers = Filter("regex", pattern=r"(-?[0-9.,]{2,})|(-?[0-9]+)", select=-1)
>>> apply([numbers], ["3 + 4 is 7", "none"])
['7', '[invalid]']
>>> apply([Filter("lowercase"), Filter("majority_vote")], ["Yes", "no", "yes"])
['yes']
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from shared.require import require

# name: what it takes in a task's file
NAMES: dict[str, tuple[str, ...]] = {
    "regex": ("regex_pattern", "group_select", "fallback"),
    "lowercase": (),
    "uppercase": (),
    "remove_whitespace": (),
    "take_first": (),
    "take_first_k": ("k",),
    "majority_vote": (),
}


@dataclass(frozen=True)
class Filter:
    """One step.

    Attributes
    ----------
    pattern, select, fallback
        Of regex: which match is taken, -1 for the last; of a match's groups the first that is not
        empty; `fallback` where nothing matches.
    k
        Of take_first_k.
    """

    name: str
    pattern: str = r"#### (\-?[0-9\.\,]+)"
    select: int = 0
    fallback: str = "[invalid]"
    k: int = 1

    def __post_init__(self):
        require(self.name in NAMES, f"a filter must be one of {', '.join(NAMES)}", self.name)


def apply(filters: Sequence[Filter], texts: Sequence[str]) -> list[str]:
    """The texts after every step."""
    found = list(texts)
    for step in filters:
        found = _apply(step, found)
    return found


def _apply(step: Filter, texts: list[str]) -> list[str]:
    match step.name:
        case "regex":
            return [_extract(step, text) for text in texts]
        case "lowercase":
            return [text.lower() for text in texts]
        case "uppercase":
            return [text.upper() for text in texts]
        case "remove_whitespace":
            return [text.strip() for text in texts]
        case "majority_vote":  # of equals the one that comes first
            return [Counter(texts).most_common(1)[0][0]]
        case "take_first_k":
            return texts[: step.k]
        case _:
            return texts[:1]


def _extract(step: Filter, text: str) -> str:
    matches = re.findall(step.pattern, text)
    try:
        found = matches[step.select]
    except IndexError:  # fewer matches than asked for, as no match
        return step.fallback
    if isinstance(found, tuple):
        found = next((group for group in found if group), step.fallback)
    return found.strip()
