"""Checks, claims and figures of loss_landscape."""

import math
from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared import datasets, plots
from shared.stats import Interval, mean_interval
from shared.study import PositiveInt, Run
from week09 import lanczos
from week09.loss_landscape import (
    DeepNet,
    cross_entropy_of,
    descend,
    flatten,
    line,
    losses_at,
    mean_rise,
    parameters,
    plane,
    principal_directions,
    random_direction,
    rescale,
    unflatten,
)

TARGET = 0.05  # nats: small and large batches are compared at this training loss, both
RISE_RADIUS = 0.5  # of the filters' own lengths
ARMS = {  # batch, learning rate
    "batch 16": (16, 0.1),
    "batch 512": (512, 0.1),
    "batch 512, rate × 8": (512, 0.8),
}
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


def starts_of(model: nn.Module, n: int, seed: int) -> Tensor:
    """Weights (n, p) drawn as torch draws them."""
    torch.manual_seed(seed)
    vectors = []
    for _ in range(n):
        for layer in model:
            if hasattr(layer, "reset_parameters"):
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


# ---- checks


def check_curvature(run: Run, data: Split) -> None:
    """Every tool against the exact Hessian of a net small enough to write it down."""
    n = run.budget(quick=100, default=300)
    x = F.avg_pool2d(data.x[:n].view(-1, 1, 8, 8), 2).flatten(1).double()
    y = data.y[:n]
    model = DeepNet(4, 8, skip=True, n_inputs=16).double()
    start = model.initialize(run.generator())[None]
    (theta,) = last(descend(model, start, x, y, lr=0.01, batch=50,
                            steps=run.budget(quick=40, default=200),
                            generator=run.generator(1), optimizer="adam"))  # fmt: skip
    loss = cross_entropy_of(model, x, y)
    exact = torch.func.hessian(loss)(theta)
    p = len(theta)
    eigenvalues = torch.linalg.eigvalsh(exact)
    run.metric("weights of the small net", p, rtol=0)
    generator = run.generator(2)
    v = torch.randn(4, p, generator=generator, dtype=torch.float64)
    four = lanczos.hessian_operator(loss, theta.expand(4, -1))
    run.check("Hessian–vector products", four(v), v @ exact,
              against="torch.func.hessian", atol=1e-10, why="float64 rounding")  # fmt: skip

    values, weights = lanczos.ritz(four, v, 60)
    run.check("extreme eigenvalues after 60 Lanczos steps",
              values[:, [0, -1]], eigenvalues[[0, -1]].expand(4, 2),
              against="torch.linalg.eigvalsh of the exact Hessian", atol=1e-8,
              why="converged: the ends of a spectrum are found first")  # fmt: skip
    top, _ = lanczos.power_iteration(four, v)
    run.check("largest eigenvalue by power iteration",
              top, eigenvalues[eigenvalues.abs().argmax()].expand(4),
              against="torch.linalg.eigvalsh of the exact Hessian", rtol=1e-7,
              why="stopped when the value changes by less than 1e-10")  # fmt: skip

    few, share = lanczos.ritz(four, v, 5)
    unit, powers = v / v.norm(dim=1, keepdim=True), []
    image = unit
    for _ in range(10):  # degrees 0 to 9 = 2 · 5 - 1
        powers.append((unit * image).sum(1))
        image = image @ exact
    run.check("five nodes integrate polynomials of degree 0 to 9",
              torch.stack([(share * few**k).sum(1) for k in range(10)]), torch.stack(powers),
              against="vᵀHᵏv with the exact Hessian", rtol=1e-9,
              why="Gauss quadrature is exact up to degree 2 · 5 - 1")  # fmt: skip

    n_probes = run.budget(quick=50, default=400)
    many = lanczos.hessian_operator(loss, theta.expand(n_probes, -1))
    estimates = lanczos.hutchinson_trace(many, lanczos.random_signs(n_probes, p, generator))
    error = float(estimates.std() / math.sqrt(n_probes))
    run.check(f"trace by Hutchinson, {n_probes} probes", estimates.mean(), exact.trace(),
              against="trace of the exact Hessian", atol=4 * error,
              why="four standard errors of the mean")  # fmt: skip

    # Over all p unit vectors the mean of eᵀf(H)e is the trace of f(H) over p: nothing is random.
    grid = torch.linspace(-0.5, float(eigenvalues[-1]) * 1.1, 400, dtype=torch.float64)
    width = float(eigenvalues[-1]) / run.budget(quick=5, default=50)
    each = lanczos.hessian_operator(loss, theta.expand(p, -1))
    all_values, all_weights = lanczos.ritz(
        each, torch.eye(p, dtype=torch.float64), run.budget(quick=16, default=40)
    )
    ones = torch.full((1, p), 1 / p, dtype=torch.float64)
    true_density = lanczos.spectral_density(eigenvalues[None], ones, grid, width)
    run.check("density of eigenvalues, every unit vector a probe",
              lanczos.spectral_density(all_values, all_weights, grid, width), true_density,
              against="Gaussians at torch.linalg.eigvalsh", atol=1e-6,
              why="the nodes of a probe integrate a Gaussian of this width")  # fmt: skip
    probes = 10
    values, weights = lanczos.ritz(
        lanczos.hessian_operator(loss, theta.expand(probes, -1)),
        lanczos.random_signs(probes, p, generator), 40)  # fmt: skip
    _draw_spectrum(run, eigenvalues, values, weights, probes)

    alphas = torch.linspace(-1, 1, 5, dtype=torch.float64)
    like = parameters(model)
    params = unflatten(theta, like)
    directions = torch.stack([random_direction(params, generator) for _ in range(2)])
    drawn, copy, slow = plane(loss, theta, directions, alphas, alphas), DeepNet(
        4, 8, skip=True, n_inputs=16).double(), []  # fmt: skip
    for a in alphas:
        for b in alphas:
            copy.load_state_dict(unflatten(theta + a * directions[0] + b * directions[1], like))
            slow.append(nn.CrossEntropyLoss()(copy(x), y))
    run.check("losses on a plane, all at once", drawn.flatten(), torch.stack(slow),
              against="torch.nn.Module, one network at a time", rtol=1e-12,
              why="float64 rounding")  # fmt: skip
    lengths = unflatten(directions[0], like)["first.weight"].norm(dim=1)
    run.check("filters of a direction are as long as the network's", lengths,
              params["first.weight"].norm(dim=1), against="torch.linalg.norm, row by row",
              rtol=1e-12, why="float64 rounding")  # fmt: skip


