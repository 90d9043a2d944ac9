"""GPTQ against solving again for each weight, its theorems, its order of columns, bad input."""

import itertools
import json

import llm_compressor
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from week19.gptq import feedback, gptq, hessian, layer_error, optimal_brain
from week19.quantization import fake_quantize


def layer(seed, n_out, n_in, samples=None):
    """Random weights, and the Hessian of correlated inputs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples or 3 * n_in, n_in, generator=g, dtype=torch.double)
    mix = torch.randn(n_in, n_in, generator=g, dtype=torch.double)
    return torch.randn(n_out, n_in, generator=g, dtype=torch.double), hessian(x @ mix)


seeds = st.integers(0, 9999)


@given(seeds, st.integers(1, 5), st.integers(1, 12), st.integers(2, 4), st.booleans())
def test_equals_solving_again_for_each_weight(seed, n_out, n_in, bits, act_order):
    w, h = layer(seed, n_out, n_in)
    found = gptq(w, h, bits=bits, damping=0.0, act_order=act_order)
    order = h.diagonal().argsort(descending=True) if act_order else torch.arange(n_in)
    grids = found.scale.expand(-1, n_in), found.zero.expand(-1, n_in)
    plain = optimal_brain(w[:, order], h[order][:, order], *grids, bits=bits)
    assert torch.equal(plain[:, order.argsort()], found.codes)


@pytest.mark.parametrize("number", range(len(llm_compressor.CASES)))
def test_codes_are_those_of_llm_compressor(number):
    case = llm_compressor.CASES[number]
    w, h = (torch.from_numpy(part) for part in llm_compressor.matter())
    found = gptq(w, h, group_size=llm_compressor.GROUP, static_groups=True, **case)
    below = 0 if case["symmetric"] else 1 << (case["bits"] - 1)  # its codes are around zero
    theirs = json.loads(llm_compressor.GOLDEN.read_text())["codes"][number]
    assert (found.codes.int() - below).tolist() == theirs


@given(seeds, st.integers(1, 40), st.sampled_from([None, 4, 6, 16]), st.booleans(), st.booleans())
def test_the_block_size_changes_nothing(seed, block_size, group_size, act_order, static):
    w, h = layer(seed, 5, 24)
    options = {"group_size": group_size, "act_order": act_order, "static_groups": static}
    a, b = (gptq(w, h, bits=3, block_size=size, **options) for size in (block_size, 24))
    assert torch.equal(a.codes, b.codes)
    torch.testing.assert_close(a.dequantize(), b.dequantize())


@given(seeds, st.integers(1, 10))
def test_the_error_is_a_sum_over_residuals_and_bounded(seed, n_in):
    w, h = layer(seed, 6, n_in)
    found = gptq(w, h, bits=8, damping=0.0)
    lost = layer_error(w - found.dequantize(), h)
    pivots = feedback(h, 0.0)[0].diagonal() ** -2
    assert (pivots <= h.diagonal() * (1 + 1e-9)).all()
    inside = (found.codes.amin(1) > 0) & (found.codes.amax(1) < 255)  # nothing cut off
    bound = found.scale[:, 0] ** 2 / 4 * pivots.sum()
    assert (lost <= bound * (1 + 1e-9))[inside].all()


@given(seeds, st.integers(2, 3))
def test_two_weights_are_never_worse_than_rounded_to_nearest(seed, bits):
    w, h = layer(seed, 50, 2)
    ours, nearest = (
        layer_error(w - gptq(w, m, bits=bits, damping=0.0).dequantize(), h)
        for m in (h, h.diag().diag())
    )
    assert (ours <= nearest * (1 + 1e-9)).all()


def test_three_weights_may_be_worse_than_rounded_to_nearest():
    h = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()
    h[0, 1] = h[1, 0] = -0.9
    h[1, 2] = h[2, 1] = 0.4
    scale, zero = torch.ones(1, 3).double(), torch.zeros(1, 3).int()
    options = {"bits": 8, "symmetric": True}
    worse = 0
    for w in itertools.product(torch.linspace(-0.5, 0.5, 9).tolist(), repeat=3):
        w = torch.tensor([w]).double()
        ours = layer_error(w - optimal_brain(w, h, scale, zero, **options), h)
        nearest = layer_error(w - w.round(), h)
        worse += int(ours > nearest + 1e-9)
    assert worse > 0


@given(seeds, st.integers(1, 9))
def test_inputs_that_do_not_correlate_leave_rounding_to_nearest(seed, n_in):
    w, h = layer(seed, 4, n_in)
    found = gptq(w, h.diag().diag(), bits=4)
    torch.testing.assert_close(
        found.dequantize(), fake_quantize(w, bits=4, symmetric=False, granularity="channel")
    )


def test_never_better_than_the_best_of_all_codes():
    for seed in range(8):
        w, h = layer(seed, 1, 4)
        found = gptq(w, h, bits=2, damping=0.0)
        codes = torch.tensor(list(itertools.product(range(4), repeat=4)))
        points = (codes - found.zero) * found.scale
        best = layer_error(w - points, h).min()
        assert best <= layer_error(w - found.dequantize(), h).item() + 1e-12


@pytest.mark.parametrize("static", [True, False])
def test_columns_taken_in_random_order_come_back(static):
    w, h = layer(3, 16, 24)
    shuffled = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    h.diagonal()[shuffled] += torch.arange(24.0, 0, -1).double() * 100  # the order of act-order
    found = gptq(w, h, bits=4, group_size=8, act_order=True, static_groups=static)
    own = found.group_of.bincount(minlength=3).tolist()
    assert own == [8, 8, 8]
    if static:
        assert torch.equal(found.group_of, torch.arange(24) // 8)
    else:
        assert torch.equal(found.group_of[shuffled], torch.arange(24) // 8)
    by_hand = torch.stack(
        [
            (found.codes[:, j].double() - found.zero[:, g]) * found.scale[:, g]
            for j, g in enumerate(found.group_of.tolist())
        ],
        dim=1,
    )
    assert torch.equal(found.dequantize(), by_hand)
    weak = h.diag().diag()  # without feedback each weight is within half a step of its own grid
    alone = gptq(w, weak, bits=4, group_size=8, act_order=True, static_groups=static)
    assert torch.equal(alone.group_of, found.group_of)
    half = alone.scale[:, alone.group_of] * (0.5 + 1e-9)
    assert ((w - alone.dequantize()).abs() <= half).all()


def test_a_dead_input_and_too_few_samples():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 8, generator=g, dtype=torch.double)
    x[:, 5] = 0
    w = torch.randn(4, 8, generator=g, dtype=torch.double)
    w[:, 5] = 99  # must not widen the grid
    found = gptq(w, hessian(x), bits=4, damping=0.01)
    assert (found.scale < 1).all()
    assert (found.dequantize()[:, 5] == 0).all()
    assert found.damping >= 0.01
    assert found.dequantize().isfinite().all()
    with pytest.raises(ValueError, match="h must be positive definite; at damping 0 it is, got"):
        gptq(w, hessian(x), bits=4, damping=0.0)


def test_a_dead_input_without_damping():
    w, h = layer(0, 3, 6)
    h[2], h[:, 2] = 0, 0
    found = gptq(w, h, bits=4, damping=0.0)
    assert (found.dequantize()[:, 2] == 0).all()


def test_the_damping_is_raised_only_as_far_as_needed():
    h = torch.tensor([[1.0, 1.1], [1.1, 1.0]]).double()  # eigenvalues 2.1 and -0.1
    assert feedback(h, 0.01)[1] == 1.0
    assert feedback(h, 0.02)[1] == pytest.approx(0.2)
    assert feedback(torch.eye(3).double(), 0.01)[1] == 0.01
    with pytest.raises(ValueError, match="at damping 1 it is"):
        feedback(torch.tensor([[1.0, 5.0], [5.0, 1.0]]).double(), 0.01)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"bits": 1}, "bits must be between 2 and 8, got 1"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"block_size": 0}, "block_size must be at least 1, got 0"),
        ({"damping": -1.0}, "damping must be at least 0, got -1.0"),
        ({"h": torch.eye(3)}, r"h must be floats of shape \(in = 2, in = 2\)"),
        ({"h": torch.full((2, 2), torch.nan)}, "h must be finite, got NaN or infinity"),
    ],
)
def test_wrong_input(change, match):
    given = {"w": torch.ones(2, 2), "h": torch.eye(2), "bits": 3} | change
    with pytest.raises(ValueError, match=match):
        gptq(**given)


def test_no_samples():
    with pytest.raises(ValueError, match="x must hold a sample"):
        hessian(torch.ones(0, 3))
