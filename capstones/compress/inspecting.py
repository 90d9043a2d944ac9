"""Where a model's bytes are, what was done to it, and whether an artifact is as it was written."""

from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from compress.artifact.folder import checked, load, weights_of
from compress.layers import layer_names
from compress.models.opening import open_model
from shared import artifacts
from shared.artifacts import ArtifactError


def inspect(ref: str) -> dict[str, Any]:
    """Parameters and bytes, by kind of layer; of an artifact also its recipe and records."""
    opened = open_model(ref)
    model, packed, said = opened.model, {}, {}
    n_of = {name.removesuffix(".weight"): p.numel() for name, p in model.named_parameters()}
    if opened.name.startswith("compress:"):
        tensors, artifact = artifacts.open_tensors(opened.folder)
        said = artifact.metadata
        for name, tensor in tensors.items():
            layer = name.rpartition(".")[0]
            packed[layer] = packed.get(layer, 0) + tensor.numel() * tensor.element_size()
        n_of |= {name: meta["shape"][0] * meta["shape"][1] for name, meta in said["layers"].items()}
    kinds: dict[str, dict[str, int]] = {}
    for name, n in n_of.items():
        kind = kinds.setdefault(name.rpartition(".")[2], {"layers": 0, "parameters": 0, "bytes": 0})
        kind["layers"] += 1
        kind["parameters"] += n
        kind["bytes"] += packed.get(name, 4 * n)
    records = said.get("records", [])
    total = {key: sum(kind[key] for kind in kinds.values()) for key in ("parameters", "bytes")}
    sizes = {"blocks": len(model.blocks), "d_model": model.config.d_model}
    return {"model": ref, **sizes, **total, "kinds": kinds, "recipe": said.get("recipe")} | {
        "records": records
    }


def show(console: Console, found: dict[str, Any]) -> None:
    """As tables."""
    table = Table("", "layers", "parameters", "bytes", "share")
    for kind, row in found["kinds"].items():
        share = f"{row['bytes'] / found['bytes']:.1%}"
        table.add_row(kind, *(f"{value:,}" for value in row.values()), share)
    table.add_row("all", "", f"{found['parameters']:,}", f"{found['bytes']:,}", "")
    console.print(table)
    if found["records"]:
        console.print(layers_table(found["records"]))


def layers_table(records: list[dict[str, Any]]) -> Table:
    """What happened to each layer."""
    table = Table("layer", "method", "bits", "pruned", "error", "damping")
    for each in records:
        pruned = f"{each['n_pruned']:,} of {each['n_weights']:,}" if each.get("n_pruned") else ""
        error = f"{each['error']:.2e}" if "error" in each else ""
        damping = f"{each['damping']:g}" if each.get("damping") else ""
        note = " (rounded instead)" if each.get("rounded_instead") else ""
        bits = str(each.get("bits", ""))
        table.add_row(each["layer"], each["method"] + note, bits, pruned, error, damping)
    return table


def show_made(console: Console, found: dict[str, Any]) -> None:
    """One line on what was made, and one on each layer whose damping had to be raised."""
    share = found["bytes"] / found["source_bytes"]
    console.print(f"{found['out']}: {found['bytes']:,} bytes, {share:.1%} of the floats")


def verify(folder: Path) -> dict[str, Any]:
    """Every byte, every count and the logits of a few tokens; ArtifactError where one is wrong."""
    model = load(folder).model
    tensors, artifact = artifacts.open_tensors(folder)
    said = checked(folder, artifact.metadata)
    last = {each["layer"]: each for each in said["records"]}
    for name, weight in weights_of(tensors, said["layers"]):
        wanted = last.get(name, {}).get("n_pruned", 0)
        zeros = int((weight.dense() == 0).sum())
        if weight.n_pruned != wanted or zeros < wanted:
            what = f"{name} has {weight.n_pruned} pruned weights, its record says {wanted}"
            raise ArtifactError(f"artifact {folder}: {what}")
    with torch.inference_mode():
        n = min(8, model.config.context)
        logits = model(torch.arange(n)[None] % model.config.vocab_size)
    if not logits.isfinite().all():
        raise ArtifactError(f"artifact {folder}: its model's logits are not finite")
    n_layers = len(said["layers"])
    return {"folder": str(folder), "layers": n_layers, "files": len(artifact.files) + 1} | {
        "blocks": len(layer_names(model)) // 7
    }
