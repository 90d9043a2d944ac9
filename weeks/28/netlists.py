"""From symbols and ink to a graph: which line ends at which symbol, and what is written beside it.

The sides of symbols say what a wire is for. A gate drives what ends at its right side and reads
what ends at its left; a box of a flowchart is entered where a line ends in an arrowhead.

>>> page = random_page(np.random.default_rng(2), "circuit")
>>> symbols = [Symbol(kind, inside(kind, box)) for kind, box in page.symbols]
>>> read = assemble(*upright(page.image), symbols, lambda crops: [""] * len(crops))
>>> blank = {name: Node(node.kind) for name, node in page.diagram.nodes.items()}
>>> same(read, Diagram(blank, page.diagram.edges))
True
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from week28.diagrams import BOXES, INVERTED, Diagram, Edge, Node, same  # noqa: F401 (doctest)
from week28.drawn_pages import random_page  # noqa: F401 (doctest)
from week28.scanned_pages import Box, Ink, Picture, line_width, upright  # noqa: F401 (doctest)
from week28.symbols import Symbol
from week28.tracing import Piece, is_arrow, joined, straight, wires_and_words, without

Crop = UInt8[np.ndarray, "_ _"]  # in a list each has a shape of its own
Read = Callable[[list[Crop]], list[str]]
HEIGHT = {"NOT": 3.2, "decision": 5.6}  # of the paper inside, in units; of all others 4


def inside(kind: str, box: Sequence[float]) -> Box:
    """The box of the paper inside a drawn symbol, about."""
    left, top, right, bottom = box
    unit = (bottom - top) / (6 if kind == "decision" else 4)
    margins = {"decision": (0.6, 0.2, 0.6, 0.2), "NOT": (0.9, 0.4, 1.1, 0.4)}
    other = (0.1, 0.1, 0.1, 0.1) if kind in BOXES else (0.9, 0.1, 1.0, 0.1)
    a, b, c, d = (round(margin * unit) for margin in margins.get(kind, other))
    return round(left) + a, round(top) + b, round(right) - c, round(bottom) - d


def unit_of(symbols: Sequence[Symbol], width: float) -> float:
    """Pixels per unit of the drawing."""
    sizes = [(s.box[3] - s.box[1] + width) / HEIGHT.get(s.kind, 4) for s in symbols]
    return float(np.median(sizes)) if sizes else 13.0


def outside(symbol: Symbol, unit: float, width: float) -> Box:
    """The box that holds all of a symbol: bubbles, the second back of an XOR, corners."""
    left, top, right, bottom = symbol.box
    edge = width + 1
    dx, dy, more = {
        "decision": (0.6 * unit + 1, 0.25 * unit + 1, 0.6 * unit + 1),
        "process": (edge, edge, edge),
        "terminal": (edge, edge, edge),
    }.get(symbol.kind, (0.8 * unit, edge, 0.95 * unit))
    return round(left - dx), round(top - dy), round(right + more), round(bottom + dy)


class Port(NamedTuple):
    """Where a piece of wire ends at a symbol."""

    piece: int
    symbol: int
    side: str
    at: tuple[float, float]


def ports(pieces: Sequence[Piece], boxes: Sequence[Box], reach: float) -> list[Port]:
    """Ends of pieces that are at a symbol, and at which side of it."""
    found = []
    for i, piece in enumerate(pieces):
        for last, (x, y) in enumerate(piece.ends):
            for k, (left, top, right, bottom) in enumerate(boxes):
                if piece.across:
                    edge, gap = ("left", left - x) if last else ("right", x - right)
                    beside = top <= y <= bottom
                else:
                    edge, gap = ("top", top - y) if last else ("bottom", y - bottom)
                    beside = left <= x <= right
                if beside and abs(gap) <= reach:
                    found.append(Port(i, k, edge, (x, y)))
    return found


class Trace(NamedTuple):
    """What is found on a page besides its symbols.

    Attributes
    ----------
    boxes
        Of all that belongs to each symbol.
    nets
        The number of each piece's net.
    """

    width: float
    unit: float
    boxes: list[Box]
    wires: Ink
    words: list[Box]
    pieces: list[Piece]
    nets: list[int]
    ends: list[Port]


def trace(ink: Ink, symbols: Sequence[Symbol], *, dots: bool = True) -> Trace:
    """Wires, words and where wires end; without `dots` each crossing is taken for a joint."""
    width = line_width(ink)
    unit = unit_of(symbols, width)
    boxes = [outside(symbol, unit, width) for symbol in symbols]
    wires, words = wires_and_words(without(ink, boxes), boxes, unit)
    pieces = straight(wires, max(round(0.8 * unit), 2))
    nets = joined(pieces, wires, width, slack=0.45 * unit, dots=dots)
    return Trace(width, unit, boxes, wires, words, pieces, nets, ports(pieces, boxes, 0.6 * unit))


def assemble(
    image: Picture, ink: Ink, symbols: Sequence[Symbol], read: Read, *, dots: bool = True
) -> Diagram:
    """The graph of an upright page; `read` gives the texts of pictures."""
    found = trace(ink, symbols, dots=dots)
    texts = [_padded(word, 0.3 * found.unit, 2 * found.unit) for word in found.words]
    flow = 2 * sum(symbol.kind in BOXES for symbol in symbols) > len(symbols)
    if flow:
        texts += [_center(symbol) for symbol in symbols]
    # lines and specks beside a word would be read as letters; thin letters between others stay
    lines = ndimage.binary_dilation(found.wires, iterations=2)
    letters = ndimage.maximum_filter(ink & ~lines, size=(7, 17)) & ~lines
    clean = np.where(letters, image, 240).astype(np.uint8)
    said = read([_cut(clean, box) for box in texts])
    return (_flowchart if flow else _circuit)(symbols, found, said)


def _circuit(symbols: Sequence[Symbol], found: Trace, said: list[str]) -> Diagram:
    pieces, nets, unit = found.pieces, found.nets, found.unit
    nodes = {f"s{k}": Node(symbol.kind) for k, symbol in enumerate(symbols)}
    drives, reads = {}, {}
    for port in found.ends:
        if port.side in ("left", "right"):
            into = drives if port.side == "right" else reads
            into.setdefault(nets[port.piece], set()).add(f"s{port.symbol}")
    for k, (left, top, right, bottom) in enumerate(found.words):
        y, best = (top + bottom) / 2, (2.5 * unit, None, "")
        for i, piece in enumerate(pieces):
            if piece.across and abs(piece.y0 - y) < 0.9 * unit:
                best = min(
                    best,
                    (abs(piece.x0 - right), i, "input"),
                    (abs(left - piece.x1), i, "output"),
                    key=lambda near: near[0],
                )
        if best[1] is not None:
            nodes[f"w{k}"] = Node(best[2], said[k])
            into = drives if best[2] == "input" else reads
            into.setdefault(nets[best[1]], set()).add(f"w{k}")
    edges = {
        Edge(source, target)
        for net, sources in drives.items()
        for source in sources
        for target in reads.get(net, ())
    }
    return Diagram(nodes, frozenset(edges))


def _flowchart(symbols: Sequence[Symbol], found: Trace, said: list[str]) -> Diagram:
    words, ends, nets = found.words, found.ends, found.nets
    heads = [_is_head(found, port) for port in ends]
    texts = said[len(words) :]
    nodes = {f"s{k}": Node(s.kind, texts[k]) for k, s in enumerate(symbols)}
    tails = [k for k, head in enumerate(heads) if not head]
    label = dict.fromkeys(tails, "")
    pairs = sorted(
        (_distance(words[w], ends[k].at), w, k)
        for w in range(len(words))
        for k in tails
        if symbols[ends[k].symbol].kind == "decision"
    )
    taken: set[int] = set()
    for distance, w, k in pairs:  # the nearest first; each word belongs to one line
        if distance < 2.5 * found.unit and w not in taken and not label[k]:
            label[k] = said[w]
            taken.add(w)
    edges = {
        Edge(f"s{ends[k].symbol}", f"s{ends[m].symbol}", label[k])
        for k in tails
        for m, head in enumerate(heads)
        if head and nets[ends[m].piece] == nets[ends[k].piece]
    }
    return Diagram(nodes, frozenset(edges))


def _is_head(found: Trace, port: Port) -> bool:
    way = {"left": (1, 0), "right": (-1, 0), "top": (0, 1), "bottom": (0, -1)}[port.side]
    return is_arrow(found.wires, port.at, way, found.width, found.unit)


def _distance(box: Box, at: tuple[float, float]) -> float:
    left, top, right, bottom = box
    dx = max(left - at[0], at[0] - right, 0)
    dy = max(top - at[1], at[1] - bottom, 0)
    return float(np.hypot(dx, dy))


def _padded(box: Box, by: float, high: float) -> Box:
    """A box with a margin, and at least so high: or x would be read as X."""
    left, top, right, bottom = box
    more = max(by, (high - (bottom - top)) / 2)
    return round(left - by), round(top - more), round(right + by), round(bottom + more)


def _center(symbol: Symbol) -> Box:
    """Where the text of a box stands."""
    left, top, right, bottom = symbol.box
    part = {"decision": (0.19, 0.27), "terminal": (0.14, 0.1)}.get(symbol.kind, (0.02, 0.08))
    dx, dy = part[0] * (right - left), part[1] * (bottom - top)
    return round(left + dx), round(top + dy), round(right - dx), round(bottom - dy)


def _cut(image: Picture, box: Box) -> Crop:
    left, top, right, bottom = box
    return image[max(top, 0) : max(bottom, 1), max(left, 0) : max(right, 1)]
