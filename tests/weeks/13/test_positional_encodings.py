"""Positional encodings against transformers' functions, closed forms and their own promises."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week13.evidence.positional_encodings import SCHEMES, CharacterModel
from week13.positional_encodings import (
    LearnedPositions,
    RelativePositionBias,
    alibi_bias,
    alibi_slopes,
    apply_rope,
    relative_position_bucket,
    relative_positions,
    rope_frequencies,
    sinusoidal_encoding,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def exact(dim):
    return rope_frequencies(dim, dtype=torch.float64)


@given(
    half=st.integers(1, 6),
    seq=st.integers(1, 6),
    shift=st.integers(0, 3000),
    pairing=st.sampled_from(["half", "interleaved"]),
    seed=st.integers(0, 99),
)
def test_rope_depends_on_the_distance_alone_and_keeps_lengths(half, seq, shift, pairing, seed):
    q, k = normal(1, 2, seq, 2 * half, seed=seed), normal(1, 2, seq, 2 * half, seed=seed + 1)
    options = {"frequencies": exact(2 * half), "pairing": pairing}
    near = apply_rope(q, **options) @ apply_rope(k, **options).mT
    far = apply_rope(q, shift, **options) @ apply_rope(k, shift, **options).mT
    torch.testing.assert_close(near, far, atol=1e-9, rtol=0.0)
    torch.testing.assert_close(apply_rope(q, shift, **options).norm(dim=-1), q.norm(dim=-1))
    torch.testing.assert_close(near.diagonal(dim1=2, dim2=3), (q * k).sum(-1))


def test_rope_pairings_differ_by_a_permutation():
    x = normal(1, 2, 5, 8)
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])
    torch.testing.assert_close(
        apply_rope(x[..., order], 3), apply_rope(x, 3, pairing="interleaved")[..., order]
    )


def test_rope_one_token_at_a_time():
    x = normal(1, 2, 6, 4)
    whole = apply_rope(x)
    for t in range(6):
        torch.testing.assert_close(apply_rope(x[:, :, t : t + 1], t), whole[:, :, t : t + 1])
    scattered = torch.tensor([5, 0, 2])
    torch.testing.assert_close(apply_rope(x[:, :, scattered], scattered), whole[:, :, scattered])


def test_rope_in_bfloat16_knows_late_positions():
    x = torch.ones(1, 1, 2, 4)
    late = apply_rope(x.bfloat16(), 1000).float()
    torch.testing.assert_close(late, apply_rope(x, 1000), atol=0.02, rtol=0.0)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 4, 6, 8, 12, 16, 20, 32])
def test_alibi_equals_bloom(n_heads):
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    theirs = build_alibi_tensor(torch.ones(1, 2), n_heads, torch.float32)[:, 0, 1]
    torch.testing.assert_close(alibi_slopes(n_heads), theirs)


def test_alibi_of_the_paper():
    slopes = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]  # section 3
    assert alibi_slopes(8).tolist() == slopes
    assert alibi_bias(8, 1, 4)[0, 0].tolist() == [-1.5, -1.0, -0.5, 0.0]
    torch.testing.assert_close(alibi_bias(3, 2, 5), alibi_bias(3, 5, 5)[:, 3:])


@given(
    distances=st.lists(st.integers(-100_000, 100_000), max_size=30),
    bidirectional=st.booleans(),
    options=st.sampled_from([(32, 128), (8, 20), (16, 64), (4, 9)]),
)
def test_buckets_equal_t5(distances, bidirectional, options):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.tensor(distances, dtype=torch.long)
    n_buckets, max_distance = options
    sizes = {"n_buckets": n_buckets, "max_distance": max_distance}
    ours = relative_position_bucket(distance, bidirectional=bidirectional, **sizes)
    theirs = T5Attention._relative_position_bucket(distance, bidirectional, *options)
    assert ours.tolist() == theirs.tolist()


def test_relative_bias_is_one_number_a_distance():
    bias = RelativePositionBias(2, bidirectional=False, n_buckets=8, max_distance=16)
    with torch.no_grad():
        bias.table.copy_(torch.arange(16.0).view(8, 2))
    table = bias(4, 4)
    assert table[0].int().tolist() == [[0, 0, 0, 0], [2, 0, 0, 0], [4, 2, 0, 0], [6, 4, 2, 0]]
    assert torch.equal(bias(1, 4), table[:, 3:])
    assert relative_positions(2, 3).tolist() == [[-1, 0, 1], [-2, -1, 0]]


def test_learned_positions_end():
    positions = LearnedPositions(5, 3)
    assert torch.equal(positions(2, offset=3), positions.table[3:])
    with pytest.raises(ValueError, match=r"context = 5\), got 3 to 5"):
        positions(3, offset=3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_model_is_causal_and_tells_positions_apart(scheme):
    torch.manual_seed(0)
    model = CharacterModel(7, scheme, 12, width=16)
    for parameter in model.parameters():  # the relative bias starts at zero
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.tensor([[1, 2, 3, 4, 5, 6]])
    with torch.no_grad():
        whole = model(tokens)
        torch.testing.assert_close(model(tokens[:, :4]), whole[:, :4], atol=1e-4, rtol=1e-4)
        # one layer of attention alone is blind to the order of the past without positions
        swapped = model(torch.tensor([[2, 1, 3, 4, 5, 6]]))[:, -1]
    assert not torch.allclose(swapped, whole[:, -1], atol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: rope_frequencies(5), "dim must be even and at least 2, got 5"),
        (lambda: rope_frequencies(4, base=0.0), "base must be positive"),
        (lambda: sinusoidal_encoding(-1, 4), "length and offset must be at least 0"),
        (lambda: sinusoidal_encoding(3, 7), "dim must be even"),
        (lambda: apply_rope(normal(1, 1, 2, 4), frequencies=exact(6)), "dim / 2 = 2 entries"),
        (lambda: alibi_slopes(0), "n_heads must be at least 1, got 0"),
        (lambda: alibi_bias(2, 3, 2), "query_len must be between 0 and key_len = 2, got 3"),
        (lambda: relative_position_bucket(torch.arange(2), n_buckets=6), "multiple of 4, got 6"),
        (lambda: relative_position_bucket(torch.arange(2), max_distance=8), "must exceed 8"),
        (lambda: LearnedPositions(0, 3), "context must be at least 1"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
