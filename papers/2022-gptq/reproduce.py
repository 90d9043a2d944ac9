r"""Does making up for rounding errors save weights of 3 and 4 bits where rounding to nearest fails?

With $H = R R^T$ the Hessian of a layer's inputs, $R$ upper triangular, GPTQ rounds the weights in
turn, each after the sum of what the earlier errors call for:

$$ q_j = Q\Bigl(w_j + \sum_{k<j} (w_k - q_k)\, R_{kj} / R_{jj}\Bigr). $$

Reduced: character models of two layers and width 96, trained here on Python's manual (the paper:
125 million to 175 billion parameters). Outlier inputs of large models are not to be expected in
them. The rules stand in the front matter of README.md.

    uv run papers/2022-gptq/reproduce.py

Frantar, Ashkboos, Hoefler and Alistarh (2022), "GPTQ", algorithm 1.
"""

import dataclasses
import functools

import numpy as np
import torch

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week18.llama3 import Block
from week19.gptq import gptq
from week19.layer_inputs import Inputs, Quantizer, gptq_block, round_block
from week19.quantization import fake_quantize
from week19.wikitext import added_losses

WIDTHS, GROUP = (4, 3, 2), 32


def diagonal_block(block: Block, inputs: dict[str, Inputs], **options) -> None:
    """GPTQ that is told how large the inputs are and not how they correlate."""
    alone = {name: dataclasses.replace(v, h=v.h.diag().diag()) for name, v in inputs.items()}
    gptq_block(block, alone, **options)


def methods_of() -> dict[str, Quantizer]:
    """What changes a block, by name."""
    methods: dict[str, Quantizer] = {}
    for bits in WIDTHS:
        options = {"bits": bits, "group_size": GROUP}
        methods[f"nearest, {bits} bits"] = functools.partial(round_block, **options)
        methods[f"GPTQ, {bits} bits"] = functools.partial(gptq_block, **options)
    three = functools.partial(diagonal_block, bits=3, group_size=GROUP)
    return methods | {"diagonal, 3 bits": three}


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Train models, quantize them, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models, each with a calibration text of its own.
    steps
        Training steps of each.
    """
    paper = papers.load(__file__)
    run.rounding(0.25, "Muon multiplies in bfloat16, which processors round differently")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps, texts = run.budget(quick=(2, 4), default=(steps, 96), full=(4 * steps, 200))
    starts, added = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "models"):
        start, found = added_losses(seed, steps, texts, methods_of())
        starts.append(start)
        added.append(found)
    late = {"quick": False, "rtol": None}
    names = ("at 3 bits GPTQ adds at most half of the loss", "at 4 bits it adds less too")
    for name, bits in zip((*names, "at 2 bits it adds less too"), (3, 4, 2), strict=True):
        ratio = [row[f"GPTQ, {bits} bits"] / row[f"nearest, {bits} bits"] for row in added]
        paper.judge(run, name, ratio, **late)
    alone = [row["diagonal, 3 bits"] / row["nearest, 3 bits"] for row in added]
    run.falsifier("the Hessian's diagonal alone", alone, breaks=names[0])
    run.metric("loss of the models", float(np.mean(starts)), "nats/char")
    for name in added[0]:
        values = [row[name] for row in added]
        run.metric(f"loss added, {name}", float(np.mean(values)), "nats/char", rtol=0.5)
    draw(run, added, paper.matter["paper_perplexity"])


def check(run: Run) -> None:
    """What is left of GPTQ where inputs do not correlate: rounding to nearest, to the bit."""
    w = torch.randn(6, 64, generator=run.generator(), dtype=torch.double)
    scales = torch.rand(64, generator=run.generator(1), dtype=torch.double) + 0.1
    ours = gptq(w, scales.diag(), bits=3, group_size=GROUP).dequantize()
    nearest = fake_quantize(w, bits=3, symmetric=False, granularity=GROUP)
    theorem = {"kind": "theorem", "atol": 1e-12, "why": "float64 rounding"}
    run.check("weights for a diagonal Hessian", ours, nearest, against="nearest", **theorem)


def draw(run: Run, added: list[dict[str, float]], paper: dict[str, float]) -> None:
    """The paper's perplexities, and the loss added here."""
    title = "What do a few bits cost, with and without making up for errors?"
    options = {"columns": 2, "size": (9.6, 4.2), "width_ratios": [1, 1.6]}
    with run.figure("bits", title, **options) as (left, right):
        plots.bars(left, paper, xlabel="perplexity, OPT-175B on WikiText2\n(the paper)")
        left.set_xlim(8, None)
        lines = {
            name: [[row[f"{name}, {bits} bits"] for bits in WIDTHS] for row in added]
            for name in ("nearest", "GPTQ")
        }
        labels = {"xlabel": "bits per weight", "ylabel": "loss added (nats/character)"}
        labels |= {"yscale": "symlog" if run.mode == "quick" else "log"}
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(right, WIDTHS, lines, marker="o", colors=colors, ends=False, **labels)
        right.set_xticks(WIDTHS)


if __name__ == "__main__":
    cli(main)
