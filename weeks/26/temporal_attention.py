r"""Attention over space and time: all at once, or first within frames and then along time.

A clip of $T$ frames with $S$ patches each is $TS$ tokens. Full attention lets each see all,
$(TS)^2$ pairs. Factorized attention takes two turns: $T$ times $S^2$ pairs within frames, then $S$
times $T^2$ pairs along time,

$$ (TS)^2 \quad\text{against}\quad T S^2 + S T^2 = (TS)^2 \left(\frac{1}{T} + \frac{1}{S}\right) .
$$

All three are one attention under different masks, which is the short way to write them; the fast
way folds what may not be seen into the batch. Here a block is two attentions and an MLP, so that
the *arms*, spatial, factorized and joint, have the same weights and differ in who sees whom. Time
enters by a rotation of queries and keys, which depends on differences of frames only.

>>> sees("temporal", frames=2, places=2).int()
tensor([[1, 0, 1, 0],
        [0, 1, 0, 1],
        [1, 0, 1, 0],
        [0, 1, 0, 1]], dtype=torch.int32)
>>> [attention_flops(arm, 8, 9, d_model=32) for arm in ("spatial", "factorized", "joint")]
[165888, 156672, 1327104]

    uv run weeks/26/temporal_attention.py

Reduced: patches of 4×4 pixels, and a Transformer where the paper has a U-Net. Ho et al., "Video
diffusion models" (2022), section 3; Bertasius, Wang & Torresani, "Is space-time attention all you
need for video understanding?" (2021), section 3.
"""

from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week13.attention import MultiHeadAttention
from week13.positional_encodings import apply_rope
from week23.unet import timestep_embedding

__all__ = [
    "ARMS",
    "Block",
    "VideoConfig",
    "VideoTransformer",
    "attend",
    "attention_flops",
    "flops",
    "masked",
    "patches",
    "pixels",
    "sees",
]

Kind = Literal["spatial", "temporal", "joint"]
Arm = Literal["spatial", "factorized", "joint"]
ARMS: dict[Arm, tuple[Kind, Kind]] = {  # the two attentions of each block
    "spatial": ("spatial", "spatial"),
    "factorized": ("spatial", "temporal"),
    "joint": ("joint", "joint"),
}


# ---- who sees whom


def sees(
    kind: Kind, *, frames: int, places: int, is_causal: bool = False
) -> Bool[Tensor, "tokens tokens"]:
    """For each token, frame by frame, the tokens that it may attend to.

    Parameters
    ----------
    is_causal
        Nobody sees a later frame. Within a frame all see all.
    """
    require(kind in get_args(Kind), "kind must be spatial, temporal or joint", kind)
    frame = torch.arange(frames).repeat_interleave(places)
    place = torch.arange(places).repeat(frames)
    mask = torch.ones(frames * places, frames * places, dtype=torch.bool)
    if kind == "spatial":
        mask = frame == frame[:, None]
    elif kind == "temporal":
        mask = place == place[:, None]
    return mask & (frame <= frame[:, None]) if is_causal else mask


def masked(
    attention: MultiHeadAttention,
    x: Float[Tensor, "batch frames places d_model"],
    kind: Kind,
    *,
    is_causal: bool = False,
) -> Float[Tensor, "batch frames places d_model"]:
    """The definition: full attention under the mask."""
    frames, places = x.shape[1:3]
    positions = torch.arange(frames).repeat_interleave(places)
    mask = sees(kind, frames=frames, places=places, is_causal=is_causal).to(x.device)
    y = attention(x.flatten(1, 2), rope=partial(apply_rope, positions=positions), mask=mask)
    return y.unflatten(1, (frames, places))


def attend(
    attention: MultiHeadAttention,
    x: Float[Tensor, "batch frames places d_model"],
    kind: Kind,
    *,
    is_causal: bool = False,
    apart: bool = False,
) -> Float[Tensor, "batch frames places d_model"]:
    """The same, where what is never seen is never computed.

    Parameters
    ----------
    apart
        The frames are images that have nothing to do with each other: along time each sees itself.

    References
    ----------
    Ho et al. (2022), section 3: joint training on video and images.
    """
    require(kind in get_args(Kind), "kind must be spatial, temporal or joint", kind)
    batch, frames, places = x.shape[:3]
    if kind == "spatial":  # frames become rows of the batch; one angle for all turns nothing
        return attention(x.flatten(0, 1)).unflatten(0, (batch, frames))
    if kind == "temporal":  # places do
        y = x.transpose(1, 2).flatten(0, 1)
        mask = torch.eye(frames, dtype=torch.bool, device=x.device) if apart else None
        y = attention(y, rope=apply_rope, is_causal=is_causal, mask=mask)
        return y.unflatten(0, (batch, places)).transpose(1, 2)
    return masked(attention, x, "spatial" if apart else "joint", is_causal=is_causal)


# ---- the network


