r"""Do shortcuts make the landscape more convex? Two 56-layer networks, slice by slice.

Around each trained network lies a plane spanned by two random, filter-normalized directions. At
every point of a grid on it Lanczos finds the extreme eigenvalues of the Hessian over all weight
matrices (not only within the plane), and the point counts as non-convex if

$$ \left| \lambda_{\min} / \lambda_{\max} \right| > 0.05 . $$

Reduced: dense layers of 16 units on 8×8 digits instead of a convolutional ResNet-56 on CIFAR-10,
without batch normalization, and 49 points a slice. What counts as reproduced was fixed in the
front matter of README.md and is read from there.

    uv run papers/2018-visualizing-loss-landscape/reproduce.py

Li, Xu, Taylor, Studer, Goldstein (2018), "Visualizing the loss landscape of neural nets",
sections 4, 5 and 6.
"""

from pathlib import Path

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from shared import datasets, plots
from shared.stats import Interval, paired_bootstrap
from shared.study import PositiveInt, Run, cli
from week09.lanczos import hessian_operator, ritz
from week09.loss_landscape import (
    DeepNet,
    Params,
    cross_entropy_of,
    descend,
    flatten,
    parameters,
    plane,
    random_direction,
    rescale,
    unflatten,
)

README = Path(__file__).with_name("README.md")
RATES = (0.001, 0.004, 0.016)
STEPS_OF_LANCZOS = 12


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


def judge(
    plain: Float[np.ndarray, " seed"],
    residual: Float[np.ndarray, " seed"],
    margin: float,
    rng: np.random.Generator,
) -> tuple[str, Interval]:
    """Verdict on "plain exceeds residual by the margin", paired by seed.

    Reproduced: the mean difference reaches the margin and every seed has its sign. Otherwise
    inconclusive if the 95% paired-bootstrap interval covers the margin, else not reproduced.
    """
    if margin <= 0:
        raise ValueError(f"margin must be positive, got {margin}")
    interval = paired_bootstrap(plain, residual, rng=rng)
    if interval.mean >= margin and bool((plain > residual).all()):
        return "reproduced", interval
    covers = interval.low < margin < interval.high
    return ("inconclusive" if covers else "not reproduced"), interval


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
    """|λ_min / λ_max| of the Hessian over the unmasked weights at each point; 0 where it is flat.

    λ_min counts only where it is negative: a positive one makes a point convex.
    """
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
    starts = torch.stack([
        model.initialize(torch.Generator().manual_seed(seed)) for seed in seeds
    ])  # fmt: skip
    theta = starts
    for after in descend(model, starts, data[0], data[1], lr=lr, batch=400, steps=steps,
                         generator=torch.Generator().manual_seed(seeds[0]), optimizer="adam",
                         schedule="cosine"):  # fmt: skip
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
        model, theta = train(depth, skip, [s for s in seeds for _ in RATES],
                             list(RATES) * len(seeds), steps, data)  # fmt: skip
        loss = cross_entropy_of(model, data[0], data[1])
        losses = np.array([float(loss(t)) for t in theta]).reshape(len(seeds), -1)
        best[skip] = RATES[int(np.log(losses).mean(0).argmin())]
        run.metric(f"best learning rate, {_name(skip)}", best[skip], rtol=None)
    run.claim("no best learning rate is at the edge of the grid",
              all(RATES[0] < rate < RATES[-1] for rate in best.values()),
              f"plain {best[False]}, residual {best[True]} of {RATES}", quick=False)  # fmt: skip
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
    paper = front_matter(README.read_text(encoding="utf-8"))
    depth = run.budget(quick=min(depth, 12), default=depth)
    pairs = run.budget(quick=1, default=pairs)
    side, rows = run.budget(quick=3, default=7), run.budget(quick=50, default=64)
    steps = run.budget(quick=30, default=600)
    seeds = [run.seed + s for s in range(run.budget(quick=2, default=3, full=8))]
    data = digits()
    _check_curvature(run)
    rates = tune(run, depth, steps, data)
    measured, ratios, nets = {}, {}, {}
    for d in (depth, paper["falsifier"]["depth"]):
        for skip in (False, True):
            model, theta = train(d, skip, seeds, [rates[skip]] * len(seeds), steps, data)
            nets[d, skip] = model, theta
            loss = cross_entropy_of(model, data[0], data[1])
            measured[d, skip, "test error"] = np.array([test_error(model, t, data) for t in theta])
            run.metric(f"training loss, {d} layers, {_name(skip)}",
                       np.mean([float(loss(t)) for t in theta]), "nats", rtol=None)  # fmt: skip
            for radius in paper["radii"] if d == depth else paper["radii"][:1]:
                ratio = np.stack([
                    slices(model, t, data, radius, pairs, side, rows) for t in theta
                ])  # fmt: skip
                ratios[d, skip, radius] = ratio
                share = (ratio > paper["threshold"]).mean((1, 2))
                measured[d, skip, f"share {radius}"] = 100 * share
                measured[d, skip, f"median {radius}"] = np.median(ratio.reshape(len(ratio), -1), 1)
    _report(run, paper, depth, measured, len(seeds))
    _rescaled(run, nets[depth, False], data, rows)
    _figure(run, paper, depth, ratios, measured)


