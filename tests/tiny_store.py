"""A small store for tests: an embedder without a model, and documents without a file."""

import hashlib
from pathlib import Path

import numpy as np

from rag.store.store import Store
from rag.types import Document

WORDS = ["tea", "milk", "water", "road", "car", "wheel", "sun", "rain", "fog", "wind"]


class Hashed:
    """Each word has a random direction."""

    name, digest, dim = "hashed", "hashed-16", 16

    def encode(self, texts):
        """Sums of the words' directions, of length 1."""
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
                vector += np.random.default_rng(seed).standard_normal(self.dim).astype("f")
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def make_store(folder: Path, **options) -> Store:
    """A new store that leaves documents uncut."""
    return Store.create(folder, embedder=Hashed(), **{"splitter": "whole"} | options)


def open_store(folder: Path) -> Store:
    """The same, opened again."""
    return Store.open(folder, embedder=Hashed())


def make_documents(n: int, seed: int = 0) -> list[Document]:
    """Six words each; many have equals."""
    draw = np.random.default_rng(seed)
    return [
        Document(f"d{i}.md", " ".join(draw.choice(WORDS, 6)), f"Title {i}", {"page": i % 7})
        for i in range(n)
    ]


def content(store: Store) -> tuple:
    """Everything that a reader can see, except the numbers of rows."""
    rows = store.files.rows
    chunks = store.chunks(rows)
    places = sorted(range(len(rows)), key=lambda i: (chunks[i].document, chunks[i].start))
    vectors = store.vectors(rows)[places].tobytes() if len(rows) else b""
    scores = store.bm25.scores(store.terms("tea rain road road"))[places].tobytes()
    documents = [store.document(info.id) for info in store.documents()]
    return documents, [chunks[i] for i in places], vectors, scores
