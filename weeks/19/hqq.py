r"""HQQ: a better zero point without any data, since a few large errors are cheaper than many small.

Rounding to nearest takes the grid from the least and the largest weight of a group. HQQ moves the
zero point $z$, no longer an integer, so that $\sum |w - \hat w|^p$ falls, with $p < 1$. Splitting
the error into a sparse part $e$ and a small rest makes each step a formula,

$$ \min_{q, z, e} \; \sum \varphi(e) + \frac{\beta}{2} \sum \big(w - e - (q - z)\, s\big)^2 . $$

Given the rest, $e$ is the shrunken residual, $z$ a mean and $q$ a rounding. For $p = 1$ all three
are exact minima, so that the objective cannot rise (`descend`), and with $e$ minimized away it is
Huber's loss of $w - \hat w$. The published method (`hqq`) takes $p = 0.7$, a shrinkage that is the
exact step of no $|e|^p$, rounds $w$ instead of $w - e$, and lets $\beta$ grow: nothing then forbids
the error to rise, so it stops when it does.

>>> w = torch.linspace(-1, 1, 64).pow(5)[None]  # many small, few large
>>> nearest = hqq(w, bits=3, group_size=64, steps=0)
>>> found = hqq(w, bits=3, group_size=64)
>>> [round((w - part.dequantize()).abs().pow(0.7).mean().item(), 3) for part in (nearest, found)]
[0.193, 0.11]

    uv run weeks/19/hqq.py

Sources: H. Badri and A. Shaji, "Half-quadratic quantization of large machine learning models"
(2023); D. Geman and C. Yang, "Nonlinear image recovery with half-quadratic regularization" (1995).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week18.llama3 import Block
from week19.folding import LAYERS
from week19.quantization import groups_of, levels


@dataclass(frozen=True)
class Groups:
    """Codes, and a scale and a zero point (not an integer) for each group of a row."""

    codes: Float[Tensor, "out group size"]
    scale: Float[Tensor, "out group 1"]
    zero: Float[Tensor, "out group 1"]

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The matrix that the codes stand for."""
        return ((self.codes - self.zero) * self.scale).flatten(1)


@checked
def shrink(x: Float[Tensor, "..."], beta: float, p: float = 1.0) -> Float[Tensor, "..."]:
    """Toward zero by |x|^(p-1) / β: for p = 1 where |e| + β/2 (x - e)² is least."""
    return x.sign() * (x.abs() - x.abs().pow(p - 1) / beta).clamp(min=0)


def nearest(w: Float[Tensor, "out group size"], *, bits: int) -> Groups:
    """Rounded to nearest on the grid from the least to the largest weight of each group."""
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    bottom, top = levels(bits, symmetric=False)
    scale = ((high - low) / (top - bottom)).clamp(min=5e-5)
    zero = -low / scale
    return Groups(codes_of(w, scale, zero, bits=bits), scale, zero)


def codes_of(
    w: Float[Tensor, "out group size"],
    scale: Float[Tensor, "out group 1"],
    zero: Float[Tensor, "out group 1"],
    *,
    bits: int,
) -> Float[Tensor, "out group size"]:
    """The nearest points of the grids."""
    return (w * (1 / scale) + zero).round().clamp(*levels(bits, symmetric=False))


# ---- exact steps


@checked
def descend(
    w: Float[Tensor, "out in"], *, bits: int, group_size: int, beta: float, steps: int
) -> tuple[Groups, list[float]]:
    """For p = 1 and one β, each unknown at its exact minimum in turn; the objective after each."""
    require(beta > 0, "beta must be positive", beta)
    w = groups_of(w, group_size)
    start = nearest(w, bits=bits)
    q, scale, zero = start.codes, start.scale, start.zero
    e, objective = torch.zeros_like(w), []

    def note() -> None:
        rest = w - e - (q - zero) * scale
        objective.append((e.abs().sum() + beta / 2 * rest.square().sum()).item())

    for _ in range(steps):
        e = shrink(w - (q - zero) * scale, beta)
        note()
        zero = (q - (w - e) / scale).mean(-1, keepdim=True)
        note()
        q = codes_of(w - e, scale, zero, bits=bits)
        note()
    return Groups(q, scale, zero), objective


# ---- the published method


@checked
def hqq(
    w: Float[Tensor, "out in"],
    *,
    bits: int,
    group_size: int,
    p: float = 0.7,
    beta: float = 10.0,
    growth: float = 1.01,
    steps: int = 20,
) -> Groups:
    """Move the zero points for as long as the mean error of the matrix falls.

    Parameters
    ----------
    w
        The weights, in the scale they have in networks (well below 1): β is not relative.
    growth
        Factor of β per step.
    steps
        At most; with 0, rounding to nearest.
    """
    require(0 < p <= 1, "p must be in (0, 1]", p)
    require(beta > 0, "beta must be positive", beta)
    w = groups_of(w, group_size)
    start = nearest(w, bits=bits)
    scale, zero, best = start.scale, start.zero, float("inf")
    if bits == 4 and steps:  # the published code begins with integers there
        zero = zero.round()
    for _ in range(steps):
        q = codes_of(w, scale, zero, bits=bits)
        rounded = (q - zero) * scale
        e = shrink(w - rounded, beta, p)
        zero = (q - (w - e) * (1 / scale)).mean(-1, keepdim=True)
        beta *= growth
        error = (w - rounded).abs().mean().item()
        if error >= best:
            break
        best = error
    return Groups(codes_of(w, scale, zero, bits=bits), scale, zero)


@torch.no_grad()
def hqq_block(block: Block, inputs: object = None, *, bits: int, group_size: int) -> None:
    """Quantize all matrices of a block in place; what they read does not matter."""
    for name in LAYERS:
        w = getattr(block, name).weight
        w.copy_(hqq(w, bits=bits, group_size=group_size).dequantize())


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
