"""The acceptance rules of the speculative decoding paper's reproduction."""

import pytest
import torch
from test_scripts import load

from shared import records

reproduce = load(records.ROOT / "papers/2023-speculative-decoding/reproduce.py")


def test_long_run_rate_weighs_states_by_visits():
    """A state that is visited nine times as often counts nine times as much."""
    target = torch.tensor([[0.9, 0.1], [0.9, 0.1]], dtype=torch.float64)
    draft = torch.tensor([[0.9, 0.1], [0.0, 1.0]], dtype=torch.float64)
    assert reproduce.long_run_rate(target, draft) == pytest.approx(0.9 * 1.0 + 0.1 * 0.1)


def test_deviations_have_no_sign():
    found = {"measured": [1.1, 1.8], "formula": [1.0, 2.0]}
    assert reproduce.deviations(found) == pytest.approx([0.1, 0.1])
