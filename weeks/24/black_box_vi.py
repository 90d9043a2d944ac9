r"""Black-box variational inference: only the log density is asked for, and gradients are drawn.

A Gaussian $q_\phi$ shall maximize $E_q[\ln p(z) - \ln q_\phi(z)]$, and nothing is known about $p$
but how to evaluate $f(z) = \ln p(z) - \ln q_\phi(z)$. Two ways to take the gradient into the mean:

$$\nabla_\phi E_q[f] = E_q[(f(z) - b)\, \nabla_\phi \ln q_\phi(z)]
  \qquad\text{(score function, any baseline } b),$$
$$\nabla_\phi E_q[f] = E_\varepsilon[\nabla_\phi f(z)], \quad z = m + L \varepsilon
  \qquad\text{(reparameterized)}.$$

The first needs no derivative of $p$ and, without a baseline, varies far more. Of the second there
are two forms: with the entropy in closed form, or *sticking the landing*: $\ln q$ is evaluated with
$\phi$ held fixed, and the noise vanishes when $q = p$. A diagonal $L$ is mean field.

>>> precision = torch.tensor([[1.0, 0.8], [0.8, 1.0]], dtype=torch.double)
>>> normal = lambda z: -((z @ precision) * z).sum(-1) / 2
>>> draw = torch.Generator().manual_seed(0)
>>> full, narrow = Gaussian(2, full_rank=True), Gaussian(2)
>>> for q in (full, narrow):
...     fit(normal, q, steps=200, lr=0.1, generator=draw)
>>> print(torch.allclose(full.covariance(), precision.inverse(), atol=1e-3))
True
>>> print(narrow.covariance().diagonal().round(decimals=1))  # 1 / precision: 1, and not 2.8
tensor([1., 1.], dtype=torch.float64)

    uv run weeks/24/black_box_vi.py

Source: Ranganath, Gerrish & Blei, "Black box variational inference" (2014); Kingma & Welling,
"Auto-encoding variational Bayes" (2014); Roeder, Wu & Duvenaud, "Sticking the landing" (2017).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week09.optimizers import Adam

__all__ = [
    "ESTIMATORS",
    "Gaussian",
    "closed_entropy_loss",
    "elbo",
    "fit",
    "gradient",
    "landing_loss",
    "score_loss",
    "subsampled",
]

Points = Float[Tensor, "n dim"]
LogDensity = Callable[[Points], Float[Tensor, " n"]]


class Gaussian(nn.Module):
    """q(z) = N(m, L Lᵀ) with a positive diagonal; without `full_rank` that is all of L.

    Parameters
    ----------
    dim
        Of z.
    full_rank
        Whether L has entries below its diagonal.
    sd
        Standard deviations at the start.
    """

    def __init__(self, dim: int, *, full_rank: bool = False, sd: float = 1.0):
        super().__init__()
        require(sd > 0, "sd must be positive", sd)
        like = {"dtype": torch.double}
        self.mean = nn.Parameter(torch.zeros(dim, **like))
        self.log_diagonal = nn.Parameter(torch.full((dim,), math.log(sd), **like))
        self.below = nn.Parameter(torch.zeros(dim, dim, **like)) if full_rank else None

    def factor(self) -> Float[Tensor, "dim dim"]:
        """L, lower triangular."""
        diagonal = self.log_diagonal.exp().diag()
        return diagonal if self.below is None else diagonal + self.below.tril(-1)

    def covariance(self) -> Float[Tensor, "dim dim"]:
        """L Lᵀ."""
        with torch.no_grad():
            return self.factor() @ self.factor().T

    def draw(self, n: int, generator: torch.Generator) -> Points:
        """m + L ε: gradients flow through the points."""
        noise = torch.randn(n, len(self.mean), generator=generator, dtype=torch.double)
        return self.mean + noise @ self.factor().T

    def log_prob(self, z: Points, *, fixed: bool = False) -> Float[Tensor, " n"]:
        """ln q(z); if `fixed`, as if mean and factor were constants."""
        mean, factor = self.mean, self.factor()
        if fixed:
            mean, factor = mean.detach(), factor.detach()
        white = torch.linalg.solve_triangular(factor, (z - mean).T, upper=False)
        normalizer = factor.diagonal().log().sum() + len(mean) / 2 * math.log(2 * math.pi)
        return -white.square().sum(0) / 2 - normalizer

    def entropy(self) -> Float[Tensor, ""]:
        """In nats."""
        return self.log_diagonal.sum() + len(self.mean) / 2 * math.log(2 * math.pi * math.e)


# ---- losses whose gradients are unbiased estimates of that of the negative ELBO


def score_loss(
    log_density: LogDensity, q: Gaussian, n: int, generator: torch.Generator, *, baseline: bool
) -> Float[Tensor, ""]:
    """(f − b) ln q(z) at points through which no gradient flows.

    The baseline of a point is the mean of f at the *other* points: it does not depend on the
    point, so nothing is biased.

    References
    ----------
    Ranganath et al. (2014), eq. 3; E_q[∇ ln q] = 0 lets any constant be taken off.
    """
    require(n >= 1 + baseline, f"n must be at least {1 + baseline}", n)
    with torch.no_grad():
        z = q.draw(n, generator)
        f = log_density(z) - q.log_prob(z)
        if baseline:
            f = f - (f.sum() - f) / (n - 1)
    return -(f * q.log_prob(z)).mean()


def closed_entropy_loss(
    log_density: LogDensity, q: Gaussian, n: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Reparameterized, with the entropy in closed form: only E[ln p] is drawn."""
    return -log_density(q.draw(n, generator)).mean() - q.entropy()


