"""A citation is what its document says, at that place, and supports the sentence that cites it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rag_library import TEA

from rag.answering.citations import MARKER, Claim, cited_in, split, verify
from rag.types import Chunk, Document, Hit

DOCUMENTS = {name: Document(name, text, title=name.upper()) for name, text in TEA.items()}


def hits_of(*names, start=0):
    return [
        Hit(Chunk.of(DOCUMENTS[name], start, len(DOCUMENTS[name].text)), row=i, score=1.0)
        for i, name in enumerate(names)
    ]


HITS = hits_of("tea.md", "coffee.md", "paper.md")


def check(text, hits=HITS):
    """Verify, and hold what must hold of any answer."""
    sentences, citations = verify(text, hits, DOCUMENTS)
    for citation in citations:
        document = DOCUMENTS[citation.document]
        assert document.text[citation.start : citation.end] == citation.quote
        assert citation.quote == citation.quote.strip()
        assert citation.title == document.title
    assert [c.number for c in citations] == list(range(1, len(citations) + 1))
    used = {n for sentence in sentences for n in sentence.citations}
    assert used == set(range(1, len(citations) + 1))
    for sentence in sentences:
        assert tuple(cited_in(sentence.text)) == sentence.citations
    return sentences, citations


def test_the_quote_is_the_best_sentence_of_the_chunk():
    _, (citation,) = check("Black tea needs boiling water [1].")
    assert citation.quote == "Black tea needs boiling water."


def test_spans_are_counted_from_the_document_not_the_chunk():
    at = TEA["coffee.md"].index("Coffee was")
    _, (citation,) = check("Coffee was first drunk in Yemen.", hits_of("coffee.md", start=at))
    assert citation.start == at


def test_a_citation_of_the_wrong_chunk_is_moved_to_the_right_one():
    _, (citation,) = check("Coffee was first drunk in Yemen [1].")
    assert citation.document == "coffee.md"


def test_the_chunk_that_is_cited_comes_before_others():
    text = "Tea is a hot drink."
    hits = [Hit(Chunk(name, 0, len(text), text), 0, 1.0) for name in ("a", "b", "c")]
    for n, name in enumerate("abc", start=1):
        _, (citation,) = verify(f"Tea is a hot drink [{n}].", hits)
        assert citation.document == name


def test_a_sentence_without_a_citation_gets_one():
    (sentence,), _ = check("An espresso takes about 25 seconds.")
    assert sentence.text == "An espresso takes about 25 seconds. [1]"


def test_what_no_chunk_says_is_marked_and_keeps_no_citation():
    sentences, citations = check("Tea cures every illness of the liver [1]. Tea grows on Mars [2].")
    assert [s.supported for s in sentences] == [False, False]
    assert citations == ()


@pytest.mark.parametrize("n", [0, 4, 99999])
def test_a_number_of_no_chunk_is_dropped(n):
    (sentence,), _ = check(f"Paper is made of fibers [{n}].")
    assert sentence.citations == (1,)
    assert f"[{n}]" not in sentence.text


@pytest.mark.parametrize(
    "wrong",
    [
        "Green tea is brewed at 90 degrees.",  # a number
        "Paper was invented in China by Marco Polo.",  # a name
        "Recycled paper is bleached.",  # the opposite
        "Coffee was never first drunk in Yemen.",
        "Green tea is brewed at 25 degrees.",  # a number of another sentence
        "Tea was first drunk in Yemen.",  # a name of another chunk
    ],
)
def test_numbers_names_and_negation_must_agree(wrong):
    (sentence,), citations = check(wrong)
    assert not sentence.supported
    assert citations == ()


def test_numbers_and_names_must_stand_in_one_sentence():
    text = "Alice was born in 1950. Bob was born in 1960."
    chunk = Chunk("people.md", 0, len(text), text)
    (right,), _ = verify("Bob was born in 1960.", [Hit(chunk, 0, 1.0)])
    (wrong,), _ = verify("Alice was born in 1960.", [Hit(chunk, 0, 1.0)])
    assert right.supported
    assert not wrong.supported


def test_a_heading_may_name_the_topic_but_says_nothing_alone():
    text = "It is closed at the end of the block. Nothing else is said."
    chunk = Chunk("with.md", 0, len(text), text, heading="The with statement > Files")
    (good,), _ = verify("Files are closed at the end of the block.", [Hit(chunk, 0, 1.0)])
    (bad,), _ = verify("The with statement.", [Hit(chunk, 0, 1.0)])
    assert good.supported
    assert not bad.supported


def test_line_breaks_do_not_matter():
    text = "A break statement\n   ends the\n   nearest loop. More follows."
    chunk = Chunk("break.md", 5, 5 + len(text), text)
    _, (citation,) = verify("A break statement ends the nearest loop.", [Hit(chunk, 0, 1.0)])
    assert citation.quote == "A break statement\n   ends the\n   nearest loop."
    assert citation.start == 5


def test_two_sentences_of_one_span_share_a_citation():
    sentences, citations = check("Black tea needs boiling water. It needs boiling water [1].")
    assert len(citations) == 1
    assert [s.citations for s in sentences] == [(1,), (1,)]


def test_several_sources_of_one_sentence():
    hits = [*hits_of("tea.md"), *hits_of("tea.md")]
    (sentence,), citations = check("Black tea needs boiling water [1, 2].", hits)
    assert sentence.citations == (1,)  # the same place twice
    assert len(citations) == 1


def test_a_marker_after_the_full_stop_belongs_to_the_sentence_before():
    assert split("One is here. [1] Two is there.") == ["One is here. [1] ", "Two is there."]
    assert split("One is here.[1][2]") == ["One is here.[1][2]"]


@pytest.mark.parametrize("code", ["items[1]", 'x["a"][1]', "f()[2]", "`[1]`"])
def test_an_index_in_code_is_no_citation(code):
    assert not MARKER.search(f"Take {code} of them")


@pytest.mark.parametrize("said", ["", "Yes.", "...", "[1]", "For example:"])
def test_what_says_nothing_needs_no_source(said):
    sentences, citations = check(said)
    assert citations == ()
    assert all(s.supported for s in sentences)


def test_pages_count_from_one():
    document = Document("a.pdf", "First page. Second page here.", pages=(0, 12))
    hit = Hit(Chunk.of(document, 0, len(document.text)), 0, 1.0)
    pages = []
    for said in ("First page.", "Second page here."):
        _, (citation,) = verify(said, [hit], {"a.pdf": document})
        pages.append(citation.page)
    assert pages == [1, 2]


pieces = st.sampled_from(
    [
        *(s.strip() + "." for text in TEA.values() for s in text.split(".") if s.strip()),
        "Nothing of that kind is known.",
        "[1]",
        "[2][3]",
        "[7]",
        "Ärger mit Ümläuten 漢字.",
        "\n",
        "e.g. this",
        "x[1]",
    ]
)


@given(st.lists(pieces, max_size=6).map(" ".join))
def test_any_answer(text):
    sentences, _ = check(text)
    shown = "".join(sentence.text for sentence in sentences)
    assert MARKER.sub("", shown).split() == MARKER.sub("", text).split()  # only markers change


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_text_splits_and_is_looked_up(said, text):
    assert "".join(split(said)) == said
    support = Claim(said).found_in(text)
    assert 0 <= support.score <= 1
    assert 0 <= support.start <= support.end <= len(text)


def test_the_code_words_of_a_sentence_must_stand_in_one_sentence_of_the_source():
    text = 'A "finally" clause runs at the end. An "except" clause can catch the exception raised.'
    hits = [Hit(Chunk("try.md", 0, len(text), text), row=0, score=1.0)]
    said = ["An `except` clause can catch the exception.", "`finally` can catch the exception."]
    assert [verify(each, hits)[0][0].supported for each in said] == [True, False]


@pytest.mark.parametrize("name", ["finally", "else"])
def test_a_short_sentence_of_which_one_word_in_four_is_missing_is_not_supported(name):
    text = "The finally statement saves the exception. The else statement is about an exception."
    hits = [Hit(Chunk("try.md", 0, len(text), text), row=0, score=1.0)]
    sentence = verify(f"You can use the `{name}` statement to catch the exception.", hits)[0][0]
    assert not sentence.supported
