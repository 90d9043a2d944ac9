"""NT-Xent by enumeration, by cross-entropy and over two ranks; what it learns without labels."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week09.schedules import one_cycle
from week25.shrunk_mnist import split
from week25.simclr import (
    Augmentation,
    SimCLR,
    alignment,
    linear_probe,
    nt_xent,
    nt_xent_loops,
    row_losses,
    train,
    transform,
    uniformity,
)

ARMS = ("SimCLR", "partners shuffled", "no negatives")


def main(
    run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 200, labels: PositiveInt = 1000
) -> None:
    """Check the loss and the views, then learn from 4,000 digits without labels.

    Parameters
    ----------
    seeds
        Splits of MNIST, each with networks of its own.
    steps
        Of each training, on 64 pictures twice.
    labels
        Labels of the linear probe.
    """
    run.rounding(0.05, "some hundred steps in float32")
    check_loss(run)
    check_ranks(run)
    check_views(run)
    check_steps(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=10 * steps)
    learn(run, seeds, steps, run.budget(quick=40, default=labels))


# ---- checks


def masked_cross_entropy(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """The loss by torch: classes are views, the diagonal is impossible."""
    z, n = F.normalize(torch.cat([a, b]), dim=1), len(a)
    scores = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    return F.cross_entropy(scores, torch.arange(2 * n).roll(n))


def check_loss(run: Run) -> None:
    """Value and gradient, by F.cross_entropy and by the definition; what is known in advance."""
    a, b = torch.randn(2, 5, 4, generator=run.generator(), dtype=torch.double).requires_grad_()
    tight = {"atol": 1e-12, "why": "float64 rounding"}
    theirs = masked_cross_entropy(a, b, 0.2)
    ours = nt_xent(a, b, temperature=0.2)
    slow = nt_xent_loops(a, b, temperature=0.2)
    library = run.against("F.cross_entropy, the diagonal masked", **tight)
    library("NT-Xent", ours, theirs)
    slopes = [torch.cat(torch.autograd.grad(loss, (a, b))) for loss in (ours, theirs)]
    library("its gradient", *slopes)
    run.check("the definition, view by view", slow, theirs, against="F.cross_entropy", **tight)
    exact = run.against("a closed form", kind="theorem", **tight)
    e = torch.eye(2, dtype=torch.double)
    known = math.log(1 + 2 * math.exp(-2))
    exact("two orthogonal pairs", nt_xent(e, e, temperature=0.5), known)
    same = torch.ones(6, 3, dtype=torch.double)
    exact("six pairs that are all alike", nt_xent(same, same), math.log(11))
    exact("uniformity of two opposite points", uniformity(torch.stack([e[0], -e[0]])), -8.0)
    exact("alignment at right angles", alignment(e, e.flip(0)), 2.0)


def rank_gradients(a: Tensor, b: Tensor, *, carried: bool) -> Tensor:
    """Gradients of all views by two ranks, each with half of the pictures.

    `carried` is whether a gather brings gradients back to the rank that the views came from.
    """
    n, half = len(a), len(a) // 2
    parts = [(a[:half], b[:half]), (a[half:], b[half:])]
    total = torch.zeros(2 * n, a.shape[1], dtype=a.dtype)
    for rank in range(2):
        views = [x if carried or r == rank else x.detach() for r, p in enumerate(parts) for x in p]
        everything = torch.cat([views[0], views[2], views[1], views[3]])  # a of both, b of both
        own = torch.arange(half) + rank * half
        own, partner = torch.cat([own, own + n]), torch.cat([own + n, own])
        losses = row_losses(everything[own], everything, own, partner, temperature=0.5)
        found = torch.autograd.grad(losses.sum() / (2 * n), (a, b), retain_graph=True)
        total += torch.cat(found)
    return total


def check_ranks(run: Run) -> None:
    """Two processes with half the pictures each, against one; and a gather that loses gradients."""
    a, b = torch.randn(2, 6, 4, generator=run.generator(1), dtype=torch.double).requires_grad_()
    whole = torch.cat(torch.autograd.grad(nt_xent(a, b), (a, b)))
    why = {"kind": "consistency", "why": "float64 rounding", "atol": 1e-12}
    two = rank_gradients(a, b, carried=True)
    run.check("gradients of two ranks", two, whole, against="one process", **why)
    lost = rank_gradients(a, b, carried=False)
    run.metric("gradient lost by a plain gather", (lost - whole).norm() / whole.norm())


def check_views(run: Run) -> None:
    """Windows by torchvision's affine, quarter turns by torch.rot90."""
    x = torch.rand(4, 1, 14, 14, generator=run.generator(2))
    one, middle = torch.ones(4), torch.zeros(4, 2)
    turns = torch.arange(4) * 90.0
    reference = torch.stack([x[i].rot90(i, (1, 2)) for i in range(4)])
    why = {"atol": 1e-5, "why": "float32 rounding of pixel positions"}
    found = transform(x, one, middle, turns, one)
    run.check("quarter turns", found, reference, against="torch.rot90", **why)
    center = torch.tensor([[2 / 14, -3 / 14]]).expand(4, 2)
    window = transform(x, 0.5 * one, center, 0 * one, 2 * one)
    slow = 2 * F.interpolate(x, scale_factor=2, mode="bilinear")[:, :, 4:18, 9:23]
    run.check("a window of half the side", window, slow, against="F.interpolate", **why)


