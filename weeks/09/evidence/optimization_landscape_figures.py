"""The six surfaces with the paths down, as a figure and as an animation."""

import io
from itertools import pairwise

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D
from PIL import Image

from shared import plots
from shared.artifacts import write_atomic
from shared.study import Run
from week09.optimization_landscape import OPTIMIZERS, SURFACES, Surface, descend

COLORS = {
    "SGD": "#FFFFFF",
    "momentum": plots.YELLOW,
    "Nesterov": plots.SKY,
    "RMSProp": plots.GREEN,
    "Adam": plots.ORANGE,
    "Muon": plots.PINK,
}
HEAD = {"marker": "o", "mec": "black", "mew": 0.8, "ms": 6, "zorder": 6}
Rates = dict[tuple[str, str], float]


def draw_background(axes, surface: Surface) -> None:
    """Filled contours of log(f - least), dark where it is low."""
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 220), np.linspace(bottom, top, 220))
    points = torch.from_numpy(np.stack([x, y], -1))
    height = (surface.value(points) - surface.least + 1e-2).log().numpy()
    tones = ListedColormap(colormaps["bone"](np.linspace(0.12, 0.72, 18)))
    axes.contourf(x, y, height, levels=18, cmap=tones)
    axes.contour(x, y, height, levels=18, colors="white", linewidths=0.3, alpha=0.35)
    for minimum in surface.minima:
        if left < minimum[0] < right and bottom < minimum[1] < top:
            axes.plot(*minimum, "*", color="white", mec="black", mew=0.7, ms=13, zorder=5)
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)


def paths_on(surface: Surface, rates: Rates, steps: int) -> dict[str, np.ndarray]:
    """The path of every optimizer from the surface's start, (steps + 1, 2)."""
    start = torch.tensor([surface.start], dtype=torch.float64)
    return {
        name: descend(make, rates[surface.name, name], surface.gradient, start, steps)[:, 0].numpy()
        for name, make in OPTIMIZERS.items()
    }


def draw_legend(figure) -> None:
    """The optimizers' colors below, on a dark ground, since one of them is white."""
    handles = [Line2D([], [], color=color) for color in COLORS.values()]
    look = {"facecolor": "#2F3B4C", "framealpha": 1, "frameon": True, "labelcolor": "white"}
    figure.legend(handles, list(COLORS), loc="outside lower center", ncols=6, **look)


def draw_paths(run: Run, rates: Rates) -> None:
    """Six surfaces with the paths of all optimizers from one start each."""
    steps = run.budget(quick=20, default=250)
    title = "Six ways down from the same point, each at its own best learning rate"
    with run.figure("paths", title, 2, 3, size=(9.6, 6.9)) as grid:
        for axes, surface in zip(grid.flat, SURFACES, strict=True):
            draw_background(axes, surface)
            for name, path in paths_on(surface, rates, steps).items():
                axes.plot(*path.T, color="black", lw=2.6, alpha=0.5, solid_joinstyle="round")
                axes.plot(*path.T, color=COLORS[name], lw=1.5, solid_joinstyle="round")
                axes.plot(*path[-1], color=COLORS[name], **HEAD)
            axes.plot(*surface.start, "s", color="white", mec="black", ms=7, zorder=7)
            axes.set_title(surface.name, fontsize=12, weight="normal")
        draw_legend(grid[0, 0].figure)


def animate(run: Run, rates: Rates) -> None:
    """Write the saddle and Rosenbrock's valley as an animated PNG (any viewer shows its end)."""
    steps = run.budget(quick=6, default=120)
    times = np.unique(np.geomspace(1, steps, run.budget(quick=3, default=58)).astype(int))
    title = "Who leaves the saddle first, who follows the bend?"
    with plots.style():
        figure, both = plots.subplots(1, 2, size=(7.2, 3.7))
        figure.suptitle(title, x=0.01, ha="left", weight="bold", size=12)
        draw_legend(figure)
        moving = []
        for axes, surface in zip(both, SURFACES[1:3], strict=True):
            draw_background(axes, surface)
            for name, path in paths_on(surface, rates, steps).items():
                (line,) = axes.plot([], [], color=COLORS[name], lw=1.6, animated=True)
                (head,) = axes.plot([], [], color=COLORS[name], animated=True, **HEAD)
                moving.append((axes, path, line, head))
        look = {"color": "white", "transform": both[0].transAxes, "animated": True}
        step = both[0].text(0.03, 0.04, "", **look)
        figure.set_dpi(88)
        figure.canvas.draw()
        still, frames = figure.canvas.copy_from_bbox(figure.bbox), []
        for t in (0, *times):
            figure.canvas.restore_region(still)
            step.set_text(f"step {t}")
            for axes, path, line, head in moving:
                line.set_data(*path[: t + 1].T)
                head.set_data(*path[t : t + 1].T)
                axes.draw_artist(line)
                axes.draw_artist(head)
            both[0].draw_artist(step)
            frames.append(Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB"))
        plots.plt.close(figure)
    data = animated_png(frames, milliseconds=120, last=2500)
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
    durations, file = [milliseconds] * (len(frames) - 1) + [last], io.BytesIO()
    options = {"default_image": True, "loop": 0, "disposal": 0, "blend": 1, "transparency": clear}
    options |= {"save_all": True, "append_images": images[1:], "duration": durations}
    images[0].save(file, "png", **options)
    return file.getvalue()
