"""HQQ against torchao on random weights; what exact steps guarantee."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week19.hqq import descend, hqq, nearest, shrink

seeds = st.integers(0, 9999)


def weights(seed, scale=0.05):
    return torch.randn(6, 32, generator=torch.Generator().manual_seed(seed)) * scale


@given(seeds, st.integers(2, 4), st.sampled_from([8, 16, 32]))
def test_equals_torchao(seed, bits, group):
    from torchao.quantization.quant_primitives import _choose_qparams_and_quantize_affine_hqq

    w = weights(seed)
    options = {"device": "cpu", "compute_dtype": torch.float32, "raw_output": True}
    q, scale, zero, _ = _choose_qparams_and_quantize_affine_hqq(
        w, nbits=bits, group_size=group, **options
    )
    ours = hqq(w, bits=bits, group_size=group)
    same = (ours.codes.flatten(1) == q).float().mean()
    assert same > 0.98  # a tie may fall the other way
    torch.testing.assert_close(ours.scale[..., 0], scale)
    torch.testing.assert_close(ours.zero[..., 0], zero, rtol=1e-4, atol=1e-4)


@given(seeds, st.integers(2, 4), st.floats(1, 1000))
def test_exact_steps_never_raise_the_objective(seed, bits, beta):
    w = weights(seed).double()
    found, objective = descend(w, bits=bits, group_size=16, beta=beta, steps=6)
    assert np.diff(objective).max() <= 1e-9 * objective[0]
    assert found.dequantize().shape == w.shape


@given(st.floats(-3, 3), st.floats(0.5, 9))
def test_shrinkage_is_least(x, beta):
    at = shrink(torch.tensor([x]).double(), beta).item()
    grid = np.linspace(-4, 4, 2001)
    assert (
        abs(at) + beta / 2 * (x - at) ** 2 <= (abs(grid) + beta / 2 * (x - grid) ** 2).min() + 1e-9
    )


def test_shrinkage_leaves_zero_alone_for_every_power():
    x = torch.tensor([0.0, 1e-9, 2.0])
    assert shrink(x, 10.0, 0.7)[:2].tolist() == [0, 0]
    assert shrink(x, 10.0, 0.7)[2].item() == pytest.approx(2 - 2**-0.3 / 10)


def test_groups_that_are_level():
    w = torch.zeros(2, 16)
    w[1] = 0.25
    found = hqq(w, bits=3, group_size=8).dequantize()
    assert found.isfinite().all()
    torch.testing.assert_close(found, w)


def test_without_steps_it_rounds_to_nearest():
    w = weights(0)
    a, b = hqq(w, bits=4, group_size=16, steps=0), nearest(w.unflatten(1, (-1, 16)), bits=4)
    assert torch.equal(a.dequantize(), b.dequantize())
    half = a.scale.expand(-1, -1, 16).flatten(1) / 2
    assert ((w - a.dequantize()).abs() <= half * (1 + 1e-4)).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"p": 0.0}, r"p must be in \(0, 1\], got 0"),
        ({"beta": 0.0}, "beta must be positive"),
        ({"group_size": 5}, "granularity must divide the 32 inputs, got 5"),
        ({"bits": 9}, "bits must be between 2 and 8, got 9"),
    ],
)
def test_wrong_input(change, match):
    with pytest.raises(ValueError, match=match):
        hqq(**({"w": weights(0), "bits": 3, "group_size": 8} | change))


def test_wrong_input_of_exact_steps():
    with pytest.raises(ValueError, match="beta must be positive"):
        descend(weights(0), bits=3, group_size=8, beta=0.0, steps=1)
