"""Ways, training and the judging of papers/2023-yarn."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run

SCRIPT = records.ROOT / "papers/2023-yarn/reproduce.py"
paper = load(SCRIPT)


def test_tuning_starts_from_the_model_and_leaves_it_alone():
    text = torch.arange(3000) % 11
    model = paper.trained(text, 11, seed=0, steps=2)
    before = {name: p.clone() for name, p in model.state_dict().items()}
    after = paper.tuned(model, "YaRN", 1, text, seed=0)
    assert after.config.rope_scaling == paper.scaling("YaRN")
    assert after.config.context == 256
    assert not torch.equal(after.embed.weight, before["embed.weight"])
    for name, p in model.state_dict().items():
        assert torch.equal(p, before[name])


def test_the_late_loss_is_that_of_the_last_quarter():
    class Knows(torch.nn.Module):
        """Right in the last quarter only."""

        def forward(self, x):
            logits = torch.zeros(*x.shape, 5)
            right = torch.nn.functional.one_hot((x + 1) % 5, 5).float()
            logits[:, 192:] = 50 * right[:, 192:]
            return logits

    text = torch.arange(600) % 5
    losses = paper.loss_by_position(Knows(), text, paper.LONG)
    assert losses[-paper.CONTEXT :].mean() < 1e-6
    assert losses[: -paper.CONTEXT].min() > 1


def test_judging_by_a_made_up_table(tmp_path):
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    levels = {"as trained": 3.0, "interpolation": 2.9, "NTK": 2.5, "YaRN": 2.0, "factor 1": 3.0}
    untuned = {name: np.array([v, v + 0.1]) for name, v in levels.items()}
    after = {
        "interpolation": np.array([[2.6, 2.2, 1.9], [2.7, 2.3, 2.0]]),
        "YaRN": np.array([[1.95, 1.8, 1.7], [1.9, 1.8, 1.7]]),
    }
    paper.judge(run, papers.load(SCRIPT), untuned, after)
    verdicts = [claim["verdict"] for claim in run.claims]
    assert verdicts == ["reproduced", "reproduced", "not reproduced", "reproduced"]
    assert [claim["mean"] for claim in run.claims] == pytest.approx([1.0, 0.9, 0.025, 0.25])
    assert all(row["broken"] for row in run.falsifiers)
    assert {m["name"]: m["value"] for m in run.metrics}["late loss after all, YaRN"] == 1.7


def test_wrong_input():
    with pytest.raises(
        ValueError, match="name must be one of as trained, interpolation, NTK, YaRN"
    ):
        paper.scaling("ALiBi")
