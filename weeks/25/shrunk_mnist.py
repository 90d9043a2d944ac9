r"""MNIST at half its size: data for the week's models.

Means of 2 × 2 pixels make 14 × 14 of 28 × 28; a black rim makes 16 × 16, which four patches of four
pixels fill.

>>> halve(torch.arange(16, dtype=torch.uint8).view(1, 4, 4))[0, 0] * 255
tensor([[ 2.5000,  4.5000],
        [10.5000, 12.5000]])

`uv run weeks/25/vit.py` and `uv run weeks/25/simclr.py` use it. Data: LeCun et al. (1998).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from shared import datasets
from shared.arguments import checked
from shared.require import require

__all__ = ["Split", "halve", "split"]


class Split(NamedTuple):
    """Pictures to learn from and pictures to judge by, pixels from 0 to 1."""

    x: Float[Tensor, "n 1 side side"]
    y: Int[Tensor, " n"]
    x_test: Float[Tensor, "m 1 side side"]
    y_test: Int[Tensor, " m"]


@checked
def halve(images: UInt8[Tensor, "n height width"]) -> Float[Tensor, "n 1 half_height half_width"]:
    """Means of 2 × 2 pixels, from 0 to 1."""
    return F.avg_pool2d(images[:, None].float() / 255, 2)


def split(seed: int, n: int, n_test: int, *, rim: int = 0) -> Split:
    """`n` training and `n_test` test pictures, drawn by the seed, in a black rim so wide."""
    found, g = datasets.mnist(), torch.Generator().manual_seed(seed)
    parts: list[Tensor] = []
    for name, images, labels, count in (
        ("n", found.train_images, found.train_labels, n),
        ("n_test", found.test_images, found.test_labels, n_test),
    ):
        fits = 1 <= count <= len(images)
        require(fits, f"{name} must be between 1 and {len(images)}", count)
        rows = torch.randperm(len(images), generator=g)[:count].numpy()
        parts.append(F.pad(halve(torch.from_numpy(images[rows])), (rim,) * 4))
        parts.append(torch.from_numpy(labels[rows]).long())
    return Split(*parts)
