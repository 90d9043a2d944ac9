r"""Does tiling make attention's traffic fall as 1/M, at no price in exactness?

A fast memory of M numbers holds about M/d rows of queries, so all keys pass by Nd/M times:

$$ \text{accesses} = \Theta\left(\frac{N^2 d^2}{M}\right) \quad\text{instead of}\quad
   \Theta(Nd + N^2) . $$

Both are counted here, load by load and store by store, while the algorithms run; a count is a model
of slow memory and no clock is read. What counts as reproduced stands in the front matter of
README.md and is read from there.

    uv run papers/2022-flashattention/reproduce.py

Dao, Fu, Ermon, Rudra and Ré (2022), "FlashAttention", algorithms 0 to 4, theorems 1, 2.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run, cli
from week13.attention import causal_mask
from week19.evidence.flash_attention import (
    flash_accesses,
    predicted_accesses,
    saved_and_largest,
    slope,
    standard_accesses,
    with_gradients,
    without_maximum,
    without_rescaling,
)
from week19.flash_attention import flash_attention, online_update, tile_sizes, tiled_forward

README = Path(__file__).with_name("README.md")
NUMBERS_PER_KB = 512  # of 2 bytes, as in the paper's experiments
DIM, HEADS, BATCH = 64, 16, 64  # GPT-2 medium in figure 2; a count is for one head of one text


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(value: float, least: float, most: float) -> str:
    """`reproduced` if the value lies between its bounds; a NaN never does."""
    if not least <= most:
        raise ValueError(f"least must not exceed most, got {least} and {most}")
    return "reproduced" if least <= value <= most else "not reproduced"


def errors(dtype: torch.dtype, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Outputs and gradients of tiled attention and of torch's, causal and not."""
    g = torch.Generator().manual_seed(seed)
    q, k, v, grad = (torch.randn(2, 2, 133, 32, generator=g).to(dtype) for _ in range(4))
    ours, theirs = [], []
    for is_causal in (False, True):
        mask = causal_mask(133, 133) if is_causal else None
        ours += with_gradients(
            lambda *x, c=is_causal: flash_attention(
                *x, is_causal=c, tile=(32, 16), backward_tile=(16, 48)
            ),
            (q, k, v),
            grad,
        )
        theirs += with_gradients(
            lambda *x, m=mask: F.scaled_dot_product_attention(*x, attn_mask=m), (q, k, v), grad
        )
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
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    seeds = run.budget(quick=min(seeds, 2), default=seeds, full=max(seeds, 8))
    _judge_exactness(run, paper, rules["exact, not approximate"], seeds)

    # ---- slopes
    rule_m, rule_n = rules["accesses fall as 1/M"], rules["accesses grow as N²"]
    sizes = [NUMBERS_PER_KB * kb for kb in rule_m["kilobytes"]] + [NUMBERS_PER_KB * 100]
    lengths = rule_n["lengths"]
    lengths = run.budget(quick=lengths[:2], default=lengths, full=[*lengths, 2 * lengths[-1]])
    counts = np.array([[flash_accesses(n, fast) for n in lengths] for fast in sizes])
    run.check("accesses", counts,
              np.array([[predicted_accesses(n, fast) for n in lengths] for fast in sizes]),
              against="2Nd(1 + ⌈N/B⌉) + N", why="counted one by one: equal")  # fmt: skip
    in_m, in_n = slope(sizes[:-1], counts[:-1, -1]), slope(lengths, counts[0])
    run.metric("slope in M", in_m)
    run.metric("slope in N at the smallest M", in_n)
    run.metric("slope in N at 100 KB", slope(lengths, counts[-1]))
    for rule, value in ((rule_m, in_m), (rule_n, in_n)):
        low, high = rule["exponent"] - rule["margin"], rule["exponent"] + rule["margin"]
        run.verdict(rule["name"], judge(value, low, high),
                    f"slope {value:.3f}, asked for: {low:.2f} to {high:.2f}")  # fmt: skip

    # ---- the ratio
    ratios = {}
    for name, backward in (("forward", False), ("forward and backward", True)):
        ours = (
            standard_accesses(1024, backward=backward),
            flash_accesses(1024, sizes[-1], backward=backward),
        )
        ratios[name] = ours[0] / ours[1]
        run.metric(f"standard / flash, {name}", ratios[name], "×")
        rule = rules[f"five times fewer accesses, {name}"]
        run.verdict(rule["name"], judge(ratios[name], rule["least"], np.inf),
                    f"{ratios[name]:.2f} times at N = 1024 and M = 100 KB, "
                    f"asked for: {rule['least']:.0f}")  # fmt: skip
    gigabytes = np.array(paper["paper_gigabytes"])
    run.metric("the paper's ratio", gigabytes[0] / gigabytes[1], "×")
    squares = 2e-9 * BATCH * HEADS * 1024**2  # GB of one pass over all scores
    run.metric("the paper's standard traffic in passes over N²", gigabytes[0] / squares)
    run.metric("our standard traffic in passes over N²", ours[0] / 1024**2)

    # ---- memory
    rule = rules["extra memory is linear"]
    short = run.budget(quick=[64, 128, 256], default=[128, 256, 512, 1024])
    kept, largest = np.array([saved_and_largest(flash_attention, n) for n in short]).T
    steepest = max(slope(short, kept), slope(short, largest))
    run.metric("slope of kept numbers in N", slope(short, kept))
    run.verdict(rule["name"], judge(steepest, -np.inf, rule["most"]),
                f"steepest slope {steepest:.3f}, asked for: at most {rule['most']}")  # fmt: skip
    _draw_traffic(run, paper, ours)
    _draw_slopes(run, lengths, sizes, counts)


