"""Every chunk is where it says it is, nothing is lost, and sizes hold, for all ways to cut."""

import ast
import inspect
import random
import re
import textwrap
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents import definitions, markdown
from rag.documents.chunkers import SPLITTERS, chunk, join, lines, paragraphs, pieces, words
from rag.types import Document

PROSE = "tea|hot.|Dr.|Why?|é|日本。|thewholewordistoolong|\n|\n\n| |\t|\r\n|\u2028"
MARKS = "# Head|\n## Sub\n|\n```\n|~~~|- a\n|def f():\n    pass\n|class A:\n|}\n"
WORDS = st.sampled_from(f"{PROSE}|{MARKS}".split("|"))
TEXTS = st.one_of(st.lists(WORDS, max_size=40).map("".join), st.text(max_size=200))


@pytest.mark.parametrize("splitter", [*SPLITTERS, "auto"])
@given(TEXTS, st.integers(1, 60), st.data())
def test_chunks_are_spans_that_lose_nothing(splitter, text, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    kind = data.draw(st.sampled_from(["text", "markdown", "code"]))
    lang = data.draw(st.sampled_from(["py", "js"]))
    document = Document("d", text, metadata={"kind": kind, "lang": lang})
    chunks = chunk(document, splitter=splitter, size=size, overlap=overlap)
    covered = set()
    for before, own in zip([None, *chunks], chunks, strict=False):
        assert text[own.start : own.end] == own.text
        assert own.text.strip()
        assert len(own.text) <= size
        if before:
            assert before.start < own.start
            assert before.end < own.end
            assert before.end - own.start <= overlap
        covered.update(range(own.start, own.end))
    assert all(i in covered for i, sign in enumerate(text) if not sign.isspace())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0, "overlap": 0}, "size must be at least 1, got 0"),
        ({"size": 10, "overlap": 10}, r"overlap must be less than size, in 0\.\.9, got 10"),
        ({"overlap": -1}, r"overlap must be less than size, in 0\.\.799, got -1"),
        ({"splitter": "words"}, "splitter must be one of auto, recursive, .*, got 'words'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        chunk(Document("d", "text"), **options)


@pytest.mark.parametrize("text", ["", " \n\t", "\u2003\n"])
def test_nothing_gives_no_chunk(text):
    assert chunk(Document("d", text)) == []


# ---- beside langchain-text-splitters


def langchain(text, size, overlap=0):
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        [r"\n(?:[^\S\n]*\n)+", r"\n", r"\s+", ""],
        is_separator_regex=True,
        keep_separator="end",
        chunk_size=size,
        chunk_overlap=overlap,
    )
    return splitter.split_text(text)


def ours(text, size, overlap=0):
    found = pieces(text, 0, len(text), size, (paragraphs, lines, words))
    return [text[a:b].strip() for a, b in join(text, found, size, overlap, (words,))]


LETTERS = st.text("abc", min_size=1, max_size=8)


@given(
    st.lists(LETTERS, min_size=1),
    st.sampled_from([" ", "\n", "\n\n"]),
    st.integers(9, 60),
    st.data(),
)
def test_same_chunks_as_langchain_where_all_breaks_are_of_one_kind(parts, separator, size, data):
    """It counts the break after the last word too: sizes and overlaps are so much larger there."""
    overlap = data.draw(st.integers(0, size - 1))
    text = "".join(part + separator for part in parts)
    n = len(separator)
    assert ours(text, size, overlap) == langchain(text, size + n, overlap + n)


@given(
    st.lists(st.tuples(LETTERS, st.sampled_from([" ", " ", "\n", "\n\n", "\n \n"]))),
    st.integers(1, 60),
)
def test_never_more_chunks_than_langchain(parts, size):
    """It starts anew at each paragraph that was too long, and so leaves its neighbors alone."""
    text = "".join(map("".join, parts))
    theirs, own = langchain(text, size), ours(text, size)
    assert len(own) <= len(theirs)
    assert "".join("".join(own).split()) == "".join("".join(theirs).split())
    assert max(map(len, own), default=0) <= size


def test_a_heading_is_not_left_alone():
    text = "Tea\n\n" + "It is hot. " * 20
    assert chunk(Document("d", text), size=100, overlap=0)[0].text.startswith("Tea\n\nIt is hot.")
    assert langchain(text, 100)[0] == "Tea"


