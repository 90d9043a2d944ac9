"""Are the minima of large batches sharper, and is there a wall between two minima?"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import Run
from week09 import lanczos
from week09.loss_landscape import line, losses_at, mean_rise
from week09.vector_networks import cross_entropy_of, descend, flatten, parameters, unflatten

TARGET = 0.05  # nats: small and large batches are compared at this training loss, both
RISE_RADIUS = 0.5  # of the filters' own lengths
ARMS = {  # batch, learning rate
    "batch 16": (16, 0.1),
    "batch 512": (512, 0.1),
    "batch 512, rate × 8": (512, 0.8),
}
MEASURES = ("largest eigenvalue", "trace", "filter-normalized rise")
COLORS = (plots.BLUE, plots.ORANGE, plots.GREEN)


class Split(NamedTuple):
    """Digits, standardized by the training part: 1200 to train on, 597 to test."""

    x: Tensor
    y: Tensor
    x_test: Tensor
    y_test: Tensor


def digits_split() -> Split:
    """Shuffle and split the digits, always in the same way."""
    images, labels = datasets.digits()
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 64), dtype=torch.float32)
    y = torch.tensor(labels[order])
    x = (x - x[:1200].mean()) / x[:1200].std()
    return Split(x[:1200], y[:1200], x[1200:], y[1200:])


def mlp() -> nn.Sequential:
    """One hidden layer of 24 ReLU units."""
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def starts_of(model: nn.Sequential, n: int, seed: int) -> Tensor:
    """Weights (n, p) drawn as torch draws them."""
    torch.manual_seed(seed)
    vectors = []
    for _ in range(n):
        for layer in (model[0], model[2]):
            layer.reset_parameters()
        vectors.append(flatten(parameters(model)))
    return torch.stack(vectors)


def last(steps: Iterator[Tensor]) -> Tensor:
    """The weights after the last step of training."""
    (theta,) = deque(steps, maxlen=1)
    return theta


@torch.no_grad()
def error_rate(model: nn.Module, vector: Tensor, x: Tensor, y: Tensor) -> float:
    """Share of wrong answers."""
    scores = torch.func.functional_call(model, unflatten(vector, parameters(model)), (x,))
    return float((scores.argmax(1) != y).double().mean())


def until_target(model: nn.Module, starts: Tensor, data: Split, run: Run, **options) -> Tensor:
    """Each network at the first step (of every tenth) at which its loss is at most TARGET."""
    steps, loss = run.budget(quick=20, default=6000), cross_entropy_of(model, data.x, data.y)
    found: dict[int, Tensor] = {}
    options |= {"steps": steps, "generator": run.generator(30)}
    for step, theta in enumerate(descend(model, starts, data.x, data.y, **options), 1):
        if step % 10 and step < steps:
            continue
        for i, value in enumerate(losses_at(loss, theta)):
            if i not in found and (value <= TARGET or step == steps):
                found[i] = theta[i].clone()
        if len(found) == len(starts):
            break
    return torch.stack([found[i] for i in range(len(starts))])


def sharpness(run: Run, model: nn.Module, theta: Tensor, data: Split) -> dict[str, np.ndarray]:
    """Three measures and the test error of each network; the same probes for every arm."""
    loss = cross_entropy_of(model, data.x, data.y)
    operator, generator = lanczos.hessian_operator(loss, theta), run.generator(50)
    start = torch.randn(theta.shape, generator=generator)
    values, _ = lanczos.ritz(operator, start, run.budget(quick=8, default=25))
    probes = [
        lanczos.random_signs(*theta.shape, generator).float()
        for _ in range(run.budget(quick=4, default=40))
    ]
    like, options = parameters(model), {"radius": RISE_RADIUS, "n": len(probes)}
    rises = [
        mean_rise(loss, unflatten(t, like), run.generator(60 + i), **options)
        for i, t in enumerate(theta)
    ]
    wrong = [100 * error_rate(model, t, data.x_test, data.y_test) for t in theta]
    return {
        "largest eigenvalue": values[:, -1].numpy(),
        "trace": torch.stack([lanczos.hutchinson_trace(operator, v) for v in probes])
        .mean(0)
        .numpy(),
        "filter-normalized rise": np.array(rises),
        "test error": np.array(wrong),
        "loss": losses_at(loss, theta).numpy(),
    }


def batch_sizes(run: Run, data: Split, seeds: int) -> None:
    """Keskar et al.'s question at equal training loss, and the line between two minima.

    Sharper means that the interval of the mean log ratio, large over small batch, lies above 0.
    """
    model = mlp()
    starts = starts_of(model, seeds, run.seed + 40)
    minima = {
        arm: until_target(model, starts, data, run, lr=lr, batch=batch)
        for arm, (batch, lr) in ARMS.items()
    }
    table = {arm: sharpness(run, model, theta, data) for arm, theta in minima.items()}
    small, large, scaled = table.values()
    for arm, row in table.items():
        run.metric(f"largest eigenvalue, {arm}", row["largest eigenvalue"].mean())
    losses = np.concatenate([row["loss"] for row in table.values()])
    name = "all are compared at the same training loss"
    run.claim(name, losses, at_most=TARGET, each=True, quick=False, unit="nats")
    for label, other in (("sharper minima", large), ("sharper minima at rate × 8 too", scaled)):
        for measure in MEASURES:
            ratio = np.log(np.maximum(other[measure] / small[measure], 1e-9))
            name = f"large batches find {label}: log ratio of the {measure}"
            run.claim(name, ratio, at_least=0, quick=False, rtol=0.05)
    name = "large batches generalize worse: test error, batch 512 minus batch 16"
    gap, options = large["test error"] - small["test error"], {"unit": "points", "quick": False}
    run.claim(name, gap, at_least=0, rtol=0.2, **options)
    control(run, data, starts_of(model, run.budget(quick=2, default=8), run.seed + 70))
    draw_batches(run, table)
    interpolate(run, data, model, minima["batch 16"], minima["batch 512"])


def control(run: Run, data: Split, starts: Tensor) -> None:
    """Training with the labels shuffled: the same code, no signal, no generalization."""
    model = mlp()
    options = {"lr": 0.1, "batch": 16, "steps": run.budget(quick=20, default=1000)}

    def train(k: int, labels: Tensor) -> tuple[float, float]:
        loss, generator = cross_entropy_of(model, data.x, labels), run.generator(71)
        start = starts[k : k + 1]
        theta = last(descend(model, start, data.x, labels, generator=generator, **options))[0]
        fallen = float(loss(theta) / loss(start[0]))
        return fallen, error_rate(model, theta, data.x_test, data.y_test)

    shuffles = [torch.randperm(len(data.y), generator=run.generator(k)) for k in range(len(starts))]
    fallen, wrong = zip(*(train(k, data.y) for k in range(len(starts))), strict=True)
    _, wrong_shuffled = zip(*(train(k, data.y[p]) for k, p in enumerate(shuffles)), strict=True)
    name = "it trains: loss after, of the loss before"
    run.claim(name, fallen, at_most=0.2, quick=False)
    name = "it generalizes: share of wrong test digits"
    run.claim(name, wrong, at_most=0.12, quick=False, rtol=0.1)
    run.falsifier("labels shuffled", wrong_shuffled, breaks=name)


def draw_batches(run: Run, table: dict) -> None:
    """Each seed a gray line over the three arms, with intervals beside."""
    title = f"Are the minima of large batches sharper? At training loss {TARGET} nats"
    with run.figure("batches", title, columns=4, size=(9.6, 4.0)) as axes:
        for panel, measure in zip(axes, (*MEASURES, "test error"), strict=True):
            rows = {arm: found[measure] for arm, found in table.items()}
            panel.plot(range(3), np.stack(list(rows.values())), color=plots.GRAY, lw=0.7, alpha=0.5)
            for k, (values, color) in enumerate(zip(rows.values(), COLORS, strict=True)):
                panel.plot([k] * len(values), values, "o", color=color, ms=4, alpha=0.6)
                panel.plot(k + 0.2, values.mean(), "D", color=color, ms=6)
            panel.set_xticks(range(3), ["16", "512", "512\nrate × 8"], fontsize=9)
            panel.set_title(measure + " (%)" * (measure == "test error"), fontsize=10.5)
            panel.set(xlabel="batch", ylim=(0, None))


def interpolate(run: Run, data: Split, model: nn.Module, small: Tensor, large: Tensor) -> None:
    """The line between a small batch's minimum and a large one's, from one start or from two."""
    ts = torch.linspace(-0.5, 1.5, run.budget(quick=9, default=61))
    pairs = {"From the same start": large, "From different starts": large.roll(1, 0)}
    losses = {
        "training": cross_entropy_of(model, data.x, data.y),
        "test": cross_entropy_of(model, data.x_test, data.y_test),
    }
    curves = {
        pair: {
            f"{name} loss": torch.stack(
                [line(loss, a, b - a, ts) for a, b in zip(small, ends, strict=True)]
            )
            for name, loss in losses.items()
        }
        for pair, ends in pairs.items()
    }
    between = (ts >= 0) & (ts <= 1)
    walls = {p: c["training loss"][:, between].max(1).values - TARGET for p, c in curves.items()}
    options = {"unit": "nats", "quick": False, "seen_before": "a mean height of 0.4 nats"}
    name = "between minima of other starts there is a wall: its height"
    run.claim(name, walls["From different starts"], at_least=0.1, **options)
    run.falsifier("the same start", walls["From the same start"], breaks=name)
    title = "Is there a wall between the two minima?"
    with run.figure("interpolation", title, columns=2, size=(9.0, 4.0), sharey=True) as axes:
        for panel, (pair, found) in zip(axes, curves.items(), strict=True):
            labels = {"xlabel": "from batch 16 (at 0) to batch 512 (at 1)", "yscale": "log"}
            plots.curves(panel, ts.numpy(), found, ends=False, **labels)
            panel.set_title(pair, fontsize=11, weight="normal")
        axes[0].set_ylabel("loss (nats), mean and range")
