"""Mean field for mixtures: scikit-learn, the definition of the bound, and the exact evidence."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import logsumexp

from week24.evidence import variational_inference as evidence
from week24.sklearn_twins import mixture_from
from week24.variational_inference import (
    Prior,
    as_posterior,
    elbo,
    expected_log_joint,
    expected_log_precision,
    fit,
    kl_from_prior,
    log_normalizer,
    update_parameters,
    update_shares,
)


def problem(seed, n=20, d=2, k=3):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) + 2 * rng.integers(3, size=(n, 1))
    root = rng.normal(size=(d, d))
    prior = Prior(0.7, rng.normal(size=d), 0.4, d + 0.5, root @ root.T + np.eye(d))
    return X, prior, rng.dirichlet(np.ones(k), n)


@settings(max_examples=8)
@given(st.integers(0, 99), st.integers(1, 3), st.integers(1, 4))
def test_sweeps_are_those_of_sklearn(seed, d, k):
    X, prior, shares = problem(seed, 20, d, k)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = mixture_from(shares, prior, sweeps=4).fit(X)
    ours = fit(X, prior, shares, sweeps=4, tol=-np.inf)
    q = ours.posterior
    np.testing.assert_allclose(q.concentration, theirs.weight_concentration_, rtol=1e-9)
    np.testing.assert_allclose(q.means, theirs.means_, rtol=1e-9, atol=1e-9)
    covariances = q.spreads / q.dof[:, None, None]
    np.testing.assert_allclose(covariances, theirs.covariances_, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(q.dof, theirs.degrees_of_freedom_)
    np.testing.assert_allclose(update_shares(X, q), theirs.predict_proba(X), atol=1e-8)
    constants = k * d * (d - 1) / 4 * np.log(np.pi) - 20 * d / 2 * np.log(2 * np.pi)
    constants -= log_normalizer(as_posterior(prior, k))  # all that theirs leaves out
    np.testing.assert_allclose(ours.bounds, np.array(theirs.lower_bounds_) + constants, rtol=1e-9)


def draws_of(q, n, rng):
    """Parameters from q(θ), by scipy: weights, means and precisions."""
    weights = rng.dirichlet(q.concentration, n)
    means, precisions = [], []
    for mean, beta, dof, spread in zip(*q[1:], strict=True):
        some = stats.wishart(dof, np.linalg.inv(spread)).rvs(n, random_state=rng)
        some = some.reshape(n, *spread.shape)
        roots = np.linalg.cholesky(np.linalg.inv(some) / beta)
        means.append(mean + np.einsum("nij,nj->ni", roots, rng.normal(size=(n, len(mean)))))
        precisions.append(some)
    return weights, np.array(means), np.array(precisions)


def log_densities(q, weights, means, precisions):
    """ln q(θ) of each draw, from scipy's densities."""
    total = stats.dirichlet(q.concentration).logpdf(weights.T)
    for j, (mean, beta, dof, spread) in enumerate(zip(*q[1:], strict=True)):
        law = stats.wishart(dof, np.linalg.inv(spread))
        total = total + law.logpdf(precisions[j].transpose(1, 2, 0))
        apart, d = means[j] - mean, len(mean)
        squares = beta * np.einsum("ni,nij,nj->n", apart, precisions[j], apart)
        log_det = np.linalg.slogdet(precisions[j])[1] + d * np.log(beta / 2 / np.pi)
        total = total + (log_det - squares) / 2
    return total


def test_the_bound_is_its_definition():
    """E_q[ln p(X, z | θ) − ln q(z)] and the KL, both from draws of scipy's laws."""
    X, prior, shares = problem(3, n=6, d=2, k=2)
    q, n = update_parameters(X[:4], shares[:4], prior), 3000
    rng = np.random.default_rng(0)
    weights, means, precisions = draws_of(q, n, rng)
    ratio = log_densities(q, weights, means, precisions)
    ratio = ratio - log_densities(as_posterior(prior, 2), weights, means, precisions)
    assert abs(ratio.mean() - kl_from_prior(q, prior)) < 5 * ratio.std() / n**0.5
    apart = X[:, None] - means.transpose(1, 0, 2)[:, None]
    squares = np.einsum("snki,ksij,snkj->snk", apart, precisions, apart)
    log_det = np.linalg.slogdet(precisions)[1].T[:, None]
    joint = np.log(weights)[:, None] + (log_det - squares) / 2 - np.log(2 * np.pi)
    error = joint.std(0) / n**0.5
    assert (np.abs(joint.mean(0) - expected_log_joint(X, q)) < 5 * error).all()
    expected = (shares * expected_log_joint(X, q)).sum() - kl_from_prior(q, prior)
    entropy = stats.entropy(shares.T).sum()
    np.testing.assert_allclose(elbo(X, shares, q, prior), expected + entropy)


