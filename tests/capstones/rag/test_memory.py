"""Memory keeps the latest turns and stays within its budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag.conversation.memory import n_tokens, summarize, window
from rag.types import Turn

TURNS = [Turn(f"Question {i}?", f"Answer {i}. More on {i}. [{i}]") for i in range(6)]
turns = st.lists(st.builds(Turn, st.text(max_size=30), st.text(max_size=60)), max_size=6)


def test_the_last_turns_in_their_order():
    cost = n_tokens(TURNS[5].question) + n_tokens(TURNS[5].answer)
    assert window(TURNS, 2 * cost) == TURNS[4:]
    assert window(TURNS, 2 * cost - 1) == TURNS[5:]
    assert window(TURNS, 10**6) == TURNS
    assert window(TURNS, 0) == []


def test_a_long_turn_is_not_skipped_for_an_older_one():
    assert window([TURNS[0], Turn("Long?", "x" * 1000)], 50) == []


def test_a_summary_is_the_question_and_the_first_sentence():
    assert summarize(TURNS[:2]) == "Question 0? Answer 0.\nQuestion 1? Answer 1."
    assert summarize(TURNS, budget=n_tokens("Question 5? Answer 5.")) == "Question 5? Answer 5."
    assert summarize([Turn("Why?", "")]) == "Why?"


def test_another_count_may_be_given():
    assert window(TURNS, 18, count=lambda text: len(text.split())) == TURNS[4:]


def test_bad_budgets():
    for function in (window, summarize):
        with pytest.raises(ValueError, match="budget must be at least 0, got -1"):
            function(TURNS, -1)


@given(turns, st.integers(0, 60))
def test_budgets_hold(turns, budget):
    kept = window(turns, budget)
    assert kept == turns[len(turns) - len(kept) :]
    assert sum(n_tokens(t.question) + n_tokens(t.answer) for t in kept) <= budget
    assert sum(n_tokens(line) for line in summarize(turns, budget).split("\n") if line) <= budget
