r"""One matrix of a compressed model: numbers or codes, a mask, and the matrix that they stand for.

Codes are whole numbers from 0 on, whatever the grid: those of a symmetric grid are shifted by half
of it, zero point and all, and $\hat w = (q - z) \Delta$ is the same number. What a mask drops is
zero exactly, also where no code of a grid would be.

>>> w = torch.tensor([[0.5, -1.0, 0.25, 0.0]])
>>> half = Weight(w, mask=w.abs() > 0.3)
>>> half.dense(), half.n_pruned
(tensor([[ 0.5000, -1.0000,  0.0000,  0.0000]]), 2)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor


@dataclass(frozen=True)
class Weight:
    """A matrix as it is kept.

    Attributes
    ----------
    values
        Floats, or codes from 0 to 2^bits - 1 (uint8). What stands where the mask is False is
        never looked at.
    mask
        False for weights that were pruned; None if none was.
    pattern
        `(n, m)` if n of each m neighbors of a row are kept.
    scale, zero
        A grid for each row and group of columns; `zero` is whole numbers, or floats (HQQ).
    group_of
        The group of each column.
    bits
        Bits of a code; None for floats.
    int8_inputs
        Whether the layer rounds what it reads to int8 as well, each token on a grid of its own.
    """

    values: Shaped[Tensor, "out in"]
    mask: Bool[Tensor, "out in"] | None = None
    pattern: tuple[int, int] | None = None
    scale: Float[Tensor, "out group"] | None = None
    zero: Shaped[Tensor, "out group"] | None = None
    group_of: Integer[Tensor, " in"] | None = None
    bits: int | None = None
    int8_inputs: bool = False

    def dense(self) -> Float[Tensor, "out in"]:
        """The matrix in floats."""
        w = self.values
        if self.bits is not None:
            zero, scale = self.zero.to(self.scale.dtype), self.scale
            w = (w.to(scale.dtype) - zero[:, self.group_of]) * scale[:, self.group_of]
        return w if self.mask is None else torch.where(self.mask, w, 0)

    @property
    def symmetric(self) -> bool:
        """Whether zero is the middle of every grid."""
        middle = 0 if self.bits is None else 1 << (self.bits - 1)
        return self.bits is not None and bool((self.zero == middle).all())

    @property
    def n_pruned(self) -> int:
        """Weights that the mask dropped. Zeros that rounding made are not among them."""
        return 0 if self.mask is None else int((~self.mask).sum())
