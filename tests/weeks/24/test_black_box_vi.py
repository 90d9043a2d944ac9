"""Gradients of Gaussians: torch's distributions, closed forms, posteriors that are known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from week24.black_box_vi import (
    ESTIMATORS,
    Gaussian,
    closed_entropy_loss,
    elbo,
    fit,
    gradient,
    landing_loss,
    score_loss,
    subsampled,
)


def some_gaussian(seed, dim=3, *, full_rank=True):
    draw = torch.Generator().manual_seed(seed)
    q = Gaussian(dim, full_rank=full_rank)
    with torch.no_grad():
        for parameter in q.parameters():
            parameter += 0.5 * torch.randn(parameter.shape, generator=draw, dtype=torch.double)
    return q


def as_torch(q):
    return torch.distributions.MultivariateNormal(q.mean, q.covariance())


def target_of(q):
    """ln q(z) itself, as a log density that knows nothing of q's parameters."""
    law = as_torch(q)
    mean, precision = law.mean.detach(), law.precision_matrix
    return lambda z: -(((z - mean) @ precision) * (z - mean)).sum(-1) / 2


@settings(max_examples=6)
@given(st.integers(0, 99), st.integers(1, 4), st.booleans())
def test_density_and_entropy_are_torchs(seed, dim, full_rank):
    q = some_gaussian(seed, dim, full_rank=full_rank)
    z = q.draw(5, torch.Generator().manual_seed(seed)).detach()
    torch.testing.assert_close(q.log_prob(z), as_torch(q).log_prob(z))
    torch.testing.assert_close(q.entropy(), as_torch(q).entropy())
    off = q.covariance() - q.covariance().diagonal().diag()
    assert full_rank or off.abs().max() == 0


