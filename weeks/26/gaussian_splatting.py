r"""Gaussian splatting in two dimensions: a picture as a stack of translucent ellipses.

Gaussian $i$ covers pixel $p$ with
$\alpha_i(p) = o_i \exp(-\frac12 (p - \mu_i)^\top \Sigma_i^{-1} (p - \mu_i))$, where the covariance
is a rotation and two scales, $\Sigma = R\, S S^\top R^\top$: no step of training can make it
indefinite. From front to back, with the background $b$ behind all,

$$ C(p) = \sum_i c_i\, \alpha_i(p) \prod_{j < i} (1 - \alpha_j(p))
   + b \prod_j (1 - \alpha_j(p)) , $$

which is the sum of volume rendering with $\alpha = 1 - e^{-\sigma \delta}$. In three dimensions the
ellipses are projections of ellipsoids, sorted by depth; here the stack's order is given.

>>> alpha = torch.tensor([[0.5, 0.5]])  # a pixel under two ellipses
>>> weights, left = composite_weights(alpha)
>>> weights, left
(tensor([[0.5000, 0.2500]]), tensor([0.2500]))
>>> splats = Splats.scattered(7, torch.Generator().manual_seed(0))
>>> render_splats(splats, 12, 16).shape, splats.n_numbers
(torch.Size([12, 16, 3]), 63)

    uv run weeks/26/gaussian_splatting.py

Reduced: two dimensions, a fixed number of Gaussians, each pixel asks all of them.

Source: Kerbl, Kopanas, Leimkühler & Drettakis, "3D Gaussian splatting for real-time radiance field
rendering" (2023), sections 4 and 5.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from shared.arguments import checked
from shared.require import require

__all__ = ["Splats", "composite_weights", "fit", "render_splats"]

Image = Float[Tensor, "height width 3"]


class Splats(nn.Module):
    """Gaussians over the square [-1, 1]², the first in front.

    Parameters
    ----------
    mean, scale, angle, opacity, color
        (n, 2), (n, 2), (n,), (n,) and (n, 3). What training moves are logarithms of scales and
        logits of opacities and colors, which may be any number.
    """

    def __init__(
        self,
        mean: Float[Tensor, "n 2"],
        scale: Float[Tensor, "n 2"],
        angle: Float[Tensor, " n"],
        opacity: Float[Tensor, " n"],
        color: Float[Tensor, "n 3"],
    ):
        super().__init__()
        require((scale > 0).all(), "scale must be positive", float(scale.min()))
        self.mean = nn.Parameter(mean.clone())
        self.log_scale = nn.Parameter(scale.log())
        self.angle = nn.Parameter(angle.clone())
        self.opacity_logit = nn.Parameter(opacity.logit(eps=1e-6))
        self.color_logit = nn.Parameter(color.logit(eps=1e-6))

    @classmethod
    def scattered(cls, n: int, generator: torch.Generator, opacity: float = 0.5) -> "Splats":
        """n gray discs anywhere, as large as would cover the square about twice."""
        require(n >= 1, "n must be at least 1", n)
        mean = 2 * torch.rand(n, 2, generator=generator) - 1
        size = torch.full((n, 2), math.sqrt(2 / n))
        gray = 0.4 + 0.2 * torch.rand(n, 3, generator=generator)
        return cls(mean, size, torch.zeros(n), torch.full((n,), opacity), gray)

    @property
    def n_numbers(self) -> int:
        """How many numbers describe the picture."""
        return sum(p.numel() for p in self.parameters())

    def covariance(self) -> Float[Tensor, "n 2 2"]:
        """R S Sᵀ Rᵀ."""
        cos, sin = self.angle.cos(), self.angle.sin()
        turn = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
        axes = turn * self.log_scale.exp()[:, None]
        return axes @ axes.mT

    def alpha(self, points: Float[Tensor, "pixels 2"]) -> Float[Tensor, "pixels n"]:
        """How much of a pixel each Gaussian covers."""
        offset = points[:, None] - self.mean
        cos, sin = self.angle.cos(), self.angle.sin()
        along = offset[..., 0] * cos + offset[..., 1] * sin
        across = offset[..., 1] * cos - offset[..., 0] * sin
        scale = self.log_scale.exp()
        power = (along / scale[:, 0]).square() + (across / scale[:, 1]).square()
        return self.opacity_logit.sigmoid() * torch.exp(-power / 2)


@checked
def composite_weights(
    alpha: Float[Tensor, "pixels n"],
) -> tuple[Float[Tensor, "pixels n"], Float[Tensor, " pixels"]]:
    """What each layer adds, the first in front, and what of the background is left."""
    left = torch.cumprod(1 - alpha, -1)
    return alpha * F.pad(left[:, :-1], (1, 0), value=1.0), left[:, -1]


def pixel_centers(height: int, width: int) -> Float[Tensor, "pixels 2"]:
    """(x, y) of the pixels, row by row, from the top left, in units where the picture is 2 wide."""
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) * 2 / height - 1,
        (torch.arange(width) + 0.5) * 2 / width - 1,
        indexing="ij",
    )
    return torch.stack([x, y], -1).view(-1, 2)


def render_splats(splats: Splats, height: int, width: int, background: float = 1.0) -> Image:
    """The picture of a stack of Gaussians."""
    points = pixel_centers(height, width).to(splats.mean.dtype)
    weights, left = composite_weights(splats.alpha(points))
    color = weights @ splats.color_logit.sigmoid() + left[:, None] * background
    return color.view(height, width, 3)


def fit(
    splats: Splats,
    image: Image,
    *,
    steps: int,
    lr: float = 0.06,
    moves: Callable[[str], bool] = lambda name: True,
) -> list[float]:
    """Adam on the squared error of all pixels; the losses. `moves` says what may move."""
    parameters = [p for name, p in splats.named_parameters() if moves(name)]
    optimizer, losses = torch.optim.Adam(parameters, lr), []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * 0.1 ** (step / steps)
        loss = F.mse_loss(render_splats(splats, *image.shape[:2]), image)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
