"""The text of a Word document, its headings, lists and tables as Markdown writes them.

The XML is read in its order, so that what python-docx passes over is there too: text inserted
under revision, content controls. Deleted text is not.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

from rag.documents.decoding import LIMIT, UnreadableError, clean

__all__ = ["docx_text"]

# Of all parts, unpacked: bytes, and how many times what they take packed; text has up to twenty.
EXPANDED, RATIO = 4 * LIMIT, 100
_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_P, _ROW, _CELL, _TEXT = (f"{_W}{name}" for name in ("p", "tr", "tc", "t"))
_BREAKS = {f"{_W}tab": "\t", f"{_W}br": "\n", f"{_W}cr": "\n", f"{_W}noBreakHyphen": "-"}
# Where moved text came from, and a second copy of a drawing for old programs.
_ELSEWHERE = (
    f"{_W}moveFrom",
    "{http://schemas.openxmlformats.org/markup-compatibility/2006}Fallback",
)
_HEADING = re.compile(r"(?:Heading ([1-6])|(Title))$", re.I)


def docx_text(data: bytes) -> tuple[str, str]:
    """Return the text and the title.

    Raises
    ------
    UnreadableError
        It is no Word document, damaged, encrypted, or unpacks to an absurd size.
    """
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableError("is encrypted, or of a Word before 2007")
    import docx

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # No more is unpacked of a part than it claims to hold, so the claims are enough.
            size = sum(part.file_size for part in archive.infolist())
        if size > EXPANDED or size > max(10_000_000, RATIO * len(data)):
            raise UnreadableError(f"unpacks to {size:,} bytes from {len(data):,}")
        document = docx.Document(io.BytesIO(data))
        found = [block for block in _blocks(document.element.body, document) if block[0]]
        title = document.core_properties.title
    except UnreadableError:
        raise
    except Exception as error:  # a damaged file can break a parser in any way
        raise UnreadableError(
            f"is not a whole Word document ({error or type(error).__name__})"
        ) from None
    text, before = "", ""
    for block, lines in found:  # lines of one list or table stand together
        text += ("\n" if lines and lines == before else "\n\n") + block
        before = lines
    return clean(text).strip(), clean(title).strip()


def _blocks(element: Any, document: Any) -> Iterator[tuple[str, str]]:
    """Paragraphs and rows of tables; and "list" or "table" if each is a line of such."""
    from docx.text.paragraph import Paragraph

    for child in element:
        if child.tag == _P:
            text = "\n".join(" ".join(line.split()) for line in _text(child).strip().split("\n"))
            mark = _mark(Paragraph(child, document)) if text else ""
            yield mark + text, "list" if mark == "- " else ""
        elif child.tag == _ROW:
            cells = [" ".join(_text(cell).split()) for cell in child.iterchildren(_CELL)]
            yield (" | ".join(cells).rstrip() if any(cells) else ""), "table"
        elif child.tag not in _ELSEWHERE:
            yield from _blocks(child, document)


def _text(element: Any) -> str:
    """Text of all below an element; what is a block in it, as in a text box, on its own lines."""
    parts = []
    for child in element:
        if child.tag == _TEXT:
            parts.append(child.text or "")
        elif child.tag == _P:
            parts.append(f"\n{_text(child)}\n")
        elif child.tag in _BREAKS:
            parts.append(_BREAKS[child.tag])
        elif child.tag not in _ELSEWHERE:
            parts.append(_text(child))
    return "".join(parts)


def _mark(paragraph: Any) -> str:
    """How Markdown writes a paragraph of this style, or of the one that it is based on."""
    style = paragraph.style
    while style is not None:
        if found := _HEADING.match(style.name or ""):
            return "#" * int(found[1] or 1) + " "
        if (style.name or "").startswith("List"):
            return "- "
        style = style.base_style
    return "- " if paragraph._p.xpath("./w:pPr/w:numPr") else ""
