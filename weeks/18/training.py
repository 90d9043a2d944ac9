"""Week 14's training for any decoder: Muon for the matrices of its blocks, AdamW for the rest.

>>> from week18.llama3 import Llama, LlamaConfig
>>> model, tokens = Llama(LlamaConfig(vocab_size=7, d_model=16)), torch.arange(200) % 7
>>> options = {"steps": 30, "batch_size": 4, "context": 12, "generator": torch.Generator()}
>>> losses = train(model, tokens, **options)
>>> losses[0] > 1.5 and losses[-1] < 0.5  # guessing costs ln 7 = 1.9 nats
True

`uv run weeks/18/llama3.py` compares models with it. Jordan et al., "Muon" (2024).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.muon import Muon
from week09.optimizers import AdamW
from week14.minimal_gpt import next_token_loss, random_batch


def train(
    model: nn.Module,
    tokens: Int[Tensor, " n"],
    *,
    steps: int,
    batch_size: int,
    context: int,
    generator: torch.Generator,
    lr_scale: float = 1.0,
    after_step: Callable[[], None] | None = None,
) -> list[float]:
    """Train `model` in place; the loss of each step, in nats per token.

    Parameters
    ----------
    lr_scale
        Factor of the learning rates, which fall to zero linearly.
    after_step
        Called after each step of the optimizers; `week18.kimi_k2` clips weights there.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    of_blocks = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in of_blocks]
    adamw = {"lr": 1.2e-2 * lr_scale, "betas": (0.9, 0.95), "weight_decay": 0.0}
    optimizers = [Muon(matrices, lr=0.02 * lr_scale), AdamW(rest, **adamw)]
    peaks, losses = [o.lr for o in optimizers], []
    for step in range(steps):
        x, y = random_batch(tokens, batch_size, context, generator)
        loss = next_token_loss(model(x), y)
        for o, lr in zip(optimizers, peaks, strict=True):
            o.zero_grad()
            o.lr = lr * (1 - step / steps)
        loss.backward()
        for o in optimizers:
            o.step()
        if after_step is not None:
            after_step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def loss_by_position(
    model: nn.Module, tokens: Int[Tensor, " n"], length: int
) -> Float[Tensor, " length"]:
    """Mean loss at each place of windows that do not overlap, nats per token."""
    n = (len(tokens) - 1) // length
    require(n, f"tokens must be more than length = {length}", len(tokens))
    x, y = (tokens[i : n * length + i].view(n, length) for i in (0, 1))
    return F.cross_entropy(model(x).transpose(1, 2), y, reduction="none").mean(0)
