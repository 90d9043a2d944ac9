"""Guided scores against Bayes' rule, both conventions, dropped labels; the judging."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week23.ddpm import TimeMLP, simple_loss, train
from week23.evidence import guidance as judge
from week23.guidance import classifier_free, classifier_gradient, classifier_guided, drop_labels
from week23.mixtures import Mixture
from week23.schedules import KINDS, Schedule, sample_ddpm

SCHEDULE = Schedule.cosine(40)
seeds = st.integers(0, 9999)


def mixture(seed):
    g = torch.Generator().manual_seed(seed)
    weights = torch.rand(3, generator=g, dtype=torch.double) + 0.2
    means = torch.randn(3, 2, generator=g, dtype=torch.double)
    return Mixture(weights / weights.sum(), means, 0.5 + torch.rand(3, generator=g).double())


def pieces(seed):
    data = mixture(seed)

    def at(t):
        a = float(SCHEDULE.alphas_bar[int(t[0])])
        return data.noised(a**0.5, (1 - a) ** 0.5)

    score = lambda x, t: at(t).score(x)  # noqa: E731
    return at, score, lambda x, t: at(t).log_joint(x).log_softmax(-1)


@given(seeds, st.integers(0, 39), st.sampled_from(KINDS))
def test_at_scale_one_guidance_gives_the_component(seed, time, kind):
    at, score, classifier = pieces(seed)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.double)
    t, labels = torch.full((6,), time), torch.tensor([0, 1, 2, 2, 1, 0])
    model = lambda x, t: SCHEDULE.convert(score(x, t), x, t, "score", kind)  # noqa: E731
    guided = classifier_guided(model, classifier, SCHEDULE, labels, scale=1.0, kind=kind)
    found = SCHEDULE.convert(guided(x, t), x, t, kind, "score")
    expected = torch.stack([at(t).given(k).score(x)[i] for i, k in enumerate(labels.tolist())])
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    unguided = classifier_guided(model, classifier, SCHEDULE, labels, scale=0.0, kind=kind)
    torch.testing.assert_close(unguided(x, t), model(x, t), atol=1e-6, rtol=1e-6)


def test_each_row_has_its_own_gradient_and_none_is_kept():
    _, _, classifier = pieces(1)
    x, t = torch.randn(4, 2, dtype=torch.double), torch.full((4,), 9)
    with torch.no_grad():
        together = classifier_gradient(classifier, x, t, torch.arange(4) % 3)
        alone = [
            classifier_gradient(classifier, x[[i]], t[[i]], torch.tensor([i % 3])) for i in range(4)
        ]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not together.requires_grad
    assert x.grad is None


@given(seeds, st.floats(0, 10))
def test_classifier_free_guidance_goes_from_u_towards_c(seed, w):
    u, c, x = (
        torch.randn(3, 2, generator=torch.Generator().manual_seed(seed + i)) for i in range(3)
    )
    net = lambda x, t, labels=None: u if labels is None else c  # noqa: E731
    found = classifier_free(net, torch.arange(3), scale=w)(x, torch.zeros(3).long())
    torch.testing.assert_close(found, (1 - w) * u + w * c, atol=1e-5, rtol=1e-5)


def test_scales_zero_and_one_are_exact_and_cost_one_pass():
    seen = []

    def net(x, t, labels=None):
        seen.append(labels)
        return x + (0.1 if labels is None else labels[:, None] * 0.3)

    x, t, labels = torch.rand(2, 3), torch.zeros(2).long(), torch.tensor([1, 2])
    assert torch.equal(classifier_free(net, labels, scale=0.0)(x, t), x + 0.1)
    assert torch.equal(classifier_free(net, labels, scale=1.0)(x, t), x + labels[:, None] * 0.3)
    assert len(seen) == 2


@given(seeds, st.floats(0, 1))
def test_labels_are_dropped_at_their_rate(seed, p):
    labels = torch.arange(2000) % 10
    found = drop_labels(labels, p, null=10, generator=torch.Generator().manual_seed(seed))
    gone = found == 10
    assert torch.equal(found[~gone], labels[~gone])
    assert abs(float(gone.float().mean()) - p) < 0.06


def test_a_network_whose_labels_were_all_dropped_knows_none():
    g = torch.Generator().manual_seed(0)
    net, y = TimeMLP(3, 8, 40, g, n_labels=4), torch.arange(12) % 4
    x0 = torch.randn(12, 3, generator=g)
    for p in (1.0, 0.0):

        def loss(i, p=p):
            labels = drop_labels(y[i], p, null=4, generator=g)
            t = torch.randint(40, (len(i),), generator=g)
            told = lambda x, t: net(x, t, labels)  # noqa: E731
            return simple_loss(SCHEDULE, told, x0[i], t, torch.randn(len(i), 3, generator=g))

        train(net, loss, 12, steps=4, generator=g)
        at = torch.randn(4, 3, generator=g), torch.arange(4) * 9
        same = torch.equal(net(*at, torch.arange(4)), net(*at))
        assert same == (p == 1.0)


def test_samples_at_scale_one_are_of_the_component():
    _, score, classifier = pieces(5)
    labels, g = torch.full((1500,), 1), torch.Generator().manual_seed(0)
    guided = classifier_guided(score, classifier, SCHEDULE, labels, scale=1.0, kind="score")
    start = torch.randn(1500, 2, generator=g, dtype=torch.double)
    x = sample_ddpm(guided, SCHEDULE, start, kind="score", variance="large", generator=g)
    data = mixture(5)
    assert float((x.mean(0) - data.means[1]).norm()) < 0.15
    assert float(x.var(0).mean()) == pytest.approx(float(data.spreads[1] ** 2), rel=0.2)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="scale must be at least 0, got -1"):
        classifier_free(lambda x, t: x, torch.zeros(1).long(), scale=-1)
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 2"):
        drop_labels(torch.zeros(1).long(), 2, null=1, generator=torch.Generator())
    _, _, classifier = pieces(0)
    must = r"labels must be integers of shape \(n = 2\), got torch.int64 of shape \(1\)"
    with pytest.raises(ValueError, match=must):
        classifier_gradient(
            classifier, torch.zeros(2, 2).double(), torch.zeros(2).long(), torch.zeros(1).long()
        )


def test_the_judges_components_are_those_of_its_labels():
    x = torch.randn(6, 2, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    t, labels = torch.full((6,), 20), torch.tensor([2, 0, 1, 1, 0, 2])
    found = judge.component_score(x, t, labels)
    for i, k in enumerate(labels.tolist()):
        torch.testing.assert_close(found[i], judge.at(t).given(k).score(x)[i])
    torch.testing.assert_close(judge.component_score(x, t), judge.exact_score(x, t))
