r"""Fully sharded data parallelism: torch's `fully_shard`, and what it sends when.

FSDP is ZeRO's stage 3 as a library. Each parameter becomes a `DTensor` of which this process holds
the rows that are its own. A *unit*, here a block, is gathered before its forward pass and again
before its backward pass; its gradient is reduce-scattered after. For blocks $1 \dots L$ and what is
left to the root, R, with G for gathers and S for reduce-scatters:

$$ \underbrace{G_R\, G_1\, G_2 \cdots G_L}_\text{forward}\;
   \underbrace{G_L\; G_{L-1} S_L\; G_{L-2} S_{L-1} \cdots G_1 S_2\; S_1\; S_R}_\text{backward} . $$

In the backward pass the next gather starts before the last gradient leaves (*prefetching*), to hide
behind arithmetic; so two units are whole at a time. The root stays whole, since its
parameters are needed again at once. With `keep_gathered` blocks stay whole, too: no second gather,
as in ZeRO's stage 2.

>>> print(" ".join(expected_schedule(3)))
G G G G | G G S G S S S
>>> print(" ".join(expected_schedule(3, keep_gathered=True)))
G G G G | S S S S
>>> peak_parameters([100, 100, 100, 40], size=4)  # its shards, and the largest unit made whole
185

    uv run weeks/17/fsdp.py

Sources: Y. Zhao et al., *PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel* (2023),
sections 3 and 4; torch's documentation of `torch.distributed.fsdp.fully_shard` (version 2.9, 2025).
"""

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils._python_dispatch import TorchDispatchMode

from shared.require import require
from week16.gradient_accumulation import Batch, LossSum
from week17.data_parallel import Step

__all__ = ["Schedule", "expected_schedule", "full_weights", "peak_parameters", "shard"]


def shard(
    model: nn.Module,
    blocks: Sequence[nn.Module],
    group: dist.ProcessGroup | None = None,
    *,
    keep_gathered: bool = False,
) -> None:
    """Cut a model's parameters over a group of processes, in place.

    Parameters
    ----------
    blocks
        Modules of the model that are units of their own. The call on the model takes what is left.
    keep_gathered
        Whether blocks stay whole between forward and backward pass.
    """
    require(blocks, "blocks must hold at least one module, got none")
    mesh = DeviceMesh.from_group(group if group is not None else dist.group.WORLD, "cpu")
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=not keep_gathered)
    fully_shard(model, mesh=mesh)
    # The default divides by the number of processes: right only if all have equally many tokens.
    # The call reaches its own unit alone, not the blocks inside.
    for unit in (*blocks, model):
        unit.set_gradient_divide_factor(1.0)


def optimizer_of(model: nn.Module, *, lr: float, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """AdamW that decays matrices only. A DTensor keeps its shape, so that ndim still tells.

    Made after `shard`, which replaces the parameters.
    """
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr)


def train_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: Iterable[Batch],
    loss_sum: LossSum,
    *,
    group: dist.ProcessGroup | None = None,
    max_norm: float = float("inf"),
) -> Step:
    """One step on all processes' micro-batches together, divided once by all tokens."""
    optimizer.zero_grad()
    mine = torch.zeros(2, dtype=torch.float64)
    for batch in micro_batches:
        loss, n = loss_sum(model, batch)
        loss.backward()
        mine += torch.stack([loss.detach().double(), torch.as_tensor(n).double()])
    dist.all_reduce(mine, group=group)
    loss, tokens = mine.tolist()
    require(tokens > 0, "micro_batches must hold at least one token that counts, got none")
    # What this process has of each gradient: its rows. The squares are summed over processes.
    grads = [p.grad.to_local() for p in model.parameters()]
    squares = sum(g.double().square().sum() for g in grads) / tokens**2
    dist.all_reduce(squares, group=group)
    scale = min(1.0, max_norm / (float(squares.sqrt()) + 1e-6)) / tokens
    for g in grads:
        g *= scale
    optimizer.step()
    return Step(loss / tokens, int(tokens))


def full_weights(model: nn.Module) -> Float[Tensor, "n"]:
    """All parameters, gathered, in one row; all processes must call it."""
    units = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for unit in units:
        unit.unshard()
    row = torch.cat([p.detach().flatten() for p in model.parameters()])
    for unit in units:
        unit.reshard()
    return row


# ---- what is sent when


class Schedule(TorchDispatchMode):
    """Records the collectives that are called in its context: G is a gather, S a reduce-scatter.

    `n_bytes` counts what one process sends for them if they are rings, `(N - 1) / N` of a unit.
    """

    def __init__(self):
        super().__init__()
        self.names = {"_allgather_base_": "G", "_reduce_scatter_base_": "S"}
        self.events, self.n_bytes = [], 0

    def mark(self, text: str) -> None:
        """Note where the program is."""
        self.events.append(text)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        """See each operation on its way to the kernel."""
        kind = self.names.get(function.overloadpacket.__name__)
        if kind:
            self.events.append(kind)
            whole, piece = sorted((args[0].nbytes, args[1].nbytes), reverse=True)
            self.n_bytes += whole - piece
        return function(*args, **(kwargs or {}))


def expected_schedule(n_blocks: int, *, keep_gathered: bool = False) -> list[str]:
    """The formula above; `|` stands between forward and backward pass."""
    require(n_blocks >= 1, "n_blocks must be at least 1", n_blocks)
    forward = ["G"] * (n_blocks + 1)
    if keep_gathered:
        return [*forward, "|", *["S"] * (n_blocks + 1)]
    return [*forward, "|", "G", *["G", "S"] * (n_blocks - 1), "S", "S"]


def peak_parameters(units: Sequence[int], size: int) -> int:
    """Most parameters that a process holds at a time if one unit is whole, without prefetching."""
    require(len(units) >= 1, "units must hold at least one size, got none")
    return sum(-(-n // size) for n in units) + max(-(-n // size) * size for n in units)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
