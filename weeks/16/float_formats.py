r"""Number formats of 8 to 32 bits by hand: bit patterns to numbers and numbers to bit patterns.

A float of $E$ exponent and $M$ mantissa bits with bias $b$ stands for

$$ (-1)^s \, 2^{\max(e, 1) - b} \, \big([e > 0] + m / 2^M\big), \qquad 0 \le e < 2^E,\; m < 2^M , $$

so neighbors are between $2^{-M-1}$ and $2^{-M}$ of their size apart, down to the subnormals, which
end at $2^{1-b-M}$.

>>> x = torch.tensor([1 + 2.0**-11, 1 + 3 * 2.0**-11])  # halfway between neighbors of fp16
>>> (round_to(x, FP16) - 1).mul(2**10).tolist()  # to the even one: down, and up
[0.0, 2.0]
>>> BF16.max > FP16.max, BF16.smallest < FP16.smallest, hex(encode(torch.tensor(1.0), BF16))
(True, True, '0x3f80')

Sources: IEEE 754-2019, section 3.4; P. Micikevicius et al., *FP8 Formats for Deep Learning* (2022),
table 1.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from shared.require import require

# ---- formats


@dataclass(frozen=True)
class Format:
    """A binary floating-point format: width of its fields, what is taken off the exponent field.

    With `infinities` the largest exponent field holds infinity and NaN only (IEEE 754). Without
    them only the pattern of all ones is NaN (the "fn" of e4m3fn: finite).
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    infinities: bool = True

    def __post_init__(self):
        for field, least, most in (("exponent_bits", 2, 8), ("mantissa_bits", 1, 23)):
            width = getattr(self, field)
            require(least <= width <= most, f"{field} must be between {least} and {most}", width)

    @property
    def width(self) -> int:
        """Bits in all, the sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number; subnormals share its spacing."""
        return 1 - self.bias

    @property
    def inf_code(self) -> int:
        """The pattern that a positive overflow becomes: infinity, or NaN where there is none."""
        ones = (1 << (self.width - 1)) - 1
        return ones - (1 << self.mantissa_bits) + 1 if self.infinities else ones

    @property
    def max(self) -> float:
        """The largest finite number, one pattern below."""
        return float(decode(torch.tensor(self.inf_code - 1), self))

    @property
    def smallest(self) -> float:
        """The smallest positive (subnormal) number; half of it and less becomes zero."""
        return math.ldexp(1.0, self.min_exponent - self.mantissa_bits)


FP32 = Format("fp32", 8, 23, 127)
BF16 = Format("bf16", 8, 7, 127)
FP16 = Format("fp16", 5, 10, 15)
E5M2 = Format("fp8 e5m2", 5, 2, 15)
E4M3FN = Format("fp8 e4m3fn", 4, 3, 7, infinities=False)
FORMATS = {
    torch.float32: FP32,
    torch.bfloat16: BF16,
    torch.float16: FP16,
    torch.float8_e5m2: E5M2,
    torch.float8_e4m3fn: E4M3FN,
}


# ---- to numbers and back


def decode(codes: Int64[Tensor, "*shape"], fmt: Format) -> Float64[Tensor, "*shape"]:
    """Bit patterns to the numbers they stand for; every format here fits into float64 exactly."""
    inside, top = (codes >= 0) & (codes < 1 << fmt.width), f"2**{fmt.width} - 1"
    require(inside.all(), f"codes must lie between 0 and {top}", codes[~inside].tolist())
    magnitude = codes & ((1 << (fmt.width - 1)) - 1)
    exponent = magnitude >> fmt.mantissa_bits
    mantissa = magnitude & ((1 << fmt.mantissa_bits) - 1)
    steps = mantissa + ((exponent > 0).long() << fmt.mantissa_bits)  # the hidden bit
    power = exponent.clamp(min=1) - fmt.bias - fmt.mantissa_bits
    value = torch.ldexp(steps.double(), power)
    value = torch.where(magnitude > fmt.inf_code, math.nan, value)
    value = torch.where(magnitude == fmt.inf_code, math.inf if fmt.infinities else math.nan, value)
    return torch.where(codes >> (fmt.width - 1) == 1, -value, value)


def encode(
    x: Float[Tensor, "*shape"],
    fmt: Format,
    *,
    saturate: bool = False,
    generator: torch.Generator | None = None,
) -> Int64[Tensor, "*shape"]:
    """Numbers to bit patterns, to the nearest one and on a tie to the even one.

    `saturate` turns an overflow into the largest finite number instead of infinity (or NaN). With a
    `generator` rounding is stochastic: up with the probability of the remainder, so that the
    expectation is x.
    """
    x = x.double()  # frexp, the scaling and floor are exact for every float32
    magnitude = x.abs()
    ordinary = torch.isfinite(x)
    safe = torch.where(ordinary, magnitude, 0.0)
    exponent = (torch.frexp(safe).exponent.long() - 1).clamp(min=fmt.min_exponent)
    exponent = torch.where(safe == 0, fmt.min_exponent, exponent)
    exact = torch.ldexp(safe, fmt.mantissa_bits - exponent)  # in units of the spacing
    if generator is None:
        steps = exact.round().long()  # torch rounds halves to even
    else:
        noise = torch.rand(x.shape, generator=generator, dtype=torch.float64)
        steps = (exact + noise).floor().long()
    # The hidden bit in `steps` adds one to the exponent field; so does a mantissa that rounds up
    # to the next power of two. Patterns are in the order of their values, hence one comparison:
    code = ((exponent - fmt.min_exponent) << fmt.mantissa_bits) + steps
    top = fmt.inf_code - 1 if saturate else fmt.inf_code
    code = torch.where(torch.isinf(x), top, code.clamp(max=top))
    nan = (1 << (fmt.width - 1)) - 1
    code = torch.where(torch.isnan(x), nan, code)
    return code + (torch.signbit(x).long() << (fmt.width - 1))


def round_to(
    x: Float[Tensor, "*shape"],
    fmt: Format,
    *,
    saturate: bool = False,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "*shape"]:
    """The numbers of `fmt` that x becomes when stored, in x's own type; options as `encode`."""
    return decode(encode(x, fmt, saturate=saturate, generator=generator), fmt).to(x.dtype)
