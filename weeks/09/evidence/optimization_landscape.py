"""Checks, claims and figures of optimization_landscape."""

import io
import math
from itertools import pairwise

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from PIL import Image

from shared import plots
from shared.artifacts import write_atomic
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week09.optimization_landscape import (
    OPTIMIZERS,
    SURFACES,
    Surface,
    descend,
    ravine_gradient,
    rosenbrock,
    rosenbrock_gradient,
    saddle_gradient,
    scatter,
    score,
    tune,
)

COLORS = {
    "SGD": "#FFFFFF",
    "momentum": plots.YELLOW,
    "Nesterov": plots.SKY,
    "RMSProp": plots.GREEN,
    "Adam": plots.ORANGE,
    "Muon": plots.PINK,
}
ON_WHITE = COLORS | {"SGD": plots.REFERENCE, "Nesterov": plots.BLUE}


def check_surfaces(run: Run) -> None:
    """Values, gradients and minima against autograd, scipy and the literature."""
    from scipy.optimize import minimize, rosen, rosen_der

    points = 6 * torch.rand(50, 2, generator=run.generator(1), dtype=torch.float64) - 3
    ours, theirs, found, listed = [], [], [], []
    for surface in SURFACES:
        p = points.clone().requires_grad_()
        surface.value(p).sum().backward()
        size = p.grad.abs().max()
        ours.append(surface.gradient(points) / size)
        theirs.append(p.grad / size)
        for minimum in surface.minima:

            def value(x, surface=surface):
                x = torch.tensor(x)
                return float(surface.value(x)), surface.gradient(x).numpy()

            near = np.array(minimum, dtype=float) + 0.05
            result = minimize(value, near, jac=True, method="BFGS", options={"gtol": 1e-9})
            found.append([*result.x, result.fun])
            listed.append([*minimum, surface.least])
    run.check("gradients / largest, all surfaces", torch.stack(ours), torch.stack(theirs),
              against="torch.autograd", atol=1e-14, why="float64 rounding")  # fmt: skip
    run.check("minima and least values", np.array(listed), np.array(found),
              against="scipy.optimize.minimize", atol=1e-6,
              why="the literature gives Himmelblau's to 6 decimals")  # fmt: skip
    both = torch.cat([rosenbrock(points), rosenbrock_gradient(points).flatten()])
    x = points.numpy().T
    reference = np.concatenate([rosen(x), rosen_der(x).T.ravel()])
    run.check("Rosenbrock's value and gradient", both, reference,
              against="scipy.optimize.rosen", rtol=1e-11, atol=1e-11,
              why="float64 rounding")  # fmt: skip


def check_paths(run: Run) -> None:
    """Each optimizer's path on Rosenbrock's valley against torch's, with autograd's gradients."""
    theirs = {
        "SGD": lambda p: torch.optim.SGD(p, lr=1e-3),
        "momentum": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9),
        "Nesterov": lambda p: torch.optim.SGD(p, lr=1e-3, momentum=0.9, nesterov=True),
        "RMSProp": lambda p: torch.optim.RMSprop(p, lr=1e-3),
        "Adam": lambda p: torch.optim.Adam(p, lr=1e-3),
    }
    start = torch.tensor([[-1.2, 1.0]], dtype=torch.float64)
    for name, make in theirs.items():
        p = start.clone().requires_grad_()
        optimizer, path = make([p]), [start]
        for _ in range(100):
            optimizer.zero_grad()
            rosenbrock(p).sum().backward()
            optimizer.step()
            path.append(p.detach().clone())
        run.check(f"{name}: 100 steps in Rosenbrock's valley",
                  descend(OPTIMIZERS[name], 1e-3, rosenbrock_gradient, start, 100),
                  torch.stack(path), against="torch.optim with autograd", atol=1e-11,
                  why="rounding of two formulas for one gradient, over 100 steps")  # fmt: skip


