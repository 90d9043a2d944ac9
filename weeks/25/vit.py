r"""The vision transformer: a picture is a sequence of patches, and an encoder reads it.

Each patch of p × p pixels becomes a vector by one linear map, which is a convolution of stride p.
Learned tokens stand in front: one that gathers the class, and in DeiT another that imitates a
teacher. Positions are added, pre-norm layers follow, and linear heads read the tokens in front,

$$ z_0 = [x_\mathrm{class};\, x_1 E;\, \ldots;\, x_N E] + E_\mathrm{pos}, \qquad
   z \leftarrow z + \mathrm{Attention}(\mathrm{LN}(z)), \quad
   z \leftarrow z + \mathrm{MLP}(\mathrm{LN}(z)) . $$

Instead of added positions, queries and keys can be turned: half of a head's pairs of dimensions by
the patch's row, half by its column (2-D RoPE), so that scores depend on relative places alone.

>>> model = ViT(ViTConfig(image_size=14, patch_size=7), torch.Generator().manual_seed(0))
>>> model(torch.zeros(2, 1, 14, 14)).shape
torch.Size([2, 10])
>>> maps = model.attention_maps(torch.zeros(2, 1, 14, 14)).detach()
>>> maps.shape  # layer, batch, head, query, key
torch.Size([2, 2, 4, 5, 5])
>>> torch.allclose(rollout(maps).sum(-1), torch.ones(2, 5))
True

    uv run weeks/25/vit.py

Sources: Dosovitskiy et al., "An image is worth 16x16 words" (2020), equations 1 to 4; Touvron et
al., "Training data-efficient image transformers" (2021), section 4; Abnar & Zuidema (2020),
"Quantifying attention flow in transformers"; 2-D RoPE as in Heo et al. (2024), the axial kind.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.arguments import checked
from shared.require import require
from week09.optimizers import AdamW
from week09.schedules import one_cycle
from week13.positional_encodings import apply_rope
from week13.transformer import EncoderLayer

__all__ = [
    "ViT",
    "ViTConfig",
    "distillation_loss",
    "patches_of",
    "resize_positions",
    "rollout",
    "rope_2d",
    "train",
]

Images = Float[Tensor, "batch channels height width"]
Stream = Float[Tensor, "batch seq d_model"]


@dataclass(frozen=True)
class ViTConfig:
    """Sizes of a vision transformer.

    Attributes
    ----------
    image_size, patch_size
        Sides of the square picture and of a patch, in pixels.
    d_ff
        Width of the MLP; 4 d_model if None.
    positions
        Added to all tokens ("learned"), turned into queries and keys ("rope"), or "none".
    distilled
        With DeiT's second token and head.
    """

    image_size: int
    patch_size: int
    channels: int = 1
    n_classes: int = 10
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_ff: int | None = None
    positions: str = "learned"
    distilled: bool = False
    norm_eps: float = 1e-6

    def __post_init__(self):
        for name in ("image_size", "patch_size", "channels", "n_classes", "n_layers"):
            size = getattr(self, name)
            require(size >= 1, f"{name} must be at least 1", size)
        must = f"patch_size must divide image_size = {self.image_size}"
        require(self.image_size % self.patch_size == 0, must, self.patch_size)
        known = self.positions in ("learned", "rope", "none")
        require(known, 'positions must be "learned", "rope" or "none"', repr(self.positions))

    @property
    def side(self) -> int:
        """Patches per row and per column."""
        return self.image_size // self.patch_size


# ---- from pixels to tokens


@checked
def patches_of(images: Images, size: int) -> Float[Tensor, "batch patches pixels"]:
    """Cut pictures into patches, row by row; pixels of a patch by channel, row, column.

    `patches_of(x, p) @ conv.weight.flatten(1).T + conv.bias` is the patch embedding, slowly.
    """
    fits = size >= 1 and all(side % size == 0 for side in images.shape[2:])
    require(fits, f"size must divide height and width {tuple(images.shape[2:])}", size)
    windows = images.unfold(2, size, size).unfold(3, size, size)
    return windows.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)


@checked
def resize_positions(
    table: Float[Tensor, "seq d_model"], side: int, *, n_special: int
) -> Float[Tensor, "new_seq d_model"]:
    """Positions for `side` × `side` patches from those of another square: bicubic, in 2-D.

    The first `n_special` rows belong to tokens that stand nowhere and are kept.

    References
    ----------
    Dosovitskiy et al. (2020), section 3.2: for fine-tuning at a higher resolution.
    """
    special, rest = table[:n_special], table[n_special:]
    old = round(len(rest) ** 0.5)
    require(old**2 == len(rest) > 0, "table must hold a square of patches", len(rest))
    require(side >= 1, "side must be at least 1", side)
    grid = rest.T.reshape(1, -1, old, old)
    new = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
    return torch.cat([special, new[0].flatten(1).T])


@checked
def rope_2d(
    x: Float[Tensor, "batch head seq dim"], side: int, *, n_special: int, base: float = 100.0
) -> Float[Tensor, "batch head seq dim"]:
    """Turn the first half of each head by the patch's row, the second half by its column.

    Tokens in front stand nowhere and are not turned.
    """
    seq, dim = x.shape[2:]
    require(seq == n_special + side**2, "x must hold n_special + side² tokens", seq)
    require(dim % 4 == 0, "dim must be a multiple of 4", dim)
    special, patches = x[:, :, :n_special], x[:, :, n_special:]
    place = torch.arange(side)
    rows, columns = place.repeat_interleave(side), place.repeat(side)
    by_row, by_column = patches.chunk(2, dim=-1)
    turned = [apply_rope(by_row, rows, base=base), apply_rope(by_column, columns, base=base)]
    return torch.cat([special, torch.cat(turned, dim=-1)], dim=2)


# ---- the model


class Block(EncoderLayer):
    """The transformer's pre-norm layer with an exact GELU, which may turn queries and keys."""

    def __init__(self, config: ViTConfig):
        d_ff = 4 * config.d_model if config.d_ff is None else config.d_ff
        super().__init__(config.d_model, config.n_heads, d_ff)
        self.feed_forward[1] = nn.GELU()
        for residual in self.residuals:
            residual.norm.eps = config.norm_eps

    def forward(self, x: Stream, rope: Callable[[Tensor], Tensor] | None = None) -> Stream:
        """All tokens see all."""
        x = self.residuals[0](x, lambda h: self.self_attention(h, rope=rope))
        return self.residuals[1](x, self.feed_forward)


