"""Which optimizer moves which parameter, how fast at which step, and what is not applied at all."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shared.require import require
from tiny_gpt.settings import Settings
from week09 import schedules
from week09.muon import Muon
from week09.optimizers import AdamW, Optimizer

__all__ = ["Guard", "Optimizers", "learning_rate"]


def learning_rate(settings: Settings, step: int) -> float:
    """The factor of both peak rates at a step: warm-up, then the schedule (week 9)."""
    steps, begin = settings.steps, settings.warmup_steps
    if step < begin:
        return schedules.warmup(step + 1, steps=begin)
    if settings.schedule == "wsd":
        begin = max(begin, steps - max(1, steps // 5))
    if settings.schedule == "constant" or step < begin:
        return 1.0
    fall = schedules.cosine if settings.schedule == "cosine" else schedules.linear
    return fall(step - begin, steps=steps - begin, final=settings.final_lr)


class Optimizers:
    """The optimizers of a model as one: Muon for the blocks' matrices, AdamW for the rest.

    Muon's products are of `dtype`. The next step takes the share `factor` of the peak rates.
    """

    muon: type[Muon] = Muon

    def __init__(self, model: nn.Module, settings: Settings, dtype: torch.dtype = torch.float32):
        self.settings = settings
        matrices, others = [], []
        for name, p in model.named_parameters():
            (matrices if p.ndim == 2 and "blocks." in name else others).append(p)
        adamw = {"lr": settings.lr, "betas": (0.9, 0.95)}
        decay = settings.weight_decay
        self.members: dict[str, Optimizer] = {}
        if settings.optimizer == "muon":
            options = {"lr": settings.matrix_lr, "momentum": settings.momentum}
            options |= {"ns_steps": settings.ns_steps, "weight_decay": decay, "dtype": dtype}
            self.members["muon"] = self.muon(matrices, **options)
            self.members["adamw"] = AdamW(others, weight_decay=0.0, **adamw)
        else:
            tables = [p for p in others if p.ndim == 2]
            self.members["adamw"] = AdamW(matrices + tables, weight_decay=decay, **adamw)
            if vectors := [p for p in others if p.ndim < 2]:  # gains and biases do not decay
                self.members["vectors"] = AdamW(vectors, weight_decay=0.0, **adamw)
        self.factor = 1.0
        self.peaks = {name: member.lr for name, member in self.members.items()}
        self.params = [p for member in self.members.values() for p in member.params]
        # What week 16's loss scaler asks of a torch optimizer.
        self.param_groups = [{"params": self.params}]

    def step(self) -> None:
        """One step of all, at `factor` times their peak rates."""
        for name, member in self.members.items():
            member.lr = self.peaks[name] * self.factor
            member.step()

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of all gradients together."""
        grads = [p.grad for p in self.params if p.grad is not None]
        return nn.utils.get_total_norm(grads)

    def clip(self, norm: Tensor, longest: float) -> None:
        """Shorten all gradients together to `longest` if they are longer."""
        nn.utils.clip_grads_with_norm_(self.params, longest, norm)

    def state(self) -> tuple[dict[str, Tensor], dict[str, int]]:
        """Buffers and step counters, by names that a checkpoint can hold."""
        tensors, counters = {}, {}
        for name, member in self.members.items():
            for key, value in member.state_dict().items():
                target = tensors if torch.is_tensor(value) else counters
                target[f"optim.{name}.{key}"] = value
        return tensors, counters

    def load_state(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        """Go on from what `state` gave."""
        saved = {**tensors, **counters}
        for name, member in self.members.items():
            prefix = f"optim.{name}."
            own = {k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)}
            member.load_state_dict(own)


@dataclass
class Guard:
    """Refuses steps that would poison the weights: gradients that are not finite, and spikes.

    Spikes are norms above `factor` times the running median of the last 64; 0 allows all.
    """

    factor: float
    norms: tuple[float, ...] = ()
    refused: int = 0

    def judge(self, loss: float, norm: float) -> str | None:
        """Why this step must not be taken: "nan", "spike" or None."""
        reason = None
        if not (math.isfinite(loss) and math.isfinite(norm)):
            reason = "nan"
        elif self.factor and len(self.norms) >= 16:
            median = sorted(self.norms)[len(self.norms) // 2]
            if norm > self.factor * median:
                reason = "spike"
        if reason is None:
            self.norms = (*self.norms, norm)[-64:] if self.factor else ()
            self.refused = 0
        else:
            self.refused += 1
        return reason

    @property
    def exhausted(self) -> bool:
        """Whether too many steps in a row were refused for the run to go on."""
        return self.refused >= 20

    def state(self) -> dict[str, Any]:
        """What a resumed run needs."""
        return {"norms": list(self.norms), "refused": self.refused}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave."""
        norms, refused = tuple(map(float, state["norms"])), state["refused"]
        require(type(refused) is int and refused >= 0, "refused must count from 0", repr(refused))
        self.norms, self.refused = norms, refused
