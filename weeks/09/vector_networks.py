r"""Networks as functions of one long vector, several of them trained side by side.

What a picture or a Hessian of the loss needs is the loss as a function $L: \mathbb{R}^p \to
\mathbb{R}$ of all weights, one behind the other,

$$ \theta \mapsto \frac1n \sum_i \ell\bigl(f_\theta(x_i), y_i\bigr), $$

and a batch of such vectors then is a batch of networks: `vmap` evaluates and trains them at once.

>>> model = DeepNet(4, width=3, skip=True, n_inputs=2, n_classes=2)
>>> theta = model.initialize(torch.Generator().manual_seed(0))
>>> theta.shape, unflatten(theta, parameters(model))["last.weight"].shape
(torch.Size([41]), torch.Size([2, 3]))
>>> loss = cross_entropy_of(model, torch.eye(2), torch.tensor([0, 1]))
>>> round(float(loss(0 * theta)), 4)  # no weights, no idea: ln 2
0.6931

    uv run weeks/09/loss_landscape.py

Source: H. Li et al., *Visualizing the Loss Landscape of Neural Nets* (NeurIPS 2018), section 5, for
the networks with and without shortcuts.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.require import require

Params = dict[str, Tensor]  # as of `dict(model.named_parameters())`


class DeepNet(nn.Module):
    """A dense ReLU network in blocks of two layers, with shortcuts around the blocks or without.

    Parameters
    ----------
    depth
        Layers with weights: the first, the last, and an even number between.
    skip
        Whether a block adds its input to its output. The blocks then start small, so that the sum
        of many neither explodes nor needs batch normalization.
    """

    def __init__(
        self, depth: int, width: int = 16, *, skip: bool, n_inputs: int = 64, n_classes: int = 10
    ):
        super().__init__()
        require(depth >= 2 and depth % 2 == 0, "depth must be even and at least 2", depth)
        self.skip, self.n_blocks = skip, (depth - 2) // 2
        self.first = nn.Linear(n_inputs, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(2 * self.n_blocks))
        self.last = nn.Linear(width, n_classes)

    def initialize(self, generator: torch.Generator) -> Float[Tensor, " p"]:
        """Draw orthogonal matrices and zero biases, and return them as a vector."""
        for layer in (self.first, *self.hidden, self.last):
            nn.init.orthogonal_(layer.weight, math.sqrt(2), generator=generator)
            nn.init.zeros_(layer.bias)
        if self.skip:
            for layer in self.hidden[1::2]:
                layer.weight.data *= 0.7 / math.sqrt(self.n_blocks)
        return flatten(parameters(self))

    def forward(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch classes"]:
        """Scores of the classes."""
        h = F.relu(self.first(x))
        for inner, outer in zip(self.hidden[::2], self.hidden[1::2], strict=True):
            z = outer(F.relu(inner(h)))
            h = F.relu(z + h) if self.skip else F.relu(z)
        return self.last(h)


def parameters(model: nn.Module) -> Params:
    """A model's parameters by name, detached copies."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def flatten(params: Params) -> Float[Tensor, " p"]:
    """All parameters one behind the other."""
    return torch.cat([p.reshape(-1) for p in params.values()])


def unflatten(vector: Float[Tensor, " p"], like: Params) -> Params:
    """Parameters with the names and shapes of `like`."""
    sizes = [p.numel() for p in like.values()]
    fits = len(vector) == sum(sizes)
    require(fits, f"vector must have {sum(sizes)} numbers as like has", len(vector))
    parts = zip(like.items(), vector.split(sizes), strict=True)
    return {name: part.view(p.shape) for (name, p), part in parts}


def cross_entropy_of(
    model: nn.Module, x: Float[Tensor, "n inputs"], y: Int[Tensor, " n"]
) -> Callable[[Tensor], Tensor]:
    """The mean loss over these data as a function of the vector of weights."""
    like = parameters(model)
    return lambda vector: F.cross_entropy(
        torch.func.functional_call(model, unflatten(vector, like), (x,)), y
    )


def descend(
    model: nn.Module,
    starts: Float[Tensor, "net p"],
    x: Float[Tensor, "n inputs"],
    y: Int[Tensor, " n"],
    *,
    lr: float | list[float],
    batch: int,
    steps: int,
    generator: torch.Generator,
    optimizer: Literal["sgd", "adam"] = "sgd",
    schedule: Literal["constant", "cosine"] = "constant",
) -> Iterator[Float[Tensor, "net p"]]:
    """Train several networks side by side, each on random batches of its own; yield every step.

    Parameters
    ----------
    starts
        The first weights of each network.
    lr
        One learning rate, or one for each network.
    schedule
        ``cosine`` warms up over 50 steps and falls to zero.

    Yields
    ------
    weights
        After each step; the same memory every time, so copy what you keep.
    """
    rates = lr if isinstance(lr, list) else [lr] * len(starts)
    require(len(rates) == len(starts), f"lr must be one or {len(starts)} numbers", len(rates))
    require(1 <= batch <= len(x), f"batch must be between 1 and n = {len(x)}", batch)
    nets = [start.clone().requires_grad_() for start in starts]
    groups = [{"params": [net], "lr": rate} for net, rate in zip(nets, rates, strict=True)]
    sgd = optimizer == "sgd"
    optim = torch.optim.SGD(groups) if sgd else torch.optim.Adam(groups, betas=(0.9, 0.99))
    like = parameters(model)

    def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(model, unflatten(vector, like), (x,)), y)

    for step in range(steps):
        if schedule == "cosine":
            factor = min(1.0, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
            for group, rate in zip(optim.param_groups, rates, strict=True):
                group["lr"] = factor * rate
        rows = torch.rand(len(nets), len(x), generator=generator).argsort(1)[:, :batch]
        optim.zero_grad()
        # The sum, not the mean: no network's step may depend on how many train beside it.
        torch.func.vmap(loss)(torch.stack(nets), x[rows], y[rows]).sum().backward()
        optim.step()
        yield torch.stack([net.detach() for net in nets])
