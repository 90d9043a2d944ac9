r"""ZeRO: data parallelism whose processes do not all keep everything.

Mixed-precision Adam keeps $2 + 2 + 12$ bytes for each of $\Psi$ parameters: the parameter and its
gradient in 16 bits; a master copy and two moments in 32. In data parallelism each of $N$ processes
has all of it, though it could update a part and hear of the rest. Three stages give away more
and more:

$$ \underbrace{16\,\Psi}_{\text{stage 0}} \quad
   \underbrace{4\,\Psi + \tfrac{12\,\Psi}{N}}_{\text{1: states}} \quad
   \underbrace{2\,\Psi + \tfrac{14\,\Psi}{N}}_{\text{2: and gradients}} \quad
   \underbrace{\tfrac{16\,\Psi}{N}}_{\text{3: and parameters}} \ \text{bytes}. $$

An all-reduce is a reduce-scatter and an all-gather. Stages 1 and 2 put the update between the two
and send no more than before. Stage 3 gathers a layer's parameters when they are needed, in
the forward and again in the backward pass, and forgets them: half as much again.

>>> [formula(7.5e9, 64, stage) / 1e9 for stage in range(4)]
[120.0, 31.40625, 16.640625, 1.875]
>>> [traffic(stage) for stage in range(4)]  # in all-reduces of the parameters
[1.0, 1.0, 1.0, 1.5]

    uv run weeks/17/zero.py

Source: S. Rajbhandari et al., *ZeRO: Memory Optimizations Toward Training Trillion Parameter
Models* (2020), sections 3.1, 5 and 7.
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week16.gradient_accumulation import Batch, LossSum
from week17.collectives import Ring
from week17.data_parallel import Step

__all__ = ["Zero", "formula", "traffic", "train_step"]


def formula(n_parameters: float, size: int, stage: int, *, state_bytes: int = 12) -> float:
    """Bytes per process of parameters, gradients (2 each) and optimizer states (figure 1)."""
    require(stage in range(4), "stage must be 0, 1, 2 or 3", stage)
    kept = [2.0, 2.0, float(state_bytes)]  # a stage shards from the end: states first
    return n_parameters * sum(x / size if 3 - i <= stage else x for i, x in enumerate(kept))


def traffic(stage: int) -> float:
    """Bytes that a process sends per step, in units of one all-reduce of the parameters."""
    require(stage in range(4), "stage must be 0, 1, 2 or 3", stage)
    return 1.5 if stage == 3 else 1.0


class Unit:
    """The parameters of one module as one flat buffer, of which this process owns a piece.

    The parameters are views of `flat`. Whatever is done to `flat`'s memory, also giving it back,
    is done to them.
    """

    def __init__(self, module: nn.Module, ring: Ring, stage: int, state_dtype: torch.dtype):
        self.ring, self.stage = ring, stage
        self.parameters = list(module.parameters())
        flat = torch.cat([p.detach().flatten() for p in self.parameters])
        self.flat = ring.broadcast(ring.pad(flat))
        piece = len(self.flat) // ring.size
        start, stop = (ring.rank * piece, (ring.rank + 1) * piece) if stage else (0, len(self.flat))
        self.mine, self.grad = slice(start, stop), None
        self.master = self.flat[self.mine].to(state_dtype, copy=True)
        self.moments = torch.zeros_like(self.master), torch.zeros_like(self.master)
        self.shard = self.flat[self.mine].clone() if stage == 3 else None
        self.decayed, offset = [], 0  # where this process's piece is of a matrix
        for p in self.parameters:
            p.data = self.flat[offset : offset + p.numel()].view_as(p)
            low, high = max(start, offset), min(stop, offset + p.numel())
            if p.ndim >= 2 and low < high:
                self.decayed.append(slice(low - start, high - start))
            offset += p.numel()
        self.waiting = set(self.parameters)
        if stage == 3:
            self.free()

    # ---- stage 3: parameters come and go

    def gather(self, *_) -> None:
        """All pieces, into memory that is asked for again."""
        n_bytes = self.flat.numel() * self.flat.element_size()
        self.flat.untyped_storage().resize_(n_bytes)
        self.flat.copy_(self.ring.all_gather(self.shard))

    def free(self, *_) -> None:
        """Give the memory back; the tensors stay, and must not be read."""
        self.flat.untyped_storage().resize_(0)

    # ---- gradients

    def ready(self, p: nn.Parameter) -> None:
        """From stage 2 on a unit's gradient is summed and cut as soon as it is complete."""
        self.waiting.discard(p)
        if self.waiting or self.stage < 2:
            return
        self.reduce()
        if self.stage == 3:
            self.free()

    def reduce(self) -> None:
        """Sum the gradient over processes; of the sum keep the own piece."""
        require(not self.waiting, "all parameters must take part in a backward pass")
        flat = self.ring.pad(torch.cat([p.grad.flatten() for p in self.parameters]))
        total = self.ring.reduce_scatter(flat) if self.stage else self.ring.all_reduce(flat)
        self.grad = total if self.grad is None else self.grad + total
        for p in self.parameters:
            p.grad = None
        self.waiting = set(self.parameters)

    # ---- the update

    def update(
        self,
        grad: Float[Tensor, " piece"],
        step: int,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        decay: float,
    ) -> None:
        """AdamW on the own piece of the master copy; then all get what all have updated."""
        (beta1, beta2), (m, v) = betas, self.moments
        for piece in self.decayed:
            self.master[piece] *= 1 - lr * decay
        m.lerp_(grad, 1 - beta1)
        v.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        size = (v / (1 - beta2**step)).sqrt_().add_(eps)
        self.master.addcdiv_(m, size, value=-lr / (1 - beta1**step))
        new = self.master.to(self.flat.dtype)
        if self.stage == 3:
            self.shard.copy_(new)  # the next forward pass gathers
        else:
            self.flat.copy_(self.ring.all_gather(new) if self.stage else new)
        self.grad = None


