"""Forms in which a model computes: floats, our kernels, or what another library makes of it.

All of them are the same LLaMA with other linear layers, so that nothing but these is compared.

>>> sorted(FORMS)[:3]
['bfloat16', 'float32', 'fused']
"""

import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from compress.models.opened import OpenedModel
from compress.models.opening import open_model
from shared.require import require
from shared.tensors import give_back_memory
from week18.llama3 import Llama
from week19.quantized_linear import DynamicInt8Linear, _prepack, quantize_tokens

GROUP = 64  # that divides SmolLM2's widths of 576 and 1536


def opened(ref: str, form: str) -> OpenedModel:
    """A model in one of `FORMS`."""
    require(form in FORMS, f"form must be one of {', '.join(FORMS)}", repr(form))
    found = open_model(ref, kernels=form in ("kernels", "fused"))
    found = replace(found, model=FORMS[form](found.model))
    give_back_memory()
    return found


def blocks_only(name: str, module: nn.Module) -> bool:
    """Whether a layer is compressed: the blocks' are, the head is the embedding."""
    return isinstance(module, nn.Linear) and name.startswith("blocks.")


class FloatSums(DynamicInt8Linear):
    """Dynamic int8 whose integers are summed as floats, which hold whole numbers to 2^24.

    Torch's product of int8 matrices has no fast kernel on a processor without VNNI; this one gives
    its results and serves to judge them.
    """

    def product(self, x):
        """The same sums."""
        p, scale = quantize_tokens(x)
        return nn.functional.linear(p.to(x.dtype), self.q.to(x.dtype)) * scale * self.scale


def judged(model: Llama) -> Llama:
    """What quality is measured of: per-token grids where inputs are rounded, floats elsewhere."""
    for module in model.modules():
        if isinstance(module, DynamicInt8Linear):
            module.__class__ = FloatSums
    return model


def fused(model: Llama) -> Llama:
    """Dynamic int8 by torch's fused kernel: one grid for all rows of a call."""
    for module in model.modules():
        if isinstance(module, DynamicInt8Linear) and not module.shared_grid:
            module.packed = _prepack(
                module.q, module.scale.flatten(), torch.zeros(module.n_out, dtype=torch.int32)
            )
            module.shared_grid = True
            del module.q, module.scale
    return model


# ---- other libraries


def torchao(config: str, **options) -> Callable[[Llama], Llama]:
    """A configuration of torchao, by its class."""

    def make(model: Llama) -> Llama:
        import torchao.quantization as library

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            chosen = getattr(library, config)(**options)
            library.quantize_(model, chosen, lambda module, name: blocks_only(name, module))
        return model

    return make


def torchao_int4(model: Llama) -> Llama:
    """Torchao's int4 weights in groups, as integers of a byte: its CPU kernels are not here."""
    from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_

    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP))
    quantize_(model, config, lambda module, name: blocks_only(name, module))
    return model


def quanto(weights: str) -> Callable[[Llama], Llama]:
    """Optimum-quanto's weights of a kind."""

    def make(model: Llama) -> Llama:
        from optimum import quanto as library

        kinds = {"int8": library.qint8, "int4": library.qint4}
        library.quantize(model.blocks, weights=kinds[weights])
        library.freeze(model.blocks)
        return model

    return make


def as_it_is(model: Llama) -> Llama:
    """What was opened."""
    return model


FORMS: dict[str, Callable[[Llama], Llama]] = {
    "float32": as_it_is,
    "judged": judged,
    "bfloat16": Llama.bfloat16,
    "kernels": as_it_is,
    "fused": fused,
    "torchao int8": torchao("Int8WeightOnlyConfig", version=2),
    "torchao int8 dynamic": torchao("Int8DynamicActivationInt8WeightConfig", version=2),
    "torchao int4": torchao_int4,
    "quanto int8": quanto("int8"),
    "quanto int4": quanto("int4"),
}
