"""Answers are judged as by the harness, by SQuAD's script and by counting."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.metrics.answers import (
    exact_match,
    normalize,
    quasi_exact_match,
    squad_exact_match,
    token_f1,
)

WORDS = st.sampled_from(
    ["a", "an", "the", "The", "cat", "Cat", "theory", "a-b", "…", "é", "1", "."]
)
SENTENCES = st.lists(WORDS, max_size=6).map(" ".join)
ODD = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
TEXTS = SENTENCES | ODD
NO_NUL = TEXTS.map(lambda text: text.replace("\0", ""))  # NumPy's strings lose it at the end


def squad_script():
    """SQuAD 1.1's functions, as the harness carries them for Qasper."""
    package = Path(importlib.util.find_spec("lm_eval").origin).parent
    path = package / "tasks" / "qasper" / "metrics.py"
    spec = importlib.util.spec_from_file_location("squad_script", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SQUAD = squad_script()


@given(
    NO_NUL,
    st.lists(NO_NUL, min_size=1, max_size=3),
    st.fixed_dictionaries(
        {f"ignore_{name}": st.booleans() for name in ("case", "punctuation", "numbers")}
    ),
    st.lists(st.sampled_from(["the", r"\s+", r"^a", r"(?s).*#", "[0-9]"]), max_size=2),
)
def test_exact_match_is_the_harness_s(prediction, references, flags, patterns):
    from lm_eval.api.metrics import exact_match_hf_evaluate

    found = exact_match_hf_evaluate(
        predictions=[prediction] * len(references),
        references=references,
        regexes_to_ignore=patterns or None,
        **flags,
    )
    ours = exact_match(prediction, references, regexes_to_ignore=patterns, **flags)
    assert ours == float(found["exact_match"] > 0)


def test_what_exact_match_ignores_is_said():
    assert exact_match("Paris.", ["paris"]) == 0
    assert exact_match("Paris.", ["paris"], ignore_case=True, ignore_punctuation=True) == 1
    assert exact_match("x = 1", ["x = 2"], ignore_numbers=True) == 1
    assert exact_match("#### 1,234", ["1234"], regexes_to_ignore=[",", "#### "]) == 1
    assert exact_match("", [""]) == 1
    with pytest.raises(ValueError, match="references must be at least one"):
        exact_match("a", [])


@given(TEXTS)
def test_normalization_is_squads(text):
    assert normalize(text) == SQUAD.normalize_answer(text)


def test_articles_are_words():
    assert normalize("The theory: an art, a\tBAND") == "theory art band"
    assert normalize("a-b the-end") == "ab theend"  # punctuation goes first


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_token_f1_is_that_of_squads_script(prediction, references):
    """Where somebody said something; SQuAD 2's rule for silence is in the next test."""
    theirs = max(SQUAD.f1_abstractive([prediction], [text]) for text in references)
    if normalize(prediction) and any(map(normalize, references)):
        assert token_f1(prediction, references) == pytest.approx(theirs, abs=1e-15)
    right = {SQUAD.normalize_answer(text) for text in references}
    if any(right):
        right.discard("")
        expected = SQUAD.normalize_answer(prediction) in right
        assert squad_exact_match(prediction, references) == expected


@given(TEXTS, st.lists(st.sampled_from(["", "the", "?!"]), max_size=2))
def test_silence_is_right_where_there_is_no_answer(prediction, nothing):
    silent = float(SQUAD.normalize_answer(prediction) == "")
    assert token_f1(prediction, nothing) == silent
    assert squad_exact_match(prediction, nothing) == silent


def test_words_count_as_often_as_both_have_them():
    assert token_f1("ha ha ha", ["ha"]) == pytest.approx(0.5)  # as sets it would be 1
    assert token_f1("b c", ["x", "c d e f"]) == pytest.approx(1 / 3)
    assert token_f1("the", ["cat"]) == 0


@given(TEXTS, st.lists(TEXTS, min_size=1, max_size=3))
def test_quasi_exact_match_never_rewards_nothing(prediction, references):
    same = {SQUAD.normalize_answer(text) for text in references}
    expected = prediction != "" and SQUAD.normalize_answer(prediction) in same
    assert quasi_exact_match(prediction, references) == expected
    assert quasi_exact_match("", ["", *references]) == 0
