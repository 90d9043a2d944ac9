"""Questions and answers as rows of tokens, the loop that learns them, and the share that is right.

A row is start, question, answer, end, padding. Where the question ends and where the padding
begins stands beside it, since both masks and the loss need it.

>>> batch = rows(["how many things", "caption"], ["two", "a red disc at top left"])
>>> batch.tokens.shape, batch.prefix.tolist(), batch.real.tolist()
(torch.Size([2, 9]), [4, 2], [6, 9])
>>> decoded(batch.tokens)
['how many things two', 'caption a red disc at top left']

`uv run weeks/25/paligemma2.py` uses it. Source: Beyer et al., "PaliGemma" (2024), section 3.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week25.paligemma2 import IGNORED, PaliGemma2, answer_targets
from week25.scenes import END, PAD, START, WORDS, decoded

__all__ = ["Rows", "decoded", "learn", "right", "rows"]


class Rows(NamedTuple):
    """Tokens, how many of them ask, and how many ask or answer."""

    tokens: Int[Tensor, "n seq"]
    prefix: Int[Tensor, " n"]
    real: Int[Tensor, " n"]


def rows(questions: Sequence[str], answers: Sequence[str]) -> Rows:
    """Each question followed by its answer and an end."""
    many = len(questions)
    require(many == len(answers), f"answers must be as many as questions, {many}", len(answers))
    asked = [[START, *(WORDS.index(word) for word in text.split())] for text in questions]
    said = [[*(WORDS.index(word) for word in text.split()), END] for text in answers]
    whole = [a + b for a, b in zip(asked, said, strict=True)]
    longest = max(map(len, whole))
    tokens = torch.tensor([row + [PAD] * (longest - len(row)) for row in whole])
    return Rows(tokens, *(torch.tensor([len(row) for row in part]) for part in (asked, whole)))


def learn(
    model: PaliGemma2,
    images: Float[Tensor, "n 3 side side"],
    data: Rows,
    *,
    steps: int,
    generator: torch.Generator,
    lr: float = 2e-3,
    batch_size: int = 32,
    leak: bool = False,
) -> list[float]:
    """Train on random rows and give the losses; the rate warms up and then falls to zero.

    Parameters
    ----------
    leak
        A mistake on purpose: the answer is masked like the question, so that each of its words
        sees the next one.
    """
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=lr, fused=True), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * min((step + 1) / 20, 1) * (1 - step / steps)
        i = torch.randint(len(images), (batch_size,), generator=generator)
        tokens, prefix, real = (part[i] for part in data)
        logits = model(images[i], tokens, real if leak else prefix, real)[:, :-1]
        targets = answer_targets(tokens, prefix, real)
        optimizer.zero_grad()
        loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def right(
    model: PaliGemma2,
    images: Float[Tensor, "n 3 side side"],
    questions: Sequence[str],
    answers: Sequence[str],
) -> list[bool]:
    """Whether each answer, written word by word, is wholly the expected one."""
    found: list[bool] = [False] * len(questions)
    lengths = {len(text.split()) for text in questions}
    for length in sorted(lengths):  # questions of one length are asked together
        at = [i for i, text in enumerate(questions) if len(text.split()) == length]
        data = rows([questions[i] for i in at], [answers[i] for i in at])
        n = int((data.real - data.prefix).max())
        given = model.answer(images[at], data.tokens[:, : length + 1], n, end=END)
        for i, text in zip(at, decoded(given), strict=True):
            found[i] = text == answers[i]
    return found
