"""Week 05: second-order boosting of trees."""

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from shared.stats import mean_interval
from week05.bins import find_cuts, to_bins
from week05.evidence.gradient_boosting_benchmark import corrected_interval
from week05.evidence.xgboost_twin import fit_xgboost, xgboost_margin
from week05.gradient_boosting import GradientBoosting
from week05.histogram_splits import Limits, split_gain
from week05.histogram_trees import grow_tree
from week05.losses import derivatives, loss, sigmoid, softmax

seeds = st.integers(0, 2**32 - 1)


def table(n=300, seed=0, missing=0.15, levels=None):
    """Continuous and coded columns, with values missing at random and not at random."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    y = 2 * X[:, 0] + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=n)
    if levels:
        X = np.round(levels * X)
    X = np.c_[X, rng.integers(0, 5, n)]
    if missing:
        X[:, :4][rng.random((n, 4)) < missing] = np.nan
        X[y > 1, 3] = np.nan
    return X, y


def targets(objective, y):
    kinds = {
        "squared_error": y,
        "logistic": (y > 0).astype(int),
        "softmax": np.digitize(y, [-1, 1]),
    }
    return kinds[objective]


def compare(objective, method, n=300, seed=0, rounds=8, levels=None, missing=0.15, **options):
    X, y = table(n, seed, missing, levels)
    y = targets(objective, y)
    booster, cuts = fit_xgboost(X, y, objective, rounds, tree_method=method, **options)
    ours = GradientBoosting(objective, n_estimators=rounds, tree_method=method, **options)
    ours.fit(X, y, cuts=cuts)
    new, _ = table(200, seed + 1, 0.2, levels)
    for data in (X, new, 3 * new):  # also beyond all that was seen
        np.testing.assert_allclose(
            ours.decision_function(data), xgboost_margin(booster, data), atol=1e-4
        )
    return ours, booster


METHODS = pytest.mark.parametrize("method", ["hist", "exact"])
OBJECTIVES = pytest.mark.parametrize("objective", ["squared_error", "logistic", "softmax"])


@METHODS
@OBJECTIVES
def test_predicts_as_xgboost(objective, method):
    compare(objective, method, max_depth=3, reg_alpha=1.5, reg_lambda=0.3, gamma=2.0)
    compare(objective, method, min_child_weight=5.0, gamma=0.5, learning_rate=0.1)


@METHODS
@pytest.mark.parametrize("options", [{}, {"missing": 0, "max_depth": 3}])
@pytest.mark.parametrize("levels", [1, 4])
def test_predicts_as_xgboost_with_tied_values(method, levels, options):
    compare("squared_error", method, levels=levels, **options)


def test_predicts_as_xgboost_with_wide_bins():
    compare("squared_error", "hist", n=1000, max_bins=16)


@settings(max_examples=8)
@given(st.integers(5, 120), st.sampled_from(["hist", "exact"]), st.integers(0, 10**6))
def test_predicts_as_xgboost_on_small_tables(n, method, seed):
    compare("squared_error", method, n=n, seed=seed, rounds=3)


@given(seeds, st.integers(8, 60))
def test_first_split_saves_most_of_all(seed, n):
    """Against the gain of every threshold of every feature, one by one."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, 4, (n, 3)).astype(np.float32)
    g, h = rng.normal(size=n), rng.uniform(0.5, 2, n)
    limits = Limits(max_depth=1, reg_alpha=0.3, min_child_weight=0.0)
    tree, _ = grow_tree(to_bins(X, find_cuts(X, 256)), g, h, limits)
    gains = [split_gain(g, h, X[:, j] < t, limits) for j in range(3) for t in (1, 2, 3)]
    assert tree.gain[0] == pytest.approx(max(0.0, *gains), abs=1e-4)


def test_same_trees_as_xgboost():
    ours, booster = compare("squared_error", "hist", rounds=3)
    frame = booster.trees_to_dataframe()
    for t, (tree,) in enumerate(ours.trees_):
        rows = frame[frame.Tree == t].set_index("ID")
        stack = [(0, f"{t}-0")]
        while stack:
            node, name = stack.pop()
            row = rows.loc[name]
            assert tree.cover[node] == pytest.approx(row.Cover, rel=1e-5)
            if tree.feature[node] < 0:
                assert row.Feature == "Leaf"
                assert tree.value[node] == pytest.approx(row.Gain, abs=1e-5)
                continue
            assert row.Feature == f"f{tree.feature[node]}"
            assert tree.threshold[node] == pytest.approx(row.Split, abs=1e-6)
            assert tree.gain[node] == pytest.approx(row.Gain, rel=1e-4, abs=1e-4)
            assert (row.Missing == row.Yes) == tree.default_left[node]
            stack += [(tree.left[node], row.Yes), (tree.right[node], row.No)]


