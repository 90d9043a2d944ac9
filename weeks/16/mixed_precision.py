r"""Mixed precision: what training needs to live on 16 bits.

Storage in 16 bits brings two accidents to gradient descent, $w \leftarrow w - \eta g$ (`fmt` has
$M$ mantissa bits and bias $b$, see float_formats.py): the gradient underflows, or the update does,

$$ |g| \le 2^{-b-M} \;\Rightarrow\; g = 0, \qquad
   \eta |g| < 2^{-M-2} |w| \;\Rightarrow\; w \text{ stays as it is.} $$

*Loss scaling* cures the first, a *master copy* in float32 (or stochastic rounding, or Kahan's sum)
the second. Reduced: a network of two layers on 8 × 8 digits; 16 bits are emulated: tensors are
stored in 16 bits, sums run in float32.

>>> start, batches = [torch.ones(1, 1, 1)], [()] * 8
>>> def loss_of(weights, batch, dtype):  # of gradient -1, so that every step should add lr
...     return -weights[0].flatten()
>>> for kept in ("plain", "master"):  # bfloat16's neighbor of 1 is 1 + 2**-7
...     policy = Policy(torch.bfloat16, kept)
...     print(kept, train(loss_of, start, batches, policy, lr=2.0**-10).weights[0].item())
plain 1.0
master 1.0078125

    uv run weeks/16/mixed_precision.py

Sources: P. Micikevicius et al., *Mixed Precision Training* (ICLR 2018), section 3 and figure 2.
"""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from shared.require import require
from week16.compensated_sums import kahan_add
from week16.float_formats import FORMATS, round_to
from week16.loss_scaling import LossScaler

# ---- storage in 16 bits


class _Stored(torch.autograd.Function):
    """Keep a tensor in `dtype` on the way forward, and its gradient on the way back."""

    @staticmethod
    def forward(ctx, x, dtype):
        ctx.dtype = dtype
        return x.to(dtype).to(x.dtype) if dtype != x.dtype else x.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad.to(ctx.dtype).to(grad.dtype), None


def stored(x: Float[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """`x` after a visit to memory in `dtype`; its gradient will pass there too."""
    return _Stored.apply(x, dtype)


def mlp_loss(
    weights: list[Float32[Tensor, "seed _ _"]],
    batch: tuple[Float32[Tensor, "seed batch _"], Int64[Tensor, "seed batch"]],
    dtype: torch.dtype,
) -> Float32[Tensor, " seed"]:
    """Cross-entropy of linear, ReLU, linear for a stack of networks, one per seed, in nats.

    Weights and biases alternate; activations live in `dtype`, the softmax in float32.
    """
    h, y = stored(batch[0], dtype), batch[1]
    for i in range(0, len(weights), 2):
        h = h.relu() if i else h
        h = stored(torch.baddbmm(weights[i + 1], h, weights[i]), dtype)
    return F.cross_entropy(h.transpose(1, 2), y, reduction="none").mean(dim=1)


# ---- training


class Policy(NamedTuple):
    """What is kept in 16 bits, how weights are updated, and what the loss is multiplied by.

    `weights`: ``plain`` keeps them in `dtype` and rounds after each update; ``stochastic`` rounds
    at random; ``kahan`` adds a compensation in `dtype`; ``master`` keeps a float32 copy.
    """

    dtype: torch.dtype
    weights: Literal["plain", "master", "stochastic", "kahan"] = "master"
    scale: float = 1.0
    dynamic: bool = False


class Trace(NamedTuple):
    """Of each step and seed: loss, loss scale, whether it was skipped; shares; final weights.

    swallowed: of the updates that were not zero, those after which the weight was the same.
    """

    loss: Float32[Tensor, "step seed"]
    scale: Float64[Tensor, "step seed"]
    skipped: Bool[Tensor, "step seed"]
    swallowed: Float32[Tensor, "step seed"]
    weights: list[Float32[Tensor, "seed _ _"]]


def gradients(
    loss_of: Callable,
    weights: list[Float32[Tensor, "seed _ _"]],
    batch: tuple,
    dtype: torch.dtype,
    scale: Float64[Tensor, " seed"],
) -> tuple[Float32[Tensor, " seed"], list[Float32[Tensor, "seed _ _"]]]:
    """Losses, and gradients that passed through `dtype` scaled and are unscaled in float32."""
    leaves = [w.to(dtype).float().detach().requires_grad_() for w in weights]
    losses = loss_of(leaves, batch, dtype)
    grads = torch.autograd.grad((losses * scale).sum(), leaves)
    factor = (1 / scale).float().reshape(-1, 1, 1)
    return losses.detach(), [g.to(dtype).float() * factor for g in grads]


def added(
    w: Float32[Tensor, "*shape"],
    update: Float32[Tensor, "*shape"],
    carry: Float32[Tensor, "*shape"],
    policy: Policy,
    generator: torch.Generator | None = None,
) -> tuple[Float32[Tensor, "*shape"], Float32[Tensor, "*shape"]]:
    """w + update as `policy` stores it, and the carry of Kahan's sum."""
    if policy.weights == "master":
        return w + update, carry
    if policy.weights == "stochastic":
        return round_to(w + update, FORMATS[policy.dtype], generator=generator), carry
    if policy.weights == "kahan":
        return kahan_add(w, carry, update, FORMATS[policy.dtype])
    return (w + update.to(policy.dtype).float()).to(policy.dtype).float(), carry


def train(
    loss_of: Callable,
    start: list[Float32[Tensor, "seed _ _"]],
    batches: Iterable[tuple],
    policy: Policy,
    *,
    lr: float,
    growth_interval: int = 100,
    generator: torch.Generator | None = None,
) -> Trace:
    """Gradient descent of a stack of networks, each with a loss scale of its own.

    `loss_of`, called with weights, a batch and the dtype of storage, gives a loss per seed. `start`
    is not changed; the generator is for stochastic rounding.
    """
    require(lr > 0, "lr must be positive", lr)
    drawn = policy.weights != "stochastic" or generator is not None
    require(drawn, "generator must be given for stochastic rounding", generator)
    seeds = len(start[0])
    keeps = torch.float32 if policy.weights == "master" else policy.dtype
    weights = [w.to(keeps).float() for w in start]
    carries = [torch.zeros_like(w) for w in weights]
    options = {"growth_interval": growth_interval, "dynamic": policy.dynamic}
    scalers = [LossScaler(policy.scale, **options) for _ in range(seeds)]
    rows = []
    for batch in batches:
        scale = torch.tensor([s.scale for s in scalers], dtype=torch.float64)
        losses, grads = gradients(loss_of, weights, batch, policy.dtype, scale)
        good = torch.stack([torch.isfinite(g).flatten(1).all(1) for g in grads]).all(0)
        for scaler, fine in zip(scalers, good.tolist(), strict=True):
            scaler.update(not fine)
        same, moved = torch.zeros(seeds), torch.zeros(seeds)
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            update = torch.where(good.reshape(-1, 1, 1), -lr * g, 0.0)
            weights[i], carries[i] = added(w, update, carries[i], policy, generator)
            same += ((update != 0) & (weights[i] == w)).flatten(1).sum(1)
            moved += (update != 0).flatten(1).sum(1)
        rows.append((losses, scale, ~good, same / moved.clamp(min=1)))
    require(rows, "batches must hold at least one batch, got none")
    return Trace(*(torch.stack(column) for column in zip(*rows, strict=True)), weights)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
