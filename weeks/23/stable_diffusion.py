r"""Stable Diffusion, all of it and small: pictures that show what their captions say.

Three networks, each of which can be had alone. An [autoencoder](autoencoder.py) makes pictures
small; a [text encoder](text_encoder.py) makes a caption $c$ a memory; and a [U-Net](unet.py) that
attends to it learns to name the noise in a noisy latent,

$$ L = E\, \lVert \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\, z + \sqrt{1 - \bar\alpha_t}\,
   \epsilon,\; t,\; c) \rVert^2 . $$

Now and then the caption is replaced by an empty one, so that one network knows both what noise
looks like in any picture, $u$, and in this one, $\epsilon(c)$. When sampling, what the caption
changes is done $w$ times, $u + w\,(\epsilon(c) - u)$: w = 0 does not listen, w = 1 is what was
learned, more exaggerates.

>>> model = LatentDiffusion.small(torch.Generator().manual_seed(0))
>>> ids = encoded(["a red plus on white", "a blue disc on gray"])
>>> noise = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(1))
>>> model.generate(ids, noise, guidance=3.0, steps=2).shape
torch.Size([2, 3, 16, 16])

    uv run weeks/23/stable_diffusion.py

Reduced: glyphs of 16×16 pixels, f = 4, a vocabulary of 16 words, and a text encoder that is trained
with the rest, where Stable Diffusion 1 has a frozen CLIP. Ours names the velocity, as Stable
Diffusion 2's does: at much noise, where captions decide most, its error weighs more.

Rombach et al. (2022), sections 3.2 and 3.3; Ho & Salimans, "Classifier-free diffusion guidance"
(2022), in whose equation 6 our w is called 1 + w.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week23.autoencoder import Autoencoder, AutoencoderConfig
from week23.glyphs import CONTEXT, WORDS, encoded
from week23.schedules import Kind, Model, Schedule, sample_ddim
from week23.text_encoder import TextConfig, TextEncoder
from week23.unet import UNet, UNetConfig

__all__ = ["LatentDiffusion", "drop_captions", "encoded", "guided"]


def drop_captions(
    ids: Int[Tensor, "batch seq"],
    empty: Int[Tensor, "1 seq"],
    share: float,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "batch seq"]:
    """The captions, of which each is replaced by the empty one with probability `share`."""
    require(0 <= share <= 1, "share must be in [0, 1]", share)
    gone = torch.rand(len(ids), generator=generator) < share
    return torch.where(gone[:, None], empty, ids)


def guided(
    unet: Callable[..., Tensor],
    memory: Float[Tensor, "batch seq d"],
    empty: Float[Tensor, "1 seq d"],
    guidance: float,
) -> Model:
    """A model u + w (c - u) of both predictions, computed in one batch of twice the size."""
    both = torch.cat([empty.expand_as(memory), memory])

    def model(x: Float[Tensor, "batch c h w"], t: Int[Tensor, " batch"]) -> Tensor:
        u, c = unet(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return u + guidance * (c - u)

    return model


class LatentDiffusion(nn.Module):
    """The three networks, the schedule, and the two things that they do together.

    Parameters
    ----------
    empty
        Ids of the empty caption, which stands for "anything".
    size
        Height and width of the pictures.
    kind
        What the U-Net names: the noise, or the velocity "v".
    """

    def __init__(
        self,
        autoencoder: Autoencoder,
        text_encoder: TextEncoder,
        unet: UNet,
        schedule: Schedule,
        empty: Int[Tensor, "1 seq"],
        size: int,
        kind: Kind = "epsilon",
    ):
        super().__init__()
        self.autoencoder, self.text_encoder, self.unet = autoencoder, text_encoder, unet
        self.schedule, self.empty, self.kind = schedule, empty, kind
        side = size // autoencoder.f
        self.latent_shape = (autoencoder.config.latent_channels, side, side)

    @classmethod
    def small(cls, generator: torch.Generator, autoencoder: Autoencoder | None = None):
        """One for glyphs; with an autoencoder of its own, or a trained one."""
        if autoencoder is None:
            shape = AutoencoderConfig(3, 4, widths=(8, 16, 32), n_layers=1, n_groups=8)
            autoencoder = Autoencoder(shape, generator)
        text = TextConfig(len(WORDS), CONTEXT, d_model=32, n_heads=4, n_layers=1, d_ff=64)
        shape = UNetConfig(4, (16, 32), (False, True), 1, n_heads=4, memory_dim=32, n_groups=8)
        networks = autoencoder, TextEncoder(text, generator), UNet(shape, generator)
        return cls(*networks, Schedule.scaled_linear(1000), encoded([""]), size=16, kind="v")

    def loss(
        self,
        latents: Float[Tensor, "batch latent h w"],
        ids: Int[Tensor, "batch seq"],
        generator: torch.Generator | None = None,
        *,
        dropped: float = 0.1,
    ) -> Float[Tensor, ""]:
        """Squared error of the prediction, at one random time per latent.

        References
        ----------
        Rombach et al. (2022), equation 3.
        """
        t = torch.randint(len(self.schedule), (len(latents),), generator=generator)
        noise = torch.empty_like(latents).normal_(generator=generator)
        memory = self.text_encoder(drop_captions(ids, self.empty, dropped, generator))
        x = self.schedule.add_noise(latents, noise, t)
        target = self.schedule.convert(noise, x, t, "epsilon", self.kind)
        return (self.unet(x, t, memory) - target).square().mean()

    @torch.no_grad()
    def generate(
        self,
        ids: Int[Tensor, "batch seq"],
        noise: Float[Tensor, "batch latent h w"],
        *,
        guidance: float = 3.0,
        steps: int = 20,
    ) -> Float[Tensor, "batch channels H W"]:
        """Pictures for captions, from noise of `latent_shape`; DDIM, then the decoder."""
        memory, empty = self.text_encoder(ids), self.text_encoder(self.empty)
        model = guided(self.unet, memory, empty, guidance)
        latents = sample_ddim(model, self.schedule, noise, steps=steps, kind=self.kind)
        return self.autoencoder.to_images(latents)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
