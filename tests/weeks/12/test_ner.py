"""Sums over taggings against enumeration, the loss against its slopes, entities as seqeval."""

import itertools

import numpy as np
import pytest
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from week12.ner import CRF, entities, entity_scores, f1, features, forward_backward

tags = st.sampled_from(["O", "B-a", "I-a", "B-b", "I-b"])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 3), st.integers(0, 999))
def test_sums_equal_enumeration(lengths, t, seed):
    rng = np.random.default_rng(seed)
    emissions, transitions = rng.normal(size=(sum(lengths), t)) * 3, rng.normal(size=(t, t)) * 3
    log_z, marginals, pairs = forward_backward(emissions, transitions, np.array(lengths))
    expected_pairs, start = np.zeros((t, t)), 0
    for i, n in enumerate(lengths):
        part = emissions[start : start + n]
        total, shares = 0.0, np.zeros((n, t))
        pair = np.zeros((t, t))
        for path in itertools.product(range(t), repeat=n):
            steps = list(itertools.pairwise(path))
            weight = np.exp(part[range(n), path].sum() + sum(transitions[s] for s in steps))
            total += weight
            shares[range(n), path] += weight
            for step in steps:
                pair[step] += weight
        assert log_z[i] == pytest.approx(np.log(total))
        np.testing.assert_allclose(marginals[start : start + n], shares / total, atol=1e-12)
        expected_pairs += pair / total
        start += n
    np.testing.assert_allclose(pairs, expected_pairs, atol=1e-12)


def test_scores_beyond_the_range_of_exp_are_summed():
    emissions = np.array([[900.0, -900.0], [-900.0, 900.0], [0.0, 1.0]])
    log_z, marginals, pairs = forward_backward(emissions, np.zeros((2, 2)), np.array([3]))
    assert log_z[0] == pytest.approx(1800 + np.logaddexp(0, 1))
    np.testing.assert_allclose(marginals.sum(axis=1), 1)
    assert pairs.sum() == pytest.approx(2)


def test_sentences_do_not_see_each_other():
    rng = np.random.default_rng(0)
    emissions, transitions = rng.normal(size=(9, 3)), rng.normal(size=(3, 3))
    together = forward_backward(emissions, transitions, np.array([2, 4, 3]))
    alone = [
        forward_backward(emissions[a:b], transitions, np.array([b - a]))
        for a, b in ((0, 2), (2, 6), (6, 9))
    ]
    np.testing.assert_allclose(together[0], [a[0][0] for a in alone])
    np.testing.assert_allclose(together[1], np.concatenate([a[1] for a in alone]))
    np.testing.assert_allclose(together[2], sum(a[2] for a in alone))


ROWS = [[["x", "y"], ["y", "y"], ["x"]], [["z"]], [["x", "z"], ["y"]]]
TAGS = [["B-a", "I-a", "O"], ["O"], ["B-a", "O"]]


@given(st.integers(0, 999), st.floats(0, 1))
def test_the_gradient_is_the_slope_of_the_loss(seed, l2):
    model = CRF(l2=l2, min_count=1)
    model.prepare(ROWS, TAGS)
    x = np.random.default_rng(seed).normal(size=(3 + 3) * 3)
    steps = 1e-5 * np.eye(len(x))
    slopes = [(model.loss(x + h)[0] - model.loss(x - h)[0]) / 2e-5 for h in steps]
    np.testing.assert_allclose(model.loss(x)[1], slopes, atol=1e-7)


def test_the_loss_at_zero_is_of_equal_taggings():
    model = CRF(min_count=1)
    model.prepare(ROWS, TAGS)
    assert model.loss(np.zeros(18))[0] == pytest.approx(6 * np.log(3))  # six tokens, three tags


def test_a_field_learns_and_takes_what_it_never_saw():
    model = CRF(l2=0.01, min_count=1).fit(ROWS, TAGS)
    assert [model.tag(rows) for rows in ROWS] == TAGS
    assert model.tag([]) == []
    assert len(model.tag([["new"], []])) == 2
    rare = CRF(min_count=4).fit(ROWS, TAGS)
    assert sorted(rare.codes) == []
    assert len(rare.tag([["x"], ["y"]])) == 2


def test_ends_are_features():
    rows = features(["Just", "one"])
    assert ["BOS" in row for row in rows] == [True, False]
    assert ["EOS" in row for row in rows] == [False, True]
    assert {"BOS", "EOS"} <= set(features(["@home"])[0])
    assert "first @" in features(["@home"])[0]


@given(st.lists(st.lists(tags, min_size=1, max_size=7), min_size=1, max_size=5), st.data())
def test_scores_equal_seqevals(truth, data):
    found = [data.draw(st.lists(tags, min_size=len(t), max_size=len(t))) for t in truth]
    for row in truth:
        ours = [(kind, start, end - 1) for kind, start, end in entities(row)]
        assert ours == get_entities(row)
    scores = entity_scores(truth, found)
    right, marked, there = scores.sum(axis=0)
    assert f1(scores) == pytest.approx(f1_score(truth, found, zero_division=0))
    if marked and there:
        assert right / marked == pytest.approx(precision_score(truth, found))
        assert right / there == pytest.approx(recall_score(truth, found))


def test_the_convention_for_what_continues_nothing():
    assert f1(entity_scores([["B-a", "I-a"]], [["I-a", "I-a"]])) == 1.0  # 0 by the strict rule
    assert entities(["B-a", "B-a", "I-b"]) == [("a", 0, 1), ("a", 1, 2), ("b", 2, 3)]
    assert f1(entity_scores([["O"]], [["O"]])) == 0.0


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CRF(l2=-1), "l2 must be at least 0, got -1"),
        (lambda: CRF(min_count=0), "min_count must be at least 1, got 0"),
        (lambda: CRF(max_iter=0), "max_iter must be at least 1, got 0"),
        (lambda: CRF().tag([["a"]]), "CRF must be fitted before use: call fit first"),
        (lambda: CRF().fit([], []), "sentences must each hold a token, got none"),
        (lambda: CRF().fit([[]], [[]]), r"sentences must each hold a token, got \[0\]"),
        (lambda: CRF().fit(ROWS, TAGS[:2]), "tags must be one per token"),
        (lambda: CRF().fit(ROWS, [["O"], *TAGS[1:]]), "tags must be one per token, got another nu"),
        (lambda: entities(["O", "E-a"]), "tags must be O, B-TYPE or I-TYPE, got 'E-a'"),
        (lambda: entity_scores([["O"]], [["O", "O"]]), "found must have as many tags as truth"),
        (
            lambda: forward_backward(np.zeros((3, 2)), np.zeros((2, 2)), np.array([1, 1])),
            "lengths must sum to n = 3, got 2",
        ),
        (
            lambda: forward_backward(np.zeros((3, 2)), np.zeros((2, 2)), np.array([3, 0])),
            "lengths must be at least 1, got 0",
        ),
        (
            lambda: plain("12", "ner").forward_backward(np.zeros((3, 2)), np.eye(3), [3]),
            r"transitions must be floats of shape \(t = 2, t = 2\)",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
