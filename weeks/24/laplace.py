r"""Laplace's approximation: a normal law at the best net, as wide as the curvature there says.

Expand the log joint around its maximum $\hat\theta$. What remains is a normal law, and its integral
is an estimate of the evidence:

$$p(\theta \mid y) \approx \mathcal N(\hat\theta,\, P^{-1}), \qquad
  \log p(y) \approx \log p(\hat\theta, y) + \tfrac{d}{2} \log 2\pi - \tfrac12 \log \det P .$$

Of the curvature $P$ keep what cannot be negative, the generalized Gauss–Newton matrix (GGN): with
Jacobians $J_i$ of the outputs and second derivatives $\Lambda_i$ of the loss by them,

$$P = \sum_i J_i^\top \Lambda_i J_i + I / s^2 .$$

That is the exact posterior of the net made *linear* at $\hat\theta$, so it must predict with the
linear net too: outputs of mean $f_{\hat\theta}(x)$ and covariance $J P^{-1} J^\top$.

* full: all weights, a matrix of their number squared;
* `KroneckerLaplace`: per layer $\sum_i a_i a_i^\top / N \otimes \sum_i G_i$, of inputs and of
  slopes, as if the two had nothing to do with each other;
* `Laplace(…, last_layer=True)`: the other layers are taken as known.

>>> from week24.net_posterior import MLP, Gaussian
>>> x = torch.tensor([[-1.0], [1.0]]).double()
>>> posterior = Posterior(MLP(1, 1), Gaussian(1.0), x, x[:, 0], prior_sd=1.0)
>>> approximation = Laplace(posterior, torch.tensor([2 / 3, 0.0]).double())  # exact for lines
>>> approximation.covariance().diagonal()
tensor([0.3333, 0.3333], dtype=torch.float64)
>>> mean, covariance = approximation.predict(torch.tensor([[3.0]]).double())
>>> print(f"{mean.item():.2f} {covariance.item():.2f}")  # (3² + 1) / 3
2.00 3.33

Source: MacKay (1992); Ritter, Botev & Barber, "A scalable Laplace approximation for neural
networks" (2018); Immer, Korzepa & Bauer, "Improving predictions of Bayesian neural nets via local
linearization" (2021); Daxberger et al., "Laplace redux" (2021).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from week24.net_posterior import Posterior

Prediction = tuple[Float[Tensor, "n c"], Float[Tensor, "n c c"]]


def ggn(
    posterior: Posterior, theta: Float[Tensor, " dim"], *, last_layer: bool = False
) -> Float[Tensor, "part part"]:
    """The generalized Gauss–Newton matrix of all rows' loss."""
    J = jacobian(posterior, theta, posterior.x, last_layer)
    curvature = posterior.likelihood.curvature(posterior.net(theta, posterior.x))
    return torch.einsum("ncp,ncq->pq", J, curvature @ J)


def jacobian(
    posterior: Posterior,
    theta: Float[Tensor, " dim"],
    x: Float[Tensor, "n d_in"],
    last_layer: bool,
) -> Float[Tensor, "n c part"]:
    """Derivatives of the outputs by all weights, or those of the last layer alone."""
    J = posterior.net.jacobian(theta, x)
    d_out, d_in = posterior.net.shapes[-1]
    return J[..., -d_out * d_in :] if last_layer else J


