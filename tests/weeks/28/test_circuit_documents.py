"""Drawn pages and their reading: graphs, layouts, scans, lines, facts, conversations."""

import itertools
import shutil
import subprocess

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shared.errors import UserError
from week28 import circuit_documents as documents
from week28.diagrams import (
    GATES,
    Diagram,
    Edge,
    Node,
    bare,
    evaluate,
    from_json,
    from_verilog,
    gate,
    is_held_out,
    same,
    to_dot,
    to_json,
    to_verilog,
    truth_table,
)
from week28.drawn_pages import FONTS, LEVELS, OTHER_FONTS, Scan, Style, draw, random_page, scan
from week28.evidence import page_judge as judge
from week28.flow_layouts import flowchart_layout
from week28.layouts import circuit_layout, conflict, crossings, dots, enters, random_circuit
from week28.netlists import assemble, inside
from week28.page_facts import Facts
from week28.scanned_pages import enclosed, even_light, ink_of, otsu, skew, upright
from week28.symbols import KINDS, Detector, Symbol, kind_at, lessons, views
from week28.tracing import has_dot, joined, straight

few = settings(max_examples=12)
seeds = st.integers(0, 9999)


def circuit(seed):
    return random_circuit(np.random.default_rng(seed))


def network(diagram):
    graph = nx.DiGraph()
    for name, node in diagram.nodes.items():
        graph.add_node(name, node=node)
    for source, target, label in diagram.edges:
        graph.add_edge(source, target, label=label)
    return graph


def isomorphic(a, b):
    equal = [lambda x, y, key=key: x[key] == y[key] for key in ("node", "label")]
    return nx.is_isomorphic(network(a), network(b), node_match=equal[0], edge_match=equal[1])


def renamed(diagram):
    nodes = {f"z{name}": node for name, node in reversed(diagram.nodes.items())}
    edges = {Edge(f"z{a}", f"z{b}", label) for a, b, label in diagram.edges}
    return Diagram(nodes, frozenset(edges))


def told(page):
    return [Symbol(kind, inside(kind, box)) for kind, box in page.symbols]


# ---- graphs


@pytest.mark.parametrize(
    ("kind", "ones"), [("AND", 1), ("OR", 3), ("NAND", 3), ("NOR", 1), ("XOR", 2)]
)
def test_gates_of_two_inputs(kind, ones):
    values = {(a, b): gate(kind, [a, b]) for a in (False, True) for b in (False, True)}
    assert sum(values.values()) == ones
    assert values[True, True] == (kind in ("AND", "OR"))


@given(seeds)
@few
def test_verilog_and_json_give_the_circuit_back(seed):
    diagram = circuit(seed)
    assert same(from_verilog(to_verilog(diagram)), diagram)
    assert from_json(to_json(diagram)) == diagram
    assert to_dot(diagram).count("->") == len(diagram.edges)


@given(seeds)
@few
def test_same_agrees_with_networkx(seed):
    diagram = circuit(seed)
    edges = sorted(diagram.edges)
    others = [renamed(diagram), Diagram(diagram.nodes, frozenset(edges[1:]))]
    name = next(name for name, node in diagram.nodes.items() if node.kind in GATES)
    kind = "NOR" if diagram.nodes[name].kind == "NAND" else "NAND"
    others.append(Diagram(diagram.nodes | {name: Node(kind)}, diagram.edges))
    turned = Edge(edges[0].target, edges[0].source)
    others.append(Diagram(diagram.nodes, frozenset([turned, *edges[1:]])))
    assert [same(diagram, other) for other in others] == [isomorphic(diagram, o) for o in others]


def test_the_label_of_an_edge_counts():
    a, b = ({"x": Node("decision", "q?"), "y": Node("process", "p")} for _ in range(2))
    yes, no = (Diagram(a, frozenset({Edge("x", "y", label)})) for label in ("yes", "no"))
    assert not same(yes, no)
    assert same(bare(yes), bare(no))
    assert a == b


@given(seeds)
@few
def test_slang_computes_the_same(seed):
    diagram = circuit(seed)
    np.testing.assert_array_equal(
        judge.by_slang(to_verilog(diagram), diagram), truth_table(diagram)
    )


