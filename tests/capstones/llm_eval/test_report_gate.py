"""Rules of a build: which side, which end, which number, and nothing passes unseen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_eval_report import number

from llm_eval.report.gate import check, parse
from shared.errors import UserError

ACC = number("arc_easy", "acc", 0.5, 0.1)
PERPLEXITY = number("wikitext", "perplexity", 20.0, 2.0, higher_is_better=False)
GAP = number("bbq_age", "s_AMB", 0.08, 0.06, higher_is_better=None)
ALL = [ACC, number("piqa", "acc", 0.7, 0.1), PERPLEXITY, GAP]


@pytest.mark.parametrize(
    ("rule", "n", "strict"),
    [
        ("acc=.5", 0, 1),
        ("acc=.6", 1, 1),
        ("acc=.8", 2, 2),
        ("arc_easy.acc=.6", 1, 1),
        ("piqa.acc=.6", 0, 0),
        ("arc_easy.acc>=.5", 0, 1),
        ("arc_easy.acc<=.5", 0, 1),
        ("arc_easy.acc<=.6", 0, 0),
        ("perplexity=20", 0, 1),
        ("perplexity=19", 1, 1),
        ("wikitext.perplexity=22", 0, 0),
        ("wikitext.perplexity>=18", 0, 0),
        ("bbq_age.s_AMB<=.1", 0, 1),
        ("bbq_age.s_AMB<=.15", 0, 0),
        ("s_AMB >= -0.1", 0, 0),
        ("s_AMB>=.05", 0, 1),
    ],
)
def test_a_rule_is_judged_at_the_value_or_at_the_worse_end(rule, n, strict):
    assert len(check(ALL, parse([rule]))) == n
    assert len(check(ALL, parse([rule]), strict=True)) == strict


@given(st.floats(-2, 2), st.floats(-2, 2), st.sampled_from([True, False]), st.booleans())
def test_equal_means_not_worse_than(value, limit, better, strict):
    one = number("t", "m", value, 0.0, higher_is_better=better)
    kept = not check([one], parse([f"m={limit!r}"]), strict=strict)
    assert kept == (value >= limit if better else value <= limit)


def test_a_failure_says_what_was_asked_and_what_came():
    (told,) = check(ALL, parse(["perplexity=19"]))
    assert told == "wikitext.perplexity must be at most 19, got 20.00"
    (told,) = check(ALL, parse(["arc_easy.acc=.45"]), strict=True)
    assert told == "arc_easy.acc must be at least 0.45, got 0.500 with the low end 0.400"


@pytest.mark.parametrize("strict", [False, True])
def test_what_is_not_known_does_not_pass(strict):
    failed = number("t", "acc", 1.0, 0.0, n=97, failed=3)
    (told,) = check([failed], parse(["acc=.1"]), strict=strict)
    assert told.endswith("but 3 of 100 documents got no answer")
    for nothing in (number("t", "acc", None, n=0), number("t", "acc", 1.0, n=0)):
        (told,) = check([nothing], parse(["acc=.1"]), strict=strict)
        assert told.endswith("but it has no value (0 documents)")


def test_strict_wants_an_interval():
    one = number("t", "acc", 1.0, None)
    assert check([one], parse(["acc=.1"])) == []
    assert check([one], parse(["acc=.1"]), strict=True) == [
        "t.acc must be at least 0.1, got 1.000 without an interval"
    ]


def test_only_whole_tasks_with_their_standard_prompt_are_judged():
    parts = [number(value=0.0, group="a"), number(value=0.0, template="b")]
    assert check([ACC, *parts], parse(["acc=.4"])) == []
    with pytest.raises(UserError, match="there is none at all"):
        check(parts, parse(["acc=.4"]))


@pytest.mark.parametrize(
    "rule", ["", "acc", "acc=", "=.5", "acc=high", "acc==1", "acc=nan", "a b=1"]
)
def test_what_is_no_rule_is_refused(rule):
    with pytest.raises(UserError, match=r"a rule must be \[TASK.\]METRIC=NUMBER"):
        parse([rule])


def test_names_that_are_not_there_are_suggested():
    with pytest.raises(
        UserError, match=r"no number is called 'arc_esay.acc'; did you mean arc_easy"
    ):
        check(ALL, parse(["arc_esay.acc=.5"]))
    with pytest.raises(UserError, match="there are acc, arc_easy"):
        check(ALL, parse(["zzzzzz=.5"]))
    with pytest.raises(UserError, match="neither direction is better: say >= or <="):
        check(ALL, parse(["s_AMB=.5"]))
