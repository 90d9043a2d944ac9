r"""Posteriors from stochastic gradients: SGLD adds noise to them, SWAG looks back at their path.

**SGLD** takes half a step up an unbiased gradient of the log joint and adds noise as wide as the
root of the step,

$$\theta \leftarrow \theta + \tfrac{\varepsilon}{2}\, \hat g + \sqrt{\varepsilon}\, z .$$

The batch's own noise moves $\theta$ by $\tfrac\varepsilon2$, the added one by $\sqrt\varepsilon$,
so for small steps the second wins and the law is the posterior's. For no step is it exact, since
nothing is ever refused. With a precision $\lambda$ and batch noise of variance $V$,

$$\mathrm{var}(\theta) = \frac{\varepsilon + \varepsilon^2 V / 4}{1 - (1 - \varepsilon\lambda/2)^2}
  = \frac{1}{\lambda} \cdot \frac{1 + \varepsilon V / 4}{1 - \varepsilon\lambda/4} .$$

**SWAG** lets SGD of a constant rate wander around a minimum and takes the mean and the covariance
of its path: half from the variances, half from the last $K$ deviations. What it measures is the
noise of the batches at that rate; it is not told what a posterior is.

>>> print(f"{stationary_variance(step=0.01, precision=1.0, noise_variance=0.0):.6f}")
1.002506
>>> moments = Moments(rank=2)
>>> for theta in torch.tensor([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]).double():
...     moments.add(theta)
>>> moments.mean, moments.variance
(tensor([2., 0.], dtype=torch.float64), tensor([2.6667, 0.0000], dtype=torch.float64))

Source: Welling & Teh, "Bayesian learning via stochastic gradient Langevin dynamics" (2011); Maddox,
Izmailov, Garipov, Vetrov & Wilson, "A simple baseline for Bayesian uncertainty in deep learning"
(2019), algorithm 1.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week24.net_posterior import Posterior, Theta


def sgld(
    posterior: Posterior,
    start: Theta,
    *,
    step: float,
    steps: int,
    burn_in: int,
    keep_every: int,
    generator: torch.Generator,
    batch_size: int | None = None,
) -> Float[Tensor, "draws *nets dim"]:
    """Chains from each start, at a constant step; what is kept after the burn-in.

    Parameters
    ----------
    step
        ε. Where ε λ reaches 4 for the largest curvature λ, chains explode.
    batch_size
        Rows per step, drawn with replacement for each chain; all of them, once, by default.
    """
    require(step > 0, "step must be positive", step)
    require(0 <= burn_in < steps, f"burn_in must be from 0 to {steps - 1}", burn_in)
    theta, kept, n = start.clone(), [], len(posterior.x)
    for t in range(steps):
        rows = None
        if batch_size is not None:
            rows = torch.randint(n, (*theta.shape[:-1], batch_size), generator=generator)
        z = torch.randn(theta.shape, generator=generator, dtype=theta.dtype)
        theta = theta + step / 2 * posterior.gradient(theta, rows) + math.sqrt(step) * z
        if t >= burn_in and (t - burn_in) % keep_every == 0:
            kept.append(theta)
    return torch.stack(kept)


def stationary_variance(*, step: float, precision: float, noise_variance: float) -> float:
    """Of SGLD on a normal law of this precision; infinite where it explodes.

    Parameters
    ----------
    noise_variance
        V, of the gradient's estimate.
    """
    shrink = 1 - step * precision / 2
    if abs(shrink) >= 1:
        return math.inf
    return (step + step**2 / 4 * noise_variance) / (1 - shrink**2)


class Moments:
    """Running mean, variances, and the last `rank` deviations of a path.

    A deviation is taken from the mean as it was then, as in the paper.
    """

    def __init__(self, rank: int):
        require(rank >= 2, "rank must be at least 2", rank)
        self.rank, self.n, self.deviations = rank, 0, []
        self._mean = self._square = torch.zeros(())

    def add(self, theta: Theta) -> None:
        """One more place of the path."""
        self.n += 1
        self._mean = self._mean + (theta - self._mean) / self.n
        self._square = self._square + (theta**2 - self._square) / self.n
        self.deviations = [*self.deviations, theta - self._mean][-self.rank :]

    @property
    def mean(self) -> Theta:
        """Of all places."""
        return self._mean

    @property
    def variance(self) -> Theta:
        """Of all places, with n in the denominator; rounding never makes it negative."""
        return (self._square - self._mean**2).clamp(min=0)

    def covariance(self) -> Float[Tensor, "*nets dim dim"]:
        """Half the diagonal, half the low rank: what `draw` draws from."""
        D = torch.stack(self.deviations)
        low_rank = torch.einsum("k...p,k...q->...pq", D, D) / (len(D) - 1)
        return (self.variance.diag_embed() + low_rank) / 2

    def draw(self, n_draws: int, generator: torch.Generator) -> Float[Tensor, "draws *nets dim"]:
        """Weights of so many nets for each path, without the matrix.

        References
        ----------
        Maddox et al. (2019), algorithm 1, last line.
        """
        must = "deviations must be at least 2: add more places"
        require(len(self.deviations) >= 2, must, len(self.deviations))
        D = torch.stack(self.deviations)
        like = {"generator": generator, "dtype": D.dtype}
        wide = torch.randn(n_draws, *self._mean.shape, **like) * self.variance.sqrt()
        z = torch.randn(n_draws, *self._mean.shape[:-1], len(D), **like)
        along = torch.einsum("k...p,s...k->s...p", D, z) / math.sqrt(len(D) - 1)
        return self._mean + (wide + along) / math.sqrt(2)


def swag(
    posterior: Posterior,
    start: Theta,
    *,
    lr: float,
    steps: int,
    keep_every: int,
    batch_size: int,
    generator: torch.Generator,
    rank: int = 20,
) -> Moments:
    """SGD of a constant rate on the mean loss per row, from trained nets; the path's moments."""
    moments, theta, n = Moments(rank), start.clone(), len(posterior.x)
    for t in range(1, steps + 1):
        rows = torch.randint(n, (*theta.shape[:-1], batch_size), generator=generator)
        theta = theta + lr / n * posterior.gradient(theta, rows)
        if t % keep_every == 0:
            moments.add(theta)
    return moments
