"""Which weights are pruned, exactly as many as were asked for; week 27's methods behind one call.

>>> w, h = torch.tensor([[3.0, -1.0, 2.0, 0.5]]), torch.eye(4)
>>> prune(w, h, Prune(method="magnitude", sparsity=0.5)).mask.tolist()
[[True, False, True, False]]
"""

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from compress.pipeline.steps import Prune
from week27.one_shot_pruning import Pruned, magnitude, sparsegpt, wanda
from week27.pruning import masks, to_prune


def prune(w: Float[Tensor, "out in"], h: Float[Tensor, "in in"] | None, chosen: Prune) -> Pruned:
    """The weights that stay, and for SparseGPT what they become; `h` is the inputs' Hessian."""
    options = {"sparsity": chosen.sparsity, "pattern": chosen.n_of_m}
    if chosen.method == "sparsegpt":
        return sparsegpt(w, h, damping=chosen.damping, **options)
    if chosen.scope == "row":
        return (magnitude if chosen.method == "magnitude" else wanda)(w, h, **options)
    scores = w.abs() if h is None else w.abs() * h.diagonal().sqrt()
    mask = masks({"": scores}, chosen.sparsity, scope="layer")[""]
    return Pruned(w * mask, mask)


def global_masks(
    weights: Mapping[str, Float[Tensor, "..."]], sparsity: float
) -> dict[str, Bool[Tensor, "..."]]:
    """The largest weights of all matrices together, with no more memory than the masks.

    The bits of magnitudes, read as whole numbers, are in the order of the magnitudes: the largest
    one that is pruned is found bit by bit, by counting. Of its equals the last ones go, as in
    `week27.pruning.masks`, which sorts.
    """
    going = to_prune(sparsity, sum(w.numel() for w in weights.values()))
    if not going:
        return {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    bits = {name: w.abs().float().view(torch.int32) for name, w in weights.items()}
    at_most = 0  # the largest threshold below which fewer than `going` lie
    for place in reversed(range(31)):
        tried = at_most | 1 << place
        if sum(int((b < tried).sum()) for b in bits.values()) < going:
            at_most = tried
    spare = sum(int((b <= at_most).sum()) for b in bits.values()) - going  # equals that stay
    found = {}
    for name, b in bits.items():
        equals = (b == at_most).flatten()
        stay = equals & (equals.cumsum(0) <= spare)
        spare -= int(stay.sum())
        found[name] = (b > at_most) | stay.view(b.shape)
    return found
