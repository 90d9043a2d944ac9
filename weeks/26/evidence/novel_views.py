"""Views that training never saw: how well they are drawn, by whom, and as a film."""

from collections.abc import Sequence

import numpy as np
import torch

from shared.images import Views
from shared.study import Run
from week26.image_quality import psnr, ssim
from week26.volume_rendering import Field, picture

Pictures = Sequence[np.ndarray] | np.ndarray


def draw(field: Field, views: Views, **samples: int) -> Pictures:
    """What the field shows from where the views were taken."""
    size = views.images.shape[1]
    poses = torch.as_tensor(views.poses)
    return [picture(field, pose, size, views.focal, **samples).numpy() for pose in poses]


def decibels(pictures: Pictures, views: Views) -> list[float]:
    """PSNR of each picture against its view."""
    pairs = zip(pictures, views.images, strict=True)
    return [psnr(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs]


def structure(pictures: Pictures, views: Views) -> list[float]:
    """SSIM of each picture with its view."""
    pairs = zip(pictures, views.images, strict=True)
    return [ssim(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs]


def nearest(train: Views, test: Views) -> Pictures:
    """For each test view the training picture whose camera stood nearest."""
    apart = np.linalg.norm(test.poses[:, None, :3, 3] - train.poses[None, :, :3, 3], axis=-1)
    return [train.images[i] for i in apart.argmin(1)]


def mean_picture(train: Views, test: Views) -> Pictures:
    """The mean of all training pictures, for each test view."""
    return [train.images.mean(0)] * len(test.images)


def beside(rows: dict[str, Pictures], axes: np.ndarray) -> None:
    """Rows of pictures, each row with its name."""
    for ax, (name, pictures) in zip(axes, rows.items(), strict=True):
        ax.imshow(np.concatenate([np.clip(p, 0, 1) for p in pictures], 1), interpolation="nearest")
        ax.set_xticks([])
        ax.set_yticks([])
        ax.grid(False)
        ax.set_title(name, loc="left", size=10)


def film(run: Run, name: str, title: str, frames: Pictures) -> None:
    """Save frames as a film that repeats, among the figures of the run."""
    run.film(name, np.clip(frames, 0, 1), title, zoom=3, seconds=0.1, smooth=True)