def _draw_spectrum(run: Run, eigenvalues, values, weights, probes: int) -> None:
    top = float(eigenvalues[-1])
    grid = torch.linspace(-0.1 * top, 1.12 * top, 1500, dtype=torch.float64)
    width = top / 120
    density = lanczos.spectral_density(values, weights, grid, width)
    ones = torch.full((1, len(eigenvalues)), 1 / len(eigenvalues), dtype=torch.float64)
    exact = lanczos.spectral_density(eigenvalues[None], ones, grid, width)
    outliers = int((eigenvalues > 0.1 * top).sum())
    run.metric("eigenvalues above a tenth of the largest", outliers, rtol=0.3)
    run.metric("smallest eigenvalue over the largest", eigenvalues[0] / top, rtol=0.3)
    with run.figure("spectrum", f"{probes} probes of 40 products see the spectrum of the Hessian",
                    size=(8.3, 4.2)) as axes:  # fmt: skip
        axes.fill_between(grid, exact, 1e-5, color=plots.SKY, alpha=0.45, lw=0,
                          label=f"exact: all {len(eigenvalues)} eigenvalues")  # fmt: skip
        axes.plot(grid, density, color=plots.ORANGE, lw=1.6,
                  label=f"Lanczos quadrature, {probes} random probes of 40 products")  # fmt: skip
        axes.plot(eigenvalues, np.full(len(eigenvalues), 1.6e-4), "|", color=plots.REFERENCE, ms=9)
        axes.set(yscale="log", ylim=(1e-4, 3 * float(exact.max())), xlim=(grid[0], grid[-1]),
                 xlabel="eigenvalue of the Hessian (nats per squared unit of weight)",
                 ylabel="density")  # fmt: skip
        axes.legend(loc="upper right")


