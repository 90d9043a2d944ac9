r"""Do shortcuts make the landscape more convex? Two 56-layer networks, slice by slice.

Around each trained network lies a plane spanned by two random, filter-normalized directions. At
every point of a grid on it Lanczos finds the extreme eigenvalues of the Hessian over all weight
matrices (not only within the plane), and the point counts as non-convex if

$$ \left| \lambda_{\min} / \lambda_{\max} \right| > 0.05 . $$

Reduced: dense layers of 16 units on 8×8 digits instead of a convolutional ResNet-56 on CIFAR-10,
without batch normalization, and 25 points per slice. The rules stand in the front matter of
README.md.

    uv run papers/2018-visualizing-loss-landscape/reproduce.py

Li, Xu, Taylor, Studer, Goldstein (2018), "Visualizing the loss landscape of neural nets",
sections 4, 5 and 6.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week09.lanczos import hessian_operator, ritz
from week09.loss_landscape import plane, random_direction, rescale
from week09.vector_networks import (
    DeepNet,
    Params,
    cross_entropy_of,
    descend,
    flatten,
    parameters,
    unflatten,
)

RATES = (0.001, 0.004, 0.016)
STEPS_OF_LANCZOS = 12


def matrices_only(weights: Params) -> Float[Tensor, " p"]:
    """1 for the entries of weight matrices, 0 for biases: the paper's Hessian leaves those out."""
    return flatten({name: torch.full_like(w, float(w.ndim > 1)) for name, w in weights.items()})


def curvature_ratios(
    loss,
    points: Float[Tensor, "point p"],
    mask: Float[Tensor, " p"],
    generator: torch.Generator,
    steps: int = STEPS_OF_LANCZOS,
) -> Float[np.ndarray, " point"]:
    """|λ_min / λ_max| of the Hessian over the unmasked weights; 0 where it is flat or convex."""
    hessian = hessian_operator(loss, points)
    start = torch.randn(points.shape, generator=generator, dtype=points.dtype) * mask
    values, _ = ritz(lambda v: hessian(v * mask) * mask, start, steps)
    least, most = values[:, 0].clamp_max(0).abs(), values[:, -1].clamp_min(0)
    ratios = torch.where(least > 0, least / most, torch.zeros_like(least))
    return np.minimum(ratios.double().numpy(), 1e6)


# ---- the experiment


def digits():
    """Standardized digits: 1200 to train on, 597 to test."""
    images, labels = datasets.digits()
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 64), dtype=torch.float32)
    x = (x - x[:1200].mean()) / x[:1200].std()
    y = torch.tensor(labels[order])
    return x[:1200], y[:1200], x[1200:], y[1200:]


def train(depth: int, skip: bool, seeds: list[int], lr: list[float], steps: int, data):
    """Networks of these seeds; the same seeds see the same batches with and without shortcuts."""
    model = DeepNet(depth, skip=skip)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    theta = starts = torch.stack([model.initialize(g) for g in generators])
    chance = torch.Generator().manual_seed(seeds[0])
    options = {"lr": lr, "batch": 400, "steps": steps, "generator": chance}
    options |= {"optimizer": "adam", "schedule": "cosine"}
    for after in descend(model, starts, data[0], data[1], **options):
        theta = after
    return model, theta


@torch.no_grad()
def test_error(model, theta: Tensor, data) -> float:
    """Share of wrong answers on the test part, in percent."""
    scores = torch.func.functional_call(model, unflatten(theta, parameters(model)), (data[2],))
    return 100 * float((scores.argmax(1) != data[3]).double().mean())


def tune(run: Run, depth: int, steps: int, data) -> dict[bool, float]:
    """The rate of least final training loss of each arm, on seeds used nowhere else."""
    best = {}
    for skip in (False, True):
        seeds = [900 + s for s in range(run.budget(quick=1, default=1, full=2))]
        both = [s for s in seeds for _ in RATES], list(RATES) * len(seeds)
        model, theta = train(depth, skip, *both, steps, data)
        loss = cross_entropy_of(model, data[0], data[1])
        losses = np.array([float(loss(t)) for t in theta]).reshape(len(seeds), -1)
        best[skip] = RATES[int(np.log(losses).mean(0).argmin())]
    edge = sum(rate in (RATES[0], RATES[-1]) for rate in best.values())
    note = f"plain {best[False]}, residual {best[True]} of {RATES}"
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best learning rates on the grid's edge", edge, at_most=0, **once)
    return best


