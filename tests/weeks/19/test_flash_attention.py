"""Tiled attention against torch's kernels, its traffic against counting, its memory by hooks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp

from week13.attention import causal_mask
from week19.flash_attention import flash_attention, online_update
from week19.flash_measures import with_gradients
from week19.slow_memory import SlowMemory, standard_backward, standard_forward, tile_sizes

ROOT = Path(__file__).parents[3]


def draw(seed, *shapes, dtype=torch.float64, size=1.0):
    g = torch.Generator().manual_seed(seed)
    return [(size * torch.randn(s, generator=g, dtype=torch.float64)).to(dtype) for s in shapes]


def torch_attention(q, k, v, is_causal=False, **options):
    """torch's kernel, causal for queries that are the last positions."""
    mask = causal_mask(q.shape[2], k.shape[2]) if is_causal else None
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True, **options)


def compare(q, k, v, grad, atol, **options):
    tiles = {name: options.pop(name) for name in ("tile", "backward_tile") if name in options}
    ours = with_gradients(lambda *x: flash_attention(*x, **options, **tiles), (q, k, v), grad)
    theirs = with_gradients(lambda *x: torch_attention(*x, **options), (q, k, v), grad)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=atol)


# ---- against torch


TILES = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(
    sizes=st.tuples(st.integers(1, 20), st.integers(0, 9), st.integers(1, 9), st.integers(1, 9)),
    heads=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    tile=TILES,
    backward_tile=TILES,
    is_causal=st.booleans(),
    seed=st.integers(0, 999),
)
def test_equals_torch(sizes, heads, tile, backward_tile, is_causal, seed):
    (n, past, dim, value_dim), (kv_heads, group) = sizes, heads
    queries, keys = (2, kv_heads * group, n), (2, kv_heads, n + past)
    shapes = [(*queries, dim), (*keys, dim), (*keys, value_dim), (*queries, value_dim)]
    tiles = {"tile": tile, "backward_tile": backward_tile}
    compare(*draw(seed, *shapes), 1e-12, is_causal=is_causal, **tiles)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("tile", [(64, 16), (5, 7)])
def test_odd_sizes(tile, is_causal):
    q, k, v, grad = draw(3, (1, 2, 37, 8), (1, 2, 41, 8), (1, 2, 41, 6), (1, 2, 37, 6))
    compare(q, k, v, grad, 1e-12, tile=tile, is_causal=is_causal)


def test_scale():
    q, k, v, grad = draw(7, *[(1, 1, 9, 4)] * 4)
    compare(q, k, v, grad, 1e-12, tile=(4, 4), scale=0.3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_sums_in_32_bits(dtype):
    q, k, v, grad = draw(11, *[(1, 1, 200, 8)] * 4, dtype=dtype)
    ours = with_gradients(lambda *x: flash_attention(*x, tile=(16, 16)), (q, k, v), grad)
    exact = with_gradients(torch_attention, [t.double() for t in (q, k, v)], grad.double())
    for a, b in zip(ours, exact, strict=True):
        assert a.dtype == dtype
        # once more than the rounding of the result itself, which is half an eps; the gradients
        # read the rounded output
        assert (a - b).abs().max() <= 2 * torch.finfo(dtype).eps * b.abs().max()


# ---- the running softmax


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 999))
def test_running_softmax_is_independent_of_the_blocks(blocks, seed):
    scores, values = draw(seed, (3, sum(blocks)), (sum(blocks), 2), size=30.0)
    state = (
        torch.full((3,), -torch.inf).double(),
        torch.zeros(3).double(),
        torch.zeros(3, 2).double(),
    )
    for s, v in zip(scores.split(blocks, dim=1), values.split(blocks), strict=True):
        state = online_update(*state, s, v)
    m, total, mixed = state
    np.testing.assert_allclose(m + total.log(), logsumexp(scores.numpy(), axis=1), rtol=1e-12)
    torch.testing.assert_close(mixed / total[:, None], scores.softmax(1) @ values)


@pytest.mark.parametrize("order", [1, -1])
def test_scores_beyond_the_range_of_exp(order):
    """Rising and falling: exp(2000) overflows even in float64."""
    q = torch.ones(1, 1, 2, 1, dtype=torch.float64)
    k = torch.linspace(-2000, 2000, 41, dtype=torch.float64)[None, None, :, None]
    k = k if order == 1 else k.flip(2)
    out = flash_attention(q, k, k, scale=1.0, tile=(1, 4))
    torch.testing.assert_close(out, torch.full_like(out, 2000.0))


