r"""A teaching rubric of four marks: three by linear classifiers of words, one by a rule.

Does a reply **ask** for the next step, keep to **one step**, **check** that it was understood? For
each of these a logistic regression on TF-IDF says

$$p(\text{mark} \mid \text{reply}) = \sigma(w \cdot x + b),$$

learned from replies whose labels are known because they were put together from parts. Does it
**keep** the answer back? That is arithmetic, and a rule decides. The score is the mean of the four.

>>> from week28.lessons import JUDGING
>>> chance = random.Random(0)
>>> known = labeled(("shopping", "sharing"), 160, JUDGING, chance)
>>> rubric = Rubric().fit([reply for _, reply in known])
>>> rubric.marks(["Let's see. What is the price of the pens alone?"]).tolist()
[[True, True, False]]
>>> lesson, _ = known[0]
>>> keeps(lesson, "It is forty.") and not keeps(lesson, f"It is {lesson.problem.answer}.")
True

`uv run weeks/28/good_teacher.py` says how often it is right. Source: Zheng et al., "Judging
LLM-as-a-judge" (2023), section 3, for what a judge must be asked before it is believed.
"""

import random
import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from shared.require import require
from week04.logistic_regression import LogisticRegression
from week12.tfidf import CountVectorizer, TfidfTransformer
from week28.lessons import SORTS, Bank, Lesson, Reply, draw_reply, lessons
from week28.numbers_said import leaks, values_in

MARKS = ("asks", "one_step", "checks")


def terms(text: str) -> list[str]:
    """Words and signs of a reply; a number is a number, whichever it is."""
    return re.findall(r"[a-z']+|#|[?=]", re.sub(r"\d[\d,./]*", "#", text.lower()))


class Rubric:
    """A classifier of replies per mark.

    Parameters
    ----------
    C
        Inverse of the penalty, see `LogisticRegression`.
    """

    def __init__(self, C: float = 10.0):
        self.C = C

    def fit(self, replies: Sequence[Reply]) -> "Rubric":
        """Learn from labeled replies.

        Raises
        ------
        ValueError
            If all replies have, or all lack, one of the marks.
        """
        for mark in MARKS:
            both = {getattr(reply, mark) for reply in replies}
            require(len(both) == 2, f"replies must be with and without the mark {mark}", both)
        self.counter = CountVectorizer(terms, ngram_range=(1, 2), min_df=3)
        counts = self.counter.fit_transform([reply.text for reply in replies])
        self.weights = TfidfTransformer().fit(counts)
        X = self.weights.transform(counts).toarray()
        self.models = [
            LogisticRegression(C=self.C, tol=1e-4).fit(X, np.array([r[i] for r in replies]))
            for i in range(1, 1 + len(MARKS))
        ]
        return self

    def marks(self, texts: Sequence[str]) -> Bool[np.ndarray, "n 3"]:
        """What each reply does: asks, keeps to one step, checks."""
        require(hasattr(self, "models"), "Rubric must be fitted before use: call fit first")
        X = self.weights.transform(self.counter.transform(texts)).toarray()
        return np.column_stack([model.predict(X) for model in self.models]).astype(bool)


def keeps(lesson: Lesson, reply: str) -> bool:
    """Whether the answer, where the student has not said it, stays unsaid."""
    return not leaks(reply, lesson.problem.answer, lesson.prompt)


def states_a_result(lesson: Lesson, reply: str) -> bool:
    """Whether a reply says a number that nobody had said, right or wrong: the student's work.

    1 and 2 do not count: "one of them" and "the second step" are no results.
    """
    return bool(values_in(reply) - values_in(lesson.prompt) - {1, 2})


def names_the_step(lesson: Lesson, reply: str) -> float:
    """Share of the words for what is to be found first that a reply says: is it to the point?"""
    wanted = {w for w in terms(lesson.problem.first) if len(w) > 3}
    said = set(terms(reply))
    return len(wanted & said) / len(wanted) if wanted else float("#" in said)


def scores(
    rubric: Rubric, given: Sequence[Lesson], replies: Sequence[str]
) -> Float[np.ndarray, "n 4"]:
    """The four marks of each reply as 0 or 1: asks, one step, checks, keeps."""
    require(len(given) == len(replies), "replies must be as many as lessons", len(replies))
    kept = [keeps(lesson, reply) for lesson, reply in zip(given, replies, strict=True)]
    return np.column_stack([rubric.marks(replies), kept]).astype(float)


def labeled(
    kinds: tuple[str, ...], n: int, bank: Bank, chance: random.Random
) -> list[tuple[Lesson, Reply]]:
    """Lessons with replies of all sorts; half of them are good ones."""
    sorts = [*SORTS, *["good"] * (len(SORTS) - 2)]
    given = lessons(kinds, n, bank, chance)
    return [(lesson, draw_reply(lesson, chance.choice(sorts), bank, chance)) for lesson in given]
