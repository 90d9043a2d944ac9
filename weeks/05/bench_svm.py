"""How long do hard margins take beside LIBSVM's? Both on one thread, in turns.

uv run study bench 05
"""

from shared import datasets
from week05.bench_boosting import in_turns
from week05.svm import SVC


def bench(repeats: int = 5) -> dict:
    """Separate tumors by a plane at C = 1,000; medians of seconds, and support vectors."""
    from sklearn.svm import SVC as Reference

    table = datasets.bundled("breast_cancer")
    X, y = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0), table.target
    kinds = (SVC, Reference)
    fits = [lambda kind=kind: kind(C=1e3, kernel="linear").fit(X, y) for kind in kinds]
    (ours, theirs), models = in_turns(fits, repeats)
    return {
        "name": f"SVM, {len(X)} tumors, linear, C = 1000, against scikit-learn (LIBSVM)",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 4.0,
        "equal_work": "{} and {} support vectors".format(*(len(m.support_) for m in models)),
    }
