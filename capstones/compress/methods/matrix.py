"""One matrix: what a step of a recipe makes of it, and what that cost.

>>> x = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
>>> w, inputs = torch.linspace(-1, 1, 32).view(4, 8), Inputs(x.T @ x / 50, *2 * (x.abs().mean(0),))
>>> weight, record = compress_matrix(w, inputs, quantize=Quantize(method="rtn", group_size=8))
>>> weight.bits, record["method"], record["error"] < 0.01
(4, 'rtn', True)
"""

from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress.methods.gptq import gptq
from compress.methods.masks import prune as drop
from compress.methods.rounding import hqq, rtn
from compress.pipeline.steps import Prune, Quantize
from compress.weights import Weight
from shared.require import require
from week19.gptq import feedback, layer_error
from week19.layer_inputs import Inputs


def compress_matrix(
    w: Float[Tensor, "out in"],
    inputs: Inputs | None,
    *,
    prune: Prune | None = None,
    quantize: Quantize | None = None,
    was: Weight | None = None,
    mask: Bool[Tensor, "out in"] | None = None,
) -> tuple[Weight, dict[str, Any]]:
    """Prune, then round what is left; GPTQ makes up for both at once.

    Parameters
    ----------
    inputs
        Of the layer; may be None for methods that look at weights alone.
    was
        What an earlier step made of it: its mask holds, and its codes are kept where it is pruned.
    mask
        What is pruned, where that was decided with other matrices.

    Returns
    -------
    weight, record
        And for the manifest: the method, the error of the outputs relative to the outputs (of the
        weights, where no inputs were given), counts, the damping that was needed.
    """
    require(w.isfinite().all(), "its weights must be finite", "NaN or infinity")
    h = None if inputs is None else inputs.h
    found, record = was or Weight(w), {}
    if prune is not None:
        found, record = _pruned(w, h, prune, found, mask)
    if quantize is not None:
        found, more = _quantized(w, h, quantize, found)
        record["damping"] = max(record.get("damping", 0.0), more.pop("damping", 0.0))
        record |= more
    record["method"] = "+".join(part.method for part in (prune, quantize) if part is not None)
    record |= {"error": relative_error(w, found.dense(), h), "n_weights": w.numel()}
    return found, record | {"n_pruned": found.n_pruned}


def _pruned(
    w: Tensor, h: Tensor | None, chosen: Prune, was: Weight, mask: Tensor | None
) -> tuple[Weight, dict[str, Any]]:
    record = {}
    if chosen.method == "sparsegpt":
        record["damping"] = needed_damping(h, chosen.damping)
        chosen = replace(chosen, damping=record["damping"])
    if mask is None:
        found = drop(w, h, chosen)
        w, mask = found.w, found.mask
    kept = {"mask": mask, "pattern": chosen.n_of_m}
    if was.bits is not None:
        return replace(was, **kept), record
    return Weight(torch.where(mask, w, 0), **kept), record


def _quantized(
    before: Tensor, h: Tensor | None, chosen: Quantize, was: Weight
) -> tuple[Weight, dict[str, Any]]:
    """`was` holds the mask; `before` are the weights that GPTQ's error is measured from."""
    options = {"bits": chosen.bits, "group_size": chosen.group_size}
    kept, record = {"mask": was.mask, "pattern": was.pattern}, {"bits": chosen.bits}
    if chosen.method == "gptq":
        options |= {"act_order": chosen.act_order, "damping": chosen.damping}
        found, damping, worse = gptq(before, h, symmetric=chosen.symmetric, **options, **kept)
        record |= {"damping": damping} | ({"rounded_instead": True} if worse else {})
    elif chosen.method == "hqq":
        found = replace(hqq(was.dense(), **options), **kept)
    else:
        found = rtn(was.dense(), symmetric=chosen.symmetric, **options, **kept)
    return replace(found, int8_inputs=chosen.int8_inputs), record


def needed_damping(h: Float[Tensor, "in in"], damping: float) -> float:
    """The damping at which the Hessian can be factored."""
    h = h.clone()
    dead = h.diagonal() == 0
    h.diagonal()[dead] = 1
    return feedback(h, damping)[1]


def relative_error(
    w: Float[Tensor, "out in"], new: Float[Tensor, "out in"], h: Float[Tensor, "in in"] | None
) -> float:
    """How much of the outputs' energy changed; of the weights' where no inputs are known."""
    if h is None:
        lost, all_ = ((x.square()).sum() for x in (w - new, w))
    else:
        lost, all_ = (layer_error(x, h).sum() for x in (w - new, w))
    return (lost / all_.clamp(min=1e-30)).item()