def _name(skip: bool) -> str:
    return "residual" if skip else "plain"


def _report(run: Run, paper: dict, depth: int, measured: dict, n: int) -> None:
    for (d, skip, what), values in measured.items():
        unit = "" if what.startswith("median") else "%"
        run.metric(f"{what}, {d} layers, {_name(skip)}", values.mean(), unit, rtol=None)
        run.metric(f"SD of {what}, {d} layers, {_name(skip)}", values.std(ddof=1), unit,
                   rtol=None)  # fmt: skip
    strength = "direction only" if n < 8 else "8 seeds"
    for rule in paper["rules"]:
        plain, residual = (measured[depth, skip, rule["measure"]] for skip in (False, True))
        verdict, gap = judge(plain, residual, rule["margin"], run.rng)
        run.verdict(rule["name"], verdict,
                    f"plain {plain.mean():.3g}, residual {residual.mean():.3g}; difference "
                    f"{gap.mean:.3g} [{gap.low:.3g}, {gap.high:.3g}], margin {rule['margin']}, "
                    f"right sign {int((plain > residual).sum())} of {n} seeds ({strength})",
                    )  # fmt: skip
    falsifier, details, fails = paper["falsifier"], [], []
    for rule in paper["rules"]:
        if rule["name"] in falsifier["rules"]:
            arms = (measured[falsifier["depth"], s, rule["measure"]] for s in (False, True))
            plain, residual = arms
            verdict, gap = judge(plain, residual, rule["margin"], run.rng)
            fails.append(verdict != "reproduced")
            details.append(f"{rule['measure']}: difference {gap.mean:.3g}, margin {rule['margin']}")
    run.claim(f"at {falsifier['depth']} layers the same rules fail", all(fails),
              "; ".join(details), quick=False)  # fmt: skip


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
    kept = mask.bool()
    exact = []
    for point in points:
        values = torch.linalg.eigvalsh(torch.func.hessian(loss)(point)[kept][:, kept])
        exact.append(float(max(-values[0], 0) / values[-1]))
    ours = curvature_ratios(loss, points, mask, generator, steps=60)
    run.check("curvature ratios on a 3 × 3 grid", ours, exact,
              against="torch.func.hessian and eigvalsh, point by point", atol=1e-8,
              why="Lanczos has converged after 60 steps")  # fmt: skip


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
    run.check("normalized plot of a network and of its rescaled twin", drawn["filter", "twin"],
              drawn["filter", "net"], against="invariance to scale (section 4)", atol=1e-6,
              why="float64 rounding through 56 layers far from the minimum")  # fmt: skip
    change = float((drawn["none", "twin"] - drawn["none", "net"]).abs().max())
    run.claim("the plot that is not normalized changes", change > 0.1,
              f"log loss differs by up to {change:.2f}; 0.1 asked for", quick=False)  # fmt: skip
    net[0].float()