class Zero:
    """AdamW over the processes of a ring, with the states, gradients or parameters in pieces.

    Parameters
    ----------
    units
        Modules that hold all parameters between them, each one once. A unit is what is
        gathered, or summed, at a time.
    stage
        0 shards nothing; 1 the optimizer's states; 2 the gradients too; 3 the parameters too.
    weight_decay
        For matrices (parameters of two or more dimensions) only.
    state_dtype
        Of the master copy and the moments.

    Every process must use all parameters in each backward pass. At stages 2 and 3 each
    micro-batch is summed over processes by itself.
    """

    def __init__(
        self,
        units: Sequence[nn.Module],
        ring: Ring,
        *,
        stage: int,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        state_dtype: torch.dtype = torch.float32,
    ):
        require(stage in range(4), "stage must be 0, 1, 2 or 3", stage)
        owned = [p for module in units for p in module.parameters()]
        require(len(owned) == len(set(owned)), "units must not share parameters")
        self.ring, self.stage, self.steps = ring, stage, 0
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.units = [Unit(module, ring, stage, state_dtype) for module in units]
        for module, its in zip(units, self.units, strict=True):
            for p in its.parameters:
                p.register_post_accumulate_grad_hook(its.ready)
            if stage == 3:
                module.register_forward_pre_hook(its.gather)
                module.register_forward_hook(its.free)
                module.register_full_backward_pre_hook(its.gather)
        ring.sent = 0

    def step(self, tokens: float = 1.0, *, max_norm: float | None = None) -> float:
        """Update by the gradient / tokens, clipped to `max_norm`; give the norm before.

        Where pieces differ between processes the squares are summed over them; a whole gradient
        that all have must be counted once.
        """
        self.steps += 1
        if self.stage < 2:
            for unit in self.units:
                unit.reduce()
        grads = [unit.grad.to(unit.master.dtype) / tokens for unit in self.units]
        squares = sum(grad.double().square().sum() for grad in grads)
        norm = float((self.ring.all_reduce(squares) if self.stage else squares).sqrt())
        scale = 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
        for unit, grad in zip(self.units, grads, strict=True):
            its = (self.lr, self.betas, self.eps, self.weight_decay)
            unit.update(grad * scale, self.steps, *its)
        return norm

    def memory(self) -> dict[str, int]:
        """Bytes that this process holds now, counted on the storages."""
        found = {"parameters": 0, "gradients": 0, "states": 0}
        for unit in self.units:
            shards = [t for t in (unit.flat, unit.shard) if t is not None]
            found["parameters"] += sum(t.untyped_storage().nbytes() for t in shards)
            grads = [p.grad for p in unit.parameters] + [unit.grad]
            found["gradients"] += sum(g.untyped_storage().nbytes() for g in grads if g is not None)
            states = (unit.master, *unit.moments)
            found["states"] += sum(t.untyped_storage().nbytes() for t in states)
        return found


def train_step(
    model: nn.Module,
    zero: Zero,
    micro_batches: Iterable[Batch],
    loss_sum: LossSum,
    *,
    max_norm: float | None = None,
) -> Step:
    """One step on all processes' micro-batches, equally many each, divided once by all tokens."""
    mine = torch.zeros(2, dtype=torch.float64)
    for batch in micro_batches:
        loss, n = loss_sum(model, batch)
        loss.backward()
        mine += torch.stack([loss.detach().double(), torch.as_tensor(n).double()])
    loss, tokens = zero.ring.all_reduce(mine).tolist()
    require(tokens > 0, "micro_batches must hold at least one token that counts, got none")
    zero.step(tokens, max_norm=max_norm)
    return Step(loss / tokens, int(tokens))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
