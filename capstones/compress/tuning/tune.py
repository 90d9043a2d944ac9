"""`compress tune`: scan, choose, make, measure, and take the next choice if it lost too much."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from compress.calibration import calibrate
from compress.making import make
from compress.models.opened import OpenedModel
from compress.models.opening import open_model
from compress.options import Making, Scanning
from compress.pipeline.recipe import Recipe
from compress.pipeline.steps import Pass, Quantize
from compress.tuning.choosing import Choice, frontier, within_cost, within_loss
from compress.tuning.sensitivity import Part, grid_of, scan
from shared.errors import UserError
from shared.require import require
from week19 import perplexity
from week19.quantized_linear import Int4Linear, Int8Linear

BITS = (2, 3, 4, 8)
TRIES = 3  # models that are made and measured
JUDGING_SEED = 1  # of the text that judges; the scan reads seed 0
TICKS = 2e5  # in a second: costs are whole numbers, of 5 µs


def scanned(
    ref: str, how: Scanning, progress: Callable[[int, int], object], *, symmetric: bool = False
) -> tuple[OpenedModel, list[Part]]:
    """The model and its scan."""
    options = {"bits": numbers(how.bits), "group_size": how.group_size, "unit": how.unit}
    opened = open_model(ref)
    ids = calibrate(opened.tokenizer, n=how.texts, seqlen=how.seqlen).ids
    return opened, scan(opened.model, ids, symmetric=symmetric, progress=progress, **options)


def numbers(bits: str) -> list[int]:
    """Bits as the command line has them.

    >>> numbers("8,4")
    [8, 4]
    """
    words = [word.strip() for word in bits.split(",") if word.strip()]
    known = words and all(word in map(str, BITS) for word in words)
    require(known, "bits must be some of 8, 4, 3, 2, with commas", repr(bits), error=UserError)
    return [int(word) for word in words]


def share(text: str, name: str) -> float:
    """A share as 1% or .01.

    >>> share("40%", "budget"), share(".4", "budget")
    (0.4, 0.4)
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = math.nan
    sound = 0 < value <= 1
    require(sound, f"{name} must be a share such as 40% or 0.4", repr(text), error=UserError)
    return value


def tuned(
    ref: str,
    out: Path | None,
    *,
    max_drop: str,
    objective: str,
    budget: str | None,
    method: str,
    scanning: Scanning,
    making: Making,
    progress: Callable[[int, int], object],
) -> dict[str, Any]:
    """Choose, and with `out` make and measure."""
    drop = math.log1p(share(max_drop, "max_drop"))
    limit = None if budget is None else share(budget, "budget")
    must = "budget must go with objective size"
    require(limit is None or objective == "size", must, objective, error=UserError)
    symmetric = objective == "latency"  # kernels have no zero points
    opened, parts = scanned(ref, scanning, progress, symmetric=symmetric)
    group_size, full = scanning.group_size, 2 * sum(part.n_weights for part in parts)
    costs = [part.n_bytes for part in parts]
    if objective == "latency":
        costs = seconds(opened, parts, group_size)
    table = [
        {b: (cost[b], rise) for b, rise in part.rises.items()}
        for part, cost in zip(parts, costs, strict=True)
    ]
    choices = frontier(table)
    chosen = within_loss(choices, drop) if limit is None else within_cost(choices, limit * full)
    found = {"model": ref, "objective": objective, "parts": [part.name for part in parts]}
    found |= {"frontier": len(choices), "tried": []}
    while True:
        found |= described(chosen, parts, full)
        if out is None:
            return found
        recipe = recipe_for(chosen, parts, method, group_size, symmetric)
        make(ref, recipe, out, making)
        measured = rise(ref, f"compress:{out}", scanning.texts, scanning.seqlen)
        found["tried"].append({"bits": list(chosen.options), "measured": measured})
        found |= {"out": str(out), "measured_rise": measured}
        more = [choice for choice in choices if choice.loss < chosen.loss]
        enough = limit is not None or measured <= drop or not more
        if enough or len(found["tried"]) == TRIES:
            return found | {"within": limit is not None or measured <= drop}
        # The sum was too hopeful by a factor; the next choice takes that into account.
        factor = max(measured / max(chosen.loss, 1e-9), 1.0)
        chosen = within_loss(more, drop / factor)


