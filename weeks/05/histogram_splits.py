r"""The best split of every node of a level at once, from histograms of gradients.

A leaf that holds the rows $I$ adds $w$ to their predictions. To second order the loss changes by
$\sum_{i \in I} g_i w + \tfrac12 h_i w^2$, and with the penalty $\alpha |w| + \tfrac12 \lambda w^2$
the best leaf is $w^* = -T_\alpha(G) / (H + \lambda)$, where $G = \sum g_i$, $H = \sum h_i$ and
$T_\alpha(G) = \mathrm{sign}(G) \max(|G| - \alpha, 0)$. A split is worth what it saves, twice over:

$$ \frac{T_\alpha(G_L)^2}{H_L + \lambda} + \frac{T_\alpha(G_R)^2}{H_R + \lambda}
   - \frac{T_\alpha(G)^2}{H + \lambda} . $$

Only sums of $g$ and $h$ matter, so rows are counted into bins (bins.py), and a level of the tree
costs two sums per feature. Rows without a value are tried on both sides.

>>> g, h, left = (
...     np.array([-1.0, -2.0, -7.0, -8.0]),
...     np.ones(4),
...     np.array([True, True, False, False]),
... )
>>> split_gain(g, h, left, Limits(reg_lambda=0.0))
36.0

Source: T. Chen and C. Guestrin, *XGBoost* (KDD 2016), equations 5 to 7, sections 3.2 to 3.4.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from shared.arguments import checked
from week05.bins import Binned

LEAST_GAIN = 1e-6  # a smaller one is rounding; XGBoost's kRtEps


class Limits(NamedTuple):
    """What holds a tree back, in XGBoost's names.

    With wide bins a split that gains less than gamma is not made; with a bin per value (the exact
    method) it is made and taken back if no split below it survived, as XGBoost does.
    """

    max_depth: int = 6
    reg_lambda: float = 1.0  # λ, the price of w²/2
    reg_alpha: float = 0.0  # α, the price of |w|
    gamma: float = 0.0  # least gain of a split
    min_child_weight: float = 1.0  # least sum of h in a child


DEFAULTS = Limits()


def soft_threshold(G: Float[np.ndarray, "*shape"], alpha: float) -> Float[np.ndarray, "*shape"]:
    """T_α(G) = sign(G) max(|G| - α, 0), what an L1 penalty leaves of a gradient."""
    return G if alpha == 0 else np.sign(G) * np.maximum(np.abs(G) - alpha, 0)


def leaf_score(
    G: Float[np.ndarray, "*shape"],
    H: Float[np.ndarray, "*shape"],
    reg_lambda: float,
    reg_alpha: float,
) -> Float32[np.ndarray, "*shape"]:
    """T_α(G)² / (H + λ), twice what the best leaf saves; 0 where there is nothing.

    In float32 like XGBoost's, so that splits tied but for rounding are tied in both.

    References
    ----------
    Chen and Guestrin (2016), equations 6 and 7.
    """
    T, denominator = soft_threshold(G, reg_alpha), H + reg_lambda
    return np.divide(T * T, denominator, out=np.zeros_like(T), where=denominator > 0).astype("f4")


@checked
def split_gain(
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    left: Bool[np.ndarray, " n"],
    limits: Limits = DEFAULTS,
) -> float:
    """What one split saves, twice over: the equation above, for the rows that go left and right."""
    parts = np.stack([left, ~left, np.ones_like(left)]).astype(float)
    L, R, both = leaf_score(parts @ g, parts @ h, limits.reg_lambda, limits.reg_alpha)
    return float(L + R - both)


class Slots(NamedTuple):
    """The bins of a tree's features side by side, so that all thresholds are tried at once."""

    columns: Int[np.ndarray, " q"]  # the features; k counts them
    widths: Int[np.ndarray, " q"]  # bins of feature k
    starts: Int[np.ndarray, " q"]  # its first slot
    last: Int[np.ndarray, " q"]  # and its last, which holds the missing values
    owner: Int[np.ndarray, " slot"]  # the k of a slot
    with_missing: Bool[np.ndarray, " q"]
    downward: Int[np.ndarray, " d"]  # slots to try with missing values to the left, in this order


