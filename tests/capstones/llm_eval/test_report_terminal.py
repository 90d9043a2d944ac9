"""Numbers on a terminal: directions, ends of intervals, failures, and room for forty columns."""

import doctest
import importlib
import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_eval_report import ATTACK, number, outcome
from rich.cells import cell_len
from rich.console import Console

from llm_eval.report import labels
from llm_eval.report.reading import Results
from llm_eval.report.terminal import show
from llm_eval.types import Number


def printed(results: Results, width: int = 120, **options) -> str:
    console = Console(file=io.StringIO(), width=width)
    show(console, results, **options)
    return console.file.getvalue()


def results(*numbers, tasks=None, **given) -> Results:
    return Results({"name": "m", "identity": {}}, {}, tasks or {}, numbers, **given)


@pytest.mark.parametrize("name", ["labels", "gate"])
def test_examples(name):
    module = importlib.import_module(f"llm_eval.report.{name}")
    assert doctest.testmod(module).failed == 0
    assert module.__doc__.count(">>>") >= 2


def test_a_row_says_what_a_number_is():
    text = printed(results(number("t", "acc", 0.5, 0.1, n=91, failed=9)))
    assert text.splitlines()[1].split() == [
        "task",
        "metric",
        "value",
        *["95", "%", "interval", "n", "failed"],
    ]
    assert text.splitlines()[2].split() == [
        "t",
        "acc",
        "↑",
        "0.500",
        "[0.400,",
        "0.600]",
        "91",
        "9",
    ]
    low = number("t", "perplexity", 41.25, None, higher_is_better=False)
    assert "perplexity ↓  41.25" in printed(results(low))
    nothing = number("t", "acc", None, None, n=0, failed=100)
    assert printed(results(nothing)).splitlines()[2].split() == ["t", "acc", "↑", "–", "0", "100"]


def test_gaps_show_what_is_neutral_and_what_would_stay_unseen():
    note = "neutral is 0.5; be careful"
    gap = number("c", "pct", 0.61, 0.05, higher_is_better=None, detectable=0.07, note=note)
    text = printed(results(gap))
    assert text.splitlines()[2].split()[:3] == ["c", "pct", "○"]
    assert text.splitlines()[2].split()[-2:] == ["0.500", "0.070"]
    assert "○ neither is better" in text
    assert f"c.pct: {note}" in text
    assert "neutral" not in printed(results(number()))


def test_parts_are_shown_on_request_and_counted_otherwise():
    run = results(number(note="odd"), number(note="odd", group="a"), number("t", template="b"))
    assert (
        "2 more numbers are of groups, of other prompts or details; --parts shows them"
        in printed(run)
    )
    assert "arc_easy.acc: odd" in printed(run)
    text = printed(run, parts=True)
    assert "more numbers" not in text
    assert "  a  " in text
    assert "t · “b”" in text


def test_a_note_of_many_numbers_stands_once():
    run = results(*(number(f"t{i}", note="odd") for i in range(6)))
    assert "t0.acc, t1.acc, t2.acc and 3 more: odd" in printed(run)


def test_failures_are_never_silent():
    tasks = {"t": {"documents": 10, "failed": 3, "tags": []}}
    text = printed(results(number("t", failed=3), tasks=tasks, missing=5))
    assert "t: 3 of 10 documents got no answer and are in no number" in text
    assert "not finished: 5 documents" in text


def test_tasks_stand_by_their_first_tag():
    tasks = {"b": {"tags": ["bias", "core"]}, "a": {"tags": ["core"]}, "c": {"tags": []}}
    found = labels.sections(tasks, [number("a"), number("b"), number("c"), number("d")])
    names = {tag: [x.task for x in numbers] for tag, numbers in found.items()}
    assert names == {"bias": ["b"], "core": ["a"], "other": ["c", "d"]}


@pytest.mark.parametrize("width", [30, 40, 63, 64, 80, 88, 120, 200])
def test_it_fits_and_nothing_is_cut(width):
    run = outcome(20)
    text = printed(
        Results(run.model, run.settings, run.tasks, tuple(run.numbers)), width, parts=True
    )
    assert max(cell_len(line) for line in text.splitlines()) <= width
    for one in run.numbers:
        assert labels.digits(one.value) in text
    too_long = [x for x in run.numbers if ATTACK in (x.group, x.template)]
    assert text.count("…") == len(too_long) > 0  # nothing else is cut


def test_names_cannot_steer_the_terminal():
    odd = number("\x1b[31mred\x07", group="a\nb\u202e [bold]x[/bold]", template=ATTACK)
    text = printed(results(odd), signatures=True, parts=True)
    assert not set(text) & set("\x1b\x07\u202e")
    assert "[bold]x[/bold]" in text


def test_signatures_are_shown_on_request_and_required():
    one = number(signature="acc|shots:0|v:1")
    assert "acc|shots:0|v:1" not in printed(results(one))
    assert "arc_easy.acc  acc|shots:0|v:1" in printed(results(one), signatures=True)
    with pytest.raises(ValueError, match="must have a signature"):
        printed(results(number(signature="")))


@given(st.floats(-1e300, 1e300))
def test_digits_are_the_value(value):
    text = labels.digits(value)
    assert float(text) == pytest.approx(value, rel=0.06, abs=5e-4)
    assert text != "-0.000"
    assert len(text) <= 10


def test_digits_of_nothing():
    assert [labels.digits(x) for x in (None, float("nan"), float("inf"))] == ["–"] * 3
    assert [labels.digits(x) for x in (1.0, 12.345, 1234.5, 1e7, 0.0, -0.0)] == [
        *("1.000", "12.35", "1234", "1.00e+07", "0.000", "0.000")
    ]


def test_what_differs_between_signatures_is_said():
    assert labels.differing("acc|a:1|b:2", "acc|a:1|b:2") == ""
    assert labels.differing("acc|a:1|b:2", "acc|b:2|a:3") == "a:1 there and a:3 here"
    assert labels.differing("acc|a:1", "acc") == "a:1 there and nothing here"


def test_what_only_explains_is_told_on_request():
    told = Number("a", "ece_mass", 0.1, None, None, None, 5, 0, False, "ece|v:1")
    assert labels.is_detail(told)
    assert labels.is_detail(replace(told, metric="acc_gap_by_chance"))
    assert not labels.is_detail(replace(told, metric="ece"))


def test_a_sentence_that_several_notes_have_is_told_once():
    one = Number("a", "x", 0.1, None, None, None, 5, 0, False, "x|v:1", note="Low. By words.")
    other = replace(one, metric="y", note="By words.")
    assert labels.notes([one, other]) == {"Low.": ["a.x"], "By words.": ["a.x", "a.y"]}


@pytest.mark.parametrize("width", [40, 64, 80, 120])
def test_an_interval_is_two_ends_at_any_width(width):
    run = results(replace(number("t"), value=0.0, low=0.0, high=0.434, detectable=0.2))
    text = " ".join(printed(run, width=width).split())
    assert "[0.000, 0.434]" in text
    assert "detectable" not in text  # of a number that has no such column


def test_what_chance_alone_makes_positive_has_no_neutral_value():
    gap = Number("a", "s_AMB", 0.1, 0.05, 0.0, 0.2, 5, 0, None, "s|v:1", detectable=0.14)
    assert labels.neutral(gap) == 0
    for metric in ("acc_spread", "acc_group_gap", "likelihood_diff"):
        assert labels.neutral(replace(gap, metric=metric)) is None
