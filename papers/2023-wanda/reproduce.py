r"""Is size times the input's norm, compared within rows, as good a guide as a solved layer?

$$ S_{ij} = |W_{ij}| \cdot \|X_j\|_2 : $$

half of each row goes, those of the least score, and nothing else changes. Reduced: character models
of two layers and width 96, trained here on Python's manual (the paper: 7 to 70 billion
parameters); outlier inputs are not to be expected in them. The rules stand in the front matter of
README.md.

    uv run papers/2023-wanda/reproduce.py

Sun, Liu, Bair and Kolter (2023), "A simple and effective pruning approach for large language
models", equation 1.
"""

import functools
import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week19.gptq import hessian
from week19.wikitext import added_losses
from week27.one_shot_pruning import Pruned, magnitude, prune_block, sparsegpt, wanda
from week27.pruning import masks


def in_layers(w: Tensor, h: Tensor | None = None) -> Pruned:
    """Wanda's scores, or plain sizes if h is None, compared within the whole layer."""
    scores = w.abs() if h is None else w.abs() * h.diagonal().sqrt()
    mask = masks({"": scores}, 0.5, scope="layer")[""]
    return Pruned(w * mask, mask)


def mixed_norms(w: Tensor, h: Tensor) -> Pruned:
    """Wanda with the norms of other inputs."""
    order = torch.randperm(len(h), generator=torch.Generator().manual_seed(len(h)))
    return wanda(w, h.diagonal()[order].diag())


METHODS = {
    "magnitude": lambda w, h: in_layers(w),
    "Wanda": wanda,
    "SparseGPT": sparsegpt,
    "Wanda in layers": in_layers,
    "magnitude in rows": magnitude,
    "mixed norms": mixed_norms,
}


def seconds(run: Run, n: int) -> list[float]:
    """Seconds of SparseGPT over those of Wanda, on one layer, in turns; the first is warm-up."""
    g = run.generator(7)
    w, h = torch.randn(n, n, generator=g), hessian(torch.randn(2 * n, n, generator=g))
    found = []
    for _ in range(run.budget(quick=3, default=11)):
        taken = []
        for method in (sparsegpt, wanda):
            start = time.perf_counter()
            method(w, h)
            taken.append(time.perf_counter() - start)
        found.append(taken[0] / taken[1])
    return found[1:]


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 100) -> None:
    """Train models, prune them, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Models, each with a calibration text of its own.
    steps
        Training steps of each.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "Muon multiplies in bfloat16, which processors round differently")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    size = run.budget(quick=(2, 4), default=(steps, 96), full=(8 * steps, 200))
    first = run.seed + 20  # apart from the seeds of week 27
    methods = {name: functools.partial(prune_block, method=m) for name, m in METHODS.items()}
    models = run.progress(range(seeds), "models")
    with threadpool_limits(1):  # products this small are slower on several threads
        added = [added_losses(first + i, *size, methods)[1] for i in models]
    ratios = {
        "at 50 % Wanda closes half of the gap to magnitude": ("Wanda", "magnitude"),
        "SparseGPT is not worse than Wanda": ("SparseGPT", "Wanda"),
        "rows are the right group to compare in": ("Wanda", "Wanda in layers"),
    }
    for name, (a, b) in ratios.items():
        paper.judge(run, name, [row[a] / row[b] for row in added], quick=False, rtol=None)
    closes = next(iter(ratios))
    wrong = [row["mixed norms"] / row["magnitude"] for row in added]
    run.falsifier("norms of other inputs", wrong, breaks=closes)
    faster = seconds(run, run.budget(quick=64, default=512))
    paper.judge(run, "Wanda takes a tenth of the time", faster, quick=False, rtol=None)
    for name in METHODS:
        value = float(np.mean([row[name] for row in added]))
        run.metric(f"loss added, {name}", value, "nats/char", rtol=None)
    title = "Which weights can go: what the paper has, and what is found here"
    with run.figure("methods", title, columns=2, size=(9.6, 4.0)) as (left, right):
        label = "perplexity, LLaMA-7B on WikiText2\n(the paper)"
        plots.bars(left, paper.matter["paper_perplexity"], xlabel=label)
        shown = {name: [1000 * row[name] for row in added] for name in METHODS}
        plots.bars(right, shown, xlabel="loss added at 50 % (millinats/character)")


def check(run: Run) -> None:
    """The scores, written out in NumPy; and no difference to magnitude where inputs are alike."""
    g = run.generator()
    x = torch.randn(50, 24, generator=g, dtype=torch.double) * torch.rand(24, generator=g)
    w = torch.randn(6, 24, generator=g, dtype=torch.double)
    scores = np.abs(w.numpy()) * np.sqrt((x.numpy() ** 2).sum(0))
    median = np.sort(scores, axis=1)[:, 12:13]
    exact = {"why": "booleans", "against": "the equation, NumPy"}
    run.check("half of each row", wanda(w, hessian(x)).mask, scores >= median, **exact)
    white = torch.eye(24).double()
    same = {"kind": "theorem", "why": "the same numbers", "against": "magnitude in rows"}
    run.check("weights for white inputs", wanda(w, white).w, magnitude(w).w, **same)


if __name__ == "__main__":
    cli(main)
