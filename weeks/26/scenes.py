r"""A small scene of spheres and boxes, its pictures traced ray by ray: what a field has to find.

A ray $o + t d$ meets a sphere of radius $r$ around $m$ where
$t^2 \lVert d \rVert^2 + 2 t\, d \cdot (o - m) + \lVert o - m \rVert^2 = r^2$, and a box where it is
between all its planes at once. The nearest of them is seen, lit by one lamp, with a shine that
depends on where one looks from.

>>> views = toy_views(3, size=8)
>>> views.images.shape, views.poses.shape
((3, 8, 8, 3), (3, 4, 4))
>>> look_at(torch.tensor([0.0, -3.0, 0.0]))[:3, 2]  # the camera looks along its -z
tensor([ 0., -1.,  0.])

Sources: the intersections are those of Kay & Kajiya (1986), the shine is Blinn's (1977).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from shared.arguments import checked
from shared.images import Views
from shared.require import require
from week26.volume_rendering import Rays, camera_rays

__all__ = ["Box", "Sphere", "look_at", "orbit", "toy_views", "trace"]

LAMP = F.normalize(torch.tensor([0.5, -0.6, 1.0]), dim=0)
Vectors = Float[Tensor, "rays 3"]
DISTANCE, ANGLE = 3.0, 0.75  # of the cameras from the center; their field of view in radians


@dataclass(frozen=True)
class Sphere:
    """Center, radius and color."""

    center: tuple[float, float, float]
    radius: float
    color: tuple[float, float, float]

    def hit(self, rays: Rays) -> tuple[Float[Tensor, " rays"], Vectors]:
        """Distance in units of t, infinite where nothing is hit, and the normal there."""
        center = torch.tensor(self.center)
        offset, d = rays.origins - center, rays.directions
        a, b = d.square().sum(-1), (d * offset).sum(-1)
        root = b.square() - a * (offset.square().sum(-1) - self.radius**2)
        t = (-b - root.clamp(min=0).sqrt()) / a
        t = torch.where((root > 0) & (t > 0), t, torch.inf)
        return t, F.normalize(_at(rays, t) - center, dim=-1)

    def paint(self, points: Vectors) -> Vectors:
        """The surface's own color."""
        return torch.tensor(self.color).expand(len(points), 3)


@dataclass(frozen=True)
class Box:
    """Center, half of each side, and a checker's two colors."""

    center: tuple[float, float, float]
    half: tuple[float, float, float]
    color: tuple[float, float, float]
    other: tuple[float, float, float]
    tile: float = 0.3

    def hit(self, rays: Rays) -> tuple[Float[Tensor, " rays"], Vectors]:
        """Distance in units of t, infinite where nothing is hit, and the normal there."""
        center, half = torch.tensor(self.center), torch.tensor(self.half)
        d = torch.where(rays.directions.abs() < 1e-9, 1e-9, rays.directions)
        entry = (center - half * d.sign() - rays.origins) / d
        t, axis = entry.max(-1)
        leave = ((center + half * d.sign() - rays.origins) / d).amin(-1)
        normal = -d.sign() * F.one_hot(axis, 3)
        return torch.where((t < leave) & (t > 0), t, torch.inf), normal

    def paint(self, points: Vectors) -> Vectors:
        """Tiles, like a chess board in space."""
        odd = ((points + 10) / self.tile + 1e-3).floor().sum(-1, keepdim=True) % 2
        return torch.where(odd > 0, torch.tensor(self.color), torch.tensor(self.other))


SCENE = (
    Box((0.0, 0.0, -0.55), (0.75, 0.75, 0.12), (0.15, 0.35, 0.6), (0.95, 0.9, 0.75)),
    Sphere((-0.3, -0.2, -0.05), 0.38, (0.85, 0.2, 0.15)),
    Sphere((0.42, 0.35, -0.15), 0.28, (0.15, 0.6, 0.3)),
    Box((0.3, -0.45, -0.2), (0.16, 0.16, 0.23), (0.95, 0.7, 0.1), (0.95, 0.7, 0.1)),
)


@checked
def look_at(
    eye: Float[Tensor, " 3"], target: Float[Tensor, " 3"] | None = None
) -> Float[Tensor, "4 4"]:
    """The pose of a camera at `eye` that looks at `target` (the center), the world's z upwards."""
    back = F.normalize(eye - (torch.zeros(3) if target is None else target), dim=0)
    right = torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]), back)
    require(right.norm() > 1e-6, "eye must not be straight above target", eye.tolist())
    right = F.normalize(right, dim=0)
    pose = torch.eye(4)
    pose[:3] = torch.stack([right, torch.linalg.cross(back, right), back, eye], 1)
    return pose


def orbit(n: int, elevation: float = 0.5, distance: float = DISTANCE) -> Float[Tensor, "n 4 4"]:
    """Poses on a circle around the scene, at this angle above its ground."""
    flat, up = distance * math.cos(elevation), distance * math.sin(elevation)
    turns = [2 * math.pi * i / n for i in range(n)]
    eyes = [torch.tensor([flat * math.cos(a), flat * math.sin(a), up]) for a in turns]
    return torch.stack([look_at(eye) for eye in eyes])


def trace(rays: Rays, scene: tuple[Box | Sphere, ...] = SCENE) -> Vectors:
    """The color that each ray sees, on white ground."""
    seen, nearest = torch.ones_like(rays.directions), torch.full((len(rays.origins),), torch.inf)
    view = F.normalize(rays.directions, dim=-1)
    half = F.normalize(LAMP - view, dim=-1)
    for thing in scene:
        t, normal = thing.hit(rays)
        light = 0.35 + 0.65 * (normal @ LAMP).clamp(min=0)[:, None]
        shine = 0.5 * (normal * half).sum(-1, keepdim=True).clamp(min=0) ** 30
        color = (thing.paint(_at(rays, t)) * light + shine).clamp(0, 1)
        seen = torch.where((t < nearest)[:, None], color, seen)
        nearest = torch.minimum(t, nearest)
    return seen


def toy_views(n: int, size: int, generator: torch.Generator | None = None) -> Views:
    """Pictures from n places on the upper half of a sphere: random, or on one circle."""
    require(n >= 1 and size >= 1, "n and size must be at least 1", n, size)
    poses = orbit(n)
    if generator is not None:
        around = 2 * math.pi * torch.rand(n, generator=generator)
        up = 0.15 + 0.9 * torch.rand(n, generator=generator)
        flat = torch.stack([around.cos() * up.cos(), around.sin() * up.cos(), up.sin()], -1)
        poses = torch.stack([look_at(DISTANCE * eye) for eye in flat])
    focal = size / 2 / math.tan(ANGLE / 2)
    fine = 2  # rays per pixel, each way
    images = []
    for pose in poses:
        image = trace(camera_rays(pose, fine * size, fine * size, fine * focal))
        pooled = F.avg_pool2d(image.view(fine * size, -1, 3).permute(2, 0, 1), fine)
        images.append(pooled.permute(1, 2, 0).numpy())
    return Views(np.stack(images), poses.numpy(), focal)


def _at(rays: Rays, t: Float[Tensor, " rays"]) -> Vectors:
    """The points at t; where that is infinite, the origins."""
    t = torch.where(t.isfinite(), t, 0.0)
    return rays.origins + t[:, None] * rays.directions
