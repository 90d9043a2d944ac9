"""Training on CIFAR-10: what decays, how filters move, what a vote and a table are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from torch import nn
from torch.nn import functional as F

from shared.records import ROOT
from shared.run import Run
from week09.muon import nearest_orthogonal
from week10.cifar10 import (
    FilterMuon,
    confusion,
    make_optimizers,
    predict,
    small_resnet,
    standardize,
    train,
    worst,
)
from week10.evidence.cifar10 import judge


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, seed=0):
    return torch.randn(n, 3, 32, 32, generator=generator(seed))


def test_standardized_pictures_have_mean_zero_and_variance_one():
    images = np.random.default_rng(0).integers(0, 256, (8, 5, 7, 3), dtype=np.uint8)
    mean, std = (tuple(f(images / 255, axis=(0, 1, 2)).tolist()) for f in (np.mean, np.std))
    x = standardize(images, mean=mean, std=std)
    assert x.shape == (8, 3, 5, 7)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3), correction=0), torch.ones(3))
    expected = (images[2, 3, 4, 1] / 255 - mean[1]) / std[1]
    assert x[2, 1, 3, 4].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "muon"])
def test_each_parameter_is_held_once_and_gains_do_not_decay(kind):
    model = small_resnet(8, 4)
    made = make_optimizers(model, kind, lr=0.1)
    held = [p for one in made for p in getattr(one, "filters", None) or one.params]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))
    for one in made:
        if not isinstance(one, FilterMuon):
            decays = {p.ndim > 1 for p in one.params}
            assert decays == {one.weight_decay > 0}


@settings(max_examples=10)
@given(shape=st.tuples(*[st.integers(1, 4)] * 4), seed=st.integers(0, 99))
def test_a_filter_step_is_orthogonal(shape, seed):
    bank = nn.Parameter(torch.randn(shape, generator=generator(seed)))
    before = bank.detach().clone()
    exact = {"ns_steps": 40, "ns_coefficients": (2, -1.5, 0.5), "adjust_lr_fn": "original"}
    muon = FilterMuon([bank], lr=0.1, momentum=0.0, **exact)
    bank.grad = torch.randn(shape, generator=generator(seed + 1))
    matrix = bank.grad.flatten(1)
    if torch.linalg.svdvals(matrix).min() < 0.05 * matrix.norm():
        return  # needs more iterations
    muon.step()
    step = nearest_orthogonal(matrix) * max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
    torch.testing.assert_close((before - bank.detach()).flatten(1), 0.1 * step, atol=1e-4, rtol=0)


def test_filter_muon_forgets_and_skips():
    banks = [nn.Parameter(torch.ones(2, 2, 1, 1)) for _ in range(2)]
    muon = FilterMuon(banks, lr=0.5)
    banks[0].grad = torch.ones(2, 2, 1, 1)
    muon.step()
    assert torch.equal(banks[1], torch.ones(2, 2, 1, 1))
    assert not torch.equal(banks[0], torch.ones(2, 2, 1, 1))
    muon.zero_grad()
    after = banks[0].detach().clone()
    muon.step()
    assert torch.equal(banks[0], after)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_it_learns_a_few_pictures_by_heart(optimizer):
    torch.manual_seed(0)
    x, y = pictures(20), torch.arange(20) % 10
    model = small_resnet(8, 8)
    options = {"lr": 0.1, "steps": 40, "batch_size": 20, "padding": 0, "generator": generator()}
    losses = train(model, x, y, optimizer=optimizer, **options)
    assert losses[-5:].mean() < 0.3 * losses[0]


def test_memory_order_and_precision_change_little():
    losses = []
    for options in ({}, {"channels_last": True}, {"bf16": True}):
        torch.manual_seed(0)
        model, x, y = small_resnet(8, 4), pictures(16), torch.arange(16) % 10
        setting = {"lr": 0.02, "steps": 3, "batch_size": 8, "generator": generator()}
        losses.append(train(model, x, y, **setting, **options))
    torch.testing.assert_close(losses[1], losses[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(losses[2], losses[0], atol=0.1, rtol=0)


def test_an_epoch_sees_each_picture_once():
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1, 10))

        def forward(self, x):
            seen.extend(x[:, 0, 0, 0].tolist())
            return x[:, 0, 0, :1] @ self.w

    x = torch.arange(10.0).view(10, 1, 1, 1).expand(10, 3, 2, 2)
    options = {"lr": 0.1, "steps": 5, "batch_size": 4, "padding": 0, "generator": generator()}
    train(Spy(), x, torch.zeros(10, dtype=torch.long), **options)
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_a_vote_does_not_mind_a_mirror_and_a_batch():
    model = small_resnet(8, 4)
    x = pictures(6)
    plain, vote = predict(model.train(), x), predict(model, x, flips=True)
    torch.testing.assert_close(vote, predict(model, x.flip(3), flips=True))
    torch.testing.assert_close(2 * vote, plain + predict(model, x.flip(3)))
    torch.testing.assert_close(predict(model, x, batch_size=4), plain)
    assert not model.training


@pytest.mark.filterwarnings("ignore:A single label was found")
@given(n=st.integers(1, 40), n_classes=st.integers(1, 6), seed=st.integers(0, 99))
def test_confusion_equals_scikit_learn(n, n_classes, seed):
    y, answers = torch.randint(n_classes, (2, n), generator=generator(seed))
    expected = confusion_matrix(y, answers, labels=range(n_classes))
    assert np.array_equal(confusion(y, answers, n_classes).numpy(), expected)


def test_worst_pictures_come_first():
    logits, y = torch.randn(9, 4, generator=generator()), torch.arange(9) % 4
    rows = worst(logits, y, 5)
    losses = F.cross_entropy(logits, y, reduction="none")
    assert losses[rows].tolist() == sorted(losses.tolist(), reverse=True)[:5]
    assert len(worst(logits, y, 20)) == 9


def test_judging_by_a_made_up_table(tmp_path):
    run = Run(ROOT / "weeks/10/cifar10.py", out=tmp_path, quiet=True)
    levels = {"ResNet": 0.5, "LeNet-5": 0.3, "linear model": 0.3, "5 nearest neighbors": 0.3}
    levels |= {"ResNet, flips in use": 0.52, "ResNet, shuffled labels": 0.1}
    place = torch.linspace(0, 1, 1000)
    right = {
        name: torch.stack([place < level + wobble for wobble in (-0.001, 0.0, 0.001)])
        for name, level in levels.items()
    }
    judge(run, right)
    assert [claim["verdict"] for claim in run.claims] == ["holds"] * 5
    assert run.claims[0]["mean"] == pytest.approx(20, abs=0.3)
    assert all(row["broken"] for row in run.falsifiers)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: FilterMuon([nn.Parameter(torch.ones(2, 2))]),
            r"weights of convolutions, got \(2, 2\)",
        ),
        (lambda: small_resnet(9), r"depth must be 6n \+ 2 .*, got 9"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
