"""The filter: what a reader sees is the same under every cut, and no blocked span is in it."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.documents.redaction import find
from serving.safety.policy import Safety, Watched, open_safety
from serving.safety.stream import LONGEST, SECRETS, Released, StreamFilter
from shared.errors import UserError

KEY = "AKIAIOSFODNN7EXAMPLE"
CARD = "4111 1111 1111 1111"
HEADER = "-----BEGIN RSA PRIVATE KEY-----"
PARTS = [KEY, CARD, HEADER, "ada@example.org", "+49 30 1234 5678", "GB82 WEST 1234 5698 7654 32"]
PARTS += ["https://ann:secret@example.org", "10.1.2.3", "4111111111111111", "4111-1111", "ghp_"]
PARTS += ["fool", "You fool. ", "Hello", " ", " ", " ", ". ", "! ", "\n", ".", ",", "Version ", "a"]
PARTS += ["12", "A1", "(", ")", "-", "@", "é", "🙂", '." ', "\n" + "MIIEpAIBAAKCAQEA" * 2]


def toxic(sentence):
    return "fool" in sentence


def streamed(guard, pieces):
    """All that is released, and why it ended."""
    found = [guard.feed(piece) for piece in pieces]
    found.append(guard.end())
    return "".join(one.text for one in found), found[-1].blocked


def expected(text, *, judge, redact):
    """The same of a text that is all there: rules apply to it as a whole."""
    events = [(start, end, kind) for start, end, kind in find(text) if kind in SECRETS or redact]
    at = 0
    while judge and at < len(text):
        match = re.compile(r"(?:[.!?][\"')\]]{0,3}\s|\n)").search(text, at + 1)
        end = match.end() if match else len(text)
        whole = match and match.start() - at <= LONGEST - 1
        end = end if whole else min(at + LONGEST, len(text))
        if text[at:end].strip() and toxic(text[at:end]):
            events.append((at, at, "toxic"))
            break
        at = end
    seen, done = [], 0
    for start, end, kind in sorted(events):
        if start < done and kind != "toxic":
            continue
        seen.append(text[done : max(start, done)])
        if kind in SECRETS or kind == "toxic":
            return "".join(seen), kind.lower().replace("_", " ")
        seen.append(f"[{kind}]")
        done = end
    return "".join([*seen, text[done:]]), None


texts = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans(), st.booleans(), st.data())
def test_every_cut_gives_what_the_whole_text_gives(text, judge, redact, data):
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=40).map(sorted))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    guard = StreamFilter(toxic=toxic if judge else None, redact=redact)
    assert streamed(guard, pieces) == expected(text, judge=judge, redact=redact)


@settings(max_examples=150, deadline=None)
@given(texts, st.booleans(), st.booleans())
def test_nothing_of_a_blocked_span_leaves_at_any_time(text, judge, redact):
    final, _ = expected(text, judge=judge, redact=redact)
    guard, seen = StreamFilter(toxic=toxic if judge else None, redact=redact), ""
    for letter in text:
        seen += guard.feed(letter).text
        assert final.startswith(seen)
    seen += guard.end().text
    assert seen == final
    assert not any(kind in SECRETS for _, _, kind in find(seen))


@pytest.mark.parametrize("length", [1, 2, 7, 1000])
def test_a_long_text_is_the_same_under_every_length_of_pieces(length):
    prose = "A sentence about rain, and one more word. " * 40 + "word " * 150
    text = f"{prose}Pay with {CARD}, soon. {prose}{'x' * 900} Key {KEY} ends it. {prose}"
    pieces = [text[i : i + length] for i in range(0, len(text), length)]
    seen, reason = streamed(StreamFilter(toxic=toxic, redact=True), pieces)
    assert (seen, reason) == expected(text, judge=True, redact=True)
    assert seen.endswith("Key ")
    assert "Pay with [CARD], soon. " in seen


def test_memory_and_work_do_not_grow_with_the_answer():
    guard, most = StreamFilter(redact=True), 0
    for _ in range(3000):
        guard.feed("some word and ")
        most = max(most, len(guard._text))
    assert most < 200


def test_prose_is_released_word_by_word():
    guard = StreamFilter()
    assert [guard.feed(p).text for p in ("It ", "ra", "ins", " today", ".\n")] == [
        *("It ", "", "", "rains ", "today.\n")
    ]


def test_a_judged_sentence_waits_for_its_end_and_no_longer():
    guard = StreamFilter(toxic=toxic)
    assert guard.feed("It rains today.").text == ""
    assert guard.feed(" And").text == "It rains today. "
    assert guard.feed(" tomorrow").text == ""
    assert guard.end() == Released(" And tomorrow".lstrip(), None)


def test_a_sentence_without_an_end_is_judged_in_parts():
    guard = StreamFilter(toxic=toxic)
    seen = "".join(guard.feed("word ").text for _ in range(200))
    assert len(seen) >= 1000 - LONGEST - 5


@pytest.mark.parametrize("length", range(LONGEST - 2, LONGEST + 3))
def test_a_sentence_of_the_greatest_length_is_one_under_every_cut(length):
    sentence = "a" * (length - 1) + " . "
    judged = []

    def judge(text):
        judged.append(text)
        return False

    text, found = sentence + "It rains. ", []
    for step in (1, 7, len(text)):
        guard = StreamFilter(toxic=judge)
        assert streamed(guard, [text[i : i + step] for i in range(0, len(text), step)])[0] == text
        found.append(judged[:])
        judged.clear()
    assert found[0] == found[1] == found[2]


def test_after_a_blocked_span_nothing_follows():
    guard = StreamFilter()
    assert guard.feed(f"Key {KEY} and ").blocked == "token"
    assert guard.feed(" more. ") == Released("", "token")
    assert guard.end() == Released("", "token")


def test_modes():
    text = f"Write to ada@example.org. Key {KEY} fits."
    assert Safety("off").check(text) is None
    assert Safety("warn").check(text) == Safety("block").check(text) == "token"
    assert Safety("block", toxic=toxic).check("Be kind. You fool") == "toxic"
    assert Safety("block", toxic=toxic).check("You fool! Be kind") == "toxic"
    block, redact = Safety("block"), Safety("block", redact=True)
    assert streamed(block.stream(), [text]) == ("Write to ada@example.org. Key ", "token")
    assert streamed(redact.stream(), [text]) == ("Write to [EMAIL]. Key ", "token")
    for mode, warning in (("off", None), ("warn", "token")):
        watched = Safety(mode).stream()
        assert isinstance(watched, Watched)
        assert [watched.feed(letter).text for letter in text] == list(text)
        assert watched.end() == Released("")
        assert watched.warning == warning


def test_the_classifier_of_tweets_judges():
    policy = open_safety("block")
    assert policy.check("Water boils at a hundred degrees. Tea needs it.") is None
    assert policy.check("Tea is fine. You are a stupid bitch and I hate you.") == "toxic"


def test_who_starts_it_first_is_told_why_it_takes_long(monkeypatch, tmp_path):
    from llm_eval.safety import classifier
    from serving.safety import policy

    monkeypatch.setattr(policy, "_classifier", lambda: None)
    for folder, lines in ((tmp_path / "none", 1), (tmp_path, 0)):
        monkeypatch.setattr(classifier, "default_folder", lambda folder=folder: folder)
        said = []
        open_safety("block", say=said.append)
        assert len(said) == lines


def test_wrong_input():
    with pytest.raises(UserError, match="safety must be off, warn or block, got strict"):
        Safety("strict")
    with pytest.raises(UserError, match="redact needs safety block, got warn"):
        Safety("warn", redact=True)
