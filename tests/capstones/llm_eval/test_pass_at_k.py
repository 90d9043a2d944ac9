"""pass@k is the chance that a draw without replacement holds a program that passes."""

import gzip
import itertools
import json
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_eval.metrics.code import pass_at_k, passes
from shared import registry
from shared.errors import UserError

ADD = "def add(a, b):\n    return a + b"


@given(st.integers(1, 200), st.data())
def test_pass_at_k_is_equation_1(n, data):
    c, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    exact = 1 - Fraction(comb(n - c, k), comb(n, k))
    assert pass_at_k(n, c, k) == pytest.approx(float(exact), abs=1e-12)


def test_pass_at_k_is_the_share_of_all_draws():
    for n, c, k in itertools.product(range(1, 7), range(7), range(1, 7)):
        if c <= n and k <= n:
            draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
            assert pass_at_k(n, c, k) == pytest.approx(np.mean([max(draw) for draw in draws]))
    assert pass_at_k(10, 3, 5) == pytest.approx(11 / 12)


def test_pass_at_k_is_right_on_average():
    """The plug-in 1 - (1 - c/n)^k is not."""
    n, p, k = 10, 0.3, 5
    weight = [comb(n, c) * p**c * (1 - p) ** (n - c) for c in range(n + 1)]
    mean = np.dot(weight, [pass_at_k(n, c, k) for c in range(n + 1)])
    plug_in = np.dot(weight, [1 - (1 - c / n) ** k for c in range(n + 1)])
    assert mean == pytest.approx(1 - (1 - p) ** k, abs=1e-12)
    assert plug_in < mean - 0.03


def test_too_few_answers_say_nothing():
    with pytest.raises(ValueError, match="k must be between 1 and n = 3, got 4"):
        pass_at_k(3, 1, 4)
    with pytest.raises(ValueError, match="c must be between 0 and n = 3, got 4"):
        pass_at_k(3, 4, 1)


def test_nothing_runs_unless_it_is_allowed():
    with pytest.raises(UserError, match="needs allow_code=True, got False"):
        passes(ADD, "assert add(1, 2) == 3")


@pytest.mark.parametrize(
    ("program", "tests", "why"),
    [
        (ADD, "assert add(1, 2) == 3", ""),
        (ADD, "assert add(1, 2) == 4", "AssertionError"),
        (ADD + " +", "", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(0)", "assert False", "ended before its tests"),
        ("import os\nos._exit(0)", "assert False", "ended before its tests"),
        ("raise SystemExit", "assert False", "ended before its tests"),
        ("import sys\nsys.exit(3)", "assert False", "ended with an error"),
        ("print('passed', 'token')\nraise SystemExit", "assert False", "ended before its tests"),
        ("def f(): return f()", "f()", "RecursionError: maximum recursion depth exceeded"),
    ],
)
def test_only_what_reaches_the_end_of_its_tests_passes(program, tests, why):
    outcome = passes(program, tests, allow_code=True)
    assert (outcome.passed, outcome.why) == (not why, why)


def test_a_program_that_takes_too_long_says_so():
    outcome = passes("while True: pass", "", allow_code=True, seconds=0.5)
    assert outcome.why == "took more than 0.5 s"


def test_canonical_solutions_of_humaneval_pass():
    """Some of the 164, and none of them without its solution."""
    with gzip.open(registry.path("humaneval", "HumanEval.jsonl.gz"), "rt") as stream:
        problems = [json.loads(line) for line in stream][::20]
    for problem in problems:
        tests = f"{problem['test']}\ncheck({problem['entry_point']})"
        program = problem["prompt"] + problem["canonical_solution"]
        assert passes(program, tests, allow_code=True).passed, problem["task_id"]
        empty = problem["prompt"] + "    pass\n"
        assert not passes(empty, tests, allow_code=True).passed, problem["task_id"]
