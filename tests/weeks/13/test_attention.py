"""Attention against torch's, and the properties that its classic mistakes break."""

import pytest
import torch
import torch.nn.functional as F
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week13.attention import (
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
)
from week13.evidence.attention import copy_from_torch


def normal(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()


sizes = st.integers(1, 5)


few = st.integers(1, 3)


@given(
    shape=st.tuples(sizes, few, few, sizes, sizes, sizes, sizes),
    mask=st.sampled_from(["none", "bool", "float", "rows"]),
    seed=st.integers(0, 99),
)
def test_equals_torch(shape, mask, seed):
    batch, kv_heads, groups, query, key, dim, value_dim = shape
    heads = kv_heads * groups
    q = normal(batch, heads, query, dim, seed=seed)
    k = normal(batch, kv_heads, key, dim, seed=seed + 1)
    v = normal(batch, kv_heads, key, value_dim, seed=seed + 2)
    masks = {
        "none": None,
        "bool": normal(batch, heads, query, key, seed=seed + 3) < 0.3,  # empty rows occur
        "float": normal(heads, query, key, seed=seed + 3).detach(),
        "rows": normal(batch, 1, 1, key, seed=seed + 3) < 0.3,
    }
    ours = scaled_dot_product_attention(q, k, v, mask=masks[mask])
    theirs = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[mask], enable_gqa=True)
    torch.testing.assert_close(ours, theirs)
    upstream = normal(*ours.shape, seed=seed + 4).detach()
    gradients = (torch.autograd.grad(out, (q, k, v), upstream) for out in (ours, theirs))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", ["bool", "float"])
def test_nothing_to_attend_to_gives_zeros(kind):
    q, k, v = (normal(1, 2, 3, 4, seed=i) for i in range(3))
    mask = torch.tensor([True, False, True])[:, None].expand(3, 3)
    mask = mask if kind == "bool" else torch.where(mask, 0.0, -torch.inf).double()
    out = scaled_dot_product_attention(q, k, v, mask=mask)
    out.sum().backward()
    assert (out[:, :, 1] == 0).all()
    assert all(x.grad.isfinite().all() for x in (q, k, v))
    assert (q.grad[:, :, 1] == 0).all()


@given(batch=sizes, heads=sizes, query=sizes, extra=st.integers(0, 4), seed=st.integers(0, 99))
def test_rows_sum_to_one_and_the_future_weighs_nothing(batch, heads, query, extra, seed):
    key = query + extra
    q, k = normal(batch, heads, query, 3, seed=seed), normal(batch, heads, key, 3, seed=seed + 1)
    weights = attention_weights(q, k, is_causal=True)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    for i in range(query):
        assert (weights[:, :, i, extra + i + 1 :] == 0).all()
        assert (weights[:, :, i, : extra + i + 1] > 0).all()


def test_causal_mask():
    assert causal_mask(3, 3).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]
    assert causal_mask(1, 4).all()  # a new token sees the whole cache
    assert causal_mask(2, 4).int().tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert causal_mask(0, 0).shape == (0, 0)


