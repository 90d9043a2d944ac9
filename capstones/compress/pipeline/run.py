"""A recipe applied to a model, block by block; what was done already is taken from the journal.

Each layer is compressed by what it reads in the model that is compressed so far. At any moment
there are the model, the calibration text's stream, one Hessian and the packed layers. A run that
was killed and goes on computes the same from the same, so it ends with the same bits.

>>> from compress.models.testing import tiny_model
>>> from compress.pipeline.recipe import recipe_from
>>> opened, text = tiny_model(0)
>>> done = compress(opened, recipe_from([{"quantize": {"bits": 4, "group_size": 16}}]), text)
>>> len(done.layers), done.records[0]["layer"], done.records[0]["method"]
(14, 'blocks.0.q_proj', 'gptq')
"""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from compress.artifact.packing import pack
from compress.calibration import Calibration
from compress.models.opened import OpenedModel
from compress.pipeline.compressed import Compressed
from compress.pipeline.journal import Journal, NoJournal
from compress.pipeline.passes import PassRun, Progress
from compress.pipeline.recipe import Recipe
from compress.pipeline.steps import Cast, Pass, Recover, Structured
from compress.pipeline.structured import shrink
from compress.recovery.distilling import recover
from compress.recovery.resuming import drop
from shared.errors import UserError
from shared.require import require
from week18.llama3 import Llama


@torch.no_grad()
def compress(
    opened: OpenedModel,
    recipe: Recipe,
    calibration: Calibration | None = None,
    *,
    journal: Journal | NoJournal | None = None,
    strict: bool = False,
    progress: Progress = lambda done, total: None,
) -> Compressed:
    """Apply a recipe; the opened model is changed in place.

    Parameters
    ----------
    calibration
        May be None where no step reads text.
    journal
        What was done by an earlier process; each layer is added to it.
    strict
        Refuse a layer whose Hessian needs more damping than was asked for.
    progress
        Told how many layers of how many are done.

    Raises
    ------
    UserError
        If a step does not fit the model, or `strict` forbids what a layer needs.
    """
    must = "calibration must be there for a recipe that reads text"
    require(calibration is not None or not recipe.needs_text, must, error=UserError)
    ids = None if calibration is None else calibration.ids
    if ids is not None:
        most = opened.model.config.context
        must = f"seqlen must be at most the model's context, {most}"
        require(ids.shape[1] <= most, must, ids.shape[1], error=UserError)
    teacher = None
    if any(isinstance(step, Recover) for step in recipe.steps):
        teacher = copy.deepcopy(opened.model)
    source = {"name": opened.name, "digest": opened.digest}
    model, tokenizer = opened.model, opened.tokenizer
    done = Compressed(model, tokenizer, source, recipe, calibration, {}, [])
    for number, step in enumerate(recipe.steps):
        if isinstance(step, Pass):
            PassRun(done, step, number, journal or NoJournal(), strict, progress).run(ids)
        elif isinstance(step, Structured):
            done.model = shrink(done.model, step, ids)
        elif isinstance(step, Recover):
            _recover(done, step, number, teacher, ids, journal or NoJournal())
        elif isinstance(step, Cast):
            done.dtype = step.dtype
    _settle(done)
    return done


def _settle(done: Compressed) -> None:
    """Floats take the values that they are stored with, and pruned ones are packed as they are."""
    dtype = getattr(torch, done.dtype)
    if dtype != torch.float32:
        for name, p in done.model.named_parameters():
            weight = done.weight_of(name.removesuffix(".weight"))
            if weight is None or weight.bits is None:
                p.copy_(p.to(dtype).float())
    for name in list(done.layers):
        weight = done.weight_of(name)
        if weight.bits is None:
            done.layers[name] = pack(replace(weight, values=weight.values.to(dtype)))


# ---- recovery


def _recover(
    done: Compressed,
    step: Recover,
    number: int,
    teacher: Llama,
    ids: Tensor,
    journal: Journal | NoJournal,
) -> None:
    weights = {name: done.weight_of(name) for name in done.layers}
    masks = {n: w.mask for n, w in weights.items() if w.bits is None and w.mask is not None}
    fixed = {name for name, weight in weights.items() if weight.bits is not None}
    key = f"{number}.recover"
    entry = journal.get(key)
    if entry is None:
        record = recover(done.model, teacher, step, ids, masks, fixed, journal, key)
        journal.put(key, dict(done.model.named_parameters()), {"record": record})
        drop(journal, key, step.steps)
    else:
        record = entry[1]["record"]
        for name, p in done.model.named_parameters():
            p.copy_(entry[0][name])
    said = {"step": number, "layer": "", "method": f"recover-{step.method}"}
    done.records.append(said | record)
