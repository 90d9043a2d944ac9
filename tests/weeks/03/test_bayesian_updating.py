"""Week 03: conjugate families and intervals against scipy, enumeration and quadrature."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from week03 import bayesian_updating as b

positive = st.floats(0.2, 30)
levels = st.floats(0.05, 0.99)


def close(ours, theirs, **tolerance):
    np.testing.assert_allclose(ours, theirs, **{"rtol": 1e-9, "atol": 1e-10, **tolerance})


# ---- conjugate families


@settings(max_examples=12)
@given(positive, positive, st.integers(0, 30), st.integers(0, 30), levels)
def test_beta_binomial(a, c, successes, failures, level):
    posterior = b.BetaBinomial(a, c).update(successes, successes + failures)
    reference = stats.beta(a + successes, c + failures)
    close(posterior.mean(), reference.mean())
    close(posterior.credible_interval(level), reference.interval(level))


@given(positive, positive, st.lists(st.integers(0, 40), max_size=8), levels)
def test_gamma_poisson(shape, rate, counts, level):
    posterior = b.GammaPoisson(shape, rate).update(np.array(counts, dtype=int))
    reference = stats.gamma(shape + sum(counts), scale=1 / (rate + len(counts)))
    close(posterior.mean(), reference.mean())
    close(posterior.credible_interval(level), reference.interval(level))


@given(positive, positive, st.integers(0, 25))
def test_beta_binomial_predictive(a, c, trials):
    k = np.arange(trials + 1)
    ours = b.BetaBinomial(a, c).predictive_log_pmf(k, trials)
    close(ours, stats.betabinom.logpmf(k, trials, a, c))
    close(np.exp(ours).sum(), 1)


@given(positive, positive)
def test_gamma_poisson_predictive(shape, rate):
    k = np.arange(40)
    ours = b.GammaPoisson(shape, rate).predictive_log_pmf(k)
    close(ours, stats.nbinom.logpmf(k, shape, rate / (rate + 1)))


@given(st.floats(-5, 5), positive, positive, st.lists(st.floats(-20, 20), max_size=6))
def test_normal_known_variance_is_precision_weighting(mean, sd, noise, x):
    posterior = b.NormalKnownVariance(mean, sd, noise).update(np.array(x))
    precision = 1 / sd**2 + len(x) / noise**2
    close(posterior.sd**2, 1 / precision)
    close(posterior.mean, (mean / sd**2 + sum(x) / noise**2) / precision, atol=1e-8)
    close(
        posterior.predictive_interval(0.8),
        stats.norm.interval(0.8, posterior.mean, (posterior.sd**2 + noise**2) ** 0.5),
    )


@given(st.lists(st.floats(-20, 20), min_size=1, max_size=8), st.integers(0, 8))
def test_normal_inverse_gamma_in_two_parts_equals_at_once(x, cut):
    x, prior = np.array(x), b.NormalInverseGamma(0.5, 2.0, 1.5, 3.0)
    once, twice = prior.update(x), prior.update(x[:cut]).update(x[cut:])
    for name in ("mean", "kappa", "alpha", "beta"):
        close(getattr(once, name), getattr(twice, name), atol=1e-8)


def test_normal_inverse_gamma_predictive_equals_simulation():
    posterior = b.NormalInverseGamma(0.0, 2.0, 3.0, 4.0)
    rng = np.random.default_rng(0)
    variance = stats.invgamma.rvs(3, scale=4, size=100_000, random_state=rng)
    mu = rng.normal(0, np.sqrt(variance / 2))
    value = rng.normal(mu, np.sqrt(variance))
    low, high = posterior.predictive_interval(0.9)
    assert abs(((value > low) & (value < high)).mean() - 0.9) < 5 * math.sqrt(0.09 / 1e5)
    low, high = posterior.credible_interval(0.9)
    assert abs(((mu > low) & (mu < high)).mean() - 0.9) < 5 * math.sqrt(0.09 / 1e5)


# ---- confidence intervals


@settings(max_examples=12)
@given(st.integers(1, 40), st.data(), levels)
def test_exact_and_wilson_intervals(trials, data, level):
    k = data.draw(st.integers(0, trials))
    test = stats.binomtest(k, trials)
    close(b.clopper_pearson_interval(k, trials, level), test.proportion_ci(level, "exact"))
    close(b.wilson_interval(k, trials, level), test.proportion_ci(level, "wilson"))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=9, unique=True), levels)
def test_t_interval(x, level):
    x = np.array(x, dtype=float)
    reference = stats.t.interval(level, len(x) - 1, x.mean(), stats.sem(x))
    close(b.t_interval(x, level), reference, atol=1e-8)


@settings(max_examples=8)
@given(st.floats(0.01, 0.99), st.integers(1, 12))
def test_exact_interval_never_undercovers(p, trials):
    assert b.binomial_coverage(b.clopper_pearson_interval, np.array([p]), trials)[0] >= 0.95


def test_coverage_equals_enumeration():
    p, n = 0.3, 5
    total = 0.0
    for outcome in itertools.product([0, 1], repeat=n):
        low, high = b.wilson_interval(sum(outcome), n, 0.8)
        total += (low <= p <= high) * math.prod(p if o else 1 - p for o in outcome)
    ours = b.binomial_coverage(lambda k, m: b.wilson_interval(k, m, 0.8), np.array([p]), n)
    close(ours, [total])


def test_bootstrap_of_a_mean_equals_all_resamples():
    x = np.array([1.0, 2.0, 4.0])
    every = np.array([np.mean(r) for r in itertools.product(x, repeat=3)])
    drawn = b.bootstrap_statistics(x, np.mean, np.random.default_rng(0), 40_000)
    values, counts = np.unique(np.round(every, 9), return_counts=True)
    seen = np.array([(np.round(drawn, 9) == v).sum() for v in values])
    assert seen.sum() == 40_000
    assert stats.chisquare(seen, 40_000 * counts / 27).pvalue > 1e-6


RNG = np.random.default_rng(0)
X = np.array([0.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: b.BetaBinomial(0.0, 1.0), r"a must be positive and finite, got 0\.0"),
        (lambda: b.BetaBinomial().update(5, 3), "successes must be between 0 and trials = 3"),
        (lambda: b.BetaBinomial().predictive_log_pmf(np.array([4]), 3), "k must be between 0"),
        (lambda: b.GammaPoisson(1.0, 1.0).update(np.array([1, -1])), "counts must be non-negative"),
        (lambda: b.GammaPoisson(1.0, -1.0), "rate must be positive"),
        (lambda: b.NormalKnownVariance(0.0, 1.0, 0.0), "noise_sd must be positive"),
        (lambda: b.NormalInverseGamma(0.0, 1.0, 1.0, -2.0), r"beta must be positive .* -2\.0"),
        (lambda: b.BetaBinomial().credible_interval(1.0), "level must be strictly between 0 and 1"),
        (lambda: b.wald_interval(1, 0), "trials must be at least 1, got 0"),
        (lambda: b.wilson_interval(4, 3), "successes must be between 0 and trials = 3, got 4"),
        (lambda: b.t_interval(np.array([1.0])), "x must hold at least 2 values, got 1"),
        (lambda: b.bootstrap_statistics(X, np.mean, RNG, 0), "n_resamples must be at least 1"),
        (lambda: b.bootstrap_statistics(X[:0], np.mean, RNG), "x must hold at least 1 value"),
        (lambda: b.binomial_coverage(b.wald_interval, X, 5), "p must lie strictly between 0 and"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
