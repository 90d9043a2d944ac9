"""How right a reading is: graph, function and answers; and the questions that are asked."""

import itertools

import numpy as np

from week28.circuit_documents import read_page, same_function
from week28.diagrams import Diagram, bare, evaluate, same
from week28.drawn_pages import OTHER_FONTS, Page, Scan, random_page, scan
from week28.netlists import Crop, Read, assemble, inside
from week28.page_facts import Facts
from week28.scanned_pages import upright
from week28.symbols import Detector, Symbol


def no_texts(crops: list[Crop]) -> list[str]:
    """A reader of nothing, for judging lines alone."""
    return [""] * len(crops)


def judged_pages(seed: int, n: int) -> list[Page]:
    """Pages of both kinds whose fonts and topologies nothing was trained on."""
    rng = np.random.default_rng(60_000 + seed)
    kinds = itertools.cycle(("circuit", "flowchart"))
    return [
        random_page(rng, kind, OTHER_FONTS, held_out=True)
        for kind, _ in zip(kinds, range(n), strict=False)
    ]


def scanned(pages: list[Page], how: Scan, seed: int) -> list[Crop]:
    """Each page as the scanner gives it."""
    rng = np.random.default_rng(20_000 + seed)
    return [scan(page.image, how, rng) for page in pages]


def traced(page: Page, *, dots: bool = True) -> bool:
    """Whether the lines of a clean page are right, if it is told what its symbols are."""
    symbols = [Symbol(kind, inside(kind, box)) for kind, box in page.symbols]
    found = assemble(*upright(page.image), symbols, no_texts, dots=dots)
    return same(bare(found), bare(page.diagram))


def readings(detector: Detector, images: list[Crop], read: Read) -> list[Diagram]:
    """What is read on each page."""
    return [read_page(image, detector, read) for image in images]


def edges_wrong(found: Diagram, truth: Diagram) -> int:
    """Lines missing or too many, each told by the kinds and texts of its ends."""

    def told(diagram: Diagram) -> list[tuple]:
        nodes = diagram.nodes
        return [(nodes[edge.source], nodes[edge.target], edge.label) for edge in diagram.edges]

    left_over, missing = told(found), 0
    for edge in told(truth):
        if edge in left_over:
            left_over.remove(edge)
        else:
            missing += 1
    return missing + len(left_over)


def questions(page: Page, rng: np.random.Generator, n: int = 6) -> list[tuple[str, str]]:
    """Questions about a page in other words than its facts', and what is right."""
    diagram, found = page.diagram, []
    facts = dict(Facts(diagram).facts)
    text = {name: node.text for name, node in diagram.nodes.items()}
    if diagram.is_circuit:
        inputs = [text[name] for name in diagram.of_kind("input")]
        for name in diagram.of_kind("output"):
            found.append((f"Which gate drives {text[name]}?", facts[f"drives {text[name]}"]))
        for row in itertools.product((False, True), repeat=len(inputs)):
            values = evaluate(diagram, dict(zip(inputs, row, strict=True)))
            given = [f"{name}={int(value)}" for name, value in zip(inputs, row, strict=True)]
            for output in values:
                asked = f"What is {output} when {', '.join(reversed(given))}?"
                found.append((asked, facts[f"{output} {' '.join(given)}"]))
    else:
        for edge in diagram.edges:
            label = f" if {edge.label}" if edge.label else ""
            right = facts[f"after {text[edge.source]} {edge.label}"]
            found.append((f"What happens after {text[edge.source]}{label}?", right))
    order = rng.permutation(len(found))[:n]
    return [sorted(found)[i] for i in order]


def right_answers(pages: list[Page], found: list[Diagram], seed: int) -> list[float]:
    """The share of questions about each page that its reading answers rightly."""
    rng, shares = np.random.default_rng(30_000 + seed), []
    for page, diagram in zip(pages, found, strict=True):
        facts = Facts(diagram)
        asked = questions(page, rng)
        shares.append(float(np.mean([facts.answer(q) == right for q, right in asked])))
    return shares


def by_slang(verilog: str, diagram: Diagram) -> np.ndarray:
    """The truth table of a printed circuit, parsed and evaluated by slang."""
    from pyslang import ast, syntax

    tree = syntax.SyntaxTree.fromText(verilog)
    assert not list(tree.diagnostics), "slang finds an error in the Verilog"
    names = [diagram.nodes[name].text for name in diagram.of_kind("input")]
    outputs = [diagram.nodes[name].text for name in diagram.of_kind("output")]
    assigned = [line.split("assign ")[1] for line in verilog.splitlines() if "assign" in line]
    rows = []
    for row in itertools.product((0, 1), repeat=len(names)):
        session = ast.ScriptSession()
        for name, value in zip(names, row, strict=True):
            session.eval(f"bit {name} = {value};")
        for line in assigned:
            session.eval(f"bit {line}")
        rows.append([bool(int(str(session.eval(name))[-1])) for name in outputs])
    return np.array(rows)


def shares(pages: list[Page], found: list[Diagram]) -> dict[str, list[float]]:
    """Right or not, page by page: the lines, all with texts, the function of circuits."""
    both = list(zip(found, pages, strict=True))
    return {
        "graph": [float(same(bare(d), bare(p.diagram))) for d, p in both],
        "graph and texts": [float(same(d, p.diagram)) for d, p in both],
        "function": [float(same_function(d, p.diagram)) for d, p in both if p.diagram.is_circuit],
    }
