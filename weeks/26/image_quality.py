r"""How near a picture is to another: by squared error, and by structure.

With values in [0, 1], $\text{PSNR} = -10 \log_{10} \text{MSE}$. SSIM compares means, deviations and
the correlation within a Gaussian window,

$$ \text{SSIM} = \frac{(2 \mu_x \mu_y + c_1)(2 \sigma_{xy} + c_2)}
   {(\mu_x^2 + \mu_y^2 + c_1)(\sigma_x^2 + \sigma_y^2 + c_2)} , $$

averaged over all windows that lie within the picture and over channels.

>>> picture = torch.linspace(0, 1, 16 * 16 * 3).view(16, 16, 3)
>>> round(psnr(picture, (picture + 0.1)), 2), round(ssim(picture, picture), 2)
(20.0, 1.0)

Source: Wang, Bovik, Sheikh & Simoncelli, "Image quality assessment: from error visibility to
structural similarity" (2004), with their window of 11 pixels and deviation 1.5.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from shared.arguments import checked
from shared.require import require

__all__ = ["psnr", "ssim"]

Image = Float[Tensor, "height width channels"]
WINDOW, DEVIATION = 11, 1.5
C1, C2 = 0.01**2, 0.03**2


@checked
def psnr(image: Image, reference: Image) -> float:
    """In decibels; infinite for two pictures that are one."""
    error = float(F.mse_loss(image, reference))
    return -10 * math.log10(error) if error > 0 else math.inf


@checked
def ssim(image: Image, reference: Image) -> float:
    """1 for equal pictures."""
    require(min(image.shape[:2]) >= WINDOW, f"image must have {WINDOW} rows", *image.shape[:2])
    x, y = (part.permute(2, 0, 1)[:, None] for part in (image, reference))
    place = torch.arange(WINDOW, dtype=image.dtype) - WINDOW // 2
    window = torch.exp(-place.square() / (2 * DEVIATION**2))
    window = window / window.sum()

    def blurred(part: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(part, window.view(1, 1, -1, 1)), window.view(1, 1, 1, -1))

    mean_x, mean_y = blurred(x), blurred(y)
    var_x, var_y = blurred(x * x) - mean_x**2, blurred(y * y) - mean_y**2
    covariance = blurred(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return float((luminance * structure).mean())
