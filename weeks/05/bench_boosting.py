"""How long do our trees take beside xgboost's? Both on one thread, in turns, in one process.

uv run study bench 05
"""

import statistics
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from shared import datasets
from shared.require import require
from shared.study import UserError
from week05.gradient_boosting import GradientBoosting

ROUNDS, SETTINGS = 100, {"learning_rate": 0.1, "max_depth": 6}


def in_turns(fits: list[Callable], repeats: int) -> tuple[list[float], list]:
    """Call each in turn on one thread; medians of seconds after the first round, last results."""
    require(repeats >= 1, "repeats must be at least 1", repeats)
    seconds, results = [[] for _ in fits], [None for _ in fits]
    with threadpool_limits(1):
        for _ in range(repeats + 1):
            for i, fit in enumerate(fits):
                start = time.perf_counter()
                results[i] = fit()
                seconds[i].append(time.perf_counter() - start)
    return [statistics.median(times[1:]) for times in seconds], results


def bench(repeats: int = 5) -> dict:
    """Train both on three quarters of california_housing; medians of seconds, and the errors.

    The clock covers everything from the table to the model; both choose their own 256 bins. A
    generated table of the same size stands in where california_housing is not there.
    """
    import xgboost as xgb

    rng = np.random.default_rng(0)
    try:
        housing = datasets.california_housing()
        name = "california_housing"
        codes = np.unique(housing.ocean_proximity, return_inverse=True)[1]
        X, y = np.c_[housing.features, codes], np.log(housing.target)
    except UserError:
        name = "generated"
        X = rng.normal(size=(20640, 9))
        y = np.sin(X[:, 0]) + X[:, 1] * X[:, 2] + rng.normal(size=len(X))
    order = rng.permutation(len(X))
    train, test = order[len(X) // 4 :], order[: len(X) // 4]

    def ours():
        return GradientBoosting(n_estimators=ROUNDS, **SETTINGS).fit(X[train], y[train])

    def theirs():
        data = xgb.DMatrix(X[train].astype(np.float32), y[train], nthread=1)
        settings = {**SETTINGS, "nthread": 1, "tree_method": "hist", "max_bin": 256}
        return xgb.train(settings, data, ROUNDS)

    (ours_seconds, theirs_seconds), models = in_turns([ours, theirs], repeats)
    booster = models[1]
    predictions = {
        ours: models[0].predict(X[test]),
        theirs: booster.predict(xgb.DMatrix(X[test].astype(np.float32), nthread=1)),
    }
    rmse = {fit: float(np.sqrt(np.mean((p - y[test]) ** 2))) for fit, p in predictions.items()}
    return {
        "name": f"gradient boosting, {len(train):,} rows of {name}, against xgboost",
        "ours_seconds": ours_seconds,
        "reference_seconds": theirs_seconds,
        "ratio": ours_seconds / theirs_seconds,
        "limit": 15.0,
        "equal_work": f"test RMSE {rmse[ours]:.4f} and {rmse[theirs]:.4f}",
    }
