"""Factors, integer layers, and what of smoothing is visible before anything is rounded."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from week18.llama3 import Llama, LlamaConfig
from week19.folding import fold, fold_values
from week19.layer_inputs import block_inputs
from week19.smoothquant import W8A8, smooth_block, smoothing, to_int8, to_w8a8

seeds = st.integers(0, 9999)


@given(seeds, st.floats(0, 1))
def test_factors_share_the_range(seed, alpha):
    g = torch.Generator().manual_seed(seed)
    x, w = (torch.rand(6, generator=g).double() * 9 + 0.01 for _ in range(2))
    s = smoothing(x, w, alpha)
    torch.testing.assert_close(s, x**alpha / w ** (1 - alpha))
    half = smoothing(x, w)
    torch.testing.assert_close(x / half, w * half)


def test_an_input_that_is_always_zero():
    s = smoothing(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert (s > 0).all()
    assert s.isfinite().all()


@given(seeds, st.booleans())
def test_a_layer_of_integers_is_its_integers_product(seed, bias):
    g = torch.Generator().manual_seed(seed)
    linear = nn.utils.skip_init(nn.Linear, 5, 3, bias=bias)
    for p in linear.parameters():
        nn.init.normal_(p, generator=g)
    x = torch.randn(2, 4, 5, generator=g)
    (a, a_scale), (b, b_scale) = to_int8(x), to_int8(linear.weight.detach())
    assert a.abs().max() == b.abs().max() == 127  # never -128
    product = (a.int()[..., None, :] * b.int()).sum(-1) * (a_scale * b_scale)
    expected = product + linear.bias if bias else product
    torch.testing.assert_close(W8A8(linear)(x), expected)


def test_a_bias_is_folded_too():
    g = torch.Generator().manual_seed(0)
    v, out = nn.Linear(3, 4), nn.Linear(8, 3)
    norm, reader = nn.LayerNorm(4), nn.Linear(4, 2)
    for layer in (v, out, norm, reader):
        for p in layer.double().requires_grad_(False).parameters():
            nn.init.normal_(p, generator=g)
    x = torch.randn(5, 3, generator=g).double()
    factors = torch.rand(4, generator=g).double() + 0.1

    def both():
        heads = v(x).view(5, 2, 1, 2).expand(5, 2, 2, 2).flatten(1)  # two query heads for each
        return torch.cat([out(heads), reader(norm(v(x)))], dim=1)

    before = both()
    fold(norm, [reader], factors)
    torch.testing.assert_close(both(), before)
    y = out(v(x).view(5, 2, 1, 2).expand(5, 2, 2, 2).flatten(1))
    fold_values(v, out, factors, head_dim=2)
    torch.testing.assert_close(out(v(x).view(5, 2, 1, 2).expand(5, 2, 2, 2).flatten(1)), y)


def test_each_input_has_a_scale_of_its_own():
    linear = nn.Linear(4, 3, bias=False)
    layer, x = W8A8(linear), torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(100 * x), 100 * layer(x))


def test_a_smoothed_block_computes_the_same_and_in_integers_nearly():
    generator = torch.Generator().manual_seed(0)
    model = Llama(LlamaConfig(13, 16, 1, 4, 2), generator).double().requires_grad_(False)
    block = model.blocks[0]
    for p in block.parameters():
        nn.init.normal_(p, std=0.3, generator=generator)
    x = torch.randn(2, 9, 16, generator=generator).double()
    angles = torch.arange(9)[:, None] * model.frequencies.double()
    rotary = [f(angles)[None, None] for f in (torch.cos, torch.sin)]
    before, inputs = block_inputs(block, x, *rotary)
    smooth = copy.deepcopy(block)
    smooth_block(smooth, inputs)
    torch.testing.assert_close(smooth(x, *rotary), before, rtol=1e-9, atol=1e-9)
    _, after = block_inputs(smooth, x, *rotary)
    for reader, names in {
        "gate_proj": ["gate_proj", "up_proj"],
        "down_proj": ["down_proj"],
    }.items():
        w = torch.cat([getattr(smooth, name).weight for name in names]).abs().amax(0)
        torch.testing.assert_close(after[reader].most, w)  # α = 1/2: as large as each other
    to_w8a8(smooth)
    assert (smooth(x, *rotary) - before).abs().mean() < 0.1 * before.abs().mean()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: smoothing(torch.ones(2), torch.ones(2), 1.5), r"alpha must be in \[0, 1\], got 1"),
        (lambda: smoothing(torch.ones(2), torch.ones(3)), "w_most must be floats of shape"),
        (lambda: smoothing(-torch.ones(2), torch.ones(2)), "must be magnitudes"),
    ],
)
def test_wrong_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
