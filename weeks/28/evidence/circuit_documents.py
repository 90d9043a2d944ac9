"""Pages nobody trained on: symbols, lines, functions, answers; and where reading breaks."""

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image

from shared import plots
from shared.study import PositiveInt, Run
from week28 import chatting
from week28.circuit_documents import ASK, reader, reply
from week28.diagrams import Diagram, same, to_verilog, truth_table
from week28.drawn_pages import LEVELS, OTHER_FONTS, Scan, random_page
from week28.evidence.page_judge import (
    by_slang,
    edges_wrong,
    judged_pages,
    no_texts,
    readings,
    right_answers,
    scanned,
    shares,
    traced,
)
from week28.netlists import trace
from week28.scanned_pages import MOST_DEGREES, Box, otsu, skew, upright
from week28.symbols import KINDS, Detector, lessons

SEEN = "other pages of these kinds, read while the reader was being built"
NOISES, ANGLES = (0, 15, 30, 45, 60), (0, 4, 7, 10)


def main(
    run: Run,
    *,
    seeds: PositiveInt = 3,
    pages: PositiveInt = 8,
    steps: PositiveInt = 130,
    chat: bool = False,
) -> None:
    """Train detectors, read pages with held-out fonts and topologies, and ask about them.

    Parameters
    ----------
    seeds
        Detectors, each with its own pages to learn from and its own to judge.
    pages
        To judge, for each detector and each kind of scan.
    steps
        Of training.
    chat
        Talk about a page instead, until `exit`; name its file first.
    """
    if chat:
        run.say(ASK)
        chatting.chat(reply)
        raise SystemExit(0)
    run.rounding(0.05, "convolutions in float32; a page near a threshold may tip")
    seeds = run.budget(quick=1, default=seeds, full=max(seeds, 8))
    n = run.budget(quick=2, default=pages, full=4 * pages)
    check_graphs(run, run.budget(quick=3, default=12))
    check_pixels(run)
    trace_lines(run, run.budget(quick=12, default=40, full=200))
    detectors = learn(run, seeds, run.budget(quick=20, default=steps, full=4 * steps))
    read_all(run, detectors, n)
    where_it_breaks(run, detectors[0], run.budget(quick=2, default=6, full=24))
    show_page(run, detectors[0])


# ---- checks


def check_graphs(run: Run, n: int) -> None:
    """Printed circuits in slang; the same graph under other names in networkx."""
    import networkx as nx

    circuits = [random_page(run.rng, "circuit").diagram for _ in range(n)]
    ours = np.concatenate([truth_table(c).ravel() for c in circuits]).astype(float)
    theirs = np.concatenate([by_slang(to_verilog(c), c).ravel() for c in circuits]).astype(float)
    exact = {"why": "truth values"}
    run.check("truth tables", ours, theirs, against="slang, of the printed Verilog", **exact)

    def graph(diagram: Diagram) -> nx.DiGraph:
        found = nx.DiGraph()
        for name, node in diagram.nodes.items():
            found.add_node(name, node=node)
        found.add_edges_from(edge[:2] for edge in diagram.edges)
        return found

    others = [Diagram(c.nodes, frozenset(sorted(c.edges)[1:])) for c in circuits]
    renamed = [
        Diagram(
            {f"x{name}": node for name, node in reversed(c.nodes.items())},
            frozenset(e._replace(source=f"x{e.source}", target=f"x{e.target}") for e in c.edges),
        )
        for c in circuits
    ]
    pairs = [(c, d) for c in circuits for d in (*others, *renamed)]
    alike = lambda a, b: a["node"] == b["node"]  # noqa: E731
    theirs = [float(nx.is_isomorphic(graph(a), graph(b), node_match=alike)) for a, b in pairs]
    ours = [float(same(a, b)) for a, b in pairs]
    run.check("same graph or not", ours, theirs, against="networkx.is_isomorphic", **exact)
    small = min(circuits, key=lambda c: len(c.nodes))
    cut = Diagram(small.nodes, frozenset(sorted(small.edges)[1:]))
    apart = nx.graph_edit_distance(graph(small), graph(cut), node_match=alike)
    wrong = float(edges_wrong(cut, small))
    run.check("one line missing", wrong, apart, against="networkx.graph_edit_distance", **exact)


