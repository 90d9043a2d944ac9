"""The picture of the README: what rows lose, against bytes and against the time of a token."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compress.benchmark.lines import Line, lines
from shared import plots


def write_picture(record: Mapping[str, Any], path: Path) -> None:
    """Write it as PNG."""
    found = [line for line in lines(record) if line.perplexity is not None]
    timed = [x for x in found if x.speed and (x.on_fast_front or not x.like)]
    sides = [(found, "MB on the disk", lambda x: x.n_bytes / 1e6, lambda x: x.on_front)]
    if timed:
        count = min(timed[0].speed, key=int)
        unit = f"ms per new token, threads: {count}"
        step = lambda x: 1000 / x.speed[count]["decode_per_second"]  # noqa: E731
        sides.append((timed, unit, step, lambda x: x.on_fast_front))
    with plots.style():
        figure, axes = plots.subplots(1, len(sides), size=(7.5 * len(sides), 5.2), squeeze=False)
        titles = ("What is lost, by bytes", "What is lost, by the time of a token")
        for (side, unit, cost, best), one, title in zip(sides, axes.flat, titles, strict=False):
            _draw(one, side, unit, cost, best)
            one.set_title(title)
        plots.save(figure, path)


def _draw(axes: Any, side: list[Line], unit: str, cost: Any, best: Any) -> None:
    front = sorted((line for line in side if best(line)), key=cost)
    axes.plot([cost(x) for x in front], [x.perplexity for x in front], "-", color="C0", zorder=1)
    for line in side:
        style = {"color": "C0"} if best(line) else {"facecolor": "none", "edgecolor": "0.45"}
        axes.scatter(cost(line), line.perplexity, zorder=2, **style)
    axes.set(yscale="log", xlabel=unit, ylabel="perplexity", xlim=(0, None))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    ordered = sorted(side, key=lambda line: line.perplexity)
    for i, line in enumerate(ordered):
        height = i / max(1, len(ordered) - 1)  # labels beside the axes, in the order of the dots
        text = {"xytext": (1.02, height), "textcoords": "axes fraction", "fontsize": 8}
        arrow = {"arrowstyle": "-", "color": "0.8", "lw": 0.6, "relpos": (0, 0.5)}
        weight = "bold" if best(line) else "normal"
        place = (cost(line), line.perplexity)
        axes.annotate(line.name, place, weight=weight, va="center", arrowprops=arrow, **text)