def compare(run: Run, steps: int) -> dict[tuple[str, str], float]:
    """The best learning rate of each optimizer on each surface; scores on fresh starts drawn."""
    lrs = torch.logspace(-4, 1.5, run.budget(quick=4, default=12), dtype=torch.float64)
    n_tune, n_test = run.budget(quick=2, default=6), run.budget(quick=4, default=16)
    rates, results, edges = {}, {}, []
    for number, surface in enumerate(run.progress(SURFACES, "surfaces")):
        tuning = scatter(surface, n_tune, run.generator(100 + number))
        fresh = scatter(surface, n_test, run.generator(200 + number))
        for name, make in OPTIMIZERS.items():
            best, _ = tune(make, surface, tuning, lrs, steps)
            if best in (0, len(lrs) - 1):
                edges.append(f"{name} on {surface.name}")
            rates[surface.name, name] = float(lrs[best])
            path = descend(make, float(lrs[best]), surface.gradient, fresh, steps)
            results[surface.name, name] = score(surface, path).numpy()
    run.claim("no best learning rate lies on the grid's edge", not edges,
              f"{len(lrs)} rates from 1e-4 to 31.6 for each of {len(rates)} pairs; on the edge:"
              f" {', '.join(edges) or 'none'}", quick=False)  # fmt: skip
    wins = dict.fromkeys(OPTIMIZERS, 0)
    for surface in SURFACES:
        means = {name: results[surface.name, name].mean() for name in OPTIMIZERS}
        wins[min(means, key=means.get)] += 1
        for name, mean in means.items():
            run.metric(f"mean log10 gap on {surface.name}, {name}", mean, rtol=None)
    run.claim("no optimizer is the best on every surface", max(wins.values()) < len(SURFACES),
              "surfaces won: " + ", ".join(f"{k} {v}" for k, v in wins.items()),
              quick=False)  # fmt: skip
    gap = mean_interval(results["ravine", "momentum"] - results["ravine", "SGD"])
    run.claim("in the ravine, momentum gets further than SGD", gap.high < 0,
              f"difference of the mean log10 (f - f*) over {steps} steps: {gap}",
              quick=False)  # fmt: skip
    bowl = Surface("round bowl", lambda p: (p**2).sum(-1) / 2, lambda p: p, ((0, 0),), 0.0,
                   SURFACES[0].window, SURFACES[0].start)  # fmt: skip
    fresh, ends = scatter(bowl, n_test, run.generator(300)), {}
    for name in ("SGD", "momentum"):
        best, _ = tune(OPTIMIZERS[name], bowl, fresh, lrs, 40)
        path = descend(OPTIMIZERS[name], float(lrs[best]), bowl.gradient, fresh, 40)
        ends[name] = score(bowl, path).mean().item()
    run.claim("falsifier: in a round bowl momentum has nothing to offer",
              ends["SGD"] <= ends["momentum"],
              f"mean log10 (f - f*) over 40 steps: SGD {ends['SGD']:.1f}, momentum"
              f" {ends['momentum']:.1f}", quick=False)  # fmt: skip

    title = "Who gets down first? It depends on the surface"
    with run.figure("scores", title, columns=6, size=(9.6, 3.4), sharey=True) as axes:
        for ax, surface in zip(axes, SURFACES, strict=True):
            for row, name in enumerate(OPTIMIZERS):
                values, color = results[surface.name, name], ON_WHITE[name]
                interval = mean_interval(values)
                ax.plot(values, np.full(len(values), row), ".", color=color, alpha=0.3, ms=5, mew=0)
                ax.plot([interval.low, interval.high], [row, row], color=color, lw=3, alpha=0.5)
                ax.plot(interval.mean, row, "o", color=color, ms=7)
            ax.set_title(surface.name, fontsize=11, weight="normal")
            ax.set(xlim=(-6.2, 2.4), xticks=[-6, -3, 0])
            ax.set_ylim(5.6, -0.6)
        axes[0].set_yticks(range(6), list(OPTIMIZERS))
        axes[0].figure.supxlabel(
            f"$\\log_{{10}}(f - f^*)$, mean over {steps} steps: left is better"
            f" (small dots: {n_test} fresh starts)", fontsize=11,
        )  # fmt: skip
    return rates


