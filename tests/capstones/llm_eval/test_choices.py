"""Choices are the lm-evaluation-harness's, their statistics scikit-learn's and SciPy's."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.metrics.choices import best, brier, is_right, mcc, probabilities
from week06 import probabilities as week06

LOGPROBS = st.lists(st.floats(-500, 0), min_size=1, max_size=6)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=9)
ANSWERS = st.lists(st.tuples(st.floats(-9, -1), TEXTS), min_size=1, max_size=6)
LABELS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def harness_of(choices, gold, metrics=("acc", "acc_norm", "acc_bytes")):
    """The lm-evaluation-harness's own judge of multiple choice, without a task around it."""
    from lm_eval.api.task import ConfigurableTask

    task = object.__new__(ConfigurableTask)
    task._config = type("Config", (), {"process_results": None})()
    task.OUTPUT_TYPE = "multiple_choice"
    task._metric_fn_list = dict.fromkeys(metrics)
    task.multiple_input = 0
    task.multiple_target = int(isinstance(gold, list))
    task.doc_to_choice = lambda doc: choices
    task.doc_to_target = lambda doc: gold
    return task


@given(ANSWERS, st.data())
def test_choices_are_those_of_the_harness(answers, data):
    logprobs, texts = map(list, zip(*answers, strict=True))
    index = st.integers(0, len(texts) - 1)
    gold = data.draw(index | st.lists(index, min_size=1, max_size=3))
    task = harness_of(texts, gold)
    theirs = task.process_results({}, [(logprob, False) for logprob in logprobs])
    for name, per in (("acc", "answer"), ("acc_norm", "character"), ("acc_bytes", "byte")):
        chosen = best(logprobs, texts, per=per)
        assert is_right(chosen, gold, len(texts)) == theirs[name]


def test_lengths_are_characters_or_bytes_and_not_words():
    logprobs, texts = [-6.0, -7.0], ["éé é", "abcde"]
    assert best(logprobs, texts) == 0
    assert best(logprobs, texts, per="character") == 1  # -1.5 and -1.4
    assert best(logprobs, texts, per="byte") == 0  # -0.86 and -1.4


def test_of_equals_the_first_is_chosen():
    assert best([-2.0, -1.0, -1.0]) == 1
    assert best([-2.0, -4.0], ["ab", "abcd"], per="character") == 0
    assert best([-math.inf, -math.inf]) == 0


@pytest.mark.parametrize(
    ("call", "why"),
    [
        (lambda: best([]), "logprobs must be at least one"),
        (lambda: best([0.0, math.nan]), "logprobs must be numbers, got NaN"),
        (lambda: best([-1.0, -2.0], ["", "a"], per="byte"), "choices must not be empty"),
        (lambda: best([-1.0, -2.0], ["a"], per="byte"), "choices must be as many as logprobs, 2"),
        (lambda: is_right(0, 2, 2), "gold must be among 2 choices, got 2"),
        (lambda: is_right(0, [0, -1], 2), "gold must be among 2 choices"),
        (lambda: is_right(0, [], 2), "gold must be among 2 choices"),
        (lambda: brier([-1.0], 1), "gold must be among 1 choices, got 1"),
        (lambda: probabilities([-math.inf]), "logprobs must be numbers, one of them finite"),
        (lambda: mcc([1], []), "chosen must be as many as gold"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, why):
    with pytest.raises(ValueError, match=why):
        call()


@given(LOGPROBS)
def test_probabilities_are_scipys_softmax(logprobs):
    from scipy.special import softmax

    np.testing.assert_allclose(probabilities(logprobs), softmax(logprobs), atol=1e-15)
    assert probabilities([-2e5, -2e5 - 1]) == pytest.approx(softmax([0, -1]))


@given(st.lists(st.tuples(LOGPROBS, st.integers(0, 5)), min_size=1, max_size=8), st.data())
def test_brier_is_the_harness_s_and_week_06_s(rows, data):
    from lm_eval.api.metrics import brier_score

    n = data.draw(st.integers(3, 6))
    rows = [((logprobs * n)[:n], gold % n) for logprobs, gold in rows]
    ours = np.mean([brier(logprobs, gold) for logprobs, gold in rows])
    said = np.array([probabilities(logprobs) for logprobs, _ in rows])
    gold = np.array([gold for _, gold in rows])
    assert ours == pytest.approx(brier_score(list(zip(gold, said, strict=True))), abs=1e-12)
    assert ours == pytest.approx(week06.brier_score(gold, said, labels=np.arange(n)), abs=1e-12)


@given(LABELS)
def test_mcc_is_scikit_learns(pairs):
    from sklearn.metrics import matthews_corrcoef

    gold, chosen = zip(*pairs, strict=True)
    assert mcc(gold, chosen) == pytest.approx(matthews_corrcoef(gold, chosen), abs=1e-12)
    assert mcc(chosen, gold) == pytest.approx(mcc(gold, chosen), abs=1e-12)
