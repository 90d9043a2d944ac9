r"""Bits per dimension: what the density of a picture says about the picture's bytes.

A pixel is one of $n$ levels, and a density gives no probability to a level. Adding $u \sim
U[0, 1)$ spreads each level $k$ over its own interval, and by Jensen's inequality

$$\ln P(k) = \ln \int_{[0,1)^D} p\Big(\frac{k + u}{n}\Big) \frac{du}{n^D}
  \ge \mathbb{E}_u \ln p\Big(\frac{k + u}{n}\Big) - D \ln n ,$$

so a density on $[0, 1)^D$ is worth at most $\log_2 n - \log_2 p / D$ bits per dimension; without
the noise it could grow without limit on the levels themselves. A model of all reals looks at
logits, whose Jacobian belongs to the density.

>>> x = dequantize(torch.tensor([[0, 255]]), 256, torch.Generator().manual_seed(0))
>>> bool((0 <= x).all() and (x[0, 1] >= 255 / 256) and (x < 1).all())
True
>>> bits_per_dim(torch.zeros(1), n_dims=2, levels=256)  # a uniform density: one byte is 8 bits
tensor([8.])

Source: Theis, van den Oord & Bethge, "A note on the evaluation of generative models" (2016),
section 3.1; Dinh et al., "Density estimation using Real NVP" (2017), section 4.1 (logits).
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared.arguments import checked
from shared.require import require


@checked
def dequantize(
    k: Int[Tensor, "*shape"], levels: int, generator: torch.Generator | None = None
) -> Float[Tensor, "*shape"]:
    """(k + u) / levels with u uniform on [0, 1): somewhere in the level's own interval.

    Raises
    ------
    ValueError
        If a value is not one of 0 … levels - 1.
    """
    inside = k.numel() == 0 or (k.min() >= 0 and k.max() < levels)
    require(inside, f"k must lie between 0 and levels - 1 = {levels - 1}", k)
    u = torch.rand(k.shape, generator=generator, device=k.device)
    below = torch.nextafter(k + torch.ones_like(u), k.to(u.dtype))  # 255 + u may round to 256
    return torch.minimum(k + u, below) / levels


@checked
def bits_per_dim(
    log_density: Float[Tensor, "*batch"], *, n_dims: int, levels: int
) -> Float[Tensor, "*batch"]:
    """Bits per dimension of a density on [0, 1)^n_dims, in nats, for data of so many levels."""
    require(n_dims >= 1, "n_dims must be at least 1", n_dims)
    require(levels >= 1, "levels must be at least 1", levels)
    return math.log2(levels) - log_density / (n_dims * math.log(2))


@checked
def to_logits(
    x: Float[Tensor, "batch *shape"], margin: float = 0.05
) -> tuple[Float[Tensor, "batch *shape"], Float[Tensor, "batch"]]:
    """y = logit(margin + (1 - 2 margin) x), and ln |dy/dx| summed over each row.

    With s = margin + (1 - 2 margin) x the slope is (1 - 2 margin) / (s (1 - s)). The margin keeps
    y finite at both ends of [0, 1].
    """
    require(0 < margin < 0.5, "margin must lie strictly between 0 and 0.5", margin)
    s = margin + (1 - 2 * margin) * x
    log_slope = math.log(1 - 2 * margin) - s.log() - (-s).log1p()
    return s.logit(), log_slope.flatten(1).sum(1)


@checked
def from_logits(y: Float[Tensor, "*shape"], margin: float = 0.05) -> Float[Tensor, "*shape"]:
    """The inverse of `to_logits`; outside of [0, 1] where y is beyond the margins."""
    require(0 < margin < 0.5, "margin must lie strictly between 0 and 0.5", margin)
    return (y.sigmoid() - margin) / (1 - 2 * margin)
