r"""Does the order of the examples matter? Easy to hard, hard to easy, and at random.

A curriculum sorts the examples by a difficulty score and lets the model draw, at step $t$ of $T$,
from the easiest part of them only, a part that grows until it is everything:

$$ g(t) = \min\left(1,\; g_0 + (1 - g_0)\, \frac{t}{a T}\right). $$

The examples here are windows of text for a character GPT of about 20,000 parameters, and a window's
difficulty is its loss under a 3-gram model counted on other text. Every arm gets the same weights
to start from, the same windows and the same number of tokens, few enough for a minute. Two
controls: a pool that grows in a *random* order, and one that grows from the hardest end.

>>> [pool_fraction(step, 10, start=0.5, until=0.4) for step in (0, 2, 4)]
[0.5, 0.75, 1.0]
>>> arrange(np.array([3.0, 1.0, 2.0]), "easy first", np.random.default_rng(0)).tolist()
[1, 2, 0]

    uv run weeks/16/curriculum.py

Sources: Y. Bengio, J. Louradour, R. Collobert and J. Weston, *Curriculum Learning* (ICML 2009);
X. Wu, E. Dyer and B. Neyshabur, *When Do Curricula Work?* (ICLR 2021), section 2.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require
from week14.minimal_gpt import GPT, next_token_loss
from week14.ngram import WittenBell

Order = Literal["all at once", "easy first", "hard first", "random pool"]

# ---- how hard an example is


def difficulty(
    windows: Int[np.ndarray, "n length"],
    counted: Int[np.ndarray, " m"],
    *,
    order: int,
    vocab_size: int,
) -> Float[np.ndarray, " n"]:
    """Mean n-gram loss of each window (nats per character), counted on text of its own.

    The text to count must not contain the windows: n-grams seen once would make everything easy.
    """
    length = windows.shape[1]
    require(length >= order, f"windows must be at least order = {order} long", length)
    model = WittenBell(order, vocab_size).fit(counted)
    losses = -model.log_probs(windows.ravel())  # one row of text; then drop what spans two windows
    losses = np.concatenate([np.zeros(order - 1), losses]).reshape(windows.shape)
    return losses[:, order - 1 :].mean(axis=1)


def arrange(
    scores: Float[np.ndarray, " n"], order: Order, rng: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """The windows' indices in the order in which the pool takes them in."""
    if order == "easy first":
        return np.argsort(scores, kind="stable")
    if order == "hard first":
        return np.argsort(-scores, kind="stable")
    known = order in ("random pool", "all at once")
    require(known, "order must be all at once, easy first, hard first or random pool", order)
    return rng.permutation(len(scores))


# ---- how fast the pool grows


def pool_fraction(step: int, steps: int, *, start: float = 0.2, until: float = 0.6) -> float:
    """Part of the windows that may be drawn at `step` of `steps`: g(t), linear up to everything.

    `start` is g0, the part at step 0, and `until` a, the part of training after which the pool is
    whole: the linear pacing function of Wu et al. (2021), section 2.1.
    """
    require(0 < start <= 1, "start must be in (0, 1]", start)
    require(0 <= until <= 1, "until must be in [0, 1]", until)
    require(0 <= step < steps, f"step must be between 0 and steps - 1 = {steps - 1}", step)
    if step >= until * steps:
        return 1.0
    return start + (1 - start) * step / (until * steps)


def batches(
    arranged: Int[np.ndarray, " n"],
    *,
    steps: int,
    batch_size: int,
    rng: np.random.Generator,
    whole: bool = False,
    start: float = 0.2,
    until: float = 0.6,
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Indices of each step's windows, drawn with replacement from the pool as it grows.

    `arranged` is from `arrange`; `whole` draws from everything at once, which is ordinary training.
    """
    require(batch_size >= 1, "batch_size must be at least 1", batch_size)
    require(len(arranged), "arranged must hold at least one window", "none")
    for step in range(steps):
        part = 1.0 if whole else pool_fraction(step, steps, start=start, until=until)
        size = max(1, round(part * len(arranged)))
        yield arranged[rng.integers(0, size, batch_size)]


# ---- training


def train(
    model: GPT,
    windows: Int[Tensor, "n length"],
    order: Iterable[Int[np.ndarray, " batch"]],
    *,
    steps: int,
    lr: float,
) -> Iterator[float]:
    """Train in place with AdamW, the rate falling linearly to zero; yields each step's loss."""
    adam = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    for rows in order:
        x = windows[torch.from_numpy(rows)]
        loss = next_token_loss(model(x[:, :-1]), x[:, 1:])
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
        yield loss.item()


@torch.no_grad()
def mean_loss(model: GPT, windows: Int[Tensor, "n length"]) -> Float[Tensor, " n"]:
    """Loss of each window (nats per character)."""
    logits = model(windows[:, :-1]).log_softmax(dim=-1)
    return -logits.gather(-1, windows[:, 1:, None]).mean(dim=(1, 2))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
