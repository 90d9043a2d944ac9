"""How long do least squares of half the rank take beside LAPACK's? One thread, in turns.

uv run study bench 01
"""

import statistics
import time

import numpy as np
from threadpoolctl import threadpool_limits

from week01.matrix_decompositions import least_squares


def bench(repeats: int = 5) -> dict:
    """Solve a 500 × 200 system of rank 100 with both; medians of seconds, and how they differ."""
    rng = np.random.default_rng(0)
    A, b = rng.normal(size=(500, 100)) @ rng.normal(size=(100, 200)), rng.normal(size=500)
    solvers = {"ours": least_squares, "theirs": lambda A, b: np.linalg.lstsq(A, b)[0]}
    seconds, x = {name: [] for name in solvers}, {}
    with threadpool_limits(1):
        for _ in range(5 * repeats + 1):
            for name, solve in solvers.items():
                start = time.perf_counter()
                x[name] = solve(A, b)
                seconds[name].append(time.perf_counter() - start)
    ours, theirs = (statistics.median(times[1:]) for times in seconds.values())
    apart = np.abs(x["ours"] - x["theirs"]).max() / np.abs(x["theirs"]).max()
    return {
        "name": "least squares, 500 × 200 of rank 100, against numpy.linalg.lstsq",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 4.0,
        "equal_work": f"solutions {apart:.0e} apart",
    }
