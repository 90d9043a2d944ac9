r"""Metrics of probabilities: how far from what happened, and how often it happens when one says so.

A *proper* score is best, on average, for whoever says the true probability. With $p_{ic}$ what
was said of class $c$ for sample $i$ and $y_i$ what happened,

$$\mathrm{log\ loss} = -\frac1n \sum_i \ln p_{i y_i}, \qquad
  \mathrm{Brier} = \frac1n \sum_i \sum_c (p_{ic} - [c = y_i])^2 .$$

Calibration asks less: of all samples called 30 %, do 30 % happen?

>>> happened, said = np.array([0, 0, 1, 1]), np.array([0.5, 0.5, 0.5, 1.0])
>>> brier_score(happened, said)  # three times 1/4, once 0
0.1875
>>> frequency, probability, weight = calibration_curve(happened, said, n_bins=4)
>>> frequency.round(3), probability, weight
(array([0.333, 1.   ]), array([0.5, 1. ]), array([3., 1.]))

Source: Brier, "Verification of forecasts expressed in terms of probability" (1950); Guo et al., "On
calibration of modern neural networks" (2017), equation 3.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Shaped

from shared.arguments import checked
from shared.require import require
from week06.metrics import Labels, Weights, weights_of


@checked
def log_loss(
    y_true: Labels,
    y_prob: Float[np.ndarray, " n"] | Float[np.ndarray, "n c"],
    *,
    labels: Shaped[np.ndarray, " c"] | None = None,
    sample_weight: Weights | None = None,
) -> float:
    """Mean negative log-probability of the true class, in nats.

    Parameters
    ----------
    y_prob
        One column a class in the order of `labels`, or the second class's probability alone.
        Clipped to [eps, 1 - eps] of the dtype, so that one certain mistake is not infinite.
    """
    onehot, prob, weight = _probabilities(y_true, y_prob, labels, sample_weight)
    eps = np.finfo(prob.dtype).eps
    chosen = np.log(prob.clip(eps, 1 - eps))[onehot]
    return float(np.average(-chosen, weights=weight))


@checked
def brier_score(
    y_true: Labels,
    y_prob: Float[np.ndarray, " n"] | Float[np.ndarray, "n c"],
    *,
    labels: Shaped[np.ndarray, " c"] | None = None,
    sample_weight: Weights | None = None,
) -> float:
    """Mean squared distance of the probabilities from what happened.

    For two classes of one class's probability, in [0, 1]; for more, summed over the classes, in
    [0, 2], as Brier (1950) has it.
    """
    onehot, prob, weight = _probabilities(y_true, y_prob, labels, sample_weight)
    distance = ((prob - onehot) ** 2).sum(axis=1)
    return float(np.average(distance / (2 if prob.shape[1] == 2 else 1), weights=weight))


@checked
def calibration_curve(
    y_true: Labels,
    y_prob: Float[np.ndarray, " n"],
    *,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
    sample_weight: Weights | None = None,
) -> tuple[Float[np.ndarray, " bins"], Float[np.ndarray, " bins"], Float[np.ndarray, " bins"]]:
    """Frequency of the positive class, mean probability and weight, for each bin with samples.

    Parameters
    ----------
    strategy
        Bins of equal width, or with about equally many samples.
    """
    weight = weights_of(y_true, y_prob, sample_weight)
    require(n_bins >= 1, "n_bins must be at least 1", n_bins)
    if not ((y_prob >= 0) & (y_prob <= 1)).all():
        raise ValueError(
            f"y_prob must lie between 0 and 1, got {y_prob.min():g} to {y_prob.max():g}"
        )
    edges = np.linspace(0, 1, n_bins + 1)
    if strategy == "quantile":
        edges = np.quantile(y_prob, edges)
    bins = np.searchsorted(edges[1:-1], y_prob)
    total, predicted, positive = (
        np.bincount(bins, weights=weight * values, minlength=n_bins)
        for values in (1.0, y_prob, y_true == 1)
    )
    filled = total > 0
    return positive[filled] / total[filled], predicted[filled] / total[filled], total[filled]


@checked
def calibration_error(
    y_true: Labels,
    y_prob: Float[np.ndarray, " n"],
    *,
    n_bins: int = 10,
    strategy: Literal["uniform", "quantile"] = "uniform",
    sample_weight: Weights | None = None,
) -> float:
    """Expected calibration error: mean distance of frequency and probability over the bins.

    Binned and therefore biased: a perfect model scores above 0, the more so the more bins.

    References
    ----------
    Guo et al. (2017), equation 3, for the probability of the positive class.
    """
    happened, predicted, weight = calibration_curve(
        y_true, y_prob, n_bins=n_bins, strategy=strategy, sample_weight=sample_weight
    )
    return float(np.average(np.abs(happened - predicted), weights=weight))


def _probabilities(y_true, y_prob, labels, sample_weight):
    weight = weights_of(y_true, y_prob, sample_weight)
    prob = np.stack([1 - y_prob, y_prob], axis=1) if y_prob.ndim == 1 else y_prob
    labels = np.unique(y_true) if labels is None else labels
    if len(labels) != prob.shape[1]:
        raise ValueError(
            f"y_prob must have a column for each of the classes {labels.tolist()}, got "
            f"{prob.shape[1]}; name the classes by labels if some do not occur"
        )
    if prob.min() < 0 or prob.max() > 1:
        raise ValueError(f"y_prob must lie between 0 and 1, got {prob.min():g} to {prob.max():g}")
    if not np.allclose(prob.sum(axis=1), 1, atol=np.sqrt(np.finfo(prob.dtype).eps)):
        raise ValueError("each row of y_prob must sum to 1")
    onehot = y_true[:, None] == labels
    if not onehot.any(axis=1).all():
        raise ValueError(f"y_true must hold only {labels.tolist()}, got {np.unique(y_true)}")
    return onehot, prob, weight
