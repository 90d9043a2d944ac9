"""What is refused, what is let through, and what a bench sees; programs that go wrong end."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from witness import Witness

from shared import datasets
from shared.errors import UserError
from week28 import verilog_bench
from week28.evidence.assistant_judge import operator_changed
from week28.verilog_bench import (
    Verdict,
    first_module,
    refusal,
    run_limited,
    simulate,
    simulator,
    truth_table_bench,
)

needs_icarus = pytest.mark.skipif(simulator() is None, reason="iverilog is not on the path")
HEAD = "module top_module(input a, input b, output y);\n"
XOR = truth_table_bench("ab", {"y": [0, 1, 1, 0]})


# ---- before anything runs


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('initial $system("id");', "it calls $system"),
        ('initial $ readmemh("f", m);', "it calls $ readmemh"),
        ('integer f = $fopen("f");', "it calls $fopen"),
        ('initial $display("Mismatches: 0 in 9 samples");', "it calls $display"),
        ("initial $finish;", "it calls $finish"),
        ("// $system", "it calls $system"),
        ('`include "f"', "it has the directive `include"),
        ("`define S $sys", "it has the directive `define"),
        ("assign y = good1.y;", "it reaches into good1"),
        ("assign y = good1 . y;", "it reaches into good1"),
        ("wire \\a// ; assign y = good1.y;", "it reaches into good1"),
        ('wire w = "//"; assign y = good1.y;', "it reaches into good1"),
        ("assign y = \\good1 .y;", "it reaches into good1"),
        ("module reference_module; endmodule", "it names reference_module"),
        ("bind x y z();", "it names bind"),
        ("x" * 20_001, "it has 20001 characters, more than 20000"),
    ],
)
def test_refused(text, reason):
    assert refusal(text) == reason
    assert simulate(text, XOR) == Verdict("refused", reason)  # and nothing is run


@pytest.mark.parametrize(
    "text",
    [
        "assign y = $signed(a) >>> 1;",
        "other u1 (.a(a), .b(b));",
        "// This is a sentence. And this is one.",
        "/* tb. */ assign y = 1.5 > 1;",
    ],
)
def test_not_refused(text):
    assert refusal(text) is None


def test_people_are_not_refused():
    assert not [p.name for p in datasets.verilog_eval() if refusal(f"{p.header}\n{p.body}")]


def test_a_circuit_is_what_stands_between_module_and_its_end():
    text = "Sure!\n```verilog\nmodule m(input a);\nendmodule\n``` and module x; endmodule"
    assert first_module(text) == "module m(input a);\nendmodule"
    assert first_module(" no circuit ") == "no circuit"
    assert first_module("module m; // cut") == "module m; // cut"


# ---- running

SIGNS = {"&": int.__and__, "|": int.__or__, "^": int.__xor__}


@needs_icarus
@settings(max_examples=6, deadline=None)
@given(st.sampled_from("&|^"), st.sampled_from("&|^"), st.integers(0, 7))
def test_a_bench_agrees_with_python_and_sees_one_wrong_row(left, right, row):
    bits = itertools.product((0, 1), repeat=3)
    table = [SIGNS[right](SIGNS[left](a, 1 - b), c) for a, b, c in bits]
    circuit = "module top_module(input a, input b, input c, output y);\n"
    circuit += f"assign y = (a {left} ~b) {right} c; endmodule"
    verdict = simulate(circuit, truth_table_bench("abc", {"y": table}))
    assert verdict == Verdict("passes", "0 mismatches in 8 samples")
    table[row] = 1 - table[row]
    verdict = simulate(circuit, truth_table_bench("abc", {"y": table}))
    assert verdict == Verdict("fails", "1 mismatches in 8 samples")
    assert verdict.compiled
    assert not verdict.passed


@needs_icarus
def test_outcomes():
    assert simulate(f"{HEAD}assign y = a ^ b; endmodule", XOR).passed
    assert simulate(f"{HEAD}assign y = a ^; endmodule", XOR).outcome == "does not compile"
    assert "circuit.sv:2" in simulate(f"{HEAD}assign y = a ^; endmodule", XOR).why
    assert simulate(f"{HEAD}endmodule", XOR).outcome == "fails"  # y floats: x is not 0
    assert simulate(f"{HEAD}assign y = a ^ b; endmodule", None) == Verdict("compiles")
    assert simulate("module other; endmodule", XOR).outcome == "does not compile"
    empty = 'module tb; initial begin $display("Mismatches: 0 in 0 samples"); $finish; end\n'
    empty += "top_module t(1'b0, 1'b0, y); endmodule"
    assert simulate(f"{HEAD}endmodule", empty).outcome == "fails"  # nothing was compared
    silent = "module tb; top_module t(1'b0, 1'b0, y); endmodule"
    assert simulate(f"{HEAD}endmodule", silent).why == "the bench did not reach its end"


@needs_icarus
def test_a_circuit_that_never_ends_is_ended():
    loop = f"{HEAD}reg r; initial forever r = 1; assign y = r; endmodule"
    for seconds in (0.5, 4, 32):
        verdict = simulate(loop, XOR, seconds=seconds)
        assert verdict.outcome == "takes too long"
        if verdict.why != "the compiler":  # as on a slow machine
            break
    assert verdict.why == f"over {seconds:g} s"


@needs_icarus
def test_people_pass_their_benches_and_fail_with_one_operator_changed():
    benches = datasets.verilog_benches()
    problems = datasets.verilog_eval()[3:60:12]
    assert all(simulate(f"{p.header}\n{p.body}", benches[p.name]).passed for p in problems)
    changed = [(p, operator_changed(p.body)) for p in problems]
    changed = [(p, body) for p, body in changed if body]
    assert changed
    assert all(not simulate(f"{p.header}\n{body}", benches[p.name]).passed for p, body in changed)


def test_without_a_simulator_one_line_says_so(monkeypatch):
    monkeypatch.setattr(verilog_bench.shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"Icarus Verilog \(iverilog\) must be on the path, got none"
    ):
        simulate(f"{HEAD}endmodule", XOR)


def test_programs_end_with_their_children_and_their_output_is_cut(tmp_path):
    script = f"exec 3> {tmp_path / 'pipe'}; sleep 200 & echo begun; echo >&3; sleep 200"
    with Witness(tmp_path / "pipe") as witness:
        for seconds in (0.5, 4, 32):
            status, said = run_limited(["sh", "-c", script], tmp_path, seconds)
            assert status is None
            if said:
                break
        assert said == "begun\n"
        while witness.begun():
            pass
        assert witness.ended()
    _, said = run_limited(["sh", "-c", "yes"], tmp_path, 60)
    assert len(said) <= verilog_bench.MOST_OUTPUT
    status, said = run_limited(["sh", "-c", "pwd; env; cat"], tmp_path, 60)
    assert said.startswith(f"{tmp_path}\n")
    assert "HOME=" not in said
    with pytest.raises(ValueError, match="seconds must be above 0, got 0"):
        run_limited(["true"], tmp_path, 0)


def test_a_table_has_a_row_for_each_combination():
    with pytest.raises(ValueError, match=r"outputs\['y'\] must have 4 values, got 3"):
        truth_table_bench("ab", {"y": [0, 1, 1]})
