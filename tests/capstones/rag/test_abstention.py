"""Confidence comes from the evidence, rises with it, and is fitted as logistic regression is."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from rag.answering.abstention import WEIGHTS, Evidence, calibrate, confidence, evidence
from rag.types import Chunk, Hit


def hit(text, **stages):
    return Hit(Chunk("a.md", 0, len(text), text), 0, 1.0, stages)


FREQUENCY = {"tea": 50, "shennong": 1}.get


def features_of(question, *hits):
    return evidence(question, hits, lambda term: FREQUENCY(term, 0), n_chunks=100)


def test_the_features():
    found = features_of("Shennong tea", hit("Tea is hot.", dense=0.7, bm25=1.0), hit("Cold."))
    weights = np.log1p([49.5 / 50.5 + 0, (100 - 1 + 0.5) / 1.5])
    weights[0] = np.log1p((100 - 50 + 0.5) / 50.5)
    assert found.dense == pytest.approx(0.7)
    assert found.agreement == pytest.approx(0.5)
    assert found.coverage == pytest.approx(weights[0] / weights.sum())
    assert found.lexical == pytest.approx(1.0 / weights.sum())


def test_a_missing_rare_word_costs_more_than_a_common_one():
    rare = features_of("Shennong tea", hit("Tea is hot.")).coverage
    common = features_of("Shennong tea", hit("Shennong is old.")).coverage
    assert rare < 0.5 < common


def test_no_hits_are_no_evidence():
    assert features_of("Shennong") == (0, 0, 0, 0)
    assert confidence(features_of("Shennong")) < 0.5


@pytest.mark.parametrize("question", ["", "what is it", "???"])
def test_questions_without_words_of_meaning(question):
    found = features_of(question, hit("Tea is hot.", dense=-0.2, bm25=0.0))
    assert all(0 <= value <= 1 for value in found)


def test_more_evidence_is_more_confidence():
    for i, weight in enumerate(WEIGHTS):
        low = Evidence(0.5, 0.5, 0.5, 0.5)
        high = low._replace(**{Evidence._fields[i]: 0.9})
        assert weight >= 0
        assert confidence(high) >= confidence(low)


def test_calibration_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    x = rng.random((80, 4))
    y = rng.random(80) < 1 / (1 + np.exp(-(x @ [3, 0, 1, 2] - 3)))
    for penalty in (0.1, 1.0, 10.0):
        weights, bias = calibrate(x, y, penalty=penalty)
        theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(x, y)
        assert weights == pytest.approx(theirs.coef_[0], abs=1e-5)
        assert bias == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_calibration_needs_both_kinds():
    with pytest.raises(ValueError, match="answerable must hold both kinds"):
        calibrate(np.zeros((3, 4)), np.ones(3, bool))
