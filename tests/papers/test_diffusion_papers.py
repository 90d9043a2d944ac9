"""The judging of papers/2020-ddpm and papers/2021-diffusion-beats-gans."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.neighbors import NearestNeighbors
from test_scripts import load

from shared import records
from shared.run import Run
from week23.ddpm import TimeMLP, bound_terms
from week23.digit_judge import LEVELS, split

DDPM, GUIDED = (
    records.ROOT / "papers" / name / "reproduce.py"
    for name in ("2020-ddpm", "2021-diffusion-beats-gans")
)
ddpm_paper, guided_paper = load(DDPM), load(GUIDED)


def net_and_batch(seed=0):
    g = torch.Generator().manual_seed(seed)
    net = TimeMLP(64, 16, 100, g).double()
    torch.nn.init.normal_(net.leave[1].weight, std=0.1, generator=g)
    x0 = split(0).x[:50].double()
    noise = torch.randn(50, 64, generator=g, dtype=torch.double)
    return net, x0, torch.arange(50) * 2, noise


# ---- DDPM's two losses


def judged(tmp_path, monkeypatch, **arms):
    rows = iter([{name: value[i] for name, value in arms.items()} for i in range(5)])
    monkeypatch.setattr(ddpm_paper, "check", lambda run: None)
    monkeypatch.setattr(ddpm_paper, "measure", lambda *size: next(rows))
    run = Run(DDPM, out=tmp_path, quiet=True)
    ddpm_paper.main(run)
    return run


def arms(simple, bound):
    rows = {"simple, ε": simple, "bound, ε": [bound] * 5, "reweighted": [bound] * 5}
    return rows | {"other digits": [(0.1, 0.0)] * 5}


def test_the_two_orders_are_judged_split_by_split(tmp_path, monkeypatch):
    simple = [(1.0, 3.2)] * 4 + [(9.0, 2.0)]  # four of five splits are enough
    run = judged(tmp_path, monkeypatch, **arms(simple, (2.0, 3.0)))
    assert [c["verdict"] for c in run.claims] == ["reproduced", "reproduced"]
    assert [c["mean"] for c in run.claims] == [0.8, 0.8]
    assert all(f["broken"] for f in run.falsifiers)


def test_three_of_five_splits_are_not_enough(tmp_path, monkeypatch):
    simple = [(1.0, 3.2)] * 3 + [(2.0, 3.0)] * 2
    run = judged(tmp_path, monkeypatch, **arms(simple, (2.0, 3.0)))
    assert [c["verdict"] for c in run.claims] == ["not reproduced", "not reproduced"]


def test_the_reweighted_loss_has_the_gradient_of_the_bound():
    net, x0, t, noise = net_and_batch()
    slopes = []
    for arm in ("reweighted", "bound, ε", "simple, ε"):
        net.zero_grad()
        ddpm_paper.loss_of(arm, net, x0, t, noise).mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(slopes[1] / slopes[1].norm(), slopes[2] / slopes[2].norm(), atol=0.01)


def test_a_predicted_mean_is_the_mean_of_the_step_back():
    net, x0, t, noise = net_and_batch()
    schedule = ddpm_paper.SCHEDULE
    x = schedule.add_noise(x0, noise, t)
    mean, _ = schedule.posterior(x, ddpm_paper.of_mean(net)(x, t), t)
    torch.testing.assert_close(mean, net(x, t), atol=1e-9, rtol=1e-6)
    right = ddpm_paper.loss_of(
        "simple, mean", lambda x, t: schedule.posterior(x, x0, t)[0], x0, t, noise
    )
    torch.testing.assert_close(right, torch.zeros(50).double())


def test_the_bound_is_in_bits_per_pixel_and_counts_all_times():
    net, x0, t, noise = net_and_batch()
    ours = ddpm_paper.loss_of("bound, ε", net, x0, t, noise)
    nats = bound_terms(ddpm_paper.SCHEDULE, net, x0, t, noise, levels=LEVELS)
    torch.testing.assert_close(ours, nats * 100 / 64 / np.log(2))


# ---- classifier guidance


def test_precision_and_recall_are_shares_within_neighbor_balls():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(40, 3, generator=g), 0.3 * torch.randn(30, 3, generator=g)

    def share(points, balls):
        fit = NearestNeighbors(n_neighbors=4).fit(balls.numpy())
        radius = fit.kneighbors(balls.numpy())[0][:, -1]
        far = np.linalg.norm(points.numpy()[:, None] - balls.numpy(), axis=-1)
        return (far <= radius).any(-1).mean()

    found = guided_paper.precision_recall(b, a, 3)
    assert found == pytest.approx((share(b, a), share(a, b)))
    assert found[0] > found[1]  # narrow samples: precise, and little is recalled


def test_the_discrepancy_is_that_of_a_kernel_and_its_limit_of_permutations():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(60, 2, generator=g, dtype=torch.double) for _ in range(2))
    found, limit = guided_paper.mmd_and_limit(a, b, g)
    both = torch.cat([a, b])
    width = torch.cdist(both, both).square().median()
    k = rbf_kernel(both.numpy(), gamma=1 / float(width))
    expected = k[:60, :60].mean() + k[60:, 60:].mean() - 2 * k[:60, 60:].mean()
    assert found == pytest.approx(expected)
    assert found < limit
    assert guided_paper.mmd_and_limit(a, b + 1, g)[0] > 5 * limit


def judged_guidance(tmp_path, monkeypatch, parts, useless=0.0):
    monkeypatch.setattr(guided_paper, "check", lambda run: None)
    known = dict.fromkeys((0, 1, 2, 4, 8), (0.5, 0.5, 0.5))
    monkeypatch.setattr(guided_paper, "oracle", lambda *size: known)
    found = dict(zip((0, 1, 2, 4, 8), parts, strict=True)) | {"useless": useless}
    monkeypatch.setattr(guided_paper, "measure", lambda *size: found)
    run = Run(GUIDED, out=tmp_path, quiet=True)
    guided_paper.main(run)
    return run


def test_guidance_is_judged_by_three_rules(tmp_path, monkeypatch):
    parts = [(0.1, 0.5, 0.9), (0.6, 0.7, 0.8), (0.8, 0.75, 0.7), (0.9, 0.8, 0.6), (0.95, 0.6, 0.5)]
    run = judged_guidance(tmp_path, monkeypatch, parts)
    assert [c["verdict"] for c in run.claims] == ["reproduced"] * 3
    assert [c["mean"] for c in run.claims] == pytest.approx([0.35, 0.3, 0.1])
    assert run.falsifiers[0]["broken"]
    flat = [(0.6, 0.7, 0.8)] * 4 + [(0.62, 0.7, 0.79)]
    run = judged_guidance(tmp_path, monkeypatch, flat, useless=0.2)
    assert [c["verdict"] for c in run.claims] == ["not reproduced", "not reproduced", "reproduced"]
    assert not run.falsifiers[0]["broken"]


def test_a_classifier_of_shuffled_labels_learns_none():
    data = split(0)
    x, t = data.x_test, torch.zeros(500).long()
    right = []
    for shuffled in (False, True):
        classifier = guided_paper.noisy_classifier(data, 0, 80, shuffled=shuffled)
        right.append(float((classifier(x, t).argmax(-1) == data.y_test).float().mean()))
    assert right[0] > 0.6
    assert right[1] < 0.3


def test_samples_follow_the_classifier():
    labels, target = torch.arange(20) % 10, split(0).x[:10]

    def log_shares(x, t):  # of ten pictures, given what is left of one
        a = guided_paper.SCHEDULE.alpha_bar(t, x)
        d2 = (x[:, None] - a.sqrt()[:, None] * target).square().sum(-1)
        return (-d2 / (2 * (1 - a))).log_softmax(-1)

    model = lambda x, t: log_shares(x, t).exp() @ target  # noqa: E731
    right = []
    for scale in (0.0, 1.0):
        g = torch.Generator().manual_seed(0)
        x = guided_paper.samples(model, log_shares, labels, scale, g)
        right.append(float((torch.cdist(x, target).argmin(-1) == labels).float().mean()))
    assert right[0] < 0.5
    assert right[1] == 1
