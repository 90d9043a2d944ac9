r"""Is a rank of one enough?

A frozen matrix $W_0$ learns the change $\frac{\alpha}{r} B A$ of rank $r$. The paper finds that
for GPT-3 a rank as small as one is enough where queries and values are adapted, and that queries
alone need more. A tiny vision transformer that has seen upright digits learns turned ones, at ranks
from 1 to 64, which for its matrices of 64×64 is full rank. The rules stand in README.md's front
matter.

    uv run papers/2021-lora/reproduce.py

Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang & Chen (2021), "LoRA: Low-rank adaptation of large
language models", section 7.2 and table 6.
"""

import copy
import statistics

import torch
from torch import nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week20.lora import LoRAConfig, adapter_state, adapters, inject, merge, trainable
from week20.peft_twin import with_peft
from week20.tiny_vit import ViT, accuracy, splits, train

TARGETS = {"queries": ("q_proj",), "queries and values": ("q_proj", "v_proj")}
QUERIES, BOTH = TARGETS
# WikiSQL accuracy (%) of GPT-3 at ranks 1, 2, 4, 8 and 64: the paper's table 6
PAPER = {QUERIES: (68.8, 69.6, 70.5, 70.4, 70.0), BOTH: (73.4, 73.3, 73.7, 73.8, 73.5)}


def check(run: Run) -> None:
    """Before anything is learned: start, merging, and peft on a base of this size."""
    base, images = ViT(run.generator(1)), torch.rand(5, 8, 8, generator=run.generator(2))
    config = LoRAConfig(4, 8, targets=TARGETS[BOTH])
    ours = inject(copy.deepcopy(base), config, run.generator(3))
    same = {"atol": 1e-5, "rtol": 1e-5, "why": "float32 rounding"}
    start = {"against": "the base: B is zero", "kind": "theorem", **same}
    run.check("outputs before training", ours(images), base(images), **start)
    with torch.no_grad():
        for _, layer in adapters(ours):
            layer.B.copy_(torch.randn(layer.B.shape, generator=run.generator(4)) / 4)
    theirs = with_peft(ours, base, config)
    run.check("outputs, rank 4", ours(images), theirs(images), against="peft.LoraConfig", **same)
    before, size = ours(images), sum(p.numel() for p in adapter_state(ours).values())
    exact = {"against": "2 matrices in 2 layers, r (64 + 64) each", "kind": "theorem"}
    run.check("numbers trained", size, 2 * 2 * 4 * 128, why="a count", **exact)
    run.check("outputs after merging", merge(ours)(images), before, against="unmerged", **same)


class Bases:
    """A classifier of upright digits, and what becomes of it; accuracies in percent."""

    def __init__(self, run: Run, seed: int, steps: tuple[int, int]):
        self.steps, self.seed = steps[1], run.seed + seed
        upright, self.spun = splits(self.generator(10))
        self.random = ViT(self.generator(20))
        options = {"steps": steps[0], "lr": 3e-3, "generator": self.generator(30)}
        self.base = train(copy.deepcopy(self.random), upright, **options)
        self.upright = 100 * accuracy(self.base, upright)
        self.frozen = 100 * accuracy(self.base, self.spun)

    def generator(self, offset: int) -> torch.Generator:
        """The same chances for all that is done with one base."""
        return torch.Generator().manual_seed(1000 * self.seed + offset)

    def learned(self, model: nn.Module, lr: float) -> float:
        """Train what is not frozen on turned digits."""
        options = {"steps": self.steps, "lr": lr, "generator": self.generator(40)}
        return 100 * accuracy(train(model, self.spun, **options), self.spun)

    def corrected(self, arm: str, r: int, lr: float, *, random: bool = False) -> float:
        """Corrections of rank r, α = r."""
        model = copy.deepcopy(self.random if random else self.base)
        config = LoRAConfig(r, r, targets=TARGETS[arm])
        return self.learned(inject(model, config, self.generator(50)), lr)

    def plain(self, part: str, lr: float) -> float:
        """All weights, or those of the head."""
        model = copy.deepcopy(self.base).requires_grad_(False)
        (model if part == "full" else model.head).requires_grad_(True)
        return self.learned(model, lr)


def tuned(bases: Bases, ranks: list[int], rates: dict[str, list[float]]) -> dict:
    """The best rate of each arm, on a base that judges nothing."""
    plain = {
        part: max(rates[part], key=lambda lr: bases.plain(part, lr)) for part in ("full", "head")
    }
    return plain | {
        (arm, r): max(rates["lora"], key=lambda lr: bases.corrected(arm, r, lr))
        for arm in TARGETS
        for r in ranks
    }


