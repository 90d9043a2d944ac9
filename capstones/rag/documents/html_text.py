r"""The text of a page, with its structure as Markdown writes it: headings, lists, tables, code.

>>> page = "<title>Tea</title><h1>Green <i>tea</i></h1><ul><li>mild<li>cheap</ul><script>x</script>"
>>> html_text(page)
('# Green tea\n\n- mild\n- cheap', 'Tea')
"""

import re
from html import unescape

from week15.html_text import HIDDEN, INLINE, NESTED, tokens

__all__ = ["declared_encoding", "html_text"]

_MENUS = NESTED | {"nav"}  # hidden from their start to their end, if there is one
_LINES = {"li": "list", "tr": "table", "dt": "terms", "dd": "terms", "option": "options"}
_TITLE = re.compile(r"<title[^>]{0,200}>([^<]*)", re.I)
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w-]+)", re.I)
_HEADING = re.compile("h([1-6])")


def declared_encoding(data: bytes) -> str:
    """The encoding that a page says it has, or nothing."""
    found = _CHARSET.search(data[:4096])
    return found[1].decode() if found else ""


def html_text(html: str) -> tuple[str, str]:
    """Return a page's visible text, without menus, and its title."""
    page = list(tokens(html))
    ends, opened = {}, []
    for i, (_, tag, kind) in enumerate(page):
        if tag in _MENUS and not kind:
            opened.append(i)
        elif tag in _MENUS and kind == "/":
            while opened and page[opened[-1]][1] != tag:
                opened.pop()
            if opened:
                ends[opened.pop()] = i

    writer, no_text, no_tag = _Writer(), -1, -1
    for i, (text, tag, kind) in enumerate(page):
        if i > no_text:
            writer.write(unescape(text))
        if i > no_tag:
            if tag in HIDDEN | _MENUS and not kind:
                no_tag = ends.get(i, i)
                no_text = ends.get(i, i + 1)  # without an end, only up to the next tag
            writer.tag(tag, kind == "/")
    writer.end_block()
    title = _TITLE.search(html)
    return "".join(writer.blocks), " ".join(unescape(title[1]).split()) if title else ""


class _Writer:
    """Collects blocks of text, each with the line ends before it and its mark."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.parts: list[str] = []
        self.mark = ""
        self.lines = self.before = ""  # what this block is a line of, and the last one
        self.lists: list[int | None] = []  # items so far of the numbered lists, None of the others
        self.code = False

    def write(self, text: str) -> None:
        if self.code:
            self.parts.append(text)
        elif self.parts or text.strip():  # so that blanks alone do not make a block
            self.parts.append(re.sub(r"\s+", " ", text))

    def tag(self, tag: str, end: bool) -> None:
        if tag == "br":
            self.parts.append(" " if self.mark.startswith("#") else "\n")
        elif tag in ("td", "th"):
            if not end and self.parts:
                self.parts.append(" | ")
        elif tag not in INLINE | {"", "a"}:
            self.end_block()
            self._begin_block(tag, end)

    def _begin_block(self, tag: str, end: bool) -> None:
        self.lines = "" if end else _LINES.get(tag, "")
        if heading := _HEADING.fullmatch(tag):
            self.mark = "" if end else "#" * int(heading[1]) + " "
        elif tag == "pre":
            self.code = not end
        elif tag in ("ul", "ol"):
            if not end:
                self.lists.append(0 if tag == "ol" else None)
            elif self.lists:
                self.lists.pop()
        elif tag == "li" and not end:
            self.mark = "  " * min(len(self.lists) - 1, 8) + "- "
            if self.lists and self.lists[-1] is not None:
                self.lists[-1] += 1
                self.mark = self.mark.replace("-", f"{self.lists[-1]}.")

    def end_block(self) -> None:
        text = "".join(self.parts)
        self.parts.clear()
        if self.code:
            text = text.strip("\n").rstrip()
            fence = "~~~~" if "```" in text else "```"
            text = f"{fence}\n{text}\n{fence}" if text else ""
        else:
            text = "\n".join(" ".join(line.split()) for line in text.strip().split("\n"))
        if text:
            gap = "\n" if self.lines and self.lines == self.before else "\n\n"
            self.blocks.append((gap if self.blocks else "") + self.mark + text)
            self.mark, self.lines, self.before = "", "", self.lines
