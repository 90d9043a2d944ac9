"""The task, the layer and the verdict rule of papers/2017-attention-is-all-you-need."""

import importlib.util
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

PAPER = Path(__file__).parents[2] / "papers" / "2017-attention-is-all-you-need"


def load():
    spec = importlib.util.spec_from_file_location("reproduce_2017", PAPER / "reproduce.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


paper = load()


# ---- the task


def test_worked_example():
    symbols = torch.tensor([[7, 3, 9, 3]])
    places = torch.tensor([[[1, 2], [2, 0], [3, 1], [0, 3]]])
    answers = torch.tensor([[[3, 9], [9, 7], [3, 3], [7, 3]]])
    assert torch.equal(paper.look_up(symbols, places), answers)


@given(st.integers(1, 5), st.sampled_from([1, 2]), st.integers(0, 10**6))
def test_targets_are_the_symbols_at_the_places(n, n_lookups, seed):
    generator = torch.Generator().manual_seed(seed)
    symbols, places, targets = paper.make_batch(n, n_lookups, generator)
    assert targets.shape == (n, paper.LENGTH, n_lookups)
    for b in range(n):
        for i in range(paper.LENGTH):
            for k in range(n_lookups):
                assert targets[b, i, k] == symbols[b, places[b, i, k]]


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


def test_every_number_of_heads_has_the_same_parameters():
    shapes = [
        {name: tuple(p.shape) for name, p in paper.Fetcher(h, 2).named_parameters()}
        for h in paper.HEADS
    ]
    assert all(shape == shapes[0] for shape in shapes)


def test_a_seed_gives_every_number_of_heads_the_same_start():
    one, many = (paper.train(h, n_lookups=2, seed=3, lr=1e-3, steps=0) for h in (1, 64))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), many.parameters(), strict=True))


def test_training_is_repeatable_and_moves():
    runs = [paper.train(2, n_lookups=2, seed=0, lr=1e-3, steps=3) for _ in range(2)]
    start = paper.train(2, n_lookups=2, seed=0, lr=1e-3, steps=0)
    a, b, c = (torch.cat([p.flatten() for p in m.parameters()]) for m in (*runs, start))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


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


def test_one_equal_average_cannot_tell_the_order():
    """With equal weights on two places, exchanging the two symbols changes nothing."""
    model = paper.Fetcher(1, 2)
    symbols = torch.randint(32, (1, 16))
    _, memory = model.embed(symbols, torch.randint(16, (1, 16, 2)))
    weights = torch.zeros(16)
    weights[[2, 5]] = 0.5
    swapped = symbols.clone()
    swapped[0, [2, 5]] = symbols[0, [5, 2]]
    _, memory_swapped = model.embed(swapped, torch.randint(16, (1, 16, 2)))
    values = [model.attention.v_proj(m[0]) for m in (memory, memory_swapped)]
    torch.testing.assert_close(weights @ values[0], weights @ values[1], atol=1e-6, rtol=0)
