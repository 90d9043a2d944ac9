r"""Decision trees (CART): split where the impurity falls most, then prune what does not pay.

A node with the label shares $p_k$ is impure by Gini's $1 - \sum_k p_k^2$, by the entropy
$-\sum_k p_k \log_2 p_k$, or, with numbers for labels, by their variance. The split is the pair of
feature $j$ and threshold $t$ that leaves the least:

$$ \min_{j, t}\; W_L\, I(x_j \le t) + W_R\, I(x_j > t) . $$

Growing is greedy, so it goes on until the leaves are pure, and afterwards the weakest link goes
first: the node $t$ whose branch $T_t$ gains least per leaf,
$\alpha(t) = (R(t) - R(T_t)) / (|T_t| - 1)$.

    uv run weeks/05/decision_tree.py

Source: L. Breiman, J. Friedman, R. Olshen and C. Stone, *Classification and Regression Trees*
(1984), chapters 3, 4 and 8; Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning*
(2nd edition, 2009), section 9.2.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy.typing import ArrayLike

from week04.estimator import Classifier, Estimator, Regressor, check_classes, check_X_y

Criterion = Literal["gini", "entropy", "squared_error"]
SAME = 1e-7  # values closer than this are not told apart, as in scikit-learn


class Nodes(NamedTuple):
    """A tree as arrays over its nodes, parents before children; feature -1 marks a leaf."""

    feature: Int[np.ndarray, " node"]
    threshold: Float[np.ndarray, " node"]
    left: Int[np.ndarray, " node"]
    right: Int[np.ndarray, " node"]
    value: Float[np.ndarray, "node k"]  # label shares, or the mean
    impurity: Float[np.ndarray, " node"]
    weight: Float[np.ndarray, " node"]
    n_samples: Int[np.ndarray, " node"]


class Split(NamedTuple):
    """Rows with x[feature] <= threshold go left; impurity is what both children keep, weighted."""

    feature: int
    threshold: float
    impurity: float


def impurity(
    criterion: Criterion,
    sums: Float[np.ndarray, "*shape k"],
    squares: Float[np.ndarray, "*shape"],
    weight: Float[np.ndarray, "*shape"],
) -> Float[np.ndarray, "*shape"]:
    """Impurity of groups of rows from Σ w y, Σ w |y|² and Σ w.

    With labels as unit vectors y, Gini's index *is* the variance, Σ p (1 - p).
    """
    p = sums / weight[..., None]
    if criterion == "entropy":
        return -np.sum(p * np.log2(np.where(p > 0, p, 1.0)), axis=-1)
    return np.maximum(squares / weight - np.sum(p * p, axis=-1), 0.0)


def best_split(
    X: Float[np.ndarray, "n q"],
    Y: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    criterion: Criterion = "gini",
    min_samples_leaf: int = 1,
) -> Split | None:
    """The split of least impurity over all features and thresholds; None if there is none.

    All thresholds of a feature are tried at once: sort, then running sums give the left child of
    every cut, and what is missing to the total, the right one. The threshold lies halfway between
    two neighbors. The first of equals wins.
    """
    n = len(X)
    least = min_samples_leaf
    if n < 2 * least:
        return None
    order = np.argsort(X, axis=0, kind="stable")
    values = np.take_along_axis(X, order, axis=0)
    w = weight[order]  # (n, q)
    weighted = w[..., None] * (Y - Y.mean(axis=0) if criterion == "squared_error" else Y)[order]
    centered = weighted / np.where(w > 0, w, 1.0)[..., None]
    squares = np.cumsum((weighted * centered).sum(axis=-1), axis=0)
    sums, W = np.cumsum(weighted, axis=0), np.cumsum(w, axis=0)
    cut = slice(least - 1, n - least)  # the last row of the left child
    left = W[cut], sums[cut], squares[cut]
    right = (total[-1] - part for total, part in zip((W, sums, squares), left, strict=True))
    kept = sum(Wc * impurity(criterion, sc, qc, Wc) for Wc, sc, qc in (left, tuple(right)))
    kept[values[least : n - least + 1] - values[cut] <= SAME] = np.inf  # no threshold between
    feature, position = divmod(int(kept.T.argmin()), len(kept))
    if not np.isfinite(kept[position, feature]):
        return None
    low, high = values[position + least - 1, feature], values[position + least, feature]
    threshold = low / 2 + high / 2
    if threshold >= high:  # neighbors in float: halfway rounds up, and would let both go left
        threshold = low
    return Split(feature, float(threshold), float(kept[position, feature]))


def grow(
    X: Float[np.ndarray, "n p"],
    Y: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    *,
    criterion: Criterion,
    max_depth: int | None = None,
    min_samples_split: int = 2,
    min_samples_leaf: int = 1,
    max_features: int | None = None,
    rng: np.random.Generator | None = None,
) -> Nodes:
    """Split until nodes are pure or a limit says stop; depth first, with a stack, not recursion.

    With `max_features`, each node sees that many features, drawn anew, and more only if all of
    them are constant there.
    """
    nodes: list[list] = []
    p = X.shape[1]
    stack = [(np.flatnonzero(weight > 0), 0, -1, "left")]
    while stack:
        rows, depth, parent, side = stack.pop()
        here, Y_here, w = X[rows], Y[rows], weight[rows]
        W = w.sum()
        mean = w @ Y_here / W
        spread = Y_here - mean if criterion == "squared_error" else Y_here
        squares = w @ (spread**2).sum(axis=1)
        now = impurity(criterion, (w @ spread)[None], np.array([squares]), np.array([W])).item()
        if parent >= 0:
            nodes[parent][2 if side == "left" else 3] = len(nodes)
        nodes.append([-1, 0.0, -1, -1, mean, now, W, len(rows)])
        deep = max_depth is not None and depth >= max_depth
        if deep or len(rows) < max(min_samples_split, 2 * min_samples_leaf) or now <= 1e-15:
            continue
        features = np.flatnonzero(np.ptp(here, axis=0) > SAME)
        if max_features is not None and max_features < p:
            drawn = rng.permutation(p)
            useful = np.isin(drawn, features)
            upto = max(max_features, 1 + int(useful.argmax()))
            features = np.sort(drawn[:upto][useful[:upto]])
        if not features.size:
            continue
        split = best_split(here[:, features], Y_here, w, criterion, min_samples_leaf)
        if split is None:
            continue
        node, feature = len(nodes) - 1, int(features[split.feature])
        nodes[node][:2] = feature, split.threshold
        left = here[:, feature] <= split.threshold
        stack += [(rows[~left], depth + 1, node, "right"), (rows[left], depth + 1, node, "left")]
    return Nodes(*(np.array(column) for column in zip(*nodes, strict=True)))


def pruning_path(
    nodes: Nodes,
) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"], Int[np.ndarray, " node"]]:
    """Cut the weakest link until only the root is left.

    Returns
    -------
    alphas, impurities
        Of each subtree in turn, the full tree first: the α from which on it is optimal, and the
        impurity of its leaves, weighted.
    step
        The step at which each node stops being split; 0 for leaves.

    References
    ----------
    Breiman et al. (1984), section 3.3; Hastie et al. (2009), equation 9.16.
    """
    R = nodes.weight * nodes.impurity / nodes.weight[0]
    inner, step = nodes.feature >= 0, np.zeros(len(R), dtype=int)
    alphas, impurities = [0.0], [float(R[~inner].sum())]
    branch, leaves, parent = R.copy(), np.ones(len(R)), np.full(len(R), -1)
    for t in np.flatnonzero(inner)[::-1]:  # children come after parents
        children = [nodes.left[t], nodes.right[t]]
        branch[t], leaves[t], parent[children] = branch[children].sum(), leaves[children].sum(), t
    while inner[0]:
        alpha = np.where(inner, (R - branch) / np.maximum(leaves - 1, 1), np.inf)
        weakest = int(alpha.argmin())
        # alphas ascend in exact arithmetic; rounding must not undo that
        alphas.append(max(float(alpha[weakest]), alphas[-1]))
        gone = [weakest]
        for t in gone:
            if inner[t]:
                inner[t], step[t] = False, len(alphas) - 1
                gone += [nodes.left[t], nodes.right[t]]
        lost, fewer = R[weakest] - branch[weakest], leaves[weakest] - 1
        impurities.append(float(impurities[-1] + lost))
        while weakest >= 0:  # the branches that held it are a little smaller and worse
            branch[weakest] += lost
            leaves[weakest] -= fewer
            weakest = parent[weakest]
    return np.array(alphas), np.array(impurities), step


def pruned(nodes: Nodes, ccp_alpha: float) -> Nodes:
    """The smallest subtree with the least R(T) + α |T|."""
    alphas, _, step = pruning_path(nodes)
    steps = int((alphas <= ccp_alpha).sum()) - 1
    inner = (nodes.feature >= 0) & (step > steps)
    keep = [0]
    for t in keep:
        keep += [nodes.left[t], nodes.right[t]] if inner[t] else []
    keep = np.sort(keep)
    new = np.full(len(inner), -1)
    new[keep] = np.arange(len(keep))
    nodes = Nodes(*(column[keep] for column in nodes))
    inner = inner[keep]
    return nodes._replace(
        feature=np.where(inner, nodes.feature, -1),
        left=np.where(inner, new[nodes.left], -1),
        right=np.where(inner, new[nodes.right], -1),
    )


class _Tree(Estimator):
    """What both kinds of tree share; parameters as in `DecisionTreeClassifier`."""

    def __init__(
        self,
        *,
        criterion: Criterion,
        max_depth: int | None = None,
        min_samples_split: int = 2,
        min_samples_leaf: int = 1,
        max_features: int | None = None,
        ccp_alpha: float = 0.0,
        random_state: int = 0,
    ):
        self.criterion = criterion
        self.max_depth = max_depth
        self.min_samples_split = min_samples_split
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features
        self.ccp_alpha = ccp_alpha
        self.random_state = random_state

    def _grow(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Nodes:
        classes = isinstance(self, Classifier)
        allowed = ("gini", "entropy") if classes else ("squared_error",)
        if self.criterion not in allowed:
            raise ValueError(f"criterion must be one of {allowed}, got {self.criterion!r}")
        for name, least in (("max_depth", 1), ("min_samples_split", 2), ("min_samples_leaf", 1),
                            ("max_features", 1), ("ccp_alpha", 0)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        X, y = check_X_y(X, y, classes=classes)
        if classes:
            self.classes_, y = check_classes(y)
        Y = np.eye(len(self.classes_))[y] if classes else y[:, None]
        weight = np.ones(len(X)) if sample_weight is None else np.asarray(sample_weight, float)
        if weight.shape != (len(X),) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
            raise ValueError(
                f"sample_weight must hold {len(X)} numbers >= 0, not all of them zero, "
                f"got shape {weight.shape}"
            )
        self.n_features_in_ = X.shape[1]
        # Through float32, as scikit-learn stores X, so that both see the same ties.
        return grow(
            X.astype(np.float32).astype(np.float64), Y, weight, criterion=self.criterion,
            max_depth=self.max_depth, min_samples_split=self.min_samples_split,
            min_samples_leaf=self.min_samples_leaf, max_features=self.max_features,
            rng=np.random.default_rng(self.random_state),
        )  # fmt: skip

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> "_Tree":
        """Grow the tree, and prune it if ccp_alpha > 0."""
        nodes = self._grow(X, y, sample_weight)
        self.tree_ = pruned(nodes, self.ccp_alpha) if self.ccp_alpha > 0 else nodes
        self.feature_importances_ = self._importances()
        return self

    def cost_complexity_pruning_path(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Float[np.ndarray, " step"], Float[np.ndarray, " step"]]:
        """The alphas at which the tree loses a branch, and the impurity of its leaves then."""
        return pruning_path(self._grow(X, y, sample_weight))[:2]

    def apply(self, X: ArrayLike) -> Int[np.ndarray, " n"]:
        """The leaf in which each row ends."""
        X = self._check_fitted_X(X).astype(np.float32)
        tree, node, rows = self.tree_, np.zeros(len(X), dtype=np.intp), np.arange(len(X))
        while rows.size:
            at = node[rows]
            inner = tree.feature[at] >= 0
            rows, at = rows[inner], at[inner]
            left = X[rows, tree.feature[at]] <= tree.threshold[at]
            node[rows] = np.where(left, tree.left[at], tree.right[at])
        return node

    def get_n_leaves(self) -> int:
        """How many leaves the fitted tree has."""
        return int((self.tree_.feature < 0).sum())

    def _importances(self) -> Float[np.ndarray, " p"]:
        """Share of each feature in all that splits took off the impurity."""
        t, total = self.tree_, np.zeros(self.n_features_in_)
        inner: Bool[np.ndarray, " node"] = t.feature >= 0
        R = t.weight * t.impurity
        np.add.at(total, t.feature[inner], (R - R[t.left] - R[t.right])[inner])
        return total / total.sum() if total.sum() > 0 else total


class DecisionTreeClassifier(_Tree, Classifier):
    """A tree whose leaves vote.

    Parameters
    ----------
    criterion
        ``gini`` or ``entropy``.
    max_depth, min_samples_split, min_samples_leaf
        When to stop; by default only when leaves are pure.
    max_features
        How many features each node may choose from, drawn at random; all by default.
    ccp_alpha
        Branches that gain less than this per leaf are pruned.
    random_state
        Seed of that drawing.

    Attributes
    ----------
    tree_ : Nodes
    classes_ : the labels, sorted
    feature_importances_ : (p,)
    """

    def __init__(self, *, criterion: Criterion = "gini", max_depth: int | None = None,
                 min_samples_split: int = 2, min_samples_leaf: int = 1,
                 max_features: int | None = None, ccp_alpha: float = 0.0,
                 random_state: int = 0):  # fmt: skip
        super().__init__(
            criterion=criterion, max_depth=max_depth, min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf, max_features=max_features, ccp_alpha=ccp_alpha,
            random_state=random_state,
        )  # fmt: skip

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Shares of the labels in each row's leaf."""
        leaf = self.apply(X)
        return self.tree_.value[leaf]

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """The commonest label of each row's leaf."""
        votes = self.predict_proba(X)
        return self.classes_[votes.argmax(axis=1)]


class DecisionTreeRegressor(_Tree, Regressor):
    """A tree whose leaves predict their mean; parameters as in `DecisionTreeClassifier`."""

    def __init__(self, *, criterion: Criterion = "squared_error", max_depth: int | None = None,
                 min_samples_split: int = 2, min_samples_leaf: int = 1,
                 max_features: int | None = None, ccp_alpha: float = 0.0,
                 random_state: int = 0):  # fmt: skip
        super().__init__(
            criterion=criterion, max_depth=max_depth, min_samples_split=min_samples_split,
            min_samples_leaf=min_samples_leaf, max_features=max_features, ccp_alpha=ccp_alpha,
            random_state=random_state,
        )  # fmt: skip

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """The mean of each row's leaf."""
        leaf = self.apply(X)
        return self.tree_.value[leaf, 0]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