# ---- drawing


def _background(ax, surface: Surface) -> None:
    """Filled contours of log(f - least), dark where it is low."""
    left, right, bottom, top = surface.window
    x, y = torch.meshgrid(
        torch.linspace(left, right, 220, dtype=torch.float64),
        torch.linspace(bottom, top, 220, dtype=torch.float64), indexing="xy",
    )  # fmt: skip
    height = (surface.value(torch.stack([x, y], -1)) - surface.least + 1e-2).log().numpy()
    tones = ListedColormap(colormaps["bone"](np.linspace(0.12, 0.72, 18)))
    ax.contourf(x, y, height, levels=18, cmap=tones)
    ax.contour(x, y, height, levels=18, colors="white", linewidths=0.3, alpha=0.35)
    for minimum in surface.minima:
        if left < minimum[0] < right and bottom < minimum[1] < top:
            ax.plot(*minimum, "*", color="white", mec="black", mew=0.7, ms=13, zorder=5)
    ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _path(surface: Surface, name: str, rate: float, steps: int) -> np.ndarray:
    start = torch.tensor([surface.start], dtype=torch.float64)
    return descend(OPTIMIZERS[name], rate, surface.gradient, start, steps)[:, 0].numpy()


def draw_paths(run: Run, rates: dict[tuple[str, str], float]) -> None:
    """Six surfaces with the paths of all optimizers from one start each."""
    steps = run.budget(quick=40, default=250)
    title = "Six ways down from the same point, each at its own best learning rate"
    with run.figure("paths", title, 2, 3, size=(9.6, 6.9)) as axes:
        for ax, surface in zip(axes.flat, SURFACES, strict=True):
            _background(ax, surface)
            for name, color in COLORS.items():
                x, y = _path(surface, name, rates[surface.name, name], steps).T
                ax.plot(x, y, color="black", lw=2.6, alpha=0.5, solid_joinstyle="round")
                ax.plot(x, y, color=color, lw=1.5, label=name, solid_joinstyle="round")
                ax.plot(x[-1], y[-1], "o", color=color, mec="black", mew=0.8, ms=6, zorder=6)
            ax.plot(*surface.start, "s", color="white", mec="black", ms=7, zorder=7)
            ax.set_title(surface.name, fontsize=12, weight="normal")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        legend = axes[0, 0].figure.legend(handles, labels, loc="outside lower center", ncols=6,
                                          facecolor="#2F3B4C", framealpha=1,
                                          frameon=True)  # fmt: skip
        for text in legend.get_texts():
            text.set_color("white")


