"""A large net that has learned digits, and small ones that are to be taught by it.

>>> data = split(0, n_train=30)
>>> students = Copies(new_net(8, torch.Generator().manual_seed(0)), 2)
>>> def loss(z, i):
...     return F.cross_entropy(z[0], data.y[i]) + F.mse_loss(z[1], F.one_hot(data.y[i], 10).float())
>>> train(students, data, loss, steps=3)  # both at once, each by its own loss
>>> students(data.x_test).shape, errors(students, data).shape
(torch.Size([2, 1767, 10]), torch.Size([2]))

`uv run weeks/27/distillation.py` and `uv run papers/2015-distillation/reproduce.py` judge by it.
The teacher is trained as in Hinton, Vinyals & Dean (2015), section 3: dropout and moved images.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.datasets import digits
from shared.require import require

BATCH = 64


class Split(NamedTuple):
    """Rows to learn from and rows to judge by, pixels from 0 to 1."""

    x: Float[Tensor, "n 64"]
    y: Int[Tensor, " n"]
    x_test: Float[Tensor, "m 64"]
    y_test: Int[Tensor, " m"]


def split(seed: int, n_train: int) -> Split:
    """So many rows of the digits, drawn by the seed, and all the others."""
    found = digits()
    x = torch.from_numpy(found.images).float().flatten(1) / 16
    y = torch.from_numpy(found.labels)
    require(0 < n_train < len(y), f"n_train must be between 1 and {len(y) - 1}", n_train)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    a, b = order[:n_train], order[n_train:]
    return Split(x[a], y[a], x[b], y[b])


def new_net(width: int, generator: torch.Generator, *, dropout: float = 0.0) -> nn.Sequential:
    """Two hidden layers of rectified units; units are dropped after each."""
    layers = [nn.Linear(64, width), nn.Linear(width, width), nn.Linear(width, 10)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
        nn.init.zeros_(layer.bias)
    inner = [part for layer in layers[:-1] for part in (layer, nn.ReLU(), nn.Dropout(dropout))]
    return nn.Sequential(*inner, layers[-1])


class Copies(nn.Module):
    """Several nets with the first weights of one, to be trained at once on the same batches.

    Small products cost their overhead and little else, so that eight nets take the time of one.
    """

    def __init__(self, net: nn.Sequential, n: int):
        super().__init__()
        layers = [part for part in net if isinstance(part, nn.Linear)]
        self.weights = nn.ParameterList(a.weight.detach().T.repeat(n, 1, 1) for a in layers)
        self.biases = nn.ParameterList(a.bias.detach().repeat(n, 1, 1) for a in layers)

    def forward(self, x: Float[Tensor, "batch 64"]) -> Float[Tensor, "copies batch 10"]:
        """Logits of each net."""
        x = x.expand(len(self.weights[0]), -1, -1)
        for w, b in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = torch.baddbmm(b, x, w).relu()
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])


def warp(x: Float[Tensor, "n 64"], generator: torch.Generator) -> Float[Tensor, "n 64"]:
    """Each image turned by up to 8 degrees and moved by up to 0.4 pixels in both directions."""
    n = len(x)
    angle = math.radians(8) * (2 * torch.rand(n, generator=generator) - 1)
    shift = 0.4 / 4 * (2 * torch.rand(n, 2, generator=generator) - 1)  # images are 2 units wide
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(n, 2, 2)
    grid = F.affine_grid(torch.cat([turn, shift[..., None]], -1), (n, 1, 8, 8), align_corners=False)
    return F.grid_sample(x.view(n, 1, 8, 8), grid, align_corners=False).flatten(1)


def train(
    net: nn.Module,
    data: Split,
    loss: Callable[[Float[Tensor, "*copies batch 10"], Int[Tensor, " batch"]], Tensor],
    *,
    steps: int,
    generator: torch.Generator | None = None,
    lr: float = 3e-3,
    warped: bool = False,
) -> None:
    """Adam in place, on batches of the training rows; the rate falls to zero.

    `loss` is given the logits and which rows they are of.
    """
    g = torch.Generator().manual_seed(0) if generator is None else generator
    optimizer = torch.optim.Adam(net.parameters(), lr=lr, fused=True)
    for step in range(steps):
        i = torch.randint(len(data.x), (BATCH,), generator=g)
        x = warp(data.x[i], g) if warped else data.x[i]
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        loss(net(x), i).backward()
        optimizer.step()


def new_teacher(data: Split, seed: int, *, steps: int, width: int = 256) -> nn.Sequential:
    """A wide net with dropout, trained on warped images; ready to be asked."""
    net = new_net(width, torch.Generator().manual_seed(seed), dropout=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # dropout has no generator of its own
        g = torch.Generator().manual_seed(seed + 1)
        options = {"steps": steps, "generator": g, "lr": 1e-3, "warped": True}
        train(net, data, lambda logits, i: F.cross_entropy(logits, data.y[i]), **options)
    return net.eval().requires_grad_(False)


def mixed_answers(
    teacher: Float[Tensor, "n classes"], generator: torch.Generator
) -> Float[Tensor, "n classes"]:
    """The teacher's logits with those of its wrong answers in random order, row by row."""
    n, k = teacher.shape
    best = teacher.argmax(-1, keepdim=True)
    others = torch.arange(k).expand(n, -1)
    others = others[others != best].view(n, k - 1)
    order = torch.rand(others.shape, generator=generator).argsort(-1)
    return teacher.scatter(-1, others, teacher.gather(-1, others.gather(-1, order)))


@torch.no_grad()
def right(net: nn.Module, data: Split) -> Bool[Tensor, "*copies m"]:
    """Which test rows are classified right."""
    return net(data.x_test).argmax(-1) == data.y_test


def errors(net: nn.Module, data: Split) -> Int[Tensor, "*copies"]:
    """How many test rows are classified wrong."""
    return (~right(net, data)).sum(-1)
