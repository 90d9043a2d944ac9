r"""How much the loss rises when one part of a model alone is rounded to fewer bits.

A part is a block or one matrix. All before it computes as ever, so the hidden states that enter
each block are kept, and only what comes after a rounded part is computed again. What the scan gives
is used as if rises could be added,

$$ L(\text{bits}) - L \approx \sum_{\text{part}} \text{rise}(\text{part}, \text{bits of it}), $$

which is what a choice of bits under a budget needs; `tune` measures the model that it chose.

>>> from week19.twins import small_llama
>>> texts = torch.arange(40).view(2, 20) % 11
>>> found = scan(small_llama(0, vocab_size=11, d_ff=48), texts, bits=(8, 2), group_size=16)
>>> [part.name for part in found], abs(found[0].rises[2]) > abs(found[0].rises[8])
(['blocks.0.*', 'blocks.1.*'], True)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from shared.errors import UserError
from shared.require import require
from week18.llama3 import Block, Llama
from week19.folding import LAYERS
from week19.quantization import fake_quantize

Unit = Literal["block", "layer"]
SCALE_BYTES = 4  # as artifacts store scales


@dataclass(frozen=True)
class Part:
    """What one decision is about.

    Attributes
    ----------
    name
        Its matrices, as a recipe's overrides name them.
    n_weights
        How many those are.
    rises
        By bits: nats per token that the loss rises if this part alone has them.
    n_bytes
        By bits: what its matrices take, scales included.
    """

    name: str
    n_weights: int
    rises: dict[int, float]
    n_bytes: dict[int, int]


@torch.inference_mode()
def scan(
    model: Llama,
    texts: Int[Tensor, "text n"],
    *,
    bits: Sequence[int] = (8, 4, 3),
    group_size: int = 64,
    symmetric: bool = False,
    unit: Unit = "block",
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Part]:
    """Round each part of a model by itself, to nearest, and measure the loss.

    Parameters
    ----------
    symmetric
        Whether zero is the middle of each grid. Eight bits always have such a grid, one per row.

    Raises
    ------
    UserError
        If groups do not divide the inputs of a matrix.
    """
    for name in LAYERS:
        n_in = getattr(model.blocks[0], name).weight.shape[1]
        must = f"group_size must divide the {n_in} inputs of {name}"
        require(n_in % group_size == 0, must, group_size, error=UserError)
    rotary = model.waves(torch.arange(texts.shape[1]), None)
    states = [model.embed(texts)]
    for block in model.blocks:
        states.append(block(states[-1], *rotary))
    plain = loss(model, states[-1], texts)
    chosen = [(i, names) for i in range(len(model.blocks)) for names in _units(unit)]
    found = []
    for done, (i, names) in enumerate(chosen):
        block, rises, sizes = model.blocks[i], {}, {}
        for b in bits:
            how = grid_of(b, group_size, symmetric)
            kept = rounded(block, names, how)
            x = states[i]
            for later in model.blocks[i:]:
                x = later(x, *rotary)
            rises[b] = loss(model, x, texts) - plain
            for name, weight in kept.items():
                getattr(block, name).weight.copy_(weight)
            sizes[b] = sum(part_bytes(weight, how) for weight in kept.values())
        name = f"blocks.{i}.{names[0] if unit == 'layer' else '*'}"
        found.append(Part(name, sum(w.numel() for w in kept.values()), rises, sizes))
        progress(done + 1, len(chosen))
    return found


def _units(unit: Unit) -> list[Sequence[str]]:
    return [LAYERS] if unit == "block" else [[name] for name in LAYERS]


def grid_of(bits: int, group_size: int, symmetric: bool) -> dict[str, Any]:
    """What a recipe says of so many bits."""
    if bits == 8:
        return {"bits": 8, "group_size": None, "symmetric": True}
    return {"bits": bits, "group_size": group_size, "symmetric": symmetric}


def rounded(block: Block, names: Sequence[str], how: Mapping[str, Any]) -> dict[str, Tensor]:
    """Round matrices of a block in place; what they were is returned."""
    kept = {name: getattr(block, name).weight.clone() for name in names}
    options = {"bits": how["bits"], "symmetric": how["symmetric"]}
    for name, weight in kept.items():
        new = fake_quantize(weight, granularity=how["group_size"] or "channel", **options)
        getattr(block, name).weight.copy_(new)
    return kept


def loss(model: Llama, states: Float[Tensor, "text n d"], texts: Int[Tensor, "text n"]) -> float:
    """Mean nats of the texts' tokens but their first."""
    logits = [model.head(model.norm(x[:-1])) for x in states]
    losses = [F.cross_entropy(y, text[1:]) for y, text in zip(logits, texts, strict=True)]
    return torch.stack(losses).mean().item()


def part_bytes(weight: Float[Tensor, "out in"], how: Mapping[str, Any]) -> int:
    """What a matrix takes: codes, and for each grid a scale and, if it has one, a zero point.

    >>> part_bytes(torch.zeros(2, 64), grid_of(4, 64, False))  # 64 bytes of codes, 2 grids
    73
    """
    n_grids = weight.numel() // (how["group_size"] or weight.shape[1])
    zero_points = 0 if how["symmetric"] else -(-n_grids * how["bits"] // 8)
    return -(-weight.numel() * how["bits"] // 8) + n_grids * SCALE_BYTES + zero_points
