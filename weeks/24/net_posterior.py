r"""A net's weights as one vector, and the posterior that all of the week's approximations are of.

With a net $f_\theta$, rows $(x_i, y_i)$ and a normal prior,

$$\log p(\theta, y) = \sum_i \log p(y_i \mid f_\theta(x_i))
  + \log \mathcal N(\theta \mid 0, s^2 I) .$$

From a batch of $M$ rows out of $N$ it is estimated by the batch's sum times $N / M$. Only the
likelihood is multiplied; the prior is there once, however the rows are cut.

Weights of many nets go through as one tensor: leading axes of `theta` are nets.

>>> net = MLP(2, 3, 1)
>>> theta = net.start(5, torch.Generator().manual_seed(0))  # five nets of 3·3 + 4 numbers
>>> x = torch.zeros(4, 2, dtype=torch.float64)
>>> theta.shape, net(theta, x).shape, net.jacobian(theta[0], x).shape
(torch.Size([5, 13]), torch.Size([5, 4, 1]), torch.Size([4, 1, 13]))
>>> posterior = Posterior(net, Gaussian(0.1), x, x[:, 0], prior_sd=1.0)
>>> posterior.log_joint(theta).shape, posterior.gradient(theta).shape
(torch.Size([5]), torch.Size([5, 13]))

bayesian_nn.py comes next. Source: MacKay, "A practical Bayesian framework for backpropagation
networks" (1992); Neal, *Bayesian learning for neural networks* (1996).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from shared.require import require

Theta = Float[Tensor, "*nets dim"]
Masks = Sequence[Float[Tensor, "..."]]  # (*nets, rows, width) of each hidden layer


class MLP:
    """Layers with tanh between them; each is a matrix of (d_out, d_in + 1), its bias last.

    Parameters
    ----------
    sizes
        Inputs, widths, outputs: ``MLP(1, 10, 1)``. Without a width between it is a linear model.
    """

    def __init__(self, *sizes: int):
        must = "sizes must be two or more positive numbers"
        require(len(sizes) >= 2 and min(sizes) >= 1, must, sizes)
        self.sizes = sizes
        self.shapes = [(d_out, d_in + 1) for d_in, d_out in itertools.pairwise(sizes)]
        self.n_parameters = sum(a * b for a, b in self.shapes)

    def matrices(self, theta: Theta) -> list[Float[Tensor, "*nets d_out d_in"]]:
        """The vector cut into its layers."""
        parts = theta.split([a * b for a, b in self.shapes], dim=-1)
        return [p.unflatten(-1, shape) for p, shape in zip(parts, self.shapes, strict=True)]

    def __call__(
        self, theta: Theta, x: Float[Tensor, "*rows d_in"], masks: Masks | None = None
    ) -> Float[Tensor, "*all_nets n d_out"]:
        """Outputs of each net on each row.

        Parameters
        ----------
        x
            (n, d_in), or with the leading axes of `theta` where each net has rows of its own.
        masks
            One factor per hidden layer, row and unit: what dropout multiplies activations by.
        """
        for i, w in enumerate(self.matrices(theta)):
            if i:
                x = x.tanh() if masks is None else x.tanh() * masks[i - 1].to(x.dtype)
            x = x @ w[..., :-1].mT + w[..., None, :, -1]
        return x

    def terms(
        self, theta: Float[Tensor, " dim"], x: Float[Tensor, "n d_in"]
    ) -> list[tuple[Float[Tensor, "n d_in_1"], Float[Tensor, "n outputs d_out"]]]:
        """Per layer its inputs a, a last 1 for the bias, and g, the outputs' slopes behind it.

        An output's derivative by the layer's matrix is the outer product g aᵀ.
        """
        matrices, inputs = self.matrices(theta), [x]
        for w in matrices[:-1]:
            inputs.append((inputs[-1] @ w[:, :-1].T + w[:, -1]).tanh())
        g = torch.eye(self.sizes[-1], dtype=x.dtype).expand(len(x), -1, -1)
        found = []
        for a, w in zip(reversed(inputs), reversed(matrices), strict=True):
            found.append((F.pad(a, (0, 1), value=1.0), g))
            g = (g @ w[:, :-1]) * (1 - a**2)[:, None]  # tanh' = 1 - tanh²
        return found[::-1]

    def jacobian(
        self, theta: Float[Tensor, " dim"], x: Float[Tensor, "n d_in"]
    ) -> Float[Tensor, "n outputs dim"]:
        """Derivatives of each output of each row by all weights."""
        terms = self.terms(theta, x)
        return torch.cat([torch.einsum("nco,ni->ncoi", g, a).flatten(2) for a, g in terms], -1)

    def start(self, n: int, generator: torch.Generator) -> Float[Tensor, "n dim"]:
        """First weights of n nets: variance 1 / d_in, biases zero."""
        parts = []
        for d_out, d_in in self.shapes:
            w = torch.randn(n, d_out, d_in, generator=generator, dtype=torch.float64)
            w[..., -1] = 0
            parts.append((w / math.sqrt(d_in - 1)).flatten(1))
        return torch.cat(parts, -1)


# ---- likelihoods


@dataclass(frozen=True)
class Gaussian:
    """y = f + noise of known standard deviation; one output."""

    sd: float

    def log_prob(
        self, outputs: Float[Tensor, "*nets n 1"], y: Float[Tensor, "*rows n"]
    ) -> Float[Tensor, "*nets n"]:
        """Of each row, log p(y | outputs)."""
        z = (y - outputs[..., 0]) / self.sd
        return -0.5 * z**2 - math.log(self.sd * math.sqrt(2 * math.pi))

    def curvature(self, outputs: Float[Tensor, "n 1"]) -> Float[Tensor, "n 1 1"]:
        """1 / sd², wherever the outputs are."""
        return torch.full_like(outputs[..., None], self.sd**-2)


@dataclass(frozen=True)
class Categorical:
    """Classes by the softmax of the outputs."""

    def log_prob(
        self, outputs: Float[Tensor, "*nets n c"], y: Int[Tensor, "*rows n"]
    ) -> Float[Tensor, "*nets n"]:
        """log p(y | outputs) of each row."""
        log_p = outputs.log_softmax(-1)
        return log_p.gather(-1, y.expand(log_p.shape[:-1])[..., None])[..., 0]

    def curvature(self, outputs: Float[Tensor, "n c"]) -> Float[Tensor, "n c c"]:
        """diag(p) - p pᵀ; the label is not in it, so Hessian and Fisher information agree."""
        p = outputs.softmax(-1)
        return p.diag_embed() - p[:, :, None] * p[:, None, :]


# How targets come from outputs.
Likelihood = Gaussian | Categorical


# ---- the posterior


@dataclass(frozen=True)
class Posterior:
    """A net, its data, and a normal prior on each weight and bias alike."""

    net: MLP
    likelihood: Likelihood
    x: Float[Tensor, "n d_in"]
    y: Shaped[Tensor, " rows"]
    prior_sd: float

    def __post_init__(self):
        rows = f"y must have as many rows as x, {len(self.x)}"
        require(len(self.x) == len(self.y), rows, len(self.y))
        require(self.prior_sd > 0, "prior_sd must be positive", self.prior_sd)

    def log_prior(self, theta: Theta) -> Float[Tensor, "*nets"]:
        """log N(theta | 0, prior_sd² I)."""
        constant = math.log(self.prior_sd * math.sqrt(2 * math.pi))
        return -0.5 * (theta / self.prior_sd).square().sum(-1) - theta.shape[-1] * constant

    def log_joint(
        self,
        theta: Theta,
        rows: Int[Tensor, "*batches batch"] | None = None,
        masks: Masks | None = None,
    ) -> Float[Tensor, "*nets"]:
        """log p(theta, y), or its unbiased estimate from the rows named.

        Parameters
        ----------
        rows
            Of one batch for all nets, or of one for each; all rows by default.
        """
        x, y = (self.x, self.y) if rows is None else (self.x[rows], self.y[rows])
        log_likelihood = self.likelihood.log_prob(self.net(theta, x, masks), y).sum(-1)
        return len(self.x) / y.shape[-1] * log_likelihood + self.log_prior(theta)

    def gradient(
        self,
        theta: Theta,
        rows: Int[Tensor, "*batches batch"] | None = None,
        masks: Masks | None = None,
    ) -> Theta:
        """Of log p(theta, y) by theta, for each net its own."""
        theta = theta.detach().requires_grad_()
        return torch.autograd.grad(self.log_joint(theta, rows, masks).sum(), theta)[0]
