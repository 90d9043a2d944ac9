"""Every chunk is where it says it is, nothing is lost, and sizes hold, for all ways to cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.documents.chunkers import SPLITTERS, chunk
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
