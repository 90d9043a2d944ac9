"""A tiny vision transformer that has seen upright digits, and the same digits turned.

>>> model = ViT(torch.Generator().manual_seed(0))
>>> model(torch.zeros(2, 8, 8)).shape
torch.Size([2, 10])
>>> float(turned(torch.ones(1, 8, 8))[0, 4, 4])
1.0

The papers on LoRA and DoRA adapt it. The model: Dosovitskiy et al., "An image is worth 16×16 words"
(2021), here with patches of 2×2 pixels of scikit-learn's digits, and the mean of all patches
instead of a class token.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets
from week09.optimizers import AdamW
from week13.attention import scaled_dot_product_attention

DEGREES = 45
D_MODEL, N_HEADS, N_LAYERS, PATCH = 64, 4, 2, 2


class Block(nn.Module):
    """Attention among all patches, then an MLP on each; both read a normalized copy."""

    def __init__(self, d: int):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(d, d) for _ in range(3))
        self.out_proj = nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 2 * d), nn.Linear(2 * d, d)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """The stream after this layer."""
        u = self.attention_norm(x)
        q, k, v = (
            project(u).unflatten(-1, (N_HEADS, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        heads = scaled_dot_product_attention(q, k, v)
        x = x + self.out_proj(heads.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class ViT(nn.Module):
    """Sixteen patches of an image of 8×8 pixels, two blocks, ten classes."""

    def __init__(self, generator: torch.Generator | None = None):
        super().__init__()
        d = D_MODEL
        self.embed = nn.Linear(PATCH**2, d)
        self.positions = nn.Parameter(torch.zeros((8 // PATCH) ** 2, d))
        self.blocks = nn.ModuleList(Block(d) for _ in range(N_LAYERS))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 10)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                std = 0.02 if name == "positions" else p.shape[1] ** -0.5
                nn.init.normal_(p, std=std, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, images: Float[Tensor, "batch 8 8"]) -> Float[Tensor, "batch 10"]:
        """Scores of the ten digits."""
        patches = images.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).flatten(1, 2).flatten(2)
        x = self.embed(patches) + self.positions
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(dim=1))


class Split(NamedTuple):
    """Images and labels to learn from, and others that judge."""

    x: Float[Tensor, "n 8 8"]
    y: Int[Tensor, " n"]
    x_test: Float[Tensor, "m 8 8"]
    y_test: Int[Tensor, " m"]


def turned(
    images: Float[Tensor, "batch 8 8"], degrees: float = DEGREES
) -> Float[Tensor, "batch 8 8"]:
    """Each image turned about its middle, pixels interpolated."""
    angle = torch.deg2rad(torch.tensor(degrees))
    rows = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    affine = torch.cat([rows, torch.zeros(2, 1)], dim=1).expand(len(images), 2, 3)
    grid = F.affine_grid(affine, [len(images), 1, 8, 8], align_corners=False)
    return F.grid_sample(images[:, None], grid, align_corners=False)[:, 0]


def splits(generator: torch.Generator) -> tuple[Split, Split]:
    """Upright digits and turned ones; no image is in two of the four parts."""
    found = datasets.digits()
    x = torch.as_tensor(found.images, dtype=torch.float32)
    x, y = x / x.max(), torch.as_tensor(found.labels, dtype=torch.long)
    order = torch.randperm(len(x), generator=generator)
    a, b, c, d = (order[i:j] for i, j in ((0, 700), (700, 900), (900, 1400), (1400, len(x))))
    spun = turned(x)
    return Split(x[a], y[a], x[b], y[b]), Split(spun[c], y[c], spun[d], y[d])


def train(
    model: nn.Module, data: Split, *, steps: int, lr: float, generator: torch.Generator
) -> nn.Module:
    """Train what is not frozen, in place, by AdamW on batches of 32; the rate falls to zero."""
    optimizer = AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for step in range(steps):
        rows = torch.randint(len(data.x), (32,), generator=generator)
        loss = F.cross_entropy(model(data.x[rows]), data.y[rows])
        optimizer.zero_grad()
        optimizer.lr = lr * (1 - step / steps)
        loss.backward()
        optimizer.step()
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Split) -> float:
    """Share of judging images whose digit is right."""
    return float((model(data.x_test).argmax(-1) == data.y_test).float().mean())
