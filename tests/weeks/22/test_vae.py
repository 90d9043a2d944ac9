"""The bound against torch's densities, closed forms and PCA; its ways of going wrong."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from week22.dequantization import bits_per_dim, dequantize, from_logits, to_logits
from week22.evidence.vae import fit_exactly, independent_pixels, shuffled
from week22.vae import (
    VAE,
    LinearVAE,
    elbo,
    gaussian_kl,
    iwae_bound,
    log_normal,
    log_weights,
    pathwise_gradients,
    score_gradients,
    train,
)

DOUBLE = {"dtype": torch.float64}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), **DOUBLE)


# ---- terms


@given(seed=st.integers(0, 10**6), batch=st.integers(0, 4), d=st.integers(1, 6))
def test_kl_is_torchs_and_so_is_its_gradient(seed, batch, d):
    mean, log_variance = random(seed, batch, d), random(seed + 1, batch, d)
    inputs = [mean.requires_grad_(), log_variance.requires_grad_()]
    ours = gaussian_kl(*inputs)
    assert ours.shape == (batch,)  # summed over dimensions, one number per row
    theirs = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(*(torch.autograd.grad(kl.sum(), inputs) for kl in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b)


@given(seed=st.integers(0, 10**6), d=st.integers(1, 6))
def test_log_normal_is_torchs(seed, d):
    x, mean, log_variance = random(seed, 3, 2, d), random(seed + 1, 2, d), random(seed + 2, d)
    theirs = Normal(mean, (0.5 * log_variance).exp()).log_prob(x).sum(-1)
    torch.testing.assert_close(log_normal(x, mean, log_variance), theirs)


def test_a_shared_variance_counts_once_per_feature():
    x = random(0, 4, 5)
    wide = log_normal(x, 0.0, torch.full((5,), 0.3, **DOUBLE))
    torch.testing.assert_close(log_normal(x, 0.0, torch.full((1,), 0.3, **DOUBLE)), wide)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_likelihood_is_torchs_summed_over_features(likelihood):
    model = VAE(5, 2, generator(), width=4, likelihood=likelihood).double()
    x, z = (random(1, 3, 5) > 0).double(), random(2, 4, 3, 2)
    out = model.decoder(z)
    law = (
        torch.distributions.Bernoulli(logits=out)
        if likelihood == "bernoulli"
        else Normal(out, (0.5 * model.log_variance).exp())
    )
    torch.testing.assert_close(model.log_likelihood(x, z), law.log_prob(x).sum(-1))


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli"])
def test_two_decompositions_agree_on_average(likelihood):
    model = VAE(4, 2, generator(), width=3, likelihood=likelihood).double()
    x, noise = (random(1, 3, 4) > 0).double(), random(2, 20_000, 3, 2)
    with torch.no_grad():
        log_w = log_weights(model, x, noise)
        gap = elbo(model, x, noise) - log_w.mean(0)
    assert (gap.abs() < 5 * log_w.std(0) / 20_000**0.5).all()


def test_beta_weighs_the_kl_only():
    model = VAE(4, 2, generator(), width=3).double()
    x, noise = random(1, 3, 4), random(2, 5, 3, 2)
    difference = elbo(model, x, noise, 0.0) - elbo(model, x, noise, 2.5)
    torch.testing.assert_close(difference, 2.5 * gaussian_kl(*model.encode(x)))


# ---- many weights


def test_iwae_of_normal_log_weights():
    """The log weights N(0, 4): K = 1, 8, 64 give near 0, 1.39 and 1.84; the true value is 2."""
    for k, value in ((1, 0.0), (8, 1.39), (64, 1.84)):
        bounds = iwae_bound(2 * random(k, k, 40_000))
        assert float(bounds.mean()) == pytest.approx(value, abs=0.05)


@given(seed=st.integers(0, 10**6), k=st.integers(1, 9))
def test_iwae_lies_between_the_mean_and_the_largest_weight(seed, k):
    log_w = random(seed, k, 3) * 5
    bound = iwae_bound(log_w)
    assert (bound >= log_w.mean(0) - 1e-12).all()
    assert (bound <= log_w.max(0).values + 1e-12).all()
    torch.testing.assert_close(bound, log_w.exp().mean(0).log())


def test_iwae_does_not_overflow_and_one_weight_is_itself():
    log_w = torch.tensor([[-2000.0, 2000.0]])
    assert torch.equal(iwae_bound(log_w), log_w[0])
    assert iwae_bound(log_w.expand(3, 2)).tolist() == pytest.approx([-2000, 2000])


# ---- the linear model


def linear(seed: int = 0, n: int = 5, d: int = 2) -> LinearVAE:
    model = LinearVAE(n, d, generator(seed)).double()
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            parameter.copy_(0.5 * random(seed + i + 1, *parameter.shape))
    return model


@given(seed=st.integers(0, 10**4))
def test_closed_form_bound_is_the_mean_of_sampled_ones_and_below_the_evidence(seed):
    model, x = linear(seed), random(seed, 3, 5)
    with torch.no_grad():
        noise = random(seed + 9, 4000, 3, 2)
        pairs = log_weights(model, x, noise)
        exact = model.exact_elbo(x)
        assert (exact <= model.log_evidence(x) + 1e-9).all()
        assert ((pairs.mean(0) - exact).abs() < 6 * pairs.std(0) / 4000**0.5).all()


def test_evidence_is_the_integral_over_the_prior():
    model, x = linear(n=3, d=1), random(3, 4, 3)
    z, weights = np.polynomial.hermite_e.hermegauss(120)
    z = torch.as_tensor(z)[:, None, None].expand(-1, 4, 1)
    weights = torch.as_tensor(weights / weights.sum())
    p = (weights[:, None] * model.log_likelihood(x, z).exp()).sum(0)
    torch.testing.assert_close(model.log_evidence(x), p.log())


def test_the_best_linear_vae_is_pca():
    from sklearn.decomposition import PCA

    x = random(0, 100, 2) @ random(1, 2, 5) + 0.3 * random(2, 100, 5) + 2
    model = fit_exactly(linear(), x)
    likeliest = PCA(2).fit(x.numpy()).get_covariance() * 99 / 100
    w = model.decoder.weight.detach()
    ours = w @ w.T + model.log_variance.exp().item() * torch.eye(5)
    np.testing.assert_allclose(ours.numpy(), likeliest, atol=1e-3)
    gram = (w.T @ w).numpy()  # a diagonal q turns the columns into principal axes
    assert abs(gram[0, 1]) < 1e-2 * np.sqrt(gram[0, 0] * gram[1, 1])


# ---- gradients


def quartic(z: torch.Tensor) -> torch.Tensor:
    return (z**2).sum(-1) + z[..., 0] ** 3


@pytest.mark.parametrize("estimate", [pathwise_gradients, score_gradients])
def test_both_gradients_are_those_of_the_expectation(estimate):
    """E[|z|² + z₀³] = |μ|² + Σσ² + μ₀³ + 3 μ₀ σ₀², differentiated by autograd."""
    mean, log_variance = torch.tensor([0.7, -0.4], **DOUBLE), torch.tensor([-0.5, 0.3], **DOUBLE)
    inputs = [mean.clone().requires_grad_(), log_variance.clone().requires_grad_()]
    m, v = inputs[0], inputs[1].exp()
    expected = (m**2 + v).sum() + m[0] ** 3 + 3 * m[0] * v[0]
    exact = torch.stack(torch.autograd.grad(expected, inputs))
    rows = estimate(quartic, mean, log_variance, random(5, 100_000, 2))
    assert rows.shape == (100_000, 2, 2)
    assert ((rows.mean(0) - exact).abs() < 5 * rows.std(0) / 100_000**0.5).all()


# ---- training


def test_training_lifts_the_bound_and_both_kinds_move():
    for importance in (False, True):
        x = random(0, 60, 30, 4) @ torch.ones(4, 4, **DOUBLE)
        model = VAE(4, 2, generator(), width=8).double()
        options = {"importance": importance, "n_samples": 3, "generator": generator(1)}
        bounds = train(model, x, lr=0.02, **options)
        assert len(bounds) == 60
        assert np.mean(bounds[-5:]) > np.mean(bounds[:5]) + 1


def test_importance_weights_tie_to_the_elbo_at_one_sample():
    """With K = 1 the gradient of the IWAE bound has the ELBO's mean; the bound is a log weight."""
    model, x = VAE(4, 2, generator(), width=8).double(), random(0, 1, 3, 4)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    noise = torch.randn(1, 3, 2, generator=generator(1), **DOUBLE)
    with torch.no_grad():
        expected = log_weights(model, x[0], noise).mean()
    (bound,) = train(model, x, importance=True, generator=generator(1))
    assert bound == pytest.approx(float(expected))
    assert any(not torch.equal(kept[name], value) for name, value in model.state_dict().items())