class ViT(nn.Module):
    """Patches in, logits out; weights from N(0, 1 / fan-in), positions from N(0, 0.02²)."""

    def __init__(self, config: ViTConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config, d = config, config.d_model
        self.n_special = 2 if config.distilled else 1
        self.embed = nn.Conv2d(config.channels, d, config.patch_size, stride=config.patch_size)
        self.special = nn.Parameter(torch.empty(self.n_special, d))
        if config.positions == "learned":
            self.positions = nn.Parameter(torch.empty(self.n_special + config.side**2, d))
        turn = partial(rope_2d, side=config.side, n_special=self.n_special)
        self.rope = turn if config.positions == "rope" else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(d, config.norm_eps)
        self.heads = nn.ModuleList(nn.Linear(d, config.n_classes) for _ in range(self.n_special))
        for name, p in self.named_parameters():
            if p.ndim > 1:
                std = 0.02 if name in ("special", "positions") else p[0].numel() ** -0.5
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def tokens(self, images: Images) -> Stream:
        """What the first layer reads."""
        want = (self.config.channels, self.config.image_size, self.config.image_size)
        got = tuple(images.shape[1:])
        require(got == want, f"images must be of shape {want} each", got)
        patches = self.embed(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.special.expand(len(images), -1, -1), patches], dim=1)
        return x + self.positions if self.config.positions == "learned" else x

    def hidden_states(self, images: Images) -> list[Stream]:
        """The tokens, and the stream after each layer; the last one is normalized."""
        states = [self.tokens(images)]
        for block in self.blocks:
            states.append(block(states[-1], self.rope))
        return [*states[:-1], self.norm(states[-1])]

    def by_token(self, images: Images) -> Float[Tensor, "batch special classes"]:
        """Logits of each token in front by its own head."""
        x = self.hidden_states(images)[-1]
        return torch.stack([head(x[:, i]) for i, head in enumerate(self.heads)], dim=1)

    def forward(self, images: Images) -> Float[Tensor, "batch classes"]:
        """Logits; with a distilled token the mean of both heads."""
        return self.by_token(images).mean(dim=1)

    def attention_maps(self, images: Images) -> Float[Tensor, "layer batch head query key"]:
        """How much each token takes from each other, in each layer and head."""
        maps = []
        for block, x in zip(self.blocks, self.hidden_states(images), strict=False):
            x = block.residuals[0].norm(x)
            maps.append(block.self_attention.weights(x, rope=self.rope))
        return torch.stack(maps)


@checked
def rollout(
    maps: Float[Tensor, "layer batch head query key"],
) -> Float[Tensor, "batch query key"]:
    """Attention multiplied through the layers, half of each layer being its skip connection.

    References
    ----------
    Abnar & Zuidema (2020), section 3, with the mean over heads.
    """
    total = torch.eye(maps.shape[-1], dtype=maps.dtype, device=maps.device)
    for attention in maps.mean(dim=2):
        total = (attention @ total + total) / 2
    return total


# ---- training


@checked
def distillation_loss(
    by_token: Float[Tensor, "batch 2 classes"],
    y: Int[Tensor, " batch"],
    teacher: Float[Tensor, "batch classes"],
) -> Float[Tensor, ""]:
    """Half for the labels by the class token, half for the teacher's choice by the other.

    References
    ----------
    Touvron et al. (2021), equation 3: hard distillation.
    """
    right = F.cross_entropy(by_token[:, 0], y)
    alike = F.cross_entropy(by_token[:, 1], teacher.argmax(dim=1))
    return (right + alike) / 2


def train(
    model: nn.Module,
    x: Float[Tensor, "n channels height width"],
    y: Int[Tensor, " n"],
    *,
    lr: float,
    steps: int,
    generator: torch.Generator,
    batch_size: int = 32,
) -> Float[Tensor, " steps"]:
    """AdamW on random batches, one cycle of the learning rate up to `lr`; the losses."""
    optimizer, losses = AdamW(model.parameters(), lr=lr), []
    model.train()
    for step in range(steps):
        optimizer.lr = lr * one_cycle(step, steps=max(steps, 4))
        rows = torch.randint(len(x), (batch_size,), generator=generator)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
