"""The judging of papers/2023-sparsegpt, 2023-wanda and 2019-lottery-ticket."""

import numpy as np
import pytest
import torch
from test_scripts import load

from shared import records
from shared.run import Run
from week19.gptq import hessian
from week27.digit_students import split
from week27.one_shot_pruning import sparsegpt, wanda

SPARSEGPT, WANDA, TICKETS = (
    records.ROOT / "papers" / name / "reproduce.py"
    for name in ("2023-sparsegpt", "2023-wanda", "2019-lottery-ticket")
)
sparse_paper, wanda_paper, ticket_paper = (load(p) for p in (SPARSEGPT, WANDA, TICKETS))


def layer():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(60, 16, generator=g).double() @ torch.randn(16, 16, generator=g).double()
    return torch.randn(6, 16, generator=g).double(), hessian(x)


def verdicts(run):
    return [claim["verdict"] for claim in run.claims]


def test_sparsegpt_judging_by_made_up_losses(tmp_path, monkeypatch):
    row = dict.fromkeys(sparse_paper.methods_of(sparse_paper.SPARSITIES), 1.0)
    row |= {"SparseGPT, 50 %": 0.4, "SparseGPT, 2:4": 0.6}
    monkeypatch.setattr(sparse_paper, "added_losses", lambda *size: (2.0, row))
    run = Run(SPARSEGPT, out=tmp_path, quiet=True)
    sparse_paper.main(run)
    assert verdicts(run) == ["reproduced", "not reproduced", "reproduced"]
    assert run.falsifiers[0]["broken"]


def test_sparsegpt_controls_take_one_thing_away():
    w, h = layer()
    ours, alone = sparsegpt(w, h), sparse_paper.masks_alone(w, h)
    assert torch.equal(ours.mask, alone.mask)
    assert torch.equal(alone.w, w * alone.mask)
    still = [f(w, h).w for f in (sparse_paper.by_diagonal, sparse_paper.by_diagonal_alone)]
    torch.testing.assert_close(*still)


def test_wanda_judging_by_made_up_losses(tmp_path, monkeypatch):
    row = {"magnitude": 1.0, "Wanda": 0.6, "SparseGPT": 0.5, "Wanda in layers": 0.7}
    row |= {"magnitude in rows": 1.0, "mixed norms": 1.2}
    monkeypatch.setattr(wanda_paper, "added_losses", lambda *size: (2.0, row))
    monkeypatch.setattr(wanda_paper, "seconds", lambda *size: [12.0, 12.5, 12.2])
    run = Run(WANDA, out=tmp_path, quiet=True)
    wanda_paper.main(run)
    assert verdicts(run) == ["not reproduced", "reproduced", "reproduced", "reproduced"]


def test_wanda_in_layers_prunes_half_of_the_layer_and_mixing_keeps_the_norms():
    w, h = layer()
    mask = wanda_paper.in_layers(w, h).mask
    scores = w.abs() * h.diagonal().sqrt()
    assert int(mask.sum()) == 48
    assert scores[mask].min() > scores[~mask].max()
    assert not torch.equal(wanda_paper.mixed_norms(w, h).mask, wanda(w, h).mask)


@pytest.fixture
def tickets(tmp_path, monkeypatch):
    def run_with(**accuracies):
        found = {name: dict.fromkeys(range(16), values) for name, values in accuracies.items()}
        found["ticket"][0] = [80.0, 95.0]  # the dense net, early and at the end
        found["left"] = {k: 100 * 0.8**k for k in range(16)}
        monkeypatch.setattr(ticket_paper, "tickets", lambda *size: found)
        run = Run(TICKETS, out=tmp_path, quiet=True)
        ticket_paper.main(run)
        return run

    return run_with


def test_tickets_are_judged_against_rivals_of_their_size(tickets):
    options = {"new weights": [70.0, 94.5], "random mask": [60.0, 90.0]}
    run = tickets(ticket=[85.0, 95.0], **options)
    assert verdicts(run) == ["reproduced", "not reproduced", "not reproduced", "reproduced"]
    run = tickets(ticket=[75.0, 96.0], **options)
    assert verdicts(run) == ["reproduced", "reproduced", "reproduced", "not reproduced"]
    assert run.falsifiers[0]["broken"]


def test_a_round_takes_its_share_of_what_is_left():
    weights = ticket_paper.first_weights(0)
    masks = [torch.ones_like(w, dtype=torch.bool) for w, _ in weights]
    once = ticket_paper.smaller(masks, weights)
    twice = ticket_paper.smaller(once, weights)
    for m, a, b, share in zip(masks, once, twice, ticket_paper.SHARES, strict=True):
        left = m.numel() - round(share * m.numel())
        assert int(a.sum()) == left
        assert int(b.sum()) == left - round(share * left)
        assert not (b & ~a).any()  # what went does not come back


def test_tickets_start_from_their_first_weights_and_stay_sparse():
    data, weights = split(0, 60), ticket_paper.first_weights(0)
    masks = ticket_paper.smaller([torch.ones_like(w).bool() for w, _ in weights], weights)
    trained, accuracies = ticket_paper.train(weights, masks, data, 4, 0)
    assert len(accuracies) == 2
    for (new, _), (old, _), m in zip(trained, weights, masks, strict=True):
        assert (new[~m] == 0).all()
        assert not torch.equal(new, old)
    again = ticket_paper.first_weights(0)
    for (a, _), (b, _) in zip(weights, again, strict=True):
        assert torch.equal(a, b)  # training has changed no first weight
    assert np.isfinite(accuracies).all()
