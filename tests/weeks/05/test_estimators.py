"""The week's models by scikit-learn's own rules for estimators."""

import warnings

import numpy as np
import pandas as pd
import pytest
from enforce import plain
from sklearn.base import clone
from sklearn.utils.estimator_checks import check_estimator

from week04.bayesian_regression import BayesianLinearRegression
from week04.linear_regression import LinearRegression, Ridge
from week04.logistic_regression import LogisticRegression
from week05.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor
from week05.gradient_boosting import GradientBoosting
from week05.random_forest import (
    RandomForestClassifier,
    RandomForestRegressor,
    permutation_importance,
)
from week05.svm import SVC

# Our error for unfitted use is not scikit-learn's own class; a y of one column is refused.
EXPECTED = {"check_estimators_unfitted", "check_supervised_y_2d"}
# Weights and repeated rows are summed in another order: of splits that tie, another may win.
TIES = {"check_sample_weight_equivalence_on_dense_data"}


@pytest.mark.parametrize(
    ("module", "name", "options", "allowed"),
    [
        ("decision_tree", "DecisionTreeClassifier", {}, EXPECTED),
        ("decision_tree", "DecisionTreeRegressor", {}, EXPECTED | TIES),
        ("random_forest", "RandomForestClassifier", {"n_estimators": 5}, EXPECTED),
        ("random_forest", "RandomForestRegressor", {"n_estimators": 5}, EXPECTED),
        ("svm", "SVC", {"max_iter": 5000}, EXPECTED),
        ("kmeans", "KMeans", {"n_clusters": 2}, EXPECTED),
        ("gaussian_mixture", "GaussianMixture", {"n_components": 2}, EXPECTED),
    ],
)
def test_scikit_learn_accepts_it(module, name, options, allowed):
    model = getattr(plain("05", module), name)(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(model, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) <= allowed, failed
    assert sum(r["status"] == "passed" for r in results) > 25


FLOAT32 = [
    DecisionTreeClassifier(),
    RandomForestClassifier(2),
    GradientBoosting("logistic", n_estimators=2),
]


@pytest.mark.parametrize("model", FLOAT32, ids=lambda m: type(m).__name__)
def test_values_too_large_for_float32_are_refused(model):
    """They would all be infinite, and equal."""
    X, y = np.array([[1e39], [2e39], [3.0], [4.0]]), np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"Input X contains NaN or infinity in 2 .* float32"):
        model.fit(X, y)
    model.fit(X / 1e39, y)
    with pytest.raises(ValueError, match="Input X contains NaN or infinity in 2 places"):
        model.predict(X)


@pytest.mark.parametrize("model", FLOAT32, ids=lambda m: type(m).__name__)
def test_a_fit_that_fails_changes_nothing(model):
    X, y = np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1])
    unfitted = clone(model)
    with pytest.raises(ValueError, match="at least 2 classes"):
        unfitted.fit(X, 0 * y)
    with pytest.raises(ValueError, match="must be fitted before use"):
        unfitted.predict(X)
    before = model.fit(X, y).predict(X).tolist()
    with pytest.raises(ValueError, match="at least 2 classes"):
        model.fit(np.ones((4, 3)), np.ones(4, int))
    assert model.predict(X).tolist() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cuts": [[]]}, r"cuts\[0\] must hold at least one cut, got none"),
        ({"cuts": [[1, np.nan]]}, r"cuts\[0\] must ascend strictly"),
        (
            {"sample_weight": [np.nan] * 6},
            "Input sample_weight contains NaN",
        ),
        ({"eval_set": (np.ones((6, 1)), np.ones((6, 1)))}, "a y for each row of X, .*6, 1"),
        ({"eval_set": (np.ones((6, 1)), np.full(6, np.nan))}, "eval_set must have a finite y"),
        ({"sample_weight": np.ones((6, 1))}, "sample_weight must hold 6 numbers"),
    ],
)
def test_what_comes_beside_X_and_y_has_their_shape(options, message):
    model = GradientBoosting(n_estimators=3)
    with pytest.raises(ValueError, match=message):
        model.fit(np.arange(6.0)[:, None], np.arange(6.0), **options)


MODELS = [LogisticRegression(), LinearRegression(), Ridge(), BayesianLinearRegression(), SVC()]
MODELS += [*FLOAT32, DecisionTreeRegressor(), RandomForestRegressor(2)]


@pytest.mark.parametrize("model", MODELS, ids=lambda m: type(m).__name__)
def test_rows_of_pandas_count_by_position(model):
    rng = np.random.default_rng(0)
    X, index = rng.normal(size=(40, 3)), rng.permutation(40)
    y = X @ [1.0, 2.0, 3.0] if model.kind == "regressor" else X[:, 0] > 0
    table, column = pd.DataFrame(X, index=index, columns=list("abc")), pd.Series(y, index=index)
    expected, rng = model.fit(X, y).predict(X), np.random.default_rng
    falls = permutation_importance(model, X, y, rng=rng(0))
    for given in (table, X.tolist()):
        np.testing.assert_allclose(clone(model).fit(given, column).predict(given), expected)
        assert model.score(given, column) == pytest.approx(model.score(X, y))
        shuffled = permutation_importance(model, given, column, rng=rng(0))
        np.testing.assert_allclose(shuffled, falls, atol=1e-12)


def test_permutation_importance_knows_missing_values():
    X = np.array([[1.0, 0.0], [np.nan, 0.0], [3.0, 0.0], [4.0, 0.0]])
    y, missing = [1.0, 2.0, 7.0, 8.0], GradientBoosting(n_estimators=5, min_child_weight=0.0)
    falls = permutation_importance(missing.fit(X, y), X, y, rng=np.random.default_rng(0))
    assert falls.mean(axis=1).argmax() == 0


@pytest.mark.parametrize("objective", ["logistic", "softmax"])
def test_a_class_of_no_weight_has_no_probability(objective):
    model, y = GradientBoosting(objective, n_estimators=2), np.array([0, 0, 1, 1])
    with pytest.raises(ValueError, match="sample_weight must leave each class some weight"):
        model.fit(np.arange(4.0)[:, None], y, sample_weight=[1, 1, 0, 0])