def test_shuffling_keeps_each_pixel_and_breaks_pairs():
    x = torch.arange(200)[:, None].expand(-1, 3)
    out = shuffled(x, generator())
    assert torch.equal(out.sort(0).values, x)
    assert abs(np.corrcoef(out.T.numpy())[0, 1]) < 0.3


def test_the_baseline_is_one_gaussian_per_pixel():
    x = random(0, 50, 3)
    law = Normal(x.mean(0), x.std(0))
    torch.testing.assert_close(independent_pixels(x, x), law.log_prob(x).sum(-1))


def test_wrong_arguments():
    with pytest.raises(ValueError, match="n_latents must be at least 1, got 0"):
        VAE(3, 0)
    with pytest.raises(ValueError, match="likelihood must be gaussian or bernoulli, got poisson"):
        VAE(3, 1, likelihood="poisson")
    with pytest.raises(ValueError, match="beta must be at least 0"):
        elbo(linear(), random(0, 2, 5), random(0, 1, 2, 2), beta=-1)
    with pytest.raises(ValueError, match="log_variance must be"):
        gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="at least one sample"):
        iwae_bound(torch.zeros(0, 3))


# ---- levels and bits


@given(seed=st.integers(0, 10**6), levels=st.integers(1, 300))
def test_dequantized_values_lie_in_their_own_interval(seed, levels):
    k = torch.randint(levels, (50,), generator=generator(seed))
    x = dequantize(k, levels, generator(seed))
    assert (x * levels - k >= -1e-4).all()
    assert (x * levels - k <= 1 + 1e-4).all()
    assert x.min() >= 0
    assert x.max() < 1


