"""Circuits and flowcharts as graphs: what they compute, and how they print.

A diagram has nodes, each of a kind and with a text, and edges from one to another. In a circuit a
node computes its kind's function of all nodes that lead to it.

>>> gates = {
...     "a": Node("input", "A"),
...     "b": Node("input", "B"),
...     "g": Node("NAND"),
...     "y": Node("output", "Y"),
... }
>>> half = Diagram(gates, frozenset({Edge("a", "g"), Edge("b", "g"), Edge("g", "y")}))
>>> evaluate(half, {"A": True, "B": True})
{'Y': False}
>>> print(to_verilog(half))
module page(input A, input B, output Y);
  wire g1;
  assign g1 = ~(A & B);
  assign Y = g1;
endmodule
>>> same(from_verilog(to_verilog(half)), half)
True
"""

import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from shared.require import require

GATES = ("AND", "OR", "NOT", "NAND", "NOR", "XOR")
BOXES = ("terminal", "process", "decision")
OPERATOR = {"AND": "&", "NAND": "&", "OR": "|", "NOR": "|", "XOR": "^", "NOT": "&"}
INVERTED = ("NOT", "NAND", "NOR")
KEYWORDS = {"input", "output", "wire", "assign", "module", "endmodule", "and", "or", "not", "reg"}


class Node(NamedTuple):
    """A symbol or a label: its kind and its text."""

    kind: str
    text: str = ""


class Edge(NamedTuple):
    """A line from one node to another; out of a decision it has a label."""

    source: str
    target: str
    label: str = ""


@dataclass(frozen=True)
class Diagram:
    """Nodes by name, and the edges between them."""

    nodes: dict[str, Node]
    edges: frozenset[Edge]

    def of_kind(self, *kinds: str) -> list[str]:
        """Names of the nodes of these kinds, in order of their texts."""
        found = [name for name, node in self.nodes.items() if node.kind in kinds]
        return sorted(found, key=lambda name: (self.nodes[name].text, name))

    def sources(self, name: str) -> list[str]:
        """Names of the nodes that lead to this one."""
        return sorted(edge.source for edge in self.edges if edge.target == name)

    @property
    def is_circuit(self) -> bool:
        """Whether there are gates or labels of circuits."""
        return any(node.kind in (*GATES, "input", "output") for node in self.nodes.values())


# ---- what a circuit computes


def gate(kind: str, values: list[bool]) -> bool:
    """The value of a gate, or of an output, which repeats its only input."""
    least, most = (1, 1) if kind in ("NOT", "output") else (2, len(values))
    require(least <= len(values) <= most, f"inputs of {kind} must be {least}", len(values))
    if kind in ("AND", "NAND"):
        value = all(values)
    elif kind in ("OR", "NOR"):
        value = any(values)
    else:
        value = sum(values) % 2 == 1  # XOR; of one value the value itself
    return value != (kind in INVERTED)


def in_order(diagram: Diagram) -> list[str]:
    """Names of the nodes, each after all that lead to it.

    Raises
    ------
    ValueError
        If the circuit feeds back into itself.
    """
    graph = {name: diagram.sources(name) for name in diagram.nodes}
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError:
        raise ValueError("diagram must have no loop, got one through its gates") from None


def evaluate(diagram: Diagram, values: Mapping[str, bool]) -> dict[str, bool]:
    """The outputs for values of the inputs, both by their texts."""
    found: dict[str, bool] = {}
    for name in in_order(diagram):
        kind, text = diagram.nodes[name]
        if kind == "input":
            require(text in values, f"values must hold one for {text}", sorted(values))
            found[name] = bool(values[text])
        else:
            found[name] = gate(kind, [found[source] for source in diagram.sources(name)])
    return {diagram.nodes[name].text: found[name] for name in diagram.of_kind("output")}


def truth_table(diagram: Diagram) -> Bool[np.ndarray, "rows outputs"]:
    """Outputs in order, for all values of the inputs; the last input changes fastest."""
    inputs = [diagram.nodes[name].text for name in diagram.of_kind("input")]
    rows = itertools.product((False, True), repeat=len(inputs))
    found = [list(evaluate(diagram, dict(zip(inputs, row, strict=True))).values()) for row in rows]
    return np.array(found, dtype=bool)


# ---- the same diagram under other names


def colors(diagram: Diagram) -> list[str]:
    """A digest per node of all that can be reached from it, in order (Weisfeiler and Leman)."""
    color = {name: repr(tuple(node)) for name, node in diagram.nodes.items()}
    for _ in diagram.nodes:
        seen = {name: ([], []) for name in diagram.nodes}
        for source, target, label in diagram.edges:
            seen[source][0].append((label, color[target]))
            seen[target][1].append((label, color[source]))
        color = {
            name: hashlib.sha256(
                repr((color[name], sorted(out), sorted(into))).encode()
            ).hexdigest()
            for name, (out, into) in seen.items()
        }
    return sorted(color.values())