@pytest.mark.skipif(shutil.which("iverilog") is None, reason="iverilog is not installed")
def test_icarus_computes_the_same(tmp_path):
    diagram = circuit(3)
    names = [[diagram.nodes[n].text for n in diagram.of_kind(k)] for k in ("input", "output")]
    lines = [f"reg {', '.join(names[0])}; wire {', '.join(names[1])}; initial begin"]
    ports = ", ".join(f".{name}({name})" for name in [*names[0], *names[1]])
    for row in itertools.product("01", repeat=len(names[0])):
        lines += [f"{n} = {v};" for n, v in zip(names[0], row, strict=True)]
        lines.append(f'#1 $display("%b", {{{", ".join(names[1])}}});')
    bench = f"module tb; page dut({ports}); {' '.join(lines)} end endmodule"
    (tmp_path / "t.v").write_text(to_verilog(diagram) + "\n" + bench)
    program = tmp_path / "t"
    subprocess.run(["iverilog", "-g2012", "-o", program, tmp_path / "t.v"], check=True)
    said = subprocess.run(["vvp", program], check=True, capture_output=True, text=True).stdout
    found = [[digit == "1" for digit in line] for line in said.split()]
    np.testing.assert_array_equal(found, truth_table(diagram))


def test_names_that_verilog_does_not_take():
    nodes = {"a": Node("input", "input"), "b": Node("input", "A B"), "c": Node("input", "A-B")}
    nodes |= {"g": Node("OR"), "h": Node("OR"), "y": Node("output", "1")}
    edges = {Edge("a", "g"), Edge("b", "g"), Edge("g", "h"), Edge("c", "h"), Edge("h", "y")}
    printed = to_verilog(Diagram(nodes, frozenset(edges)))
    assert printed.startswith("module page(input A_B, input A_B_, input n_input, output n_1);")


def test_a_loop_or_a_missing_wire_is_said():
    loop = Diagram(
        {"g": Node("NOT"), "h": Node("NOT")}, frozenset({Edge("g", "h"), Edge("h", "g")})
    )
    with pytest.raises(ValueError, match=r"diagram must have no loop"):
        evaluate(loop, {})
    open_gate = Diagram({"g": Node("AND"), "y": Node("output", "Y")}, frozenset({Edge("g", "y")}))
    with pytest.raises(ValueError, match=r"inputs of AND must be 2, got 0"):
        evaluate(open_gate, {})
    with pytest.raises(ValueError, match=r"values must hold one for A"):
        evaluate(Diagram({"a": Node("input", "A")}, frozenset()), {"B": True})
    assert not documents.same_function(open_gate, open_gate)


def test_functions_are_the_same_only_with_the_same_labels():
    diagram = circuit(1)
    name = diagram.of_kind("output")[0]
    other = Diagram(diagram.nodes | {name: Node("output", "NEW")}, diagram.edges)
    assert documents.same_function(diagram, renamed(diagram))
    assert not documents.same_function(diagram, other)
    driver = diagram.sources(name)[0]
    turned = {"AND": "NAND", "NAND": "AND", "OR": "NOR", "NOR": "OR"}
    kind = turned.get(diagram.nodes[driver].kind)
    if kind:
        wrong = Diagram(diagram.nodes | {driver: Node(kind)}, diagram.edges)
        assert not documents.same_function(diagram, wrong)


# ---- layouts and scans


@given(seeds, st.booleans())
@few
def test_wires_touch_only_where_they_cross(seed, flow):
    rng = np.random.default_rng(seed)
    layout = flowchart_layout(rng) if flow else circuit_layout(rng)
    assert not conflict(layout.nets)
    assert not any(enters(box, layout.nets) for box in layout.boxes.values())
    drawn = draw(layout, Style.random(rng))
    assert len(drawn.symbols) == len(layout.boxes)


