"""The longest overlap against a search through all substrings, and its baseline."""

import difflib
import json
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tiny_gpt.report.memorization import SuffixAutomaton, longest_overlaps, memorization_report

# Few letters, so that samples repeat themselves and each other.
texts = st.text("abé", max_size=16)


def longest_by_search(sample, training):
    """All substrings, the longest first."""
    for length in range(len(sample), 0, -1):
        for start in range(len(sample) - length + 1):
            if any(sample[start : start + length] in document for document in training):
                return length, sample[start : start + length]
    return 0, ""


@given(st.lists(texts, max_size=4), st.lists(texts, max_size=4))
def test_equals_a_search_through_all_substrings(samples, training):
    found = longest_overlaps(samples, iter(training))
    assert [overlap.sample for overlap in found] == list(range(len(samples)))
    for sample, overlap in zip(samples, found, strict=True):
        assert (overlap.length, overlap.text) == longest_by_search(sample, training)
        if overlap.where is None:
            assert overlap.length == 0
        else:
            document, start = overlap.where
            assert training[document][start : start + overlap.length] == overlap.text


def test_equals_difflib_on_longer_texts():
    rng = np.random.default_rng(0)
    training = ["".join(rng.choice(list("ab\n c"), 3000)) for _ in range(3)]
    sample = "".join(rng.choice(list("ab\n c"), 400)) + training[1][700:760] + "zz"
    expected = max(
        difflib.SequenceMatcher(None, sample, document, autojunk=False).find_longest_match().size
        for document in training
    )
    assert longest_overlaps([sample], training)[0].length == expected >= 60


def test_a_passage_ends_with_its_document():
    (overlap,) = longest_overlaps(["abcd"], ["xab", "cdx"])
    assert overlap.length == 2
    # Nor does it go on from one sample to the next.
    assert [o.length for o in longest_overlaps(["ab", "cd"], ["abcd"])] == [2, 2]


def test_of_nothing():
    assert longest_overlaps([], ["abc"]) == []
    for sample, training in (("", ["abc"]), ("abc", []), ("abc", [""]), ("abc", ["xyz"])):
        (overlap,) = longest_overlaps([sample], training)
        assert (overlap.length, overlap.text, overlap.where) == (0, "", None)


def test_the_automaton_is_small():
    # Blumer et al. (1985): at most 2n - 1 states and 3n - 4 edges, so memory is linear.
    for text in ("ab" * 200, "a" * 399 + "b", "a" + "b" * 399, "abbb" * 100, "abcd" * 100):
        automaton = SuffixAutomaton()
        for symbol in text:
            automaton.extend(symbol)
        assert len(automaton.edges) <= 2 * len(text) - 1
        assert sum(map(len, automaton.edges)) <= 3 * len(text) - 4


def test_report_puts_unseen_text_beside_the_samples():
    rng = np.random.default_rng(1)

    def random_text(n):
        return "".join(rng.choice(list("abcdefgh "), n))

    training, held_out = [random_text(4000)], [random_text(700), random_text(500)]
    learned = [training[0][start : start + 100] for start in (10, 500, 900)]
    report = memorization_report(learned, iter(training), iter(held_out))
    assert (report.longest, report.median) == (100, 100)
    # Pieces of the same lengths from all over the held-out text, the last one at its end.
    text = "".join(held_out)
    pieces = [text[start : start + 100] for start in (0, 550, 1100)]
    expected = [longest_by_search(piece, training)[0] for piece in pieces]
    assert report.held_out_longest == max(expected) < 20
    assert report.held_out_median == statistics.median(expected)
    assert "longest overlap with the training text 100 characters (median 100)" in str(report)
    assert f"unseen text of the same lengths {max(expected)}" in str(report)
    # What was not learned shares no more than unseen text does.
    honest = memorization_report([random_text(100) for _ in range(3)], training, held_out)
    assert honest.longest < 20
    back = json.loads(json.dumps(report.to_dict()))
    assert back["longest"] == 100
    assert back["text"] == learned[0]
    assert back["where"] == [0, 10]


def test_report_without_held_out_text():
    report = memorization_report(["abc", "xbcdx", ""], ["abcd"])
    assert (report.longest, report.median) == (3, 3)
    assert report.held_out_longest is None
    assert "unseen" not in str(report)
    assert report.to_dict()["held_out_median"] is None


def test_wrong_input():
    with pytest.raises(ValueError, match="samples must be at least one text, got none"):
        memorization_report([], ["abc"])
    with pytest.raises(ValueError, match="held_out must have as much text as a sample of 5"):
        memorization_report(["abcde"], ["abc"], ["ab", "c"])
