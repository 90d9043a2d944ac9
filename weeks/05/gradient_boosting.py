r"""Gradient boosting of trees, second order, as in XGBoost: every tree corrects the sum so far.

Round $t$ fits a tree to the derivatives $g_i, h_i$ of the loss at the prediction so far, by a
Newton step in each leaf, and adds a fraction $\eta$ of it:

$$ \hat y^{(t)} = \hat y^{(t-1)} + \eta f_t, \qquad
   f_t = \arg\min_f \sum_i g_i f(x_i) + \tfrac12 h_i f(x_i)^2
   + \gamma |f| + \alpha \|w\|_1 + \tfrac12 \lambda \|w\|_2^2, $$

where $|f|$ is the number of leaves and $w$ their weights. That is `boosting` below. What a loss is
stands in losses.py, how a tree is grown in histogram_trees.py. Missing values may stay missing;
categories come as numbers or one-hot.

>>> X, y = np.arange(4.0)[:, None], np.array([1.0, 2.0, 7.0, 8.0])
>>> model = GradientBoosting(n_estimators=40, max_depth=2, min_child_weight=0.0).fit(X, y)
>>> print(model.predict(X).round(2))
[1.01 2.   7.   7.99]

    uv run weeks/05/gradient_boosting.py

Source: T. Chen and C. Guestrin, *XGBoost: A Scalable Tree Boosting System* (KDD 2016), section 2;
J. Friedman, *Greedy Function Approximation* (Annals of Statistics 29, 2001).
"""

import itertools
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass

import numpy as np
from jaxtyping import Float, Float32, Int, Shaped
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
from week05.bins import Binned, find_cuts, to_bins
from week05.histogram_splits import DEFAULTS, Limits
from week05.histogram_trees import Tree, grow_tree
from week05.losses import Objective, best_constant, derivatives, loss, sigmoid, softmax


def boosting(
    binned: Binned,
    target: Float[np.ndarray, "n k"],
    weight: Float[np.ndarray, " n"],
    start: Float[np.ndarray, " k"],
    *,
    objective: Objective = "squared_error",
    learning_rate: float = 0.3,
    limits: Limits = DEFAULTS,
    subsample: float = 1.0,
    colsample_bytree: float = 1.0,
    rng: np.random.Generator,
) -> Iterator[tuple[list[Tree], Float32[np.ndarray, "n k"]]]:
    """Rounds without end: the trees of each, one per margin, and the margins after it."""
    n, k = target.shape
    # float32 like XGBoost's, so that both see the same gradients and break ties alike
    margin = np.tile(start, (n, 1)).astype(np.float32)
    while True:
        g, h = (d * weight[:, None] for d in derivatives(objective, margin, target))
        trees = []
        for c in range(k):
            rows, columns = sample(n, len(binned.bins), subsample, colsample_bytree, rng)
            tree, leaf = grow_tree(
                binned,
                g[:, c] * rows,
                h[:, c] * rows,
                limits,
                columns=columns,
                learning_rate=learning_rate,
            )
            margin[:, c] += tree.value[leaf]
            trees.append(tree)
        yield trees, margin


def sample(
    n: int, p: int, subsample: float, colsample: float, rng: np.random.Generator
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " q"]]:
    """Which of n rows count (1 or 0), and which of p features may split; without replacement."""
    rows, q = np.ones(n), max(1, round(colsample * p))
    if subsample < 1:
        rows[rng.permutation(n)[max(1, round(subsample * n)) :]] = 0
    return rows, np.sort(rng.permutation(p)[:q]) if q < p else np.arange(p)