def check_pixels(run: Run) -> None:
    """Thresholds of OpenCV, and pages that were turned by known angles."""
    import cv2

    pages = judged_pages(run.seed + 100, 4)
    images = [image for how in LEVELS.values() for image in scanned(pages, how, run.seed)[:2]]
    theirs = [cv2.threshold(i, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)[0] for i in images]
    ours = [float(otsu(image)) for image in images]
    run.check("thresholds", ours, theirs, against="OpenCV's Otsu", why="whole gray values")
    angles, found = np.array([-6.0, -2.5, 0.0, 3.3]), []
    for page, angle in zip(pages, angles, strict=True):
        turned = Image.fromarray(page.image).rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)
        found.append(skew(np.asarray(turned) < 128))
    why = "steps of 0.1 degrees, and lines that end within a pixel"
    known = {"against": "the angles they were turned by", "kind": "theorem"}
    run.check("skew of turned pages", np.array(found), -angles, atol=0.25, why=why, **known)


def trace_lines(run: Run, n: int) -> None:
    """Lines alone, on clean circuits whose symbols are told."""
    rng = np.random.default_rng(40_000 + run.seed)
    pages = [random_page(rng, "circuit", OTHER_FONTS, held_out=True) for _ in range(n)]
    name = "lines of clean circuits are right, symbols told"
    values = [float(traced(page)) for page in pages]
    run.claim(name, values, at_least=0.9, unit="of pages", seen_before=SEEN)
    joined = [float(traced(page, dots=False)) for page in pages]
    run.falsifier("every crossing taken for a joint", joined, breaks=name)


# ---- symbols


