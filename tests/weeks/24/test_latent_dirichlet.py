"""Topics: scikit-learn, explicit loops, the natural gradient, the evidence, held-out words."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import digamma, logsumexp

from week24.evidence import latent_dirichlet as evidence
from week24.latent_dirichlet import (
    Priors,
    bound,
    fit,
    generate,
    heldout,
    learning_rate,
    local_step,
    natural_gradient,
    perplexity,
    start,
    step,
)
from week24.sklearn_twins import topics_from

CLOSE, SAME = {"tol": 1e-10, "most": 1000}, {"tol": 0.0, "most": 15}


def problem(seed, n=12, k=3, v=10, length=15):
    rng = np.random.default_rng(seed)
    priors = Priors(*rng.uniform(0.3, 1.0, 2))
    counts, _ = generate(n, k, v, rng, length=length, priors=priors)
    return counts, start(k, v, rng), priors


@settings(max_examples=6)
@given(st.integers(0, 99), st.integers(2, 4), st.integers(3, 12))
def test_batches_and_passes_are_those_of_sklearn(seed, k, batch_size):
    counts, lam, priors = problem(seed, k=k)
    options = {"doc_topic_prior": priors.alpha, "topic_word_prior": priors.eta, "max_iter": 1}
    theirs = topics_from(lam, updates=15, learning_method="batch", **options).fit(counts)
    ours = step(lam, counts, 12, 1.0, priors, **SAME)
    np.testing.assert_allclose(ours, theirs.components_, rtol=1e-6)
    theirs_again = theirs.perplexity(counts)
    np.testing.assert_allclose(perplexity(counts, ours, priors, **SAME), theirs_again, rtol=1e-7)
    options |= {"learning_decay": 0.8, "learning_offset": 3.0, "batch_size": batch_size}
    theirs = topics_from(lam, updates=15, learning_method="online", **options).fit(counts)
    for t, i in enumerate(range(0, 12, batch_size), 1):
        batch = counts[i : i + batch_size]
        lam = step(lam, batch, 12, learning_rate(t, 3.0, 0.8), priors, **SAME)
    np.testing.assert_allclose(lam, theirs.components_, rtol=1e-6)


def test_documents_by_explicit_loops():
    """φ of each word, γ = α + Σ φ, and the statistics: the definition, one document at a time."""
    counts, lam, priors = problem(2)
    gamma, statistics = local_step(counts, lam, priors.alpha, **CLOSE)
    log_beta = digamma(lam) - digamma(lam.sum(1))[:, None]
    expected = np.zeros_like(lam)
    for row, own in zip(counts, gamma, strict=True):
        log_phi = (digamma(own) - digamma(own.sum()))[:, None] + log_beta
        phi = np.exp(log_phi - logsumexp(log_phi, axis=0))
        np.testing.assert_allclose(own, priors.alpha + (phi * row).sum(1), rtol=1e-4)
        expected += phi * row
    np.testing.assert_allclose(statistics, expected, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(statistics.sum(0), counts.sum(0))


def test_a_whole_step_with_all_documents_is_batch_vb():
    counts, lam, priors = problem(0)
    np.testing.assert_array_equal(
        step(lam, counts, 12, 1.0, priors), priors.eta + local_step(counts, lam, priors.alpha)[1]
    )
    gradient = natural_gradient(counts, lam, 12, priors)
    moved = step(lam, counts, 12, 0.3, priors)
    np.testing.assert_allclose(moved, lam + 0.3 * gradient, rtol=1e-12)


@settings(max_examples=5)
@given(st.integers(0, 99))
def test_fisher_times_natural_gradient_is_the_gradient(seed):
    counts, lam, priors = problem(seed)
    gamma, _ = local_step(counts, lam, priors.alpha, **SAME)
    slope = evidence.torch_gradient(counts, gamma, lam, priors)
    natural = natural_gradient(counts, lam, 12, priors, **SAME)
    ours = np.stack([evidence.fisher(a) @ b for a, b in zip(lam, natural, strict=True)])
    np.testing.assert_allclose(ours, slope, atol=1e-6)  # torch's trigamma is a series


def test_batches_estimate_gradient_and_bound_without_bias():
    """All that is local counts N/B times: likelihood and the KL of the documents; topics once."""
    counts, lam, priors = problem(1)
    whole = natural_gradient(counts, lam, 12, priors, **SAME)
    gamma = local_step(counts, lam, priors.alpha, **SAME)[0]
    pieces, bounds = [], []
    for i in range(0, 12, 4):
        part = slice(i, i + 4)
        pieces.append(natural_gradient(counts[part], lam, 12, priors, **SAME))
        bounds.append(bound(counts[part], gamma[part], lam, priors, scale=3.0))
    np.testing.assert_allclose(np.mean(pieces, axis=0), whole, atol=1e-8)
    np.testing.assert_allclose(np.mean(bounds), bound(counts, gamma, lam, priors))


def test_the_bound_by_torchs_dirichlets():
    counts, lam, priors = problem(4)
    gamma = np.random.default_rng(0).uniform(0.5, 3, (12, 3))
    dirichlet, kl = torch.distributions.Dirichlet, torch.distributions.kl_divergence
    both = 0.0
    for parameters, prior in ((gamma, priors.alpha), (lam, priors.eta)):
        q = torch.tensor(parameters)
        both += float(kl(dirichlet(q), dirichlet(torch.full_like(q, prior))).sum())
    logs = (digamma(gamma) - digamma(gamma.sum(1))[:, None])[:, :, None]
    logs = logs + digamma(lam) - digamma(lam.sum(1))[:, None]
    words = (counts * logsumexp(logs, axis=1)).sum()
    np.testing.assert_allclose(bound(counts, gamma, lam, priors), words - both)


def test_batch_vb_never_falls():
    counts, lam, priors = problem(3)
    bounds = []
    for _ in range(10):
        lam = step(lam, counts, 12, 1.0, priors, **CLOSE)
        gamma = local_step(counts, lam, priors.alpha, **CLOSE)[0]
        bounds.append(bound(counts, gamma, lam, priors))
    assert (np.diff(bounds) > -1e-8).all()
    assert bounds[-1] > bounds[0]


def test_heldout_by_hand():
    """One topic has no choice: p(w) is its share, whatever was read."""
    lam = np.array([[1.0, 3.0]])
    value = heldout(np.array([[5.0, 0.0]]), np.array([[1.0, 3.0]]), lam, 0.5)
    np.testing.assert_allclose(value, (np.log(0.25) + 3 * np.log(0.75)) / 4)
    lam = np.array([[1.0, 1e-9], [1e-9, 1.0]]) * 1e6
    value = heldout(np.array([[8.0, 0.0]]), np.array([[1.0, 0.0]]), lam, 1.0)
    np.testing.assert_allclose(value, np.log(9 / 10), atol=1e-3)


def test_rates():
    assert learning_rate(1, 0.0, 0.7) == 1.0
    np.testing.assert_allclose(learning_rate(3, 1.0, 0.5), 0.5)
    assert learning_rate(50, 1.0, 0.0) == 1.0
    for name, bad in {"t": 0, "tau": -1.0, "kappa": 1.5}.items():
        with pytest.raises(ValueError, match=f"{name} must be"):
            learning_rate(**({"t": 1, "tau": 1.0, "kappa": 0.7} | {name: bad}))
    with pytest.raises(ValueError, match="batch_size must be between 1 and n_documents = 4, got 5"):
        fit(np.ones((4, 3)), 2, np.random.default_rng(0), batch_size=5)


def test_generated_documents_mix_their_topics():
    counts, topics = generate(4000, 2, 5, np.random.default_rng(0), priors=Priors(0.5, 1.0))
    np.testing.assert_allclose(topics.sum(1), 1)
    mean = counts.sum(0) / counts.sum()
    np.testing.assert_allclose(mean, topics.mean(0), atol=0.02)
    assert abs(counts.sum(1).mean() - 60) < 1


def test_judges_of_topics():
    topics = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    assert evidence.apart(50 * topics[::-1], topics) == pytest.approx(0)
    assert evidence.apart(np.array([[1.0, 0, 0], [0, 0, 1.0]]), topics) == pytest.approx(0.25)
    counts = np.random.default_rng(0).poisson(1.0, (30, 6)).astype(float)
    mixed = evidence.shuffled(counts, np.random.default_rng(1))
    np.testing.assert_array_equal(mixed.sum(0), counts.sum(0))
    np.testing.assert_array_equal(mixed.sum(1), counts.sum(1))
    assert (mixed != counts).any()
    urn = evidence.urns(np.array([[2.0, 1.0]]), 0.5)  # Pólya: 1/2 · 3/4 · 1/6
    np.testing.assert_allclose(urn, np.log(1 / 2 * 3 / 4 * 1 / 6))
