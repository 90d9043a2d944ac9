r"""QLoRA: the frozen weights in four bits, the correction in full precision.

LoRA trains few numbers, yet holds all the frozen ones. QLoRA stores those in a 4-bit code of 16
levels, made for weights that are normally distributed: the levels $q_i$ (**NF4**) are normal
quantiles, scaled to $[-1, 1]$, with an exact zero. Each block of 64 weights is divided by its
largest absolute value $c$,

$$W_{4} = c \cdot q_{\,\arg\min_i |W / c - q_i|}, \qquad
  h = W_{4}\, x + \frac{\alpha}{r} B A x ,$$

and the $c$ are themselves stored in eight bits (**double quantization**): 4 + 8/64 + 32/(64 · 256)
= 4.127 bits per weight. Products are computed in floats; the gradient passes through $W_4$ to $A$
and $B$ and to the layers below, and nothing flows into the code. What is trained belongs to
$W_4$, so it is $W_4$ that it must be merged with, not the $W$ from before.

>>> levels = normal_float()
>>> len(levels), round(levels[1].item(), 4), round(levels[8].item(), 4)
(16, -0.6962, 0.0796)
>>> code = quantize_4bit(torch.tensor([[0.1, -2.0, 0.0, 1.0]]), block=64)
>>> dequantize_4bit(code)  # each the nearest of 16 levels, times 2
tensor([[ 0.1592, -2.0000,  0.0000,  0.8814]])
>>> round(bits_per_weight(), 3)
4.127

    uv run weeks/20/qlora.py

Source: Dettmers, Pagnoni, Holtzman & Zettlemoyer, "QLoRA: Efficient finetuning of quantized LLMs"
(2023), section 3, equations 4 to 6, and appendix E; Dettmers, "8-bit approximations for
parallelism in deep learning" (2015), for the 8-bit code. The third part, *paged optimizers*,
changes where Adam's numbers lie and not what is computed: the note tells it.
"""

import dataclasses
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from shared.require import require

BLOCK, SECOND_BLOCK = 64, 256
PARTS = ("packed", "scales", "mean", "second", "levels")


def normal_float(bits: int = 4) -> Float[Tensor, " levels"]:
    """The levels of NormalFloat: quantiles of the normal distribution from -1 to 1, with a zero.

    Equally spaced quantiles would leave out zero. So 2^(k-1) are of the positive half and one less
    of the negative half, both from 1 - offset (or it would be infinite) to 1/2, the shared zero.

    References
    ----------
    Dettmers et al. (2023), section 3 and appendix E. The offset, 1/2 (1/32 + 1/30) for four bits,
    and quantiles from probabilities in float32 are those of the authors' code.
    """
    require(2 <= bits <= 8, "bits must be from 2 to 8", bits)
    half = 2 ** (bits - 1)
    # To seven digits, as in the authors' code: it is from these that the published levels come.
    last = round(1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2, 7)
    positive, negative = (
        torch.special.ndtri(torch.linspace(last, 0.5, n + 1)[:-1].double())
        for n in (half, half - 1)
    )
    levels = torch.cat([-negative, positive.new_zeros(1), positive]).sort().values.float()
    return levels / levels[-1]


def dynamic_float() -> Float[Tensor, "256"]:
    """The 8-bit code of the second quantization: seven powers of ten, more levels in the larger.

    The decade that ends at 10^-6 has one level to either side, the next two, the last 64.

    References
    ----------
    Dettmers (2015), section 2.2, "dynamic tree" (signed); with means of neighboring bounds as
    levels, as in bitsandbytes. The paper says "8-bit floats" and leaves open which.
    """
    decades = []
    for i in range(7):
        bounds = torch.linspace(0.1, 1, 2**i + 1)
        decades.append(10.0 ** (i - 6) * (bounds[:-1] + bounds[1:]) / 2)
    positive = torch.cat(decades)
    return torch.cat([positive, -positive, torch.tensor([0.0, 1.0])]).sort().values