def slices(model, theta: Tensor, data, radius: float, pairs: int, side: int, rows: int):
    """Ratios (pair, side²) on squares of half-width `radius` through theta."""
    loss = cross_entropy_of(model, data[0][:rows], data[1][:rows])
    weights = unflatten(theta, parameters(model))
    mask, reach = matrices_only(weights), torch.linspace(-radius, radius, side)
    found = []
    for pair in range(pairs):
        generator = torch.Generator().manual_seed(pair)
        spread = torch.stack([random_direction(weights, generator) for _ in range(2)])
        points = theta + torch.cartesian_prod(reach, reach) @ spread
        found.append(curvature_ratios(loss, points, mask, generator))
    return np.stack(found)


def main(run: Run, *, depth: PositiveInt = 56, pairs: PositiveInt = 2) -> None:
    """Train both arms, measure their slices, and judge by the front matter's margins.

    Parameters
    ----------
    depth
        Layers with weights, even.
    pairs
        Pairs of random directions for each network.
    """
    paper = papers.load(__file__)
    matter, shallow = paper.matter, paper.matter["shallow"]
    depth = run.budget(quick=min(depth, 10), default=depth)
    pairs = run.budget(quick=1, default=pairs)
    side, rows = run.budget(quick=2, default=5), run.budget(quick=50, default=64)
    steps = run.budget(quick=5, default=600)
    seeds = [run.seed + s for s in range(run.budget(quick=2, default=5, full=8))]
    data = digits()
    _check_curvature(run)
    rates = tune(run, depth, steps, data)
    measured, ratios, nets = {}, {}, {}
    for d in (depth, shallow):
        for skip in (False, True):
            model, theta = train(d, skip, seeds, [rates[skip]] * len(seeds), steps, data)
            nets[d, skip] = model, theta
            measured[d, skip, "test error"] = np.array([test_error(model, t, data) for t in theta])
            for radius in matter["radii"] if d == depth else matter["radii"][:1]:
                found = [slices(model, t, data, radius, pairs, side, rows) for t in theta]
                ratios[d, skip, radius] = ratio = np.stack(found)
                share = (ratio > matter["threshold"]).mean((1, 2))
                measured[d, skip, f"share {radius}"] = 100 * share
                measured[d, skip, f"median {radius}"] = np.median(ratio.reshape(len(ratio), -1), 1)
    loss = cross_entropy_of(nets[depth, False][0], data[0], data[1])
    value = np.mean([float(loss(t)) for t in nets[depth, False][1]])
    run.metric(f"training loss, {depth} layers, plain", value, "nats", rtol=0.3)
    for radius in matter["radii"]:
        for skip in (False, True):
            name = f"share {radius}, {depth} layers, {_name(skip)}"
            run.metric(name, measured[depth, skip, f"share {radius}"].mean(), "%", rtol=0.3)
    for name, rule in paper.rules.items():
        what = rule["measure"]
        gap = measured[depth, False, what] - measured[depth, True, what]
        paper.judge(run, name, gap, quick=False)
        if name in matter["falsified"]:
            gap = measured[shallow, False, what] - measured[shallow, True, what]
            run.falsifier(f"{shallow} layers, {what}", gap, breaks=name)
    _rescaled(run, nets[depth, False], data, rows)
    _figure(run, matter, depth, ratios, measured)


def _name(skip: bool) -> str:
    return "residual" if skip else "plain"


