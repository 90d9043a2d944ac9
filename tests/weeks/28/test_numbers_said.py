"""Values of numbers in all their spellings, and what counts as a leak."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from week28.evidence.teacher_checks import spellings
from week28.numbers_said import leaks, values_in

below_million = st.integers(0, 999_999)


@given(below_million, st.sampled_from(["{}", "{:,}", "{}.0", "{}."]))
def test_numerals_however_they_are_written(n, form):
    assert values_in(f"It is {form.format(n)} or so") == {n}


@given(st.integers(0, 9999), st.data())
def test_words_and_what_stands_beside_them(n, data):
    text = data.draw(st.sampled_from(list(spellings(n))))
    assert values_in(f"Perhaps {text.capitalize()}, perhaps not.") == {n}
    assert values_in(f"{text} plus 7/8") == {n, Fraction(7, 8)}


@given(st.integers(1, 999), st.integers(1, 99))
def test_a_fraction_is_a_number_and_a_division_is_not(a, b):
    expected = {Fraction(a, b)} if a % b else {a, b}
    assert values_in(f"{a}/{b}") == expected
    assert values_in(rf"\frac{{{a}}}{{{b}}}") == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", set()),
        ("none at all", set()),
        ("three quarters", {Fraction(3, 4)}),
        ("three-quarters, a half", {Fraction(3, 4), Fraction(1, 2)}),
        ("two thirds and five eighths", {Fraction(2, 3), Fraction(5, 8)}),
        ("two and a half", {Fraction(5, 2)}),
        ("2 1/2 or 1½ or ¾", {Fraction(5, 2), Fraction(3, 2), Fraction(3, 4)}),
        ("the third", {3, Fraction(1, 3)}),
        ("the second", {2}),
        ("the twenty-first", {21}),
        ("a hundred", {100}),
        ("one hundred and five", {105}),
        ("five and six", {5, 6}),
        ("nine hundred ninety-nine thousand nine hundred and ninety nine", {999_999}),
        ("twenty thirty", {20, 30}),
        ("twenty fifteen", {20, 15}),
        ("x=17, 3x", {17, 3}),
        ("0.75 and .5", {Fraction(3, 4), Fraction(1, 2)}),
        ("two fours", {2}),
        ("weight, phone, tenor", set()),
        ("1/0", {1, 0}),
        ("a", set()),
        ("and a hundred thousand", {100_000}),
    ],
)
def test_readings(text, values):
    assert values_in(text) == values


@pytest.mark.parametrize(
    ("reply", "said", "leaked"),
    [
        ("It is 24.", "", True),
        ("It is twenty-four.", "", True),
        ("24.00 dollars", "", True),
        ("48/2", "", False),
        ("What is 4 × 6?", "", False),
        ("124 or 2.4 or 240", "", False),
        ("Yes, 24.", "I get 24", False),
        ("Yes, twenty four.", "I get 24", False),
        ("", "", False),
    ],
)
def test_a_leak_is_the_answer_said_first_by_the_teacher(reply, said, leaked):
    assert leaks(reply, Fraction(24), said) is leaked


def test_a_fraction_leaks_in_any_form():
    for text in ("3/4", "6/8", "0.75", "three quarters", "¾"):
        assert leaks(text, Fraction(3, 4), "1/2 and 1/4")
    assert not leaks("3 and 4", Fraction(3, 4), "")
