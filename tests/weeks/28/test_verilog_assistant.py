"""The assistant on a tiny model: what it looks up, what it shows, what it says."""

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.datasets import Document, HardwareProblem
from shared.errors import UserError
from shared.run import Run
from week20.domain_lora import choose
from week28 import verilog_assistant
from week28.evidence.assistant_checks import tiny
from week28.evidence.assistant_judge import (
    Written,
    gain,
    heading_quality,
    looked_up_for,
    operator_changed,
    passes,
    quiz,
    sample,
    write_and_run,
)
from week28.evidence.assistant_tables import tell_circuits, tell_gaps
from week28.manual_search import Search
from week28.manuals import Question, passages
from week28.verilog_assistant import (
    VerilogAssistant,
    asks_for_circuit,
    choose_word,
    circuit_search,
    gap_prompt,
    gap_row,
    looked_up,
    nearest_circuits,
    write_bodies,
)
from week28.verilog_bench import Verdict

PAGE = Document(
    "build.rst",
    "Building\n========\n\nThe tool ``colcon`` builds every package of a workspace.\n\n"
    "Results are put into ``install``, beside the sources of the workspace.\n",
)
KNOWN = {p.name: p for p in passages(PAGE)}
HEADER = "module top_module (\n\tinput a,\n\tinput b,\n\toutput y\n);"
CIRCUITS = [
    HardwareProblem(f"{name} gate", f"An {name} gate of two inputs.", HEADER, body)
    for name, body in (
        ("and", "assign y = a & b;\nendmodule"),
        ("or", "assign y = a | b;\nendmodule"),
        ("or too", "assign y = a  | b;\nendmodule"),
    )
]
SOLVED = {p.name: p for p in CIRCUITS}


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "weeks/28/verilog_assistant.py", mode="quick", out=tmp_path, quiet=True)


@pytest.fixture
def model(run):
    return tiny(run)


def user(*said):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]


# ---- what is asked for


@pytest.mark.parametrize(
    ("said", "task"),
    [
        ("Write a Verilog module that adds.", True),
        ("please design\na 4-bit counter", True),
        ("How do I write a module?", False),
        ("What is a counter?", False),
        ("Tell me of counters", False),
        ("Hello", False),
    ],
)
def test_tasks_and_questions(said, task):
    assert asks_for_circuit(said) == task


def test_history_reaches_the_search_only_where_a_question_points_back():
    talk = ("What is colcon?", "A tool.")
    assert looked_up(user("What is colcon?")) == "What is colcon?"
    assert looked_up(user(*talk, "Where does it put the results?")).startswith("What is colcon? ")
    assert looked_up(user(*talk, "And for Python?")).startswith("What is colcon? ")
    assert looked_up(user(*talk, "Hello")) == "Hello"
    assert looked_up(user(*talk, "What is a node?")) == "What is a node?"
    assert looked_up(user("it?")) == "it?"


# ---- prompts


def question():
    passage = next(iter(KNOWN.values()))
    options = ["colcon", "rqt", "tf2", "rviz"]
    return Question("The tool ____ builds every package of a workspace.", options, 0, passage)


def test_a_row_is_the_prompt_the_word_and_the_end(model):
    _, tokenizer = model
    asked = question()
    row = gap_row(tokenizer, asked, ["A passage."])
    text = tokenizer.decode(row.ids)
    assert text.count("<|im_start|>") == 2  # once from the template, no more
    assert tokenizer.decode(row.ids[row.start :]) == "colcon<|im_end|>"
    assert gap_prompt(asked, ["A passage."]) in text
    assert gap_prompt(asked, []) == f"What belongs in the gap? {asked.asked}"


def test_the_choice_is_that_of_week_20(model):
    network, tokenizer = model
    network.eval().requires_grad_(False)
    asked = question()
    for seed in range(6):
        options = random.Random(seed).sample(["colcon", "rqt", "x", "a long word", "tf2"], 4)
        asked = asked._replace(options=options)
        prompt = tokenizer.chat(user(gap_prompt(asked, ["Here."])))
        expected = choose(network, tokenizer, prompt, options)
        assert choose_word(network, tokenizer, asked, ["Here."]) == expected