# ---- the failure on display: directions that were not normalized


def same_function_another_picture(run: Run, data: Split) -> None:
    """One layer times 10, the next divided by 10."""
    model = mlp()
    start = starts_of(model, 1, run.seed + 10)
    (theta,) = last(descend(model, start, data.x, data.y, lr=0.1, batch=32,
                            steps=run.budget(quick=60, default=800),
                            generator=run.generator(3)))  # fmt: skip
    model, theta = model.double(), theta.double()
    x = data.x.double()
    loss = cross_entropy_of(model, x, data.y)
    params = unflatten(theta, parameters(model))
    twin = rescale(params, "0", "2", 10.0)
    out = [torch.func.functional_call(model, each, (x,)) for each in (params, twin)]
    run.check("the rescaled twin is the same function", out[1], out[0],
              against="the network before", atol=1e-10, why="float64 rounding")  # fmt: skip
    n = run.budget(quick=21, default=81)
    alphas = torch.linspace(-1, 1, n, dtype=torch.float64)
    curves = {}
    for how, reach in (("none", 6.0), ("filter", 1.0)):
        for name, weights in (("network", params), ("twin", twin)):
            curves[how, name] = torch.stack([
                line(loss, flatten(weights), random_direction(weights, run.generator(20 + k), how),
                     reach * alphas)
                for k in range(5)
            ])  # fmt: skip
    run.check("filter-normalized slices of both", curves["filter", "twin"],
              curves["filter", "network"], against="invariance of ReLU networks to scale",
              rtol=1e-9, why="float64 rounding")  # fmt: skip
    center = n // 2
    at_rest = float(loss(theta))
    rise = {name: float(curves["none", name][:, center + n // 12].mean()) - at_rest
            for name in ("network", "twin")}  # fmt: skip
    ratio = rise["twin"] / rise["network"]
    run.metric("rise of the twin over the network's, not normalized", ratio, "×", rtol=0.2)
    run.claim("without normalization the same function looks many times sharper", ratio > 5,
              f"at distance {6 * float(alphas[center + n // 12]):.1f} the loss rises {ratio:.0f} "
              "times as much, mean of 5 directions; at least 5 asked for", quick=False)  # fmt: skip
    with run.figure("rescaled", "One function, two sharpnesses: which picture is right?",
                    columns=2, size=(9.2, 4.2)) as axes:  # fmt: skip
        for ax, how, reach in zip(axes, ("none", "filter"), (6.0, 1.0), strict=True):
            styles = (("network", plots.BLUE, 3.2, "-"), ("twin", plots.ORANGE, 1.5, "--"))
            for name, color, lw, ls in styles:
                for k, curve in enumerate(curves[how, name]):
                    label = {"network": "the network",
                             "twin": "one layer × 10, the next / 10"}[name]  # fmt: skip
                    ax.plot(reach * alphas, curve, color=color, lw=lw, ls=ls, alpha=0.75,
                            label=label if k == 0 else None)  # fmt: skip
            ax.set(yscale="log", ylim=(at_rest / 8, 60), ylabel="training loss (nats)")
        axes[0].set_xlabel("distance along a random direction")
        axes[1].set_xlabel("α, in lengths of the filters")
        axes[1].set_xticks([-1, -0.5, 0, 0.5, 1])
        axes[0].set_title("Not normalized: two pictures", fontsize=11, weight="normal")
        axes[1].set_title("Filter-normalized: one", fontsize=11, weight="normal")
        axes[0].legend(loc="lower center", fontsize=9)


# ---- sharp and flat minima


def until_target(model: nn.Module, starts: Tensor, data: Split, batch: int, lr: float, run: Run):
    """Each network at the first step (of every tenth) at which its loss is at most TARGET."""
    steps = run.budget(quick=200, default=6000)
    loss = cross_entropy_of(model, data.x, data.y)
    found: list[Tensor | None] = [None] * len(starts)
    taken = [steps] * len(starts)
    trained = descend(model, starts, data.x, data.y, lr=lr, batch=batch, steps=steps,
                      generator=run.generator(30))  # fmt: skip
    for step, theta in enumerate(trained, 1):
        if step % 10 and step < steps:
            continue
        for i, value in enumerate(losses_at(loss, theta)):
            if found[i] is None and (value <= TARGET or step == steps):
                found[i], taken[i] = theta[i].clone(), step
        if all(f is not None for f in found):
            break
    return torch.stack(found), np.array(taken)


def batch_sizes(run: Run, data: Split, seeds: int) -> None:
    """Keskar et al.'s question at equal training loss, and the line between two minima.

    The rule: sharper means that the 95 % interval of the mean log ratio, large over small batch,
    lies above 0, for all three measures. Two of three is "partly".
    """
    model = mlp()
    starts = starts_of(model, seeds, run.seed + 40)
    loss = cross_entropy_of(model, data.x, data.y)
    minima, table = {}, {}
    for arm, (batch, lr) in ARMS.items():
        theta, taken = until_target(model, starts, data, batch, lr, run)
        minima[arm] = theta
        operator = lanczos.hessian_operator(loss, theta)
        generator = run.generator(50)  # the same probes and directions for every arm
        start = torch.randn(theta.shape, generator=generator)
        values, _ = lanczos.ritz(operator, start, run.budget(quick=8, default=25))
        traces = [
            lanczos.hutchinson_trace(
                operator, lanczos.random_signs(*theta.shape, generator).float()
            )
            for _ in range(run.budget(quick=4, default=40))
        ]
        like = parameters(model)
        table[arm] = {
            "largest eigenvalue": values[:, -1].numpy(),
            "trace": torch.stack(traces).mean(0).numpy(),
            "filter-normalized rise": np.array([
                mean_rise(loss, unflatten(t, like), run.generator(60 + i), radius=RISE_RADIUS,
                          n=run.budget(quick=4, default=40))
                for i, t in enumerate(theta)
            ]),
            "test error": np.array([error_rate(model, t, data.x_test, data.y_test) for t in theta]),
            "steps": taken,
            "loss": losses_at(loss, theta).numpy(),
        }  # fmt: skip
    small, large, scaled = (table[arm] for arm in ARMS)
    for arm, row in table.items():
        for name in (
            "largest eigenvalue",
            "trace",
            "filter-normalized rise",
            "test error",
            "steps",
        ):
            run.metric(f"{name}, {arm}", row[name].mean(), rtol=None)
    reached = max(float(row["loss"].max()) for row in table.values())
    run.claim("all are compared at the same training loss", reached <= TARGET,
              f"highest {reached:.4f}, target {TARGET} nats, {3 * seeds} networks",
              quick=False)  # fmt: skip
    measures = ("largest eigenvalue", "trace", "filter-normalized rise")
    for label, other in (("large batches find sharper minima", large),
                         ("they still do at a learning rate 8 times as high", scaled)):  # fmt: skip
        ratios = {m: mean_interval(np.log(np.maximum(other[m] / small[m], 1e-9)))
                  for m in measures}  # fmt: skip
        above = [r.low > 0 for r in ratios.values()]
        verdict = "reproduced" if all(above) else "partly" if any(above) else "not reproduced"
        detail = "; ".join(f"{m} × {_as_ratio(r)}" for m, r in ratios.items())
        run.verdict(label, verdict, f"{detail} ({seeds} seeds, 95 % intervals)")
    gap = mean_interval(100 * (large["test error"] - small["test error"]))
    run.metric("test error, large minus small batch", gap.mean, "pp", rtol=None)
    run.verdict("and generalize worse",
                "reproduced" if gap.low > 0 else "not reproduced" if gap.high < 0 or gap.mean <= 0
                else "inconclusive",
                f"test error, batch 512 minus batch 16: {gap} pp")  # fmt: skip
    _control(run, data, starts[:2])
    _draw_batches(run, table, measures)
    _draw_interpolation(run, data, model, minima)


def _as_ratio(r: Interval) -> str:
    return f"{math.exp(r.mean):.2f} [{math.exp(r.low):.2f}, {math.exp(r.high):.2f}]"


def _control(run: Run, data: Split, starts: Tensor) -> None:
    """Training with the labels shuffled: the same code, no signal, no generalization."""
    model, steps = mlp(), run.budget(quick=150, default=1000)
    shuffled = data.y[torch.randperm(len(data.y), generator=run.generator(70))]
    wrong, before, after = [], [], []
    for labels in (data.y, shuffled):
        loss = cross_entropy_of(model, data.x, labels)
        theta = last(descend(model, starts, data.x, labels, lr=0.1, batch=16, steps=steps,
                             generator=run.generator(71)))  # fmt: skip
        wrong.append(np.mean([error_rate(model, t, data.x_test, data.y_test) for t in theta]))
        before.append(float(losses_at(loss, starts).mean()))
        after.append(float(losses_at(loss, theta).mean()))
    run.claim("it trains, and with shuffled labels it knows nothing of the test digits",
              after[0] < 0.2 * before[0] and wrong[0] < 0.12 and wrong[1] > 0.8,
              f"loss {before[0]:.2f} to {after[0]:.3f}, test error {100 * wrong[0]:.1f} %; "
              f"shuffled {100 * wrong[1]:.0f} %, guessing 90 %", quick=False)  # fmt: skip


def _draw_batches(run: Run, table: dict, measures) -> None:
    titles = ("Largest eigenvalue", "Trace of the Hessian", f"Mean rise at α = {RISE_RADIUS}")
    with run.figure("batches", "Are the minima of large batches sharper?", columns=4,
                    size=(9.6, 4.0)) as axes:  # fmt: skip
        panels = (*zip(measures, titles, strict=True), ("test error", "Test error, %"))
        for ax, (measure, title) in zip(axes, panels, strict=True):
            factor = 100 if measure == "test error" else 1
            rows = [factor * table[arm][measure] for arm in ARMS]
            ax.plot(range(3), np.stack(rows), color=plots.GRAY, lw=0.7, alpha=0.5)
            for k, (values, color) in enumerate(zip(rows, COLORS, strict=True)):
                ax.plot(np.full(len(values), k), values, "o", color=color, ms=4, alpha=0.6)
                interval = mean_interval(values)
                ax.errorbar(k + 0.22, interval.mean, interval.high - interval.mean, fmt="D",
                            color=color, capsize=4, ms=6)  # fmt: skip
            ax.set_xticks(range(3), ["16", "512", "512\nrate × 8"], fontsize=9)
            ax.set_xlim(-0.4, 2.6)
            ax.set_title(title, fontsize=10.5, weight="normal")
            ax.grid(axis="x", visible=False)
            if measure != "test error":
                ax.set_ylim(bottom=0)
        axes[0].set_ylabel(f"at training loss {TARGET} nats")
        for ax in axes:
            ax.set_xlabel("batch")


def _draw_interpolation(run: Run, data: Split, model: nn.Module, minima: dict) -> None:
    n = run.budget(quick=13, default=61)
    ts = torch.linspace(-0.5, 1.5, n)
    losses = {"training": cross_entropy_of(model, data.x, data.y),
              "test": cross_entropy_of(model, data.x_test, data.y_test)}  # fmt: skip
    small, large = minima["batch 16"], minima["batch 512"]
    curves = {}
    for name, loss in losses.items():
        for pair, ends in (("same", large), ("other", large.roll(1, 0))):
            lines = [line(loss, a, b - a, ts) for a, b in zip(small, ends, strict=True)]
            curves[name, pair] = torch.stack(lines)
    between = (ts >= 0) & (ts <= 1)
    for pair in ("same", "other"):
        barrier = curves["training", pair][:, between].max(1).values - TARGET
        run.metric(f"barrier between minima of {pair} start" + "s" * (pair == "other"),
                   float(barrier.mean()), "nats", rtol=None)  # fmt: skip
    with run.figure("interpolation", "Is there a wall between the two minima?", columns=2,
                    size=(9.0, 4.0), sharey=True) as axes:  # fmt: skip
        for ax, pair, title in zip(axes, ("same", "other"),
                                   ("From the same start", "From different starts"),
                                   strict=True):  # fmt: skip
            for name, color in (("test", plots.ORANGE), ("training", plots.BLUE)):
                plots.interval_band(ax, ts.numpy(), curves[name, pair].numpy(), color=color,
                                    label=f"{name} loss, mean and range")  # fmt: skip
            for t, text in ((0, "batch 16"), (1, "batch 512")):
                ax.axvline(t, color=plots.REFERENCE, ls="--", lw=1)
                ax.annotate(text, (t, 0.02), xycoords=("data", "axes fraction"), ha="center",
                            fontsize=9, color=plots.REFERENCE,
                            bbox={"fc": "white", "ec": "none", "pad": 1})  # fmt: skip
            ax.set(yscale="log", xlabel="position on the line between the minima",
                   ylim=(0.025, 1.2), xticks=[-0.5, 0, 0.5, 1, 1.5])  # fmt: skip
            ax.set_yticks([0.03, 0.1, 0.3, 1], ["0.03", "0.1", "0.3", "1"])
            ax.minorticks_off()
            ax.set_title(title, fontsize=11, weight="normal")
        axes[0].set_ylabel("loss (nats)")
        axes[0].legend(loc="upper left", fontsize=9)


# ---- a path on its own plane, and a random walk's


def path_on_its_plane(run: Run, data: Split, resolution: int) -> None:
    """How much of a path two directions hold, beside a random walk of as many steps."""
    model = mlp()
    start = starts_of(model, 1, run.seed + 80)
    steps = run.budget(quick=60, default=600)
    path = [start[0]]
    for (theta,) in descend(model, start, data.x, data.y, lr=0.1, batch=16, steps=steps,
                            generator=run.generator(81)):  # fmt: skip
        path.append(theta.clone())
    path = torch.stack(path)
    directions, share = principal_directions(path, path[-1])
    walks = []
    for k in range(5):
        steps_taken = torch.randn(path.shape, generator=run.generator(82 + k))
        walk = steps_taken.cumsum(0)
        walks.append(principal_directions(walk - walk.mean(0), torch.zeros(walk.shape[1]))[1])
    walks = torch.stack(walks).numpy()
    run.check("first component of a random walk", walks[:, 0].mean(), 6 / math.pi**2,
              against="6/π², Antognini & Sohl-Dickstein (2018)", rtol=0.02,
              why="the limit of many steps in many more dimensions; five walks")  # fmt: skip
    run.metric("share of the path in two directions", 100 * float(share.sum()), "%", rtol=0.05)
    run.metric("share of a random walk in two directions", 100 * walks.sum(1).mean(), "%",
               rtol=0.05)  # fmt: skip
    where = (path - path[-1]) @ directions.T
    low, high = where.min(0).values, where.max(0).values
    margin = 0.25 * (high - low).max()
    a = torch.linspace(float(low[0] - margin), float(high[0] + margin), resolution)
    b = torch.linspace(float(low[1] - margin), float(high[1] + margin), resolution)
    values = plane(cross_entropy_of(model, data.x, data.y), path[-1], directions, a, b)
    with run.figure("path", "Six hundred steps of SGD on the plane that holds most of them",
                    size=(8.0, 4.6)) as ax:  # fmt: skip
        levels = np.geomspace(max(float(values.min()), 1e-3), float(values.max()), 17)
        filled = ax.contourf(a, b, values.T, levels=levels, norm="log", cmap="YlGnBu_r",
                             extend="min")  # fmt: skip
        ax.contour(a, b, values.T, levels=levels, colors="white", linewidths=0.4, alpha=0.6)
        ax.plot(*where.T, color=plots.ORANGE, lw=1.3)
        ax.plot(*where[0], "o", color="white", mec=plots.ORANGE, mew=2, ms=8)
        ax.plot(*where[-1], "*", color=plots.ORANGE, mec="white", ms=15)
        ax.annotate("start", where[0], (9, 4), textcoords="offset points", color=plots.ORANGE,
                    weight="bold")  # fmt: skip
        ax.annotate("end", where[-1], (9, 4), textcoords="offset points", color="white",
                    weight="bold")  # fmt: skip
        ax.set(xlabel=f"first direction: {100 * share[0]:.0f} % of the path",
               ylabel=f"second: {100 * share[1]:.0f} %", aspect="equal")  # fmt: skip
        ax.grid(visible=False)
        bar = ax.figure.colorbar(filled, ax=ax, ticks=[0.1, 0.3, 1, 3], shrink=0.9)
        bar.ax.set_yticklabels(["0.1", "0.3", "1", "3"])
        bar.ax.minorticks_off()
        bar.set_label("training loss (nats)")


# ---- the poster


def with_and_without_shortcuts(run: Run, data: Split, depth: int, resolution: int) -> None:
    """Two deep networks that differ in one plus sign, each on a plane through its minimum."""
    surfaces, errors = [], []
    reach = torch.linspace(-1, 1, resolution)
    rows = slice(0, run.budget(quick=100, default=400))
    for skip in (False, True):
        model = DeepNet(depth, skip=skip)
        start = model.initialize(run.generator(90))[None]
        (theta,) = last(descend(model, start, data.x, data.y, lr=0.004, batch=400,
                                  steps=run.budget(quick=20, default=600), optimizer="adam",
                                  schedule="cosine", generator=run.generator(91)))  # fmt: skip
        name = "with shortcuts" if skip else "without shortcuts"
        errors.append(100 * error_rate(model, theta, data.x_test, data.y_test))
        run.metric(f"test error of {depth} layers {name}", errors[-1], "%", rtol=None)
        loss = cross_entropy_of(model, data.x[rows], data.y[rows])
        run.metric(f"training loss of {depth} layers {name}", float(loss(theta)), "nats", rtol=None)
        params = unflatten(theta, parameters(model))
        generator = run.generator(92)
        directions = torch.stack([random_direction(params, generator) for _ in range(2)])
        surfaces.append(plane(loss, theta, directions, reach, reach).log10().numpy())
    run.claim("two signs apart: without shortcuts it learns worse", errors[0] > errors[1],
              f"test error {errors[0]:.1f} % without, {errors[1]:.1f} % with, one seed each "
              "(several in the paper's reproduction)", quick=False)  # fmt: skip
    _draw_poster(run, surfaces, errors, reach.numpy(), depth)


def _draw_poster(run: Run, surfaces, errors, reach, depth: int) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LightSource, Normalize

    a, b = np.meshgrid(reach, reach, indexing="ij")
    light = LightSource(azdeg=315, altdeg=42)
    with run.figure("surface", "", columns=2, size=(9.2, 5.2), layout="none",
                    subplot_kw={"projection": "3d", "computed_zorder": False}) as axes:  # fmt: skip
        figure = axes[0].figure
        names = ("no shortcuts", "with shortcuts")
        for ax, left, z, error, name in zip(axes, (0.0, 0.5), surfaces, errors, names,
                                            strict=True):  # fmt: skip
            low, high = float(z.min()), float(z.max())
            floor = low - 0.6 * (high - low)
            norm, cmap = Normalize(low, high), colormaps["viridis"]
            levels = np.linspace(low, high, 22)
            ax.contourf(a, b, z, levels=levels, zdir="z", offset=floor, cmap=cmap, alpha=0.5,
                        zorder=0)  # fmt: skip
            ax.contour(a, b, z, levels=levels[::2], zdir="z", offset=floor, colors="white",
                       linewidths=0.5, zorder=1)  # fmt: skip
            shade = light.shade(z, cmap=cmap, norm=norm, blend_mode="soft",
                                dx=2 / len(reach), dy=2 / len(reach),
                                vert_exag=1.6 / (high - low))  # fmt: skip
            ax.plot_surface(a, b, z, facecolors=shade, rstride=1, cstride=1, linewidth=0,
                            antialiased=False, shade=False, zorder=2)  # fmt: skip
            ticks = range(2 * math.ceil(low / 2), math.floor(high) + 1, 4 if high > 8 else 2)
            ax.set(zlim=(floor, high), xlim=(-1, 1), ylim=(-1, 1), xticks=[-1, 0, 1],
                   yticks=[-1, 0, 1], zticks=list(ticks))  # fmt: skip
            ax.set_zticklabels([f"$10^{{{t}}}$" for t in ticks])
            ax.tick_params(labelsize=7.5, pad=-2)
            ax.set_xlabel("α", labelpad=-8, fontsize=9)
            ax.set_ylabel("β", labelpad=-8, fontsize=9)
            for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
                axis.set_pane_color((1, 1, 1, 0))
                axis._axinfo["grid"].update(color="#ECECEC", linewidth=0.6)
            ax.set_box_aspect((1, 1, 0.9), zoom=0.97)
            ax.view_init(elev=26, azim=-50)
            ax.set_position((left - 0.005, 0.03, 0.475, 0.87))
            figure.text(left + 0.225, 0.875, name, ha="center", fontsize=12, weight="bold",
                        color="#333333")  # fmt: skip
            figure.text(left + 0.225, 0.835, f"test error {error:.1f} %", ha="center",
                        fontsize=10, color="#555555")  # fmt: skip
        figure.text(0.02, 0.93, f"The same {depth} layers, with and without a plus sign",
                    fontsize=15, weight="bold")  # fmt: skip
        figure.text(0.5, 0.012, "training loss (nats, log scale) on filter-normalized planes "
                    "through the trained network", ha="center", fontsize=8.5,
                    color="#777777")  # fmt: skip


def main(
    run: Run, *, seeds: PositiveInt = 8, depth: PositiveInt = 56, resolution: PositiveInt = 81
) -> None:
    """Check the curvature tools, then look: deep nets, batch sizes, scales, a path, a spectrum.

    Parameters
    ----------
    seeds
        Starts of the comparison of batch sizes.
    depth
        Layers of the two deep networks.
    resolution
        Points along each side of a drawn plane.
    """
    data = digits_split()
    check_curvature(run, data)
    same_function_another_picture(run, data)
    batch_sizes(run, data, run.budget(quick=2, default=seeds, full=2 * seeds))
    path_on_its_plane(run, data, run.budget(quick=9, default=41))
    with_and_without_shortcuts(
        run,
        data,
        run.budget(quick=min(depth, 8), default=depth),
        run.budget(quick=9, default=resolution, full=2 * resolution),
    )
