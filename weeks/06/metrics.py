r"""Metrics of classification: what a model got right, in which order, and how honestly.

Three questions, three families. *Decisions* are counted in the confusion matrix. A *ranking* is
judged over all thresholds: the area under the ROC curve is the chance that a random positive
scores above a random negative, ties counting half,

$$\mathrm{AUC} = P(s_+ > s_-) + \tfrac12 P(s_+ = s_-), \qquad
  \mathrm{AP} = \sum_i (R_i - R_{i-1})\, P_i .$$

*Probabilities* are judged by proper scores and by calibration, in `probabilities.py`.

>>> y, score = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.4, 0.8])
>>> confusion_matrix(y, (score > 0.5).astype(int))  # rows: truth
array([[2, 0],
       [1, 1]])
>>> roc_auc(y, score)  # of four pairs three in order and one tied
0.875

    uv run weeks/06/metrics.py

Source: Fawcett, "An introduction to ROC analysis" (2006), algorithms 1 and 2; Davis and Goadrich,
"The relationship between precision-recall and ROC curves" (2006).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Num, Shaped

from shared.arguments import checked
from shared.require import require

Average = Literal["binary", "macro", "micro", "weighted"]
Labels = Shaped[np.ndarray, " n"]  # integers, booleans or strings
Weights = Num[np.ndarray, " n"]
Scores = Num[np.ndarray, " n"]


# ---- decisions


@checked
def confusion_matrix(
    y_true: Labels, y_pred: Labels, *, sample_weight: Weights | None = None
) -> Num[np.ndarray, "c c"]:
    """Weight of the samples of class i (row) that were called class j (column), both sorted."""
    weight = weights_of(y_true, y_pred, sample_weight)
    labels, codes = np.unique(np.concatenate([y_true, y_pred]), return_inverse=True)
    n, c = len(y_true), len(labels)
    matrix = np.bincount(codes[:n] * c + codes[n:], weight, c * c).reshape(c, c)
    return matrix if sample_weight is not None else np.rint(matrix).astype(np.int64)


@checked
def accuracy(y_true: Labels, y_pred: Labels, *, sample_weight: Weights | None = None) -> float:
    """Share of the weight that was called right."""
    return float(np.average(y_true == y_pred, weights=weights_of(y_true, y_pred, sample_weight)))


@checked
def precision(
    y_true: Labels,
    y_pred: Labels,
    *,
    average: Average | None = "binary",
    sample_weight: Weights | None = None,
    zero_division: float = 0.0,
) -> float | Float[np.ndarray, " c"]:
    """Of what was called positive, the share that is: TP / (TP + FP).

    Parameters
    ----------
    average
        binary: of class 1 (or True). None: one value a class. macro: their mean. weighted:
        their mean by true frequency. micro: counts are added up first.
    zero_division
        The value of 0 / 0; NaN leaves such a class out of the mean.
    """
    hit, called, _ = _class_counts(y_true, y_pred, average, sample_weight)
    return _averaged(hit, called, y_true, y_pred, average, sample_weight, zero_division)


@checked
def recall(
    y_true: Labels,
    y_pred: Labels,
    *,
    average: Average | None = "binary",
    sample_weight: Weights | None = None,
    zero_division: float = 0.0,
) -> float | Float[np.ndarray, " c"]:
    """Of what is positive, the share that was called so: TP / (TP + FN); see `precision`."""
    hit, _, there = _class_counts(y_true, y_pred, average, sample_weight)
    return _averaged(hit, there, y_true, y_pred, average, sample_weight, zero_division)


@checked
def f1(
    y_true: Labels,
    y_pred: Labels,
    *,
    average: Average | None = "binary",
    sample_weight: Weights | None = None,
    zero_division: float = 0.0,
) -> float | Float[np.ndarray, " c"]:
    """Harmonic mean of precision and recall: 2 TP / (2 TP + FP + FN); see `precision`."""
    hit, called, there = _class_counts(y_true, y_pred, average, sample_weight)
    # Counts, not the two ratios: with TP = 0 < FP + FN the ratios may be 0/0, F1 is not.
    return _averaged(2 * hit, called + there, y_true, y_pred, average, sample_weight, zero_division)


# ---- rankings


@checked
def roc_curve(
    y_true: Labels,
    y_score: Scores,
    *,
    sample_weight: Weights | None = None,
) -> tuple[
    Float[np.ndarray, " points"], Float[np.ndarray, " points"], Float[np.ndarray, " points"]
]:
    """False and true positive rate at every threshold, from above the highest score downwards.

    Returns
    -------
    fpr, tpr, thresholds
        A sample is called positive if its score is at least the threshold; the first is infinite.

    References
    ----------
    Fawcett (2006), algorithm 1: equal scores cross the threshold together.
    """
    fps, tps, thresholds = _cumulated(y_true, y_score, sample_weight)
    both = fps[-1] > 0 and tps[-1] > 0
    require(both, "y_true must hold both classes for a ROC curve", "only one")
    fpr, tpr = np.append(0, fps / fps[-1]), np.append(0, tps / tps[-1])
    return fpr, tpr, np.append(np.inf, thresholds)


@checked
def roc_auc(
    y_true: Labels,
    y_score: Scores | Num[np.ndarray, "n c"],
    *,
    average: Literal["macro", "micro", "weighted"] = "macro",
    sample_weight: Weights | None = None,
) -> float:
    """Area under the ROC curve; with a column of scores a class, each class against the rest."""
    if y_score.ndim == 1:
        fpr, tpr, _ = roc_curve(y_true, y_score, sample_weight=sample_weight)
        return float(np.trapezoid(tpr, fpr))
    return _one_against_rest(roc_auc, y_true, y_score, average, sample_weight)


@checked
def precision_recall_curve(
    y_true: Labels,
    y_score: Scores,
    *,
    sample_weight: Weights | None = None,
) -> tuple[
    Float[np.ndarray, " points"], Float[np.ndarray, " points"], Num[np.ndarray, " thresholds"]
]:
    """Precision and recall at every threshold, from the lowest upwards, then the point (1, 0).

    The last point belongs to no threshold; it only closes the curve.
    """
    fps, tps, thresholds = _cumulated(y_true, y_score, sample_weight)
    require(tps[-1] > 0, "y_true must hold class 1, it does not")
    ratio, share = tps / (tps + fps), tps / tps[-1]
    return np.append(ratio[::-1], 1.0), np.append(share[::-1], 0.0), thresholds[::-1]


@checked
def average_precision(
    y_true: Labels,
    y_score: Scores | Num[np.ndarray, "n c"],
    *,
    average: Literal["macro", "micro", "weighted"] = "macro",
    sample_weight: Weights | None = None,
) -> float:
    """Precision averaged over the steps of recall: a sum of rectangles, nothing interpolated.

    References
    ----------
    Davis and Goadrich (2006), section 4: straight lines between points of a precision-recall
    curve promise what no threshold delivers.
    """
    if y_score.ndim == 1:
        ratio, share, _ = precision_recall_curve(y_true, y_score, sample_weight=sample_weight)
        return float(-np.sum(np.diff(share) * ratio[:-1]))
    return _one_against_rest(average_precision, y_true, y_score, average, sample_weight)


def weights_of(
    y_true: Labels, other: Shaped[np.ndarray, "n ..."], sample_weight: Weights | None
) -> Float[np.ndarray, " n"]:
    """Each sample's weight, 1 by default; the labels and what is held against them are checked."""
    require(len(y_true) > 0, "y_true must hold at least one sample", "none")
    bad = int((~np.isfinite(other)).sum()) if other.dtype.kind == "f" else 0
    require(not bad, "scores must be finite", f"{bad} NaN or inf")
    if sample_weight is None:
        return np.ones(len(y_true))
    fits = np.isfinite(sample_weight).all() and sample_weight.min() >= 0 and sample_weight.any()
    require(fits, "sample_weight must be finite, at least 0, and not all 0")
    return sample_weight.astype(np.float64)


