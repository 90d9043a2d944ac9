"""Two runs side by side: who is better, what is refused, what is said to be missing."""

import io
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_eval_report import ATTACK, number
from rich.cells import cell_len
from rich.console import Console

from llm_eval.report.comparison import comparison_page, show_comparison, verdict
from llm_eval.report.reading import Results
from shared.errors import UserError


def results(name, *numbers) -> Results:
    return Results({"name": name, "identity": {"weights": name}}, {"limit": None}, {}, numbers)


def difference(**given):
    """As of llm_eval.statistics.compare."""
    ends = {"a": 0.6, "b": 0.5, "value": 0.1, "stderr": 0.02, "low": 0.06, "high": 0.14}
    counts = {"n": 100, "unpaired": 0, "failed": 0, "better": 12, "worse": 2}
    about = {"task": "arc_easy", "metric": "acc", "template": "", "test": "mcnemar", "note": ""}
    about |= {"higher_is_better": True, "signature": "acc|v:1", "detectable": 0.05}
    values = {"p": 0.004, "corrected": 0.012} | ends | counts | about | given
    return SimpleNamespace(**values)


A = results("first-model", number(value=0.6), number("t", "bleu", 20.0, 2.0))
B = results("second-model", number(value=0.5), number("t", "bleu", 18.0, 2.0))


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({}, "the first is better"),
        ({"value": -0.1}, "the second is better"),
        ({"higher_is_better": False}, "the second is better"),
        ({"value": -0.1, "higher_is_better": False}, "the first is better"),
        ({"higher_is_better": None}, "they differ"),
        ({"corrected": 0.06}, "no difference shown"),
        ({"corrected": None}, "the first is better"),
        ({"corrected": None, "p": 0.05}, "no difference shown"),
        ({"corrected": None, "p": None}, "not tested"),
        ({"value": None}, "not tested"),
    ],
)
def test_the_verdict_follows_direction_and_corrected_p(given_, said):
    assert verdict(difference(**given_)) == said


@given(st.floats(-1, 1), st.booleans(), st.floats(0, 1))
def test_changing_sides_changes_the_verdict(value, better, p):
    there = verdict(difference(value=value, higher_is_better=better, corrected=p))
    back = verdict(difference(value=-value, higher_is_better=better, corrected=p))
    sides = {"the first is better": "the second is better"}
    sides |= {second: first for first, second in sides.items()}
    assert value == 0 or back == sides.get(there, there)


@pytest.mark.parametrize("width", [40, 95, 96, 130])
def test_the_table_holds_what_the_verdict_rests_on(width):
    console = Console(file=io.StringIO(), width=width)
    odd = difference(task="t", metric="bleu", value=2.0, low=-1.0, high=5.0, p=0.2, corrected=0.2)
    odd.unpaired, odd.failed, odd.note = 7, 3, "too few"
    show_comparison(console, A, B, [difference(p=0.0001), odd])
    text = console.file.getvalue()
    told = " ".join(text.split())
    for part in ("+0.100", "+0.060", "+0.140", "< 0.001", "0.012", "first", "better", "-1.000"):
        assert part in told
    assert "first: first-model, second: second-model" in told
    assert "t.bleu: 7 documents are in only one of the runs" in told
    assert "t.bleu: 3 pairs lack an answer and are left out" in told
    assert "t.bleu: too few" in told
    assert max(cell_len(line) for line in text.splitlines()) <= width


def test_the_page_is_whole_and_escaped():
    odd = difference(task=ATTACK, template=ATTACK, note=ATTACK, corrected=None, p=None)
    none = difference(task="t", metric="bleu", value=None, low=None, high=None, a=None)
    html = comparison_page(results(ATTACK, *A.numbers), B, [difference(), odd, none])
    assert ATTACK not in html
    assert "<img" not in html
    assert html.count("<script>") == 1
    for part in ("[+0.060, +0.140]", 'data-v="0.012"', "the first is better", "not tested"):
        assert part in html


@pytest.mark.parametrize("there", ["acc|v:2", "acc"])
def test_what_was_measured_in_two_ways_is_refused_in_words(there):
    other = results("b", number(value=0.5, signature=there), number("t", "bleu", 18.0, 2.0))
    with pytest.raises(UserError) as found:
        comparison_page(A, other, [difference()])
    words = "v:2 there" if there == "acc|v:2" else "nothing there"
    assert f"arc_easy.acc cannot be compared: {words} and v:1 here" in str(found.value)
    with pytest.raises(UserError, match="cannot be compared"):
        show_comparison(Console(file=io.StringIO()), A, other, [])
    with pytest.raises(UserError, match="these share none"):
        comparison_page(A, results("b", number("other")), [])
