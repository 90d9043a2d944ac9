"""What was left out, told briefly: one line a reason.

>>> grouped([Skipped("a.png", "is binary: byte 0 is 0x89"), Skipped("b.png", "is binary: byte 6")])
['2 × is binary: a.png, b.png']
"""

import re
from collections.abc import Iterable

from rag.types import Skipped

__all__ = ["grouped"]


def grouped(skipped: Iterable[Skipped], *, names: int = 3) -> list[str]:
    """A line for each reason, the most frequent first, with the first few sources.

    A reason that came once is told whole, else what it has in common with the others.
    """
    groups: dict[str, list[Skipped]] = {}
    for own in skipped:
        common = re.sub(r"\d[\d,]*", "…", re.split("[:(]", own.reason)[0].strip())
        groups.setdefault(common, []).append(own)
    found = []
    for reason, group in sorted(groups.items(), key=lambda item: (-len(item[1]), item[0])):
        if len(group) == 1:
            found.append(f"{group[0].source} {group[0].reason}")
        else:
            shown = ", ".join(own.source for own in group[:names])
            found.append(f"{len(group)} × {reason}: {shown}" + ", …" * (len(group) > names))
    return found