def test_expected_log_precision_in_one_dimension():
    dof, spread = np.array([3.0, 7.0]), np.array([[[2.0]], [[0.5]]])
    draws = stats.gamma(dof / 2, scale=2 / spread[:, 0, 0]).rvs((40_000, 2), random_state=1)
    np.testing.assert_allclose(
        expected_log_precision(dof, spread), np.log(draws).mean(0), atol=0.03
    )


@settings(max_examples=10)
@given(st.integers(0, 99), st.integers(1, 3))
def test_each_half_of_a_sweep_raises_the_bound(seed, d):
    X, prior, shares = problem(seed, 15, d)
    q, bounds = update_parameters(X, shares, prior), []
    for _ in range(6):
        bounds.append(elbo(X, shares, q, prior))
        shares = update_shares(X, q)
        bounds.append(elbo(X, shares, q, prior))
        q = update_parameters(X, shares, prior)
    assert (np.diff(bounds) >= -1e-9).all()
    assert bounds[-1] > bounds[0] + 0.01


def test_known_assignments_give_the_joint_and_their_sum_the_evidence():
    X, prior, shares = problem(5, n=5, d=2, k=2)
    ways, joint = evidence.enumerate_joint(X, prior, 2)
    for z, value in zip(ways, joint, strict=True):
        known = np.eye(2)[list(z)]
        bound = elbo(X, known, update_parameters(X, known, prior), prior)
        np.testing.assert_allclose(bound, value)
    back = evidence.enumerate_joint(X[::-1], prior, 2)[1].reshape([2] * 5)
    np.testing.assert_allclose(back.T.ravel(), joint)  # the order of points does not matter
    assert fit(X, prior, shares).bounds[-1] < logsumexp(joint)


def test_a_component_without_points_is_its_prior():
    X, prior, _ = problem(1)
    q = update_parameters(X, np.eye(3)[np.zeros(20, dtype=int)], prior)
    assert q.concentration[1] == prior.concentration
    np.testing.assert_allclose(q.means[2], prior.mean)
    np.testing.assert_array_equal(q.spreads[1], prior.spread)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shares": np.ones((20, 3))}, "shares must have rows"),
        ({"dof": 1.0}, "dof must be above n_features - 1 = 1, got 1.0"),
        ({"concentration": 0.0}, "concentration must be positive"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change, message):
    X, prior, shares = problem(0)
    prior = prior._replace(**{k: v for k, v in change.items() if k != "shares"})
    with pytest.raises(ValueError, match=message):
        fit(X, prior, change.get("shares", shares))


def test_certainty_is_zero_for_clusters_far_apart_and_positive_for_close_ones():
    rng, prior = np.random.default_rng(0), Prior(1.0, np.zeros(1), 0.1, 2.0, np.eye(1))
    noise = rng.normal(size=(6, 1))
    sides = (np.arange(6) % 2 - 0.5)[:, None]
    far, near = (evidence.certainty_gained(noise + gap * sides, prior, rng) for gap in (60.0, 1.0))
    assert abs(far) < 0.01 < 0.05 < near
    np.testing.assert_allclose(
        evidence.entropy(np.array([0.0, 0.5, 1.0])), [0, np.log(2), 0], atol=1e-12
    )


def test_components_are_counted_by_their_weight():
    X = evidence.clusters(np.random.default_rng(0), 90)
    prior = Prior(1e-3, X.mean(axis=0), 0.01, 2.0, np.eye(2))
    q = update_parameters(X, np.eye(5)[np.arange(90) % 3], prior)
    assert evidence.in_use(q) == 3
