"""Week 01: counts, PPMI, truncated SVD and neighbors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from week01.evidence.word_geometry import plural_ranks
from week01.word_geometry import (
    build_vocabulary,
    cooccurrence,
    cosine_similarity,
    nearest_neighbors,
    ppmi,
    tokenize,
    truncated_svd,
)

seeds = st.integers(0, 2**32 - 1)
RNG = np.random.default_rng(0)
documents = st.lists(st.lists(st.sampled_from("abcdx"), max_size=12), max_size=4)


def test_tokenize():
    words = ["the", "range", "of", "for", "loop", "times"]
    assert tokenize("The range() of a `for`-loop, 3 TIMES.") == words
    assert tokenize("") == []


def test_build_vocabulary():
    texts = [["b", "a", "c"], ["c", "a", "c"]]
    assert build_vocabulary(texts, 1) == ["c", "a", "b"]
    assert build_vocabulary(texts, 2) == ["c", "a"]
    assert build_vocabulary([], 1) == []


def test_cooccurrence_worked_example():
    # "a b a": a-b twice at distance 1, a-a once at distance 2, counted from both ends
    counts = cooccurrence([["a", "b", "a"]], ["a", "b"], 2)
    np.testing.assert_array_equal(counts, [[2, 2], [2, 0]])
    np.testing.assert_array_equal(cooccurrence([["a", "b", "a"]], ["a", "b"], 1), [[0, 2], [2, 0]])


@given(documents, st.integers(1, 5))
def test_cooccurrence_equals_enumeration(texts, window):
    vocabulary = ["a", "b", "c", "d"]
    expected = np.zeros((4, 4))
    for text in texts:
        for i, word in enumerate(text):
            for j, context in enumerate(text):
                if 0 < abs(i - j) <= window and word != "x" and context != "x":
                    expected[vocabulary.index(word), vocabulary.index(context)] += 1
    np.testing.assert_array_equal(cooccurrence(texts, vocabulary, window), expected)


def test_ppmi_worked_example():
    # Jurafsky and Martin, Speech and Language Processing (3rd ed. draft), figures 6.10 to 6.12:
    # cherry, strawberry, digital, information against computer, data, result, pie, sugar
    cherry, strawberry = [2, 8, 9, 442, 25], [0, 0, 1, 60, 19]
    digital, information = [1670, 1683, 85, 5, 4], [3325, 3982, 378, 5, 13]
    counts = np.array([cherry, strawberry, digital, information], dtype=float)
    fruits = [[0, 0, 0, 4.38, 3.30], [0, 0, 0, 4.10, 5.51]]
    expected = [*fruits, [0.18, 0.01, 0, 0, 0], [0.02, 0.09, 0.28, 0, 0]]
    np.testing.assert_allclose(ppmi(counts, alpha=1.0) / np.log(2), expected, atol=0.006)


@given(st.integers(1, 6), st.integers(1, 6), seeds, st.sampled_from([0.5, 0.75, 1.0]))
def test_ppmi_equals_the_definition(m, n, seed, alpha):
    counts = np.random.default_rng(seed).poisson(1.0, size=(m, n)).astype(float)
    table = ppmi(counts, alpha)
    context = counts.sum(axis=0) ** alpha
    for w in range(m):
        for c in range(n):
            expected = 0.0
            if counts[w, c] > 0:
                joint = counts[w, c] / counts.sum()
                chance = counts[w].sum() / counts.sum() * context[c] / context.sum()
                expected = max(0.0, np.log(joint / chance))
            assert table[w, c] == pytest.approx(expected, abs=1e-12)


@given(st.integers(1, 30), st.integers(1, 30), seeds, st.data())
def test_truncated_svd_equals_numpy(m, n, seed, data):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(m, n))
    k = data.draw(st.integers(1, min(m, n)))
    U, sigma, Vt = truncated_svd(A, k, rng)
    P, expected, Qt = np.linalg.svd(A, full_matrices=False)
    np.testing.assert_allclose(sigma, expected[:k], atol=1e-11)
    np.testing.assert_allclose((U * sigma) @ Vt, (P[:, :k] * expected[:k]) @ Qt[:k], atol=1e-6)


def test_truncated_svd_beyond_the_rank():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(40, 2)) @ rng.normal(size=(2, 30))
    U, sigma, Vt = truncated_svd(A, 4, rng)
    np.testing.assert_allclose((U * sigma) @ Vt, A, atol=1e-12)
    np.testing.assert_allclose(sigma[2:], 0.0, atol=1e-12)
    np.testing.assert_allclose(U.T @ U, np.eye(4), atol=1e-12)
    assert truncated_svd(np.zeros((5, 4)), 2, rng)[1].tolist() == [0.0, 0.0]


def test_neighbors():
    E = np.array([[1.0, 0.0], [10.0, 1.0], [0.0, 2.0], [-3.0, 0.0], [0.0, 0.0]])
    assert nearest_neighbors(E, 0, 3).tolist() == [1, 2, 4]
    np.testing.assert_allclose(np.diag(cosine_similarity(E)), [1, 1, 1, 1, 0])
    np.testing.assert_allclose(cosine_similarity(E)[0], [1, 10 / np.sqrt(101), 0, -1, 0])


def test_plural_ranks():
    # cats is the nearest of cat, and cat the second nearest of cats
    E = np.array([[1.0, 0.0], [1.0, 0.3], [1.0, 0.5], [-1.0, 0.0]])
    assert plural_ranks(E, ["cat", "cats", "dog", "fish"]).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("min_count must be at least 1, got 0", lambda: build_vocabulary([], 0)),
        ("window must be at least 1, got 0", lambda: cooccurrence([["a"]], ["a"], 0)),
        ("must hold each word once", lambda: cooccurrence([["a"]], ["a", "a"], 1)),
        ("counts must be finite and at least 0", lambda: ppmi(np.array([[-1.0]]))),
        ("alpha must be above 0 and at most 1, got 2", lambda: ppmi(np.eye(1), alpha=2.0)),
        (r"k must be between 1 and min\(A.shape\) = 2", lambda: truncated_svd(np.eye(2), 3, RNG)),
        ("word must be between 0 and 1, got 2", lambda: nearest_neighbors(np.eye(2), 2, 1)),
        ("k must be between 1 and 1, got 2", lambda: nearest_neighbors(np.eye(2), 0, 2)),
    ],
)
def test_bad_input_is_named(message, call):
    with pytest.raises(ValueError, match=message):
        call()
