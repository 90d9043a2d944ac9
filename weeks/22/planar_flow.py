r"""Planar flows: a posterior bent out of a Gaussian, one hinge at a time.

A planar layer moves points along one direction, by an amount that depends on one other:

$$f(z) = z + u\, \tanh(w^\top z + b), \qquad
  \ln |\det| = \ln \big| 1 + u^\top w\, (1 - \tanh^2(w^\top z + b)) \big| .$$

It is invertible if $w^\top u \ge -1$; a free $u$ is moved along w to $\hat u$ so that $w^\top \hat
u = \mathrm{softplus}(w^\top u) - 1$. Pushing $z_0 \sim N(0, I)$ through K layers gives $q$, and
the bound $\mathbb{E}[\ln \tilde p(z_K) - \ln q(z_K)] \le \ln \int \tilde p$ is maximized. The
inverse has no formula, but along w it is one monotone equation: bisection solves it.

>>> layer = Planar(2, torch.Generator().manual_seed(0))
>>> z = torch.tensor([[0.5, -1.0]])
>>> f, log_det = layer(z)
>>> bool(torch.allclose(layer.inverse(f), z, atol=1e-5))
True

    uv run weeks/22/planar_flow.py

Source: Rezende & Mohamed, "Variational inference with normalizing flows" (2015), equations 10 to
13, appendix A.1 and table 1.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week22.realnvp import Flow, standard_normal


class Planar(Flow):
    """One planar layer, from the latent z to the sample.

    Parameters
    ----------
    d
        Size of z.
    constrain
        Keep wᵀu ≥ -1; without it the layer may fold space, and log-determinants mean nothing.
    """

    def __init__(self, d: int, generator: torch.Generator | None = None, *, constrain: bool = True):
        super().__init__()
        require(d >= 1, "d must be at least 1", d)
        self.u, self.w = (nn.Parameter(0.1 * torch.randn(d, generator=generator)) for _ in range(2))
        self.b, self.constrain = nn.Parameter(torch.zeros(())), constrain

    def direction(self) -> Float[Tensor, "d"]:
        """The u that is used: û = u + (softplus(wᵀu) - 1 - wᵀu) w / |w|²."""
        if not self.constrain:
            return self.u
        slope = self.w @ self.u
        missing = nn.functional.softplus(slope) - 1 - slope
        return self.u + missing * self.w / (self.w @ self.w).clamp(min=1e-12)

    def forward(self, z: Float[Tensor, "batch d"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """f(z) and ln |det ∂f/∂z|."""
        u, bent = self.direction(), (z @ self.w + self.b).tanh()
        log_det = (1 + (self.w @ u) * (1 - bent**2)).abs().log()
        return z + bent[:, None] * u, log_det

    @torch.no_grad()
    def inverse(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Solve a + wᵀu tanh(a + b) = wᵀx for a = wᵀz, which lies within |wᵀu| of wᵀx."""
        u = self.direction()
        slope, goal = self.w @ u, x @ self.w
        low, high = goal - slope.abs(), goal + slope.abs()
        for _ in range(80):
            middle = (low + high) / 2
            above = middle + slope * (middle + self.b).tanh() > goal
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return x - (low + self.b).tanh()[:, None] * u


class PlanarFlow(Flow):
    """Layers from z₀ ~ N(0, I) to samples of q."""

    def __init__(self, d: int, n_layers: int, generator: torch.Generator | None = None, **options):
        super().__init__()
        require(n_layers >= 0, "n_layers must be at least 0", n_layers)
        self.d = d
        self.shift = nn.Parameter(torch.zeros(d))
        self.log_scale = nn.Parameter(torch.zeros(d))
        self.layers = nn.ModuleList(Planar(d, generator, **options) for _ in range(n_layers))

    def forward(self, z: Float[Tensor, "batch d"]) -> tuple[Tensor, Float[Tensor, "batch"]]:
        """A diagonal Gaussian, then the planar layers."""
        z, total = z * self.log_scale.exp() + self.shift, self.log_scale.sum().expand(len(z))
        for layer in self.layers:
            z, log_det = layer(z)
            total = total + log_det
        return z, total

    def inverse(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Back to z₀, by bisection."""
        for layer in reversed(self.layers):
            x = layer.inverse(x)
        return (x - self.shift) * (-self.log_scale).exp()

    def log_prob(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch"]:
        """Log q at given points: minus the log-determinant, for the layers run from z to x."""
        z = self.inverse(x)
        return standard_normal(z) - self(z)[1]

    def bound(
        self, log_p: Callable[[Tensor], Tensor], z: Float[Tensor, "batch d"]
    ) -> Float[Tensor, "batch"]:
        """Log p̃(x) - log q(x) at the sample x of each z₀: its mean is at most ln ∫ p̃."""
        x, log_det = self(z)
        return log_p(x) - standard_normal(z) + log_det


def fit(
    flow: PlanarFlow,
    log_p: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float = 0.01,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Adam on the bound with fresh samples; gives it at each step."""
    optimizer, bounds = torch.optim.Adam(flow.parameters(), lr=lr), []
    for _ in range(steps):
        z = torch.randn(batch_size, flow.d, generator=generator)
        bound = flow.bound(log_p, z).mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    return bounds


def ring(z: Float[Tensor, "batch 2"]) -> Float[Tensor, "batch"]:
    """Minus the energy U₁ of table 1: two arcs of a circle of radius 2, not normalized."""
    arcs = torch.stack([-0.5 * ((z[:, 0] + c) / 0.6) ** 2 for c in (-2, 2)]).logsumexp(0)
    return -0.5 * ((z.norm(dim=1) - 2) / 0.4) ** 2 + arcs


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
