"""Curvature tools against exact Hessians, slices that deceive, a path, and two deep networks."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from shared import plots
from shared.study import PositiveInt, Run
from week09 import lanczos
from week09.evidence.loss_landscape_minima import (
    Split,
    batch_sizes,
    digits_split,
    error_rate,
    last,
    mlp,
    starts_of,
)
from week09.evidence.loss_landscape_poster import draw_poster
from week09.loss_landscape import line, plane, principal_directions, random_direction, rescale
from week09.vector_networks import (
    DeepNet,
    cross_entropy_of,
    descend,
    flatten,
    parameters,
    unflatten,
)


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
    path_on_its_plane(run, data, run.budget(quick=5, default=41))
    depth = run.budget(quick=min(depth, 6), default=depth)
    resolution = run.budget(quick=5, default=resolution, full=2 * resolution)
    with_and_without_shortcuts(run, data, depth, resolution)


def check_curvature(run: Run, data: Split) -> None:
    """Every tool against the exact Hessian of a net small enough to write it down."""
    n, steps = run.budget(quick=50, default=300), run.budget(quick=10, default=200)
    x = F.avg_pool2d(data.x[:n].view(-1, 1, 8, 8), 2).flatten(1).double()
    y = data.y[:n]
    width = run.budget(quick=4, default=8)
    model = DeepNet(4, width, skip=True, n_inputs=16).double()
    start, options = model.initialize(run.generator())[None], {"lr": 0.01, "optimizer": "adam"}
    options |= {"batch": n // 6, "steps": steps, "generator": run.generator(1)}
    (theta,) = last(descend(model, start, x, y, **options))
    loss = cross_entropy_of(model, x, y)
    exact = torch.func.hessian(loss)(theta)
    eigenvalues, p = torch.linalg.eigvalsh(exact), len(theta)
    generator = run.generator(2)

    def hessians(copies: int) -> lanczos.Operator:
        return lanczos.hessian_operator(loss, theta.expand(copies, -1))

    v = torch.randn(4, p, generator=generator, dtype=torch.float64)
    check = run.against("torch.func.hessian", atol=1e-10, why="float64 rounding")
    check("Hessian–vector products", hessians(4)(v), v @ exact)
    why = "converged: the ends of a spectrum are found first"
    check = run.against("torch.linalg.eigvalsh of the exact Hessian", atol=1e-8, why=why)
    ends = lanczos.ritz(hessians(4), v, 60)[0][:, [0, -1]]
    check("extreme eigenvalues after 60 Lanczos steps", ends, eigenvalues[[0, -1]].expand(4, 2))
    # Over all p unit vectors the mean of eᵀf(H)e is the trace of f(H) over p: nothing is random.
    top = float(eigenvalues[-1])
    grid = torch.linspace(-0.5, top * 1.1, 400, dtype=torch.float64)
    width, degree = top / run.budget(quick=5, default=50), run.budget(quick=16, default=40)
    each = lanczos.ritz(hessians(p), torch.eye(p, dtype=torch.float64), degree)
    ones = torch.full((1, p), 1 / p, dtype=torch.float64)
    why = "the nodes of a probe integrate a Gaussian of this width"
    check = run.against("Gaussians at torch.linalg.eigvalsh", kind="theorem", atol=1e-6, why=why)
    density = lanczos.spectral_density(*each, grid, width)
    expected = lanczos.spectral_density(eigenvalues[None], ones, grid, width)
    check("density of eigenvalues, every unit vector a probe", density, expected)

    run.metric("weights of the small net", p, rtol=0)
    run.metric("eigenvalues above a tenth of the largest", (eigenvalues > 0.1 * top).sum())
    run.metric("smallest eigenvalue over the largest", eigenvalues[0] / top)
    ten = lanczos.ritz(hessians(10), lanczos.random_signs(10, p, generator), 40)
    grid = torch.linspace(-0.1 * top, 1.12 * top, 1500, dtype=torch.float64)
    seen = lanczos.spectral_density(*ten, grid, top / 120)
    exact = lanczos.spectral_density(eigenvalues[None], ones, grid, top / 120)
    title = "10 probes of 40 products see the spectrum of the Hessian"
    with run.figure("spectrum", title, size=(8.3, 4.2)) as axes:
        label = f"exact: all {p} eigenvalues"
        axes.fill_between(grid, exact, 1e-5, color=plots.SKY, alpha=0.45, lw=0, label=label)
        axes.plot(eigenvalues, np.full(p, 1.6e-4), "|", color=plots.REFERENCE, ms=9)
        labels = {"xlabel": "eigenvalue of the Hessian", "ylabel": "density", "yscale": "log"}
        labels |= {"ylim": (1e-4, 3 * float(exact.max())), "xlim": (grid[0], grid[-1])}
        lines = {"Lanczos quadrature": seen}
        plots.curves(axes, grid, lines, colors=[plots.ORANGE], ends=False, **labels)


# ---- the failure on display: directions that were not normalized


def same_function_another_picture(run: Run, data: Split) -> None:
    """One layer times 10, the next divided by 10."""
    model, x = mlp(), data.x.double()
    options = {"lr": 0.1, "batch": 32, "steps": run.budget(quick=10, default=800)}
    start = starts_of(model, 1, run.seed + 10)
    (theta,) = last(descend(model, start, data.x, data.y, generator=run.generator(3), **options))
    model, theta = model.double(), theta.double()
    loss = cross_entropy_of(model, x, data.y)
    params = unflatten(theta, parameters(model))
    both = {"the network": params, "one layer × 10, the next / 10": rescale(params, "0", "2", 10.0)}
    out = [torch.func.functional_call(model, each, (x,)) for each in both.values()]
    check = run.against("the network before", kind="theorem", atol=1e-10, why="float64 rounding")
    check("the rescaled twin is the same function", out[1], out[0])
    n, directions = run.budget(quick=9, default=49), run.budget(quick=2, default=10)
    alphas = torch.linspace(-1, 1, n, dtype=torch.float64)

    def slices(weights, how: str, reach: float) -> Tensor:
        seeds = (run.generator(20 + k) for k in range(directions))
        drawn = [random_direction(weights, generator, how) for generator in seeds]
        return torch.stack([line(loss, flatten(weights), d, reach * alphas) for d in drawn])

    reaches = {"none": 6.0, "filter": 1.0}
    curves = {
        how: {name: slices(weights, how, reach) for name, weights in both.items()}
        for how, reach in reaches.items()
    }
    network, twin = curves["filter"].values()
    check = run.against("invariance to scale", kind="theorem", rtol=1e-9, why="float64 rounding")
    check("filter-normalized slices of both", twin, network)
    at = n // 2 + max(n // 12, 1)
    rises = {how: [c[:, at] - loss(theta) for c in curves[how].values()] for how in curves}
    name = "not normalized, the same function looks sharper: rise of the twin / the network's"
    ratios = {how: (twin / network).numpy().round(9) for how, (network, twin) in rises.items()}
    note = f"at distance {6 * float(alphas[at]):.1f} in {directions} directions"
    run.claim(name, ratios["none"], at_least=5, quick=False, unit="×", note=note)
    run.falsifier("filter-normalized", ratios["filter"], breaks=name)
    title = "One function, two sharpnesses: which picture is right?"
    with run.figure("rescaled", title, columns=2, size=(9.2, 4.2), sharey=True) as axes:
        names = {"none": "distance, not normalized", "filter": "α, in lengths of the filters"}
        for panel, (how, label) in zip(axes, names.items(), strict=True):
            labels = {"xlabel": label, "yscale": "log", "ends": False}
            colors = (plots.BLUE, plots.ORANGE)
            plots.curves(panel, reaches[how] * alphas, curves[how], colors=colors, **labels)
        axes[1].get_lines()[1].set_linestyle("--")
        axes[0].set_ylabel("training loss (nats)")


# ---- a path on its own plane, and a random walk's


def path_on_its_plane(run: Run, data: Split, resolution: int) -> None:
    """How much of a path two directions hold, beside a random walk of as many steps."""
    model, steps = mlp(), run.budget(quick=60, default=600)
    start = starts_of(model, 1, run.seed + 80)
    options = {"lr": 0.1, "batch": 16, "steps": steps, "generator": run.generator(81)}
    trained = descend(model, start, data.x, data.y, **options)
    path = torch.stack([start[0], *(theta[0].clone() for theta in trained)])
    directions, share = principal_directions(path, path[-1])
    walks = []
    for k in range(5):
        walk = torch.randn(path.shape, generator=run.generator(82 + k)).cumsum(0)
        walks.append(principal_directions(walk - walk.mean(0), torch.zeros(walk.shape[1]))[1])
    walks = torch.stack(walks).numpy()
    why = "the limit of many steps in many more dimensions; five walks"
    source = "6/π², Antognini & Sohl-Dickstein (2018)"
    check = run.against(source, kind="theorem", rtol=0.02, why=why)
    check("first component of a random walk", walks[:, 0].mean(), 6 / math.pi**2)
    run.metric("share of the path in two directions", 100 * float(share.sum()), "%")
    run.metric("share of a random walk in two directions", 100 * walks.sum(1).mean(), "%")
    where = (path - path[-1]) @ directions.T
    margin = 0.25 * np.ptp(where.numpy(), axis=0).max()
    a, b = (
        torch.linspace(float(w.min() - margin), float(w.max() + margin), resolution)
        for w in where.T
    )
    values = plane(cross_entropy_of(model, data.x, data.y), path[-1], directions, a, b)
    title = f"{steps} steps of SGD on the plane that holds most of them"
    with run.figure("path", title, size=(8.0, 4.6)) as axes:
        levels = np.geomspace(max(float(values.min()), 1e-3), float(values.max()), 17)
        look = {"levels": levels, "norm": "log", "cmap": "YlGnBu_r", "extend": "min"}
        filled = axes.contourf(a, b, values.T, **look)
        axes.plot(*where.T, color=plots.ORANGE, lw=1.3)
        axes.plot(*where[0], "o", color="white", mec=plots.ORANGE, mew=2, ms=8, label="start")
        axes.plot(*where[-1], "*", color=plots.ORANGE, mec="white", ms=15, label="end")
        first, second = (f"direction: {100 * part:.0f} % of the path" for part in share)
        axes.set(xlabel=f"first {first}", ylabel=f"second {second}", aspect="equal")
        axes.legend()
        axes.figure.colorbar(filled, ax=axes, label="training loss (nats)", format="{x:.2g}")


# ---- the poster


def with_and_without_shortcuts(run: Run, data: Split, depth: int, resolution: int) -> None:
    """Deep networks that differ in one plus sign; the first of each on a plane."""
    seeds = run.budget(quick=2, default=5)
    options = {"lr": 0.004, "batch": 400, "steps": run.budget(quick=5, default=600)}
    options |= {"optimizer": "adam", "schedule": "cosine"}
    reach, surfaces, errors = torch.linspace(-1, 1, resolution), {}, {}
    rows = slice(0, run.budget(quick=100, default=400))
    for name, skip in (("without shortcuts", False), ("with shortcuts", True)):
        model = DeepNet(depth, skip=skip)
        starts = torch.stack([model.initialize(run.generator(90 + k)) for k in range(seeds)])
        generator = run.generator(91)
        thetas = last(descend(model, starts, data.x, data.y, generator=generator, **options))
        wrong = [100 * error_rate(model, t, data.x_test, data.y_test) for t in thetas]
        errors[name] = np.array(wrong)
        run.metric(f"test error of {depth} layers {name}", errors[name].mean(), "%", rtol=0.1)
        loss, generator = cross_entropy_of(model, data.x[rows], data.y[rows]), run.generator(92)
        params = unflatten(thetas[0], parameters(model))
        directions = torch.stack([random_direction(params, generator) for _ in range(2)])
        surfaces[name] = plane(loss, thetas[0], directions, reach, reach).log10().numpy()
    name = "without shortcuts a deep net learns worse: test error without, minus with"
    gain = errors["without shortcuts"] - errors["with shortcuts"]
    options = {"unit": "points", "quick": False, "rtol": 0.2, "note": f"{depth} layers"}
    run.claim(name, gain, at_least=0, **options)
    first = {name: found[0] for name, found in errors.items()}
    draw_poster(run, surfaces, first, reach.numpy(), depth)
