"""The curvature ratio, the mask and the verdict rule of papers/2018-visualizing-loss-landscape."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2018-visualizing-loss-landscape/reproduce.py")


def generator():
    return torch.Generator().manual_seed(1)


def quadratic(diagonal):
    values = torch.tensor(diagonal, dtype=torch.float64)
    return lambda theta: 0.5 * (values * theta**2).sum()


@pytest.mark.parametrize(
    ("diagonal", "ratio"),
    [
        ([4.0, 1.0, -1.0], 0.25),
        ([4.0, 1.0, 0.5], 0.0),  # convex: the smallest eigenvalue is not negative
        ([1.0, 0.0, -3.0], 3.0),
        ([0.0, 0.0, 0.0], 0.0),  # flat
        ([-1.0, -2.0, -3.0], 1e6),  # no positive curvature: capped
    ],
)
def test_ratio_by_hand(diagonal, ratio):
    points, mask = torch.zeros(2, 3).double(), torch.ones(3).double()
    found = paper.curvature_ratios(quadratic(diagonal), points, mask, generator(), steps=3)
    np.testing.assert_allclose(found, [ratio, ratio], atol=1e-9)


def test_masked_parameters_do_not_count():
    mask = torch.tensor([1.0, 1.0, 0.0]).double()
    loss = quadratic([2.0, -1.0, -100.0])
    found = paper.curvature_ratios(loss, torch.zeros(1, 3).double(), mask, generator(), steps=3)
    assert found[0] == pytest.approx(0.5)


def test_mask_keeps_matrices_and_drops_biases():
    mask = paper.matrices_only({"w": torch.zeros(2, 2), "b": torch.zeros(3), "v": torch.ones(1, 2)})
    assert mask.tolist() == [1] * 4 + [0] * 3 + [1] * 2


def test_same_seed_same_start_whatever_trains_beside_it():
    data = paper.digits()
    _, alone = paper.train(8, True, [5], [0.0], 1, data)
    _, beside = paper.train(8, True, [4, 5], [0.0, 0.0], 1, data)
    assert torch.equal(alone[0], beside[1])