# ---- memory and traffic


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 5), TILES)
def test_accesses_by_formula(n, m, dim, tile):
    q, k = draw(0, (1, 1, n, dim), (1, 1, m, dim))
    memory = SlowMemory()
    q.requires_grad_()
    out = flash_attention(q, k, k, tile=tile, memory=memory)
    assert memory.loads == n * dim + 2 * m * dim * -(-n // tile[0])
    assert memory.stores == n * dim + n
    before = memory.accesses
    out.sum().backward()
    again = -(-m // tile[1]) * n * (4 * dim + 2)  # q, dO, dQ twice; L and D
    assert memory.accesses - before == 2 * n * dim + n + 4 * m * dim + again


def test_causal_tiles_of_the_future_are_skipped():
    (q,) = draw(0, (1, 1, 64, 4))
    memory = SlowMemory()
    q.requires_grad_()
    out = flash_attention(q, q, q, is_causal=True, tile=(8, 8), memory=memory)
    assert memory.loads == 64 * 4 + 2 * 8 * 4 * (8 * 9 // 2)  # 36 of 64 tiles
    before = memory.accesses
    out.sum().backward()
    again = 36 * 8 * (4 * 4 + 2)
    assert memory.accesses - before == 2 * 64 * 4 + 64 + 4 * 64 * 4 + again


@given(st.integers(1, 10**6), st.integers(1, 300))
def test_tiles_fit(fast, dim):
    for backward in (False, True):
        try:
            rows, cols = tile_sizes(fast, dim, backward=backward)
        except ValueError:
            assert fast < 9 * dim + 8
            continue
        if backward:  # q, dO, dQ, L, D; k, v, dk, dv; p and dS
            used = rows * (3 * dim + 2) + 4 * cols * dim + 2 * rows * cols
        else:  # q, a, m, ℓ; k, v; the scores
            used = rows * (2 * dim + 2) + 2 * cols * dim + rows * cols
        assert used <= fast


def test_standard_attention_is_attention_and_its_traffic():
    n, d = 12, 3
    q, k, v, grad = draw(14, *[(n, d)] * 4)
    memory = SlowMemory()
    out, p = standard_forward(q, k, v, memory)
    assert memory.accesses == 4 * n * n + 4 * n * d
    gradients = standard_backward(q, k, v, p, grad, memory)
    assert memory.accesses == 11 * n * n + 12 * n * d
    theirs = with_gradients(torch_attention, [t[None, None] for t in (q, k, v)], grad[None, None])
    for a, b in zip([out, *gradients], theirs, strict=True):
        torch.testing.assert_close(a, b[0, 0], atol=1e-12, rtol=0)


# ---- wrong input


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        ([(1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 5)], {}, "agree in batch and dim"),
        ([(1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4)], {}, "v must have"),
        ([(1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)], {}, "must divide those of q, got 2 and 3"),
        ([(1, 1, 3, 4), (1, 1, 0, 4), (1, 1, 0, 4)], {}, "at least one key"),
        ([(1, 1, 3, 4), (1, 1, 2, 4), (1, 1, 2, 4)], {"is_causal": True}, "at most as many"),
        ([(1, 1, 3, 4)] * 3, {"tile": (0, 4)}, "tile must be"),
        ([(1, 1, 3, 4)] * 3, {"backward_tile": (4, -1)}, "backward_tile must be"),
    ],
)
def test_wrong_input(shapes, options, message):
    f = plain("19", "flash_attention").flash_attention  # past the shape contracts, as readers do
    with pytest.raises(ValueError, match=message):
        f(*draw(0, *shapes), **options)


def test_sizes_that_hold_no_tile():
    with pytest.raises(ValueError, match="fast must hold"):
        tile_sizes(100, 64)


# ---- Triton


TRITON = """
import json
import torch
from week13.attention import causal_mask, scaled_dot_product_attention
from week19.flash_triton import flash_attention_triton

device = "cuda" if torch.cuda.is_available() else "cpu"
g, errors = torch.Generator().manual_seed(15), []
for n, m in ((16, 16), (21, 37), (1, 40)):
    shapes = [(2, 4, n, 16), (2, 2, m, 16), (2, 2, m, 16)]
    q, k, v = (2 * torch.randn(s, generator=g).to(device) for s in shapes)
    for is_causal in (False, True):
        out, lse = flash_attention_triton(q, k, v, is_causal=is_causal, tile=(16, 32))
        expected = scaled_dot_product_attention(
            q.double(), k.double(), v.double(), is_causal=is_causal
        )
        scores = q.double() @ k.double().repeat_interleave(2, dim=1).transpose(-2, -1) / 4
        if is_causal:
            scores = scores.masked_fill(~causal_mask(n, m, device=device), -torch.inf)
        errors.append((out - expected).abs().max().item())
        errors.append((lse - scores.logsumexp(-1)).abs().max().item())
print(json.dumps(errors))
"""


def test_triton_equals_attention():
    """On a GPU compiled; elsewhere in Triton's interpreter, which must be on from the start."""
    pytest.importorskip("triton", reason="triton is not made for this system")
    there = torch.cuda.is_available()
    environment = os.environ | ({} if there else {"TRITON_INTERPRET": "1"})
    done = subprocess.run(
        [sys.executable, "-c", TRITON], capture_output=True, text=True, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    errors = json.loads(done.stdout)
    assert len(errors) == 12
    assert max(errors) < 1e-5


@pytest.mark.parametrize(
    ("dim", "value_dim", "tile", "message"),
    [
        (12, 12, (64, 64), "dim must be a power of two of at least 16, got 12"),
        (16, 16, (16, 24), r"tile\[1\] must be a power of two"),
        (16, 8, (64, 64), "v must have the dim of q = 16, got 8"),
    ],
)
def test_triton_says_what_it_cannot_do(dim, value_dim, tile, message):
    pytest.importorskip("triton", reason="triton is not made for this system")
    triton_attention = plain("19", "flash_triton").flash_attention_triton
    shapes = [(1, 1, 3, dim), (1, 1, 3, dim), (1, 1, 3, value_dim)]
    with pytest.raises(ValueError, match=message):
        triton_attention(*draw(0, *shapes, dtype=torch.float32), tile=tile)