def learn(run: Run, seeds: int, steps: int) -> list[Detector]:
    """Detectors, judged on symbols of other fonts; and those that were told nonsense."""
    right, fooled, first, last, detectors = [], [], [], [], []
    n = run.budget(quick=12, default=60)
    for seed in run.progress(range(run.seed, run.seed + seeds), "detectors"):
        x, y = lessons(np.random.default_rng(seed), n)
        test = np.random.default_rng(50_000 + seed)
        shown, kinds = lessons(test, max(n // 3, 4), fonts=OTHER_FONTS, held_out=True)
        g = torch.Generator().manual_seed(seed)
        detector = Detector(g)
        losses = detector.learn(x, y, steps)
        control = Detector(torch.Generator().manual_seed(seed))
        control.learn(x, y[torch.randperm(len(y), generator=g)], steps // 3)
        right.append(float((detector.kinds(shown) == kinds).double().mean()))
        fooled.append(float((control.kinds(shown) == kinds).double().mean()))
        first.append(float(losses[:5].mean()))
        last.append(float(losses[-5:].mean()))
        detectors.append(detector)
    name = "symbols are named rightly, fonts and topologies held out"
    late = {"quick": False, "rtol": None, "unit": "of regions"}
    run.claim(name, right, at_least=0.9, seen_before=SEEN, **late)
    run.falsifier("kinds shuffled in training", fooled, breaks=name)
    run.metric("loss, first steps", np.mean(first), rtol=None)
    run.metric("loss, last steps", np.mean(last), rtol=None)
    run.metric("parameters of the detector", sum(p.numel() for p in detectors[0].net.parameters()))
    return detectors


# ---- pages


def read_all(run: Run, detectors: list[Detector], n: int) -> None:
    """Each kind of scan: graphs, texts, functions and answers."""
    read, table = reader(), {}
    answers, others, wrong = [], [], []
    levels = run.budget(quick=["light"], default=list(LEVELS))
    for seed, detector in enumerate(detectors, start=run.seed):
        pages = judged_pages(seed, n)
        for level in run.progress(levels, f"pages of seed {seed}"):
            found = readings(detector, scanned(pages, LEVELS[level], seed), read)
            for kind, values in shares(pages, found).items():
                table.setdefault((level, kind), []).extend(values)
            if level == "light":
                answers += right_answers(pages, found, seed)
                others += right_answers(pages, found[1:] + found[:1], seed)
                wrong += [edges_wrong(d, p.diagram) for d, p in zip(found, pages, strict=True)]
    rest = {"quick": False, "rtol": None, "seen_before": SEEN}
    if run.mode != "quick":
        both = table["none", "graph and texts"]
        run.claim("clean pages are read without a fault", both, at_least=0.6, **rest)
        rule = {"at_least": 0.5} | rest
        run.claim(
            "lightly scanned circuits compute what was drawn", table["light", "function"], **rule
        )
    name = "questions about lightly scanned pages are answered rightly"
    run.claim(name, answers, at_least=0.6, unit="of questions", **rest)
    run.falsifier("answers from another page", others, breaks=name)
    for (level, kind), values in table.items():
        run.metric(f"{kind} right, scan: {level}", np.mean(values), "of pages", rtol=None)
    run.metric("lines wrong on a lightly scanned page", np.mean(wrong), rtol=None)
    with run.figure("levels", "How much of a page is read, by how badly it was scanned?") as axes:
        lines = {}
        for kind in ("graph", "graph and texts", "function"):
            name = "function (circuits)" if kind == "function" else kind
            lines[name] = [np.mean(table[level, kind]) for level in levels]
        plots.curves(
            axes,
            range(len(levels)),
            lines,
            marker="o",
            ylabel="share of pages right",
            ylim=(-0.02, 1.05),
        )
        axes.set_xticks(range(len(levels)), levels)


def where_it_breaks(run: Run, detector: Detector, n: int) -> None:
    """One fault at a time, grown until nothing is left; lines only."""
    pages = judged_pages(run.seed + 200, n)

    def right(how: Scan) -> float:
        found = readings(detector, scanned(pages, how, run.seed), no_texts)
        return float(np.mean(shares(pages, found)["graph"]))

    noises = run.budget(quick=NOISES[:2], default=NOISES)
    angles = run.budget(quick=ANGLES[:2], default=ANGLES)
    noise = [right(Scan(noise=value)) for value in noises]
    turned = [right(Scan(angle=value)) for value in angles]
    run.metric("graphs right at most noise", noise[-1], "of pages", rtol=None)
    run.metric("graphs right at most rotation", turned[-1], "of pages", rtol=None)
    title = "At which noise, and at which rotation, is the graph lost?"
    with run.figure("breaks", title, columns=2, size=(9.0, 3.8)) as panels:
        for axes, x, y, color in zip(
            panels, (noises, angles), (noise, turned), plots.COLORS[:2], strict=True
        ):
            axes.plot(x, y, "o-", color=color)
            axes.set(ylabel="share of graphs right", ylim=(-0.02, 1.05))
        panels[0].set_xlabel("noise, deviation in gray values")
        panels[1].set_xlabel("rotation, degrees")
        panels[1].axvline(MOST_DEGREES, color=plots.REFERENCE, ls="--", lw=1)
        panels[1].annotate(
            "the search for the\nangle ends ",
            (MOST_DEGREES, 0.05),
            color=plots.REFERENCE,
            ha="right",
        )


def show_page(run: Run, detector: Detector) -> None:
    """A scanned circuit with what was found drawn over it."""
    page = judged_pages(run.seed + 300, 1)
    image, ink = upright(scanned(page, LEVELS["scan"], run.seed)[0])
    symbols = detector.find(image, ink)
    found = trace(ink, symbols)
    numbers = {net: k for k, net in enumerate(dict.fromkeys(found.nets))}
    with run.figure("page", "What is found on a scanned page?", size=(8.0, 5.5)) as axes:
        axes.imshow(image, cmap="gray", vmin=0, vmax=255)
        for piece, net in zip(found.pieces, found.nets, strict=True):
            color = plots.COLORS[numbers[net] % len(plots.COLORS)]
            axes.plot((piece.x0, piece.x1), (piece.y0, piece.y1), color=color, lw=4, alpha=0.6)
        for symbol, box in zip(symbols, found.boxes, strict=True):
            outline(axes, box, "-")
            axes.annotate(symbol.kind, (box[0], box[1] - 3), fontsize=9, weight="bold")
        for box in found.words:
            outline(axes, box, ":")
        axes.set_axis_off()
    run.metric("kinds that the detector knows", len(KINDS) - 1)


def outline(axes: Axes, box: Box, style: str) -> None:
    """A box around something."""
    left, top, right, bottom = box
    x, y = (left, right, right, left, left), (top, top, bottom, bottom, top)
    axes.plot(x, y, color="0.4", ls=style, lw=1)