def test_crossings_and_branches_are_told_apart():
    cross = {"a": [(0, 2, 4, 2)], "b": [(2, 0, 2, 4)]}
    assert (crossings(cross), conflict(cross)) == (1, False)
    assert conflict({"a": [(0, 2, 4, 2)], "b": [(2, 2, 2, 4)]})  # one ends on the other
    assert conflict({"a": [(0, 2, 4, 2)], "b": [(3, 2, 8, 2)]})  # one lies on the other
    assert dots([(0, 2, 4, 2), (2, 2, 2, 4)]) == [(2, 2)]
    assert dots([(0, 2, 4, 2), (4, 2, 4, 4)]) == []


def test_held_out_topologies_are_not_those_of_training():
    rng = np.random.default_rng(0)
    for kind in ("circuit", "flowchart"):
        for held_out in (False, True):
            page = random_page(rng, kind, held_out=held_out)
            assert is_held_out(page.diagram) == is_held_out(renamed(page.diagram)) == held_out
    assert not set(FONTS) & set(OTHER_FONTS)
    with pytest.raises(ValueError, match=r"kind must be circuit or flowchart, got 'map'"):
        random_page(rng, "map")


def test_scans_are_reproducible_and_grow_worse():
    image = random_page(np.random.default_rng(2), "circuit").image
    found = [scan(image, how, np.random.default_rng(1)) for how in LEVELS.values()]
    again = scan(image, LEVELS["bad"], np.random.default_rng(1))
    np.testing.assert_array_equal(found[-1], again)
    np.testing.assert_array_equal(found[0], image)
    with pytest.raises(ValueError, match=r"how must hold no negative number, got -1"):
        scan(image, Scan(noise=-1.0), np.random.default_rng(1))


# ---- from gray to lines


@given(st.lists(st.integers(0, 255), min_size=2, max_size=60))
@few
def test_thresholds_are_those_of_opencv(values):
    cv2 = pytest.importorskip("cv2")
    image = np.array([values], dtype=np.uint8)
    theirs = cv2.threshold(image, 0, 255, cv2.THRESH_OTSU)[0]
    side = [(image > level) for level in (otsu(image), theirs)]
    if len(set(values)) > 1:
        np.testing.assert_array_equal(side[0], side[1])


@pytest.mark.parametrize("angle", [-5.5, -1.2, 0.0, 2.0, 7.0])
def test_skew_is_found(angle):
    page = random_page(np.random.default_rng(4), "circuit").image
    turned = Image.fromarray(page).rotate(angle, Image.Resampling.BICUBIC, fillcolor=255)
    assert skew(np.asarray(turned) < 128) == pytest.approx(-angle, abs=0.25)


def test_light_is_evened_out():
    page = np.full((64, 96), 200, dtype=np.uint8)
    shaded = (page * np.linspace(0.5, 1, 96)).astype(np.uint8)
    assert np.ptp(shaded.astype(int)) > 90
    even = even_light(shaded)[8:-8, 16:-16].astype(int)
    assert np.ptp(even) < 25
    assert even.min() > 200
    with pytest.raises(ValueError, match=r"image must have 16 pixels a side, got \(5, 40\)"):
        even_light(page[:5, :40])


def test_an_empty_page_has_no_symbols():
    flat, ink = upright(np.full((90, 120), 255, dtype=np.uint8))
    detector = Detector(torch.Generator().manual_seed(0))
    assert skew(np.zeros((20, 20), dtype=bool)) == 0
    assert detector.find(flat, np.zeros_like(ink)) == []
    assert assemble(flat, np.zeros_like(ink), [], judge.no_texts).nodes == {}


def test_specks_go_and_loops_stay():
    image = np.full((100, 100), 255, dtype=np.uint8)
    image[20:81, 20:81] = 0
    image[23:78, 23:78] = 255
    image[50:52, 50:52] = 0
    ink = ink_of(image)
    assert not ink[45:56, 45:56].any()
    assert len(enclosed(ink)) == 1
    assert len(enclosed(ink, least=60)) == 0