def test_same_sections_as_langchain_of_markdown():
    from langchain_text_splitters import MarkdownHeaderTextSplitter

    names = [("#" * level, str(level)) for level in range(1, 7)]
    splitter = MarkdownHeaderTextSplitter(names, strip_headers=False)
    rng = random.Random(0)
    for _ in range(200):
        rows = []
        for i in range(rng.randrange(1, 20)):
            code = f"```py\n# no heading {i}\n```"
            heading = f"{'#' * rng.randint(1, 6)} Head {i}"
            rows.append(rng.choice([heading, heading, f"text {i}", f"- item {i}", "", code]))
        text = "\n".join(rows)
        document = Document("d", text, metadata={"kind": "markdown"})
        own = chunk(document, splitter="markdown", size=10_000, overlap=0)
        theirs = splitter.split_text(text)
        assert [c.text.split() for c in own] == [d.page_content.split() for d in theirs], text
        assert [c.heading for c in own] == [" > ".join(d.metadata.values()) for d in theirs], text


# ---- where a chunk begins


def test_overlap_begins_with_a_sentence_or_a_word():
    text = "One two three four. Five six seven eight. Nine ten eleven twelve. Thirteen is last."
    found = [c.text for c in chunk(Document("d", text), size=44, overlap=25)]
    assert found[:2] == [
        "One two three four. Five six seven eight.",
        "six seven eight. Nine ten eleven twelve.",  # there is no room for "Five"
    ]
    found = [c.text for c in chunk(Document("d", text), size=65, overlap=30)]
    assert found[1] == "Nine ten eleven twelve. Thirteen is last."
    found = [c.text for c in chunk(Document("d", text), splitter="sentence", size=45, overlap=15)]
    assert found[1] == "Nine ten eleven twelve. Thirteen is last."  # no sentence is that short


@given(st.lists(LETTERS, min_size=20, max_size=60), st.integers(10, 60), st.data())
def test_overlap_is_as_long_as_asked_where_there_is_room(parts, size, data):
    overlap = data.draw(st.integers(0, size - 1))
    text = " ".join(parts) + " "
    chunks = chunk(Document("d", text), size=size, overlap=overlap)
    for before, own in pairwise(chunks):
        assert own.start == 0 or text[own.start - 1] == " "
        assert len(own.text) <= size
        word = text.index(" ", before.end + 1) - before.end  # the next one, which must fit
        longer = text.rfind(" ", 0, own.start - 1) + 1  # with one word more
        assert max(0, before.end - own.start) <= max(0, min(overlap, size - word))
        assert min(overlap, size - word) < before.end - longer


def test_indentation_stays():
    text = "Steps:\n\n    first\n      second\n\nEnd"
    assert [c.text for c in chunk(Document("d", text), size=20, overlap=0)] == [
        "Steps:\n\n    first",
        "      second\n\nEnd",
    ]


def test_heading_says_where_a_chunk_stands():
    text = "intro\n\n# Tea\n\n## Green\nmild\n\n## Black\nstrong\n\nBrewing\n=======\nhot"
    for splitter in ("recursive", "markdown", "sentence"):
        document = Document("d", text, "Tea", {"kind": "markdown"})
        found = {
            c.text.split()[-1]: c.heading
            for c in chunk(document, splitter=splitter, size=21, overlap=0)
        }
        expected = {"mild": "Tea > Green", "strong": "Tea > Black", "hot": "Tea > Brewing"}
        assert expected.items() <= found.items()
    assert [c.heading for c in chunk(document, size=1000)] == ["Tea"]  # where it begins, not ends
    assert chunk(Document("d", text))[0].heading == ""  # plain text has no headings
    assert chunk(Document("d", text, "T"))[0].heading == "T"


def test_pages_count_from_one():
    texts = ["First page.", "", "Third page, with more words."]
    starts = (0, 13, 15)
    document = Document("d", "\n\n".join(texts), metadata={"kind": "pdf"}, pages=starts)
    found = chunk(document, size=20, overlap=0)
    assert [c.metadata["page"] for c in found] == [1, 3, 3]
    assert "page" not in chunk(Document("d", "text"))[0].metadata


# ---- Markdown


def test_fences_that_fit_stay_whole():
    rng = random.Random(1)
    for _ in range(100):
        mark = rng.choice(["```", "~~~", "````"])
        code = "\n".join(
            rng.choice(["x = 1", "", "# no heading", "```"[: rng.randrange(3)]]) for _ in range(4)
        )
        fence = f"{mark}py\n{code}\n{mark}\n"
        text = (
            "Words and words. " * rng.randrange(1, 9)
            + "\n" * rng.randint(1, 2)
            + fence
            + "More.\n" * 9
        )
        chunks = chunk(
            Document("d", text), splitter="markdown", size=80, overlap=rng.choice([0, 20])
        )
        assert any(fence.strip() in c.text for c in chunks), text


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("# A #\n\nx\n\n## B\n\ny\n# C\nz", [("A",), ("A", "B"), ("C",)]),
        ("---\ntitle: x\n---\n# A\nx", [(), ("A",)]),
        ("x\n\n#no\n# \n####### no\n    # code", [(), ()]),
        ("| a | b |\n|---|---|\n- x\n---\n", [()]),
        ("```\n# no\n", [()]),
        ("> ```\n> # no\n> ```\n# A", [(), ("A",)]),
        ("# A\n### C\nx\n## B\ny", [("A", "C"), ("A", "B")]),
        ("A\n===\nB\n---\nx", [("A", "B")]),
    ],
)
def test_headings(text, paths):
    assert [path for _, path in markdown.sections(text)] == paths


