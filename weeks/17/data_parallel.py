r"""Data parallelism: every process has the whole model and a part of the batch.

A gradient is a sum over tokens, so it may be summed wherever the tokens are. Process $r$ has losses
$\ell_{ri}$ of $n_r$ tokens that count, in one or more micro-batches:

$$ \nabla L = \frac{1}{\sum_r n_r} \sum_r \sum_{i \le n_r} \nabla \ell_{ri}
   \qquad\text{and not}\qquad
   \frac1R \sum_r \Big( \frac1{n_r} \sum_{i \le n_r} \nabla \ell_{ri} \Big), $$

the mean of the processes' means, which is what averaging gradients of mean losses gives: where
lengths differ, it is another gradient. So the *sums* are all-reduced, the tokens too, and divided
once.

The all-reduce need not wait for the end of the backward pass. Parameters are put into *buckets*,
the last layer's first, since its gradient is ready first; a full bucket is on its way while
the backward pass goes on. Buckets leave in one fixed order, whatever is ready first, since
all processes must reduce the same bucket at the same time.

>>> model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
>>> [[len(p) for p in bucket] for bucket in buckets(list(model.parameters()), most_bytes=50)]
[[2, 2], [4], [4]]

    uv run weeks/17/data_parallel.py

Sources: S. Li et al., *PyTorch Distributed: Experiences on Accelerating Data Parallel Training*
(2020), section 3.2; P. Goyal et al., *Accurate, Large Minibatch SGD* (2017), section 3.
"""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor, nn

from shared.require import require
from week16.gradient_accumulation import Batch, LossSum
from week17.collectives import Ring

__all__ = ["DataParallel", "Step", "buckets", "train_step"]


def buckets(parameters: Sequence[nn.Parameter], most_bytes: int) -> list[list[nn.Parameter]]:
    """Parameters from the last to the first, in groups of at most `most_bytes` and one dtype.

    One that is larger has a bucket of its own.
    """
    require(most_bytes >= 1, "most_bytes must be at least 1", most_bytes)
    found: list[list[nn.Parameter]] = []
    for p in reversed(parameters):
        full = found and sum(q.nbytes for q in found[-1]) + p.nbytes > most_bytes
        if not found or full or p.dtype != found[-1][0].dtype:
            found.append([])
        found[-1].append(p)
    return found


class DataParallel:
    """Sums a model's gradients over the processes of a ring while the backward pass runs.

    Its hooks act in backward passes between `start` and `finish`; earlier micro-batches only add
    to `.grad`, so that a step has one all-reduce, however many they are.

    Attributes
    ----------
    ring
        Its `sent` counts the bytes of the gradients.
    early
        Of the last step: buckets that were sent off before the last gradient was there.
    """

    def __init__(self, model: nn.Module, ring: Ring, *, most_bytes: int = 25_000_000):
        self.model, self.ring, self.early = model, ring, 0
        # One thread: buckets are reduced in the order in which they are handed in.
        self._thread = ThreadPoolExecutor(max_workers=1)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        require(self.parameters, "model must have a parameter that is trained, got none")
        self.buckets = buckets(self.parameters, most_bytes)
        self._place = {p: i for i, bucket in enumerate(self.buckets) for p in bucket}
        self._missing: list[set[nn.Parameter]] = []
        self._sums: list[Future] = []
        self._is_last = False
        for p in self.parameters:
            p.register_post_accumulate_grad_hook(self._ready)
        with torch.no_grad():  # all begin with what the first process has
            for tensor in [*model.parameters(), *model.buffers()]:
                tensor.copy_(ring.broadcast(tensor))
        ring.sent = 0

    def start(self) -> None:
        """The next backward pass is the last of this step: what it completes may leave."""
        self._missing = [set(bucket) for bucket in self.buckets]
        self._sums, self._is_last = [], True

    def _ready(self, p: nn.Parameter) -> None:
        """A gradient is complete: send off the buckets whose turn it is."""
        if not self._is_last:
            return
        self._missing[self._place[p]].discard(p)
        while len(self._sums) < len(self.buckets) and not self._missing[len(self._sums)]:
            self._send_next()
        self.early = len(self._sums) if any(self._missing) else self.early

    def _send_next(self) -> None:
        bucket = self.buckets[len(self._sums)]
        # A parameter that this process did not use has no gradient; others may have used it.
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
        flat = torch.cat([g.flatten() for g in grads])
        self._sums.append(self._thread.submit(self.ring.all_reduce, flat))

    def finish(self) -> None:
        """Wait for all buckets; `.grad` is then the sum over processes."""
        while len(self._sums) < len(self.buckets):
            self._send_next()
        for bucket, summed in zip(self.buckets, self._sums, strict=True):
            parts = summed.result().split([p.numel() for p in bucket])
            for p, grad in zip(bucket, parts, strict=True):
                p.grad = grad.view_as(p).clone()
        self._is_last = False


class Step(NamedTuple):
    """The mean loss over all processes' tokens, and their number."""

    loss: float
    tokens: int


def train_step(
    parallel: DataParallel,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[Batch],
    loss_sum: LossSum,
    *,
    clip: Callable[[list[nn.Parameter]], Tensor] | None = None,
) -> Step:
    """One step on all processes' micro-batches together.

    `loss_sum` returns the *sum* of a micro-batch's losses and its number of tokens that count, as
    in week 16. The number of micro-batches may differ between processes, and be none.
    """
    for p in parallel.parameters:
        p.grad = None
    batches = list(micro_batches)
    mine = torch.zeros(2, dtype=torch.float64)
    for i, batch in enumerate(batches):
        if i == len(batches) - 1:
            parallel.start()
        loss, n = loss_sum(parallel.model, batch)
        loss.backward()
        mine += torch.stack([loss.detach().double(), torch.as_tensor(n).double()])
    if not batches:  # the others wait for this process's zeros
        parallel.start()
    parallel.finish()
    loss, tokens = parallel.ring.all_reduce(mine)  # after the gradients: one message at a time
    require(tokens > 0, "micro_batches must hold at least one token that counts, got none")
    for p in parallel.parameters:
        p.grad /= tokens
    if clip is not None:  # all have the same gradient, so that all clip alike
        clip(parallel.parameters)
    optimizer.step()
    return Step(float(loss / tokens), int(tokens))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
