"""One process or many: the same loss curve, the same checkpoints.

Every process computes the same batch of the step and takes its own rows of it, so that neither the
order of the data nor a checkpoint knows how many processes there were.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from tiny_gpt.batches import Batch
from tiny_gpt.checkpoints import Checkpoint
from tiny_gpt.model import GPT
from tiny_gpt.optim import Optimizers
from tiny_gpt.settings import Settings

__all__ = ["World", "join", "optimizers_for"]


class World:
    """A single process.

    Attributes
    ----------
    rank, size
        Which process this is, of how many.
    device
        Where it computes.
    """

    rank, size = 0, 1

    def __init__(self, device: torch.device):
        self.device = device

    def rows(self, batch: Batch) -> Batch:
        """This process's share of a batch."""
        return batch

    def wrap(self, model: GPT, settings: Settings) -> nn.Module:
        """The model as it is called in training."""
        return model

    def synchronised_by_hand(self, computed: nn.Module) -> AbstractContextManager:
        """Gradients stay in this process until `mean_gradients`."""
        return nullcontext()

    def mean_gradients(
        self, params: list[Tensor], loss: float, tokens: float
    ) -> tuple[float, float]:
        """Gradients, loss and number of tokens over all processes, weighted by tokens."""
        return loss, tokens

    def agreed(self, dtype: torch.dtype) -> torch.dtype:
        """What the first process chose."""
        return dtype

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag

    def broadcast(self, value: float) -> float:
        """The first process's number."""
        return value

    def first_only(self, action: Callable[[], None]) -> None:
        """Do it in the first process; the others wait."""
        action()

    def gathered(self, model: GPT) -> GPT:
        """The whole model, where it is needed: in the first process."""
        return model

    def gathered_state(self, optimizers: Optimizers) -> tuple[dict[str, Tensor], dict[str, int]]:
        """The whole state of the optimisers, likewise."""
        return optimizers.state()

    def load(self, model: GPT, optimizers: Optimizers, saved: Checkpoint) -> None:
        """Weights and optimisers' state from a checkpoint, in place."""
        with torch.no_grad():
            for p, source in zip(model.parameters(), saved.model.parameters(), strict=True):
                p.copy_(source)
        optimizers.load_state(saved.tensors, saved.state["optimizers"])


def join(settings: Settings) -> World:
    """The processes that torchrun started, or just this one."""
    cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    return World(torch.device("cuda" if cuda else "cpu"))


def optimizers_for(model: GPT, settings: Settings, world: World) -> Optimizers:
    """The optimisers of a model in this world."""
    return Optimizers(model, settings)
