"""Three tables for boosting, small enough to be used within a minute."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Shaped

from shared import datasets
from shared.study import Run, UserError


class Table(NamedTuple):
    """A table with its categories twice: as numbers in one column, and as a column per category.

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

    @property
    def classes(self) -> bool:
        """Whether the target is a class."""
        return self.target.dtype.kind == "i"


def load_tables(run: Run, n: int) -> list[Table]:
    """California housing (log of the value), adult and breast cancer, at most n rows each.

    Where a download is not there, and in the quick run, a generated table takes its place.
    """
    rng = np.random.default_rng([run.seed, 5])
    tables = []
    for name, load in (("california_housing", _housing), ("adult", _adult)):
        try:
            if run.mode == "quick":
                raise UserError("the quick run reads no files")
            tables.append(load(n, rng))
        except UserError:
            tables.append(generated(f"generated for {name}", n, rng, name == "adult"))
    cancer = datasets.bundled("breast_cancer")
    X, chosen = cancer.data, rng.permutation(len(cancer.data))[:n]
    tables.append(Table("breast cancer", X[chosen], X[chosen], cancer.target[chosen]))
    run.chose(tables=", ".join(table.name for table in tables))
    return tables


def generated(name: str, n: int, rng: np.random.Generator, classes: bool) -> Table:
    """A stand-in: additive, with an interaction, holes and codes."""
    X, group = rng.normal(size=(n, 5)), rng.integers(0, 4, n)
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.5 * (group == 2) + 0.3 * rng.normal(size=n)
    X[rng.random(X.shape) < 0.1] = np.nan
    target = (y > np.median(y)).astype(int) if classes else y
    return Table(name, np.c_[X, group], np.c_[X, np.eye(4)[group]], target)


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
    one_hot = pd.get_dummies(frame, columns=list(words), dtype=float).to_numpy(float)
    return Table("adult", coded.to_numpy(float), one_hot, target[chosen].astype(int))
