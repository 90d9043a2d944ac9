r"""Score matching: learn where the log-density rises, with no density at hand.

The score $s(x) = \nabla \log p(x)$ knows nothing of the normalizing constant. The distance
$\tfrac12 E \|s_\theta - \nabla \log p\|^2$ cannot be computed from data, but three losses differ
from it by constants:

$$ \text{explicit} \quad E\big[\mathrm{tr}\, \nabla s_\theta + \tfrac12 \|s_\theta\|^2\big],
   \qquad \text{sliced} \quad
   E\big[v^\top \nabla (v^\top s_\theta) + \tfrac12 \|s_\theta\|^2\big], \qquad
   \text{denoising} \quad \tfrac12 E \Big\|s_\theta(\tilde x) + \frac{\tilde x - x}{\sigma^2}
   \Big\|^2 , $$

the last one from the score of the *noised* data $\tilde x = x + \sigma \epsilon$. A score is
enough to draw samples: Langevin dynamics $x \leftarrow x + \tfrac{\eta}{2} s(x) + \sqrt{\eta}\, z$.
Between modes far apart it does not mix, and their weights come out wrong; **annealed** from much
noise to little they come out right.

>>> data = Mixture(torch.tensor([0.2, 0.8]), 5 * torch.tensor([[-1.0], [1.0]]), torch.ones(2))
>>> x = data.sample(1000, torch.Generator().manual_seed(0))
>>> bool(explicit(data.score, x).mean() < explicit(lambda x: -x, x).mean())
True
>>> start = 8 * torch.rand(1000, 1, generator=torch.Generator().manual_seed(1)) - 4
>>> plain = langevin(data.score, start, steps=500, rate=0.1)
>>> (plain > 0).float().mean()  # half of them should have been 0.8
tensor(0.5170)

    uv run weeks/23/score_matching.py

Sources: Hyvärinen (2005), theorem 1; Vincent (2011), section 4; Song, Garg, Shi & Ermon, "Sliced
score matching" (2019), equation 8; Song & Ermon, "Generative modeling by estimating gradients of
the data distribution" (2019), equations 5 and 6, algorithm 1.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week23.mixtures import Mixture

__all__ = [
    "Mixture",
    "NoisyScore",
    "ScoreNet",
    "annealed_langevin",
    "denoising",
    "explicit",
    "fit",
    "langevin",
    "noise_levels",
    "sliced",
]

Score = Callable[[Float[Tensor, "n d"]], Float[Tensor, "n d"]]
NoisyScore = Callable[[Float[Tensor, "n d"], Float[Tensor, "n 1"]], Float[Tensor, "n d"]]


def explicit(score: Score, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Trace of the score's Jacobian plus half its square: one backward pass per dimension.

    References
    ----------
    Hyvärinen (2005), equation 4.
    """
    x = x.detach().requires_grad_()
    s = score(x)
    slopes = [
        torch.autograd.grad(s[:, i].sum(), x, create_graph=True)[0] for i in range(x.shape[1])
    ]
    trace = sum(slope[:, i] for i, slope in enumerate(slopes))
    return trace + s.square().sum(-1) / 2


def sliced(score: Score, x: Float[Tensor, "n d"], v: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """The trace along one direction per row: one backward pass whatever the dimension.

    Parameters
    ----------
    v
        Directions with E[v vᵀ] = I, such as random signs.

    References
    ----------
    Song et al. (2019), equation 8, with the norm taken in closed form.
    """
    x = x.detach().requires_grad_()
    s = score(x)
    slope = torch.autograd.grad((s * v).sum(), x, create_graph=True)[0]
    return (slope * v).sum(-1) + s.square().sum(-1) / 2


def denoising(
    score: Score, x: Float[Tensor, "n d"], noise: Float[Tensor, "n d"], sigma: float | Tensor
) -> Float[Tensor, " n"]:
    """Half the squared distance from -(x̃ - x) / σ², times σ²: no derivative at all.

    The target grows as 1/σ, so that without the factor the smallest noise would drown the rest.

    References
    ----------
    Vincent (2011), section 4.2; Song & Ermon (2019), equations 5 and 6.
    """
    return (sigma * score(x + sigma * noise) + noise).square().sum(-1) / 2


class ScoreNet(nn.Module):
    """A small network for the scores at all levels of noise.

    It is divided by σ, as the score of the noised data is by and large, so that what the layers
    give has about size 1 at each level.
    """

    def __init__(self, d: int, width: int, generator: torch.Generator):
        super().__init__()
        sizes = (d + 1, width, width, d)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
        for layer in layers:
            nn.init.normal_(layer.weight, std=layer.in_features**-0.5, generator=generator)
            nn.init.zeros_(layer.bias)
        self.layers = nn.Sequential(layers[0], nn.SiLU(), layers[1], nn.SiLU(), layers[2])

    def forward(self, x: Float[Tensor, "n d"], sigma: Float[Tensor, "n 1"]) -> Float[Tensor, "n d"]:
        """The score of the noised data at x."""
        return self.layers(torch.cat([x, sigma.log()], -1)) / sigma


def fit(
    module: nn.Module, loss: Callable[[], Float[Tensor, ""]], *, steps: int, lr: float = 3e-3
) -> list[float]:
    """Adam on what of the module takes gradients; the rate falls to zero. Gives the losses."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer, losses = torch.optim.Adam(parameters, lr=lr, fused=True), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimizer.zero_grad()
        value = loss()
        value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def noise_levels(largest: float, smallest: float, n: int) -> list[float]:
    """Levels that fall by the same factor."""
    require(0 < smallest <= largest, "smallest must be in (0, largest]", smallest)
    require(n >= 2, "n must be at least 2", n)
    return [largest * (smallest / largest) ** (i / (n - 1)) for i in range(n)]


@torch.no_grad()
def langevin(
    score: Score,
    x: Float[Tensor, "n d"],
    *,
    steps: int,
    rate: float,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """So many steps of Langevin dynamics, of size `rate`; right as it goes to 0 and steps to ∞.

    References
    ----------
    Song & Ermon (2019), equation 4.
    """
    require(rate > 0, "rate must be positive", rate)
    g = torch.Generator().manual_seed(0) if generator is None else generator
    for _ in range(steps):
        noise = torch.empty_like(x).normal_(generator=g)
        x = x + rate / 2 * score(x) + math.sqrt(rate) * noise
    return x


def annealed_langevin(
    score: NoisyScore,
    x: Float[Tensor, "n d"],
    sigmas: Sequence[float],
    *,
    steps: int,
    rate: float = 0.1,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "n d"]:
    """Langevin dynamics at each level of noise, from the largest to the smallest.

    Parameters
    ----------
    steps, rate
        Steps per level, and their size in units of σ²: signal and noise of a step keep their ratio.

    References
    ----------
    Song & Ermon (2019), algorithm 1, where the unit is the smallest σ².
    """
    falls = all(a > b for a, b in itertools.pairwise(sigmas))
    require(falls, "sigmas must fall", list(sigmas))
    g = torch.Generator().manual_seed(0) if generator is None else generator
    for sigma in sigmas:
        level = torch.full_like(x[:, :1], sigma)
        at_level = lambda x, level=level: score(x, level)  # noqa: E731
        x = langevin(at_level, x, steps=steps, rate=rate * sigma**2, generator=g)
    return x


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
