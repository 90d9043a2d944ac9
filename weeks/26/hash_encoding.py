r"""Instant NGP's hash grid, small and on a CPU: features that are looked up instead of computed.

Space is cut into grids that get finer by a constant factor, from $N_1$ to $N_L$ cells along each
side. Each corner of a cell has a learned vector, a point takes the trilinear mean of its eight, and
a small network is told those of all levels. A fine grid has more corners than a table has rows, so
that corner $x$ reads row

$$ h(x) = (x_1 \pi_1 \oplus x_2 \pi_2 \oplus x_3 \pi_3) \bmod T , \qquad
   \pi = (1,\; 2654435761,\; 805459861) , $$

and corners that collide share a vector; where the table is large enough, each has its own.
**Occupancy**: a coarse grid remembers where density was seen, and the field is not asked elsewhere.

>>> spatial_hash(torch.tensor([[1, 0, 0], [3, 5, 7]]), 2**14)
tensor([   1, 1381])
>>> grid = HashGrid(
...     torch.Generator().manual_seed(0), n_levels=4, coarsest=4, finest=32, log2_size=10
... )
>>> grid.resolutions, grid.sizes
([4, 8, 16, 32], [125, 729, 1024, 1024])
>>> grid(torch.zeros(5, 3)).shape
torch.Size([5, 8])

    uv run weeks/26/hash_encoding.py

Source: Müller, Evans, Schied & Keller, "Instant neural graphics primitives with a multiresolution
hash encoding" (2022), section 3, equations 1 to 4, and section 5.4; the table sizes here are small.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from shared.arguments import checked
from shared.require import require
from week26.nerf import positional_encoding
from week26.volume_rendering import Field

__all__ = ["HashField", "HashGrid", "OccupancyGrid", "skip_empty", "spatial_hash"]

PRIMES = (1, 2654435761, 805459861)
Points = Float[Tensor, "n 3"]


@checked
def spatial_hash(corners: Int[Tensor, "*n 3"], size: int) -> Int[Tensor, " *n"]:
    """The row of a table with `size` rows, a power of two, that integer corners read."""
    require(size >= 1 and size & (size - 1) == 0, "size must be a power of two", size)
    x, y, z = (corners * torch.tensor(PRIMES)).unbind(-1)
    return (x ^ y ^ z) % size


class HashGrid(nn.Module):
    """Learned vectors on the corners of grids from coarse to fine, over the cube [-1, 1]³.

    Parameters
    ----------
    n_levels, n_features
        Grids, and numbers per corner.
    log2_size
        A grid has a table of at most two to this number of rows.
    coarsest, finest
        Cells along a side of the first and the last grid.
    """

    def __init__(
        self,
        generator: torch.Generator,
        *,
        n_levels: int = 8,
        n_features: int = 2,
        log2_size: int = 14,
        coarsest: int = 8,
        finest: int = 128,
    ):
        super().__init__()
        require(n_levels >= 2, "n_levels must be at least 2", n_levels)
        require(1 <= coarsest <= finest, "coarsest must be between 1 and finest", coarsest, finest)
        growth = (finest / coarsest) ** (1 / (n_levels - 1))
        self.resolutions = [int(coarsest * growth**i + 1e-9) for i in range(n_levels)]
        self.sizes = [min((n + 1) ** 3, 2**log2_size) for n in self.resolutions]
        self.hashed = [(n + 1) ** 3 > 2**log2_size for n in self.resolutions]
        # Corner (x, y, z) reads row x + (N + 1) y + (N + 1)² z of its own, or that of its hash.
        strides = [
            PRIMES if hashed else (1, n + 1, (n + 1) ** 2)
            for n, hashed in zip(self.resolutions, self.hashed, strict=True)
        ]
        starts = [sum(self.sizes[:i]) for i in range(n_levels)]
        for name, values in (
            ("cells", self.resolutions),
            ("strides", strides),
            ("rows", self.sizes),
            ("starts", starts),
            ("is_hashed", self.hashed),
        ):
            self.register_buffer(f"_{name}", torch.tensor(values), persistent=False)
        self.table = nn.Parameter(torch.empty(sum(self.sizes), n_features))
        nn.init.uniform_(self.table, -1e-4, 1e-4, generator=generator)

    def corners(
        self, points: Points
    ) -> tuple[Int[Tensor, "n levels 8"], Float[Tensor, "n levels 8"]]:
        """Rows of the common table and their trilinear shares."""
        place = (points[:, None] + 1) / 2 * self._cells[:, None]
        low = torch.minimum(place.floor(), self._cells[:, None] - 1).clamp(min=0)
        share = (place - low).clamp(0, 1)  # outside the cube: the nearest corner of its surface
        step = low.long() * self._strides
        x, y, z = torch.stack([step, step + self._strides], -1).unbind(2)  # (n, levels, 2) each
        x, y, z = x[..., None, None], y[..., None, :, None], z[..., None, None, :]
        hashed = (x ^ y ^ z) & (self._rows - 1)[:, None, None, None]
        row = torch.where(self._is_hashed[:, None, None, None], hashed, x + y + z)
        x, y, z = torch.stack([1 - share, share], -1).unbind(2)
        weights = x[..., None, None] * y[..., None, :, None] * z[..., None, None, :]
        return (row + self._starts[:, None, None, None]).flatten(2), weights.flatten(2)

    def forward(self, points: Points) -> Float[Tensor, "n encoded"]:
        """The vectors of all levels, side by side."""
        rows, weights = (part.flatten(0, 1) for part in self.corners(points))
        # One pass over memory: the eight rows are not written out before they are added.
        means = F.embedding_bag(rows, self.table, mode="sum", per_sample_weights=weights)
        return means.view(len(points), len(self.sizes) * self.table.shape[1])

    def by_level(self, points: Points) -> Float[Tensor, "n encoded"]:
        """The same, read one corner after the other."""
        parts = []
        for n, size, hashed, start in zip(
            self.resolutions, self.sizes, self.hashed, self._starts.tolist(), strict=True
        ):
            place = ((points + 1) / 2 * n).clamp(0, n)
            low, total = place.floor().clamp(max=n - 1).long(), 0.0
            for corner in torch.cartesian_prod(*[torch.arange(2)] * 3):
                at = low + corner
                share = (1 - (place - at).abs()).prod(-1, keepdim=True)
                dense = at @ torch.tensor([1, n + 1, (n + 1) ** 2])
                row = spatial_hash(at, size) if hashed else dense
                total = total + share * self.table[start + row]
            parts.append(total)
        return torch.cat(parts, -1)


class HashField(nn.Module):
    """A field: the grid, one hidden layer to the density, one more to the color."""

    def __init__(self, grid: HashGrid, generator: torch.Generator, *, d_hidden: int = 32):
        super().__init__()
        self.grid = grid
        d_grid, d_geometry, d_direction = len(grid.sizes) * grid.table.shape[1], 16, 15
        self.geometry = nn.Sequential(
            nn.Linear(d_grid, d_hidden), nn.ReLU(), nn.Linear(d_hidden, d_geometry)
        )
        self.color = nn.Sequential(
            nn.Linear(d_geometry + d_direction, d_hidden), nn.ReLU(), nn.Linear(d_hidden, 3)
        )
        for layer in (m for m in self.modules() if isinstance(m, nn.Linear)):
            nn.init.kaiming_uniform_(layer.weight, generator=generator, nonlinearity="relu")
            nn.init.zeros_(layer.bias)

    def forward(
        self, points: Points, directions: Points
    ) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
        """Density, the exponential of the first feature, and color, from 0 to 1."""
        h = self.geometry(self.grid(points))
        turned = positional_encoding(directions, 2)
        return h[:, 0].clamp(max=11).exp(), self.color(torch.cat([h, turned], -1)).sigmoid()


class OccupancyGrid:
    """Where density was seen lately; at first everywhere.

    Parameters
    ----------
    resolution
        Cells along a side of the cube [-1, 1]³.
    threshold
        The least density that counts.
    decay
        What is left of an old density at each update.
    """

    def __init__(self, resolution: int = 24, *, threshold: float = 1.0, decay: float = 0.8):
        require(resolution >= 1, "resolution must be at least 1", resolution)
        require(0 <= decay < 1, "decay must be in [0, 1)", decay)
        self.resolution, self.threshold, self.decay = resolution, threshold, decay
        self.density = torch.full((resolution**3,), math.inf)

    def cell(self, points: Points) -> Int[Tensor, " n"]:
        """The number of the cell that each point is in."""
        n = self.resolution
        x, y, z = ((points + 1) / 2 * n).long().clamp(0, n - 1).unbind(-1)
        return (x * n + y) * n + z

    @torch.no_grad()
    def update(self, field: Field, generator: torch.Generator) -> None:
        """Ask the field at a random point of each cell; old densities fade."""
        n, index = self.resolution, torch.arange(self.resolution**3)
        corner = torch.stack([index // n**2, index // n % n, index % n], -1)
        points = (corner + torch.rand(n**3, 3, generator=generator)) * 2 / n - 1
        away = F.normalize(points, dim=-1)  # density is the same in every direction
        faded = torch.where(self.density.isfinite(), self.density * self.decay, 0.0)
        self.density = torch.maximum(faded, field(points, away)[0])

    def occupied(self, points: Points) -> Bool[Tensor, " n"]:
        """Whether each point lies in a cell that counts."""
        return self.density[self.cell(points)] > self.threshold

    @property
    def share(self) -> float:
        """The occupied part of the cube."""
        return float((self.density > self.threshold).float().mean())


def skip_empty(field: Field, occupancy: OccupancyGrid) -> Field:
    """The field where something is, and nothing elsewhere, without asking."""

    def sparse(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        full = occupancy.occupied(points).nonzero()[:, 0]
        density, color = field(points[full], directions[full])
        zeros = points.new_zeros(len(points))
        return zeros.index_add(0, full, density), torch.zeros_like(points).index_add(0, full, color)

    return sparse


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
