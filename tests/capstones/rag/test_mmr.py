"""MMR takes what langchain_core takes, in the same order."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.retrieval.mmr import mmr


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(0, 15), st.sampled_from([0, 0.3, 1])
)
@settings(max_examples=50, deadline=None)
def test_order_is_that_of_langchain(seed, n, k, lambda_mult):
    from langchain_core.vectorstores.utils import maximal_marginal_relevance

    rng = np.random.default_rng(seed)
    query, vectors = rng.normal(size=5), rng.normal(size=(n, 5))
    vectors[n // 2] = vectors[0]  # a double
    theirs = maximal_marginal_relevance(query, list(vectors), lambda_mult, k)
    assert mmr(query, vectors, k, lambda_mult) == theirs


def test_a_double_comes_last():
    vectors = np.array([[1.0, 0.2], [1.0, 0.2], [0.2, 1.0]])
    assert mmr(np.array([1.0, 0.3]), vectors, 3) == [0, 2, 1]


def test_degenerate_vectors():
    zeros = np.zeros((3, 4), np.float32)
    assert mmr(np.zeros(4, np.float32), zeros, 9) == [0, 1, 2]
    assert mmr(np.ones(4), np.zeros((0, 4)), 3) == []


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="lambda_mult must be between 0 and 1, got 2"):
        mmr(np.ones(2), np.ones((1, 2)), 1, 2)