class Block(nn.Module):
    """Two attentions and an MLP; each reads a normalized copy and adds to the stream."""

    def __init__(self, d_model: int, n_heads: int, kinds: tuple[Kind, Kind]):
        super().__init__()
        self.kinds = kinds
        self.norms = nn.ModuleList(nn.LayerNorm(d_model) for _ in range(3))
        self.attentions = nn.ModuleList(MultiHeadAttention(d_model, n_heads) for _ in kinds)
        self.up, self.down = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(
        self, x: Float[Tensor, "batch frames places d_model"], **options: bool
    ) -> Float[Tensor, "batch frames places d_model"]:
        """The stream after this block; options as in `attend`."""
        for norm, attention, kind in zip(self.norms, self.attentions, self.kinds, strict=False):
            x = x + attend(attention, norm(x), kind, **options)
        return x + self.down(F.gelu(self.up(self.norms[2](x))))


@dataclass(frozen=True)
class VideoConfig:
    """Shape of a video Transformer; as many pixels come out as go in.

    Attributes
    ----------
    arm
        Who sees whom: a key of `ARMS`.
    is_causal
        No frame sees a later one.
    """

    arm: Arm = "factorized"
    size: int = 12
    patch: int = 4
    d_model: int = 32
    n_heads: int = 2
    n_layers: int = 2
    is_causal: bool = False

    def __post_init__(self):
        require(self.arm in ARMS, f"arm must be one of {', '.join(ARMS)}", self.arm)
        require(self.size % self.patch == 0, f"patch must divide size = {self.size}", self.patch)

    @property
    def places(self) -> int:
        """Patches per frame."""
        return (self.size // self.patch) ** 2


@checked
def patches(
    video: Float[Tensor, "batch frames height width"], patch: int
) -> Float[Tensor, "batch frames places pixels"]:
    """Squares of each frame, row by row."""
    require(patch >= 1 and all(n % patch == 0 for n in video.shape[2:]), "patch must divide", patch)
    square = video.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))  # b t h p w q
    return square.transpose(3, 4).flatten(4, 5).flatten(2, 3)


@checked
def pixels(
    x: Float[Tensor, "batch frames places pixels"], size: int
) -> Float[Tensor, "batch frames size size"]:
    """The frames that were cut into these squares."""
    side = round(x.shape[2] ** 0.5)
    patch = size // side
    square = x.unflatten(3, (patch, patch)).unflatten(2, (side, side))  # b t h w p q
    return square.transpose(3, 4).flatten(4, 5).flatten(2, 3)


class VideoTransformer(nn.Module):
    """From a clip and its time of noising, a clip of the same shape.

    Attention's output projections and the last layer start at zero: at first an added temporal
    layer changes nothing, and an image model that is made a video model stays what it was.
    """

    def __init__(self, config: VideoConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, d = config, config.d_model
        self.embed, self.time = nn.Linear(config.patch**2, d), nn.Linear(d, d)
        self.places = nn.Parameter(torch.empty(config.places, d))
        kinds = ARMS[config.arm]
        self.blocks = nn.ModuleList(Block(d, config.n_heads, kinds) for _ in range(config.n_layers))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, config.patch**2)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                still = name.endswith(("out_proj.weight", "head.weight"))
                nn.init.normal_(p, std=0.0 if still else p.shape[1] ** -0.5, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(
        self,
        video: Float[Tensor, "batch frames size size"],
        t: Float[Tensor, " batch"] | None = None,
        *,
        apart: bool = False,
    ) -> Float[Tensor, "batch frames size size"]:
        """One value per pixel; t from 0 to 1, if noise is a matter."""
        x = self.embed(patches(video, self.config.patch)) + self.places
        if t is not None:
            time = timestep_embedding(1000 * t, self.config.d_model)
            x = x + self.time(time.to(x.dtype))[:, None, None]
        for block in self.blocks:
            x = block(x, is_causal=self.config.is_causal, apart=apart)
        return pixels(self.head(self.norm(x)), self.config.size)


# ---- what it costs


def attention_flops(arm: Arm, frames: int, places: int, *, d_model: int) -> int:
    """Floating-point operations of scores and averages in one block, forward, per clip.

    A pair of tokens costs 2 d for its score and 2 d for its part of the average.
    """
    pairs = {
        "spatial": frames * places**2,
        "temporal": places * frames**2,
        "joint": (frames * places) ** 2,
    }
    return sum(4 * d_model * pairs[kind] for kind in ARMS[arm])


def flops(config: VideoConfig, frames: int) -> int:
    """Of the whole network without a time: two per weight and token, and the attention's."""
    d, tokens = config.d_model, frames * config.places
    weights = config.n_layers * (2 * 4 * d**2 + 8 * d**2) + 2 * config.patch**2 * d
    pairs = attention_flops(config.arm, frames, config.places, d_model=d)
    return 2 * weights * tokens + config.n_layers * pairs


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
