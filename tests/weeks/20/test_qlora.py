"""NF4 on any input against bitsandbytes, and what may not happen to a layer in four bits."""

import copy

import bitsandbytes.functional as bnb
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week20.evidence.four_bit_models import INT4, moved
from week20.evidence.qlora import kept_bytes, rms_error
from week20.lora import LoRAConfig, LoRALinear, adapters, inject, merge, trainable, unload
from week20.qlora import (
    NF4Linear,
    bits_per_weight,
    dequantize_4bit,
    dequantize_base,
    dynamic_float,
    nearest,
    normal_float,
    pack,
    quantize_4bit,
    quantize_base,
    quantize_blocks,
    unpack,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_levels_are_the_published_ones():
    assert torch.equal(normal_float(), bnb.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(dynamic_float(), bnb.create_dynamic_map())
    levels = normal_float()
    assert (levels < 0).sum() == 7
    assert (levels > 0).sum() == 8
    assert (levels == 0).sum() == 1


@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_of_any_width(bits):
    levels = normal_float(bits)
    assert len(levels) == 2**bits
    assert levels[0] == -1
    assert levels[-1] == 1
    assert (levels.diff() > 0).all()
    assert levels[2 ** (bits - 1) - 1] == 0


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 9),
    st.integers(1, 150),
    st.sampled_from([32, 64, 128]),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    st.integers(0, 999),
)
def test_codes_are_bitsandbytes(rows, columns, block, dtype, seed):
    # One row of any even length, or rows of whole blocks: with several rows bitsandbytes' kernel
    # for CPUs gives a short last block the scale of the block before (0.50.2).
    columns = 2 * columns if rows == 1 else block * (1 + columns % 3)
    w = (normal(rows, columns, seed=seed) * 10.0 ** (seed % 7 - 3)).to(dtype)
    code = quantize_4bit(w, block=block)
    packed, state = bnb.quantize_4bit(w, blocksize=block, quant_type="nf4")
    assert torch.equal(code.scales, state.absmax)
    assert torch.equal(code.packed, packed.flatten())
    back = dequantize_4bit(code).to(dtype)
    theirs = bnb.dequantize_4bit(packed, state)  # turned where there is only one byte
    assert torch.equal(back.flatten(), theirs.flatten())
    assert back.shape == w.shape


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(1, 50), st.integers(0, 99))
def test_each_number_takes_its_nearest_level(n, block, seed):
    x, levels = normal(n, seed=seed), normal_float()
    codes, largest = quantize_blocks(x, levels, block)
    for i, (value, code) in enumerate(zip(x, codes, strict=True)):
        scale = x[i // block * block :][:block].abs().max()
        assert largest[i // block] == scale
        error = (levels * scale - value).abs()
        assert error[code] <= error.min() + 1e-6 * scale
    assert unpack(pack(codes), n).tolist() == codes.tolist()


def test_zeros_and_single_numbers():
    for w in (torch.zeros(2, 64), torch.zeros(1), torch.tensor([-3.0])):
        for double in (False, True):
            assert torch.allclose(dequantize_4bit(quantize_4bit(w, double=double)), w)


def test_double_quantization_takes_off_the_mean():
    w = normal(512, 512, seed=1) * 0.02
    single, double = quantize_4bit(w), quantize_4bit(w, double=True)
    _, state = bnb.quantize_4bit(w, quant_type="nf4", compress_statistics=True)
    assert torch.equal(double.mean, state.offset)
    assert torch.equal(double.second, state.state2.absmax)
    assert (double.scales != state.absmax).float().mean() < 0.01
    assert torch.equal(double.packed, single.packed)
    spread = single.scales.std()
    assert (double.largest() - single.scales).abs().max() < 0.1 * spread
    bits = [8 * code.nbytes() / w.numel() for code in (single, double)]
    assert bits == pytest.approx([bits_per_weight(double=False), bits_per_weight()], abs=2e-4)


def test_nothing_of_the_weight_is_kept_for_the_backward_pass():
    linear, x = nn.Linear(64, 32), normal(5, 64)
    assert kept_bytes(NF4Linear(linear), x) == 0
    assert kept_bytes(linear, x) == 4 * 64 * 32


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 99))
def test_a_layer_is_the_plain_layer_of_w4(n_in, n_out, bias, seed):
    torch.manual_seed(seed)
    layer = NF4Linear(nn.Linear(n_in, n_out, bias=bias))
    plain = dequantize_base(nn.Sequential(copy.deepcopy(layer)))[0]
    assert not list(layer.parameters())
    a, b = (normal(2, 3, n_in, seed=seed).requires_grad_() for _ in "ab")
    y, z = layer(a), plain(b)
    assert torch.allclose(y, z, atol=1e-6)
    for out in (y, z):
        out.square().sum().backward()
    assert torch.allclose(a.grad, b.grad, atol=1e-5, rtol=1e-5)


