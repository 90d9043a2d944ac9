r"""Small digits for diffusion, and a judge of samples: a classifier and distances in its features.

With means $\mu$ and covariances $C$ of two sets of features, the Fréchet distance is

$$ \|\mu_1 - \mu_2\|^2 + \mathrm{tr}\big(C_1 + C_2 - 2 (C_1^{1/2} C_2 C_1^{1/2})^{1/2}\big) . $$

>>> data = split(0)
>>> data.x.shape, data.x_test.shape, data.x.min(), data.x.max()
(torch.Size([1297, 64]), torch.Size([500, 64]), tensor(-1.), tensor(1.))
>>> a = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.double)
>>> round(frechet_distance(a, a + 2), 6)  # moved by 2 in three dimensions
12.0

`uv run weeks/23/ddpm.py` and `uv run papers/2020-ddpm/reproduce.py` judge by it.
Source: Heusel and others (2017), section 4 of the appendix, with another classifier.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.datasets import digits
from shared.require import require
from week23.ddpm import train

__all__ = ["LEVELS", "Judge", "Split", "frechet_distance", "split"]

LEVELS = 17  # gray levels of the digits, 0 to 16


class Split(NamedTuple):
    """Rows to learn from and rows to judge by, pixels from -1 to 1."""

    x: Float[Tensor, "n 64"]
    y: Int[Tensor, " n"]
    x_test: Float[Tensor, "m 64"]
    y_test: Int[Tensor, " m"]


def split(seed: int, n_test: int = 500) -> Split:
    """The digits, so many of them kept apart, drawn by the seed."""
    found = digits()
    x = torch.from_numpy(found.images).float().flatten(1) / 8 - 1
    y = torch.from_numpy(found.labels)
    require(0 < n_test < len(y), f"n_test must be between 1 and {len(y) - 1}", n_test)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    a, b = order[n_test:], order[:n_test]
    return Split(x[a], y[a], x[b], y[b])


class Judge(nn.Module):
    """A classifier of clean digits; what its last hidden layer holds are features."""

    def __init__(self, generator: torch.Generator, *, width: int = 128, features: int = 32):
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, features), nn.Tanh()
        )
        self.head = nn.Linear(features, 10)
        for layer in (self.body[0], self.body[2], self.head):
            nn.init.kaiming_normal_(layer.weight, generator=generator)

    def forward(self, x: Float[Tensor, "n 64"]) -> Float[Tensor, "n 10"]:
        """Logits of the digits."""
        return self.head(self.body(x))

    @classmethod
    def trained(cls, data: Split, seed: int, *, steps: int = 400) -> "Judge":
        """A judge that has learned from the rows to learn from."""
        g = torch.Generator().manual_seed(seed)
        judge = cls(g)
        loss = lambda i: F.cross_entropy(judge(data.x[i]), data.y[i], reduction="none")  # noqa: E731
        train(judge, loss, len(data.x), steps=steps, generator=g)
        return judge.requires_grad_(False)

    def distance(self, a: Float[Tensor, "n 64"], b: Float[Tensor, "m 64"]) -> float:
        """The Fréchet distance of two sets of pictures, in features."""
        return frechet_distance(self.body(a).double(), self.body(b).double())


def frechet_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Squared distance of two sets of points, each taken for a Gaussian."""
    gap = a.mean(0) - b.mean(0)
    c1, c2 = a.T.cov(), b.T.cov()
    values, vectors = torch.linalg.eigh(c1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ c2 @ root).clamp(min=0).sqrt().sum()
    return float(gap.square().sum() + c1.trace() + c2.trace() - 2 * cross)