def described(chosen: Choice, parts: Sequence[Part], full: int) -> dict[str, Any]:
    """What a choice is, in bytes and bits."""
    size = sum(part.n_bytes[b] for part, b in zip(parts, chosen.options, strict=True))
    bits = dict(zip((part.name for part in parts), chosen.options, strict=True))
    return {"bits": bits, "predicted_rise": chosen.loss, "bytes": size, "of_float16": size / full}


def recipe_for(
    chosen: Choice, parts: Sequence[Part], method: str, group_size: int, symmetric: bool
) -> Recipe:
    """The recipe of a choice: the commonest bits, and overrides for the others."""
    common = max(set(chosen.options), key=chosen.options.count)
    overrides = {
        part.name: grid_of(b, group_size, symmetric)
        for part, b in zip(parts, chosen.options, strict=True)
        if b != common
    }
    how = grid_of(common, group_size, symmetric)
    return Recipe((Pass(quantize=Quantize(method=method, overrides=overrides, **how)),))


@torch.inference_mode()
def rise(ref: str, other: str, n: int, seqlen: int) -> float:
    """Nats per token that another model loses more, on a text that the scan did not read."""
    models = [open_model(each) for each in (ref, other)]
    ids = calibrate(models[0].tokenizer, n=2 * n, seqlen=seqlen, seed=JUDGING_SEED).ids.flatten()
    nats = [perplexity.gptq_nats(each.model, ids, context=seqlen) for each in models]
    return float((nats[1] - nats[0]).mean())


def seconds(opened: OpenedModel, parts: Sequence[Part], group_size: int) -> list[dict[int, int]]:
    """Of each part, by bits, the time of one token on this machine's kernels, in ticks.

    Where torch has no kernel for a width of bits, the layer computes in floats.
    """
    of_shape: dict[tuple[tuple[int, int], int], int] = {}
    found = []
    for part in parts:
        block, name = part.name.removeprefix("blocks.").split(".")
        layers = opened.model.blocks[int(block)].named_children()
        weights = [
            layer.weight
            for own, layer in layers
            if isinstance(layer, torch.nn.Linear) and name in ("*", own)
        ]
        of_part = {}
        for b in part.rises:
            total = 0
            for weight in weights:
                key = tuple(weight.shape), b
                if key not in of_shape:
                    of_shape[key] = _ticks(weight, b, group_size)
                total += of_shape[key]
            of_part[b] = total
        found.append(of_part)
    return found


def _ticks(weight: torch.Tensor, bits: int, group_size: int, repeats: int = 20) -> int:
    n_out, n_in = weight.shape
    kernel: Callable = torch.nn.Linear(n_in, n_out, bias=False).requires_grad_(False)
    if bits == 8:
        kernel = Int8Linear(weight)
    elif bits == 4 and group_size in (32, 64, 128, 256) and n_out % 16 == 0:
        kernel = Int4Linear(weight, group=group_size)
    x, taken = torch.randn(1, n_in, generator=torch.Generator().manual_seed(0)), []
    with torch.inference_mode():
        for _ in range(repeats):
            start = time.perf_counter()
            kernel(x)
            taken.append(time.perf_counter() - start)
    return max(1, round(sorted(taken)[repeats // 2] * TICKS))


# ---- on a terminal


def show_scan(console: Console, parts: Sequence[Part]) -> None:
    """A line per part."""
    table = Table("part", *(f"{b} bits" for b in parts[0].rises), title="nats per token more")
    for part in parts:
        table.add_row(part.name, *(f"{rise:+.4f}" for rise in part.rises.values()))
    console.print(table)


def show_tuned(console: Console, found: dict[str, Any]) -> None:
    """What was chosen, and what it lost."""
    by_bits: dict[int, list[str]] = {}
    for name, b in found["bits"].items():
        by_bits.setdefault(b, []).append(name)
    for b, names in sorted(by_bits.items()):
        console.print(f"{b} bits: {len(names)} of {len(found['bits'])} parts")
    text = f"{found['bytes']:,} bytes, {found['of_float16']:.1%} of 16 bits"
    console.print(f"{text}; {found['predicted_rise']:+.4f} nats per token by the scan")
    if "out" in found:
        verdict = "within the limit" if found["within"] else "above the limit"
        console.print(f"{found['out']}: {found['measured_rise']:+.4f} measured, {verdict}")
