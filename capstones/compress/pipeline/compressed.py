"""What compressing a model gives: the model that computes, and how each layer is kept."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from compress.artifact.packing import Packed, unpack
from compress.calibration import Calibration
from compress.models.tokenizers import Tokenizer
from compress.pipeline.recipe import Recipe
from compress.weights import Weight
from week18.llama3 import Llama


@dataclass
class Compressed:
    """A compressed model in memory.

    Attributes
    ----------
    model
        What computes; also after it was stored and loaded, to the bit.
    layers
        What is no longer plain floats: matrices of the blocks, perhaps `embed` and `head`.
    records
        What happened to each layer in each pass.
    dtype
        In which what is floats is stored.
    """

    model: Llama
    tokenizer: Tokenizer
    source: dict[str, str]
    recipe: Recipe
    calibration: Calibration | None
    layers: dict[str, Packed]
    records: list[dict[str, Any]]
    dtype: str = "float32"

    def weight_of(self, name: str) -> Weight | None:
        """What a layer is kept as; the numbers of a pruned one are the model's own."""
        packed = self.layers.get(name)
        if packed is None:
            return None
        weight = unpack(*packed)
        if weight.bits is None:
            weight = replace(weight, values=self.model.get_submodule(name).weight.detach())
        return weight

    def matrix(self, name: str) -> Float[Tensor, "out in"]:
        """What a layer multiplies by now."""
        weight = self.weight_of(name)
        layer = self.model.get_submodule(name)
        return layer.weight.detach() if weight is None else weight.dense()