def animate(run: Run, rates: dict[tuple[str, str], float]) -> None:
    """Write the saddle and Rosenbrock's valley as an animated PNG (any viewer shows its end)."""
    shown = [s for s in SURFACES if s.name in ("saddle", "Rosenbrock")]
    steps = run.budget(quick=6, default=120)
    times = np.unique(np.geomspace(1, steps, run.budget(quick=3, default=58)).astype(int))
    title = "Who leaves the saddle first, who follows the bend?"
    with plots.style():
        figure, axes = plots.subplots(1, 2, size=(7.2, 3.7))
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        moving = []
        for ax, surface in zip(axes, shown, strict=True):
            _background(ax, surface)
            for name, color in COLORS.items():
                path = _path(surface, name, rates[surface.name, name], steps)
                (line,) = ax.plot([], [], color=color, lw=1.6, animated=True)
                (head,) = ax.plot(
                    [], [], "o", color=color, mec="black", mew=0.8, ms=7, animated=True
                )
                moving.append((ax, path, line, head))
        handles = [line for _, _, line, _ in moving[: len(COLORS)]]
        legend = figure.legend(handles, list(COLORS), loc="outside lower center", ncols=6,
                               facecolor="#2F3B4C", framealpha=1, frameon=True)  # fmt: skip
        for text in legend.get_texts():
            text.set_color("white")
        step = axes[0].text(
            0.03, 0.04, "", transform=axes[0].transAxes, color="white", animated=True
        )
        figure.set_dpi(88)
        figure.canvas.draw()
        still, frames = figure.canvas.copy_from_bbox(figure.bbox), []
        for t in (0, *times):
            figure.canvas.restore_region(still)
            step.set_text(f"step {t}")
            for ax, path, line, head in moving:
                line.set_data(*path[: t + 1].T)
                head.set_data(*path[t : t + 1].T)
                ax.draw_artist(line)
                ax.draw_artist(head)
            axes[0].draw_artist(step)
            frames.append(Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB"))
        plots.plt.close(figure)
    data = animated_png(frames, milliseconds=120, last=2500)
    run.out.mkdir(parents=True, exist_ok=True)
    name = f"{run.script.stem}_animation.png"
    if len(data) > plots.MAX_PNG_BYTES:
        raise ValueError(f"{name} must be at most {plots.MAX_PNG_BYTES} bytes, got {len(data)}")
    write_atomic(run.out / name, data)
    run.figures.append({"file": name, "title": title + " (animated)"})


def animated_png(frames: list[Image.Image], *, milliseconds: int, last: int) -> bytes:
    """All frames in one palette, each storing only the pixels that changed.

    The still picture that viewers without animation show is the last frame.
    """
    palette = frames[-1].quantize(160, dither=Image.Dither.NONE)
    clear = 255
    pictures = [np.array(f.quantize(palette=palette, dither=Image.Dither.NONE)) for f in frames]
    layers = [pictures[-1], pictures[0]]
    layers += [np.where(new == old, clear, new) for old, new in pairwise(pictures)]
    images = []
    for layer in layers:
        image = Image.fromarray(layer.astype(np.uint8), "P")
        image.putpalette((palette.getpalette() + [0] * 768)[:768])
        images.append(image)
    durations = [milliseconds] * (len(frames) - 1) + [last]
    file = io.BytesIO()
    images[0].save(file, "png", save_all=True, append_images=images[1:], default_image=True,
                   duration=durations, loop=0, disposal=0, blend=1, transparency=clear)  # fmt: skip
    return file.getvalue()


# ---- three facts that a picture cannot prove


def show_saddle(run: Run) -> None:
    """How long until a saddle is left, against how close to its ridge the path begins."""
    distances, lr = torch.logspace(-1, -12, 12, dtype=torch.float64), 0.1
    starts = torch.stack([torch.ones_like(distances), distances], -1)
    limit, left = run.budget(quick=400, default=400), {}
    for name in ("SGD", "momentum", "Adam"):
        y = descend(OPTIMIZERS[name], lr, saddle_gradient, starts, limit)[..., 1].abs().numpy()
        left[name] = (y < 0.5).sum(0)
    growth = np.polyfit(np.log(distances.numpy()), left["SGD"], 1)[0]
    run.check("SGD leaves a saddle: extra steps for an e times smaller start", -growth,
              1 / math.log(1 + lr), against="theory 1 / ln(1 + lr)", rtol=0.02,
              why="whole steps, and the surface bends near the minimum")  # fmt: skip
    run.metric("steps to leave the saddle from 1e-12, SGD", left["SGD"][-1])
    run.metric("steps to leave the saddle from 1e-12, Adam", left["Adam"][-1])
    run.metric("steps to leave the saddle from 1e-1, Adam", left["Adam"][0])
    ridge = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    stuck = max(
        float(descend(make, lr, saddle_gradient, ridge, 100)[..., 1].abs().max())
        for make in OPTIMIZERS.values()
    )
    spread = int(left["Adam"][:7].max() - left["Adam"][:7].min())  # down to 1e-7, above its eps
    run.claim("on the ridge itself no optimizer ever leaves; beside it Adam's time hardly depends"
              " on the distance", stuck == 0 and spread <= 10,
              f"largest |y| from y = 0: {stuck:g}; Adam's steps from 1e-1 to 1e-7 differ by"
              f" {spread}, SGD's by {left['SGD'][6] - left['SGD'][0]}")  # fmt: skip


def show_rotation(run: Run) -> None:
    """Turn the ravine by 45°: SGD's path turns with it, Adam's does not."""
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    start = torch.tensor([[-2.0, 0.4]], dtype=torch.float64)

    turned = _turned(turn)
    paths = {}
    for name in ("SGD", "momentum", "Adam"):
        lr = {"SGD": 0.019, "momentum": 0.01, "Adam": 0.1}[name]
        straight = descend(OPTIMIZERS[name], lr, ravine_gradient, start, 100)
        slanted = descend(OPTIMIZERS[name], lr, turned, start @ turn.T, 100) @ turn
        paths[name] = (straight, slanted)
    for name in ("SGD", "momentum"):
        straight, slanted = paths[name]
        run.check(f"{name}: a turned surface gives the turned path", slanted, straight,
                  against="the straight one", atol=1e-12, why="float64 rounding")  # fmt: skip
    away = float((paths["Adam"][0] - paths["Adam"][1]).norm(dim=-1).max())
    run.claim("Adam's path depends on how the axes lie", away > 0.1,
              f"turned by 45° and back, its path comes out up to {away:.2f} away")  # fmt: skip


def _turned(turn: torch.Tensor):
    """Gradient of the ravine with its axes along the columns of `turn`."""
    return lambda p: ravine_gradient(p @ turn) @ turn.T


def show_rmsprop(run: Run) -> None:
    """RMSProp at an absurd rate: one jump far away, and back like Newton's method."""
    lr, start = 10.0, torch.tensor([[-2.0, 0.4]], dtype=torch.float64)
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2)
    straight = descend(OPTIMIZERS["RMSProp"], lr, ravine_gradient, start, 30)[:, 0]
    slanted = descend(OPTIMIZERS["RMSProp"], lr, _turned(turn), start @ turn.T, 30)[:, 0]
    run.check("RMSProp: its first step is lr / √(1 - α), not lr",
              straight[1] - straight[0], np.array([10 * lr, -10 * lr]), against="closed form",
              rtol=1e-6, why="eps, 1e-8, beside a gradient of 2")  # fmt: skip
    ends = float(straight[-1].norm()), float(slanted[-1].norm())
    run.claim("RMSProp at lr = 10 jumps a hundred away and returns as if it knew the curvatures;"
              " turned by 45°, it does not", ends[0] < 1e-12 and ends[1] > 1e-2,
              f"distance from the minimum after 30 steps: {ends[0]:.0e} along the axes,"
              f" {ends[1]:.2g} turned")  # fmt: skip


