r"""Variational autoencoders: a bound on ln p(x), and a network that makes it tight.

A latent $z \sim N(0, I)$ is decoded into the parameters of $p(x \mid z)$; the likelihood
$p(x) = \int p(x \mid z)\, p(z)\, dz$ cannot be computed. With $q(z \mid x) = N(\mu(x),
\mathrm{diag}\, \sigma^2(x))$ from an encoder,

$$\ln p(x) - \mathrm{KL}(q \,\|\, p(z \mid x))
  = \underbrace{\mathbb{E}_q \ln \frac{p(x, z)}{q(z \mid x)}}_{\text{log weights}}
  = \underbrace{\mathbb{E}_q \ln p(x \mid z)}_{\text{reconstruction}}
    - \beta\, \mathrm{KL}(q \,\|\, p(z)), \qquad \beta = 1 ,$$

the evidence lower bound (ELBO). The expectation is over noise that no parameter touches,
$z = \mu + \sigma \varepsilon$, so its gradient is the mean of gradients. Averaging $K$ *weights*
before the logarithm bounds more tightly: $\mathbb{E} \ln \frac1K \sum_k w_k \le \ln p(x)$.

>>> mean, log_variance = torch.tensor([[1.0, 0.0]]), torch.zeros(1, 2)
>>> gaussian_kl(mean, log_variance)  # half the squared distance, where the variances agree
tensor([0.5000])
>>> log_w = torch.tensor([[0.0], [2.0]])  # two log weights of one x
>>> log_w.mean(0), iwae_bound(log_w)
(tensor([1.]), tensor([1.4338]))

    uv run weeks/22/vae.py

Source: Kingma & Welling, "Auto-encoding variational Bayes" (2014), equations 3, 7 and 10; Burda,
Grosse & Salakhutdinov, "Importance weighted autoencoders" (2016), equation 8; Tipping & Bishop,
"Probabilistic principal component analysis" (1999), equations 7 and 8.
"""

import math
from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require

# ---- the two terms


@checked
def gaussian_kl(
    mean: Float[Tensor, "*batch d"], log_variance: Float[Tensor, "*batch d"]
) -> Float[Tensor, "*batch"]:
    """KL(N(mean, variance) ‖ N(0, I)) in nats, summed over the dimensions.

    References
    ----------
    Kingma & Welling (2014), appendix B.
    """
    return 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(-1)


@checked
def log_normal(
    x: Float[Tensor, "*batch d"],
    mean: Float[Tensor, "..."] | float,
    log_variance: Float[Tensor, "..."],
) -> Float[Tensor, "*batch"]:
    """Log density of a diagonal Gaussian; mean and log variance are broadcast against x."""
    squared = (x - mean) ** 2 / log_variance.exp()
    return -0.5 * (squared + log_variance + math.log(2 * math.pi)).sum(-1)


@checked
def reparameterize(
    mean: Float[Tensor, "batch d"],
    log_variance: Float[Tensor, "batch d"],
    noise: Float[Tensor, "*samples batch d"],
) -> Float[Tensor, "*samples batch d"]:
    """Samples of q as a function of its parameters and of noise that does not depend on them."""
    return mean + (0.5 * log_variance).exp() * noise


# ---- models


class VAE(nn.Module):
    """An encoder of one hidden layer, and a decoder of one.

    Parameters
    ----------
    n_features, n_latents, width
        Sizes of x, z and the hidden layers.
    generator
        Source of the initial weights.
    likelihood
        ``gaussian`` with a variance per feature that is learned, or ``bernoulli`` for x in {0, 1}.
    """

    def __init__(
        self,
        n_features: int,
        n_latents: int,
        generator: torch.Generator | None = None,
        *,
        width: int = 128,
        likelihood: str = "gaussian",
    ):
        super().__init__()
        require(n_latents >= 1, "n_latents must be at least 1", n_latents)
        known = likelihood in ("gaussian", "bernoulli")
        require(known, "likelihood must be gaussian or bernoulli", likelihood)
        self.n_latents, self.likelihood = n_latents, likelihood
        self.encoder = nn.Sequential(
            nn.Linear(n_features, width), nn.Tanh(), nn.Linear(width, 2 * n_latents)
        )
        self.decoder = nn.Sequential(
            nn.Linear(n_latents, width), nn.Tanh(), nn.Linear(width, n_features)
        )
        self.log_variance = nn.Parameter(torch.zeros(n_features))
        initialize(self, generator)

    def encode(self, x: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x), (batch, n_latents) each."""
        return self.encoder(x).chunk(2, dim=-1)

    def log_likelihood(
        self, x: Float[Tensor, "batch n"], z: Float[Tensor, "samples batch d"]
    ) -> Float[Tensor, "samples batch"]:
        """Log p(x | z): summed over features, never averaged, or the KL would weigh n times."""
        output = self.decoder(z)
        if self.likelihood == "bernoulli":
            target = x.expand_as(output)
            loss = nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")
            return -loss.sum(-1)
        return log_normal(x.expand_as(output), output, self.log_variance)


def initialize(model: nn.Module, generator: torch.Generator | None) -> None:
    """Glorot's uniform weights, and biases of zero."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter, generator=generator)
        else:
            nn.init.zeros_(parameter)


