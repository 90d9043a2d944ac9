"""Week 03: special functions, log-densities and samplers against scipy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from week03 import distributions as d
from week03.special_functions import (
    beta_cdf,
    gamma_cdf,
    log_beta,
    log_gamma,
    quantile,
    student_t_cdf,
)

positive = st.floats(0.05, 300)
seeds = st.integers(0, 2**32 - 1)
N = 4000
LEVEL = 1e-6  # of a false alarm in each of the tests below; seeds are fixed


def close(ours, theirs, **tolerance):
    np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-11, "atol": 1e-12, **tolerance})


# ---- special functions


@given(st.floats(1e-8, 1e6))
def test_log_gamma(x):
    close(log_gamma(x), special.gammaln(x), rtol=1e-13, atol=1e-13)


@given(positive, st.floats(0, 4))
def test_gamma_cdf(shape, factor):
    x = np.array([0.0, factor * shape, -1.0, np.inf])
    close(gamma_cdf(x, shape), stats.gamma.cdf(x, shape))


@given(positive, positive, st.floats(0, 1))
def test_beta_cdf(a, b, x):
    x = np.array([x, 0.0, 1.0, -2.0, 3.0, a / (a + b)])
    close(beta_cdf(x, a, b), stats.beta.cdf(x, a, b))


@given(st.floats(0.3, 1000), st.floats(-50, 50))
def test_student_t_cdf(df, x):
    x = np.array([x, -x, 0.0, 1e-3, 1e3])
    close(student_t_cdf(x, df), stats.t.cdf(x, df))
    tiny = student_t_cdf(np.array([1e-9]), df) - 0.5  # scipy 1.17 gives 0 for df = 1
    close(tiny, 1e-9 * stats.t.pdf(0, df), rtol=1e-6)


@settings(max_examples=10)
@given(st.floats(0.001, 0.999), st.floats(0.4, 50))
def test_quantile_inverts_the_cdf(p, a):
    p = np.array([p])
    close(quantile(lambda x: gamma_cdf(x, a), p, 0), stats.gamma.ppf(p, a), rtol=1e-9)
    close(quantile(lambda x: beta_cdf(x, a, 2.0), p, 0, 1), stats.beta.ppf(p, a, 2), rtol=1e-9)
    close(quantile(lambda x: student_t_cdf(x, a), p), stats.t.ppf(p, a), rtol=1e-9, atol=1e-10)


# ---- log-densities


@given(st.floats(-20, 100), positive, positive)
def test_log_densities(x, a, b):
    x, unit, k = np.array([x, 1.0, -1.0]), np.array([0.001, 0.7, -0.5, 1.5]), np.arange(-2, 500)
    close(d.normal_log_pdf(x, 3.0, a), stats.norm.logpdf(x, 3, a))
    close(d.student_t_log_pdf(x, 3.5, 3.0, a), stats.t.logpdf(x, 3.5, 3, a))
    close(d.gamma_log_pdf(x, a, b), stats.gamma.logpdf(x, a, scale=1 / b), rtol=1e-10)
    close(d.beta_log_pdf(unit, a, b), stats.beta.logpdf(unit, a, b), rtol=1e-10)
    close(d.poisson_log_pmf(k, a), stats.poisson.logpmf(k, a), rtol=1e-10)


def test_densities_at_the_edge_of_the_support():
    zero = np.array([0.0])
    close(d.exponential_log_pdf(zero, 3.0), [math.log(3)])
    close(d.beta_log_pdf(np.array([0.0, 1.0]), 1.0, 2.0), [math.log(2), -np.inf])
    assert d.gamma_log_pdf(zero, 0.5)[0] == np.inf
    assert d.gamma_log_pdf(zero, 2.0)[0] == -np.inf


def test_nan_is_not_given_a_density():
    x = np.array([np.nan])
    for value in (d.exponential_log_pdf(x), d.beta_log_pdf(x, 1.0, 1.0), d.normal_log_pdf(x)):
        assert np.isnan(value).all()
    assert np.isnan([gamma_cdf(x, 2.0), beta_cdf(x, 2.0, 2.0)]).all()


# ---- samplers


@pytest.mark.parametrize(
    ("sample", "parameters", "reference"),
    [
        (d.sample_exponential, (4.0,), stats.expon(scale=0.25)),
        (d.sample_gamma, (40.0, 3.0), stats.gamma(40, scale=1 / 3)),
        (d.sample_gamma, (0.2,), stats.gamma(0.2)),
        (d.sample_beta, (3.0, 0.7), stats.beta(3, 0.7)),
        (d.sample_student_t, (2.0,), stats.t(2)),
    ],
)
def test_samples_follow_their_density(sample, parameters, reference):
    x = sample(np.random.default_rng(1), N, *parameters)
    assert stats.kstest(x, reference.cdf).pvalue > LEVEL


@pytest.mark.parametrize("rate", [0.3, 4.5, 60.0, 2000.0])
def test_poisson_samples(rate):
    x = d.sample_poisson(np.random.default_rng(2), N, rate)
    assert abs(x.mean() - rate) < 5 * math.sqrt(rate / N)
    assert abs(x.var() / rate - 1) < 5 * math.sqrt(2 / N) + 2 / math.sqrt(rate * N)


def test_normal_pairs_are_independent():
    """Cosine and sine halves share radius and angle, and are independent all the same."""
    x = d.sample_normal(np.random.default_rng(3), 2 * N)
    assert abs(np.corrcoef(x[:N], x[N:])[0, 1]) < 5 / math.sqrt(N)
    assert abs(np.corrcoef(x[:N] ** 2, x[N:] ** 2)[0, 1]) < 5 / math.sqrt(N)


class Zeros(np.random.Generator):
    """The unluckiest generator: every uniform number is exactly 0, as [0, 1) allows."""

    def random(self, size=None):
        return np.zeros(size)


def test_uniform_zero_is_harmless():
    rng = Zeros(np.random.PCG64())
    assert np.isfinite(d.sample_exponential(rng, 3)).all()
    assert np.isfinite(d.sample_normal(rng, 3)).all()


def test_tiny_shapes_do_not_give_nan():
    x = d.sample_beta(np.random.default_rng(4), 500, 1e-3, 1e-3)
    assert ((x >= 0) & (x <= 1)).all()
    assert 0.3 < x.mean() < 0.7


@given(st.integers(1, 60), seeds)
def test_alias_table_holds_its_probabilities(n, seed):
    p = np.random.default_rng(seed).dirichlet(np.full(n, 0.2))
    table = d.AliasTable(p)
    np.testing.assert_allclose(table.probabilities(), p, atol=1e-14)
    assert ((table.keep_ >= 0) & (table.keep_ <= 1 + 1e-12)).all()


def rejection(log_envelope, log_target=lambda x: d.beta_log_pdf(x, 2.0, 2.0), n=50):
    uniform = (np.zeros_like, lambda r, m: r.random(m))
    return d.rejection_sample(np.random.default_rng(7), n, log_target, *uniform, log_envelope)


def test_rejection_reports_its_rate_and_follows_the_target():
    x, rate = rejection(math.log(1.5), n=N)
    assert stats.kstest(x, stats.beta(2, 2).cdf).pvalue > LEVEL
    assert abs(rate - 1 / 1.5) < 5 * math.sqrt(0.25 / N)


def test_bounded_integers_are_uniform():
    x = d.sample_below(np.random.default_rng(8), 40_000, 100, bits=8)
    assert stats.chisquare(np.bincount(x, minlength=100)).pvalue > LEVEL
    assert (d.sample_below(np.random.default_rng(8), 10, 1) == 0).all()
    assert d.sample_below(np.random.default_rng(8), 1000, 256, bits=8).max() <= 255


RNG = np.random.default_rng(0)
X = np.zeros(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: d.normal_log_pdf(X, 0.0, -1.0), r"scale must be positive and finite, got -1\.0"),
        (lambda: d.gamma_log_pdf(X, 0.0), r"shape must be positive and finite, got 0\.0"),
        (lambda: d.sample_poisson(RNG, 3, math.inf), "rate must be positive and finite, got inf"),
        (lambda: d.sample_normal(RNG, -1), "n must be at least 0, got -1"),
        (lambda: d.AliasTable(np.array([0.5, 0.6])), r"p must be non-negative and sum to 1.*1\.1"),
        (lambda: d.AliasTable(np.array([1.5, -0.5])), r"p must be non-negative .* least -0\.5"),
        (lambda: d.AliasTable(np.array([])), "p must be non-negative and sum to 1, got no entry"),
        (lambda: d.sample_below(RNG, 3, 300, bits=8), r"high must be between 1 and 2\*\*bits"),
        (lambda: quantile(lambda x: x, np.array([0.0, 0.5])), "p must lie strictly between"),
        (lambda: log_beta(1.0, -2.0), r"b must be positive and finite, got -2\.0"),
        (lambda: rejection(math.log(1.2)), "log_envelope must bound log_target - log_proposal"),
        (lambda: rejection(0.0, lambda x: x - np.inf), "the envelope accepts nothing"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