def test_draws_have_the_covariance():
    q = some_gaussian(1)
    z = q.draw(20_000, torch.Generator().manual_seed(0)).detach()
    torch.testing.assert_close(z.T.cov(), q.covariance(), atol=0.1, rtol=0.05)
    torch.testing.assert_close(z.mean(0), q.mean.detach(), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_each_estimator_is_unbiased(name):
    q, target = some_gaussian(2, 2), target_of(some_gaussian(3, 2))
    with torch.no_grad():
        mean, precision = some_gaussian(3, 2).mean, some_gaussian(3, 2).covariance().inverse()
    apart, cov = q.mean - mean, q.factor() @ q.factor().T
    exact = -((apart @ precision @ apart) + (precision * cov).sum()) / 2 + q.entropy()
    exact, draw = gradient(-exact, q), torch.Generator().manual_seed(4)
    grads = [gradient(ESTIMATORS[name](target, q, 6, draw), q) for _ in range(150)]
    grads = torch.stack(grads)
    error = grads.std(0) / 150**0.5
    assert ((grads.mean(0) - exact).abs() <= 4.5 * error + 1e-9).all()


def test_noise_vanishes_where_q_is_the_posterior():
    q, draw = some_gaussian(5), torch.Generator().manual_seed(0)
    target = target_of(q)
    assert gradient(landing_loss(target, q, 4, draw), q).abs().max() < 1e-10
    score = score_loss(target, q, 4, draw, baseline=True)  # f is constant, and taken away
    assert gradient(score, q).abs().max() < 1e-10
    assert gradient(closed_entropy_loss(target, q, 4, draw), q).abs().max() > 0.01


def test_a_baseline_takes_a_constant_away_and_stays_independent():
    q, target = some_gaussian(6), target_of(some_gaussian(7))

    def grad(shift, baseline):
        draw = torch.Generator().manual_seed(0)
        return gradient(score_loss(lambda z: target(z) + shift, q, 8, draw, baseline=baseline), q)

    torch.testing.assert_close(grad(0.0, True), grad(1e4, True), atol=1e-6, rtol=1e-6)
    assert (grad(0.0, False) - grad(1e4, False)).abs().max() > 100
    two = Gaussian(1)  # of two points each one's baseline is the other: (f₁ − f₂)(s₁ − s₂) / 2
    z = two.draw(2, torch.Generator().manual_seed(1)).detach()
    f = z[:, 0].square() * 1.5 + z.square().sum(1) / 2
    loss = score_loss(
        lambda z: z[:, 0].square() * 1.5, two, 2, torch.Generator().manual_seed(1), baseline=True
    )
    by_mean = gradient(loss, two)[0]
    expected = -(f[0] - f[1]) * (z[0, 0] - z[1, 0]) / 2
    torch.testing.assert_close(by_mean, expected)


def test_no_gradient_reaches_the_scores_points():
    """The score function asks nothing of p: a density without derivative is enough."""
    q = Gaussian(1, sd=0.5)
    fit(
        lambda z: torch.where(z[:, 0] > 1, 0.0, -50.0).detach(),
        q,
        steps=150,
        lr=0.1,
        generator=torch.Generator().manual_seed(0),
        estimator="score, baseline",
    )
    assert q.mean.item() - 2 * q.covariance().sqrt().item() > 0.8


@pytest.mark.parametrize("full_rank", [True, False])
def test_a_gaussian_posterior(full_rank):
    """Full rank is exact; mean field has the conditional variances and not the marginal ones."""
    target = some_gaussian(8, 2)
    covariance = target.covariance()
    q = Gaussian(2, full_rank=full_rank)
    draw = torch.Generator().manual_seed(0)
    fit(target_of(target), q, steps=350, lr=0.1, generator=draw)
    exact = covariance if full_rank else (1 / covariance.inverse().diagonal()).diag()
    tolerance = 1e-3 if full_rank else 0.1
    torch.testing.assert_close(q.covariance(), exact, atol=1e-3, rtol=tolerance)
    value = elbo(target_of(target), q, 20_000, draw)
    evidence = torch.logdet(covariance) / 2 + math.log(2 * math.pi)
    assert value < evidence + 0.02
    assert abs(value - evidence) < 0.05 or not full_rank


def mean_of_normals(batch_size):
    y = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.double) + 1
    log_density = subsampled(
        lambda z: -z.square().sum(-1) / 2,
        lambda z, i: -(z - y[i]).square() / 2,
        60,
        batch_size,
        torch.Generator().manual_seed(1),
    )
    return y, log_density


def test_batches_count_the_likelihood_often_and_the_prior_once():
    z = torch.tensor([[0.3], [2.0]], dtype=torch.double)
    y, whole = mean_of_normals(60)
    exact = -z[:, 0].square() / 2 - (z - y).square().sum(1) / 2
    torch.testing.assert_close(whole(z), exact)
    _, part = mean_of_normals(6)
    found = torch.stack([part(z) for _ in range(1000)])
    error = found.std(0) / 1000**0.5
    assert ((found.mean(0) - exact).abs() < 4 * error).all()
    _, single = mean_of_normals(1)
    assert single(z).shape == (2,)


def test_the_posterior_by_batches_is_that_of_all_data():
    y, part = mean_of_normals(10)
    q = Gaussian(1, sd=0.3)
    fit(part, q, steps=500, lr=0.03, generator=torch.Generator().manual_seed(2))
    assert abs(q.covariance().item() * 61 - 1) < 0.15
    assert abs(q.mean.item() - y.sum().item() / 61) < 0.06


def test_bad_arguments():
    with pytest.raises(ValueError, match="sd must be positive, got 0"):
        Gaussian(2, sd=0.0)
    with pytest.raises(ValueError, match="n must be at least 2, got 1"):
        score_loss(lambda z: z.sum(1), Gaussian(2), 1, torch.Generator(), baseline=True)
    with pytest.raises(ValueError, match="batch_size must be between 1 and n_data = 60, got 61"):
        mean_of_normals(61)
    with pytest.raises(ValueError, match="estimator must be one of"):
        fit(
            lambda z: z.sum(1),
            Gaussian(1),
            steps=1,
            lr=0.1,
            generator=torch.Generator(),
            estimator="x",
        )
