"""SparseGPT against solving again, the surgeon against least squares, exact counts, bad input."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week18.llama3 import Llama, LlamaConfig
from week19.gptq import hessian, layer_error
from week19.layer_inputs import block_inputs
from week27.evidence.one_shot_pruning import by_least_squares
from week27.one_shot_pruning import (
    in_order,
    magnitude,
    prune_block,
    refit,
    sparsegpt,
    surgeon,
    wanda,
)
from week27.pruning import zeros

seeds = st.integers(0, 9999)
PATTERNS = st.sampled_from([(2, 4), (4, 8), (1, 4)])


def layer(seed, n_out, n_in, samples=None):
    """Random weights, correlated inputs and their Hessian."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples or 3 * n_in, n_in, generator=g, dtype=torch.double)
    x = x @ torch.randn(n_in, n_in, generator=g, dtype=torch.double)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.double), x, hessian(x)


@given(seeds, st.integers(1, 4), st.integers(1, 12), st.integers(1, 14), st.floats(0, 1))
def test_for_a_mask_the_weights_are_those_of_solving_again(seed, n_out, n_in, block_size, share):
    w, _, h = layer(seed, n_out, n_in)
    mask = torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) < share
    found = sparsegpt(w, h, mask=mask, block_size=block_size, damping=0.0)
    assert torch.equal(found.mask, mask)
    assert (found.w[~mask] == 0).all()
    torch.testing.assert_close(found.w, in_order(w, h, mask), rtol=1e-6, atol=1e-8)


@given(seeds, st.integers(1, 3), PATTERNS, st.integers(1, 20))
def test_n_of_m_is_chosen_with_what_was_lost_so_far(seed, groups, pattern, block_size):
    n, m = pattern
    w, x, h = layer(seed, 3, groups * m)
    found = sparsegpt(w, h, pattern=pattern, damping=0.0, block_size=block_size)
    assert (found.mask.unflatten(1, (-1, m)).sum(-1) == n).all()
    for row in range(3):
        theirs, mask = by_least_squares(w[row].numpy(), x.numpy(), n, m)
        assert np.array_equal(found.mask[row].numpy(), mask)
        np.testing.assert_allclose(found.w[row].numpy(), theirs, rtol=1e-6, atol=1e-8)


@given(seeds, st.integers(1, 4), st.integers(1, 10), st.integers(1, 12), st.floats(0, 1))
def test_the_zeros_of_the_mask_are_as_many_as_asked_for(seed, n_out, n_in, block_size, sparsity):
    w, _, h = layer(seed, n_out, n_in)
    w = w.round()  # zeros and ties
    found = sparsegpt(w, h, sparsity=sparsity, block_size=block_size)
    assert zeros([found.mask]) == round(sparsity * w.numel())
    for method in (magnitude, wanda):
        mask = method(w, h, sparsity=sparsity).mask
        assert ((~mask).sum(1) == round(sparsity * n_in)).all()


@given(seeds, st.integers(2, 12))
def test_nothing_beats_least_squares_on_the_same_mask(seed, n_in):
    w, x, h = layer(seed, 4, n_in)
    mask = wanda(w, h).mask
    best = layer_error(w - refit(w, h, mask), h)
    for other in (in_order(w, h, mask), w * mask):
        assert (best <= layer_error(w - other, h) * (1 + 1e-6) + 1e-12).all()
    for row, kept in zip(range(4), mask.numpy(), strict=True):
        target = x.numpy() @ w[row].numpy()
        theirs = np.linalg.lstsq(x.numpy()[:, kept], target, rcond=None)[0]
        np.testing.assert_allclose(refit(w, h, mask)[row].numpy()[kept], theirs, 1e-5, 1e-7)


@given(seeds, st.integers(1, 8), st.integers(0, 8))
def test_the_surgeon_is_least_squares_and_knows_its_error(seed, n_in, n_pruned):
    w, _, h = layer(seed, 1, n_in)
    n_pruned = min(n_pruned, n_in)
    found, left, cost = surgeon(w[0], h, n_pruned)
    assert zeros([left]) == n_pruned
    torch.testing.assert_close(found, refit(w, h, left[None])[0], rtol=1e-6, atol=1e-8)
    error = layer_error(w - found, h)[0]
    torch.testing.assert_close(error, cost, rtol=1e-6, atol=1e-9)


@given(seeds)
def test_the_first_weight_to_go_is_the_cheapest_of_all(seed):
    w, _, h = layer(seed, 1, 6)
    errors = [layer_error(w - refit(w, h, torch.arange(6)[None] != j), h).item() for j in range(6)]
    _, left, cost = surgeon(w[0], h, 1)
    assert int((~left).nonzero()) == int(np.argmin(errors))
    assert cost.item() == pytest.approx(min(errors))


