r"""Do lengths and directions move together?

DoRA writes a matrix as row lengths $m$ times directions and lets a low rank change the directions
only. Its case rests on a picture: in full fine-tuning the change of length ΔM and of direction ΔD
of the matrices are negatively correlated, in LoRA positively, and DoRA is like full fine-tuning. A
tiny vision transformer that has seen upright digits learns turned ones in all three ways. The rules
stand in README.md's front matter.

    uv run papers/2024-dora/reproduce.py

Liu, Wang, Yin, Molchanov, Wang, Cheng & Chen (2024), "DoRA: Weight-decomposed low-rank adaptation",
section 3.2 and figure 2.
"""

import copy
import statistics

import torch
from torch import nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week20.dora import DoRALinear, decompose
from week20.lora import LoRAConfig, LoRALinear, adapters, inject, merge
from week20.peft_twin import with_peft
from week20.tiny_vit import Split, ViT, accuracy, splits, train

LINEAR = ("q_proj", "k_proj", "v_proj", "out_proj", "up", "down")
KINDS = {"LoRA": LoRALinear, "DoRA": DoRALinear}
PAPER = {"full": -0.62, "LoRA": 0.83, "DoRA": -0.31}  # figure 2, query matrices


def check(run: Run) -> None:
    """Start at the base, peft's outputs, and one layer after merging."""
    base, images = ViT(run.generator(1)), torch.rand(5, 8, 8, generator=run.generator(2))
    config = LoRAConfig(4, 8, targets=LINEAR)
    ours = inject(copy.deepcopy(base), config, run.generator(3), layer=DoRALinear)
    same = {"atol": 1e-5, "rtol": 1e-5, "why": "float32 rounding"}
    start = {"against": "the base: m is ‖W₀‖", "kind": "theorem", **same}
    run.check("outputs before training", ours(images), base(images), **start)
    with torch.no_grad():
        for _, layer in adapters(ours):
            layer.B.copy_(torch.randn(layer.B.shape, generator=run.generator(4)) / 4)
            layer.magnitude.mul_(1.2)
    theirs, name = with_peft(ours, base, config, dora=True), "peft.LoraConfig(use_dora=True)"
    run.check("outputs, rank 4", ours(images), theirs(images), against=name, **same)
    before = ours(images)
    run.check("outputs after merging", merge(ours)(images), before, against="unmerged", **same)


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every linear layer's weight as it acts, corrections included."""
    found = {n: layer.merged_weight() for n, layer in adapters(model)}
    plain = {
        n: m.weight
        for n, m in model.named_modules()
        if isinstance(m, nn.Linear) and n.endswith(LINEAR)
    }
    return {n: w.detach().clone() for n, w in (found or plain).items()}


def moved(before: dict, after: dict) -> list[tuple[float, float]]:
    """ΔM and ΔD of each matrix, averaged over its rows (equations 3 and 4)."""
    changes = (decompose(before[name], after[name]) for name in before)
    return [(float(m.mean()), float(d.mean())) for m, d in changes]