def two_layers(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(48, 64), nn.Tanh(), nn.Linear(64, 8))


def trained_on_code(model):
    on_code = quantize_base(copy.deepcopy(model))
    inject(on_code, LoRAConfig(r=3, targets=("0", "2")), kinds=NF4Linear)
    optimizer = torch.optim.Adam([p for p in on_code.parameters() if p.requires_grad], lr=0.05)
    x, y = normal(40, 48, seed=1), normal(40, 8, seed=2)
    for _ in range(20):
        optimizer.zero_grad()
        (on_code(x) - y).square().mean().backward()
        optimizer.step()
    return on_code, x


def test_gradients_are_those_of_lora_on_the_dequantized_weights():
    on_code = quantize_base(two_layers())
    inject(on_code, LoRAConfig(r=3, targets=("0", "2")), kinds=NF4Linear)
    for _, layer in adapters(on_code):
        layer.B.data = normal(*layer.B.shape, seed=3)
    plain = dequantize_base(copy.deepcopy(on_code))
    assert trainable(on_code)[0] == 3 * (48 + 64) + 3 * (64 + 8)
    x = normal(5, 48)
    for model in (on_code, plain):
        model(x).square().sum().backward()
    for (name, a), (_, b) in zip(adapters(on_code), adapters(plain), strict=True):
        assert torch.allclose(a.A.grad, b.A.grad, rtol=1e-4, atol=1e-5), name
        assert torch.allclose(a.B.grad, b.B.grad, rtol=1e-4, atol=1e-5), name


def test_a_correction_belongs_to_the_weights_it_was_trained_beside():
    model = two_layers()
    on_code, x = trained_on_code(model)
    merged = unload(merge(dequantize_base(copy.deepcopy(on_code))))
    assert [type(m) for m in merged] == [nn.Linear, nn.Tanh, nn.Linear]
    assert torch.allclose(merged(x), on_code(x), atol=1e-5)
    wrong = moved(on_code, model)
    assert not torch.allclose(wrong(x), on_code(x), atol=1e-2)
    for i in (0, 2):  # moved by just what four bits had lost
        lost = model[i].weight - dequantize_4bit(quantize_4bit(model[i].weight, double=True))
        assert torch.allclose(wrong[i].weight - merged[i].weight, lost, atol=1e-6)


def test_a_correction_cannot_be_merged_with_a_code():
    on_code, _ = trained_on_code(two_layers())
    with pytest.raises(ValueError, match=r"must be an nn.Linear to be merged, got NF4Linear"):
        merge(on_code)


def test_heads_stay_and_nothing_else_can_be_trained():
    model = nn.ModuleDict({"body": nn.Linear(8, 8), "head": nn.Linear(8, 3)})
    quantize_base(model)
    assert isinstance(model["head"], nn.Linear)
    assert isinstance(model["body"], NF4Linear)
    assert trainable(model)[0] == 0


def test_what_is_saved_is_small_and_comes_back():
    layer = NF4Linear(nn.Linear(128, 128, bias=False))
    state = layer.state_dict()
    other = NF4Linear(nn.Linear(128, 128, bias=False))
    other.load_state_dict(state)
    assert torch.equal(other.dequantized(), layer.dequantized())
    assert sum(p.nbytes for p in state.values()) < 4 * 128 * 128 * 0.15
    assert isinstance(LoRALinear(layer, LoRAConfig(r=1))(normal(2, 128)), torch.Tensor)


def test_error_is_measured_in_the_blocks_named():
    assert rms_error(normal(64, 64), normal_float()) < rms_error(normal(64, 64), INT4)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="bits must be from 2 to 8, got 1"):
        normal_float(1)
    with pytest.raises(ValueError, match="block must be at least 1, got 0"):
        quantize_4bit(torch.ones(4), block=0)
    with pytest.raises(ValueError, match="x must hold at least one number"):
        quantize_4bit(torch.ones(0))
    with pytest.raises(ValueError, match="x must be finite"):
        quantize_4bit(torch.tensor([1.0, float("nan")]))
    with pytest.raises(ValueError, match="levels must be 16 numbers in rising order"):
        quantize_4bit(torch.ones(4), levels=normal_float().flip(0))
    with pytest.raises(ValueError, match="block must be at least 1"):
        bits_per_weight(block=0)


def test_halfway_goes_down():
    assert nearest(torch.tensor([0.5]), torch.tensor([0.0, 1.0])).item() == 0
