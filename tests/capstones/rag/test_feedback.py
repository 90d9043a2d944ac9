"""Smoothing, feedback and re-ranking: by their formulas, and where there is little to work on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.retrieval.feedback import cohesion, expand, rocchio
from rag.retrieval.rerank import cross_encoder, late_interaction
from rag.retrieval.smoothing import smooth
from shared.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)
WORDS = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=9)


def units(rng, n, dim=4):
    vectors = rng.normal(size=(n, dim))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@given(SEEDS, st.integers(1, 12), st.integers(1, 15), st.sampled_from([0.0, 1.0, 2.0, 3.0]))
def test_smoothing_is_the_formula_read_aloud(seed, n, neighbors, power):
    rng = np.random.default_rng(seed)
    scores, vectors = rng.random(n), units(rng, n)
    expected = []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        near = sorted(others, key=lambda j: -(vectors[i] @ vectors[j]))[:neighbors]
        weights = [0.7 * max(0.0, vectors[i] @ vectors[j]) ** power for j in near]
        total = scores[i] + sum(w * scores[j] for w, j in zip(weights, near, strict=True))
        expected.append(total / (1 + sum(weights)))
    found = smooth(scores, vectors, neighbors=neighbors, weight=0.7, power=power)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert scores.min() - 1e-12 <= found.min() <= found.max() <= scores.max() + 1e-12


def test_smoothing_leaves_alone_what_has_nothing_near():
    scores = np.array([1.0, 0.2, 0.4])
    found = smooth(scores, np.eye(3), neighbors=2, weight=5.0, power=2.0)
    np.testing.assert_array_equal(found, scores)
    assert smooth(np.array([0.3]), np.ones((1, 2))).tolist() == [0.3]


def test_smoothing_lifts_what_is_like_the_best():
    vectors = np.array([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0]])
    found = smooth(np.array([1.0, 0.3, 0.4]), vectors, neighbors=1, weight=1.0, power=2.0)
    assert np.argsort(-found).tolist() == [0, 1, 2]


@given(
    st.dictionaries(st.sampled_from("abxyz"), st.integers(1, 3)),
    st.lists(WORDS, min_size=1, max_size=4),
    st.integers(1, 8),
    st.sampled_from([0.0, 0.3, 1.0]),
)
def test_expanded_terms_are_shares(query, documents, n_terms, weight):
    found = expand(query, documents, n_terms=n_terms, weight=weight)
    assert sum(found.values()) == pytest.approx(1)
    assert len(found.keys() - query.keys()) <= n_terms
    if query and weight == 0:
        total = sum(query.values())
        assert found == pytest.approx({term: n / total for term, n in query.items()})


def test_each_document_counts_the_same_however_long():
    found = expand({}, [["a"], ["b"] * 50], n_terms=5, weight=0.3)
    assert found == {"a": 0.5, "b": 0.5}
    mixed = expand({"q": 2}, [["a", "a", "b"], ["b", "c", "c"]], n_terms=2, weight=0.5)
    assert mixed == pytest.approx({"q": 0.5, "a": 0.25, "b": 0.25})  # of equals the first term


@given(SEEDS, st.sampled_from([0.0, 0.5, 3.0]))
def test_rocchio_moves_the_query_towards_the_results(seed, weight):
    rng = np.random.default_rng(seed)
    query, vectors = units(rng, 1)[0], units(rng, 3)
    mean = vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    moved = rocchio(query, vectors, weight=weight)
    assert np.linalg.norm(moved) == pytest.approx(1)
    np.testing.assert_allclose(
        moved, (query + weight * mean) / np.linalg.norm(query + weight * mean)
    )
    assert moved @ mean >= query @ mean - 1e-12


def test_opposite_vectors_are_no_feedback():
    query = np.array([1.0, 0.0])
    vectors = np.array([[0.0, 1.0], [0.0, -1.0]])
    np.testing.assert_array_equal(rocchio(query, vectors, weight=1.0), query)
    assert cohesion(vectors) == 0
    assert cohesion(vectors[:1]) == 0
    assert cohesion(np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8]])) == pytest.approx(2.2 / 3)


def test_late_interaction_is_the_mean_of_the_greatest():
    rng = np.random.default_rng(0)
    query, documents = units(rng, 5), [units(rng, n) for n in (1, 7, 30)]
    expected = [np.mean([max(q @ d for d in tokens) for q in query]) for tokens in documents]
    np.testing.assert_allclose(late_interaction(query, documents), expected, rtol=1e-12)
    assert late_interaction(query[:0], documents).tolist() == [0.0, 0.0, 0.0]
    assert late_interaction(query, []).shape == (0,)


def test_a_cross_encoder_reads_pairs(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    from shared.pretrained import minilm

    tokenizer = BertTokenizerFast.from_pretrained(str(minilm()))
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BertConfig(**sizes, vocab_size=len(tokenizer), intermediate_size=16, num_labels=1)
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["a cup of tea", "a wing", "tea"]
    batch = tokenizer(["tea"] * 3, texts, padding=True, return_tensors="pt")
    theirs = model(**batch).logits[:, 0].sigmoid().detach()
    np.testing.assert_allclose(cross_encoder(str(tmp_path), "tea", texts), theirs, atol=1e-6)


def test_a_folder_that_is_no_cross_encoder_is_named(tmp_path):
    with pytest.raises(UserError, match="is not a readable cross-encoder"):
        cross_encoder(str(tmp_path), "tea", ["tea"])