class LinearVAE(VAE):
    """x = W z + b + noise of one variance; q's mean is linear in x, its variance constant.

    Everything about it is known in closed form: its best fit is probabilistic PCA.
    """

    def __init__(self, n_features: int, n_latents: int, generator: torch.Generator | None = None):
        super().__init__(n_features, n_latents, generator)
        self.encoder = nn.Linear(n_features, n_latents)
        self.decoder = nn.Linear(n_latents, n_features)
        self.posterior_log_variance = nn.Parameter(torch.zeros(n_latents))
        self.log_variance = nn.Parameter(torch.zeros(1))
        initialize(self, generator)

    def encode(self, x: Float[Tensor, "batch n"]) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z | x)."""
        mean = self.encoder(x)
        return mean, self.posterior_log_variance.expand_as(mean)

    def exact_elbo(self, x: Float[Tensor, "batch n"], beta: float = 1.0) -> Float[Tensor, "batch"]:
        """The ELBO without samples: E|x - Wz - b|² = |x - W mean - b|² + Σ_j variance_j |W_j|²."""
        mean, log_variance = self.encode(x)
        squared_columns = (self.decoder.weight**2).sum(0)
        spread = (log_variance.exp() * squared_columns).sum(-1)
        fit = log_normal(x, self.decoder(mean), self.log_variance)
        return fit - 0.5 * spread / self.log_variance.exp() - beta * gaussian_kl(mean, log_variance)

    def log_evidence(self, x: Float[Tensor, "batch n"]) -> Float[Tensor, "batch"]:
        """Log p(x) itself: x ~ N(b, W Wᵀ + variance I)."""
        w = self.decoder.weight
        noise = self.log_variance.exp() * torch.eye(len(w), dtype=w.dtype)
        return torch.distributions.MultivariateNormal(self.decoder.bias, w @ w.T + noise).log_prob(
            x
        )


# ---- bounds


def elbo(
    model: VAE,
    x: Float[Tensor, "batch n"],
    noise: Float[Tensor, "samples batch d"],
    beta: float = 1.0,
) -> Float[Tensor, "batch"]:
    """Reconstruction averaged over the samples, minus β times the KL in closed form.

    References
    ----------
    Kingma & Welling (2014), equation 7; β: Higgins et al. (2017).
    """
    require(beta >= 0, "beta must be at least 0", beta)
    mean, log_variance = model.encode(x)
    z = reparameterize(mean, log_variance, noise)
    return model.log_likelihood(x, z).mean(0) - beta * gaussian_kl(mean, log_variance)


def log_weights(
    model: VAE, x: Float[Tensor, "batch n"], noise: Float[Tensor, "samples batch d"]
) -> Float[Tensor, "samples batch"]:
    """Log p(x, z) / q(z | x) of each sample: their mean is the ELBO, by the other decomposition."""
    mean, log_variance = model.encode(x)
    z = reparameterize(mean, log_variance, noise)
    prior = log_normal(z, 0.0, torch.zeros_like(mean))
    return model.log_likelihood(x, z) + prior - log_normal(z, mean, log_variance)


@checked
def iwae_bound(log_w: Float[Tensor, "samples *batch"]) -> Float[Tensor, "*batch"]:
    """The log of the mean weight; with one sample, the ELBO.

    References
    ----------
    Burda et al. (2016), equation 8.
    """
    require(len(log_w) >= 1, "log_w must hold at least one sample, got none")
    return log_w.logsumexp(0) - math.log(len(log_w))


def train(
    model: VAE,
    batches: Iterable[Float[Tensor, "batch n"]],
    *,
    lr: float = 3e-3,
    beta: float = 1.0,
    n_samples: int = 1,
    importance: bool = False,
    generator: torch.Generator | None = None,
) -> list[float]:
    """One step of Adam per batch on the bound; gives the bound at each step, in nats per row."""
    optimizer, bounds = torch.optim.Adam(model.parameters(), lr=lr), []
    for x in batches:
        shape = n_samples, len(x), model.n_latents
        noise = torch.randn(shape, generator=generator, dtype=x.dtype)
        if importance:
            bound = iwae_bound(log_weights(model, x, noise)).mean()
        else:
            bound = elbo(model, x, noise, beta).mean()
        optimizer.zero_grad()
        (-bound).backward()
        optimizer.step()
        bounds.append(float(bound.detach()))
    return bounds


# ---- two gradients of one expectation


def pathwise_gradients(
    f: Callable[[Tensor], Tensor],
    mean: Float[Tensor, "d"],
    log_variance: Float[Tensor, "d"],
    noise: Float[Tensor, "n d"],
) -> Float[Tensor, "n 2 d"]:
    """∇ E f(z), z = μ + σε, for μ and ln σ²: ∇f(z) and ∇f(z) σε / 2, one row per sample."""
    sigma = (0.5 * log_variance).exp()
    z = (mean + sigma * noise).detach().requires_grad_()
    (slope,) = torch.autograd.grad(f(z).sum(), z)
    return torch.stack([slope, 0.5 * slope * sigma * noise], dim=1)


def score_gradients(
    f: Callable[[Tensor], Tensor],
    mean: Float[Tensor, "d"],
    log_variance: Float[Tensor, "d"],
    noise: Float[Tensor, "n d"],
) -> Float[Tensor, "n 2 d"]:
    """∇ E f(z) as E f(z) ∇ ln q(z): ∇ ln q is ε/σ for μ and (ε² - 1)/2 for ln σ²."""
    sigma = (0.5 * log_variance).exp()
    value = f(mean + sigma * noise)[:, None, None]
    return value * torch.stack([noise / sigma, 0.5 * (noise**2 - 1)], dim=1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
