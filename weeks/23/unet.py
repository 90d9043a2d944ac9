r"""The U-Net that removes noise in Stable Diffusion: time in every block, words by cross-attention.

An image goes down a ladder of resolutions and up again, and on the way up each step sees what stood
at its height on the way down. How noisy the input is, $t$, enters each residual block as a vector
that is added to all pixels; what the image should show enters by attention, whose queries are the
pixels and whose keys and values are the memory, one vector per word,

$$ h \leftarrow h + \mathrm{softmax}\left(\frac{(h W_q)(m W_k)^\top}{\sqrt{d}}\right) m W_v W_o . $$

Without a memory it is the U-Net of DDPM. The defaults of `UNetConfig` are Stable Diffusion 1's.

>>> small = UNetConfig(
...     1, widths=(8, 16), attention=(False, True), n_heads=2, memory_dim=6, n_groups=4
... )
>>> model = UNet(small, torch.Generator().manual_seed(0))
>>> model(torch.zeros(3, 1, 8, 8), torch.tensor([0, 500, 999]), torch.zeros(3, 5, 6)).shape
torch.Size([3, 1, 8, 8])
>>> with torch.device("meta"):  # counted without memory for them
...     print(f"{sum(p.numel() for p in UNet(UNetConfig()).parameters()):,}")
859,520,964

Ho et al., "Denoising diffusion probabilistic models" (2020), appendix B; Rombach et al.,
"High-resolution image synthesis with latent diffusion models" (2022), section 3.3.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week13.attention import scaled_dot_product_attention


@dataclass(frozen=True)
class UNetConfig:
    """Shape of a U-Net.

    Attributes
    ----------
    in_channels
        Of the image or latent; as many come out.
    widths
        Channels at each resolution; each has half the height and width of the one before.
    attention
        Where there are attention layers. The middle has one in any case.
    n_layers
        Residual blocks per resolution on the way down; one more on the way up.
    n_heads
        Attention heads, everywhere.
    memory_dim
        Width of what cross-attention looks at; None for a U-Net without it.
    n_groups
        Of the group norms.
    """

    in_channels: int = 4
    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[bool, ...] = (True, True, True, False)
    n_layers: int = 2
    n_heads: int = 8
    memory_dim: int | None = 768
    n_groups: int = 32

    def __post_init__(self):
        same = len(self.attention) == len(self.widths)
        require(same, f"attention must say yes or no for each of {self.widths}", self.attention)
        divides = all(w % self.n_groups == 0 == w % self.n_heads for w in self.widths)
        must = (
            f"widths must be multiples of n_groups = {self.n_groups} and n_heads = {self.n_heads}"
        )
        require(divides, must, self.widths)


def timestep_embedding(t: Float[Tensor, " batch"], dim: int) -> Float[Tensor, "batch dim"]:
    """Cosines, then sines, of t at dim / 2 frequencies from 1 down to nearly 1 / 10,000.

    Transformers write the sines first. Weights trained with one order are useless with the other.
    """
    require(dim % 2 == 0, "dim must be even", dim)
    steps = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    angles = t[:, None].float() * torch.exp(-math.log(10_000) * steps / (dim // 2))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResBlock(nn.Module):
    """Two convolutions, each after norm and SiLU; the time is added between them.

    Parameters
    ----------
    time_dim
        Width of the time's embedding; None without one, as in an autoencoder.
    """

    def __init__(
        self, d_in: int, d_out: int, n_groups: int, time_dim: int | None = None, eps: float = 1e-5
    ):
        super().__init__()
        self.norm1 = nn.GroupNorm(n_groups, d_in, eps)
        self.conv1 = nn.Conv2d(d_in, d_out, 3, padding=1)
        self.time_proj = None if time_dim is None else nn.Linear(time_dim, d_out)
        self.norm2 = nn.GroupNorm(n_groups, d_out, eps)
        self.conv2 = nn.Conv2d(d_out, d_out, 3, padding=1)
        self.skip = nn.Identity() if d_in == d_out else nn.Conv2d(d_in, d_out, 1)

    def forward(
        self, x: Float[Tensor, "batch d_in h w"], time: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch d_out h w"]:
        """The block's input, through a 1×1 convolution where widths differ, plus its change."""
        hidden = self.conv1(F.silu(self.norm1(x)))
        if self.time_proj is not None:
            hidden = hidden + self.time_proj(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(hidden)))


