r"""Manuals as passages that can be found, and as a quiz whose answers are known by rule.

A passage is a paragraph of prose under a heading, of a page in reStructuredText or Markdown. It
keeps its place: `page.text[p.start : p.end] == p.text`, so that whoever quotes it can point there.
Code, tables and what stands in tabs are left out.

A question is a sentence of the manual with a gap. What goes into the gap is a word set as code, a
command, a file or a name; the other options are such words of other pages.

>>> page = Document("a.rst", "Nodes\n=====\n\nRun ``ros2 node list`` to see the nodes that run.\n")
>>> [(p.heading, p.text) for p in passages(page)]
[('Nodes', 'Run ``ros2 node list`` to see the nodes that run.')]
>>> gaps(passages(page)[0])
[('Run ____ to see the nodes that run.', 'ros2 node list')]

`uv run weeks/28/verilog_assistant.py` asks models. Gaps as a test: Taylor, "Cloze procedure"
(1953).
"""

import random
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from shared.datasets import Document
from shared.require import require

GAP = "____"
CODE = r"``([^`\n]+)``"
CODE_IN_MARKDOWN = r"(?<!`)`([^`\n]+)`(?!`)"  # elsewhere one backquote begins a link
_HEADING = re.compile(r'^(\S.*)\n([=\-^~"*+])\2{2,}[ \t]*$|^#{1,6} (.+)$', re.MULTILINE)
_FENCE = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
_PARAGRAPH = re.compile(r"^\S.*(?:\n.*\S.*)*", re.MULTILINE)
_NO_PROSE = re.compile(r"\.\. |:\w+:|\||\[!\[|<|\+[-=]|_")


class Passage(NamedTuple):
    """A paragraph of a page, where it stands, and under which headings."""

    page: str
    heading: str
    start: int
    end: int
    text: str

    @property
    def name(self) -> str:
        """Of all passages of all pages, this one."""
        return f"{self.page}:{self.start}"


class Question(NamedTuple):
    """A sentence with a gap, four words for it, which is right, and the passage it is from."""

    asked: str
    options: list[str]
    answer: int
    passage: Passage


# ---- pages into passages


def passages(page: Document, least: int = 40) -> list[Passage]:
    """The paragraphs of prose of at least so many characters, in their order."""
    hidden = _FENCE.sub(lambda found: re.sub(r"[^\n]", " ", found[0]), page.text)
    found, headings = [], list(_headings(hidden))
    for start, end, title in _sections(headings, len(hidden)):
        for block in _PARAGRAPH.finditer(hidden, start, end):
            prose = not _NO_PROSE.match(block[0]) and "\n  " not in block[0]
            if prose and len(block[0]) >= least:
                text = page.text[block.start() : block.end()]
                found.append(Passage(page.name, title, block.start(), block.end(), text))
    return found


def _headings(text: str) -> Iterator[tuple[int, int, str]]:
    for found in _HEADING.finditer(text):
        yield found.start(), found.end(), plain(found[1] or found[3]).strip()


def _sections(headings: list[tuple[int, int, str]], length: int) -> Iterator[tuple[int, int, str]]:
    """Where each heading's text begins and ends, and the heading, after the page's own."""
    if not headings:
        return
    starts, title = [*(start for start, _, _ in headings[1:]), length], headings[0][2]
    for (_, begin, own), end in zip(headings, starts, strict=True):
        yield begin, end, own if own == title else f"{title}: {own}"


def plain(text: str) -> str:
    """A paragraph without its markup, in one line; what is set as code stays as it is."""
    text = re.sub(r":\w+:`([^`<]+?)(?: *<[^`]*>)?`", r"\1", text)
    text = re.sub(r"`([^`<]+?) *<[^`]*>`_{1,2}", r"\1", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", text)
    text = re.sub(CODE, r"\1", text)
    text = re.sub(r"\*\*([^*]+)\*\*|`([^`]+)`(?:_{1,2})?", r"\1\2", text)
    return " ".join(text.split())


# ---- the quiz


def kind(word: str) -> str:
    """Of what kind a word set as code is: options of another kind would give it away."""
    if " " in word:
        return "command"
    return "file" if re.search(r"[./]", word) else "name"


def gaps(passage: Passage, least: int = 24, most: int = 240) -> list[tuple[str, str]]:
    """Sentences with a gap, and what is in it: a word set as code that is not said twice."""
    code, found = CODE_IN_MARKDOWN if passage.page.endswith(".md") else CODE, []
    for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*])", passage.text):
        for match in re.finditer(code, sentence):
            asked = plain(f"{sentence[: match.start()]}{GAP}{sentence[match.end() :]}")
            word = match[1].strip()
            fits = least <= len(asked) <= most and 3 <= len(word) <= 40
            if fits and word.lower() not in asked.lower():
                found.append((asked, word))
    return found


def questions(pages: Sequence[Sequence[Passage]], seed: int, n_options: int = 4) -> list[Question]:
    """One question for each gap of each page.

    Wrong options are of the right one's kind, are in gaps of other pages, and do not stand in the
    passage itself: none of them would do as well.
    """
    require(n_options >= 2, "n_options must be at least 2", n_options)
    chance, found = random.Random(seed), []
    known = [(i, word) for i, page in enumerate(pages) for p in page for _, word in gaps(p)]
    for i, page in enumerate(pages):
        for passage in page:
            text = passage.text.lower()
            for asked, word in gaps(passage):
                others = {
                    other
                    for j, other in known
                    if j != i and kind(other) == kind(word) and other.lower() not in text
                }
                if len(others) >= n_options - 1:
                    options = [word, *chance.sample(sorted(others), n_options - 1)]
                    chance.shuffle(options)
                    found.append(Question(asked, options, options.index(word), passage))
    return found


def two_halves(names: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Pages to learn from, and pages held out whole, with their twins in another language.

    The tutorials for C++ and for Python say the same in other words: who has read the one knows
    the other.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(re.sub(r"-?(?:CPP|Cpp|Python|Py)\b", "", name), []).append(name)
    keys = random.Random(seed).sample(list(groups), len(groups))
    halves = keys[: len(keys) // 2], keys[len(keys) // 2 :]
    learned, held_out = ([name for key in half for name in groups[key]] for half in halves)
    return learned, held_out
