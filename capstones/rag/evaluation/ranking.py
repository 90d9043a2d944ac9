"""Judge a retriever on a test collection: every query, documents instead of chunks.

Fusion is compared with what it is made of, and each refinement with fusion, pair by pair.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from rag.evaluation.beir import Beir, without_identical
from rag.evaluation.metrics import METRICS, Values, collapse, evaluate, means
from rag.evaluation.significance import Comparison, compare
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Store

BASE = RetrievalSettings(fusion="minmax", smoothing=False, feedback=False)
SYSTEMS = {
    "bm25": replace(BASE, mode="bm25"),
    "dense": replace(BASE, mode="dense"),
    "reciprocal ranks": replace(BASE, fusion="rrf"),
    "min-max": replace(BASE, fusion="minmax"),
    "weighted": replace(BASE, fusion="weighted"),
    "weighted, smoothed": RetrievalSettings(feedback=False),
    "the default": RetrievalSettings(),
}
FUSED = "min-max"


class Judged(NamedTuple):
    """A system's run, its metrics by query and on average, and how it compares with fusion."""

    run: dict[str, dict[str, float]]
    values: Values
    means: dict[str, float]
    over_fusion: Comparison | None


def search_all(
    retriever: Retriever,
    queries: Mapping[str, str],
    *,
    k: int = 100,
    vectors: Float[np.ndarray, "n dim"] | None = None,
    identical: bool = False,
) -> dict[str, dict[str, float]]:
    """Scores of the best documents by query; a document has that of its best chunk.

    Parameters
    ----------
    k
        How many documents at most.
    vectors
        Of the queries, in their order, where they are known.
    identical
        Whether to keep a document that has the query's own id.
    """
    documents = max(len(retriever.store.documents()), 1)
    deeper = -(-len(retriever.store) // documents)  # chunks of a document, on average
    found = retriever.search_many(list(queries.values()), k=(k + 1) * deeper, vectors=vectors)
    run = {}
    for query, results in zip(queries, found, strict=True):
        names = [hit.chunk.document for hit in results.hits]
        run[query] = collapse(names, [hit.score for hit in results.hits])
    run = run if identical else without_identical(run)
    return {query: dict(list(of.items())[:k]) for query, of in run.items()}


def judge(
    store: Store,
    collection: Beir,
    *,
    systems: Mapping[str, RetrievalSettings] = SYSTEMS,
    metrics: Sequence[str] = METRICS,
    k: int = 100,
    identical: bool = False,
) -> dict[str, Judged]:
    """Every system on every query; the first metric is the one that is compared."""
    vectors = store.embedder.encode(list(collection.queries.values()))
    judged: dict[str, Judged] = {}
    for name, settings in systems.items():
        retriever = Retriever(store, settings)
        run = search_all(retriever, collection.queries, k=k, vectors=vectors, identical=identical)
        values = evaluate(run, collection.qrels, metrics)
        judged[name] = Judged(run, values, means(values), None)
    fused = judged.get(FUSED)
    if fused is None or len(collection.queries) < 2:
        return judged
    return {
        name: system._replace(over_fusion=compare(system.values, fused.values, metrics[0]))
        for name, system in judged.items()
    }
