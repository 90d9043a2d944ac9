"""Week 04: the conventions of estimators, judged by scikit-learn's own checks."""

import warnings

import numpy as np
import pytest
from enforce import plain
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import check_estimator

from week04.estimator import NotFittedError, check_classes, check_X, check_X_y
from week04.linear_regression import LinearRegression, Ridge, StandardScaler
from week04.logistic_regression import LogisticRegression

LINEAR, LOGISTIC = plain("04", "linear_regression"), plain("04", "logistic_regression")
BAYESIAN = plain("04", "bayesian_regression")
EXPECTED = {
    "check_estimators_unfitted": "our NotFittedError is a ValueError and an AttributeError, but "
    "not scikit-learn's own class, which the code does not import",
    "check_supervised_y_2d": "a y of one column is refused, not flattened with a warning",
}


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        (
            LINEAR.StandardScaler(),
            dict.fromkeys(
                ("check_estimator_sparse_matrix", "check_estimator_sparse_array"),
                "the check sets with_mean on whatever is called StandardScaler; ours has none",
            ),
        ),
        (LINEAR.LinearRegression(), EXPECTED),
        (LINEAR.LinearRegression(solver="normal"), EXPECTED),
        (LINEAR.Ridge(), EXPECTED),
        (BAYESIAN.BayesianLinearRegression(), EXPECTED),
        (LOGISTIC.LogisticRegression(), EXPECTED),
        (LOGISTIC.LogisticRegression(solver="gd", max_iter=300), EXPECTED),
    ],
    ids=lambda value: repr(value) if hasattr(value, "fit") else "",
)
def test_estimator_checks(estimator, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(estimator, on_skip=None, on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"}
    assert set(failed) == set(expected), failed
    assert len(results) > 25


def test_params():
    ridge = Ridge(3.0)
    assert ridge.get_params() == {"alpha": 3.0, "fit_intercept": True}
    assert ridge.set_params(alpha=1.0) is ridge
    assert repr(Ridge()) == "Ridge()"
    assert repr(Ridge(2.0, fit_intercept=False)) == "Ridge(alpha=2.0, fit_intercept=False)"
    assert clone(Ridge(7.0)).alpha == 7.0
    assert is_regressor(ridge)
    assert is_classifier(LogisticRegression())


def test_works_in_a_grid_search():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = X @ [1.0, 2.0, 0.0, -1.0] + 0.1 * rng.normal(size=60)
    search = GridSearchCV(make_pipeline(StandardScaler(), Ridge()), {"ridge__alpha": [0.1, 1e4]})
    assert search.fit(X, y).best_params_ == {"ridge__alpha": 0.1}


def test_scores():
    X, y = np.arange(4.0)[:, None], np.array([0.0, 1.0, 2.0, 5.0])
    model = LinearRegression().fit(X, y)
    residual = y - model.predict(X)
    assert model.score(X, y) == pytest.approx(1 - residual @ residual / 14)
    assert model.score(X, np.full(4, 9.0)) == 0.0
    labels = np.array(["a", "a", "b", "b"])
    assert LogisticRegression().fit(X, labels).score(X, labels[::-1].copy()) == 0.0


ONES, NAN = np.ones((3, 1)), np.array([[np.nan, 1.0]])


def sides():
    return LogisticRegression().fit(np.eye(2), [0, 1])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_X(np.zeros(3)), r"X must be a 2D array, got shape \(3,\)"),
        (lambda: check_X(ONES, min_samples=4), "at least 4 samples, got n_samples = 3"),
        (lambda: check_X(NAN), "Input X contains NaN or infinity in 1 places"),
        (lambda: check_X(np.inf * ONES, allow_nan=True), "Input X contains NaN or infinity"),
        (lambda: check_X_y(ONES, None), "requires y to be passed, but the target y is None"),
        (lambda: check_X_y(ONES, np.zeros(2)), r"n_samples = 3, got shape \(2,\)"),
        (lambda: check_X_y(ONES, np.nan * ONES[:, 0], classes=True), "Input y contains NaN"),
        (lambda: check_classes(np.array([3, 3])), "at least 2 classes, got 1 class"),
        (lambda: check_classes(np.array([0.5, 1.0])), "Unknown label type"),
        (
            lambda: check_classes(np.array(["a", None, "b"])),
            "of one kind, none of them missing",
        ),
        (lambda: check_classes(np.array([1.0, np.nan], object)), r"got \[1.0 nan\]"),
        (lambda: check_X(np.ma.masked_equal(ONES, 1.0)), "a dense array, got .* masked"),
        (lambda: Ridge().fit(ONES, ONES[:, 0]).score(ONES, [np.nan] * 3), "Input y contains NaN"),
        (lambda: sides().score(np.eye(2), ["0", "1"]), "labels like those of fit, got <U1"),
        (lambda: sides().score(np.eye(2), [0, np.nan]), "Input y contains NaN or infinity in 1"),
        (lambda: Ridge().set_params(gamma=1), r"one of \['alpha', 'fit_intercept'\], got 'gamma'"),
        (lambda: Ridge().fit(ONES, ONES[:, 0]).score(ONES, np.zeros(2)), r"have shape \(3,\)"),
        (lambda: Ridge().fit(ONES, ONES[:, 0]).predict(np.eye(3)), "X has 3 features, but Ridge"),
    ],
)
def test_messages_say_what_came(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


@pytest.mark.parametrize("kind", [ValueError, AttributeError, NotFittedError])
def test_unfitted_use(kind):
    with pytest.raises(kind, match="Ridge must be fitted before use"):
        Ridge().predict(ONES)


def test_nan_may_mean_missing():
    assert np.isnan(check_X(NAN, allow_nan=True)[0, 0])
