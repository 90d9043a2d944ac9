"""The week's models by scikit-learn's own rules for estimators."""

import warnings

import pytest
from enforce import plain
from sklearn.utils.estimator_checks import check_estimator

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
