r"""Which part of the recipe beats counting: the positions, the optimizer, or both?

The same GPT, text, batches and number of steps, in the four combinations of

- positions *learned* (GPT-2's: a vector per position is added) or *rotary* (queries and keys are
  turned by their position), and
- *AdamW* for every parameter (GPT-2's) or *Muon* for the matrices of the blocks.

Each combination first tunes its learning rate on a seed of its own, by factors of three until both
neighbors of the best are worse; the seeds that judge then use that one. The line to cross is the
best Witten–Bell n-gram of `ngram.py`, counted on the same text.

>>> losses = tune(lambda scale: abs(scale - 20))
>>> min(losses, key=losses.get), [round(scale, 2) for scale in losses]
(27.0, [0.33, 1.0, 3.0, 9.0, 27.0, 81.0])

    uv run weeks/14/gpt_recipes.py            # short runs: the order of the recipes
    uv run weeks/14/gpt_recipes.py --full     # full runs, three seeds: the record

Sources: Radford et al. (2019); Su et al., "RoFormer" (2021); Jordan et al., "Muon" (2024).
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from week14.minimal_gpt import GPT, GPTConfig, evaluate, train


def final_loss(
    training: Int[Tensor, " n"],
    validation: Int[Tensor, " m"],
    config: GPTConfig,
    optimizer: str,
    *,
    steps: int,
    lr_scale: float,
    seed: int,
) -> float:
    """Validation loss, nats per character, after training one recipe from one seed."""
    model = GPT(config, torch.Generator().manual_seed(seed))
    chance = torch.Generator().manual_seed(1000 + seed)
    options = {"optimizer": optimizer, "lr_scale": lr_scale, "generator": chance}
    train(model, training, steps=steps, batch=16, **options)
    return evaluate(model, validation, window=config.context)


def tune(loss_at: Callable[[float], float], *, factor: float = 3.0) -> dict[float, float]:
    """Losses at 1 and at powers of `factor`, as far as needed for the best to lie inside.

    Returns
    -------
    losses
        Loss by factor of the learning rate; the smallest is neither the first nor the last factor.
    """
    losses = {k: loss_at(factor**k) for k in (-1, 0, 1)}
    while (best := min(losses, key=losses.get)) in (min(losses), max(losses)):
        beyond = best + (1 if best > 0 else -1)
        losses[beyond] = loss_at(factor**beyond)
    return {factor**k: losses[k] for k in sorted(losses)}


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
