"""The judging of papers/2022-gptq."""

import pytest
import torch
from test_scripts import load

from shared import records
from shared.run import Run
from week18.llama3 import Llama, LlamaConfig
from week19.layer_inputs import block_inputs, round_block

SCRIPT = records.ROOT / "papers/2022-gptq/reproduce.py"
paper = load(SCRIPT)


def test_the_diagonal_alone_rounds_to_nearest():
    model = Llama(LlamaConfig(7, 16, 1, 2), torch.Generator().manual_seed(0)).requires_grad_(False)
    angles = torch.arange(5)[:, None] * model.frequencies
    x = model.embed(torch.arange(5)[None])
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    block = model.blocks[0]
    _, inputs = block_inputs(block, x, *rotary)
    before = {name: p.clone() for name, p in block.named_parameters()}
    options = {"bits": 3, "group_size": 8}
    paper.diagonal_block(block, inputs, **options)
    found = {name: p.clone() for name, p in block.named_parameters()}
    block.load_state_dict(before)
    round_block(block, inputs, **options)
    for name, p in block.named_parameters():
        torch.testing.assert_close(found[name], p)


def test_judging_by_made_up_losses(tmp_path, monkeypatch):
    row = {f"{name}, {bits} bits": 1.0 for name in ("nearest", "diagonal") for bits in (4, 3, 2)}
    row |= {"GPTQ, 4 bits": 1.5, "GPTQ, 3 bits": 0.4, "GPTQ, 2 bits": 0.9}
    monkeypatch.setattr(paper, "added_losses", lambda *size: (2.0, row))
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    paper.main(run)
    verdicts = [claim["verdict"] for claim in run.claims]
    assert verdicts == ["reproduced", "not reproduced", "reproduced"]
    assert run.falsifiers[0]["broken"]
    assert [c["mean"] for c in run.claims] == pytest.approx([0.4, 1.5, 0.9])
