"""Packed words against the layout written out, and the two versions of GPTQ's files."""

import dataclasses

import pytest
import torch
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.packing import as_version, from_gptq, gptq_weight, pack, to_gptq, unpack


def random_layer(bits, n_in=32, n_out=32, group=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    q = torch.randint(2**bits, (n_out, n_in), generator=g)
    zero = torch.randint(2**bits, (n_out, n_in // group), generator=g)
    scale = torch.rand(n_out, n_in // group, generator=g) + 0.1
    return q, scale, zero, (torch.arange(n_in) // group)[torch.randperm(n_in, generator=g)]


@settings(max_examples=40)
@given(bits=st.integers(1, 8), columns=st.integers(0, 3), seed=st.integers(0, 99))
def test_round_trip_of_any_width(bits, columns, seed):
    q = torch.randint(2**bits, (64, columns), generator=torch.Generator().manual_seed(seed))
    words = pack(q, bits=bits)
    assert words.dtype == torch.int32
    assert words.shape == (2 * bits, columns)
    assert torch.equal(unpack(words, bits=bits).long(), q)


def test_three_bits_as_gptq_writes_them():
    q = torch.randint(8, (32, 5), generator=torch.Generator().manual_seed(1))
    a, b, c = (torch.zeros(5, dtype=torch.long) for _ in range(3))
    for j in range(10):
        a, b, c = a | q[j] << 3 * j, b | q[11 + j] << 3 * j + 1, c | q[22 + j] << 3 * j + 2
    a, b = a | (q[10] & 3) << 30, b | q[10] >> 2
    b, c = b | (q[21] & 1) << 31, c | q[21] >> 1
    assert torch.equal(pack(q, bits=3).long() & 0xFFFFFFFF, torch.stack([a, b, c]))


def test_four_bits_put_the_first_input_lowest():
    q = torch.arange(16).repeat(2)[:, None].repeat(1, 3)
    q[:, 1] = 15
    words = pack(q, bits=4).long() & 0xFFFFFFFF
    assert [hex(w) for w in words[:2, 0]] == ["0x76543210", "0xfedcba98"]
    assert (words[:, 1] == 0xFFFFFFFF).all()


@pytest.mark.parametrize("version", [1, 2])
def test_16_by_24_in_groups_of_8_in_random_order(version):
    q, scale, zero, g_idx = random_layer(4, n_in=16, n_out=24)
    zero[0] = 0  # version 1 stores -1, which is 15 and borrows nothing
    tensors = to_gptq(q, scale, zero, g_idx, bits=4, version=version)
    shapes = [t.shape for t in (tensors.qweight, tensors.qzeros, tensors.scales)]
    assert shapes == [(2, 24), (2, 3), (2, 24)]
    expected = torch.stack(
        [(q[:, i] - zero[:, g]) * scale[:, g] for i, g in enumerate(g_idx.tolist())], dim=1
    )
    assert torch.equal(gptq_weight(tensors), expected)
    assert torch.equal(gptq_weight(as_version(tensors, 3 - version)), expected)
    assert torch.equal(from_gptq(as_version(tensors, 3 - version))[2], zero)


def test_neighbors_of_a_zero_point_of_zero_keep_theirs():
    zero = torch.tensor([[0], [7], [15], [0], [1], [2], [8], [0]])
    q, scale = torch.zeros(8, 8, dtype=torch.long), torch.ones(8, 1)
    tensors = to_gptq(q, scale, zero, torch.zeros(8, dtype=torch.long), bits=4)
    stored = unpack(tensors.qzeros.T, bits=4).flatten()
    assert stored.tolist() == [15, 6, 14, 15, 0, 1, 7, 15]
    whole_word = pack(zero, bits=4).long() - 0x11111111
    assert unpack(whole_word.int(), bits=4).flatten().tolist() != stored.tolist()  # it borrows


def test_the_wrong_version_is_off_by_a_step_everywhere():
    q, scale, zero, g_idx = random_layer(4)
    zero = zero.clamp(1, 14)
    tensors = to_gptq(q, scale, zero, g_idx, bits=4, version=2)
    wrong = gptq_weight(dataclasses.replace(tensors, version=1))
    torch.testing.assert_close(gptq_weight(tensors) - wrong, scale[:, g_idx])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda q: pack(q[:7], bits=4), "q must fill whole words of 32 bits, 4 bits each, got 7"),
        (lambda q: pack(q + 9, bits=4), "q must be between 0 and 15, got an integer that is not"),
        (lambda q: pack(q - 9, bits=4), "q must be between 0 and 15, got an integer that is not"),
        (lambda q: pack(q, bits=9), "bits must be between 1 and 8, got 9"),
        (lambda q: unpack(q.int(), bits=3), "words must hold whole integers of 3 bits, got 8"),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.arange(8)[:, None])


def test_layers_that_do_not_fit_are_refused():
    q, scale, zero, g_idx = random_layer(4)
    with pytest.raises(ValueError, match="version must be 1 or 2, got 3"):
        to_gptq(q, scale, zero, g_idx, bits=4, version=3)
    with pytest.raises(ValueError, match="g_idx must hold one of 4 groups per input"):
        to_gptq(q, scale, zero, g_idx + 1, bits=4)
    with pytest.raises(ValueError, match="zero must have scale's shape"):
        plain("19", "packing").to_gptq(q, scale, zero[:, :2], g_idx, bits=4)
