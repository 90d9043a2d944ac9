r"""Can half of a language model's weights go in one pass, if the others make up for it?

With $H^{-1} = U^T U$ the inverse Hessian of a layer's inputs, $U$ upper triangular, the cheapest
weights by $\hat w_j^2 / U_{jj}^2$ go, column by column, and each moves those after it:

$$ \Delta w_F = -\hat w_j\, U_{j,F} / U_{jj} . $$

Reduced: character models of two layers and width 96, trained here on Python's manual (the paper:
125 million to 176 billion parameters). The rules stand in the front matter of README.md.

    uv run papers/2023-sparsegpt/reproduce.py

Frantar and Alistarh (2023), "SparseGPT", algorithm 1.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week19.gptq import hessian, layer_error
from week19.wikitext import added_losses
from week27.one_shot_pruning import Pruned, magnitude, prune_block, refit, sparsegpt

SPARSITIES = (0.1, 0.3, 0.5, 0.6, 0.7)
PATTERN = (2, 4)


def masks_alone(w: Tensor, h: Tensor, **options) -> Pruned:
    """SparseGPT's masks, and the weights as they were."""
    mask = sparsegpt(w, h, **options).mask
    return Pruned(w * mask, mask)


def by_diagonal(w: Tensor, h: Tensor, **options) -> Pruned:
    """SparseGPT that is told how large the inputs are and not how they correlate."""
    return sparsegpt(w, h.diag().diag(), **options)


def by_diagonal_alone(w: Tensor, h: Tensor, **options) -> Pruned:
    """The masks of that, and the weights as they were."""
    return masks_alone(w, h.diag().diag(), **options)


def methods_of(sparsities: tuple[float, ...]) -> dict[str, Callable]:
    """What changes a block, by name."""
    found: dict[str, Callable] = {}
    for name, method in (("magnitude", magnitude), ("SparseGPT", sparsegpt)):
        for sparsity in sparsities:
            found[f"{name}, {sparsity:.0%}"] = functools.partial(method, sparsity=sparsity)
        found[f"{name}, 2:4"] = functools.partial(method, pattern=PATTERN)
    found |= {"masks alone, 50%": masks_alone, "diagonal, 50%": by_diagonal}
    found["diagonal, masks alone, 50%"] = by_diagonal_alone
    named = {name.replace("%", " %"): method for name, method in found.items()}
    return {name: functools.partial(prune_block, method=m) for name, m in named.items()}


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
    sparsities = run.budget(quick=(0.5,), default=SPARSITIES)
    methods = methods_of(sparsities)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    size = run.budget(quick=(2, 4), default=(steps, 96), full=(8 * steps, 200))
    first = run.seed + 10  # apart from the seeds of week 27
    models = run.progress(range(seeds), "models")
    with threadpool_limits(1):  # products this small are slower on several threads
        pairs = [added_losses(first + i, *size, methods) for i in models]
    added = [found for _, found in pairs]
    late = {"quick": False, "rtol": None}
    names = ("at 50 % SparseGPT adds at most half of magnitude's loss", "so it does at 2:4")
    for name, kind in zip(names, ("50 %", "2:4"), strict=True):
        ratio = [row[f"SparseGPT, {kind}"] / row[f"magnitude, {kind}"] for row in added]
        paper.judge(run, name, ratio, **late)
    ratio = [row["SparseGPT, 50 %"] / row["masks alone, 50 %"] for row in added]
    paper.judge(run, "the update is what helps", ratio, **late)
    alone = [row["diagonal, 50 %"] / row["diagonal, masks alone, 50 %"] for row in added]
    run.falsifier("the Hessian's diagonal alone", alone, breaks="the update is what helps")
    run.metric("loss of the models", float(np.mean([start for start, _ in pairs])), "nats/char")
    for name in added[0]:
        value = float(np.mean([row[name] for row in added]))
        run.metric(f"loss added, {name}", value, "nats/char", rtol=None)
    draw(run, added, sparsities, paper.matter["paper_perplexity"])


def check(run: Run) -> None:
    """The weights for a mask whose zeros come first are the best there are: least squares."""
    g = run.generator()
    x = torch.randn(80, 16, generator=g, dtype=torch.double)
    x = x @ torch.randn(16, 16, generator=g, dtype=torch.double)
    w = torch.randn(4, 16, generator=g, dtype=torch.double)
    mask = torch.arange(16).expand(4, -1) >= 6  # all weights that stay follow all that go
    ours = sparsegpt(w, hessian(x), mask=mask, damping=0.0).w
    target, best = (x @ w.T).numpy(), np.zeros((4, 16))
    best[:, 6:] = np.linalg.lstsq(x[:, 6:].numpy(), target, rcond=None)[0].T
    why = {"why": "float64 rounding", "atol": 1e-9}
    run.check("weights where zeros come first", ours, best, against="numpy.linalg.lstsq", **why)
    errors = [layer_error(w - v, hessian(x)) for v in (ours, refit(w, hessian(x), mask))]
    run.check("and their errors", *errors, against="refit", kind="consistency", **why)


def draw(run: Run, added: list[dict], sparsities: tuple, paper: dict[str, float]) -> None:
    """The paper's perplexities, and the loss added here."""
    title = "What do zeros cost, with and without making up for them?"
    options = {"columns": 2, "size": (9.6, 4.2), "width_ratios": [1, 1.6]}
    with run.figure("sparsity", title, **options) as (left, right):
        plots.bars(left, paper, xlabel="perplexity, OPT-125M on WikiText2\n(the paper)")
        names = ("magnitude", "SparseGPT")
        keys = [f"{s:.0%}".replace("%", " %") for s in sparsities]
        lines = {n: [[row[f"{n}, {k}"] for k in keys] for row in added] for n in names}
        labels = {"xlabel": "weights at zero (%)", "ylabel": "loss added (nats/character)"}
        x, colors = 100 * np.array(sparsities), (plots.ORANGE, plots.BLUE)
        plots.curves(right, x, lines, marker="o", colors=colors, ends=False, **labels)


if __name__ == "__main__":
    cli(main)
