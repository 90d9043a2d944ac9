"""Chains are tested by what they sample: laws, moments, balance; never only by running."""

import contextlib
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from week24 import diagnostics, mcmc
from week24.evidence import mcmc as evidence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

    with contextlib.suppress(ImportError):  # as of version 1 it asks for no compiler
        from arviz.utils import Numba

        Numba.disable_numba()
LEAST_P = 1e-4  # of Kolmogorov's test; seeds are fixed, so a test that passes keeps passing


@pytest.fixture
def rng():
    return np.random.default_rng(0)


# ---- diagnostics

KINDS = {
    "independent": lambda noise: noise,
    "walk": lambda noise: noise.cumsum(axis=1),
    "ties": lambda noise: (noise > 1.3) * 1.0,
    "rounded": np.round,
    "alternating": lambda noise: 0.2 * noise + (-1.0) ** np.arange(noise.shape[1]),
    "constant": lambda noise: 0 * noise + 3.0,
    "heavy tails": lambda noise: noise**5,
}


@given(st.integers(2, 5), st.integers(4, 60), st.sampled_from(list(KINDS)), st.integers(0, 99))
def test_diagnostics_are_arviz(chains, n, kind, seed):
    x = KINDS[kind](np.random.default_rng(seed).normal(size=(chains, n)))
    pairs = [
        (diagnostics.ess_bulk(x), arviz.ess(x, method="bulk")),
        (diagnostics.ess_tail(x), arviz.ess(x, method="tail", prob=(0.05, 0.95))),
        (diagnostics.ess_mean(x), arviz.ess(x, method="mean")),
    ]
    if kind != "constant":  # arviz then divides zero by zero
        pairs += [
            (diagnostics.rhat(x), arviz.rhat(x)),
            (diagnostics.mcse_mean(x), arviz.mcse(x, method="mean")),
            (diagnostics.mcse_sd(x), arviz.mcse(x, method="sd")),
        ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours, np.squeeze(theirs), rtol=1e-6, atol=1e-6)


@given(st.integers(4, 60), st.integers(0, 99))
def test_one_chain_has_an_effective_size_too(n, seed):
    x = np.random.default_rng(seed).normal(size=(1, n))
    np.testing.assert_allclose(diagnostics.ess_bulk(x), arviz.ess(x, method="bulk"), rtol=1e-6)


def test_rhat_of_rare_ties_is_one(rng):
    assert abs(diagnostics.rhat((rng.random((4, 1000)) < 0.1) * 1.0) - 1) < 0.01


def test_rhat_sees_a_drift_and_unequal_widths(rng):
    noise = rng.normal(size=(4, 500))
    assert diagnostics.rhat(noise + np.linspace(-2, 2, 500)) > 1.3  # all chains drift alike
    assert diagnostics.rhat(noise * np.array([[1.0], [1.0], [1.0], [4.0]])) > 1.1


# ---- balance


@given(st.integers(2, 6), st.integers(0, 99))
def test_a_step_is_in_detailed_balance(n, seed):
    rng = np.random.default_rng(seed)
    p, q = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(n), size=n)
    step = mcmc.transition_matrix(p, q)
    np.testing.assert_allclose(step.sum(axis=1), 1)
    assert (step >= -1e-15).all()
    np.testing.assert_allclose(p[:, None] * step, (p[:, None] * step).T, atol=1e-14)
    np.testing.assert_allclose(p @ step, p, atol=1e-14)


