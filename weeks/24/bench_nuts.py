"""How many gradients per second, beside numpyro's compiled loop? A normal of 100 dimensions.

uv run study bench 24
"""

import statistics
import time

import numpy as np

from week24.hmc_nuts import nuts, sample
from week24.jax_twins import ask
from week24.posteriors import gaussian, random_covariance

DRAWS = 500  # and as many before them, to tune


def bench(repeats: int = 5) -> dict:
    """NUTS on one chain, tuned by each itself; numpyro's compilation is not counted.

    Parameters
    ----------
    repeats
        How often ours is timed; numpyro's is the second of two runs, in a process of its own.
    """
    covariance = random_covariance(100, 100.0, np.random.default_rng(0))
    target, times = gaussian(covariance), []
    for seed in range(repeats):
        start = time.perf_counter()
        rng = np.random.default_rng(seed)
        found = sample(target, np.zeros((1, 100)), nuts(), DRAWS, DRAWS, rng)
        gradients = found.warmup_leapfrogs + int(found.n_leapfrogs.sum())
        times.append((time.perf_counter() - start) / gradients)
    ours = statistics.median(times)
    request = {"job": "speed", "model": "gaussian", "data": {"covariance": covariance.tolist()}}
    (answer,) = ask([request | {"chains": 1, "n_warmup": DRAWS, "n_draws": DRAWS, "seed": 0}])
    theirs = answer["seconds_per_gradient"]
    return {
        "name": "NUTS, one gradient, 100 dimensions, against numpyro",
        "ours_seconds": ours,
        "reference_seconds": theirs,
        "ratio": ours / theirs,
        "limit": 5.0,
        "equal_work": f"{1 / ours:,.0f} gradients per second here, {1 / theirs:,.0f} there",
    }
