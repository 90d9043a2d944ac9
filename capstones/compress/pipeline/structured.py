"""Whole heads, neurons and blocks leave, and what is left is a smaller model of the same family.

Of every block equally many, so that one configuration says it all: any program that reads a LLaMA
reads the result. Heads leave with all queries that share their keys and values. Heads and neurons
are judged by the norm of their weights, blocks by how little they turn the stream on a text.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(11, 16, 3, 4, 2, d_ff=24), torch.Generator().manual_seed(0))
>>> ids = torch.arange(8)[None] % 11
>>> smaller = shrink(model, Structured(heads=0.5, neurons=0.25, layers=1), ids)
>>> c = smaller.config
>>> c.n_layers, c.n_heads, c.n_kv_heads, c.head_dim, c.d_ff, smaller(ids).shape
(2, 2, 1, 4, 18, torch.Size([1, 8, 11]))

Sources: `week27.structured_pruning`; Men et al., "ShortGPT" (2024), for the influence of blocks.
"""

import dataclasses

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from compress.pipeline.steps import Structured
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Llama
from week27.structured_pruning import (
    head_scores,
    keep_heads,
    keep_layers,
    keep_neurons,
    neuron_scores,
)


@torch.no_grad()
def shrink(model: Llama, step: Structured, ids: Int[Tensor, "window seqlen"] | None) -> Llama:
    """A smaller model; `ids` are needed where blocks leave.

    Raises
    ------
    UserError
        If nothing of a kind would be left.
    """
    c = model.config
    must = f"layers must be fewer than the model's {c.n_layers}"
    require(step.layers < c.n_layers, must, step.layers, error=UserError)
    if step.layers:
        kept = influence(model, ids).topk(c.n_layers - step.layers).indices.sort().values
        model = keep_layers(model, kept)
    gone = {"n_kv_heads": round(step.heads * c.n_kv_heads), "d_ff": round(step.neurons * c.d_ff)}
    left = {name: getattr(c, name) - n for name, n in gone.items()}
    for name, n in left.items():
        require(n >= 1, f"structured must leave a part of {name}", n, error=UserError)
    queries = c.n_heads // c.n_kv_heads
    blocks = []
    for block in model.blocks:
        if gone["n_kv_heads"]:
            scores = head_scores(block).view(-1, queries).sum(1)
            kv = scores.topk(left["n_kv_heads"]).indices.sort().values
            block = keep_heads(block, (kv[:, None] * queries + torch.arange(queries)).flatten())
        if gone["d_ff"]:
            kept = neuron_scores(block).topk(left["d_ff"]).indices.sort().values
            block = keep_neurons(block, kept)
        blocks.append(block)
    model.blocks = nn.ModuleList(blocks)
    sizes = {**left, "n_heads": left["n_kv_heads"] * queries, "n_layers": len(blocks)}
    model.config = dataclasses.replace(model.config, **sizes)
    return model


def influence(model: Llama, ids: Int[Tensor, "window seqlen"]) -> Float[Tensor, " layer"]:
    """One minus the cosine between what a block reads and what it gives, mean over tokens."""
    total = torch.zeros(len(model.blocks))
    waves = model.waves(torch.arange(ids.shape[1]), None)
    for row in ids:
        x = model.embed(row[None])
        for i, block in enumerate(model.blocks):
            before, x = x, block(x, *waves)
            total[i] += 1 - F.cosine_similarity(before, x, dim=-1).mean()
    return total / len(ids)
