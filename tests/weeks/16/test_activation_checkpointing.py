"""Checkpointed gradients bit by bit against autograd's, and bytes and operations exactly."""

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week16.activation_checkpointing import (
    Block,
    SavedTensors,
    block_activations,
    checkpoint,
    checkpoint_sequential,
    peak_bytes,
)


def gradients(model, x, through, seed=0):
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(seed)
    through(x).square().sum().backward()
    return [x.grad, *(p.grad.clone() for p in model.parameters())]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def blocks(n=3, dropout=0.2, recompute="none", d_model=8, n_heads=2):
    torch.manual_seed(1)
    return nn.Sequential(*(Block(d_model, n_heads, dropout, recompute) for _ in range(n)))


# ---- gradients


@settings(max_examples=12)
@given(segment=st.integers(1, 5), dropout=st.sampled_from([0.0, 0.1, 0.5]), seq=st.integers(1, 6))
def test_gradients_are_bitwise_those_of_autograd_and_torch(segment, dropout, seq):
    model, x = blocks(4, dropout), torch.randn(2, seq, 8)
    ours = gradients(model, x, lambda x: checkpoint_sequential(list(model), x, segment))
    assert same(ours, gradients(model, x, model))

    def theirs(x):
        for block in model:
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return x

    assert same(ours, gradients(model, x, theirs))


@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_block_modes_are_bitwise_the_same(recompute):
    model, x = blocks(), torch.randn(2, 5, 8)
    other = blocks(recompute=recompute)
    assert same(gradients(model, x, model), gradients(other, x, other))


def test_dropout_repeats_only_with_the_state_and_goes_on_as_ever():
    model, x = blocks(dropout=0.5), torch.randn(2, 5, 8)
    right = [*gradients(model, x, model), torch.rand(3)]
    kept = gradients(model, x, lambda x: checkpoint_sequential(list(model), x, 1))
    assert same([*kept, torch.rand(3)], right)
    wrong = gradients(model, x, lambda x: checkpoint(model, x, restore_rng=False))
    assert not same(wrong, right[:-1])


def test_several_inputs_of_which_some_need_no_gradient():
    torch.manual_seed(0)
    weight = torch.randn(4, 4, requires_grad=True)
    a, b = torch.randn(3, 4, requires_grad=True), torch.randn(3, 4)
    index = torch.tensor([2, 0])

    def fn(a, b, index):
        return ((a @ weight).tanh() * b)[index]

    expected = torch.autograd.grad(fn(a, b, index).sum(), (a, weight))
    checkpoint(fn, a, b, index).sum().backward()
    assert torch.equal(a.grad, expected[0])
    assert torch.equal(weight.grad, expected[1])
    assert b.grad is None


def test_nested_and_unused():
    """What made the inputs gets its gradient once, through the outer graph."""
    x = torch.tensor([0.7], dtype=torch.float64, requires_grad=True)
    checkpoint(lambda x: checkpoint(torch.sin, checkpoint(torch.exp, x)), x).backward()
    torch.testing.assert_close(x.grad, torch.cos(x.exp()) * x.exp(), rtol=0, atol=1e-15)
    unused = nn.Linear(3, 3)
    checkpoint(lambda x: (unused, 2 * x)[1], x).sum().backward()
    assert unused.weight.grad is None


def test_autocast_is_restored():
    layer, x = nn.Linear(8, 8), torch.randn(4, 8)
    found = []
    for through in (layer, lambda x: checkpoint(layer, x)):
        layer.zero_grad()
        x = x.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = through(x)
        y.float().square().sum().backward()
        found.append([x.grad, layer.weight.grad.clone()])
    assert same(*found)


def test_without_gradients_none_is_asked_for():
    with torch.no_grad():
        assert not checkpoint(nn.Linear(3, 3), torch.randn(2, 3)).requires_grad


WRONG = [
    (lambda: checkpoint(nn.Linear(3, 3), torch.randn(2, 3)), "requires a gradient, got none"),
    (lambda: checkpoint(nn.Linear(3, 3)), "at least one tensor"),
    (lambda: checkpoint_sequential([nn.Linear(3, 3)], torch.ones(3), 0), "at least 1, got 0"),
    (lambda: Block(8, 3), "n_heads must divide d_model = 8, got 3"),
    (lambda: Block(8, 2, recompute="some"), "recompute"),
    (lambda: block_activations(1, 0, 8, 2), "seq must be at least 1, got 0"),
    (lambda: peak_bytes(4, 5, 1, 2), "segment must be between 1 and layers = 4, got 5"),
]


@pytest.mark.parametrize(("call", "match"), WRONG)
def test_wrong_input(call, match):
    with pytest.raises((ValueError, TypeError), match=match):
        call()


# ---- the block itself


def test_block_attention_equals_torch():
    block, x = Block(8, 2, 0.0), torch.randn(2, 6, 8)
    q, k, v = (t.unflatten(-1, (2, 4)).transpose(1, 2) for t in block.qkv(x).chunk(3, -1))
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    torch.testing.assert_close(block._attend(q, k, v), expected)
    y = block(x)
    changed = x.clone()
    changed[:, 4:] += 1
    torch.testing.assert_close(block(changed)[:, :4], y[:, :4])  # the past does not see the future


# ---- bytes


def kept(model, x, through=None):
    x = x.clone().requires_grad_()
    with SavedTensors(list(model.parameters())) as saved:
        y = (through or model)(x)
        live = saved.live
        y.sum().backward()
    assert saved.live == 0
    return live, saved.peak


@settings(max_examples=15)
@given(
    batch=st.integers(1, 3),
    seq=st.integers(2, 9),
    head_dim=st.integers(2, 5),
    heads=st.integers(1, 3),
)
def test_bytes_of_a_block(batch, seq, head_dim, heads):
    d = head_dim * heads
    x = torch.randn(batch, seq, d)
    linear, attention, statistics = block_activations(batch, seq, d, heads)
    assert kept(Block(d, heads, 0.1), x)[0] == linear + attention + statistics
    assert kept(Block(d, heads, 0.1, "selective"), x)[0] == linear + statistics
    assert kept(Block(d, heads, 0.1, "full"), x)[0] == x.nbytes


@settings(max_examples=10)
@given(layers=st.integers(1, 7), data=st.data())
def test_peak_of_any_segment_length(layers, data):
    segment = data.draw(st.integers(1, layers))
    model, x = blocks(layers, 0.1), torch.randn(1, 4, 8)
    inner = sum(block_activations(1, 4, 8, 2))
    peak = kept(model, x, lambda x: checkpoint_sequential(list(model), x, segment))[1]
    assert peak == peak_bytes(layers, segment, x.nbytes, inner)


def test_shared_storages_count_once_and_excluded_ones_not():
    x = torch.randn(100, requires_grad=True)
    with SavedTensors() as saved:
        y = x.view(10, 10).sin() + x.view(4, 25).cos().view(10, 10)
        assert saved.live == 400
        del y
        assert saved.live == 0
    assert saved.peak == 400
    with SavedTensors([x]) as saved:
        y = x.sin()
        assert saved.live == 0
    with SavedTensors() as saved:
        y = x.exp()  # keeps its result
        assert saved.live == y.nbytes
