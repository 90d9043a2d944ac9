r"""Bayes by backprop: a normal law for each weight, its mean and width learned by gradients.

Of all products of normal laws $q = \prod_i \mathcal N(\mu_i, \sigma_i^2)$ find the one nearest to
the posterior in $\mathrm{KL}(q \| p)$. It has the largest

$$\mathrm{ELBO} = \mathbb E_q[\log p(\theta, y)] + \sum_i \log \sigma_i + \text{constant} .$$

Write a draw as $\theta = \mu + \sigma \varepsilon$ with $\varepsilon \sim \mathcal N(0, 1)$ and
$\sigma = \log(1 + e^\rho)$. Then a gradient $g$ of $\log p(\theta, y)$ at the draw, which
backpropagation gives, is an unbiased gradient of the ELBO by $\mu$, and $g\, \varepsilon +
1 / \sigma$ one by $\sigma$.

Weights are drawn once per step and shared by its rows: not the *local* trick, which draws each
row's activations instead and has less noise, but ends in no weights that one could look at.

>>> from week24.net_posterior import MLP, Gaussian
>>> x = torch.ones(8, 1, dtype=torch.float64)
>>> posterior = Posterior(MLP(1, 1), Gaussian(1.0), x, x[:, 0], prior_sd=1.0)
>>> q = fit_mean_field(posterior, steps=800, lr=0.1, generator=torch.Generator().manual_seed(0))
>>> q.sd.round(decimals=2)  # weight and bias, of precision 9 each
tensor([0.3300, 0.3300], dtype=torch.float64)
>>> exact = torch.tensor([[9.0, 8.0], [8.0, 9.0]]).inverse()
>>> exact.diagonal().sqrt()  # their own spread is over twice that: they make up for each other
tensor([0.7276, 0.7276])

Source: Blundell, Cornebise, Kavukcuoglu & Wierstra, "Weight uncertainty in neural networks" (2015),
section 3.2; the local trick: Kingma, Salimans & Welling (2015).
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week24.net_posterior import Posterior, Theta


class MeanField(NamedTuple):
    """Independent normal laws; ρ is what the width is learned by."""

    mean: Float[Tensor, " dim"]
    rho: Float[Tensor, " dim"]

    @property
    def sd(self) -> Float[Tensor, " dim"]:
        """σ = log(1 + e^ρ), never negative."""
        return F.softplus(self.rho)

    def draw(self, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """Weights of n nets."""
        eps = torch.randn(n, len(self.mean), generator=generator, dtype=self.mean.dtype)
        return self.mean + self.sd * eps


def ascent(
    q: MeanField, eps: Float[Tensor, "draws dim"], gradient: Float[Tensor, "draws dim"]
) -> tuple[Float[Tensor, " dim"], Float[Tensor, " dim"]]:
    """Gradient of the ELBO by μ and ρ, from gradients of the log joint at μ + σ ε.

    References
    ----------
    Blundell et al. (2015), equations 3 and 4 (for -ELBO). There the entropy is sampled too; its
    terms in ε cancel from the first, and have mean 1 / σ in the second.
    """
    by_sd = (gradient * eps).mean(0) + 1 / q.sd
    return gradient.mean(0), by_sd * q.rho.sigmoid()  # dσ / dρ = 1 / (1 + e^-ρ)


def fit_mean_field(
    posterior: Posterior,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    start: Float[Tensor, " dim"] | None = None,
    start_sd: float = 0.1,
    n_draws: int = 8,
    batch_size: int | None = None,
) -> MeanField:
    """Adam up the ELBO, rate falling to zero.

    Parameters
    ----------
    start
        First means; a net's usual first weights by default. All zero would be a saddle.
    n_draws
        Nets per step.
    batch_size
        Rows per step, the same for its nets; all of them by default.
    """
    require(start_sd > 0, "start_sd must be positive", start_sd)
    require(n_draws >= 1, "n_draws must be at least 1", n_draws)
    mean = posterior.net.start(1, generator)[0] if start is None else start.clone()
    mean = mean.to(posterior.x.dtype)
    rho = torch.full_like(mean, math.log(math.expm1(start_sd)))
    optimizer, q, n = torch.optim.Adam([mean, rho], lr=lr), MeanField(mean, rho), len(posterior.x)
    for step in range(steps):
        rows = None
        if batch_size is not None:
            rows = torch.randint(n, (batch_size,), generator=generator)
        eps = torch.randn(n_draws, len(mean), generator=generator, dtype=mean.dtype)
        gradient = posterior.gradient(mean + q.sd * eps, rows)
        mean.grad, rho.grad = (-up / n for up in ascent(q, eps, gradient))
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.step()
    return q


def elbo(posterior: Posterior, q: MeanField, theta: Theta) -> float:
    """A lower bound of the log evidence, from draws of q."""
    entropy = (q.sd.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()
    return float(posterior.log_joint(theta).mean() + entropy)