def test_neither_the_problem_nor_its_twin_is_shown():
    search = circuit_search(CIRCUITS)
    assert [p.name for p in nearest_circuits(search, SOLVED, CIRCUITS[1], 3)] == ["and gate"]
    new = HardwareProblem("", "An or gate of two inputs.", HEADER, "")
    found = [p.name for p in nearest_circuits(search, SOLVED, new, 2)]
    assert found[-1].startswith("or")  # the nearest stands next to the question
    assert len(found) == 2


def test_circuits_end_at_endmodule(model, monkeypatch):
    network, tokenizer = model
    said = tokenizer.encode("assign y = a;\nendmodule") + tokenizer.encode(" and more")

    def draw(model, prompt, n, *, enough, **options):
        text = tokenizer.decode(prompt)
        assert text.endswith(f"{HEADER}\n")  # ports are given
        assert "An and gate" in text  # and so is the example
        cut = next(i for i in range(1, len(said)) if enough(said[:i]))
        return [said[:cut]] * n

    monkeypatch.setattr(verilog_assistant, "draw_answers", draw)
    options = {"most": 64, "generator": torch.Generator()}
    found = write_bodies(network, tokenizer, CIRCUITS[1], CIRCUITS[:1], 2, **options)
    assert found == [f"{HEADER}\nassign y = a;\nendmodule"] * 2


# ---- the assistant


@pytest.fixture
def assistant(model, monkeypatch):
    """One whose model says what a test writes down; `asked` is what it was asked."""
    network, tokenizer = model
    search = Search(list(KNOWN), [p.text for p in KNOWN.values()])
    made = VerilogAssistant(network, tokenizer, KNOWN, search, SOLVED)
    made.asked, made.says = [], ["It builds."]

    def draw(model, prompt, n, **options):
        made.asked.append(tokenizer.decode(prompt))
        return [tokenizer.encode(made.says[i % len(made.says)]) for i in range(n)]

    monkeypatch.setattr(verilog_assistant, "draw_answers", draw)
    return made


def test_an_answer_says_where_it_is_from(assistant):
    said = assistant.reply(user("What does colcon build?"))
    assert said == "It builds.\n\nFrom: Building (build.rst)"
    assert "From the manual:\n\nBuilding: The tool colcon builds" in assistant.asked[0]
    said = assistant.reply(user("Hello"))
    assert said == "It builds.\n\n(Not from the manuals.)"
    assert "From the manual" not in assistant.asked[1]


def test_history_reaches_the_model_and_the_search(assistant):
    assistant.reply(user("What is colcon?", "A tool of ROS.", "And it?"))
    assert "A tool of ROS." in assistant.asked[0]
    assert "The tool colcon builds" in assistant.asked[0]


def test_the_first_circuit_that_compiles_is_answered(assistant, monkeypatch):
    def simulate(circuit, bench):
        assert bench is None
        return Verdict("compiles") if "endmodule" in circuit else Verdict("does not compile", "eof")

    monkeypatch.setattr(verilog_assistant, "simulator", lambda: "iverilog")
    monkeypatch.setattr(verilog_assistant, "simulate", simulate)
    assistant.says = ["module m;", "Sure: module n; endmodule ok", "module o; endmodule"]
    said = assistant.reply(user("Write an and gate in Verilog."))
    assert said.startswith("```verilog\nmodule n; endmodule\n```\n\nIt compiles")
    assert said.endswith("Example shown to the model: and gate.")
    assert CIRCUITS[0].body in assistant.asked[0]
    assistant.says = ["module m;"]
    assert "it does not compile (eof)" in assistant.reply(user("Write a latch."))


def test_what_is_refused_never_reaches_a_compiler(assistant, monkeypatch):
    monkeypatch.setattr(verilog_assistant, "simulate", lambda *a: pytest.fail("it was run"))
    assistant.says = ["module m; initial $system(1); endmodule"]
    assert "it is refused (it calls $system)" in assistant.reply(user("Write a latch."))
    monkeypatch.setattr(verilog_assistant, "simulator", lambda: None)
    assistant.says = ["module m; endmodule"]
    assert "it was not compiled (no iverilog)" in assistant.reply(user("Write a latch."))


def test_what_is_too_long_is_said(assistant):
    with pytest.raises(UserError, match=r"the conversation has \d+ tokens, too many"):
        assistant.reply(user("x" * 3000))
    with pytest.raises(UserError, match="messages must end with a question"):
        assistant.reply([])


