r"""GPTQ that keeps zeros at zero: what was pruned is made up for together with what is rounded.

GPTQ moves all weights that are still free when one is rounded, those that were pruned among them:
after it the matrix is dense again. Here a pruned weight's code is the zero point, whatever the
weight has become, and $\hat w - 0$ is an error like any other, which the columns that follow make
up for. With nothing pruned this is week 19's GPTQ.

>>> x = torch.randn(99, 8, generator=torch.Generator().manual_seed(0)).cumsum(1)
>>> w, h = torch.linspace(-1, 1, 24).sin().view(3, 8), x.T @ x / 99
>>> mask = (torch.arange(24).view(3, 8) % 2).bool()
>>> found = gptq(w, h, bits=4, mask=mask)[0].dense()
>>> (found == 0).sum() >= 12, bool((found[~mask] == 0).all())
(tensor(True), True)

Sources: Frantar et al., "GPTQ" (2022), algorithm 1; Frantar and Alistarh, "SparseGPT" (2023),
section 3.5, for pruning and rounding in one pass.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress.methods.rounding import rtn
from compress.weights import Weight
from week19.gptq import Codes, feedback, layer_error
from week19.gptq import gptq as unmasked_gptq
from week19.quantization import dequantize, grid, quantize


def gptq(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    *,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
    mask: Bool[Tensor, "out in"] | None = None,
    pattern: tuple[int, int] | None = None,
) -> tuple[Weight, float, bool]:
    """A matrix in codes, the damping that was needed, and whether rounding to nearest was better.

    Column by column the error is only nearly as small as it can be. Where it is larger than that of
    rounding to nearest, the rounded matrix is returned.
    """
    options = {"bits": bits, "symmetric": symmetric, "group_size": group_size}
    order = {"act_order": act_order, "damping": damping}
    if mask is None:
        found = unmasked_gptq(w, h, **options, **order)
    else:
        found = masked_gptq(w, h, mask, **options, **order)
    half = (1 << (bits - 1)) * symmetric
    codes = (found.codes.short() + half).to(torch.uint8)
    grids = {"scale": found.scale, "zero": found.zero + half, "group_of": found.group_of}
    ours = Weight(codes, mask=mask, pattern=pattern, bits=bits, **grids)
    nearest = rtn(w, mask=mask, pattern=pattern, **options)
    errors = [layer_error(w - each.dense(), h).sum() for each in (ours, nearest)]
    worse = bool(errors[1] < errors[0])
    return nearest if worse else ours, found.damping, worse


def masked_gptq(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    mask: Bool[Tensor, "out in"],
    *,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    act_order: bool = False,
    damping: float = 0.01,
    block_size: int = 128,
) -> Codes:
    """Week 19's loop with a mask: the grids are fitted to what is kept, dropped codes are zero."""
    n_in = w.shape[1]
    size = n_in if group_size is None else min(group_size, n_in)
    block_size = max(block_size // size, 1) * size
    w, h = w.clone(), h.clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    options = {"bits": bits, "symmetric": symmetric}
    order = torch.arange(n_in)
    if act_order:
        order = torch.argsort(h.diagonal(), descending=True, stable=True)
    u, damping = feedback(h[order][:, order], damping)
    group_of = torch.empty(n_in, dtype=torch.long)
    group_of[order] = torch.arange(n_in) // size
    columns, kept = w[:, order].T.contiguous(), mask[:, order].T
    codes, grids = [], []
    for start in range(0, n_in, block_size):
        end = min(start + block_size, n_in)
        lost = torch.empty_like(columns[start:end])
        for j in range(start, end):
            if j % size == 0:
                group = columns[j : j + size] * kept[j : j + size]
                grids.append(grid(group.amin(0), group.amax(0), **options))
            scale, zero = grids[-1]
            found = quantize(columns[j], scale, zero, **options)
            codes.append(torch.where(kept[j], found, zero.to(found.dtype)))
            lost[j - start] = (columns[j] - dequantize(codes[j], scale, zero)) / u[j, j]
            columns[j + 1 : end].addr_(u[j, j + 1 : end], lost[j - start], alpha=-1)
        columns[end:] -= u[start:end, end:].T @ lost
    scale, zero = (torch.stack(part, dim=1) for part in zip(*grids, strict=True))
    back = torch.argsort(order)
    return Codes(torch.stack(codes, dim=1)[:, back], scale, zero, group_of, damping)
