"""Seconds that mean the same on every machine.

Machines that run the log differ by a factor of three. A small fixed piece of work, the kinds that
the scripts do, is timed beside a recorded run, and its time is divided out.
"""

import time

import numpy as np
from threadpoolctl import threadpool_limits

__all__ = ["calibrate", "reference_seconds"]

REFERENCE = 0.066  # seconds that one round takes on the reference machine, a two-core laptop
ROUNDS = 30


def _work() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((300, 300)).astype(np.float32)
    for _ in range(40):  # matrix products
        a = np.tanh(a @ a.T / 300)
    for _ in range(10):  # memory and sorting
        np.sort(rng.standard_normal(100_000))
    total = 0
    for i in range(1_000_000):  # the interpreter
        total += i & 7


def calibrate() -> float:
    """How many times slower than the reference machine this one is, in about 2 s.

    The fastest of many rounds on one thread: what else runs now slows it least, and threads that
    wait for each other not at all.
    """
    times = []
    with threadpool_limits(1):
        for _ in range(ROUNDS):
            start = time.perf_counter()
            _work()
            times.append(time.perf_counter() - start)
    return min(times) / REFERENCE


def reference_seconds(seconds: float) -> float:
    """Seconds measured here, as the reference machine would have taken."""
    return seconds / calibrate()
