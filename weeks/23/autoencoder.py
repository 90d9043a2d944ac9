r"""The first stage of Stable Diffusion: an autoencoder whose code is small, smooth and noisy.

Each side of an image shrinks by f = 2 to the number of halvings, and what is left, a few channels
per place, is made a distribution: the encoder names mean and variance, and a Kullback-Leibler term
of tiny weight $\lambda$ keeps them near N(0, I),

$$ L = \tfrac12 \lVert x - D(z) \rVert^2 + \lambda\, \mathrm{KL}(N(\mu, \sigma^2) \,\|\, N(0, I)),
   \qquad z = \mu + \sigma \epsilon . $$

With so small a weight the latents do not come out at deviation 1, which the noise of diffusion is
made for; they are divided by what it is on training images.

>>> model = Autoencoder(AutoencoderConfig(1, 2, widths=(4, 8, 8), n_layers=1, n_groups=2))
>>> posterior = model.encode(torch.zeros(3, 1, 16, 16))
>>> posterior.mean.shape, model.decode(posterior.mean).shape  # f = 4
(torch.Size([3, 2, 4, 4]), torch.Size([3, 1, 16, 16]))

Reduced: Stable Diffusion's loss has a perceptual distance and a discriminator instead of the square
alone. Rombach et al. (2022), section 3.1 and appendix G. The defaults of `AutoencoderConfig` are
Stable Diffusion 1's.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week23.unet import Attention, ResBlock

__all__ = ["Autoencoder", "AutoencoderConfig", "Posterior"]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Shape of an autoencoder.

    Attributes
    ----------
    channels, latent_channels
        Of the image and of its code.
    widths
        Channels at each resolution; all but the last are halved after it.
    n_layers
        Residual blocks per resolution in the encoder; one more in the decoder.
    n_groups
        Of the group norms.
    """

    channels: int = 3
    latent_channels: int = 4
    widths: tuple[int, ...] = (128, 256, 512, 512)
    n_layers: int = 2
    n_groups: int = 32

    def __post_init__(self):
        divides = all(w % self.n_groups == 0 for w in self.widths)
        require(divides, f"widths must be multiples of n_groups = {self.n_groups}", self.widths)


@dataclass(frozen=True)
class Posterior:
    """Independent normals, one per number of the code."""

    mean: Float[Tensor, "batch latent h w"]
    log_variance: Float[Tensor, "batch latent h w"]

    def sample(self, generator: torch.Generator | None = None) -> Float[Tensor, "batch latent h w"]:
        """A code; gradients go through to mean and variance."""
        noise = torch.empty_like(self.mean).normal_(generator=generator)
        return self.mean + (self.log_variance / 2).exp() * noise

    def kl(self) -> Float[Tensor, " batch"]:
        """Kullback-Leibler divergence from N(0, I), summed over the code."""
        each = self.mean**2 + self.log_variance.exp() - 1 - self.log_variance
        return each.flatten(1).sum(1) / 2


