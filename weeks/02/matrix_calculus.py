r"""Matrix calculus: the gradients of a transformer's layers, by differentials and the trace trick.

If a small change of the input changes the loss by a trace, the gradient can be read off:

$$d\ell = \mathrm{tr}(G^\top dX) \quad\Longrightarrow\quad \frac{\partial \ell}{\partial X} = G.$$

Each layer comes as a pair: what it computes, and what it makes of the gradient `dY` that arrives
from above. The derivations are in matrix_calculus.md.

    >>> P = softmax(np.array([[2.0, 1.0, 0.0]]))
    >>> P.round(3)
    array([[0.665, 0.245, 0.09 ]])
    >>> cross_entropy_backward(np.array([[2.0, 1.0, 0.0]]), np.array([0])).round(3)
    array([[-0.335,  0.245,  0.09 ]])

    uv run weeks/02/matrix_calculus.py

Source: Magnus and Neudecker, *Matrix Differential Calculus*, 3rd ed. (Wiley, 2019), chapters 5
and 9; Ioffe and Szegedy (2015), "Batch normalization", section 3; Ba et al. (2016), "Layer
normalization", eq. 3; Vaswani et al. (2017), "Attention is all you need", eq. 1.
"""

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from shared.arguments import checked
from shared.require import require

# ---- linear


@checked
def linear(
    X: Float[np.ndarray, "n d"], W: Float[np.ndarray, "k d"], b: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "n k"]:
    """Y = X Wᵀ + b, one example a row."""
    return X @ W.T + b


@checked
def linear_backward(
    dY: Float[np.ndarray, "n k"], X: Float[np.ndarray, "n d"], W: Float[np.ndarray, "k d"]
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "k d"], Float[np.ndarray, "k"]]:
    """Gradients of X, W and b.

    tr(dYᵀ(δX Wᵀ)) = tr((dY W)ᵀ δX) and tr(dYᵀ(X δWᵀ)) = tr((dYᵀ X)ᵀ δW): no index is written.
    """
    return dY @ W, dY.T @ X, dY.sum(axis=0)


# ---- softmax and cross-entropy


@checked
def softmax(Z: Float[np.ndarray, "*rows k"]) -> Float[np.ndarray, "*rows k"]:
    """Positive numbers that sum to one along the last axis; a row may hold some -inf, not all."""
    top = Z.max(axis=-1, keepdims=True)
    require(np.isfinite(top).all(), "Z must have a finite largest entry in every row", top.ravel())
    E = np.exp(Z - top)  # the shift cancels, and keeps exp from overflowing
    return E / E.sum(axis=-1, keepdims=True)


