r"""Cross-validation: every sample is tested once, by a model that never saw it.

Cut the data into $K$ folds, train on all but one and test on that one:

$$\mathrm{CV} = \frac1K \sum_{k=1}^K \frac{1}{|F_k|} \sum_{i \in F_k}
  s\big(y_i, \hat f^{\,-k}(x_i)\big) .$$

The sum is honest only if *everything* that looks at $y$ happens inside $\hat f^{\,-k}$: feature
selection, scaling, tuning. And its $K$ terms share training data, so they are not independent:
what that means for telling two models apart is in `comparison.py`.

>>> [test.tolist() for train, test in KFold(2).split(np.zeros((5, 1)))]
[[0, 1, 2], [3, 4]]
>>> X, y = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array([0, 0, 1, 1])
>>> hits = lambda true, predicted: (true == predicted).mean()
>>> cross_val_score(NearestNeighbor, X, y, StratifiedKFold(2), hits)
array([1., 1.])
>>> cross_val_score(NearestNeighbor, X, y, KFold(2), hits)  # sorted: never sees the tested class
array([0., 0.])

    uv run weeks/06/cross_validation.py

Source: Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009), section
7.10; Varma and Simon, "Bias in error estimation when using cross-validation for model selection"
(2006).
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Num, Shaped

from shared.arguments import checked
from shared.require import require

Table = Num[np.ndarray, "n features"]
Target = Shaped[np.ndarray, " n"]
Split = tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]
Score = Callable[[np.ndarray, np.ndarray], float]


@runtime_checkable
class Splitter(Protocol):
    """What cuts samples into training and test indices."""

    def split(
        self, X: Table, y: Target | None = None, groups: Target | None = None
    ) -> Iterator[Split]:
        """Yield training and test indices."""
        ...


@dataclass(frozen=True)
class KFold:
    """Folds of nearly equal size, in order or shuffled.

    Parameters
    ----------
    shuffle
        Mix the samples first; without it, sorted data gives folds of one kind each.
    random_state
        Seed of the mixing, as scikit-learn uses it (the same seed gives the same folds).
    """

    n_splits: int = 5
    shuffle: bool = False
    random_state: int | None = None

    @checked
    def split(
        self, X: Table, y: Target | None = None, groups: Target | None = None
    ) -> Iterator[Split]:
        """Yield training and test indices of each fold."""
        _check_splits(self.n_splits, len(X), "samples")
        order = np.arange(len(X))
        if self.shuffle:
            # scikit-learn's generator, so that the folds can be compared index by index.
            np.random.RandomState(self.random_state).shuffle(order)
        for fold in np.array_split(order, self.n_splits):
            yield _split_at(np.isin(np.arange(len(X)), fold))


@dataclass(frozen=True)
class StratifiedKFold:
    """Folds in which every class has its share, to the nearest sample; see `KFold`."""

    n_splits: int = 5
    shuffle: bool = False
    random_state: int | None = None

    @checked
    def split(
        self, X: Table, y: Target | None = None, groups: Target | None = None
    ) -> Iterator[Split]:
        """Yield training and test indices of each fold."""
        if y is None or len(y) != len(X):
            raise ValueError(f"y must hold a class for each of {len(X)} samples")
        _, first, inverse = np.unique(y, return_index=True, return_inverse=True)
        codes = np.argsort(np.argsort(first))[inverse]  # classes by first appearance
        _check_splits(self.n_splits, int(np.bincount(codes).min()), "samples of the rarest class")
        rng = np.random.RandomState(self.random_state) if self.shuffle else None
        ordered, fold_of = np.sort(codes), np.empty(len(y), dtype=np.int64)
        for code in range(len(first)):
            # Deal the sorted classes round robin: how many of this class does each fold get?
            shares = [
                int((ordered[k :: self.n_splits] == code).sum()) for k in range(self.n_splits)
            ]
            folds = np.repeat(np.arange(self.n_splits), shares)
            if rng is not None:
                rng.shuffle(folds)
            fold_of[codes == code] = folds
        for fold in range(self.n_splits):
            yield _split_at(fold_of == fold)


@dataclass(frozen=True)
class GroupKFold:
    """Folds that never share a group: the largest group left goes to the lightest fold."""

    n_splits: int = 5

    @checked
    def split(
        self, X: Table, y: Target | None = None, groups: Target | None = None
    ) -> Iterator[Split]:
        """Yield training and test indices of each fold."""
        if groups is None or len(groups) != len(X):
            raise ValueError(f"groups must hold a group for each of {len(X)} samples")
        names, inverse = np.unique(groups, return_inverse=True)
        _check_splits(self.n_splits, len(names), "groups")
        sizes = np.bincount(inverse)
        load, fold_of = np.zeros(self.n_splits, dtype=np.int64), np.empty(len(names), np.int64)
        for group in np.argsort(sizes, kind="stable")[::-1]:
            fold_of[group] = load.argmin()
            load[fold_of[group]] += sizes[group]
        for fold in range(self.n_splits):
            yield _split_at(fold_of[inverse] == fold)


@checked
def cross_val_score(
    make: Callable[[], Any],
    X: Table,
    y: Target,
    splitter: Splitter,
    score: Score,
    *,
    groups: Target | None = None,
) -> Float[np.ndarray, " folds"]:
    """Score of a fresh model on each fold.

    Parameters
    ----------
    make
        Returns a new model with `fit(X, y)` and `predict(X)`. A factory and not a model, so that
        nothing learned on one fold can reach the next.
    score
        `score(y_true, y_pred)`, larger is better.
    """
    require(len(X) == len(y), "X and y must have as many samples", len(X), len(y))
    scores = []
    for train, test in splitter.split(X, y, groups):
        model = make()
        model.fit(X[train], y[train])
        scores.append(float(score(y[test], model.predict(X[test]))))
    return np.array(scores)


@checked
def nested_cross_val_score(
    make: Callable[..., Any],
    grid: Mapping[str, Sequence[Any]],
    X: Table,
    y: Target,
    outer: Splitter,
    inner: Splitter,
    score: Score,
) -> tuple[Float[np.ndarray, " folds"], list[dict[str, Any]]]:
    """Score of *tuning and then fitting*, tuned on the training part of each outer fold alone.

    Parameters
    ----------
    make
        Returns a new model with the given parameters.
    grid
        Values to try for each parameter; of equals, the first wins.

    Returns
    -------
    scores, chosen
        One score and one choice for each outer fold. The scores judge the whole procedure, not
        any of the choices.
    """
    named = bool(grid) and all(len(values) for values in grid.values())
    require(named, "grid must name at least one value for each parameter", dict(grid))
    candidates = [
        dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())
    ]
    chosen: list[dict[str, Any]] = []
    scores = []
    for train, test in outer.split(X, y):
        means = [
            cross_val_score(lambda c=c: make(**c), X[train], y[train], inner, score).mean()
            for c in candidates
        ]
        chosen.append(candidates[int(np.argmax(means))])
        model = make(**chosen[-1])
        model.fit(X[train], y[train])
        scores.append(float(score(y[test], model.predict(X[test]))))
    return np.array(scores), chosen


# ---- two small models and the classic trap


class NearestNeighbor:
    """Predict the class of the nearest training sample."""

    @checked
    def fit(self, X: Table, y: Target) -> "NearestNeighbor":
        """Remember."""
        self.X_, self.y_ = X, y
        return self

    @checked
    def predict(self, X: Table) -> Target:
        """Look up; |x|² is the same for every candidate and left out."""
        distance = (self.X_**2).sum(axis=1) - 2 * X @ self.X_.T
        return self.y_[distance.argmin(axis=1)]


class NearestMean:
    """Predict the class (0 or 1) whose mean is nearer, in the chosen columns."""

    def __init__(self, columns: slice = slice(None)):
        self.columns = columns

    @checked
    def fit(self, X: Table, y: Target) -> "NearestMean":
        """Average each class."""
        zero, one = (X[y == label, self.columns].mean(axis=0) for label in (0, 1))
        self.direction_, self.middle_ = one - zero, (one + zero) / 2
        return self

    @checked
    def predict(self, X: Table) -> Int[np.ndarray, " n"]:
        """Which side of the plane half-way between the means?"""
        return ((X[:, self.columns] - self.middle_) @ self.direction_ > 0).astype(np.int64)


@checked
def most_correlated(X: Table, y: Target, k: int) -> Int[np.ndarray, " k"]:
    """Columns of X that correlate most with y, in absolute value."""
    require(1 <= k <= X.shape[1], f"k must be between 1 and n_features = {X.shape[1]}", k)
    centered, target = X - X.mean(axis=0), y - y.mean()
    spread = np.sqrt((centered**2).sum(axis=0))
    correlation = np.abs(target @ centered) / np.where(spread > 0, spread, np.inf)
    return np.argsort(-correlation, kind="stable")[:k]


class SelectThenFit:
    """Select features *inside* `fit`, where cross-validation can see it; then 1-NN."""

    def __init__(self, k: int):
        self.k = k

    @checked
    def fit(self, X: Table, y: Target) -> "SelectThenFit":
        """Choose columns by the training samples alone."""
        self.columns_ = most_correlated(X, y, self.k)
        self.model_ = NearestNeighbor().fit(X[:, self.columns_], y)
        return self

    @checked
    def predict(self, X: Table) -> Target:
        """Predict from the chosen columns."""
        return self.model_.predict(X[:, self.columns_])


def _check_splits(n_splits: int, most: int, of_what: str) -> None:
    must = f"n_splits must be between 2 and the number of {of_what} = {most}"
    require(2 <= n_splits <= most, must, n_splits)


def _split_at(test: np.ndarray) -> Split:
    return np.flatnonzero(~test), np.flatnonzero(test)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