@dataclass(eq=False, repr=False)
class GradientBoosting(Estimator):
    """A sum of trees, each fitted to what the others left; parameters as XGBoost calls them.

    Parameters
    ----------
    objective
        ``squared_error`` (numbers), ``logistic`` (two classes) or ``softmax`` (two or more; a tree
        for each class and round).
    n_estimators, learning_rate
        Rounds, and the share η of each tree that is added.
    max_depth, min_child_weight, gamma, reg_lambda, reg_alpha
        What holds a tree back, see `Limits`.
    subsample, colsample_bytree
        Share of the rows, and of the features, that each tree sees.
    tree_method
        ``hist`` puts values into at most `max_bins` bins; ``exact`` keeps every distinct value and
        cuts halfway between two (slower by as much as there are more values).
    base_score
        Where all predictions start (a margin); the best constant by default.
    early_stopping_rounds
        Stop when the loss on `eval_set` has not fallen for so many rounds; predictions then use the
        rounds up to the best one.

    Attributes
    ----------
    trees_ : list of rounds, each a list of one tree or one per class
    base_score_ : (k,)
    classes_ : the labels, sorted
    train_loss_, eval_loss_ : list of float, one per round
    best_iteration_ : int
    feature_importances_ : (p,), the share of each feature in the sum of all gains
    """

    objective: str = "squared_error"
    _: KW_ONLY
    n_estimators: int = 100
    learning_rate: float = 0.3
    max_depth: int = 6
    min_child_weight: float = 1.0
    gamma: float = 0.0
    reg_lambda: float = 1.0
    reg_alpha: float = 0.0
    subsample: float = 1.0
    colsample_bytree: float = 1.0
    tree_method: str = "hist"
    max_bins: int = 256
    base_score: float | None = None
    early_stopping_rounds: int | None = None
    random_state: int = 0

    allow_nan, precision = True, np.float32

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
        cuts: list[ArrayLike] | None = None,
    ) -> "GradientBoosting":
        """Add `n_estimators` trees, or fewer if stopped early.

        Parameters
        ----------
        X
            (n, p), NaN where missing; compared as float32.
        eval_set
            X and y that early stopping watches.
        cuts
            Of each feature the upper edges of its bins, ascending, in place of our quantiles.
        """
        self._check_parameters()
        patience = self.early_stopping_rounds
        watched = patience is None or eval_set is not None
        require(watched, "early_stopping_rounds needs an eval_set to watch", "none")
        options = {"allow_nan": True, "precision": self.precision}
        X, y = check_X_y(X, y, classes=self.kind == "classifier", **options)
        X, weight = X.astype(np.float32), check_sample_weight(sample_weight, len(X))
        self.n_features_in_ = X.shape[1]
        if self.kind == "classifier":
            self.classes_, y = check_classes(y)
            enough = self.objective == "softmax" or len(self.classes_) == 2
            must = "logistic needs two classes"
            require(enough, must, f"{len(self.classes_)}: softmax takes more")
        target = self._target(y)
        start = best_constant(self.objective, target, weight)
        if self.base_score is not None:
            require(np.isfinite(self.base_score), "base_score must be finite", self.base_score)
            start = np.full_like(start, self.base_score)
        self.base_score_, exact = start, self.tree_method == "exact"
        cuts = find_cuts(X, len(X) if exact else self.max_bins) if cuts is None else cuts
        if eval_set is not None:
            X_eval, target_eval = self._check_eval_set(*eval_set)
            margin_eval = np.tile(start, (len(X_eval), 1))

        rounds = boosting(
            to_bins(X, [np.asarray(c, dtype=np.float32) for c in cuts], exact),
            target,
            weight,
            start,
            objective=self.objective,
            learning_rate=self.learning_rate,
            limits=Limits(*(getattr(self, name) for name in Limits._fields)),
            subsample=self.subsample,
            colsample_bytree=self.colsample_bytree,
            rng=np.random.default_rng(self.random_state),
        )
        self.trees_, self.train_loss_, self.eval_loss_, best = [], [], [], 0
        for t, (trees, margin) in enumerate(itertools.islice(rounds, self.n_estimators)):
            self.trees_.append(trees)
            self.train_loss_.append(loss(self.objective, margin, target))
            if eval_set is not None:
                margin_eval += np.stack([tree.predict(X_eval) for tree in trees], axis=1)
                self.eval_loss_.append(loss(self.objective, margin_eval, target_eval))
                best = t if self.eval_loss_[t] < self.eval_loss_[best] else best
                if patience is not None and t - best >= patience:
                    break
        self.best_iteration_ = len(self.trees_) - 1 if patience is None else best
        self.feature_importances_ = self._importances()
        return self

    def decision_function(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """The sum of the trees' leaves, up to the best round."""
        X = self._check_fitted_X(X).astype(np.float32)
        margin = np.tile(self.base_score_, (len(X), 1))
        for trees in self.trees_[: self.best_iteration_ + 1]:
            margin += np.stack([tree.predict(X) for tree in trees], axis=1)
        return margin

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """Numbers, or the likeliest labels."""
        if self.kind == "regressor":
            return self.decision_function(X)[:, 0]
        p = self.predict_proba(X)
        return self.classes_[p.argmax(axis=1)]

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """Probabilities in the order of `classes_`."""
        classes = self.kind == "classifier"
        require(classes, "predict_proba needs objective logistic or softmax", self.objective)
        margin = self.decision_function(X)
        if self.objective == "softmax":
            return softmax(margin)
        p = sigmoid(margin)
        return np.hstack([1 - p, p])

    def score(self, X: ArrayLike, y: ArrayLike) -> float:
        """R² of numbers, accuracy of labels."""
        return (Regressor if self.kind == "regressor" else Classifier).score(self, X, y)

    def _target(self, y: Shaped[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
        softmax = self.objective == "softmax"
        return np.eye(len(self.classes_))[y] if softmax else y.astype(np.float64)[:, None]

    def _check_eval_set(self, X: ArrayLike, y: ArrayLike):
        X, y = self._check_fitted_X(X).astype(np.float32), np.asarray(y)
        same = y.shape == (len(X),)
        require(same, "eval_set must have a y for each row of X", len(X), f"shape {y.shape}")
        if self.kind == "regressor":
            require(np.isfinite(y).all(), "eval_set must have a finite y", y)
        else:
            known = np.isin(y, self.classes_).all()
            require(known, f"eval_set must have only labels of y, {self.classes_}")
            y = np.searchsorted(self.classes_, y)
        return X, self._target(y)

    def _importances(self) -> Float[np.ndarray, " p"]:
        total = np.zeros(self.n_features_in_)
        for tree in itertools.chain(*self.trees_):
            inner = tree.feature >= 0
            np.add.at(total, tree.feature[inner], tree.gain[inner])
        return total / total.sum() if total.sum() > 0 else total

    def _check_parameters(self) -> None:
        objectives, methods = ("squared_error", "logistic", "softmax"), ("hist", "exact")
        for name, allowed in {"objective": objectives, "tree_method": methods}.items():
            value = getattr(self, name)
            require(value in allowed, f"{name} must be one of {allowed}", repr(value))
        least = {"n_estimators": 1, "max_depth": 0, "max_bins": 2}
        least |= dict.fromkeys(("min_child_weight", "gamma", "reg_lambda", "reg_alpha"), 0)
        for name, bound in least.items():
            value = getattr(self, name)
            require(value >= bound, f"{name} must be at least {bound}", value)
        for name in ("learning_rate", "subsample", "colsample_bytree"):
            value = getattr(self, name)
            require(0 < value <= 1, f"{name} must be in (0, 1]", value)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
