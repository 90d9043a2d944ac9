"""Arms and the judging of papers/2025-kimi-k2."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week18.llama3 import Llama, LlamaConfig

SCRIPT = records.ROOT / "papers/2025-kimi-k2/reproduce.py"
paper = load(SCRIPT)
CONFIG = LlamaConfig(7, 16, 1, 2, context=32)


def fitted(arm, tau, steps=3):
    text = torch.arange(400) % 7
    return paper.fit(arm, text, CONFIG, tau=tau, lr_scale=1.0, steps=steps, seed=0)


def test_arms_start_alike_and_a_high_threshold_changes_nothing():
    free, clipped = fitted("Muon", 1e-6), fitted("MuonClip", 1e9)
    assert torch.equal(free[1], clipped[1])
    assert free[2] == clipped[2]
    assert fitted("MuonClip", 1e-6)[2][1:] != free[2][1:]


def test_redrawn_heads_are_those_above_tau():
    model = Llama(CONFIG, torch.Generator().manual_seed(0))
    block = model.blocks[0]
    with torch.no_grad():
        block.q_proj.weight[:8] *= 1e4
    clip = paper.Redrawn(model, 1.0)
    model(torch.arange(12)[None] % 7)
    before = block.q_proj.weight.clone()
    assert (clip.largest[0] > 1).tolist() == [True, False]
    clip.tau = 1.0
    torch.manual_seed(0)
    clip.step()
    assert block.q_proj.weight[:8].abs().max() < 0.2  # far below what it was
    assert torch.equal(block.q_proj.weight[8:], before[8:])


def test_judging_by_a_made_up_table(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    scores = {
        arm: np.full((2, 10, 1, 2), level)
        for arm, level in (("Muon", 50.0), ("MuonClip", 90.0), ("redrawn", 0.0))
    }
    scores["Muon"][:, 6, 0, 1] = 400
    scores["MuonClip"][:, 1, 0, 0] = 170  # early: before the clip settles
    losses = {
        "Muon": np.array([2.0, 2.1]),
        "MuonClip": np.array([1.99, 2.09]),
        "redrawn": np.array([2.5, 2.6]),
    }
    paper.judge(run, papers.load(SCRIPT), scores, losses)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced"] * 3
    assert [claim["mean"] for claim in run.claims] == pytest.approx([4.0, 0.9, -0.01])
    assert all(row["broken"] for row in run.falsifiers)
    metrics = {m["name"]: m["value"] for m in run.metrics}
    assert metrics["largest score, MuonClip"] == pytest.approx(170)
    assert metrics["heads that were ever clipped"] == 50


def test_wrong_input():
    with pytest.raises(ValueError, match="arm must be one of Muon, MuonClip, redrawn, got Adam"):
        fitted("Adam", 1.0)