def _judge_exactness(run: Run, paper: dict, rule: dict, seeds: int) -> None:
    """The rule in both precisions, and the falsifier."""
    passed, worst = True, []
    for dtype, name in ((torch.float32, "float32"), (torch.float64, "float64")):
        pairs = [errors(dtype, run.seed * 1000 + s) for s in range(seeds)]
        ours, theirs = (
            torch.cat([x.flatten() for pair in pairs for x in pair[side]]) for side in (0, 1)
        )
        passed &= run.check(f"outputs and gradients, {name}", ours, theirs,
                            against="F.scaled_dot_product_attention", atol=rule[f"most_{name}"],
                            why="rounding; the paper's rule of exactness")  # fmt: skip
        worst.append(float((ours - theirs).abs().max()))
    run.verdict(rule["name"], "reproduced" if passed else "not reproduced",
                f"largest error {worst[0]:.0e} in float32 and {worst[1]:.0e} in float64, "
                f"{seeds} draws")  # fmt: skip
    broken = {
        "intact": online_update, "no maximum": without_maximum, "no rescaling": without_rescaling
    }  # fmt: skip
    largest, most = paper["falsifier"]["scores"], rule["most_float32"]
    by_update = {
        name: [error_with(f, largest, run.seed * 1000 + s) for s in range(seeds)]
        for name, f in broken.items()
    }
    holds = {
        name: all(judge(e, 0, most) == "reproduced" for e in values)
        for name, values in by_update.items()
    }
    fails = all(
        judge(e, 0, most) == "not reproduced"
        for name in ("no maximum", "no rescaling")
        for e in by_update[name]
    )
    run.claim("without the running softmax, exactness fails", holds["intact"] and fails,
              f"scores up to {largest:.0f}, float32: error {max(by_update['intact']):.0e} intact, "
              f"{max(by_update['no maximum'])} without a maximum, at least "
              f"{min(by_update['no rescaling']):.1f} without rescaling")  # fmt: skip


def _draw_traffic(run: Run, paper: dict, ours: tuple[int, int]) -> None:
    with run.figure("traffic", "How much traffic does tiling save, forward and backward?",
                    columns=2, size=(9.4, 4.1)) as axes:  # fmt: skip
        here = np.array(ours) / 1e6
        for ax, values, unit, title in (
            (axes[0], paper["paper_gigabytes"], "slow memory read and written, GB",
             "The paper: A100, 64 texts × 16 heads (read in a copy)"),
            (axes[1], here, "numbers moved for one head, millions",
             "Here: counted, M = 100 KB"),
        ):  # fmt: skip
            ax.bar([0, 1], values, width=0.55, color=[plots.ORANGE, plots.BLUE])
            ax.set_xticks([0, 1], ["standard", "tiled"])
            for x, value in enumerate(values):
                ax.annotate(f"{value:.1f}", (x, value), (0, 4), textcoords="offset points",
                            ha="center", weight="bold")  # fmt: skip
            ax.text(0.97, 0.9, f"{values[0] / values[1]:.1f} times less", ha="right",
                    transform=ax.transAxes, fontsize=11)  # fmt: skip
            ax.margins(y=0.12)
            ax.set(ylabel=unit)
            ax.set_title(title, fontsize=10.5, weight="normal")
            ax.grid(axis="x", visible=False)


def _draw_slopes(run: Run, lengths, sizes, counts) -> None:
    with run.figure("slopes", "The N² of the theorem shows only when the fast memory is small",
                    size=(8.2, 4.4)) as ax:  # fmt: skip
        colors = (plots.ORANGE, plots.YELLOW, plots.GREEN, plots.SKY, plots.BLUE)
        for fast, row, color in zip(sizes, counts, colors, strict=True):
            kb, rows = fast // NUMBERS_PER_KB, tile_sizes(fast, DIM)[0]
            text = f"{kb} KB, {rows} queries: slope {slope(lengths, row):.2f}"
            ax.plot(lengths, row / 1e6, "o-", color=color, label=text)
        n = np.array([lengths[0], lengths[-1]])
        for power, start in ((2, counts[0, 0]), (1, 4 * n[0] * DIM)):
            line = start * (n / n[0]) ** power / 1e6
            ax.plot(n, line, "--" if power == 2 else ":", color=plots.REFERENCE, lw=1.2)
        ax.annotate("∝ N²", (n[0] * 1.5, 2.9 * counts[0, 0] / 1e6), fontsize=10, ha="right")
        ax.annotate("all matrices once, ∝ N", (n[-1], line[-1]), (-6, -42), ha="right",
                    textcoords="offset points", fontsize=10)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="tokens N", ylabel="numbers moved, millions")
        ax.set_xticks(lengths, lengths)
        ax.set_xticks([], minor=True)
        plots.label_lines(ax)


if __name__ == "__main__":
    cli(main)
