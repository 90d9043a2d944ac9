"""What still notices that a batch was cut: batch norm, dropout and clipping."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.study import Run
from week16.evidence.gradients import flat_grad, relative
from week16.gradient_accumulation import accumulate, dropout_by_sample

Inputs, Classes = Float[Tensor, "sample feature"], Int[Tensor, " sample"]


def what_still_notices(run: Run) -> None:
    """Batch norm, dropout and clipping: 32 samples whole and in pieces of 4, several seeds."""
    found = {"norm": [], "own": [], "shared": [], "length": [], "cosine": []}
    for seed in range(run.seed, run.seed + run.budget(quick=3, default=8)):
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn(32, 10, generator=generator, dtype=torch.float64)
        y = torch.randint(3, (32,), generator=generator)
        torch.manual_seed(seed)
        parts = nn.Linear(10, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)
        found["norm"].append(cut_error(nn.Sequential(*parts).double(), x, y))
        found["own"].append(dropout_error(x, y, seed, own=True))
        found["shared"].append(dropout_error(x, y, seed, own=False))
        length, cosine = clip_in_pieces(x, y)
        found["length"].append(length)
        found["cosine"].append(cosine)
    unit = {"unit": "of the gradient"}
    run.claim("batch norm sees the cut", found["norm"], at_least=0.05, **unit)
    agrees = "dropout agrees if every sample has its generator"
    run.claim(agrees, found["own"], at_most=1e-12, **unit)
    run.falsifier("dropout with one generator for all", found["shared"], breaks=agrees)
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


def dropout_error(x: Inputs, y: Classes, seed: int, *, own: bool) -> float:
    """Relative error of two layers with dropout, the masks drawn by sample or from one stream."""
    torch.manual_seed(seed)
    layers = nn.ModuleList([nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 3)]).double()

    def gradient(size: int) -> Float[Tensor, " parameter"]:
        generators = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(x))]
        shared = torch.Generator().manual_seed(seed)

        def loss_sum(model, rows):
            h, mine = x[rows], [generators[i] if own else shared for i in rows.tolist()]
            for layer in model[:2]:
                h = dropout_by_sample(layer(h).relu(), 0.3, mine)
            return F.cross_entropy(model[2](h), y[rows], reduction="sum"), len(rows)

        accumulate(layers, torch.arange(len(x)).split(size), loss_sum)
        return flat_grad(layers)

    return relative(gradient(4), gradient(len(x)))


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
