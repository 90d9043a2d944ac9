r"""A table as bin numbers: sorted once and for all, so that trees only count.

Bin $b$ of a feature holds the values from cut $b - 1$ up to cut $b$, that one excluded; missing
values have a bin of their own, the last. Cuts share the rows evenly, so that wherever a threshold
should be, one is near.

>>> X = np.array([[1.0], [np.nan], [3.0], [2.0]], dtype=np.float32)
>>> binned = to_bins(X, find_cuts(X, max_bins=256))
>>> print(binned.bins, binned.cuts[0].round(2))
[[0 3 2 1]] [2. 3. 6.]

Source: T. Chen and C. Guestrin, *XGBoost* (KDD 2016), section 3.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from shared.require import require


class Binned(NamedTuple):
    """A table as bin numbers.

    Attributes
    ----------
    bins
        Feature j of row i lies in bin bins[j, i], the number of cuts that it reaches; a missing
        value has the number len(cuts[j]).
    cuts
        Of each feature the upper edge of each bin, ascending.
    values
        Of each feature the one value in each bin, if every distinct value has its own (the exact
        method): thresholds are then halfway between values that a node holds. None for wider bins.
    """

    bins: Int[np.ndarray, "p n"]
    cuts: list[np.ndarray]
    values: list[np.ndarray] | None


def find_cuts(X: Float32[np.ndarray, "n p"], max_bins: int) -> list[np.ndarray]:
    """Cuts that share the rows evenly among at most `max_bins` bins per feature.

    With no more distinct values than that, every value gets a bin. These cuts and the last one,
    well above all values, are XGBoost's; where values share bins its sketch chooses others.
    """
    cuts = []
    for column in X.T:
        distinct, counts = np.unique(column[~np.isnan(column)], return_counts=True)
        top = distinct[-1:] + np.abs(distinct[-1:]) + np.float32(1e-5)
        if len(distinct) > max_bins:
            reached = np.cumsum(counts) / counts.sum()  # the share of rows up to each value
            ranks = np.searchsorted(reached, np.arange(max_bins) / max_bins, side="right")
            distinct = distinct[np.unique(ranks)]
        cuts.append(np.concatenate([distinct[1:], top]))
    return cuts


def to_bins(X: Float32[np.ndarray, "n p"], cuts: list[np.ndarray], exact: bool = False) -> Binned:
    """Count how many cuts each value reaches; missing values get a bin of their own."""
    p = X.shape[1]
    require(len(cuts) == p, f"cuts must have an array for each of {p} features", len(cuts))
    bins = np.empty(X.T.shape, dtype=np.int32)
    for j, (column, edges) in enumerate(zip(X.T, cuts, strict=True)):
        missing = np.isnan(column)
        ascends = (np.diff(edges) > 0).all() and not np.isnan(edges).any()
        require(ascends, f"cuts[{j}] must ascend strictly", f"{edges[:5]} …")
        require(len(edges) or missing.all(), f"cuts[{j}] must hold at least one cut", "none")
        inside = np.searchsorted(edges[:-1], column, side="right")
        bins[j] = np.where(missing, len(edges), inside)
    values = [np.unique(column[~np.isnan(column)]) for column in X.T] if exact else None
    return Binned(bins, cuts, values)
