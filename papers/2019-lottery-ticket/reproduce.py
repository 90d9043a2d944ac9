r"""Does a dense net hold a small one that had won before training, by its first weights?

Train, prune each layer by magnitude, set what stays back to the first weights $\theta_0$, repeat:

$$ m_k = \text{largest of } |m_{k-1} \odot \theta_k|, \qquad \text{ticket: } m_k \odot \theta_0 . $$

Reduced: the paper's net of 300 and 100 units on small digits instead of MNIST. The rules stand in
the front matter of README.md.

    uv run papers/2019-lottery-ticket/reproduce.py

Frankle and Carbin (2019), "The lottery ticket hypothesis", section 2.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week27.digit_students import Split, split
from week27.pruning import keep_largest, to_prune

SIZES, BATCH, LR = (64, 300, 100, 10), 60, 1.2e-3
SHARES = (0.2, 0.2, 0.1)  # of what is left in each layer, per round
FIFTH, THIRTIETH = 7, 15  # rounds: 0.8⁷ = 21 %, 0.8¹⁵ = 3.5 % of the hidden layers' weights

Weights = list[tuple[Tensor, Tensor]]  # a matrix and a bias per layer


def first_weights(seed: int) -> Weights:
    """Matrices by Glorot's normal law, biases at zero."""
    g = torch.Generator().manual_seed(seed)
    matrices = [torch.empty(b, a) for a, b in itertools.pairwise(SIZES)]
    for matrix in matrices:
        nn.init.xavier_normal_(matrix, generator=g)
    return [(matrix, torch.zeros(len(matrix))) for matrix in matrices]


def forward(weights: Weights, x: Tensor) -> Tensor:
    """Logits."""
    for matrix, bias in weights[:-1]:
        x = F.linear(x, matrix, bias).relu()
    return F.linear(x, *weights[-1])


