"""A model's matrices by name, and what computes with each: floats, or a kernel for integers."""

import torch
from torch import nn

from compress.weights import Weight
from week18.llama3 import Llama
from week19.folding import LAYERS
from week19.quantized_linear import MIDDLE, DynamicInt8Linear, Int4Linear, Int8Linear

INT4_GROUPS = (32, 64, 128, 256)


def layer_names(model: Llama) -> list[str]:
    """The matrices of the blocks, in the order in which they compute."""
    return [f"blocks.{i}.{name}" for i in range(len(model.blocks)) for name in LAYERS]


@torch.no_grad()
def install(model: Llama, name: str, weight: Weight, *, kernels: bool = False) -> str:
    """Let a layer compute with a weight, in place; what it computes with is returned.

    Parameters
    ----------
    name
        Of a block's layer, or `embed`, which is the head too where they are tied, or `head`.
    kernels
        Keep integers where torch has a kernel for them. Results differ from those with floats by
        the kernel's rounding of inputs and scales to bfloat16. A layer that rounds its inputs
        always keeps them: its results are defined by it.
    """
    dense = weight.dense()
    if name == "embed":
        model.embed.weight.copy_(dense)
        if not model.config.tied or not kernels:
            return "float32"
        name = "head"  # the same integers, read as a matrix
    kind = kernel_of(weight) if kernels or weight.int8_inputs else None
    layer = model.get_submodule(name)
    if kind is None:
        layer.weight.copy_(dense)
        return "float32"
    options = {"group": _group_size(weight)} if kind is Int4Linear else {}
    module = kind(dense, **options)
    middle = 1 << (weight.bits - 1)
    codes = (
        weight.values if weight.mask is None else torch.where(weight.mask, weight.values, middle)
    )
    if kind is Int4Linear:
        scale = weight.scale.T.contiguous().bfloat16()
        module.scale_and_zero = torch.stack([scale, 0 * scale], dim=-1)
        module.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.int(), 1)
    else:  # our own codes and scales, not those of a second rounding
        module.q = (codes.short() - 128).to(torch.int8)
        module.scale = weight.scale[:, 0].clone()
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
    return kind.__name__


def kernel_of(weight: Weight) -> type[nn.Module] | None:
    """The kernel that takes these codes as they are, if there is one."""
    n_out, n_in = weight.values.shape
    if weight.bits is None or not weight.symmetric:
        return None
    if weight.bits == 8 and weight.scale.shape[1] == 1:
        return DynamicInt8Linear if weight.int8_inputs else Int8Linear
    size = _group_size(weight)
    plain = torch.equal(weight.group_of, torch.arange(n_in) // size) and n_in % size == 0
    fits = weight.bits == 4 and size in INT4_GROUPS and n_out % 16 == 0 and plain
    return Int4Linear if fits and MIDDLE == 8 else None


def _group_size(weight: Weight) -> int:
    return int(weight.group_of.bincount().max())
