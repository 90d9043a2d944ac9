"""Where the log speaks of something: its own BM25 (week 12) over its own sections.

A section of a note, a paper or a program's README begins at a heading; of a script, it is the
module's docstring, a public function or a public class. Nothing is kept between searches: reading
and indexing everything takes about as long as starting Python.
"""

from __future__ import annotations

import difflib
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Literal

from shared import log, records
from shared.errors import UserError
from shared.require import require

Kind = Literal["notes", "scripts", "papers", "programs"]
WHERE: dict[Kind, tuple[str, ...]] = {
    "notes": ("weeks/*/*.md",),
    "scripts": ("weeks/*/*.py", "weeks/08/minigrad/*.py"),
    "papers": ("papers/*/README.md", "papers/*/reproduce.py"),
    "programs": ("capstones/*/README.md",),
}
TITLE_COUNTS = 4  # a word of the title is worth as many in the text
NOTE, TEXT, CODE, SOURCES = 1.6, 1.1, 0.9, 0.5  # a note explains, a function only does
OF_FILE = 0.15  # what a section gains where the rest of its file speaks of the same
ALSO = {  # what a reader may call otherwise than a text does
    "rope": "rotary",
    "rotary": "rope",
    "moe": "experts",
    "cnn": "convolutional",
    "rnn": "recurrent",
    "vae": "autoencoder",
}

