r"""One split of a decision tree: the threshold that leaves the least impurity.

A node with the label shares $p_k$ is impure by Gini's $1 - \sum_k p_k^2$, by the entropy
$-\sum_k p_k \log_2 p_k$, or, with numbers for labels, by their variance. The split is the pair of
feature $j$ and threshold $t$ that leaves the least:

$$ \min_{j, t}\; W_L\, I(x_j \le t) + W_R\, I(x_j > t) . $$

>>> X, Y = np.array([[1.0], [2.0], [7.0], [8.0]]), np.array([[0.0], [0.0], [9.0], [9.0]])
>>> best_split(X, Y, np.ones(4), "squared_error")
Split(feature=0, threshold=4.5, impurity=0.0)

Source: L. Breiman, J. Friedman, R. Olshen and C. Stone, *Classification and Regression Trees*
(1984), chapters 4 and 8.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

Criterion = Literal["gini", "entropy", "squared_error"]
SAME = 1e-7  # values closer than this count as equal, as in scikit-learn


class Split(NamedTuple):
    """Rows with x[feature] <= threshold go left; impurity is what both children keep, weighted."""

    feature: int
    threshold: float
    impurity: float


def impurity(
    criterion: Criterion,
    sums: Float[np.ndarray, "*shape k"],
    squares: Float[np.ndarray, "*shape"] | np.float64,
    weight: Float[np.ndarray, "*shape"] | np.float64,
) -> Float[np.ndarray, "*shape"] | np.float64:
    """Impurity of groups of rows from Σ w y, Σ w |y|² and Σ w.

    With labels as unit vectors y, Gini's index *is* the variance, Σ p (1 - p).
    """
    p = sums / weight[..., None]
    if criterion == "entropy":
        return -(p * np.log2(np.where(p > 0, p, 1.0))).sum(axis=-1)
    p *= p
    return np.maximum(squares / weight - (p.sum(axis=-1) if p.shape[-1] > 1 else p[..., 0]), 0.0)


def best_split_by_trial(
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    criterion: Criterion = "gini",
    min_samples_leaf: int = 1,
) -> Split | None:
    """The definition: try every threshold halfway between two neighbors, n times the work."""
    tried = []
    for feature, x in enumerate(X.T):
        values = np.unique(x)
        for threshold in (values[1:] + values[:-1]) / 2:
            sides = np.stack([x <= threshold, x > threshold])
            if sides.sum(axis=1).min() >= min_samples_leaf:
                w = sides * weight
                W = w.sum(axis=1)
                kept = W @ impurity(criterion, w @ Y, w @ (Y**2).sum(axis=1), W)
                tried.append(Split(feature, float(threshold), float(kept)))
    return min(tried, key=lambda split: split.impurity, default=None)


def best_split(
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    criterion: Criterion = "gini",
    min_samples_leaf: int = 1,
) -> Split | None:
    """The split of least impurity over all features and thresholds; None if there is none.

    All thresholds of a feature are tried at once: sort, then running sums give the left child of
    every cut, and what is missing to the total, the right one. The first of equals wins.
    """
    n, least = len(X), min_samples_leaf
    if n < 2 * least:
        return None
    columns = np.ascontiguousarray(X.T)
    order = columns.argsort(axis=1, kind="stable")
    values = np.sort(columns, axis=1)  # sooner done than gathered
    weighted, squares = weight * Y.T, weight  # Σ w |y|² of unit vectors
    if criterion == "squared_error":
        weighted = weight * (Y - Y.sum(axis=0) / n).T
        squares = (weighted * (weighted / np.maximum(weight, 1e-300))).sum(axis=0)
    parts = np.concatenate([weight[None], squares[None], weighted])
    sums = parts.take(order, axis=1).cumsum(axis=2)
    cut = slice(least - 1, n - least)  # the last row of the left child
    left = sums[:, :, cut]
    kept, of_right = (
        s[0] * impurity(criterion, s[2:].transpose(1, 2, 0), s[1], s[0])
        for s in (left, sums[:, :, -1:] - left)
    )
    kept += of_right
    kept[values[:, least : n - least + 1] - values[:, cut] <= SAME] = np.inf  # none between
    feature, position = divmod(int(kept.argmin()), kept.shape[1])
    least_kept = float(kept[feature, position])
    if least_kept == np.inf:
        return None
    low, high = values[feature, position + least - 1 : position + least + 1].tolist()
    threshold = low / 2 + high / 2
    if threshold >= high:  # neighbors in float: halfway rounds up, and would let both go left
        threshold = low
    return Split(feature, threshold, least_kept)
