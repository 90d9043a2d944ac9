"""The acceptance rules of the DoRA paper's reproduction."""

import pytest
import torch
from test_scripts import load

from shared import records
from week20.dora import DoRALinear
from week20.lora import LoRAConfig, inject
from week20.tiny_vit import ViT

reproduce = load(records.ROOT / "papers/2024-dora/reproduce.py")


def test_points_are_means_over_rows():
    before = {"a": torch.tensor([[1.0, 0.0], [2.0, 0.0]])}
    after = {"a": torch.tensor([[0.0, 3.0], [4.0, 0.0]])}
    assert reproduce.moved(before, after) == [(pytest.approx(2.0), pytest.approx(0.5))]


def test_correlation_has_its_sign():
    assert reproduce.correlation([(1.0, 3.0), (2.0, 2.0), (3.0, 1.0)]) == pytest.approx(-1)
    assert reproduce.correlation([(1.0, 1.0), (2.0, 2.0), (3.0, 3.5)]) > 0.9


def test_weights_include_corrections_and_have_the_same_names():
    model = ViT(torch.Generator().manual_seed(0))
    plain = reproduce.weights(model)
    assert len(plain) == 12
    inject(model, LoRAConfig(2, targets=reproduce.LINEAR), layer=DoRALinear)
    again = reproduce.weights(model)
    assert list(again) == list(plain)
    torch.testing.assert_close(again["blocks.0.up"], plain["blocks.0.up"])
    model.blocks[0].up.magnitude.data *= 2
    torch.testing.assert_close(reproduce.weights(model)["blocks.0.up"], 2 * plain["blocks.0.up"])