def _check_curvature(run: Run) -> None:
    """The ratios on a grid against the dense Hessian of a tiny network at each point."""
    model = DeepNet(6, 5, skip=True, n_inputs=9).double()
    generator = run.generator(7)
    x = torch.randn(40, 9, generator=generator, dtype=torch.float64)
    y = torch.randint(10, (40,), generator=generator)
    theta = model.initialize(generator)
    loss, weights = cross_entropy_of(model, x, y), unflatten(theta, parameters(model))
    mask = matrices_only(weights)
    spread = torch.stack([random_direction(weights, generator) for _ in range(2)])
    reach = torch.linspace(-1, 1, 3, dtype=torch.float64)
    points = theta + torch.cartesian_prod(reach, reach) @ spread
    kept, dense = mask.bool(), torch.func.vmap(torch.func.hessian(loss))(points)
    values = torch.linalg.eigvalsh(dense[:, kept][:, :, kept])
    exact = values[:, 0].neg().clamp_min(0) / values[:, -1]
    ours = curvature_ratios(loss, points, mask, generator, steps=60)
    against, why = "torch.func.hessian and eigvalsh", "Lanczos has converged after 60 steps"
    run.check("curvature ratios on a 3 × 3 grid", ours, exact, against=against, atol=1e-8, why=why)


def _rescaled(run: Run, net, data, rows: int) -> None:
    """One layer times 10, the next divided by 10: the function stays, and so must its picture."""
    model, theta = net[0].double(), net[1][0].double()
    loss = cross_entropy_of(model, data[0][:rows].double(), data[1][:rows])
    weights = unflatten(theta, parameters(model))
    twin = rescale(weights, "hidden.0", "hidden.1", 10.0)
    reach = {"filter": torch.linspace(-1, 1, 5).double(), "none": torch.linspace(-3, 3, 5).double()}
    drawn = {}
    for how, grid in reach.items():
        for name, each in (("net", weights), ("twin", twin)):
            generator = torch.Generator().manual_seed(5)
            spread = torch.stack([random_direction(each, generator, how) for _ in range(2)])
            drawn[how, name] = plane(loss, flatten(each), spread, grid, grid).log()
    name = "normalized plot of a network and of its rescaled twin"
    same = {"against": "invariance to scale (section 4)", "kind": "theorem", "atol": 1e-6}
    why = "float64 rounding through 56 layers far from the minimum"
    run.check(name, drawn["filter", "twin"], drawn["filter", "net"], why=why, **same)
    change = float((drawn["none", "twin"] - drawn["none", "net"]).abs().max())
    once = {"deterministic": True, "quick": False, "unit": "of log loss"}
    run.claim("the plot that is not normalized changes", change, at_least=0.1, **once)
    net[0].float()


def _figure(run: Run, matter: dict, depth: int, ratios: dict, measured: dict) -> None:
    radii = matter["radii"]
    title = "How mixed is the curvature around the end of training?"
    with run.figure("ratios", title, 2, 2, size=(7.0, 6.4)) as axes:
        for (row, column), panel in np.ndenumerate(axes):
            radius, skip = radii[row], bool(column)
            ratio = ratios[depth, skip, radius][0, 0]
            side, place = int(np.sqrt(len(ratio))), (-radius, radius, -radius, radius)
            style = {"vmin": 0, "vmax": 1, "cmap": "cividis", "origin": "lower"}
            image = panel.imshow(ratio.reshape(side, side).T, extent=place, **style)
            panel.grid(visible=False)
            ticks = [-radius, 0, radius]
            panel.set(xlabel="α", ylabel="β", xticks=ticks, yticks=ticks)
            name = f"{_name(skip)}, |α|, |β| ≤ {radius:g}"
            panel.set_title(name, fontsize=10.5, weight="normal")
        label = "|λmin / λmax|"
        axes[0, 0].figure.colorbar(image, ax=axes, shrink=0.6, extend="max", label=label)
    title = "What do shortcuts do to the test error?"
    with run.figure("errors", title, columns=2, size=(8.6, 4.0)) as (left, right):
        ours = [measured[depth, skip, "test error"] for skip in (False, True)]
        here = f"here: {depth} dense layers, digits"
        for ax, values, name in (
            (left, matter["paper_errors"].values(), "the paper (from memory): ResNet-56, CIFAR-10"),
            (right, ours, here),
        ):
            rows = dict(zip(("without\nshortcuts", "with"), values, strict=True))
            colors = (plots.ORANGE, plots.BLUE)
            plots.bars(ax, rows, colors=colors, xlabel=f"test error, %\n{name}")


if __name__ == "__main__":
    cli(main)