def show_muon(run: Run) -> None:
    """Muon on a point: a matrix of one row has one singular value, so every step is as long."""
    lr, start = 0.05, torch.tensor([[-2.0, 0.4]], dtype=torch.float64)
    path = descend(OPTIMIZERS["Muon"], lr, ravine_gradient, start, 400)[:, 0]
    lengths = (path[1:] - path[:-1]).norm(dim=-1) / lr
    rest = float(path[-100:].norm(dim=-1).mean())
    run.metric("Muon in the ravine: mean distance from the minimum at the end / lr", rest / lr,
               rtol=0.1)  # fmt: skip
    run.claim("failure on display: Muon on a single point never settles, its steps do not shrink",
              float(lengths.min()) > 0.6 and float(lengths.max()) < 1.3 and rest > 0.1 * lr,
              f"step lengths {float(lengths.min()):.2f} to {float(lengths.max()):.2f} of lr; mean"
              f" distance over the last 100 of 400 steps {rest / lr:.2f} of lr")  # fmt: skip


def main(run: Run, *, steps: PositiveInt = 250) -> None:
    """Tune six optimizers on six surfaces, judge them on fresh starts, draw and animate them.

    Parameters
    ----------
    steps
        Steps of each path.
    """
    check_surfaces(run)
    check_paths(run)
    rates = compare(run, run.budget(quick=40, default=steps, full=4 * steps))
    draw_paths(run, rates)
    animate(run, rates)
    show_saddle(run)
    show_rotation(run)
    show_muon(run)
    show_rmsprop(run)
