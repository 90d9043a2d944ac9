r"""The parts of Mochi: two streams of different width that meet in one attention.

Video and text keep their own weights, and the text's stream is narrower; queries, keys and values
of both have the same width, so one softmax runs over video and text together. Positions enter by a
rotation whose frequencies are *learned*: with $W$ of shape (3, heads, dim / 2), a token at
$p = (t, y, x)$ has the angles

$$ \theta_{hf}(p) = t\, W_{0hf} + y\, W_{1hf} + x\, W_{2hf} , $$

so that each pair of dimensions may turn with time, with space, or along any slanted direction.
Frames count 0, 1, 2 …; rows and columns are measured from the middle of the picture to the centers
of patches, in units that make the area 192², whatever the resolution. The text is not turned.

>>> positions(frames=2, height=2, width=2)[4:].tolist()  # the second frame: ± 192 / 4
[[1.0, -48.0, -48.0], [1.0, -48.0, 48.0], [1.0, 48.0, -48.0], [1.0, 48.0, 48.0]]
>>> x, one = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[math.pi / 2]]])
>>> turned(x, one.cos(), one.sin()).round(decimals=6)
tensor([[[[-0.,  1.]]]])

Genmo, "Mochi 1" (2024), code and model card; held against diffusers' `MochiTransformer3DModel` by
`uv run weeks/26/mochi.py`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared.require import require
from week13.attention import scaled_dot_product_attention
from week18.balanced_experts import SwiGLU
from week18.llama3 import RMSNorm

__all__ = ["AttentionPool", "Block", "JointAttention", "positions", "rms", "turned"]

AREA = 192**2
Video = Float[Tensor, "batch video d_model"]
Text = Float[Tensor, "batch text d_text"]


def positions(*, frames: int, height: int, width: int) -> Float[Tensor, "tokens 3"]:
    """Frame, row and column of each patch, in the order of the tokens."""
    require(min(frames, height, width) >= 1, "frames, height and width must be at least 1")
    unit = math.sqrt(AREA / (height * width))
    rows, columns = (unit * (torch.arange(n) + 0.5 - n / 2) for n in (height, width))
    return torch.cartesian_prod(torch.arange(frames).float(), rows, columns).view(-1, 3)


def turned(
    x: Float[Tensor, "batch tokens heads dim"],
    cos: Float[Tensor, "tokens heads half"],
    sin: Float[Tensor, "tokens heads half"],
) -> Float[Tensor, "batch tokens heads dim"]:
    """Rotate dimensions 2i and 2i + 1 by their angle."""
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def rms(x: Float[Tensor, "*batch dim"], eps: float = 1e-6) -> Float[Tensor, "*batch dim"]:
    """Divided by its root mean square; without a gain, which the time gives."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


class JointAttention(nn.Module):
    """One attention over the tokens of both streams.

    Parameters
    ----------
    d_model, d_text
        Widths of the streams. Heads have d_model / n_heads dimensions in both.
    last
        The text is only read: nothing comes back for it.
    """

    def __init__(self, d_model: int, d_text: int, n_heads: int, *, last: bool = False):
        super().__init__()
        require(d_model % n_heads == 0, f"n_heads must divide d_model = {d_model}", n_heads)
        self.n_heads, dim = n_heads, d_model // n_heads
        self.video_qkv, self.text_qkv = (
            nn.ModuleList(nn.Linear(d, d_model, bias=False) for _ in "qkv")
            for d in (d_model, d_text)
        )
        self.video_norms, self.text_norms = (
            nn.ModuleList(RMSNorm(dim) for _ in "qk") for _ in range(2)
        )
        self.out_proj = nn.Linear(d_model, d_model)
        self.text_out_proj = None if last else nn.Linear(d_model, d_text)

    def _heads(self, x: Tensor, qkv: nn.ModuleList, norms: nn.ModuleList) -> list[Tensor]:
        """Queries, keys and values; the first two with unit root mean square, times a gain."""
        q, k, v = (project(x).unflatten(-1, (self.n_heads, -1)) for project in qkv)
        return [norms[0](q), norms[1](k), v]

    def forward(
        self,
        video: Video,
        text: Text,
        keep: Bool[Tensor, "batch text"],
        cos: Float[Tensor, "video heads half"],
        sin: Float[Tensor, "video heads half"],
    ) -> tuple[Video, Text | None]:
        """What each stream has read; `keep` is False where the text is padding."""
        seen = self._heads(video, self.video_qkv, self.video_norms)
        read = self._heads(text, self.text_qkv, self.text_norms)
        seen[:2] = (turned(x, cos, sin) for x in seen[:2])
        q, k, v = (torch.cat(pair, dim=1).transpose(1, 2) for pair in zip(seen, read, strict=True))
        mask = F.pad(keep, (video.shape[1], 0), value=True)[:, None, None, :]
        both = scaled_dot_product_attention(q, k, v, mask=mask).transpose(1, 2).flatten(2)
        video, text = both.split([video.shape[1], text.shape[1]], dim=1)
        return self.out_proj(video), None if self.text_out_proj is None else self.text_out_proj(
            text
        )


