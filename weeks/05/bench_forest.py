"""How long do our forests take beside scikit-learn's? Both on one thread, in turns.

uv run study bench 05
"""

import numpy as np

from week05 import random_forest
from week05.bench_boosting import in_turns


def bench(repeats: int = 5, n_trees: int = 50) -> dict:
    """The slower of classifier and regressor, on 2,000 rows of 20 numbers; out-of-bag scores."""
    from sklearn import ensemble

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=len(X))
    results = []
    for name, target in {"RandomForestClassifier": y > 0, "RandomForestRegressor": y}.items():
        mine = getattr(random_forest, name)(n_trees)
        other = getattr(ensemble, name)(n_trees, oob_score=True, n_jobs=1, random_state=0)
        fits = [lambda model=model, t=target: model.fit(X, t) for model in (mine, other)]
        (ours, theirs), models = in_turns(fits, repeats)
        scores = "out-of-bag score {:.3f} and {:.3f}".format(*(m.oob_score_ for m in models))
        results.append((ours / theirs, ours, theirs, name, scores))
    ratio, ours, theirs, name, scores = max(results)
    return {
        "name": f"random forests, the slower: {name}, {n_trees} trees, 2,000 × 20, scikit-learn",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ratio,
        "limit": 4.0,
        "equal_work": scores,
    }
