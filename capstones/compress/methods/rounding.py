"""Rounding to nearest, and HQQ: what needs to see nothing but the weights.

Groups of columns may end in a shorter one: 576 inputs in groups of 128 are four and a half.

>>> w = torch.linspace(-1, 1, 12).view(2, 6)
>>> found = rtn(w, bits=4, group_size=4)
>>> found.scale.shape, found.group_of.tolist()
(torch.Size([2, 2]), [0, 0, 0, 0, 1, 1])
>>> (found.dense() - w).abs().max() <= found.scale.max() / 2
tensor(True)
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress.weights import Weight
from shared.require import require
from week19.hqq import hqq as move_zeros
from week19.quantization import quantize_weight

Piece = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]  # codes, scales, zero points


def rtn(
    w: Float[Tensor, "out in"],
    *,
    bits: int,
    group_size: int | None = None,
    symmetric: bool = False,
    mask: Bool[Tensor, "out in"] | None = None,
    pattern: tuple[int, int] | None = None,
) -> Weight:
    """Each weight on the nearest point of its grid; a grid for `group_size` columns of a row.

    Parameters
    ----------
    group_size
        All columns if None.
    mask, pattern
        What was pruned: it stays zero, and does not matter to the grid, which holds zero.
    """
    w = w if mask is None else w * mask
    options = {"bits": bits, "symmetric": symmetric}

    def piece(part: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        codes, scale, zero = quantize_weight(part, granularity=size, **options)
        half = (1 << (bits - 1)) * symmetric
        return codes.flatten(1).short() + half, scale[..., 0], zero[..., 0] + half

    codes, scale, zero, group_of = _by_groups(piece, w, group_size)
    rest = {"mask": mask, "pattern": pattern, "group_of": group_of, "bits": bits}
    return Weight(codes.to(torch.uint8), scale=scale, zero=zero.int(), **rest)


def hqq(w: Float[Tensor, "out in"], *, bits: int, group_size: int | None = None) -> Weight:
    """Rounded with zero points that are moved while the mean error falls (week 19)."""

    def piece(part: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        found = move_zeros(part, bits=bits, group_size=size)
        return found.codes.flatten(1), found.scale[..., 0], found.zero[..., 0]

    codes, scale, zero, group_of = _by_groups(piece, w, group_size)
    rest = {"group_of": group_of, "bits": bits}
    return Weight(codes.to(torch.uint8), scale=scale, zero=zero.contiguous(), **rest)


def _by_groups(piece: Piece, w: Tensor, group_size: int | None) -> tuple[Tensor, ...]:
    """Codes, scales, zero points, and groups of columns; the last group may be shorter."""
    n_in = w.shape[1]
    size = n_in if group_size is None else min(group_size, n_in)
    require(size >= 1, "group_size must be at least 1", group_size)
    whole = n_in // size * size
    parts = [piece(w[:, :whole], size)]
    if whole < n_in:
        parts.append(piece(w[:, whole:], n_in - whole))
    found = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    return (*found, torch.arange(n_in) // size)
