"""The store against brute force, against itself reopened, and against filters in plain Python."""

import pytest
from tiny_store import Hashed, make_documents, make_store

from rag.store.store import Store
from rag.types import Document
from shared.artifacts import ArtifactError
from shared.errors import UserError


def test_round_trip(tmp_path):
    given = make_documents(40)
    with make_store(tmp_path / "s") as store:
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
    given = make_documents(20)
    with make_store(tmp_path / "s") as store:
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
    with make_store(tmp_path / "s") as store:
        store.ingest(make_documents(70))
        allowed = store.select("page == 3")
        vector = Hashed().encode(["road car"])[0]
        found = store.dense(vector, 10, allowed)
        assert sorted(found.rows) == allowed.tolist() == list(range(3, 70, 7))


def test_other_embedder(tmp_path):
    make_store(tmp_path / "s").close()
    other = Hashed()
    other.digest = "another"
    with pytest.raises(ArtifactError, match=r"holds vectors of hashed \(16 numbers"):
        Store.open(tmp_path / "s", embedder=other)
    with pytest.raises(ArtifactError, match=r"is no store: store\.sqlite is missing"):
        Store.open(tmp_path, embedder=other)


@pytest.mark.parametrize(
    "changed",
    [
        Document("a", "tea milk", "T", {"n": 1}),
        Document("a", "tea", "Another", {"n": 1}),
        Document("a", "tea", "T", {"n": 2}),
        Document("a", "tea", "T", {"n": 1}, (0,)),
    ],
)
def test_any_change_is_a_change(tmp_path, changed):
    with make_store(tmp_path / "s") as store:
        store.ingest([Document("a", "tea", "T", {"n": 1})])
        assert store.ingest([changed]) == (0, 1, 0, 0, 1)
        assert store.document("a") == changed
        assert store.chunks(store.rows_of("a"))[0].metadata == changed.metadata
