r"""Constitutional AI: principles instead of raters. Critique, revise, prefer, as a loop.

The paper's two stages, with critics that are rules, so that what the *loop* does can be told from
what a critic can do:

1. **Revise.** Take a draft, draw one of $K$ principles, find what offends against it, mend that;
   again for $k$ rounds. The last revision is what a model is then fine-tuned on. A reviser that
   mends an offense with probability $s$ leaves it standing with probability
   $$\left(1 - \frac{s}{K}\right)^k ,$$
   so each round does less than the one before, and a longer constitution needs more rounds.
2. **Prefer.** Show two drafts and a principle, drawn again, and ask which of them keeps it better.
   Such answers, and no human's, train a preference model.

>>> draft = "You always lose, you idiot."
>>> [p.name for p in CONSTITUTION if offenses(p, draft)]
['insults', 'certainty']
>>> revise(CONSTITUTION[0], draft)
'You always lose, you friend.'
>>> history = revisions(draft, CONSTITUTION, rounds=40, rng=np.random.default_rng(0))
>>> history[0], history[-1]
('You always lose, you idiot.', 'You often lose, you friend.')
>>> prefer(CONSTITUTION[0], draft, history[-1])  # how sure that the first is the better one
0.0

    uv run weeks/21/constitutional_ai.py

Source: Bai et al., "Constitutional AI: harmlessness from AI feedback" (2022), sections 3.1 and 4.1.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shared.require import require

# ---- the constitution


@dataclass(frozen=True)
class Principle:
    """A rule: what it is called, how a critic is asked, which words offend, what replaces them.

    An empty replacement takes the word out.
    """

    name: str
    question: str
    gentler: Mapping[str, str]


CONSTITUTION = (
    Principle(
        "insults",
        "Which response is more polite?",
        {"idiot": "friend", "stupid": "understandable", "pathetic": "honest"},
    ),
    Principle(
        "certainty",
        "Which response is more careful about what it claims?",
        {"always": "often", "never": "rarely", "surely": "perhaps"},
    ),
    Principle(
        "threats",
        "Which response is more peaceful?",
        {"hurt": "help", "destroy": "repair", "punish": "support"},
    ),
    Principle(
        "profanity",
        "Which response has the cleaner language?",
        {"damn": "", "bloody": "", "crap": "trouble"},
    ),
    Principle(
        "stealing",
        "Which response is more honest?",
        {"steal": "buy", "cheat": "practice", "forge": "write"},
    ),
    Principle(
        "danger",
        "Which response is safer to follow?",
        {"bleach": "water", "knife": "spoon", "fire": "light"},
    ),
    Principle(
        "contempt",
        "Which response is more respectful of other people?",
        {"losers": "people", "peasants": "neighbors", "fools": "beginners"},
    ),
    Principle(
        "greed",
        "Which response cares more about others?",
        {"exploit": "thank", "ignore": "hear", "abandon": "visit"},
    ),
)


def offenses(principle: Principle, text: str) -> list[str]:
    """The words of a text that offend against a principle, in their order."""
    return [word for word in re.findall(r"\w+", text.lower()) if word in principle.gentler]


def count_offenses(constitution: Sequence[Principle], text: str) -> int:
    """Offenses against all principles."""
    return sum(len(offenses(principle, text)) for principle in constitution)


# ---- critique and revision


def critique(principle: Principle, text: str) -> str:
    """What a critic would say."""
    found = offenses(principle, text)
    if not found:
        return f"Nothing offends against the principle on {principle.name}."
    return f"The principle on {principle.name} is offended by: {', '.join(found)}."


def revise(
    principle: Principle,
    text: str,
    *,
    skill: float = 1.0,
    rng: np.random.Generator | None = None,
) -> str:
    """The text with each offense against this one principle replaced, with probability `skill`."""
    require(0 <= skill <= 1, "skill must lie in [0, 1]", skill)
    require(skill == 1 or rng is not None, "rng must be given where skill is below 1, got None")

    def mend(match: re.Match) -> str:
        word = match[2]
        if word.lower() not in principle.gentler or (skill < 1 and rng.random() >= skill):
            return match[0]
        new = principle.gentler[word.lower()]
        return f"{match[1]}{new}" if new else ""

    return re.sub(r"( ?)(\w+)", mend, text)


def revisions(
    draft: str,
    constitution: Sequence[Principle],
    *,
    rounds: int,
    rng: np.random.Generator,
    skill: float = 1.0,
) -> list[str]:
    """The draft and what each round makes of it; each draws a principle anew."""
    require(constitution, "constitution must hold at least one principle, got none")
    require(rounds >= 0, "rounds must be at least 0", rounds)
    history = [draft]
    for _ in range(rounds):
        principle = constitution[rng.integers(len(constitution))]
        history.append(revise(principle, history[-1], skill=skill, rng=rng))
    return history


def survival(rounds: int, n_principles: int, skill: float = 1.0) -> float:
    """Probability that an offense is still there after so many rounds."""
    return (1 - skill / n_principles) ** rounds


# ---- preference


def prefer(principle: Principle, a: str, b: str) -> float:
    """A rule's preference for a over b: 1, 0, or one half where both offend equally often."""
    gap = len(offenses(principle, b)) - len(offenses(principle, a))
    return 0.5 * (1 + (gap > 0) - (gap < 0))


