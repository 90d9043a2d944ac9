"""Which of FAISS's indexes a store has, and why.

*Flat* compares with every vector: exact, in time that grows with their number. The others propose
candidates, which are then scored exactly: *ivf* looks into the few cells of a k-means partition
nearest to the query, *hnsw* walks a graph of neighbors, *sq8* is ivf with a byte per number, for
when the vectors do not fit into memory (they stay on the disk, mapped, for the last scores).

>>> choose("auto", 5_000)
('flat', '5,000 vectors are few enough to compare with each of them: results are exact')
"""

import math

import numpy as np
from jaxtyping import Float, Int

from shared.errors import UserError
from shared.require import require

KINDS = ("auto", "flat", "ivf", "hnsw", "sq8")
FLAT_UP_TO, IVF_UP_TO = 100_000, 1_000_000
LEAST = 1_000  # below it k-means has too little to learn from, and nothing is gained


def choose(kind: str, n: int) -> tuple[str, str]:
    """The kind for `n` vectors, and a sentence that says why."""
    require(kind in KINDS, f"index must be one of {', '.join(KINDS)}", repr(kind), error=UserError)
    if n < LEAST and kind != "auto":
        why = f"{n:,} vectors are too few for anything but to compare with each of them"
        return "flat", why
    if kind != "auto":
        return kind, "it was asked for"
    if n <= FLAT_UP_TO:
        why = f"{n:,} vectors are few enough to compare with each of them: results are exact"
        return "flat", why
    if n <= IVF_UP_TO:
        why = f"{n:,} vectors are many to compare with each: a query looks into the nearest cells"
        return "ivf", why
    return "sq8", f"{n:,} vectors fill the memory: candidates are found by a byte per number"


def build(kind: str, vectors: Float[np.ndarray, "n dim"], rows: Int[np.ndarray, " n"]):
    """A FAISS index of that kind over vectors of length 1, that answers with rows."""
    import faiss

    n, dim = vectors.shape
    metric = faiss.METRIC_INNER_PRODUCT
    if kind == "hnsw":
        graph = faiss.IndexHNSWFlat(dim, 32, metric)
        graph.hnsw.efConstruction, graph.hnsw.efSearch = 100, 128
        index = faiss.IndexIDMap2(graph)
    else:
        cells = max(1, min(int(4 * math.sqrt(n)), n // 39))  # 39: FAISS's least for k-means
        spec = f"IVF{cells},{'SQ8' if kind == 'sq8' else 'Flat'}"
        index = faiss.index_factory(dim, spec, metric)
        index.cp.seed, index.nprobe = 0, max(8, cells // 16)
        index.train(vectors[:: max(1, n // (256 * cells))])
    index.add_with_ids(vectors, rows)
    return index
