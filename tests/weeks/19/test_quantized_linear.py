"""Quantized layers: kernels against the integers they hold, many rows, rows and their company."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchao.quantization.granularity import PerRow
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

from week19.quantization import fake_quantize, quantize_weight
from week19.quantized_linear import (
    FEW_ROWS,
    WIDENED_TOGETHER,
    DynamicInt8Linear,
    Int4Linear,
    Int8Linear,
    nibbles,
    quantize_linears,
    quantize_tokens,
    widened_product,
)
from week19.twins import small_llama

KINDS = {
    "int8": Int8Linear,
    "int4": Int4Linear,
    "dynamic": DynamicInt8Linear,
    "fused": lambda w, b=None: DynamicInt8Linear(w, b, shared_grid=True),
}


def random_weight(n_out=48, n_in=64, seed=0):
    return torch.randn(n_out, n_in, generator=torch.Generator().manual_seed(seed))


def test_scales_are_not_rounded_to_sixteen_bits():
    layer = Int8Linear(torch.randn(32, 64))
    weight = torch.cat([layer(row) for row in torch.eye(64).split(8)]).T
    torch.testing.assert_close(
        weight, layer.dequantized(), rtol=1e-6, atol=0
    )  # one float32 product


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(64,), (1, 64), (2, 3, 64), (FEW_ROWS + 5, 64)])
def test_any_leading_shape_and_a_bias(kind, shape):
    w, x = random_weight(), random_weight(1, 64 * 40, 1).flatten()[: torch.Size(shape).numel()]
    bias, x = torch.arange(48.0), x.reshape(shape)
    y = KINDS[kind](w, bias)(x)
    assert y.shape == (*shape[:-1], 48)
    assert y.dtype == torch.float32
    rounding = 0.12 if kind == "int4" else 0.02
    exact = F.linear(x, w, bias)
    assert (y - exact).norm() < rounding * F.linear(x, w).norm()


@pytest.mark.parametrize("n_in", [1, 31, 33, 88])
def test_int8_of_widths_that_the_kernel_misreads(n_in):
    w, x = random_weight(17, n_in), random_weight(3, n_in, 1)
    layer = Int8Linear(w)
    torch.testing.assert_close(layer(x), F.linear(x, layer.dequantized()))


@pytest.mark.parametrize("kind", ["int8", "dynamic"])
def test_a_row_does_not_see_its_company(kind):
    layer, x = KINDS[kind](random_weight()), random_weight(6, 64, 1)
    x[0] *= 100
    alone = torch.cat([layer(row[None]) for row in x])
    torch.testing.assert_close(layer(x), alone)


def test_a_shared_grid_does():
    layer, x = KINDS["fused"](random_weight()), random_weight(6, 64, 1)
    x[0] *= 100
    error = (layer(x)[1:] - layer(x[1:])).norm() / layer(x[1:]).norm()
    assert error > 0.1


def test_int8_of_few_and_many_rows_differ_by_bfloat16_only():
    layer, x = Int8Linear(random_weight()), random_weight(FEW_ROWS + 1, 64, 1)
    many, few = layer(x), torch.cat([layer(x[:FEW_ROWS]), layer(x[FEW_ROWS:])])
    assert 0 < (many - few).norm() / many.norm() < 2**-7


@pytest.mark.parametrize("group", [32, 64])
def test_int4_holds_the_rounded_weight(group):
    w = random_weight(n_in=128)
    rounded = fake_quantize(w, bits=4, symmetric=True, granularity=group)
    found = Int4Linear(w, group=group).dequantized()
    in_bfloat16 = 2**-7  # the scale, their product and the sum
    torch.testing.assert_close(found, rounded, rtol=in_bfloat16, atol=1e-6)


@pytest.mark.parametrize("n_out", [16, 64, 80, 1104])
def test_nibbles_made_part_by_part_are_those_of_the_whole(n_out):
    q = torch.randint(0, 16, (n_out, 96), dtype=torch.uint8)
    whole = torch.ops.aten._convert_weight_to_int4pack_for_cpu(q.int(), 1)
    assert torch.equal(nibbles(q), whole)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 7, 600])
def test_a_matrix_widened_in_parts_gives_the_product(rows, threads, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    x, w = random_weight(rows, 32, 1), random_weight(WIDENED_TOGETHER + 345, 32).half()
    torch.testing.assert_close(widened_product(x, w), F.linear(x, w.float()))


def test_layers_of_codes_are_those_of_the_weight():
    w, x = random_weight(), random_weight(3, 64, 1)
    for layer in (Int8Linear(w), DynamicInt8Linear(w)):
        again = type(layer).from_codes(layer.q, layer.scale)
        assert torch.equal(again(x), layer(x))
    q, scale, _ = quantize_weight(w, bits=4, symmetric=True, granularity=32)
    again = Int4Linear.from_codes(q.flatten(1) + 8, scale[..., 0], group=32)
    assert torch.equal(again(x), Int4Linear(w, group=32)(x))


def test_int8_holds_torchaos_weight():
    w = random_weight()
    theirs = Int8Tensor.from_hp(w, granularity=PerRow()).dequantize()
    torch.testing.assert_close(Int8Linear(w).dequantized(), theirs, rtol=1e-6, atol=0)


def test_tokens_of_zeros():
    p, scale = quantize_tokens(torch.zeros(2, 4))
    assert (p == 0).all()
    assert (scale > 0).all()
    assert not DynamicInt8Linear(random_weight())(torch.zeros(2, 64)).any()


def test_a_tied_head_gets_integers_and_the_embedding_stays():
    model = small_llama(0, vocab_size=64, tied=True)
    tokens = torch.arange(12)[None]
    before, embedding = model(tokens), model.embed.weight.clone()
    quantize_linears(model, Int8Linear, keep=lambda name, _: name.endswith("k_proj"))
    kinds = {type(layer) for layer in model.modules() if isinstance(layer, nn.Module)}
    assert Int8Linear in kinds
    assert isinstance(model.blocks[0].k_proj, nn.Linear)
    assert isinstance(model.head, Int8Linear)
    assert torch.equal(model.embed.weight, embedding)
    after = model(tokens)
    assert 0 < (after - before).norm() / before.norm() < 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: Int8Linear(w)(torch.zeros(3, 63)), "x must end in 64 inputs, got"),
        (lambda w: Int4Linear(w, group=48), "group must be 32, 64, 128 or 256, got 48"),
        (lambda w: Int4Linear(w[:40]), "n_out must be a multiple of 16, got 40"),
        (
            lambda w: Int4Linear(w[:, :48], group=32),
            "granularity must divide the 48 inputs, got 32",
        ),
    ],
)
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(random_weight())
