r"""Quantization: numbers rounded to a grid of 2^b points, and where the grid comes from.

A grid has a step, the scale $\Delta$, and the integer that stands for zero, the zero point $z$:

$$ q = \mathrm{clamp}\Big(\mathrm{round}\big(x / \Delta\big) + z\Big), \qquad
   \hat x = \Delta\,(q - z) . $$

The **symmetric** grid has $z = 0$ and takes its step from the largest magnitude (absmax); the
**asymmetric** one spans [min, max]. Neither may miss zero: padding, masks and ReLU's output stay
exact. One grid serves a whole tensor, an output channel, or a group of neighbors along the input.

>>> w = torch.tensor([[-1.875, 0.5, 1.8, 0.0], [0.01, 0.0, -0.02, 0.01]])
>>> scale, zero = grid(w.amin(-1, keepdim=True), w.amax(-1, keepdim=True), bits=4, symmetric=True)
>>> quantize(w, scale, zero, bits=4, symmetric=True)
tensor([[-8,  2,  7,  0],
        [ 4,  0, -8,  4]], dtype=torch.int8)
>>> fake_quantize(w, bits=4, symmetric=True, granularity="tensor")[1]  # one grid for both rows
tensor([0., 0., 0., 0.])
>>> fake_quantize(w, bits=4, symmetric=True, granularity="channel")[1]
tensor([ 0.0107,  0.0000, -0.0213,  0.0107])

    uv run weeks/19/quantization.py

Sources: R. Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference" (2018),
sections 2 and 3; B. Jacob et al., "Quantization and training of neural networks for efficient
integer-arithmetic-only inference" (2018), eq. 1; W. R. Bennett, "Spectra of quantized signals"
(1948), for the noise.
"""

from typing import Literal

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from shared.require import require

Granularity = Literal["tensor", "channel"] | int
Convention = Literal["narrow", "half", "full"]

# A group of zeros has no range. Its step is then float32's spacing at 1, as in torch and torchao.
FLOOR = torch.finfo(torch.float32).eps


def levels(bits: int, *, symmetric: bool) -> tuple[int, int]:
    """The lowest and the highest integer: around zero if symmetric, else from zero.

    >>> levels(8, symmetric=True), levels(4, symmetric=False)
    ((-128, 127), (0, 15))
    """
    require(2 <= bits <= 8, "bits must be between 2 and 8", bits)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)


def grid(
    low: Float[Tensor, "*grids"],
    high: Float[Tensor, "*grids"],
    *,
    bits: int,
    symmetric: bool,
    convention: Convention = "half",
) -> tuple[Float[Tensor, "*grids"], Integer[Tensor, "*grids"]]:
    """Scale and zero point for values between `low` and `high`.

    Parameters
    ----------
    low, high
        Least and largest value of each grid. A range without zero is widened to hold it.
    convention
        How a symmetric grid, with one integer more below zero than above, takes its step (int8):
        ``narrow`` is max|x| / 127 and leaves -128 unused; ``half`` is max|x| / 127.5, as in torch,
        torchao and GPTQ, where a largest value that is positive is off by half a step, no more
        than any other may be; ``full`` is max(|min| / 128, max / 127), the smallest step that cuts
        nothing off.

    Returns
    -------
    scale, zero
        `zero` holds int32, and zeros if symmetric.
    """
    bottom, top = levels(bits, symmetric=symmetric)
    require(low.shape == high.shape, "low and high must have one shape", low.shape, high.shape)
    finite = torch.isfinite(low).all() and torch.isfinite(high).all()
    require(finite, "low and high must be finite", "a value that is not")
    require((low <= high).all(), "low must be at most high", "a larger one")
    low, high = low.clamp(max=0), high.clamp(min=0)
    if not symmetric:
        scale = ((high - low) / (top - bottom)).clamp(min=FLOOR)
        zero = (bottom - torch.round(low / scale)).clamp(bottom, top)
        return scale, zero.to(torch.int32)
    most = torch.maximum(-low, high)
    steps = {"narrow": most / top, "half": most / ((top - bottom) / 2)}
    steps["full"] = torch.maximum(low / bottom, high / top)
    names = ", ".join(steps)
    require(convention in steps, f"convention must be one of {names}", repr(convention))
    scale = steps[convention].clamp(min=FLOOR)
    return scale, torch.zeros_like(scale, dtype=torch.int32)


