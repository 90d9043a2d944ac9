"""Held gates, influence and training of papers/1997-lstm."""

import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/1997-lstm/reproduce.py")


@pytest.mark.parametrize(("arm", "kept"), [("LSTM of 1997", 1.0), ("leaking cell", 0.9)])
def test_held_gates_stay_what_they_are_in_training(arm, kept):
    torch.manual_seed(0)
    net, head = paper.network(arm, 0)
    optimizer = torch.optim.Adam([*net.parameters(), *head.parameters()], lr=0.1)
    before = net.weight_ih_l0.detach().clone()
    for _ in range(3):
        loss = head(net(torch.rand(4, 6, 2))[0][:, -1]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    rows = slice(paper.WIDTH, 2 * paper.WIDTH)
    assert (net.weight_ih_l0[rows] == 0).all()
    assert (net.weight_hh_l0[rows] == 0).all()
    f = (net.bias_ih_l0 + net.bias_hh_l0)[rows].sigmoid()
    torch.testing.assert_close(f, torch.full_like(f, kept))
    assert kept < 1 or (f == 1).all()
    assert not torch.equal(net.weight_ih_l0, before)  # the other gates learn


@pytest.mark.parametrize("kept", [1.0, 0.9])
def test_what_a_cell_keeps(kept):
    path = paper.cell_path(0, 5, kept=kept)
    torch.testing.assert_close(path, kept**5 * torch.eye(paper.WIDTH).double())


def test_influence_falls_from_step_to_step():
    assert paper.slope(0, 20) < -0.05


def test_training_reports_the_error_on_new_sequences():
    last, path = paper.train("LSTM, forget bias 1", 0, 4, 150, 1e-2)
    assert len(path) == 150
    assert last < 0.1 < path[0]
    assert paper.train("LSTM, forget bias 1", 0, 4, 150, 1e-2)[0] == last


def test_wrong_input():
    with pytest.raises(ValueError, match=r"arm must be one of LSTM of 1997, .* got 'GRU'"):
        paper.network("GRU", 0)
