"""Week 03: entropies, divergences and information against scipy, scikit-learn and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, special, stats
from sklearn.feature_selection import mutual_info_regression
from sklearn.metrics import mutual_info_score

from week03 import information as i

seeds = st.integers(0, 2**32 - 1)


def simplex(n, seed, concentration=0.5):
    return np.random.default_rng(seed).dirichlet(np.full(n, concentration))


def covariance(n, seed):
    a = np.random.default_rng(seed).normal(size=(n, n))
    return a @ a.T + 0.1 * np.eye(n)


# ---- logits


@given(st.integers(1, 7), st.floats(0.1, 5000), seeds)
def test_log_sum_exp_and_log_softmax(n, size, seed):
    x = size * np.random.default_rng(seed).normal(size=(2, 3, n))
    np.testing.assert_allclose(i.log_sum_exp(x), special.logsumexp(x, axis=-1), rtol=1e-13)
    np.testing.assert_allclose(
        i.log_softmax(x), special.log_softmax(x, axis=-1), rtol=1e-12, atol=1e-12
    )


def test_log_sum_exp_of_infinities():
    x = np.array([[-np.inf, -np.inf], [0.0, -np.inf], [np.inf, 0.0]])
    np.testing.assert_array_equal(i.log_sum_exp(x), [-np.inf, 0.0, np.inf])


def test_certain_and_wrong_costs_the_difference_of_logits():
    loss = i.softmax_cross_entropy(np.array([[0.0, 2000.0]]), np.array([0]))
    np.testing.assert_array_equal(loss, [2000.0])


# ---- tables


@given(st.integers(1, 30), seeds)
def test_entropy_and_divergence(n, seed):
    p, q = simplex(n, seed), simplex(n, seed + 1, 5.0)
    np.testing.assert_allclose(i.entropy(p), stats.entropy(p), atol=1e-12)
    np.testing.assert_allclose(i.kl_divergence(p, q), stats.entropy(p, q), atol=1e-12)
    np.testing.assert_allclose(
        i.cross_entropy(p, q), i.entropy(p) + i.kl_divergence(p, q), atol=1e-11
    )
    assert i.kl_divergence(p, q) >= -1e-14
    assert i.entropy(p) <= math.log(n) + 1e-12


def test_worked_example_of_cover_and_thomas():
    """Example 2.3.1 with r = 1/2, s = 1/4, in bits: D(p‖q) = 0.2075, D(q‖p) = 0.1887."""
    p, q = np.array([0.5, 0.5]), np.array([0.75, 0.25])
    bits = [i.kl_divergence(p, q) / math.log(2), i.kl_divergence(q, p) / math.log(2)]
    np.testing.assert_allclose(bits, [0.2075, 0.1887], atol=5e-5)


def test_joint_table_of_cover_and_thomas():
    """Example 2.2.1: H(X) = 7/4, H(Y) = 2, H(X, Y) = 27/8 bits, so I = 3/8 bit."""
    joint = np.array([[4, 2, 1, 1], [2, 4, 1, 1], [2, 2, 2, 2], [8, 0, 0, 0]]) / 32
    tables = joint.sum(axis=0), joint.sum(axis=1), joint
    bits = [v / math.log(2) for v in (*map(i.entropy, tables), i.mutual_information(joint))]
    np.testing.assert_allclose(bits, [1.75, 2.0, 3.375, 0.375], atol=1e-12)


def test_impossible_symbols():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([1.0, 0.0, 0.0])
    assert i.kl_divergence(p, q) == i.cross_entropy(p, q) == math.inf
    assert i.kl_divergence(q, p) == pytest.approx(math.log(2))
    assert i.entropy(q) == 0


# ---- Gaussians


@given(st.integers(1, 5), seeds)
def test_normal_entropy(n, seed):
    cov = covariance(n, seed)
    np.testing.assert_allclose(
        i.normal_entropy(cov), stats.multivariate_normal(np.zeros(n), cov).entropy(), rtol=1e-9
    )


@pytest.mark.parametrize(("mu", "sd"), [(0.0, 1.0), (0.7, 2.0), (-2.0, 0.5)])
def test_normal_kl_equals_quadrature(mu, sd):
    def integrand(x):
        return stats.norm.pdf(x, 0.3, 1.5) * (
            stats.norm.logpdf(x, 0.3, 1.5) - stats.norm.logpdf(x, mu, sd)
        )

    exact = integrate.quad(integrand, -15, 15)[0]
    ours = i.normal_kl(np.array([0.3]), np.array([[2.25]]), np.array([mu]), np.array([[sd**2]]))
    np.testing.assert_allclose(ours, exact, atol=1e-8)


@given(st.floats(-0.99, 0.99))
def test_normal_information_is_a_divergence_and_a_sum_of_entropies(rho):
    cov = np.array([[1.0, rho], [rho, 1.0]])
    expected = i.normal_mutual_information(rho)
    divergence = i.normal_kl(np.zeros(2), cov, np.zeros(2), np.eye(2))
    np.testing.assert_allclose(divergence, expected, atol=1e-10)
    entropies = 2 * i.normal_entropy(np.eye(1)) - i.normal_entropy(cov)
    np.testing.assert_allclose(entropies, expected, atol=1e-10)


# ---- from samples


def test_corrected_terms_keep_their_digits():
    _, corrected = i.kl_terms(np.array([0.0]), np.array([1e-7]))
    np.testing.assert_allclose(corrected, 5e-15, rtol=1e-4)


@pytest.mark.parametrize("k", [1, 3, 7])
@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_ksg_equals_sklearn(k, rho):
    rng = np.random.default_rng(1)
    x = rng.normal(size=300)
    y = rho * x + math.sqrt(1 - rho**2) * rng.normal(size=300)
    y = 100 * y + 3  # scale and place carry no information
    reference = mutual_info_regression(x[:, None], y, n_neighbors=k, random_state=0)[0]
    np.testing.assert_allclose(max(0, i.mutual_information_ksg(x, y, k)), reference, atol=2e-3)


def test_ksg_with_ties_and_constants_is_finite():
    x = np.repeat([0.0, 1.0], 20)
    assert math.isfinite(i.mutual_information_ksg(x, x))
    assert math.isfinite(i.mutual_information_ksg(x, np.zeros(40)))


@given(st.integers(1, 9), seeds)
def test_binned_equals_sklearns_score_of_the_cells(bins, seed):
    x, y = np.random.default_rng(seed).normal(size=(2, 60))
    cells = [np.argsort(np.argsort(v)) * bins // 60 for v in (x, y)]
    ours = i.mutual_information_binned(x, y, bins)
    np.testing.assert_allclose(ours, mutual_info_score(*cells), atol=1e-12)
    corrected = i.mutual_information_binned(x, y, bins, corrected=True)
    np.testing.assert_allclose(ours - corrected, (bins - 1) ** 2 / 120, atol=1e-12)


@given(st.floats(-3, 3), st.floats(0.5, 3))
def test_reverse_fit_of_a_normal_is_that_normal(mean, sd):
    fit = i.fit_normal_reverse(lambda x: (mean - x) / sd**2, 0.0, 1.0)
    np.testing.assert_allclose(fit, (mean, sd), atol=1e-6)


ONE, ROW = np.eye(1), np.ones((1, 3))
NAN = np.array([0.0, np.nan])
X = np.zeros(4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: i.entropy(np.array([0.5, 0.6])), r"p must be non-negative and sum to 1, .* 1\.1"),
        (lambda: i.kl_divergence(np.ones(1), np.array([2.0])), "q must be non-negative and sum"),
        (lambda: i.mutual_information(np.eye(2)), "joint must be non-negative and sum to 1"),
        (lambda: i.log_sum_exp(np.zeros((2, 0))), r"at least one entry to sum, got shape \(2, 0\)"),
        (lambda: i.softmax_cross_entropy(0 * ROW, np.array([3])), r"targets must lie in 0\.\.2"),
        (lambda: i.normal_entropy(-np.eye(2)), "cov must be symmetric and positive definite"),
        (lambda: i.normal_kl(ONE[0], ONE, ONE[0], 0 * ONE), "cov_q must be symmetric and positive"),
        (lambda: i.normal_mutual_information(1.0), "correlation must be strictly between -1 and 1"),
        (lambda: i.mutual_information_ksg(X, X, 4), r"k must be between 1 and n - 1 = 3, got 4"),
        (lambda: i.mutual_information_ksg(NAN, NAN, 1), "x must be finite, got 1 NaN or inf"),
        (lambda: i.mutual_information_binned(X, X, 0), "bins must be between 1 and the number"),
        (lambda: i.fit_normal_reverse(lambda x: -x, 0.0, 0.0), r"sd must be positive, got 0\.0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
