"""`rag bench`: the benchmark, row by row, against what a user would otherwise write.

    rag bench
    rag bench lexical filters

Each row goes into the record as soon as it is measured, all sides in one run, with one thread.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rag.benchmark import rows as measured
from rag.benchmark.crossover import crossover
from rag.benchmark.growth import growth
from rag.benchmark.measure import RECORD
from shared.measuring import check_rows, pinned, read_record, save

ROWS = {
    "lexical": measured.lexical,
    "stages": measured.stages,
    "filters": measured.filters,
    "opening": measured.opening,
    "again": measured.again,
    "memory": measured.memory,
    "haystack": measured.haystack,
    "crossover": crossover,
}
FEW = {"crossover": {"clients": (1, 2), "chunks": 50, "seconds": 0.2}}  # in a quick trial
KNOWN = (*ROWS, "growth")


def bench(
    rows: Sequence[str] = (),
    *,
    chunks: int = 100_000,
    queries: int = 100,
    out: Path = RECORD,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure rows, all if none is named, and put each into the record.

    Parameters
    ----------
    chunks
        How many chunks of text the stores hold.
    quick
        A few hundred chunks and vectors, to see that it runs; no number means anything.

    Returns
    -------
    record
        With everything it held before.
    """
    check_rows(rows, KNOWN, out=out, record=RECORD, quick=quick)
    chosen = list(rows) or list(KNOWN)
    chunks, queries = (200, 3) if quick else (chunks, queries)
    import faiss  # noqa: F401 (loaded before threads are pinned)

    with pinned():
        if "growth" in chosen:
            sizes = {"sizes": (300, 1500), "n_queries": 5} if quick else {}
            save(out, "growth", growth(**sizes, say=say), quick=quick)
        if any(name in ROWS for name in chosen):
            world = measured.World(chunks, queries, say)
            say(f"{len(world.documents):,} chunks of {world.source}")
            for name, measure in ROWS.items():
                if name in chosen:
                    row = measure(world, **(FEW.get(name, {}) if quick else {}))
                    save(out, name, row | {"source": world.source}, quick=quick)
    return read_record(out)
