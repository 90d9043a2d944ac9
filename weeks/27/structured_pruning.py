r"""Structured pruning: whole neurons, heads and layers leave, and the matrices are really smaller.

A neuron of a gated MLP is a row of `gate_proj` and `up_proj` and a column of `down_proj`; a head is
`head_dim` rows of `q_proj` and as many columns of `out_proj`. With the columns at zero nothing
that the rows compute is read, so they may go as well:

$$ W_{\mathrm{down}}\, (m \odot h) = W_{\mathrm{down}}[:, K]\; h[K], \qquad K = \{i : m_i = 1\} . $$

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(11, d_model=16, n_layers=2, n_heads=4, n_kv_heads=2, d_ff=24))
>>> smaller = keep_neurons(model.blocks[0], torch.arange(6))
>>> smaller.down_proj.weight.shape, smaller.gate_proj.weight.shape
(torch.Size([16, 6]), torch.Size([6, 16]))

`uv run weeks/27/pruning.py` compares outputs with those of masked models. Sources: Li et al.,
"Pruning filters for efficient convnets" (2016), section 3; Michel, Levy & Neubig, "Are sixteen
heads really better than one?" (2019); Ma, Fang & Wang, "LLM-Pruner" (2023), for what goes together.
"""

import copy
import dataclasses

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require
from week18.llama3 import Block, Llama

MLP = ("gate_proj", "up_proj", "down_proj")


@torch.no_grad()
def neuron_scores(block: Block) -> Float[Tensor, " d_ff"]:
    """The norm of all weights that leave with a neuron."""
    gate, up, down = (getattr(block, name).weight for name in MLP)
    return (gate.square().sum(1) + up.square().sum(1) + down.square().sum(0)).sqrt()


@torch.no_grad()
def head_scores(block: Block) -> Float[Tensor, " n_heads"]:
    """The norm of a query head's own weights: its rows of `q_proj`, its columns of `out_proj`."""
    rows = block.q_proj.weight.unflatten(0, (-1, block.head_dim)).square().sum((1, 2))
    columns = block.out_proj.weight.unflatten(1, (-1, block.head_dim)).square().sum((0, 2))
    return (rows + columns).sqrt()


def _part(linear: nn.Linear, kept: Int[Tensor, " k"], dim: int) -> nn.Linear:
    """A linear layer with some of the rows (dim 0, outputs) or columns (dim 1, inputs)."""
    weight = linear.weight.detach().index_select(dim, kept).clone()
    found = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    found.weight = nn.Parameter(weight, requires_grad=linear.weight.requires_grad)
    return found


def _check(kept: Int[Tensor, " k"], n: int, name: str) -> None:
    inside = len(kept) > 0 and int(kept.min()) >= 0 and int(kept.max()) < n
    require(inside, f"{name} must be at least one of 0 to {n - 1}", kept.tolist())
    in_order = bool((kept[1:] > kept[:-1]).all())
    require(in_order, f"{name} must be in order and without repeats", kept.tolist())


def keep_neurons(block: Block, neurons: Int[Tensor, " k"]) -> Block:
    """A copy of the block whose MLP has only these neurons."""
    _check(neurons, len(block.up_proj.weight), "neurons")
    found = copy.deepcopy(block)
    for name, dim in zip(MLP, (0, 0, 1), strict=True):
        setattr(found, name, _part(getattr(block, name), neurons, dim))
    return found


def keep_heads(block: Block, heads: Int[Tensor, " k"]) -> Block:
    """A copy of the block whose attention has only these query heads.

    A head of keys and values leaves with the last of the query heads that share it. Those that
    stay must serve equally many: attention finds its group by counting. The model's configuration
    knows nothing of it, so a cache that is made by it does not fit any more.

    Raises
    ------
    ValueError
        If they do not, or `heads` is empty, out of range or out of order.
    """
    size = block.head_dim
    n_heads, n_kv = (len(p.weight) // size for p in (block.q_proj, block.k_proj))
    _check(heads, n_heads, "heads")
    kv, served = (heads // (n_heads // n_kv)).unique_consecutive(return_counts=True)
    must = "heads must leave every head of keys and values equally many queries, or none"
    require(int(served.min()) == int(served.max()), must, served.tolist())
    found = copy.deepcopy(block)
    wanted = {"q_proj": (heads, 0), "k_proj": (kv, 0), "v_proj": (kv, 0), "out_proj": (heads, 1)}
    for name, (kept, dim) in wanted.items():
        index = (kept[:, None] * size + torch.arange(size)).flatten()
        setattr(found, name, _part(getattr(block, name), index, dim))
    return found


def keep_layers(model: Llama, layers: Int[Tensor, " k"]) -> Llama:
    """A copy of the model with only these blocks, numbered anew: a cache counts them."""
    _check(layers, len(model.blocks), "layers")
    found = copy.deepcopy(model)
    found.blocks = nn.ModuleList(found.blocks[i] for i in layers.tolist())
    found.config = dataclasses.replace(model.config, n_layers=len(layers))
    for i, block in enumerate(found.blocks):
        block.layer = i
    return found
