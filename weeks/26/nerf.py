r"""NeRF in a unit cube: a scene is a network that tells density and color of a point.

A network that is given coordinates learns smooth functions first. NeRF tells it each coordinate by
waves of doubling frequency,

$$ \gamma(p) = \left( \sin 2^0 \pi p,\, \cos 2^0 \pi p,\, \ldots,\,
   \sin 2^{L-1} \pi p,\, \cos 2^{L-1} \pi p \right) , $$

and compares [volume-rendered](volume_rendering.py) pictures with photographs. Density may not
depend on the direction of view, color may: that is why views agree on the shape.

>>> positional_encoding(torch.tensor([[0.125]]), 2)
tensor([[0.1250, 0.3827, 0.7071, 0.9239, 0.7071]])
>>> field = NeRF(torch.Generator().manual_seed(0))
>>> sum(p.numel() for p in field.parameters())
595844

    uv run weeks/26/nerf.py

Reduced: one network plays the coarse and the fine part, the scene fills a cube, and pictures are
small.

Sources: Mildenhall et al., "NeRF: representing scenes as neural radiance fields for view synthesis"
(2020), equation 4, section 5.2, appendix A; the authors' code (github.com/bmild/nerf).
"""

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared.arguments import checked
from shared.images import Views
from shared.require import require
from week26.volume_rendering import Rays, rays_of, render

__all__ = ["NeRF", "positional_encoding", "train"]

DENSITY = 25.0  # a unit of the network's output; a cube of size 2 needs tens to be opaque


@checked
def positional_encoding(
    x: Float[Tensor, "*n d"], n_frequencies: int
) -> Float[Tensor, "*n encoded"]:
    """x, then sin and cos of 2ᵏπx for k below n_frequencies (equation 4; x as in their code)."""
    require(n_frequencies >= 0, "n_frequencies must be at least 0", n_frequencies)
    octaves = math.pi * 2.0 ** torch.arange(n_frequencies, dtype=x.dtype)
    angles = (x[..., None] * octaves).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


class NeRF(nn.Module):
    """The field as an MLP; the color alone is told the direction.

    Parameters
    ----------
    d_hidden, n_layers
        Width and number of layers before the density, 256 and 8 in the paper.
    position_frequencies, direction_frequencies
        Octaves of the encodings, 10 and 4 in the paper.
    skip
        The layer, counted from 0, that is given the encoded position again; 5 in the paper.
    sees_direction
        False: the color is the same from everywhere.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        d_hidden: int = 256,
        n_layers: int = 8,
        position_frequencies: int = 10,
        direction_frequencies: int = 4,
        skip: int = 5,
        sees_direction: bool = True,
    ):
        super().__init__()
        require(0 < skip < n_layers, f"skip must be between 1 and {n_layers - 1}", skip)
        self.frequencies = position_frequencies, direction_frequencies
        self.skip, self.sees_direction = skip, sees_direction
        encoded, turned = (3 * (1 + 2 * n) for n in self.frequencies)
        widths = [encoded] + [d_hidden + encoded * (i == skip) for i in range(1, n_layers)]
        self.layers = nn.ModuleList(nn.Linear(width, d_hidden) for width in widths)
        self.density = nn.Linear(d_hidden, 1)
        self.feature = nn.Linear(d_hidden, d_hidden)
        self.shade = nn.Linear(d_hidden + turned * sees_direction, d_hidden // 2)
        self.color = nn.Linear(d_hidden // 2, 3)
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, generator=generator, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def encode(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n encoded"]:
        """What the first layer is told about points."""
        return positional_encoding(points, self.frequencies[0])

    def forward(
        self, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density, at least 0, and color, from 0 to 1."""
        encoded = h = self.encode(points)
        for i, layer in enumerate(self.layers):
            h = F.relu(layer(torch.cat([encoded, h], -1) if i == self.skip else h))
        density = DENSITY * F.softplus(self.density(h) - 1)
        feature = self.feature(h)
        if self.sees_direction:
            turned = positional_encoding(directions, self.frequencies[1])
            feature = torch.cat([feature, turned], -1)
        return density[:, 0], self.color(F.relu(self.shade(feature))).sigmoid()


def train(
    field: nn.Module,
    views: Views,
    *,
    steps: Sequence[int],
    generator: torch.Generator,
    batch_size: int = 256,
    lr: float = 5e-3,
    after: Callable[[int], None] = lambda step: None,
    **samples: int,
) -> list[float]:
    """Adam on the squared error of random pixels; the losses. `samples` go to `render`."""
    rays, pixels = rays_of(views), torch.as_tensor(views.images).reshape(-1, 3)
    optimizer, losses = torch.optim.Adam(field.parameters(), lr, eps=1e-15), []
    total = len(steps)
    for step in steps:
        optimizer.param_groups[0]["lr"] = lr * 0.1 ** (step / total)
        i = torch.randint(len(pixels), (batch_size,), generator=generator)
        batch = Rays(rays.origins[i], rays.directions[i])
        found = render(field, batch, generator=generator, **samples).color
        loss = F.mse_loss(found, pixels[i])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        after(step)
        losses.append(float(loss.detach()))
    return losses


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
