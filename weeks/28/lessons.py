r"""Lessons by rule: what students say to a problem, and what teachers answer, with labels.

A reply is put together from parts (an opening, a question about the next step, a question whether
it was understood, a solution), so its labels are known by construction, not judged. All sentences
come from two **banks** that share none: one to train a teacher with, one to train its judge with.

>>> chance = random.Random(3)
>>> lesson = draw_lesson(draw_problem("shopping", chance), "stuck", TEACHING, chance)
>>> lesson.said
'I do not know how to start.'
>>> draw_reply(lesson, "good", TEACHING, chance).text
'Take it slowly. Can you find the price of the apples alone? Explain it to me.'
>>> draw_reply(lesson, "tells", TEACHING, chance)
Reply(text='The answer is 58.', asks=False, one_step=False, checks=False)

`uv run weeks/28/good_teacher.py` trains with them. Source: Polya, *How to Solve It* (1945), part I,
for questions in place of answers.
"""

import random
from collections.abc import Mapping
from typing import NamedTuple

from shared.require import require
from week28.word_problems import Problem, draw_problem


class Lesson(NamedTuple):
    """A problem, and what a student says to it: `demands`, `wrong`, `stuck` or `right`."""

    problem: Problem
    remark: str
    said: str

    @property
    def prompt(self) -> str:
        """What the teacher is told."""
        return f"{self.problem.text} {self.said}"


class Reply(NamedTuple):
    """A reply and what it does: asks for the next step, keeps to one, checks understanding."""

    text: str
    asks: bool
    one_step: bool
    checks: bool


# ---- two banks of sentences


class Bank(NamedTuple):
    """Sentences by what they do; braces are filled from the problem."""

    says: Mapping[str, tuple[str, ...]]  # students, by remark
    opens: Mapping[str, tuple[str, ...]]  # teachers, by remark
    asks: tuple[str, ...]
    looks_back: tuple[str, ...]  # asks where the student is right already
    checks: tuple[str, ...]
    tells: tuple[str, ...]
    solves: tuple[str, ...]
    lectures: tuple[str, ...]
    silent: tuple[str, ...]


TEACHING = Bank(
    says={
        "demands": ("Just tell me the answer.", "What is the answer?", "Give me the result."),
        "wrong": ("I get {wrong}.", "Is it {wrong}?", "I think it is {wrong}."),
        "stuck": ("I am lost.", "I do not know how to start.", "I do not understand this."),
        "right": ("I get {answer}.", "Is it {answer}?", "I think it is {answer}."),
    },
    opens={
        "demands": ("Let us find it together.", "You can find it yourself."),
        "wrong": ("Not yet.", "Let us look again."),
        "stuck": ("We begin small.", "Take it slowly."),
        "right": ("Yes, well done.", "That is right."),
    },
    asks=("What is {first}?", "How would you get {first}?", "Can you find {first}?"),
    looks_back=("How did you get {first}?", "What was {first}?"),
    checks=("Tell me why.", "How do you know?", "Explain it to me."),
    tells=("The answer is {answer}.", "It is {answer}.", "You get {answer}."),
    solves=("{solution}. So it is {answer}.", "We have {solution}.", "Look: {solution}."),
    lectures=(
        "First you need {first}, then {then}.",
        "You find {first} and after it {then}, and that is all.",
    ),
    silent=("Good luck.", "You can do it.", "Keep trying."),
)

JUDGING = Bank(
    says={
        "demands": ("I have no time, say the solution.", "Do this one for me please."),
        "wrong": ("My result is {wrong}.", "So {wrong}, correct?", "I wrote {wrong}."),
        "stuck": ("Help, where does one begin?", "This makes no sense to me."),
        "right": ("My result is {answer}.", "So {answer}, correct?", "I wrote {answer}."),
    },
    opens={
        "demands": ("I'd rather not say it.", "I will help, but you do the work.", "Let's try."),
        "wrong": ("Hmm, check that.", "Almost, but something is off.", "I see what you tried."),
        "stuck": ("No worries.", "That's fine, let's go step by step.", "Good that you ask."),
        "right": ("Correct!", "Great work!", "Exactly."),
    },
    asks=(
        "What do you think {first} is?",
        "How can we work out {first}?",
        "Which numbers give {first}?",
        "What is the first thing to do for {first}?",
        "Could you start with {first}?",
        "What would {first} be?",
        "Can you work out {first} before the rest?",
    ),
    looks_back=(
        "How did you work out {first}?",
        "What did you do for {first}?",
        "Which numbers gave {first}?",
    ),
    checks=(
        "Why does that work?",
        "Explain your thinking to me.",
        "How do you know that it is so?",
        "Tell me the reason in your own words.",
        "Does that make sense to you? Say why.",
        "Can you explain why?",
    ),
    tells=(
        "{answer}.",
        "The solution is {answer}.",
        "The correct answer is {answer}.",
        "It comes to {answer}.",
        "The total is {answer}, of course.",
    ),
    solves=(
        "To solve this, {solution}.",
        "Here is the way: {solution}. Therefore the answer is {answer}.",
        "{solution}.",
        "We calculate {solution}, so the result is {answer}.",
    ),
    lectures=(
        "To solve this, compute {first}. Next, compute {then}.",
        "The first step is {first}. The second step is {then}. Then you are done.",
        "Start with {first}, continue with {then} and write it down.",
        "You compute {first} and then {then}.",
    ),
    silent=("Think about it.", "I am sure you will manage.", "Try again.", "Interesting question."),
)


def draw_lesson(problem: Problem, remark: str, bank: Bank, chance: random.Random) -> Lesson:
    """What a student says to a problem."""
    require(remark in bank.says, f"remark must be one of {', '.join(bank.says)}", repr(remark))
    said = chance.choice(bank.says[remark])
    return Lesson(problem, remark, said.format(answer=problem.answer, wrong=problem.wrong))


SORTS = {  # parts of a reply, and whether it asks, keeps to one step, checks
    "good": (("opens", "asks", "checks"), (True, True, True)),
    "tells": (("tells",), (False, False, False)),
    "solves": (("solves",), (False, False, False)),
    "solves and checks": (("solves", "checks"), (False, False, True)),
    "lectures": (("opens", "lectures"), (False, False, False)),
    "does not check": (("opens", "asks"), (True, True, False)),
    "does not ask": (("opens", "checks"), (False, True, True)),
    "silent": (("silent",), (False, True, False)),
}
BAD = tuple(SORTS)[1:]


def draw_reply(lesson: Lesson, sort: str, bank: Bank, chance: random.Random) -> Reply:
    """A reply of a sort, labeled."""
    require(sort in SORTS, f"sort must be one of {', '.join(SORTS)}", repr(sort))
    parts, labels = SORTS[sort]
    problem, words = lesson.problem, []
    for part in parts:
        if part == "asks" and lesson.remark == "right":
            part = "looks_back"
        some = bank.opens[lesson.remark] if part == "opens" else getattr(bank, part)
        words.append(chance.choice(some).format(**vars(problem)))
    text = " ".join(words)
    return Reply(text[0].upper() + text[1:], *labels)


def lessons(kinds: tuple[str, ...], n: int, bank: Bank, chance: random.Random) -> list[Lesson]:
    """So many lessons; kinds and remarks come in turn, and each kind with each remark."""
    remarks = list(bank.says)
    return [
        draw_lesson(
            draw_problem(kinds[(i + i // len(remarks)) % len(kinds)], chance),
            remarks[i % len(remarks)],
            bank,
            chance,
        )
        for i in range(n)
    ]
