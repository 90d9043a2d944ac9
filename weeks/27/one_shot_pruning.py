r"""One-shot pruning: half of a trained model's weights go in one pass, told by what layers read.

Zeros in the weights $w$ of an output change it by $\delta^\top H \delta$, with
$H = \mathbb{E}[x x^\top]$ over the layer's inputs. The **optimal brain surgeon** removes weight
$j$ at a cost of $w_j^2 / [H^{-1}]_{jj}$ and moves all others by $-w_j\,[H^{-1}]_{:j} /
[H^{-1}]_{jj}$. Two ways to afford that for large layers:

- **Wanda** drops the correlations. With a diagonal $H$ the cost is $w_j^2 H_{jj}$, nothing moves,
  and the least $|w_j| \sqrt{H_{jj}} \propto |w_j|\,\lVert x_j \rVert_2$ of each row go.
- **SparseGPT** takes the columns in a fixed order and lets only those that follow make up for a
  zero. Then all rows share the factors of one Cholesky decomposition: with $H^{-1} = U^\top U$, $U$
  upper triangular, weight $j$ costs $\hat w_j^2 / U_{jj}^2$ and moves the later ones by
  $-\hat w_j\, U_{j,F} / U_{jj}$. It is GPTQ (week 19) with zero for a grid.

>>> x = torch.randn(99, 8, generator=torch.Generator().manual_seed(0)).double().cumsum(1)
>>> w, h = torch.linspace(-1, 1, 24).double().sin().view(3, 8), hessian(x)
>>> for prune in (magnitude, wanda, sparsegpt):
...     found = prune(w, h, pattern=(2, 4))
...     error = layer_error(w - found.w, h).sum().item()
...     print(f"{prune.__name__} {zeros([found.mask])} of 24, error {error:.1f}")
magnitude 12 of 24, error 34.8
wanda 12 of 24, error 24.6
sparsegpt 12 of 24, error 3.3

    uv run weeks/27/one_shot_pruning.py

Sources: Hassibi & Stork, "Optimal brain surgeon" (1992), equations 4 and 5; Frantar & Alistarh,
"SparseGPT" (2023), algorithm 1; Sun et al., "Wanda" (2023), equation 1.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week18.llama3 import Block
from week19.folding import READERS
from week19.gptq import feedback, hessian, layer_error
from week19.layer_inputs import Inputs
from week27.pruning import check_pattern, keep_largest, n_of_m, to_prune, zeros

__all__ = ["hessian", "layer_error", "magnitude", "sparsegpt", "wanda", "zeros"]


@dataclass(frozen=True)
class Pruned:
    """A layer's new weights, and the mask of those that were kept.

    A weight that is kept may be zero: sparsity is counted on the mask.
    """

    w: Float[Tensor, "out in"]
    mask: Bool[Tensor, "out in"]


# ---- masks alone


def _row_mask(scores: Tensor, sparsity: float, pattern: tuple[int, int] | None) -> Tensor:
    """The same number of each row stays, or n of each m."""
    if pattern is not None:
        return n_of_m(scores, *pattern)
    n = scores.shape[1]
    return keep_largest(scores, n - to_prune(sparsity, n))


@checked
def magnitude(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"] | None = None,
    *,
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
) -> Pruned:
    """Drop the smallest weights of each row, whatever the inputs are (h is not looked at)."""
    mask = _row_mask(w.abs(), sparsity, pattern)
    return Pruned(w * mask, mask)


@checked
def wanda(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    *,
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
) -> Pruned:
    """Drop the weights of each row whose size times the norm of their input is least.

    References
    ----------
    Sun et al. (2023), equation 1; the norm is √(n Hⱼⱼ), and n does not change the order.
    """
    mask = _row_mask(w.abs() * h.diagonal().sqrt(), sparsity, pattern)
    return Pruned(w * mask, mask)


# ---- and weights that make up for the zeros: the plain versions


@checked
def refit(
    w: Float[Tensor, "out in"], h: Float[Tensor, "in in"], mask: Bool[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """The best that a mask allows: least squares on the kept weights, one system per row."""
    found = torch.zeros_like(w)
    for row, (weights, kept) in enumerate(zip(w, mask, strict=True)):
        pull = h[kept][:, ~kept] @ weights[~kept]
        found[row, kept] = weights[kept] + torch.linalg.solve(h[kept][:, kept], pull)
    return found


@checked
def surgeon(
    w: Float[Tensor, " in"], h: Float[Tensor, "in in"], n_pruned: int
) -> tuple[Float[Tensor, " in"], Bool[Tensor, " in"], Float[Tensor, ""]]:
    """Remove the cheapest weight of a row, move all others, and so on.

    Returns
    -------
    w, mask, cost
        The weights; which of them stay; the sum of the costs, which is the error of the output.

    References
    ----------
    Hassibi and Stork (1992), equations 4 and 5 (without their factor of one half).
    """
    require(0 <= n_pruned <= len(w), f"n_pruned must be between 0 and {len(w)}", n_pruned)
    w, left, total = w.clone(), torch.ones_like(w, dtype=torch.bool), w.new_zeros(())
    for _ in range(n_pruned):
        index = left.nonzero()[:, 0]
        inverse = torch.linalg.inv(h[index][:, index])
        costs = w[index].square() / inverse.diagonal()
        j = costs.argmin()
        total += costs[j]
        w[index] -= w[index[j]] / inverse[j, j] * inverse[j]
        left[index[j]] = False
        w[index[j]] = 0
    return w, left, total


@checked
def in_order(
    w: Float[Tensor, "out in"], h: Float[Tensor, "in in"], mask: Bool[Tensor, "out in"]
) -> Float[Tensor, "out in"]:
    """SparseGPT's weights for a mask: the later columns solved for again before each column."""
    q = torch.zeros_like(w)
    for j in range(w.shape[1]):
        lost = w[:, :j] - q[:, :j]
        free = w[:, j:] + torch.linalg.solve(h[j:, j:], h[j:, :j] @ lost.T).T
        q[:, j] = free[:, 0] * mask[:, j]
    return q


