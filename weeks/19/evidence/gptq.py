"""GPTQ against least squares and enumeration, layer by layer, on a small model and on SmolLM2."""

import dataclasses
import functools
import itertools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared import plots
from shared.study import Run
from week18.llama3 import Block
from week19.characters import manual, trained_model
from week19.evidence.real_text import judge_on_text
from week19.gptq import feedback, gptq, hessian, layer_error
from week19.layer_inputs import Inputs, gptq_block, quantized_losses, round_block
from week19.quantization import dequantize, quantize
from week19.wikitext import windows

GROUP = 64
DAMPINGS = (1e-9, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


def main(run: Run) -> None:
    """Check the algebra, count who is worse than nearest, then judge by the loss of models."""
    run.rounding(0.5, "Muon multiplies in bfloat16; a sum in another order rounds another way")
    check_algebra(run)
    count_rows(run)
    judge_layers(run)
    judge_small_models(run)
    judge_language_model(run)


def layer(run: Run, n_in: int, n_out: int, offset: int, *, white: bool = False) -> tuple:
    """Random weights and inputs that are correlated, or not, in float64."""
    g = run.generator(offset)
    x = torch.randn(4 * n_in, n_in, generator=g, dtype=torch.double)
    mix = torch.randn(n_in, n_in, generator=g, dtype=torch.double)
    w = torch.randn(n_out, n_in, generator=g, dtype=torch.double)
    h = hessian(x if white else x @ mix)
    return w, x @ mix, h.diag().diag() if white else h


# ---- checks


def by_least_squares(w: np.ndarray, x: np.ndarray, found) -> np.ndarray:
    """One row's codes: before each, numpy fits the free weights to the layer's outputs."""
    codes = []
    n = len(w)
    scale, zero = (part[0, found.group_of].tolist() for part in (found.scale, found.zero))
    q = np.zeros(n)
    for j in range(n):
        target = x @ w - x[:, :j] @ q[:j]
        free = np.linalg.lstsq(x[:, j:], target, rcond=None)[0]
        codes.append(int(np.clip(np.rint(free[0] / scale[j]) + zero[j], 0, 7)))
        q[j] = (codes[j] - zero[j]) * scale[j]
    return np.array(codes)


def check_algebra(run: Run) -> None:
    """Codes by least squares, the error as a sum, blocks, and all codes of four weights."""
    ours, theirs, sums, errors, ratios = [], [], [], [], []
    for offset in range(run.budget(quick=3, default=10)):
        w, x, h = layer(run, 24, 1, offset)
        found = gptq(w, h, bits=3, damping=0.0)
        ours.append(found.codes[0].numpy())
        theirs.append(by_least_squares(w[0].numpy(), x.numpy(), found))
        errors.append(layer_error(w - found.dequantize(), h).item())
        sums.append(sum_of_residuals(w, h, found))
        w, _, h = layer(run, 4, 1, 100 + offset)
        found = gptq(w, h, bits=3, damping=0.0)
        every = torch.tensor(list(itertools.product(range(8), repeat=4)))
        best = layer_error(w - (every - found.zero) * found.scale, h).min().item()
        ratios.append(best / layer_error(w - found.dequantize(), h).item())
    exact = {"why": "integers", "against": "numpy.linalg.lstsq before each weight"}
    run.check("codes of 24 weights", np.array(ours), np.array(theirs), **exact)
    why = {"why": "float64 rounding", "kind": "theorem", "rtol": 1e-9}
    run.check("error of the outputs", errors, sums, against="Σ R² r²", **why)
    never = "never better than the best of all codes"
    run.claim(never, ratios, at_most=1 + 1e-9, each=True, unit="best / GPTQ's error, 4 weights")

    w, _, h = layer(run, 96, 8, 50)
    options = {"bits": 4, "group_size": 32, "act_order": True}
    one, many = (gptq(w, h, block_size=b, **options).codes for b in (1, 96))
    same = {"kind": "consistency", "why": "integers", "against": "the same in blocks of 96"}
    run.check("codes in blocks of 32", one, many, **same)


def sum_of_residuals(w: Float[Tensor, "1 n"], h: Float[Tensor, "n n"], found) -> float:
    """The error from the residuals: plain linear feedback, the residual of each weight in turn."""
    r = torch.linalg.inv(feedback(h, 0.0)[0])
    lost, total = torch.zeros(w.shape[1], dtype=w.dtype), 0.0
    for j in range(w.shape[1]):
        free = w[0, j] + lost @ r[:, j] / r[j, j]
        code = quantize(free, found.scale[0, 0], found.zero[0, 0], bits=3, symmetric=False)
        rounded = dequantize(code, found.scale[0, 0], found.zero[0, 0])
        total += (r[j, j] * (free - rounded)).item() ** 2
        lost[j] = w[0, j] - rounded
    return total


# ---- layers


def errors_of(w, h, true, **options) -> tuple[Tensor, Tensor]:
    """Errors of the rows: by GPTQ with the Hessian h, and rounded to nearest; true inputs."""
    ours = gptq(w, h, damping=0.0, **options).dequantize()
    nearest = gptq(w, h.diag().diag(), damping=0.0, **options).dequantize()
    return layer_error(w - ours, true), layer_error(w - nearest, true)


def count_rows(run: Run) -> None:
    """How many rows come out worse than rounded to nearest, by the number of inputs."""
    sizes, layers = (1, 2, 3, 4, 8, 16, 32, 64), run.budget(quick=2, default=40)
    shares = []
    for n in sizes:
        worse = []
        for offset in range(layers):
            w, _, h = layer(run, n, 100, 1000 * n + offset)
            ours, nearest = errors_of(w, h, h, bits=3)
            worse.append((ours > nearest * (1 + 1e-9)).double().mean().item())
        shares.append(100 * float(np.mean(worse)))
        run.metric(f"rows worse than nearest, {n} inputs", shares[-1], "%", rtol=0.1)
    run.metric("rows counted per number of inputs", 100 * layers, rtol=0)
    proven = run.against("the theorem: 0", kind="theorem", why="a count")
    proven("rows worse than nearest, 1 and 2 inputs", shares[:2], np.zeros(2))
    with run.figure("rows", "How often is a row worse off than rounded to nearest?") as axes:
        labels = {"xlabel": "inputs of the layer", "ylabel": "rows (%)", "xscale": "log"}
        plots.curves(axes, sizes, {"GPTQ, 3 bits": shares}, marker="o", **labels)
        axes.set_xticks(sizes, sizes)
        axes.minorticks_off()


def judge_layers(run: Run) -> None:
    """Whole layers, where rows average out; and what is left to gain from white inputs."""
    n, layers = run.budget(quick=(24, 4), default=(96, 20))
    ratio = {"correlated": [], "white": []}
    for offset in range(layers):
        for kind, found in ratio.items():
            w, _, h = layer(run, n, 64, 5000 + offset, white=kind == "white")
            ours, nearest = errors_of(w, h, h, bits=3)
            found.append((ours.sum() / nearest.sum()).item())
    gains, unit = "layers of correlated inputs lose at most 0.8 of nearest", "GPTQ / nearest"
    seen = "about 0.4 in a trial of 16 inputs"
    run.claim(gains, ratio["correlated"], at_most=0.8, each=True, unit=unit, seen_before=seen)
    run.falsifier("inputs that do not correlate", ratio["white"], breaks=gains)


# ---- models


def judge_small_models(run: Run) -> None:
    """Character models trained here: loss added by both, and what too little damping does."""
    text, steps = manual(), run.budget(quick=2, default=80)
    rounded, gained, white, by_damping = [], [], [], []
    few, many = (windows(text.training, n, 64, skip=5000) for n in (2, 64))
    held_out = windows(text.held_out, run.budget(quick=4, default=64), 64)
    dampings = run.budget(quick=DAMPINGS[::3], default=DAMPINGS)
    for seed in range(run.budget(quick=2, default=3)):
        model = trained_model(text, steps, run.seed + seed)
        group = {"bits": 3, "group_size": 32}
        plain = {"as it is": lambda b, i: None, "nearest": functools.partial(round_block, **group)}
        plain["GPTQ"] = functools.partial(gptq_block, **group)
        plain["diagonal"] = functools.partial(by_diagonal, **group)
        losses = quantized_losses(model, many, held_out, plain)
        mean = {name: values.mean().item() for name, values in losses.items()}
        rounded.append(mean["nearest"] - mean["as it is"])
        gained.append((mean["GPTQ"] - mean["as it is"]) / rounded[-1])
        white.append((mean["diagonal"] - mean["as it is"]) / rounded[-1])
        damped = {
            f"{damping:g}": functools.partial(gptq_block, damping=damping, **group)
            for damping in dampings
        }
        losses = quantized_losses(model, few, held_out, damped)
        by_damping.append([losses[f"{d:g}"].mean().item() - mean["as it is"] for d in dampings])
    run.metric("loss added by nearest, small model", float(np.mean(rounded)), "nats/char")
    late = {"quick": False, "unit": "share of what nearest adds"}
    less = "on a small model GPTQ adds at most 0.8 of the loss"
    run.claim(less, gained, at_most=0.8, **late)
    run.falsifier("the Hessian's diagonal alone", white, breaks=less)
    failure, unit = "from few texts, undamped, it adds more than nearest", "nats/char"
    added = [row[0] - other for row, other in zip(by_damping, rounded, strict=True)]
    run.claim(failure, added, at_least=0, unit=unit, quick=False)
    best = [min(row) - other for row, other in zip(by_damping, rounded, strict=True)]
    run.falsifier("at the best damping", best, breaks=failure)
    run.metric("tokens of the few texts", few.numel(), rtol=0)
    title = "What does damping save, where there are fewer samples than inputs?"
    with run.figure("damping", title) as axes:
        labels = {"xlabel": "damping (share of the Hessian's mean diagonal)", "xscale": "log"}
        labels |= {"ylabel": "loss added, 3 bits (nats/character)", "yscale": "log"}
        levels = {"rounded to nearest": float(np.mean(rounded))}
        lines = {f"GPTQ from {few.numel()} characters": by_damping}
        plots.curves(axes, dampings, lines, reference=levels, marker="o", ends=False, **labels)


def by_diagonal(block: Block, inputs: dict[str, Inputs], **options) -> None:
    """GPTQ that is told how large the inputs are and not how they correlate."""
    alone = {k: dataclasses.replace(v, h=v.h.diag().diag()) for k, v in inputs.items()}
    gptq_block(block, alone, **options)


def judge_language_model(run: Run) -> None:
    """Loss on WikiText-2 of a real model, 3 and 4 bits, paired by window."""
    n = run.budget(quick=(2, 4), default=(20, 12), full=(64, 64))
    methods, gains = {}, {}
    for bits in (3, 4):
        group = {"bits": bits, "group_size": run.budget(quick=32, default=GROUP)}
        methods[f"nearest, {bits} bits"] = functools.partial(round_block, **group)
        methods[f"GPTQ, {bits} bits"] = functools.partial(gptq_block, **group)
        gains[f"GPTQ loses less than nearest, {bits} bits"] = tuple(methods)[-2:]
    found = judge_on_text(run, n, methods, gains)
    run.metric("tokens judged", found.texts.numel(), rtol=0)