def test_pieces_and_crossings():
    ink = np.zeros((80, 80), dtype=bool)
    ink[39:41, 10:70] = True
    ink[10:70, 39:41] = True
    pieces = straight(ink, 12)
    assert [piece.across for piece in pieces] == [True, False]
    assert (pieces[0].x0, pieces[0].x1) == (10, 69)
    assert len(set(joined(pieces, ink, 2.0))) == 2
    assert len(set(joined(pieces, ink, 2.0, dots=False))) == 1
    branch = ink.copy()
    branch[:39] = False  # what is left goes down only
    assert len(set(joined(straight(branch, 12), branch, 2.0))) == 1
    y, x = np.mgrid[:80, :80]
    dotted = ink | ((x - 39.5) ** 2 + (y - 39.5) ** 2 < 16)
    assert has_dot(dotted, 39.5, 39.5, 2.0)
    assert not has_dot(ink, 39.5, 39.5, 2.0)
    assert len(set(joined(straight(dotted, 12), dotted, 2.0))) == 1
    with pytest.raises(ValueError, match=r"length must be at least 2, got 1"):
        straight(ink, 1)


@pytest.mark.parametrize("kind", ["circuit", "flowchart"])
@pytest.mark.parametrize("level", ["none", "light", "scan"])
def test_pages_are_traced_when_symbols_are_told(kind, level):
    rng, right = np.random.default_rng(11), []
    for _ in range(3):
        page = random_page(rng, kind, held_out=True)
        image = scan(page.image, LEVELS[level]._replace(angle=0.0), rng)
        found = assemble(*upright(image), told(page), judge.no_texts)
        right.append(same(bare(found), bare(page.diagram)))
    assert sum(right) >= (2 if level == "scan" else 3)  # a scan may cut a thin line


def test_a_turned_page_is_read_as_the_straight_one():
    page = random_page(np.random.default_rng(12), "circuit")
    first = upright(page.image)
    turned = scan(page.image, Scan(angle=3.0), np.random.default_rng(0))
    boxes = [len(enclosed(ink)) for _, ink in (first, upright(turned))]
    assert boxes[0] == boxes[1]


def test_words_belong_to_their_wires():
    page = random_page(np.random.default_rng(13), "circuit")
    asked = []

    def read(crops):
        asked.extend(crops)
        return [f"t{k}" for k in range(len(crops))]

    found = assemble(*upright(page.image), told(page), read)
    for kind in ("input", "output"):
        assert len(found.of_kind(kind)) == len(page.diagram.of_kind(kind))
    assert all(crop.min() < 120 and crop[:, 0].min() > 150 for crop in asked)  # letters, no wire


# ---- the detector


def test_views_and_their_kinds():
    page = random_page(np.random.default_rng(14), "circuit")
    boxes = enclosed(upright(page.image)[1])
    kinds = [kind_at(page, box) for box in boxes]
    assert sorted(kind for kind in kinds if kind != "nothing") == sorted(k for k, _ in page.symbols)
    assert kind_at(page, (0, 0, 25, 25)) == "nothing"
    together = views(page.image, boxes)
    one = views(page.image, boxes[:1])
    torch.testing.assert_close(together[:1], one, rtol=0, atol=0)
    assert views(page.image, []).shape == (0, 1, 32, 32)
    assert views(page.image, [(-9, -9, 20, 20)]).max() <= 1


def test_views_at_the_edge_stay_in_place():
    image = np.full((60, 60), 240, dtype=np.uint8)
    image[2:12, 2:12] = 0
    moved = np.pad(image, 20, constant_values=240)
    there = views(moved, [(20, 20, 40, 40)])
    torch.testing.assert_close(views(image, [(0, 0, 20, 20)]), there, rtol=0, atol=0)


def test_the_detector_learns_and_a_batch_of_one_is_one_of_many():
    x, y = lessons(np.random.default_rng(15), 8)
    detector = Detector(torch.Generator().manual_seed(0))
    losses = detector.learn(x, y, 12)
    assert losses[-3:].mean() < losses[:3].mean()
    alone = torch.cat([detector.kinds(row[None]) for row in x[:6]])
    torch.testing.assert_close(detector.kinds(x)[:6], alone)
    assert len(KINDS) == 10


# ---- facts


@given(seeds, st.sampled_from(["circuit", "flowchart"]))
@few
def test_questions_about_the_drawn_page_are_answered(seed, kind):
    page = random_page(np.random.default_rng(seed), kind)
    facts = Facts(page.diagram)
    for asked, right in judge.questions(page, np.random.default_rng(0), 12):
        assert facts.answer(asked) == right