def nearest(x: Float[Tensor, "*shape"], levels: Float[Tensor, " levels"]) -> Int[Tensor, "*shape"]:
    """Which level is nearest; halfway the lower one."""
    return torch.bucketize(x, (levels[1:] + levels[:-1]) / 2)


def quantize_blocks(
    x: Float[Tensor, " n"], levels: Float[Tensor, " levels"], block: int
) -> tuple[Int[Tensor, " n"], Float[Tensor, " blocks"]]:
    """Codes of the numbers, and the largest absolute value of each block; the last may be short."""
    require(block >= 1, "block must be at least 1", block)
    require(len(x) > 0, "x must hold at least one number, got none")
    require(x.isfinite().all(), "x must be finite", "a number that is not")
    rows = F.pad(x, (0, -len(x) % block)).unflatten(0, (-1, block))
    largest = rows.abs().amax(dim=1)
    scaled = rows / largest.clamp(min=torch.finfo(x.dtype).tiny)[:, None]
    return nearest(scaled, levels).flatten()[: len(x)], largest


def dequantize_blocks(
    codes: Int[Tensor, " n"],
    largest: Float[Tensor, " blocks"],
    levels: Float[Tensor, " levels"],
    block: int,
) -> Float[Tensor, " n"]:
    """The numbers that codes stand for."""
    return levels[codes] * largest.repeat_interleave(block)[: len(codes)]


def pack(codes: Int[Tensor, " n"]) -> UInt8[Tensor, " bytes"]:
    """Two 4-bit codes per byte, the first in the high half; an odd last one alone."""
    pairs = F.pad(codes, (0, len(codes) % 2)).to(torch.uint8).unflatten(0, (-1, 2))
    return pairs[:, 0] << 4 | pairs[:, 1]


def unpack(packed: UInt8[Tensor, " bytes"], n: int) -> Int[Tensor, " n"]:
    """The n codes that `pack` packed."""
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()[:n].long()


# ---- a weight in four bits


@dataclass(frozen=True)
class Code:
    """A tensor in four bits.

    Attributes
    ----------
    scales
        Largest absolute value of each block of `block` numbers; or 8-bit codes of it minus `mean`.
    mean, second
        With double quantization: of all scales; largest deviations from it in blocks of 256.
    """

    packed: UInt8[Tensor, " bytes"]
    scales: Tensor
    shape: tuple[int, ...]
    levels: Float[Tensor, "16"]
    block: int
    mean: Tensor | None = None
    second: Tensor | None = None

    def largest(self) -> Float[Tensor, " blocks"]:
        """The scales as floats."""
        if self.second is None:
            return self.scales
        codes = self.scales.long()
        return dequantize_blocks(codes, self.second, dynamic_float(), SECOND_BLOCK) + self.mean

    def nbytes(self) -> int:
        """Bytes that are stored, but for the two tables, which all tensors share."""
        parts = (self.packed, self.scales, self.mean, self.second)
        return sum(part.nbytes for part in parts if part is not None)


def quantize_4bit(
    w: Float[Tensor, "*shape"],
    *,
    levels: Float[Tensor, "16"] | None = None,
    block: int = BLOCK,
    double: bool = False,
) -> Code:
    """A weight in four bits per number, its rows one after the other, in blocks.

    Parameters
    ----------
    levels
        16 of them from -1 to 1, sorted; NF4 if None.
    double
        Store the scales in eight bits too, after their mean has been taken off: they are positive,
        and the code is symmetric.

    References
    ----------
    Dettmers et al. (2023), section 3, "Double quantization".
    """
    levels = normal_float() if levels is None else levels
    usual = levels.shape == (16,) and bool((levels.diff() > 0).all())
    require(usual, "levels must be 16 numbers in rising order", tuple(levels.shape))
    codes, largest = quantize_blocks(w.detach().flatten().float(), levels, block)
    code = Code(pack(codes), largest, tuple(w.shape), levels, block)
    if not double:
        return code
    mean = largest.mean()
    small, second = quantize_blocks(largest - mean, dynamic_float(), SECOND_BLOCK)
    return dataclasses.replace(code, scales=small.to(torch.uint8), mean=mean, second=second)


