"""A model's matrices by name, and what computes with each: floats, or a kernel for integers."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from compress.kernels import HalfLinear, Rows
from compress.weights import Weight
from shared.require import require
from week18.llama3 import Llama
from week19.folding import LAYERS
from week19.quantized_linear import (
    MIDDLE,
    NIBBLE_ROWS,
    DynamicInt8Linear,
    Int4Linear,
    Int8Linear,
)

INT4_GROUPS = (32, 64, 128, 256)
OUTER = ("embed", "head")


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
    kind = kernel_of(weight) if kernels or weight.int8_inputs else None
    if kind is Int4Linear and name in OUTER and len(weight.values) % NIBBLE_ROWS:
        kind = None  # rows could not be found in what is left over
    if kind is None:
        install_floats(model, name, weight.dense())
        return "float32"
    codes, middle = weight.values, 1 << (weight.bits - 1)
    if weight.mask is not None:
        codes = torch.where(weight.mask, codes, middle)
    # Our own codes and scales, not those of a second rounding.
    if kind is Int4Linear:
        module = kind.from_codes(codes, weight.scale, group=_group_size(weight))
    else:
        q = (codes ^ middle).view(torch.int8)  # minus 128, bit by bit
        module = kind.from_codes(q, weight.scale[:, 0].clone())
    _put(model, name, module)
    return kind.__name__


@torch.no_grad()
def install_floats(
    model: Llama, name: str, w: Float[Tensor, "..."], *, kernels: bool = False
) -> None:
    """Let a layer or norm compute with floats, in place; `w` belongs to it from now on.

    Parameters
    ----------
    kernels
        Keep an embedding and a head of 16 bits in these, and widen what is needed of them.
    """
    if kernels and name in OUTER and w.element_size() == 2:
        _put(model, name, HalfLinear(w))
        return
    layer = model.get_submodule(name)
    _fits(name, w.shape, layer.weight.shape)
    layer.weight = nn.Parameter(w.float(), requires_grad=False)
    if name == "embed" and model.config.tied:
        model.head.weight = layer.weight


def _put(model: Llama, name: str, module: nn.Module) -> None:
    shape = torch.Size((module.n_out, module.n_in))
    _fits(name, shape, model.get_submodule(name).weight.shape)
    if name == "embed":
        if model.config.tied:
            model.head = module
        module = Rows(module)
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _fits(name: str, got: torch.Size, shape: torch.Size) -> None:
    require(got == shape, f"{name} must have shape {tuple(shape)}", tuple(got))


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
