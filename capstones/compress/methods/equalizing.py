"""Factors that move between layers before rounding: AWQ's, searched, and SmoothQuant's, computed.

The block computes the same before and after; only what rounding does to it changes. The factors
are returned, so that a run that goes on can apply them again, to the bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from compress.pipeline.steps import Quantize
from week18.llama3 import Block
from week19.awq import factors, search
from week19.folding import READERS, fold_block, per_kv_head, per_query_head
from week19.layer_inputs import Inputs
from week19.smoothquant import smoothing


@torch.no_grad()
def equalize(block: Block, inputs: dict[str, Inputs], chosen: Quantize) -> dict[str, Tensor]:
    """Find factors for each group of layers that read the same, and fold them in, in place."""
    found = {}
    # The last first: factors folded into a layer's rows change the largest of its columns.
    for reader, names in reversed(READERS.items()):
        w = torch.cat([getattr(block, name).weight for name in names])
        n_kv = len(block.v_proj.weight) // block.head_dim
        shared = (n_kv, block.head_dim) if reader == "out_proj" else None
        how = smooth if chosen.method == "smoothquant" else scale_up
        found[reader] = how(w, inputs[reader], chosen, shared)
        fold_block(block, reader, found[reader])
    return found


def smooth(
    w: Float[Tensor, "out in"],
    inputs: Inputs,
    chosen: Quantize,
    shared: tuple[int, int] | None,
) -> Float[Tensor, " factor"]:
    """SmoothQuant's factors; `shared` are the heads of values and their size, if w reads them."""
    most = inputs.most, w.abs().amax(0)
    if shared:
        most = tuple(per_kv_head(m, *shared, "max") for m in most)
    return smoothing(*most, chosen.alpha)


def scale_up(
    w: Float[Tensor, "out in"],
    inputs: Inputs,
    chosen: Quantize,
    shared: tuple[int, int] | None,
) -> Float[Tensor, " factor"]:
    """AWQ's factors: the mean magnitudes to the power that leaves the least error."""
    mean, h, n_in = inputs.mean, inputs.h, w.shape[1]
    if shared:
        per_head = per_kv_head(mean, *shared)
        mean = per_query_head(per_head, n_in, shared[1])
    size = min(chosen.group_size or n_in, n_in)
    # Columns of zeros fill the last group: a grid holds zero in any case.
    more = -n_in % size
    w, h = (torch.nn.functional.pad(x, pads) for x, pads in ((w, (0, more)), (h, (0, more) * 2)))
    padded = torch.cat([mean, mean.min().expand(more)])
    best = search(w, h, padded, bits=chosen.bits, group_size=size)
    return factors(per_head, best.alpha) if shared else best.s[:n_in]
