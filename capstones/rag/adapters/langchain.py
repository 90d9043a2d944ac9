"""Our parts as LangChain's, so that they fit into anybody's chain; only langchain-core is needed.

    store = RagVectorStore(Store.open("notes"))
    retriever = RagRetriever(retriever=Retriever(Store.open("notes")))
    model = RagChatModel(model=open_model("smollm2"))
    print(chain(retriever, model).invoke("How is a list sorted?"))

A store that was made with the splitter `whole` gives back each document as it was added, as
LangChain's stores do; of one that cuts, chunks are found, with where they stand in their metadata.
Scores are inner products of vectors of length 1: cosines, greater for what is more alike.
"""

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangDocument
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from rag.store.store import Store
from rag.types import Chunk, Document, Embedder, Found

Filter = str | Mapping[str, object] | None


class LangEmbedder:
    """LangChain's embeddings as an `Embedder`.

    Parameters
    ----------
    name
        What tells it from other models; its vector of a fixed text is looked at as well.
    """

    def __init__(self, embeddings: Embeddings, name: str = ""):
        self.embeddings = embeddings
        self.name = f"langchain:{name or type(embeddings).__name__}"
        probe = self.encode(["The quick brown fox."])
        self.dim = probe.shape[1]
        # Rounded, so that another processor does not make another model of it.
        seen = f"{self.name} {np.round(probe[0], 2) + 0.0}"
        self.digest = hashlib.sha256(seen.encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """The model's vectors, made of length 1."""
        vectors = np.array(self.embeddings.embed_documents(list(texts)), np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


class RagEmbeddings(Embeddings):
    """An `Embedder` as LangChain's embeddings."""

    def __init__(self, embedder: Embedder):
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """A vector for each text."""
        return self.embedder.encode(texts).tolist()

    def embed_query(self, text: str) -> list[float]:
        """The vector of one text."""
        return self.embed_documents([text])[0]


class RagVectorStore(VectorStore):
    """A store as LangChain's vector store.

    Parameters
    ----------
    store
        A `Store`, or a `PostgresStore`.
    """

    def __init__(self, store: Any):
        self.store = store

    @property
    def embeddings(self) -> Embeddings:
        """The store's embedder."""
        return RagEmbeddings(self.store.embedder)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict] | None = None,
        *,
        ids: list[str] | None = None,
        folder: Path | str,
        **options: Any,
    ) -> "RagVectorStore":
        """A new store in a folder; the other options are those of `Store.create`."""
        options = {"splitter": "whole"} | options
        store = cls(Store.create(folder, embedder=LangEmbedder(embedding), **options))
        store.add_texts(texts, metadatas, ids=ids)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add documents, in place of those with the same id; of an id given twice, the last."""
        texts = list(texts)
        names = [name or str(uuid.uuid4()) for name in ids or [None] * len(texts)]
        facts = list(metadatas) if metadatas is not None else [{}] * len(texts)
        given = zip(names, texts, facts, strict=True)
        self.store.ingest({id: Document(id, text, "", fact) for id, text, fact in given}.values())
        return names

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents, or all if no ids are given; one that is not there is no mistake."""
        every = (info.id for info in self.store.documents())
        self.store.delete(list(every if ids is None else ids))
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[LangDocument]:
        """The documents with these ids, of those that are there."""
        found = [self.store.document(id) for id in ids if id in self.store]
        return [LangDocument(d.text, id=d.id, metadata=dict(d.metadata)) for d in found]

    def similarity_search(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[LangDocument]:
        """The k documents most like a query; k of those that pass the filter, if there are k."""
        return [found for found, _ in self.similarity_search_with_score(query, k, filter)]

    def similarity_search_by_vector(
        self, embedding: list[float], k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[LangDocument]:
        """The k documents most like a vector."""
        return self._documents(self._search(np.array(embedding, np.float32), k, filter).rows)

    def similarity_search_with_score(
        self, query: str, k: int = 4, filter: Filter = None, **kwargs: Any
    ) -> list[tuple[LangDocument, float]]:
        """The same with their cosines, the greatest first."""
        found = self._search(self._vector(query), k, filter)
        return list(zip(self._documents(found.rows), found.scores.tolist(), strict=True))

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        filter: Filter = None,
        **kwargs: Any,
    ) -> list[LangDocument]:
        """The k of the best `fetch_k` that are like the query and unlike one another."""
        vector = self._vector(query)
        rows = self._search(vector, fetch_k, filter).rows
        vectors = list(self.store.vectors(rows)) if len(rows) else []
        best = maximal_marginal_relevance(vector, vectors, lambda_mult, k)
        return self._documents(rows[best])

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # A cosine is a similarity already; 1 minus it would turn the order around.
        return lambda cosine: min(max(cosine, 0.0), 1.0)

    def _vector(self, text: str) -> Float[np.ndarray, " dim"]:
        return self.store.embedder.encode([text])[0]

    def _search(self, vector: Float[np.ndarray, " dim"], k: int, where: Filter) -> Found:
        return self.store.dense(vector, k, self.store.select(where))

    def _documents(self, rows: Iterable[int] | np.ndarray) -> list[LangDocument]:
        return [self._document(chunk) for chunk in self.store.chunks(rows)]

    def _document(self, chunk: Chunk) -> LangDocument:
        if len(self.store.rows_of(chunk.document)) == 1:
            return LangDocument(chunk.text, id=chunk.document, metadata=dict(chunk.metadata))
        return as_document(chunk)


class RagRetriever(BaseRetriever):
    """Our retriever, all stages of it, as LangChain's.

    Attributes
    ----------
    retriever
        A `rag.retrieval.retriever.Retriever`.
    k
        How many documents; the retriever's settings say if not given.
    where
        A filter, see `rag.store.filters`.
    """

    retriever: Any
    k: int | None = None
    where: Any = None

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[LangDocument]:
        found = self.retriever.search(query, k=self.k, where=self.where)
        return [as_document(hit.chunk, score=hit.score) for hit in found.hits]


def as_document(chunk: Chunk, **facts: float) -> LangDocument:
    """A chunk, with where it stands among its metadata."""
    where = {"document": chunk.document, "start": chunk.start, "end": chunk.end}
    metadata = {**chunk.metadata, **where, **facts}
    return LangDocument(chunk.text, id=chunk.id, metadata=metadata)