def train(
    start: Weights, masks: list[Tensor], data: Split, steps: int, seed: int
) -> tuple[Weights, list[float]]:
    """Weights after `steps` of Adam, zero outside the masks; test accuracy at a tenth, at the end.

    The gradient is masked as well as the weights: Adam would move a zero by its momentum.
    """
    g = torch.Generator().manual_seed(seed)
    weights = [
        ((w * m).requires_grad_(), b.clone().requires_grad_())
        for (w, b), m in zip(start, masks, strict=True)
    ]
    optimizer = torch.optim.Adam([p for pair in weights for p in pair], lr=LR, fused=True)
    found = []
    for step in range(1, steps + 1):
        i = torch.randint(len(data.x), (BATCH,), generator=g)
        optimizer.zero_grad()
        F.cross_entropy(forward(weights, data.x[i]), data.y[i]).backward()
        for (w, _), m in zip(weights, masks, strict=True):
            w.grad *= m
        optimizer.step()
        if step in (max(1, steps // 10), steps):
            with torch.no_grad():
                right = forward(weights, data.x_test).argmax(1) == data.y_test
            found.append(100 * right.double().mean().item())
    return [(w.detach(), b.detach()) for w, b in weights], found


def smaller(masks: list[Tensor], weights: Weights) -> list[Tensor]:
    """Of the weights that are left in each layer, the smallest share goes."""
    found = []
    for m, (w, _), share in zip(masks, weights, SHARES, strict=True):
        left = int(m.sum())
        scores = torch.where(m, w.abs(), -1.0).flatten()  # what went is below what stays
        found.append(keep_largest(scores, left - to_prune(share, left)).view_as(m))
    return found


def tickets(data: Split, seed: int, rounds: int, steps: int, at: tuple[int, ...]) -> dict:
    """Accuracies by round: of tickets in all, of their rivals in some."""
    start, batches = first_weights(seed), 500 + seed
    masks = [torch.ones_like(w, dtype=torch.bool) for w, _ in start]
    found: dict = {"ticket": {}, "new weights": {}, "random mask": {}, "left": {}}
    for k in range(rounds + 1):
        trained, accuracies = train(start, masks, data, steps, batches)
        found["ticket"][k] = accuracies
        found["left"][k] = 100 * sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)
        if k in at:
            other = first_weights(10_000 + seed)
            found["new weights"][k] = train(other, masks, data, steps, batches)[1]
            g = torch.Generator().manual_seed(20_000 + seed)
            mixed = [m.flatten()[torch.randperm(m.numel(), generator=g)].view_as(m) for m in masks]
            found["random mask"][k] = train(start, mixed, data, steps, batches)[1]
        masks = smaller(masks, trained)
    return found


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 300) -> None:
    """Find tickets and rivals, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Nets, each with its own split of the digits.
    steps
        Of each training.
    """
    paper = papers.load(__file__)
    run.rounding(0.02, "float32 sums in another order, over some hundred steps")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=15, default=steps, full=3 * steps)
    fifth, last = run.budget(quick=(1, 2), default=(FIFTH, THIRTIETH))
    at = run.budget(quick=(1, 2), default=(3, FIFTH, THIRTIETH))
    found = []
    with threadpool_limits(1):  # products this small are slower on several threads
        for seed in run.progress(range(run.seed, run.seed + seeds), "nets"):
            data = split(seed, paper.matter["rows"])
            found.append(tickets(data, seed, last, steps, at))

    def gains(name: str, k: int, other: str, round_of_other: int, when: int = -1) -> np.ndarray:
        return np.array([f[name][k][when] - f[other][round_of_other][when] for f in found])

    late = {"quick": False, "rtol": None}
    names = list(paper.rules)
    paper.judge(run, names[0], gains("ticket", fifth, "ticket", 0), **late)
    paper.judge(run, names[1], gains("ticket", fifth, "new weights", fifth), **late)
    paper.judge(run, names[2], gains("ticket", last, "new weights", last), **late)
    paper.judge(run, names[3], gains("ticket", fifth, "ticket", 0, when=0), **late)
    spoiled = gains("random mask", last, "new weights", last)
    run.falsifier("a mask in random order", spoiled, breaks=names[2])
    for name in ("ticket", "new weights", "random mask"):
        value = np.mean([f[name][last][-1] for f in found])
        run.metric(f"accuracy at a thirtieth, {name}", value, "%", rtol=None)
    dense = float(np.mean([f["ticket"][0][-1] for f in found]))
    run.metric("accuracy of the dense net", dense, "%", rtol=None)
    run.metric("weights left at the end", found[0]["left"][last], "%", rtol=0)
    title = "Does a small net need the first weights that it was found with?"
    with run.figure("tickets", title) as axes:
        names = ("ticket", "new weights", "random mask")
        x = {name: [found[0]["left"][k] for k in found[0][name]] for name in names}
        lines = {n: [[f[n][k][-1] for k in f[n]] for f in found] for n in names}
        labels = {"xlabel": "weights left (%)", "ylabel": "test accuracy (%)", "xscale": "log"}
        options = {"marker": "o", "reference": {"dense net": dense}, "ends": False}
        plots.curves(axes, x, lines, **options, **labels)
        axes.set_xticks([100, 50, 20, 10, 5], ["100", "50", "20", "10", "5"])
        axes.minorticks_off()
        axes.invert_xaxis()


def check(run: Run) -> None:
    """Three rounds of masks against torch's pruning, which prunes what is left of what is left."""
    from torch.nn.utils import prune

    weights, ours = first_weights(1), None
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(SIZES)]
    for layer, (w, _) in zip(layers, weights, strict=True):
        layer.weight.data = w.clone()
    ours = [torch.ones_like(w, dtype=torch.bool) for w, _ in weights]
    for _ in range(3):
        ours = smaller(ours, weights)
        for layer, share in zip(layers, SHARES, strict=True):
            prune.l1_unstructured(layer, "weight", amount=share)
    theirs = torch.cat([layer.weight_mask.flatten().bool() for layer in layers])
    flat = torch.cat([m.flatten() for m in ours])
    same = {"against": "torch.nn.utils.prune, three times", "why": "booleans"}
    run.check("masks after three rounds", flat, theirs, **same)
    data = split(0, 50)
    trained, _ = train(weights, ours, data, 3, 0)
    outside = torch.cat([w[~m] for (w, _), m in zip(trained, ours, strict=True)])
    kind = {"against": "zero", "kind": "theorem", "why": "masked gradients"}
    run.check(
        "weights that are gone, after three steps", outside, torch.zeros(len(outside)), **kind
    )


if __name__ == "__main__":
    cli(main)