# ---- the fast one


@checked
def sparsegpt(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    *,
    sparsity: float = 0.5,
    pattern: tuple[int, int] | None = None,
    mask: Bool[Tensor, "out in"] | None = None,
    block_size: int = 128,
    damping: float = 0.01,
) -> Pruned:
    """Zero weights column by column; what is lost is made up for by the columns that follow.

    Parameters
    ----------
    w, h
        The weights and the Hessian of their inputs.
    sparsity
        Share of the layer's weights that go, of each block of columns as nearly as it can be.
    pattern
        Instead of a sparsity: n of each m neighbors of a row stay.
    mask
        Instead of both: which weights stay.
    block_size
        Columns whose mask is chosen at once, when they are reached and so know of all earlier
        losses. With a pattern or a mask it changes nothing but the speed.
    damping
        Share of the mean diagonal that is added to the diagonal; raised where it is too little.

    References
    ----------
    Frantar and Alistarh (2023), algorithm 1.
    """
    n_out, n_in = w.shape
    require(block_size >= 1, "block_size must be at least 1", block_size)
    require(damping >= 0, "damping must be at least 0", damping)
    group = 1
    if pattern is not None:
        check_pattern(*pattern, n_in)
        group = pattern[1]
        block_size = max(block_size // group, 1) * group
    h, columns = h.clone(), w.T.clone(memory_format=torch.contiguous_format)
    dead = h.diagonal() == 0  # these inputs are always 0: their weights are the first to go
    h.diagonal()[dead] = 1
    columns[dead] = 0
    u, _ = feedback(h, damping)
    pivots = u.diagonal()[:, None]
    kept = torch.zeros_like(columns, dtype=torch.bool) if mask is None else mask.T.contiguous()
    for start in range(0, n_in, block_size):
        end = min(start + block_size, n_in)
        if mask is None and pattern is None:
            costs = (columns[start:end] / pivots[start:end]).square().flatten()
            going = to_prune(sparsity, end * n_out) - to_prune(sparsity, start * n_out)
            kept[start:end] = keep_largest(costs, len(costs) - going).view(-1, n_out)
        lost = torch.empty_like(columns[start:end])
        for j in range(start, end):
            if mask is None and pattern is not None and j % group == 0:
                costs = (columns[j : j + group] / pivots[j : j + group]).square()
                kept[j : j + group] = keep_largest(costs.T, pattern[0]).T
            lost[j - start] = torch.where(kept[j], 0, columns[j]) / u[j, j]
            columns[j] *= kept[j]
            columns[j + 1 : end].addr_(u[j, j + 1 : end], lost[j - start], alpha=-1)
        columns[end:] -= u[start:end, end:].T @ lost
    return Pruned(columns.T.contiguous(), kept.T.contiguous())


# ---- a block of a language model

Method = Callable[[Tensor, Tensor], Pruned]


@torch.no_grad()
def prune_block(
    block: Block, inputs: dict[str, Inputs], method: Method
) -> dict[str, Bool[Tensor, "out in"]]:
    """Prune all matrices of a block in place, each by what it reads; the masks by name.

    `inputs` come from `week19.layer_inputs.block_inputs`, and `quantized_losses` judges the model.
    """
    found = {}
    for reader, names in READERS.items():
        for name in names:
            w = getattr(block, name).weight
            pruned = method(w, inputs[reader].h)
            w.copy_(pruned.w)
            found[name] = pruned.mask
    return found


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
