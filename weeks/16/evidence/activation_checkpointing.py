"""Gradients bit by bit, bytes and operations exactly, and how long a segment should be."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.utils.checkpoint
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from shared import plots
from shared.study import PositiveFloat, PositiveInt, Run
from week16.activation_checkpointing import (
    Block,
    SavedTensors,
    block_activations,
    block_flops,
    checkpoint_sequential,
    peak_bytes,
)
from week16.evidence.activation_checkpointing_rng import forget_the_rng
from week16.evidence.gradients import flat_grad

BATCH, WIDTH, HEADS = 2, 32, 4
MODES = ("none", "selective", "full")
SEGMENTS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 23, 32, 48, 64)
FEW = (1, 2, 5, 8, 64)


def main(
    run: Run, *, layers: PositiveInt = 64, seq: PositiveInt = 48, dropout: PositiveFloat = 0.1
) -> None:
    """Check the gradients bit by bit, then count the bytes and operations against the formulas.

    Parameters
    ----------
    layers
        Depth of the stacks whose peak is measured.
    seq
        Tokens in a sequence.
    dropout
        Probability of dropping, in the checks.
    """
    check_gradients(run, dropout)
    check_block(run, seq)
    depth(run, layers)
    forget_the_rng(run, dropout)


def check_gradients(run: Run, dropout: float) -> None:
    """Bit for bit the library's, whatever the length of a segment."""
    torch.manual_seed(run.seed)
    model = stack(3, dropout)
    x = torch.randn(BATCH, 10, WIDTH, generator=run.generator())

    def gradients(forward: Callable) -> Float[Tensor, " parameter"]:
        model.zero_grad()
        torch.manual_seed(run.seed)
        forward(x.clone().requires_grad_()).square().mean().backward()
        return flat_grad(model)

    def theirs(x):
        for block in model:
            x = torch.utils.checkpoint.checkpoint(block, x, use_reentrant=False)
        return x

    library = gradients(theirs)
    exact = run.against("torch.utils.checkpoint", why="the same operations in the same order")
    for segment in (1, 2, 3):
        ours = gradients(functools.partial(segmented, list(model), segment))
        exact(f"gradients, {segment} blocks to a segment", ours, library)


def check_block(run: Run, seq: int) -> None:
    """What a block keeps and computes, in each mode, against the formulas and the paper's."""
    exact = functools.partial(run.against, kind="theorem", why="integers")
    kept_bytes, formula, lengths = [], [], (4, 32, 128, seq)
    for length in lengths:
        x = torch.randn(BATCH, length, WIDTH, generator=run.generator())
        linear, attention, statistics = block_activations(BATCH, length, WIDTH, HEADS)
        formula.append([linear + attention + statistics, linear + statistics, x.nbytes])
        kept_bytes.append([kept(Block(WIDTH, HEADS, 0.1, mode), x)[0] for mode in MODES])
    same = exact("T d (16·4 + 2·4) + a seq T (2·4 + 4) + 16 T")
    same(f"bytes kept by a block, {len(lengths)} lengths, 3 modes", kept_bytes, formula)

    x = torch.randn(BATCH, seq, WIDTH, generator=run.generator(), requires_grad=True)
    forward, counted = sum(block_flops(BATCH, seq, WIDTH)), []
    for mode in MODES:
        with FlopCounterMode(display=False) as counter:
            Block(WIDTH, HEADS, 0.1, mode)(x).sum().backward()
        counted.append(counter.get_total_flops())
    formula = [3 * forward, 3 * forward + block_flops(BATCH, seq, WIDTH)[1], 4 * forward]
    same = run.against("torch.utils.flop_counter", why="integers")
    same("operations of a block, forward and backward, 3 modes", formula, counted)

    b, s, h, a = 1, 2048, 12288, 96  # GPT-3's block, in 2 bytes with masks of 1
    linear, attention, _ = block_activations(b, s, h, a, bytes_each=2, mask_bytes=1)
    same, paper = exact("Korthikanti et al. (2022), eq. 1"), s * b * h * 34 + 5 * a * s * s * b
    same("activations of a GPT-3 block, statistics left out", linear + attention, paper)
    run.metric("share of a GPT-3 block's bytes that is attention", attention / paper)
    run.metric("bytes kept by a GPT-3 block", paper / 1e9, "GB per sequence")
    matrices, products = block_flops(b, s, h)
    extra = 100 * products / (3 * (matrices + products))
    run.metric("extra operations of a GPT-3 block, selective", extra, "%", rtol=1e-6)


# ---- how long a segment should be


