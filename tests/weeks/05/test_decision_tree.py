"""Week 05: classification and regression trees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import tree as reference

from week05 import decision_tree
from week05.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor
from week05.splits import best_split, best_split_by_trial

CRITERIA = pytest.mark.parametrize("criterion", ["gini", "entropy", "squared_error"])


def data(seed, n=150, criterion="squared_error"):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=n)
    return X, y if criterion == "squared_error" else np.digitize(y, [-0.7, 0.4])


def pair(criterion, **options):
    name = "DecisionTreeRegressor" if criterion == "squared_error" else "DecisionTreeClassifier"
    options = {"criterion": criterion, "random_state": 0, **options}
    return (getattr(module, name)(**options) for module in (decision_tree, reference))


@CRITERIA
@pytest.mark.parametrize("seed", range(3))
def test_same_tree_as_sklearn(criterion, seed):
    X, y = data(seed, 300, criterion)
    if criterion != "squared_error":  # scikit-learn splits pure nodes that are impure by rounding
        y = np.where(np.arange(300) % 3 == 0, np.random.default_rng(seed).integers(0, 3, 300), y)
    weight = np.random.default_rng(seed).uniform(0.5, 1.5, 300)  # leaves no ties
    limits = [{"max_depth": 3, "min_samples_leaf": 12}, {"min_samples_leaf": 9}]
    options = [*limits, {"min_samples_split": 40, "min_samples_leaf": 9}][seed]
    ours, theirs = (m.fit(X, y, weight) for m in pair(criterion, **options))
    t = theirs.tree_
    inner = t.children_left >= 0
    np.testing.assert_array_equal(np.where(inner, t.feature, -1), ours.tree_.feature)
    np.testing.assert_allclose(ours.tree_.threshold[inner], t.threshold[inner], rtol=1e-12)
    np.testing.assert_allclose(ours.tree_.impurity, t.impurity, atol=1e-12)
    np.testing.assert_array_equal(ours.tree_.n_samples, t.n_node_samples)
    new = data(seed + 50)[0]
    np.testing.assert_array_equal(ours.apply(new), theirs.apply(new))
    np.testing.assert_allclose(ours.predict(new), theirs.predict(new))


@CRITERIA
@pytest.mark.parametrize("seed", range(2))
def test_weights_and_pruning_as_sklearn(criterion, seed):
    X, y = data(seed, 200, criterion)
    weight = np.random.default_rng(seed).uniform(0.1, 3, 200) * (np.arange(200) % 5 > 0)
    ours, theirs = pair(criterion, min_samples_leaf=5)
    alphas, impurities = ours.cost_complexity_pruning_path(X, y, weight)
    path = theirs.cost_complexity_pruning_path(X, y, weight)
    # scikit-learn also splits pure nodes that are impure by rounding, and prunes them at 1e-16.
    real = np.r_[True, path.ccp_alphas[1:] > 1e-12]
    np.testing.assert_allclose(alphas, path.ccp_alphas[real], atol=1e-12)
    np.testing.assert_allclose(impurities, path.impurities[real], atol=1e-12)
    for alpha in ((alphas[1:] + alphas[:-1]) / 2)[::4]:
        a, b = (m.set_params(ccp_alpha=float(alpha)).fit(X, y, weight) for m in (ours, theirs))
        assert a.get_n_leaves() == b.get_n_leaves()
        np.testing.assert_allclose(a.predict(X), b.predict(X))


def test_limits_of_a_split():
    """Labels far from 0, leaves as small as allowed, and values only just apart."""
    X, Y, w = np.arange(4.0)[:, None], np.array([[0.0], [0.0], [1.0], [1.0]]), np.ones(4)
    for offset, least in ((0.0, 2), (1e9, 1)):
        assert best_split(X, Y + offset, w, "squared_error", least) == (0, 1.5, 0.0)
    assert best_split(X, Y, w, "squared_error", 3) is None
    assert best_split(X[:2] * 1e-7, Y[1:3], w[:2]) is None
    assert best_split(X[:2] * 1.01e-7, Y[1:3], w[:2]) is not None


@CRITERIA
@given(seed=st.integers(0, 10**6), n=st.integers(2, 25), least=st.integers(1, 4))
def test_best_split_is_the_best_of_all(criterion, seed, n, least):
    """Against trying every threshold, with ties."""
    rng = np.random.default_rng(seed)
    X, numbers = rng.integers(0, 4, (n, 3)).astype(float), criterion == "squared_error"
    Y = rng.normal(size=(n, 1)) if numbers else np.eye(3)[rng.integers(0, 3, n)]
    w = rng.uniform(0.5, 2, n)
    split, tried = (f(X, Y, w, criterion, least) for f in (best_split, best_split_by_trial))
    assert (split is None) == (tried is None)
    if split is not None:
        assert split.impurity == pytest.approx(tried.impurity, abs=1e-9)
        left = X[:, split.feature] <= split.threshold
        assert min(left.sum(), (~left).sum()) >= least
        if numbers:
            sides = [(Y[side, 0], w[side]) for side in (left, ~left)]
            kept = sum(v.sum() * np.cov(y, aweights=v, ddof=0) for y, v in sides)
            assert kept == pytest.approx(split.impurity, abs=1e-9)


def test_worked_example():
    """Ten flowers: Gini 0.5, and one cut that parts them, halfway between neighbors."""
    X, y = np.r_[np.arange(5.0), np.arange(10.0, 15)][:, None], np.repeat([0, 1], 5)
    model = DecisionTreeClassifier().fit(X, y)
    assert model.tree_.impurity[0] == 0.5
    assert model.tree_.threshold[0] == 7.0
    assert list(model.predict([[7.0], [7.1]])) == [0, 1]


def test_neighboring_floats_are_parted():
    X = np.array([[1.0], [np.nextafter(np.float32(1), np.float32(2))]])
    model = DecisionTreeRegressor().fit(X, np.array([0.0, 1.0]))
    np.testing.assert_allclose(model.predict(X), [0, 1])


def test_xor_is_learned_though_the_first_split_gains_nothing():
    X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    assert DecisionTreeClassifier().fit(X, y).score(X, y) == 1.0


def test_degenerate_tables():
    model = DecisionTreeRegressor().fit(np.ones((4, 2)), np.arange(4.0))
    np.testing.assert_allclose(model.predict(np.ones((1, 2))), 1.5)
    assert DecisionTreeRegressor().fit(np.arange(4.0)[:, None], np.ones(4)).get_n_leaves() == 1


def test_max_features_draws_anew_and_skips_constants():
    X, y = data(0, 200)
    X[:, 3] = 1.0
    model = DecisionTreeRegressor(max_features=1).fit(X, y)
    assert set(model.tree_.feature[model.tree_.feature >= 0]) == {0, 1, 2}
    assert model.score(X, y) == 1.0


X, Y = data(0, 20)


def fit(**options):
    return DecisionTreeRegressor(**options).fit(X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(max_depth=0), "max_depth must be at least 1, got 0"),
        (lambda: fit(min_samples_leaf=0), "min_samples_leaf must be at least 1, got 0"),
        (lambda: fit(ccp_alpha=-1.0), "ccp_alpha must be at least 0, got -1.0"),
        (lambda: fit(criterion="gini"), "criterion must be one of .* got 'gini'"),
        (lambda: DecisionTreeRegressor().fit(np.where(X > 0, np.nan, X), Y), "NaN"),
        (lambda: DecisionTreeClassifier().fit(X, np.zeros(20, int)), "at least 2 classes"),
        (lambda: DecisionTreeRegressor().predict(X), "must be fitted before use"),
        (lambda: DecisionTreeRegressor().fit(X, Y, np.ones(3)), "sample_weight must hold 20 num"),
        (lambda: fit().predict(X[:, :2]), "X has 2 features"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@CRITERIA
def test_row_of_weight_zero_is_no_row(criterion):
    X, y = data(5, 200, criterion)
    weight = np.random.default_rng(5).integers(0, 3, 200).astype(float)
    ours, theirs = pair(criterion, min_samples_leaf=5)
    theirs.fit(X, y, weight)
    np.testing.assert_allclose(ours.fit(X, y, weight).predict(X), theirs.predict(X))
    rows, threshold = weight > 0, ours.tree_.threshold
    ours.fit(X[rows], y[rows], weight[rows])
    np.testing.assert_array_equal(ours.tree_.threshold, threshold)
