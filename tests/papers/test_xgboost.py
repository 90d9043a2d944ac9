"""Exact greedy trees on stored entries, and the rule, of papers/2016-xgboost."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeRegressor
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2016-xgboost/reproduce.py")


def holey(n, p, missing, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, p))
    X[rng.random((n, p)) < missing] = np.nan
    return X, rng.normal(size=n)


@given(st.integers(4, 40), st.integers(1, 4), st.floats(0, 0.9), st.integers(0, 10**6))
def test_best_split_is_the_best_of_all(n, p, missing, seed):
    X, g = holey(n, p, missing, seed)
    h = np.ones(n)
    split = paper.best_split(paper.columns_of(X), g, h, g.sum(), h.sum(), 1.0, ("right", "left"))
    best = 0.0
    for j in range(p):
        x = X[:, j]
        for t in [*np.unique(x[~np.isnan(x)]), np.inf]:
            for default in (True, False):
                left = np.where(np.isnan(x), default, x < t)
                if 0 < left.sum() < n:
                    parts = (g[side].sum() ** 2 / (side.sum() + 1) for side in (left, ~left))
                    best = max(best, sum(parts) - g.sum() ** 2 / (n + 1))
    assert (0.0 if split is None else split[3]) == pytest.approx(best, abs=1e-5)


def test_only_what_is_there_is_stored():
    X, _ = holey(50, 4, 0.7, 0)
    aware, naive = paper.columns_of(X), paper.columns_of(X, naive=True)
    assert len(aware.row) == np.isfinite(X).sum()
    assert len(naive.row) == X.size
    np.testing.assert_array_equal(aware.value, X[aware.row, aware.feature])
    for j in range(4):
        assert (np.diff(aware.value[aware.feature == j]) >= 0).all()


def test_squared_loss_without_penalty_is_sklearns_tree():
    X, y = holey(120, 4, 0.0, 1)
    tree = paper.grow(paper.columns_of(X), -y, np.ones(120), depth=3, reg_lambda=0.0)
    reference = DecisionTreeRegressor(max_depth=3, random_state=0).fit(X, y)
    np.testing.assert_allclose(paper.predict(tree, X), reference.predict(X))


def test_gamma_takes_back_only_what_has_nothing_below():
    X, y = holey(100, 3, 0.2, 2)
    columns, h = paper.columns_of(X), np.ones(100)
    full = paper.gains(paper.grow(columns, -y, h, depth=4))
    gamma = float(np.median(full))
    left = paper.gains(paper.grow(columns, -y, h, depth=4, gamma=gamma))
    assert 0 < len(left) < len(full)
    assert not paper.gains(paper.grow(columns, -y, h, depth=4, gamma=1e9))


def test_fixed_direction_sends_absent_rows_left():
    X, y = np.array([[0.0], [0.0], [1.0], [1.0], [np.nan], [np.nan]]), np.array([0, 0, 1, 1, 1, 1])
    columns, h = paper.columns_of(X), np.ones(6)
    free = paper.grow(columns, 0.5 - y, h, depth=1)
    fixed = paper.grow(columns, 0.5 - y, h, depth=1, directions=("left",))
    assert not free.default_left
    assert fixed.default_left
    assert fixed.gain < free.gain


def test_auc_equals_sklearns():
    rng = np.random.default_rng(0)
    y, score = rng.integers(0, 2, 60), np.round(rng.normal(size=60), 1)
    assert paper.auc(y, score) == pytest.approx(roc_auc_score(y, score))
