"""What the rows of the benchmark are measured on: texts, vectors, and both sides' stores.

Texts are Wikipedia's, or Python's manual where that cannot be had. Vectors are generated, so that
no row waits for a model: all sides are given the same.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
from jaxtyping import Float

from rag.benchmark.measure import clustered
from rag.documents.chunkers import chunk
from rag.documents.sources import read
from rag.store.store import Store
from rag.types import Document
from shared import datasets
from shared.errors import UserError
from shared.measuring import seconds
from shared.require import require

DIM, SIZE = 384, 200


class Generated:
    """An embedder without a model: a text's vector follows from its checksum."""

    name, digest, dim = "generated", "generated", DIM

    @cached_property
    def _pool(self) -> Float[np.ndarray, "n dim"]:
        return clustered(5000, DIM)

    def encode(self, texts: Sequence[str]) -> Float[np.ndarray, "n dim"]:
        """One vector per text: of 5,000, each with its numbers turned by some places."""
        sums = np.array([crc32(text.encode()) for text in texts], np.int64)
        which, turn = sums % len(self._pool), sums // len(self._pool)
        return self._pool[which[:, None], (np.arange(DIM) + turn[:, None]) % DIM]


def for_langchain(embedder: Generated) -> Any:
    """The same embedder for LangChain."""
    from langchain_core.embeddings import Embeddings

    class Theirs(Embeddings):
        """Under LangChain's names."""

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return embedder.encode(texts).tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return Theirs()


class World:
    """What all rows share: chunks as documents, queries, and our store of them.

    Parameters
    ----------
    n
        How many chunks; fewer if the texts end before.
    """

    def __init__(self, n: int, n_queries: int, say: Callable[[str], None]):
        require(n >= 100, "n must be at least 100", n, error=UserError)
        self._temporary = tempfile.TemporaryDirectory(prefix="rag-bench-")
        self.folder, self.say = Path(self._temporary.name), say
        self.ours, self.theirs = self.folder / "store", self.folder / "langchain"
        self.embedder = Generated()
        try:
            datasets.wikipedia(1)
            self.source = "wikipedia"
        except UserError:
            self.source = "pydocs"
        pieces = (
            piece
            for document in read(self.source)
            if isinstance(document, Document)
            for piece in chunk(document, size=SIZE, overlap=0)
        )
        self.documents = [
            Document(piece.id, piece.text, metadata={"part": i % 100})
            for i, piece in enumerate(islice(pieces, n))
        ]
        rng = np.random.default_rng(0)
        chosen = [
            self.documents[i].text.split()
            for i in rng.integers(len(self.documents), size=n_queries)
        ]
        self.queries = [" ".join(words[len(words) // 3 :][:6]) for words in chosen]
        self.vectors = clustered(n_queries, DIM, seed=2)

    @cached_property
    def built(self) -> tuple[float, Store]:
        """Seconds to make our store, on the disk, and the store."""
        store = Store.create(self.ours, embedder=self.embedder, splitter="whole")
        took, _ = seconds(lambda: store.ingest(self.documents))
        self.say(f"our store of {len(store):,} chunks: {took:.1f} s")
        return took, store

    @cached_property
    def langchain(self) -> tuple[float, Any]:
        """Seconds to make LangChain's FAISS store, on the disk, and the store."""
        from langchain_community.vectorstores import FAISS

        texts = [d.text for d in self.documents]
        vectors = list(self.embedder.encode(texts))

        def make() -> Any:
            store = FAISS.from_embeddings(
                zip(texts, vectors, strict=True),
                for_langchain(self.embedder),
                metadatas=[dict(d.metadata) for d in self.documents],
            )
            store.save_local(str(self.theirs))
            return store

        took, store = seconds(make)
        self.say(f"LangChain's FAISS: {took:.1f} s")
        return took, store
