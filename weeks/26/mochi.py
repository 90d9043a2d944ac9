r"""Mochi, small: moving digits from captions, by one attention over video and text.

Most text-to-video models look at the caption by cross-attention. Mochi's *asymmetric* diffusion
Transformer lets both attend to both, in all three dimensions at once, and gives the video four
times the weights of the text. It learns by flow matching: with noise $x_0$, a clip $x_1$ and its
caption $c$,

$$ L = E\, \lVert v_\theta((1 - t)\, x_0 + t\, x_1,\; t,\; c) - (x_1 - x_0) \rVert^2 , $$

and a clip is drawn by following $v$ from noise, twice as far from the velocity without a caption if
guidance is 2. Blocks are in [mochi_blocks.py](mochi_blocks.py).

>>> n_tokens(frames=163, height=480, width=848)  # of Mochi 1: 28 × 30 × 53
44520
>>> with torch.device("meta"):  # counted without memory for them
...     print(f"{sum(p.numel() for p in AsymmDiT(MochiConfig()).parameters()):,}")
10,027,677,744
>>> model = TextToVideo(torch.Generator().manual_seed(0))
>>> model.draw(encoded(["a three moves left"]), torch.Generator(), steps=2).shape
torch.Size([1, 8, 12, 12])

    uv run weeks/26/mochi.py

Reduced: 72 video tokens of 4×4 pixels in place of 44,520 of a latent, words that are learned with
the rest in place of a frozen T5, and less than a 100,000th of the weights. Genmo, "Mochi 1" (2024),
code and model card; Lipman et al., "Flow matching for generative modeling" (2022).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from shared.require import require
from week23.flow_matching import integrate, matching
from week23.unet import timestep_embedding
from week26.mochi_blocks import AttentionPool, Block, positions
from week26.moving_digits import CONTEXT, FRAMES, SIZE, WORDS, encoded

__all__ = ["AsymmDiT", "MochiConfig", "TextToVideo", "encoded", "n_frames", "n_tokens"]


def n_frames(latent_frames: int, stride: int = 6) -> int:
    """Frames that a causal autoencoder makes of its latents: the first stands for itself alone."""
    require(latent_frames >= 1, "latent_frames must be at least 1", latent_frames)
    return latent_frames * stride - (stride - 1)


def n_tokens(*, frames: int, height: int, width: int) -> int:
    """Video tokens of Mochi 1: latents are 6 times shorter and 8 times smaller, patches 2×2."""
    require(frames % 6 == 1, "frames must be 1 more than a multiple of 6", frames)
    fits = height % 16 == 0 == width % 16
    require(fits, "height and width must be multiples of 16", height, width)
    return ((frames - 1) // 6 + 1) * (height // 16) * (width // 16)


@dataclass(frozen=True)
class MochiConfig:
    """Shape of the network; the defaults are Mochi 1's.

    Attributes
    ----------
    channels
        Of the video, or of its latent.
    d_caption
        Width of the vectors that come in for the words.
    d_time, pool_heads
        Of the time's embedding, and of the attention that pools the caption.
    """

    channels: int = 12
    patch: int = 2
    d_model: int = 3072
    d_text: int = 1536
    n_heads: int = 24
    n_layers: int = 48
    d_caption: int = 4096
    d_time: int = 256
    pool_heads: int = 8


class AsymmDiT(nn.Module):
    """Mochi's network: from a noisy video, its time and a caption, a video of velocities.

    Parameters
    ----------
    generator
        Draws the first weights, the global one if not given. All gates and the output start at
        zero, so that each block is the identity.
    """

    def __init__(self, config: MochiConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, d = config, config.d_model
        squares = config.patch**2 * config.channels
        self.embed, self.caption_proj = (
            nn.Linear(squares, d),
            nn.Linear(config.d_caption, config.d_text),
        )
        self.time_mlp = nn.Sequential(nn.Linear(config.d_time, d), nn.SiLU(), nn.Linear(d, d))
        self.pool = AttentionPool(config.d_caption, d, config.pool_heads)
        self.frequencies = nn.Parameter(torch.empty(3, config.n_heads, d // config.n_heads // 2))
        self.blocks = nn.ModuleList(
            Block(d, config.d_text, config.n_heads, last=i == config.n_layers - 1)
            for i in range(config.n_layers)
        )
        self.modulation, self.head = nn.Linear(d, 2 * d), nn.Linear(d, squares)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                still = "modulation" in name or name == "head.weight"
                nn.init.normal_(p, std=0.0 if still else p.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)
        # What all tokens have in common lets heads look by place before they know by content.
        nn.init.normal_(self.embed.bias, generator=generator)
        nn.init.normal_(self.frequencies, generator=generator)
        with torch.no_grad():  # about a radian per frame, and per third of the picture
            self.frequencies.mul_(torch.tensor([1.0, 1 / 64, 1 / 64])[:, None, None])

    def forward(
        self,
        video: Float[Tensor, "batch channels frames height width"],
        caption: Float[Tensor, "batch text d_caption"],
        keep: Bool[Tensor, "batch text"],
        t: Float[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels frames height width"]:
        """Velocities; `keep` is False where the caption is padding, and t goes to 1000."""
        patch, (frames, height, width) = self.config.patch, video.shape[2:]
        fits = height % patch == 0 == width % patch
        require(fits, f"height and width must be multiples of {patch}", height, width)
        grid = frames, height // patch, width // patch
        x = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch))  # b c t h p w q
        x = self.embed(x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3))
        time = self.time_mlp(timestep_embedding(t, self.config.d_time).to(x.dtype))
        time = time + self.pool(caption, keep)
        place = positions(frames=grid[0], height=grid[1], width=grid[2]).to(x)
        angles = torch.einsum("na,ahf->nhf", place, self.frequencies)
        text = self.caption_proj(caption)
        for block in self.blocks:
            x, text = block(x, text, time, keep, angles.cos(), angles.sin())
        scale, shift = self.modulation(F.silu(time))[:, None].chunk(2, dim=-1)
        x = self.head(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        x = x.unflatten(2, (patch, patch, -1)).unflatten(1, grid)  # b t h w p q c
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5).flatten(3, 4)


class TextToVideo(nn.Module):
    """Words, and the network that draws digits that move as the words say."""

    def __init__(self, generator: torch.Generator, *, d_model: int = 48, n_layers: int = 2):
        super().__init__()
        self.words = nn.Embedding(len(WORDS), 32)
        self.order = nn.Parameter(torch.empty(CONTEXT, 32))
        for p in (self.words.weight, self.order):
            nn.init.normal_(p, generator=generator)
        shape = MochiConfig(1, 4, d_model, d_model // 2, d_model // 16, n_layers, 32, 32, 2)
        self.network = AsymmDiT(shape, generator)
        with torch.no_grad():  # whole turns around the torus, and in three frames
            turns = torch.randint(-1, 2, self.network.frequencies.shape, generator=generator)
            whole = 2 * math.pi / torch.tensor([3.0, 192.0, 192.0])
            self.network.frequencies.copy_(turns * whole[:, None, None])

    def velocity(
        self,
        x: Float[Tensor, "batch pixels"],
        t: Float[Tensor, "batch 1"],
        ids: Int[Tensor, "batch text"],
    ) -> Float[Tensor, "batch pixels"]:
        """Of flat clips, at times from 0 (noise) to 1."""
        video = x.view(len(x), 1, -1, SIZE, SIZE)
        caption = self.words(ids) + self.order
        return self.network(video, caption, ids > 0, 1000 * t[:, 0]).flatten(1)

    def loss(
        self,
        video: Float[Tensor, "batch frames height width"],
        ids: Int[Tensor, "batch text"],
        generator: torch.Generator,
        *,
        dropped: float = 0.1,
    ) -> Float[Tensor, ""]:
        """Squared error of the velocity per pixel; now and then the caption is empty."""
        require(0 <= dropped <= 1, "dropped must be in [0, 1]", dropped)
        x1 = video.flatten(1)
        t = torch.rand(len(x1), 1, generator=generator)
        noise = torch.empty_like(x1).normal_(generator=generator)
        ids = ids * (torch.rand(len(ids), 1, generator=generator) >= dropped)
        error = matching(lambda x, t: self.velocity(x, t, ids), noise, x1, t)
        return error.mean() / x1.shape[1]

    @torch.no_grad()
    def draw(
        self,
        ids: Int[Tensor, "batch text"],
        generator: torch.Generator,
        *,
        guidance: float = 2.0,
        steps: int = 20,
        frames: int = FRAMES,
    ) -> Float[Tensor, "batch frames 12 12"]:
        """Clips for captions: u + guidance (c - u), followed from noise."""
        require(guidance >= 0, "guidance must be at least 0", guidance)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            both = self.velocity(x.repeat(2, 1), t.repeat(2, 1), torch.cat([ids, 0 * ids]))
            c, u = both.chunk(2)
            return u + guidance * (c - u)

        noise = torch.randn(len(ids), frames * SIZE**2, generator=generator)
        return integrate(guided, noise, steps=steps).view(len(ids), frames, SIZE, SIZE)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
