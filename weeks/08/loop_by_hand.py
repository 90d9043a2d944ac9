r"""The training loop of `training_loop.py` with no helpers: what each of torch's lines does.

The same batches, the same masks, the same steps, from matrix products and `torch.autograd.grad`
alone. `training_loop.py` compares the two, loss by loss.

>>> draw_order(5, torch.Generator().manual_seed(0))
tensor([3, 1, 0, 4, 2])
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from week08.training_loop import warmup_cosine


def draw_order(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Return one epoch's order, leaving `generator` where a DataLoader would.

    A shuffling DataLoader takes three things from its generator: a seed for worker processes (even
    if there are none), the permutation, and, at the end, a second permutation of which it uses no
    element. Leave one out, and the second epoch is another.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    torch.empty((), dtype=torch.int64).random_(generator=generator)
    order = torch.randperm(n, generator=generator)
    torch.randperm(n, generator=generator)
    return order


def train_by_hand(
    weights: dict[str, Float[Tensor, "..."]],
    x: Float[Tensor, "n features"],
    y: Int[Tensor, " n"],
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    dropout: float,
    clip: float,
    order: torch.Generator,
    masks: torch.Generator,
) -> list[float]:
    """Train the network of `make_model` in place; only matrix products and autograd are torch's.

    Parameters
    ----------
    weights
        As `make_model(...).state_dict()` names them.
    order, masks
        Where the permutations and the dropout masks come from.

    Returns
    -------
    losses
        The loss of each step, nats.
    """
    trained = [name for name in weights if not name.startswith("1.running")]
    mean = {name: torch.zeros_like(weights[name]) for name in trained}
    square = {name: torch.zeros_like(weights[name]) for name in trained}
    batches = math.ceil(len(x) / batch_size)
    losses = []
    for step in range(epochs * batches):
        if step % batches == 0:
            permutation = draw_order(len(x), order)
        rows = permutation[step % batches * batch_size :][:batch_size]

        w = {name: t.detach().requires_grad_(name in trained) for name, t in weights.items()}
        hidden = x[rows] @ w["0.weight"].T + w["0.bias"]
        # BatchNorm1d: the biased variance normalizes, the unbiased one is remembered
        center, spread = hidden.mean(dim=0), hidden.var(dim=0, correction=0)
        hidden_hat = (hidden - center) / (spread + 1e-5).sqrt()
        hidden_hat = (hidden_hat * w["1.weight"] + w["1.bias"]).clamp(min=0)
        weights["1.running_mean"].lerp_(center.detach(), 0.1)
        weights["1.running_var"].lerp_(hidden.detach().var(dim=0), 0.1)
        # Dropout: survivors grow by 1 / (1 - p), so that evaluation needs no correction
        kept = torch.empty_like(hidden).bernoulli_(1 - dropout, generator=masks) / (1 - dropout)
        logits = (hidden_hat * kept) @ w["4.weight"].T + w["4.bias"]
        target = logits.gather(1, y[rows, None])[:, 0]
        loss = (logits.logsumexp(dim=1) - target).mean()
        gradients = torch.autograd.grad(loss, [w[name] for name in trained])
        losses.append(loss.item())

        # clip_grad_norm_: one factor for all parameters, so that the direction stays
        norm = math.sqrt(sum(g.square().sum().item() for g in gradients))
        factor = min(1.0, clip / (norm + 1e-6))
        eta = lr * warmup_cosine(step, total=epochs * batches, warmup=batches)
        for name, g in zip(trained, gradients, strict=True):
            mean[name].lerp_(g * factor, 1 - 0.9)
            square[name].lerp_((g * factor).square(), 1 - 0.999)
            m, v = mean[name] / (1 - 0.9 ** (step + 1)), square[name] / (1 - 0.999 ** (step + 1))
            weights[name].mul_(1 - eta * weight_decay).sub_(eta * m / (v.sqrt() + 1e-8))
    return losses
