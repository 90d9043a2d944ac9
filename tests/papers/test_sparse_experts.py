"""Arms, loads and judging of the two papers on mixtures of experts."""

import pytest
import torch
from test_scripts import load

from shared import papers, records
from shared.run import Run
from week18.mixtral import mixtures

SPARSE = records.ROOT / "papers/2017-sparsely-gated-mixture-of-experts/reproduce.py"
MIXTRAL = records.ROOT / "papers/2024-mixtral/reproduce.py"
sparse, mixtral = load(SPARSE), load(MIXTRAL)
TEXT = torch.arange(600) % 9


def test_a_frozen_gate_does_not_move():
    model, loads = sparse.fit(TEXT, 9, "frozen", steps=2, seed=0)
    assert all((m.router.weight == 0).all() for m in mixtures(model))
    assert loads.shape == (2, 2, 8)


def test_arms_differ_by_their_penalty_only():
    start = [sparse.make(9, 1).state_dict() for _ in range(2)]
    torch.testing.assert_close(*start, rtol=0, atol=0)
    first = {arm: sparse.fit(TEXT, 9, arm, steps=1, seed=1)[1] for arm in sparse.ARMS}
    for loads in first.values():
        assert torch.equal(loads, first["none"])


def test_busiest_by_hand():
    loads = torch.zeros(12, 2, 8)
    loads[:2, :, 0] = 9.0  # before the last ten
    loads[2:, 0] = 0.25
    loads[2:, 1, :2] = 1.0
    assert sparse.busiest(loads) == pytest.approx((1 + 4) / 2)


def test_a_fair_draw_is_near_one():
    found = sparse.fair_draw(7680, torch.Generator().manual_seed(0))
    assert 1.01 < found < 1.1


def test_judging_sparse_experts_by_a_made_up_table(tmp_path):
    run = Run(SPARSE, out=tmp_path, quiet=True)
    ratios = {"none": [3.0, 3.2], "importance": [1.2, 1.3], "load": [1.1, 1.6]}
    ratios |= {"both": [1.1, 1.2], "frozen": [1.05, 1.05]}
    losses = {arm: [2.0, 2.1] for arm in ratios} | {"both": [1.9, 2.12]}
    sparse.judge(run, papers.load(SPARSE), *map(sparse.as_tensors, (ratios, losses)))
    verdicts = [c["mean"] for c in run.claims]
    assert verdicts[0] == pytest.approx((3 / 1.1 + 3.2 / 1.2) / 2)
    assert verdicts[2] == pytest.approx((1.2 + 1.6) / 2)
    assert verdicts[3] == pytest.approx((-0.1 + 0.02) / 2)
    assert run.falsifiers[0]["broken"] is not False


def test_repeats_by_hand_and_windows_do_not_touch():
    chosen = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 2]])
    assert mixtral.repeats(chosen) == pytest.approx(4 / 6)
    found = mixtral.permuted(chosen, 300, torch.Generator().manual_seed(0))
    pairs = 2 / 8 * 1 / 7 + 5 / 8 * 4 / 7
    assert found.mean().item() == pytest.approx(pairs, abs=0.05)


def test_first_choices_are_those_of_each_layer():
    model = mixtral.fit(TEXT, 9, steps=1, seed=0)
    found = mixtral.first_choices(model, TEXT)
    assert [c.shape for c in found] == [(12, 48)] * 4
    assert torch.equal(found[2].flatten(), mixtures(model)[2].chosen[:, 0])
