"""Pictures of numbers as SVG: rows on a common scale, and a curve of reliability.

A row's picture is stretched to the width there is; its dots are round ends of strokes, which do
not stretch. Labels and values are text beside it, so that they wrap, can be searched and are read
aloud.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 1000, 22  # of a row, in its own units


@dataclass(frozen=True)
class Row:
    """A line of a plot.

    Attributes
    ----------
    neutral, detectable
        Where no bias would be, and the gap around it that the documents cannot show.
    others
        Further values to mark, such as those with other prompts.
    """

    label: str
    part: str
    value: float
    low: float | None
    high: float | None
    text: str
    neutral: float | None = None
    detectable: float | None = None
    others: tuple[float, ...] = ()


@dataclass(frozen=True)
class Plot:
    """Rows on one scale, and the numbers below it."""

    title: str
    note: str
    rows: list[tuple[Row, Markup]]
    ticks: list[str]


def plot(title: str, note: str, rows: Sequence[Row], *, unit: bool = True) -> Plot:
    """Draw rows on the scale that holds them all, from 0 to 1 if `unit` and they are shares."""
    low, high, step = scale(rows, unit=unit)
    n = round((high - low) / step)
    ticks = [f"{round(low + i * step, 12):g}" for i in range(n + 1)]
    return Plot(title, note, [(row, _drawn(row, low, high, n)) for row in rows], ticks)


def scale(rows: Sequence[Row], *, unit: bool = True) -> tuple[float, float, float]:
    """The ends of a scale and the step between its marks."""
    ends = [x for row in rows for x in (row.value, row.low, row.high, row.neutral, *row.others)]
    for row in rows:
        if row.neutral is not None and row.detectable is not None:
            ends += [row.neutral - row.detectable, row.neutral + row.detectable]
    known = [x for x in ends if x is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    gaps = any(row.neutral is not None for row in rows)
    if unit and not gaps and low >= 0 and high <= 1:
        return 0.0, 1.0, 0.25
    if not gaps and low >= 0:
        low = 0.0
    if high - low <= 1e-9 * max(abs(low), abs(high)):  # all at one place
        width = abs(high) or 1.0
        low, high = low - (width if gaps else 0.0), high + width
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * (1 - 1e-9))
    return math.floor(low / step) * step, math.ceil(high / step) * step, step


def _drawn(row: Row, low: float, high: float, n: int) -> Markup:
    """A row's picture; all of it is numbers, so that nothing needs escaping."""

    def x(value: float) -> float:
        return round((value - low) / (high - low) * WIDTH, 1)

    middle = HEIGHT / 2
    shapes = [
        f'<path class="grid" d="M{x(low + (high - low) * i / n)} 0V{HEIGHT}"/>'
        for i in range(n + 1)
    ]
    if row.neutral is not None:
        if row.detectable is not None:
            a, b = x(row.neutral - row.detectable), x(row.neutral + row.detectable)
            shapes.append(
                f'<rect class="unseen-gap" x="{a}" y="3" width="{b - a:.1f}" '
                f'height="{HEIGHT - 6}"/>'
            )
        shapes.append(f'<path class="neutral" d="M{x(row.neutral)} 0V{HEIGHT}"/>')
    if row.low is not None and row.high is not None:
        shapes.append(f'<path class="whisker" d="M{x(row.low)} {middle}H{x(row.high)}"/>')
    shapes += [f'<path class="other" d="M{x(value)} {middle}h0"/>' for value in row.others]
    shapes.append(f'<path class="dot" d="M{x(row.value)} {middle}h0"/>')
    view = f'viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none"'
    return Markup(f'<svg class="row" {view} aria-hidden="true">{"".join(shapes)}</svg>')


def reliability(curve: Sequence[tuple[float, float, int]]) -> Markup:
    """Share right by confidence, beside the diagonal on which both are equal.

    Parameters
    ----------
    curve
        (mean confidence, share right, documents) by bin.
    """
    size, left, top = 200, 34, 8

    def at(x: float, y: float) -> str:
        return f"{left + x * size:.1f} {top + (1 - y) * size:.1f}"

    most = max((n for _, _, n in curve), default=1)
    shapes = [
        f'<path class="grid" d="M{at(t, 0)}L{at(t, 1)}M{at(0, t)}L{at(1, t)}"/>'
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    shapes.append(f'<path class="neutral" d="M{at(0, 0)}L{at(1, 1)}"/>')
    if curve:
        shapes.append(
            f'<path class="curve" d="M{"L".join(at(c, right) for c, right, _ in curve)}"/>'
        )
    for confidence, right, n in curve:
        x, y = at(confidence, right).split()
        radius = 2.5 + 4.5 * math.sqrt(n / most)
        shapes.append(
            f'<circle class="spot" cx="{x}" cy="{y}" r="{radius:.1f}">'
            f"<title>{n} documents: confidence {confidence:.2f}, right {right:.2f}</title></circle>"
        )
    for t, text in ((0, "0"), (0.5, "0.5"), (1, "1")):
        x, y = at(t, 0).split()
        shapes.append(f'<text x="{x}" y="{float(y) + 14:.1f}" text-anchor="middle">{text}</text>')
        x, y = at(0, t).split()
        shapes.append(
            f'<text x="{float(x) - 6:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{text}</text>'
        )
    middle = left + size / 2
    shapes.append(
        f'<text x="{middle}" y="{top + size + 30}" text-anchor="middle">confidence</text>'
    )
    shapes.append(
        f'<text transform="translate(10 {top + size / 2}) rotate(-90)" text-anchor="middle">'
        "share right</text>"
    )
    label = "Share of right answers by confidence"
    view = f'viewBox="0 0 {left + size + 12} {top + size + 36}" role="img" aria-label="{label}"'
    return Markup(f'<svg class="reliability" {view}>{"".join(shapes)}</svg>')
