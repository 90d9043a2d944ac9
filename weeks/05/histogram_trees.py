r"""Trees for gradient boosting: grown level by level from histograms of gradients.

A leaf that holds the rows $I$ adds $w$ to their predictions. To second order the loss changes by
$\sum_{i \in I} g_i w + \tfrac12 h_i w^2$, and with the penalty $\alpha |w| + \tfrac12 \lambda w^2$
the best leaf is $w^* = -T_\alpha(G) / (H + \lambda)$, where $G = \sum g_i$, $H = \sum h_i$ and
$T_\alpha(G) = \mathrm{sign}(G) \max(|G| - \alpha, 0)$. A split is worth what it saves, twice over:

$$ \frac{T_\alpha(G_L)^2}{H_L + \lambda} + \frac{T_\alpha(G_R)^2}{H_R + \lambda}
   - \frac{T_\alpha(G)^2}{H + \lambda} . $$

Only sums of $g$ and $h$ matter, so rows are counted into bins once and for all, and a level of the
tree costs two sums a feature. A row whose value is missing goes where that pays more.

Source: T. Chen and C. Guestrin, *XGBoost* (KDD 2016), sections 2.2, 3.3 (bins) and 3.4 (missing
values).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

LEAST_GAIN = 1e-6  # a smaller one is rounding; XGBoost's kRtEps


class Tree(NamedTuple):
    """A binary tree as arrays over its nodes, the root first and parents before children.

    Attributes
    ----------
    feature
        Which feature a node splits on; -1 for a leaf.
    threshold
        Rows with a smaller value go left (float32, as XGBoost compares).
    default_left
        Whether rows without a value go left.
    left, right
        The children.
    value
        The weight of a node, were it a leaf, shrinkage included.
    gain, cover
        What the split saves, and the sum of h that reaches the node.
    """

    feature: Int[np.ndarray, " node"]
    threshold: Float32[np.ndarray, " node"]
    default_left: Bool[np.ndarray, " node"]
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    value: Float[np.ndarray, " node"]
    gain: Float[np.ndarray, " node"]
    cover: Float[np.ndarray, " node"]

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
        Of each feature the one value in each bin, if every distinct value has its own; thresholds
        are then set halfway between values that a node holds. None for wider bins.
    """

    bins: Int[np.ndarray, "p n"]
    cuts: list[np.ndarray]
    values: list[np.ndarray] | None


