r"""Bits, one after another: codes of 4, 3 or 2 bits take 4, 3 or 2 bits, and a mask takes one.

The lowest bit of a number comes first, and the first number in the lowest bits of a byte. Nothing
is padded but the last byte, so any number of numbers of any width can be packed.

>>> packed = pack_bits(torch.tensor([1, 2, 3, 4, 5, 6, 7, 0], dtype=torch.uint8), 3)
>>> len(packed), unpack_bits(packed, 8, 3).tolist()
(3, [1, 2, 3, 4, 5, 6, 7, 0])

Of a pruned matrix only what is kept is stored. A mask costs one bit per weight; 2 of 4 is stored
as hardware reads it, the places of the two in two bits each, which is one bit per weight too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped, UInt8
from torch import Tensor

from compress.weights import Weight
from shared.require import require

TWO_OF_FOUR = (2, 4)


class Packed(NamedTuple):
    """A `Weight` as tensors to be stored, and what JSON can say of it."""

    tensors: dict[str, Tensor]
    meta: dict[str, Any]

    @property
    def n_bytes(self) -> int:
        """Bytes of the tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())


def pack_bits(numbers: Shaped[Tensor, "*shape"], bits: int) -> UInt8[Tensor, " bytes"]:
    """Whole numbers from 0 to 2^bits - 1 without a gap, rows one after another."""
    require(1 <= bits <= 8, "bits must be between 1 and 8", bits)
    flat = numbers.flatten().to(torch.uint8)
    most = int(numbers.max()) if numbers.numel() else 0
    fits = most < 1 << bits and not (numbers.numel() and int(numbers.min()) < 0)
    require(fits, f"numbers must be between 0 and {(1 << bits) - 1}", most)
    stream = np.unpackbits(flat.numpy()[:, None], axis=1, count=bits, bitorder="little")
    return torch.from_numpy(np.packbits(stream, bitorder="little"))


def unpack_bits(packed: UInt8[Tensor, " bytes"], n: int, bits: int) -> UInt8[Tensor, " n"]:
    """The first `n` numbers that `pack_bits` packed."""
    require(1 <= bits <= 8, "bits must be between 1 and 8", bits)
    must = f"packed must hold {-(-n * bits // 8)} bytes for {n} numbers of {bits} bits"
    require(len(packed) == -(-n * bits // 8), must, len(packed))
    stream = np.unpackbits(packed.numpy(), count=n * bits, bitorder="little")
    numbers = np.packbits(stream.reshape(n, bits), axis=1, bitorder="little")
    return torch.from_numpy(numbers[:, 0])


# ---- a matrix


def pack(weight: Weight) -> Packed:
    """What a matrix is stored as."""
    mask, bits, n_in = weight.mask, weight.bits, weight.values.shape[1]
    meta: dict[str, Any] = {"shape": list(weight.values.shape)}
    tensors: dict[str, Tensor] = {}
    values = weight.values if mask is None else weight.values[mask]
    if bits is None:
        tensors["values"] = values
    else:
        symmetric, size = weight.symmetric, int(weight.group_of.bincount().max())
        meta |= {"bits": bits, "symmetric": symmetric, "group_size": size}
        if bits < 8:
            tensors["codes"] = pack_bits(values, bits)
        else:  # as everybody's int8
            tensors["codes"] = (values.short() - 128).to(torch.int8) if symmetric else values
        tensors["scale"] = weight.scale
        if weight.zero.is_floating_point():
            tensors["zero"] = weight.zero
        elif not symmetric:
            tensors["zero"] = pack_bits(weight.zero, bits)
        if not torch.equal(weight.group_of, torch.arange(n_in) // size):
            tensors["group_of"] = weight.group_of.to(torch.int32)
    if weight.int8_inputs:
        meta["int8_inputs"] = True
    if mask is not None:
        meta["n_pruned"] = weight.n_pruned
        if weight.pattern is not None:
            meta["pattern"] = list(weight.pattern)
        if weight.pattern == TWO_OF_FOUR:
            tensors["places"] = pack_bits(places_of(mask), 2)
        else:
            tensors["mask"] = pack_bits(mask, 1)
    return Packed(tensors, meta)


def unpack(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Weight:
    """The matrix again, to the bit.

    Raises
    ------
    ValueError
        If the tensors are not what `meta` says.
    """
    (n_out, n_in), bits = meta["shape"], meta.get("bits")
    mask, pattern = None, meta.get("pattern")
    if "places" in tensors:
        places = unpack_bits(tensors["places"], n_out * n_in // 2, 2)
        mask = mask_of(places.view(n_out, -1, 2)).flatten(1)
    elif "mask" in tensors:
        mask = unpack_bits(tensors["mask"], n_out * n_in, 1).view(n_out, n_in).bool()
    kept = n_out * n_in - meta.get("n_pruned", 0)
    fits = mask is None or int(mask.sum()) == kept
    require(fits, f"mask must keep {kept} weights", 0 if mask is None else int(mask.sum()))
    rest = {"mask": mask, "pattern": tuple(pattern) if pattern else None}
    rest["int8_inputs"] = meta.get("int8_inputs", False)
    if bits is None:
        return Weight(_spread(tensors["values"], mask, (n_out, n_in)), **rest)
    codes, scale, symmetric = tensors["codes"], tensors["scale"], meta["symmetric"]
    if bits < 8:
        codes = unpack_bits(codes, kept, bits)
    elif symmetric:
        codes = (codes.short() + 128).to(torch.uint8)
    zero = tensors.get("zero")
    if zero is None:
        zero = torch.full(scale.shape, 1 << (bits - 1), dtype=torch.int32)
    elif not zero.is_floating_point():
        zero = unpack_bits(zero, scale.numel(), bits).view(scale.shape).int()
    group_of = tensors.get("group_of", torch.arange(n_in) // meta["group_size"]).long()
    inside = len(group_of) == n_in and int(group_of.max()) < scale.shape[1]
    require(inside, f"group_of must hold a group of {scale.shape[1]} per input", len(group_of))
    rest |= {"scale": scale, "zero": zero, "group_of": group_of, "bits": bits}
    return Weight(_spread(codes, mask, (n_out, n_in)), **rest)


def _spread(kept: Tensor, mask: Tensor | None, shape: tuple[int, int]) -> Tensor:
    """What is kept in its places; zeros elsewhere."""
    if mask is None:
        return kept.view(shape)
    values = torch.zeros(shape, dtype=kept.dtype)
    values[mask] = kept
    return values


def places_of(mask: Bool[Tensor, "out in"]) -> Int[Tensor, "out group 2"]:
    """Where in each four the two kept ones are."""
    fours = mask.unflatten(1, (-1, 4))
    require(bool((fours.sum(-1) == 2).all()), "mask must keep 2 of each 4", "another number")
    return fours.nonzero()[:, 2].view(*fours.shape[:2], 2)


def mask_of(places: Shaped[Tensor, "out group 2"]) -> Bool[Tensor, "out group 4"]:
    """The mask that has True in these places."""
    mask = torch.zeros(*places.shape[:2], 4, dtype=torch.bool)
    return mask.scatter_(2, places.long(), True)
