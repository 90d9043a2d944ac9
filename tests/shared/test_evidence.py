"""Claims: values and a rule in, interval and verdict out; a judge that can say no."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as reference

from shared.evidence import Evidence
from shared.judge import judge, rule_text, value_text
from shared.stats import Interval

FREE = {"at_least": None, "at_most": None, "each": False, "deterministic": False}
VALUES = st.lists(st.floats(-9, 9), min_size=2, max_size=8)


@pytest.fixture
def evidence():
    return Evidence()


def verdict_of(values, *, alone=False, **rule):
    return judge("claim", values, FREE | rule, alone=alone)["verdict"]


@given(VALUES, st.floats(-9, 9))
def test_the_interval_is_students(values, bound):
    row = judge("claim", values, FREE | {"at_least": bound}, alone=False)
    low, high = row["low"], row["high"]
    if np.std(values) > 1e-9:
        expected = reference.t.interval(
            0.95, len(values) - 1, np.mean(values), reference.sem(values)
        )
        assert (low, high) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["n"] == len(values)
    outcomes = {"holds": low >= bound, "fails": high < bound}
    expected = next((name for name, true in outcomes.items() if true), "inconclusive")
    assert row["verdict"] == expected


@given(VALUES, st.floats(-9, 9))
def test_at_most_is_at_least_of_the_negatives(values, bound):
    mirrored = verdict_of([-v for v in values], at_least=-bound)
    assert verdict_of(values, at_most=bound) == mirrored


@pytest.mark.parametrize(
    ("values", "rule", "verdict"),
    [
        ([1.0, 1.1, 0.9], {"at_least": 0.5}, "holds"),
        ([1.0, 1.1, 0.9], {"at_least": 1.5}, "fails"),
        ([1.0, 2.0, 0.0], {"at_least": 0.5}, "inconclusive"),
        ([1.0, 1.1, 0.9], {"at_least": 0.5, "at_most": 1.5}, "holds"),
        ([1.0, 1.1, 0.9], {"at_least": 0.95, "at_most": 1.05}, "inconclusive"),
        ([1.0, 1.1, 0.9], {"at_least": 2, "at_most": 3}, "fails"),
        ([1.0, 1.1, 0.9], {"at_least": 0.9, "each": True}, "holds"),
        ([1.0, 1.1, 0.9], {"at_least": 0.95, "each": True}, "fails"),
        (Interval(1, 0.8, 1.2, 99), {"at_least": 0.8}, "holds"),
        (Interval(1, 0.8, 1.2, 99), {"at_least": 0.81}, "inconclusive"),
        (Interval(1, 0.8, 1.2, 99), {"at_most": 0.79}, "fails"),
        (3, {"at_least": 3, "deterministic": True}, "holds"),
        (2.999, {"at_least": 3, "deterministic": True}, "fails"),
        (True, {"at_least": 1, "deterministic": True}, "holds"),
        (torch.tensor(False), {"at_least": 1, "deterministic": True}, "fails"),
        (torch.tensor([1.0, 2.0]), {"at_most": 50}, "holds"),
        ([torch.tensor(1.0), torch.tensor(2.0)], {"at_most": 50}, "holds"),
    ],
)
def test_verdicts(values, rule, verdict):
    assert verdict_of(values, **rule) == verdict


@pytest.mark.parametrize(
    ("values", "rule", "complaint"),
    [
        ([1, 2], {}, "has no rule: give at_least or at_most"),
        (
            [1, 2],
            {"at_least": 2, "at_most": 1},
            "at_least must not exceed at_most",
        ),
        ([1, math.nan], {"at_least": 0}, "values must be finite"),
        ([], {"at_least": 0}, "values must be numbers in one row"),
        ([[1, 2], [3, 4]], {"at_least": 0}, "values must be numbers in one row"),
        (["a", "b"], {"at_least": 0}, "compares numbers"),
        ([1], {"at_least": 0}, "one value has no interval"),
        (1, {"at_least": 0}, "one value has no interval"),
        ([1, 2], {"at_least": 0, "deterministic": True}, "one deterministic value expected, got 2"),
    ],
)
def test_claims_that_cannot_be_judged(evidence, values, rule, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        evidence.claim("x", values, **rule)
    assert "'x'" in str(error.value)
    assert evidence.claims == []


def test_a_claim_may_fail_and_the_run_passes(evidence):
    assert evidence.claim("x", [1, 1.1], at_least=9) == "fails"
    assert evidence.passed


def test_a_papers_claim_is_reproduced_or_not(evidence):
    words = [
        evidence.claim(str(bound), [1.0, 1.1, 0.9], at_least=bound, paper=True)
        for bound in (0.5, 1.0, 1.5)
    ]
    assert words == ["reproduced", "inconclusive", "not reproduced"]


def test_quick_leaves_large_claims_unjudged(evidence):
    evidence.mode = "quick"
    assert evidence.claim("large", [0, 0.1], at_least=9, quick=False) == "not judged"
    assert evidence.claim("one seed", [0], at_least=9) == "not judged"
    assert evidence.claim("small", [0, 0.1], at_least=9) == "fails"
    assert evidence.falsifier("f", [0, 0.1], breaks="large") is True
    assert evidence.falsifiers[0]["broken"] is None


def test_a_falsifier_must_break_the_rule_it_names(evidence):
    evidence.claim("gain", [1, 1.1, 0.9], at_least=0.5, unit="nats")
    assert evidence.falsifier("removed", [0.1, 0, -0.1], breaks="gain") is True
    assert evidence.falsifier("nearly", [0.4, 0.5, 0.6], breaks="gain") is False
    assert evidence.falsifier("kept", [1, 1.1, 0.9], breaks="gain") is False
    assert [row["broken"] for row in evidence.falsifiers] == [True, False, False]
    with pytest.raises(ValueError, match="names no claim made before: 'loss'"):
        evidence.falsifier("other", [0, 1], breaks="loss")


def test_one_reference_for_several_checks(evidence):
    check = evidence.against("theory", kind="theorem", atol=0.1, why="a reason")
    assert check("near", 1.05, 1.0)
    assert not check("far", 1.05, 1.0, atol=0.01)
    assert [row["atol"] for row in evidence.checks] == [0.1, 0.01]
    assert {row["kind"] for row in evidence.checks} == {"theorem"}
    with pytest.raises(ValueError, match="kind must be one of library, theorem, consistency"):
        evidence.check("x", 1.0, 1.0, against="theory", why="", kind="own")


def test_words(evidence):
    evidence.claim("a", [1, 1.1, 0.9], at_least=0.5, unit="nats", note="AdamW 1.3")
    evidence.claim("b", [1, 1.1, 0.9], at_least=0, at_most=2, each=True)
    evidence.claim("c", 0.5, at_least=0.5, at_most=0.5, deterministic=True)
    evidence.claim("d", [1, 2], at_most=3)
    rules = [rule_text(claim) for claim in evidence.claims]
    assert rules == ["at least 0.5", "between 0 and 2 for each", "0.5", "at most 3"]
    values = [value_text(claim) for claim in evidence.claims]
    assert values[0] == "1.0 ± 0.2 (n = 3) nats; AdamW 1.3"
    assert values[1:3] == ["1, from 0.9 to 1.1 (n = 3)", "0.5"]