@given(seeds, st.integers(1, 9), st.floats(0, 1))
def test_wanda_is_magnitude_times_norm_by_row(seed, n_in, sparsity):
    w, x, h = layer(seed, 3, n_in, samples=11)
    scores = w.abs() * x.norm(dim=0)
    kept = n_in - round(sparsity * n_in)
    for row, mask in zip(scores, wanda(w, h, sparsity=sparsity).mask, strict=True):
        assert set(row.topk(kept).indices.tolist()) == set(mask.nonzero()[:, 0].tolist())
    white = torch.eye(n_in).double()
    assert torch.equal(wanda(w, white, sparsity=sparsity).w, magnitude(w, sparsity=sparsity).w)


@given(seeds, PATTERNS)
def test_a_diagonal_hessian_leaves_wanda(seed, pattern):
    w, _, h = layer(seed, 3, 16)
    for method in (magnitude, wanda, sparsegpt):
        mask = method(w, h, pattern=pattern).mask
        assert (mask.unflatten(1, (-1, pattern[1])).sum(-1) == pattern[0]).all()
    white = h.diag().diag()
    ours = sparsegpt(w, white, pattern=pattern, damping=0.0).w
    torch.testing.assert_close(ours, wanda(w, white, pattern=pattern).w)


def test_the_update_may_make_a_row_worse():
    worse = 0
    for seed in range(40):
        w, _, h = layer(seed, 20, 6)
        mask = wanda(w, h).mask
        updated, alone = (layer_error(w - v, h) for v in (in_order(w, h, mask), w * mask))
        worse += int((updated > alone * (1 + 1e-9)).sum())
    assert 0 < worse < 400


@given(seeds)
def test_one_zero_is_never_worse_for_the_update(seed):
    w, _, h = layer(seed, 5, 7)
    mask = torch.arange(7) != seed % 7
    mask = mask.expand(5, -1)
    updated, alone = (layer_error(w - v, h) for v in (in_order(w, h, mask), w * mask))
    assert (updated <= alone * (1 + 1e-9)).all()


def test_dead_inputs_and_few_samples_are_survived():
    w, x, _ = layer(0, 6, 16, samples=3)
    x[:, 5] = 0
    found = sparsegpt(w, hessian(x))
    assert found.w.isfinite().all()
    assert (found.w[:, 5] == 0).all()
    assert not found.mask[:, 5].any()
    assert zeros([found.mask]) == 48


def test_what_is_given_is_not_changed():
    w, _, h = layer(0, 3, 8)
    before = w.clone(), h.clone()
    sparsegpt(w, h)
    wanda(w, h)
    assert torch.equal(w, before[0])
    assert torch.equal(h, before[1])


def test_a_block_is_pruned_by_what_its_layers_read():
    config = LlamaConfig(11, d_model=16, n_layers=1, n_heads=2, d_ff=24)
    model = Llama(config, torch.Generator().manual_seed(0)).requires_grad_(False)
    tokens = torch.arange(22).view(2, 11) % 11
    rotary = model.waves(torch.arange(11), None)
    block = model.blocks[0]
    stream = model.embed(tokens)
    _, inputs = block_inputs(block, stream, *rotary)
    dense = block.down_proj.weight.clone()
    found = prune_block(block, inputs, wanda)
    assert sorted(found) == sorted(n for n, _ in block.named_children() if n.endswith("proj"))
    expected = wanda(dense, inputs["down_proj"].h)
    assert torch.equal(block.down_proj.weight, expected.w)
    for name, mask in found.items():
        assert zeros([mask]) == mask.numel() // 2
        assert (getattr(block, name).weight[~mask] == 0).all()


W, H = torch.ones(2, 6).double(), torch.eye(6).double()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sparsegpt(W, H, pattern=(2, 4)), "m must divide the 6 inputs, got 4"),
        (lambda: wanda(W, H, pattern=(2, 4)), "m must divide the 6 inputs, got 4"),
        (lambda: sparsegpt(W, H, sparsity=2.0), r"sparsity must be in \[0, 1\], got 2.0"),
        (lambda: sparsegpt(W, H, block_size=0), "block_size must be at least 1, got 0"),
        (lambda: sparsegpt(W, H, damping=-1.0), "damping must be at least 0, got -1"),
        (lambda: sparsegpt(W, H * torch.nan), "h must be finite"),
        (lambda: sparsegpt(W, 0 * H + 1, damping=0.0), "h must be positive definite"),
        (lambda: surgeon(W[0], H, 7), "n_pruned must be between 0 and 6, got 7"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
