r"""Mixtures of round Gaussians: data whose score is known at each level of noise.

Noise keeps a mixture a mixture. With $x_t = a x_0 + \sigma \epsilon$, component $k$ of mean $m_k$
and deviation $s_k$ becomes one of mean $a m_k$ and variance $a^2 s_k^2 + \sigma^2$, and

$$ \nabla \log p(x) = \sum_k r_k(x)\, \frac{m_k - x}{s_k^2}, \qquad
   r_k(x) = \frac{w_k N(x; m_k, s_k^2)}{\sum_j w_j N(x; m_j, s_j^2)} . $$

Components of no width are a finite data set, whose best denoiser is thereby known too.

>>> two = Mixture(torch.tensor([0.2, 0.8]), torch.tensor([[-2.0], [2.0]]), torch.ones(2))
>>> two.score(torch.zeros(1, 1))  # 0.8 · 2 - 0.2 · 2
tensor([[1.2000]])
>>> two.noised(0.5, 2.0).spreads.square()  # 0.25 · 1 + 4
tensor([4.2500, 4.2500])

`uv run weeks/23/score_matching.py`, `uv run weeks/23/guidance.py` and papers judge by it.
Source: Robbins (1956) and Efron (2011) for the posterior mean, which the score gives.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.require import require

__all__ = ["Mixture"]


@dataclass(frozen=True)
class Mixture:
    """Round Gaussians with weights, means and deviations; those may be 0 until noise comes."""

    weights: Float[Tensor, " k"]
    means: Float[Tensor, "k d"]
    spreads: Float[Tensor, " k"]

    @classmethod
    def of_points(cls, x: Float[Tensor, "n d"]) -> "Mixture":
        """A data set as the distribution that training sees: each row as likely as the next."""
        return cls(torch.full_like(x[:, 0], 1 / len(x)), x, torch.zeros_like(x[:, 0]))

    def noised(self, signal: float | Tensor, sigma: float | Tensor) -> "Mixture":
        """The distribution of signal · x + sigma · ε."""
        spreads = (torch.as_tensor(signal * self.spreads) ** 2 + sigma**2).sqrt()
        return Mixture(self.weights, signal * self.means, spreads)

    def given(self, k: int) -> "Mixture":
        """Component k alone."""
        return Mixture(torch.ones_like(self.weights[:1]), self.means[[k]], self.spreads[[k]])

    def log_joint(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
        """The log-density of each row together with each component."""
        require(bool((self.spreads > 0).all()), "spreads must be positive: add noise first")
        d2 = (x[:, None] - self.means).square().sum(-1)
        variance = self.spreads.square()
        norm = (2 * torch.pi * variance).log() * x.shape[1] / 2
        return self.weights.log() - d2 / (2 * variance) - norm

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """The log-density of each row."""
        return self.log_joint(x).logsumexp(-1)

    def score(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Where the log-density rises, and how steeply."""
        r = self.log_joint(x).softmax(-1) / self.spreads.square()
        return r @ self.means - r.sum(-1, keepdim=True) * x

    def labels(self, n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
        """Components, drawn by their weights."""
        return torch.multinomial(self.weights, n, replacement=True, generator=generator)

    def sample(self, n: int, generator: torch.Generator) -> Float[Tensor, "n d"]:
        """Rows of the mixture."""
        k = self.labels(n, generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=self.means.dtype)
        return self.means[k] + self.spreads[k, None] * noise
