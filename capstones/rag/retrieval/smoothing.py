r"""Smoothing: what is like a good result is a good result.

Closely associated documents tend to be relevant to the same questions (van Rijsbergen's cluster
hypothesis), so a score is averaged with those of the nearest results,

$$ s'_i = \frac{s_i + \alpha \sum_j w_{ij} s_j}{1 + \alpha \sum_j w_{ij}}, \qquad
   w_{ij} = \max(0, v_i \cdot v_j)^p, $$

over the k nearest among what was found. The weights are not made to sum to 1: a result without
near ones keeps its score, and where every question has one answer little changes.

>>> vectors = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]])
>>> smooth(np.array([1.0, 0.4, 0.5, 0.3]), vectors, neighbors=1, weight=1.0, power=2.0).round(3)
array([0.766, 0.634, 0.474, 0.3  ])

Source: F. Diaz, "Regularizing ad hoc retrieval scores" (2005).
"""

import numpy as np
from jaxtyping import Float


def smooth(
    scores: Float[np.ndarray, " n"],
    vectors: Float[np.ndarray, "n dim"],
    *,
    neighbors: int = 3,
    weight: float = 0.6,
    power: float = 2.0,
) -> Float[np.ndarray, " n"]:
    """The smoothed scores; vectors are of length 1."""
    neighbors = min(neighbors, len(scores) - 1)
    if neighbors < 1:
        return scores
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -np.inf)
    nearest = np.argsort(-likeness, axis=1, kind="stable")[:, :neighbors]
    near = np.take_along_axis(likeness, nearest, axis=1)
    weights = weight * np.maximum(near, 0) ** power
    return (scores + (weights * scores[nearest]).sum(axis=1)) / (1 + weights.sum(axis=1))
