"""What does an effective draw cost in seconds, beside numpyro's and blackjax's compiled loops?

uv run study bench 24
"""

import statistics
import time

import numpy as np

from week24.chains import nuts, sample_chains
from week24.hmc import State
from week24.jax_twins import ask, summary
from week24.posteriors import gaussian, random_covariance

CHAINS, DIM, WARMUP, DRAWS = 32, 100, 300, 100


def bench(repeats: int = 5) -> dict:
    """NUTS on a normal of 100 dimensions, 32 chains side by side; neither tuning nor compiling.

    Parameters
    ----------
    repeats
        How often ours is timed; theirs is the second of two runs, in a process of its own.
    """
    rng = np.random.default_rng(0)
    covariance = random_covariance(DIM, 100.0, rng)
    target, kernel = gaussian(covariance), nuts()
    found = sample_chains(target, np.zeros((CHAINS, DIM)), kernel, WARMUP, 1, rng)
    metric = np.array([one.inverse_mass for one in found.metrics])
    q = found.draws[:, -1]
    state, draws, times, gradients = State(q, np.zeros_like(q), *target(q)), [], [], 0
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(DRAWS):
            moved = kernel(target, state, found.step, metric, rng)
            state, gradients = moved.state, gradients + int(moved.n_leapfrogs.sum())
            draws.append(state.q)
        times.append(time.perf_counter() - start)
    ours = {"seconds": statistics.median(times), "gradients": gradients / repeats}
    ours["ess"] = summary(np.stack(draws, axis=1))["ess"] / repeats

    request = {"model": "gaussian", "data": {"covariance": covariance.tolist()}, "timed": True}
    request |= {"chains": CHAINS, "n_draws": DRAWS, "seed": 0}
    given = {"step": float(found.step.mean()), "inverse_mass": metric.mean(axis=0).tolist()}
    numpyro, blackjax = ask(
        [
            request | {"job": "numpyro", "n_warmup": WARMUP},
            request | {"job": "blackjax", "n_warmup": DRAWS, **given},
        ]
    )
    sides = {"ours": ours, "numpyro": numpyro, "blackjax": blackjax}
    speeds = [
        f"{name} {one['gradients'] / one['seconds']:,.0f} and {one['ess'] / one['seconds']:,.0f}"
        for name, one in sides.items()
    ]
    per_draw, theirs = (one["seconds"] / one["ess"] for one in (ours, numpyro))
    return {
        "name": "NUTS, one effective draw, 100 dimensions, 32 chains, against numpyro",
        "ours_seconds": per_draw,
        "reference_seconds": theirs,
        "ratio": per_draw / theirs,
        "limit": 5.0,
        "equal_work": f"gradients and effective draws per second: {'; '.join(speeds)}",
    }
