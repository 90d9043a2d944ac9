"""The same boosting by the library xgboost, on one thread."""

import itertools

import numpy as np
from jaxtyping import Float, Shaped

OBJECTIVES = {
    "squared_error": "reg:squarederror",
    "logistic": "binary:logistic",
    "softmax": "multi:softprob",
}


def fit_xgboost(
    X: Float[np.ndarray, "n p"],
    y: Shaped[np.ndarray, " n"],
    objective: str,
    rounds: int,
    *,
    tree_method: str = "hist",
    max_bins: int = 256,
    **settings,
):
    """Train; return the booster and the edges of its bins (None for the exact method)."""
    import xgboost as xgb

    settings |= {"objective": OBJECTIVES[objective], "tree_method": tree_method, "nthread": 1}
    if objective == "softmax":
        settings["num_class"] = len(np.unique(y))
    X = X.astype(np.float32)
    if tree_method == "exact":
        return xgb.train(settings, xgb.DMatrix(X, y, nthread=1), rounds), None
    data = xgb.QuantileDMatrix(X, y, max_bin=max_bins, nthread=1)
    starts, cuts = data.get_quantile_cut()
    # The first cut of a feature lies below everything and is no edge.
    edges = [cuts[a + 1 : b] for a, b in itertools.pairwise(starts.astype(int))]
    return xgb.train(settings | {"max_bin": max_bins}, data, rounds), edges


def xgboost_margin(booster, X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n k"]:
    """Margins of a booster."""
    import xgboost as xgb

    data = xgb.DMatrix(X.astype(np.float32), nthread=1)
    return booster.predict(data, output_margin=True).reshape(len(X), -1)
