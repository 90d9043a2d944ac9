r"""What Markdown says of its own structure: headings, and blocks of code that must stay whole.

>>> text = "# Tea\n\n```\n# no heading\n```\n\nGreen\n-----\nmild"
>>> [(text[start : start + 5], path) for start, path in sections(text)]
[('# Tea', ('Tea',)), ('Green', ('Tea', 'Green'))]
"""

import re
from bisect import bisect_left
from collections.abc import Iterator

__all__ = ["blocks", "fence_edges", "fences", "front_matter", "sections"]

Section = tuple[int, tuple[str, ...]]

_FENCE = re.compile(r"^[ \t]*(?:[-*+] +|\d+[.)] +|> ?)?(`{3,}(?=[^`\n]*$)|~{3,})", re.M)
_FRONT_MATTER = re.compile(r"---[ \t]*\n(?:.*\n)*?---[ \t]*(?:\n|\Z)")
_HEADING = re.compile(
    r"^ {0,3}(?P<level>#{1,6})(?:[ \t]+(?P<title>.*))?$"
    r"|^ {0,3}(?P<under_title>[^\s>#`~|+*=-].*)\n {0,3}(?P<under>=+|-{2,})[ \t]*$",
    re.M,
)
_EMPTY_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def fences(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the fenced blocks of code, whole lines; one that is not closed runs to the end."""
    at = 0
    while opening := _FENCE.search(text, at):
        mark = opening[1]
        end = re.compile(rf"^[ \t>]*{mark[0]}{{{len(mark)},}}[ \t]*(?:\n|\Z)", re.M)
        found = end.search(text, opening.end())
        at = found.end() if found else len(text)
        yield opening.start(), at


def blocks(text: str) -> list[int]:
    """Where paragraphs and the like begin, but not inside a block of code."""
    code = list(fences(text))
    cuts = (found.end() for found in _EMPTY_LINES.finditer(text))
    return [cut for cut in cuts if not _is_inside(code, cut)]


def fence_edges(text: str) -> list[int]:
    """Where blocks of code begin and end."""
    return [edge for span in fences(text) for edge in span]


def _is_inside(spans: list[tuple[int, int]], at: int) -> bool:
    i = bisect_left(spans, (at, 0)) - 1
    return i >= 0 and at < spans[i][1]


def front_matter(text: str) -> int:
    """How long the settings are with which the text begins."""
    found = _FRONT_MATTER.match(text)
    return found.end() if found else 0


def sections(text: str) -> list[Section]:
    """Where each section begins, and the headings it stands under, its own the last.

    What stands before the first heading is a section under none. A heading that follows its parent
    at once is in one section with it.
    """
    found: list[Section] = [(0, ())]
    path: list[tuple[int, str]] = []
    code, end = list(fences(text)), 0
    for heading in _HEADING.finditer(text, front_matter(text)):
        if _is_inside(code, heading.start()):
            continue
        under = heading["under"]
        level = len(heading["level"] or "") or (1 if under.startswith("=") else 2)
        title = re.sub(
            r"(^|[ \t])#+$", "", (heading["title"] or heading["under_title"] or "").strip()
        )
        path = [(n, above) for n, above in path if n < level] + [(level, title.strip())]
        titles = tuple(above for _, above in path if above)
        start, parents = found[-1]
        if text[end : heading.start()].strip() or titles[: len(parents)] != parents:
            start = heading.start()
            found.append((start, titles))
        else:
            found[-1] = (start, titles)
        end = heading.end()
    return found
