"""Batch normalization, first weights, crops and flips against torch's and torchvision's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.transforms.functional import crop as their_crop
from torchvision.transforms.functional import pad

from shared.records import ROOT
from shared.run import Run
from week10.augmentation import crop, flip, random_crop, random_flip
from week10.cnn_ablations import BatchNorm2d, Recipe, SmallCNN, accuracy, train, weight_std
from week10.evidence.cnn_ablations import ARMS, judge


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=15)
@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4).filter(lambda s: s[0] * s[2] * s[3] > 1),
    momentum=st.floats(0.01, 1),
    scale=st.sampled_from([1e-3, 1.0, 30.0]),
    seed=st.integers(0, 99),
)
def test_batch_norm_equals_torch_s(shape, momentum, scale, seed):
    ours, theirs = (
        norm(shape[1], momentum=momentum).double() for norm in (BatchNorm2d, nn.BatchNorm2d)
    )
    with torch.no_grad():
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            q.copy_(p.copy_(torch.randn(p.shape, generator=generator(seed))))
    for training in (True, True, False):
        x = torch.randn(shape, generator=generator(seed + 1), dtype=torch.float64) * scale + 1
        x.requires_grad_()
        outputs = [norm.train(training)(x) for norm in (ours, theirs)]
        torch.testing.assert_close(*outputs, rtol=1e-7, atol=1e-7)
        up = torch.randn(shape, generator=generator(seed + 2), dtype=torch.float64)
        grads = [
            torch.autograd.grad(y, (x, *norm.parameters()), up)
            for y, norm in zip(outputs, (ours, theirs), strict=True)
        ]
        torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-6 / scale)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_batch_norm_divides_by_n_and_remembers_by_n_minus_1():
    norm = BatchNorm2d(1)
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1, 1)
    assert norm(x).std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert norm.running_var.item() == pytest.approx(1.0667, abs=1e-4)
    assert norm.running_mean.item() == pytest.approx(0.25)


def test_in_use_a_picture_does_not_see_its_batch():
    norm = BatchNorm2d(2)
    norm(torch.randn(8, 2, 3, 3, generator=generator()))
    before = norm.running_mean.clone()
    x = torch.randn(5, 2, 3, 3, generator=generator(1))
    torch.testing.assert_close(norm.eval()(x)[:1], norm(x[:1]))
    assert torch.equal(norm.running_mean, before)


@settings(max_examples=10)
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    padding=st.integers(0, 3),
    fill=st.sampled_from([0.0, -1.5]),
    seed=st.integers(0, 99),
)
def test_crops_and_flips_equal_torchvision_s(shape, padding, fill, seed):
    x = torch.randn(shape, generator=generator(seed))
    corners = torch.randint(2 * padding + 1, (shape[0], 2), generator=generator(seed + 1))
    padded = pad(x, padding, fill=fill)
    theirs = [
        their_crop(p, *corner.tolist(), *shape[2:])
        for p, corner in zip(padded, corners, strict=True)
    ]
    assert torch.equal(crop(x, corners, padding=padding, fill=fill), torch.stack(theirs))
    mirrored = torch.rand(shape[0], generator=generator(seed)) < 0.5
    expected = [
        torch.from_numpy(np.fliplr(p.permute(1, 2, 0).numpy()).copy()).permute(2, 0, 1) if m else p
        for p, m in zip(x, mirrored, strict=True)
    ]
    assert torch.equal(flip(x, mirrored), torch.stack(expected))


def test_the_border_is_what_is_said():
    x = torch.ones(1, 1, 3, 3)
    corner = torch.zeros(1, 2, dtype=torch.long)
    black = (crop(x, corner, padding=1) - 0.5) / 0.25  # padded, then standardized
    gray = crop((x - 0.5) / 0.25, corner, padding=1)
    assert black[0, 0, 0, 0] == -2
    assert gray[0, 0, 0, 0] == 0


def test_crops_of_two_workers_and_two_epochs_differ():
    x = torch.arange(64.0).view(1, 1, 8, 8).expand(16, 1, 8, 8)
    draws = {}
    for worker in range(2):
        g = generator(worker)
        for epoch in range(2):
            draws[worker, epoch] = random_crop(x, g, padding=4)
    tables = [t.numpy().tobytes() for t in draws.values()]
    assert len(set(tables)) == 4
    assert torch.equal(random_crop(x, generator(1), padding=4), draws[1, 0])


def test_all_places_are_drawn_and_half_is_mirrored():
    x = torch.zeros(2000, 1, 5, 5)
    x[:, :, 2, 2] = 1
    assert len(random_crop(x, generator(), padding=2).flatten(1).argmax(1).unique()) == 25
    x = torch.arange(2.0).view(1, 1, 1, 2).expand(2000, 1, 1, 2)
    assert 0.45 < random_flip(x, generator())[:, 0, 0, 0].mean() < 0.55


@pytest.mark.parametrize("activation", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("norm", [True, False])
def test_weights_start_as_asked(norm, activation):
    for init in ("he", "glorot", "small"):
        model = SmallCNN(Recipe(norm, init, activation), generator=generator())
        conv = model.convs[-1]
        expected = weight_std(init, 9 * 32, 9 * 32)
        assert conv.weight.std().item() == pytest.approx(expected, rel=0.05)
        assert (conv.bias is None) == norm
    assert model(torch.ones(2, 1, 14, 14)).shape == (2, 10)
    assert weight_std("glorot", 9, 72) == pytest.approx((2 / 81) ** 0.5)


def test_training_uses_the_augmented_batch():
    x, y = torch.zeros(10, 1, 6, 6), torch.zeros(10, dtype=torch.long)
    seen = []

    def augment(batch, g):
        seen.append(g)
        return batch + 1

    model = SmallCNN(Recipe(), generator=generator())
    losses = train(model, x, y, lr=0.1, steps=2, generator=generator(), augment=augment)
    assert len(seen) == len(losses) == 2
    assert model.norms[0].running_mean.abs().max() > 0  # zeros would leave it at zero


def test_accuracy_is_taken_in_use():
    model = SmallCNN(Recipe(), generator=generator()).train()
    x = torch.randn(7, 1, 6, 6, generator=generator())
    y = model.eval()(x).argmax(1)
    before = model.norms[0].running_mean.clone()
    assert accuracy(model.train(), x, y) == 100
    assert torch.equal(model.norms[0].running_mean, before)


def test_judging_by_a_made_up_table(tmp_path):
    run = Run(ROOT / "weeks/10/cnn_ablations.py", out=tmp_path, quiet=True)
    levels = dict(zip(ARMS, (94, 80, 94.2, 93, 10, 92, 90, 10, 95, 85, 10), strict=True))
    right = {name: [v - 0.1, v, v + 0.1] for name, v in levels.items()}
    judge(run, right, {"all of it": [79.9, 80, 80.1], "moved": [89.9, 90, 90.1]})
    assert [claim["verdict"] for claim in run.claims] == ["holds"] * 7
    assert [claim["mean"] for claim in run.claims] == pytest.approx(
        [14, 83, 70, -0.2, 1, 10, 10], abs=1e-4
    )
    assert all(row["broken"] for row in run.falsifiers)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BatchNorm2d(2)(torch.ones(1, 2, 1, 1)), "more than 1 value per channel .*, got 1"),
        (lambda: BatchNorm2d(2, momentum=0), r"momentum must lie in \(0, 1\], got 0"),
        (lambda: weight_std("ones", 1, 1), "init must be one of he, glorot, small, got ones"),
        (lambda: random_crop(torch.ones(1, 1, 2, 2), generator(), padding=-1), "padding must be"),
        (
            lambda: crop(torch.ones(1, 1, 2, 2), torch.tensor([[0, 3]]), padding=1),
            "corners must lie between 0 and 2 padding = 2, got 0 to 3",
        ),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
