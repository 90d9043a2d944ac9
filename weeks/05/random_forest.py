r"""Random forests: many trees on resampled rows, each node seeing a few features, averaged.

The mean of $B$ predictions, each of variance $\sigma^2$ and any two correlated by $\rho$, has the
variance

$$ \rho \sigma^2 + \frac{1 - \rho}{B} \sigma^2 , $$

so more trees help only down to $\rho \sigma^2$, and bootstrap and feature sampling are there to
lower $\rho$. A bootstrap sample leaves out a row with probability $(1 - 1/n)^n \to e^{-1}$: the
trees that never saw a row (out of bag, OOB) test it for free.

>>> X = np.arange(20.0)[:, None]
>>> forest = RandomForestClassifier(25).fit(X, X[:, 0] > 8)
>>> forest.oob_score_, forest.predict([[3.0], [15.0]]).tolist()
(0.95, [False, True])

    uv run weeks/05/random_forest.py

Source: L. Breiman, *Random Forests* (Machine Learning 45, 2001); Hastie, Tibshirani and Friedman,
*The Elements of Statistical Learning* (2nd edition, 2009), chapter 15, equation 15.1.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped
from numpy.typing import ArrayLike

from shared.require import require
from week04.estimator import Classifier, Estimator, Regressor, check_classes, check_X, check_X_y
from week05.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor


def bootstrap_counts(n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """How often each of n rows is drawn in n draws with replacement."""
    require(n >= 1, "n must be at least 1", n)
    return np.bincount(rng.integers(0, n, n), minlength=n)


@dataclass(eq=False, repr=False)
class _Forest(Estimator):
    """What both kinds of forest share; parameters as in `RandomForestClassifier`."""

    n_estimators: int = 100
    _: KW_ONLY
    max_features: int | float | Literal["sqrt"] = "sqrt"
    max_depth: int | None = None
    min_samples_leaf: int = 1
    bootstrap: bool = True
    random_state: int = 0

    precision = np.float32

    def fit(self, X: ArrayLike, y: ArrayLike) -> "_Forest":
        """Grow the trees, and let every row be judged by those that have not seen it."""
        require(self.n_estimators >= 1, "n_estimators must be at least 1", self.n_estimators)
        classes = isinstance(self, Classifier)
        X, y = check_X_y(X, y, classes=classes, precision=self.precision)
        n, self.n_features_in_ = X.shape
        options = {"max_depth": self.max_depth, "min_samples_leaf": self.min_samples_leaf}
        options |= {"max_features": self._features_per_node()}
        codes, k = y, 1
        if classes:
            self.classes_, codes = check_classes(y)
            k = len(self.classes_)
        kind = DecisionTreeClassifier if classes else DecisionTreeRegressor
        rng = np.random.default_rng(self.random_state)
        self.trees_, votes, judges = [], np.zeros((n, k)), np.zeros(n)
        for _ in range(self.n_estimators):
            counts = bootstrap_counts(n, rng) if self.bootstrap else np.ones(n, dtype=int)
            tree = kind(**options, random_state=int(rng.integers(2**31)))
            # Drawn twice counts twice: weights do what copies of the rows would.
            tree.fit(X, codes, sample_weight=counts)
            self.trees_.append(tree)
            out = counts == 0
            if out.any():
                votes[out] += _vote(tree, X[out])
                judges[out] += 1
        self.feature_importances_ = np.mean([t.feature_importances_ for t in self.trees_], axis=0)
        if self.bootstrap:
            self._judge_out_of_bag(codes, votes, judges)
        return self

    def _judge_out_of_bag(
        self,
        codes: Shaped[np.ndarray, " n"],
        votes: Float[np.ndarray, "n k"],
        judges: Float[np.ndarray, " n"],
    ) -> None:
        judged = judges > 0
        mean = votes / np.where(judged, judges, np.nan)[:, None]  # NaN where every tree saw the row
        if isinstance(self, Classifier):
            self.oob_decision_function_ = mean
            right = mean[judged].argmax(axis=1) == codes[judged]
            self.oob_score_ = float(right.mean()) if judged.any() else math.nan
        else:
            self.oob_prediction_ = mean[:, 0]
            y = codes[judged]
            residual = ((y - mean[judged, 0]) ** 2).sum()
            self.oob_score_ = float(1 - residual / ((y - y.mean()) ** 2).sum())

    def _mean_vote(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        X = self._check_fitted_X(X)
        return np.mean([_vote(tree, X) for tree in self.trees_], axis=0)

    def _features_per_node(self) -> int:
        p, wanted = self.n_features_in_, self.max_features
        share = isinstance(wanted, float) and 0 < wanted <= 1
        number = isinstance(wanted, int) and 1 <= wanted <= p
        must = f"max_features must be 'sqrt', a share in (0, 1] or between 1 and {p}"
        require(wanted == "sqrt" or share or number, must, repr(wanted))
        if number:
            return wanted
        return max(1, int(wanted * p) if share else math.isqrt(p))


@dataclass(eq=False, repr=False)
class RandomForestClassifier(_Forest, Classifier):
    """Trees that vote with the label shares of their leaves.

    Parameters
    ----------
    max_features
        Features that a node may choose from, drawn anew each time: a number, a share, or the
        square root of all (``sqrt``).
    bootstrap
        Whether each tree sees n rows drawn with replacement, or all rows once.

    Attributes
    ----------
    oob_score_ : accuracy of the votes of those trees that have not seen a row (only if bootstrap)
    oob_decision_function_ : (n, k), NaN for a row that every tree has seen
    feature_importances_ : (p,), what the splits on a feature took off the impurity, its share

    References
    ----------
    Breiman (2001), definition 1.1 and section 3.1 (out of bag).
    """

    def predict_proba(self, X: ArrayLike) -> Float[np.ndarray, "n k"]:
        """The mean of the trees' label shares."""
        return self._mean_vote(X)

    def predict(self, X: ArrayLike) -> Shaped[np.ndarray, " n"]:
        """The likeliest labels."""
        votes = self._mean_vote(X)
        return self.classes_[votes.argmax(axis=1)]


@dataclass(eq=False, repr=False)
class RandomForestRegressor(_Forest, Regressor):
    """Trees whose predictions are averaged; as the classifier, but a node sees all features."""

    max_features: int | float | Literal["sqrt"] = 1.0

    def predict(self, X: ArrayLike) -> Float[np.ndarray, " n"]:
        """The mean of the trees."""
        return self._mean_vote(X)[:, 0]


def permutation_importance(
    model: Estimator,
    X: ArrayLike,
    y: ArrayLike,
    *,
    n_repeats: int = 5,
    rng: np.random.Generator,
) -> Float[np.ndarray, "p repeat"]:
    """By how much the score falls when a feature's column is shuffled.

    Unlike the importance from impurity it can be measured on rows that the model has not seen, and
    does not favor features with many values.

    References
    ----------
    Breiman (2001), section 10.
    """
    require(n_repeats >= 1, "n_repeats must be at least 1", n_repeats)
    X = check_X(X, allow_nan=model.allow_nan, precision=model.precision)
    whole, falls = model.score(X, y), np.empty((X.shape[1], n_repeats))
    for j in range(X.shape[1]):
        shuffled = X.copy()
        for r in range(n_repeats):
            shuffled[:, j] = rng.permutation(X[:, j])
            falls[j, r] = whole - model.score(shuffled, y)
    return falls


def _vote(
    tree: DecisionTreeClassifier | DecisionTreeRegressor, X: Float[np.ndarray, "n p"]
) -> Float[np.ndarray, "n k"]:
    return tree.tree_.value[tree.apply(X)]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
