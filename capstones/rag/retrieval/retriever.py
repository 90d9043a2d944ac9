"""Search a store: words and vectors, made one, smoothed, asked again, and ranked again.

    words -> bm25 --+                                    +-> feedback: a better query, once more
                    +-> fusion -> smoothing -> the best -+
    text -> dense --+                                    +-> re-ranking -> hits

Each step is a stage: its milliseconds stand in `Results.stages`, and what it gave a chunk in
`Hit.stages`. A filter holds from the first step on, so k hits are found whenever k chunks pass it.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from rag.retrieval import feedback, fusion, rerank
from rag.retrieval.mmr import mmr
from rag.retrieval.settings import RetrievalSettings
from rag.retrieval.smoothing import smooth
from rag.store.reading import Reading
from rag.store.records import embedded
from rag.types import Chunk, Found, Hit, Results, Stage
from shared.errors import UserError
from shared.require import require

Rows = Int[np.ndarray, " m"]
BATCH = 256


class Trace:
    """What each stage of a search found, and how long it took."""

    def __init__(self):
        self.stages: list[Stage] = []
        self.found: dict[str, Found] = {}

    def __call__(self, name: str, step: Callable[..., Found], *args, note: str = "") -> Found:
        """Take a step and keep its outcome."""
        start = time.perf_counter()
        found = step(*args)
        self.took(name, time.perf_counter() - start, len(found.rows), note)
        self.found[name] = found
        return found

    def took(self, name: str, seconds: float, n: int, note: str = "") -> None:
        """Keep how long something took."""
        self.stages.append(Stage(name, 1000 * seconds, n, note))

    def scores(self, rows: Rows) -> list[dict[str, float]]:
        """By row, its score in each stage that saw it."""
        seen: list[dict[str, float]] = [{} for _ in rows]
        for name, found in self.found.items():
            scores = dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))
            for row, stages in zip(rows.tolist(), seen, strict=True):
                if row in scores:
                    stages[name] = scores[row]
        return seen


class Retriever:
    """Searches a store by settings."""

    def __init__(self, store: Reading, settings: RetrievalSettings | None = None):
        self.store, self.settings = store, settings or RetrievalSettings()

    def search(
        self, query: str, *, k: int | None = None, where: str | Mapping[str, object] | None = None
    ) -> Results:
        """The best k chunks, the best first.

        Parameters
        ----------
        k
            How many; None is the settings'. Fewer come only if fewer chunks pass the filter, or,
            in bm25 mode, have a word of the query.
        where
            A filter of metadata, see `rag.store.filters`.
        """
        return next(self.search_many([query], k=k, where=where))

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int | None = None,
        where: str | Mapping[str, object] | None = None,
        vectors: Float[np.ndarray, "n dim"] | None = None,
    ) -> Iterator[Results]:
        """As `search`, of many queries: they are embedded in batches.

        Parameters
        ----------
        vectors
            Of the queries, where they are known.
        """
        k = self.settings.k if k is None else k
        require(k >= 1, "k must be at least 1", k, error=UserError)
        if len(self.store) == 0:
            yield from (Results(query, ()) for query in queries)
            return
        start = time.perf_counter()
        allowed = self.store.select(where)
        filtering = time.perf_counter() - start
        for at in range(0, len(queries), BATCH):
            batch = queries[at : at + BATCH]
            start = time.perf_counter()
            known = None if vectors is None else vectors[at : at + BATCH]
            encoded = self.store.embedder.encode(batch) if known is None else known
            share = (time.perf_counter() - start) / len(batch)
            for query, vector in zip(batch, encoded, strict=True):
                trace = Trace()
                if allowed is not None:
                    trace.took("filter", filtering, len(allowed))
                trace.took("embedding", share, 1)
                yield self._search(query, vector, k, allowed, trace)

    # ---- one query

    def _search(
        self,
        query: str,
        vector: Float[np.ndarray, " dim"],
        k: int,
        allowed: Rows | None,
        trace: Trace,
    ) -> Results:
        if not query.strip():
            return Results(query, (), tuple(trace.stages))
        settings = self.settings
        words: Mapping[str, float] = Counter(self.store.terms(query))
        found = self._rank(words, vector, k, allowed, trace)
        if settings.feeds_back and len(found.rows) > 1:
            words, vector = self._ask_again(words, vector, found.rows, trace)
            found = self._rank(words, vector, k, allowed, trace, " again")
        if settings.rerank != "none":
            found = trace(settings.rerank, self._rerank, query, vector, k, found)
        rows = found.rows[:k]
        chunks = self.store.chunks(rows.tolist())
        scores = found.scores[:k].tolist()
        parts = zip(chunks, rows.tolist(), scores, trace.scores(rows), strict=True)
        return Results(query, tuple(Hit(*part) for part in parts), tuple(trace.stages))

    def _rank(
        self,
        words: Mapping[str, float],
        vector: Float[np.ndarray, " dim"],
        k: int,
        allowed: Rows | None,
        trace: Trace,
        again: str = "",
    ) -> Found:
        settings, store = self.settings, self.store
        depth = max(k, settings.depth)
        runs = []
        if settings.mode != "dense":
            runs.append(trace("bm25" + again, store.lexical, words, depth, allowed))
        wordless = bool(runs) and len(runs[0].rows) == 0
        if settings.mode != "bm25" or wordless:
            note = "no chunk has a word of the query" if wordless else ""
            runs.append(trace("dense" + again, store.dense, vector, depth, allowed, note=note))
        found = runs[-1]
        if settings.mode == "hybrid":
            found = trace("fusion" + again, self._fuse, runs, words, vector)
        if settings.smooths:
            found = trace("smoothing" + again, self._smooth, found)
        return found

    def _fuse(
        self, runs: list[Found], words: Mapping[str, float], vector: Float[np.ndarray, " dim"]
    ) -> Found:
        """One ranking; but for RRF, what one index did not name gets its score there too."""
        if self.settings.fusion == "rrf":
            return fusion.rrf(runs)
        rows = np.union1d(runs[0].rows, runs[1].rows)
        if len(rows) == 0:
            return runs[0]
        lexical = np.zeros(len(rows))
        scored = self.store.lexical(words, len(rows), rows)
        lexical[np.searchsorted(rows, scored.rows)] = scored.scores
        dense = (self.store.vectors(rows) @ vector).astype(np.float64)
        weight = self.settings.weight if self.settings.fusion == "weighted" else 0.5
        return fusion.weighted([Found(rows, lexical), Found(rows, dense)], [1 - weight, weight])

    def _smooth(self, found: Found) -> Found:
        settings = self.settings
        scores = smooth(
            fusion.unit(found.scores),
            self.store.vectors(found.rows),
            neighbors=settings.smoothing_neighbors,
            weight=settings.smoothing_weight,
            power=settings.smoothing_power,
        )
        return fusion.ranked(found.rows, scores)

    def _ask_again(
        self,
        words: Mapping[str, float],
        vector: Float[np.ndarray, " dim"],
        rows: Rows,
        trace: Trace,
    ) -> tuple[Mapping[str, float], Float[np.ndarray, " dim"]]:
        """The query, moved towards the best results, as far as these agree."""
        start, settings = time.perf_counter(), self.settings
        near = rows[: 4 * settings.feedback_documents].tolist()
        best: dict[str, tuple[int, Chunk]] = {}  # of each document its best chunk
        for row, chunk in zip(near, self.store.chunks(near), strict=True):
            best.setdefault(chunk.document, (row, chunk))
        taken = list(best.values())[: settings.feedback_documents]
        vectors = self.store.vectors([row for row, _ in taken])
        trust = feedback.cohesion(vectors) ** settings.feedback_power
        terms = [self.store.terms(embedded(chunk)) for _, chunk in taken]
        weight = trust * settings.term_weight
        words = feedback.expand(words, terms, n_terms=settings.feedback_terms, weight=weight)
        vector = feedback.rocchio(vector, vectors, weight=trust * settings.vector_weight)
        seconds = time.perf_counter() - start
        trace.took("feedback", seconds, len(taken), f"trusted {trust:.2f}: {' '.join(words)}")
        return words, vector

    def _rerank(self, query: str, vector: Float[np.ndarray, " dim"], k: int, found: Found) -> Found:
        """The first results, in another order."""
        settings = self.settings
        depth = max(k, settings.rerank_depth)
        first = found.rows[:depth]
        if settings.rerank == "mmr":
            order = mmr(vector, self.store.vectors(first), k, settings.mmr_lambda)
            return Found(first[order], 1 / np.arange(1.0, len(order) + 1))
        texts = [embedded(chunk) for chunk in self.store.chunks(first.tolist())]
        if settings.rerank == "late":
            tokens_of = getattr(self.store.embedder, "token_vectors", None)
            must = "rerank late needs an embedder with vectors of tokens, minilm"
            require(tokens_of, must, self.store.embedder.name, error=UserError)
            tokens = tokens_of([query, *texts])
            scores = rerank.late_interaction(tokens[0], tokens[1:])
        else:
            scores = rerank.cross_encoder(settings.rerank, query, texts)
        runs = [Found(first, found.scores[:depth]), Found(first, scores)]
        weight = settings.rerank_weight
        return fusion.weighted(runs, [1 - weight, weight])