class Stream(nn.Module):
    """One stream's own part of a block: what the time scales and gates, and the MLP.

    Two norms before a layer and two after it (a sandwich): the time scales what goes in,
    by 1 + s, and gates what comes out, by tanh g. A gate of zero leaves the stream as it was.
    """

    def __init__(self, d_time: int, d: int):
        super().__init__()
        self.modulation = nn.Linear(d_time, 4 * d)
        self.mlp = SwiGLU(d, 4 * d * 2 // 3)

    def scales_and_gates(self, time: Float[Tensor, "batch d_time"]) -> tuple[Tensor, ...]:
        """Scale and gate of the attention, scale and gate of the MLP."""
        return self.modulation(F.silu(time))[:, None].chunk(4, dim=-1)

    def after(
        self,
        x: Float[Tensor, "batch tokens d"],
        attended: Float[Tensor, "batch tokens d"],
        parts: tuple[Tensor, ...],
    ) -> Float[Tensor, "batch tokens d"]:
        """The stream after attention and MLP."""
        _, gate, mlp_scale, mlp_gate = parts
        x = x + rms(attended) * gate.tanh()
        return x + rms(self.mlp(rms(x) * (1 + mlp_scale))) * mlp_gate.tanh()


class Block(nn.Module):
    """Joint attention, then an MLP for each stream; in the last block the text only gives."""

    def __init__(self, d_model: int, d_text: int, n_heads: int, *, last: bool = False):
        super().__init__()
        self.attention = JointAttention(d_model, d_text, n_heads, last=last)
        self.video = Stream(d_model, d_model)
        self.text = nn.Linear(d_model, d_text) if last else Stream(d_model, d_text)

    def forward(
        self,
        video: Video,
        text: Text,
        time: Float[Tensor, "batch d_model"],
        keep: Bool[Tensor, "batch text"],
        cos: Float[Tensor, "video heads half"],
        sin: Float[Tensor, "video heads half"],
    ) -> tuple[Video, Text]:
        """Both streams after this block."""
        of_video = self.video.scales_and_gates(time)
        if isinstance(self.text, Stream):
            of_text = self.text.scales_and_gates(time)
            scale = of_text[0]
        else:
            scale = self.text(F.silu(time))[:, None]
        ready = rms(video) * (1 + of_video[0]), rms(text) * (1 + scale)
        seen, read = self.attention(*ready, keep, cos, sin)
        video = self.video.after(video, seen, of_video)
        return video, text if read is None else self.text.after(text, read, of_text)


class AttentionPool(nn.Module):
    """A caption in one vector: its mean asks, and mean and words answer."""

    def __init__(self, d_in: int, d_out: int, n_heads: int):
        super().__init__()
        require(d_in % n_heads == 0, f"n_heads must divide d_in = {d_in}", n_heads)
        self.n_heads = n_heads
        self.q_proj, self.kv_proj = nn.Linear(d_in, d_in), nn.Linear(d_in, 2 * d_in)
        self.out_proj = nn.Linear(d_in, d_out)

    def forward(
        self, x: Float[Tensor, "batch text d_in"], keep: Bool[Tensor, "batch text"]
    ) -> Float[Tensor, "batch d_out"]:
        """Over what is no padding; the mean of nothing is zero."""
        weights = keep.to(x.dtype) / keep.sum(1, keepdim=True).clamp(min=1)
        mean = weights[:, None] @ x  # (batch, 1, d_in)
        kv = self.kv_proj(torch.cat([mean, x], dim=1)).unflatten(-1, (2, self.n_heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        q = self.q_proj(mean).unflatten(-1, (self.n_heads, -1)).transpose(1, 2)
        mask = F.pad(keep, (1, 0), value=True)[:, None, None, :]
        return self.out_proj(scaled_dot_product_attention(q, k, v, mask=mask).flatten(1))
