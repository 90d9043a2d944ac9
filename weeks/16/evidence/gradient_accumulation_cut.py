"""What still notices that a batch was cut: batch norm and clipping."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.study import Run
from week16.evidence.gradients import flat_grad, relative
from week16.gradient_accumulation import accumulate

Inputs, Classes = Float[Tensor, "sample feature"], Int[Tensor, " sample"]


def what_still_notices(run: Run) -> None:
    """Batch norm and clipping: 32 samples whole and in pieces of 4, several seeds."""
    found = {"norm": [], "length": [], "cosine": []}
    for seed in range(run.seed, run.seed + run.budget(quick=3, default=8)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, 10, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (32,), generator=generator)
        torch.manual_seed(seed)
        parts = nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
        found["norm"].append(cut_error(nn.Sequential(*parts).double(), x, y))
        length, cosine = clip_in_pieces(x, y)
        found["length"].append(length)
        found["cosine"].append(cosine)
    run.claim("batch norm sees the cut", found["norm"], at_least=0.05, unit="of the gradient")
    rule = {"at_most": 0.95, "unit": "of the limit"}
    run.claim("the mean of clipped pieces is shorter", found["length"], **rule)
    rule = {"at_most": 0.999, "unit": "cosine to the gradient clipped whole"}
    run.claim("the mean of clipped pieces is turned", found["cosine"], **rule)


def classify(model: nn.Module, batch: tuple[Inputs, Classes]) -> tuple[Float[Tensor, ""], int]:
    """Summed cross-entropy and the number of samples."""
    return F.cross_entropy(model(batch[0]), batch[1], reduction="sum"), len(batch[1])


def cut_error(model: nn.Module, x: Inputs, y: Classes) -> float:
    """Relative error of the gradient when the samples come in pieces of 4."""
    accumulate(model, list(zip(x.split(4), y.split(4), strict=True)), classify)
    ours = flat_grad(model)
    accumulate(model, [(x, y)], classify)
    return relative(ours, flat_grad(model))


def clip_in_pieces(x: Inputs, y: Classes, max_norm: float = 0.1) -> tuple[float, float]:
    """Length, in units of the limit, of the mean of clipped pieces, and its cosine to the truth."""
    model, total = nn.Linear(10, 3).double(), 0.0
    for part in zip(x.split(4), y.split(4), strict=True):
        accumulate(model, [part], classify)
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        total = total + flat_grad(model) * len(part[0]) / len(x)
    accumulate(model, [(x, y)], classify)
    cosine = F.cosine_similarity(total, flat_grad(model), dim=0)
    return (total.norm() / max_norm).item(), cosine.item()
