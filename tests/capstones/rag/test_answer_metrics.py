"""Scores of answers are those of SQuAD's script, and refusing is judged fairly."""

from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.evaluation.answers import (
    aurc,
    citation_scores,
    coverage_risk,
    exact_match,
    f1,
    faithfulness,
    normalized,
    refusals,
    squad,
    squad_v2,
)
from rag.types import Answer, Chunk, Citation, Hit, Sentence

SAMPLE = ["the", "a", "An", "cat", "Cat,", "dog.", "--", "1.5", "U.S.", "naïve", "it's", "tea-pot"]
words = st.lists(st.sampled_from(SAMPLE), max_size=5).map(" ".join)


@pytest.fixture(scope="module")
def theirs():
    """SQuAD's functions as lm-eval has them, without the rest of it."""
    lm_eval = find_spec("lm_eval")
    if lm_eval is None:
        pytest.skip("lm-eval is not installed")
    path = Path(lm_eval.origin).parent / "tasks/tydiqa/utils.py"
    spec = spec_from_file_location("tydiqa_utils", path)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@given(words, st.lists(words, min_size=1, max_size=3))
def test_as_the_library(theirs, answer, truths):
    scores = [theirs.f1_score(answer, truth, "en") for truth in truths]
    same = [theirs.exact_match_score(answer, truth, "en") for truth in truths]
    ours = squad({"q": answer}, {"q": truths})
    assert ours["f1"] == pytest.approx(100 * max(scores), abs=1e-12)
    assert ours["exact_match"] == 100 * max(same)


# Made with the definitions of the official scripts, by hand.
@pytest.mark.parametrize(
    ("answer", "truths", "em", "score"),
    [
        ("The Cat!", ["cat"], 1, 1),
        ("a black cat", ["the cat"], 0, 2 / 3),
        ("cat cat", ["cat"], 0, 2 / 3),
        ("dog", ["cat", "big dog", "dog"], 1, 1),
        ("an-the", ["anthe"], 1, 1),
        ("theory", ["ory"], 0, 0),
        ("", ["cat"], 0, 0),
        ("", [""], 1, 1),
    ],
)
def test_by_hand(answer, truths, em, score):
    assert exact_match(answer, truths) == em
    assert f1(answer, truths) == pytest.approx(score)


def test_version_one_gives_no_f1_for_nothing():
    assert squad({"q": "the"}, {"q": ["a"]}) == {"exact_match": 100, "f1": 0}
    assert squad({}, {"q": ["cat"]}) == {"exact_match": 0, "f1": 0}


def test_version_two():
    truths = {"1": ["cat"], "2": [], "3": [], "4": ["the dog", "--"]}
    result = squad_v2({"1": "cat", "2": "", "3": "owl", "4": "dog house"}, truths)
    assert result["exact"] == 50
    assert result["f1"] == pytest.approx(100 * (1 + 1 + 0 + 2 / 3) / 4)
    assert (result["HasAns_total"], result["NoAns_total"], result["total"]) == (2, 2, 4)
    assert (result["HasAns_exact"], result["NoAns_exact"]) == (50, 50)
    assert squad_v2({"1": ""}, {"1": ["--"]})["exact"] == 100  # a truth of punctuation is none
    with pytest.raises(ValueError, match="answers must hold every question, got 2"):
        squad_v2({"1": "cat"}, {"1": [], "2": []})


def test_bad_input():
    with pytest.raises(ValueError, match="truths must be a list of texts"):
        f1("cat", "cat")
    with pytest.raises(ValueError, match="at least one question"):
        squad({}, {})
    with pytest.raises(ValueError, match="confidence and right must be as many"):
        coverage_risk([0.5], [True, False])
    with pytest.raises(ValueError, match="at least 1"):
        coverage_risk([], [])


def answer_of(text, quote, numbers=(1,), **more):
    citation = Citation(1, "a.md", 0, len(quote), quote)
    hits = (Hit(Chunk("a.md", 0, len(quote), quote), 0, 1.0),)
    sentences = (Sentence(text, numbers),)
    return Answer("?", text, sentences=sentences, citations=(citation,), hits=hits, **more)


def test_citations_are_counted():
    assert citation_scores(answer_of("Tea is hot. [1]", "Tea is very hot.")) == (1, 1, 1, 1)
    assert citation_scores(answer_of("Dogs bark. [1]", "Tea is hot.")) == (0, 1, 0, 1)
    assert citation_scores(answer_of("Tea is hot.", "Tea is hot.", ())) == (0, 1, 0, 1)


def test_faithfulness_is_the_share_of_the_words():
    assert faithfulness(answer_of("Tea is cold. [1]", "Tea is hot.")) == pytest.approx(2 / 3)
    assert faithfulness(answer_of("I don't know.", "Tea", abstained=True)) == 1


def test_coverage_and_risk():
    coverage, risk = coverage_risk([0.2, 0.9, 0.5, 0.7], [False, True, False, True])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == [0, 0, pytest.approx(1 / 3), 0.5]
    assert aurc([0.2, 0.9, 0.5, 0.7], [False, True, False, True]) == pytest.approx(5 / 24)


@given(
    st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.booleans()), min_size=1, max_size=12)
)
def test_the_order_of_equals_does_not_matter(pairs):
    confidence, right = zip(*pairs, strict=True)
    back = coverage_risk(confidence[::-1], right[::-1])[1]
    assert np.allclose(coverage_risk(confidence, right)[1], back)
    assert coverage_risk(confidence, right)[1][-1] == pytest.approx(1 - np.mean(right))
    assert aurc([0.5] * len(right), right) == pytest.approx(1 - np.mean(right))  # says nothing


def test_refusals():
    result = refusals([True, True, False, False], [False, True, True, False])
    assert result == {"precision": 0.5, "recall": 0.5, "answered": 0.5}
    assert refusals([False], [True]) == {"precision": 0, "recall": 0, "answered": 1}


@given(st.text(max_size=40))
def test_normalizing_twice_changes_nothing(text):
    assert normalized(normalized(text)) == normalized(text)
