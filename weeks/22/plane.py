"""Densities in the plane: points of two half circles, a fit to them, and the mass of a density.

>>> x = moons(1000, seed=0)
>>> x.shape, bool(x.mean(0).abs().max() < 0.1)
(torch.Size([1000, 2]), True)
>>> normal = torch.distributions.Normal(0.0, 1.0)
>>> print(f"{mass_on_grid(lambda z: normal.log_prob(z).sum(-1), reach=6.0, points=100):.4f}")
1.0000

`uv run weeks/22/realnvp.py`, `uv run weeks/22/planar_flow.py` and the paper on RealNVP use it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from week22.realnvp import Flow

LogDensity = Callable[[Float[Tensor, "n 2"]], Float[Tensor, " n"]]


def moons(n: int, seed: int) -> Float[Tensor, "n 2"]:
    """Points with noise, scaled by fixed numbers to mean 0 and variance 1."""
    from sklearn.datasets import make_moons

    x, _ = make_moons(n, noise=0.1, random_state=seed)
    return torch.as_tensor((x - [0.5, 0.25]) / [0.87, 0.5], dtype=torch.float32)


def fit(
    flow: Flow,
    draw: Callable[[], Float[Tensor, "batch *shape"]],
    *,
    steps: int,
    lr: float = 2e-3,
) -> None:
    """Adam on the negative log-likelihood of fresh batches, the step size decaying to 0."""
    optimizer = torch.optim.Adam(flow.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    flow.train()
    for _ in range(steps):
        loss = -flow.log_prob(draw()).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 10)
        optimizer.step()
        schedule.step()
    flow.eval()


def mass_on_grid(log_prob: LogDensity, reach: float, points: int) -> float:
    """Integral of a density over the square from -reach to reach, by the midpoint rule."""
    step = 2 * reach / points
    side = torch.linspace(-reach + step / 2, reach - step / 2, points, dtype=torch.float64)
    with torch.no_grad():
        return float(log_prob(torch.cartesian_prod(side, side)).exp().sum() * step**2)
