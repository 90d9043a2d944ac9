"""Three real tables for week 05, small enough to be used within a minute."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from shared import datasets
from shared.study import Run, UserError


class Table(NamedTuple):
    """A table with its categories twice: as numbers in one column, and as a column a category.

    Attributes
    ----------
    coded, one_hot
        The features, NaN where missing; for splits at thresholds and for linear models.
    target
        Numbers, or 0 and 1.
    """

    name: str
    coded: Float[np.ndarray, "n p"]
    one_hot: Float[np.ndarray, "n q"]
    target: Shaped[np.ndarray, " n"]


def generated(name: str, n: int, rng: np.random.Generator, classes: bool) -> Table:
    """A stand-in where a download is not there: additive, with an interaction, holes and codes."""
    X, group = rng.normal(size=(n, 5)), rng.integers(0, 4, n)
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * (group == 2) + 0.3 * rng.normal(size=n)
    X[rng.random(X.shape) < 0.1] = np.nan
    target = (y > np.median(y)).astype(int) if classes else y
    return Table(name, np.c_[X, group], np.c_[X, np.eye(4)[group]], target)


def load_tables(run: Run, n: int) -> list[Table]:
    """California housing (log of the value), adult and breast cancer, at most n rows each."""
    from sklearn.datasets import load_breast_cancer

    rng = np.random.default_rng([run.seed, 5])
    tables = []
    for name, load in (("california_housing", _housing), ("adult", _adult)):
        try:
            tables.append(load(n, rng))
        except UserError:
            run.say(f"{name} is not here (study fetch {name}): a generated table takes its place")
            tables.append(generated(f"generated for {name}", n, rng, name == "adult"))
    X, y = load_breast_cancer(return_X_y=True)
    chosen = rng.permutation(len(X))[:n]
    return [*tables, Table("breast cancer", X[chosen], X[chosen], y[chosen])]


def _housing(n: int, rng: np.random.Generator) -> Table:
    housing = datasets.california_housing()
    chosen = rng.permutation(len(housing.target))[:n]
    X, y = housing.features[chosen], np.log(housing.target[chosen])
    names, code = np.unique(housing.ocean_proximity[chosen], return_inverse=True)
    return Table("california_housing", np.c_[X, code], np.c_[X, np.eye(len(names))[code]], y)


def _adult(n: int, rng: np.random.Generator) -> Table:
    import pandas as pd

    features, target = datasets.adult()
    chosen = rng.permutation(len(target))[:n]
    frame = features.iloc[chosen]
    words = frame.select_dtypes(exclude="number").columns
    coded = frame.copy()
    for name in words:
        codes = pd.Categorical(frame[name]).codes.astype(float)
        coded[name] = np.where(codes < 0, np.nan, codes)
    one_hot = pd.get_dummies(frame, columns=list(words), dtype=float)
    return Table("adult", coded.to_numpy(float), one_hot.to_numpy(float),
                 target[chosen].astype(int))  # fmt: skip