QUESTION = (
    "an and are do does for how in is it of on or the to what when why with"  # its small words
)
TOKEN = re.compile(r"\w+(?:-\w+)+|\w\w+")
PART = re.compile(r"[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|\d+")
GENERATED = re.compile(r"<!-- study:(?:nav|practice|scripts) -->.*?<!-- /study -->", re.DOTALL)
LINK = re.compile(r"!?\[([^\]]*)\]\([^)\s]*\)")
UNSEEN = re.compile(r"<!--.*?-->|</?[a-z]+>|[*`]")
DOCSTRING = re.compile(r'\w?"""(.*?)"""', re.DOTALL)
DEFINITION = re.compile(r"^(?:def|class) ([^\W_]\w*).*\n(?:[ \t)\]].*\n|\n)*", re.MULTILINE)
HEADING = re.compile(r"#{1,6} +(.+)")
IMPORT = re.compile(r"^[ >]*(?:from \S+ )?import .*", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """A piece of a file, from `line` on."""

    file: str
    line: int
    title: str
    text: str


@dataclass(frozen=True)
class Hit:
    """A section that was found, and the line in it that says most.

    Attributes
    ----------
    marks
        Where the words that were asked for stand in `context`, as (start, end).
    """

    file: str
    line: int
    title: str
    context: str
    marks: tuple[tuple[int, int], ...]


# ---- what there is


def sections(kind: Kind | None = None) -> Iterator[Section]:
    """Everything that can be found, or one kind of it."""
    for name in [kind] if kind else WHERE:
        for pattern in WHERE[name]:
            for path in sorted(records.ROOT.glob(pattern)):
                if path.name != "__init__.py":
                    text = path.read_text(encoding="utf-8")
                    cut = of_markdown if path.suffix == ".md" else of_python
                    yield from cut(log.key(path), text)


def of_markdown(file: str, text: str) -> Iterator[Section]:
    """The parts of a Markdown file from heading to heading; a `#` in a code block is none."""
    text = GENERATED.sub(lambda match: "\n" * match[0].count("\n"), text)
    first = title = ""
    start, lines, fenced = 1, [], False
    for number, line in enumerate(text.split("\n"), 1):
        fenced ^= line.lstrip().startswith("```")
        line = IMPORT.sub("", line) if fenced else UNSEEN.sub("", LINK.sub(r"\1", line))
        heading = None if fenced else HEADING.match(line)
        if heading:
            if "".join(lines).strip():
                yield Section(file, start, title or file, "\n".join(lines))
            name = heading[1].strip()
            title = f"{first.partition(':')[0]} › {name}" if first else name
            first, start, lines = first or name, number, []
        lines.append(line)
    if "".join(lines).strip():
        yield Section(file, start, title or file, "\n".join(lines))


def of_python(file: str, text: str) -> Iterator[Section]:
    """A module's docstring, and each of its public functions and classes."""
    text = IMPORT.sub("", text)  # who imports something does not speak of it
    doc = DOCSTRING.match(text)
    if doc:
        yield Section(file, 1, doc[1].partition("\n")[0].rstrip("."), doc[0])
    for found in DEFINITION.finditer(text):
        yield Section(file, text.count("\n", 0, found.start()) + 1, found[1], found[0])


# ---- words


@cache
def parts(word: str) -> tuple[str, ...]:
    """A word and what it is made of, in lower case: `kv_cache` is also *kv* and *cache*.

    >>> parts("MultiHeadAttention"), parts("warm-up")
    (('multiheadattention', 'multi', 'head', 'attention'), ('warmup', 'warm', 'up'))
    >>> parts("q_proj"), parts("Rotary")
    (('q_proj', 'proj'), ('rotary',))
    """
    pieces = [piece.lower() for piece in PART.findall(word) if len(piece) > 1]
    return tuple(dict.fromkeys([word.lower().replace("-", ""), *pieces]))


@cache
def _stem() -> Callable[[str], str]:
    return importlib.import_module("week12.porter").stem  # by name: `shared` needs no week


@cache
def terms(word: str) -> tuple[str, ...]:
    """What a word counts as in the index: the stems of its parts."""
    return tuple(map(_stem(), parts(word)))


def _terms_of(text: str) -> list[str]:
    return [term for word in TOKEN.findall(text) for term in terms(word)]


# ---- the search


def search(words: list[str], kind: Kind | None = None, limit: int = 10) -> tuple[list[Hit], str]:
    """The sections that say most about the words, the best first, and which words none has.

    Raises
    ------
    UserError
        If no section has any of the words; the message names those that come near.
    """
    require(limit >= 1, "--limit must be at least 1", limit, error=UserError)
    asked = TOKEN.findall(" ".join(words))
    require(asked, "WORD must have at least two letters or digits", *words, error=UserError)
    asked = [word for word in asked if word.lower() not in QUESTION.split()] or asked
    found = list(sections(kind))
    index = importlib.import_module("week12.bm25").BM25(b=0.4)  # sections are of many lengths
    documents = ([*_terms_of(s.title) * TITLE_COUNTS, *_terms_of(s.text)] for s in found)
    index.add([str(i) for i in range(len(found))], documents)
    absent = [word for word in asked if not index.scores(terms(word)).any()]
    said = _absent(absent, found, kind) if absent else ""
    if len(absent) == len(asked):
        raise UserError(said)
    query = [term for word in asked for term in terms(word)]
    query += [term for word in asked for term in _terms_of(ALSO.get(word.lower(), ""))]
    best = _ranked(found, index.scores(query).tolist())
    return [_hit(section, set(query)) for section in best[:limit]], said


def _ranked(found: list[Section], scores: list[float]) -> list[Section]:
    """Those above 0, the best first; the best of each file before its others."""
    whole: defaultdict[str, list[float]] = defaultdict(list)
    for section, score in zip(found, scores, strict=True):
        whole[section.file].append(score)
    gain = {file: OF_FILE * sum(own) / len(own) ** 0.5 for file, own in whole.items()}

    def worth(i: int) -> float:
        return (scores[i] + gain[found[i].file]) * _weight(found[i])

    order = sorted((i for i in range(len(found)) if scores[i] > 0), key=worth, reverse=True)
    first = {found[i].file: i for i in reversed(order)}
    order.sort(key=lambda i: first[found[i].file] != i)
    return [found[i] for i in order]


def _weight(section: Section) -> float:
    """How much a section says about what it speaks of."""
    if section.file.endswith(".py"):
        return TEXT if section.line == 1 else CODE
    note = section.file.startswith("weeks/") and not section.file.endswith("README.md")
    return (NOTE if note else TEXT) * (SOURCES if section.title.endswith("› Sources") else 1)


def _absent(words: list[str], found: list[Section], kind: Kind | None) -> str:
    """That no section has the words, and what is written nearly so."""
    known = {p for s in found for word in TOKEN.findall(f"{s.title} {s.text}") for p in parts(word)}
    near = [n for word in words for n in difflib.get_close_matches(word.lower(), known)]
    where = f" in {kind}" if kind else ""
    hint = f"; near: {', '.join(dict.fromkeys(near))}" if near else ""
    return f"nothing is said about {' '.join(words)!r}{where}{hint}"


def _hit(section: Section, query: set[str]) -> Hit:
    """The line of the section with most of the query's terms, its title only if no other has."""
    lines = section.text.split("\n")
    most = [
        len(query.intersection(_terms_of(line))) - (at == 0) / 2 for at, line in enumerate(lines)
    ]
    at = most.index(max(most))
    context = " ".join(lines[at].split())
    marks = tuple(m.span() for m in TOKEN.finditer(context) if query.intersection(terms(m[0])))
    return Hit(section.file, section.line + at, section.title, context, marks)


def cropped(hit: Hit, width: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """At most `width` characters of the context around its first mark, and the marks in them."""
    text, marks = hit.context, hit.marks
    if len(text) <= width:
        return text, marks
    start = marks[0][0] if marks else 0
    low = max(0, min(start - width // 3, len(text) - width))
    end = low + width
    head, tail = "…" * (low > 0), "…" * (end < len(text))
    cut = head + text[low + len(head) : end - len(tail)] + tail
    return cut, tuple(
        (max(a - low, 0), min(b - low, width)) for a, b in marks if low < b and a < end
    )
