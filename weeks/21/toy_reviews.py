"""Reviews of a few words: a language small enough to list everything that can be said in it.

After one of three prompts come at most five words and an end. There are 1,365 such responses, so
the law of any model over them, its expected reward and its KL divergence are sums, not estimates.
The reward adds up the words: `good` +1, `fine` +0.3, `bad` -1, twice that after `very`; halved.

>>> reward([[GOOD, END], [VERY, GOOD, BAD, END]])
tensor([0.5000, 0.5000])
>>> len(responses())
1365
"""

import copy
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week14.minimal_gpt import GPT, GPTConfig
from week21.dpo import Batch, Preference, pad_texts, regularized_optimum, response_log_probs

END, GOOD, FINE, BAD, VERY, FILM, MEAL, BOOK, PAD = range(9)
WORDS, PROMPTS, LONGEST = (GOOD, FINE, BAD, VERY), (FILM, MEAL, BOOK), 5
WORTH = {END: 0.0, GOOD: 1.0, FINE: 0.3, BAD: -1.0, VERY: 0.0}

# How people write before any preference: a row for the word before (the first for the prompt), in
# it the weights of end, good, fine, bad and very.
HABITS = {
    FILM: [[0.1, 4, 4, 4, 4], [6, 2, 2, 2, 1], [6, 2, 2, 2, 1], [6, 2, 2, 2, 1], [0.1, 4, 1, 4, 1]],
    MEAL: [[0.1, 3, 6, 2, 2], [6, 1, 3, 1, 2], [8, 2, 3, 1, 1], [5, 1, 3, 2, 1], [0.1, 3, 1, 3, 2]],
    BOOK: [[0.1, 2, 3, 5, 4], [5, 1, 2, 3, 2], [5, 2, 1, 3, 2], [6, 1, 1, 4, 2], [0.1, 2, 1, 5, 2]],
}


@functools.cache
def responses() -> list[list[int]]:
    """All that can be said: up to four words and an end, or five words with no room for one."""
    ended = [[*words, END] for n in range(LONGEST) for words in itertools.product(WORDS, repeat=n)]
    return ended + [list(words) for words in itertools.product(WORDS, repeat=LONGEST)]


def reward(texts: Sequence[Sequence[int]]) -> Float[Tensor, " n"]:
    """The true reward of each response, which no method is told."""
    return torch.tensor(
        [
            sum(
                WORTH[word] * (2 if before == VERY else 1)
                for before, word in itertools.pairwise([END, *text])
            )
            / 2
            for text in texts
        ]
    )


@functools.cache
def rewards() -> Float[Tensor, " n"]:
    """The reward of all responses, in their order."""
    return reward(responses())


@functools.cache
def texts_after(prompt: int) -> Batch:
    """All responses to a prompt, as a batch."""
    return pad_texts([([prompt], text) for text in responses()], PAD)


class Reviewer(GPT):
    """A small GPT that says words and the end, and neither prompts nor padding."""

    def __init__(self, generator: torch.Generator | None = None):
        sizes = {"context": LONGEST + 1, "n_layers": 2, "n_heads": 2, "d_model": 32}
        super().__init__(GPTConfig(PAD + 1, **sizes), generator)

    def forward(self, tokens: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq vocab"]:
        """Logits of the next token, minus infinity for what cannot be said."""
        logits = super().forward(tokens)
        return logits.masked_fill(torch.arange(PAD + 1) > VERY, -torch.inf)


def log_law(model: GPT) -> Float[Tensor, "3 n"]:
    """Log-probabilities of all responses to each prompt; each row of probabilities sums to 1."""
    rows = []
    for prompt in PROMPTS:
        texts = texts_after(prompt)
        log_probs = response_log_probs(model(texts.tokens), texts.tokens, texts.scored)
        rows.append(log_probs.sum(dim=1))
    return torch.stack(rows)


def habits() -> Float[Tensor, "3 n"]:
    """Log-probabilities of all responses as people write them."""
    rows = []
    for prompt in PROMPTS:
        table = torch.tensor(HABITS[prompt], dtype=torch.float32)
        table = (table / table.sum(dim=1, keepdim=True)).log()
        steps = [itertools.pairwise([END, *text]) for text in responses()]
        rows.append(torch.stack([sum(table[before, word] for before, word in s) for s in steps]))
    return torch.stack(rows)


def expected_reward(law: Float[Tensor, "3 n"]) -> float:
    """E[r] under a law given in logarithms, the mean over the prompts."""
    return (law.exp() * rewards()).sum(dim=1).mean().item()


def divergence(law: Float[Tensor, "3 n"], reference: Float[Tensor, "3 n"]) -> float:
    """KL(π‖π_ref) in nats per response, the mean over the prompts."""
    return (law.exp() * (law - reference)).sum(dim=1).mean().item()


def frontier(reference: Float[Tensor, "3 n"], betas: Sequence[float]) -> Float[Tensor, "betas 2"]:
    """KL and expected reward of the optimum for each β: no policy has more reward at that KL."""
    points = []
    for beta in betas:
        best = regularized_optimum(reference, rewards().expand_as(reference), beta)
        points.append([divergence(best, reference), expected_reward(best)])
    return torch.tensor(points)


# ---- a policy to start from, and preferences


def supervised(seed: int, steps: int, batch: int = 96) -> Reviewer:
    """A model trained on what people write: π_ref of everything that follows."""
    generator = torch.Generator().manual_seed(seed)
    model = Reviewer(generator)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3, weight_decay=0.0)
    law = habits().exp()
    for _ in range(steps):
        drawn = torch.multinomial(law, batch // 3, replacement=True, generator=generator)
        parts = [texts_after(p).rows(rows) for p, rows in zip(PROMPTS, drawn, strict=True)]
        tokens, scored = torch.cat([t.tokens for t in parts]), torch.cat([t.scored for t in parts])
        loss = -response_log_probs(model(tokens), tokens, scored).sum() / scored.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def trainable_copy(model: Reviewer) -> Reviewer:
    """A policy that starts at the reference."""
    return copy.deepcopy(model).requires_grad_(True)


class Labeled(NamedTuple):
    """Preferences, and the true rewards of the two responses."""

    pairs: list[Preference]
    chosen: Float[Tensor, " n"]
    rejected: Float[Tensor, " n"]


def preferences(
    law: Float[Tensor, "3 n"], count: int, generator: torch.Generator, *, shuffled: bool = False
) -> Labeled:
    """Pairs of responses by a law, judged as Bradley and Terry say: σ of the gap in reward.

    Parameters
    ----------
    shuffled
        Draw the winner by a coin instead: the same responses, and nothing to be learned.
    """
    require(count >= 1, "count must be at least 1", count)
    prompts = torch.arange(count) % len(PROMPTS)
    drawn = torch.multinomial(law.exp()[prompts], 2, replacement=True, generator=generator)
    gap = rewards()[drawn[:, 0]] - rewards()[drawn[:, 1]]
    coin = torch.rand(count, generator=generator)
    first = coin < (torch.full_like(gap, 0.5) if shuffled else gap.sigmoid())
    best = torch.where(first, drawn[:, 0], drawn[:, 1])
    worst = torch.where(first, drawn[:, 1], drawn[:, 0])
    pairs = [
        Preference([PROMPTS[p]], responses()[a], responses()[b])
        for p, a, b in zip(prompts.tolist(), best.tolist(), worst.tolist(), strict=True)
    ]
    return Labeled(pairs, rewards()[best], rewards()[worst])
