r"""One process or many: the same loss curve, the same checkpoints.

Every process computes the same batch of the step and takes its own rows of it, so that neither the
order of the data nor a checkpoint knows how many processes there were. With gradients $g_r$ of the
mean loss over the $n_r$ tokens of process $r$, the step takes

$$ g = \frac{\sum_r n_r g_r}{\sum_r n_r}, $$

the gradient of the mean over all tokens; the mean of the $g_r$ would let a token among few count
for more than one among many, as in week 16's accumulation.

- **ddp**: whole copies of the model. Gradients stay where they are until all micro-batches are
  done, then one reduction sums them: unlike torch's `DistributedDataParallel`, whose reduction
  begins during the backward pass, when the number of tokens is not known yet.
- **fsdp**: each process keeps a slice of every parameter, of its gradient and of its optimizer
  state. A block's parameters are gathered when it is computed; gradients are summed over processes
  and sliced at every micro-batch.

Sources: Li et al., "PyTorch distributed" (2020), section 3.2.4, for gradients that are not reduced
at once; Rajbhandari et al., "ZeRO" (2020), section 5, and Zhao et al., "PyTorch FSDP" (2023),
section 3, for slices; Liu et al., "Muon is scalable" (2025), section 2.3, for Muon on them.
"""

import math
import os
from collections.abc import Callable, Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from shared.errors import UserError
from shared.require import require
from tiny_gpt.data.batches import Batch
from tiny_gpt.model.gpt import GPT
from tiny_gpt.settings import Settings
from tiny_gpt.training.checkpoints import Checkpoint
from tiny_gpt.training.optimizers import Optimizers
from tiny_gpt.training.precision import DTYPES
from week09.muon import Muon

__all__ = ["Copies", "Slices", "World", "join", "optimizers_for"]


class World:
    """A single process.

    Where processes are `independent` they do not wait for each other while they accumulate
    gradients, so that one may repeat its part with smaller micro-batches.
    """

    rank, size = 0, 1
    independent = True

    def __init__(self, device: torch.device):
        self.device = device

    def rows(self, batch: Batch) -> Batch:
        """This process's share of a batch."""
        return batch

    def wrap(self, model: GPT, settings: Settings) -> nn.Module:
        """The model as it is called in training."""
        return model

    def mean_gradients(
        self, params: list[Tensor], loss: float, tokens: float
    ) -> tuple[float, float]:
        """Gradients, loss (NaN if of nothing) and tokens of all processes, weighted by tokens."""
        return (loss if tokens else math.nan), tokens

    def agreed(self, dtype: torch.dtype) -> torch.dtype:
        """What the first process chose."""
        known = list(DTYPES.values())
        return known[int(self.broadcast(known.index(dtype)))]

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def broadcast(self, value: float) -> float:
        """The first process's number."""
        return value

    def first_only(self, action: Callable[[], None]) -> None:
        """Do it in the first process; the others wait, and fail where it fails."""
        action()

    def gathered(self, model: GPT) -> GPT:
        """The whole model, where it is needed: in the first process."""
        return model

    def gathered_state(self, optimizers: Optimizers) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The whole state of the optimizers, likewise."""
        return optimizers.state()

    def load(self, model: GPT, optimizers: Optimizers, saved: Checkpoint) -> None:
        """Weights and optimizers' state from a checkpoint, in place."""
        with torch.no_grad():
            for p, source in zip(model.parameters(), saved.model.parameters(), strict=True):
                p.copy_(source)
        optimizers.load_state(saved.tensors, saved.state["optimizers"])

    def leave(self) -> None:
        """End the connection to the other processes; nothing else of this object works then."""


