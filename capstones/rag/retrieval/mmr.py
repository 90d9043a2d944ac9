r"""Maximal marginal relevance: results that do not say the same thing twice.

The next result is the one whose likeness to the query, less its likeness to those already taken,
is greatest (Carbonell and Goldstein, "The use of MMR", 1998):

$$ \arg\max_i\; \lambda\, q \cdot d_i
   - (1 - \lambda) \max_{j \text{ taken}} d_i \cdot d_j. $$

>>> vectors = np.array([[1, 0], [0.99, 0.1], [0.6, 0.8]])
>>> mmr(np.array([1.0, 0.1]), vectors, k=2, lambda_mult=0.3)  # the first two say the same
[1, 2]
"""

import numpy as np
from jaxtyping import Float

from shared.require import require


def mmr(
    query: Float[np.ndarray, " dim"],
    vectors: Float[np.ndarray, "n dim"],
    k: int,
    lambda_mult: float = 0.5,
) -> list[int]:
    """Numbers of at most k vectors, in the order in which they are taken.

    Parameters
    ----------
    lambda_mult
        1 is likeness to the query alone, 0 only variety. Of equals the first is taken.
    """
    require(k >= 0, "k must be at least 0", k)
    require(0 <= lambda_mult <= 1, "lambda_mult must be between 0 and 1", lambda_mult)
    units, query = _units(vectors), _units(query[None])[0]
    relevance = units @ query
    value, nearest = relevance, np.full(len(units), -np.inf)
    taken: list[int] = []
    for _ in range(min(k, len(units))):
        best = int(np.argmax(value))
        taken.append(best)
        nearest = np.maximum(nearest, units @ units[best])
        value = lambda_mult * relevance - (1 - lambda_mult) * nearest
        value[taken] = -np.inf
    return taken


def _units(vectors: Float[np.ndarray, "n dim"]) -> Float[np.ndarray, "n dim"]:
    """Rows of length 1; one of zeros stays."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)
