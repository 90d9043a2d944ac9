"""How good is a clustering? By itself (silhouette), or beside another one (adjusted Rand index).

>>> X, labels = np.array([[0.0], [1.0], [9.0], [11.0]]), np.array([0, 0, 1, 1])
>>> round(silhouette(X, labels), 3), adjusted_rand_index(labels, np.array(["b", "b", "a", "a"]))
(0.841, 1.0)

Source: P. Rousseeuw, *Silhouettes* (J. Computational and Applied Mathematics 20, 1987); L. Hubert
and P. Arabie, *Comparing Partitions* (Journal of Classification 2, 1985).
"""

import numpy as np
from jaxtyping import Float, Shaped

from shared.arguments import checked
from shared.require import require
from week05.kmeans import squared_distances


@checked
def silhouette(X: Float[np.ndarray, "n d"], labels: Shaped[np.ndarray, " n"]) -> float:
    """Mean of (b - a) / max(a, b), where a is a point's mean distance to the rest of its cluster
    and b to the nearest other one; 0 for a cluster of one.
    """
    clusters, indices = np.unique(labels, return_inverse=True)
    most = len(X) - 1
    must = f"labels must name between 2 and n_samples - 1 = {most} clusters"
    require(2 <= len(clusters) <= most, must, len(clusters))
    one_hot = np.eye(len(clusters))[indices]
    sizes, rows = one_hot.sum(axis=0), np.arange(len(X))
    centered = X - X.mean(axis=0)
    distances = np.sqrt(squared_distances(centered, centered))
    np.fill_diagonal(distances, 0.0)
    totals = distances @ one_hot
    own = sizes[indices]
    a = totals[rows, indices] / np.maximum(own - 1, 1)
    others = totals / sizes
    others[rows, indices] = np.inf
    b = others.min(axis=1)
    widest = np.maximum(a, b)
    scores = np.divide(b - a, widest, out=np.zeros_like(a), where=(own > 1) & (widest > 0))
    return float(scores.mean())


@checked
def adjusted_rand_index(a: Shaped[np.ndarray, " n"], b: Shaped[np.ndarray, " n"]) -> float:
    """Agreement on pairs of points: 1 if the same, 0 on average by chance (Hubert, eq. 5)."""
    require(len(a) >= 2, "a and b must have at least 2 labels", len(a))
    rows, columns = np.unique(a, return_inverse=True)[1], np.unique(b, return_inverse=True)[1]
    table = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(table, (rows, columns), 1.0)

    def pairs(counts: Float[np.ndarray, "..."]) -> float:
        return float((counts * (counts - 1) / 2).sum())

    together, in_a, in_b = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = in_a * in_b / (len(a) * (len(a) - 1) / 2)
    largest = (in_a + in_b) / 2
    return 1.0 if largest == expected else (together - expected) / (largest - expected)
