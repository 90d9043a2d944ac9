r"""Optimizers on classic surfaces: six ways down from one point, each tuned alike.

Two parameters are not a network. But they can be drawn, and each surface here isolates one
difficulty that networks have too: a ravine (curvatures that differ by a factor), a bent valley
(Rosenbrock), plateaus (Beale), several minima (Himmelblau, Rastrigin), a saddle. The surfaces are

$$\text{ravine } \tfrac12 (x^2 + 100 y^2), \quad \text{saddle } \tfrac12 (x^2 - y^2) + \tfrac14 y^4,
\quad \text{Rosenbrock } (1 - x)^2 + 100 (y - x^2)^2, \dots$$

with gradients by hand. Every optimizer gets the same number of learning rates to try, on starting
points that are not the ones it is judged on.

>>> start = torch.tensor([[-2.0, 0.4]], dtype=torch.float64)
>>> for name in ("SGD", "momentum"):
...     path = descend(OPTIMIZERS[name], 0.01, ravine_gradient, start, steps=30)
...     print(f"{name}: from {ravine(path[0]).item():.1f} to {ravine(path[-1]).item():.4f}")
SGD: from 10.0 to 1.0943
momentum: from 10.0 to 0.0492

    uv run weeks/09/optimization_landscape.py

Sources: Rosenbrock, "An automatic method for finding the greatest or least value of a function"
(1960); Beale (1958); Himmelblau (1972), p. 428; Rastrigin (1974); test-function collection of
More, Garbow & Hillstrom, "Testing unconstrained optimization software" (1981).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week09.muon import Muon
from week09.optimizers import SGD, Adam, Optimizer, RMSProp

# ---- surfaces


def ravine(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Curvature 1 along x and 100 along y."""
    x, y = p.unbind(-1)
    return (x**2 + 100 * y**2) / 2


def ravine_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `ravine`."""
    return p * torch.tensor([1.0, 100.0], dtype=p.dtype)


def saddle(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Down along x to the pass at 0, then down along y to the minima at y = ±1."""
    x, y = p.unbind(-1)
    return (x**2 - y**2) / 2 + y**4 / 4


def saddle_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `saddle`."""
    x, y = p.unbind(-1)
    return torch.stack([x, y**3 - y], -1)


def rosenbrock(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """A valley along the parabola y = x², flat along it and steep across."""
    x, y = p.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def rosenbrock_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `rosenbrock`."""
    x, y = p.unbind(-1)
    off = y - x**2
    return torch.stack([2 * (x - 1) - 400 * x * off, 200 * off], -1)


BEALE = (1.5, 2.25, 2.625)