def test_own_cuts_are_xgboosts_while_values_have_their_own_bins():
    X, y = table(200, levels=3)
    _, theirs = fit_xgboost(X, y, "squared_error", 1)
    for ours, reference in zip(find_cuts(X.astype(np.float32), 256), theirs, strict=True):
        np.testing.assert_allclose(ours, reference, rtol=1e-6)


@METHODS
def test_sample_weight_equals_xgboosts_and_weight_two_equals_two_copies(method):
    X, y = table(150)
    weight = np.random.default_rng(0).integers(0, 3, 150)
    options = {"n_estimators": 5, "tree_method": method, "max_depth": 3, "base_score": 0.0}
    weighted = GradientBoosting(**options).fit(X, y, sample_weight=weight)
    again = np.repeat(np.arange(150), weight)
    cuts = None if method == "exact" else find_cuts(X.astype(np.float32), 256)
    copied = GradientBoosting(**options).fit(X[again], y[again], cuts=cuts)
    np.testing.assert_allclose(weighted.predict(X[again]), copied.predict(X[again]), atol=1e-5)


# ---- by hand


def test_leaf_and_gain_by_hand():
    """Four rows, squared error from 0: G = -(1 + 2), -(7 + 8), λ = 1."""
    X, y = np.array([[1.0], [2.0], [3.0], [4.0]]), np.array([1.0, 2.0, 7.0, 8.0])
    model = GradientBoosting(n_estimators=1, learning_rate=1.0, max_depth=1, base_score=0.0)
    (tree,) = model.fit(X, y).trees_[0]
    assert tree.threshold[0] == 3.0  # a row at the edge goes right
    np.testing.assert_allclose(tree.value[1:], [3 / 3, 15 / 3])
    assert tree.gain[0] == pytest.approx(3**2 / 3 + 15**2 / 3 - 18**2 / 5)
    np.testing.assert_allclose(model.predict(X), [1, 1, 5, 5])


@pytest.mark.parametrize("side", ["left", "right"])
def test_missing_values_go_where_it_pays(side):
    X = np.array([[0.0], [0.0], [1.0], [1.0], [np.nan], [np.nan]])
    low, high = (0.0, 10.0) if side == "left" else (10.0, 0.0)
    y = np.array([low, low, high, high, 0.0, 0.0])
    model = GradientBoosting(n_estimators=1, learning_rate=1.0, max_depth=1, reg_lambda=0.0)
    tree = model.fit(X, y).trees_[0][0]
    assert tree.default_left[0] == (side == "left")
    np.testing.assert_allclose(model.predict(X), y, atol=1e-6)


# ---- losses


@OBJECTIVES
@given(seed=seeds)
def test_derivatives_are_those_of_the_loss(objective, seed):
    rng = np.random.default_rng(seed)
    k = 3 if objective == "softmax" else 1
    margin = rng.normal(size=(1, k))
    target = np.eye(3)[[1]] if objective == "softmax" else np.ones((1, 1))

    def scale(m, t):
        value = loss(objective, m, t)
        return value**2 / 2 if objective == "squared_error" else value

    g, h = derivatives(objective, margin, target)
    e = np.eye(k)[:1] * 1e-4
    up, mid, down = (scale(margin + s * e, target) for s in (1, 0, -1))
    assert g[0, 0] == pytest.approx((up - down) / 2e-4, abs=1e-5)
    factor = 2 if objective == "softmax" else 1
    assert h[0, 0] == pytest.approx(factor * (up - 2 * mid + down) / 1e-8, abs=1e-4)


def test_extreme_margins_stay_finite():
    margin = np.array([[-1e4], [1e4]])
    with np.errstate(over="raise", invalid="raise"):
        np.testing.assert_array_equal(sigmoid(margin), [[0], [1]])
        assert np.isfinite(loss("logistic", margin, np.array([[1.0], [0.0]])))
        np.testing.assert_allclose(softmax(np.array([[1e4, 0.0, -1e4]])), [[1, 0, 0]])


# ---- boosting


def test_row_and_column_sampling():
    X, y = table()
    model = GradientBoosting(n_estimators=30, subsample=0.5, colsample_bytree=0.4, max_depth=3)
    model.fit(X, y)
    for (tree,) in model.trees_:
        assert tree.cover[0] == 150
        assert len(set(tree.feature[tree.feature >= 0])) <= 2
    used = {int(f) for (tree,) in model.trees_ for f in tree.feature[tree.feature >= 0]}
    assert used == set(range(5))
    other = clone(model).set_params(random_state=1).fit(X, y)
    np.testing.assert_array_equal(clone(model).fit(X, y).predict(X), model.predict(X))
    assert np.abs(other.predict(X) - model.predict(X)).max() > 0.01