@given(st.floats(-20, 20), st.floats(-20, 20), st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_swap_is_in_detailed_balance(log_a, log_b, beta_a, beta_b):
    def flow(first, second):
        swap = mcmc.swap_acceptance(np.array([first]), np.array([second]), beta_a, beta_b)
        return np.exp(beta_a * first + beta_b * second) * swap

    np.testing.assert_allclose(flow(log_a, log_b), flow(log_b, log_a), rtol=1e-9)


def test_what_has_no_density_is_never_accepted():
    assert mcmc.acceptance(np.zeros(1), np.array([-np.inf])) == 0


# ---- one step from exact draws gives exact draws: every wrong kernel shows within a few steps

N, STEPS = 3000, 4


def gamma_log_density(x):
    return (2 * np.log(x) - x)[:, 0]


def normal_log_density(x):
    return -0.5 * (x**2).sum(axis=1)


@pytest.mark.parametrize(
    ("name", "law", "run"),
    [
        (
            "walk",
            stats.norm(),
            lambda x, rng: mcmc.metropolis_hastings(
                normal_log_density, x, STEPS, mcmc.random_walk(1.5), rng
            ),
        ),
        (
            "langevin",
            stats.norm(),
            lambda x, rng: mcmc.metropolis_hastings(
                normal_log_density, x, STEPS, mcmc.langevin(lambda x: -x, 1.2), rng
            ),
        ),
        (
            "walk of log x",
            stats.gamma(3),
            lambda x, rng: mcmc.metropolis_hastings(
                gamma_log_density, x, STEPS, mcmc.log_random_walk(1.0), rng
            ),
        ),
        (
            "slice",
            stats.norm(),
            lambda x, rng: mcmc.slice_sample(normal_log_density, x, STEPS, 0.7, rng),
        ),
        (
            "tempering",
            stats.norm(),
            lambda x, rng: mcmc.parallel_tempering(normal_log_density, x, 30, [1.0, 0.3], 1.5, rng),
        ),
    ],
)
def test_the_law_stays(name, law, run, rng):
    start = law.rvs(size=(N, 1), random_state=rng)
    draws = run(start, rng).draws[:, -1, 0]
    assert stats.kstest(draws, law.cdf).pvalue > LEAST_P
    assert (draws != start[:, 0]).mean() > 0.5  # and it moves


def test_the_slice_is_drawn_in_every_coordinate(rng):
    covariance = np.array([[1, 0.9], [0.9, 1]])
    start = rng.multivariate_normal([0, 0], covariance, N)
    draws = mcmc.slice_sample(evidence.correlated, start, STEPS, 1.0, rng).draws[:, -1]
    sizes = np.einsum("ni,ij,nj->n", draws, np.linalg.inv(covariance), draws)
    assert stats.kstest(sizes, stats.chi2(2).cdf).pvalue > LEAST_P


def test_gibbs_uses_the_newest_values(rng):
    start = np.full((N, 2), 5.0)
    draws = mcmc.gibbs([evidence.conditional(0), evidence.conditional(1)], start, 60, rng).draws
    last = draws[:, -1]
    assert abs(np.corrcoef(last.T)[0, 1] - evidence.RHO) < 0.02
    assert stats.kstest(last[:, 0], "norm").pvalue > LEAST_P
    seen = np.corrcoef(draws[:, -2, 0], last[:, 0])[0, 1]
    assert abs(seen - evidence.RHO**2) < 0.05  # with old values it would be slower


def test_tempering_crosses(rng):
    start = np.full((200, 1), evidence.DISTANCE / 2)
    draws = mcmc.parallel_tempering(evidence.two_modes, start, 500, evidence.BETAS, 1.5, rng).draws
    assert abs((draws[:, 300:] < 0).mean() - evidence.SHARE) < 0.06


def test_chains_are_independent_of_their_neighbors(rng):
    found = mcmc.metropolis_hastings(
        normal_log_density, np.zeros((2, 1)), 4000, mcmc.random_walk(2.4), rng
    )
    assert abs(np.corrcoef(found.draws[..., 0])[0, 1]) < 0.1
    np.testing.assert_array_equal(found.accepted[:, 1:], np.diff(found.draws[..., 0], axis=1) != 0)


# ---- the judge


def test_the_closed_form_of_the_unadjusted_chain(rng):
    start = rng.normal(size=(2000, 1))
    assert abs(evidence.unadjusted(start, 1.0, 40, rng) - 4 / 3) < 0.05


# ---- wrong input


def walk(start, log_density=normal_log_density, n=3):
    return mcmc.metropolis_hastings(
        log_density, start, n, mcmc.random_walk(1.0), np.random.default_rng(0)
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: walk(np.zeros((2, 1)), n=0), "n_draws must be at least 1, got 0"),
        (
            lambda: walk(np.zeros((2, 1)), lambda x: np.full(len(x), -np.inf)),
            "start must have positive density",
        ),
        (lambda: mcmc.random_walk(0.0), "scale must be positive"),
        (lambda: mcmc.log_random_walk(-1.0), "scale must be positive"),
        (lambda: mcmc.langevin(lambda x: -x, 0.0), "step must be positive"),
        (lambda: mcmc.gibbs([], np.zeros((2, 1)), 3, np.random.default_rng(0)), "must be 1, got 0"),
        (
            lambda: mcmc.parallel_tempering(
                normal_log_density, np.zeros((2, 1)), 3, [0.5], 1.0, np.random.default_rng(0)
            ),
            "betas must begin with 1",
        ),
        (lambda: diagnostics.rhat(np.zeros((1, 10))), "at least 2 chains, got 1"),
        (lambda: diagnostics.ess_bulk(np.zeros((2, 3))), "at least 4 draws per chain, got 3"),
        (lambda: diagnostics.ess_bulk(np.full((2, 9), np.nan)), "draws must be finite"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
