r"""Muon: the optimizer for which a weight matrix is a matrix and not a bag of numbers.

The momentum $B = U S V^\top$ of a weight matrix has a few large singular values and many small
ones. Muon takes (nearly) $U V^\top$ as its step: the same length in every direction that the
gradient uses. No SVD is needed, because an odd polynomial of a matrix acts on the singular values
and leaves the vectors alone,

$$X \leftarrow aX + b\,(XX^\top)X + c\,(XX^\top)^2X \quad\Longleftrightarrow\quad
  s \leftarrow as + bs^3 + cs^5.$$

>>> steep = torch.diag(torch.tensor([100.0, 10.0, 1.0]))
>>> nearest_orthogonal(steep).diagonal()
tensor([1., 1., 1.])
>>> orthogonalize(steep).diagonal().round(decimals=2)
tensor([0.7000, 0.7100, 0.7000])

    uv run weeks/09/optimizers.py

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024).
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from shared.require import require
from week09.optimizers import Optimizer

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. (2024): steep at 0, no convergence to 1


def nearest_orthogonal(matrix: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    """U Vᵀ, with U S Vᵀ the singular value decomposition: what `orthogonalize` comes close to."""
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vt


def orthogonalize(
    matrix: Float[Tensor, "*batch m n"],
    *,
    steps: int = 5,
    dtype: torch.dtype = torch.float32,
    coefficients: tuple[float, float, float] = NEWTON_SCHULZ,
    eps: float = 1e-7,
) -> Float[Tensor, "*batch m n"]:
    """Push the singular values of each matrix towards 1, keeping its singular vectors.

    With the usual coefficients the values end around 1 rather than at 1: lifting small ones fast
    matters more. With (2, -1.5, 0.5) and more steps they converge to 1.

    Parameters
    ----------
    steps
        Iterations; five are enough for singular values down to about 1e-2 of the norm.
    dtype
        Precision of the products: torch's Muon takes bfloat16.
    coefficients
        a, b, c of the polynomial.
    eps
        Least norm to divide by, so that a zero matrix stays zero.
    """
    a, b, c = coefficients
    m, n = matrix.shape[-2:]
    x = matrix.to(dtype)
    x = x.reshape(-1, m, n) if x.ndim > 2 else x
    multiply = torch.baddbmm if x.ndim > 2 else torch.addmm  # at bfloat16 they round differently
    x = x.mT if m > n else x  # the shorter side makes the smaller Gram matrix
    # Frobenius >= spectral norm, so all singular values start at 1 or below
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.mT
        polynomial = multiply(gram, gram, gram, beta=b, alpha=c)  # b (XXᵀ) + c (XXᵀ)²
        x = multiply(x, polynomial, x, beta=a)
    return (x.mT if m > n else x).reshape(matrix.shape).to(matrix.dtype)


class Muon(Optimizer):
    """Momentum orthogonalized, for the weight matrices of hidden layers (not embeddings, heads).

    Matrices of one shape are orthogonalized together, in one batched product.

    Parameters
    ----------
    params
        Matrices of shape (fan_out, fan_in).
    momentum
        Decay rate of the running mean of the gradient.
    nesterov
        Mix the new gradient in once more, as if the mean were one step ahead.
    ns_steps, ns_coefficients, eps, dtype
        As in `orthogonalize`.
    adjust_lr_fn
        Scale of the step for an m by n matrix. "original": √max(1, m/n); "match_rms_adamw":
        0.2 √max(m, n), for AdamW's learning rates; "spectral_unclamped": √(m/n).

    References
    ----------
    Jordan et al. (2024); "match_rms_adamw": Liu et al., "Muon is scalable" (2025), section 2.2.
    """

    buffers = ("mean",)

    def __init__(
        self,
        params,
        *,
        lr=0.02,
        momentum=0.95,
        weight_decay=0.0,
        dtype=torch.float32,
        nesterov=True,
        ns_steps=5,
        ns_coefficients=NEWTON_SCHULZ,
        eps=1e-7,
        adjust_lr_fn="original",
    ):
        super().__init__(params, lr=lr, weight_decay=weight_decay)
        require(0 <= momentum < 1, "momentum must lie in [0, 1)", momentum)
        others = [f"a tensor of shape {tuple(p.shape)}" for p in self.params if p.ndim != 2]
        require(not others, "params must be matrices", *others)
        known = ("original", "match_rms_adamw", "spectral_unclamped")
        must = f"adjust_lr_fn must be one of {known}"
        require(adjust_lr_fn in known, must, repr(adjust_lr_fn))
        require(len(ns_coefficients) == 3, "ns_coefficients must be 3 numbers", ns_coefficients)
        require(ns_steps >= 0, "ns_steps must be at least 0", ns_steps)
        self.momentum, self.nesterov, self.adjust_lr_fn = momentum, nesterov, adjust_lr_fn
        self.iteration = {"steps": ns_steps, "coefficients": ns_coefficients, "eps": eps}
        self.iteration["dtype"] = dtype

    def scale(self, m: int, n: int) -> float:
        """How much longer than lr the step of an m by n matrix is, in the spectral norm."""
        if self.adjust_lr_fn == "match_rms_adamw":
            return 0.2 * math.sqrt(max(m, n))
        least = 1 if self.adjust_lr_fn == "original" else 0
        return math.sqrt(max(least, m / n))

    def ahead(self, grad: Float[Tensor, "m n"], state: dict) -> Float[Tensor, "m n"]:
        """Take the gradient into the running mean; give the (Nesterov) momentum."""
        self.begin(state, grad)
        state["mean"].lerp_(grad, 1 - self.momentum)
        ahead = grad.lerp(state["mean"], self.momentum)
        return ahead if self.nesterov else state["mean"]

    def update(self, grad: Float[Tensor, "m n"], state: dict) -> Float[Tensor, "m n"]:
        """Orthogonalized momentum, scaled so that tall matrices move as far as square ones."""
        step = orthogonalize(self.ahead(grad, state), **self.iteration)
        return step * (self.lr * self.scale(*grad.shape))

    def updates(self, grads: list[Tensor], states: list[dict]) -> Iterator[Tensor]:
        """As `update`, with one orthogonalization for all matrices of a shape."""
        ahead = [self.ahead(grad, state) for grad, state in zip(grads, states, strict=True)]
        alike: dict[tuple, list[int]] = {}
        for index, x in enumerate(ahead):
            alike.setdefault((x.shape, x.dtype, x.device), []).append(index)
        changes = {}
        for (shape, _, _), members in alike.items():
            batch = torch.stack([ahead[i] for i in members]) if members[1:] else ahead[members[0]]
            result = orthogonalize(batch, **self.iteration) * (self.lr * self.scale(*shape))
            changes.update(zip(members, result.reshape(-1, *shape), strict=True))
        yield from (changes[index] for index in range(len(grads)))
