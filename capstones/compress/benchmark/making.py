"""The artifact of a row, made once and found again by what it is made of; and its bytes."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from compress.benchmark.grid import Row, recipe_of
from compress.making import make
from compress.models.opening import open_model
from compress.options import Making
from shared import artifacts


def made(
    ref: str, row: Row, home: Path, making: Making, say: Callable[[str], None]
) -> tuple[str, float | None]:
    """What to open for a row, and the seconds that making it took; None if it stood already.

    Parameters
    ----------
    ref
        The model that is compressed.
    home
        Where artifacts are kept; one that stands there is not made again.
    """
    recipe = recipe_of(row)
    if recipe is None:
        return ref, None
    folder = home / re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")
    say(f"making {row.name}")
    start, clock = time.perf_counter(), time.time()
    make(ref, recipe, folder, replace(making, calib=row.calib))
    fresh = (folder / artifacts.MANIFEST).stat().st_mtime >= clock
    return f"compress:{folder}", round(time.perf_counter() - start, 1) if fresh else None


# ---- bytes


def stored(folder: Path) -> dict[str, int]:
    """Bytes of weights on the disk: of the whole file, and of the blocks' matrices in it."""
    files = sorted(folder.glob("*.safetensors"))
    blocks = 0
    for file in files:
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118 (it is no mapping)
                if is_matrix(name):
                    blocks += content.get_tensor(name).nbytes
    return {"file": sum(file.stat().st_size for file in files), "blocks": blocks}


def is_matrix(name: str) -> bool:
    """Whether a stored tensor belongs to a matrix of a block: `_proj` is in all their names.

    >>> is_matrix("blocks.3.q_proj.codes"), is_matrix("model.layers.0.mlp.up_proj.weight")
    (True, True)
    >>> is_matrix("embed.weight"), is_matrix("blocks.3.attention_norm.weight")
    (False, False)
    """
    return "_proj." in name


def float16_bytes(ref: str) -> dict[str, int]:
    """What all weights, and the blocks' matrices, would take in 16 bits."""
    return {name: size // 2 for name, size in unpacked(open_model(ref).model).items()}


def unpacked(model: nn.Module) -> dict[str, int]:
    """Bytes of all weights in memory, and of the blocks' matrices among them."""
    named = dict(model.named_parameters())
    return {
        "file": sum(p.nbytes for p in named.values()),
        "blocks": sum(p.nbytes for name, p in named.items() if is_matrix(name)),
    }


def learned_from(text: Mapping[str, Any] | None) -> str:
    """The text that methods read, in a line; nothing where they read none.

    >>> learned_from({"source": "pydocs", "shape": [32, 256], "sha256": "0123456789"})
    'calibration:pydocs|windows:32|context:256|sha256:01234567'
    """
    if text is None:
        return ""
    windows, context = text["shape"]
    size = f"windows:{windows}|context:{context}|sha256:{text['sha256'][:8]}"
    return f"calibration:{text['source']}|{size}"


def described(metadata: Mapping[str, Any]) -> str:
    """A short name of what an artifact's manifest says was done."""
    words = []
    for step in metadata["recipe"]:
        for kind, options in step.items():
            words.append(f"{kind} {options.get('method', '')} {options.get('bits', '')}".strip())
    return ", ".join(words)