class Laplace:
    """Around the maximum `theta`, with all covariances of all weights, or of the last layer's.

    Attributes
    ----------
    precision
        P, the inverse of the covariance.
    log_evidence : float
        Of the data; with `last_layer`, given the other layers.
    """

    def __init__(
        self, posterior: Posterior, theta: Float[Tensor, " dim"], *, last_layer: bool = False
    ):
        self.posterior, self.theta, self.last_layer = posterior, theta, last_layer
        self.precision = ggn(posterior, theta, last_layer=last_layer)
        self.precision.diagonal().add_(posterior.prior_sd**-2)
        self._root = torch.linalg.cholesky(self.precision)
        self.log_evidence = log_evidence(
            posterior, theta, len(self.precision), 2 * self._root.diagonal().log().sum()
        )

    def covariance(self) -> Float[Tensor, "dim dim"]:
        """P⁻¹."""
        return torch.cholesky_inverse(self._root)

    def predict(self, x: Float[Tensor, "n d_in"]) -> Prediction:
        """Mean and covariance of the outputs of the net made linear at its maximum."""
        J = jacobian(self.posterior, self.theta, x, self.last_layer)
        half = torch.linalg.solve_triangular(self._root, J.flatten(0, 1).T, upper=False)
        half = half.T.reshape(J.shape)
        return self.posterior.net(self.theta, x), half @ half.mT


class KroneckerLaplace:
    """One Kronecker product per layer, in the basis of its factors' eigenvectors.

    There N A ⊗ G is diagonal, and adding the prior's I / s² is exact and free.
    """

    def __init__(self, posterior: Posterior, theta: Float[Tensor, " dim"]):
        self.posterior, self.theta = posterior, theta
        self.bases, log_det = [], torch.zeros((), dtype=theta.dtype)
        for A, G in kronecker_factors(posterior, theta):
            (a, in_a), (g, in_g) = torch.linalg.eigh(A), torch.linalg.eigh(G)
            precision = torch.outer(g, a) + posterior.prior_sd**-2
            log_det += precision.log().sum()
            self.bases.append((in_a, in_g, precision))
        self.log_evidence = log_evidence(posterior, theta, len(theta), log_det)

    def predict(self, x: Float[Tensor, "n d_in"]) -> Prediction:
        """As `Laplace.predict`: layers are independent, so their covariances add up."""
        total = torch.zeros(())
        terms = self.posterior.net.terms(self.theta, x)
        for (a, g), (in_a, in_g, precision) in zip(terms, self.bases, strict=True):
            spread = (a @ in_a).square() @ (1 / precision).T  # of each direction of g
            turned = g @ in_g
            total = total + torch.einsum("nco,no,ndo->ncd", turned, spread, turned)
        return self.posterior.net(self.theta, x), total


def kronecker_factors(
    posterior: Posterior, theta: Float[Tensor, " dim"]
) -> list[tuple[Float[Tensor, "d_in d_in"], Float[Tensor, "d_out d_out"]]]:
    """Per layer the mean of a aᵀ over rows, and the sum of gᵀ Λ g: their product is about the GGN.

    Equal to it for a single row, and wherever all rows have the same curvature behind the layer.
    """
    curvature = posterior.likelihood.curvature(posterior.net(theta, posterior.x))
    return [
        (a.T @ a / len(a), torch.einsum("nco,ncd,ndp->op", g, curvature, g))
        for a, g in posterior.net.terms(theta, posterior.x)
    ]


def log_evidence(
    posterior: Posterior, theta: Float[Tensor, " weights"], dim: int, log_det: Float[Tensor, ""]
) -> float:
    """Laplace's estimate from the log determinant of the precision of the last `dim` weights."""
    log_joint = posterior.log_joint(theta) - posterior.log_prior(theta[: len(theta) - dim])
    return float(log_joint + 0.5 * dim * math.log(2 * math.pi) - 0.5 * log_det)


def draw(
    prediction: Prediction, n_draws: int, generator: torch.Generator
) -> Float[Tensor, "draws n c"]:
    """Outputs of so many linear nets, row by row."""
    mean, covariance = prediction
    jitter = 1e-9 * torch.eye(mean.shape[-1], dtype=mean.dtype)  # a direction without doubt
    root = torch.linalg.cholesky(covariance + jitter)
    z = torch.randn(n_draws, *mean.shape, 1, generator=generator, dtype=mean.dtype)
    return mean + (root @ z)[..., 0]
