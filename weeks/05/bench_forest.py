"""How long does our forest take beside scikit-learn's? Both on one thread, in turns.

uv run study bench 05
"""

import numpy as np

from week05.bench_boosting import in_turns
from week05.random_forest import RandomForestClassifier


def bench(repeats: int = 5) -> dict:
    """Grow 100 trees on 2,000 rows of 20 numbers; medians of seconds, and the OOB accuracies."""
    from sklearn.ensemble import RandomForestClassifier as Reference

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 20))
    y = X[:, 0] + X[:, 1] * X[:, 2] + 0.5 * rng.normal(size=len(X)) > 0
    fits = [lambda: RandomForestClassifier(100).fit(X, y)]
    fits.append(lambda: Reference(100, oob_score=True, n_jobs=1, random_state=0).fit(X, y))
    (ours, theirs), models = in_turns(fits, repeats)
    return {
        "name": "random forest, 100 trees, 2,000 × 20, against scikit-learn",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 4.0,
        "equal_work": "out-of-bag accuracy {:.3f} and {:.3f}".format(
            *(m.oob_score_ for m in models)
        ),
    }
