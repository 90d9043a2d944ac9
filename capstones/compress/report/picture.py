"""The picture of the README: what rows lose, against bytes and against the time of a token."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress.benchmark.lines import lines
from compress.report.scatter import Point
from compress.report.sides import sides
from shared import plots


def write_picture(record: Mapping[str, Any], path: Path) -> None:
    """Write it as PNG."""
    found = sides(lines(record))
    with plots.style():
        figure, axes = plots.subplots(1, len(found), size=(7.5 * len(found), 5.2), squeeze=False)
        for (title, unit, points), one in zip(found, axes.flat, strict=True):
            _draw(one, points, unit)
            one.set_title(title)
        plots.save(figure, path)


def _draw(axes: Any, points: Sequence[Point], unit: str) -> None:
    front = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    along = [point.cost for point in front], [point.perplexity for point in front]
    axes.plot(*along, "-", color="C0", zorder=1)
    for point in points:
        style = {"color": "C0"} if point.on_front else {"facecolor": "none", "edgecolor": "0.45"}
        axes.scatter(point.cost, point.perplexity, zorder=2, **style)
    axes.set(yscale="log", xlabel=unit, ylabel="perplexity", xlim=(0, None))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    ordered = sorted(points, key=lambda point: point.perplexity)
    for i, point in enumerate(ordered):
        height = i / max(1, len(ordered) - 1)  # labels beside the axes, in the order of the dots
        text = {"xytext": (1.02, height), "textcoords": "axes fraction", "fontsize": 8}
        arrow = {"arrowstyle": "-", "color": "0.8", "lw": 0.6, "relpos": (0, 0.5)}
        weight = "bold" if point.on_front else "normal"
        place = (point.cost, point.perplexity)
        axes.annotate(point.name, place, weight=weight, va="center", arrowprops=arrow, **text)
