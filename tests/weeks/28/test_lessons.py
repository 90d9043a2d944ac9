"""Problems solved another way, banks that share nothing, replies that are what they are called."""

import random
import re
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from week28.lessons import BAD, JUDGING, SORTS, TEACHING, draw_lesson, draw_reply, lessons
from week28.numbers_said import leaks, values_in
from week28.word_problems import HELD_OUT, KINDS, TAUGHT, draw_problem

seeds, kinds, banks = st.integers(0, 9999), st.sampled_from(list(KINDS)), (TEACHING, JUDGING)


def solved(kind, text):
    """The answer from the text alone."""
    n = [int(x) for x in re.findall(r"\d+", text)]
    if kind == "shopping":
        return sum(n[1] for _ in range(n[0])) + n[2]
    if kind == "sharing":
        return Fraction(n[0] - n[1], n[2])
    if kind == "equation":
        return next(x for x in range(100) if n[0] * x + n[1] == n[2])
    if kind == "conversion":
        return 60 * n[0] + n[1]
    if kind == "ages":
        return 2 * n[0] - n[1]
    if kind == "fractions":
        return Fraction(1, n[1]) + Fraction(1, n[3])
    behind = {a: b for b, a in re.findall(r"(\w+) came right after (\w+)", text)}
    runner, place = re.search(r"(\w+) won", text)[1], 1
    while runner != re.search(r"was (\w+)\?", text)[1]:
        runner, place = behind[runner], place + 1
    return place


@given(kinds, seeds)
def test_answers_are_right_and_mistakes_are_wrong(kind, seed):
    problem = draw_problem(kind, random.Random(seed))
    assert problem.answer == solved(kind, problem.text)
    assert problem.wrong != problem.answer
    assert leaks(problem.solution, problem.answer, problem.text)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nothing_but_the_solution_says_the_answer(kind):
    for seed in range(200):
        problem = draw_problem(kind, random.Random(seed))
        given_away = values_in(f"{problem.text} {problem.first} {problem.then} {problem.wrong}")
        assert problem.answer not in given_away | {1, 2}


@given(kinds, seeds, st.sampled_from(list(SORTS)), st.sampled_from(banks), st.data())
def test_replies_leak_if_they_are_called_so(kind, seed, sort, bank, data):
    chance = random.Random(seed)
    remark = data.draw(st.sampled_from(list(bank.says)))
    lesson = draw_lesson(draw_problem(kind, chance), remark, bank, chance)
    reply = draw_reply(lesson, sort, bank, chance)
    told = sort in ("tells", "solves", "solves and checks")
    assert leaks(reply.text, lesson.problem.answer, lesson.problem.text) == told
    assert "{" not in reply.text
    assert reply.text[0] == reply.text[0].upper()
    assert lesson.prompt.startswith(lesson.problem.text)
    said = {"wrong": lesson.problem.wrong, "right": lesson.problem.answer}
    assert remark not in said or str(said[remark]) in lesson.said


def test_a_good_reply_has_all_marks_and_a_bad_one_lacks_some():
    assert SORTS["good"][1] == (True, True, True)
    assert not any(all(SORTS[sort][1]) for sort in BAD if "tell" not in sort)
    assert set(BAD) == set(SORTS) - {"good"}


def test_who_is_right_is_asked_to_look_back():
    chance = random.Random(0)
    problem = draw_problem("shopping", chance)
    for bank in banks:
        lesson = draw_lesson(problem, "right", bank, chance)
        text = draw_reply(lesson, "does not check", bank, chance).text
        asked = [s.format(first=problem.first) for s in bank.looks_back]
        assert any(a in text for a in asked)


def test_the_banks_share_no_sentence():
    def sentences(bank):
        found = []
        for part in bank:
            rows = part.values() if isinstance(part, dict) else [part]
            found += [sentence for row in rows for sentence in row]
        return found

    mine, other = map(sentences, banks)
    assert not set(mine) & set(other)
    assert len(set(other)) == len(other)


def test_kinds_are_taught_or_held_out_and_all_come_alike_often():
    assert not set(TAUGHT) & set(HELD_OUT)
    assert {*TAUGHT, *HELD_OUT} == set(KINDS)
    given_ = lessons(HELD_OUT, 32, TEACHING, random.Random(0))
    assert set(Counter((x.problem.kind, x.remark) for x in given_).values()) == {2}


LESSON = lessons(TAUGHT, 1, TEACHING, random.Random(0))[0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: draw_problem("magic", random.Random(0)), "kind must be one of shopping"),
        (
            lambda: draw_lesson(LESSON.problem, "sings", TEACHING, random.Random(0)),
            "remark must be one of demands",
        ),
        (lambda: draw_reply(LESSON, "bad", TEACHING, random.Random(0)), "sort must be one of good"),
    ],
)
def test_unknown_names_are_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
