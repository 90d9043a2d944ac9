r"""Cut a document into chunks that know where they stand: `text[start:end]` is the chunk.

A text is first cut into *pieces* that fit, at the best places there are: between paragraphs; a
paragraph that is too long, between its sentences; then lines, words, and only a word that is too
long, inside. Pieces that stand beside each other are then joined while they fit. No other way to
join these pieces gives fewer chunks.

>>> tea = Document("tea", "Green tea is mild.\n\nBlack tea is strong. It keeps for many years.")
>>> [c.text for c in chunk(tea, size=40, overlap=0)]
['Green tea is mild.\n\nBlack tea is strong.', 'It keeps for many years.']
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from rag.documents import definitions, markdown
from rag.documents.sentences import ends, sentences
from rag.types import Chunk, Document
from shared.require import require

__all__ = ["SPLITTERS", "chunk", "sentences"]

Span = tuple[int, int]
Level = Callable[[str], Iterable[int]]  # where a text may be cut
MARKED_UP = ("markdown", "html", "docx")  # kinds of document whose texts have Markdown's headings


def _after(pattern: str) -> Level:
    compiled = re.compile(pattern)
    return lambda text: (found.end() for found in compiled.finditer(text))


paragraphs, lines, words = _after(r"\n(?:[^\S\n]*\n)+"), _after(r"\n"), _after(r"\s+")


class Splitter(NamedTuple):
    """A way to cut: at which places, the best first, and where a repeated part may begin."""

    levels: Sequence[Level]
    repeats: Sequence[Level]
    keeps_sections: bool = False  # whether no chunk crosses the border of two sections


_PROSE = (ends, lines, words)
SPLITTERS = {
    "recursive": Splitter((paragraphs, *_PROSE), _PROSE),
    "markdown": Splitter(
        (markdown.blocks, markdown.fence_edges, paragraphs, *_PROSE), _PROSE, keeps_sections=True
    ),
    "code": Splitter((paragraphs, lines, words), (lines,), keeps_sections=True),
    "sentence": Splitter((ends, words), (ends,)),
}


def chunk(
    document: Document, *, splitter: str = "recursive", size: int = 800, overlap: int = 120
) -> list[Chunk]:
    """Cut a document into chunks; every character but blanks is in one of them.

    Parameters
    ----------
    splitter
        "recursive"; "markdown", where no chunk crosses a heading and blocks of code that fit stay
        whole; "code", where no chunk crosses a definition; "sentence", where sentences that fit
        stay whole; "auto", which is one of the first three by the kind of document.
    size
        The most characters of a chunk.
    overlap
        The most characters that a chunk repeats of the one before, from the beginning of a
        sentence, a line or a word; fewer where `size` leaves no room.
    """
    known = ("auto", *SPLITTERS)
    require(splitter in known, f"splitter must be one of {', '.join(known)}", repr(splitter))
    require(size > 0, "size must be at least 1", size)
    require(0 <= overlap < size, f"overlap must be less than size, in 0..{size - 1}", overlap)
    text, kind = document.text, document.metadata.get("kind")
    if splitter == "auto":
        splitter = "markdown" if kind in MARKED_UP else "code" if kind == "code" else "recursive"
    levels, repeats, keeps_sections = SPLITTERS[splitter]
    if splitter == "markdown" or kind in MARKED_UP:
        sections = markdown.sections(text)
    elif splitter == "code" or kind == "code":
        sections = definitions.sections(text, str(document.metadata.get("lang")), size)
    else:
        sections = [(0, ())]
    starts = [start for start, _ in sections]
    borders = [*(starts if keeps_sections else [0]), len(text)]
    chunks = []
    for first, last in pairwise(borders):
        found = pieces(text, first, last, size, levels)
        for start, end in join(text, found, size, overlap, repeats):
            names = sections[bisect_right(starts, start) - 1][1]
            chunks.append(_placed(document, start, end, names))
    return chunks


def pieces(text: str, start: int, end: int, size: int, levels: Sequence[Level]) -> Iterator[Span]:
    """Spans of at most `size` characters, without empty lines and blanks around them."""
    part = text[start:end]
    first, end = end - len(part.lstrip()), start + len(part.rstrip())
    line = text.rfind("\n", max(0, start - 1), first) + 1
    start = line if line >= start else first  # where a line begins, its indentation stays
    if end - start <= size:
        if start < end:
            yield start, end
    elif not levels:
        yield from ((at, min(at + size, end)) for at in range(start, end, size))
    else:
        cuts = [start, *(start + cut for cut in levels[0](text[start:end])), end]
        for a, b in pairwise(cuts):
            yield from pieces(text, a, b, size, levels[1:])


def join(
    text: str, spans: Iterable[Span], size: int, overlap: int, repeats: Sequence[Level]
) -> Iterator[Span]:
    """Join pieces that stand beside each other while they fit into `size` characters."""
    start = end = None
    for a, b in spans:
        if start is None:
            start = a
        elif b - start > size:
            yield start, end
            # No farther back than that the piece still fits, so each chunk holds a new piece.
            start = _repeated(text, max(end - overlap, b - size), end, repeats) or a
        end = b
    if start is not None:
        yield start, end


def _repeated(text: str, start: int, end: int, levels: Sequence[Level]) -> int | None:
    """Where the part begins, in `text[start:end]`, that the next chunk repeats."""
    window = text[start - 1 : end]  # with the blank, if one is there, after which a word begins
    for level in levels:
        for cut in level(window):
            if rest := window[cut:].lstrip():
                return end - len(rest)
    return None


def _placed(document: Document, start: int, end: int, names: Sequence[str]) -> Chunk:
    """A chunk with its headings and, in a document of pages, its page, counted from 1."""
    above = [document.title, *names] if names[:1] != (document.title,) else names
    made = Chunk.of(document, start, end, " > ".join(filter(None, above)))
    if document.pages:
        page = max(1, bisect_right(document.pages, start))
        made = replace(made, metadata={**made.metadata, "page": page})
    return made
