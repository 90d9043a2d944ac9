r"""Decision trees (CART): split where the impurity falls most, then prune what does not pay.

Growing is greedy: every node takes the split that leaves the least impurity (splits.py),
$W_L I_L + W_R I_R$, until the leaves are pure. Branches that did not pay are cut afterwards
(pruning.py), by the loss $R(T) + \alpha |T|$ of a tree with $|T|$ leaves.

>>> X, y = np.array([[1.0], [2.0], [7.0], [8.0]]), np.array(["no", "no", "yes", "yes"])
>>> tree = DecisionTreeClassifier().fit(X, y)
>>> float(tree.tree_.impurity[0]), float(tree.tree_.threshold[0])
(0.5, 4.5)
>>> print(tree.predict([[4.5], [4.6]]))
['no' 'yes']

    uv run weeks/05/decision_tree.py

Source: L. Breiman, J. Friedman, R. Olshen and C. Stone, *Classification and Regression Trees*
(1984), chapters 3, 4 and 8; Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning*
(2nd edition, 2009), section 9.2.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

from shared.require import require
from week04.estimator import (
    Classifier,
    Estimator,
    Regressor,
    check_classes,
    check_sample_weight,
    check_X_y,
)
from week05.pruning import Nodes, pruned, pruning_path
from week05.splits import SAME, Criterion, best_split, impurity


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
    columns, squared = np.ascontiguousarray(X.T), criterion == "squared_error"
    few, every = max_features is not None and max_features < len(columns), np.arange(len(columns))
    stack = [(np.flatnonzero(weight > 0), 0, -1, "left")]
    while stack:
        rows, depth, parent, side = stack.pop()
        W, mean, now = weight[rows[0]], Y[rows[0]], 0.0
        if len(rows) > 1:
            Y_here, w = Y[rows], weight[rows]
            W = w.sum()
            mean = w @ Y_here / W
            if squared:
                spread = Y_here - mean
                now = float(np.vdot(w[:, None] * spread, spread) / W)
            else:
                now = float(impurity(criterion, mean * W, W, W))  # of unit vectors
        if parent >= 0:
            nodes[parent][2 if side == "left" else 3] = len(nodes)
        node = len(nodes)
        nodes.append([-1, 0.0, -1, -1, mean, now, W, len(rows)])
        deep = max_depth is not None and depth >= max_depth
        if deep or len(rows) < max(min_samples_split, 2 * min_samples_leaf) or now <= 1e-15:
            continue
        drawn = rng.permutation(len(columns)) if few else every
        features = drawn[:max_features]
        features.sort()
        here = columns[features[:, None], rows] if few else columns.take(rows, axis=1)
        split = best_split(here.T, Y_here, w, criterion, min_samples_leaf)
        if split is None and few:
            varied = np.ptp(columns[:, rows], axis=1)[drawn] > SAME
            if varied.any() and not varied[:max_features].any():
                features = drawn[[varied.argmax()]]
                here = columns[features[:, None], rows]
                split = best_split(here.T, Y_here, w, criterion, min_samples_leaf)
        if split is None:
            continue
        nodes[node][:2] = int(features[split.feature]), split.threshold
        left = here[split.feature] <= split.threshold
        stack += [(rows[~left], depth + 1, node, "right"), (rows[left], depth + 1, node, "left")]
    return Nodes(*(np.array(column) for column in zip(*nodes, strict=True)))


@dataclass(kw_only=True, eq=False, repr=False)
class _Tree(Estimator):
    """What both kinds of tree share; parameters as in `DecisionTreeClassifier`."""

    criterion: Criterion
    max_depth: int | None = None
    min_samples_split: int = 2
    min_samples_leaf: int = 1
    max_features: int | None = None
    ccp_alpha: float = 0.0
    random_state: int = 0

    precision = np.float32

    def _grow(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> Nodes:
        classes = isinstance(self, Classifier)
        allowed = ("gini", "entropy") if classes else ("squared_error",)
        require(
            self.criterion in allowed, f"criterion must be one of {allowed}", repr(self.criterion)
        )
        limits = {"max_depth": 1, "min_samples_split": 2, "min_samples_leaf": 1}
        for name, least in (limits | {"max_features": 1, "ccp_alpha": 0}).items():
            value = getattr(self, name)
            require(value is None or value >= least, f"{name} must be at least {least}", value)
        X, y = check_X_y(X, y, classes=classes, precision=self.precision)
        if classes:
            self.classes_, y = check_classes(y)
        self.n_features_in_ = X.shape[1]
        return grow(
            X.astype(np.float32).astype(np.float64),  # so that ties are scikit-learn's
            np.eye(len(self.classes_))[y] if classes else y[:, None],
            check_sample_weight(sample_weight, len(X)),
            criterion=self.criterion,
            max_depth=self.max_depth,
            min_samples_split=self.min_samples_split,
            min_samples_leaf=self.min_samples_leaf,
            max_features=self.max_features,
            rng=np.random.default_rng(self.random_state),
        )

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
        inner, R = t.feature >= 0, t.weight * t.impurity
        np.add.at(total, t.feature[inner], (R - R[t.left] - R[t.right])[inner])
        return total / total.sum() if total.sum() > 0 else total


@dataclass(kw_only=True, eq=False, repr=False)
class DecisionTreeClassifier(_Tree, Classifier):
    """A tree whose leaves vote.

    Parameters
    ----------
    criterion
        ``gini`` or ``entropy``.
    max_features
        How many features each node may choose from, drawn with the seed `random_state`.
    ccp_alpha
        Branches that gain less than this per leaf are pruned.
    """

    criterion: Criterion = "gini"

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Shares of the labels in each row's leaf."""
        leaf = self.apply(X)
        return self.tree_.value[leaf]

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """The commonest label of each row's leaf."""
        votes = self.predict_proba(X)
        return self.classes_[votes.argmax(axis=1)]


@dataclass(kw_only=True, eq=False, repr=False)
class DecisionTreeRegressor(_Tree, Regressor):
    """A tree whose leaves predict their mean; parameters as in `DecisionTreeClassifier`."""

    criterion: Criterion = "squared_error"

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """The mean of each row's leaf."""
        leaf = self.apply(X)
        return self.tree_.value[leaf, 0]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
