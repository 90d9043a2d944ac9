"""Searches: modes, filters, stages, and queries that find nothing."""

from dataclasses import replace

import numpy as np
import pytest

from rag.embeddings.embedder import open_embedder
from rag.evaluation.ranking import BASE
from rag.retrieval import feedback, fusion
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Store
from rag.types import Document
from shared.errors import UserError

SUBJECTS = {
    "tea": "Green tea leaves steep in hot water. Black tea is stronger.",
    "coffee": "Coffee beans are roasted and ground. Espresso is strong coffee.",
    "wing": "A wing gives lift in the flow of air. Flow separates at a steep angle.",
    "heat": "Heat transfer in a boundary layer. Hot air flow over a plate gives heat.",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    documents = [
        Document(f"{name}/{i}", f"{text} Copy number {i}.", name.title(), {"i": i, "subject": name})
        for name, text in SUBJECTS.items()
        for i in range(10)
    ]
    folder = tmp_path_factory.mktemp("store") / "s"
    store = Store.create(folder, embedder=open_embedder("lsa"), splitter="whole")
    store.ingest(documents)
    with store:
        yield store


def names(results):
    return [hit.chunk.document for hit in results.hits]


SYSTEMS = {
    "default": RetrievalSettings(),
    "bm25": replace(BASE, mode="bm25"),
    "dense": replace(BASE, mode="dense"),
    "bm25, smoothed, with feedback": RetrievalSettings("bm25", smoothing=True, feedback=True),
    "dense, smoothed, with feedback": RetrievalSettings("dense", smoothing=True, feedback=True),
    "rrf": RetrievalSettings(fusion="rrf"),
    "weighted": RetrievalSettings(fusion="weighted", weight=0.3),
    "mmr": RetrievalSettings(rerank="mmr"),
}
each_system = pytest.mark.parametrize("settings", SYSTEMS.values(), ids=SYSTEMS)


@each_system
def test_the_subject_is_found_whatever_the_way(store, settings):
    results = Retriever(store, settings).search("espresso coffee", k=5)
    found = names(results)
    assert len(set(found)) == 5
    relevant = [name.startswith("coffee/") for name in found]
    assert relevant[0] if settings.rerank == "mmr" else all(relevant)
    scores = [hit.score for hit in results.hits]
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)
    assert all(hit.stages for hit in results.hits)
    assert all(np.isfinite(list(hit.stages.values())).all() for hit in results.hits)


@each_system
def test_a_filter_holds_before_the_first_k(store, settings):
    retriever = Retriever(store, replace(settings, depth=3))
    found = retriever.search("tea", k=2, where='subject == "tea" and i >= 8')
    assert set(names(found)) == {"tea/8", "tea/9"}
    none = retriever.search("tea", k=2, where="i > 99")
    assert none.hits == ()


def test_k_of_a_filter_that_words_do_not_reach(store):
    results = Retriever(store).search("espresso", k=7, where='subject == "wing"')
    assert len(results.hits) == 7
    assert all(name.startswith("wing/") for name in names(results))


@each_system
@pytest.mark.parametrize("query", ["tea?", "the of and", "", "  \n", "zzzz", "ÅÄÖ 日本"])
def test_k_above_the_store_and_odd_queries(store, settings, query):
    results = Retriever(store, settings).search(query, k=1000)
    expected = 40 if query.strip() else 0
    if settings.mode == "bm25" and not settings.smooths and query == "tea?":
        expected = 10
    assert len(results.hits) == len(set(names(results))) <= max(expected, 0)
    assert len(results.hits) == expected or settings.mode == "bm25"
    assert np.isfinite([hit.score for hit in results.hits]).all()


def test_stop_words_alone_are_searched_by_vectors(store):
    results = Retriever(store, SYSTEMS["bm25"]).search("is it the", k=3)
    assert len(results.hits) == 3
    assert any("no chunk has a word" in stage.note for stage in results.stages)


def test_stages_are_named_and_timed(store):
    results = Retriever(store).search("hot water", k=3, where='subject != "wing"')
    once = ["bm25", "dense", "fusion", "smoothing"]
    again = [f"{name} again" for name in once]
    wanted = ["filter", "embedding", *once, "feedback", *again]
    assert [stage.name for stage in results.stages] == wanted
    assert all(stage.milliseconds >= 0 for stage in results.stages)
    assert results.stages[0].n == 30
    assert results.hits[0].score == results.hits[0].stages["smoothing again"]


def test_fusion_is_min_max_of_the_whole_pool(store):
    """Each row has both scores, also one that only one index proposed."""
    query = "steep flow of hot water"
    settings = replace(BASE, depth=4, k=4)
    results = Retriever(store, settings).search(query)
    vector = store.embedder.encode([query])[0]
    lexical, dense = store.lexical(query, 4), store.dense(vector, 4)
    rows = np.union1d(lexical.rows, dense.rows)
    words = dict(zip(*store.lexical(query, 40), strict=True))
    bm25 = np.array([words.get(row, 0.0) for row in rows])
    total = fusion.unit(bm25) / 2 + fusion.unit(store.vectors(rows) @ vector) / 2
    expected = dict(zip(rows.tolist(), total, strict=True))
    found = {hit.row: hit.score for hit in results.hits}
    assert found == pytest.approx({row: expected[row] for row in found}, abs=1e-6)
    assert min(found.values()) >= sorted(total)[-4] - 1e-6


def test_many_are_searched_as_one_by_one(store):
    retriever = Retriever(store)
    queries = ["espresso", "lift of a wing", "", "hot"]
    one_by_one = [retriever.search(query) for query in queries]
    vectors = store.embedder.encode(queries)
    for together in (
        retriever.search_many(queries),
        retriever.search_many(queries, vectors=vectors),
    ):
        for ours, alone in zip(together, one_by_one, strict=True):
            assert names(ours) == names(alone)
            assert [hit.score for hit in ours.hits] == [hit.score for hit in alone.hits]


def test_feedback_takes_one_chunk_of_a_document(tmp_path, monkeypatch):
    text = " ".join(f"Tea number {i} is hot water with leaves." for i in range(40))
    store = Store.create(tmp_path / "s", embedder=open_embedder("lsa"), size=200, overlap=20)
    store.ingest([Document("long", text), Document("short", "Tea is hot."), Document("x", "Ice.")])
    seen = []
    monkeypatch.setattr(feedback, "cohesion", lambda vectors: seen.append(len(vectors)) or 0.5)
    with store:
        Retriever(store).search("hot tea")
    assert seen == [3]


def test_an_empty_store(tmp_path):
    with Store.create(tmp_path / "s", embedder=open_embedder("lsa")) as store:
        for settings in SYSTEMS.values():
            assert Retriever(store, settings).search("tea").hits == ()


def test_mistakes_are_named(store):
    with pytest.raises(UserError, match="k must be at least 1, got 0"):
        Retriever(store).search("tea", k=0)
    with pytest.raises(UserError, match=r"rerank late needs an embedder .* got lsa"):
        Retriever(store, RetrievalSettings(rerank="late")).search("tea")
    with pytest.raises(UserError, match="rerank must be none, mmr, late or the folder"):
        RetrievalSettings(rerank="bge")
    with pytest.raises(UserError, match=r"weight must be between 0 and 1, got 1.5"):
        RetrievalSettings(weight=1.5)
    with pytest.raises(UserError, match="depth must be at least 1, got 0"):
        RetrievalSettings(depth=0)
    with pytest.raises(UserError, match="smoothing_power must be finite"):
        RetrievalSettings(smoothing_power=float("nan"))
