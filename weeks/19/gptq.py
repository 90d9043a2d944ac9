r"""GPTQ: round weights one by one, and let the weights still free make up for each error.

A layer's weights $w$ are to become codes $q$ that change its outputs $Xw$ little: the error is
$\|X(w - q)\|^2 = (w - q)^T H (w - q)$ with the Hessian $H = X^T X$. Once the weights in $S$ are
rounded, the best values of the free ones $F$ are a least-squares solution,

$$ \hat w_F = w_F + H_{FF}^{-1} H_{FS} (w_S - q_S) . $$

Round the next of them, solve again, and so on (`optimal_brain`: one inverse per weight). All of
these solutions are in a single Cholesky factor. With $H = R R^T$, $R$ upper triangular, and
$U = R^{-1}$, rounding weight $j$ moves the free ones by $-(\hat w_j - q_j)\, U_{j,F} / U_{jj}$
(`gptq`), and with the rounding residuals $r_j = \hat w_j - q_j$ the error is

$$ (w - q)^T H (w - q) = \sum_j R_{jj}^2\, r_j^2, \qquad R_{jj}^2 \le H_{jj} . $$

>>> x = torch.randn(99, 8, generator=torch.Generator().manual_seed(0)).double().cumsum(1)
>>> w, h = torch.linspace(-1, 1, 24).double().sin().view(3, 8), hessian(x)
>>> codes = gptq(w, h, bits=3)
>>> nearest = gptq(w, h.diag().diag(), bits=3)  # nothing to make up for: rounds to nearest
>>> [f"{layer_error(w - c.dequantize(), h).sum():.2f}" for c in (nearest, codes)]
['0.10', '0.04']

    uv run weeks/19/gptq.py

Sources: Frantar et al., "GPTQ" (2022), algorithm 1; Frantar and Alistarh, "Optimal brain
compression" (2022); Chee et al., "QuIP" (2023), section 3, for the error as a sum.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week19.quantization import dequantize, grid, quantize

LADDER = 10.0  # factor between two dampings that are tried


@checked
def hessian(x: Float[Tensor, "sample in"]) -> Float[Tensor, "in in"]:
    """Mean of x xᵀ over the layer's inputs: the loss's curvature, up to a factor."""
    require(len(x) > 0, "x must hold a sample", tuple(x.shape))
    return x.T @ x / len(x)


@checked
def layer_error(
    change: Float[Tensor, "out in"], h: Float[Tensor, "in in"]
) -> Float[Tensor, " out"]:
    """Mean squared change of each output, δᵀ H δ for each row δ of the change of the weights."""
    return ((change @ h) * change).sum(1)


@dataclass(frozen=True)
class Codes:
    """A weight matrix as integers.

    Attributes
    ----------
    codes
        The integers, columns in the order of the layer's inputs.
    scale, zero
        One of each for a row and a group of columns.
    group_of
        The group of each column (`g_idx` in files).
    damping
        The damping that was needed, a share of the Hessian's mean diagonal.
    """

    codes: Integer[Tensor, "out in"]
    scale: Float[Tensor, "out group"]
    zero: Int[Tensor, "out group"]
    group_of: Int[Tensor, " in"]
    damping: float

    def dequantize(self) -> Float[Tensor, "out in"]:
        """The matrix that the integers stand for."""
        of_column = self.scale[:, self.group_of], self.zero[:, self.group_of]
        return dequantize(self.codes, *of_column)


# ---- the plain version


@checked
def optimal_brain(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    scale: Float[Tensor, "out in"],
    zero: Int[Tensor, "out in"],
    *,
    bits: int,
    symmetric: bool = False,
) -> Integer[Tensor, "out in"]:
    """Codes of the columns in turn, the free weights solved for again before each."""
    q, codes = w.clone(), []
    for j in range(w.shape[1]):
        lost = w[:, :j] - q[:, :j]
        free = w[:, j:] + torch.linalg.solve(h[j:, j:], h[j:, :j] @ lost.T).T
        of_column = scale[:, j], zero[:, j]
        codes.append(quantize(free[:, 0], *of_column, bits=bits, symmetric=symmetric))
        q[:, j] = dequantize(codes[j], *of_column)
    return torch.stack(codes, dim=1)


# ---- the fast one


def feedback(
    h: Float[Tensor, "in in"], damping: float, *, most: float = 1.0
) -> tuple[Float[Tensor, "in in"], float]:
    """U with H⁻¹ = Uᵀ U after damping the diagonal, and the damping that was enough.

    Where H is not positive definite (fewer samples than inputs) the damping is raised tenfold
    until it is.

    Raises
    ------
    ValueError
        If it is not at damping `most`, or at 0 if damping is 0: then nothing is raised.
    """
    require(bool(h.isfinite().all()), "h must be finite", "NaN or infinity")
    eye = torch.eye(len(h), dtype=h.dtype, device=h.device)
    while True:
        damped = h + damping * h.diagonal().mean() * eye
        # The factor R of H = R Rᵀ is Cholesky's with rows and columns in reverse.
        lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
        if not failed:
            r = lower.flip(0, 1)
            return torch.linalg.solve_triangular(r, eye, upper=True), damping
        must = f"h must be positive definite; at damping {damping:g} it is"
        require(0 < damping < most, must, "not")
        damping = min(LADDER * damping, most)


@checked
def gptq(
    w: Float[Tensor, "out in"],
    h: Float[Tensor, "in in"],
    *,
    bits: int,
    symmetric: bool = False,
    group_size: int | None = None,
    block_size: int = 128,
    act_order: bool = False,
    static_groups: bool = False,
    damping: float = 0.01,
) -> Codes:
    """Quantize the columns in turn; what is lost is made up for by those that follow.

    Parameters
    ----------
    w, h
        The weights and the Hessian of their inputs (see `hessian`).
    group_size
        Columns that share a grid; all of them if None.
    block_size
        Columns after which the rest is brought up to date, in one product. Changes nothing else.
    act_order
        Take the inputs with the largest Hessian diagonal first, while most weights are free.
    static_groups
        Groups of neighboring columns, their grids found before anything moves. Else a group is
        the next `group_size` columns in the order taken, its grid fitted to what they have become.
    damping
        Share of the mean diagonal that is added to the diagonal; raised where it is too little.
    """
    n_in = w.shape[1]
    size = n_in if group_size is None else min(group_size, n_in)
    require(size >= 1, "group_size must be at least 1", group_size)
    require(block_size >= 1, "block_size must be at least 1", block_size)
    require(damping >= 0, "damping must be at least 0", damping)
    w, h = w.clone(), h.clone()
    dead = h.diagonal() == 0  # these inputs are always 0: any weight will do
    h.diagonal()[dead] = 1
    w[:, dead] = 0
    options = {"bits": bits, "symmetric": symmetric}
    neighbors = torch.arange(n_in, device=w.device) // size

    order = torch.arange(n_in, device=w.device)
    if act_order:
        order = torch.argsort(h.diagonal(), descending=True, stable=True)
    static = static_groups or size == n_in
    group_of = neighbors if static else torch.empty_like(neighbors)
    if not static:
        group_of[order] = neighbors
    grids = [_grid_of(w[:, neighbors == g], **options) for g in range(neighbors[-1] + 1)]
    if not static:  # a group begins where a block begins or lies within one
        block_size = max(block_size // size, 1) * size
    u, damping = feedback(h[order][:, order], damping)

    # Transposed, so that the weights of one input are neighbors in memory.
    columns, codes = w[:, order].T.contiguous(), [None] * n_in
    for start in range(0, n_in, block_size):
        end = min(start + block_size, n_in)
        lost = torch.empty_like(columns[start:end])
        for j in range(start, end):
            group = group_of[order[j]]
            if not static and j % size == 0:
                grids[group] = _grid_of(columns[j : j + size].T, **options)
            codes[j] = quantize(columns[j], *grids[group], **options)
            residual = columns[j] - dequantize(codes[j], *grids[group])
            lost[j - start] = residual / u[j, j]
            columns[j + 1 : end].addr_(u[j, j + 1 : end], lost[j - start], alpha=-1)
        columns[end:] -= u[start:end, end:].T @ lost
    back = torch.argsort(order)
    scale, zero = (torch.stack(part, dim=1) for part in zip(*grids, strict=True))
    return Codes(torch.stack(codes, dim=1)[:, back], scale, zero, group_of, damping)


def _grid_of(w: Float[Tensor, "out column"], **options) -> tuple[Tensor, Tensor]:
    """Scale and zero of each row, from its least and its largest weight."""
    return grid(w.amin(1), w.amax(1), **options)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
