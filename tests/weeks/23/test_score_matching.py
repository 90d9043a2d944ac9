"""Losses against the score of known mixtures, samplers against their laws; the judging."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from shared import records
from shared.run import Run
from week23.evidence import score_matching as judge
from week23.mixtures import Mixture
from week23.score_matching import (
    ScoreNet,
    annealed_langevin,
    denoising,
    explicit,
    fit,
    langevin,
    noise_levels,
    sliced,
)

seeds = st.integers(0, 9999)


def mixture(seed, k=3, d=2):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(k, generator=g, dtype=torch.double) + 0.1
    means = torch.randn(k, d, generator=g, dtype=torch.double)
    spreads = 0.5 + torch.rand(k, generator=g, dtype=torch.double)
    return Mixture(weights / weights.sum(), means, spreads)


@given(seeds, st.floats(0.1, 1), st.floats(0, 3))
def test_noised_mixtures_have_the_density_and_score_that_torch_finds(seed, a, sigma):
    data = mixture(seed)
    x = torch.randn(5, 2, dtype=torch.double, generator=torch.Generator().manual_seed(seed))
    x.requires_grad_()
    width = (a**2 * data.spreads**2 + sigma**2).sqrt()[:, None].expand(-1, 2)
    theirs = MixtureSameFamily(
        Categorical(data.weights), Independent(Normal(a * data.means, width), 1)
    )
    noisy = data.noised(a, sigma)
    torch.testing.assert_close(noisy.log_prob(x), theirs.log_prob(x))
    (score,) = torch.autograd.grad(theirs.log_prob(x).sum(), x)
    torch.testing.assert_close(noisy.score(x), score)


def test_samples_of_a_mixture_have_its_weights_and_spreads():
    data = mixture(0, d=1)
    x = data.sample(20_000, torch.Generator().manual_seed(0))
    mean = (data.weights * data.means[:, 0]).sum()
    second = (data.weights * (data.means[:, 0] ** 2 + data.spreads**2)).sum()
    assert abs(x.mean() - mean) < 0.05
    assert abs(x.square().mean() - second) < 0.12


def test_points_have_no_density_without_noise():
    data = Mixture.of_points(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="spreads must be positive: add noise first"):
        data.score(torch.zeros(1, 2))


@given(seeds)
def test_explicit_takes_the_trace_of_the_jacobian(seed):
    net = ScoreNet(3, 5, torch.Generator().manual_seed(seed)).double()
    score = lambda x: net(x, torch.full_like(x[:, :1], 0.7))  # noqa: E731
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    jacobian = torch.stack(
        [torch.autograd.functional.jacobian(score, row[None])[0, :, 0] for row in x]
    )
    expected = jacobian.diagonal(dim1=1, dim2=2).sum(-1) + score(x).square().sum(-1) / 2
    torch.testing.assert_close(explicit(score, x), expected)
    v = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.double)
    along = torch.einsum("ni,nij,nj->n", v, jacobian, v) + score(x).square().sum(-1) / 2
    torch.testing.assert_close(sliced(score, x, v), along)


@given(seeds, st.floats(0.1, 5))
def test_denoising_is_the_squared_distance_from_its_target_times_sigma_squared(seed, sigma):
    data = mixture(seed)
    x, noise = data.sample(6, torch.Generator().manual_seed(seed)), torch.randn(6, 2).double()
    y = x + sigma * noise
    expected = sigma**2 * (data.score(y) + (y - x) / sigma**2).square().sum(-1) / 2
    torch.testing.assert_close(denoising(data.score, x, noise, sigma), expected)


@pytest.mark.parametrize("loss", ["explicit", "sliced", "denoising"])
def test_the_true_score_has_the_lowest_loss(loss):
    data, g = mixture(1), torch.Generator().manual_seed(0)
    x = data.sample(20_000, g)
    noise = torch.randn(x.shape, generator=g, dtype=x.dtype)
    best = data.noised(1.0, 0.5) if loss == "denoising" else data
    found = []
    for factor in (0.8, 1.0, 1.2):
        score = lambda y, factor=factor: factor * best.score(y)  # noqa: E731
        if loss == "denoising":
            found.append(denoising(score, x, noise, 0.5).mean())
        else:
            value = explicit(score, x) if loss == "explicit" else sliced(score, x, noise.sign())
            found.append(value.mean())
    assert found[1] < min(found[0], found[2])


def test_losses_train_and_gradients_reach_the_weights():
    data, g = mixture(2), torch.Generator().manual_seed(0)
    float_data = Mixture(*(part.float() for part in (data.weights, data.means, data.spreads)))
    for loss in (explicit, lambda s, x: sliced(s, x, torch.randn(x.shape, generator=g).sign())):
        net = ScoreNet(2, 16, g)
        score = lambda x, net=net: net(x, torch.ones_like(x[:, :1]))  # noqa: E731
        losses = fit(
            net,
            lambda s=score, f=loss: f(s, float_data.sample(256, g)).mean(),
            steps=60,
        )
        assert sum(losses[-10:]) < sum(losses[:10]) - 1
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


def test_a_score_net_is_of_the_size_of_the_score():
    net = ScoreNet(2, 32, torch.Generator().manual_seed(0))
    net, x = net.requires_grad_(False), torch.zeros(1, 2)
    small, large = (net(x, torch.tensor([[sigma]])) * sigma for sigma in (0.01, 100.0))
    assert 0.1 < float(small.norm() / large.norm()) < 10


def test_langevin_settles_at_the_variance_that_its_step_allows():
    for rate in (0.2, 1.0):
        g = torch.Generator().manual_seed(0)
        x = langevin(lambda x: -x, torch.zeros(8000, 1), steps=80, rate=rate, generator=g)
        assert abs(float(x.var()) - 1 / (1 - rate / 4)) < 0.06


def test_annealing_finds_weights_and_keeps_the_last_level():
    data = Mixture(torch.tensor([0.2, 0.8]), torch.tensor([[-4.0], [4.0]]), torch.ones(2))
    g = torch.Generator().manual_seed(0)
    start = torch.full((1500, 1), -4.0)  # all in the smaller mode
    score = lambda x, sigma: data.noised(1.0, float(sigma[0])).score(x)  # noqa: E731
    levels = noise_levels(8.0, 0.5, 8)
    x = annealed_langevin(score, start, levels, steps=60, generator=g)
    assert abs(float((x > 0).float().mean()) - 0.8) < 0.06
    right = x[x > 0]
    assert abs(float(right.var()) - 1.25) < 0.25  # 1 and the last noise, 0.5²


def test_levels_fall_by_one_factor():
    levels = noise_levels(10.0, 0.1, 5)
    assert levels == pytest.approx([10, 10**0.5, 1, 10**-0.5, 0.1])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"smallest must be in \(0, largest\], got 20"):
        noise_levels(10.0, 20.0, 3)
    with pytest.raises(ValueError, match="rate must be positive, got 0"):
        langevin(lambda x: x, torch.zeros(1, 1), steps=1, rate=0)
    with pytest.raises(ValueError, match="sigmas must fall"):
        annealed_langevin(lambda x, s: x, torch.zeros(1, 1), [0.1, 1.0], steps=1)


def test_the_judge_measures_how_far_weights_are_off(tmp_path, monkeypatch):
    run = Run(records.ROOT / "weeks/23/score_matching.py", out=tmp_path, quiet=True)
    monkeypatch.setattr(run, "budget", lambda **sizes: (300, 1))

    def aside(share):
        x = torch.where(torch.arange(300)[:, None] < 300 * share, 1.0, -1.0).expand(-1, 2)
        return lambda *args, **options: x

    monkeypatch.setattr(judge, "langevin", aside(0.5))
    monkeypatch.setattr(judge, "annealed_langevin", aside(0.78))
    judge.judge_samplers(run, 2, [ScoreNet(2, 2, torch.Generator())] * 2)
    assert [c["verdict"] for c in run.claims] == ["holds", "holds", "holds"]
    assert run.claims[1]["mean"] == pytest.approx(0.02, abs=1e-6)
    assert run.falsifiers[0]["broken"]


def test_relative_error_is_that_of_the_noised_score():
    data = judge.FAR

    class Exact(torch.nn.Module):
        def forward(self, x, sigma):
            return (1 + 0.1) * data.noised(1.0, float(sigma[0])).score(x)

    g = torch.Generator().manual_seed(0)
    assert judge.relative_error(Exact(), data, 2.0, g) == pytest.approx(0.01, rel=1e-3)
    assert math.isfinite(judge.relative_error(ScoreNet(2, 4, g), data, 2.0, g))
