r"""What computes with the largest matrix of a small model, the embedding that is its head too.

A float copy of it beside the integers would undo what they save. The head multiplies by integers on
week 19's kernels, the embedding looks its rows up in the very same ones, and where the matrix has
16 bits, a part of it at a time is widened to 32.

>>> from week19.quantized_linear import Int8Linear
>>> head = Int8Linear(torch.linspace(-1, 1, 64 * 32).view(64, 32))
>>> embed = Rows(head)
>>> torch.equal(embed(torch.tensor([[7, 3]]))[0], head.dequantized()[[7, 3]])
True
>>> sum(p.nbytes for p in embed.buffers()) == sum(p.nbytes for p in head.buffers())
True
"""

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from week19.quantized_linear import (
    MIDDLE,
    NIBBLE_ROWS,
    Int4Linear,
    Int8Linear,
    nibbles,
    widened_product,
)


class HalfLinear(nn.Module):
    """A matrix of 16 bits that computes as in 32: what it is multiplied with stays float32."""

    def __init__(self, half: Shaped[Tensor, "n_out n_in"]):
        super().__init__()
        self.n_out, self.n_in = half.shape
        self.register_buffer("half_weight", half)

    def forward(self, x: Float[Tensor, "*batch n_in"]) -> Float[Tensor, "*batch n_out"]:
        """X times the matrix."""
        y = widened_product(x.reshape(-1, self.n_in), self.half_weight)
        return y.view(*x.shape[:-1], self.n_out)


class Rows(nn.Module):
    """An embedding that is the rows of a layer: made floats when they are asked for.

    Parameters
    ----------
    layer
        Of 16 bits, 8 or 4; of 4 with a whole number of the kernel's blocks of rows.
    """

    def __init__(self, layer: HalfLinear | Int8Linear | Int4Linear):
        super().__init__()
        self.layer = layer
        # No rows: caches ask the model's embedding for its dtype and device.
        self.register_buffer("weight", torch.empty(0, layer.n_in), persistent=False)
        if isinstance(layer, Int4Linear):
            self.register_buffer("places", nibble_places(layer.n_in))

    def forward(self, tokens: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch n_in"]:
        """The rows of these tokens."""
        layer = self.layer
        if isinstance(layer, HalfLinear):
            return layer.half_weight[tokens].float()
        if isinstance(layer, Int8Linear):
            return layer.q[tokens] * layer.scale[tokens][..., None]
        block, row = tokens[..., None] // NIBBLE_ROWS, tokens % NIBBLE_ROWS
        at = block * self.places.numel() + self.places[row]
        q = layer.packed.flatten()[at >> 1] >> 4 * (at & 1) & 15
        scale = layer.scale_and_zero[:, tokens, 0].movedim(0, -1).float()
        return (q.float() - MIDDLE) * scale.repeat_interleave(layer.group, -1)


def nibble_places(n_in: int) -> Int[Tensor, "row n_in"]:
    """Where the int4 kernel keeps each number of `NIBBLE_ROWS` rows, counted in nibbles.

    Its layout depends on the processor. It is found by packing each number's own index, a digit of
    16 at a time.
    """
    index = torch.arange(NIBBLE_ROWS * n_in).view(NIBBLE_ROWS, n_in)
    found = torch.zeros(index.numel(), dtype=torch.int64)
    for shift in range(0, index.numel().bit_length(), 4):
        packed = nibbles(index >> shift & 15)
        digits = torch.stack([packed & 15, packed >> 4], dim=-1)
        found += digits.flatten().long() << shift
    return found.argsort().view(NIBBLE_ROWS, n_in).int()
