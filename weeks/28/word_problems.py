r"""Problems in words whose answers are known, and how a student usually gets them wrong.

Seven kinds: three to be taught with, four to be judged with. The answer stands nowhere in the
problem, its steps or the mistake, so nobody gives it away by repeating what was asked.

>>> problem = draw_problem("equation", random.Random(0))
>>> problem.text, str(problem.answer), str(problem.wrong)
('Solve 8x + 3 = 131.', '16', '123')
>>> problem.first, problem.solution
('8x without the 3', '8x = 131 - 3 = 128, and x = 128 ÷ 8 = 16')

`uv run weeks/28/good_teacher.py` teaches with them. Source: Polya, *How to Solve It* (1945),
part I, for what is to be found first and next.
"""

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from shared.require import require
from week28.numbers_said import values_in


@dataclass(frozen=True)
class Problem:
    """A question with its answer, and the way there.

    Attributes
    ----------
    first, then
        What is to be found first and next, as phrases without a result.
    wrong
        What a student finds who makes the usual mistake.
    """

    kind: str
    text: str
    first: str
    then: str
    solution: str
    answer: Fraction
    wrong: Fraction


# ---- per kind: text, first step, next step, solution, answer, the usual mistake


def _shopping(r: random.Random) -> tuple:
    n, p, f, thing = r.randint(3, 9), r.randint(3, 12), r.randint(2, 15), r.choice(THINGS)
    text = f"{n} {thing} cost {p} dollars each, and a bag costs {f} dollars."
    steps = f"the price of the {thing} alone", "the price with the bag"
    solution = f"{n} × {p} = {n * p}, and {n * p} + {f} = {n * p + f}"
    return f"{text} What do they cost together?", *steps, solution, n * p + f, n + p + f


def _sharing(r: random.Random) -> tuple:
    k, each, kept, thing = r.randint(3, 8), r.randint(4, 12), r.randint(2, 9), r.choice(THINGS)
    n = k * each + kept
    text = f"Mia has {n} {thing}. She keeps {kept} and shares the others among {k} friends."
    steps = f"the number of {thing} that are shared", "the share of one friend"
    solution = f"{n} - {kept} = {n - kept}, and {n - kept} ÷ {k} = {each}"
    return f"{text} How many does each friend get?", *steps, solution, each, n - kept


def _equation(r: random.Random) -> tuple:
    a, x, b = r.randint(2, 9), r.randint(3, 20), r.randint(2, 30)
    steps = f"{a}x without the {b}", "x alone"
    solution = f"{a}x = {a * x + b} - {b} = {a * x}, and x = {a * x} ÷ {a} = {x}"
    return f"Solve {a}x + {b} = {a * x + b}.", *steps, solution, x, a * x + b - a


def _conversion(r: random.Random) -> tuple:
    hours, minutes = r.randint(2, 9), r.randint(4, 56)
    text = f"A film runs for {hours} hours and {minutes} minutes. How many minutes is that?"
    steps = "the number of minutes in the hours", "the sum of all minutes"
    total = 60 * hours + minutes
    solution = f"{hours} × 60 = {60 * hours}, and {60 * hours} + {minutes} = {total}"
    return text, *steps, solution, total, 100 * hours + minutes


def _ages(r: random.Random) -> tuple:
    (a, b, c), age, less = r.sample(NAMES, 3), r.randint(6, 19), r.randint(2, 5)
    text = f"{a} is {age}. {b} is twice as old as {a}, and {c} is {less} years younger than {b}."
    steps = f"the age of {b}", f"the age of {c}"
    solution = f"2 × {age} = {2 * age}, and {2 * age} - {less} = {2 * age - less}"
    return f"{text} How old is {c}?", *steps, solution, 2 * age - less, age - less


def _places(r: random.Random) -> tuple:
    names, last = r.sample(NAMES, 5), r.randint(3, 5)
    order = [f"{b} came right after {a}" for a, b in pairwise(names[:last])]
    asked, told = names[last - 1], r.sample(order, len(order))
    text = f"{', '.join(told)}, and {names[0]} won. In which place was {asked}?"
    steps = f"the name of the runner behind {names[0]}", f"the number of runners ahead of {asked}"
    solution = f"the order is {', '.join(names[:last])}, so {asked} was number {last}"
    return text, *steps, solution, last, last + 1


def _fractions(r: random.Random) -> tuple:
    b, (one, two) = r.randint(3, 8), r.sample(NAMES, 2)
    a = Fraction(1, b) + Fraction(1, 2 * b)
    text = f"{one} eats 1/{b} of a pizza and {two} eats 1/{2 * b} of it. How much is eaten?"
    steps = f"1/{b} in parts as small as the other", "the sum of both parts"
    return text, *steps, f"2/{2 * b} + 1/{2 * b} = {a}", a, Fraction(2, 3 * b)


THINGS = ("pens", "apples", "stickers", "cards", "balls")
NAMES = ("Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gus")
KINDS: Mapping[str, Callable[[random.Random], tuple]] = {
    "shopping": _shopping,
    "sharing": _sharing,
    "equation": _equation,
    "conversion": _conversion,
    "ages": _ages,
    "places": _places,
    "fractions": _fractions,
}
TAUGHT, HELD_OUT = tuple(KINDS)[:3], tuple(KINDS)[3:]


def draw_problem(kind: str, chance: random.Random) -> Problem:
    """A problem whose answer stands nowhere in its text, steps and usual mistake.

    Else a teacher who repeats the question would give the answer away.
    """
    require(kind in KINDS, f"kind must be one of {', '.join(KINDS)}", repr(kind))
    while True:
        text, first, then, solution, answer, wrong = KINDS[kind](chance)
        answer, wrong = Fraction(answer), Fraction(wrong)
        known = values_in(f"{text} {first} {then} {wrong}")
        small = answer in (1, 2)  # "one step" and "second" would say it
        if not small and answer not in known:
            return Problem(kind, text, first, then, solution, answer, wrong)
