r"""Do the weights that meet the largest inputs matter most, and does scaling them up protect them?

Rounding moves the outputs by $\sum_j \delta_j x_j$, so an error $\delta_j$ hurts as much as its
input is large. The paper keeps the 1 % of columns with the largest mean $|x_j|$ exact, and then
does without exact columns by $Q(W\,\mathrm{diag}(s))\,\mathrm{diag}(s)^{-1}$, $s_j =
\overline{|x_j|}^{\,\alpha}$.

On SmolLM2 (135 million parameters, whose weights stand on 4-bit grids of 32; here 3 bits in groups
of 64), a slice of WikiText-2. The paper's models are ten times larger and more, and outlier inputs
grow with size: a null result would be no surprise. The rules stand in the front matter of
README.md.

    uv run papers/2023-awq/reproduce.py

Lin et al. (2023), "AWQ", table 1 and section 3.2.
"""

import functools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week18.llama3 import Block
from week19.awq import awq_block
from week19.folding import READERS
from week19.layer_inputs import Inputs, quantized_losses, round_block
from week19.quantization import fake_quantize
from week19.wikitext import language_model

SHARE = 0.01


@torch.no_grad()
def keep_block(
    block: Block,
    inputs: dict[str, Inputs],
    *,
    by: str,
    bits: int,
    group_size: int,
    generator: torch.Generator,
) -> None:
    """Round a block to nearest, but for 1 % of the columns of each matrix."""
    for reader, names in READERS.items():
        for name in names:
            w = getattr(block, name).weight
            new = fake_quantize(w, bits=bits, symmetric=False, granularity=group_size)
            kept = kept_columns(w, inputs[reader].mean, by, generator)
            new[:, kept] = w[:, kept]
            w.copy_(new)


def kept_columns(
    w: Float[Tensor, "out in"], mean: Float[Tensor, " in"], by: str, generator: torch.Generator
) -> Tensor:
    """The columns that stay exact: by activation, by weight or at random."""
    score = {
        "activation": mean,
        "weight": w.norm(dim=0),
        "random": torch.rand(w.shape[1], generator=generator),
    }[by]
    return score.topk(max(1, round(SHARE * w.shape[1]))).indices


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Quantize SmolLM2 in five ways, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Calibration texts.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    each, judged = run.budget(quick=(1, 4), default=(8, 6), full=(32, 64))
    group = run.budget(quick=32, default=64)
    options = {"context": 64, "quick": run.mode == "quick", "seed": run.seed}
    name, model, texts, windows = language_model(each * seeds, judged, **options)
    check(run, model.blocks[0].down_proj.weight)
    run.metric("tokens judged", windows.numel(), rtol=0)
    options = {"bits": 3, "group_size": group}
    rows: list[dict[str, float]] = []
    for seed in run.progress(range(seeds), "calibration texts"):
        methods = {} if seed else {"16 bits": lambda b, i: None}
        if not seed:
            methods["nearest"] = functools.partial(round_block, **options)
        for by in ("activation", "random") if seed else ("activation", "weight", "random"):
            generator = run.generator(seed)
            keep = functools.partial(keep_block, by=by, generator=generator, **options)
            methods[f"1 % {'at' if by == 'random' else 'by'} {by}"] = keep
        methods["AWQ"] = functools.partial(awq_block, steps=8, every=8, **options)
        losses = quantized_losses(model, texts[seed::seeds], windows, methods)
        found = {method: values.mean().item() for method, values in losses.items()}
        rows.append((rows[0] if rows else {}) | found)  # what needs no text is the same
    judge(run, paper, rows)
    for method in rows[0]:
        values = np.array([row[method] for row in rows])
        run.metric(f"perplexity, {method}", float(np.exp(values.mean())), rtol=0.05)
    title = "Which 1 % of the columns should stay exact?"
    with run.figure("kept", title, columns=2, size=(9.6, 3.8)) as (left, right):
        plots.bars(left, paper.matter["paper_perplexity"], xlabel="perplexity, OPT-6.7B, 3 bits")
        ours = {method: np.exp([row[method] for row in rows]) for method in rows[0]}
        plots.bars(right, ours, xlabel=f"perplexity, {name}, 3 bits, {seeds} texts")
        right.set_xlim(0.9 * min(v.min() for v in ours.values()), None)


def judge(run: Run, paper: papers.Paper, rows: list[dict[str, float]]) -> None:
    """Differences of losses, per calibration text."""
    late = {"quick": False, "rtol": None}
    loss = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    gain = loss["nearest"] - loss["1 % by activation"]
    paper.judge(run, "keeping 1 % by activation helps", gain, **late)
    at_random = loss["nearest"] - loss["1 % at random"]
    run.falsifier("columns at random", at_random, breaks="keeping 1 % by activation helps")
    for other in ("by weight", "at random"):
        name = f"by activation more than {other}"
        paper.judge(run, name, loss[f"1 % {other}"] - loss["1 % by activation"], **late)
    share = (loss["nearest"] - loss["AWQ"]) / gain
    paper.judge(run, "scaling does at least 0.8 of it", share, **late)


def check(run: Run, w: Float[Tensor, "out in"]) -> None:
    """Scaling and unscaling without rounding is nothing; kept columns are the largest."""
    s = torch.rand(w.shape[1], generator=run.generator()) + 0.1
    x = torch.randn(5, w.shape[1], generator=run.generator(1)).double()
    same = {"kind": "theorem", "rtol": 1e-9, "atol": 1e-9, "why": "float64 rounding"}
    wide = w.double()
    run.check("outputs", (x / s) @ (wide * s).T, x @ wide.T, against="not scaled", **same)
    mean = torch.rand(w.shape[1], generator=run.generator(2))
    kept = kept_columns(w, mean, "activation", run.generator())
    n = len(kept)
    top = {"kind": "theorem", "why": "the same numbers", "against": "numpy's sort"}
    run.check("inputs of kept columns", mean[kept], np.sort(mean.numpy())[::-1][:n].copy(), **top)


if __name__ == "__main__":
    cli(main)