def beale(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Sum of (c - x (1 - yⁿ))² for n = 1, 2, 3: walls outside, almost level inside."""
    x, y = p.unbind(-1)
    return sum((c - x * (1 - y**n)) ** 2 for n, c in enumerate(BEALE, start=1))


def beale_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `beale`."""
    x, y = p.unbind(-1)
    dx, dy = torch.zeros_like(x), torch.zeros_like(y)
    for n, c in enumerate(BEALE, start=1):
        residual = c - x * (1 - y**n)
        dx = dx - 2 * residual * (1 - y**n)
        dy = dy + 2 * residual * x * n * y ** (n - 1)
    return torch.stack([dx, dy], -1)


def himmelblau(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """Four minima, all equally good."""
    x, y = p.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def himmelblau_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `himmelblau`."""
    x, y = p.unbind(-1)
    a, b = x**2 + y - 11, x + y**2 - 7
    return torch.stack([4 * x * a + 2 * b, 2 * a + 4 * y * b], -1)


def rastrigin(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch"]:
    """A bowl covered with dents: a local minimum near every pair of whole numbers."""
    return 20 + (p**2 - 10 * torch.cos(2 * math.pi * p)).sum(-1)


def rastrigin_gradient(p: Float[Tensor, "*batch 2"]) -> Float[Tensor, "*batch 2"]:
    """Gradient of `rastrigin`."""
    return 2 * p + 20 * math.pi * torch.sin(2 * math.pi * p)


@dataclass(frozen=True)
class Surface:
    """A function of two variables, and what is known about it.

    Attributes
    ----------
    window
        x from, x to, y from, y to: what is drawn, and where minima are looked for.
    start
        Where the drawn paths begin.
    minima, least
        All points where the least value is taken, and that value.
    """

    name: str
    value: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor], Tensor]
    window: tuple[float, float, float, float]
    start: tuple[float, float]
    minima: tuple[tuple[float, float], ...] = ((0.0, 0.0),)
    least: float = 0.0


FOUR = ((3.0, 2.0), (-2.805118, 3.131312), (-3.779310, -3.283186), (3.584428, -1.848126))
TWO = ((0.0, 1.0), (0.0, -1.0))
VALLEY = (-1.9, 1.6, -0.6, 2.8)
SURFACES = (
    Surface("ravine", ravine, ravine_gradient, (-2.2, 0.6, -0.6, 0.6), (-2, 0.4)),
    Surface("saddle", saddle, saddle_gradient, (-1.8, 0.8, -0.7, 1.4), (-1.5, 0.01), TWO, -0.25),
    Surface("Rosenbrock", rosenbrock, rosenbrock_gradient, VALLEY, (-1.2, 1.0), ((1.0, 1.0),)),
    Surface("Beale", beale, beale_gradient, (-0.5, 4.4, -1.6, 1.6), (0.5, 1.2), ((3.0, 0.5),)),
    Surface("Himmelblau", himmelblau, himmelblau_gradient, (-5, 5, -5, 5), (-0.5, -4.2), FOUR),
    Surface("Rastrigin", rastrigin, rastrigin_gradient, (-4.2, 1.4, -3.2, 2.4), (-3.3, 1.7)),
)

# ---- optimizers, and how they are compared

# A point of the plane is, for Muon, a matrix of one row.
OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": lambda params, lr: SGD(params, lr=lr),
    "momentum": lambda params, lr: SGD(params, lr=lr, momentum=0.9),
    "Nesterov": lambda params, lr: SGD(params, lr=lr, momentum=0.9, nesterov=True),
    "RMSProp": lambda params, lr: RMSProp(params, lr=lr),
    "Adam": lambda params, lr: Adam(params, lr=lr),
    "Muon": lambda params, lr: Muon(params, lr=lr, dtype=torch.float64),
}


def descend(
    make: Callable[..., Optimizer],
    lr: float,
    gradient: Callable[[Tensor], Tensor],
    starts: Float[Tensor, "batch 2"],
    steps: int,
) -> Float[Tensor, "points batch 2"]:
    """Paths from each start, the starts included; each start is a parameter of its own."""
    require(steps >= 1, "steps must be at least 1", steps)
    params = [start[None].clone() for start in starts]
    optimizer, path = make(params, lr), [starts]
    for _ in range(steps):
        grads = gradient(torch.cat(params))
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad[None]
        optimizer.step()
        path.append(torch.cat(params))
    return torch.stack(path)


def score(surface: Surface, path: Float[Tensor, "points batch 2"]) -> Float[Tensor, " batch"]:
    """Mean over a path of log10(f - least), cut to [-6, 6]; low means far down, and soon.

    Judging the last point alone would favor wild steps that come to rest just in time. A path
    that leaves a region ten times as wide as the window counts as lost, 6, from then on.
    """
    left, right, bottom, top = surface.window
    size = torch.tensor([right - left, top - bottom], dtype=path.dtype)
    middle = torch.tensor([right + left, top + bottom], dtype=path.dtype) / 2
    inside = ((path - middle).abs() <= 5 * size).all(-1)  # False for NaN too
    inside = inside.long().cumprod(0).bool()
    gap = torch.where(inside, surface.value(path) - surface.least, 1e6)
    return gap.clamp(1e-6, 1e6).log10().mean(0)


def scatter(
    surface: Surface, n: int, generator: torch.Generator, spread: float = 0.1
) -> Float[Tensor, "n 2"]:
    """`n` starting points around the surface's own, `spread` of the window to each side."""
    require(n >= 1, "n must be at least 1", n)
    left, right, bottom, top = surface.window
    size = torch.tensor([right - left, top - bottom], dtype=torch.float64)
    noise = 2 * torch.rand(n, 2, generator=generator, dtype=torch.float64) - 1
    return torch.tensor(surface.start, dtype=torch.float64) + spread * size * noise


def tune(
    make: Callable[..., Optimizer],
    surface: Surface,
    starts: Float[Tensor, "batch 2"],
    lrs: Float[Tensor, " trials"],
    steps: int,
) -> tuple[int, Float[Tensor, " trials"]]:
    """Index of the learning rate with the least mean score over `starts`, and all mean scores."""
    paths = (descend(make, float(lr), surface.gradient, starts, steps) for lr in lrs)
    scores = torch.stack([score(surface, path).mean() for path in paths])
    return int(scores.argmin()), scores


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
