"""Accumulated gradients against one backward pass over everything at once."""

import itertools
import weakref

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week16.gradient_accumulation import (
    IGNORE,
    Padded,
    accumulate,
    in_micro_batches,
    noise_scale,
    pad,
    token_loss_sum,
    train_step,
)

VOCAB = 7
BLANK = Padded(torch.zeros(2, 5, dtype=torch.long), torch.full((2, 5), IGNORE))


def bigram(seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Embedding(VOCAB, 5), nn.Linear(5, VOCAB)).to(dtype)


def sequences(lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCAB, (n,), generator=generator) for n in lengths]


def flat(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()]).clone()


def reference(model, rows):
    """No padding, no pieces: every real (input, target) pair in one long batch."""
    model.zero_grad()
    x, y = torch.cat([s[:-1] for s in rows]), torch.cat([s[1:] for s in rows])
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    return loss.item(), flat(model)


@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=9),
    size=st.integers(1, 10),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_any_cut_is_the_big_batch(lengths, size, dtype):
    model, rows = bigram(dtype=dtype), sequences(lengths)
    result = accumulate(model, in_micro_batches(rows, size), token_loss_sum)
    ours = flat(model)
    loss, gradient = reference(model, rows)
    atol = 1e-6 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(ours, gradient, rtol=0, atol=atol)
    assert result.weight == sum(lengths) - len(lengths)
    assert result.loss == pytest.approx(loss, abs=4 * atol)


def test_old_gradients_are_dropped_and_padding_counts_nothing():
    model, rows = bigram(), sequences([4, 6])
    for _ in range(2):
        accumulate(model, (b for b in [BLANK, *in_micro_batches(rows, 1), BLANK]), token_loss_sum)
    ours = flat(model)
    torch.testing.assert_close(ours, reference(model, rows)[1], rtol=0, atol=1e-12)


def test_no_graph_outlives_its_micro_batch():
    model, seen = bigram(), []

    def loss_sum(model, batch):
        assert all(ref() is None for ref in seen), "an earlier micro-batch's logits are alive"
        logits = model(batch.inputs)
        seen.append(weakref.ref(logits))
        return logits.logsumexp(-1).sum(), batch.inputs.numel()

    accumulate(model, in_micro_batches(sequences([5] * 4), 1), loss_sum)
    assert len(seen) == 4


def test_length_of_a_clipped_gradient():
    model = bigram()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    before = nn.utils.parameters_to_vector(model.parameters()).clone()
    batches = in_micro_batches(sequences([9, 3, 5]), 1)
    train_step(model, sgd, batches, token_loss_sum, max_norm=1e-3)
    step = nn.utils.parameters_to_vector(model.parameters()) - before
    assert step.norm().item() == pytest.approx(1e-3, rel=1e-2)


def test_padding_by_hand():
    inputs, targets = pad([torch.tensor([1, 2, 3]), torch.tensor([4, 5])])
    assert inputs.tolist() == [[1, 2], [4, 0]]
    assert targets.tolist() == [[2, 3], [5, IGNORE]]
    widths = [b.inputs.shape for b in in_micro_batches(sequences([3, 2, 9]), 2)]
    assert widths == [(2, 2), (1, 8)]


def test_noise_scale_is_unbiased():
    """The mean over all ways to draw three micro-batches of one sample each is exact."""
    table = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 1
    signal = table.mean(0).square().sum()
    noise = (table - table.mean(0)).square().sum(1).mean()
    draws = [noise_scale(table[list(i)], 1)[:2] for i in itertools.product(range(4), repeat=3)]
    torch.testing.assert_close(torch.tensor(draws).double().mean(0), torch.stack([signal, noise]))
    without = noise_scale(torch.ones(5, 4), 8)
    assert without.samples == pytest.approx(0, abs=1e-6)
    assert without.signal == pytest.approx(4)


def accumulated(batches, sign=1):
    def loss_sum(model, batch):
        loss, n = token_loss_sum(model, batch)
        return loss, sign * n

    return accumulate(bigram(), batches, loss_sum)


def step(max_norm):
    model = bigram()
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return train_step(model, sgd, [pad(sequences([3]))], token_loss_sum, max_norm=max_norm)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: accumulated([]), "at least one token that counts"),
        (lambda: accumulated([BLANK]), "at least one token that counts"),
        (lambda: accumulated([pad(sequences([5]))], -1), "weight of at least 0, got -4"),
        (lambda: step(0), "max_norm must be positive, got 0"),
        (lambda: pad([]), "at least one sequence"),
        (lambda: pad([torch.tensor([1])]), "at least 2 tokens each, got one of 1"),
        (lambda: in_micro_batches(sequences([3]), 0), "size must be at least 1, got 0"),
        (lambda: noise_scale(torch.ones(1, 4), 8), "at least 2 micro-batches, got 1"),
        (lambda: noise_scale(torch.ones(2, 4), 0), "size must be at least 1, got 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
