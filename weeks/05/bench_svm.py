"""How long do our machines take beside LIBSVM's, at their worst? One thread, in turns.

uv run study bench 05
"""

import numpy as np

from shared import datasets
from week05.bench_boosting import in_turns
from week05.svm import SVC


def bench(repeats: int = 5) -> dict:
    """Hard and soft margins, planes and kernels; medians of seconds, and support vectors."""
    from sklearn.svm import SVC as Reference

    table = datasets.bundled("breast_cancer")
    X, y = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0), table.target
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(600, 10))
    flipped = (Z[:, 0] + Z[:, 1] > 0) ^ (rng.random(600) < 0.1)
    cases = {
        "tumors, linear, C = 1000": (X, y, {"C": 1e3, "kernel": "linear"}),
        "tumors, RBF, C = 10,000": (X, y, {"C": 1e4}),
        "tumors, RBF, C = 1": (X, y, {}),
        "10% flipped labels, linear, C = 100": (Z, flipped, {"C": 100, "kernel": "linear"}),
        "10% flipped labels, RBF, C = 100": (Z, flipped, {"C": 100}),
    }
    results = []
    for name, (data, labels, options) in cases.items():
        fits = [lambda k=kind: k(**options).fit(data, labels) for kind in (SVC, Reference)]  # noqa: B023
        (ours, theirs), models = in_turns(fits, repeats)
        vectors = "{} and {} support vectors".format(*(len(m.support_) for m in models))
        results.append((ours / theirs, ours, theirs, name, vectors))
    ratio, ours, theirs, name, vectors = max(results)
    return {
        "name": f"SVM, the worst of {len(cases)} cases: {name}, against scikit-learn (LIBSVM)",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ratio,
        "limit": 4.0,
        "equal_work": vectors,
    }
