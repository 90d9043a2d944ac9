r"""What Stable Diffusion reads captions with: the text transformer of CLIP.

Words and their places are added, then come causal blocks that normalize before each layer, and a
last norm. Stable Diffusion's memory is the *whole* output, one vector per word; CLIP itself keeps
the one at the first end-of-text token, which alone has seen all the words.

>>> model = TextEncoder(TextConfig(9, context=5, d_model=8, n_heads=2, n_layers=1, d_ff=16))
>>> ids = torch.tensor([[1, 4, 7, 2, 2], [1, 5, 2, 2, 2]])  # 1 starts, 2 ends and fills up
>>> model(ids).shape
torch.Size([2, 5, 8])
>>> torch.equal(at_end(model(ids), ids, 2)[1], model(ids)[1, 2])
True

Radford et al., "Learning transferable visual models from natural language supervision" (2021),
section 2.4. The defaults of `TextConfig` are those of Stable Diffusion 1.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week13.attention import MultiHeadAttention

__all__ = ["TextConfig", "TextEncoder", "at_end", "quick_gelu"]


@dataclass(frozen=True)
class TextConfig:
    """Shape of a text encoder."""

    vocab_size: int = 49408
    context: int = 77
    d_model: int = 768
    n_heads: int = 12
    n_layers: int = 12
    d_ff: int = 3072


def quick_gelu(x: Float[Tensor, "*dims"]) -> Float[Tensor, "*dims"]:
    """CLIP's approximation of GELU; up to 0.02 off, and its weights know no other."""
    return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Causal attention, then an MLP; each reads a normalized copy."""

    def __init__(self, config: TextConfig):
        super().__init__()
        d = config.d_model
        self.attention_norm, self.mlp_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.attention = MultiHeadAttention(d, config.n_heads)
        self.up, self.down = nn.Linear(d, config.d_ff), nn.Linear(config.d_ff, d)

    def forward(self, x: Float[Tensor, "batch seq d_model"]) -> Float[Tensor, "batch seq d_model"]:
        """The stream after this block."""
        x = x + self.attention(self.attention_norm(x), is_causal=True)
        return x + self.down(quick_gelu(self.up(self.mlp_norm(x))))


class TextEncoder(nn.Module):
    """Ids to one vector per token.

    Parameters
    ----------
    generator
        Draws the first weights; the global one if not given.
    """

    def __init__(self, config: TextConfig, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = nn.Embedding(config.context, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.LayerNorm(config.d_model)
        for name, p in self.named_parameters():
            if p.ndim > 1:
                nn.init.normal_(p, std=config.d_model**-0.5, generator=generator)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, ids: Int[Tensor, "batch seq"]) -> Float[Tensor, "batch seq d_model"]:
        """The memory that a U-Net attends to."""
        most = self.config.context
        require(ids.shape[1] <= most, f"ids must have at most {most} columns", ids.shape[1])
        x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def at_end(
    hidden: Float[Tensor, "batch seq d_model"], ids: Int[Tensor, "batch seq"], end: int
) -> Float[Tensor, "batch d_model"]:
    """The vector at each row's first end-of-text token."""
    found = ids == end
    require(bool(found.any(dim=1).all()), f"every row must have the end-of-text id {end}")
    return hidden[torch.arange(len(ids), device=ids.device), found.int().argmax(dim=1)]
