"""One house style for every figure: a question as its title, the reference drawn in, no clutter."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike
from PIL import Image

from shared.artifacts import write_atomic

STYLE = str(Path(__file__).with_name("ml-studies.mplstyle"))

BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GRAY = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#8C8C8C",
)
COLORS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, GRAY)
REFERENCE = "#444444"  # theory, baselines and the paper's values are drawn in this ink

MAX_PNG_BYTES = 150_000


def style() -> AbstractContextManager[None]:
    """Context manager in which matplotlib draws in the house style."""
    return matplotlib.rc_context(fname=STYLE)


def subplots(
    rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (8.0, 4.5), **options
) -> tuple[Figure, Axes | np.ndarray]:
    """A figure in the house style without touching the interactive backend.

    Returns
    -------
    figure, axes
        `axes` is a single `Axes` for one panel, else an array of them.
    """
    with style():
        return plt.subplots(rows, columns, figsize=size, **options)


def save(figure: Figure, path: Path, *, max_bytes: int = MAX_PNG_BYTES) -> None:
    """Write `figure` as a PNG of at most `max_bytes`, atomically, and close it.

    A figure that comes out larger is reduced to 128 colors, which line plots never show and
    photographs hardly do; only then does resolution go.

    Raises
    ------
    ValueError
        If even a quarter of the resolution is too large.
    """
    try:
        with style():
            for dpi in (110, 90, 70, 50, 30):
                buffer = io.BytesIO()
                figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
                if buffer.tell() > max_bytes:
                    buffer = _with_palette(buffer)
                if buffer.tell() <= max_bytes:
                    write_atomic(path, buffer.getvalue())
                    return
    finally:
        plt.close(figure)
    raise ValueError(f"{path.name} does not fit in max_bytes = {max_bytes}, got {buffer.tell()}")


def save_film(
    frames: np.ndarray,
    path: Path,
    *,
    zoom: int = 8,
    seconds: float = 0.2,
    smooth: bool = False,
    max_bytes=MAX_PNG_BYTES,
) -> None:
    """Write pictures, one after the other, as a GIF without end.

    Parameters
    ----------
    frames
        Values from 0 to 1, of shape (frames, height, width) if gray, with 3 behind if colored.
        Colored ones get as many colors as fit into `max_bytes`.
    zoom
        Sides of a pixel; with `smooth` pixels blend into each other.

    Raises
    ------
    ValueError
        If they are no such pictures, or the file is larger than `max_bytes`.
    """
    frames = np.asarray(frames)
    shaped = frames.ndim == 3 or (frames.ndim == 4 and frames.shape[-1] == 3)
    if not shaped or not frames.size or frames.min() < 0 or frames.max() > 1:
        raise ValueError(f"frames must be pictures from 0 to 1, got shape {frames.shape}")
    blend = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    pictures = [Image.fromarray(np.rint(255 * frame).astype(np.uint8)) for frame in frames]
    large = [p.resize([zoom * side for side in p.size], blend) for p in pictures]
    time = {"duration": round(1000 * seconds), "loop": 0}
    for n_colors in (64, 40, 24, 16, 8) if frames.ndim == 4 else (256,):
        few = large
        if frames.ndim == 4:
            few = [p.quantize(n_colors, dither=Image.Dither.NONE) for p in large]
        buffer = io.BytesIO()
        few[0].save(buffer, format="gif", save_all=True, append_images=few[1:], **time)
        if buffer.tell() <= max_bytes:
            return write_atomic(path, buffer.getvalue())
    raise ValueError(f"{path.name} does not fit in max_bytes = {max_bytes}, got {buffer.tell()}")


def _with_palette(png: io.BytesIO) -> io.BytesIO:
    image = Image.open(png).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    smaller = io.BytesIO()
    image.save(smaller, format="png", optimize=True)
    return smaller


def label_lines(axes: Axes, *, gap: float = 0.02, **text) -> None:
    """Write each line's label at its right end instead of in a legend, spread so none overlap.

    Parameters
    ----------
    gap
        Least distance between two labels, as a fraction of the axis height (before the font's own
        height, which is added).
    """
    lines = [line for line in axes.get_lines() if not line.get_label().startswith("_")]
    if not lines:
        return
    figure = axes.figure
    figure.canvas.draw()
    to_axes = axes.transAxes.inverted()
    height = text.get("fontsize", 10) * 1.25 / (axes.get_window_extent().height * 72 / figure.dpi)
    wanted = []
    for line in lines:
        x, y = (np.asarray(v, dtype=float) for v in line.get_data())
        drawn = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
        if not drawn.size:
            continue  # a run that diverged at once has no end to label
        point = to_axes.transform(line.get_transform().transform((x[drawn[-1]], y[drawn[-1]])))
        wanted.append((float(np.clip(point[1], 0.0, 1.0)), line))
    wanted.sort(key=lambda pair: pair[0])
    step = height + gap
    heights = np.array([y for y, _ in wanted])
    for _ in range(200):  # push neighbors apart, a little at a time, until all have room
        overlaps = step - np.diff(heights)
        if (overlaps <= 1e-6).all():
            break
        for i in np.flatnonzero(overlaps > 0):
            heights[i] -= overlaps[i] / 2
            heights[i + 1] += overlaps[i] / 2
    for y, (_, line) in zip(heights, wanted, strict=True):
        axes.annotate(
            line.get_label(),
            (1.01, y),
            xycoords="axes fraction",
            color=line.get_color(),
            va="center",
            annotation_clip=False,
            **{"fontsize": 10, **text},
        )


def interval_band(axes: Axes, x, runs, *, color: str, label: str) -> None:
    """Draw the mean of several runs, its range as a band.

    Parameters
    ----------
    x
        Positions, shape (n,).
    runs
        One row a seed, shape (seeds, n).
    """
    runs = np.asarray(runs, dtype=float)
    if runs.ndim != 2 or runs.shape[1] != len(x):
        raise ValueError(f"runs must have shape (seeds, {len(x)}), got {runs.shape}")
    axes.fill_between(x, runs.min(0), runs.max(0), color=color, alpha=0.18, linewidth=0)
    axes.plot(x, runs.mean(0), color=color, label=label)


def curves(
    axes: Axes,
    x,
    lines: Mapping[str, ArrayLike],
    *,
    colors: Sequence[str] = COLORS,
    marker: str = "",
    reference: Mapping[str, float] | None = None,
    ends: bool = True,
    **labels,
) -> None:
    """One line per name, the mean of its runs with their range as a band, labeled at its end.

    Parameters
    ----------
    x
        Positions, shape (n,); or a mapping with those of each name.
    lines
        Values by name, shape (n,) or (seeds, n).
    reference
        Theory, baselines or the paper's values, by their text: dashed level lines.
    ends
        Label the lines at their ends; else in a legend.
    labels
        What `Axes.set` takes: xlabel, ylabel, xscale, ylim, …
    """
    for (name, runs), color in zip(lines.items(), itertools.cycle(colors), strict=False):
        place = x[name] if isinstance(x, Mapping) else x
        runs = np.atleast_2d(np.asarray(runs, dtype=float))
        interval_band(axes, place, runs, color=color, label=name)
        if marker:
            axes.get_lines()[-1].set_marker(marker)
    for text, level in (reference or {}).items():
        reference_line(axes, level, text)
    axes.set(**labels)  # limits that are left open make room for the references too
    if ends:
        label_lines(axes)
    else:
        axes.legend()


def reference_line(axes: Axes, level: float, text: str) -> None:
    """A dashed level line in the ink of references, its text above its right end."""
    axes.axhline(level, color=REFERENCE, linestyle="--", linewidth=1)
    behind = {"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1}  # over curves too
    style = {"ha": "right", "va": "bottom", "bbox": behind, "zorder": 5}
    _beside(axes, text, (0.99, level), axes.get_yaxis_transform(), **style)


def _beside(axes: Axes, text: str, at: tuple[float, float], place, **style) -> None:
    """The text of a reference, two points above where its line is or ends."""
    style |= {"color": REFERENCE, "fontsize": 9, "annotation_clip": False}
    axes.annotate(text, at, (0, 2), xycoords=place, textcoords="offset points", **style)


def bars(
    axes: Axes,
    values: Mapping[str, ArrayLike],
    *,
    colors: Sequence[str] = (BLUE,),
    reference: Mapping[str, float] | None = None,
    **labels,
) -> None:
    """A horizontal bar per name: the mean of its values, with each of them as a dot.

    Parameters
    ----------
    values
        One number or several per name.
    reference
        As in `curves`, drawn upright.
    """
    for row, runs in enumerate(values.values()):
        runs, color = np.atleast_1d(np.asarray(runs, dtype=float)), colors[row % len(colors)]
        axes.barh(row, runs.mean(), color=color, alpha=0.85, height=0.6)
        if len(runs) > 1:
            axes.plot(runs, [row] * len(runs), "o", color="white", mec=REFERENCE, ms=5)
    axes.set_yticks(range(len(values)), list(values))
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set(**labels)
    for text, level in (reference or {}).items():
        axes.axvline(level, color=REFERENCE, linestyle="--", linewidth=1)
        _beside(axes, text, (level, 1.0), axes.get_xaxis_transform(), ha="center")


def heat_map(
    axes: Axes,
    matrix: ArrayLike,
    *,
    label: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    cmap: str = "Blues",
    limits: tuple[float | None, float | None] = (None, None),
    **labels,
) -> AxesImage:
    """A matrix as colors, with a color bar named `label`; rows and columns may have names."""
    image = axes.imshow(matrix, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    if len(rows):
        axes.set_yticks(range(len(rows)), rows)
    if len(columns):
        axes.set_xticks(range(len(columns)), columns)
    axes.grid(False)
    axes.set(**labels)
    axes.figure.colorbar(image, ax=axes, label=label, shrink=0.85)
    return image
