r"""Does a head make better features, and is it the head that drops what augmentation hides?

$$ \ell_{i,j} = -\log \frac{\exp(z_i \cdot z_j / \tau)}{\sum_{k \ne i} \exp(z_i \cdot z_k / \tau)},
   \qquad z = g(h) . $$

Reduced: MNIST at 14×14 pixels and a network of 18,000 weights for ImageNet and a ResNet-50. The
rules stand in the front matter of README.md.

    uv run papers/2020-simclr/reproduce.py

Chen, Kornblith, Norouzi and Hinton (2020), "A simple framework for contrastive learning of visual
representations", section 4.2.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week25.shrunk_mnist import Split, split
from week25.simclr import Augmentation, SimCLR, linear_probe, nt_xent, train

ARMS = {"mlp": ("mlp", 4), "linear": ("linear", 4), "none": ("none", 4), "no turns": ("mlp", 1)}
ASKED = ("digits from h", "turns from h", "turns from z")


def turned(x: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Each picture turned by so many quarters, and how many."""
    quarters = torch.randint(4, (len(x),), generator=generator)
    by = torch.stack([x.rot90(k, (2, 3)) for k in range(4)])
    return by[quarters, torch.arange(len(x))], quarters


def probes(model: SimCLR, data: Split, n: int, generator: torch.Generator) -> dict[str, float]:
    """Percent right of linear probes that have seen n pictures."""
    x, x_test = data.x[:n], data.x_test
    h, h_test = (model.frozen(part)[0] for part in (x, x_test))
    found = {"digits from h": linear_probe(h, data.y[:n], h_test, data.y_test)}
    (x, y), (x_test, y_test) = turned(x, generator), turned(x_test, generator)
    seen, unseen = model.frozen(x), model.frozen(x_test)
    for name, part, part_test in zip("hz", seen, unseen, strict=True):
        found[f"turns from {name}"] = linear_probe(part, y, part_test, y_test)
    return found


def measure(arm: str, data: Split, seed: int, steps: int, n: int) -> dict[str, float]:
    """Train by NT-Xent and probe; all arms start alike and see the same pictures."""
    head, turns = ARMS[arm]
    model = SimCLR(head, generator=torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(1000 + seed)
    train(model, data.x, Augmentation(turns=turns), lr=0.01, steps=steps, generator=g)
    return probes(model, data, n, torch.Generator().manual_seed(2000 + seed))


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 150) -> None:
    """Train with each head, probe, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Splits of MNIST, each with networks of its own.
    steps
        Updates of each network, on 64 pictures twice.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "some hundred steps in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    n, n_test = run.budget(quick=(150, 60), default=(4000, 1000), full=(40_000, 5000))
    steps, probed = run.budget(quick=(3, 80), default=(steps, 1000), full=(20 * steps, 5000))
    found: dict[str, dict[str, list[float]]] = {arm: {a: [] for a in ASKED} for arm in ARMS}
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        data = split(seed, n, n_test)
        for arm in ARMS:
            for asked, value in measure(arm, data, seed, steps, probed).items():
                found[arm][asked].append(value)
    points = {(arm, a): torch.tensor(found[arm][a]).double() for arm in ARMS for a in ASKED}
    judge(run, paper, points)
    for (arm, asked), values in points.items():
        run.metric(f"{asked}, {arm}", values.mean(), "%", rtol=None)
    draw(run, points, paper.matter["paper_turns"])


def judge(run: Run, paper: papers.Paper, points: dict[tuple[str, str], Tensor]) -> None:
    """The four rules, and what must break two of them."""
    digits, h, z = ASKED
    before, hidden, head, nonlinear = list(paper.rules)
    late = {"quick": False, "rtol": None}
    paper.judge(run, before, points["mlp", h] - points["mlp", z], **late)
    run.falsifier("without a head", points["none", h] - points["none", z], breaks=before)
    paper.judge(run, hidden, points["no turns", z] - points["mlp", z], **late)
    run.falsifier("the same of h", points["no turns", h] - points["mlp", h], breaks=hidden)
    paper.judge(run, head, points["mlp", digits] - points["none", digits], **late)
    paper.judge(run, nonlinear, points["mlp", digits] - points["linear", digits], **late)


def draw(run: Run, points: dict[tuple[str, str], Tensor], theirs: dict[str, float]) -> None:
    """Turns told from h and z, by head; the paper's beside them."""
    options = {"columns": 2, "size": (9, 4), "width_ratios": (2, 1)}
    title = "By which quarter is it turned? Before the head it is still known"
    with run.figure("turns", title, **options) as axes:
        names = {"mlp": "two layers", "linear": "one layer", "none": "no head"}
        names |= {"no turns": "two layers, no turns"}
        bars = {
            f"{name}: {part}": points[arm, f"turns from {part}"]
            for arm, name in names.items()
            for part in "hz"
        }
        limits = {"xlim": (0, 100), "xlabel": "right, %"}
        colors = {"colors": (plots.BLUE, plots.ORANGE), "reference": {"chance": 25}}
        plots.bars(axes[0], bars, **colors, **limits)
        limits["xlabel"] = "the paper: right, %"
        plots.bars(axes[1], theirs, **colors, **limits)


def check(run: Run) -> None:
    """The loss by torch's cross-entropy, whatever the order of pictures; chance; turns."""
    a, b = torch.randn(2, 7, 5, generator=run.generator(), dtype=torch.double).requires_grad_()
    z = F.normalize(torch.cat([a, b]), dim=1)
    scores = (z @ z.T / 0.5).fill_diagonal_(-math.inf)
    theirs = F.cross_entropy(scores, torch.arange(14).roll(7))
    close = {"atol": 1e-12, "why": "float64 rounding"}
    library = run.against("F.cross_entropy, the diagonal masked", **close)
    library("NT-Xent", nt_xent(a, b), theirs)
    slopes = [torch.cat(torch.autograd.grad(loss, (a, b))) for loss in (nt_xent(a, b), theirs)]
    library("its gradient", *slopes)
    order = torch.randperm(7, generator=run.generator(1))
    same = {"against": "another order of pictures", "kind": "theorem"}
    run.check("NT-Xent of pairs", nt_xent(a[order], b[order]), nt_xent(a, b), **same, **close)
    one = torch.ones(9, 4, dtype=torch.double)
    run.check("all alike", nt_xent(one, one), math.log(17), against="log(2N - 1)", **close)


if __name__ == "__main__":
    cli(main)
