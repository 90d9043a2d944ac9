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

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from week14.minimal_gpt import GPT, next_token_loss
from week14.ngram import WittenBell

Order = Literal["all at once", "easy first", "hard first", "random pool"]

# ---- how hard an example is


def difficulty(
    windows: Int[np.ndarray, "n length"], counted: Int[np.ndarray, " m"], *, order: int, vocab: int
) -> Float[np.ndarray, " n"]:
    """Mean n-gram loss of each window (nats per character), counted on text of its own.

    The text to count must not contain the windows: n-grams seen once would make everything easy.
    """
    if windows.shape[1] < order:
        raise ValueError(
            f"windows must be at least order = {order} long, got {windows.shape[1]} characters"
        )
    model = WittenBell(order, vocab).fit(counted)
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
    if order in ("random pool", "all at once"):
        return rng.permutation(len(scores))
    raise ValueError(
        f"order must be all at once, easy first, hard first or random pool, got {order!r}"
    )


# ---- how fast the pool grows


def pool_fraction(step: int, steps: int, *, start: float = 0.2, until: float = 0.6) -> float:
    """Part of the windows that may be drawn at `step` of `steps`: g(t), linear up to everything.

    Parameters
    ----------
    start
        The part at step 0, g0.
    until
        The part of training after which the pool is whole, a.

    References
    ----------
    Wu et al. (2021), section 2.1: the linear pacing function.
    """
    if not 0 < start <= 1:
        raise ValueError(f"start must be in (0, 1], got {start}")
    if not 0 <= until <= 1:
        raise ValueError(f"until must be in [0, 1], got {until}")
    if not 0 <= step < steps:
        raise ValueError(f"step must be between 0 and steps - 1 = {steps - 1}, got {step}")
    if step >= until * steps:
        return 1.0
    return start + (1 - start) * step / (until * steps)


def batches(
    arranged: Int[np.ndarray, " n"],
    *,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    whole: bool = False,
    start: float = 0.2,
    until: float = 0.6,
) -> Iterator[Int[np.ndarray, " batch"]]:
    """Indices of each step's windows, drawn with replacement from the pool as it grows.

    Parameters
    ----------
    arranged
        From `arrange`.
    whole
        Draw from everything at once: ordinary training.
    """
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if len(arranged) == 0:
        raise ValueError("arranged must hold at least one window, got none")
    for step in range(steps):
        part = 1.0 if whole else pool_fraction(step, steps, start=start, until=until)
        size = max(1, round(part * len(arranged)))
        yield arranged[rng.integers(0, size, batch)]


# ---- training


def train(
    model: GPT,
    windows: Int[Tensor, "n length"],
    order: Iterable[Int[np.ndarray, " batch"]],
    *,
    steps: int,
    lr: float,
    told: Callable[[int, float], None] = lambda step, loss: None,
) -> list[float]:
    """Train in place with AdamW, the rate falling linearly to zero; gives each step's loss.

    `told` is called after every step with its number, from 1, and its loss.
    """
    adam = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.1)
    decay = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, total_iters=steps)
    losses = []
    for rows in order:
        x = windows[torch.from_numpy(rows)]
        loss = next_token_loss(model(x[:, :-1]), x[:, 1:])
        adam.zero_grad()
        loss.backward()
        adam.step()
        decay.step()
        losses.append(loss.item())
        told(len(losses), losses[-1])
    return losses


@torch.no_grad()
def mean_loss(model: GPT, windows: Int[Tensor, "n length"]) -> Float[Tensor, " n"]:
    """Loss of each window (nats per character)."""
    logits = model(windows[:, :-1]).log_softmax(dim=-1)
    return -logits.gather(-1, windows[:, 1:, None]).mean(dim=(1, 2))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
