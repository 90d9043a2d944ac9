r"""Does tiling make attention's traffic fall as 1/M, at no price in exactness?

A fast memory of M numbers holds about M/d rows of queries, so all keys pass by Nd/M times:

$$ \text{accesses} = \Theta\left(\frac{N^2 d^2}{M}\right) \quad\text{instead of}\quad
   \Theta(Nd + N^2) . $$

Both are counted here, load by load and store by store, while the algorithms run; a count is a model
of slow memory and no clock is read. The rules stand in the front matter of README.md.

    uv run papers/2022-flashattention/reproduce.py

Dao, Fu, Ermon, Rudra and Ré (2022), "FlashAttention", algorithms 0 to 4, theorems 1, 2.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week13.attention import causal_mask
from week19.flash_attention import flash_attention, online_update, tiled_forward
from week19.flash_measures import (
    flash_accesses,
    predicted_accesses,
    saved_and_largest,
    slope,
    standard_accesses,
    with_gradients,
    without_maximum,
    without_rescaling,
)
from week19.slow_memory import tile_sizes

NUMBERS_PER_KB = 512  # of 2 bytes, as in the paper's experiments
DIM, HEADS, BATCH = 64, 16, 64  # GPT-2 medium in figure 2; a count is for one head of one text


def errors(dtype: torch.dtype, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of tiled attention and of torch's, causal and not."""
    g = torch.Generator().manual_seed(seed)
    q, k, v, grad = (torch.randn(2, 2, 133, 32, generator=g).to(dtype) for _ in range(4))
    ours, theirs, tiles = [], [], {"tile": (32, 16), "backward_tile": (16, 48)}
    for is_causal in (False, True):
        mask = causal_mask(133, 133) if is_causal else None

        def tiled(*x, is_causal=is_causal):
            return flash_attention(*x, is_causal=is_causal, **tiles)

        def reference(*x, mask=mask):
            return F.scaled_dot_product_attention(*x, attn_mask=mask)

        ours += with_gradients(tiled, (q, k, v), grad)
        theirs += with_gradients(reference, (q, k, v), grad)
    return ours, theirs


def error_with(update: Callable, largest: float, seed: int) -> float:
    """Largest error of the tiled forward pass in float32 with scores up to `largest`."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(100, 16, generator=g) for _ in range(3))
    q = q * largest / (q @ k.T).max()
    exact = F.scaled_dot_product_attention(*(t.double() for t in (q, k, v)), scale=1.0)
    out, _ = tiled_forward(q, k, v, scale=1.0, tile=(32, 16), update=update)
    return float((out - exact).abs().max())


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Count accesses and saved numbers, and judge by the front matter's margins.

    Parameters
    ----------
    seeds
        Draws for the comparison with torch.
    """
    paper = papers.load(__file__)
    matter = paper.matter
    _judge_exactness(run, paper, run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8)))

    # ---- slopes: counts do not depend on the data
    sizes = [NUMBERS_PER_KB * kb for kb in (*matter["kilobytes"], 100)]
    lengths = matter["lengths"]
    lengths = run.budget(quick=lengths[:2], default=lengths, full=[*lengths, 2 * lengths[-1]])
    counts = np.array([[flash_accesses(n, fast) for n in lengths] for fast in sizes])
    expected = np.array([[predicted_accesses(n, fast) for n in lengths] for fast in sizes])
    formula = {"against": "2Nd(1 + ⌈N/B⌉) + N", "kind": "theorem"}
    run.check("accesses", counts, expected, why="counted one by one: equal", **formula)
    run.metric("slope in N at 100 KB", slope(lengths, counts[-1]))
    paper.judge(run, "accesses fall as 1/M", slope(sizes[:-1], counts[:-1, -1]), quick=False)
    paper.judge(run, "accesses grow as N²", slope(lengths, counts[0]), quick=False)

    # ---- the ratio
    for name, backward in (("forward", False), ("forward and backward", True)):
        standard = standard_accesses(1024, backward=backward)
        tiled = flash_accesses(1024, sizes[-1], backward=backward)
        paper.judge(run, f"five times fewer accesses, {name}", standard / tiled)
    gigabytes = matter["paper_gigabytes"]
    run.metric("the paper's ratio", gigabytes[0] / gigabytes[1], "×")
    squares = 2e-9 * BATCH * HEADS * 1024**2  # GB of one pass over all scores
    run.metric("the paper's standard traffic in passes over N²", gigabytes[0] / squares)
    run.metric("our standard traffic in passes over N²", standard / 1024**2)

    # ---- memory
    short = run.budget(quick=[64, 128, 256], default=[128, 256, 512, 1024])
    sizes_kept = np.array([saved_and_largest(flash_attention, n) for n in short]).T
    steepest = max(slope(short, row) for row in sizes_kept)
    paper.judge(run, "extra memory is linear", steepest)
    _draw_traffic(run, gigabytes, (standard, tiled))
    _draw_slopes(run, lengths, sizes, counts)


