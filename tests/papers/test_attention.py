"""The task, the layer and the verdict rule of papers/2017-attention-is-all-you-need."""

import pytest
import torch
from test_scripts import load

from shared import records

paper = load(records.ROOT / "papers/2017-attention-is-all-you-need/reproduce.py")


# ---- the task


def test_worked_example():
    symbols = torch.tensor([[7, 3, 9, 3]])
    places = torch.tensor([[[1, 2], [2, 0], [3, 1], [0, 3]]])
    answers = torch.tensor([[[3, 9], [9, 7], [3, 3], [7, 3]]])
    assert torch.equal(paper.look_up(symbols, places), answers)


def test_two_places_differ_and_every_offset_occurs():
    _, places, _ = paper.make_batch(400, 2, torch.Generator().manual_seed(0))
    assert (places[..., 0] != places[..., 1]).all()
    offsets = (places - torch.arange(paper.LENGTH)[:, None]) % paper.LENGTH
    for k in range(2):
        share = torch.bincount(offsets[..., k].flatten(), minlength=paper.LENGTH) / 6400
        assert (share - 1 / paper.LENGTH).abs().max() < 0.015  # five standard errors


def test_three_lookups_are_refused():
    with pytest.raises(ValueError, match="n_lookups must be 1 or 2, got 3"):
        paper.make_batch(1, 3, torch.Generator())


# ---- the layer


def test_a_seed_gives_every_number_of_heads_the_same_start():
    one, many = (paper.train(h, n_lookups=2, seed=3, lr=1e-3, steps=0) for h in (1, 64))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), many.parameters(), strict=True))


def test_two_heads_by_hand_answer_everything_in_order():
    model = paper.two_heads_by_hand()
    assert paper.accuracy(model, seed=5, n=50).mean() == 1.0
    symbols, places, targets = paper.make_batch(4, 2, torch.Generator().manual_seed(0))
    answers = model(symbols, places).argmax(-1)
    assert torch.equal(answers, targets)
    assert torch.equal(model(symbols, places.flip(-1)).argmax(-1), targets.flip(-1))


def test_accuracy_asks_for_both_symbols():
    """Swapping the halves of the read-out answers in the wrong order: right only by coincidence."""
    model = paper.two_heads_by_hand()
    with torch.no_grad():
        model.read_out[0].weight.copy_(model.read_out[0].weight.roll(paper.N_SYMBOLS, 0))
    assert paper.accuracy(model, seed=5, n=200).mean() == pytest.approx(1 / 32, abs=0.02)
    half = paper.two_heads_by_hand()
    with torch.no_grad():
        half.read_out[0].weight[paper.N_SYMBOLS :] = 0
    assert paper.accuracy(half, seed=5, n=200).mean() == pytest.approx(1 / 32, abs=0.02)
