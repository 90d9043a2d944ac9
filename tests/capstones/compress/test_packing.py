"""Bits in, bits out: odd shapes, all widths, masks and both ways to store them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compress.artifact.packing import mask_of, pack, pack_bits, places_of, unpack, unpack_bits
from compress.methods.rounding import hqq, rtn
from compress.weights import Weight

seeds = st.integers(0, 9999)


def generator(seed):
    return torch.Generator().manual_seed(seed)


@given(seeds, st.integers(0, 67), st.integers(1, 8))
def test_any_number_of_numbers_of_any_width_comes_back(seed, n, bits):
    numbers = torch.randint(1 << bits, (n,), generator=generator(seed)).to(torch.uint8)
    packed = pack_bits(numbers, bits)
    assert len(packed) == -(-n * bits // 8)
    assert torch.equal(unpack_bits(packed, n, bits), numbers)


@given(seeds, st.integers(1, 40), st.integers(1, 8))
def test_the_stream_is_numpys_bits_from_the_lowest_on(seed, n, bits):
    numbers = torch.randint(1 << bits, (n,), generator=generator(seed)).to(torch.uint8)
    stream = "".join(format(number, f"0{bits}b")[::-1] for number in numbers.tolist())
    stream += "0" * (-len(stream) % 8)
    expected = [int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)]
    assert pack_bits(numbers, bits).tolist() == expected


def test_four_bits_are_two_nibbles_the_first_one_low():
    packed = pack_bits(torch.tensor([[1, 2], [15, 0]], dtype=torch.uint8), 4)
    assert [hex(byte) for byte in packed.tolist()] == ["0x21", "0xf"]


@pytest.mark.parametrize(("numbers", "bits"), [([4], 2), ([-1], 4), ([256], 8), ([1], 9), ([1], 0)])
def test_numbers_that_do_not_fit_are_refused(numbers, bits):
    with pytest.raises(ValueError, match="must be between"):
        pack_bits(torch.tensor(numbers), bits)


@pytest.mark.parametrize("length", [3, 5])
def test_bytes_that_are_missing_or_too_many_are_refused(length):
    with pytest.raises(ValueError, match="packed must hold 4 bytes"):
        unpack_bits(torch.zeros(length, dtype=torch.uint8), 10, 3)


@st.composite
def weights(draw):
    """A matrix in any of its forms, of any shape."""
    seed, n_out, n_in = draw(seeds), draw(st.integers(1, 5)), 4 * draw(st.integers(1, 9))
    bits, kind = draw(st.sampled_from([None, 2, 3, 4, 8])), draw(st.sampled_from("-smh"))
    group = draw(st.sampled_from([None, 3, 4, 8, 30]))
    w = torch.randn(n_out, n_in, generator=generator(seed))
    mask, pattern = None, None
    if kind == "m":
        mask = torch.rand(w.shape, generator=generator(seed + 1)) < 0.5
    elif kind == "s":
        pattern = draw(st.sampled_from([(2, 4), (1, 4)]))
        order = torch.rand(n_out, n_in // 4, 4, generator=generator(seed)).argsort(-1)
        mask = (order < pattern[0]).flatten(1)
    if bits is None:
        return Weight(w, mask=mask, pattern=pattern)
    if kind == "h":
        return hqq(w, bits=bits, group_size=group)
    symmetric = draw(st.booleans())
    options = {"bits": bits, "group_size": group, "symmetric": symmetric}
    return rtn(w, mask=mask, pattern=pattern, **options)


@given(weights())
def test_a_matrix_comes_back_to_the_bit(weight):
    packed = pack(weight)
    again = unpack(*packed)
    assert torch.equal(again.dense(), weight.dense())
    same = (again.bits, again.pattern, again.n_pruned, again.symmetric)
    assert same == (weight.bits, weight.pattern, weight.n_pruned, weight.symmetric)
    if weight.mask is not None:
        assert torch.equal(again.mask, weight.mask)
        assert (again.dense()[~weight.mask] == 0).all()
    twice = pack(again)
    assert twice.meta == packed.meta
    assert all(torch.equal(twice.tensors[name], t) for name, t in packed.tensors.items())


@pytest.mark.parametrize(("bits", "n_bytes"), [(4, 48 * 64 // 2), (3, 48 * 24), (2, 48 * 16)])
def test_codes_take_their_bits_and_no_more(bits, n_bytes):
    weight = rtn(torch.randn(48, 64), bits=bits, group_size=64)
    assert pack(weight).tensors["codes"].numel() == n_bytes


def test_eight_bits_are_stored_as_int8_where_the_grid_is_symmetric():
    w = torch.tensor([[-1.0, 0.0, 0.5]])
    codes = pack(rtn(w, bits=8, symmetric=True)).tensors["codes"]
    assert codes.dtype == torch.int8
    assert codes.tolist() == [[-127, 0, 64]]
    assert pack(rtn(w, bits=8)).tensors["codes"].dtype == torch.uint8


def test_only_what_is_kept_is_stored():
    w = torch.randn(8, 32)
    mask = torch.rand(8, 32) < 0.25
    kept = pack(Weight(w, mask=mask))
    assert torch.equal(kept.tensors["values"], w[mask])
    assert kept.tensors["mask"].numel() == 8 * 32 // 8
    four_bits = pack(rtn(w, bits=4, group_size=32, mask=mask)).tensors["codes"]
    assert four_bits.numel() == -(-int(mask.sum()) // 2)


@given(seeds, st.integers(1, 4), st.integers(1, 9))
def test_two_of_four_are_stored_as_their_places(seed, n_out, groups):
    order = torch.rand(n_out, groups, 4, generator=generator(seed)).argsort(-1)
    mask = order < 2
    places = places_of(mask.flatten(1))
    for row, four in np.ndindex(n_out, groups):
        assert places[row, four].tolist() == mask[row, four].nonzero()[:, 0].tolist()
    assert torch.equal(mask_of(places), mask)


def test_a_mask_that_is_not_two_of_four_has_no_places():
    with pytest.raises(ValueError, match="mask must keep 2 of each 4"):
        places_of(torch.tensor([[True, True, True, False]]))


def test_a_mask_that_keeps_another_number_than_its_record_says_is_refused():
    packed = pack(Weight(torch.randn(2, 8), mask=torch.arange(16).view(2, 8) < 9))
    with pytest.raises(ValueError, match="mask must keep 8 weights, got 9"):
        unpack(packed.tensors, {**packed.meta, "n_pruned": 8})


def test_the_order_of_groups_is_stored_where_it_is_not_that_of_the_columns():
    weight = rtn(torch.randn(3, 8), bits=4, group_size=4)
    shuffled = Weight(**{**vars(weight), "group_of": torch.tensor([1, 0, 1, 0, 0, 1, 0, 1])})
    assert "group_of" not in pack(weight).tensors
    again = unpack(*pack(shuffled))
    assert torch.equal(again.dense(), shuffled.dense())
    assert not torch.equal(again.dense(), weight.dense())
