"""Savings, arms and the judging of papers/2024-deepseek-v2."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run

SCRIPT = records.ROOT / "papers/2024-deepseek-v2/reproduce.py"
paper = load(SCRIPT)


def test_savings_by_hand():
    latents, grouped = 60 * (512 + 64), 95 * 2 * 8 * 128
    assert (latents, grouped) == (34_560, 194_560)
    assert paper.saved() == pytest.approx(100 * (1 - latents / grouped))
    assert paper.saved(bits=6) == pytest.approx(100 * (1 - latents * 6 / (grouped * 16)))


def test_forms_agree_for_other_weights():
    for seed in (1, 2):
        assert paper.difference_of_forms(torch.Generator().manual_seed(seed)) < 1e-12


def test_arms_differ_by_their_balancing_alone():
    tokens = torch.randint(9, (400,), generator=torch.manual_seed(0))
    text, matter = (tokens, tokens[:100], 9), {"rate": 0.0, "loss_weight": 0.0}
    found = [paper.fit(arm, 3, text, matter, steps=2) for arm in paper.ARMS]
    assert found[0] == found[1] == found[2]
    matter = {"rate": 0.1, "loss_weight": 1.0}
    found = [paper.fit(arm, 3, text, matter, steps=2) for arm in paper.ARMS]
    assert len(set(found)) == 3


def test_judging_by_a_made_up_table(tmp_path):
    run, rules = Run(SCRIPT, out=tmp_path, quiet=True), papers.load(SCRIPT)
    rows = {"biases": [[2.0, 0.3], [2.1, 0.4]], "loss": [[2.1, 1.0], [2.2, 1.0]]}
    rows["standing still"] = [[2.0, 6.0], [2.0, 5.0]]
    results = {arm: np.array(values) for arm, values in rows.items()}
    for offset in (0, 1, 2):  # three seeds, so that the interval is narrow
        results = {a: np.vstack([v, v[:1] + 1e-3 * offset]) for a, v in results.items()}
    paper.judge_balance(run, rules, results)
    assert [claim["verdict"] for claim in run.claims] == ["reproduced", "reproduced"]
    assert [claim["mean"] for claim in run.claims] == pytest.approx([0.32, -0.1], abs=0.005)
    assert run.falsifiers[0]["broken"]
    metrics = {m["name"]: m["value"] for m in run.metrics}
    assert metrics["excess of the busiest expert, loss"] == pytest.approx(1, abs=0.01)