def slots_of(binned: Binned, columns: Int[np.ndarray, " q"]) -> Slots:
    """Lay out the bins of the chosen features."""
    widths = np.array([len(binned.cuts[j]) + 1 for j in columns])
    ends = np.cumsum(widths)
    starts, last = ends - widths, ends - 1
    with_missing = (binned.bins[columns] == widths[:, None] - 1).any(axis=1)
    # Bins that are empty in a node cause ties, and the first one tried wins: XGBoost begins with
    # the highest cut. Its exact method tries every feature so: unseen missing values go left.
    tried = with_missing | (binned.values is not None)
    downward = [np.arange(a, b)[::-1] for a, b in zip(starts[tried], ends[tried], strict=True)]
    downward = np.concatenate([np.arange(0), *downward])
    owner = np.repeat(np.arange(len(columns)), widths)
    return Slots(columns, widths, starts, last, owner, with_missing, downward)


class Sums(NamedTuple):
    """Of g and h for each node of a level: over a feature's bins up to each slot, and missing."""

    GL: Float[np.ndarray, "m slot"]
    HL: Float[np.ndarray, "m slot"]
    missing_G: Float[np.ndarray, "m q"]
    missing_H: Float[np.ndarray, "m q"]


def histograms(
    slots: Slots,
    bins: Int[np.ndarray, "p n"],
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    rows: Int[np.ndarray, " r"],
    node: Int[np.ndarray, " r"],
    m: int,
) -> Sums:
    """Count g and h of the rows into the bins of each of m nodes, and add up along each feature."""
    everyone = len(rows) == len(g)  # spares copies at the root
    g_here, h_here = (g, h) if everyone else (g[rows], h[rows])
    GL, HL = np.empty((2, m, len(slots.owner)))
    missing_G, missing_H = np.empty((2, m, len(slots.columns)))
    for k, (j, width, start) in enumerate(
        zip(slots.columns, slots.widths, slots.starts, strict=True)
    ):
        place = node * width + (bins[j] if everyone else bins[j][rows])
        for total, part, missing in ((GL, g_here, missing_G), (HL, h_here, missing_H)):
            count = np.bincount(place, part, m * width).reshape(m, width)
            missing[:, k] = count[:, -1]
            np.cumsum(count, axis=1, out=total[:, start : start + width])
    return Sums(GL, HL, missing_G, missing_H)


class Best(NamedTuple):
    """The best split of each node: gain (0 for none), slot, missing values, sums of the left."""

    gain: Float[np.ndarray, " m"]
    slot: Int[np.ndarray, " m"]
    default_left: Bool[np.ndarray, " m"]
    GL: Float[np.ndarray, " m"]
    HL: Float[np.ndarray, " m"]


def best_splits(
    slots: Slots,
    sums: Sums,
    G: Float[np.ndarray, " m"],
    H: Float[np.ndarray, " m"],
    limits: Limits,
    least: float,
) -> Best:
    """Try all slots with missing values to the right, then to the left."""
    _, reg_lambda, reg_alpha, _, min_child_weight = limits
    root = leaf_score(G, H, reg_lambda, reg_alpha)[:, None]

    def gains(GL, HL):
        HR = H[:, None] - HL
        gain = leaf_score(GL, HL, reg_lambda, reg_alpha)
        gain += leaf_score(G[:, None] - GL, HR, reg_lambda, reg_alpha)
        gain -= root
        gain[np.minimum(HL, HR) < max(min_child_weight, 1e-9)] = -np.inf
        return gain

    pick, owner = np.arange(len(G)), slots.owner
    to_right = gains(sums.GL, sums.HL)
    to_right[:, slots.last] = -np.inf  # nothing would be left on the right
    slot = to_right.argmax(axis=1)
    best = to_right[pick, slot].astype(float), slot, sums.GL[pick, slot], sums.HL[pick, slot]
    default_left = np.zeros(len(G), dtype=bool)
    if slots.downward.size:
        whose = owner[slots.downward]
        GL = sums.GL[:, slots.downward] + sums.missing_G[:, whose]
        HL = sums.HL[:, slots.downward] + sums.missing_H[:, whose]
        to_left = gains(GL, HL)
        to_left[:, np.isin(slots.downward, slots.last)] = -np.inf
        found = to_left.argmax(axis=1)
        other = to_left[pick, found], slots.downward[found], GL[pick, found], HL[pick, found]
        earlier = owner[other[1]] < owner[slot] + ~slots.with_missing[owner[other[1]]]
        default_left = (other[0] > best[0]) | ((other[0] == best[0]) & earlier)
        best = [np.where(default_left, b, a) for a, b in zip(best, other, strict=True)]
    gain, slot, GL, HL = best
    worth = (gain >= least) & (gain > LEAST_GAIN)
    return Best(np.where(worth, gain, 0.0), slot, default_left & worth, GL, HL)
