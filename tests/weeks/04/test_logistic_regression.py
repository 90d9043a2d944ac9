"""Week 04: logistic regression."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_iris
from sklearn.linear_model import LogisticRegression as Reference

from week04.linear_regression import StandardScaler
from week04.logistic_regression import (
    LogisticRegression,
    gradient_descent,
    hessian,
    irls_step,
    loss_and_gradient,
    newton_step,
    softmax,
)

seeds = st.integers(0, 2**32 - 1)
TUMORS, BENIGN = load_breast_cancer(return_X_y=True)
TUMORS = StandardScaler().fit_transform(TUMORS)
IRIS, SPECIES = load_iris(return_X_y=True)


def problem(n, q, k, seed):
    rng = np.random.default_rng(seed)
    rows = 1 if k == 2 else k
    X = rng.normal(size=(n, q))
    return rng.normal(size=(rows, q)), X, np.eye(k)[rng.integers(0, k, n)], rng.uniform(0, 1, q)


def reference(C, **options):
    return Reference(C=C, solver="newton-cholesky", tol=1e-12, max_iter=500, **options)


def assert_same(ours, theirs, X, atol=1e-7):
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=atol)
    shift = [m.intercept_ - m.intercept_.mean() * (len(m.intercept_) > 1) for m in (ours, theirs)]
    np.testing.assert_allclose(*shift, atol=atol)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=atol)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))


@pytest.mark.parametrize(("C", "intercept"), [(0.01, True), (100.0, False)])
def test_binary_equals_sklearn(C, intercept):
    ours = LogisticRegression(C=C, fit_intercept=intercept, tol=1e-11).fit(TUMORS, BENIGN)
    theirs = reference(C, fit_intercept=intercept).fit(TUMORS, BENIGN)
    assert_same(ours, theirs, TUMORS)
    scores = (model.decision_function(TUMORS) for model in (ours, theirs))
    np.testing.assert_allclose(*scores, atol=1e-6)
    assert ours.coef_.shape == (1, 30)
    assert ours.converged_


@pytest.mark.parametrize("C", [0.1, 10.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_multinomial_equals_sklearn(C, intercept):
    ours = LogisticRegression(C=C, fit_intercept=intercept, tol=1e-11).fit(IRIS, SPECIES)
    assert_same(ours, reference(C, fit_intercept=intercept).fit(IRIS, SPECIES), IRIS)
    np.testing.assert_allclose(ours.coef_.sum(axis=0), 0, atol=1e-9)


def test_no_penalty_equals_sklearn():
    X, y = TUMORS[:, :2], BENIGN
    assert_same(LogisticRegression(C=np.inf, tol=1e-11).fit(X, y), reference(np.inf).fit(X, y), X)


def test_labels_of_any_kind():
    names = np.array(["setosa", "versicolor", "virginica"])[SPECIES]
    ours = LogisticRegression().fit(IRIS, names)
    assert list(ours.classes_) == ["setosa", "versicolor", "virginica"]
    numbers = LogisticRegression().fit(IRIS, SPECIES).predict(IRIS)
    np.testing.assert_array_equal(ours.predict(IRIS), ours.classes_[numbers])
    flipped = LogisticRegression().fit(TUMORS, 1 - BENIGN)
    np.testing.assert_allclose(
        flipped.coef_, -LogisticRegression().fit(TUMORS, BENIGN).coef_, atol=1e-6
    )


@pytest.mark.parametrize("solver", ["newton", "gd"])
def test_defaults_and_nothing_to_learn(solver):
    options = {"lr": None, "max_iter": 1000, "tol": 1e-8}
    assert LogisticRegression().get_params() == {
        "C": 1.0,
        "solver": "newton",
        "fit_intercept": True,
        **options,
    }
    X, y = np.zeros((2, 1)), np.array([3, 5])
    model = LogisticRegression(tol=0.0, solver=solver).fit(X, y)
    assert (model.n_iter_, model.converged_) == (0, True)
    assert model.predict(X).tolist() == [3, 3]  # a score of 0, as in scikit-learn


# ---- loss, gradient, Hessian


@given(st.integers(1, 8), st.integers(1, 4), st.integers(2, 4), seeds)
def test_loss_and_derivatives_equal_torch(n, q, k, seed):
    W, X, Y, penalty = problem(n, q, k, seed)

    def loss(flat):
        w = flat.reshape(W.shape)
        Z = torch.tensor(X) @ w.T
        Z = torch.cat([torch.zeros(n, 1, dtype=Z.dtype), Z], 1) if len(w) == 1 else Z
        mean = torch.nn.functional.cross_entropy(Z, torch.tensor(Y))
        return mean + (torch.tensor(penalty) * w**2).sum() / 2

    flat = torch.tensor(W.ravel(), requires_grad=True)
    value = loss(flat)
    (gradient,) = torch.autograd.grad(value, flat)
    ours, our_gradient = loss_and_gradient(W, X, Y, penalty)
    assert ours == pytest.approx(value.item(), abs=1e-12)
    np.testing.assert_allclose(our_gradient.ravel(), gradient, atol=1e-12)
    theirs = torch.autograd.functional.hessian(loss, flat.detach())
    np.testing.assert_allclose(hessian(W, X, penalty), theirs, atol=1e-12)


@given(st.integers(3, 20), st.integers(1, 4), st.integers(2, 4), seeds)
def test_default_rate_never_raises_the_loss(n, q, k, seed):
    W, X, Y, penalty = problem(n, q, k, seed)
    path = gradient_descent(10 * W, 5 * X, Y, penalty, steps=20)
    losses = [loss_and_gradient(w, 5 * X, Y, penalty)[0] for w in path]
    assert (np.diff(losses) <= 1e-12).all()


@pytest.mark.parametrize(("k", "bound"), [(2, 0.25), (3, 0.5)])
def test_default_rate_and_steps(k, bound):
    W, X, Y, penalty = problem(9, 3, k, 1)
    path = gradient_descent(W, X, Y, penalty)
    rate = 1 / (bound * np.linalg.norm(X, 2) ** 2 / 9 + penalty.max())
    np.testing.assert_allclose(path[1], W - rate * loss_and_gradient(W, X, Y, penalty)[1])
    assert len(path) == 101


def test_loss_is_a_mean():
    W, X, Y, penalty = problem(9, 3, 3, 1)
    once = loss_and_gradient(W, X, Y, penalty)
    twice = loss_and_gradient(W, np.vstack([X, X]), np.vstack([Y, Y]), penalty)
    assert once[0] == pytest.approx(twice[0])
    np.testing.assert_allclose(once[1], twice[1])


def test_far_scores_do_not_overflow():
    X, Y = np.array([[1.0], [1.0]]), np.eye(2)
    for w in (1e4, -1e4):
        value, gradient = loss_and_gradient(np.array([[w]]), X, Y, np.zeros(1))
        assert value == pytest.approx(5000)
        assert np.isfinite(gradient).all()
    np.testing.assert_allclose(softmax(np.array([[1e4, 0.0], [-1e4, 0.0]])), [[1, 0], [0, 1]])


# ---- Newton


@given(st.integers(8, 20), st.integers(1, 4), seeds)
def test_irls_is_newton(n, q, seed):
    W, X, Y, _ = problem(n, q, 2, seed)
    W = 0.3 * W
    newton = (W - newton_step(W, X, Y, np.zeros(q)))[0]
    np.testing.assert_allclose(irls_step(W[0], X, Y[:, 1]), newton, rtol=1e-6, atol=1e-7)


def test_repeated_columns():
    X = np.column_stack([TUMORS[:, 0], TUMORS[:, 0]])
    for C in (1.0, np.inf):
        ours = LogisticRegression(C=C).fit(X, BENIGN)
        assert ours.coef_[0, 0] == pytest.approx(ours.coef_[0, 1], rel=1e-5)


# ---- separable data


def test_separable_classes_need_a_penalty():
    X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    lengths = []
    for steps in (100, 1000, 10000):
        with pytest.warns(UserWarning, match=f"no convergence in {steps} steps"):
            model = LogisticRegression(C=np.inf, solver="gd", max_iter=steps).fit(X, y)
        assert not model.converged_
        lengths.append(model.coef_[0, 0])
    np.testing.assert_allclose(np.diff(lengths), np.log(10), rtol=0.2)  # 1 / margin per ln t
    assert LogisticRegression().fit(X, y).converged_
    assert 1 < LogisticRegression(solver="gd", tol=1e-3).fit(X, y).n_iter_ < 1000


@pytest.mark.parametrize(
    ("options", "left"), [({}, "8.7e-02"), ({"solver": "gd", "lr": 0.5}, "4.3e-01")]
)
def test_the_warning_says_how_far_it_came(options, left):
    with pytest.warns(UserWarning, match="no convergence in 1 steps") as caught:
        model = LogisticRegression(max_iter=1, **options).fit([[-2], [-1], [1], [2]], [0, 0, 1, 1])
    assert model.n_iter_ == 1
    assert str(caught[0].message) == (
        f"no convergence in 1 steps: the gradient is {left}, tol = 1e-08."
        " Scale the features, or allow more steps"
    )


def test_newton_on_separable_classes_stays_finite():
    X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        model = LogisticRegression(C=np.inf, max_iter=100).fit(X, y)
    assert np.isfinite(model.coef_).all()
    np.testing.assert_array_equal(model.predict(X), y)


# ---- wrong input


def test_bad_arguments():
    for model, message in (
        (LogisticRegression(solver="sgd"), "solver must be one of newton, gd, got 'sgd'"),
        (LogisticRegression(C=0.0), "C must be greater than 0, got 0"),
        (LogisticRegression(C=float("nan")), "C must be greater than 0, got nan"),
        (LogisticRegression(max_iter=0), "max_iter must be .* got 0"),
        (LogisticRegression(lr=-1.0), "lr must be .* got -1"),
        (LogisticRegression(lr=np.inf), "lr must be finite and greater than 0, got inf"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fit(TUMORS, BENIGN)
    with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
        LogisticRegression().fit(TUMORS[:5], np.ones(5))
    with pytest.raises(ValueError, match="must be fitted"):
        LogisticRegression().predict_proba(TUMORS)
