"""Optimizers under the names, and with the defaults, of torch.optim.

>>> x = Tensor(1.0, requires_grad=True)
>>> optimizer = SGD([x], lr=0.1)
>>> (x * x).backward()
>>> optimizer.step()  # 1 - 0.1 · 2
>>> x.detach()
tensor(0.8)
"""

import math
from collections.abc import Iterable
from typing import Any

from week08.minigrad.autograd import no_grad
from week08.minigrad.tensor import Tensor


class Optimizer:
    """Parameters in groups, each with its own options, and a state for each parameter.

    `params` are tensors, or dictionaries {"params": tensors, option: value}.
    """

    def __init__(self, params: Iterable[Any], **defaults: Any):
        for name in ("lr", "momentum", "weight_decay", "eps"):
            if not defaults.get(name, 0) >= 0:
                raise ValueError(f"{name} must not be negative, got {defaults[name]}")
        groups = list(params)
        if not groups:
            raise ValueError("params must hold at least one tensor, got none")
        if not isinstance(groups[0], dict):
            groups = [{"params": groups}]
        self.param_groups = [{**defaults, **g, "params": list(g["params"])} for g in groups]
        self.state: dict[Tensor, dict[str, Any]] = {}
        for p in (p for group in self.param_groups for p in group["params"]):
            if not isinstance(p, Tensor) or not p.is_leaf:
                raise ValueError(f"params must be leaf tensors, got {p!r}")

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @no_grad()
    def step(self) -> None:
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._update(p, p.grad, self.state.setdefault(p, {}), group)

    def _update(self, p: Tensor, grad: Tensor, state: dict, group: dict) -> None:
        raise NotImplementedError


class SGD(Optimizer):
    """Gradient descent: b ← μ b + (1 - τ) g, then p ← p - lr b.

    Parameters
    ----------
    lr, momentum, dampening, weight_decay
        Step size, μ, τ, and λ in g + λ p. The first b is g itself, not damped.
    nesterov
        Step by g + μ b, as if the gradient were taken where the momentum leads.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ):
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError("nesterov needs momentum > 0 and dampening = 0")
        super().__init__(
            params,
            lr=lr,
            momentum=momentum,
            dampening=dampening,
            weight_decay=weight_decay,
            nesterov=nesterov,
        )

    def _update(self, p: Tensor, grad: Tensor, state: dict, group: dict) -> None:
        momentum = group["momentum"]
        if group["weight_decay"]:
            grad = grad + group["weight_decay"] * p
        if momentum:
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = grad.clone()
            else:
                state["momentum_buffer"].mul_(momentum).add_(grad, alpha=1 - group["dampening"])
            buffer = state["momentum_buffer"]
            grad = grad + momentum * buffer if group["nesterov"] else buffer
        p.sub_(grad, alpha=group["lr"])


class Adam(Optimizer):
    """Steps of about lr in each coordinate: a mean of gradients over a mean of their size.

    The options are the paper's; `weight_decay` is part of the gradient here, unlike in AdamW.

    References
    ----------
    Kingma and Ba (2015), "Adam", algorithm 1.
    """

    decoupled = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas must be in [0, 1), got {betas}")
        super().__init__(params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)

    def _update(self, p: Tensor, grad: Tensor, state: dict, group: dict) -> None:
        lr, (beta1, beta2), decay = group["lr"], group["betas"], group["weight_decay"]
        if not state:
            state.update(step=0, exp_avg=p.detach() * 0, exp_avg_sq=p.detach() * 0)
        state["step"] += 1
        if decay and self.decoupled:
            p.mul_(1 - lr * decay)
        elif decay:
            grad = grad + decay * p
        mean = state["exp_avg"].mul_(beta1).add_(grad, alpha=1 - beta1)
        square = state["exp_avg_sq"].mul_(beta2).add_(grad * grad, alpha=1 - beta2)
        # Both means started from 0; dividing by 1 - βᵗ takes that bias out.
        root = square.sqrt().div_(math.sqrt(1 - beta2 ** state["step"])).add_(group["eps"])
        p.sub_(mean / root, alpha=lr / (1 - beta1 ** state["step"]))


class AdamW(Adam):
    """Adam with the decay taken off the parameters directly (Loshchilov and Hutter, 2019)."""

    decoupled = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ):
        super().__init__(params, lr, betas, eps, weight_decay)
