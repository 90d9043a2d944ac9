"""Several rankings made one.

*Reciprocal ranks* (Cormack et al., 2009) forget the scores: place r of a ranking is worth
1 / (60 + r), and what a ranking does not name is worth nothing in it. *Min-max* maps each ranking's
scores to 0..1 and adds them; *weighted* does, with a weight for each.

>>> lexical = Found(np.array([7, 1, 3]), np.array([9.0, 4.0, 1.0]))
>>> dense = Found(np.array([1, 5, 3]), np.array([0.8, 0.7, 0.6]))
>>> rrf([lexical, dense]).rows, minmax([lexical, dense]).rows
(array([1, 3, 7, 5]), array([1, 7, 5, 3]))
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from rag.types import Found
from shared.require import require


def rrf(runs: Sequence[Found], *, k: float = 60) -> Found:
    """Sum of 1 / (k + rank) over the rankings that name a row."""
    require(k > 0, "k must be above 0", k)
    runs = [_once(run) for run in runs]
    return _sum([Found(run.rows, 1 / (k + 1 + np.arange(len(run.rows)))) for run in runs])


def minmax(runs: Sequence[Found]) -> Found:
    """Sum of the scores, each ranking's mapped to 0..1."""
    return weighted(runs, [1.0] * len(runs))


def weighted(runs: Sequence[Found], weights: Sequence[float]) -> Found:
    """Weighted sum of the scores, each ranking's mapped to 0..1; a weight of 0 takes no rows."""
    require(len(runs) == len(weights), "weights must be one for each run", len(weights))
    require(all(weight >= 0 for weight in weights), "weights must be at least 0", weights)
    used = [(_once(run), weight) for run, weight in zip(runs, weights, strict=True) if weight > 0]
    return _sum([Found(run.rows, weight * unit(run.scores)) for run, weight in used])


def unit(scores: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Scores mapped to 0..1, the least to 0; if all are the same, all to 0."""
    if len(scores) == 0:
        return np.zeros(0)
    scores = np.asarray(scores, np.float64)
    return (scores - scores.min()) / max(scores.max() - scores.min(), 1e-9)


def ranked(
    rows: Int[np.ndarray, " n"], scores: Float[np.ndarray, " n"], k: int | None = None
) -> Found:
    """The best k, of equals the lower row first."""
    best = np.lexsort((rows, -scores))[:k]
    return Found(rows[best], scores[best])


def _once(run: Found) -> Found:
    """The ranking, the first place of each row only: a row that comes twice takes one rank."""
    first = np.sort(np.unique(run.rows, return_index=True)[1])
    return Found(run.rows[first], run.scores[first])


def _sum(runs: Sequence[Found]) -> Found:
    rows = np.concatenate([np.zeros(0, np.int64), *(run.rows for run in runs)])
    known, at = np.unique(rows, return_inverse=True)
    total = np.zeros(len(known))
    np.add.at(total, at, np.concatenate([np.zeros(0), *(run.scores for run in runs)]))
    return ranked(known, total)