def test_dropout_keeps_the_mean_and_follows_its_generator():
    q, k = normal(1, 1, 1, 4).float(), normal(1, 1, 4000, 4, seed=1).float()
    v = torch.eye(1).expand(1, 1, 4000, 1)
    sources = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    outs = [scaled_dot_product_attention(q * 0, k, v, dropout=0.25, generator=g) for g in sources]
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    # 4000 weights of 1/4000, each kept with 3/4 and grown to 4/3: standard deviation 0.009
    assert outs[0].item() == pytest.approx(1.0, abs=0.04)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_layer_equals_torch(cross, causal):
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(12, 3, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    ours = copy_from_torch(MultiHeadAttention(12, 3).double(), theirs)
    x = normal(2, 5, 12)
    memory = normal(2, 7, 12, seed=1) if cross else x
    hidden = torch.zeros(2, memory.shape[1], dtype=torch.bool)
    hidden[1, 3:] = True
    future = ~causal_mask(5, memory.shape[1]) if causal else None
    masks = {"key_padding_mask": hidden, "attn_mask": future}
    expected, maps = theirs(x, memory, memory, average_attn_weights=False, **masks)
    options = {"mask": ~hidden[:, None, None], "is_causal": causal}
    inputs = (x, memory) if cross else (x,)
    out = ours(*inputs, **options)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(ours.weights(*inputs, **options), maps)
    upstream = normal(*out.shape, seed=2).detach()
    weights = [p.weight for p in (ours.q_proj, ours.k_proj, ours.v_proj)]
    *mine, dq, dk, dv = torch.autograd.grad(out, [*inputs, *weights], upstream)
    reference = torch.autograd.grad(expected, [*inputs, theirs.in_proj_weight], upstream)
    torch.testing.assert_close([*mine, torch.cat([dq, dk, dv])], [*reference])


def test_grouped_heads_are_full_heads_with_repeated_projections():
    torch.manual_seed(0)
    grouped, full = MultiHeadAttention(8, 4, n_kv_heads=2), MultiHeadAttention(8, 4)
    full.q_proj, full.out_proj = grouped.q_proj, grouped.out_proj
    with torch.no_grad():
        for name in ("k_proj", "v_proj"):
            for kind in ("weight", "bias"):
                rows = getattr(getattr(grouped, name), kind).split(2)
                copied = torch.cat([rows[0], rows[0], rows[1], rows[1]])
                getattr(getattr(full, name), kind).copy_(copied)
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(grouped(x, is_causal=True), full(x, is_causal=True))


def test_dropout_is_off_at_evaluation():
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, dropout=0.5)
    x = torch.randn(1, 4, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_rope_is_given_queries_and_keys():
    layer = MultiHeadAttention(8, 2, n_kv_heads=1)
    x = torch.randn(1, 3, 8)
    seen = []
    layer(x, rope=lambda h: seen.append(tuple(h.shape)) or h)
    assert seen == [(1, 2, 3, 4), (1, 1, 3, 4)]
    with pytest.raises(ValueError, match="rope needs queries and keys of one sequence"):
        layer(x, x, rope=lambda h: h)


def attend(q, k, v, **options):
    return scaled_dot_product_attention(*(torch.ones(1, *shape) for shape in (q, k, v)), **options)


FULL = (2, 3, 4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: attend((3, 3, 4), FULL, FULL), "multiple of those of k, got 3 and 2"),
        (lambda: attend(FULL, FULL, FULL, dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: attend(FULL, FULL, FULL, mask=torch.ones(2, 3).bool()), "mask must broadcast"),
        (lambda: attend(FULL, (2, 2, 4), (2, 2, 4), is_causal=True), "query_len must be"),
        *(
            (
                lambda mask=mask: plain("13", "attention").attention_weights(
                    torch.ones(1, 2, 3, 4), torch.ones(1, 2, 3, 4), mask=mask
                ),
                f"mask must be a tensor of booleans, or of floats to add, got {got}",
            )
            for mask, got in [
                (torch.ones(3, 3, dtype=torch.int64), "Tensor torch.int64"),
                (torch.ones(3, 3, dtype=torch.uint8), "Tensor torch.uint8"),
                (torch.ones(3, 3, dtype=torch.bool).numpy(), "ndarray bool"),
                ([[True] * 3] * 3, "list"),
            ]
        ),
        (lambda: MultiHeadAttention(10, 4), "n_heads must divide d_model = 10, got 4"),
        (lambda: MultiHeadAttention(8, 4, n_kv_heads=3), "must divide n_heads = 4, got 3"),
        (lambda: MultiHeadAttention(8, 4, dropout=-0.1), "dropout must be"),
        (lambda: causal_mask(3, 2), "query_len must be between 0 and key_len = 2, got 3"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
