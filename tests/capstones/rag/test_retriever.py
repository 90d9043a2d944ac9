"""Searches: modes, filters, stages, and queries that find nothing."""

from dataclasses import replace

import numpy as np
import pytest

from rag.embeddings.embedder import open_embedder
from rag.evaluation.ranking import BASE
from rag.retrieval import feedback, fusion, rerank
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.records import embedded
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


def test_what_one_index_did_not_name_has_its_score_there_too(store):
    query = "steep flow of hot water"
    vector = store.embedder.encode([query])[0]
    words = dict(zip(*store.lexical(query, 40), strict=True))
    lexical, dense = store.lexical(query, 4), store.dense(vector, 15)
    rows = np.union1d(lexical.rows, dense.rows)
    bm25 = np.array([words.get(row, 0.0) for row in rows])
    assert np.count_nonzero(bm25) > 4
    total = fusion.unit(bm25) / 2 + fusion.unit(store.vectors(rows) @ vector) / 2
    asked = dict.fromkeys(store.terms(query), 1.0)
    found = Retriever(store, BASE)._fuse([lexical, dense], asked, vector)
    order = np.argsort(found.rows)
    np.testing.assert_array_equal(found.rows[order], rows)
    np.testing.assert_allclose(found.scores[order], total, atol=1e-6)


def test_terms_can_weigh(store):
    once, twice = store.lexical("espresso", 5), store.lexical({"espresso": 2.0, "zzz": 1.0}, 5)
    np.testing.assert_array_equal(twice.rows, once.rows)
    np.testing.assert_allclose(twice.scores, 2 * once.scores, rtol=1e-6)


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
    expand = feedback.expand

    def watched(query, documents, **options):
        seen.extend(documents)
        return expand(query, documents, **options)

    monkeypatch.setattr(feedback, "expand", watched)
    with store:
        Retriever(store).search("hot tea")
    assert sorted(len(terms) > 5 for terms in seen) == [False, False, True]


def test_late_interaction_ranks_again(store, monkeypatch):
    def tokens_of(texts):
        return [store.embedder.encode(text.split()) for text in texts]

    monkeypatch.setattr(store.embedder, "token_vectors", tokens_of, raising=False)
    settings = replace(BASE, rerank="late", rerank_weight=1.0, rerank_depth=12, k=12)
    results = Retriever(store, settings).search("hot espresso")
    query, *documents = tokens_of(["hot espresso", *(embedded(hit.chunk) for hit in results.hits)])
    expected = rerank.late_interaction(query, documents)
    np.testing.assert_allclose(
        [hit.score for hit in results.hits], fusion.unit(expected), atol=1e-6
    )
    plain = Retriever(store, BASE).search("hot espresso", k=12)
    assert {hit.row for hit in plain.hits} == {hit.row for hit in results.hits}


def test_a_cross_encoders_share_of_the_score(store, tmp_path, monkeypatch):
    monkeypatch.setattr(
        rerank,
        "cross_encoder",
        lambda folder, query, texts: np.array([float(len(t)) for t in texts]),
    )
    settings = replace(BASE, rerank=str(tmp_path), rerank_weight=0.25, k=40)
    results = Retriever(store, settings).search("hot espresso")
    lengths = np.array([float(len(embedded(hit.chunk))) for hit in results.hits])
    first = np.array([hit.stages["fusion"] for hit in results.hits])
    expected = 0.75 * fusion.unit(first) + 0.25 * fusion.unit(lengths)
    np.testing.assert_allclose([hit.score for hit in results.hits], expected, atol=1e-6)
    assert len(results.hits) == 40


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
