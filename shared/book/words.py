"""Small pieces of HTML: text that is safe in a page, and a verdict in its color."""

from __future__ import annotations

import html
import re

from shared.tables import GOOD


def escape(text: object) -> str:
    """Text as HTML, backquoted words as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(str(text)))


def verdict(word: str) -> str:
    """A verdict in its color."""
    kind = "good" if word in GOOD else "bad" if word in ("fails", "not reproduced") else "open"
    return f'<strong class="verdict {kind}">{html.escape(word)}</strong>'
