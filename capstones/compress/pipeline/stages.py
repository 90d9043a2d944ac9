r"""A block in stages, one for each group of layers that read the same.

Between two stages the layers that come next may be changed: what they read is known, and nothing
that they give has been computed. So one pass over the text serves a whole block, and each layer is
compressed by what the compressed ones before it really give.

What layers read is weighed by what is made of their errors, at first order:

- Heads are means of values, $A (X W_v^T) = (A X) W_v^T$: the rows of $A X$ are the inputs of
  `v_proj` as well as those of $X$, and the error of its outputs over them is that of the heads.
- An error of a key moves the weight $a$ that it gets by $a (1 - a)$ times as much, so its row
  counts by the sum of that over all who look at it. Language models look much at their first
  token: one row of a window for $X$, and far more of a head.
- `out_proj` and `down_proj` write into the stream $h$, and all who read it divide by its root mean
  square: so do their rows. The stream of a first token can be far larger than those of others, and
  its rows would be nearly all that counts.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(7, 16, 1, 4, 2), torch.Generator().manual_seed(0))
>>> x, waves = model.embed(torch.arange(6)[None]), model.waves(torch.arange(6), None)
>>> read = list(stages(model.blocks[0], x, *waves))
>>> [reader for reader, _ in read[:-1]]
['q_proj', 'k_proj', 'v_proj', 'out_proj', 'gate_proj', 'down_proj']
>>> torch.equal(read[-1][1], model.blocks[0](x, *waves))
True

Source: Kim et al., "BoA: attention-aware post-training quantization without backpropagation"
(2024), which weighs keys and values by attention in its own way [from memory].
"""

from collections.abc import Iterable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from week18.llama3 import Block, Llama
from week18.rotary import rotate
from week19.folding import READERS
from week19.layer_inputs import Inputs

Stages = Iterator[tuple[str, Tensor]]
# Layers by what they read, each group named by its first, in the order of the stages.
READ = {name: [name] for name in READERS["q_proj"]}
READ |= {name: READERS[name] for name in ("out_proj", "gate_proj", "down_proj")}


def stages(
    block: Block,
    x: Float[Tensor, "batch seq d_model"],
    cos: Float[Tensor, "row 1 seq half_dim"],
    sin: Float[Tensor, "row 1 seq half_dim"],
    *,
    weighted: bool = True,
) -> Stages:
    """What each group of layers reads, before it computes; last, what the block gives.

    It is `Block.forward` without a cache.

    Parameters
    ----------
    weighted
        Whether what layers read is weighed by what is made of their errors, or as it is.
    """
    u = block.attention_norm(x)
    yield "q_proj", u
    q = rotate(_heads(block.q_proj(u), block), cos, sin)
    if weighted:
        looks = looked_at(q, rotate(_heads(block.k_proj(u), block), cos, sin))
    yield "k_proj", u * looks.sqrt()[..., None] if weighted else u
    k = rotate(_heads(block.k_proj(u), block), cos, sin)
    shared, causal = q.shape[1] != k.shape[1], q.shape[2] > 1
    mean = partial(F.scaled_dot_product_attention, q, k, is_causal=causal, enable_gqa=shared)
    yield "v_proj", mean(u[:, None].expand(-1, k.shape[1], -1, -1)) if weighted else u
    heads = mean(_heads(block.v_proj(u), block))
    heads = heads.transpose(1, 2).flatten(2)
    yield "out_proj", heads / size(x + block.out_proj(heads)) if weighted else heads
    x = x + block.out_proj(heads)
    u = block.mlp_norm(x)
    yield "gate_proj", u
    inner = F.silu(block.gate_proj(u)) * block.up_proj(u)
    yield "down_proj", inner / size(x + block.down_proj(inner)) if weighted else inner
    yield "", x + block.down_proj(inner)


def _heads(x: Float[Tensor, "batch seq width"], block: Block) -> Float[Tensor, "batch head seq d"]:
    return x.unflatten(-1, (-1, block.head_dim)).transpose(1, 2)


def size(x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch 1"]:
    """Root mean square of each row, which a norm divides it by; above 0, also of a row of zeros."""
    return x.square().mean(-1, keepdim=True).sqrt().clamp_min(torch.finfo(x.dtype).tiny)


def looked_at(
    q: Float[Tensor, "batch q_head seq d"], k: Float[Tensor, "batch kv_head seq d"]
) -> Float[Tensor, "batch seq"]:
    """How much each key's errors matter: a (1 - a) over all who see it, the mean over heads."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    later = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
    a = scores.softmax(-1)
    return (a * (1 - a)).sum(-2).mean(1)


def measure(read: Iterable[Float[Tensor, "*batch seq width"]]) -> Inputs:
    """Hessian, mean and largest magnitudes of what is read, window by window."""
    n, h, total, most = 0, 0, 0, 0
    for x in read:
        rows = x.flatten(0, -2)
        h = torch.addmm(h, rows.T, rows) if n else rows.T @ rows
        total = total + rows.abs().sum(0)
        most = torch.maximum(most, rows.abs().amax(0)) if n else rows.abs().amax(0)
        n += len(rows)
    return Inputs(h.div_(n), total / n, most)


def inputs_of(running: list[Stages]) -> dict[str, Inputs]:
    """What the groups of `READERS` read, from the stages of each window."""
    found = {}
    for name in READ:
        windows = [next(each)[1] for each in running]
        if name in READERS:
            found[name] = measure(windows)
    return found


def begin(
    model: Llama, windows: Iterable[Tensor], seqlen: int
) -> tuple[list[Tensor], tuple[Tensor, Tensor]]:
    """The stream of each window as the first block reads it, and the rotary waves."""
    waves = model.waves(torch.arange(seqlen), None)
    return [model.embed(ids[None]) for ids in windows], waves


def head_reads(model: Llama, windows: Iterable[Tensor]) -> Iterator[Float[Tensor, "1 seq d_model"]]:
    """What the head multiplies by in each window: what the last norm gives."""
    for ids in windows:
        (x,), waves = begin(model, [ids], len(ids))
        for block in model.blocks:
            x = block(x, *waves)
        yield model.norm(x)
