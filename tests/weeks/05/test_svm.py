"""Week 05: support vector machines by sequential minimal optimization."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris, make_moons
from sklearn.metrics.pairwise import linear_kernel, polynomial_kernel, rbf_kernel
from sklearn.svm import SVC as Reference

from week05.smo import SELECTIONS, bias_of, kernel_matrix, movable, objectives, smo
from week05.svm import SVC

seeds = st.integers(0, 2**32 - 1)


def problem(n, d, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.normal(size=(n, d)), np.where(rng.random(n) < 0.5, 1.0, -1.0)
    y[:2] = [1.0, -1.0]
    return X, y


def tumors():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    return X[:200], y[:200], X[200:300]


def assert_same(X, y, unseen, **options):
    options |= {"tol": 1e-6}
    ours, reference = SVC(**options).fit(X, y), Reference(**options).fit(X, y)
    np.testing.assert_array_equal(ours.support_, reference.support_)
    np.testing.assert_allclose(ours.intercept_, reference.intercept_, atol=1e-4)
    outputs = (machine.decision_function(unseen) for machine in (ours, reference))
    np.testing.assert_allclose(*outputs, atol=1e-4)
    np.testing.assert_array_equal(ours.predict(unseen), reference.predict(unseen))
    return ours, reference


@pytest.mark.parametrize(("kernel", "C"), [("linear", 0.1), ("rbf", 10.0), ("poly", 1.0)])
def test_equals_sklearn(kernel, C):
    ours, reference = assert_same(*tumors(), kernel=kernel, C=C)
    np.testing.assert_allclose(ours.dual_coef_, reference.dual_coef_, atol=1e-4 * C)


def test_leaps_find_a_hard_margin_in_few_steps():
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    options = {"kernel": "linear", "C": 1e4}
    ours, reference = SVC(**options).fit(X, y), Reference(**options).fit(X, y)
    assert ours.n_iter_[0] < 10 * len(X) < reference.n_iter_[0] / 100
    np.testing.assert_array_equal(ours.support_, reference.support_)
    theirs = np.abs(reference.dual_coef_).sum() - (reference.coef_**2).sum() / 2
    assert theirs <= ours.dual_objective_[0] == pytest.approx(theirs, rel=1e-4)
    slow = SVC(**options, leaps=False, max_iter=10 * len(X))
    with pytest.warns(UserWarning, match="smo stopped at max_iter"):
        assert slow.fit(X, y).dual_objective_ < 0.5 * ours.dual_objective_


@pytest.mark.parametrize("shape", ["ovr", "ovo"])
def test_several_classes_equal_sklearn(shape):
    X, y = load_iris(return_X_y=True)
    y = np.array(["setosa", "versicolor", "virginica"])[y]
    assert_same(X[::2], y[::2], X[1::2], gamma="auto", decision_function_shape=shape)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 2)), rng.integers(0, 4, 80)
    assert_same(X, y, rng.normal(size=(50, 2)), C=5.0, decision_function_shape=shape)


@given(st.integers(4, 25), st.integers(1, 4), st.sampled_from([0.1, 1.0, 100.0]), seeds)
def test_solution_meets_the_kkt_conditions(n, d, C, seed):
    X, y = problem(n, d, seed)
    K = kernel_matrix(X, X, "rbf", gamma=0.7)
    for selection in SELECTIONS:
        found = smo(K, y, C, tol=1e-7, selection=selection)
        assert ((found.alpha >= 0) & (found.alpha <= C)).all()
        np.testing.assert_allclose(found.alpha @ y, 0.0, atol=1e-9 * C)
        np.testing.assert_allclose(found.errors, y - K @ (found.alpha * y), atol=1e-9 * C)
        margin = y * (K @ (found.alpha * y) + found.bias)
        assert (margin[found.alpha == 0] >= 1 - 1e-5).all()
        assert (margin[found.alpha == C] <= 1 + 1e-5).all()
        free = (found.alpha > 0) & (found.alpha < C)
        np.testing.assert_allclose(margin[free], 1.0, atol=1e-5)
        primal, dual = objectives(found.alpha, found.errors, y, C)
        assert 0 <= primal - dual + 1e-9 * C <= 1e-5 * (1 + n * C)


def test_alpha_at_a_bound_is_exact():
    X, y = make_moons(80, noise=0.4, random_state=0)
    C = 0.3  # not a binary fraction: α + (C - α) may miss it by a rounding
    found = smo(kernel_matrix(X, X), np.where(y == 1, 1.0, -1.0), C, tol=1e-8)
    assert ((found.alpha == C) | (found.alpha < C * (1 - 1e-9))).all()
    assert ((found.alpha == 0) | (found.alpha > 1e-12)).all()
    assert (found.alpha == C).sum() > 10


def test_duplicates_with_opposite_labels():
    found = smo(np.ones((4, 4)), np.array([1.0, -1.0, 1.0, -1.0]), 2.0)
    np.testing.assert_array_equal(found.alpha, 2.0)
    assert found.bias == 0


def test_bias_without_free_support_vectors():
    alpha, y = np.array([1.0, 1.0, 0.0, 0.0]), np.array([1.0, -1.0, 1.0, -1.0])
    # y_i α_i may grow for rows 1 and 2 and shrink for 0 and 3: any b from 0.3 to 0.8 is optimal
    assert bias_of(alpha, np.array([0.8, 0.1, 0.3, 2.0]), y, 1.0) == pytest.approx(0.55)


def test_movable():
    alpha, y = np.array([0.0, 0.0, 1.0, 1.0, 0.5]), np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    up, low = movable(alpha, y, 1.0)
    assert up.tolist() == [True, False, False, True, True]
    assert low.tolist() == [False, True, True, False, True]


def test_second_order_needs_fewer_steps():
    X, y, _ = tumors()
    K, y = kernel_matrix(X, X, gamma=1 / 30), np.where(y == 1, 1.0, -1.0)
    first, second = (smo(K, y, 10.0, selection=s, tol=1e-6) for s in SELECTIONS)
    assert second.n_iter < first.n_iter
    np.testing.assert_allclose(first.alpha, second.alpha, atol=1e-3)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 4), seeds)
def test_kernels_equal_sklearn(m, n, d, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(m, d)), rng.normal(size=(n, d))
    np.testing.assert_allclose(kernel_matrix(A, B, "linear"), linear_kernel(A, B), atol=1e-12)
    poly = {"gamma": 0.3, "degree": 3, "coef0": 1.0}
    for name, theirs, options in (
        ("rbf", rbf_kernel, {"gamma": 0.3}),
        ("poly", polynomial_kernel, poly),
    ):
        ours = kernel_matrix(A, B, name, **options)
        np.testing.assert_allclose(ours, theirs(A, B, **options), atol=1e-12)


def test_kernel_of_a_point_with_itself_is_at_most_one():
    X = 1e4 + np.random.default_rng(0).normal(size=(20, 3))
    assert kernel_matrix(X, X, "rbf").max() <= 1.0


def test_class_names_and_order_do_not_matter():
    X, y, unseen = tumors()
    outputs = SVC().fit(X, y).decision_function(unseen)
    named = SVC().fit(X, np.where(y == 1, "good", "bad"))
    np.testing.assert_array_equal(named.decision_function(unseen), outputs)
    assert set(named.predict(unseen)) == {"good", "bad"}


def test_stops_at_max_iter_with_a_warning():
    X, y, _ = tumors()
    with pytest.warns(UserWarning, match=r"smo stopped at max_iter = 3 with violation"):
        assert SVC(max_iter=3).fit(X, y).n_iter_.tolist() == [3]


X, Y = problem(20, 3, 0)


def fit(**options):
    return SVC(**options).fit(X, Y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(C=0.0), "C must be a positive number, got 0"),
        (lambda: fit(tol=-1.0), "tol must be a positive number, got -1"),
        (lambda: fit(kernel="sigmoid"), "kernel must be one of linear, poly, rbf, got 'sigmoid'"),
        (lambda: fit(gamma="wide"), "gamma must be a number, scale or auto, got 'wide'"),
        (lambda: fit(gamma=-1.0), "gamma must be a positive number, got -1"),
        (lambda: fit(selection="random"), "selection must be one of .* got 'random'"),
        (lambda: fit(decision_function_shape="x"), "decision_function_shape must be ovr or ovo"),
        (lambda: SVC().fit(X, np.zeros(20)), "y must have at least 2 classes, got 1 class"),
        (lambda: SVC().fit(X * np.nan, Y), "NaN or inf"),
        (lambda: SVC().predict(X), "SVC must be fitted before use"),
        (lambda: fit().predict(X[:, :2]), "X has 2 features, but SVC is expecting 3"),
        (lambda: smo(np.eye(2), np.array([1.0, 2.0]), 1.0), "y must hold the labels -1 and 1"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
