"""The tables of week 04, and how they are split."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from shared import datasets
from shared.study import Run, UserError

Table = tuple[Float[np.ndarray, "n p"], Shaped[np.ndarray, " n"]]


def diabetes() -> Table:
    """442 patients, 10 measurements each, and how their diabetes went on in a year (25 to 346)."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True, scaled=False)
    datasets.note("scikit-learn's diabetes, unscaled", X.tobytes() + y.tobytes())
    return X, y


def breast_cancer() -> Table:
    """569 tumors, 30 measurements each; 0 is malignant, 1 benign."""
    table = datasets.bundled("breast_cancer")
    return table.data, table.target


def digits() -> Table:
    """1797 digits of 8 by 8 pixels, 0 to 1."""
    data = datasets.digits()
    return data.images.reshape(len(data.images), -1) / data.images.max(), data.labels


def housing(run: Run) -> Table:
    """California's districts without missing values; the target in thousands of dollars.

    Where the file is not there, and in the quick run, generated districts take its place.
    """
    try:
        if run.mode == "quick":
            raise UserError("the quick run reads no files")
        data = datasets.california_housing()
    except UserError:
        run.chose(districts="generated")
        return generated_districts(run.budget(quick=3600, default=20_000), np.random.default_rng(0))
    run.chose(districts="california_housing")
    whole = np.isfinite(data.features).all(axis=1)
    return data.features[whole], data.target[whole] / 1e3


def generated_districts(n: int, rng: np.random.Generator) -> Table:
    """Eight columns as in the census (median income last) and a value that is mostly linear."""
    longitude, latitude = rng.normal(-119.6, 2.0, n), rng.normal(35.6, 2.1, n)
    age, rooms = rng.uniform(1.0, 52.0, n), rng.lognormal(7.6, 0.7, n)
    bedrooms, population = 0.2 * rooms * rng.lognormal(0, 0.2, n), rng.lognormal(7.0, 0.7, n)
    households, income = population / rng.lognormal(1.0, 0.25, n), rng.gamma(4.0, 1.0, n)
    value = 40 * income + 1.1 * age - 4 * (latitude - 35.6) + rng.normal(0.0, 60.0, n) + 20
    columns = (longitude, latitude, age, rooms, bedrooms, population, households, income)
    return np.column_stack(columns), value


def split(
    n: int, n_test: int, *seed: int
) -> tuple[Int[np.ndarray, " train"], Int[np.ndarray, " test"]]:
    """Indices of a random training and test set."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n_test:], order[:n_test]


def rmse(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Root mean squared difference."""
    return float(np.sqrt(np.mean((a - b) ** 2)))