class Copies(World):
    """One of several processes, each with the whole model ("ddp").

    Every method but `rows` and `leave` is called by all processes, in the same order, or they wait
    for each other until the timeout.
    """

    def __init__(self, device: torch.device):
        super().__init__(device)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def rows(self, batch: Batch) -> Batch:
        """Rows in order of rank; where they cannot be shared out evenly, one more for some."""
        n = len(batch.inputs)
        own = slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)
        return Batch(*(None if x is None else x[own] for x in batch))

    @torch.no_grad()
    def wrap(self, model: GPT, settings: Settings) -> nn.Module:
        """The same object, with the first process's weights everywhere."""
        for p in model.parameters():
            dist.broadcast(p, 0)
        return model

    @torch.no_grad()
    def mean_gradients(
        self, params: list[Tensor], loss: float, tokens: float
    ) -> tuple[float, float]:
        """One sum of everything; afterwards all gradients are views of it."""
        loss, total = self._mean(loss, tokens)
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
        flat = torch.cat([grad.flatten() for grad in grads]).mul_((tokens or 1) / max(total, 1))
        dist.all_reduce(flat)
        pieces = flat.split([p.numel() for p in params])
        for p, piece in zip(params, pieces, strict=True):
            p.grad = piece.view_as(p)
        return loss, total

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return self._total(flag)[0] > 0

    def broadcast(self, value: float) -> float:
        """The first process's number, given only when all have asked for it."""
        return self._total(value if self.rank == 0 else 0.0)[0]

    def first_only(self, action: Callable[[], None]) -> None:
        """Do it in the first process; the others wait, and fail where it fails."""
        failure = None
        if self.rank == 0:
            try:
                action()
            except Exception as error:
                failure = error
        if self.any(failure is not None):
            raise failure or UserError("the first process failed, and says why")

    def leave(self) -> None:
        """End the connection to the other processes."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def _mean(self, loss: float, tokens: float) -> tuple[float, float]:
        weighted, total = self._total(loss * tokens, tokens)
        return (weighted / total if total else math.nan), total

    def _total(self, *values: float) -> list[float]:
        """Sums over all processes, for which each waits for all."""
        totals = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(totals)
        return totals.tolist()


class Slices(Copies):
    """One of several processes, each with a slice of every parameter ("fsdp").

    Parameters, gradients and optimizers' buffers are `DTensor`s: of the whole's shape, holding
    only this process's rows.
    """

    independent = False

    def wrap(self, model: GPT, settings: Settings) -> nn.Module:
        """The same object, its parameters cut into slices; optimizers are made after this."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().wrap(model, settings)
        model.fused = False  # it reads weights past the hooks that gather them
        mesh = init_device_mesh(self.device.type, (self.size,))
        for part in (*model.blocks, model):  # the model itself last: it takes what is left
            fully_shard(part, mesh=mesh)
            # Sums, not means: what to divide by is known only after the last micro-batch. The
            # choice is not handed down to blocks.
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)
        return model

    @torch.no_grad()
    def mean_gradients(
        self, params: list[Tensor], loss: float, tokens: float
    ) -> tuple[float, float]:
        """The backward pass summed over processes, `accumulate` divided by its own tokens."""
        loss, total = self._mean(loss, tokens)
        torch._foreach_mul_([p.grad.to_local() for p in params], (tokens or 1) / max(total, 1))
        return loss, total

    @torch.no_grad()
    def gathered(self, model: GPT) -> GPT:
        """A whole copy in the first process; in the others the sliced model itself."""
        whole = model
        if self.rank == 0:
            whole = GPT(model.config, torch.Generator()).to(self.device)
        for p, target in zip(model.parameters(), whole.parameters(), strict=True):
            full = p.full_tensor()
            if self.rank == 0:
                target.copy_(full)
        return whole

    def gathered_state(self, optimizers: Optimizers) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Whole buffers in the first process's main memory; none in the others."""
        sliced, counters = optimizers.state()
        tensors = {}
        for name, value in sliced.items():
            full = value.full_tensor()
            if self.rank == 0:
                tensors[name] = full.cpu()
        return tensors, counters

    @torch.no_grad()
    def load(self, model: GPT, optimizers: Optimizers, saved: Checkpoint) -> None:
        """Every process cuts its slices from the whole."""
        for p, source in zip(model.parameters(), saved.model.parameters(), strict=True):
            p.copy_(_sliced_like(p, source))
        tensors = {}
        for name, value in saved.tensors.items():  # optim, member, index of the parameter, buffer
            _, member, index, _ = name.split(".")
            tensors[name] = _sliced_like(optimizers.members[member].params[int(index)], value)
        optimizers.load_state(tensors, saved.state["optimizers"])


def _sliced_like(p: Tensor, whole: Tensor) -> Tensor:
    """A tensor that every process has, as slices that lie where the parameter's do."""
    from torch.distributed.tensor import distribute_tensor

    # src_data_rank: nothing is sent, since nobody has anything else than the others.
    whole = whole.to(p.device)
    return distribute_tensor(whole, p.device_mesh, p.placements, src_data_rank=None)


class SlicedMuon(Muon):
    """Muon on slices: singular values belong to whole matrices, so each is gathered in its turn.

    Buffers stay sliced, and no more than one matrix is whole at once.
    """

    def ahead(self, grad: Tensor, state: dict) -> Tensor:
        """The momentum, whole."""
        return super().ahead(grad, state).full_tensor()

    def updates(self, grads: list[Tensor], states: list[dict]) -> Iterator[Tensor]:
        """This process's slices of what to subtract from each parameter."""
        for grad, state in zip(grads, states, strict=True):
            (change,) = super().updates([grad], [state])
            yield _sliced_like(grad, change)


class SlicedOptimizers(Optimizers):
    """The optimizers of a model whose parameters are slices."""

    muon = SlicedMuon

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients together, of all processes' slices."""
        return super().gradient_norm().full_tensor()


def join(settings: Settings, *, timeout: timedelta = timedelta(minutes=30)) -> World:
    """The processes that torchrun started (RANK is set then), or just this one.

    One waits no longer than `timeout` for another that has stopped answering; it must be longer
    than the first process evaluates.
    """
    cuda = settings.device != "cpu" and torch.cuda.is_available()
    must = "device cuda must be one that torch can use; auto takes the CPU where there is none"
    require(cuda or settings.device != "cuda", must, error=UserError)
    if "RANK" not in os.environ:
        return World(torch.device("cuda" if cuda else "cpu"))
    size, local = int(os.environ["WORLD_SIZE"]), int(os.environ.get("LOCAL_RANK", 0))
    rows = settings.batch_size
    must = f"batch_size must be at least 1 for each of {size} processes"
    require(rows >= size, must, rows, error=UserError)
    # Gathering a block's slices takes all processes, so all must have as many micro-batches.
    must = f"batch_size must be a multiple of the {size} processes for strategy fsdp"
    require(settings.strategy != "fsdp" or rows % size == 0, must, rows, error=UserError)
    device = torch.device("cpu")
    if cuda:
        n = torch.cuda.device_count()
        must = f"device cuda must have a GPU for each process of a machine, {local + 1} or more"
        require(local < n, must, n, error=UserError)
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timeout)
    return (Slices if settings.strategy == "fsdp" else Copies)(device)


def optimizers_for(
    model: GPT, settings: Settings, world: World, dtype: torch.dtype = torch.float32
) -> Optimizers:
    """The optimizers of a model in this world, after `World.wrap`; arguments as `Optimizers`."""
    kind = SlicedOptimizers if isinstance(world, Slices) else Optimizers
    return kind(model, settings, dtype)
