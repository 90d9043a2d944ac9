"""Formats, storage and sums in 16 bits, each against torch, bit by bit."""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared import plots
from shared.study import Run
from week16.compensated_sums import kahan_add
from week16.float_formats import BF16, FORMATS, FP16, FP32, Format, decode, encode, round_to
from week16.mixed_precision import stored

BITS = {8: torch.uint8, 16: torch.int16, 32: torch.int32}


def with_nan(x: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """NaN as a number of its own, so that NaNs can be compared by place."""
    return torch.where(torch.isnan(x), 1.5e308, x.double())


def hard_values(fmt: Format, rng: np.random.Generator, n: int) -> Float[Tensor, " m"]:
    """float32 numbers around every rounding decision, and n random patterns."""
    halves = torch.zeros(1)
    if fmt.width <= 16:
        points = decode(torch.arange(fmt.inf_code), fmt)
        over = fmt.max + (fmt.max - points[-2:-1]) / 2
        halves = torch.cat([(points[1:] + points[:-1]) / 2, over]).float()
    near = [halves, halves.nextafter(torch.tensor(math.inf)), halves.nextafter(torch.tensor(0.0))]
    random = torch.from_numpy(rng.integers(0, 2**32, n, dtype=np.uint32).view(np.float32).copy())
    edge = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-45, 3.4e38])
    return torch.cat([*near, *(-x for x in near), random, edge])


def check_formats(run: Run) -> None:
    """Decode every pattern, encode all halfway points: as torch's casts and NumPy's."""
    exact = run.against("torch's casts", why="exact, halfway points and overflow included")
    for dtype, fmt in FORMATS.items():
        if fmt is not FP32:
            codes = torch.arange(2**fmt.width)
            theirs = codes.to(BITS[fmt.width]).view(dtype).float()
            name = f"decode all {2**fmt.width} patterns, {fmt.name}"
            exact(name, with_nan(decode(codes, fmt)), with_nan(theirs))
        x = hard_values(fmt, run.rng, run.budget(quick=2000, default=200_000))
        cast = x.to(dtype)
        # torch 2.15 clamps what overflows e4m3fn, infinity too; older ones gave NaN
        clamps = bool(torch.isfinite(torch.tensor(1e30).to(dtype).float()))
        full = {"saturate": clamps and not fmt.infinities}
        name = f"round hard numbers, {fmt.name}"
        exact(name, with_nan(round_to(x, fmt, **full)), with_nan(cast.float()))
        there = ~torch.isnan(x) & ~torch.isnan(cast.float())
        bits = cast.view(BITS[fmt.width]).long()[there] & ((1 << fmt.width) - 1)
        exact(f"bit patterns of hard numbers, {fmt.name}", encode(x, fmt, **full)[there], bits)
    x = hard_values(FP16, run.rng, 1000)[:60_000].clip(-65504, 65504)
    halves = x.numpy().astype(np.float16).astype(float)
    name = "fp16 halfway points, NumPy"
    run.check(name, round_to(x, FP16), halves, against="numpy.float16", why="exact")


def draw_formats(run: Run) -> None:
    """The gap to the next number, relative, at each power of two."""
    powers, gaps = {}, {}
    for fmt in FORMATS.values():
        e = np.arange(math.log2(fmt.smallest), math.floor(math.log2(fmt.max)) + 1)
        e = e[np.abs(e) <= 60]
        powers[fmt.name] = 2.0**e
        gaps[fmt.name] = 2.0 ** (np.maximum(e, fmt.min_exponent) - fmt.mantissa_bits - e)
    colors = (plots.REFERENCE, plots.ORANGE, plots.BLUE, plots.PINK, plots.GREEN)
    with run.figure("formats", "What can each format hold, and how finely?") as axes:
        axes.set(xscale="log", yscale="log", xlabel="a power of two (bf16 and fp32 reach further)")
        ylabel = "gap to the next number, relative"
        plots.curves(axes, powers, gaps, colors=colors, ylabel=ylabel)
        words = "subnormals: a fixed gap,\never coarser beside the number"
        arrow = {"arrowstyle": "->", "color": plots.GRAY}
        axes.annotate(words, (2.0**-19, 2.0**-5), (2.0**-58, 2.0**-13), arrowprops=arrow)


def check_autocast(run: Run) -> None:
    """One layer and its gradients, stored in bfloat16, as torch.autocast computes them."""
    layer = nn.Linear(48, 32)
    x = torch.randn(16, 48, generator=run.generator(5))
    w = layer.weight.detach().T[None].clone().requires_grad_()
    b = layer.bias.detach()[None, None].clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reference = layer(x)
    reference.float().square().sum().backward()
    parts = (stored(t, torch.bfloat16) for t in (b, x[None], w))
    ours = stored(torch.baddbmm(*parts), torch.bfloat16)
    ours.square().sum().backward()
    why = "a sum in another order may round to the neighbor"
    near = run.against("torch.autocast on CPU", atol=2.0**-7, why=why)
    size = reference.abs().max()
    near("outputs of a bf16 layer / largest", ours[0] / size, reference.float() / size)
    grad, size = layer.weight.grad, layer.weight.grad.abs().max()
    near("weight gradients of a bf16 layer / largest", w.grad[0].T / size, grad / size)


def add_small_numbers(run: Run) -> None:
    """Add 2⁻¹² to 1 thousands of times in bfloat16: nearest, stochastic, Kahan."""
    n = run.budget(quick=100, default=4000)
    value = torch.full((run.budget(quick=2, default=8),), 2.0**-12)
    near = random = kahan = torch.ones_like(value)
    carry, generator = torch.zeros_like(value), run.generator(9)
    for _ in range(n):
        near = round_to(near + value, BF16)
        random = round_to(random + value, BF16, generator=generator)
        kahan, carry = kahan_add(kahan, carry, value, BF16)
    truth = 1 + n * 2.0**-12
    why = "half a unit of the last place of the total"
    exact = run.against("the exact sum", kind="theorem", rtol=2.0**-8, why=why)
    exact("Kahan's sum in bf16", kahan + carry, torch.full_like(value, truth))
    off, rule = "off the exact sum, relative", {"at_least": -0.1, "at_most": 0.1, "quick": False}
    arrives = "rounding at random a sum in bf16 arrives"
    run.claim(arrives, random / truth - 1, note=off, **rule)
    run.falsifier("rounding to nearest", near / truth - 1, breaks=arrives, note=off)
