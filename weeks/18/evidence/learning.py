"""What this week's experiments share: Python's manual, ten first steps, and whether it learns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets
from shared.study import Run
from week09.optimizers import AdamW
from week14.ngram import encode_characters


@dataclass(frozen=True)
class Manual:
    """The manual's letters as tokens: nine tenths, the same in random order, and some of the rest.

    Attributes
    ----------
    by_letters
        Loss on `valid` of who knows how frequent each letter is in `training`, nats per character.
    """

    n_letters: int
    training: Int[Tensor, " n"]
    shuffled: Int[Tensor, " n"]
    valid: Int[Tensor, " m"]
    by_letters: float


def manual(run: Run, n_valid: int) -> Manual:
    """Python's manual, `n_valid` letters of its last tenth to judge by."""
    ids, alphabet = encode_characters(datasets.pydocs_text())
    tokens, split = torch.from_numpy(ids), int(0.9 * len(ids))
    training, valid = tokens[:split], tokens[split:][:n_valid]
    mixed = training[torch.randperm(split, generator=run.generator(3))]
    shares = np.bincount(ids[:split], minlength=len(alphabet)) / split
    by_letters = -float(np.log(shares[valid[1:].numpy()]).mean())
    return Manual(len(alphabet), training, mixed, valid, by_letters)


# ---- beside transformers


def check_ten_steps(
    run: Run,
    ours: nn.Module,
    theirs: nn.Module,
    name: str,
    *,
    rtol: float = 1e-5,
    added: Callable[[Any], Tensor] = lambda out: 0.0,
) -> None:
    """Losses of ten steps of AdamW, ours with our model and torch's with transformers' `name`.

    Parameters
    ----------
    added
        What a model's output adds to the loss.
    """
    options = {"lr": 1e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    adamw = AdamW(ours.parameters(), **options), torch.optim.AdamW(theirs.parameters(), **options)
    pairs = zip((ours, theirs), adamw, strict=True)
    losses = [ten_losses(*pair, run.generator(1), added) for pair in pairs]
    against = f"transformers {name} + torch.optim.AdamW"
    why = "float32 rounding, amplified by ten steps"
    run.check("losses of the first ten steps", *losses, against=against, rtol=rtol, why=why)


def ten_losses(
    model: nn.Module, optimizer: Any, generator: torch.Generator, added: Callable[[Any], Tensor]
) -> list[float]:
    """Losses of ten steps on random tokens."""
    losses = []
    for _ in range(10):
        x = torch.randint(31, (4, 33), generator=generator)
        out = model(x[:, :-1])
        logits = out if torch.is_tensor(out) else out.logits
        loss = F.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten()) + added(out)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# ---- does it learn?


def judge_learning(run: Run, curves: Float[np.ndarray, "seed step"], *, at_least: float) -> None:
    """How far the loss falls, over the spread of its last tenth."""
    tenth = max(curves.shape[1] // 10, 2)
    noise = curves[:, -tenth:].std(axis=1)
    falls = (curves[:, 0] - curves[:, -tenth:].mean(axis=1)) / noise
    rule = {"at_least": at_least, "unit": "times its noise", "quick": False}
    run.claim("the loss falls by more than its noise", falls, **rule)


def judge_control(
    run: Run,
    text: Manual,
    shuffled: Float[np.ndarray, " seed"],
    itself: Float[np.ndarray, " seed"],
    *,
    seen_before: str = "",
) -> None:
    """Losses of models that read shuffled text, and the text itself, beside letter frequencies."""
    name = "on shuffled text it learns at most the letters' frequencies"
    rule = {"at_least": -0.1, "unit": "nats/char", "quick": False, "seen_before": seen_before}
    run.claim(name, shuffled - text.by_letters, **rule)
    run.falsifier("on the text itself", itself - text.by_letters, breaks=name)
