"""Formats against torch's casts, loss scaling against GradScaler, updates that must not be lost."""

import math

import numpy as np
import pytest
import torch
from enforce import plain
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from week16.choice_of_precision import choose_precision, matmul_seconds
from week16.compensated_sums import kahan_add
from week16.float_formats import (
    BF16,
    E4M3FN,
    E5M2,
    FORMATS,
    FP16,
    FP32,
    Format,
    decode,
    encode,
    round_to,
)
from week16.loss_scaling import LossScaler
from week16.mixed_precision import Policy, mlp_loss, stored, train

CPU = torch.device("cpu")
floats = st.lists(st.floats(width=32), min_size=1, max_size=20)


def numbers(values):
    return torch.tensor(values, dtype=torch.float32)


def same(ours, theirs):
    np.testing.assert_array_equal(ours.double().numpy(), theirs.double().numpy())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
@given(values=floats)
def test_rounds_as_torch(dtype, values):
    x = numbers(values)
    same(round_to(x, FORMATS[dtype]), x.to(dtype).float())


@pytest.mark.parametrize("dtype", list(FORMATS)[1:])
def test_halfway_points_go_to_even(dtype):
    fmt = FORMATS[dtype]
    points = decode(torch.arange(fmt.inf_code), fmt)
    halves = ((points[1:] + points[:-1]) / 2).float()
    got = encode(torch.cat([halves, -halves]), fmt)
    assert (got % 2 == 0).all()
    same(round_to(halves, fmt), halves.to(dtype).float())


def test_zero_keeps_its_sign():
    assert encode(torch.tensor([0.0, -0.0, -1e-30]), FP16).tolist() == [0, 0x8000, 0x8000]


def test_values_from_the_literature():
    """FP8 Formats for Deep Learning (2022), table 1; IEEE 754."""
    assert (E4M3FN.max, E5M2.max) == (448.0, 57344.0)
    assert (E4M3FN.smallest, E5M2.smallest) == (2.0**-9, 2.0**-16)
    assert (FP16.max, FP16.smallest) == (65504.0, 2.0**-24)
    assert (FP32.max, FP32.smallest) == (torch.finfo(torch.float32).max, 2.0**-149)
    assert BF16.width == 16


def test_overflow():
    x = torch.tensor([464.0, 464.1, math.inf, -math.inf])
    same(round_to(x, E4M3FN), torch.tensor([448.0, math.nan, math.nan, math.nan]))
    same(round_to(x, E4M3FN, saturate=True), torch.tensor([448.0, 448.0, 448.0, -448.0]))
    big = torch.tensor([65519.0, 65520.0])
    same(round_to(big, FP16), torch.tensor([65504.0, math.inf]))
    same(round_to(big, FP16, saturate=True), torch.tensor([65504.0, 65504.0]))
    assert torch.isnan(round_to(torch.tensor([math.nan]), E5M2, saturate=True)).all()


def test_stochastic_rounding_is_unbiased():
    x = torch.full((40_000,), 1.0 + 2.0**-9)  # a quarter of bf16's gap
    got = round_to(x, BF16, generator=torch.Generator().manual_seed(0))
    assert set(got.tolist()) == {1.0, 1.0 + 2.0**-7}
    share = float((got > 1).float().mean())
    assert abs(share - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 40_000)
    exact = torch.tensor([1.5, -0.25])
    same(round_to(exact, BF16, generator=torch.Generator()), exact)


@given(n=st.integers(1, 80), power=st.integers(9, 14))
@settings(max_examples=6)
def test_kahan_keeps_what_the_sum_cannot_hold(n, power):
    total, carry, value = torch.ones(1), torch.zeros(1), torch.full((1,), 2.0**-power)
    for _ in range(n):
        total, carry = kahan_add(total, carry, value, BF16)
    assert abs(float(total + carry) - 1 - n * 2.0**-power) <= 2.0**-8


@settings(max_examples=8)
@given(pattern=st.lists(st.booleans(), max_size=12), interval=st.integers(1, 4))
def test_scale_follows_gradscaler(pattern, interval):
    ours = LossScaler(8.0, growth_interval=interval)
    theirs = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=interval)
    w, v = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    mine, other = torch.optim.SGD([w], lr=0.1), torch.optim.SGD([v], lr=0.1)
    for bad in pattern:
        factor = math.inf if bad else 1.0
        mine.zero_grad()
        other.zero_grad()
        ours.scale_loss(w.sum() * factor).backward()
        theirs.scale(v.sum() * factor).backward()
        assert ours.step(mine) is not bad
        theirs.step(other)
        theirs.update()
        assert ours.scale == theirs.get_scale()
    same(w.detach(), v.detach())
    if pattern:
        resumed = LossScaler()
        resumed.load_state_dict(theirs.state_dict())
        assert resumed.state_dict() == ours.state_dict() == theirs.state_dict()