class PixelAttention(nn.Module):
    """One head of attention among all pixels, added to them."""

    def __init__(self, d_model: int, n_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(n_groups, d_model, eps=1e-6)
        self.attention = Attention(d_model, n_heads=1, bias=True)

    def forward(self, x: Float[Tensor, "batch d_model h w"]) -> Float[Tensor, "batch d_model h w"]:
        """The image plus its change."""
        change = self.attention(self.norm(x).flatten(2).transpose(1, 2))
        return x + change.transpose(1, 2).unflatten(2, x.shape[2:])


class Halve(nn.Conv2d):
    """A convolution with stride 2 that is padded below and on the right only."""

    def forward(self, x: Float[Tensor, "batch d h w"]) -> Float[Tensor, "batch d h/2 w/2"]:
        """Half the height and the width."""
        return super().forward(F.pad(x, (0, 1, 0, 1)))


def _middle(d: int, n_groups: int) -> list[nn.Module]:
    block = lambda: ResBlock(d, d, n_groups, eps=1e-6)  # noqa: E731
    return [block(), PixelAttention(d, n_groups), block()]


class Autoencoder(nn.Module):
    """Encoder and decoder; `scale` is what latents are multiplied by before diffusion.

    Parameters
    ----------
    generator
        Draws the first weights; the global one if not given.
    """

    def __init__(self, config: AutoencoderConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, self.scale = config, 1.0
        widths, groups, latent = config.widths, config.n_groups, config.latent_channels
        self.f = 2 ** (len(widths) - 1)
        layers: list[nn.Module] = [nn.Conv2d(config.channels, widths[0], 3, padding=1)]
        d = widths[0]
        for i, width in enumerate(widths):
            for _ in range(config.n_layers):
                layers.append(ResBlock(d, width, groups, eps=1e-6))
                d = width
            if i < len(widths) - 1:
                layers.append(Halve(d, d, 3, stride=2))
        layers += [*_middle(d, groups), nn.GroupNorm(groups, d, eps=1e-6), nn.SiLU()]
        layers += [nn.Conv2d(d, 2 * latent, 3, padding=1), nn.Conv2d(2 * latent, 2 * latent, 1)]
        self.encoder = nn.Sequential(*layers)
        layers = [nn.Conv2d(latent, latent, 1), nn.Conv2d(latent, d, 3, padding=1)]
        layers += _middle(d, groups)
        for i, width in enumerate(reversed(widths)):
            for _ in range(config.n_layers + 1):
                layers.append(ResBlock(d, width, groups, eps=1e-6))
                d = width
            if i < len(widths) - 1:
                layers += [nn.Upsample(scale_factor=2), nn.Conv2d(d, d, 3, padding=1)]
        layers += [nn.GroupNorm(groups, d, eps=1e-6), nn.SiLU()]
        self.decoder = nn.Sequential(*layers, nn.Conv2d(d, config.channels, 3, padding=1))
        for name, p in self.named_parameters():
            if p.ndim > 1:
                std = 0.0 if "conv2" in name else p[0].numel() ** -0.5
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        with torch.no_grad():
            self.encoder[-1].bias[latent:] = -6  # noise of deviation 1 would hide the code

    def encode(self, x: Float[Tensor, "batch channels h w"]) -> Posterior:
        """The distribution of the code."""
        fits = x.shape[2] % self.f == x.shape[3] % self.f == 0
        require(fits, f"height and width must be multiples of {self.f}", tuple(x.shape[2:]))
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return Posterior(mean, log_variance.clamp(-30, 20))

    def decode(self, z: Float[Tensor, "batch latent h w"]) -> Float[Tensor, "batch channels H W"]:
        """The image of a code, which is not scaled."""
        return self.decoder(z)

    def loss(
        self,
        x: Float[Tensor, "batch channels h w"],
        kl_weight: float,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Half the squared error plus the weighted divergence, per number of the image."""
        posterior = self.encode(x)
        error = (x - self.decode(posterior.sample(generator))).square().sum() / 2
        return (error + kl_weight * posterior.kl().sum()) / x.numel()

    @torch.no_grad()
    def fit_scale(
        self, x: Float[Tensor, "batch channels h w"], generator: torch.Generator | None = None
    ) -> float:
        """Set `scale` so that these images' latents have deviation 1, over all numbers at once.

        References
        ----------
        Rombach et al. (2022), appendix G; Stable Diffusion 1's is 0.18215.
        """
        z = self.encode(x).sample(generator)
        self.scale = 1 / float(z.std())
        return self.scale

    @torch.no_grad()
    def to_latents(
        self, x: Float[Tensor, "batch channels h w"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "batch latent _ _"]:
        """Scaled codes of images, drawn from their distributions."""
        return self.scale * self.encode(x).sample(generator)

    @torch.no_grad()
    def to_images(
        self, latents: Float[Tensor, "batch latent h w"]
    ) -> Float[Tensor, "batch channels H W"]:
        """Images of scaled codes."""
        return self.decode(latents / self.scale)
