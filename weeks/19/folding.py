r"""Factors moved from a layer's inputs into its weights, so that nothing changes but the rounding.

Linear layers $W$ that read $x$ may read $x / s$ instead, one factor per input, if their columns are
multiplied by $s$: $W x = (W\,\mathrm{diag}(s))(\mathrm{diag}(s)^{-1} x)$. The division costs
nothing where the operation before ends in a product: a norm's gain, a projection's rows. Everything
that reads $x$ must take part, the router of a mixture of experts too.

>>> norm, linear = nn.LayerNorm(4), nn.Linear(4, 3)
>>> x = torch.arange(8.0).sin().view(2, 4)
>>> before = linear(norm(x))
>>> fold(norm, [linear], torch.tensor([1.0, 2.0, 4.0, 0.5]))
>>> torch.allclose(linear(norm(x)), before, atol=1e-6)
True

`uv run weeks/19/smoothquant.py` compares outputs before and after. Xiao et al., "SmoothQuant"
(2022), section 4; Lin et al., "AWQ" (2023), section 3.2.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from shared.require import require
from week18.llama3 import Block

# The layers of a LLaMA block by what they read, each group named by its first.
READERS = {
    "q_proj": ["q_proj", "k_proj", "v_proj"],
    "out_proj": ["out_proj"],
    "gate_proj": ["gate_proj", "up_proj"],
    "down_proj": ["down_proj"],
}
LAYERS = [name for names in READERS.values() for name in names]


@torch.no_grad()
def fold(before: nn.Module, readers: Sequence[nn.Linear], s: Float[Tensor, " width"]) -> None:
    """Divide what `before` gives by s, and multiply the columns of what reads it by s, in place.

    Parameters
    ----------
    before
        A norm with a gain (and perhaps a bias), or a linear layer.
    readers
        All linear layers that read its output, perhaps by way of something linear in it: the
        gated product of an MLP, attention's mean of values.
    """
    width = len(before.weight)
    require(s.shape == (width,), f"s must have shape ({width},)", tuple(s.shape))
    require((s > 0).all() and s.isfinite().all(), "s must be positive and finite", s.min().item())
    for linear in readers:
        n_in = linear.in_features
        require(n_in == width, f"readers must have {width} inputs", n_in)
    before.weight.div_(s if before.weight.ndim == 1 else s[:, None])
    if getattr(before, "bias", None) is not None:
        before.bias.div_(s)
    for linear in readers:
        linear.weight.mul_(s)


@torch.no_grad()
def fold_values(
    v_proj: nn.Linear, out_proj: nn.Linear, s: Float[Tensor, " kv_width"], head_dim: int
) -> None:
    """As `fold` from values to attention's output, where a head of values serves several heads."""
    wide = per_query_head(s, out_proj.in_features, head_dim)
    fold(v_proj, [], s)
    out_proj.weight.mul_(wide)


def per_query_head(
    s: Float[Tensor, " kv_width"], width: int, head_dim: int
) -> Float[Tensor, " width"]:
    """Factors of the key-value heads, each repeated for the query heads that share it."""
    require(width % len(s) == 0, f"s must divide {width}", len(s))
    return s.view(-1, head_dim).repeat_interleave(width // len(s), 0).flatten()


def per_kv_head(
    x: Float[Tensor, " width"], n_kv_heads: int, head_dim: int, how: str = "mean"
) -> Float[Tensor, " kv_width"]:
    """The mean or the maximum over the query heads that share a head of values."""
    heads = x.view(n_kv_heads, -1, head_dim)
    return (heads.mean(1) if how == "mean" else heads.amax(1)).flatten()


def fold_block(block: Block, reader: str, s: Float[Tensor, " width"]) -> None:
    """Fold factors of the inputs of one group of `READERS` into what comes before."""
    layers = [getattr(block, name) for name in READERS[reader]]
    if reader == "out_proj":
        fold_values(block.v_proj, block.out_proj, s, block.head_dim)
    else:
        befores = {"q_proj": "attention_norm", "gate_proj": "mlp_norm", "down_proj": "up_proj"}
        fold(getattr(block, befores[reader]), layers, s)
