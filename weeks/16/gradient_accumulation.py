r"""Gradient accumulation: the step of a big batch from micro-batches that fit into memory.

A language model's loss is a mean over *tokens*. Let micro-batch $j$ hold $n_j$ of them, with losses
$\ell_{ji}$ and $N = n_1 + \dots + n_k$. Gradients add, so the gradients of the *sums* may be added
one micro-batch at a time, and divided once:

$$ \nabla L = \frac1N \sum_{j=1}^{k} \nabla \sum_{i=1}^{n_j} \ell_{ji}
   \qquad\text{and not}\qquad
   \frac1k \sum_{j=1}^{k} \nabla \Big( \frac1{n_j} \sum_{i=1}^{n_j} \ell_{ji} \Big), $$

the mean of means, which training libraries computed for years: a token among few then counts for
more than a token among many. The models here are small (a GPT of 11,000 parameters, and smaller).

>>> def loss_sum(model, x):
...     return model(x).sum(), len(x)
>>> model, pieces = nn.Linear(1, 1, bias=False), [torch.tensor([[4.0]]), torch.ones(3, 1)]
>>> for average in (accumulate, accumulate_mean_of_means):
...     _ = average(model, pieces, loss_sum)
...     print(model.weight.grad.item())  # (4 + 1 + 1 + 1) / 4, and (4 + 1) / 2
1.75
2.5

    uv run weeks/16/gradient_accumulation.py

Sources: P. Goyal et al., *Accurate, Large Minibatch SGD* (2017), section 3, "Gradient aggregation";
S. McCandlish et al., *An Empirical Model of Large-Batch Training* (2018), section 2.2 and
appendix A.1.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Real
from torch import Tensor, nn

from shared.require import require

IGNORE = -100  # a target that is padding; the value that F.cross_entropy leaves out

Batch = TypeVar("Batch")
LossSum = Callable[[nn.Module, Batch], tuple[Float[Tensor, ""], Real[Tensor, ""] | int | float]]

# ---- accumulation


class Accumulated(NamedTuple):
    """The mean loss over all micro-batches, and the weight (number of tokens) it was divided by."""

    loss: float
    weight: float


def accumulate(model: nn.Module, micro_batches: Iterable[Batch], loss_sum: LossSum) -> Accumulated:
    """Leave in every `.grad` the gradient of the mean loss over all micro-batches together.

    What was in `.grad` before is dropped. One micro-batch's graph is alive at a time, so the
    memory is that of the largest micro-batch. Clip and step afterwards, once.

    `loss_sum`, called with the model and a micro-batch, returns the *sum* of its losses (a scalar)
    and how much it weighs: the number of tokens that count, padding left out. It may be 0, but not
    for all of them.
    """
    model.zero_grad(set_to_none=True)
    loss, weight = 0.0, 0.0
    for micro_batch in micro_batches:
        part, n = loss_sum(model, micro_batch)
        require(n >= 0, "loss_sum must return a weight of at least 0", float(n))
        part.backward()  # adds to .grad and frees the graph: the next one takes its place
        # detached: a sum needs no history. No .item() either: a GPU need not wait here.
        loss, weight = loss + part.detach(), weight + n
    weight = float(weight)
    require(weight, "micro_batches must hold at least one token that counts, got none")
    for p in model.parameters():
        if p.grad is not None:
            p.grad /= weight
    return Accumulated(float(loss) / weight, weight)


def accumulate_mean_of_means(
    model: nn.Module, micro_batches: Sequence[Batch], loss_sum: LossSum
) -> float:
    """The classic mistake, kept to be measured: every micro-batch weighs 1/k, whatever it holds."""
    model.zero_grad(set_to_none=True)
    loss = 0.0
    for micro_batch in micro_batches:
        part, n = loss_sum(model, micro_batch)
        mean = part / n / len(micro_batches)
        mean.backward()
        loss += mean.item()
    return loss


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[Batch],
    loss_sum: LossSum,
    *,
    max_norm: float,
) -> Accumulated:
    """Accumulate, clip, step. Returns the loss before the step."""
    require(max_norm > 0, "max_norm must be positive", max_norm)
    result = accumulate(model, micro_batches, loss_sum)
    # once, on the whole: a norm is not additive, and clipped pieces do not add up to a clipped sum
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return result


# ---- sequences of unequal length


class Padded(NamedTuple):
    """Sequences side by side, filled up to the longest: targets are `IGNORE` where nothing is."""

    inputs: Int[Tensor, "batch seq"]
    targets: Int[Tensor, "batch seq"]


def pad(sequences: Sequence[Int[Tensor, "..."]]) -> Padded:
    """Inputs and the targets one token later, padded on the right.

    A causal model's real positions never look to the right, so it needs no mask beyond `IGNORE`.
    """
    require(sequences, "sequences must hold at least one sequence, got none")
    shortest = min(map(len, sequences))
    require(shortest >= 2, "sequences must have at least 2 tokens each", f"one of {shortest}")

    def stack(parts: list[Tensor], fill: int) -> Tensor:
        return nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)

    return Padded(stack([s[:-1] for s in sequences], 0), stack([s[1:] for s in sequences], IGNORE))


def in_micro_batches(sequences: Sequence[Int[Tensor, "..."]], size: int) -> list[Padded]:
    """`size` sequences at a time (the last may hold fewer), each padded to its own longest."""
    require(size >= 1, "size must be at least 1", size)
    return [pad(sequences[i : i + size]) for i in range(0, len(sequences), size)]


def token_loss_sum(model: nn.Module, batch: Padded) -> tuple[Float[Tensor, ""], Int[Tensor, ""]]:
    """Summed surprise of the real targets (nats), and their number."""
    logits = model(batch.inputs).flatten(0, 1)
    loss = F.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, (batch.targets != IGNORE).sum()


# ---- what the micro-batches say about the right size of the batch


class NoiseScale(NamedTuple):
    """Estimates of |G|² and tr Σ, and their ratio: the batch at which noise equals signal."""

    signal: float
    noise: float

    @property
    def samples(self) -> float:
        """B_simple = tr Σ / |G|², in samples (eq. 2.9)."""
        return self.noise / self.signal


def noise_scale(gradients: Float[Tensor, "micro_batch parameter"], size: int) -> NoiseScale:
    r"""Gradient noise scale from the gradients of equal micro-batches of one step.

    A batch of $B$ independent samples has $E|G_B|^2 = |G|^2 + \mathrm{tr}(\Sigma) / B$. Two sizes
    give two equations: the micro-batches' own, of `size` samples each, and that of their mean
    (McCandlish et al. 2018, eqs. A.1 and A.2). Both estimates are unbiased, their ratio is not:
    average them over steps before dividing.
    """
    k = len(gradients)
    require(k >= 2, "gradients must be those of at least 2 micro-batches", k)
    require(size >= 1, "size must be at least 1", size)
    small = gradients.square().sum(dim=1).mean().item()
    big = gradients.mean(dim=0).square().sum().item()
    signal = (k * size * big - size * small) / (k * size - size)
    noise = (small - big) / (1 / size - 1 / (k * size))
    return NoiseScale(signal, noise)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