# How sure a judge is that the first of two texts is the better one.
Judge = Callable[[Principle, str, str], float]


def in_both_orders(judge: Judge) -> Judge:
    """The mean of asking (a, b) and (b, a): a judge's liking for a *place* cancels."""

    def fair(principle: Principle, a: str, b: str) -> float:
        return (judge(principle, a, b) + 1 - judge(principle, b, a)) / 2

    return fair


class Comparison(NamedTuple):
    """Two texts, the principle drawn for them, and a judge's preference for the first."""

    principle: Principle
    a: str
    b: str
    share: float


def ai_preferences(
    pairs: Sequence[tuple[str, str]],
    constitution: Sequence[Principle],
    judge: Judge,
    rng: np.random.Generator,
) -> list[Comparison]:
    """Each pair judged by one principle, drawn at random."""
    require(constitution, "constitution must hold at least one principle, got none")
    found = []
    for a, b in pairs:
        principle = constitution[rng.integers(len(constitution))]
        found.append(Comparison(principle, a, b, judge(principle, a, b)))
    return found


# ---- a language model as the judge


def judge_by_model(letter_log_probs: Callable[[str], tuple[float, float]]) -> Judge:
    """A judge out of a model that gives the log-probabilities of answering A or B to a question."""

    def judge(principle: Principle, a: str, b: str) -> float:
        question = f"{principle.question}\nResponse A: {a}\nResponse B: {b}\nAnswer with A or B."
        first, second = letter_log_probs(question)
        return 1 / (1 + math.exp(second - first))

    return judge


# ---- drafts to be mended

FRAMES = (
    "You could {0} it, and then it is {1} done.",
    "I think that {0} people {1} do this.",
    "First take the {0}, then tell the {1} about it.",
    "It is {0} work, but you will {1} it.",
    "My {0}, nobody can {1} all of them.",
)
HARMLESS = (
    "good",
    "simple",
    "box",
    "open",
    "read",
    "tomorrow",
    "slowly",
    "garden",
    "small",
    "show",
)


def write_draft(
    constitution: Sequence[Principle], rng: np.random.Generator, *, sentences: int = 3
) -> str:
    """A few sentences, in each of whose two gaps stands an offense or a harmless word."""
    bad = [word for principle in constitution for word in principle.gentler]
    text = []
    for _ in range(sentences):
        words = [str(rng.choice(bad if rng.random() < 0.5 else HARMLESS)) for _ in range(2)]
        text.append(FRAMES[rng.integers(len(FRAMES))].format(*words))
    return " ".join(text)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
