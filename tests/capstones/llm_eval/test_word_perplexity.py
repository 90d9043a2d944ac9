"""Perplexities of words and bytes are the lm-evaluation-harness's."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.metrics import perplexity

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PAIRS = st.lists(st.tuples(st.floats(-300, 0), st.integers(1, 90)), min_size=1, max_size=9)


@given(PAIRS)
def test_aggregates_are_the_harness_s(pairs):
    from lm_eval.api import metrics

    assert perplexity.weighted_perplexity(pairs) == metrics.weighted_perplexity(pairs)
    assert perplexity.bits_per_byte(pairs) == metrics.bits_per_byte(pairs)
    logprobs = [logprob for logprob, _ in pairs]
    assert perplexity.perplexity(logprobs) == metrics.perplexity(logprobs)


@given(TEXTS)
def test_words_and_bytes_are_counted_as_by_the_harness(text):
    from lm_eval.api.task import Task

    assert perplexity.count_words(text) == Task.count_words(text)
    assert perplexity.count_bytes(text) == Task.count_bytes(text)


def test_a_long_document_weighs_as_many_words_as_it_has():
    pairs = [(-2.0, 1), (-8.0, 9)]
    assert perplexity.weighted_perplexity(pairs) == pytest.approx(math.e)
    alone = [perplexity.weighted_perplexity([pair]) for pair in pairs]
    assert sum(alone) / 2 > 4.9  # what the mean of their perplexities would say


def test_the_impossible_has_no_end_and_nothing_no_perplexity():
    assert perplexity.perplexity([-1e5]) == math.inf
    assert perplexity.weighted_perplexity([(-math.inf, 3)]) == math.inf
    assert math.isnan(perplexity.perplexity([math.nan]))
    with pytest.raises(ValueError, match="documents must have a length together, got 0"):
        perplexity.bits_per_byte([(0.0, 0)])
    with pytest.raises(ValueError, match="logprobs must be at least one"):
        perplexity.perplexity([])
