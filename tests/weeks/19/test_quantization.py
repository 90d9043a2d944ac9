"""Grids on any input: nothing off by more than half a step, zero exact, ranges and conventions."""

import math

import pytest
import torch
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st

from week19.quantization import (
    FLOOR,
    dequantize,
    fake_quantize,
    grid,
    groups_of,
    levels,
    quantize,
    quantize_weight,
    straight_through,
)

BITS = st.integers(2, 8)
VALUES = st.lists(st.floats(-100, 100, width=32), min_size=2, max_size=24)


def grid_of(x, **options):
    return grid(x.min(), x.max(), **options)


@settings(max_examples=150)
@given(VALUES, BITS, st.booleans(), st.sampled_from(["narrow", "half", "full"]))
def test_error_is_at_most_half_a_step_and_zero_is_exact(values, bits, symmetric, convention):
    x = torch.tensor(values)
    options = {"bits": bits, "symmetric": symmetric}
    scale, zero = grid_of(x, **options, convention=convention)
    q = quantize(x, scale, zero, **options)
    low, high = levels(bits, symmetric=symmetric)
    assert low <= q.min() <= q.max() <= high
    back = dequantize(q, scale, zero)
    # an asymmetric grid is moved so that zero is on it: by up to half a step, and both ends with it
    most = scale * (0.5 if symmetric else 1.0)
    assert ((back - x).abs() <= most + 1e-4 * (1 + x.abs())).all()
    assert dequantize(zero, scale, zero) == 0
    assert dequantize(quantize(0 * x, scale, zero, **options), scale, zero).abs().max() == 0
    again = quantize(back, scale, zero, **options)
    assert torch.equal(again, q)


def test_three_conventions_of_int8():
    x = torch.tensor([-1.0, 0.99], dtype=torch.float64)
    found = {}
    for convention in ("narrow", "half", "full"):
        scale, zero = grid_of(x, bits=8, symmetric=True, convention=convention)
        found[convention] = (1 / scale.item(), quantize(x, scale, zero, bits=8, symmetric=True))
    assert [round(inverse, 9) for inverse, _ in found.values()] == [127, 127.5, 128]
    assert [q.tolist() for _, q in found.values()] == [[-127, 126], [-128, 126], [-128, 127]]


def test_narrow_never_uses_the_lowest_integer():
    for sign in (1, -1):
        x = sign * torch.linspace(-3, 1, 50)
        scale, zero = grid_of(x, bits=4, symmetric=True, convention="narrow")
        assert quantize(x, scale, zero, bits=4, symmetric=True).min() >= -7


def test_halves_go_to_the_even_neighbor():
    x, one, none = (
        torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]),
        torch.tensor(1.0),
        torch.tensor(0),
    )
    q = quantize(x, one, none, bits=4, symmetric=True)
    assert q.tolist() == [-2, -2, 0, 0, 2, 2]


def test_a_range_without_zero_is_widened_to_it():
    scale, zero = grid(torch.tensor(2.0), torch.tensor(3.0), bits=8, symmetric=False)
    assert zero == 0
    assert scale == torch.tensor(3.0) / 255
    scale, zero = grid(torch.tensor(-3.0), torch.tensor(-2.0), bits=8, symmetric=False)
    assert zero == 255


@pytest.mark.parametrize("symmetric", [True, False])
def test_zeros_have_a_step_and_stay_zeros(symmetric):
    w = torch.zeros(2, 8)
    q, scale, zero = quantize_weight(w, bits=4, symmetric=symmetric, granularity=4)
    assert (scale == FLOOR).all()
    assert torch.equal(dequantize(q, scale, zero).reshape(2, 8), w)


def test_a_uint8_zero_point_does_not_wrap():
    q, zero = torch.tensor([0, 128, 255], dtype=torch.uint8), torch.tensor(128)
    assert dequantize(q, torch.tensor(0.5), zero).tolist() == [-64.0, 0.0, 63.5]


@settings(max_examples=50)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), BITS, st.booleans())
def test_each_grid_sees_its_own_numbers_only(n_out, groups, size, bits, symmetric):
    w = torch.randn(n_out, groups * size, generator=torch.Generator().manual_seed(n_out + size))
    options = {"bits": bits, "symmetric": symmetric}
    whole = fake_quantize(w, **options, granularity=size)
    for o in range(n_out):
        for g in range(groups):
            part = slice(g * size, (g + 1) * size)
            alone = fake_quantize(w[o : o + 1, part], **options, granularity="tensor")
            assert torch.equal(whole[o : o + 1, part], alone)
    as_channel = fake_quantize(w, **options, granularity="channel")
    assert torch.equal(as_channel, fake_quantize(w, **options, granularity=groups * size))


def test_a_convolution_has_a_grid_per_output_channel():
    w = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    rounded = fake_quantize(w, bits=3, symmetric=False, granularity="channel")
    assert rounded.shape == w.shape
    for row, alone in zip(rounded, w, strict=True):
        assert torch.equal(row[None], fake_quantize(alone[None], bits=3, symmetric=False))


def test_gradient_passes_inside_and_stops_outside():
    x = torch.tensor([-9.0, -1.0, 0.3, 7.4, 9.0], requires_grad=True)
    one, zero = torch.tensor(1.0), torch.tensor(0)
    y = straight_through(x, one, zero, bits=4, symmetric=True)
    assert y.tolist() == [-8.0, -1.0, 0.0, 7.0, 7.0]
    y.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, w: m.fake_quantize(w, bits=1, symmetric=True),
            "bits must be between 2 and 8, got 1",
        ),
        (
            lambda m, w: m.fake_quantize(w, bits=4, symmetric=True, granularity=3),
            "granularity must divide the 8 inputs, got 3",
        ),
        (
            lambda m, w: m.fake_quantize(w, bits=4, symmetric=True, granularity="row"),
            "granularity must be tensor, channel or a group of at least 1, got 'row'",
        ),
        (
            lambda m, w: m.fake_quantize(w, bits=4, symmetric=True, granularity=0),
            "granularity must be tensor, channel or a group of at least 1, got 0",
        ),
        (
            lambda m, w: m.fake_quantize(w[0], bits=4, symmetric=True, granularity="channel"),
            "w must have an output and an input dimension",
        ),
        (
            lambda m, w: m.fake_quantize(w[:0], bits=4, symmetric=True),
            "w must hold a number, got shape",
        ),
        (
            lambda m, w: m.fake_quantize(w, bits=4, symmetric=True, convention="wide"),
            "convention must be one of narrow, half, full, got 'wide'",
        ),
        (
            lambda m, w: m.fake_quantize(w / 0, bits=4, symmetric=True),
            "low and high must be finite, got a value that is not",
        ),
        (
            lambda m, w: m.grid(w.amax(), w.amin(), bits=4, symmetric=True),
            "low must be at most high, got a larger one",
        ),
        (
            lambda m, w: m.quantize(w, torch.tensor(0.0), torch.tensor(0), bits=4, symmetric=True),
            "scale must be positive",
        ),
        (
            lambda m, w: m.quantize(
                math.nan * w, torch.tensor(1.0), torch.tensor(0), bits=4, symmetric=True
            ),
            "x must be finite",
        ),
    ],
)
def test_what_makes_no_grid_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(plain("19", "quantization"), torch.arange(16.0).reshape(2, 8))


def test_groups_of_a_view_share_memory():
    w = torch.zeros(4, 6)
    assert groups_of(w, 3).data_ptr() == w.data_ptr()