def check_steps(run: Run) -> None:
    """The first three updates by torch's AdamW and cross-entropy, on the same views."""
    x = torch.rand(12, 1, 14, 14, generator=run.generator(3)).double()
    ours = SimCLR(generator=run.generator(4)).double()
    theirs, g = copy.deepcopy(ours).train(), run.generator(5)
    optimizer, reference = torch.optim.AdamW(theirs.parameters()), []
    augment = lambda x, g: Augmentation()(x.float(), g).double()  # noqa: E731
    for step in range(3):
        optimizer.param_groups[0]["lr"] = 0.01 * one_cycle(step, steps=4)
        batch = x[torch.randint(12, (6,), generator=g)]
        views = torch.cat([augment(batch, g), augment(batch, g)])
        loss = masked_cross_entropy(*theirs(views)[1].chunk(2), 0.5)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        reference.append(loss.detach())
    g = run.generator(5)
    found = train(ours, x, augment, lr=0.01, steps=3, generator=g, batch_size=6)
    library = run.against("torch.optim.AdamW", atol=1e-8, why="float64 rounding, magnified by Adam")
    library("losses of three steps", found, torch.stack(reference))
    weights = [torch.cat([p.flatten() for p in m.parameters()]) for m in (ours, theirs)]
    library("weights after them", *weights)


# ---- learning without labels


def loss_of(arm: str):
    """NT-Xent; with partners that are views of other pictures; or alignment alone."""
    if arm == "no negatives":
        return alignment
    return (lambda a, b: nt_xent(a, b.roll(1, 0))) if arm == "partners shuffled" else nt_xent


def untrained(seed: int, x: Tensor) -> SimCLR:
    """A network whose batch normalizations have seen pictures."""
    model = SimCLR(generator=torch.Generator().manual_seed(seed)).train()
    with torch.no_grad():
        for _ in range(30):  # their averages forget a tenth per batch
            model(x)
    return model


def learn(run: Run, seeds: int, steps: int, labels: int) -> None:
    """Features before and after each kind of training, by a linear probe with few labels."""
    n, n_test = run.budget(quick=(100, 50), default=(4000, 1000), full=(40_000, 5000))
    right: dict[str, list[float]] = {arm: [] for arm in ("untrained", *ARMS)}
    spread: dict[str, list[float]] = {arm: [] for arm in right}
    falls, control = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "splits"):
        data = split(seed, n, n_test)
        for arm in right:
            if arm == "untrained":
                model = untrained(seed, data.x[:100])
            else:
                model = SimCLR(generator=torch.Generator().manual_seed(seed))
                g = torch.Generator().manual_seed(1000 + seed)
                options = {"lr": 0.01, "steps": steps, "generator": g, "loss_of": loss_of(arm)}
                losses = train(model, data.x, Augmentation(), **options)
                fallen = float(
                    losses[: steps // 10 + 1].mean() - losses[-(steps // 10 + 1) :].mean()
                )
            if arm == "SimCLR":
                falls.append(fallen)
            elif arm == "partners shuffled":
                control.append(fallen)
            (h, _), (h_test, z) = model.frozen(data.x[:labels]), model.frozen(data.x_test)
            right[arm].append(linear_probe(h, data.y[:labels], h_test, data.y_test))
            spread[arm].append(float(uniformity(z[:500])))
    late = {"quick": False, "rtol": None}
    falling = "the loss falls by half a nat"
    run.claim(falling, falls, at_least=0.5, each=True, unit="nats", **late)
    run.falsifier("partners are other pictures", control, breaks=falling)
    points = {arm: torch.tensor(values).double() for arm, values in right.items()}
    better = "without labels, features become five points better"
    seen = "the same with 100 labels for the probe, where it was 11 ± 11"
    gain = points["SimCLR"] - points["untrained"]
    run.claim(better, gain, at_least=5, unit="points", seen_before=seen, **late)
    lost = points["partners shuffled"] - points["untrained"]
    run.falsifier("partners shuffled", lost, breaks=better)
    alike = "without negatives all pictures end alike"
    where = {"unit": "log of the mean kernel", "note": "0 where all points are one"}
    run.claim(alike, spread["no negatives"], at_least=-0.2, each=True, **where, **late)
    run.falsifier("with negatives", spread["SimCLR"], breaks=alike)
    for arm, values in points.items():
        run.metric(f"right, {arm}", values.mean(), "%", rtol=None)
        run.metric(f"uniformity, {arm}", sum(spread[arm]) / seeds, rtol=None)
    draw(run, points, spread)
    show_views(run, data.x[:10])


def draw(run: Run, points: dict[str, Tensor], spread: dict[str, list[float]]) -> None:
    """Each training as points: how spread, and how useful."""
    with run.figure("spread", "Which training spreads the pictures, and is it of use?") as axes:
        for (arm, values), color in zip(points.items(), plots.COLORS, strict=False):
            axes.scatter(spread[arm], values, color=color, label=arm)
        axes.set(
            xlabel="uniformity of z, log of the mean kernel (0: all pictures alike)",
            ylabel="right by a linear probe of h, %",
        )
        axes.legend()


def show_views(run: Run, x: Tensor) -> None:
    """Pictures, and two views of each."""
    g = run.generator(6)
    rows = [x, Augmentation()(x, g), Augmentation()(x, g)]
    with run.figure("views", "Two views of each picture", 3, 10, size=(9, 3)) as axes:
        for line, views in zip(axes, rows, strict=True):
            for ax, picture in zip(line, views, strict=True):
                ax.imshow(picture[0], cmap="gray_r", vmin=0, vmax=1)
                ax.set_axis_off()
