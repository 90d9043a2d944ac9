"""The rules of papers/2019-zero: what they count, and that the falsifier breaks them."""

import pytest
import torch
from test_scripts import load

from shared import papers, records
from week17.collectives import wire_bytes
from week17.zero import formula

paper = load(records.ROOT / "papers/2019-zero/reproduce.py")


def answer(held, sent, losses):
    """One process of two, at all stages; its parameters are a number without padding."""
    out = {}
    for stage in range(4):
        name = f"2 stage {stage}"
        out[f"{name} unpadded"] = torch.tensor(100)
        out[f"{name} bytes"] = torch.tensor([held(stage), 0, 0])
        out[f"{name} sent"] = torch.tensor(sent(stage))
        out[f"{name} losses"] = losses(stage)
    return out


def two(held=lambda s: int(formula(100, 2, s)), losses=lambda s: torch.ones(3)):
    return [answer(held, lambda s: wire_bytes(2, 200), losses)] * 2


def test_ratios_are_one_where_the_formula_holds():
    assert paper.ratios(two(), "bytes", (0, 1, 2, 3)) == pytest.approx([1, 1, 1, 1])
    assert paper.ratios(two(), "sent", (1, 2)) == pytest.approx([1, 1])


def test_parameters_that_are_kept_show():
    kept = two(held=lambda s: int(formula(100, 2, s)) + 200)
    rule = papers.load(paper.__file__).rules["bytes are the formula's"]
    assert paper.ratios(kept, "bytes", (3,)).min() > rule["at_most"]


def test_one_stage_whose_losses_differ_shows():
    losses = two(losses=lambda s: torch.tensor([1.0, 1.0, 1.0 + (s == 2)]))
    assert paper.loss_gap(losses) == pytest.approx(1.0)
    assert paper.loss_gap(two()) == 0
