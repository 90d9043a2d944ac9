r"""Curvature without the matrix: Hessian–vector products, power iteration, Lanczos, Hutchinson.

A network with $p$ weights has a Hessian of $p^2$ numbers, too many to write down. Its product with
a vector costs about two gradients (Pearlmutter, 1994),

$$ H v = \nabla_\theta \bigl( v^\top \nabla_\theta L(\theta) \bigr), $$

and a few dozen products are enough for the largest and smallest eigenvalue, the trace, and the
shape of the whole spectrum. Every function works on a batch of matrices at once.

>>> values = torch.linspace(-1, 10, 50, dtype=torch.float64)
>>> hessians = hessian_operator(lambda t: (values * t**2).sum() / 2, torch.zeros(1, 50).double())
>>> found, weights = ritz(hessians, torch.ones(1, 50, dtype=torch.float64), steps=20)
>>> found[0, [0, -1]].round(decimals=2)  # the ends of 50 eigenvalues by 20 products
tensor([-1., 10.], dtype=torch.float64)

    uv run weeks/09/loss_landscape.py

Sources: B. Pearlmutter, *Fast Exact Multiplication by the Hessian* (Neural Computation 6, 1994);
G. Golub and G. Meurant, *Matrices, Moments and Quadrature* (2010), chapters 4 and 6;
M. Hutchinson (1990); B. Ghorbani, S. Krishnan and Y. Xiao, *An Investigation into Neural Net
Optimization via Hessian Eigenvalue Density* (ICML 2019), algorithm 1.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require

# Takes and returns Float[Tensor, "batch p"]: row b is multiplied by the b-th symmetric matrix.
Operator = Callable[[Tensor], Tensor]


def hessian_operator(
    loss: Callable[[Tensor], Tensor], points: Float[Tensor, "batch p"]
) -> Operator:
    """Multiplication by the Hessians of `loss` at each of the points, by double backward.

    Parameters
    ----------
    loss
        From a vector of shape (p,) to a scalar; must be differentiable twice.

    References
    ----------
    Pearlmutter (1994).
    """
    points = points.detach().requires_grad_()
    losses = torch.func.vmap(loss)(points)
    # The losses do not share parameters, so the gradient of their sum holds each one's own.
    (gradient,) = torch.autograd.grad(losses.sum(), points, create_graph=True)

    def multiply(v: Tensor) -> Tensor:
        # The graph of the gradient is built once and walked once per product.
        (product,) = torch.autograd.grad(gradient, points, v, retain_graph=True)
        return product

    return multiply


def power_iteration(
    operator: Operator,
    start: Float[Tensor, "batch p"],
    *,
    steps: int = 1000,
    rtol: float = 1e-10,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "batch p"]]:
    """The eigenvalue of largest magnitude, with its sign, and its eigenvector.

    The error shrinks by |λ₂ / λ₁| per step in the vector and by its square in the value.
    """
    require(steps >= 1, "steps must be at least 1", steps)
    v = start / start.norm(dim=1, keepdim=True)
    value = torch.zeros(len(start), dtype=start.dtype)
    for _ in range(steps):
        product = operator(v)
        new = (v * product).sum(1)  # the Rayleigh quotient keeps the sign, a norm would lose it
        v = product / product.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
        done = bool(((new - value).abs() <= rtol * new.abs()).all())
        value = new
        if done:
            break
    return value, v


def lanczos(
    operator: Operator, start: Float[Tensor, "batch p"], steps: int
) -> tuple[
    Float[Tensor, "batch steps"], Float[Tensor, "batch less"], Float[Tensor, "batch steps p"]
]:
    r"""Tridiagonal $T = Q^\top H Q$ on the Krylov space of `start`, fully reorthogonalized.

    Parameters
    ----------
    start
        First direction of each matrix's Krylov space; need not be normalized.
    steps
        Size of T, at most p; each costs one product.

    Returns
    -------
    diagonal, off_diagonal, basis
        Of T, (batch, steps) and (batch, steps - 1), and the rows of Q, (batch, steps, p).

    References
    ----------
    Golub & Meurant (2010), section 4.1.
    """
    batch, p = start.shape
    require(1 <= steps <= p, f"steps must be between 1 and p = {p}", steps)
    norms = start.norm(dim=1)
    require((norms > 0).all(), "start must have no row of zeros", "one")
    basis = torch.zeros(batch, steps, p, dtype=start.dtype)
    diagonal = torch.zeros(batch, steps, dtype=start.dtype)
    off_diagonal = torch.zeros(batch, steps - 1, dtype=start.dtype)
    generator = torch.Generator().manual_seed(611_953)  # not one that a caller starts from
    basis[:, 0] = start / norms[:, None]
    for j in range(steps):
        rest = operator(basis[:, j])
        diagonal[:, j] = (basis[:, j] * rest).sum(1)
        if j + 1 == steps:
            break
        # Three terms would do in exact arithmetic. In floating point the basis loses orthogonality
        # as soon as an eigenvalue converges, and T shows it again and again ("ghosts").
        rest = _orthogonal_to(basis[:, : j + 1], rest)
        length = rest.norm(dim=1)
        # Nothing left: the Krylov space is invariant. Go on in a fresh direction, uncoupled from T.
        # Each matrix by its own scale: in a batch they may differ by ten powers of ten.
        size = torch.maximum(diagonal.abs().amax(1), off_diagonal.amax(1))
        spent = length <= 100 * torch.finfo(start.dtype).eps * size
        if spent.any():
            fresh = torch.randn(batch, p, generator=generator, dtype=start.dtype)
            rest = torch.where(spent[:, None], _orthogonal_to(basis[:, : j + 1], fresh), rest)
            length = torch.where(spent, 0.0, length)
        off_diagonal[:, j] = length
        basis[:, j + 1] = rest / rest.norm(dim=1, keepdim=True)
    return diagonal, off_diagonal, basis


def ritz(
    operator: Operator, start: Float[Tensor, "batch p"], steps: int
) -> tuple[Float[Tensor, "batch steps"], Float[Tensor, "batch steps"]]:
    r"""Ritz values, ascending, and their quadrature weights $\tau_i = (e_1^\top u_i)^2$, sum 1.

    The extreme values approach the extreme eigenvalues from inside. For the unit vector $v$ along
    `start`, $\sum_i \tau_i f(\theta_i) = v^\top f(H) v$ exactly for polynomials up to degree
    2 steps - 1: this is Gauss's quadrature.

    References
    ----------
    Golub & Meurant (2010), theorem 6.2.
    """
    diagonal, off_diagonal, _ = lanczos(operator, start, steps)
    tridiagonal = torch.diag_embed(diagonal)
    tridiagonal += torch.diag_embed(off_diagonal, 1) + torch.diag_embed(off_diagonal, -1)
    values, vectors = torch.linalg.eigh(tridiagonal)
    return values, vectors[:, 0, :] ** 2


def random_signs(n: int, p: int, generator: torch.Generator) -> Float[Tensor, "n p"]:
    """Vectors of independent ±1 in float64: among independent entries those of least variance."""
    return 2.0 * torch.randint(2, (n, p), generator=generator).double() - 1.0


def hutchinson_trace(operator: Operator, probes: Float[Tensor, "n p"]) -> Float[Tensor, " n"]:
    r"""One unbiased estimate $v^\top H v$ of the trace for each probe; their mean is the estimate.

    Parameters
    ----------
    operator
        The same matrix n times, as `hessian_operator` of one point repeated n times.
    probes
        Vectors with E[v vᵀ] = I, as of `random_signs`.

    References
    ----------
    Hutchinson (1990).
    """
    return (probes * operator(probes)).sum(1)


def spectral_density(
    values: Float[Tensor, "probe steps"],
    weights: Float[Tensor, "probe steps"],
    grid: Float[Tensor, " n"],
    width: float,
) -> Float[Tensor, " n"]:
    """Density of eigenvalues on a grid: Gaussians of this width at the Ritz values, by weight.

    With random probes the mean over probes of the quadrature is the spectrum's own measure, seen
    through the Gaussian; it integrates to 1.

    References
    ----------
    Ghorbani, Krishnan & Xiao (2019), algorithm 1.
    """
    require(width > 0, "width must be positive", width)
    z = (grid - values[..., None]) / width
    bumps = torch.exp(-0.5 * z**2) / (width * math.sqrt(2 * math.pi))
    return (weights[..., None] * bumps).sum(1).mean(0)


def _orthogonal_to(basis: Float[Tensor, "batch k p"], v: Float[Tensor, "batch p"]) -> Tensor:
    """Take off the components along the basis; twice, since once leaves rounding behind."""
    for _ in range(2):
        v = v - torch.einsum("bk,bkp->bp", torch.einsum("bkp,bp->bk", basis, v), basis)
    return v