@settings(max_examples=12)
@given(
    bad=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=8),
    clipped=st.booleans(),
)
def test_two_optimizers_of_one_loss_follow_gradscaler(bad, clipped):
    """Each is skipped for its own gradients; the scale is adapted once, to all of them."""
    ours = LossScaler(8.0, growth_interval=2)
    theirs = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    w, v = ([nn.Parameter(torch.full((2,), x)) for x in (1.0, 2.0)] for _ in range(2))
    mine, others = ([torch.optim.SGD([p], lr=0.1) for p in ps] for ps in (w, v))
    for pair in bad:
        factors = [math.inf if x else 1.0 for x in pair]
        for params, scale in ((w, ours.scale_loss), (v, theirs.scale)):
            for p in params:
                p.grad = None
            scale(sum((p**2).sum() * f for p, f in zip(params, factors, strict=True))).backward()
        if clipped:  # the second is unscaled before the step, the first in it
            assert ours.unscale(mine[1]) is pair[1]
            theirs.unscale_(others[1])
        assert ours.step(*mine) is not any(pair)
        for optimizer in others:
            theirs.step(optimizer)
        theirs.update()
        assert ours.scale == theirs.get_scale()
        same(torch.cat(w).detach(), torch.cat(v).detach())
    assert ours.state_dict() == theirs.state_dict()


def loaded(**changes):
    scaler = plain("16", "loss_scaling").LossScaler()
    scaler.load_state_dict(scaler.state_dict() | changes)


SGD = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)


def stepped_apart(scaler):
    w = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    a, b = (torch.optim.SGD([p], lr=0.1) for p in w)
    scaler.scale_loss(w[0].sum() + w[1].sum()).backward()
    scaler.unscale(b)
    scaler.step(a)
    scaler.step(b)


def test_unscale_once_before_clipping():
    w = nn.Parameter(torch.tensor([3.0, 4.0]))
    sgd, scaler = torch.optim.SGD([w], lr=1.0), LossScaler(1024.0)
    scaler.scale_loss((w**2 / 2).sum()).backward()
    assert not scaler.unscale(sgd)
    assert nn.utils.clip_grad_norm_([w], 1.0).item() == pytest.approx(5.0)
    assert scaler.step(sgd)
    np.testing.assert_allclose(w.detach(), [2.4, 3.2], rtol=1e-5)


def test_defaults_are_gradscalers():
    assert LossScaler().state_dict() == torch.amp.GradScaler("cpu").state_dict()
    assert str(LossScaler(8).scale) == "8.0"


def test_a_loss_scaled_by_hand_and_a_weight_that_is_not_used():
    w, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    sgd, scaler = torch.optim.SGD([w, idle], lr=0.25), LossScaler(8.0)
    for left in (0.75, 0.5):
        w.grad = None
        (w.sum() * scaler.scale).backward()
        assert scaler.step(sgd)
        assert (w.tolist(), idle.tolist()) == ([left] * 2, [1.0] * 2)


def test_what_was_unscaled_counts_though_it_does_not_step():
    w = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    a, b = (torch.optim.SGD([p], lr=0.1) for p in w)
    w[0].grad, w[1].grad, scaler = torch.ones(1), torch.full((1,), math.inf), LossScaler(8.0)
    assert scaler.unscale(b)
    assert scaler.step(a)
    assert scaler.scale == 4.0


def test_a_loaded_scale_stays_static():
    scaler = LossScaler(dynamic=False)
    scaler.load_state_dict(LossScaler(4.0, growth_interval=1).state_dict())
    scaler.update(False)
    assert scaler.scale == 4.0


def test_the_largest_scale_is_legal():
    scaler = LossScaler(FP32.max / 2, growth_interval=1)
    scaler.update(False)
    assert scaler.scale == FP32.max


@pytest.mark.parametrize(("scale", "dynamic"), [(2.0, False), (2.0**127, True)])
def test_scale_that_is_static_or_at_the_top_stays(scale, dynamic):
    scaler = LossScaler(scale, dynamic=dynamic, growth_interval=1)
    scaler.update(False)
    if not dynamic:
        scaler.update(True)
    assert scaler.scale == scale


def test_stored_rounds_both_ways():
    x = torch.tensor([0.1, 1e-9], requires_grad=True)
    y = stored(x, torch.float16)
    (y * torch.tensor([1e-9, 0.1])).sum().backward()
    same(y.detach(), x.detach().half())
    same(x.grad, torch.tensor([1e-9, 0.1]).half())


def stack(seeds=2):
    g = torch.Generator().manual_seed(0)
    shapes = [(6, 5), (1, 5), (5, 3), (1, 3)]
    return [torch.randn(seeds, *shape, generator=g) / 2 for shape in shapes]


def batches(n, seeds=2):
    g = torch.Generator().manual_seed(1)
    return [
        (torch.randn(seeds, 8, 6, generator=g), torch.randint(3, (seeds, 8), generator=g))
        for _ in range(n)
    ]


