"""Flowcharts drawn by lot: a column of steps, with decisions that skip, loop or turn aside.

>>> layout = flowchart_layout(np.random.default_rng(0))
>>> texts = {node.kind: node.text for node in layout.diagram.nodes.values()}
>>> texts["terminal"], sorted(texts)
('end', ['decision', 'process', 'terminal'])
>>> sorted({edge.label for edge in layout.diagram.edges})
['', 'no', 'yes']
"""

from itertools import pairwise

import numpy as np

from week28.diagrams import Diagram, Edge, Node
from week28.layouts import Layout, conflict, enters

VERBS = ("read", "open", "close", "send", "check", "store", "print", "count", "reset", "update")
NOUNS = ("sensor", "valve", "file", "motor", "report", "order", "door", "timer", "value", "queue")
STATES = ("open", "ready", "empty", "high", "late", "new", "full", "valid")
SIZE = {"terminal": (10, 4), "process": (12, 4), "decision": (16, 6)}
SPINE, BESIDE = 16, 38  # centers of the two columns
LEFT_LANES, RIGHT_LANES = (2, 3, 4), (28, 29, 30)


def flowchart_layout(rng: np.random.Generator) -> Layout:
    """A column of steps; decisions skip ahead, loop back, or take a step beside the column."""
    while True:
        layout = _flow(rng)
        free = not any(enters(box, layout.nets) for box in layout.boxes.values())
        if free and not conflict(layout.nets):
            return layout


def _flow(rng: np.random.Generator) -> Layout:
    n = int(rng.integers(3, 6))
    steps = rng.choice(["process", "process", "decision"], n - 1).tolist()
    steps[int(rng.integers(n - 1))] = "decision"  # one at least, and never the first step
    kinds = ["terminal", "process", *steps, "terminal"]
    verbs, nouns = rng.permutation(VERBS).tolist(), rng.permutation(NOUNS).tolist()
    states = rng.permutation(STATES).tolist()

    def text(k: int, kind: str) -> str:
        if kind == "terminal":
            return "end" if k else "start"
        return f"{nouns[k]} {states[k]}?" if kind == "decision" else f"{verbs[k]} {nouns[k]}"

    nodes = {f"n{k}": Node(kind, text(k, kind)) for k, kind in enumerate(kinds)}
    layout, edges, places, y = Layout(Diagram({}, frozenset())), set(), [], 1
    for name, node in nodes.items():
        wide, high = SIZE[node.kind]
        layout.boxes[name] = (SPINE - wide // 2, y, SPINE + wide // 2, y + high)
        places.append(y + high // 2)
        y += high + int(rng.integers(3, 6))
    layout.size = (BESIDE + 8, y - 1)

    def line(target: str, side: str, points: list[tuple[int, int]]) -> None:
        layout.nets.setdefault(f"{target} {side}", []).extend((*a, *b) for a, b in pairwise(points))
        (xa, ya), (xb, yb) = points[-2:]
        arrow = (xb, yb, int(np.sign(xb - xa)), int(np.sign(yb - ya)))
        if arrow not in layout.arrows:
            layout.arrows.append(arrow)

    for k in range(len(kinds) - 1):
        name, after = f"n{k}", f"n{k + 1}"
        below = layout.boxes[name][3]
        line(after, "top", [(SPINE, below), (SPINE, layout.boxes[after][1])])
        if kinds[k] != "decision":
            edges.add(Edge(name, after))
            continue
        here, other = rng.permutation(["yes", "no"]).tolist()
        edges.add(Edge(name, after, here))
        layout.words.append((here, SPINE + 0.7, below + 1))
        left, _, right, _ = layout.boxes[name]
        way = rng.choice(["skip", "loop", "beside"])
        if way == "loop" or (way == "skip" and k + 2 >= len(kinds)):
            to, lane = int(rng.integers(1, k)), int(rng.choice(LEFT_LANES))
            end = (layout.boxes[f"n{to}"][0], places[to])
            line(f"n{to}", "left", [(left, places[k]), (lane, places[k]), (lane, end[1]), end])
            edges.add(Edge(name, f"n{to}", other))
            layout.words.append((other, left - 3.1, places[k] + 1.1))
            continue
        layout.words.append((other, right + 0.7, places[k] - 1.1))
        to = int(rng.integers(k + 2 if way == "skip" else k + 1, len(kinds)))
        end = (layout.boxes[f"n{to}"][2], places[to])
        if way == "skip":
            lane = int(rng.choice(RIGHT_LANES))
            line(f"n{to}", "right", [(right, places[k]), (lane, places[k]), (lane, end[1]), end])
            edges.add(Edge(name, f"n{to}", other))
            continue
        step, (wide, high) = f"s{k}", SIZE["process"]
        nodes[step] = Node("process", f"{verbs[k]} {nouns[-1 - k]}")
        box = (BESIDE - wide // 2, places[k] - high // 2, BESIDE + wide // 2, places[k] + high // 2)
        layout.boxes[step] = box
        line(step, "left", [(right, places[k]), (box[0], places[k])])
        line(f"n{to}", "right", [(BESIDE, box[3]), (BESIDE, end[1]), end])
        edges |= {Edge(name, step, other), Edge(step, f"n{to}")}
    layout.diagram = Diagram(nodes, frozenset(edges))
    return layout
