r"""A copy of SmolLM2 that has left the grid on which its package stores it.

The packaged weights are points $m + \Delta q$ with $q$ from 0 to 15, $m$ and $\Delta$ of their own
for each block of 32: whoever rounds them to such blocks again loses nothing and shows nothing. The
copy computes the same function with other weights. Each channel that one layer hands to the next
is divided by a random factor near 1, and the columns that read it are multiplied by it (the folding
that AWQ and SmoothQuant choose factors for), so that neighbors in a block share no step any more.

How far it got is the mean square of the distance to the nearest point over that of weights that
know no grid, $\Delta^2 / 12$: 0 on the grid, about 1 when it is forgotten.

>>> w = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
>>> [f"{distance_from_grid(x):.2f}" for x in (w, on_grid(w))]
['0.94', '0.00']
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from compress.models.opening import open_model
from shared import artifacts
from shared.tensors import pack
from week18.gguf_llama import cache_dir
from week18.llama3 import Llama
from week18.pretrained import hugging_face_config, hugging_face_name
from week19.folding import READERS, fold_block

BLOCK = 32  # of the package's format
SPREAD = 0.1  # of the factors' logarithms
VERSION = 1


def on_grid(w: Float[Tensor, "out in"], *, block: int = BLOCK) -> Float[Tensor, "out in"]:
    """Each weight at the nearest of 16 points between the least and the largest of its block."""
    blocks = w.unflatten(1, (-1, block))
    low, step = _grid(blocks)
    return (low + step * torch.round((blocks - low) / step)).flatten(1)


def _grid(blocks: Float[Tensor, "out group block"]) -> tuple[Tensor, Tensor]:
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    return low, ((high - low) / 15).clamp(min=torch.finfo(blocks.dtype).tiny)


def distance_from_grid(w: Float[Tensor, "out in"], *, block: int = BLOCK) -> float:
    """Mean square distance to the points of `on_grid`, over Δ²/12."""
    step = _grid(w.unflatten(1, (-1, block)))[1]
    return ((on_grid(w, block=block) - w).square().mean() / (step.square() / 12).mean()).item()


@torch.no_grad()
def leave_grid(model: Llama, seed: int = 0) -> None:
    """Other weights for the same function, in place; the embedding and the head stay."""
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for reader in READERS:
            source = block.v_proj if reader == "out_proj" else None
            width = getattr(block, reader).in_features if source is None else source.out_features
            spread = (2 * torch.rand(width, generator=generator) - 1) * SPREAD
            fold_block(block, reader, spread.exp())


def off_grid_copy(*, say: Callable[[str], None] = lambda line: None) -> Path:
    """The Hugging Face folder of the copy, written now if it is not in the user's cache yet.

    Raises
    ------
    UserError
        If SmolLM2's package is missing.
    """
    folder = cache_dir() / f"smollm2-off-grid-{VERSION}"
    try:
        artifacts.verify(folder)
        return folder
    except artifacts.ArtifactError:
        say("writing a copy of SmolLM2 that left its 4-bit grid, once")
    opened = open_model("smollm2")
    for p in opened.model.parameters():
        p.data = p.data.clone()  # the packaged weights are mapped from a file
    leave_grid(opened.model)
    tensors = {hugging_face_name(name): p for name, p in opened.model.named_parameters()}
    files = {"config.json": json.dumps(hugging_face_config(opened.model.config)).encode()}
    files |= {"model.safetensors": pack(tensors)} | dict(opened.tokenizer.files)
    artifacts.save(folder, files)
    return folder
