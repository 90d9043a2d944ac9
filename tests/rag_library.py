"""A library of a few documents in memory, for tests of what stands above the store."""

from collections.abc import Iterator
from threading import Event

import numpy as np

from rag.documents.chunkers import sentences
from rag.types import Chunk, Document, Hit, Results, Stage
from week12.bm25 import BM25
from week12.preprocessing import terms


class Letters:
    """Embeds a text by its stems, hashed into a few dimensions; similar words, similar vectors."""

    name, digest, dim = "letters", "0", 64

    def encode(self, texts):
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for term in terms(text) or ["nothing"]:
                row[sum(map(ord, term)) % self.dim] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Library:
    """Store and retriever in one: a chunk is two sentences, the best by BM25 come first."""

    def __init__(self, texts: dict[str, str]):
        self.store, self.embedder = self, Letters()
        self.documents = {name: Document(name, text, title=name) for name, text in texts.items()}
        self.chunks = []
        for document in self.documents.values():
            spans = sentences(document.text)
            for i in range(0, len(spans), 2):
                start, end = spans[i][0], spans[min(i + 1, len(spans) - 1)][1]
                self.chunks.append(Chunk.of(document, start, end))
        names = [str(i) for i in range(len(self.chunks))]
        self.bm25 = BM25().add(names, [terms(chunk.text) for chunk in self.chunks])

    def __len__(self) -> int:
        return len(self.chunks)

    def frequency(self, term: str) -> int:
        return int(np.count_nonzero(self.bm25.scores([term])))

    def document(self, name: str) -> Document:
        return self.documents[name]

    def search(self, query: str, *, k: int | None = None, where=None) -> Results:
        scores = self.bm25.scores(terms(query))
        cosines = (
            self.embedder.encode([c.text for c in self.chunks]) @ (self.embedder.encode([query])[0])
        )
        best = np.argsort(-scores, kind="stable")[: k or 5]
        hits = [
            Hit(
                self.chunks[i],
                int(i),
                float(scores[i]),
                {"bm25": float(scores[i]), "dense": float(cosines[i])},
            )
            for i in best
        ]
        return Results(query, tuple(hits), (Stage("bm25", 0.0, len(hits)),))


class Parrot:
    """A model that says what it was told to, piece by piece, and keeps what it was asked."""

    def __init__(self, *answers: str, size: int = 3, room: int = 10**6):
        self.answers, self.size, self.room = list(answers), size, room
        self.name, self.note, self.asked = "parrot", "", []
        self.closed = 0

    def fits(self, messages, max_new_tokens):
        return sum(len(m["content"]) for m in messages) + max_new_tokens <= self.room

    def stream(
        self, messages, *, max_new_tokens=160, seed=0, temperature=0.0, stop: Event | None = None
    ) -> Iterator[str]:
        self.asked.append(messages)
        said = self.answers[(len(self.asked) - 1) % len(self.answers)]
        try:
            for i in range(0, len(said), self.size):
                if stop is not None and stop.is_set():
                    return
                yield said[i : i + self.size]
        finally:
            self.closed += 1


TEA = {
    "tea.md": "Green tea is brewed at 80 degrees. Black tea needs boiling water. Tea was first"
    " drunk in China. Legend names the emperor Shennong as its discoverer.",
    "coffee.md": "Coffee is made of roasted beans. An espresso takes about 25 seconds. Coffee was"
    " first drunk in Yemen. It is not brewed with milk.",
    "paper.md": "Paper was invented in China by Cai Lun. It is made of fibers. A sheet of A4 paper"
    " weighs 5 grams. Recycled paper is not bleached.",
}