def _figure(run: Run, paper: dict, depth: int, ratios: dict, measured: dict) -> None:
    radii = paper["radii"]
    title = "How mixed is the curvature? |λmin / λmax| on slices through the minimum"
    with run.figure("ratios", title, 2, 3, size=(9.8, 5.9),
                    gridspec_kw={"width_ratios": [1, 1, 1.05]}) as axes:  # fmt: skip
        for row, radius in enumerate(radii):
            for column, skip in enumerate((False, True)):
                ax = axes[row, column]
                ratio = ratios[depth, skip, radius][0, 0]
                side = int(np.sqrt(len(ratio)))
                image = ax.imshow(ratio.reshape(side, side).T, origin="lower", vmin=0, vmax=1,
                                  cmap="cividis", extent=(-radius, radius, -radius, radius),
                                  )  # fmt: skip
                ax.grid(visible=False)
                ax.set(xlabel="α", ylabel="β", xticks=[-radius, 0, radius],
                       yticks=[-radius, 0, radius])  # fmt: skip
                ax.set_title(f"{_name(skip)}, |α|, |β| ≤ {radius:g}", fontsize=10.5,
                             weight="normal")  # fmt: skip
            axes[row, 2].remove()
        figure = axes[0, 0].figure
        figure.colorbar(image, ax=axes[:, :2], location="left", shrink=0.6, extend="max",
                        label="|λmin / λmax|")  # fmt: skip
        grid = axes[0, 0].get_gridspec()
        right = figure.add_subplot(grid[:, 2])
        for skip, color in ((False, plots.ORANGE), (True, plots.BLUE)):
            for radius, ls in zip(radii, ("-", "--"), strict=True):
                values = np.sort(ratios[depth, skip, radius].ravel())
                at_least = 100 * (1 - np.arange(len(values)) / len(values))
                right.plot(np.clip(values, 1e-3, 3), at_least, color=color, ls=ls,
                           label=f"{_name(skip)}, ±{radius:g}")  # fmt: skip
        right.axvline(paper["threshold"], color=plots.REFERENCE, ls=":", lw=1.3)
        right.annotate("threshold\n0.05", (paper["threshold"], 4), (-5, 0), ha="right",
                       textcoords="offset points", fontsize=9, color=plots.REFERENCE)  # fmt: skip
        right.set(xscale="log", xlim=(1e-3, 3), ylim=(0, 102),
                  xlabel="ratio", ylabel="points with at least this ratio, %")  # fmt: skip
        right.set_title("All seeds and directions", fontsize=10.5, weight="normal")
        right.legend(loc="lower left", fontsize=9, bbox_to_anchor=(-0.02, 0.13), handlelength=1.5)
    with run.figure("errors", "What do shortcuts do to the test error?", columns=2,
                    size=(8.6, 4.0)) as (left, right):  # fmt: skip
        left.bar([0, 1], list(paper["paper_errors"].values()), width=0.55,
                 color=[plots.ORANGE, plots.BLUE], alpha=0.55)  # fmt: skip
        left.set_title("The paper: ResNet-56, CIFAR-10\n(from memory, not verified)", fontsize=10.5,
                       weight="normal")  # fmt: skip
        for skip, color in ((False, plots.ORANGE), (True, plots.BLUE)):
            values = measured[depth, skip, "test error"]
            right.bar(int(skip), values.mean(), width=0.55, color=color)
            right.plot(np.full(len(values), int(skip)), values, "o", color=plots.REFERENCE, ms=5)
        right.set_title(f"Here: {depth} dense layers, digits\n(bars: mean, dots: seeds)",
                        fontsize=10.5, weight="normal")  # fmt: skip
        for ax in (left, right):
            ax.set_xticks([0, 1], ["without\nshortcuts", "with"])
            ax.set_ylabel("test error, %")
            ax.grid(axis="x", visible=False)


if __name__ == "__main__":
    cli(main)
