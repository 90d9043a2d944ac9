"""The report's plots: SVG paths that stretch with the page, writing in HTML around them.

A curve of many steps is thinned to the least and the greatest value in each strip one unit wide, so
that no spike is lost and the picture stays the same.
"""

import math
from dataclasses import dataclass
from html import escape

import numpy as np
from jaxtyping import Bool, Float64, Int64

__all__ = ["Curve", "Panel", "Scale", "duration", "running_mean", "short", "thin"]

# A panel's own units. The page stretches the width: strokes and dots do not scale with it.
WIDTH, HEIGHT = 720, 220

Curve = tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, " n"]]


def running_mean(
    y: Float64[np.ndarray, " n"], half: int, valid: Bool[np.ndarray, " n"]
) -> Float64[np.ndarray, " n"]:
    """Mean of the valid values up to `half` places before and after each one.

    Where the run began the window is as short after a value as before it, for a curve that falls
    steeply must not be averaged with what comes later only.
    """
    n = len(y)
    i = np.arange(n)
    first, stop = np.maximum(i - half, 0), np.minimum(i + np.minimum(half, i) + 1, n)
    sums, counts = (
        np.concatenate([[0.0], np.cumsum(np.where(valid, v, 0.0))]) for v in (y, np.ones(n))
    )
    with np.errstate(invalid="ignore"):
        return (sums[stop] - sums[first]) / (counts[stop] - counts[first])


def thin(
    x: Float64[np.ndarray, " n"], y: Float64[np.ndarray, " n"], columns: int = WIDTH
) -> Int64[np.ndarray, " kept"]:
    """Indices, in order, of the least and greatest finite y in each of `columns` strips of x.

    The first and last finite points stay too, so that a curve ends where it ended.
    """
    finite = np.flatnonzero(np.isfinite(y))
    if not finite.size:
        return finite
    span = x[-1] - x[0] or 1.0
    column = ((x[finite] - x[0]) / span * columns).astype(np.int64)
    order = np.lexsort((y[finite], column))
    edge = np.flatnonzero(np.diff(column[order]))  # the greatest of a strip, then the next's least
    kept = order[np.concatenate([[0], edge, edge + 1, [len(order) - 1]])]
    return finite[np.unique(np.concatenate([kept, [0, len(finite) - 1]]))]


@dataclass(frozen=True)
class Scale:
    """From values to fractions of an axis, on which values outside lie at the ends."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def around(cls, *values: Float64[np.ndarray, " _"], log: bool = False) -> "Scale | None":
        """The scale that holds all finite values and some air; None without any."""
        v = np.concatenate(values)
        v = v[np.isfinite(v) & ((v > 0) | (not log))]
        if not v.size:
            return None
        low, high = (np.log10(v) if log else v)[[v.argmin(), v.argmax()]]
        air = 0.06 * (high - low) or (0.5 if log else abs(high) / 2 or 1.0)
        return cls(low - air, high + air, log)

    def __call__(self, v: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        if self.log:
            v = np.log10(np.maximum(v, 1e-300))
        return np.clip((v - self.low) / (self.high - self.low), 0.0, 1.0)

    def ticks(self, about: int = 4) -> Float64[np.ndarray, " ticks"]:
        """Round numbers within: steps of 1, 2 or 5 times a power of ten; of a long log, powers."""
        if self.log and self.high - self.low > 1.5:
            every = math.ceil((self.high - self.low) / 5)
            return 10.0 ** np.arange(math.ceil(self.low), math.floor(self.high) + 1, every)
        low, high = (10.0**self.low, 10.0**self.high) if self.log else (self.low, self.high)
        rough = (high - low) / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough)
        return np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step


class Panel:
    """One plot: layers of SVG paths, and writing in HTML around them."""

    def __init__(self, title: str, note: str, x: Scale, y: Scale | None):
        self.title, self.note, self.x, self.y = title, note, x, y
        self.paths: list[str] = []
        self.labels: list[tuple[float, str, str]] = []

    def draw(self, curve: Curve, kind: str, *, dots: bool = False) -> None:
        """Add a line, broken where values are not finite, or its points as dots."""
        x, y = curve
        if self.y is None or not (kept := thin(x, y)).size:
            return
        gaps = np.cumsum(~np.isfinite(y))[kept]
        starts = np.concatenate([[True], np.diff(gaps) > 0]) | dots
        points = zip(self.x(x[kept]) * WIDTH, (1 - self.y(y[kept])) * HEIGHT, starts, strict=True)
        # A line of no length with round ends is a dot, however the page is stretched.
        d = "".join(f"M{a:.1f} {b:.1f}h0" if m else f"L{a:.1f} {b:.1f}" for a, b, m in points)
        self.paths.append(f'<path class="{kind}{" dots" if dots else ""}" d="{d}"/>')

    def rug(self, x: Float64[np.ndarray, " n"], kind: str, row: int) -> None:
        """Mark steps by ticks at the bottom edge, one at most for each unit of width."""
        at = np.unique(np.round(self.x(x) * WIDTH))
        d = "".join(f"M{a:.0f} {HEIGHT - 9 * row}v-7" for a in at)
        self.paths.append(f'<path class="{kind} rug" d="{d}"/>')

    def level(self, value: float, kind: str, label: str) -> None:
        """Draw a horizontal line with its label."""
        if self.y is not None:
            self.paths.append(
                f'<path class="{kind}" d="M0 {self._top(value) * HEIGHT:.1f}h{WIDTH}"/>'
            )
            self.label(value, kind, label)

    def label(self, value: float, kind: str, text: str) -> None:
        """Write beside the right edge, at the height of `value`."""
        if self.y is not None and math.isfinite(value):
            self.labels.append((self._top(value), kind, text))

    def _top(self, value: float) -> float:
        return 1 - float(self.y(np.array([value], dtype=np.float64))[0])

    def html(self) -> str:
        """The panel as a figure."""
        head = f"<figcaption><h2>{escape(self.title)}</h2> {escape(self.note)}</figcaption>"
        if self.y is None:
            return f'<figure>{head}<p class="none">nothing finite to draw</p></figure>'
        ys, xs = self.y.ticks(), self.x.ticks(5)
        rows = list(zip(ys, 1 - self.y(ys), strict=True))
        columns = zip(xs, self.x(xs), strict=True)
        grid = "".join(f"M0 {t * HEIGHT:.1f}h{WIDTH}" for _, t in rows)
        words = [
            *(f'<i class="y" style="top:{t:.2%}">{short(v)}</i>' for v, t in rows),
            *(f'<i class="x" style="left:{p:.2%}">{short(v)}</i>' for v, p in columns),
        ]
        floor, gap = -1.0, 17 / HEIGHT  # no two labels on one another
        for top, kind, text in sorted(self.labels):
            floor = max(top, floor + gap)
            words.append(f'<b class="{kind}" style="top:{floor:.2%}">{escape(text)}</b>')
        return (
            f'<figure>{head}<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
            f' preserveAspectRatio="none" aria-label="{escape(self.title)}, {escape(self.note)}">'
            f'<path class="grid" d="{grid}"/>{"".join(self.paths)}</svg>{"".join(words)}</div>'
            "</figure>"
        )


def short(value: float) -> str:
    """A number in few characters: 0.001, 1.5, 107k, 2.4M."""
    for power, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * power:
            return f"{value / power:.3g}{unit}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 59.95:
        return f"{seconds:.3g} s"
    hours, minutes = divmod(round(seconds) // 60, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {round(seconds) % 60} s"
