"""Fusion gives ranx's scores, and what is absent or doubled does no harm."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rag.retrieval.fusion import minmax, ranked, rrf, unit, weighted
from rag.types import Found

PLACES = st.lists(st.integers(0, 30), min_size=1, max_size=20, unique=True)


def ranking(rows, scores=None):
    rows = np.array(rows, np.int64)
    return Found(rows, np.arange(len(rows), 0, -1.0) if scores is None else np.array(scores))


@st.composite
def rankings(draw):
    rows = draw(PLACES)
    numbers = st.integers(-1000, 1000)
    scores = draw(st.lists(numbers, min_size=len(rows), max_size=len(rows), unique=True))
    return ranking(rows, sorted((x / 8 for x in scores), reverse=True))


def in_ranx(runs, **options):
    from ranx import Run, fuse

    qrels = [Run({"q": {f"{r:03d}": float(s) for r, s in zip(*run, strict=True)}}) for run in runs]
    fused = fuse(runs=qrels, **options).to_dict()["q"]
    return {int(name): score for name, score in fused.items()}


@given(st.lists(rankings(), min_size=2, max_size=3))
@settings(max_examples=25, deadline=None)
def test_scores_are_those_of_ranx(runs):
    for ours, options in ((rrf(runs), {"norm": None, "method": "rrf"}), (minmax(runs), MINMAX)):
        theirs = in_ranx(runs, **options)
        assert theirs.keys() == set(ours.rows.tolist())
        np.testing.assert_allclose(ours.scores, [theirs[row] for row in ours.rows], atol=1e-9)
        assert (np.diff(ours.scores) <= 0).all()


MINMAX = {"norm": "min-max", "method": "sum"}


def test_what_both_name_is_first_and_what_one_lacks_has_no_rank_there():
    x, a, y, b, c = range(5)
    found = rrf([ranking([x, a, y]), ranking([b, c, y])])
    assert found.rows.tolist() == [y, x, b, a, c]
    np.testing.assert_allclose(found.scores[:2], [2 / 63, 1 / 61])


def test_a_row_that_comes_twice_counts_once_and_takes_one_rank():
    found = rrf([ranking([4, 4, 7])])
    assert found.rows.tolist() == [4, 7]
    np.testing.assert_allclose(found.scores, [1 / 61, 1 / 62])
    assert minmax([ranking([4, 4, 7], [3.0, 2.0, 1.0])]).scores.tolist() == [1.0, 0.0]


def test_weights_and_ties():
    runs = [ranking([5, 3], [2.0, 1.0]), ranking([3, 5], [9.0, 1.0])]
    assert minmax(runs).rows.tolist() == [3, 5]  # equal: the lower row first
    assert weighted(runs, [2, 1]).rows.tolist() == [5, 3]
    assert weighted(runs, [1, 0]).rows.tolist() == [5, 3]
    assert weighted(runs, [0, 0]).rows.tolist() == []


def test_empty_and_constant_rankings_give_numbers():
    empty = ranking([])
    assert minmax([empty, empty]).rows.tolist() == rrf([]).rows.tolist() == []
    found = minmax([empty, ranking([8, 2], [1.0, 1.0])])
    assert found.rows.tolist() == [2, 8]
    assert np.isfinite(found.scores).all()
    assert unit(np.zeros(0)).shape == (0,)


@given(PLACES, st.integers(0, 25))
def test_ranked_is_a_stable_sort(rows, k):
    scores = np.array([row % 3 for row in rows], float)
    expected = sorted(zip(-scores, rows, strict=True))[:k]
    assert ranked(np.array(rows), scores, k).rows.tolist() == [row for _, row in expected]


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="weights must be one for each run, got 1"):
        weighted([ranking([1]), ranking([2])], [1.0])
    with pytest.raises(ValueError, match="weights must be at least 0"):
        weighted([ranking([1])], [-1.0])
    with pytest.raises(ValueError, match="k must be above 0"):
        rrf([], k=0)
