"""How long do our trees take beside xgboost's? Both on one thread, in turns, in one process.

uv run study bench 05
"""

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from shared import datasets
from shared.study import UserError
from week05.gradient_boosting import GradientBoosting

ROUNDS, SETTINGS = 100, {"learning_rate": 0.1, "max_depth": 6}


def bench(repeats: int = 5) -> dict:
    """Train both on three quarters of california_housing; medians of seconds, and the errors.

    The clock covers everything from the table to the model; both choose their own 256 bins. A
    generated table of the same size stands in where california_housing is not there.
    """
    import xgboost as xgb

    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
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

    seconds, models = {ours: [], theirs: []}, {}
    with threadpool_limits(1):
        for _ in range(repeats + 1):
            for fit, times in seconds.items():
                start = time.perf_counter()
                models[fit] = fit()
                times.append(time.perf_counter() - start)
    medians = {fit: statistics.median(times[1:]) for fit, times in seconds.items()}
    booster = models[theirs]
    predictions = {
        ours: models[ours].predict(X[test]),
        theirs: booster.predict(xgb.DMatrix(X[test].astype(np.float32), nthread=1)),
    }
    rmse = {fit: float(np.sqrt(np.mean((p - y[test]) ** 2))) for fit, p in predictions.items()}
    return {
        "name": f"gradient boosting, {len(train):,} rows of {name}, against xgboost",
        "ours_seconds": medians[ours],
        "reference_seconds": medians[theirs],
        "ratio": medians[ours] / medians[theirs],
        "limit": 15.0,
        "equal_work": f"test RMSE {rmse[ours]:.4f} and {rmse[theirs]:.4f}",
    }
