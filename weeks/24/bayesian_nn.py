r"""Bayesian neural networks: predict with many nets, as likely as the data leave them.

One net gives one answer and no doubt. The posterior's answer is the mean over all nets,

$$p(y \mid x, \text{data}) = \int p(y \mid f_\theta(x))\; p(\theta \mid \text{data})\, d\theta
  \;\approx\; \frac1S \sum_s p(y \mid f_{\theta_s}(x)) ,$$

and what the nets disagree about is what the data do not say. Ways to find nets to average over:

* NUTS on the posterior itself, for nets of a few dozen weights (hmc_nuts.py);
* a normal law for each weight alone (bayes_by_backprop.py);
* a normal law around the best net, as wide as the curvature says (laplace.py);
* stochastic gradients with noise or with memory (stochastic_gradient_samplers.py);
* here: several best nets from different starts (a *deep ensemble*), and one net whose units keep
  being dropped in use (*MC dropout*).

>>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
>>> posterior = Posterior(MLP(1, 8, 1), Gaussian(0.1), x, x[:, 0].sin(), prior_sd=1.0)
>>> g = torch.Generator().manual_seed(0)
>>> ensemble = fit(posterior, posterior.net.start(5, g), steps=300, lr=0.03, generator=g)
>>> sd = posterior.net(ensemble, torch.tensor([[0.0], [4.0]]).double()).std(0)
>>> bool(sd[1] > 5 * sd[0])  # they disagree where they have seen nothing
True

    uv run weeks/24/bayesian_nn.py

Source: Lakshminarayanan, Pritzel & Blundell, "Simple and scalable predictive uncertainty estimation
using deep ensembles" (2017); Gal & Ghahramani, "Dropout as a Bayesian approximation" (2016).
"""

import math
from typing import no_type_check

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from shared.require import require
from week24.hmc import Target, Vector
from week24.net_posterior import MLP, Gaussian, Likelihood, Posterior, Theta

__all__ = ["MLP", "Gaussian", "Posterior", "dropout_masks", "fit", "log_predictive"]


# ---- nets to average over


def fit(
    posterior: Posterior,
    start: Theta,
    *,
    steps: int,
    lr: float,
    generator: torch.Generator,
    batch_size: int | None = None,
    dropout: float = 0.0,
) -> Theta:
    """Adam up the log joint, rate falling to zero: the most probable net of each start.

    Parameters
    ----------
    start
        First weights; each net has batches, and dropped units, of its own.
    batch_size
        Rows per step; all of them by default.
    dropout
        How likely each hidden unit is off, anew for each row and step.
    """
    theta = start.clone()
    optimizer = torch.optim.Adam([theta], lr=lr)
    n = len(posterior.x)
    for step in range(steps):
        rows, nets = None, theta.shape[:-1]
        if batch_size is not None:
            rows = torch.randint(n, (*nets, batch_size), generator=generator)
        masks = None
        if dropout:
            shape = (*nets, batch_size or n)
            masks = dropout_masks(posterior.net, dropout, shape, generator)
        theta.grad = -posterior.gradient(theta, rows, masks) / n
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.step()
    return theta


def dropout_masks(
    net: MLP, p: float, shape: tuple[int, ...], generator: torch.Generator
) -> list[Float[Tensor, "*shape width"]]:
    """Factors for each hidden layer: 0 with probability p, else 1 / (1 - p).

    Parameters
    ----------
    shape
        Nets and rows. With (draws, 1) all rows of a draw lose the same units: each draw is then one
        function, as a draw from a posterior would be.
    """
    require(0 <= p < 1, "p must be in [0, 1)", p)
    widths = net.sizes[1:-1]
    return [(torch.rand(*shape, w, generator=generator) >= p).double() / (1 - p) for w in widths]


# ---- what they say together; `outputs` are those of S nets


def log_predictive(
    likelihood: Likelihood, outputs: Float[Tensor, "s n c"], y: Shaped[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """Log of the mean probability: never of the mean output, nor the mean of the log."""
    return likelihood.log_prob(outputs, y).logsumexp(0) - math.log(len(outputs))


def doubt(outputs: Float[Tensor, "s n c"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Entropy of the mean probabilities, and how much of it is disagreement of the nets.

    The second is the information, in nats, that a label would give about which net is right:
    entropy of the mean minus mean of the entropies. Nets that agree on 50 % have none.
    """
    p = outputs.softmax(-1)
    total = torch.special.entr(p.mean(0)).sum(-1)
    return total, total - torch.special.entr(p).sum(-1).mean(0)


# ---- the posterior itself, for week 24's samplers


def regression_target(posterior: Posterior) -> Target:
    """Log joint of one hidden layer and one output, its gradient by hand, in NumPy.

    NUTS asks a hundred thousand times, and torch would spend that time on its own bookkeeping.
    """
    net, noise = posterior.net, posterior.likelihood
    one = len(net.sizes) == 3 and net.sizes[-1] == 1 and isinstance(noise, Gaussian)
    require(one, "posterior must be of one hidden layer, one output, normal noise", net.sizes)
    width = net.sizes[1]
    X = np.column_stack([posterior.x.numpy(), np.ones(len(posterior.x))])
    y, inner, precision = posterior.y.numpy(), width * X.shape[1], posterior.prior_sd**-2
    scale = noise.sd**-2

    @no_type_check
    def target(q: Vector) -> tuple[float, Vector]:
        w, v = q[:inner].reshape(width, -1), q[inner:]
        h = np.tanh(X @ w.T)
        error = y - h @ v[:-1] - v[-1]
        slope = -precision * q
        behind = scale * error  # of the outputs
        slope[inner:-1] += behind @ h
        slope[-1] += behind.sum()
        slope[:inner] += (((1 - h * h) * behind[:, None] * v[:-1]).T @ X).ravel()
        return -0.5 * float(scale * error.dot(error) + precision * q.dot(q)), slope

    return target


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
