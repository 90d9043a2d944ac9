"""From a reference and a recipe to an artifact: what `quantize`, `prune` and `recipe` share."""

from pathlib import Path
from typing import Any

import torch

from compress.artifact.folder import FORMAT, checked, save
from compress.models.opened import OpenedModel
from compress.options import Making
from compress.pipeline.journal import Journal
from compress.pipeline.recipe import Recipe
from compress.pipeline.run import compress
from compress.terminal import errors, progress
from shared import artifacts
from shared.errors import UserError


def make(ref: str, recipe: Recipe, out: Path, making: Making) -> dict[str, Any]:
    """Compress and write; what was done by an earlier process that was killed is not done again.

    Returns
    -------
    dict
        `out`, `bytes` of its files, `source_bytes` of the floats that it came from, and `layers`:
        what happened to each.
    """
    torch.set_num_threads(making.threads)
    if Path(out).is_symlink() or (Path(out).exists() and not Path(out).is_dir()):
        raise UserError(f"out {out} must be a folder or not there")
    artifacts.refuse_to_replace_others(artifacts.absolute(out))
    opened, text = making.open(ref, recipe)
    n_floats = sum(p.numel() for p in opened.model.parameters())
    identity = {
        "format": FORMAT,
        "source": [opened.name, opened.digest],
        "recipe": recipe.as_json(),
        "calibration": text and text.sha256,
        "strict": making.strict,
        "torch": [torch.__version__, making.threads],
    }
    journal = Journal(out, identity)
    metadata = _standing(out, journal)
    if metadata is None:
        metadata = _made(opened, recipe, out, making, text, journal)
    journal.remove()
    sizes = sum(path.stat().st_size for path in Path(out).iterdir())
    counts = {"bytes": sizes, "source_bytes": 4 * n_floats}
    return {"out": str(out), **counts, "layers": metadata}


def _standing(out: Path, journal: Journal) -> list[dict[str, Any]] | None:
    """What the manifest says of an artifact that this very run has written; None if it has not."""
    try:
        metadata = checked(out, artifacts.load(out).metadata)
    except artifacts.ArtifactError:
        return None
    if metadata.get("identity") != journal.identity:
        return None
    errors.print(f"{out} stands already, of this model and recipe")
    return metadata["records"]


def _made(opened: OpenedModel, recipe: Recipe, out: Path, making: Making, text, journal: Journal):
    options = {"journal": journal, "strict": making.strict}
    with progress() as told:
        done = compress(opened, recipe, text, **options, progress=told)
    save(done, out, identity=journal.identity)
    return done.records
