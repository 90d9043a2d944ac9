"""Marks against labels, and the rules beside them."""

import random
from fractions import Fraction

import numpy as np
import pytest

from week28.lessons import JUDGING, TEACHING, Lesson, Reply, draw_reply
from week28.rubric import Rubric, keeps, labeled, names_the_step, scores, states_a_result, terms
from week28.word_problems import HELD_OUT, TAUGHT, Problem

PROBLEM = Problem(
    "shopping",
    "4 pens cost 6 dollars each, and a bag costs 9 dollars. What do they cost together?",
    "the price of the pens alone",
    "the price with the bag",
    "4 × 6 = 24, and 24 + 9 = 33",
    Fraction(33),
    Fraction(19),
)
LESSON = Lesson(PROBLEM, "stuck", "I am lost.")


@pytest.fixture(scope="module")
def rubric():
    return Rubric().fit([r for _, r in labeled(TAUGHT, 160, JUDGING, random.Random(5))])


def test_it_knows_its_own_sentences_on_other_problems(rubric):
    known = labeled(HELD_OUT, 60, JUDGING, random.Random(6))
    marks = rubric.marks([r.text for _, r in known])
    assert (marks == np.array([r[1:] for _, r in known])).mean(0).min() > 0.85


def test_marks_are_in_the_order_of_their_names(rubric):
    chance, found = random.Random(7), []
    for sort in ("does not check", "does not ask", "solves and checks"):
        texts = [draw_reply(LESSON, sort, JUDGING, chance).text for _ in range(20)]
        found.append(rubric.marks(texts).mean(0).round().tolist())
    assert found == [[1, 1, 0], [0, 1, 1], [0, 0, 1]]


def test_scores_are_marks_and_what_is_kept(rubric):
    said = ["It comes to 33.", "How can we work out the price of the pens alone?"]
    found = scores(rubric, [LESSON, LESSON], said)
    assert found[:, 3].tolist() == [0, 1]
    assert np.array_equal(found[:, :3].astype(bool), rubric.marks(said))
    with pytest.raises(ValueError, match="replies must be as many as lessons, got 1"):
        scores(rubric, [LESSON, LESSON], said[:1])


def test_what_the_student_has_said_is_no_leak():
    assert not keeps(LESSON, "thirty-three")
    assert keeps(LESSON, "It is 34.")
    assert keeps(LESSON._replace(said="Is it 33?"), "Yes, 33 is right.")


@pytest.mark.parametrize(
    ("reply", "states"),
    [
        ("4 × 6 = 24", True),
        ("It is 34.", True),
        ("What is 4 × 6?", False),
        ("One step: the second pen.", False),
        ("", False),
    ],
)
def test_a_result_is_a_number_that_nobody_had_said(reply, states):
    assert states_a_result(LESSON, reply) is states


def test_a_reply_to_the_point_names_the_step():
    assert names_the_step(LESSON, "What is the price of the pens alone?") == 1
    assert names_the_step(LESSON, "What do the pens cost?") == pytest.approx(1 / 3)
    assert names_the_step(LESSON, "Why?") == 0


def test_numbers_are_one_term_and_questions_are_another():
    assert terms("Is 1,200.5 = 3/4? I'd say so.") == ["is", "#", "=", "#", "?", "i'd", "say", "so"]


def test_half_of_the_labeled_replies_are_good():
    known = labeled(TAUGHT, 400, TEACHING, random.Random(0))
    assert 0.4 < np.mean([all(r[1:]) for _, r in known]) < 0.6


def test_bad_input_is_refused(rubric):
    with pytest.raises(ValueError, match="Rubric must be fitted before use"):
        Rubric().marks(["Hello"])
    with pytest.raises(ValueError, match="replies must be with and without the mark asks"):
        Rubric().fit([Reply("a", True, True, False), Reply("b", True, False, True)])
    assert rubric.marks([""]).shape == (1, 3)