def test_weights_of_16_bits_swallow_what_a_master_copy_keeps():
    begin = [w.half().float() for w in stack()]

    def moved(policy):
        trace = train(mlp_loss, begin, batches(60), policy, lr=2e-5)
        return sum(float((a - b).abs().sum()) for a, b in zip(trace.weights, begin, strict=True))

    far = moved(Policy(torch.float32))
    assert (
        moved(Policy(torch.float16, "master")) > 0.5 * far > moved(Policy(torch.float16, "plain"))
    )
    assert not any(w.requires_grad for w in begin)


@pytest.mark.parametrize("weights", ["plain", "stochastic", "kahan"])
def test_weights_stay_in_the_format(weights):
    policy = Policy(torch.bfloat16, weights)
    trace = train(mlp_loss, stack(), batches(3), policy, lr=0.1, generator=torch.Generator())
    assert all((w.bfloat16().float() == w).all() for w in trace.weights)


def test_overflow_skips_one_seed_only():
    data = batches(2)
    data[0][0][1] *= 1e30
    trace = train(mlp_loss, stack(), data, Policy(torch.float16, "master", 4.0, True), lr=0.1)
    assert trace.skipped.tolist() == [[False, True], [False, False]]
    assert trace.scale.tolist() == [[4.0, 4.0], [4.0, 2.0]]
    assert all(torch.isfinite(w).all() for w in trace.weights)


def test_choice_of_precision():
    def took(seconds):
        def measure(device, dtype):
            if dtype not in seconds:
                raise RuntimeError("not implemented")
            return seconds[dtype]

        return choose_precision(CPU, measure=measure)

    wide, brain, half = torch.float32, torch.bfloat16, torch.float16
    assert took({wide: 2.0, brain: 1.0})[:2] == (brain, False)
    assert took({wide: 2.0, half: 1.0})[:2] == (half, True)
    assert took({wide: 2.0, brain: 1.9})[:2] == (wide, False)
    assert "nothing smaller" in took({wide: 2.0}).reason
    assert "0.50 × float32's time in bfloat16" in took({wide: 2.0, brain: 1.0}).reason
    assert matmul_seconds(CPU, wide, size=8) > 0


def trained(n=1, lr=0.1, weights="plain"):
    return train(mlp_loss, stack(), batches(n), Policy(torch.bfloat16, weights), lr=lr)


def unscaled(dtype, times=1):
    w = nn.Parameter(torch.ones(2, dtype=dtype))
    w.grad, scaler, optimizer = torch.ones_like(w), LossScaler(), torch.optim.SGD([w], lr=0.1)
    for _ in range(times):
        scaler.unscale(optimizer)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Format("fp64", 11, 52, 1023), "exponent_bits must be between 2 and 8, got 11"),
        (lambda: decode(torch.tensor([0, 256]), E5M2), r"between 0 and 2\*\*8 - 1, got \[256\]"),
        (lambda: LossScaler(0.0), "scale must be positive and finite, got 0.0"),
        (lambda: LossScaler(math.inf), "scale must be positive and finite, got inf"),
        (lambda: LossScaler(backoff_factor=0.0), "backoff_factor must be .* 0 and 1, got 0"),
        (
            lambda: LossScaler(growth_factor=1.0),
            "growth_factor must be above 1 and finite, got 1.0",
        ),
        (lambda: LossScaler(growth_factor=math.inf), "growth_factor must be .* got inf"),
        (lambda: LossScaler(backoff_factor=1.0), "backoff_factor must be between 0 and 1, got 1"),
        (lambda: LossScaler(growth_interval=0), "growth_interval must be a whole .* got 0"),
        (lambda: loaded(growth_interval=2.5), "growth_interval must be a whole .* got 2.5"),
        (lambda: loaded(scale=math.nan), "scale must be positive and finite, got nan"),
        (lambda: LossScaler().load_state_dict({}), "state must be a loss scaler's, got none of"),
        (lambda: unscaled(torch.float16), "must have float32 gradients, got torch.float16"),
        (lambda: unscaled(torch.float32, 2), "optimizer must be unscaled once per step"),
        (lambda: LossScaler().step(), "optimizers must be given, each once, got 0 and 0"),
        (lambda: LossScaler().step(*[SGD] * 2), "each once, got 1 and 2"),
        (lambda: stepped_apart(LossScaler()), r"must step in one call, scaler.step\(a, b\), got a"),
        (lambda: trained(lr=0), "lr must be positive, got 0"),
        (lambda: trained(weights="stochastic"), "generator must be given for stochastic"),
        (lambda: trained(n=0), "batches must hold at least one batch"),
        (lambda: choose_precision(CPU, least_gain=0), "least_gain must be positive, got 0"),
    ],
)
def test_wrong_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
