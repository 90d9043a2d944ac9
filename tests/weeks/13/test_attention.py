"""Attention against torch's, and the properties that its classic mistakes break."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week13.attention import (
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    scaled_dot_product_attention,
)
from week13.evidence.attention import copy_from_torch, train_look_up


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
    for a, b in zip(
        torch.autograd.grad(ours, (q, k, v), upstream),
        torch.autograd.grad(theirs, (q, k, v), upstream),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_low_precision(dtype):
    q, k, v = (normal(2, 3, 6, 8, seed=i).to(dtype) for i in range(3))
    ours = scaled_dot_product_attention(q, k, v, is_causal=True)
    theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert ours.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_worked_by_hand():
    q = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]]]])
    k = torch.tensor([[[[2 * math.log(3), 9.0, 9.0, 9.0], [0.0, 9.0, 9.0, 9.0]]]])
    v = torch.tensor([[[[4.0], [8.0]]]])
    # scores (2 ln 3, 0) / √4 = (ln 3, 0), weights (3/4, 1/4)
    torch.testing.assert_close(scaled_dot_product_attention(q, k, v), torch.tensor([[[[5.0]]]]))


def test_gradcheck_with_an_empty_row():
    q, k, v = normal(1, 2, 3, 2), normal(1, 1, 4, 2, seed=1), normal(1, 1, 4, 3, seed=2)
    mask = torch.ones(1, 1, 3, 4, dtype=torch.bool)
    mask[..., 1, :] = False
    assert torch.autograd.gradcheck(
        lambda *qkv: scaled_dot_product_attention(*qkv, mask=mask), (q, k, v)
    )


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


def test_causal_with_padding():
    q, k, v = (normal(2, 2, 4, 3, seed=i) for i in range(3))
    keep = torch.tensor([[True] * 4, [True, True, False, False]])[:, None, None]
    both = keep & causal_mask(4, 4)
    torch.testing.assert_close(
        scaled_dot_product_attention(q, k, v, mask=keep, is_causal=True),
        F.scaled_dot_product_attention(q, k, v, attn_mask=both),
    )


def test_permuting_the_keys_changes_nothing_and_the_queries_permutes_the_output():
    q, k, v = (normal(2, 2, 5, 3, seed=i) for i in range(3))
    order = torch.tensor([3, 0, 4, 1, 2])
    out = scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(scaled_dot_product_attention(q, k[:, :, order], v[:, :, order]), out)
    torch.testing.assert_close(scaled_dot_product_attention(q[:, :, order], k, v), out[:, :, order])


def test_large_scores_do_not_overflow():
    q = torch.full((1, 1, 2, 4), 1e4)
    out = scaled_dot_product_attention(q, q, torch.ones(1, 1, 2, 3))
    torch.testing.assert_close(out, torch.ones_like(out))


def test_no_keys_gives_zeros():
    out = scaled_dot_product_attention(
        torch.ones(1, 1, 2, 4), torch.ones(1, 1, 0, 4), torch.ones(1, 1, 0, 3)
    )
    assert out.shape == (1, 1, 2, 3)
    assert (out == 0).all()


def test_dropout_keeps_the_mean_and_follows_its_generator():
    q, k = normal(1, 1, 1, 4).float(), normal(1, 1, 4000, 4, seed=1).float()
    v = torch.eye(1).expand(1, 1, 4000, 1)
    outs = [
        scaled_dot_product_attention(
            q * 0, k, v, dropout=0.25, generator=torch.Generator().manual_seed(seed)
        )
        for seed in (0, 0, 1)
    ]
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
    expected, maps = theirs(
        x, memory, memory, key_padding_mask=hidden, attn_mask=future, average_attn_weights=False
    )
    options = {"mask": ~hidden[:, None, None], "is_causal": causal}
    arguments = (x, memory) if cross else (x,)
    out = ours(*arguments, **options)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(ours.weights(*arguments, **options), maps)
    upstream = normal(*out.shape, seed=2).detach()
    inputs = arguments
    for a, b in zip(
        torch.autograd.grad(out, inputs, upstream, retain_graph=True),
        torch.autograd.grad(expected, inputs, upstream, retain_graph=True),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    projections = (ours.q_proj, ours.k_proj, ours.v_proj)
    grads = torch.autograd.grad(out, [p.weight for p in projections], upstream)
    reference = torch.autograd.grad(expected, theirs.in_proj_weight, upstream)[0]
    torch.testing.assert_close(torch.cat(grads), reference)


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


def test_look_up_learns():
    _, losses, accuracy = train_look_up(80, 0, dim=64)
    assert losses[0] > 3
    assert losses[-1] < 0.5
    assert accuracy > 0.9


@pytest.mark.parametrize(
    ("shapes", "options", "match"),
    [
        (((1, 2, 3, 4), (1, 2, 3, 5), (1, 2, 3, 4)), {}, "agree in batch and dim"),
        (((1, 3, 3, 4), (1, 2, 3, 4), (1, 2, 3, 4)), {}, "multiple of those of k, got 3 and 2"),
        (((1, 2, 3, 4), (1, 2, 3, 4), (1, 2, 5, 4)), {}, r"of k \(1, 2, 3\), got \(1, 2, 5\)"),
        (((1, 2, 3, 4),) * 3, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        (((1, 2, 3, 4),) * 3, {"mask": torch.ones(2, 3, dtype=torch.bool)}, "mask must broadcast"),
        (((1, 2, 3, 4), (1, 2, 2, 4), (1, 2, 2, 4)), {"is_causal": True}, "query_len must be"),
    ],
)
def test_wrong_input(shapes, options, match):
    q, k, v = (torch.ones(shape) for shape in shapes)
    with pytest.raises((ValueError, TypeError)) as caught:
        scaled_dot_product_attention(q, k, v, **options)
    if isinstance(caught.value, ValueError):
        caught.match(match)  # the shape hook may speak first


def test_wrong_sizes():
    with pytest.raises(ValueError, match="n_heads must divide d_model = 10, got 4"):
        MultiHeadAttention(10, 4)
    with pytest.raises(ValueError, match="n_kv_heads must divide n_heads = 4, got 3"):
        MultiHeadAttention(8, 4, n_kv_heads=3)
    with pytest.raises(ValueError, match="dropout must be"):
        MultiHeadAttention(8, 4, dropout=-0.1)
    with pytest.raises(ValueError, match="query_len must be between 0 and key_len = 2, got 3"):
        causal_mask(3, 2)
