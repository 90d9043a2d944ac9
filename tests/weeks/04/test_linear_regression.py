"""Week 04: linear regression, its prior and its posterior."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn import linear_model
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import StandardScaler as ReferenceScaler

from week04.bayesian_regression import BayesianLinearRegression
from week04.linear_regression import (
    LinearRegression,
    Ridge,
    StandardScaler,
    sgd_steps,
)

seeds = st.integers(0, 2**32 - 1)
X, Y = load_diabetes(return_X_y=True)


def problem(n, p, seed, rank=None):
    rng = np.random.default_rng(seed)
    rank = min(p, rank or p)
    A = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, p)) + 3.0
    return A, rng.normal(size=n) + 2.0


# ---- maximum likelihood


@pytest.mark.parametrize("solver", ["qr", "normal"])
@pytest.mark.parametrize("intercept", [True, False])
def test_equals_sklearn(solver, intercept):
    ours = LinearRegression(solver=solver, fit_intercept=intercept).fit(X, Y)
    theirs = linear_model.LinearRegression(fit_intercept=intercept).fit(X, Y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ours.predict(X[:9]), theirs.predict(X[:9]), rtol=1e-10)
    assert ours.score(X, Y) == pytest.approx(theirs.score(X, Y))


def test_sgd_steps_equal_torch():
    A, b = problem(20, 3, 0)
    rng = np.random.default_rng(5)
    ours = sgd_steps(A, b, lr=0.01, epochs=2, batch_size=6, rng=rng)
    rng = np.random.default_rng(5)
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    theirs = []
    for epoch in range(2):
        for batch in np.split(rng.permutation(20), [6, 12, 18]):
            residual = torch.tensor(A[batch]) @ w - torch.tensor(b[batch])
            (gradient,) = torch.autograd.grad(residual.square().mean() / 2, w)
            w = (w - 0.01 / (1 + epoch) * gradient).detach().requires_grad_()
            theirs.append(w.detach().numpy())
    assert ours.shape == (8, 3)
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_step_does_not_depend_on_repeating_the_data():
    """The mean over the batch, not the sum: twice the same rows, the same step."""
    A, b = problem(8, 2, 1)
    options = {"lr": 0.1, "epochs": 1, "rng": np.random.default_rng(0)}
    once = sgd_steps(A, b, batch_size=8, **options)
    twice = sgd_steps(np.vstack([A, A]), np.append(b, b), batch_size=16, **options)
    np.testing.assert_allclose(once, twice)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_sgd_says_when_it_diverges():
    with pytest.raises(ValueError, match=r"lr must be small enough .* got 10"):
        LinearRegression(solver="sgd", lr=10.0, epochs=300).fit(1e3 * X, Y)


# ---- ridge


@given(st.integers(1, 10), st.integers(1, 8), st.floats(1e-3, 1e3), st.booleans(), seeds)
def test_ridge_equals_sklearn(n, p, alpha, intercept, seed):
    A, b = problem(n, p, seed)
    ours = Ridge(alpha, fit_intercept=intercept).fit(A, b)
    theirs = linear_model.Ridge(alpha, fit_intercept=intercept, solver="svd").fit(A, b)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-8)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-8)


def test_intercept_is_not_penalized():
    a = Ridge(1e8).fit(X, Y)
    np.testing.assert_allclose(a.predict(X), Y.mean(), rtol=1e-6)
    np.testing.assert_allclose(Ridge(1.0).fit(X, Y + 1000).coef_, Ridge(1.0).fit(X, Y).coef_)


def test_no_penalty_is_least_squares():
    np.testing.assert_allclose(Ridge(0.0).fit(X, Y).coef_, LinearRegression().fit(X, Y).coef_)


# ---- the posterior


@given(st.integers(2, 8), st.integers(1, 8), st.floats(0.1, 10), st.floats(0.1, 10), seeds)
def test_evidence_is_the_density_of_the_targets(n, p, alpha, lam, seed):
    A, b = problem(n, p, seed)
    model = BayesianLinearRegression(noise_precision=alpha, weight_precision=lam).fit(A, b)
    centered = A - A.mean(axis=0)
    density = multivariate_normal(cov=np.eye(n) / alpha + centered @ centered.T / lam)
    assert model.log_evidence_ == pytest.approx(density.logpdf(b - b.mean()), rel=1e-8, abs=1e-8)
    np.testing.assert_allclose(model.coef_, Ridge(lam / alpha).fit(A, b).coef_, atol=1e-8)
    precision = lam * np.eye(p) + alpha * centered.T @ centered
    np.testing.assert_allclose(model.covariance_, np.linalg.inv(precision), atol=1e-8)


def test_predictive_deviation_by_sampling_the_posterior():
    A, b = problem(12, 3, 0)
    model = BayesianLinearRegression(noise_precision=2.0, weight_precision=0.5).fit(A, b)
    rng = np.random.default_rng(0)
    w = rng.multivariate_normal(model.coef_, model.covariance_, size=200_000)
    offset = b.mean() + rng.normal(size=len(w)) / np.sqrt(2.0 * len(A))
    new = A[:2] + 1.0
    y = (new - A.mean(axis=0)) @ w.T + offset + rng.normal(size=(2, len(w))) / np.sqrt(2.0)
    np.testing.assert_allclose(model.predict_std(new), y.std(axis=1), rtol=0.01)
    np.testing.assert_allclose(model.predict(new), y.mean(axis=1), atol=0.02)


@given(st.integers(2, 6), st.integers(1, 6), seeds)
def test_data_without_noise_or_signal_stay_finite(n, p, seed):
    A, b = problem(n, p, seed)
    for target in (np.zeros(n), np.full(n, 3.0), A[:, 0], b):
        model = BayesianLinearRegression(max_iter=200).fit(A, target)
        assert np.isfinite(model.predict_std(A)).all()
        assert np.isfinite(model.predict(A)).all()


# ---- scaling


@given(st.integers(1, 8), st.integers(1, 5), seeds)
def test_scaler_equals_sklearn(n, p, seed):
    A, _ = problem(n, p, seed)
    A[:, 0] = 0.1
    ours, theirs = StandardScaler().fit(A), ReferenceScaler().fit(A)
    np.testing.assert_allclose(ours.transform(A + 1), theirs.transform(A + 1), atol=1e-9)
    np.testing.assert_array_equal(A - A, A * 0)


def test_scaler_uses_the_training_statistics():
    scaler = StandardScaler().fit(np.array([[0.0], [2.0]]))
    np.testing.assert_allclose(scaler.transform(np.array([[5.0]])), [[4.0]])
    np.testing.assert_allclose(scaler.transform(np.array([[10.0], [12.0]])), [[9.0], [11.0]])


# ---- wrong input


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LinearRegression(solver="qr2"), "solver must be one of qr, normal, sgd, got 'qr2'"),
        (LinearRegression(solver="sgd", lr=0.0), "lr must be finite and gr"),
        (LinearRegression(solver="sgd", batch_size=0), "batch_size must be .* got 0"),
        (Ridge(-1.0), "alpha must be finite and at least 0, got -1"),
        (BayesianLinearRegression(noise_precision=-1.0), "noise_precision must be .* got -1"),
        (BayesianLinearRegression(max_iter=0), "max_iter must be .* got 0"),
    ],
)
def test_bad_arguments(model, message):
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
