r"""Loss functions, each with its gradient: what a mistake costs decides what is learned.

Most losses are negative log-likelihoods: of a normal error (squared), a Laplace error (absolute),
a label drawn from a softmax (cross-entropy),

$$\ell(z, y) = \ln \sum_j e^{z_j} - z_y, \qquad \frac{\partial \ell}{\partial z} = p - e_y .$$

Others (hinge, Huber, focal) are shaped for what their gradient does.

>>> loss, gradient = cross_entropy(np.zeros((1, 4)), np.array([2]))  # no idea among four
>>> print(f"{loss:.4f}", gradient)
1.3863 [[ 0.25  0.25 -0.75  0.25]]

    uv run weeks/09/loss_functions.py

Sources: Huber, "Robust estimation of a location parameter" (1964); Gneiting & Raftery, "Strictly
proper scoring rules" (2007); Szegedy et al. (2016), section 7; Lin et al., "Focal loss" (2017),
equation 5; van den Oord et al., "Contrastive predictive coding" (2018), equation 4.
"""

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require

Loss = tuple[Float[np.ndarray, ""] | float, Float[np.ndarray, "..."]]
IGNORE = -100  # torch's label for padding


def _log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


@checked
def squared(prediction: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"]) -> Loss:
    """Mean (ŷ - y)²: normal errors; its best constant is the mean."""
    error = prediction - target
    return np.mean(error**2), 2 * error / error.size


@checked
def absolute(prediction: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"]) -> Loss:
    """Mean |ŷ - y|: Laplace errors; its best constant is the median."""
    error = prediction - target
    return np.mean(np.abs(error)), np.sign(error) / error.size


@checked
def huber(
    prediction: Float[np.ndarray, " n"], target: Float[np.ndarray, " n"], delta: float = 1.0
) -> Loss:
    """Half the square up to `delta`, then a straight line: one outlier pulls with delta at most."""
    require(delta > 0, "delta must be greater than 0", delta)
    error = prediction - target
    pull = np.clip(error, -delta, delta)
    return np.mean(pull * (error - pull / 2)), pull / error.size


@checked
def hinge(margin: Float[np.ndarray, " n"]) -> Loss:
    """Mean of max(0, 1 - m) of the margins m = y z, y = ±1: nothing to gain beyond 1."""
    return np.mean(np.maximum(0, 1 - margin)), -(margin < 1).astype(float) / margin.size


@checked
def logistic(margin: Float[np.ndarray, " n"], gamma: float = 0.0) -> Loss:
    """Mean of -(1 - p)^γ ln p, p = σ(m): logistic loss for γ = 0, else the focal loss."""
    require(gamma >= 0, "gamma must be at least 0", gamma)
    log_p, log_q = -np.logaddexp(0, -margin), -np.logaddexp(0, margin)
    p, weight = np.exp(log_p), np.exp(gamma * log_q)
    grad = weight * (gamma * p * log_p - np.exp(log_q))
    return -np.mean(weight * log_p), grad / margin.size


@checked
def cross_entropy(
    logits: Float[np.ndarray, "n k"],
    labels: Int[np.ndarray, " n"],
    smoothing: float = 0.0,
    ignore: int = IGNORE,
) -> Loss:
    """Mean of -ln softmax(z)_y over the labels that are not `ignore`.

    Parameters
    ----------
    smoothing
        Share of the target spread evenly over all k classes.
    """
    n, k = logits.shape
    counted = labels != ignore
    bad = labels[counted & ((labels < 0) | (labels >= k))]
    require(not len(bad), f"labels must lie in 0..{k - 1} or be {ignore}", *bad[:1])
    require(counted.any(), f"labels must hold at least one that is not {ignore}")
    require(0 <= smoothing <= 1, "smoothing must lie in [0, 1]", smoothing)
    target = np.full((n, k), smoothing / k)
    target[np.flatnonzero(counted), labels[counted]] += 1 - smoothing
    target[~counted] = 0  # the trap: padding must drop out of the sum and of the count
    log_p = _log_softmax(logits)
    grad = np.exp(log_p) * counted[:, None] - target
    return -(target * log_p).sum() / counted.sum(), grad / counted.sum()


@checked
def kl_divergence(logits: Float[np.ndarray, "n k"], target: Float[np.ndarray, "n k"]) -> Loss:
    """Mean of D(t‖softmax(z)) over the rows: cross-entropy minus what no model can save."""
    log_p = _log_softmax(logits)
    own = np.where(target > 0, target * np.log(np.where(target > 0, target, 1)), 0).sum()
    grad = np.exp(log_p) * target.sum(axis=1, keepdims=True) - target
    return (own - (target * log_p).sum()) / len(logits), grad / len(logits)


@checked
def info_nce(
    a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"], temperature: float = 0.1
) -> Loss:
    """Which b belongs to this a? Cross-entropy over all n of them; the gradient is for a."""
    require(temperature > 0, "temperature must be greater than 0", temperature)
    loss, grad = cross_entropy(a @ b.T / temperature, np.arange(len(a)))
    return loss, grad @ b / temperature


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
