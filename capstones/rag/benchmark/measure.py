"""What rows of the benchmark share: medians, and vectors that lie as those of texts do.

>>> times([0.3, 0.1, 0.2])
{'p50_ms': 200.0, 'p95_ms': 290.0, 'per_second': 5.0}
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from shared.measuring import seconds

RECORD = Path(__file__).parents[1] / "results" / "bench.json"


def each(step: Callable[[Any], Any], items: Sequence[Any]) -> list[float]:
    """Seconds of a step for each item; the first is done once before, to warm up."""
    step(items[0])
    return [seconds(lambda item=item: step(item))[0] for item in items]


def times(taken: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in milliseconds, and how many per second at the median."""
    p50, p95 = np.percentile(taken, [50, 95])
    return {
        "p50_ms": round(1000 * float(p50), 6),
        "p95_ms": round(1000 * float(p95), 6),
        "per_second": float(1 / p50),
    }


def clustered(
    n: int, dim: int, *, seed: int = 0, clusters: int = 1000
) -> Float[np.ndarray, "n dim"]:
    """Unit vectors around random centers, as those of texts lie around subjects."""
    rng = np.random.default_rng(seed)
    centers = np.random.default_rng(1).standard_normal((clusters, dim), np.float32)
    vectors = rng.standard_normal((n, dim), np.float32)
    vectors += 1.5 * centers[rng.integers(clusters, size=n)]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