def learn(
    model: nn.Module, data: Split, seed: int, lr: float, pieces: int, steps: int
) -> tuple[float, list[tuple[float, float]]]:
    """Train in pieces, each from its own rate down; accuracy, and ΔM and ΔD after each."""
    start, points = weights(model), []
    generator = torch.Generator().manual_seed(seed)
    for piece in range(pieces):
        rate = lr * (1 - piece / pieces)
        train(model, data, steps=steps // pieces, lr=rate, generator=generator)
        points += moved(start, weights(model))
    return 100 * accuracy(model, data), points


def correlation(points: list[tuple[float, float]]) -> float:
    """Of ΔM and ΔD over matrices and checkpoints."""
    return float(torch.corrcoef(torch.tensor(points).double().T)[0, 1])


class Bases:
    """A classifier of upright digits, and the three ways in which it learns turned ones."""

    def __init__(self, run: Run, seed: int, steps: tuple[int, int]):
        self.steps, self.seed = steps[1], run.seed + seed
        upright, self.spun = splits(self.generator(10))
        options = {"steps": steps[0], "lr": 3e-3, "generator": self.generator(30)}
        self.base = train(ViT(self.generator(20)), upright, **options)

    def generator(self, offset: int) -> torch.Generator:
        """The same chances for all that is done with one base."""
        return torch.Generator().manual_seed(1000 * self.seed + offset)

    def learned(self, kind: str, r: int, lr: float) -> tuple[float, list[tuple[float, float]]]:
        """Accuracy, and points: all weights, or corrections of rank r with α = r."""
        model = copy.deepcopy(self.base)
        if kind in KINDS:
            config = LoRAConfig(r, r, targets=LINEAR)
            inject(model, config, self.generator(50), layer=KINDS[kind])
        return learn(model, self.spun, 1000 * self.seed + 40, lr, 4, self.steps)


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Adapt a digit classifier to turned digits by LoRA, by DoRA and fully.

    Parameters
    ----------
    seeds
        Bases, splits and adaptations; 5 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.2, "accuracies of few images after few steps")
    check(run)
    torch.set_num_threads(1)  # products this small are slower on several threads
    seeds = run.budget(quick=2, default=seeds, full=max(seeds, 5))
    ranks = run.budget(quick=[2], default=paper.matter["ranks"])
    steps = run.budget(quick=(8, 8), default=(300, 100))
    rates, judge = paper.matter["rates"], Bases(run, 100, steps)
    if run.mode == "quick":
        rates = {name: grid[1:2] for name, grid in rates.items()}
    lr = {
        name: max(grid, key=lambda rate: judge.learned(name, 4, rate)[0])
        for name, grid in rates.items()
    }
    for name, rate in lr.items():
        run.metric(f"learning rate, {name}", rate, rtol=0)
    all_found = []
    for seed in run.progress(range(seeds), "bases"):
        bases = Bases(run, seed, steps)
        found = {"full": bases.learned("full", 0, lr["full"])}
        found |= {(name, r): bases.learned(name, r, lr[name]) for r in ranks for name in KINDS}
        all_found.append(found)
    slopes = {"full": [correlation(one["full"][1]) for one in all_found]}
    for name in KINDS:
        slopes[name] = [
            statistics.mean(correlation(one[name, r][1]) for r in ranks) for one in all_found
        ]
    late = {"quick": False, "rtol": None}
    paper.judge(run, "LoRA: lengths and directions move together", slopes["LoRA"], **late)
    paper.judge(run, "full fine-tuning: they move oppositely", slopes["full"], **late)
    opposite = "DoRA: they move oppositely"
    paper.judge(run, opposite, slopes["DoRA"], **late)
    run.falsifier("no lengths of their own (LoRA)", slopes["LoRA"], breaks=opposite)
    more = [
        statistics.mean(one["DoRA", r][0] - one["LoRA", r][0] for r in ranks) for one in all_found
    ]
    paper.judge(run, "DoRA is more accurate", more, **late)
    for arm in all_found[0]:
        name = arm if isinstance(arm, str) else f"{arm[0]}, rank {arm[1]}"
        mean = statistics.mean(one[arm][0] for one in all_found)
        run.metric(f"accuracy, {name}", mean, "%", rtol=None)
    draw(run, all_found, ranks[len(ranks) // 2])


def draw(run: Run, all_found: list[dict], r: int) -> None:
    """Matrices at four checkpoints, every seed."""
    arms = {
        "everything trained": "full",
        f"LoRA, r = {r}": ("LoRA", r),
        f"DoRA, r = {r}": ("DoRA", r),
    }
    title = "Does a matrix that turns more also change its rows' lengths more?"
    with run.figure("decomposition", title, columns=3, size=(10, 3.8), sharey=True) as axes:
        for ax, (name, arm) in zip(axes, arms.items(), strict=True):
            for piece in range(4):
                points = [p for one in all_found for p in one[arm][1][12 * piece : 12 * piece + 12]]
                m, d = zip(*points, strict=True)
                color = plots.COLORS[piece]
                ax.plot(d, m, ".", color=color, label=f"{piece + 1}/4 of training", ms=5)
            theirs = PAPER[arm if isinstance(arm, str) else arm[0]]
            ax.set(title=f"{name}\n(paper: correlation {theirs:+.2f})", xlabel="turn ΔD")
        axes[0].set(ylabel="change of length ΔM")
        axes[0].legend(fontsize=8)


if __name__ == "__main__":
    cli(main)
