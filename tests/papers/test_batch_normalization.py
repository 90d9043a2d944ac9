"""Nets, counting and the rule of papers/2015-batch-normalization."""

import numpy as np
import pytest
import torch
from test_scripts import load
from torch import nn

from shared import records

paper = load(records.ROOT / "papers/2015-batch-normalization/reproduce.py")


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
@pytest.mark.parametrize("arm", ["plain", "normalized"])
def test_five_steps_are_torchs(arm, activation):
    nets, layers = paper.Nets(arm, [0.1, 0.3], [0, 1], (8, 8), activation), []
    for i, weight in enumerate(nets.weights):
        layers.append(nn.Linear(*weight.shape[1:]))
        with torch.no_grad():
            layers[-1].weight.copy_(weight[1].T)
            layers[-1].bias.zero_()
        if i < 2:
            layers += [nn.BatchNorm1d(8)] if arm == "normalized" else []
            layers.append(nn.Sigmoid() if activation == "sigmoid" else nn.ReLU())
    alone = nn.Sequential(*layers)
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.3)
    for _ in range(5):
        x, y = torch.randn(2, 16, 64), torch.randint(10, (2, 16))
        loss = nn.functional.cross_entropy(alone(x[1]), y[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        torch.testing.assert_close(nets.step(x, y)[1], loss.detach(), atol=1e-5, rtol=1e-5)
    used = nets.forward(x, training=False)[1]
    torch.testing.assert_close(used, alone.eval()(x[1]), atol=1e-4, rtol=1e-4)


def test_affine_arm_starts_as_the_plain_net_and_learns_its_gain():
    plain, affine = (paper.Nets(arm, [0.5], [3], (6,)) for arm in ("plain", "affine only"))
    x, y = torch.randn(1, 12, 64), torch.randint(10, (1, 12))
    torch.testing.assert_close(*(n.forward(x, training=True) for n in (plain, affine)))
    affine.step(x, y)
    assert (affine.norms[0].gain != 1).any()


def test_steps_to_counts_from_one_and_stops_at_the_end():
    accuracy = np.array([[0.1, 0.5, 0.9], [0.9, 0.1, 0.1], [0.1, 0.1, 0.1]])
    counted = paper.steps_to(accuracy, np.full(3, 0.5))
    np.testing.assert_array_equal(counted, paper.EVERY * np.array([2, 1, 3]))


def test_smoothing_averages_what_there_was():
    rows = np.array([[1.0, 3.0, 5.0, 7.0, 9.0, 21.0]])
    np.testing.assert_allclose(paper.smooth(rows), [[1, 2, 3, 4, 5, 9]])


def test_usable_range_stops_at_a_gap():
    lrs = np.array([0.1, 0.3, 1.0, 3.0, 10.0])
    assert paper.usable_range(lrs, np.array([9.0, 1.4, 1.0, 1.6, 1.1])) == pytest.approx(1 / 0.3)
    assert paper.usable_range(lrs, np.array([1.4, 1.4, 1.0, 1.4, np.inf])) == pytest.approx(30)


def test_ratio_needs_both_to_arrive():
    curves = {"plain": np.array([[0.2, 0.6, 0.8]]), "normalized": np.array([[0.6, 0.7, 0.7]])}
    ratios = paper.ratios_by_target(curves, np.array([0.5, 0.75]))
    np.testing.assert_array_equal(ratios, [[2.0], [np.nan]])


def test_wrong_input():
    with pytest.raises(ValueError, match="arm must be one of plain, normalized, affine only, got"):
        paper.Nets("batch", [0.1], [0])
    with pytest.raises(ValueError, match="activation must be sigmoid or relu, got 'tanh'"):
        paper.Nets("plain", [0.1], [0], activation="tanh")
    with pytest.raises(ValueError, match="lrs must have as many entries as seeds, 2, got 1"):
        paper.Nets("plain", [0.1], [0, 1])
