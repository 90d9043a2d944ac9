"""The store against brute force, against itself reopened, and against filters in plain Python."""

import hashlib

import numpy as np
import pytest

from rag.store.store import Store
from rag.types import Document
from shared.artifacts import ArtifactError
from shared.errors import UserError


class Hashed:
    """An embedder for tests: each word has a random direction."""

    name, digest, dim = "hashed", "hashed-16", 16

    def encode(self, texts):
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "little")
                vector += np.random.default_rng(seed).standard_normal(self.dim).astype("f")
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)


def make(folder, **options):
    return Store.create(folder, embedder=Hashed(), **{"splitter": "whole"} | options)


def documents(n, seed=0, first=0):
    words = ["tea", "milk", "water", "road", "car", "wheel", "sun", "rain", "fog", "wind"]
    draw = np.random.default_rng(seed)
    return [
        Document(f"d{i}.md", " ".join(draw.choice(words, 6)), f"Title {i}", {"page": i % 7})
        for i in range(first, first + n)
    ]


def test_round_trip(tmp_path):
    given = documents(40)
    with make(tmp_path / "s") as store:
        assert store.ingest(given) == (40, 0, 0, 0, 40)
        assert [store.document(d.id) for d in given] == given
        rows, scores = store.dense(Hashed().encode(["tea tea milk"])[0], 5)
    with Store.open(tmp_path / "s", embedder=Hashed()) as again:
        assert len(again) == 40
        found = again.dense(Hashed().encode(["tea tea milk"])[0], 5)
        assert found.rows.tolist() == rows.tolist()
        assert found.scores.tolist() == scores.tolist()
        assert again.ingest(given) == (0, 0, 40, 0, 0)
        assert again.generation == 1


def test_update_delete_prune(tmp_path):
    given = documents(20)
    with make(tmp_path / "s") as store:
        store.ingest(given)
        new = Document("d3.md", "fog fog fog", "Title 3", {"page": 3})
        assert store.ingest([new]) == (0, 1, 0, 0, 1)
        assert store.rows_of("d3.md") == [20]
        assert store.lexical("fog", 20).rows[0] == 20
        assert store.delete(["d3.md", "never"]) == 1
        with pytest.raises(UserError, match=r"document must be in the store, got 'd3\.md'"):
            store.document("d3.md")
        assert store.ingest(given[:5], prune=True) == (1, 0, 4, 15, 1)
        assert [d.id for d in store.documents()] == [f"d{i}.md" for i in range(5)]
        assert store.rows_of("d3.md") == [21]


def test_filter_before_top_k(tmp_path):
    with make(tmp_path / "s") as store:
        store.ingest(documents(70))
        allowed = store.select("page == 3")
        vector = Hashed().encode(["road car"])[0]
        found = store.dense(vector, 10, allowed)
        assert sorted(found.rows) == allowed.tolist() == list(range(3, 70, 7))


def test_other_embedder(tmp_path):
    make(tmp_path / "s").close()
    other = Hashed()
    other.digest = "another"
    with pytest.raises(ArtifactError, match=r"holds vectors of hashed \(16 numbers"):
        Store.open(tmp_path / "s", embedder=other)
    with pytest.raises(ArtifactError, match=r"is no store: store\.sqlite is missing"):
        Store.open(tmp_path, embedder=other)