def test_answers_are_true():
    diagram = circuit(5)
    facts = Facts(diagram)
    inputs = [diagram.nodes[name].text for name in diagram.of_kind("input")]
    output = diagram.nodes[diagram.of_kind("output")[0]].text
    for row in itertools.product((False, True), repeat=len(inputs)):
        values = dict(zip(inputs, row, strict=True))
        given_ = " and ".join(f"{name} = {int(value)}" for name, value in values.items())
        said = facts.answer(f"What is {output} if {given_}?")
        assert said.endswith(f"{output} is {int(evaluate(diagram, values)[output])}.")
    assert facts.answer(f"What is {output} when {inputs[0]}=1?").startswith("That also needs")
    assert facts.answer("What drives NOPE?") == "The page does not mention NOPE."
    found = facts.answer(f"What drives {inputs[0]}?")
    assert found == f"{inputs[0]} is an input: nothing on the page drives it."
    assert facts.answer("and?").startswith("Ask what drives an output")


def test_after_is_not_before():
    nodes = {"a": Node("process", "open valve"), "b": Node("decision", "valve open?")}
    nodes["c"] = Node("process", "close door")
    edges = {Edge("a", "b"), Edge("b", "a", "no"), Edge("b", "c", "yes")}
    facts = Facts(Diagram(nodes, frozenset(edges)))
    assert facts.answer("What happens after open valve?") == "After open valve comes valve open?"
    assert facts.answer("What comes before close door?") == "Before close door comes valve open?"
    said = facts.answer("What happens after valve open? if no?")
    assert said == "After valve open?, if no, comes open valve."


# ---- judging and conversations


def test_wrong_edges_are_counted_on_both_sides():
    diagram = circuit(6)
    edges = sorted(diagram.edges)
    assert judge.edges_wrong(renamed(diagram), diagram) == 0
    assert judge.edges_wrong(Diagram(diagram.nodes, frozenset(edges[2:])), diagram) == 2
    assert judge.edges_wrong(diagram, Diagram(diagram.nodes, frozenset(edges[1:]))) == 1


def test_shares_are_of_graphs_texts_and_functions():
    page = random_page(np.random.default_rng(16), "circuit")
    right = judge.shares([page], [page.diagram])
    assert right == {"graph": [1.0], "graph and texts": [1.0], "function": [1.0]}
    nameless = judge.shares([page], [bare(page.diagram)])
    assert nameless == {"graph": [1.0], "graph and texts": [0.0], "function": [0.0]}


def test_dots_matter_where_wires_cross():
    rng = np.random.default_rng(17)
    for _ in range(20):
        layout = circuit_layout(rng)
        if crossings(layout.nets):
            break
    page = draw(layout, Style())
    assert judge.traced(page)
    assert not judge.traced(page, dots=False)


def test_a_conversation_about_a_page(tmp_path, monkeypatch):
    page = random_page(np.random.default_rng(18), "circuit")
    file = tmp_path / "page.png"
    Image.fromarray(page.image).save(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(documents, "_read_file", lambda path, changed: page.diagram)
    turns = [{"role": "user", "content": str(file)}]
    assert documents.reply(turns) == to_verilog(page.diagram)
    output = page.diagram.nodes[page.diagram.of_kind("output")[0]].text
    turns += [{"role": "assistant", "content": "…"}]
    turns += [{"role": "user", "content": f"What drives {output}?"}]
    assert documents.reply(turns).startswith(f"{output} is driven by")
    with pytest.raises(UserError, match=r"Name a page first"):
        documents.reply([{"role": "user", "content": "What drives Y?"}])
    with pytest.raises(UserError, match=r"the page must be a file that is there"):
        documents.reply([{"role": "user", "content": "gone.png"}])
    for elsewhere in ("../secret.png", str(tmp_path.parent / "secret.png")):
        with pytest.raises(UserError, match=r"the page must lie in the current folder or below"):
            documents.reply([{"role": "user", "content": elsewhere}])
    monkeypatch.setattr(documents, "_read_file", lambda *_: Diagram({}, frozenset()))
    with pytest.raises(UserError, match=r"page.png must show a circuit or a flowchart"):
        documents.reply(turns[:1])
