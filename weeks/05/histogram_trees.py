r"""Trees for gradient boosting: grown level by level, every leaf a Newton step.

A level knows of each node the sums $G$ and $H$ of the derivatives of its rows. Either a node stays
a leaf of weight $w^* = -T_\alpha(G) / (H + \lambda)$, or it takes the split that saves most
(histogram_splits.py), and its rows move on to two children.

>>> from week05.bins import find_cuts, to_bins
>>> X, y = np.array([[1], [2], [7], [8]], dtype=np.float32), np.array([1.0, 2.0, 7.0, 8.0])
>>> limits = Limits(max_depth=1, reg_lambda=0.0)
>>> tree, leaf = grow_tree(to_bins(X, find_cuts(X, 256)), g=-y, h=np.ones(4), limits=limits)
>>> print(tree.threshold[0], tree.value[leaf])
7.0 [1.5 1.5 7.5 7.5]

Source: T. Chen and C. Guestrin, *XGBoost* (KDD 2016), section 2.2.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from week05.bins import Binned
from week05.histogram_splits import (
    DEFAULTS,
    LEAST_GAIN,
    Limits,
    best_splits,
    histograms,
    slots_of,
    soft_threshold,
)


class Tree(NamedTuple):
    """A binary tree as arrays over its nodes, the root first and parents before children.

    Rows with a value below the threshold go left (float32, as XGBoost compares).
    """

    feature: Int[np.ndarray, " node"]  # -1 for a leaf
    threshold: Float32[np.ndarray, " node"]
    default_left: Bool[np.ndarray, " node"]  # whether rows without a value go left
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    value: Float[np.ndarray, " node"]  # the weight, were it a leaf, shrinkage included
    gain: Float[np.ndarray, " node"]  # what the split saves
    cover: Float[np.ndarray, " node"]  # the sum of h that reaches the node

    def predict(self, X: Float32[np.ndarray, "n p"]) -> Float[np.ndarray, " n"]:
        """The leaf value of each row; NaN follows the default direction."""
        rows, node = np.arange(len(X)), np.zeros(len(X), dtype=np.intp)
        while rows.size:
            at = node[rows]
            inner = self.feature[at] >= 0
            rows, at = rows[inner], at[inner]
            x = X[rows, self.feature[at]]
            left = np.where(np.isnan(x), self.default_left[at], x < self.threshold[at])
            node[rows] = np.where(left, self.left[at], self.right[at])
        return self.value[node]


def leaves(
    G: Float[np.ndarray, " m"], H: Float[np.ndarray, " m"], limits: Limits, learning_rate: float
) -> Tree:
    """Nodes without a split: their weights are w* = -T_α(G) / (H + λ), times the learning rate."""
    weight = -soft_threshold(G, limits.reg_alpha) / np.maximum(H + limits.reg_lambda, 1e-300)
    weight = np.where((limits.min_child_weight > H) | (H <= 0), 0.0, weight) * learning_rate
    none, no = np.full(len(G), -1), np.zeros(len(G), dtype=bool)
    return Tree(none, np.zeros(len(G), np.float32), no, none, none, weight, np.zeros(len(G)), H)


def midpoint(values: Float32[np.ndarray, " v"], sums: Float[np.ndarray, " v"], b: int) -> float:
    """Halfway between the values beside bin b's upper edge, of those that the node holds.

    `sums` are those of h up to each bin: where they stay the same, the node holds nothing.
    """
    low = values[np.searchsorted(sums, sums[b])]
    high = np.searchsorted(sums, sums[b], side="right")
    everything = low + (abs(low) + np.float32(LEAST_GAIN))  # that is there goes left
    return float((low + values[high]) / 2 if high < len(sums) else everything)


def grow_tree(
    binned: Binned,
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    limits: Limits = DEFAULTS,
    *,
    columns: Int[np.ndarray, " q"] | None = None,
    learning_rate: float = 1.0,
) -> tuple[Tree, Int[np.ndarray, " n"]]:
    """Grow one tree, all nodes of a level at once.

    Parameters
    ----------
    g, h
        First and second derivatives of the loss at each row; rows that are left out have zeros.
    columns
        The features to choose from; all by default.

    Returns
    -------
    tree
    leaf
        The leaf that each row ends in.
    """
    bins, cuts, values = binned
    slots = slots_of(binned, np.arange(len(bins)) if columns is None else columns)
    least = limits.gamma if values is None else 0.0
    levels, n_nodes, leaf = [], 0, np.zeros(len(g), dtype=np.intp)
    rows, node = np.arange(len(g)), np.zeros(len(g), dtype=np.intp)  # and each one's node
    G, H = np.array([g.sum()]), np.array([h.sum()])
    for depth in range(limits.max_depth + 1):
        leaf[rows] = n_nodes + node
        levels.append(leaves(G, H, limits, learning_rate))
        n_nodes += len(G)
        if depth == limits.max_depth:
            break
        sums = histograms(slots, bins, g, h, rows, node, len(G))
        best = best_splits(slots, sums, G, H, limits, least)
        split = best.gain > 0
        if not split.any():
            break
        owner = slots.owner[best.slot]
        feature, b = np.where(split, slots.columns[owner], -1), best.slot - slots.starts[owner]
        threshold = np.zeros(len(G), dtype=np.float32)
        for i in np.flatnonzero(split):
            j, k = feature[i], owner[i]
            if values is None:
                threshold[i] = cuts[j][b[i]]
            else:
                up_to_each = sums.HL[i, slots.starts[k] : slots.last[k]]
                threshold[i] = midpoint(values[j], up_to_each, int(b[i]))
        order = np.cumsum(split) - 1
        left = np.where(split, n_nodes + 2 * order, -1)
        right = np.where(split, left + 1, -1)
        value = levels[-1].value
        levels[-1] = Tree(feature, threshold, best.default_left, left, right, value, best.gain, H)

        # Rows move to the children; those in leaves are done.
        if not split.all():
            moving = split[node]
            rows, node = rows[moving], node[moving]
        number = bins[feature[node], rows]
        present = number < slots.widths[owner][node] - 1
        goes_left = np.where(present, number <= b[node], best.default_left[node])
        node = 2 * order[node] + ~goes_left
        pairs = ((G, best.GL), (H, best.HL))
        G, H = (np.stack([part, whole - part], axis=1)[split].ravel() for whole, part in pairs)
    tree = Tree(*map(np.concatenate, zip(*levels, strict=True)))
    return (tree, leaf) if values is None else prune(tree, limits.gamma, leaf)


def prune(
    tree: Tree, gamma: float, leaf: Int[np.ndarray, " n"]
) -> tuple[Tree, Int[np.ndarray, " n"]]:
    """Take back, from the bottom up, splits into two leaves that gain less than gamma."""
    feature, home = tree.feature.copy(), np.arange(len(tree.feature))
    for i in range(len(feature) - 1, -1, -1):
        children = tree.left[i], tree.right[i]
        if feature[i] >= 0 and tree.gain[i] < gamma and all(feature[c] < 0 for c in children):
            feature[i] = -1
    for i in np.flatnonzero(tree.feature >= 0):  # parents first, so that homes are final
        if feature[i] < 0:
            home[[tree.left[i], tree.right[i]]] = home[i]
    return tree._replace(feature=feature), home[leaf]
