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
    with pytest.raises(ValueError, match=r"one of \['alpha', 'fit_intercept'\], got 'gamma'"):
        ridge.set_params(gamma=1)


def test_nested_params():
    outer = make_pipeline(StandardScaler(), Ridge(2.0))
    assert outer.get_params()["ridge__alpha"] == 2.0
    assert outer.set_params(ridge__alpha=5.0)[-1].alpha == 5.0


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
    with pytest.raises(ValueError, match=r"y must have shape \(4,\)"):
        model.score(X, y[:3])


def test_messages_say_what_came():
    with pytest.raises(ValueError, match=r"X must be a 2D array, got shape \(3,\)"):
        check_X(np.zeros(3))
    with pytest.raises(ValueError, match="at least 2 samples, got n_samples = 1"):
        check_X(np.zeros((1, 2)), min_samples=2)
    with pytest.raises(ValueError, match="Input X contains NaN or infinity in 1 places"):
        check_X([[np.nan, 1.0]])
    assert np.isnan(check_X([[np.nan, 1.0]], allow_nan=True)[0, 0])
    with pytest.raises(ValueError, match="Input X contains NaN or infinity"):
        check_X([[np.inf, 1.0]], allow_nan=True)
    with pytest.raises(ValueError, match="requires y to be passed, but the target y is None"):
        check_X_y(np.zeros((3, 1)), None)
    with pytest.raises(ValueError, match=r"n_samples = 3, got shape \(2,\)"):
        check_X_y(np.zeros((3, 1)), np.zeros(2))
    with pytest.raises(ValueError, match="Input y contains NaN"):
        check_X_y(np.zeros((2, 1)), np.array([0.0, np.nan]), classes=True)
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        check_classes(np.array([3, 3]))
    with pytest.raises(ValueError, match="Unknown label type"):
        check_classes(np.array([0.5, 1.0]))


@pytest.mark.parametrize("kind", [ValueError, AttributeError, NotFittedError])
def test_unfitted_use(kind):
    with pytest.raises(kind, match="Ridge must be fitted before use"):
        Ridge().predict(np.zeros((2, 2)))


def test_other_number_of_columns():
    model = Ridge().fit(np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="X has 3 features, but Ridge is expecting 2 features"):
        model.predict(np.zeros((3, 3)))
