r"""Packing: integers of 3 or 4 bits in 32-bit words, and the layout of GPTQ's files.

The bits of 32 neighbors along the input are written one after another, the lowest first, and cut
into words: 8 numbers of 4 bits fill a word, 32 of 3 bits fill three, two of them straddling.

>>> words = pack(torch.tensor([1, 2, 3, 4, 5, 6, 7, 8])[:, None], bits=4)
>>> hex(words.item() & 0xFFFFFFFF)
'0x87654321'
>>> unpack(words, bits=4).flatten().tolist()
[1, 2, 3, 4, 5, 6, 7, 8]

A GPTQ file holds, for a layer of `n_in` inputs and `n_out` outputs, `qweight` packed along the
input, `qzeros` packed along the *output*, `scales` in rows of groups and `g_idx`, the group of each
input. Its first version stores zero - 1 and leaves it to the reader to add the 1; the second stores
zero. Read by the other's rule, all weights are off by one step.

Source: the quantized linear layers of AutoGPTQ and GPTQModel.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Integer
from torch import Tensor

from shared.require import require


def pack(q: Integer[Tensor, "n *rest"], *, bits: int) -> Integer[Tensor, "words *rest"]:
    """Words that hold integers of `bits` bits from 0 on, packed along the first dimension."""
    require(1 <= bits <= 8, "bits must be between 1 and 8", bits)
    whole = len(q) * bits % 32 == 0
    require(whole, f"q must fill whole words of 32 bits, {bits} bits each", f"{len(q)} of them")
    fits = q.numel() == 0 or (q.min() >= 0 and q.max() < 2**bits)
    require(fits, f"q must be between 0 and {2**bits - 1}", "an integer that is not")
    place = torch.arange(bits)
    stream = (q.long().unsqueeze(-1) >> place & 1).movedim(-1, 1).flatten(0, 1)
    words = (stream.unflatten(0, (-1, 32)).movedim(1, -1) << torch.arange(32)).sum(-1)
    return torch.where(words < 2**31, words, words - 2**32).to(torch.int32)


def unpack(words: Integer[Tensor, "words *rest"], *, bits: int) -> Integer[Tensor, "n *rest"]:
    """The integers that `pack` packed, as uint8."""
    require(1 <= bits <= 8, "bits must be between 1 and 8", bits)
    whole = len(words) * 32 % bits == 0
    require(whole, f"words must hold whole integers of {bits} bits", f"{len(words)} words")
    stream = (words.long().unsqueeze(-1) >> torch.arange(32) & 1).movedim(-1, 1).flatten(0, 1)
    place = torch.arange(bits)
    return (stream.unflatten(0, (-1, bits)).movedim(1, -1) << place).sum(-1).to(torch.uint8)


# ---- GPTQ's files


@dataclass(frozen=True)
class GPTQTensors:
    """The tensors of one layer in a GPTQ file.

    Attributes
    ----------
    g_idx
        Group of each input; not in order where columns were quantized by importance.
    version
        1 if `qzeros` holds zero - 1, 2 if it holds zero.
    """

    qweight: Integer[Tensor, "words n_out"]
    qzeros: Integer[Tensor, "groups out_words"]
    scales: Float[Tensor, "groups n_out"]
    g_idx: Integer[Tensor, " n_in"]
    bits: int
    version: int


def to_gptq(
    q: Integer[Tensor, "n_out n_in"],
    scale: Float[Tensor, "n_out groups"],
    zero: Integer[Tensor, "n_out groups"],
    g_idx: Integer[Tensor, " n_in"],
    *,
    bits: int,
    version: int = 1,
) -> GPTQTensors:
    """Pack integers from 0 to 2^bits - 1 as GPTQ's files do."""
    require(version in (1, 2), "version must be 1 or 2", version)
    groups = scale.shape[1]
    require(scale.shape == zero.shape, "zero must have scale's shape", zero.shape)
    known = len(g_idx) == q.shape[1] and g_idx.min() >= 0 and g_idx.max() < groups
    require(known, f"g_idx must hold one of {groups} groups per input", f"{len(g_idx)} entries")
    # Each zero point is lowered by itself: subtracting 1 from all fields of a word at once would
    # borrow from the neighbor where a zero point is 0.
    stored = (zero.long() + version - 2) % 2**bits
    return GPTQTensors(
        pack(q.T, bits=bits), pack(stored, bits=bits).T, scale.T, g_idx, bits, version
    )


def from_gptq(
    tensors: GPTQTensors,
) -> tuple[
    Integer[Tensor, "n_out n_in"], Float[Tensor, "n_out groups"], Integer[Tensor, "n_out groups"]
]:
    """Integers, scales and zero points again."""
    bits = tensors.bits
    stored = unpack(tensors.qzeros.T, bits=bits).long()
    zero = (stored + 2 - tensors.version) % 2**bits
    return unpack(tensors.qweight, bits=bits).T, tensors.scales.T, zero


def gptq_weight(tensors: GPTQTensors) -> Float[Tensor, "n_out n_in"]:
    """The weight that a GPTQ file stands for."""
    q, scale, zero = from_gptq(tensors)
    group = tensors.g_idx.long()
    return (q - zero[:, group]) * scale[:, group]


def as_version(tensors: GPTQTensors, version: int) -> GPTQTensors:
    """The same weights in the other version of the format."""
    q, scale, zero = from_gptq(tensors)
    return to_gptq(q, scale, zero, tensors.g_idx, bits=tensors.bits, version=version)
