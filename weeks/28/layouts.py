"""Circuits drawn by lot and laid out on a grid with wires that only cross.

Two nets may share a point of the grid only where one passes from left to right and the other from
top to bottom. Everything is drawn again until that holds.

>>> layout = circuit_layout(np.random.default_rng(0))
>>> sorted({node.kind for node in layout.diagram.nodes.values()} & {"input", "output"})
['input', 'output']
>>> crossings(layout.nets) >= 0, conflict(layout.nets)
(True, False)
>>> conflict({"a": [(0, 0, 4, 0)], "b": [(2, 0, 2, 3)]})
True
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from shared.require import require
from week28.diagrams import GATES, Diagram, Edge, Node, colors

Segment = tuple[int, int, int, int]  # x0, y0, x1, y1, along the grid
Nets = Mapping[str, Sequence[Segment]]
INPUTS = ("A", "B", "C", "D", "E", "X", "SEL", "EN", "CIN", "K2", "X1", "R")
OUTPUTS = ("Y", "Z", "F", "Q", "SUM", "OUT", "COUT", "W")
GATE_WIDTH, GATE_HEIGHT = 5, 4


@dataclass
class Layout:
    """Where everything stands, in units of the grid.

    Attributes
    ----------
    boxes
        Left, top, right and bottom of each symbol, by node.
    anchors
        Where a label of a circuit touches its wire, by node.
    words
        Labels of edges: text and the point to its left (flowcharts).
    arrows
        Tips, and the direction of each.
    """

    diagram: Diagram
    size: tuple[int, int] = (0, 0)
    boxes: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)
    anchors: dict[str, tuple[int, int]] = field(default_factory=dict)
    nets: dict[str, list[Segment]] = field(default_factory=dict)
    words: list[tuple[str, float, float]] = field(default_factory=list)
    arrows: list[tuple[int, int, int, int]] = field(default_factory=list)


# ---- what may not be


def arms(segments: Sequence[Segment]) -> dict[tuple[int, int], set[tuple[int, int]]]:
    """At each point of the grid the directions in which a net leaves it."""
    found: dict[tuple[int, int], set[tuple[int, int]]] = defaultdict(set)
    for x0, y0, x1, y1 in segments:
        dx, dy = int(np.sign(x1 - x0)), int(np.sign(y1 - y0))
        x, y = x0, y0
        while (x, y) != (x1, y1):
            found[x, y].add((dx, dy))
            x, y = x + dx, y + dy
            found[x, y].add((-dx, -dy))
    return found


ACROSS, ALONG = {(1, 0), (-1, 0)}, {(0, 1), (0, -1)}


def _shared(nets: Nets) -> list[tuple[set, ...]]:
    at: dict[tuple[int, int], list[set]] = defaultdict(list)
    for segments in nets.values():
        for point, directions in arms(segments).items():
            at[point].append(directions)
    return [tuple(all_of) for all_of in at.values() if len(all_of) > 1]


def conflict(nets: Nets) -> bool:
    """Whether two nets touch other than by crossing."""
    return any(sorted(map(sorted, pair)) != CROSSING for pair in _shared(nets))


CROSSING = sorted(map(sorted, (ACROSS, ALONG)))


def crossings(nets: Nets) -> int:
    """How often wires cross without being joined."""
    return sum(sorted(map(sorted, pair)) == CROSSING for pair in _shared(nets))


def dots(segments: Sequence[Segment]) -> list[tuple[int, int]]:
    """Where a net branches."""
    return [point for point, directions in arms(segments).items() if len(directions) > 2]


def enters(box: tuple[float, float, float, float], nets: Nets) -> bool:
    """Whether a wire has a point inside a box; it may end at a side."""
    left, top, right, bottom = box
    points = (point for segments in nets.values() for point in arms(segments))
    return any(left < x < right and top < y < bottom for x, y in points)


# ---- circuits


def random_circuit(rng: np.random.Generator) -> Diagram:
    """Two to four inputs, three to six gates and one or two outputs; nothing without effect."""
    while True:
        n_inputs, n_gates = int(rng.integers(2, 5)), int(rng.integers(3, 7))
        texts = rng.choice(INPUTS, n_inputs, replace=False).tolist()
        nodes = {f"i{k}": Node("input", text) for k, text in enumerate(sorted(texts))}
        edges = set()
        for k in range(n_gates):
            kind = str(rng.choice(GATES))
            known = list(nodes)
            chance = np.arange(1, len(known) + 1.0)  # deep rather than wide
            size = 1 if kind == "NOT" else 2
            chosen = rng.choice(known, size, replace=False, p=chance / chance.sum())
            nodes[f"g{k}"] = Node(kind)
            edges |= {Edge(str(source), f"g{k}") for source in chosen}
        used = {edge.source for edge in edges}
        ends = [name for name in nodes if name not in used]
        if len(ends) > 2 or any(nodes[name].kind == "input" for name in ends):
            continue
        for k, (text, end) in enumerate(zip(rng.permutation(OUTPUTS).tolist(), ends, strict=False)):
            nodes[f"o{k}"] = Node("output", text)
            edges.add(Edge(end, f"o{k}"))
        diagram = Diagram(nodes, frozenset(edges))
        if len(set(colors(diagram))) == len(nodes):  # no two gates of one function of the same
            return diagram


def circuit_layout(rng: np.random.Generator, diagram: Diagram | None = None) -> Layout:
    """A circuit in columns by depth, its wires in the channels between them."""
    while True:
        drawn = random_circuit(rng) if diagram is None else diagram
        for _ in range(60):
            layout = _place(drawn, rng)
            if layout is not None:
                return layout
        require(diagram is None, "diagram must fit on a page", "one with too many wires")


def _columns(diagram: Diagram) -> dict[str, int]:
    depth: dict[str, int] = {}
    while len(depth) < len(diagram.nodes):
        for name in diagram.nodes:
            before = diagram.sources(name)
            if all(source in depth for source in before):
                depth[name] = 1 + max((depth[source] for source in before), default=-1)
    last = max(depth.values())
    return depth | dict.fromkeys(diagram.of_kind("output"), last)


def _place(diagram: Diagram, rng: np.random.Generator) -> Layout | None:
    depth = _columns(diagram)
    last = max(depth.values())
    height = 10 + 7 * max(list(depth.values()).count(k) for k in range(last + 1))
    y: dict[str, int] = {}
    for k in range(last + 1):  # near the mean of what leads there, at least six units apart
        names = [name for name in diagram.nodes if depth[name] == k]
        wish = {
            n: np.mean([y[s] for s in diagram.sources(n)] or [rng.uniform(3, height - 3)])
            + rng.normal(0, 2)
            for n in names
        }
        names.sort(key=wish.get)
        for i, name in enumerate(names):
            low = 3 if i == 0 else y[names[i - 1]] + 6
            y[name] = int(np.clip(round(wish[name]), low, height - 3 - 6 * (len(names) - 1 - i)))
    left, x = {}, 4
    tracks: dict[tuple[str, int], int] = {}
    for k in range(last + 1):
        for name in (n for n in diagram.nodes if depth[n] == k):
            left[name] = x
        x += GATE_WIDTH if 0 < k < last else 0
        if k == last:
            break
        through = [
            name
            for name in diagram.nodes
            if any(e.source == name and depth[name] <= k < depth[e.target] for e in diagram.edges)
        ]
        width = len(through) + int(rng.integers(2, 5))
        places = rng.permutation(np.arange(1, width))[: len(through)]
        tracks |= {(n, k): x + int(p) for n, p in zip(through, places, strict=True)}
        x += width
    layout = Layout(diagram, (x + 5, height))
    for name, node in diagram.nodes.items():
        if node.kind in GATES:
            top = y[name] - GATE_HEIGHT // 2
            layout.boxes[name] = (left[name], top, left[name] + GATE_WIDTH, top + GATE_HEIGHT)
        else:
            layout.anchors[name] = (left[name], y[name])
    pins = _pins(diagram, y)
    for name in diagram.nodes:
        targets = [e.target for e in diagram.edges if e.source == name]
        if not targets:
            continue
        start = left[name] + (GATE_WIDTH if name in layout.boxes else 0)
        first, lane = tracks[name, depth[name]], int(rng.integers(1, height))
        segments = [(start, y[name], first, y[name])]
        for target in targets:
            at = tracks[name, depth[target] - 1]
            pin = pins[name, target]
            if at == first:
                segments.append((first, y[name], first, pin))
            else:
                segments += [(first, y[name], first, lane), (first, lane, at, lane)]
                segments.append((at, lane, at, pin))
            segments.append((at, pin, left[target], pin))
        layout.nets[name] = [s for s in segments if s[:2] != s[2:]]
    rooms = [(a, b - 1, c, d + 1) for a, b, c, d in layout.boxes.values()]
    free = not any(enters(room, layout.nets) for room in rooms)
    return layout if free and not conflict(layout.nets) else None


def _pins(diagram: Diagram, y: dict[str, int]) -> dict[tuple[str, str], int]:
    """The height at which each wire arrives: of two the upper one comes from above."""
    found = {}
    for name in diagram.nodes:
        sources = sorted(diagram.sources(name), key=lambda source: y[source])
        offsets = (-1, 1) if len(sources) == 2 else (0,)
        found |= {(s, name): y[name] + d for s, d in zip(sources, offsets, strict=False)}
    return found
