r"""What boosting needs of a loss: its value, two derivatives, and the best constant.

A model gives *margins*: the prediction itself for numbers, the log-odds for two classes, one number
per class up to a constant for more. The first derivative of the loss by the margin is the same for
all, the prediction minus the target: for two classes, with $p = 1 / (1 + e^{-m})$,

$$ \ell = \ln(1 + e^m) - y m, \qquad g = \ell' = p - y, \qquad h = \ell'' = p (1 - p) . $$

>>> g, h = derivatives("logistic", np.array([[0.0]]), np.array([[1.0]]))
>>> float(g[0, 0]), float(h[0, 0])
(-0.5, 0.25)

Source: J. Friedman, T. Hastie and R. Tibshirani, *Additive Logistic Regression* (Annals of
Statistics 28, 2000).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require

Objective = Literal["squared_error", "logistic", "softmax"]


@checked
def softmax(margin: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities from margins, row by row; minus the largest, so that exp stays finite."""
    e = np.exp(margin - margin.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@checked
def sigmoid(margin: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + exp(-margin)), without overflow."""
    e = np.exp(-np.abs(margin))
    return np.where(margin >= 0, 1, e) / (1 + e)


@checked
def derivatives(
    objective: Objective, margin: Float[np.ndarray, "n k"], target: Float[np.ndarray, "n k"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """First and second derivative of the loss of each row by its margin.

    Softmax takes 2 p (1 - p) for the diagonal of the Hessian, as XGBoost does: p (1 - p) alone
    leaves out that the other margins move too, and its steps are too long.
    """
    if objective == "squared_error":
        return margin - target, np.ones_like(margin)
    p = sigmoid(margin) if objective == "logistic" else softmax(margin)
    factor = 1 if objective == "logistic" else 2
    return p - target, np.maximum(factor * p * (1 - p), 1e-16)


@checked
def loss(
    objective: Objective, margin: Float[np.ndarray, "n k"], target: Float[np.ndarray, "n k"]
) -> float:
    """What early stopping watches: the root mean square error, or the mean log loss in nats."""
    if objective == "squared_error":
        return float(np.sqrt(np.mean((margin - target) ** 2)))
    if objective == "logistic":
        return float(np.mean(np.logaddexp(0, margin) - target * margin))
    shifted = margin - margin.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-np.mean((target * log_p).sum(axis=1)))


@checked
def best_constant(
    objective: Objective, target: Float[np.ndarray, "n k"], weight: Float[np.ndarray, " n"]
) -> Float[np.ndarray, " k"]:
    """The margins that fit best before there is any tree: the mean, or the log-odds of it."""
    mean = np.average(target, axis=0, weights=weight)
    if objective == "squared_error":
        return mean
    require(0 < mean.min() <= mean.max() < 1, "sample_weight must leave each class some weight")
    if objective == "logistic":
        return np.log(mean / (1 - mean))
    return np.log(mean) - np.log(mean).mean()
