"""A scatter of rows as SVG: what a form costs against what it loses, the best joined by a line.

>>> drawn = scatter([Point("a", 1, 10, True), Point("<b>", 3, 1000, False)], "MB")
>>> "&lt;b&gt;" in drawn, "<b>" in drawn
(True, False)
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH, LEFT, TOP, BOTTOM, RIGHT = 820, 56, 14, 46, 240
TALL, GAP = 340, 15  # least height of the plot, and distance of two labels


class Point(NamedTuple):
    """A row: what it costs, its perplexity, and whether no other one is better in both."""

    name: str
    cost: float
    perplexity: float
    on_front: bool


def scatter(points: Sequence[Point], unit: str) -> Markup:
    """The picture; perplexity on a logarithmic scale, so that a ruined row hides no other."""
    step = nice(max(point.cost for point in points) / 4)
    most = step * math.ceil(max(point.cost for point in points) * 1.02 / step)
    ends = [math.log(point.perplexity) for point in points]
    low, high = min(ends) - 0.05, max(ends) + 0.05
    tall = max(TALL, GAP * len(points))
    right, floor = WIDTH - RIGHT, TOP + tall

    def x(cost: float) -> str:
        return f"{LEFT + cost / most * (right - LEFT):.1f}"

    def y(perplexity: float) -> str:
        return f"{TOP + (high - math.log(perplexity)) / (high - low) * tall:.1f}"

    parts = []
    for mark in marks(math.exp(low), math.exp(high)):
        parts.append(f'<path class="grid" d="M{LEFT} {y(mark)}H{right}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 6}" y="{y(mark)}" dy="4">{mark:g}</text>')
    for i in range(round(most / step) + 1):
        place = f'x="{x(i * step)}" y="{floor + 18}"'
        parts.append(f'<text class="below" {place}>{i * step:g}</text>')
    front = sorted((point for point in points if point.on_front), key=lambda point: point.cost)
    line = "L".join(f"{x(point.cost)} {y(point.perplexity)}" for point in front)
    parts.append(f'<path class="front" d="M{line}"/>' if line else "")
    ordered = sorted(points, key=lambda point: -point.perplexity)
    for i, point in enumerate(ordered):
        kind = "best" if point.on_front else "other"
        at = x(point.cost), y(point.perplexity)
        beside = f"{TOP + i * tall / max(1, len(points) - 1):.1f}"
        told = f"{point.name}: {point.cost:.4g} {unit}, perplexity {point.perplexity:.2f}"
        parts.append(f'<path class="lead-line" d="M{at[0]} {at[1]}L{right + 4} {beside}"/>')
        parts.append(
            f'<circle class="{kind}" cx="{at[0]}" cy="{at[1]}" r="4.5">'
            f"<title>{escape(told)}</title></circle>"
        )
        place = f'x="{right + 8}" y="{beside}" dy="4"'
        parts.append(f'<text class="{kind}" {place}>{escape(point.name)}</text>')
    middle = f'x="{(LEFT + right) / 2}" y="{floor + 40}"'
    parts.append(f'<text class="below" {middle}>{escape(unit)}</text>')
    view = f'viewBox="0 0 {WIDTH} {floor + BOTTOM}" role="img"'
    label = escape(f"Perplexity against {unit}")
    return Markup(f'<svg class="scatter" {view} aria-label="{label}">{"".join(parts)}</svg>')


def nice(raw: float) -> float:
    """The next round number: 1, 2, 5, 10, …

    >>> nice(0.3), nice(7)
    (0.5, 10.0)
    """
    power = 10.0 ** math.floor(math.log10(raw))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))


def marks(low: float, high: float) -> list[float]:
    """Round numbers between two, on a logarithmic scale: 1, 2, 5, 10, …

    >>> marks(8, 120)
    [10, 20, 50, 100]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [m * 10**p for p in powers for m in (1, 2, 5)]
    return [mark for mark in found if low <= mark <= high] or [float(f"{low:.2g}")]
