"""Growth: what a thousand times as many vectors cost with each of the store's indexes.

Vectors are generated: clustered, of 64 numbers, so that a million of them fit anywhere. Each index
is written and opened as the store does, built with all cores and searched with one. Recall is
against the exact search among the same vectors.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag.benchmark.measure import clustered, each, times
from rag.store import generation
from shared import plots
from shared.measuring import seconds
from week12.bm25 import BM25

DIM, K = 64, 10
SIZES = (1_000, 10_000, 100_000, 1_000_000)
MOST = {"flat": 1_000_000, "ivf": 1_000_000, "sq8": 1_000_000, "hnsw": 100_000}


def growth(
    sizes: Sequence[int] = SIZES,
    *,
    n_queries: int = 100,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Seconds to build, queries per second and recall@10 of every index at every size.

    A graph of more than 100,000 vectors takes longer to build than this benchmark may.
    """
    import faiss

    asked = clustered(n_queries, DIM, seed=9)
    lines = []
    for n in sizes:
        vectors, rows = clustered(n, DIM, seed=3), np.arange(n)
        exact: list[set[int]] = []
        for kind, most in MOST.items():
            if n > most:
                continue
            with tempfile.TemporaryDirectory(prefix="rag-growth-") as temporary:
                folder = Path(temporary) / "000001"
                faiss.omp_set_num_threads(os.cpu_count() or 1)
                took, _ = seconds(
                    lambda kind=kind, folder=folder, v=vectors, r=rows: generation.write(
                        folder, r, v, BM25(), kind
                    )
                )
                faiss.omp_set_num_threads(1)
                opened = generation.Generation(folder)
                found: list[set[int]] = []

                def search(vector: np.ndarray, of=opened, found=found) -> None:
                    found.append(set(of.dense(vector, K, None).rows.tolist()))

                taken = each(search, list(asked))
                size = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                used = opened.kind
                opened.close()
                shutil.rmtree(folder)
            found = found[1:]  # the first was to warm up
            exact = exact or found
            recall = float(np.mean([len(a & b) / K for a, b in zip(found, exact, strict=True)]))
            line = {"n": n, "index": kind, "used": used, "build_seconds": took, "bytes": size}
            lines.append(line | {"recall": recall, **times(taken)})
            say(f"{n:,} {kind}: {took:.1f} s, {lines[-1]['per_second']:.0f}/s, recall {recall:.3f}")
    return {"dim": DIM, "k": K, "lines": lines}


def draw(row: dict[str, Any], path: Path) -> None:
    """Queries per second by number of vectors; recall stands in the table."""
    figure, axes = plots.subplots(size=(7, 4))
    lines = {kind: [x for x in row["lines"] if x["index"] == kind] for kind in MOST}
    lines = {kind: of for kind, of in lines.items() if of}
    sizes = {kind: [x["n"] for x in of] for kind, of in lines.items()}
    speeds = {kind: [x["per_second"] for x in of] for kind, of in lines.items()}
    labels = {"xlabel": "vectors", "ylabel": "queries per second"}
    plots.curves(axes, sizes, speeds, marker="o", xscale="log", yscale="log", **labels)
    axes.axvline(generation.SCAN_UP_TO, color="0.6", lw=1, ls=":")
    axes.text(generation.SCAN_UP_TO, axes.get_ylim()[0], " all are scanned up to here", va="bottom")
    figure.suptitle("What does growth cost?", x=0.01, ha="left", weight="bold", size=13)
    plots.save(figure, path)
