"""The judging of papers/2015-distillation."""

import numpy as np
import torch
from test_scripts import load
from torch import nn

from shared import records
from shared.run import Run
from week27.digit_students import Split, new_net, split

SCRIPT = records.ROOT / "papers/2015-distillation/reproduce.py"
paper = load(SCRIPT)


def test_the_share_of_the_gap_is_that_of_all_splits():
    wrong = {"labels": [100, 80], "soft": [70, 60], "teacher": [50, 40]}
    wrong = {name: np.array(counts) for name, counts in wrong.items()}
    found = paper.share_closed(wrong, np.random.default_rng(0))
    assert found.mean == 50 / 90
    assert found.low <= found.mean <= found.high
    assert (found.low, found.high) == (0.5, 0.6)
    assert found.n == 2


def test_the_bias_is_chosen_on_one_half_and_judged_on_the_other():
    # Threes look like fives with a lower logit: 2 lower in the first half, 4 in the second.
    y = torch.tensor([3, 5, 3, 5] * 4)
    logits = torch.zeros(16, 10)
    logits[y == 5, 5] = 20.0
    logits[y == 3, 5] = torch.tensor([2.0] * 4 + [4.0] * 4)
    data = Split(logits, y, logits, y)
    before, after = paper.unseen_right(nn.Identity(), data)
    assert before == 0
    assert after == 0  # the bias that the first half asks for is not enough for the second
    data = Split(logits, y, logits.flip(0), y.flip(0))
    assert paper.unseen_right(nn.Identity(), data) == (0, 100)


def test_judging_by_made_up_nets(tmp_path, monkeypatch):
    rates = {"teacher": 0.04, "labels": 0.1, "smoothed": 0.09, "soft": 0.06, "mixed": 0.12}
    rng = np.random.default_rng(0)

    def right(net, data):
        names = ("teacher",) if net == "teacher" else paper.LEARNED_FROM
        rows = [rng.random(len(data.y_test)) > rates[name] for name in names]
        return torch.from_numpy(np.array(rows).squeeze())

    monkeypatch.setattr(paper, "new_teacher", lambda *given, **options: "teacher")
    monkeypatch.setattr(paper, "students", lambda *given: ("students", "without threes"))
    monkeypatch.setattr(paper, "right", right)
    monkeypatch.setattr(paper, "unseen_right", lambda net, data: (1.0, 40.0 + rng.random()))
    run = Run(SCRIPT, out=tmp_path, quiet=True)
    paper.main(run)
    verdicts = [claim["verdict"] for claim in run.claims]
    assert verdicts == ["reproduced", "reproduced", "not reproduced"]
    assert run.falsifiers[0]["broken"]


def test_students_differ_in_what_they_learn_from_and_nothing_else():
    data = split(0, 60)
    teacher = new_net(8, torch.Generator().manual_seed(1)).requires_grad_(False)
    matter = {"temperature": 4.0, "smoothing": 0.1, "width": 5}
    taught, without_threes = paper.students(data, teacher, matter, 0, 3)
    start = new_net(5, torch.Generator().manual_seed(2000))
    nets = taught(data.x_test)
    assert len(nets) == len(paper.LEARNED_FROM)
    for z in (*nets, without_threes(data.x_test)):
        assert not torch.equal(z, start(data.x_test))
        assert (z - start(data.x_test)).abs().max() < 2  # three steps from the same weights
    assert len({z.sum().item() for z in nets}) == 4
