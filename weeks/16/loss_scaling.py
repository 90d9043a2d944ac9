r"""Loss scaling: multiply the loss so that small gradients survive 16 bits, and divide them later.

A gradient below half of the format's smallest number becomes zero. Backpropagation is linear in the
loss, so with a factor $s$ on the loss every gradient passes through 16 bits $s$ times as large:

$$ g = \tfrac1s \, \nabla (s L). $$

Too large an $s$ overflows instead; the scaler finds the largest that does not by trial.

>>> scaler = LossScaler(1024.0, growth_interval=2)
>>> for found_inf in (False, False, True):  # two good steps, then an overflow
...     scaler.update(found_inf)
...     print(scaler.scale)
1024.0
2048.0
1024.0

Sources: P. Micikevicius et al., *Mixed Precision Training* (ICLR 2018), section 3.2.
"""

import math
from collections.abc import Iterable
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week16.float_formats import FP32

OPTIONS = ("growth_factor", "backoff_factor", "growth_interval")


@runtime_checkable
class Optimizer(Protocol):
    """What `LossScaler` asks of an optimizer; torch's have it."""

    param_groups: Iterable[dict[str, Any]]

    def step(self) -> Any:
        """Change the parameters by their gradients."""


class LossScaler:
    """Multiply the loss so that small gradients survive 16 bits; find the factor by trial.

    A step whose gradients hold an infinity or NaN is skipped and the scale backs off; after
    `growth_interval` good steps in a row it grows. `state_dict` has the keys of
    `torch.amp.GradScaler`'s, so that either may continue what the other began. With `dynamic`
    False the scale stays; bad steps are still skipped.

    Several optimizers of one loss step in one call, `scaler.step(a, b)`: all their gradients carry
    the same scale, which one call for each would change between them.
    """

    def __init__(
        self,
        scale: float = 2.0**16,
        *,
        growth_factor: float = 2.0,
        backoff_factor: float = 0.5,
        growth_interval: int = 2000,
        dynamic: bool = True,
    ):
        require(0 < scale < math.inf, "scale must be positive and finite", scale)
        grows = 1 < growth_factor < math.inf
        require(grows, "growth_factor must be above 1 and finite", growth_factor)
        require(0 < backoff_factor < 1, "backoff_factor must be between 0 and 1", backoff_factor)
        whole = isinstance(growth_interval, Integral) and growth_interval >= 1
        require(whole, "growth_interval must be a whole number from 1 on", growth_interval)
        self.scale, self.dynamic = float(scale), dynamic
        self.growth_factor, self.backoff_factor = growth_factor, backoff_factor
        self.growth_interval, self.good_steps = growth_interval, 0
        self._found_inf: dict[Any, bool] = {}  # of each optimizer unscaled since the last step
        self._scaled: bool | None = None  # whether a loss was since the last step; None: never

    def scale_loss(self, loss: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The loss to call backward on."""
        self._scaled = True
        return loss * self.scale

    def unscale(self, optimizer: Optimizer) -> bool:
        """Divide the gradients in place, once; call it before clipping. True if one is not finite.

        Gradients of 16 bits are refused: there the division would lose what the scaling saved.
        """
        once = optimizer not in self._found_inf
        require(once, "optimizer must be unscaled once per step, got a second call")
        must = "optimizers of one loss must step in one call, scaler.step(a, b)"
        require(self._scaled is not False, f"{must}, got a call after the step")
        grads = [p.grad for group in optimizer.param_groups for p in group["params"]]
        grads = [grad for grad in grads if grad is not None]
        for grad in grads:
            wide = grad.element_size() >= 4
            require(wide, "optimizer must have float32 gradients", grad.dtype)
        for grad in grads:
            grad.mul_(1 / self.scale)
        found_inf = not all(bool(torch.isfinite(grad).all()) for grad in grads)
        self._found_inf[optimizer] = found_inf
        return found_inf

    def step(self, *optimizers: Optimizer) -> bool:
        """Unscale what is not yet; each optimizer steps, unless that would poison its weights.

        Returns whether all steps were taken. Adapts the scale, once, to all gradients unscaled.
        """
        different = len(set(optimizers))
        each_once = 0 < different == len(optimizers)
        require(each_once, "optimizers must be given, each once", different, len(optimizers))
        for optimizer in optimizers:
            if optimizer not in self._found_inf:
                self.unscale(optimizer)
        taken = [not self._found_inf[optimizer] for optimizer in optimizers]
        for optimizer, fine in zip(optimizers, taken, strict=True):
            if fine:
                optimizer.step()
        found_inf = any(self._found_inf.values())
        self._found_inf, self._scaled = {}, None if self._scaled is None else False
        self.update(found_inf)
        return all(taken)

    def update(self, found_inf: bool) -> None:
        """Adapt the scale to what one step's gradients showed."""
        self.good_steps = 0 if found_inf else self.good_steps + 1
        if not self.dynamic:
            return
        if found_inf:
            self.scale *= self.backoff_factor
        elif self.good_steps == self.growth_interval:
            grown, self.good_steps = self.scale * self.growth_factor, 0
            if grown <= FP32.max:  # a loss in float32 must be able to bear it
                self.scale = grown

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        options = {name: getattr(self, name) for name in OPTIONS}
        return {"scale": self.scale, **options, "_growth_tracker": self.good_steps}

    def load_state_dict(self, state: dict) -> None:
        """Continue from `state_dict`, ours or torch's."""
        missing = sorted(self.state_dict().keys() - state.keys())
        require(not missing, f"state must be a loss scaler's, got none of {', '.join(missing)}")
        options = {name: state[name] for name in OPTIONS}
        fresh = LossScaler(state["scale"], dynamic=self.dynamic, **options)
        fresh.good_steps = int(state["_growth_tracker"])
        self.__dict__.update(fresh.__dict__)
