"""Nets, draws and the rule of papers/2014-dropout."""

import itertools

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2014-dropout/reproduce.py")
Arm = paper.Arm


def test_falsifier_of_p_zero_is_the_plain_net_to_the_bit():
    plain, none = paper.Nets([Arm(0.01)], [0]), paper.Nets([Arm(0.01, dropping=0.0)], [0])
    x, y = torch.randn(1, 8, 64), torch.randint(10, (1, 8))
    for _ in range(3):
        losses = [n.step(x, y, torch.Generator().manual_seed(0)) for n in (plain, none)]
        assert torch.equal(*losses)


def test_thinned_nets_average_to_the_scaled_one_where_it_is_linear():
    nets = paper.Nets([Arm(0.01, dropping=1.0)], [0])
    x = torch.rand(1, 4, 64)
    with torch.no_grad():
        for weight, bias in zip(nets.weights[:-1], nets.biases[:-1], strict=True):
            weight.abs_()  # every unit is on, so that the net is linear
            bias.fill_(1.0)
    g = torch.Generator().manual_seed(0)
    passes = torch.stack([nets.forward(x, g) for _ in range(4000)])
    error = 5 * passes.std(0) / 4000**0.5
    assert ((passes.mean(0) - nets.forward(x)).abs() < error).all()


def test_frozen_masks_are_the_same_in_training_and_in_use():
    nets = paper.Nets([Arm(0.01, dropping=1.0, frozen=True), Arm(0.01, dropping=1.0)], [0, 1])
    x = torch.randn(2, 4, 64)
    a, b = (nets.forward(x, torch.Generator().manual_seed(k)) for k in (0, 1))
    used = nets.forward(x)
    torch.testing.assert_close(a[0], used[0])
    torch.testing.assert_close(b[0], used[0])
    assert not torch.allclose(a[1], b[1])
    share = (nets.masks[1][0] == 0).double().mean()
    assert 0.3 < share < 0.7


def test_test_rows_are_never_drawn():
    rows = paper.draw(200, [0, 1, 2])
    everything = torch.cat([rows.x, rows.x_valid], dim=1)
    test = {row.numpy().tobytes() for row in rows.x_test[0]}
    for one in everything:
        drawn = [row.numpy().tobytes() for row in one]
        assert not test & set(drawn)
        assert len(set(drawn)) == 500
    assert not torch.equal(rows.x[0], rows.x[1])


def test_error_and_loss_by_hand():
    logits = torch.tensor([[[2.0, 0.0], [0.0, 2.0]], [[0.0, 0.0], [float("nan"), 0.0]]])
    logits = torch.cat([logits, torch.full((2, 2, 8), -torch.inf)], dim=2)
    error, loss = paper.error_and_loss(logits, torch.tensor([[0, 0]]))
    assert error[0] == 50
    assert loss[0] == pytest.approx(np.log1p(np.exp(-2)) + 1)
    assert loss[1] == np.inf


def test_averaging_is_of_probabilities():
    nets = paper.Nets([Arm(0.01, dropping=1.0)], [0])
    x = torch.randn(1, 3, 64)
    mean = paper.averaged(nets, x, 4, torch.Generator().manual_seed(0)).exp()
    g = torch.Generator().manual_seed(0)
    passes = torch.stack([nets.forward(x, g).softmax(-1) for _ in range(4)])
    torch.testing.assert_close(mean, passes.mean(0))
    torch.testing.assert_close(mean.sum(-1), torch.ones(1, 3))


def test_same_seed_same_start_and_same_rows():
    arms = [Arm(0.003), Arm(0.01, dropping=1.0)]
    nets, rows, along = paper.train(arms, [4, 4], 60, 3)
    assert torch.equal(rows.x[0], rows.x[1])
    assert along.shape == (1, 2)
    fresh = paper.Nets(arms, [4, 4])
    for a, b in itertools.pairwise(fresh.weights[0]):
        assert torch.equal(a, b)
    assert not torch.equal(nets.weights[0][0], nets.weights[0][1])


def test_wrong_input():
    with pytest.raises(ValueError, match="arms must have as many entries as seeds, 2, got 1"):
        paper.Nets([Arm(0.1)], [0, 1])
    with pytest.raises(ValueError, match="n must be between 1 and 1000, got 1001"):
        paper.draw(1001, [0])