# ---- programs


@pytest.mark.parametrize("module", [ast, inspect, textwrap, random, re])
def test_functions_that_fit_stay_whole(module):
    """The parser of another module, `inspect`, says where each function stands."""
    text = inspect.getsource(module)
    document = Document("d", text, metadata={"kind": "code", "lang": "py"})
    chunks = chunk(document, splitter="code", size=3000, overlap=100)
    names = {c.heading: c.text for c in reversed(chunks)}
    functions = [
        f
        for f in vars(module).values()
        if inspect.isfunction(f) and f.__module__ == module.__name__
    ]
    found = 0
    for function in functions:
        source = inspect.getsource(function).strip()
        if len(source) < 2500 and f"\n{source}" in text:
            assert source in names[function.__name__]
            found += 1
    assert found > 1


def test_definitions_of_python():
    text = '''"""About."""
import os

# What it does.
# And more.
@cache
def first(x):
    return x
LIMIT = 1

class Tea:
    """Hot."""

    @property
    def name(self):
        return "tea"

    async def brew(self):
        def inner():
            pass
'''
    found = [
        (text[start:].lstrip().partition("\n")[0], names)
        for start, names in definitions.sections(text, "py", 50)
    ]
    assert found == [
        ('"""About."""', ()),
        ("# What it does.", ("first",)),
        ("LIMIT = 1", ()),
        ("class Tea:", ("Tea",)),
        ("@property", ("Tea", "name")),
        ("async def brew(self):", ("Tea",)),
        ("async def brew(self):", ("Tea", "brew")),
        ("", ("Tea",)),
        ("", ()),
    ]
    assert ("class Tea:", ("Tea",)) in found
    whole = definitions.sections(text, "py", 5000)
    assert [names for _, names in whole] == [(), ("first",), (), ("Tea",), ()]


OTHERS = {
    "js": (
        "// Adds.\nexport async function add(a) {\n}\n\nconst sub = (a) => {\n}\nclass Tea {}",
        "add sub Tea",
    ),
    "ts": (
        "export interface Cup<T> { a: T }\nexport default class Tea {}\ntype A = 1",
        "Cup Tea A",
    ),
    "go": ("package main\n\nfunc (t *Tea) Brew() {\n}\n\ntype Cup struct {\n}", "main Brew Cup"),
    "rs": (
        "pub fn brew() {}\n\n#[derive(Debug)]\npub struct Tea {}\nimpl<T> Cup<T> {}",
        "brew Tea Cup",
    ),
    "c": (
        "#include <a.h>\n\nstatic int *add(int a,\n    int b)\n{\n}\n\nstruct tea {\n};",
        "add tea",
    ),
    "cpp": ("namespace tea {\n}\nvoid Tea::brew(int a) const {\n}", "tea Tea::brew"),
    "java": ("public final class Tea extends Cup {\n  void brew() {}\n}", "Tea"),
    "rb": ("module Tea\nend\ndef brew(a)\nend", "Tea brew"),
    "py": ("def broken(:\n    pass\n\nclass Tea(object):\n    print 'x'", "broken Tea"),
}


@pytest.mark.parametrize("lang", OTHERS)
def test_definitions_of_others(lang):
    text, names = OTHERS[lang]
    assert [name[0] for _, name in definitions.sections(text, lang) if name] == names.split()


def test_a_class_is_not_left_without_its_first_method():
    text = f"class Tea:\n    def brew(self):\n        {'x' * 50}\n\n    def drink(self):\n"
    found = definitions.sections(text, "py", 50)
    assert found[0] == (0, ("Tea", "brew"))
    assert (text.index("    def drink"), ("Tea", "drink")) in found


def test_comments_stay_with_what_they_explain():
    text = "int a;\n\n/* Adds.\n * Well.\n */\nint add(int a) {\n}\n"
    start, _ = definitions.sections(text, "c")[1]
    assert text[start:].startswith("/* Adds.")
