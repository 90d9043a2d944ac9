"""Losses, the bound and its decoder, averages; distances; the judging by made-up numbers."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.stats import norm
from torch import nn
from torch.distributions import Normal, kl_divergence

from shared import records
from shared.run import Run
from week23.ddpm import (
    EMA,
    TimeMLP,
    bits_per_dim,
    bound_terms,
    decoder_log_prob,
    prior_term,
    simple_loss,
    train,
)
from week23.digit_judge import Judge, Split, frechet_distance, split
from week23.evidence import digit_pictures as judge
from week23.schedules import KINDS, Schedule, sample_ddim

SCHEDULE = Schedule.linear(30, 1e-3, 0.3)
seeds = st.integers(0, 9999)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def fixed(value):
    return lambda x, t: value


@given(seeds, st.sampled_from(KINDS))
def test_the_simple_loss_compares_with_what_was_added(seed, kind):
    x0, noise, said = (draw(seed + i, 4, 2, 3) for i in range(3))
    t = torch.tensor([0, 3, 17, 29])
    a = SCHEDULE.alphas_bar[t].view(-1, 1, 1)
    targets = {"epsilon": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}
    targets["score"] = -noise / (1 - a).sqrt()
    ours = simple_loss(SCHEDULE, fixed(said), x0, t, noise, kind=kind)
    expected = (said - targets[kind]).square().mean((1, 2))
    torch.testing.assert_close(ours, expected, atol=1e-8, rtol=1e-8)


@given(seeds, st.sampled_from(["small", "large"]))
def test_terms_of_the_bound_are_divergences_of_torchs_normals(seed, variance):
    x0, noise, said = (draw(seed + i, 29, 3) for i in range(3))
    t = torch.arange(1, 30)
    ours = bound_terms(SCHEDULE, fixed(said), x0, t, noise, kind="x0", variance=variance)
    x = SCHEDULE.add_noise(x0, noise, t)
    (mean, spread), (other, _) = (SCHEDULE.posterior(x, part, t) for part in (x0, said))
    width = spread if variance == "small" else SCHEDULE.betas[t, None]
    p, q = (Normal(m, v.sqrt().expand(-1, 3)) for m, v in ((mean, spread), (other, width)))
    torch.testing.assert_close(ours, kl_divergence(p, q).sum(-1))


@pytest.mark.parametrize(("variance", "at"), [("large", 0), ("small", 1)])
def test_the_first_term_is_the_likelihood_of_the_data(variance, at):
    x0, noise, said = (draw(i, 5, 3) for i in range(3))
    t = torch.zeros(5, dtype=torch.long)
    options = {"kind": "x0", "variance": variance}
    ours = bound_terms(SCHEDULE, fixed(said), x0, t, noise, **options)
    x = SCHEDULE.add_noise(x0, noise, 1)
    width = SCHEDULE.betas[0] if variance == "large" else SCHEDULE.posterior(x, x0, at)[1]
    expected = -Normal(said, width.sqrt()).log_prob(x0).sum(-1)
    torch.testing.assert_close(ours, expected)
    levels = x0.clamp(-1, 1).mul(2).round() / 2
    ours = bound_terms(SCHEDULE, fixed(said), levels, t, noise, levels=5, **options)
    torch.testing.assert_close(ours, -decoder_log_prob(levels, said, width.sqrt(), 5).sum(-1))


@given(st.floats(-3, 3), st.floats(0.01, 2), st.integers(2, 30))
def test_probabilities_of_levels_add_up_to_one(mean, sigma, levels):
    x = torch.linspace(-1, 1, levels, dtype=torch.double)
    center, width = (torch.tensor(v, dtype=torch.double) for v in (mean, sigma))
    found = decoder_log_prob(x, center, width, levels)
    assert float(found.exp().sum()) == pytest.approx(1)
    half = 1 / (levels - 1)
    edges = [-np.inf, *(x[1:] - half).tolist(), np.inf]
    p = np.diff(norm.cdf(np.array(edges), mean, sigma))
    np.testing.assert_allclose(found.exp(), p, atol=1e-9)


def test_levels_far_from_the_mean_have_finite_probabilities_and_gradients():
    mean = torch.tensor([-40.0, 40.0], requires_grad=True)
    levels = torch.tensor([0.5, -0.5])
    found = decoder_log_prob(levels, mean, torch.tensor(0.05), 5)
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert torch.isfinite(mean.grad).all()
    torch.testing.assert_close(found[0], found[1])


def test_the_prior_term_is_a_divergence_and_small():
    x0 = draw(0, 4, 3)
    a = SCHEDULE.alphas_bar[-1]
    p = Normal(a.sqrt() * x0, (1 - a).sqrt().expand(4, 3))
    expected = kl_divergence(p, Normal(torch.zeros(4, 3), torch.ones(4, 3))).sum(-1)
    torch.testing.assert_close(prior_term(SCHEDULE, x0), expected, check_dtype=False)


def test_bits_are_all_terms_per_dimension_in_base_two():
    x0 = draw(0, 6, 2, 2)
    zero = fixed(torch.zeros_like(x0))
    ours = bits_per_dim(zero, SCHEDULE, x0, kind="x0", generator=torch.Generator().manual_seed(3))
    g, nats = torch.Generator().manual_seed(3), prior_term(SCHEDULE, x0)
    for t in range(30):
        noise = torch.empty_like(x0).normal_(generator=g)
        nats = nats + bound_terms(SCHEDULE, zero, x0, torch.full((6,), t), noise, kind="x0")
    torch.testing.assert_close(ours, nats / 4 / math.log(2))


def test_an_average_of_weights_is_one_of_what_it_saw():
    net = nn.Linear(2, 1).double()
    average, seen = EMA(net, 0.8), []
    for step in range(5):
        nn.init.constant_(net.weight, step + 1.0)
        average.update(net)
        seen.append(step + 1.0)
        copy = nn.Linear(2, 1).double()
        average.copy_to(copy)
        w = 0.8 ** np.arange(step, -1, -1)
        assert float(copy.weight[0, 0].detach()) == pytest.approx((w * seen).sum() / w.sum())
    with pytest.raises(ValueError, match="the average must have seen weights, got 0"):
        EMA(net, 0.8).copy_to(net)
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        EMA(net, 1)


def test_an_untrained_network_says_nothing_and_then_learns():
    g = torch.Generator().manual_seed(0)
    net = TimeMLP(6, 32, 30, g)
    x0 = torch.randn(40, 6, generator=g).sign()
    losses = []

    def loss(i):
        t = torch.randint(30, (len(i),), generator=g)
        value = simple_loss(SCHEDULE, net, x0[i], t, torch.randn(len(i), 6, generator=g))
        losses.append(float(value.detach().mean()))
        return value

    train(net, loss, 40, steps=150, generator=g)
    assert 0.8 < losses[0] < 1.2
    assert sum(losses[-20:]) / 20 < 0.7


def test_training_leaves_the_average_in_the_model():
    g = torch.Generator().manual_seed(0)
    net, seen = nn.Linear(1, 1, bias=False), []
    nn.init.ones_(net.weight)

    def loss(i):
        seen.append(float(net.weight.detach()))
        return net(torch.ones(len(i), 1))[:, 0]

    train(net, loss, 3, steps=4, generator=g, decay=0.5, lr=0.1)
    assert float(net.weight.detach()) > seen[-1] - 0.1  # behind the last weights, which fall


def test_a_network_is_told_the_time_and_the_label():
    net = TimeMLP(4, 16, 30, torch.Generator().manual_seed(0), n_labels=3)
    nn.init.normal_(net.leave[1].weight)
    x = torch.zeros(3, 4)
    early, late = net(x, torch.zeros(3).long()), net(x, torch.full((3,), 29))
    assert not torch.allclose(early, late)
    labels = torch.arange(3)
    torch.testing.assert_close(net(x, torch.zeros(3).long(), labels), early)  # zero at first
    nn.init.normal_(net.label.weight)
    told = net(x, torch.zeros(3).long(), labels)
    assert not torch.allclose(told[0], told[1])


def test_the_best_denoiser_of_points_draws_points():
    points = draw(0, 20, 5).sign() + 0.1 * draw(1, 20, 5)
    schedule = Schedule.linear(60, 1e-3, 0.3)
    x = sample_ddim(
        judge.optimal(points, schedule), schedule, draw(2, 8, 5), steps=60, kind="score"
    )
    assert float(torch.cdist(x, points).min(-1).values.max()) < 1e-3


@given(seeds)
def test_frechet_distance_takes_the_root_of_the_product(seed):
    a, b = draw(seed, 30, 4), 2 * draw(seed + 1, 40, 4) @ draw(seed + 2, 4, 4) + 1
    c1, c2 = (np.cov(x.numpy().T) for x in (a, b))
    gap = (a.mean(0) - b.mean(0)).square().sum()
    expected = float(gap) + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_rows_to_judge_by_are_kept_apart():
    data = split(3)
    assert len(data.x) + len(data.x_test) == 1797
    assert not (torch.cdist(data.x_test[:50], data.x[:200]) == 0).any()
    with pytest.raises(ValueError, match="n_test must be between 1 and 1796, got 1797"):
        split(0, 1797)


def test_a_judge_learns_digits():
    data = split(0)
    found = Judge.trained(data, 0, steps=150)
    right = (found(data.x_test).argmax(-1) == data.y_test).float().mean()
    assert right > 0.85
    assert found.distance(data.x, data.x_test) < found.distance(-data.x, data.x_test) / 5


def test_claims_are_judged_by_made_up_distances(tmp_path):
    run = Run(records.ROOT / "weeks/23/ddpm.py", out=tmp_path, quiet=True)
    one, few = torch.ones(2).double(), (5, 10, 20)
    far, near = (value * torch.tensor([[3.0, 2.0, 1.0]] * 2).double() for value in (1.0, 0.5))
    noise = torch.tensor([0.0, 0.01]).double()
    found = {"explained": 0.7 * one, "explained, shuffled": -0.1 * one, "shuffled": 9 * one}
    found |= {"DDIM, x0": near + noise[:, None], "ancestral, x0": near, "floor": 0.1 * one}
    found |= {"DDIM, epsilon": far - 0.1, "ancestral, epsilon": far + noise[:, None]}
    found |= {"Gaussian": one, "bits, x0": 5 * one + noise, "bits, epsilon": 3 * one}
    judge.settle(run, found | {"bits, each pixel alone": 2 * one}, few)
    assert [c["verdict"] for c in run.claims] == ["holds"] * 5
    assert all(f["broken"] for f in run.falsifiers)
    assert run.claims[2]["mean"] == pytest.approx(0.105)


def test_the_share_of_noise_that_is_named():
    data = Split(*(torch.zeros(4, 64), torch.zeros(4).long()) * 2)
    nothing = lambda x, t: torch.zeros_like(x)  # noqa: E731
    assert judge.explained(nothing, data, 0) == pytest.approx(0, abs=0.3)

    def knows(x, t):  # the data are zero
        return x / (1 - judge.SCHEDULE.alpha_bar(t, x)).sqrt()

    assert judge.explained(knows, data, 0) == pytest.approx(1, abs=1e-5)


def test_pixels_alone_cost_their_entropy():
    x = torch.full((600, 64), -1.0)
    x[::2, 0] = 1.0
    data = Split(x, torch.zeros(600).long(), x, torch.zeros(600).long())
    assert judge.pixels_alone(data) == pytest.approx((1 + 63 * 0) / 64, abs=0.06)
