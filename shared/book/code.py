"""Source code as HTML: highlighted, with an anchor at each line and links along imports."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

MODULE = re.compile(r'<span class="nn">([\w.]+)</span>')


@lru_cache(maxsize=1)
def _lexers():
    from pygments.lexers import get_lexer_by_name

    return lru_cache(maxsize=None)(get_lexer_by_name)


def _spans(text: str, language: str) -> str:
    from pygments import highlight as color
    from pygments.formatters import HtmlFormatter
    from pygments.util import ClassNotFound

    try:
        lexer = _lexers()(language or "text", stripnl=False)
    except ClassNotFound:
        lexer = _lexers()("text", stripnl=False)
    return color(text, lexer, HtmlFormatter(nowrap=True))


def highlight(text: str, language: str) -> str:
    """A block of code in a text."""
    return f'<div class="highlight"><pre><code>{_spans(text, language)}</code></pre></div>\n'


def listing(text: str, *, prefix: str = "", href: Callable[[str], str | None]) -> str:
    """A Python file with an anchor `L12` at each line.

    Parameters
    ----------
    prefix
        Stands before each anchor, where a page shows several files.
    href
        Gives the address of a module (`week13.attention`), None if it has no page.
    """

    def linked(match: re.Match) -> str:
        url = href(match[1])
        return f'<a class="nn" href="{url}">{match[1]}</a>' if url else match[0]

    lines = []
    spans = MODULE.sub(linked, _spans(text, "python"))
    for number, line in enumerate(spans.rstrip("\n").split("\n"), start=1):
        anchor = f"{prefix}L{number}"
        lines.append(
            f'<span class="line" id="{anchor}">'
            f'<a class="number" href="#{anchor}" data-n="{number}" tabindex="-1"'
            f' aria-label="line {number}"></a>{line}\n</span>'
        )
    body = "".join(lines)
    return f'<div class="highlight listing"><pre><code>{body}</code></pre></div>'
