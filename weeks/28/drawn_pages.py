"""Pages as a scanner would give them: drawn diagrams, then rotation, blur, noise, specks and shade.

>>> page = draw(circuit_layout(np.random.default_rng(0)), Style())
>>> page.image.dtype, int(page.image.min()), int(page.image.max())
(dtype('uint8'), 0, 255)
>>> worse = scan(page.image, LEVELS["bad"], np.random.default_rng(1))
>>> worse.shape == page.image.shape
True
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from shared.require import require
from week28.diagrams import Diagram, is_held_out
from week28.flow_layouts import flowchart_layout
from week28.layouts import Layout, circuit_layout, dots

Picture = UInt8[np.ndarray, "height width"]
# matplotlib brings them along; the first three are trained on, the others only read
FONTS = ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
OTHER_FONTS = ("DejaVuSansMono", "cmr10", "cmss10")
BASIC = ImageFont.Layout.BASIC  # no ligatures, and the same letters on all machines
FINER = 3  # drawn so much larger, then averaged


class Style(NamedTuple):
    """How a page is drawn: pixels per unit, line width and letters in pixels, radius of a dot."""

    unit: int = 13
    line: float = 2.0
    letters: int = 17
    font: str = "DejaVuSans"
    dot: float = 0.33  # in units

    @classmethod
    def random(cls, rng: np.random.Generator, fonts: tuple[str, ...] = FONTS) -> "Style":
        """One of many, its fonts among these."""
        unit = int(rng.integers(12, 16))
        return cls(
            unit,
            float(rng.uniform(1.6, 0.2 * unit)),
            round(unit * rng.uniform(1.2, 1.4)),
            str(rng.choice(fonts)),
            float(rng.uniform(0.28, 0.38)),
        )


@dataclass
class Page:
    """A picture and what is drawn on it.

    Attributes
    ----------
    symbols
        Kind and box of each symbol, in pixels.
    """

    image: Picture
    diagram: Diagram
    symbols: list[tuple[str, tuple[float, float, float, float]]]


def draw(layout: Layout, style: Style) -> Page:
    """A clean page."""
    u, margin = style.unit * FINER, 3 * style.unit * FINER
    wide, high = (int(side * u + 2 * margin) for side in layout.size)
    picture = Image.new("L", (wide // FINER * FINER, high // FINER * FINER), 255)
    pen = ImageDraw.Draw(picture)
    width = round(style.line * FINER)
    place = find_spec("matplotlib").submodule_search_locations[0]
    file = Path(place, "mpl-data", "fonts", "ttf", f"{style.font}.ttf")
    font = ImageFont.truetype(str(file), style.letters * FINER, layout_engine=BASIC)

    def at(x: float, y: float) -> tuple[float, float]:
        return margin + x * u, margin + y * u

    for segments in layout.nets.values():
        for x0, y0, x1, y1 in segments:
            (xa, ya), (xb, yb) = at(min(x0, x1), min(y0, y1)), at(max(x0, x1), max(y0, y1))
            half = width / 2
            pen.rectangle((xa - half, ya - half, xb + half, yb + half), fill=0)
        if layout.diagram.is_circuit:
            for x, y in dots(segments):
                _disc(pen, *at(x, y), style.dot * u, fill=0)
    for x, y, dx, dy in layout.arrows:
        (xa, ya), back, side = at(x, y), 0.9 * u, 0.42 * u
        foot = [(xa - back * dx + s * dy, ya - back * dy + s * dx) for s in (side, -side)]
        pen.polygon([(xa, ya), *foot], fill=0)
    symbols = []
    for name, box in layout.boxes.items():
        kind, text = layout.diagram.nodes[name]
        left, top = at(box[0], box[1])
        right, bottom = at(box[2], box[3])
        if layout.diagram.is_circuit:
            _gate(pen, kind, left, top, u, width)
        else:
            _box(pen, kind, (left, top, right, bottom), width)
            pen.text(((left + right) / 2, (top + bottom) / 2), text, 0, font, anchor="mm")
        symbols.append((kind, (left / FINER, top / FINER, right / FINER, bottom / FINER)))
    for name, (x, y) in layout.anchors.items():
        kind, text = layout.diagram.nodes[name]
        gap = -0.4 if kind == "input" else 0.4
        pen.text(at(x + gap, y), text, 0, font, anchor="rm" if gap < 0 else "lm")
    for text, x, y in layout.words:
        pen.text(at(x, y), text, 0, font, anchor="lm")
    return Page(np.asarray(picture.reduce(FINER)), layout.diagram, symbols)


def _disc(pen: ImageDraw.ImageDraw, x: float, y: float, r: float, **options) -> None:
    pen.ellipse((x - r, y - r, x + r, y + r), **options)


def _gate(pen, kind: str, left: float, top: float, u: float, width: int) -> None:
    """The distinctive shapes; wires have been drawn up to the box and are led on to the body."""
    t = np.linspace(0, 1, 40)[:, None]

    def curve(*points: tuple[float, float]) -> np.ndarray:  # a quadratic Bézier
        a, b, c = np.array(points)
        return (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c

    def shown(points: np.ndarray) -> list[tuple[float, float]]:
        return [(left + x * u, top + y * u) for x, y in points]

    inverted, inner = (
        kind in ("NOT", "NAND", "NOR"),
        kind.removeprefix("N") if kind != "NOR" else "OR",
    )
    back = np.array([[0.8, 0], [0.8, 4]])
    if kind == "NOT":
        outline, start = np.array([[0.8, 0.3], [4.1, 2], [0.8, 3.7]]), {2: 0.8}
    elif inner == "AND":
        angle = np.linspace(-np.pi / 2, np.pi / 2, 50)
        arc = np.stack([2.1 + 2 * np.cos(angle), 2 + 2 * np.sin(angle)], 1)
        outline, start = np.concatenate([back[:1], arc, back[1:]]), {1: 0.8, 3: 0.8}
    else:
        upper, lower = curve((0.8, 0), (3, 0), (4.1, 2)), curve((4.1, 2), (3, 4), (0.8, 4))
        inside = curve((0.8, 4), (1.9, 2), (0.8, 0))
        outline, start = np.concatenate([upper, lower, inside]), {1: 1.2, 3: 1.2}
    for y, x in start.items():
        x = 0.65 if kind == "XOR" else x
        pen.line(shown(np.array([[0, y], [x, y]])), 0, width)
    pen.line(shown(np.array([[4.1, 2], [5, 2]])), 0, width)
    corners = shown(outline)
    pen.polygon(corners, fill=255)
    pen.line([*corners, *corners[:2]], 0, width, joint="curve")
    if kind == "XOR":
        pen.line(shown(curve((0.25, 4), (1.35, 2), (0.25, 0))), 0, width, joint="curve")
    if inverted:
        x, y = left + 4.52 * u, top + 2 * u
        _disc(pen, x, y, 0.42 * u, fill=255, outline=0, width=width)


def _box(pen, kind: str, box: tuple[float, float, float, float], width: int) -> None:
    left, top, right, bottom = box
    options = {"fill": 255, "outline": 0, "width": width}
    if kind == "terminal":
        pen.rounded_rectangle(box, (bottom - top) / 2, **options)
    elif kind == "process":
        pen.rectangle(box, **options)
    else:
        x, y = (left + right) / 2, (top + bottom) / 2
        corners = [(x, top), (right, y), (x, bottom), (left, y)]
        pen.polygon(corners, fill=255)
        pen.line([*corners, *corners[:2]], 0, width, joint="curve")


# ---- the scanner


class Scan(NamedTuple):
    """What a scanner does to a page.

    Attributes
    ----------
    angle
        Degrees; turned to either side.
    blur, noise
        Deviations, in pixels and in gray values.
    shade
        Which part of the light is missing in the darkest corner.
    specks
        Black and white specks for every thousand pixels.
    binary
        Whether gray becomes black or white, at one level for the page.
    """

    angle: float = 0.0
    blur: float = 0.0
    noise: float = 0.0
    shade: float = 0.0
    specks: float = 0.0
    binary: bool = False


LEVELS = {
    "none": Scan(),
    "light": Scan(1.0, 0.5, 8.0, 0.15, 0.1),
    "scan": Scan(3.0, 0.5, 10.0, 0.25, 0.3, True),
    "bad": Scan(5.0, 1.1, 28.0, 0.5, 0.6, True),
}


def scan(image: Picture, how: Scan, rng: np.random.Generator) -> Picture:
    """The page after the scanner; black specks and white ones are two pixels wide."""
    must = "how must hold no negative number"
    require(min(how[:5]) >= 0, must, min(how[:5]))
    high, wide = image.shape
    side = rng.choice([-1.0, 1.0])
    turned = Image.fromarray(image).rotate(
        side * how.angle, Image.Resampling.BICUBIC, fillcolor=255
    )
    found = ndimage.gaussian_filter(np.asarray(turned, float), how.blur)
    y, x = np.mgrid[:high, :wide]
    ramp = np.abs(x / wide - rng.integers(0, 2)) / 2 + np.abs(y / high - rng.integers(0, 2)) / 2
    found *= 1 - how.shade * ramp**2
    found += how.noise * rng.normal(size=found.shape)
    for _ in range(rng.poisson(how.specks * found.size / 1000)):
        row, column = rng.integers(high - 1), rng.integers(wide - 1)
        found[row : row + 2, column : column + 2] = rng.choice([0.0, 255.0])
    if how.binary:
        found = np.where(found > 255 * (0.68 - how.shade / 3), 255.0, 0.0)
    return found.clip(0, 255).astype(np.uint8)


def random_page(
    rng: np.random.Generator,
    kind: str,
    fonts: tuple[str, ...] = FONTS,
    *,
    held_out: bool = False,
) -> Page:
    """A clean page of a new diagram, `circuit` or `flowchart`, of a topology held out or not."""
    require(kind in ("circuit", "flowchart"), "kind must be circuit or flowchart", repr(kind))
    while True:
        layout = circuit_layout(rng) if kind == "circuit" else flowchart_layout(rng)
        if is_held_out(layout.diagram) == held_out:
            return draw(layout, Style.random(rng, fonts))
