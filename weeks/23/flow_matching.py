r"""Flow matching: learn the velocity of straight lines from noise to data, and follow it.

Convention: $x_0 \sim N(0, I)$ is noise, $x_1$ is data, time goes from 0 to 1, and each pair moves
on a straight line at constant speed,

$$ x_t = (1 - t)\, x_0 + t\, x_1 , \qquad v = x_1 - x_0 , \qquad
   L = E\, \lVert v_\theta(x_t, t) - (x_1 - x_0) \rVert^2 . $$

Many lines cross at one place. The least squares are reached by their mean,
$v(x, t) = E[x_1 - x_0 \mid x_t = x]$, and the flow $\dot x = v(x, t)$ passes through the same
distributions as the lines, though it bends where they cross. No simulation is needed to train. The
density comes with it,

$$ \frac{d}{dt} \log p_t(x_t) = -\nabla \cdot v(x_t, t) . $$

The second idea, **reflow**: pair each noise with the data that the flow takes it to, and learn
again. The lines between those pairs cross less, so the next flow is straighter, and few steps do.

>>> data = Mixture(torch.ones(1), torch.tensor([[3.0, -1.0]]), torch.tensor([0.5]))
>>> x = integrate(exact_velocity(data), torch.tensor([[1.0, 1.0]]), steps=20, method="rk4")
>>> [round(v, 3) for v in x[0].tolist()]  # 3 + 0.5 · 1 and -1 + 0.5 · 1
[3.5, -0.5]

    uv run weeks/23/flow_matching.py

Others count time from data to noise (diffusers, Stable Diffusion 3): there t is our 1 - t and v our
-v. Lipman et al., "Flow matching for generative modeling" (2022), theorem 2; Liu, Gong & Liu,
"Flow straight and fast" (2022), equations 1 and 7; Chen et al., "Neural ordinary differential
equations" (2018), theorem 1.
"""

import itertools
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week23.mixtures import Mixture

__all__ = [
    "Mixture",
    "VelocityNet",
    "exact_velocity",
    "integrate",
    "line",
    "log_density",
    "matching",
    "straightness",
]

Velocity = Callable[[Float[Tensor, "n d"], Float[Tensor, "n 1"]], Float[Tensor, "n d"]]


def line(
    x0: Float[Tensor, "n d"], x1: Float[Tensor, "n d"], t: Float[Tensor, "n 1"]
) -> Float[Tensor, "n d"]:
    """Where each pair is at its time."""
    return (1 - t) * x0 + t * x1


def matching(
    velocity: Velocity,
    x0: Float[Tensor, "n d"],
    x1: Float[Tensor, "n d"],
    t: Float[Tensor, "n 1"],
) -> Float[Tensor, " n"]:
    """Squared distance of each velocity from that of its pair.

    References
    ----------
    Liu et al. (2022), equation 1; Lipman et al. (2022), equation 9 with σ = 0.
    """
    return (velocity(line(x0, x1, t), t) - (x1 - x0)).square().sum(-1)


def exact_velocity(data: Mixture) -> Velocity:
    """The mean velocity of all lines from N(0, I) to a mixture that pass through x at time t.

    Given component k, x_t is normal with mean t m and variance (1 - t)² + t² s², and x₁ - x₀ is
    linear in it.
    """

    def velocity(x: Float[Tensor, "n d"], t: Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        s2 = data.spreads.square()
        variance = (1 - t) ** 2 + t**2 * s2  # (n, k)
        offset = x[:, None] - t[:, :, None] * data.means  # (n, k, d)
        log_r = data.weights.log() - offset.square().sum(-1) / (2 * variance)
        r = (log_r - x.shape[1] / 2 * variance.log()).softmax(-1)
        slope = (t * s2 - (1 - t)) / variance
        return (r[..., None] * (data.means + slope[..., None] * offset)).sum(1)

    return velocity


def integrate(
    velocity: Velocity,
    x: Float[Tensor, "n d"],
    *,
    steps: int,
    method: Literal["euler", "rk4"] = "euler",
    times: tuple[float, float] = (0.0, 1.0),
) -> Float[Tensor, "n d"]:
    """Follow the flow, from noise to data at first.

    Parameters
    ----------
    method
        Euler's, or Runge and Kutta's of order four, which looks four times per step.
    times
        From where to where; (1, 0) goes back.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    require(method in ("euler", "rk4"), "method must be euler or rk4", method)
    start, end = times
    h = (end - start) / steps
    for i in range(steps):
        t = x.new_full((len(x), 1), start + i * h)
        k1 = velocity(x, t)
        if method == "euler":
            x = x + h * k1
            continue
        k2 = velocity(x + h / 2 * k1, t + h / 2)
        k3 = velocity(x + h / 2 * k2, t + h / 2)
        k4 = velocity(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


def log_density(
    velocity: Velocity, x: Float[Tensor, "n d"], *, steps: int = 100
) -> Float[Tensor, " n"]:
    """Log-density of data under the flow: that of its noise, minus the divergence on the way.

    References
    ----------
    Chen et al. (2018), equation 8.
    """

    def with_divergence(state: Float[Tensor, "n width"], t: Float[Tensor, "n 1"]) -> Tensor:
        with torch.enable_grad():
            x = state[:, :-1].detach().requires_grad_()
            v = velocity(x, t)
            columns = range(x.shape[1])
            slopes = [torch.autograd.grad(v[:, i].sum(), x, retain_graph=True)[0] for i in columns]
        divergence = sum(slope[:, i] for i, slope in enumerate(slopes))
        return torch.cat([v.detach(), divergence[:, None]], dim=1)

    state = torch.cat([x, torch.zeros_like(x[:, :1])], dim=1)
    state = integrate(with_divergence, state, steps=steps, method="rk4", times=(1.0, 0.0))
    noise, gathered = state[:, :-1], state[:, -1]  # minus the integral from 0 to 1
    normal = torch.distributions.Normal(torch.zeros_like(noise), torch.ones_like(noise))
    return normal.log_prob(noise).sum(-1) + gathered


@torch.no_grad()
def straightness(velocity: Velocity, x0: Float[Tensor, "n d"], *, steps: int = 50) -> float:
    r"""How far the flow departs from a straight line: mean of ‖(x₁ - x₀) - v‖² along its paths.

    References
    ----------
    Liu et al. (2022), section 2.2: S(Z); 0 if and only if one Euler step is exact.
    """
    path = [x0]
    for i in range(steps):
        span = (i / steps, (i + 1) / steps)
        path.append(integrate(velocity, path[-1], steps=1, times=span))
    chord, points = path[-1] - x0, zip(path, range(steps), strict=False)
    found = [
        (chord - velocity(x, x.new_full((len(x), 1), i / steps))).square().sum(-1).mean()
        for x, i in points
    ]
    return float(torch.stack(found).mean())


class VelocityNet(nn.Module):
    """A small network of a point and its time."""

    def __init__(self, d: int, width: int, generator: torch.Generator):
        super().__init__()
        sizes = (d + 1, width, width, width, d)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())))[:-1]

    def forward(self, x: Float[Tensor, "n d"], t: Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """The velocity at x."""
        return self.layers(torch.cat([x, 2 * t - 1], dim=-1))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
