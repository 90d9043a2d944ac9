"""What of a conversation is kept in mind: the last turns word for word, the others in short.

>>> turns = [Turn("What is tea?", "A plant. It has leaves."), Turn("Is it hot?", "No. [1]")]
>>> window(turns, budget=8)
[Turn(question='Is it hot?', answer='No. [1]')]
>>> summarize(turns)
'What is tea? A plant.\\nIs it hot? No.'
"""

import re
from collections.abc import Callable, Sequence

from rag.documents.chunkers import sentences
from rag.types import Turn
from shared.require import require

MARKERS = re.compile(r"\s*\[\d+\]")


def n_tokens(text: str) -> int:
    """About how many tokens a text has, where no tokenizer is at hand: one for four characters."""
    return -(-len(text) // 4)


def window(
    turns: Sequence[Turn], budget: int, count: Callable[[str], int] = n_tokens
) -> list[Turn]:
    """The last turns whose tokens stay within the budget, oldest first."""
    require(budget >= 0, "budget must be at least 0", budget)
    kept: list[Turn] = []
    for turn in reversed(turns):
        budget -= count(turn.question) + count(turn.answer)
        if budget < 0:
            break
        kept.insert(0, turn)
    return kept


def summarize(
    turns: Sequence[Turn], budget: int = 200, count: Callable[[str], int] = n_tokens
) -> str:
    """Each question and the first sentence of its answer; where that is too much, the oldest go."""
    require(budget >= 0, "budget must be at least 0", budget)
    lines: list[str] = []
    for turn in reversed(turns):
        spans = sentences(turn.answer)
        first = turn.answer[slice(*spans[0])] if spans else ""
        line = MARKERS.sub("", " ".join(f"{turn.question} {first}".split()))
        budget -= count(line)
        if budget < 0:
            break
        lines.insert(0, line)
    return "\n".join(lines)
