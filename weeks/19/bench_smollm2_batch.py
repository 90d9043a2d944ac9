"""How fast does SmolLM2 write eight texts at once beside transformers' `generate`?

uv run study bench 19
"""

from week19 import bench_smollm2


def bench(repeats: int = 5) -> dict:
    """Week 19's benchmark of one text, for eight.

    Parameters
    ----------
    repeats
        How often each is timed, in turns; one more round of both warms up.
    """
    return bench_smollm2.bench(repeats, batch=8, limit=1 / 2)
