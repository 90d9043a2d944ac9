r"""Linear layers with integer weights, on kernels that read the integers and nothing wider.

One token times a matrix is a matter of bytes: each weight is read once and used once. A layer whose
integers are widened to floats *before* the product reads more than the float layer did, so what
counts is a kernel that widens in its registers. Torch has three of them for CPUs:

- **weight-only int8**, $y_o = s_o \sum_i x_i q_{oi}$: `_weight_int8pack_mm`, x in bfloat16;
- **weight-only int4 in groups**: `_weight_int4pack_mm_for_cpu`, x and scales in bfloat16;
- **dynamic int8**, $y_o = s_x s_o \sum_i (p_i - z)\, q_{oi}$: x is rounded to integers p when it
  comes, and integers are summed. Each token has its own grid, or (`shared_grid`) each call.

>>> linear = nn.Linear(64, 32)
>>> x = torch.randn(3, 64)
>>> for kind in (Int8Linear, DynamicInt8Linear, Int4Linear):
...     y = kind(linear.weight.detach(), linear.bias.detach())(x)
...     print(kind.__name__, bool((y - linear(x)).abs().max() < 0.3))
Int8Linear True
DynamicInt8Linear True
Int4Linear True

`uv run weeks/19/quantization.py` checks them against torchao, `uv run study bench 19` times them.

Sources: T. Dettmers et al., "LLM.int8()" (2022), section 2, for a grid per token; torch's CPU
kernels.
"""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor, nn

from shared.require import require
from week19.quantization import grid, quantize, quantize_weight

# The weight-only kernels take one row after another; with more rows it is cheaper to widen first.
FEW_ROWS = 16
LANES = 32  # bytes that the int8 kernel reads at a time: other widths read past a row's end
# Without VNNI the shared grid's kernel adds pairs of products in 16 bits; 7 bits cannot overflow.
ACTIVATION_BITS = 8 if torch.cpu._is_vnni_supported() else 7
# Rows of a weight that are floats at one time: of one thread few enough to stay in the cache; of
# several, enough that to wake them for each part costs little.
WIDENED, WIDENED_TOGETHER = 256, 4096
NIBBLE_ROWS = 64  # that the int4 kernel lays out together, or a divisor of it
MIDDLE = 8  # the int4 kernel stores 0 to 15 and takes 8 for zero