def test_a_uniform_density_is_8_bits_and_a_half_as_wide_one_7():
    assert bits_per_dim(torch.zeros(3), n_dims=10, levels=256).tolist() == [8.0] * 3
    sharp = torch.full((1,), 10 * math.log(2))
    assert bits_per_dim(sharp, n_dims=10, levels=256).item() == pytest.approx(7)


@given(seed=st.integers(0, 10**6), margin=st.floats(0.01, 0.4))
def test_logits_have_autograds_jacobian_and_come_back(seed, margin):
    x = torch.rand(3, 2, 2, generator=generator(seed), **DOUBLE)
    y, log_det = to_logits(x, margin)
    torch.testing.assert_close(from_logits(y, margin), x)
    for row, value in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v: to_logits(v[None], margin)[0], row)
        torch.testing.assert_close(jacobian.reshape(4, 4).slogdet().logabsdet, value)


def test_wrong_levels():
    with pytest.raises(ValueError, match="k must lie between 0 and levels - 1 = 3"):
        dequantize(torch.tensor([4]), 4)
    with pytest.raises(ValueError, match="n_dims must be at least 1, got 0"):
        bits_per_dim(torch.zeros(1), n_dims=0, levels=2)
    with pytest.raises(ValueError, match="margin must lie strictly between 0 and"):
        to_logits(torch.zeros(1, 1), 0.5)
