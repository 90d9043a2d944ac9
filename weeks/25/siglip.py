r"""A small SigLIP: an encoder of pictures whose every patch stays a token, and its twin for texts.

Three things differ from CLIP's towers. There is no class token: pictures leave as a grid of
patches, which a language model can read, and for one vector a learned query attends to all of them.
Texts are read without a mask and at their *last* position, so that they must be padded to the
length of training. And a pair is judged alone, by a sigmoid with a bias (see `clip.py`).

>>> tower = VisionTower(side=16, patch=4, d_model=32, n_heads=2, n_layers=1, d_ff=64)
>>> tower(torch.zeros(5, 3, 16, 16)).shape  # a token for each patch
torch.Size([5, 16, 32])
>>> AttentionPool(32, 2, 64)(tower(torch.zeros(5, 3, 16, 16))).shape
torch.Size([5, 32])

    uv run weeks/25/paligemma2.py

Source: Zhai et al., "Sigmoid loss for language image pre-training" (2023). Reduced here: towers of
two layers.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week13.attention import MultiHeadAttention
from week25.clip import Block

gelu_tanh = partial(F.gelu, approximate="tanh")
EPS = 1e-6


class VisionTower(nn.Module):
    """A vision transformer that gives a token for each patch."""

    def __init__(
        self, *, side: int, patch: int, d_model: int, n_heads: int, n_layers: int, d_ff: int
    ):
        super().__init__()
        require(side % patch == 0, f"patch must divide side = {side}", patch)
        self.side = side
        self.patch = nn.Conv2d(3, d_model, patch, stride=patch)
        self.positions = nn.Embedding((side // patch) ** 2, d_model)
        self.blocks = nn.ModuleList(
            Block(d_model, n_heads, d_ff, gelu_tanh, EPS) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model, EPS)

    def forward(
        self, images: Float[Tensor, "batch 3 side side"]
    ) -> Float[Tensor, "batch patches d_model"]:
        """Tokens of the patches, row by row."""
        sides = tuple(images.shape[-2:])
        require(sides == (self.side,) * 2, f"images must have sides of {self.side}", sides)
        x = self.patch(images).flatten(2).transpose(1, 2) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class AttentionPool(nn.Module):
    """One learned query asks all patches; an MLP follows."""

    def __init__(self, d_model: int, n_heads: int, d_ff: int):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(d_model))
        self.attention = MultiHeadAttention(d_model, n_heads)
        self.norm = nn.LayerNorm(d_model, EPS)
        self.fc1, self.fc2 = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)

    def forward(self, x: Float[Tensor, "batch patches d_model"]) -> Float[Tensor, "batch d_model"]:
        """A vector of each picture."""
        x = self.attention(self.probe.expand(len(x), 1, -1), x)
        return (x + self.fc2(gelu_tanh(self.fc1(self.norm(x)))))[:, 0]


class ImageHead(nn.Sequential):
    """The tower and its pool: an image tower for `Clip`."""

    def __init__(self, tower: VisionTower, n_heads: int, d_ff: int):
        super().__init__(tower, AttentionPool(tower.norm.weight.numel(), n_heads, d_ff))


class TextTower(nn.Module):
    """A transformer without a mask, read at the last position; all texts are of one length."""

    def __init__(
        self, *, vocab_size: int, context: int, d_model: int, n_heads: int, n_layers: int, d_ff: int
    ):
        super().__init__()
        self.embed, self.positions = (nn.Embedding(n, d_model) for n in (vocab_size, context))
        self.blocks = nn.ModuleList(
            Block(d_model, n_heads, d_ff, gelu_tanh, EPS) for _ in range(n_layers)
        )
        self.norm = nn.LayerNorm(d_model, EPS)
        self.head = nn.Linear(d_model, d_model)

    def forward(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch d_model"]:
        """A vector of each text."""
        context = self.positions.num_embeddings
        must = f"tokens must be padded to context = {context}, as in training"
        require(tokens.shape[1] == context, must, tokens.shape[1])
        x = self.embed(tokens) + self.positions.weight
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, -1]))
