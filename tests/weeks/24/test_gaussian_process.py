"""Kernels and processes: scikit-learn, differences, refits; bounds and their limits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process import kernels as sk

from shared import records
from shared.run import Run
from week24.evidence import gaussian_process as evidence
from week24.gaussian_process import GaussianProcess, factor, log_marginal_likelihood
from week24.kernels import RBF, Constant, Linear, Matern, Periodic
from week24.sparse_gp import SparseGP, collapsed_bound

SCRIPT = records.ROOT / "weeks" / "24" / "gaussian_process.py"
POSITIVE = st.floats(0.3, 3.0)


def data(seed, n=10, d=1):
    rng = np.random.default_rng(seed)
    return rng.uniform(-2, 2, (n, d)), rng.normal(size=n)


@settings(max_examples=10)
@given(POSITIVE, POSITIVE, st.integers(0, 99))
def test_kernels_and_their_derivatives_are_sklearns(a, b, seed):
    X, _ = data(seed, 6)
    Z, _ = data(seed + 1, 4)
    pairs = [
        (Constant(a) * RBF(b), sk.ConstantKernel(a) * sk.RBF(b)),
        (Periodic(a, b) + RBF(b), sk.ExpSineSquared(a, b) + sk.RBF(b)),
        (Linear(a) * Periodic(b, a), sk.DotProduct(a**0.5) * sk.ExpSineSquared(b, a)),
    ]
    pairs += [(Matern(a, nu), sk.Matern(a, nu=nu)) for nu in (0.5, 1.5, 2.5)]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours(X, Z), theirs(X, Z), rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.diagonal(X), theirs.diag(X), rtol=1e-12)
        slope = theirs(X, eval_gradient=True)[1].transpose(2, 0, 1).copy()
        if "DotProduct" in str(theirs):
            slope[0] /= 2  # by ln σ₀, not ln σ₀²
        np.testing.assert_allclose(ours.gradient(X), slope, rtol=1e-7, atol=1e-9)
        again = ours.with_theta(ours.theta)
        np.testing.assert_allclose(again(X, Z), ours(X, Z), rtol=1e-12)
        assert np.linalg.eigvalsh(ours(X, X)).min() > -1e-9


def test_derivatives_of_nested_kernels_in_the_order_of_theta():
    X, _ = data(0)
    kernel = Constant(1.5) * (RBF(0.7) + Periodic(0.8, 1.3) * Linear(0.4)) + Matern(0.9, 1.5)
    for i, slope in enumerate(kernel.gradient(X)):
        up, down = (kernel.theta + sign * 1e-6 * np.eye(6)[i] for sign in (1, -1))
        numeric = (kernel.with_theta(up)(X, X) - kernel.with_theta(down)(X, X)) / 2e-6
        np.testing.assert_allclose(slope, numeric, atol=1e-8)


@settings(max_examples=8)
@given(st.integers(0, 99), POSITIVE, st.floats(0.05, 1.0), st.booleans())
def test_a_process_is_sklearns(seed, length, noise, normalize):
    X, y = data(seed, 9, 2)
    new, y = data(seed + 1, 5, 2)[0], 3 + 10 * y
    kernel = Constant(1.4) * RBF(length)
    theirs = GaussianProcessRegressor(
        sk.ConstantKernel(1.4) * sk.RBF(length), alpha=noise, optimizer=None, normalize_y=normalize
    ).fit(X, y)
    ours = GaussianProcess(kernel, noise, normalize=normalize).fit(X, y)
    mean, cov = theirs.predict(new, return_cov=True)
    found = ours.predict(new)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.covariance(new), cov, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found.variance, cov.diagonal(), rtol=1e-7, atol=1e-8)
    noisy = ours.predict(new, noisy=True)
    np.testing.assert_allclose(noisy.variance - found.variance, noise * ours.scale**2, rtol=1e-7)


def test_the_likelihood_is_a_normal_density_and_its_gradient_the_slope():
    X, y = data(1)
    kernel, noise = Constant(1.3) * Matern(0.8, 2.5), 0.2
    value, slope = log_marginal_likelihood(kernel, noise, X, y)
    normal = multivariate_normal(np.zeros(10), kernel(X, X) + noise * np.eye(10))
    np.testing.assert_allclose(value, normal.logpdf(y))

    def at(t):
        return log_marginal_likelihood(kernel.with_theta(t[:-1]), float(np.exp(t[-1])), X, y)[0]

    t, h = np.append(kernel.theta, np.log(noise)), 1e-6
    numeric = [(at(t + h * e) - at(t - h * e)) / (2 * h) for e in np.eye(3)]
    np.testing.assert_allclose(slope, numeric, rtol=1e-6, atol=1e-7)


@settings(max_examples=6)
@given(st.integers(0, 99), st.booleans())
def test_leave_one_out_is_refitting(seed, normalize):
    X, y = data(seed, 7)
    model = GaussianProcess(RBF(0.6), 0.15, normalize=normalize).fit(X, 4 * y)
    found, scale = model.leave_one_out(), model.scale
    for i in range(7):
        rest = np.arange(7) != i
        other = GaussianProcess(RBF(0.6), 0.15).fit(X[rest], model.y[rest])  # one scale for all
        mean, variance = other.predict(X[i : i + 1], noisy=True)
        np.testing.assert_allclose(found.mean[i], model.shift + scale * mean[0], rtol=1e-8)
        np.testing.assert_allclose(found.variance[i], scale**2 * variance[0], rtol=1e-8)


def test_units_of_y():
    """A hundred times the values: a hundred times the deviations, and the density over 100."""
    X, y = data(2, 15)
    kernel = Constant(1.0) * RBF(0.8)
    one, hundred = (
        GaussianProcess(kernel, 0.1, normalize=True).optimize(X, c * y) for c in (1.0, 100.0)
    )
    for noisy in (False, True):
        a, b = one.predict(X + 0.1, noisy=noisy), hundred.predict(X + 0.1, noisy=noisy)
        np.testing.assert_allclose(b.variance, 1e4 * a.variance, rtol=1e-4)
    np.testing.assert_allclose(hundred.log_evidence(), one.log_evidence() - 15 * np.log(100))
    shifted = GaussianProcess(kernel, 0.1, normalize=True).fit(X, y + 1e3).predict(X)
    plain = GaussianProcess(kernel, 0.1, normalize=True).fit(X, y).predict(X)
    np.testing.assert_allclose(shifted.mean, plain.mean + 1e3, atol=1e-6)


def test_log_density_of_a_prediction():
    model = GaussianProcess(RBF(1.0), 0.1).fit(np.zeros((1, 1)), np.ones(1))
    found = model.predict(np.zeros((1, 1)), noisy=True)
    value = found.log_density(np.array([2.0]))
    expected = multivariate_normal(found.mean, found.variance).logpdf(2.0)
    np.testing.assert_allclose(value, expected)


def test_optimizing_raises_the_likelihood_to_a_peak():
    X, y = data(3, 20)
    y = np.sin(2 * X[:, 0]) + 0.1 * y
    model = GaussianProcess(Constant(1.0) * RBF(1.0), 0.1).fit(X, y)
    before = model.log_evidence()
    after = model.optimize(X, y).log_evidence()
    assert after > before + 1
    slope = log_marginal_likelihood(model.kernel, model.noise, X, y)[1]
    assert np.abs(slope).max() < 0.05


def test_a_covariance_that_is_none_is_not_hidden():
    twice = np.zeros((2, 1))
    with pytest.raises(ValueError, match="covariance must be positive definite, got a smallest"):
        factor(RBF(1.0)(twice, twice) - 1e-3 * np.eye(2))
    model = GaussianProcess(RBF(1.0), 0.1).fit(np.zeros((1, 1)), np.ones(1))
    model.L = model.L / 2  # a factor of another matrix: more is explained than there was
    with pytest.raises(ValueError, match="variance must not be negative beyond rounding, got -"):
        model.predict(np.zeros((1, 1)))
    with pytest.raises(ValueError, match="length must be positive, got 0"):
        RBF(0.0)
    with pytest.raises(ValueError, match=r"smoothness must be 0.5, 1.5 or 2.5, got 2"):
        Matern(1.0, 2.0)
    with pytest.raises(ValueError, match="y must vary"):
        GaussianProcess(RBF(1.0), 0.1, normalize=True).fit(np.zeros((2, 1)), np.ones(2))


# ---- sparse


@settings(max_examples=8)
@given(st.integers(0, 99), st.integers(1, 6))
def test_the_collapsed_bound_by_its_definition(seed, m):
    X, y = data(seed, 12)
    Z, noise, kernel = np.linspace(-2, 2, m)[:, None], 0.3, Constant(1.2) * RBF(0.6)
    across, K = kernel(X, Z), kernel(X, X)
    Q = across @ np.linalg.solve(kernel(Z, Z), across.T)
    normal = multivariate_normal(np.zeros(12), Q + noise * np.eye(12)).logpdf(y)
    value = collapsed_bound(kernel, noise, X, y, Z)
    np.testing.assert_allclose(value, normal - np.trace(K - Q) / (2 * noise), rtol=1e-7)
    assert value < log_marginal_likelihood(kernel, noise, X, y)[0]


def test_all_points_are_the_exact_process():
    X, y = data(4, 12)
    new, kernel = np.linspace(-3, 3, 7)[:, None], Constant(1.2) * Matern(0.7, 1.5)
    exact = log_marginal_likelihood(kernel, 0.2, X, y)[0]
    np.testing.assert_allclose(collapsed_bound(kernel, 0.2, X, y, X), exact, rtol=1e-7)
    model = SparseGP(kernel, 0.2, X)
    model.step(X, y, n_data=12, rho=1.0)
    for noisy in (False, True):
        whole = GaussianProcess(kernel, 0.2).fit(X, y).predict(new, noisy=noisy)
        np.testing.assert_allclose(model.predict(new, noisy=noisy), whole, atol=1e-6)


def test_the_best_q_and_the_kl_by_torch():
    X, y = data(5, 20)
    Z, kernel = np.linspace(-2, 2, 5)[:, None], RBF(0.7)
    model = SparseGP(kernel, 0.3, Z)
    assert model.kl() == pytest.approx(0, abs=1e-9)
    model.step(X, y, n_data=20, rho=1.0)
    best = collapsed_bound(kernel, 0.3, X, y, Z)
    np.testing.assert_allclose(model.bound(X, y, n_data=20), best, rtol=1e-7)
    mean, S = map(torch.tensor, model.moments())
    q = torch.distributions.MultivariateNormal(mean, S)
    p = torch.distributions.MultivariateNormal(torch.zeros(5).double(), torch.tensor(kernel(Z, Z)))
    expected = float(torch.distributions.kl_divergence(q, p))
    np.testing.assert_allclose(model.kl(), expected, rtol=1e-6)
    model.step(X[:10], y[:10], n_data=20, rho=0.5)  # any other q is worse
    assert model.bound(X, y, n_data=20) < best - 1e-3


def test_batches_scale_the_data_and_not_the_kl():
    X, y = data(6, 20)
    model = SparseGP(RBF(0.7), 0.3, np.linspace(-2, 2, 5)[:, None])
    model.step(X, y, n_data=20, rho=0.4)
    parts = [model.bound(X[i : i + 5], y[i : i + 5], n_data=20) for i in range(0, 20, 5)]
    np.testing.assert_allclose(np.mean(parts), model.bound(X, y, n_data=20))
    targets = []
    for i in range(0, 20, 5):
        other = SparseGP(RBF(0.7), 0.3, model.Z)
        other.step(X[i : i + 5], y[i : i + 5], n_data=20, rho=0.4)
        targets.append(np.append(other.precision, other.linear))
    whole = np.append(model.precision, model.linear)
    np.testing.assert_allclose(np.mean(targets, axis=0), whole, rtol=1e-9)


# ---- judges


def test_coverage_is_judged_by_what_is_observed(tmp_path, monkeypatch):
    """The share of values inside, from a predictor that knows the law."""

    class Knowing(GaussianProcess):
        def optimize(self, X, y, most=0):
            self.kernel, self.noise = Constant(1.0) * Matern(1.5, 2.5), 0.2
            return self.fit(X, y)

    monkeypatch.setattr(evidence, "GaussianProcess", Knowing)
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    evidence.judge_coverage(run, 6)
    assert run.claims[0]["verdict"] == "holds"
    assert abs(run.claims[0]["mean"] - 0.95) < 0.03
    assert run.falsifiers[0]["broken"]
    assert run.falsifiers[0]["mean"] < 0.8