def test_early_stopping_keeps_the_best_round():
    (X, y), (Xn, yn) = table(200), table(200, 1)
    common = {"learning_rate": 0.5, "tree_method": "exact"}
    watch = {"evals": [(xgb.DMatrix(Xn, yn), "e")], "early_stopping_rounds": 5}
    booster = xgb.train(common, xgb.DMatrix(X, y), 200, verbose_eval=False, **watch)
    model = GradientBoosting(n_estimators=200, early_stopping_rounds=5, **common)
    model.fit(X, y, eval_set=(Xn, yn))
    assert model.best_iteration_ == booster.best_iteration
    assert len(model.trees_) == booster.best_iteration + 6 < 200
    rmse = np.sqrt(np.mean((model.predict(Xn) - yn) ** 2))
    assert rmse == pytest.approx(min(model.eval_loss_))


def test_labels_of_any_kind_and_probabilities():
    X, y = table()
    words = np.array(["low", "mid", "high"])[np.digitize(y, [-1, 1])]
    model = GradientBoosting("softmax", n_estimators=10).fit(X, words)
    assert list(model.classes_) == ["high", "low", "mid"]
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    assert model.score(X, words) > 0.9
    two = GradientBoosting("logistic", n_estimators=10).fit(X, y > 0)
    assert two.predict(X).dtype == bool
    np.testing.assert_allclose(two.predict_proba(X)[:, 1], sigmoid(two.decision_function(X)[:, 0]))


def test_degenerate_tables():
    flat = GradientBoosting(n_estimators=3).fit(np.ones((5, 2)), np.arange(5.0))
    np.testing.assert_allclose(flat.predict(np.zeros((2, 2))), 2)
    nothing = GradientBoosting(n_estimators=3).fit(np.full((5, 2), np.nan), np.arange(5.0))
    np.testing.assert_allclose(nothing.predict(np.ones((2, 2))), 2)
    constant = GradientBoosting(n_estimators=3).fit(np.arange(5.0)[:, None], np.ones(5))
    np.testing.assert_allclose(constant.predict(np.ones((2, 1))), 1)
    stump = GradientBoosting(n_estimators=3, max_depth=0).fit(*table(20))
    assert len(np.unique(stump.predict(table(20)[0]))) == 1


def test_columns_restrict_the_features():
    X = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    g = -X[:, 0].astype(float)
    tree, leaf = grow_tree(to_bins(X, find_cuts(X, 32)), g, np.ones(100), columns=np.array([1, 2]))
    assert 0 not in tree.feature
    np.testing.assert_array_equal(tree.predict(X), tree.value[leaf])


def test_interval_over_folds_is_wider_than_students():
    """Nadeau and Bengio: five folds that share rows say less than five draws would."""
    folds = np.array([0.70, 0.75, 0.78, 0.72, 0.80])
    found, student = corrected_interval(folds), mean_interval(folds)
    assert found.mean == student.mean
    assert found.high - found.mean == pytest.approx(1.5 * (student.high - student.mean))


# ---- wrong input


X, Y = table(20)
FITTED = GradientBoosting(n_estimators=1).fit(X, Y)
BINS = np.array([2.0, 2.0], dtype=np.float32)


def fit(y=Y, **options):
    return GradientBoosting(**options).fit(X, y)


def classify(y, **options):
    return GradientBoosting("logistic", n_estimators=1).fit(X, y, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(objective="hinge"), "objective must be one of .* got 'hinge'"),
        (lambda: fit(tree_method="gpu"), "tree_method must be one of"),
        (lambda: fit(n_estimators=0), "n_estimators must be at least 1, got 0"),
        (lambda: fit(reg_lambda=np.nan), "reg_lambda must be at least 0, got nan"),
        (lambda: fit(subsample=1.5), r"subsample must be in \(0, 1\], got 1.5"),
        (lambda: fit(early_stopping_rounds=3), "early_stopping_rounds needs an eval_set"),
        (lambda: fit(np.full(20, np.nan)), "Input y contains NaN"),
        (lambda: FITTED.fit(np.where(np.isnan(X), np.inf, X), Y), "infinity"),
        (lambda: FITTED.fit(X, Y, sample_weight=-np.ones(20)), "sample_weight must hold 20 numb"),
        (lambda: FITTED.fit(X, Y, cuts=[np.zeros(1)]), "cuts must have an array for each of 5 fea"),
        (lambda: FITTED.fit(X, Y, cuts=[BINS] * 5), r"cuts\[0\] must ascend strictly"),
        (lambda: FITTED.predict(X[:, :3]), "X has 3 features"),
        (lambda: FITTED.predict_proba(X), "predict_proba needs objective"),
        (lambda: GradientBoosting().predict(X), "must be fitted before use"),
        (lambda: classify(np.ones(20, dtype=int)), "at least 2 classes"),
        (lambda: classify(np.digitize(Y, [-1, 1])), "logistic needs two classes, got 3"),
        (lambda: classify(Y > 0, eval_set=(X, np.full(20, 7))), "eval_set must have only labels"),
        (lambda: classify(Y > 0, eval_set=(X, Y[:5] > 0)), "eval_set must have a y for each row"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
