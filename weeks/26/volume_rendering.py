r"""Volume rendering: what light is left of a ray, and where it came from.

A field gives each point a density $\sigma$ and a color $c$, which may depend on where one looks
from. Along a ray $r(t) = o + t d$ light survives with the transmittance $T$, and a picture is

$$ C = \int T(t)\, \sigma(r(t))\, c(r(t), d)\, \lVert d \rVert\, dt , \qquad
   T(t) = \exp\Big( -\int_{t_n}^t \sigma(r(s)) \lVert d \rVert\, ds \Big) . $$

With both constant between samples and $\delta_i = (t_{i+1} - t_i) \lVert d \rVert$, this is

$$ C = \sum_i w_i c_i , \quad w_i = T_i \left(1 - e^{-\sigma_i \delta_i}\right) , \quad
   T_i = \exp\Big( -\sum_{j < i} \sigma_j \delta_j \Big) , $$

and what is left behind the last sample, $1 - \sum_i w_i$, sees the background.

>>> density, lengths = torch.tensor([[2.0, 0.0, 3.0]]), torch.tensor([[0.5, 1.0, 2.0]])
>>> weights, left = quadrature_weights(density, lengths)
>>> weights, left, torch.exp(torch.tensor([-7.0]))
(tensor([[0.6321, 0.0000, 0.3670]]), tensor([0.0009]), tensor([0.0009]))
>>> sample_pdf(torch.tensor([[0.0, 1.0, 2.0]]), torch.tensor([[1.0, 3.0]]), 4)
tensor([[0.5000, 1.1667, 1.5000, 1.8333]])

    uv run weeks/26/volume_rendering.py

Conventions: a pose carries camera to world, the camera looks along its own -z with y up, and pixel
(row, column) is the square around (row + 1/2, column + 1/2). Reduced: the scene lies in [-1, 1]³,
and rays begin and end at that cube.

Sources: Mildenhall et al., "NeRF" (2020), equations 1 to 3 and 5; Tagliasacchi & Mildenhall,
"Volume rendering digest (for NeRF)" (2022).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from shared.arguments import checked
from shared.images import Views
from shared.require import require

__all__ = [
    "Field",
    "Rays",
    "Rendered",
    "box_bounds",
    "camera_rays",
    "interval_lengths",
    "march",
    "picture",
    "quadrature_weights",
    "rays_of",
    "render",
    "sample_pdf",
    "stratified",
]

# Points and unit directions, (n, 3) each, to densities (n,) and colors (n, 3).
Field = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
PerRay = Float[Tensor, " rays"]
Vectors = Float[Tensor, "rays 3"]
Samples = Float[Tensor, "rays n"]


class Rays(NamedTuple):
    """Where rays begin and where they go, (rays, 3) each; directions need not have length 1."""

    origins: Tensor
    directions: Tensor


class Rendered(NamedTuple):
    """Colors (rays, 3), distances (rays,) in units of t, and the weights (rays, n) of samples."""

    color: Tensor
    depth: Tensor
    weights: Tensor


# ---- rays and samples


@checked
def camera_rays(pose: Float[Tensor, "4 4"], height: int, width: int, focal: float) -> Rays:
    """A ray through the center of each pixel, row by row; one unit of t is one unit of depth."""
    require(focal > 0, "focal must be positive", focal)
    row, column = torch.meshgrid(
        torch.arange(height, dtype=pose.dtype) + 0.5,
        torch.arange(width, dtype=pose.dtype) + 0.5,
        indexing="ij",
    )
    x, y = (column - width / 2) / focal, (height / 2 - row) / focal  # rows count downwards
    local = torch.stack([x, y, -torch.ones_like(x)], -1).view(-1, 3)
    return Rays(pose[:3, 3].expand(len(local), 3), local @ pose[:3, :3].T)


@checked
def box_bounds(origins: Vectors, directions: Vectors) -> tuple[PerRay, PerRay]:
    """Where each ray enters and leaves the cube [-1, 1]³; the same t twice if it misses."""
    safe = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    first, second = (-1 - origins) / safe, (1 - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    return near, torch.maximum(near, far)


@checked
def stratified(
    near: PerRay, far: PerRay, n: int, generator: torch.Generator | None = None
) -> Samples:
    """One sample in each of n equal bins: anywhere in it, or in its middle without a generator."""
    require(n >= 1, "n must be at least 1", n)
    shape = (len(near), n)
    u = torch.rand(shape, generator=generator, dtype=near.dtype) if generator else 0.5
    place = (torch.arange(n, dtype=near.dtype) + u) / n
    return near[:, None] + (far - near)[:, None] * place


@checked
def sample_pdf(
    edges: Float[Tensor, "rays edges"],
    weights: Float[Tensor, "rays bins"],
    n: int,
    generator: torch.Generator | None = None,
) -> Samples:
    """Samples of a density that is constant within bins, sorted: quantiles through the inverse CDF.

    Each of n equal parts of the probability gets one, anywhere in it or in its middle. Weights need
    not add up to one; if all are zero, bins count by their number.
    """
    bins = weights.shape[1]
    require(edges.shape[1] == bins + 1, "edges must be one more than bins", *edges.shape[1:], bins)
    weights = torch.where(weights.sum(-1, keepdim=True) > 0, weights, 1.0)
    cdf = F.pad((weights / weights.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    u = stratified(torch.zeros_like(cdf[:, 0]), cdf[:, -1], n, generator).contiguous()
    right = torch.searchsorted(cdf, u, right=True).clamp(1, bins)
    low, high = cdf.gather(1, right - 1), cdf.gather(1, right)
    share = ((u - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    left, end = edges.gather(1, right - 1), edges.gather(1, right)
    return left + share * (end - left)


# ---- the integral


@checked
def interval_lengths(t: Samples, directions: Vectors, far: PerRay) -> Samples:
    """How long the light travels from each sample to the next, the last one to `far`.

    t counts directions, not meters: a direction of twice the length has half the t.
    """
    return torch.cat([t, far[:, None]], -1).diff(dim=-1) * directions.norm(dim=-1, keepdim=True)


@checked
def quadrature_weights(density: Samples, lengths: Samples) -> tuple[Samples, PerRay]:
    """How much of a ray's light each interval sends, and how much comes from behind them all.

    Exact where density is constant within each interval. For a wall behind everything give the last
    interval a length such as 1e10 (not inf: times a density of 0 that is no number).
    """
    optical = density * lengths
    # Exclusive: an interval does not shade itself. (Its own taken off again would leave nothing
    # of the others beside a wall's 1e10.)
    before = F.pad(optical.cumsum(-1)[..., :-1], (1, 0))
    return torch.exp(-before) * -torch.expm1(-optical), torch.exp(-optical.sum(-1))


def march(
    field: Field, rays: Rays, t: Samples, far: PerRay, background: float | Tensor = 1.0
) -> Rendered:
    """The quadrature along rays with samples at t."""
    points = rays.origins[:, None] + t[..., None] * rays.directions[:, None]
    seen_along = F.normalize(rays.directions, dim=-1)[:, None].expand_as(points)
    density, color = field(points.reshape(-1, 3), seen_along.reshape(-1, 3))
    lengths = interval_lengths(t, rays.directions, far)
    weights, left = quadrature_weights(density.view(t.shape), lengths)
    color = (weights[..., None] * color.view(*t.shape, 3)).sum(1) + left[:, None] * background
    return Rendered(color, (weights * t).sum(-1) + left * far, weights)


def render(
    field: Field,
    rays: Rays,
    *,
    n_coarse: int,
    n_fine: int = 0,
    generator: torch.Generator | None = None,
    background: float = 1.0,
) -> Rendered:
    """Light along rays: even samples, and n_fine more where those found something.

    References
    ----------
    Mildenhall et al. (2020), section 5.2. There the coarse samples see a network of their own,
    with a loss of its own.
    """
    near, far = box_bounds(*rays)
    t = stratified(near, far, n_coarse, generator)
    if n_fine:
        with torch.no_grad():
            weights = march(field, rays, t, far).weights
        middle = (t[:, 1:] + t[:, :-1]) / 2
        edges = torch.cat([near[:, None], middle, far[:, None]], -1)
        t = torch.cat([t, sample_pdf(edges, weights, n_fine, generator)], -1).sort(-1).values
    return march(field, rays, t, far, background)


# ---- pictures


def rays_of(views: Views) -> Rays:
    """The rays of all pixels of all views."""
    height, width = views.images.shape[1:3]
    each = [
        camera_rays(torch.as_tensor(pose, dtype=torch.float32), height, width, views.focal)
        for pose in views.poses
    ]
    return Rays(*(torch.cat(part) for part in zip(*each, strict=True)))


@torch.no_grad()
def picture(
    field: Field,
    pose: Float[Tensor, "4 4"],
    size: int,
    focal: float,
    *,
    rays: int = 1024,
    **samples: int,
) -> Float[Tensor, "size size 3"]:
    """What a camera sees, without noise in the samples."""
    every = camera_rays(pose, size, size, focal)
    parts = [
        render(field, Rays(*part), **samples).color
        for part in zip(every.origins.split(rays), every.directions.split(rays), strict=True)
    ]
    return torch.cat(parts).view(size, size, 3).clamp(0, 1)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