def quantize(
    x: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
    zero: Integer[Tensor, "..."],
    *,
    bits: int,
    symmetric: bool,
) -> Integer[Tensor, "..."]:
    """The integers of x: int8 if symmetric, else uint8. Halves go to the even neighbor.

    `scale` and `zero` broadcast against x, as `grid` gives them for ``keepdim=True``.
    """
    bottom, top = levels(bits, symmetric=symmetric)
    require(torch.isfinite(x).all(), "x must be finite", "a value that is not")
    require((scale > 0).all(), "scale must be positive", "a value that is not")
    # Times 1 / scale, not over scale: torch and torchao do so, and a tie is then a tie for all.
    q = torch.round(x * (1 / scale)) + zero
    return q.clamp(bottom, top).to(torch.int8 if symmetric else torch.uint8)


def dequantize(
    q: Integer[Tensor, "..."], scale: Float[Tensor, "..."], zero: Integer[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """The numbers that integers stand for; the zero point gives 0 exactly."""
    return (q.to(scale.dtype) - zero) * scale  # as floats first: 0 - 128 does not fit in uint8


# ---- which numbers share a grid


def groups_of(w: Float[Tensor, "out *rest"], granularity: Granularity) -> Float[Tensor, "..."]:
    """A view of w whose last dimension holds the numbers that share a grid.

    Parameters
    ----------
    granularity
        ``tensor`` gives one row, ``channel`` one per output (the first dimension, in linear layers
        as in convolutions), a number groups of that many neighbors along the input.

    Examples
    --------
    >>> [tuple(groups_of(torch.zeros(4, 6), g).shape) for g in ("tensor", "channel", 3)]
    [(1, 24), (4, 6), (4, 2, 3)]
    """
    require(w.numel(), "w must hold a number", f"shape {tuple(w.shape)}")
    if granularity == "tensor":
        return w.reshape(1, -1)
    require(w.ndim >= 2, "w must have an output and an input dimension", f"shape {tuple(w.shape)}")
    rows = w.flatten(1)
    if granularity == "channel":
        return rows
    known = isinstance(granularity, int) and not isinstance(granularity, bool) and granularity >= 1
    must = "granularity must be tensor, channel or a group of at least 1"
    require(known, must, repr(granularity))
    width = rows.shape[1]
    require(width % granularity == 0, f"granularity must divide the {width} inputs", granularity)
    return rows.unflatten(1, (-1, granularity))


def quantize_weight(
    w: Float[Tensor, "out *rest"],
    *,
    bits: int,
    symmetric: bool,
    granularity: Granularity = "tensor",
    convention: Convention = "half",
) -> tuple[Integer[Tensor, "..."], Float[Tensor, "..."], Integer[Tensor, "..."]]:
    """Integers, scales and zero points of a weight, grouped as `groups_of` groups it."""
    groups = groups_of(w, granularity)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    scale, zero = grid(low, high, bits=bits, symmetric=symmetric, convention=convention)
    return quantize(groups, scale, zero, bits=bits, symmetric=symmetric), scale, zero


def fake_quantize(
    w: Float[Tensor, "out *rest"],
    *,
    bits: int,
    symmetric: bool,
    granularity: Granularity = "tensor",
    convention: Convention = "half",
) -> Float[Tensor, "out *rest"]:
    """W with each number moved to its grid: what a quantized layer computes with, in floats."""
    q, scale, zero = quantize_weight(
        w, bits=bits, symmetric=symmetric, granularity=granularity, convention=convention
    )
    return dequantize(q, scale, zero).reshape(w.shape)


def straight_through(
    x: Float[Tensor, "..."],
    scale: Float[Tensor, "..."],
    zero: Integer[Tensor, "..."],
    *,
    bits: int,
    symmetric: bool,
) -> Float[Tensor, "..."]:
    """Rounded forward, as if not rounded backward; what is cut off has no gradient.

    Rounding is flat nearly everywhere, so its own gradient would be zero and nothing would train.
    """
    bottom, top = levels(bits, symmetric=symmetric)
    with torch.no_grad():
        rounded = dequantize(quantize(x, scale, zero, bits=bits, symmetric=symmetric), scale, zero)
        place = torch.round(x * (1 / scale)) + zero
        inside = (bottom <= place) & (place <= top)
    passed = x * inside
    return passed + (rounded - passed).detach()


def bits_per_weight(w: Float[Tensor, "out *rest"], *, bits: int, granularity: Granularity) -> float:
    """Bits stored per weight with one 16-bit scale per grid.

    >>> bits_per_weight(torch.zeros(4, 64), bits=4, granularity=32)
    4.5
    """
    levels(bits, symmetric=True)
    return bits + 16 / groups_of(w, granularity).shape[-1]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
