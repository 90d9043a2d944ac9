"""A model quantized block by block: what each layer reads, and what its new weights do to the text.

A block is copied, quantized and run on the texts of each method before the next one is looked at,
so that a model is never held more than once, and one pass over the calibration text serves all.

>>> from week18.llama3 import LlamaConfig
>>> model = Llama(LlamaConfig(7, 16, 2, 4, 2), torch.Generator().manual_seed(0))
>>> texts = torch.arange(36).view(3, 12) % 7
>>> losses = quantized_losses(model, texts, texts, {"as it is": lambda block, inputs: None})
>>> losses["as it is"].shape, losses["as it is"].mean().round(decimals=2)
(torch.Size([3]), tensor(1.9000))

`uv run weeks/19/gptq.py` compares methods with it.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared.arguments import checked
from week18.llama3 import Block, Llama
from week19.folding import LAYERS, READERS
from week19.gptq import gptq, hessian
from week19.quantization import fake_quantize


@dataclass(frozen=True)
class Inputs:
    """Of the inputs of a layer: the Hessian, the mean and the largest magnitude of each."""

    h: Float[Tensor, "in in"]
    mean: Float[Tensor, " in"]
    most: Float[Tensor, " in"]


Quantizer = Callable[[Block, dict[str, Inputs]], object]


@torch.no_grad()
def block_inputs(block: Block, *stream: Tensor) -> tuple[Tensor, dict[str, Inputs]]:
    """The block's output, and by the names of `READERS` what its layers read meanwhile."""
    inputs: dict[str, Inputs] = {}

    def note(reader: str) -> Callable:
        def hook(module, given):
            x = given[0].flatten(0, -2)
            inputs[reader] = Inputs(hessian(x), x.abs().mean(0), x.abs().amax(0))

        return hook

    layers = [(getattr(block, name), name) for name in READERS]
    handles = [layer.register_forward_pre_hook(note(name)) for layer, name in layers]
    try:
        return block(*stream), inputs
    finally:
        for handle in handles:
            handle.remove()


# ---- what can be done to a block


@torch.no_grad()
def round_block(block: Block, inputs: object = None, *, bits: int, group_size: int) -> None:
    """Round all matrices of a block to nearest, in groups of inputs, in place."""
    for name in LAYERS:
        w = getattr(block, name).weight
        w.copy_(fake_quantize(w, bits=bits, symmetric=False, granularity=group_size))


@torch.no_grad()
def gptq_block(block: Block, inputs: dict[str, Inputs], **options) -> None:
    """Quantize all matrices of a block by GPTQ, in place; those that read the same as one."""
    for reader, names in READERS.items():
        weights = [getattr(block, name).weight for name in names]
        found = gptq(torch.cat(weights), inputs[reader].h, **options).dequantize()
        for w, new in zip(weights, found.split([len(w) for w in weights]), strict=True):
            w.copy_(new)


# ---- the whole model


@checked
@torch.no_grad()
def quantized_losses(
    model: Llama,
    calibration: Int[Tensor, "text n"],
    texts: Int[Tensor, "window n"],
    methods: dict[str, Quantizer],
) -> dict[str, Float[Tensor, " window"]]:
    """Mean loss per token of each text, by method; embedding, norms and head are not quantized.

    Parameters
    ----------
    calibration
        Texts from which methods learn what layers read (in the unquantized model).
    texts
        What is judged, in windows that do not see each other.
    methods
        By name: what changes a block in place, given what its layers read.
    """
    rotary = model.waves(torch.arange(texts.shape[1]), None)
    seen = model.embed(calibration)
    states = {name: model.embed(texts) for name in methods}
    for block in model.blocks:
        seen, inputs = block_inputs(block, seen, *rotary)
        for name, quantize in methods.items():
            changed = copy.deepcopy(block)
            quantize(changed, inputs)
            states[name] = changed(states[name], *rotary)
    return {name: window_losses(model, x, texts) for name, x in states.items()}


def window_losses(
    model: Llama, states: Float[Tensor, "window n d_model"], texts: Int[Tensor, "window n"]
) -> Float[Tensor, " window"]:
    """Mean loss of the tokens of each window but its first, from what the last block gave."""
    losses = [
        F.cross_entropy(model.head(model.norm(x[:-1])), text[1:])
        for x, text in zip(states, texts, strict=True)
    ]
    return torch.stack(losses)
