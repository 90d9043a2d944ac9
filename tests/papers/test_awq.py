"""Kept columns and the judging of papers/2023-awq."""

import copy

import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week18.llama3 import Llama, LlamaConfig
from week19.folding import LAYERS
from week19.layer_inputs import block_inputs

SCRIPT = records.ROOT / "papers/2023-awq/reproduce.py"
paper = load(SCRIPT)


@pytest.mark.parametrize("by", ["activation", "weight", "random"])
def test_one_percent_stays_exact(by):
    generator = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig(7, 96, 1, 4), generator).requires_grad_(False)
    angles = torch.arange(6)[:, None] * model.frequencies
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    block = model.blocks[0]
    _, inputs = block_inputs(block, model.embed(torch.arange(6)[None]), *rotary)
    changed = copy.deepcopy(block)
    options = {"bits": 3, "group_size": 32, "generator": generator}
    paper.keep_block(changed, inputs, by=by, **options)
    for name in LAYERS:
        before, after = getattr(block, name).weight, getattr(changed, name).weight
        kept = (before == after).all(0)
        assert kept.sum() == max(1, round(0.01 * before.shape[1]))
        if by == "activation" and name == "down_proj":
            assert kept[inputs[name].mean.argmax()]
        if by == "weight":
            assert kept[before.norm(dim=0).argmax()]


def test_judging_by_made_up_losses(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    row = {"nearest": 3.0, "1 % by activation": 2.5, "1 % by weight": 2.9}
    row |= {"1 % at random": 2.99, "AWQ": 2.7}
    paper.judge(run, papers.load(SCRIPT), [row, row])
    means = [claim["mean"] for claim in run.claims]
    assert means == pytest.approx([0.5, 0.4, 0.49, 0.6])
    expected = ["reproduced", "reproduced", "reproduced", "not reproduced"]
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    run.mode = "default"
    paper.judge(run, papers.load(SCRIPT), [row, row])
    assert [claim["verdict"] for claim in run.claims] == expected
    assert run.falsifiers[0]["broken"]