class Attention(nn.Module):
    """Heads whose keys and values come from a memory of any width, or from the input."""

    def __init__(self, d_model: int, n_heads: int, memory_dim: int | None = None, bias=False):
        super().__init__()
        self.n_heads = n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(memory_dim or d_model, d_model, bias=bias)
        self.v_proj = nn.Linear(memory_dim or d_model, d_model, bias=bias)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(
        self,
        x: Float[Tensor, "batch query d_model"],
        memory: Float[Tensor, "batch key dim"] | None = None,
    ) -> Float[Tensor, "batch query d_model"]:
        """For each query an average of values."""
        memory = x if memory is None else memory
        q, k, v = (
            project(u).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
            for project, u in ((self.q_proj, x), (self.k_proj, memory), (self.v_proj, memory))
        )
        return self.out_proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GEGLU(nn.Module):
    """Feed-forward layer with a gate: half of the hidden units, times the GELU of the others."""

    def __init__(self, d_model: int):
        super().__init__()
        self.up, self.down = nn.Linear(d_model, 8 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The layer's output."""
        hidden, gate = self.up(x).chunk(2, dim=-1)
        return self.down(hidden * F.gelu(gate))


class Transformer(nn.Module):
    """Pixels as a sequence: they attend to each other, then to the memory, then think alone."""

    def __init__(self, d_model: int, n_heads: int, memory_dim: int | None, n_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(n_groups, d_model, eps=1e-6)
        self.proj_in, self.proj_out = (nn.Conv2d(d_model, d_model, 1) for _ in range(2))
        self.self_norm, self.self_attention = nn.LayerNorm(d_model), Attention(d_model, n_heads)
        self.cross_attention = None
        if memory_dim is not None:
            self.cross_norm = nn.LayerNorm(d_model)
            self.cross_attention = Attention(d_model, n_heads, memory_dim)
        self.mlp_norm, self.mlp = nn.LayerNorm(d_model), GEGLU(d_model)

    def forward(
        self,
        x: Float[Tensor, "batch d_model h w"],
        memory: Float[Tensor, "batch key dim"] | None = None,
    ) -> Float[Tensor, "batch d_model h w"]:
        """The image plus its change."""
        seq = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        seq = seq + self.self_attention(self.self_norm(seq))
        if self.cross_attention is not None:
            seq = seq + self.cross_attention(self.cross_norm(seq), memory)
        seq = seq + self.mlp(self.mlp_norm(seq))
        return x + self.proj_out(seq.transpose(1, 2).unflatten(2, x.shape[2:]))


class Level(nn.Module):
    """What happens at one resolution: residual blocks, attention after each, a convolution.

    Parameters
    ----------
    d_in
        Channels that come into each residual block.
    resample
        The convolution after them, to or from the next resolution.
    """

    def __init__(
        self,
        d_in: list[int],
        d_out: int,
        config: UNetConfig,
        attention: bool,
        resample: nn.Conv2d | None = None,
    ):
        super().__init__()
        groups, time_dim = config.n_groups, 4 * config.widths[0]
        self.resnets = nn.ModuleList(ResBlock(d, d_out, groups, time_dim) for d in d_in)
        self.attentions = nn.ModuleList(
            Transformer(d_out, config.n_heads, config.memory_dim, groups) if attention else None
            for _ in d_in
        )
        self.resample = resample

    def _layer(self, i: int, x: Tensor, time: Tensor, memory: Tensor | None) -> Tensor:
        """Residual block `i` and the attention after it."""
        x = self.resnets[i](x, time)
        return x if self.attentions[i] is None else self.attentions[i](x, memory)


class UNet(nn.Module):
    """Predicts, from a noisy image and the time, an image of the same shape.

    Parameters
    ----------
    generator
        Draws the first weights, the global one if not given. All residual branches and the output
        start at zero.
    """

    def __init__(self, config: UNetConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, widths = config, config.widths
        time_dim, last = 4 * widths[0], len(widths) - 1
        self.time_mlp = nn.Sequential(
            nn.Linear(widths[0], time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        d, skips = widths[0], [widths[0]]
        for i, (width, attention) in enumerate(zip(widths, config.attention, strict=True)):
            half = nn.Conv2d(width, width, 3, stride=2, padding=1) if i < last else None
            d_in = [d] + [width] * (config.n_layers - 1)
            self.down.append(Level(d_in, width, config, attention, half))
            skips += [width] * (config.n_layers + (i < last))
            d = width
        self.mid = Level([d], d, config, True)
        self.mid_out = ResBlock(d, d, config.n_groups, time_dim)
        for i in reversed(range(len(widths))):
            width = widths[i]
            double = nn.Conv2d(width, width, 3, padding=1) if i > 0 else None
            d_in = [x + skips.pop() for x in [d] + [width] * config.n_layers]
            self.up.append(Level(d_in, width, config, config.attention[i], double))
            d = width
        self.norm_out = nn.GroupNorm(config.n_groups, d)
        self.conv_out = nn.Conv2d(d, config.in_channels, 3, padding=1)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                still = name.endswith(("conv2.weight", "proj_out.weight", "conv_out.weight"))
                fan_in = p[0].numel()
                nn.init.normal_(p, std=0.0 if still else fan_in**-0.5, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(
        self,
        x: Float[Tensor, "batch channels h w"],
        t: Tensor | float,
        memory: Float[Tensor, "batch key dim"] | None = None,
    ) -> Float[Tensor, "batch channels h w"]:
        """The prediction.

        Parameters
        ----------
        t
            One time for all, or one per image, on the scale of DDPM's thousand steps.
        memory
            What the image should show, if the configuration has a `memory_dim`.
        """
        config, times = self.config, 2 ** (len(self.down) - 1)
        fits = x.shape[2] % times == 0 == x.shape[3] % times
        require(fits, f"height and width must be multiples of {times}", tuple(x.shape[2:]))
        width = None if memory is None else memory.shape[-1]
        require(width == config.memory_dim, f"memory must be {config.memory_dim} wide", width)
        t = torch.as_tensor(t, device=x.device).expand(len(x))
        time = self.time_mlp(timestep_embedding(t.float(), config.widths[0]).to(x.dtype))
        x = self.conv_in(x)
        skips = [x]
        for level in self.down:
            for i in range(len(level.resnets)):
                x = level._layer(i, x, time, memory)
                skips.append(x)
            if level.resample is not None:
                x = level.resample(x)
                skips.append(x)
        x = self.mid_out(self.mid._layer(0, x, time, memory), time)
        for level in self.up:
            for i in range(len(level.resnets)):
                x = level._layer(i, torch.cat([x, skips.pop()], dim=1), time, memory)
            if level.resample is not None:
                x = level.resample(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.conv_out(F.silu(self.norm_out(x)))
