"""Week 05: random forests."""

import numpy as np
import pytest
from sklearn.datasets import load_iris

from week05.decision_tree import DecisionTreeRegressor
from week05.random_forest import (
    RandomForestClassifier,
    RandomForestRegressor,
    bootstrap_counts,
    permutation_importance,
)


def data(n=150, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5))
    return X, 2 * X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n)


def test_bootstrap_draws_n_rows_with_replacement():
    rng = np.random.default_rng(0)
    counts = [bootstrap_counts(500, rng) for _ in range(20)]
    assert all(c.sum() == 500 for c in counts)
    assert np.mean([(c == 0).mean() for c in counts]) == pytest.approx(np.exp(-1), abs=0.02)
    assert max(c.max() for c in counts) >= 4


def test_out_of_bag_is_the_mean_of_trees_that_have_not_seen_a_row():
    X, y = data(60)
    model = RandomForestRegressor(12, random_state=3).fit(X, y)
    rng = np.random.default_rng(3)
    votes = np.full((12, 60), np.nan)
    for i, tree in enumerate(model.trees_):
        out = bootstrap_counts(60, rng) == 0
        rng.integers(2**31)
        votes[i, out] = tree.predict(X[out])
    with np.errstate(invalid="ignore"):
        expected = np.nansum(votes, 0) / np.isfinite(votes).sum(0)
    np.testing.assert_allclose(model.oob_prediction_, expected)
    seen = np.isfinite(expected)
    residual = ((y - expected)[seen] ** 2).sum() / ((y[seen] - y[seen].mean()) ** 2).sum()
    assert model.oob_score_ == pytest.approx(1 - residual)


def test_out_of_bag_does_not_flatter():
    X, y = data(150)
    labels = np.random.default_rng(5).permutation(y > 0)
    model = RandomForestClassifier(25).fit(X, labels)
    assert model.score(X, labels) > 0.95
    assert 0.3 < model.oob_score_ < 0.7


def test_rows_that_every_tree_has_seen_have_no_vote():
    X, y = data(30)
    model = RandomForestClassifier(1).fit(X, y > 0)
    assert 0.3 < np.isnan(model.oob_decision_function_[:, 0]).mean() < 0.9
    assert np.isfinite(model.oob_score_)


def test_without_randomness_a_forest_is_a_tree():
    X, y = data(80)
    forest = RandomForestRegressor(3, bootstrap=False).fit(X, y)
    np.testing.assert_allclose(forest.predict(X), DecisionTreeRegressor().fit(X, y).predict(X))
    assert not hasattr(forest, "oob_score_")


def test_prediction_is_the_mean_of_the_trees_and_probabilities_sum_to_one():
    X, y = load_iris(return_X_y=True)
    model = RandomForestClassifier(8).fit(X, y)
    p = model.predict_proba(X)
    np.testing.assert_allclose(p, np.mean([t.predict_proba(X) for t in model.trees_], axis=0))
    np.testing.assert_allclose(p.sum(axis=1), 1)
    np.testing.assert_array_equal(model.predict(X), p.argmax(axis=1))


def test_seed_decides():
    X, y = data(60)
    a, b, c = (RandomForestRegressor(3, random_state=s).fit(X, y).predict(X) for s in (1, 1, 2))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 0


def test_permutation_importance_leaves_the_table_alone():
    X, y = data(40)
    before = X.copy()
    model = RandomForestRegressor(2).fit(X, y)
    falls = permutation_importance(model, X, y, n_repeats=2, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(X, before)
    assert falls.mean(1).argmax() == 0


X, Y = data(20)
FOREST = RandomForestRegressor(1)
RNG = np.random.default_rng(0)
MUST = "max_features must be 'sqrt', a share"


def forest(max_features):
    model = RandomForestRegressor(1)
    model.max_features = max_features
    return model.fit(X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda w=wrong: forest(w), MUST) for wrong in (0, 6, 1.5, 0.0, "log2")),
        (lambda: RandomForestRegressor(0).fit(X, Y), "n_estimators must be at least 1, got 0"),
        (lambda: RandomForestClassifier(1).fit(X, np.zeros(20, int)), "at least 2 classes"),
        (lambda: RandomForestClassifier(1).predict(X), "must be fitted before use"),
        (lambda: bootstrap_counts(0, RNG), "n must be at least 1, got 0"),
        (
            lambda: permutation_importance(FOREST, X, Y, n_repeats=0, rng=RNG),
            "n_repeats must be at least 1, got 0",
        ),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
