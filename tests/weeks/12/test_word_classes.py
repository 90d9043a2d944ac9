"""Neighbors against counting by hand, and classes of words made to be alike."""

import itertools

import numpy as np
import pytest
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st

from week12.word_classes import components, neighbors, tokens, word_classes


@given(st.lists(st.sampled_from("abcde"), min_size=1, max_size=30), st.integers(1, 3))
def test_neighbors_equal_a_count_by_hand(words, n_contexts):
    vocabulary = ["a", "b", "c"]
    found = neighbors(words, vocabulary, n_contexts)
    place = {word: i for i, word in enumerate(vocabulary[:n_contexts])}
    expected = np.zeros((3, 2 * (n_contexts + 1)))
    for before, after in itertools.pairwise(words):
        if after in vocabulary:
            expected[vocabulary.index(after), place.get(before, n_contexts)] += 1
        if before in vocabulary:
            column = n_contexts + 1 + place.get(after, n_contexts)
            expected[vocabulary.index(before), column] += 1
    np.testing.assert_array_equal(found, expected)


def test_components_keep_distances_of_roots_if_all_are_kept():
    counts = np.random.default_rng(0).integers(0, 9, (6, 4)).astype(float)
    roots = np.sqrt(counts / counts.sum(axis=1, keepdims=True))
    found = components(counts, 4)
    apart = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (roots, found)]
    np.testing.assert_allclose(*apart, atol=1e-12)
    spread = np.linalg.svd(roots - roots.mean(axis=0), compute_uv=False)
    kept = components(counts, 2)  # the best two
    np.testing.assert_allclose((kept**2).sum(), (spread[:2] ** 2).sum())
    assert np.isfinite(components(np.zeros((3, 4)), 1)).all()  # words without a neighbor


def test_words_that_stand_in_the_same_places_are_of_one_class():
    rng = np.random.default_rng(0)
    kinds = [["the", "a"], ["dog", "cat", "hen"], ["sees", "likes"], ["."]]
    text = [str(rng.choice(kinds[k])) for _ in range(300) for k in range(4)]
    found = word_classes(text, n_words=8, n_contexts=8, n_classes=4, dim=3)
    groups = {frozenset(w for w in found if found[w] == k) for k in found.values()}
    assert groups == {frozenset(kind) for kind in kinds}
    assert found == word_classes(text, n_words=8, n_contexts=8, n_classes=4, dim=3)
    assert "dog" not in word_classes(text, n_words=3, n_contexts=3, n_classes=2, dim=2)


def test_words_are_cut_as_in_treebanks():
    assert tokens("Don't say it's John's.") == [
        *("do", "n't", "say", "it", "'s", "john", "'s", "."),
    ]
    assert tokens("A well-known U.S. film...") == ["a", "well-known", "u.s", ".", "film", "..."]


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: neighbors(["a"], ["a"], 2), "n_contexts must be 1 to vocab, got 2"),
        (lambda: components(np.ones((2, 4)), 5), "dim must be 1 to columns = 4, got 5"),
        (
            lambda: word_classes(["a"] * 9, n_classes=2),
            "words must hold n_classes = 2 frequent words, got 1",
        ),
        (
            lambda: plain("12", "word_classes").word_classes([], n_classes=1),
            "words must hold n_classes = 1 frequent words, got 0",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