def same(a: Diagram, b: Diagram) -> bool:
    """Whether the diagrams differ in nothing but names.

    Exact where no two nodes of a diagram look alike from everywhere, as on all drawn pages.
    """
    return colors(a) == colors(b)


def bare(diagram: Diagram) -> Diagram:
    """The diagram without its texts and labels."""
    nodes = {name: Node(node.kind) for name, node in diagram.nodes.items()}
    return Diagram(nodes, frozenset(Edge(edge.source, edge.target) for edge in diagram.edges))


def is_held_out(diagram: Diagram) -> bool:
    """Whether its topology is one of the third that nothing is trained on."""
    return int(hashlib.sha256(repr(colors(bare(diagram))).encode()).hexdigest(), 16) % 3 == 0


# ---- printed


def identifiers(diagram: Diagram) -> dict[str, str]:
    """A name for each node that Verilog takes, no two of them the same."""
    found: dict[str, str] = {}
    order = [*diagram.of_kind("input", "output"), *in_order(diagram)]
    numbers = itertools.count(1)
    for name in dict.fromkeys(order):
        text = diagram.nodes[name].text
        wanted = re.sub(r"\W", "_", text, flags=re.ASCII) if text else f"g{next(numbers)}"
        if not wanted[0].isalpha() or wanted in KEYWORDS:
            wanted = f"n_{wanted}"
        while wanted in found.values():
            wanted += "_"
        found[name] = wanted
    return found


def to_verilog(diagram: Diagram, name: str = "page") -> str:
    """A module with an assignment per gate."""
    names = identifiers(diagram)
    ports = [f"{kind} {names[n]}" for kind in ("input", "output") for n in diagram.of_kind(kind)]
    lines = [f"module {name}({', '.join(ports)});"]
    gates = [n for n in in_order(diagram) if diagram.nodes[n].kind in GATES]
    if gates:
        lines.append(f"  wire {', '.join(names[n] for n in gates)};")
    for n in [*gates, *diagram.of_kind("output")]:
        kind = diagram.nodes[n].kind
        operands = sorted(names[source] for source in diagram.sources(n))
        value = f" {OPERATOR.get(kind, '&')} ".join(operands)
        lines.append(f"  assign {names[n]} = {f'~({value})' if kind in INVERTED else value};")
    return "\n".join([*lines, "endmodule"])


def from_verilog(text: str) -> Diagram:
    """The circuit of a module as `to_verilog` prints it."""
    head = re.match(r"module \w+\((.*?)\);", text)
    require(head, "text must begin with a module and its ports", repr(text[:40]))
    ports = re.findall(r"(input|output) (\w+)", head[1])
    nodes = {name: Node(kind, name) for kind, name in ports}
    kinds = {(OPERATOR[k], k in INVERTED): k for k in GATES if k != "NOT"}
    edges = set()
    for name, inverted, value in re.findall(r"assign (\w+) = (~?)\(?([^;)]*)\)?;", text):
        operands = re.findall(r"\w+", value)
        operator = re.search("[&|^]", value)
        if name not in nodes:
            nodes[name] = Node(kinds[operator[0], bool(inverted)] if operator else "NOT")
        edges |= {Edge(operand, name) for operand in operands}
    return Diagram(nodes, frozenset(edges))


def to_dot(diagram: Diagram) -> str:
    """The graph for Graphviz."""
    shapes = {"decision": "diamond", "process": "box", "terminal": "oval"}
    lines = ["digraph page {"]
    for name, (kind, text) in sorted(diagram.nodes.items()):
        label = json.dumps(text or kind)
        lines.append(f'  "{name}" [label={label}, shape={shapes.get(kind, "plain")}];')
    for source, target, label in sorted(diagram.edges):
        lines.append(f'  "{source}" -> "{target}" [label={json.dumps(label)}];')
    return "\n".join([*lines, "}"])


def to_json(diagram: Diagram) -> str:
    """Nodes and edges in one line."""
    return json.dumps({"nodes": diagram.nodes, "edges": sorted(diagram.edges)})


def from_json(text: str) -> Diagram:
    """What `to_json` wrote."""
    data = json.loads(text)
    nodes = {name: Node(*node) for name, node in data["nodes"].items()}
    return Diagram(nodes, frozenset(Edge(*edge) for edge in data["edges"]))