def _class_counts(y_true, y_pred, average, sample_weight):
    """Weight of hits, of what was called, and of what is there, for each class that counts."""
    labels = np.unique(np.concatenate([y_true, y_pred]))
    matrix = confusion_matrix(y_true, y_pred, sample_weight=sample_weight)
    counts = np.stack([np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)])
    if average == "binary":
        must = f"average must be macro, micro, weighted or None for {len(labels)} classes"
        require(len(labels) <= 2, must, "binary")
        known = len(labels) < 2 or 1 in labels
        require(known, "y_true and y_pred must hold class 1, the positive one", labels.tolist())
        return counts[:, labels == 1].sum(axis=1, keepdims=True)
    return counts.sum(axis=1, keepdims=True) if average == "micro" else counts


def _averaged(top, bottom, y_true, y_pred, average, sample_weight, zero_division):
    ratio = np.full(len(top), float(zero_division))
    np.divide(top, bottom, out=ratio, where=bottom != 0)
    if average is None:
        return ratio
    there = ~np.isnan(ratio)
    if not there.any():
        return float("nan")
    weight = None
    if average == "weighted":
        weight = confusion_matrix(y_true, y_pred, sample_weight=sample_weight).sum(axis=1)[there]
    return float(np.average(ratio[there], weights=weight if np.any(weight) else None))


def _cumulated(y_true, y_score, sample_weight):
    """Weight of negatives and positives at or above each distinct score, highest first."""
    classes = len(np.unique(y_true))
    require(classes <= 2, "y_true must hold two classes, or y_score a column for each", classes)
    weight = weights_of(y_true, y_score, sample_weight)
    order = np.argsort(-y_score.astype(np.float64), kind="stable")
    order = order[weight[order] > 0]
    score, weight, positive = y_score[order], weight[order], (y_true == 1)[order]
    # A threshold cannot part equal scores: only the last of each run of ties is a point.
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)
    return np.cumsum(weight * ~positive)[last], np.cumsum(weight * positive)[last], score[last]


def _one_against_rest(metric, y_true, y_score, average, sample_weight) -> float:
    labels = np.unique(y_true)
    must = f"y_score must have a column for each of {len(labels)} classes"
    require(y_score.shape[1] == len(labels), must, y_score.shape[1])
    onehot = (y_true[:, None] == labels).astype(np.int64)
    weight = weights_of(y_true, y_score, sample_weight)
    if average == "micro":
        return metric(onehot.ravel(), y_score.ravel(), sample_weight=np.repeat(weight, len(labels)))
    values = [metric(onehot[:, k], y_score[:, k], sample_weight=weight) for k in range(len(labels))]
    return float(np.average(values, weights=weight @ onehot if average == "weighted" else None))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