def depth(run: Run, layers: int) -> None:
    """Peak against the length of a segment, for layers that keep little and for blocks."""
    x = torch.randn(BATCH, 16, WIDTH, generator=run.generator())
    segments = [c for c in run.budget(quick=FEW, default=SEGMENTS) if c <= layers]
    inner = {"simple layers": 2 * x.nbytes}
    inner["transformer blocks"] = sum(block_activations(BATCH, 16, WIDTH, HEADS))
    models = {"simple layers": chain(layers), "transformer blocks": stack(layers, 0.1)}
    peaks = {name: measure_peaks(model, segments, x) for name, model in models.items()}
    plain = {name: kept(model, x)[0] for name, model in models.items()}
    same = run.against("(⌈L/c⌉ - 1) B + c A", kind="theorem", why="bytes are integers")
    for name, found in peaks.items():
        formula = [peak_bytes(layers, c, x.nbytes, inner[name]) for c in segments]
        same(f"peak of {layers} {name}, {len(segments)} segment lengths", found, formula)
    best = {name: segments[int(found.argmin())] for name, found in peaks.items()}
    theory = {name: math.sqrt(layers * x.nbytes / a) for name, a in inner.items()}
    run.metric("transformer blocks: best segment", best["transformer blocks"], "layers", rtol=0)
    run.metric("transformer blocks: A / B", inner["transformer blocks"] / x.nbytes)

    root = min(segments, key=lambda c: abs(c - math.sqrt(layers)))
    for name in models:
        claim = f"{name}: the best segment is √(L B / A) layers"
        rule = {"at_least": 2 / 3, "at_most": 1.5, "unit": "of √(L B / A)"}
        run.claim(claim, best[name] / theory[name], deterministic=True, **rule)
    run.falsifier("√L blocks", root / theory["transformer blocks"], breaks=claim)
    waste = {name: found[segments.index(root)] / found.min() for name, found in peaks.items()}
    claim = "√L blocks to a segment waste memory"
    rule = {"at_least": 2, "unit": "times the best peak", "note": f"{root} blocks"}
    run.claim(claim, waste["transformer blocks"], deterministic=True, **rule)
    run.falsifier("√L layers that keep little", waste["simple layers"], breaks=claim)
    few = chain(max(1, layers // 4))
    fewer = measure_peaks(few, [c for c in segments if c <= len(few)], x).min()
    claim = "four times the depth needs about twice the memory, not four times"
    rule = {"at_least": 1.7, "at_most": 2.3, "unit": f"times the best peak of {len(few)} layers"}
    run.claim(claim, peaks["simple layers"].min() / fewer, deterministic=True, **rule)
    run.falsifier("no checkpoints", plain["simple layers"] / kept(few, x)[0], breaks=claim)

    title, kib = "How long should a segment be? As long as one layer is simple", 1 / 1024
    with run.figure("segments", title, columns=2, size=(10.0, 4.2)) as axes:
        for panel, (name, found) in zip(axes, peaks.items(), strict=True):
            at = range(1, layers + 1)
            curve = [peak_bytes(layers, c, x.nbytes, inner[name]) * kib for c in at]
            panel.plot(at, curve, color=plots.REFERENCE, lw=1, label="formula")
            panel.plot(segments, found * kib, "o", color=plots.BLUE, label="counted")
            plots.reference_line(panel, plain[name] * kib, "no checkpoints")
            best_at = best[name], found.min() * kib
            panel.plot(*best_at, "o", ms=12, mfc="none", color=plots.GREEN, label="best")
            panel.set(xscale="log", yscale="log", xlabel="layers to a segment")
            panel.set_xticks(segments[::2], map(str, segments[::2]), minor=False)
            marks = [50 * 2**i for i in range(9) if min(curve) < 50 * 2**i < max(curve)]
            panel.set_yticks(marks, map(str, marks))
            panel.set_title(f"{layers} {name}: √(LB/A) = {theory[name]:.1f}", fontsize=11)
            panel.minorticks_off()
        axes[0].set_ylabel("peak of kept activations (KiB)")
        axes[0].legend()


def stack(n: int, dropout: float) -> nn.Sequential:
    """n equal blocks."""
    return nn.Sequential(*(Block(WIDTH, HEADS, dropout) for _ in range(n)))


def chain(n: int) -> nn.Sequential:
    """Layers that keep two tensors each: the input, for GELU, and its output, for the matrix."""
    return nn.Sequential(*(nn.Sequential(nn.GELU(), nn.Linear(WIDTH, WIDTH)) for _ in range(n)))


def segmented(layers: list[nn.Module], segment: int, x: Tensor) -> Tensor:
    """`checkpoint_sequential` with its input last."""
    return checkpoint_sequential(layers, x, segment)


def measure_peaks(model: nn.Sequential, segments: list[int], x: Tensor) -> np.ndarray:
    """Peak for each length of a segment, in bytes."""
    found = (kept(model, x, functools.partial(segmented, list(model), c))[1] for c in segments)
    return np.array(list(found))


def kept(model: nn.Module, x: Tensor, forward: Callable | None = None) -> tuple[int, int]:
    """Bytes kept after the forward pass, and the peak over both passes."""
    x = x.clone().requires_grad_()
    with SavedTensors(list(model.parameters())) as saved:
        y = (forward or model)(x)
        live = saved.live
        y.sum().backward()
    if saved.live:
        raise RuntimeError(f"{saved.live} bytes outlive the backward pass")
    return live, saved.peak
