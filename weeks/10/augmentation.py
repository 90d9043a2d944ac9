r"""Crop and flip: pictures that could as well have been in the training set.

A picture is padded on all sides and a window of its old size is cut out, at a place drawn for each
picture. A coin decides whether it is mirrored. Both are indices, so that a batch is one look-up.
All chance comes from the generator that is handed in: what has no generator of its own repeats
its crops in each worker and each epoch.

>>> x = torch.arange(9.0).view(1, 1, 3, 3)
>>> crop(x, torch.tensor([[0, 2]]), padding=1)[0, 0].tolist()  # row 0, column 2 of the padded one
[[0.0, 0.0, 0.0], [1.0, 2.0, 0.0], [4.0, 5.0, 0.0]]
>>> flip(x, torch.tensor([True]))[0, 0, 0].tolist()
[2.0, 1.0, 0.0]

    uv run weeks/10/cnn_ablations.py

Krizhevsky, Sutskever, Hinton (2012), section 4.1; He, Zhang, Ren, Sun (2015), section 4.2.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from shared.require import require

Images = Float[Tensor, "batch channels height width"]


def crop(x: Images, corners: Int[Tensor, "batch 2"], *, padding: int, fill: float = 0.0) -> Images:
    """Windows of the old size out of pictures that are padded on all sides.

    Parameters
    ----------
    corners
        Row and column of each window's upper left pixel, 0 to 2 `padding`; `padding` changes
        nothing.
    fill
        What stands around the picture: 0 is black before pictures are standardized, and the
        mean picture's gray after it.
    """
    inside = int(corners.min()) >= 0 and int(corners.max()) <= 2 * padding
    must = f"corners must lie between 0 and 2 padding = {2 * padding}"
    require(inside, must, f"{int(corners.min())} to {int(corners.max())}")
    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (padding,) * 4, value=fill)
    rows = corners[:, 0, None] + torch.arange(height, device=x.device)
    columns = corners[:, 1, None] + torch.arange(width, device=x.device)
    picture = torch.arange(len(x), device=x.device)[:, None, None]
    return padded[picture, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def flip(x: Images, mirrored: Bool[Tensor, " batch"]) -> Images:
    """Mirror some of the pictures, left to right."""
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def random_crop(
    x: Images, generator: torch.Generator, *, padding: int, fill: float = 0.0
) -> Images:
    """Move each picture by up to `padding` pixels down or up, right or left."""
    require(padding >= 0, "padding must be at least 0", padding)
    corners = torch.randint(2 * padding + 1, (len(x), 2), generator=generator)
    return crop(x, corners.to(x.device), padding=padding, fill=fill)


def random_flip(x: Images, generator: torch.Generator) -> Images:
    """Mirror each picture with probability one half."""
    mirrored = torch.rand(len(x), generator=generator) < 0.5
    return flip(x, mirrored.to(x.device))