class _Quantized(nn.Module):
    """What the layers share: any leading dimensions, the bias, and two ways for few and many."""

    def __init__(self, weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None):
        super().__init__()
        require(weight.ndim == 2, "weight must have shape (n_out, n_in)", tuple(weight.shape))
        self._begin(weight.shape, bias)

    def _begin(self, shape: torch.Size, bias: Tensor | None) -> None:
        self.n_out, self.n_in = shape
        self.register_buffer("bias", bias)

    @classmethod
    def from_codes(
        cls, q: Integer[Tensor, "n_out n_in"], scale: Float[Tensor, "..."], **options
    ) -> "_Quantized":
        """The layer of integers and scales that are there already: nothing is rounded again.

        Parameters
        ----------
        q
            From -128 to 127; of `Int4Linear` from 0 to 15, and 8 stands for zero.
        scale
            One per output; of `Int4Linear` one per output and group of inputs.
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._begin(q.shape, None)
        layer._keep(q, scale, **options)
        return layer

    def _keep(self, q: Tensor, scale: Tensor) -> None:
        raise NotImplementedError

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """X times the weight's integers, plus the bias."""
        if x.shape[-1] != self.n_in:  # not `require`: one token pays for a message nobody reads
            raise ValueError(f"x must end in {self.n_in} inputs, got {tuple(x.shape)}")
        y = self.product(x if x.ndim == 2 else x.reshape(-1, self.n_in))
        if self.bias is not None:
            y = y + self.bias
        return y if x.ndim == 2 else y.view(*x.shape[:-1], self.n_out)

    def product(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        raise NotImplementedError

    def dequantized(self) -> Float[Tensor, "n_out n_in"]:
        raise NotImplementedError


class Int8Linear(_Quantized):
    """Weight-only int8, one scale per output; up to `FEW_ROWS` rows are taken in bfloat16."""

    def __init__(
        self, weight: Float[Tensor, "n_out n_in"], bias: Float[Tensor, " n_out"] | None = None
    ):
        super().__init__(weight, bias)
        q, scale, _ = quantize_weight(weight, bits=8, symmetric=True, granularity="channel")
        self._keep(q, scale.flatten())

    def _keep(self, q: Tensor, scale: Tensor) -> None:
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)
        # The kernel takes the scales in bfloat16, and they would lose 16 bits: it gets ones, and
        # its result the scales.
        self.register_buffer("ones", torch.ones(self.n_out, dtype=torch.bfloat16))

    def dequantized(self) -> Float[Tensor, "n_out n_in"]:
        """The weight that the integers stand for."""
        return self.q.to(self.scale.dtype) * self.scale[:, None]

    def product(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        """The fused kernel for few rows of a width that it can read, else the widened weight."""
        if len(x) > FEW_ROWS or self.n_in % LANES:
            return widened_product(x, self.q) * self.scale
        y = torch._weight_int8pack_mm(x.bfloat16(), self.q, self.ones)
        return y.to(self.scale.dtype).mul_(self.scale).to(x.dtype)


class Int4Linear(_Quantized):
    """Weight-only int4 with a scale per group of `group` inputs, kept in bfloat16."""

    def __init__(
        self,
        weight: Float[Tensor, "n_out n_in"],
        bias: Float[Tensor, " n_out"] | None = None,
        *,
        group: int = 32,
    ):
        super().__init__(weight, bias)
        require(group in (32, 64, 128, 256), "group must be 32, 64, 128 or 256", group)
        require(self.n_out % 16 == 0, "n_out must be a multiple of 16", self.n_out)
        q, scale, _ = quantize_weight(weight, bits=4, symmetric=True, granularity=group)
        self._keep(q.flatten(1) + MIDDLE, scale.squeeze(-1), group=group)

    def _keep(self, q: Tensor, scale: Tensor, *, group: int) -> None:
        scale = scale.T.contiguous().bfloat16()
        self.group = group
        # The kernel's zero is a float that is added to (q - 8) scale. A bfloat16 of it would be off
        # by up to half a step, so the grid is symmetric and the zero is 0.
        self.register_buffer("scale_and_zero", torch.stack([scale, 0 * scale], dim=-1))
        self.register_buffer("packed", nibbles(q))

    def dequantized(self) -> Float[Tensor, "n_out n_in"]:
        """The weight that the nibbles stand for: the kernel's product with the unit vectors."""
        return self._fused(torch.eye(self.n_in)).T.contiguous()

    def product(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        """The fused kernel, for all numbers of rows."""
        return self._fused(x)

    def _fused(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        kernel = torch.ops.aten._weight_int4pack_mm_for_cpu
        return kernel(x.bfloat16(), self.packed, self.group, self.scale_and_zero).to(x.dtype)


class DynamicInt8Linear(_Quantized):
    """Integer weights times integer activations, which get their grid when they come.

    Parameters
    ----------
    shared_grid
        One asymmetric grid for all rows of a call, on the kernel that fuses everything. What a row
        gives then depends on its company; with one row, as in decoding, nothing is shared.
    """

    def __init__(
        self,
        weight: Float[Tensor, "n_out n_in"],
        bias: Float[Tensor, " n_out"] | None = None,
        *,
        shared_grid: bool = False,
    ):
        super().__init__(weight, bias)
        q, scale, zero = quantize_weight(weight, bits=8, symmetric=True, granularity="channel")
        self.shared_grid = shared_grid
        if shared_grid:
            self.packed = _prepack(q, scale.flatten(), zero.flatten())
        else:
            self._keep(q, scale.flatten())

    def _keep(self, q: Tensor, scale: Tensor) -> None:
        self.shared_grid = False
        self.register_buffer("q", q)
        self.register_buffer("scale", scale)

    def product(self, x: Float[Tensor, "rows n_in"]) -> Float[Tensor, "rows n_out"]:
        """A sum of integers, scaled once by the token's step and once by the output's."""
        if self.shared_grid:
            reduce_range = ACTIVATION_BITS == 7
            return torch.ops.quantized.linear_dynamic(x.contiguous(), self.packed, reduce_range)
        p, scale = quantize_tokens(x)
        return torch._int_mm(p, self.q.T).to(x.dtype) * scale * self.scale


def widened_product(
    x: Float[Tensor, "rows n_in"], w: Shaped[Tensor, "n_out n_in"]
) -> Float[Tensor, "rows n_out"]:
    """X times a matrix of few bits, a part of whose rows is made floats at a time."""
    part = min(len(w), WIDENED if torch.get_num_threads() == 1 else WIDENED_TOGETHER)
    y = x.new_empty(len(x), len(w))
    floats = x.new_empty(part, w.shape[1])
    for start in range(0, len(w), part):
        rows = w[start : start + part]
        y[:, start : start + part] = F.linear(x, floats[: len(rows)].copy_(rows))
    return y


def nibbles(q: Integer[Tensor, "n_out n_in"]) -> Integer[Tensor, "n_out half"]:
    """Integers from 0 to 15 as the int4 kernel reads them, which it lays out in blocks of rows."""
    pack = torch.ops.aten._convert_weight_to_int4pack_for_cpu
    blocks = len(q) // NIBBLE_ROWS * NIBBLE_ROWS  # what is left has a layout of its own
    parts = [*q[:blocks].split(16 * NIBBLE_ROWS), q[blocks:]]
    return torch.cat([pack(part.int(), 1) for part in parts if len(part)])


def quantize_tokens(
    x: Float[Tensor, "rows n_in"],
) -> tuple[Integer[Tensor, "rows n_in"], Float[Tensor, "rows 1"]]:
    """Symmetric int8 with one step per token."""
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    scale, zero = grid(low, high, bits=8, symmetric=True)
    return quantize(x, scale, zero, bits=8, symmetric=True), scale


def _prepack(q: Tensor, scale: Tensor, zero: Tensor):
    with warnings.catch_warnings():  # torch would rather see torchao's tensors
        warnings.simplefilter("ignore")
        weight = torch._make_per_channel_quantized_tensor(q, scale.double(), zero.long(), 0)
        return torch.ops.quantized.linear_prepack(weight, None)


def quantize_linears(
    model: nn.Module,
    make: Callable[[Tensor, Tensor | None], nn.Module],
    *,
    keep: Callable[[str, nn.Linear], bool] = lambda name, linear: False,
) -> nn.Module:
    """Replace the linear layers of a model in place, but for those that `keep` names.

    A head that shares the embedding's weight gets integers of its own; the embedding stays.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not keep(name, module):
            parent, _, child = name.rpartition(".")
            bias = None if module.bias is None else module.bias.detach()
            setattr(model.get_submodule(parent), child, make(module.weight.detach(), bias))
    return model
