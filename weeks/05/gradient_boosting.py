r"""Gradient boosting of trees, second order, as in XGBoost: every tree corrects the sum so far.

Round $t$ fits a tree to the derivatives $g_i, h_i$ of the loss at the prediction so far, by a
Newton step in each leaf, and adds a fraction $\eta$ of it:

$$ \hat y^{(t)} = \hat y^{(t-1)} + \eta f_t, \qquad
   f_t = \arg\min_f \sum_i g_i f(x_i) + \tfrac12 h_i f(x_i)^2
   + \gamma |f| + \alpha \|w\|_1 + \tfrac12 \lambda \|w\|_2^2, $$

where $|f|$ is the number of leaves and $w$ their weights. How a tree is grown stands in
histogram_trees.py. Missing values may stay missing; categories come as numbers or one-hot.

    uv run weeks/05/gradient_boosting.py

Source: T. Chen and C. Guestrin, *XGBoost: A Scalable Tree Boosting System* (KDD 2016), section 2;
J. Friedman, *Greedy Function Approximation* (Annals of Statistics 29, 2001).
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

from week04.estimator import Estimator, check_classes, check_X_y
from week05.histogram_trees import Tree, find_cuts, grow_tree, to_bins

Objective = Literal["squared_error", "logistic", "softmax"]


def softmax(margin: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """Probabilities from margins, row by row; the largest is taken off so that exp stays finite."""
    e = np.exp(margin - margin.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(margin: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """1 / (1 + exp(-margin)), without overflow."""
    e = np.exp(-np.abs(margin))
    return np.where(margin >= 0, 1, e) / (1 + e)


def derivatives(
    objective: Objective, margin: Float[np.ndarray, "n k"], target: Float[np.ndarray, "n k"]
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "n k"]]:
    """First and second derivative of the loss of each row by its margin.

    Softmax takes 2 p (1 - p) for the diagonal of the Hessian, as XGBoost does: p (1 - p) alone
    leaves out that the other margins move too, and its steps are too long.
    """
    if objective == "squared_error":
        return margin - target, np.ones_like(margin)
    p = sigmoid(margin) if objective == "logistic" else softmax(margin)
    factor = 1 if objective == "logistic" else 2
    return p - target, np.maximum(factor * p * (1 - p), 1e-16)


def loss(
    objective: Objective, margin: Float[np.ndarray, "n k"], target: Float[np.ndarray, "n k"]
) -> float:
    """What early stopping watches: the root mean square error, or the mean log loss in nats."""
    if objective == "squared_error":
        return float(np.sqrt(np.mean((margin - target) ** 2)))
    if objective == "logistic":
        return float(np.mean(np.logaddexp(0, margin) - target * margin))
    shifted = margin - margin.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return float(-np.mean((target * log_p).sum(axis=1)))


class GradientBoosting(Estimator):
    """A sum of trees, each fitted to what the others left.

    Parameters
    ----------
    objective
        ``squared_error`` (numbers), ``logistic`` (two classes) or ``softmax`` (two or more; a tree
        for each class and round).
    n_estimators
        Rounds.
    learning_rate
        The share η of each tree that is added.
    max_depth, min_child_weight, gamma, reg_lambda, reg_alpha
        Limits and penalties of a tree, see `grow_tree`.
    subsample, colsample_bytree
        Share of the rows, and of the features, that each tree sees; drawn without replacement.
    tree_method
        ``hist`` puts values into at most `max_bins` bins; ``exact`` keeps every distinct value and
        cuts halfway between two (slower by as much as there are more values).
    base_score
        Where all predictions start (a margin); the mean, or its log-odds, by default.
    early_stopping_rounds
        Stop when the loss on `eval_set` has not fallen for so many rounds; predictions then use the
        rounds up to the best one.
    random_state
        Seed of the sampling.

    Attributes
    ----------
    trees_ : list of rounds, each a list of one tree or one per class
    base_score_ : (k,)
    classes_ : the labels, sorted
    train_loss_, eval_loss_ : list of float, one a round
    best_iteration_ : int
    feature_importances_ : (p,), the share of each feature in the sum of all gains

    References
    ----------
    Chen and Guestrin (2016), section 2: objective, equation 2; shrinkage and sampling, section 2.3.
    """

    allow_nan = True

    def __init__(
        self,
        objective: str = "squared_error",
        *,
        n_estimators: int = 100,
        learning_rate: float = 0.3,
        max_depth: int = 6,
        min_child_weight: float = 1.0,
        gamma: float = 0.0,
        reg_lambda: float = 1.0,
        reg_alpha: float = 0.0,
        subsample: float = 1.0,
        colsample_bytree: float = 1.0,
        tree_method: str = "hist",
        max_bins: int = 256,
        base_score: float | None = None,
        early_stopping_rounds: int | None = None,
        random_state: int = 0,
    ):
        self.objective = objective
        self.n_estimators = n_estimators
        self.learning_rate = learning_rate
        self.max_depth = max_depth
        self.min_child_weight = min_child_weight
        self.gamma = gamma
        self.reg_lambda = reg_lambda
        self.reg_alpha = reg_alpha
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.tree_method = tree_method
        self.max_bins = max_bins
        self.base_score = base_score
        self.early_stopping_rounds = early_stopping_rounds
        self.random_state = random_state

    @property
    def kind(self) -> str:
        """What scikit-learn's tools take it for."""
        return "regressor" if self.objective == "squared_error" else "classifier"

    def fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        eval_set: tuple[ArrayLike, ArrayLike] | None = None,
        cuts: list[np.ndarray] | None = None,
    ) -> "GradientBoosting":
        """Add `n_estimators` trees, or fewer if stopped early.

        Parameters
        ----------
        X
            (n, p), NaN where missing; compared as float32.
        y
            (n,) numbers or labels.
        eval_set
            X and y that early stopping watches.
        cuts
            Of each feature the upper edges of its bins, ascending, in place of our quantiles.

        Raises
        ------
        ValueError
            For a parameter out of range, X or y of the wrong kind, or one class only.
        """
        self._check_parameters(eval_set)
        X, y = check_X_y(X, y, classes=self.kind == "classifier", allow_nan=True)
        X = X.astype(np.float32)
        self.n_features_in_ = X.shape[1]
        weight = _weights(sample_weight, len(X))
        if self.kind == "classifier":
            self.classes_, y = check_classes(y)
            if self.objective == "logistic" and len(self.classes_) > 2:
                raise ValueError(f"logistic needs two classes, got {len(self.classes_)}: softmax "
                                 "takes more")  # fmt: skip
        target = self._target(y)
        k = target.shape[1]
        self.base_score_ = self._start(target, weight)
        exact = self.tree_method == "exact"
        if cuts is None:
            cuts = find_cuts(X, len(X) if exact else self.max_bins)
        binned = to_bins(X, [np.asarray(c, dtype=np.float32) for c in cuts], exact)
        if eval_set is not None:
            X_eval = self._check_fitted_X(eval_set[0]).astype(np.float32)
            target_eval = self._target(self._encode(eval_set[1]))
            if len(target_eval) != len(X_eval):
                raise ValueError(f"eval_set must have as many rows in X as in y, got {len(X_eval)} "
                                 f"and {len(target_eval)}")  # fmt: skip
            margin_eval = np.tile(self.base_score_, (len(X_eval), 1))

        rng = np.random.default_rng(self.random_state)
        # float32 like XGBoost's, so that both see the same gradients and break ties alike
        margin = np.tile(self.base_score_, (len(X), 1)).astype(np.float32)
        self.trees_, self.train_loss_, self.eval_loss_, self.best_iteration_ = [], [], [], 0
        for t in range(self.n_estimators):
            g, h = (d * weight[:, None] for d in derivatives(self.objective, margin, target))
            self.trees_.append([])
            for c in range(k):
                rows, columns = self._sample(rng, *X.shape)
                tree, leaf = grow_tree(
                    binned, g[:, c] * rows, h[:, c] * rows, columns=columns,
                    max_depth=self.max_depth, reg_lambda=self.reg_lambda,
                    reg_alpha=self.reg_alpha, gamma=self.gamma,
                    min_child_weight=self.min_child_weight, learning_rate=self.learning_rate,
                )  # fmt: skip
                self.trees_[-1].append(tree)
                margin[:, c] += tree.value[leaf]
            self.train_loss_.append(loss(self.objective, margin, target))
            if eval_set is None:
                self.best_iteration_ = t
                continue
            margin_eval += np.stack([tree.predict(X_eval) for tree in self.trees_[-1]], axis=1)
            self.eval_loss_.append(loss(self.objective, margin_eval, target_eval))
            if self.eval_loss_[-1] < self.eval_loss_[self.best_iteration_]:
                self.best_iteration_ = t
            waited = t - self.best_iteration_
            if self.early_stopping_rounds is not None and waited >= self.early_stopping_rounds:
                break
        if self.early_stopping_rounds is None:
            self.best_iteration_ = len(self.trees_) - 1
        self.feature_importances_ = self._importances()
        return self

    def decision_function(
        self, X: ArrayLike, n_trees: int | None = None
    ) -> Float[np.ndarray, "n k"]:
        """The sum of the trees' leaves, of the first `n_trees` rounds (default: up to the best)."""
        X = self._check_fitted_X(X).astype(np.float32)
        rounds = self.trees_[: self.best_iteration_ + 1 if n_trees is None else n_trees]
        margin = np.tile(self.base_score_, (len(X), 1))
        for trees in rounds:
            for c, tree in enumerate(trees):
                margin[:, c] += tree.predict(X)
        return margin

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """Numbers, or the likeliest labels."""
        if self.objective == "squared_error":
            return self.decision_function(X)[:, 0]
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Probabilities in the order of `classes_`."""
        if self.objective == "squared_error":
            raise ValueError("predict_proba needs objective logistic or softmax, got squared_error")
        margin = self.decision_function(X)
        if self.objective == "softmax":
            return softmax(margin)
        p = sigmoid(margin)
        return np.hstack([1 - p, p])

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """R² of numbers, accuracy of labels."""
        y, predicted = np.asarray(y), self.predict(X)
        if y.shape != predicted.shape:
            raise ValueError(f"y must have shape {predicted.shape}, as X has rows, got {y.shape}")
        if self.kind == "classifier":
            return float(np.mean(y == predicted))
        return float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum())

    def _target(self, y: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
        if self.objective == "softmax":
            return np.eye(len(self.classes_))[y]
        return y.astype(np.float64)[:, None]

    def _encode(self, y: ArrayLike) -> Shaped[np.ndarray, " n"]:
        y = np.asarray(y)
        if self.kind == "regressor":
            return y
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"eval_set must have only labels of y, {self.classes_}")
        return np.searchsorted(self.classes_, y)

    def _start(
        self, target: Float[np.ndarray, "n k"], weight: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, " k"]:
        """The constant that fits best before there is any tree."""
        if self.base_score is not None:
            return np.full(target.shape[1], float(self.base_score))
        mean = np.average(target, axis=0, weights=weight)
        if self.objective == "squared_error":
            return mean
        if self.objective == "logistic":
            return np.log(mean / (1 - mean))
        return np.log(mean) - np.log(mean).mean()

    def _sample(
        self, rng: np.random.Generator, n: int, p: int
    ) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " q"]]:
        """Which rows count (1 or 0), and which features may split."""
        rows = np.ones(n)
        if self.subsample < 1:
            rows[rng.permutation(n)[max(1, round(self.subsample * n)) :]] = 0
        q = max(1, round(self.colsample_bytree * p))
        return rows, np.sort(rng.permutation(p)[:q]) if q < p else np.arange(p)

    def _importances(self) -> Float[np.ndarray, " p"]:
        total = np.zeros(self.n_features_in_)
        trees: list[Tree] = [tree for trees in self.trees_ for tree in trees]
        for tree in trees:
            inner = tree.feature >= 0
            np.add.at(total, tree.feature[inner], tree.gain[inner])
        return total / total.sum() if total.sum() > 0 else total

    def _check_parameters(self, eval_set) -> None:
        """Raise a ValueError that names the parameter that is out of range."""
        for name, allowed in (("objective", ("squared_error", "logistic", "softmax")),
                              ("tree_method", ("hist", "exact"))):  # fmt: skip
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        for name, least in (("n_estimators", 1), ("max_depth", 0), ("max_bins", 2),
                            ("min_child_weight", 0), ("gamma", 0), ("reg_lambda", 0),
                            ("reg_alpha", 0)):  # fmt: skip
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("learning_rate", "subsample", "colsample_bytree"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if self.early_stopping_rounds is not None and eval_set is None:
            raise ValueError("early_stopping_rounds needs an eval_set to watch, got none")


def _weights(sample_weight: ArrayLike | None, n: int) -> Float[np.ndarray, " n"]:
    weight = np.ones(n) if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    if weight.shape != (n,) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise ValueError(f"sample_weight must hold {n} numbers >= 0, not all 0, "
                         f"got shape {weight.shape}")  # fmt: skip
    return weight


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