def dequantize_4bit(code: Code) -> Float[Tensor, "*shape"]:
    """The weight that a code stands for, in float32."""
    codes = unpack(code.packed, math.prod(code.shape))
    return dequantize_blocks(codes, code.largest(), code.levels, code.block).reshape(code.shape)


def bits_per_weight(*, block: int = BLOCK, double: bool = True) -> float:
    """Bits stored per weight: its code, and its share of the scales.

    >>> bits_per_weight(double=False)
    4.5
    """
    require(block >= 1, "block must be at least 1", block)
    return 4 + (8 / block + 32 / (block * SECOND_BLOCK) if double else 32 / block)


# ---- a layer


class _Product(torch.autograd.Function):
    """X times the dequantized weight, which is not kept for the backward pass but made again."""

    @staticmethod
    def forward(ctx, x: Tensor, code: Code) -> Tensor:
        ctx.code = code
        return F.linear(x, dequantize_4bit(code).to(x.dtype))

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return grad @ dequantize_4bit(ctx.code).to(grad.dtype), None  # the code has no gradient


class NF4Linear(nn.Module):
    """A frozen linear layer in NF4, for `week20.lora` to put a correction beside.

    Parameters
    ----------
    linear
        Its weight is quantized and then forgotten; its bias stays as it is, frozen.

    Examples
    --------
    >>> from week20.lora import LoRAConfig, inject, trainable
    >>> model = quantize_base(nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8)))
    >>> model = inject(model, LoRAConfig(r=2, targets=("0", "2")), kinds=NF4Linear)
    >>> trainable(model)[0]  # 2 (64 + 64) + 2 (64 + 8)
    400
    """

    def __init__(self, linear: nn.Linear, *, block: int = BLOCK, double: bool = True):
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        code = quantize_4bit(linear.weight, block=block, double=double)
        for name in PARTS:
            self.register_buffer(name, getattr(code, name))
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.block = block

    @property
    def code(self) -> Code:
        """The layer's weight."""
        parts = {name: getattr(self, name) for name in PARTS}
        return Code(**parts, shape=(self.out_features, self.in_features), block=self.block)

    def dequantized(self) -> Float[Tensor, "out in"]:
        """W4: what the layer multiplies by."""
        return dequantize_4bit(self.code)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """As `nn.Linear` with W4."""
        y = _Product.apply(x, self.code)
        return y if self.bias is None else y + self.bias


def quantize_base(model: nn.Module, *, keep: tuple[str, ...] = ("head",)) -> nn.Module:
    """Freeze a model and put its linear layers into NF4, in place, but for those named in `keep`.

    A head that shares the embedding's weight would need a copy of its own.
    """
    for name, module in list(model.named_modules()):
        parent, _, own = name.rpartition(".")
        if isinstance(module, nn.Linear) and own not in keep:
            setattr(model.get_submodule(parent), own, NF4Linear(module))
    return model.requires_grad_(False)


@torch.no_grad()
def dequantize_base(model: nn.Module) -> nn.Module:
    """Plain linear layers of W4 in place of NF4 ones: what `week20.lora.merge` may merge with."""
    for name, module in list(model.named_modules()):
        if isinstance(module, NF4Linear):
            parent, _, own = name.rpartition(".")
            linear = nn.Linear(module.in_features, module.out_features, module.bias is not None)
            bias = {} if module.bias is None else {"bias": module.bias}
            linear.load_state_dict({"weight": module.dequantized(), **bias})
            setattr(model.get_submodule(parent), own, linear.requires_grad_(False))
    return model


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