@checked
def softmax_jacobian(z: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k k"]:
    """∂p/∂z = diag(p) - p pᵀ: raising one logit lowers every other probability."""
    p = softmax(z)
    return np.diag(p) - np.outer(p, p)


@checked
def softmax_backward(
    dP: Float[np.ndarray, "*rows k"], P: Float[np.ndarray, "*rows k"]
) -> Float[np.ndarray, "*rows k"]:
    """Multiply by diag(p) - p pᵀ row by row, without forming it."""
    return P * (dP - (P * dP).sum(axis=-1, keepdims=True))


def softmax_backward_diagonal(
    dP: Float[np.ndarray, "*rows k"], P: Float[np.ndarray, "*rows k"]
) -> Float[np.ndarray, "*rows k"]:
    """The classic mistake, for display: p(1 - p) as if each probability knew only its own logit."""
    return P * (1.0 - P) * dP


@checked
def cross_entropy(Z: Float[np.ndarray, "n k"], targets: Int[np.ndarray, "n"]) -> float:
    """Mean of -log softmax(Z)[i, targets[i]], in nats; -log p is never taken of a rounded p."""
    _validate_targets(Z, targets)
    shifted = Z - Z.max(axis=1, keepdims=True)
    log_partition = np.log(np.exp(shifted).sum(axis=1))
    return float((log_partition - shifted[np.arange(len(Z)), targets]).mean())


@checked
def cross_entropy_backward(
    Z: Float[np.ndarray, "n k"], targets: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n k"]:
    """Gradient of the logits: (what was predicted - what came) / n."""
    _validate_targets(Z, targets)
    dZ = softmax(Z)
    dZ[np.arange(len(Z)), targets] -= 1.0
    return dZ / len(Z)


def _validate_targets(Z: np.ndarray, targets: np.ndarray) -> None:
    k = Z.shape[1]
    require(Z.size > 0, "Z must have at least one row and one class", f"shape {Z.shape}")
    known = ((targets >= 0) & (targets < k)).all()
    require(known, f"targets must be between 0 and {k - 1}", targets)


# ---- normalization


def _standardize(X: np.ndarray, axis: int, eps: float) -> tuple[np.ndarray, np.ndarray]:
    """(X - mean)/√(variance + eps) along an axis, and 1/√(variance + eps); variance over n."""
    require(X.shape[axis] > 0, "X must not be empty", f"shape {X.shape}")
    require(eps > 0.0, "eps must be positive", eps)
    centered = X - X.mean(axis=axis, keepdims=True)
    scale = 1.0 / np.sqrt((centered**2).mean(axis=axis, keepdims=True) + eps)
    return centered * scale, scale


def _standardize_backward(
    dX_hat: np.ndarray, X_hat: np.ndarray, scale: np.ndarray, axis: int
) -> np.ndarray:
    """Take out of dX̂ what the mean (its average) and the variance (its part along x̂) would undo."""
    mean = dX_hat.mean(axis=axis, keepdims=True)
    along = (dX_hat * X_hat).mean(axis=axis, keepdims=True)
    return scale * (dX_hat - mean - X_hat * along)


@checked
def layer_norm(
    X: Float[np.ndarray, "n d"],
    gain: Float[np.ndarray, "d"],
    bias: Float[np.ndarray, "d"],
    *,
    eps: float = 1e-5,
) -> Float[np.ndarray, "n d"]:
    """Each example to mean 0 and variance 1 over its own features, then gain and bias."""
    return _standardize(X, 1, eps)[0] * gain + bias


@checked
def layer_norm_backward(
    dY: Float[np.ndarray, "n d"],
    X: Float[np.ndarray, "n d"],
    gain: Float[np.ndarray, "d"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    """Gradients of X, gain and bias."""
    X_hat, scale = _standardize(X, 1, eps)
    dX = _standardize_backward(dY * gain, X_hat, scale, 1)
    return dX, (dY * X_hat).sum(axis=0), dY.sum(axis=0)


@checked
def batch_norm(
    X: Float[np.ndarray, "n d"],
    gain: Float[np.ndarray, "d"],
    bias: Float[np.ndarray, "d"],
    *,
    eps: float = 1e-5,
) -> Float[np.ndarray, "n d"]:
    """Each feature to mean 0 and variance 1 over the batch (as in training), then gain and bias."""
    return _standardize(X, 0, eps)[0] * gain + bias


@checked
def batch_norm_backward(
    dY: Float[np.ndarray, "n d"],
    X: Float[np.ndarray, "n d"],
    gain: Float[np.ndarray, "d"],
    *,
    eps: float = 1e-5,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "d"], Float[np.ndarray, "d"]]:
    """Gradients of X, gain and bias; through the batch's statistics every example sees all."""
    X_hat, scale = _standardize(X, 0, eps)
    dX = _standardize_backward(dY * gain, X_hat, scale, 0)
    return dX, (dY * X_hat).sum(axis=0), dY.sum(axis=0)


# ---- attention


@checked
def attention(
    Q: Float[np.ndarray, "m d"],
    K: Float[np.ndarray, "n d"],
    V: Float[np.ndarray, "n v"],
    mask: Bool[np.ndarray, "m n"] | None = None,
) -> tuple[Float[np.ndarray, "m v"], Float[np.ndarray, "m n"]]:
    """softmax(Q Kᵀ/√d) V and the weights; True in the mask means "may attend".

    Raises
    ------
    ValueError
        If a query may attend to nothing.
    """
    require(K.size > 0, "K must have at least one row and one column", f"shape {K.shape}")
    scores = Q @ K.T / math.sqrt(Q.shape[1])
    if mask is not None:
        open_ = mask.any(axis=1)
        require(open_.all(), "mask must leave every query a key", f"none in row {open_.argmin()}")
        scores = np.where(mask, scores, -np.inf)
    P = softmax(scores)
    return P @ V, P


@checked
def attention_backward(
    dY: Float[np.ndarray, "m v"],
    Q: Float[np.ndarray, "m d"],
    K: Float[np.ndarray, "n d"],
    V: Float[np.ndarray, "n v"],
    P: Float[np.ndarray, "m n"],
) -> tuple[Float[np.ndarray, "m d"], Float[np.ndarray, "n d"], Float[np.ndarray, "n v"]]:
    """Gradients of Q, K and V, given the weights P; the mask is in P, whose zeros stop dS."""
    dS = softmax_backward(dY @ V.T, P) / math.sqrt(Q.shape[1])
    return dS @ K, dS.T @ Q, P.T @ dY


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