def landing_loss(
    log_density: LogDensity, q: Gaussian, n: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """Reparameterized, and ln q depends on φ through the points alone.

    What is left out, E_q[∇_φ ln q], is zero.

    References
    ----------
    Roeder et al. (2017), eq. 5.
    """
    z = q.draw(n, generator)
    return -(log_density(z) - q.log_prob(z, fixed=True)).mean()


ESTIMATORS = {
    "score": lambda *args: score_loss(*args, baseline=False),
    "score, baseline": lambda *args: score_loss(*args, baseline=True),
    "reparameterized": closed_entropy_loss,
    "sticking the landing": landing_loss,
}


def gradient(loss: Float[Tensor, ""], q: Gaussian) -> Float[Tensor, " parameters"]:
    """The loss's gradient in all parameters of q, in one row."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(q.parameters()))])


@torch.no_grad()
def elbo(
    log_density: LogDensity, q: Gaussian, n: int, generator: torch.Generator
) -> Float[Tensor, ""]:
    """The bound, from n points."""
    return log_density(q.draw(n, generator)).mean() + q.entropy()


def fit(
    log_density: LogDensity,
    q: Gaussian,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    n: int = 16,
    estimator: str = "sticking the landing",
) -> None:
    """Adam with a rate that falls to zero on a line: the noise has to average out at the end.

    Parameters
    ----------
    n
        Points per step.
    estimator
        A key of `ESTIMATORS`.
    """
    known = ", ".join(ESTIMATORS)
    require(estimator in ESTIMATORS, f"estimator must be one of {known}", repr(estimator))
    optimizer = Adam(q.parameters(), lr=lr)
    for step in range(steps):
        optimizer.zero_grad()
        ESTIMATORS[estimator](log_density, q, n, generator).backward()
        optimizer.lr = lr * (1 - step / steps)
        optimizer.step()


def subsampled(
    log_prior: LogDensity,
    log_likelihood: Callable[[Points, Int[Tensor, " batch"]], Float[Tensor, "n batch"]],
    n_data: int,
    batch_size: int,
    generator: torch.Generator,
) -> LogDensity:
    """An unbiased estimate of ln p(z) + Σᵢ ln p(yᵢ | z) from a new batch at each call.

    The likelihood of the batch counts N/M times, and the prior once.

    Parameters
    ----------
    log_likelihood
        Gives, for points and indices of data, each datum's log likelihood at each point.
    """
    must = f"batch_size must be between 1 and n_data = {n_data}"
    require(1 <= batch_size <= n_data, must, batch_size)

    def log_density(z: Points) -> Float[Tensor, " n"]:
        batch = torch.randperm(n_data, generator=generator)[:batch_size]
        return log_prior(z) + n_data / batch_size * log_likelihood(z, batch).sum(-1)

    return log_density


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