def one_seed(bases: Bases, ranks: list[int], lr: dict) -> dict:
    """Every arm on one base."""
    found = {"upright": bases.upright, "frozen": bases.frozen}
    found |= {part: bases.plain(part, lr[part]) for part in ("full", "head")}
    for arm in TARGETS:
        found[arm] = {r: bases.corrected(arm, r, lr[arm, r]) for r in ranks}
    return found | {"random": bases.corrected(BOTH, 1, lr[BOTH, 1], random=True)}


def lacks(one: dict, arm: str) -> float:
    """What rank 1 lacks to rank 64, in percentage points."""
    return one[arm][64] - one[arm][1]


def share(one: dict, reached: float) -> float:
    """Of the gain that training everything brings over the frozen base."""
    gain = one["full"] - one["frozen"]
    return (reached - one["frozen"]) / gain if gain else 0.0  # after two steps there may be none


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Adapt a digit classifier to turned digits at ranks from 1 to 64.

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
    ranks = run.budget(quick=[1, 64], default=paper.matter["ranks"])
    steps = run.budget(quick=(8, 2), default=(300, 100))
    rates = paper.matter["rates"]
    if run.mode == "quick":
        rates = {name: grid[1:2] for name, grid in rates.items()}
    lr = tuned(Bases(run, 100, steps), ranks, rates)
    for arm, rate in lr.items():
        name = arm if isinstance(arm, str) else f"{arm[0]}, rank {arm[1]}"
        run.metric(f"learning rate, {name}", rate, rtol=0)
    places = run.progress(range(seeds), "bases")
    all_found = [one_seed(Bases(run, seed, steps), ranks, lr) for seed in places]

    late = {"quick": False, "rtol": None}
    enough = "rank one does what rank 64 does, queries and values"
    paper.judge(run, enough, [-lacks(one, BOTH) for one in all_found], **late)
    recovers = "rank one recovers the gain of training everything"
    gained = [share(one, one[BOTH][1]) for one in all_found]
    paper.judge(run, recovers, gained, **late)
    alone = "queries alone lack more at rank one"
    paper.judge(run, alone, [lacks(one, QUERIES) - lacks(one, BOTH) for one in all_found], **late)
    without = [share(one, one["random"]) for one in all_found]
    run.falsifier("a base of random weights", without, breaks=recovers)
    for name in ("upright", "frozen", "head", "full", "random"):
        mean = statistics.mean(one[name] for one in all_found)
        run.metric(f"accuracy, {name}", mean, "%", rtol=None)
    for name in TARGETS:
        for r in all_found[0][name]:
            mean = statistics.mean(one[name][r] for one in all_found)
            run.metric(f"accuracy, {name}, rank {r}", mean, "%", rtol=None)
    model = inject(ViT(), LoRAConfig(1, targets=TARGETS[BOTH]))
    run.metric("share trained at rank 1", trainable(model)[0] / trainable(model)[1], rtol=0)
    draw(run, all_found)


def draw(run: Run, all_found: list[dict]) -> None:
    """Our accuracies beside the paper's, each on its own axis."""
    title = "Does a higher rank help? Ours and the paper's"
    with run.figure("ranks", title, columns=2, size=(9, 4.2)) as axes:
        ranks = list(all_found[0][BOTH])
        lines = {name: [list(one[name].values()) for one in all_found] for name in TARGETS}
        level = {
            "everything trained": statistics.mean(one["full"] for one in all_found),
            "frozen": statistics.mean(one["frozen"] for one in all_found),
        }
        labels = {"xlabel": "rank", "ylabel": "accuracy on turned digits (%)"}
        options = {"marker": "o", "ends": False, "xscale": "log"}
        plots.curves(axes[0], ranks, lines, reference=level, **labels, **options)
        axes[0].set(title="tiny ViT")
        theirs = {"xlabel": "rank", "ylabel": "accuracy on WikiSQL (%)", "title": "GPT-3 175B"}
        plots.curves(axes[1], [1, 2, 4, 8, 64], PAPER, **theirs, **options)
        for ax in axes:
            ax.set_xticks([1, 2, 4, 8, 64], ["1", "2", "4", "8", "64"])
            ax.minorticks_off()


if __name__ == "__main__":
    cli(main)
