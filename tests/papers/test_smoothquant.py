"""Planting and the judging of papers/2022-smoothquant."""

import pytest
import torch
from test_scripts import load

from shared import records
from shared.run import Run
from week18.llama3 import Llama, LlamaConfig
from week19.layer_inputs import block_inputs

SCRIPT = records.ROOT / "papers/2022-smoothquant/reproduce.py"
paper = load(SCRIPT)


def test_planted_outliers_are_there_and_change_nothing():
    model = Llama(LlamaConfig(11, 64, 2, 4, 2), torch.Generator().manual_seed(0))
    model = model.double().requires_grad_(False)
    planted = paper.plant(model, 0, 50.0)
    tokens = torch.arange(11)[None]
    torch.testing.assert_close(planted(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    angles = torch.arange(11)[:, None] * model.frequencies.double()
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    x = model.embed(tokens)
    most = [block_inputs(m.blocks[0], x, *rotary)[1]["q_proj"].most for m in (model, planted)]
    ratio = (most[1] / most[0]).round(decimals=3)
    assert ratio.unique().tolist() == [1, 50]
    assert (ratio == 50).sum() == 2


def test_layers_without_outliers_have_little_to_gain():
    assert len(paper.layer_errors(0, 1.0)) == 1 + len(paper.ALPHAS)
    errors = paper.layer_errors(0, 20.0)
    assert errors[3] < errors[0] / 3 < errors[1]


def test_judging_by_made_up_errors(tmp_path, monkeypatch):
    def errors(seed, outliers):
        return [1.0, 1.0, 0.5, 0.3, 0.6, 1.0] if outliers > 1 else [1.0, 1, 1, 0.9, 1, 1]

    monkeypatch.setattr(paper, "layer_errors", errors)
    losses = {"as it is": 2.0, "W8A8": 3.0, "SmoothQuant": 2.7}
    monkeypatch.setattr(paper, "model_losses", lambda *size: losses)
    monkeypatch.setattr(paper, "check", lambda run: None)
    run = Run(SCRIPT, out=tmp_path, quiet=True, mode="default")
    paper.main(run)
    verdicts = [claim["verdict"] for claim in run.claims]
    assert verdicts == ["reproduced", "reproduced", "not reproduced"]
    assert [c["mean"] for c in run.claims] == pytest.approx([0.3, 0.5, 0.7])
    assert run.falsifiers[0]["broken"]
