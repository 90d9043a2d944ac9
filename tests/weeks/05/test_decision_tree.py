"""Week 05: classification and regression trees."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import tree as reference
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import cross_val_score

from week05 import decision_tree
from week05.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor
from week05.pruning import pruned, pruning_path
from week05.splits import best_split, best_split_by_trial, impurity

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
    np.testing.assert_array_equal(ours.tree_.feature >= 0, inner)
    np.testing.assert_array_equal(ours.tree_.feature[inner], t.feature[inner])
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


def test_impurities_by_hand():
    sums, squares, weight = np.array([[3.0, 1.0]]), np.array([4.0]), np.array([4.0])
    assert impurity("gini", sums, squares, weight)[0] == pytest.approx(1 - 9 / 16 - 1 / 16)
    assert impurity("entropy", sums, squares, weight)[0] == pytest.approx(0.8112781)
    mean_and_square = impurity(
        "squared_error", np.array([[6.0]]), np.array([14.0]), np.array([3.0])
    )
    assert mean_and_square[0] == pytest.approx(14 / 3 - 4)


def test_neighboring_floats_are_parted_or_left_alone():
    a = np.float32(1.0)
    b = np.nextafter(a, np.float32(2), dtype=np.float32)
    X = np.array([[a], [b]], dtype=np.float64)
    model = DecisionTreeRegressor().fit(X, np.array([0.0, 1.0]))
    np.testing.assert_allclose(model.predict(X), 0.5 if b - a <= 1e-7 else [0, 1])


def test_xor_is_learned_though_the_first_split_gains_nothing():
    X, y = np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0, 1, 1, 0])
    assert DecisionTreeClassifier().fit(X, y).score(X, y) == 1.0


def test_weight_two_is_two_copies():
    X, y = data(0, 80)
    weight = np.random.default_rng(1).integers(0, 3, 80)
    rows = np.repeat(np.arange(80), weight)
    a = DecisionTreeRegressor(max_depth=4).fit(X, y, weight).predict(X)
    b = DecisionTreeRegressor(max_depth=4).fit(X[rows], y[rows]).predict(X)
    np.testing.assert_allclose(a, b, atol=1e-12)


def test_monotone_maps_of_a_feature_change_nothing():
    X, y = data(0, 100)
    a = DecisionTreeRegressor(max_depth=4).fit(X, y).predict(X)
    b = DecisionTreeRegressor(max_depth=4).fit(np.exp(X), y).predict(np.exp(X))
    np.testing.assert_allclose(a, b)


def test_pruning_nests_and_ends_at_the_root():
    X, y = data(0, 200)
    nodes = DecisionTreeRegressor().fit(X, y).tree_
    alphas, impurities, _ = pruning_path(nodes)
    assert (np.diff(alphas) >= 0).all()
    assert (np.diff(impurities) >= -1e-12).all()
    assert impurities[-1] == pytest.approx(y.var())
    leaves = [(pruned(nodes, float(a)).feature < 0).sum() for a in alphas]
    assert (np.diff(leaves) <= 0).all()
    assert leaves[-1] == 1


def test_full_tree_fits_and_deep_chains_do_not_recurse():
    X, y = load_iris(return_X_y=True)
    assert DecisionTreeClassifier().fit(X, y).score(X, y) == 1.0
    n = 1200
    chain = DecisionTreeRegressor().fit(np.arange(float(n))[:, None], 1.2 ** np.arange(n))
    assert chain.get_n_leaves() > 40


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


def test_works_with_sklearns_tools():
    X, y = load_iris(return_X_y=True)
    words = np.array(["a", "b", "c"])[y]
    model = clone(DecisionTreeClassifier(max_depth=3))
    assert cross_val_score(model, X, words, cv=3).mean() > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_depth": 0}, "max_depth must be at least 1, got 0"),
        ({"min_samples_leaf": 0}, "min_samples_leaf must be at least 1, got 0"),
        ({"ccp_alpha": -1.0}, "ccp_alpha must be at least 0, got -1.0"),
        ({"criterion": "squared_error"}, "criterion must be one of .* got 'squared_error'"),
    ],
)
def test_wrong_parameters(options, message):
    with pytest.raises(ValueError, match=message):
        DecisionTreeClassifier(**options).fit(*data(0, 20, "gini"))


X, Y = data(0, 20)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: DecisionTreeRegressor().fit(np.where(X > 0, np.nan, X), Y), "NaN"),
        (lambda: DecisionTreeClassifier().fit(X, np.zeros(20, int)), "at least 2 classes"),
        (lambda: DecisionTreeRegressor().predict(X), "must be fitted before use"),
        (lambda: DecisionTreeRegressor().fit(X, Y, np.ones(3)), "sample_weight must hold 20 num"),
        (lambda: DecisionTreeRegressor().fit(X, Y).predict(X[:, :2]), "X has 2 features"),
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
    ours.fit(X, y, sample_weight=weight)
    theirs.fit(X, y, sample_weight=weight)
    removed, _ = pair(criterion, min_samples_leaf=5)
    removed.fit(X[weight > 0], y[weight > 0], sample_weight=weight[weight > 0])
    np.testing.assert_array_equal(ours.tree_.threshold, removed.tree_.threshold)
    np.testing.assert_allclose(ours.predict(X), theirs.predict(X))
