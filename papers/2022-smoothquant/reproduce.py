r"""Do weights and activations of 8 bits lose little once outliers share their range with weights?

Input $j$ is divided by $s_j = \max|x_j|^{\alpha} / \max|w_j|^{1-\alpha}$ and the weights that read
it are multiplied, which changes nothing until both are rounded to int8 with one scale per tensor.

Reduced: random layers with planted outliers, and character models trained here whose norms put out
planted ones. **No outlier is natural**: this tests the mechanism. The rules stand in the front
matter of README.md.

    uv run papers/2022-smoothquant/reproduce.py

Xiao et al. (2022), "SmoothQuant", section 4, eq. 4.
"""

import copy

import numpy as np
import torch
from torch import nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week18.llama3 import Block, Llama
from week19.characters import manual, trained_model
from week19.folding import fold_block
from week19.layer_inputs import Inputs, quantized_losses
from week19.smoothquant import W8A8, smooth_block, smoothing, to_w8a8
from week19.wikitext import windows

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)


def layer_errors(seed: int, outliers: float) -> list[float]:
    """Squared error of a W8A8 layer's outputs, relative: not smoothed, then by α."""
    g = torch.Generator().manual_seed(seed)
    w, x = torch.randn(96, 128, generator=g), torch.randn(400, 128, generator=g)
    x[:, torch.randperm(128, generator=g)[:4]] *= outliers
    linear, found = nn.Linear(128, 96, bias=False), []
    for s in (torch.ones(128), *(smoothing(x.abs().amax(0), w.abs().amax(0), a) for a in ALPHAS)):
        linear.weight.data.copy_(w * s)
        out = W8A8(linear)(x / s)
        found.append(((out - x @ w.T).square().sum() / (x @ w.T).square().sum()).item())
    return found


def plant(model: Llama, seed: int, size: float) -> Llama:
    """One output in 32 of each norm made larger, its readers' weights smaller: the same model."""
    model, g = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    width = model.config.d_model
    for block in model.blocks:
        for reader in ("q_proj", "gate_proj"):
            s = torch.ones(width)
            s[torch.randperm(width, generator=g)[: width // 32]] = 1 / size
            fold_block(block, reader, s)
    return model


def smoothed(block: Block, inputs: dict[str, Inputs]) -> None:
    """Smooth, then round weights and activations."""
    smooth_block(block, inputs)
    to_w8a8(block)


def model_losses(seed: int, steps: int, texts: int) -> dict[str, float]:
    """Loss of a trained model with planted outliers, as it is, in W8A8 and smoothed."""
    text = manual()
    model = plant(trained_model(text, steps, seed), seed, 50.0)
    methods = {
        "as it is": lambda block, inputs: None,
        "W8A8": lambda block, inputs: to_w8a8(block),
        "SmoothQuant": smoothed,
    }
    calibration, judged = (windows(part, texts, 64) for part in (text.training, text.held_out))
    losses = quantized_losses(model, calibration, judged, methods)
    return {name: values.mean().item() for name, values in losses.items()}


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 150) -> None:
    """Smooth layers and models, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models.
    steps
        Training steps of each.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check(run)
    layers = range(100, run.budget(quick=104, default=120))
    errors = {size: [layer_errors(i, size) for i in layers] for size in (20.0, 1.0)}
    left = {size: [row[3] / row[0] for row in rows] for size, rows in errors.items()}
    third = "smoothing leaves a third of a layer's error"
    paper.judge(run, third, left[20.0])
    run.falsifier("no outliers", left[1.0], breaks=third)
    best = [ALPHAS[int(np.argmin(row[1:]))] for row in errors[20.0]]
    paper.judge(run, "the best α is in the middle", best)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps, texts = run.budget(quick=(2, 4), default=(steps, 96), full=(4 * steps, 200))
    rows = [model_losses(run.seed + seed, steps, texts) for seed in range(seeds)]
    added = {name: [row[name] - row["as it is"] for row in rows] for name in rows[0]}
    share = [a / b for a, b in zip(added["SmoothQuant"], added["W8A8"], strict=True)]
    name = "a model with planted outliers loses at most half as much"
    paper.judge(run, name, share, quick=False, rtol=None)
    for method in ("W8A8", "SmoothQuant"):
        mean = float(np.mean(added[method]))
        run.metric(f"loss added, {method}", mean, "nats/char", rtol=None)
    means = np.mean(errors[20.0], axis=0)
    for name, value in zip(("without", *(f"α = {a:g}" for a in ALPHAS)), means, strict=True):
        run.metric(f"error of a layer, {name}", value, rtol=0.1)
    title = "What do 8 bits cost before and after smoothing?"
    with run.figure("alpha", title, columns=2, size=(9.6, 4.0)) as (one, two):
        label = "average accuracy of OPT-175B (%)\n(the paper)"
        plots.bars(one, paper.matter["paper_accuracy"], xlabel=label)
        labels = {"xlabel": "α", "ylabel": "relative squared error of a layer"}
        two.set_yscale("log")
        lines, levels = {"smoothed": [r[1:] for r in errors[20.0]]}, {"not smoothed": means[0]}
        plots.curves(two, ALPHAS, lines, reference=levels, marker="o", ends=False, **labels)


def check(run: Run) -> None:
    """A model with planted outliers, and one that is smoothed, before anything is rounded."""
    text = manual()
    model = trained_model(text, 2, run.seed)
    tokens = windows(text.held_out, 4, 64)
    planted = plant(model, 0, 50.0).double()
    model = copy.deepcopy(model).double()
    same = {"kind": "consistency", "atol": 1e-5, "why": "factors of 50 in float32 weights"}
    run.check("logits", planted(tokens), model(tokens), against="before planting", **same)
    methods = {"as it is": lambda block, inputs: None, "smoothed": smooth_block}
    losses = quantized_losses(planted, tokens, tokens, methods)
    exact = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    run.check("losses", losses["smoothed"], losses["as it is"], against="not smoothed", **exact)


if __name__ == "__main__":
    cli(main)
