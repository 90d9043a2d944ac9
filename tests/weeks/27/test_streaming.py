"""Text as it comes: the same for every cut, never half a character, nothing of a stop string."""

import codecs

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models
from tokenizers.decoders import DecodeStream

from week27.evidence.serve import cuts, first_stop
from week27.streaming import Detokenizer, UntilStop, Writing


def text_of(pieces):
    return b"".join(pieces).decode(errors="replace")


def stream(pieces):
    detokenizer = Detokenizer(lambda ids: text_of(pieces[i] for i in ids))
    found = [detokenizer.feed(i) for i in range(len(pieces))]
    return found, detokenizer.end()


def cut(data, ends):
    ends = sorted({min(end, len(data)) for end in ends} | {len(data)})
    return [data[a:b] for a, b in zip([0, *ends], ends, strict=False)]


@given(st.text(alphabet="aé漢😀\ufffd ", max_size=12), st.lists(st.integers(0, 40)))
def test_valid_text_comes_as_soon_as_it_is_whole(text, ends):
    pieces = cut(text.encode(), ends)
    found, rest = stream(pieces)
    assert "".join((*found, rest)) == text
    if "\ufffd" not in text:
        decoder = codecs.getincrementaldecoder("utf-8")()
        assert found == [decoder.decode(piece) for piece in pieces]
        assert rest == ""


@given(st.binary(max_size=16), st.lists(st.integers(0, 16)))
def test_any_bytes_join_to_the_whole(data, ends):
    pieces = cut(data, ends)
    found, rest = stream(pieces)
    assert "".join((*found, rest)) == text_of(pieces)


def test_long_nonsense_is_not_held_back():
    found, rest = stream([b"\xff"] * 50)
    assert max(map(len, found)) <= 1
    assert len(rest) == 1


def test_work_for_a_token_does_not_grow_with_the_text():
    asked = []

    def decode(ids):
        asked.append(len(ids))
        return text_of(b"ab" for _ in ids)

    detokenizer = Detokenizer(decode)
    for i in range(200):
        detokenizer.feed(i)
    assert max(asked) <= 2


def spaced():
    """A tokenizer that drops the space before a text's first word, as SentencePiece's do."""
    words = {"▁Tea": 0, "▁is": 1, "▁hot": 2, "s": 3, "<unk>": 4}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_spaces_between_tokens_stay(ids):
    tokenizer = spaced()
    detokenizer, theirs = Detokenizer(tokenizer.decode), DecodeStream(skip_special_tokens=True)
    for token in ids:
        assert detokenizer.feed(token) == (theirs.step(tokenizer, token) or "")
    assert detokenizer.end() == ""


stops = st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3)


def by_definition(text, stops):
    for end in range(len(text) + 1):
        ending = [s for s in stops if text[:end].endswith(s)]
        if ending:
            return text[: end - max(map(len, ending))], max(ending, key=len)
    return text, None


@given(st.text(alphabet="abc", max_size=14), stops, st.lists(st.integers(0, 14)))
def test_stop_strings_for_every_cut(text, stops, ends):
    until, sent, seen = UntilStop(stops), "", ""
    expected, found = by_definition(text, stops)
    for piece in cut(text, ends):
        sent += until.feed(piece)
        seen += piece
        assert expected.startswith(sent)
        if until.found is None:
            held = [n for s in stops for n in range(len(s)) if seen.endswith(s[:n])]
            assert len(seen) - len(sent) == max(held, default=0)
    assert (sent + until.end(), until.found) == (expected, found)


@given(st.text(alphabet="abc", max_size=9), stops)
@example("cbab", ["ab", "bab"])
def test_the_evidence_knows_the_definition(text, stops):
    assert first_stop(text, stops) == by_definition(text, stops)[0]


def test_the_evidence_cuts_in_all_ways():
    found = list(cuts(6))
    assert len(set(found)) == len(found) == 2**5
    assert all(ends[-1] == 6 for ends in found)


def test_the_stop_that_is_complete_first_wins():
    until = UntilStop(["abcd", "bc"])
    assert until.feed("xabcd") == "xa"
    assert until.found == "bc"


def test_nothing_follows_a_stop():
    until = UntilStop(["."])
    assert [until.feed("a."), until.feed("b."), until.end()] == ["a", "", ""]


@pytest.mark.parametrize("wrong", ["stop", ["a", ""]])
def test_stops_are_several_texts(wrong):
    with pytest.raises(ValueError, match="stops must be several texts"):
        UntilStop(wrong)


def writing(**options):
    return Writing(lambda ids: bytes(ids).decode(errors="replace"), **options)


def test_an_end_is_no_part_of_the_text():
    text = writing(ends={0})
    assert [text.feed(token) for token in (*b"hi", 0)] == ["h", "i", ""]
    assert text.finished == "stop"
    assert text.end() == ""


def test_what_waits_comes_at_the_end():
    text = writing(stops=["END"], ends={0})
    assert "".join(text.feed(token) for token in "é E".encode()[:-1]) == "é "
    assert text.feed(ord("E")) == ""
    assert text.feed(0) == "E"


def test_half_a_character_at_the_end_is_told():
    text = writing(ends={0})
    assert [text.feed(token) for token in (0xC3, 0)] == ["", "\ufffd"]
    assert text.end() == ""  # once
    text = writing()
    assert text.feed(0xC3) == ""
    assert text.end() == "\ufffd"
    assert text.finished is None


def test_a_stop_may_be_found_in_what_waited():
    text = writing(stops=["\ufffd"])
    assert text.feed(ord("a")) == "a"
    assert text.feed(0xC3) == ""
    assert text.end() == ""