def test_a_tiny_model_answers(model):
    network, tokenizer = model
    network.eval().requires_grad_(False)
    said = VerilogAssistant(network, tokenizer, solved=SOLVED, tries=2, most=4)
    assert "Example shown" in said.reply(user("Write an and gate."))
    assert "(Not from the manuals.)" in said.reply(user("Why?"))


# ---- the judge


def test_pass_at_k_is_the_share_of_subsets():
    written = [Written(10, 5, 3, 0), Written(10, 10, 10, 0), Written(10, 9, 0, 0)]
    assert passes(written, 1) == pytest.approx([0.3, 1, 0])
    assert passes(written, 5)[0] == pytest.approx(11 / 12)  # and .832 if plugged in


def test_written_counts(model, monkeypatch):
    from week28.evidence import assistant_judge

    network, tokenizer = model
    copy, wrong = f"{HEADER}\n{CIRCUITS[0].body}", f"{HEADER}\nassign y = 1;\nendmodule"
    texts, seen = [copy, copy, wrong, "module"], []

    def simulate(text, bench):
        seen.append(text)
        return Verdict("passes" if text == copy else "fails")

    monkeypatch.setattr(assistant_judge, "write_bodies", lambda *a, **b: texts)
    monkeypatch.setattr(assistant_judge, "simulate", simulate)
    monkeypatch.setattr(assistant_judge, "simulator", lambda: "iverilog")
    monkeypatch.setattr(assistant_judge.datasets, "verilog_benches", lambda: {"new": ""})
    new = HardwareProblem("new", "An and gate of two inputs.", HEADER, "?")
    options = {"n": 4, "most": 9, "seed": 0, "compiles": lambda text: "endmodule" in text}
    options |= {"retrieve": True}
    found = write_and_run(network, tokenizer, [new], CIRCUITS[:1], **options)
    assert found == [Written(4, 3, 2, 2)]
    assert sorted(seen) == sorted({copy, wrong, "module"})  # each text once
    options["retrieve"] = False
    assert write_and_run(network, tokenizer, [new], CIRCUITS[:1], **options)[0].copied == 0


def test_the_quiz_and_what_is_looked_up(model, monkeypatch):
    from week28.evidence import assistant_judge

    network, tokenizer = model
    asked = [question(), question()._replace(answer=1)]
    monkeypatch.setattr(assistant_judge, "choose_word", lambda *a: 1)
    assert quiz(network, tokenizer, asked, [[], []]) == [0.0, 1.0]
    search = Search(list(KNOWN), [p.text for p in KNOWN.values()])
    shown, right = looked_up_for(asked, search, KNOWN)
    assert right == [1.0, 1.0]
    assert shown[0] == ["Building: The tool colcon builds every package of a workspace."]
    assert heading_quality(KNOWN, search, "words") == {"Building": 0.0}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(0, 40), st.integers(0, 9))
def test_samples_are_different_and_in_order(n, k, seed):
    found = sample(range(n), k, seed)
    assert found == sorted(set(found))
    assert len(found) == min(n, k)


def test_one_operator_is_changed():
    assert operator_changed("assign y = a & b;") == "assign y = a | b;"
    assert operator_changed("q <= a + b;") == "q <= a - b;"
    assert operator_changed("assign y = ~a;") == "assign y = a;"
    assert operator_changed("assign y = a;") is None


def test_claims_have_the_right_signs(run):
    rng = np.random.default_rng(0)
    low, high = (rng.binomial(1, p, 60).astype(float).tolist() for p in (0.1, 0.9))
    gaps = {"as it is": low, "retrieval": high, "LoRA": high, "both": high, "others": low}
    tell_gaps(run, gaps)
    few, many = [Written(5, 4, 0, 0)] * 20, [Written(5, 5, 5, 0)] * 20
    arms = {"as it is": few, "retrieval": many, "LoRA": few, "both": many}
    tell_circuits(run, arms)
    verdicts = {c["name"]: c["verdict"] for c in run.claims}
    assert verdicts["with the manual open it fills more gaps"] == "holds"
    assert verdicts["with the manual open LoRA fills more gaps than the model as it is"] == "fails"
    assert run.falsifiers[0]["broken"]
    if verilog_assistant.simulator():
        assert verdicts["with a solved circuit before the task more pass"] == "holds"
        assert verdicts["LoRA's circuits pass more often than the model's as it is"] == "fails"
        assert verdicts["both together pass more often than LoRA alone"] == "holds"
    assert gain([1.0, 1.0], [0.0, 0.0]).mean == 1
