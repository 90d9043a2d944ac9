"""ROUGE is that of rouge-score, pair by pair; its stems are NLTK's."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import PLAIN, TEXTS

from llm_eval.metrics import stems
from llm_eval.metrics.rouge import (
    Rouge,
    corpus_rouge,
    lcs_length,
    lcs_length_plain,
    rouge,
    signature,
    words_of,
)
from shared.errors import UserError

KINDS = ("rouge1", "rouge2", "rouge5", "rougeL", "rougeLsum")
LINES = st.lists(TEXTS | PLAIN, max_size=4).map("\n".join)
WORDS = st.lists(st.sampled_from("abcd"), max_size=100)


def in_rouge_score(prediction, targets, stem, kinds=KINDS):
    from rouge_score.rouge_scorer import RougeScorer

    scores = RougeScorer(list(kinds), use_stemmer=stem).score_multi(targets, prediction)
    return {kind: tuple(score) for kind, score in scores.items()}


def agree(ours, theirs):
    assert ours.keys() == theirs.keys()
    for kind, score in ours.items():
        assert tuple(score) == pytest.approx(theirs[kind], abs=1e-12)


@given(LINES, st.lists(LINES, min_size=1, max_size=3), st.booleans())
@settings(max_examples=100)
def test_values_are_those_of_rouge_score(prediction, targets, stem):
    agree(rouge(prediction, targets, KINDS, stem=stem), in_rouge_score(prediction, targets, stem))


@pytest.mark.parametrize("stem", [False, True])
def test_values_of_real_prose_are_those_of_rouge_score(stem):
    from pydoc_data.topics import topics

    texts = [topics[name][:600] for name in ("assert", "break", "class", "for")]
    for ours, text in itertools.pairwise(texts):
        agree(rouge(ours, text, KINDS, stem=stem), in_rouge_score(ours, [text], stem))


@given(WORDS, WORDS)
@settings(max_examples=100)
def test_the_subsequence_in_bits_is_as_long_as_in_the_table(a, b):
    assert lcs_length(a, b) == lcs_length_plain(a, b) == lcs_length(b, a)


def test_lines_cover_a_sentence_together():
    """Lin (2004), section 3.2: w1 w2 and w1 w3 w5 cover four of five words."""
    score = rouge("w1 w2 w6 w7 w8\nw1 w3 w8 w9 w5", "w1 w2 w3 w4 w5", ["rougeLsum"])["rougeLsum"]
    assert score == Rouge(4 / 10, 4 / 5, pytest.approx(8 / 15))


def test_no_word_counts_twice():
    score = rouge("a b", "a b\na b", ["rougeLsum"])["rougeLsum"]
    assert score == Rouge(1.0, 0.5, pytest.approx(2 / 3))


def test_short_words_keep_their_ending():
    """`was` is no `wa`, though the stemmer would say so."""
    assert stems.stem("was") == "wa"
    assert words_of("was cats", stem=True) == ["was", "cat"]
    assert rouge("was", "wa", stem=True)["rouge1"].f1 == 0


def test_the_best_target_is_chosen_for_each_kind():
    scores = rouge("a b c d", ["a b", "d c b a"])
    assert scores["rouge1"] == Rouge(1.0, 1.0, 1.0)
    assert scores["rouge2"] == Rouge(1 / 3, 1.0, 0.5)


def test_a_corpus_is_the_mean_of_its_pairs():
    found = corpus_rouge(["a b", "c"], ["a x", ["d", "c"]], ["rouge1"])
    assert found == {"rouge1": Rouge(0.75, 0.75, 0.75)}
    assert signature(stem=True) == "nrefs:1|case:lc|tok:a-z0-9|stem:yes|version:llm-eval-1"


def test_what_cannot_be_scored_is_refused():
    with pytest.raises(UserError, match=r"kinds must be rouge1 to rouge9, .* got 'rouge0'"):
        rouge("a", "a", ["rouge0"])
    with pytest.raises(ValueError, match=r"target must be at least one text, got \[\]"):
        rouge("a", [])
    with pytest.raises(ValueError, match=r"targets must be as many as predictions, 2, .* got 1"):
        corpus_rouge(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="and at least one, got 0"):
        corpus_rouge([], [])


# ---- stems


def test_stems_of_english_are_nltks():
    from pydoc_data.topics import topics

    from nltk.stem.porter import PorterStemmer

    theirs = PorterStemmer()
    words = set(re.findall("[a-z]+", " ".join(topics.values()).lower()))
    assert len(words) > 3000
    assert {w: stems.stem(w) for w in words} == {w: theirs.stem(w) for w in words}


ENDINGS = """
s es ss sses ies ied eed ed ing y ly ational tional enci anci izer bli abli alli entli eli ousli
ization ation ator alism iveness fulness ousness aliti iviti biliti fulli logi icate ative alize
iciti ical ful ness al ance ence er ic able ible ant ement ment ent ion sion tion ou ism ate iti
ous ive ize e ll
"""
MADE = st.builds(
    lambda start, a, b: start + a + b,
    st.text("abdeilostyz1", max_size=5),
    st.sampled_from(["", "at", "bl", "iz", *ENDINGS.split()]),
    st.sampled_from(ENDINGS.split()),
)


@given(st.lists(MADE | st.sampled_from([*stems.IRREGULAR, *sorted(stems.KEPT)]), max_size=60))
@settings(max_examples=100)
def test_stems_of_made_up_words_are_nltks(words):
    from nltk.stem.porter import PorterStemmer

    theirs = PorterStemmer()
    assert [stems.stem(word) for word in words] == [theirs.stem(word) for word in words]