def _judge_exactness(run: Run, paper: papers.Paper, seeds: int) -> None:
    """The rule in both precisions, and what the running softmax is for."""
    for dtype, most in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        name, draws = str(dtype).removeprefix("torch."), range(seeds)
        pairs = [errors(dtype, run.seed * 1000 + s) for s in draws]
        ours, theirs = (
            torch.cat([x.flatten() for pair in pairs for x in pair[side]]) for side in (0, 1)
        )
        exact = {"against": "F.scaled_dot_product_attention", "atol": most, "why": "rounding"}
        run.check(f"outputs and gradients, {name}", ours, theirs, **exact)
    scores = paper.matter["scores"]

    def worst(update: Callable) -> np.ndarray:
        found = [error_with(update, scores, run.seed * 1000 + s) for s in range(seeds)]
        return np.nan_to_num(found, nan=1e9, posinf=1e9)  # no number at all is as wrong as can be

    rule = "exact, not approximate"
    paper.judge(run, rule, worst(online_update), note=f"scores up to {scores:.0f}", rtol=0.5)
    note = "1e9 stands for no number at all"
    run.falsifier("no running maximum", worst(without_maximum), breaks=rule, note=note)
    run.falsifier("no rescaling", worst(without_rescaling), breaks=rule)


def _draw_traffic(run: Run, gigabytes: list[float], ours: tuple[int, int]) -> None:
    title = "How much traffic does tiling save, forward and backward?"
    ratios = [values[0] / values[1] for values in (gigabytes, ours)]
    sides = (
        (gigabytes, f"GB read and written: the paper, {ratios[0]:.1f} times less"),
        (np.array(ours) / 1e6, f"millions of numbers: counted here, {ratios[1]:.1f} times less"),
    )
    with run.figure("traffic", title, columns=2, size=(9.4, 3.2)) as axes:
        for ax, (values, name) in zip(axes, sides, strict=True):
            rows = dict(zip(("standard", "tiled"), values, strict=True))
            plots.bars(ax, rows, colors=(plots.ORANGE, plots.BLUE), xlabel=name)


def _draw_slopes(run: Run, lengths, sizes, counts) -> None:
    title = "The N² of the theorem shows only when the fast memory is small"
    with run.figure("slopes", title, size=(8.2, 4.4)) as ax:
        lines = {}
        for fast, row in zip(sizes, counts, strict=True):
            kb, rows = fast // NUMBERS_PER_KB, tile_sizes(fast, DIM)[0]
            lines[f"{kb} KB, {rows} queries: slope {slope(lengths, row):.2f}"] = row / 1e6
        square = counts[0, 0] / 1e6 * (np.array(lengths) / lengths[0]) ** 2
        ax.plot(lengths, square, "--", color=plots.REFERENCE, lw=1.2, label="∝ N²")
        colors = (plots.ORANGE, plots.YELLOW, plots.GREEN, plots.SKY, plots.BLUE)
        labels = {"xscale": "log", "yscale": "log", "xlabel": "tokens N"}
        labels["ylabel"] = "numbers moved, millions"
        plots.curves(ax, lengths, lines, colors=colors, marker="o", **labels)
        ax.set_xticks(lengths, lengths)
        ax.set_xticks([], minor=True)


if __name__ == "__main__":
    cli(main)