def find_cuts(X: Float32[np.ndarray, "n p"], max_bins: int) -> list[np.ndarray]:
    """Cuts that share the rows evenly among at most `max_bins` bins a feature.

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
    if len(cuts) != X.shape[1]:
        raise ValueError(f"cuts must have an array for each of {X.shape[1]} features, "
                         f"got {len(cuts)}")  # fmt: skip
    bins = np.empty(X.T.shape, dtype=np.int32)
    for j, (column, edges) in enumerate(zip(X.T, cuts, strict=True)):
        if (np.diff(edges) <= 0).any():
            raise ValueError(f"cuts[{j}] must ascend strictly, got {edges[:5]} …")
        inside = np.searchsorted(edges[:-1], column, side="right")
        bins[j] = np.where(np.isnan(column), len(edges), inside)
    values = [np.unique(column[~np.isnan(column)]) for column in X.T] if exact else None
    return Binned(bins, cuts, values)


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


def grow_tree(
    binned: Binned,
    g: Float[np.ndarray, " n"],
    h: Float[np.ndarray, " n"],
    *,
    max_depth: int = 6,
    reg_lambda: float = 1.0,
    reg_alpha: float = 0.0,
    gamma: float = 0.0,
    min_child_weight: float = 1.0,
    columns: Int[np.ndarray, " q"] | None = None,
    learning_rate: float = 1.0,
) -> tuple[Tree, Int[np.ndarray, " n"]]:
    """Grow one tree, all nodes of a level at once.

    Parameters
    ----------
    g, h
        First and second derivatives of the loss at each row; rows that are left out have zeros.
    gamma
        Least gain of a split. With wide bins a split below it is not made; with a bin a value
        (the exact method) it is made and taken back if no split below it survived, as XGBoost
        does.
    min_child_weight
        Least sum of h in a child.
    columns
        The features to choose from; all by default.

    Returns
    -------
    tree
    leaf
        The leaf that each row ends in.
    """
    bins, cuts, values = binned
    columns = np.arange(len(bins)) if columns is None else columns
    widths = np.array([len(cuts[j]) + 1 for j in columns])  # the last is for missing values
    ends = np.cumsum(widths)
    starts, last = ends - widths, ends - 1
    owner = np.repeat(np.arange(len(columns)), widths)  # whose slot it is
    with_missing = np.array(
        [(bins[j] == w - 1).any() for j, w in zip(columns, widths, strict=True)]
    )
    # Missing values to the left are tried from the highest cut down, as XGBoost does: among ties,
    # which bins empty in a node cause, the first one tried wins. The exact method begins with these
    # and tries them for every feature, so that unseen missing values go left by default.
    exact = values is not None
    downward = np.concatenate(
        [np.arange(a, b)[::-1] for a, b, m in zip(starts, ends, with_missing, strict=True)
         if m or exact] or [np.arange(0)]
    )  # fmt: skip

    nodes = {name: [] for name in Tree._fields}  # a list of arrays, one a level
    leaf = np.zeros(len(g), dtype=np.intp)
    rows, slot = np.arange(len(g)), np.zeros(len(g), dtype=np.intp)
    G, H, n_nodes = np.array([g.sum()]), np.array([h.sum()]), 0
    for depth in range(max_depth + 1):
        m = len(G)
        weight = -soft_threshold(G, reg_alpha) / np.maximum(H + reg_lambda, 1e-300)
        weight = np.where((min_child_weight > H) | (H <= 0), 0.0, weight) * learning_rate
        first_child = n_nodes + m
        feature, threshold = np.full(m, -1), np.zeros(m, dtype=np.float32)
        default_left, gain = np.zeros(m, dtype=bool), np.zeros(m)
        left_node, right_node = np.full(m, -1), np.full(m, -1)
        leaf[rows] = n_nodes + slot
        if depth < max_depth:
            # ---- sums of g and h over bins 0…b of every feature, for each node of the level
            GL, HL = np.empty((m, ends[-1])), np.empty((m, ends[-1]))
            missing_G, missing_H = np.zeros((2, m, len(columns)))
            everyone = len(rows) == len(g)
            g_here, h_here = (g, h) if everyone else (g[rows], h[rows])
            for k, j in enumerate(columns):
                column = bins[j] if everyone else bins[j][rows]
                place = slot * widths[k] + column
                for total, part, sums in ((GL, g_here, missing_G), (HL, h_here, missing_H)):
                    count = np.bincount(place, part, m * widths[k]).reshape(m, widths[k])
                    sums[:, k] = count[:, -1]
                    np.cumsum(count, axis=1, out=total[:, starts[k] : ends[k]])

            # ---- the best split of each node: missing values to the right, then to the left
            root = leaf_score(G, H, reg_lambda, reg_alpha)

            def gains(GL, HL, G=G[:, None], H=H[:, None], root=root[:, None]):
                HR = H - HL
                gain = leaf_score(GL, HL, reg_lambda, reg_alpha)
                gain += leaf_score(G - GL, HR, reg_lambda, reg_alpha)
                gain -= root
                gain[(np.minimum(HL, HR) < max(min_child_weight, 1e-9))] = -np.inf
                return gain

            pick = np.arange(m)
            to_right = gains(GL, HL)
            to_right[:, last] = -np.inf  # nothing would be left on the right
            best = to_right.argmax(axis=1)
            gain = to_right[pick, best].astype(float)
            GL_best, HL_best = GL[pick, best], HL[pick, best]
            if downward.size:
                whose = owner[downward]
                GL_m = GL[:, downward] + missing_G[:, whose]
                HL_m = HL[:, downward] + missing_H[:, whose]
                to_left = gains(GL_m, HL_m)
                to_left[:, np.isin(downward, last)] = -np.inf
                found = to_left.argmax(axis=1)
                other, other_gain = downward[found], to_left[pick, found]
                earlier = owner[other] < owner[best] + ~with_missing[owner[other]]
                default_left = (other_gain > gain) | ((other_gain == gain) & earlier)
                best = np.where(default_left, other, best)
                gain = np.where(default_left, other_gain, gain)
                GL_best = np.where(default_left, GL_m[pick, found], GL_best)
                HL_best = np.where(default_left, HL_m[pick, found], HL_best)

            least = LEAST_GAIN if exact else max(gamma, LEAST_GAIN)
            split = (gain >= least) & (gain > LEAST_GAIN)
            gain = np.where(split, gain, 0.0)
            default_left &= split
            feature = np.where(split, columns[owner[best]], -1)
            bin_of = best - starts[owner[best]]
            for i in np.flatnonzero(split):
                j, b = feature[i], bin_of[i]
                if not exact:
                    threshold[i] = cuts[j][b]
                    continue
                # halfway between the two values beside the gap, of those that the node holds
                k = owner[best[i]]
                sums = HL[i, starts[k] : last[k]]
                low = values[j][np.searchsorted(sums, sums[b])]
                high = np.searchsorted(sums, sums[b], side="right")
                everything = low + (abs(low) + np.float32(LEAST_GAIN))  # that is there goes left
                threshold[i] = (low + values[j][high]) / 2 if high < len(sums) else everything
            order = np.cumsum(split) - 1
            left_node = np.where(split, first_child + 2 * order, -1)
            right_node = np.where(split, left_node + 1, -1)

        for name, array in zip(
            Tree._fields,
            (feature, threshold, default_left, left_node, right_node, weight, gain, H),
            strict=True,
        ):
            nodes[name].append(array)
        n_nodes = first_child
        if not (feature >= 0).any():
            break

        # ---- rows move to the children; those in leaves are done
        if not split.all():
            stay = split[slot]
            rows, slot = rows[stay], slot[stay]
        value = bins[feature[slot], rows]
        present = value < widths[owner[best]][slot] - 1
        goes_left = np.where(present, value <= bin_of[slot], default_left[slot])
        slot = 2 * order[slot] + ~goes_left
        G, H = (
            np.stack([part[split], (whole - part)[split]], axis=1).ravel()
            for whole, part in ((G, GL_best), (H, HL_best))
        )

    tree = Tree(*(np.concatenate(nodes[name]) for name in Tree._fields))
    return prune(tree, gamma, leaf) if exact else (tree, leaf)


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
