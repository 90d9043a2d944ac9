"""Seconds that mean the same on every machine.

Machines that run the log differ by a factor of three. A small fixed piece of work, the kinds that
the scripts do, is timed beside a recorded run, and its time is divided out.
"""

import statistics
import time

import numpy as np

__all__ = ["calibrate", "reference_seconds"]

REFERENCE = 0.40  # seconds that one round takes on the reference machine, a two-core laptop
ROUNDS = 5


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
    """How many times slower than the reference machine this one is just now (about 2 s)."""
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        _work()
        times.append(time.perf_counter() - start)
    return statistics.median(times) / REFERENCE


def reference_seconds(seconds: float) -> float:
    """Seconds measured here, as the reference machine would have taken."""
    return seconds / calibrate()
