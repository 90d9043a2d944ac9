"""Judging and tuning: runs over a small collection, choices that do not see their judge."""

import json
from dataclasses import replace

import numpy as np
import pytest

from rag.embeddings.embedder import open_embedder
from rag.evaluation import tuning
from rag.evaluation.beir import Beir
from rag.evaluation.ranking import BASE, judge, search_all
from rag.evaluation.tuning import as_record, cross_validated, tune
from rag.retrieval.retriever import Retriever
from rag.retrieval.settings import RetrievalSettings
from rag.store.store import Store
from rag.types import Document

TOPICS = ["tea leaves water", "wing lift flow", "heat plate layer", "coffee beans roast"]


@pytest.fixture(scope="module")
def collection():
    rng = np.random.default_rng(0)
    texts = [
        " ".join(rng.permutation(f"{topic} {topic} word{i}".split()))
        for topic in TOPICS
        for i in range(6)
    ]
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    queries = {f"q{i}": topic.split()[i % 3] for i, topic in enumerate(TOPICS * 3)}
    qrels = {q: {f"d{6 * (i % 4) + j}": 1 for j in range(6)} for i, q in enumerate(queries)}
    return Beir(documents, queries, qrels)


@pytest.fixture(scope="module")
def store(tmp_path_factory, collection):
    folder = tmp_path_factory.mktemp("store") / "s"
    with Store.create(folder, embedder=open_embedder("lsa"), splitter="whole") as store:
        store.ingest(collection.documents)
        yield store


def test_systems_are_judged_and_compared_with_fusion(store, collection):
    judged = judge(store, collection, k=10)
    assert judged["the default"].means["ndcg@10"] > 0.9
    assert judged["min-max"].over_fusion.difference.mean == 0
    assert judged["bm25"].over_fusion.difference.n == 12
    for system in judged.values():
        assert system.run.keys() == collection.queries.keys()
        assert all(0 < len(found) <= 10 for found in system.run.values())


def test_a_run_is_of_documents_and_not_of_chunks(tmp_path):
    long = " ".join(f"Tea number {i} is hot water with leaves." for i in range(60))
    documents = [
        Document("q", long),
        Document("b", long.replace("Tea", "Coffee")),
        Document("c", "Tea."),
    ]
    with Store.create(tmp_path / "s", embedder=open_embedder("lsa"), size=200, overlap=20) as store:
        store.ingest(documents)
        retriever = Retriever(store, replace(BASE, mode="dense"))
        everything = search_all(retriever, {"q": "tea", "r": "tea"}, k=3, identical=True)
        assert everything["q"].keys() == {"q", "b", "c"}
        without = search_all(retriever, {"q": "tea", "r": "tea"}, k=3)
        assert "q" not in without["q"]
        assert "q" in without["r"]
        best = retriever.search("tea", k=1).hits[0]
        assert max(without["r"].values()) == best.score


def test_a_choice_does_not_see_its_judge():
    """Of settings that are noise, the best of all queries looks good and is worth nothing."""
    table = np.random.default_rng(0).random((200, 60))
    found = cross_validated(table, folds=5, rng=np.random.default_rng(0))
    assert table.mean(axis=1).max() > 0.55
    assert abs(found.mean() - 0.5) < 0.06
    better = table.copy()
    better[7] += 2
    np.testing.assert_array_equal(
        cross_validated(better, folds=5, rng=np.random.default_rng(0)), better[7]
    )


def test_the_fold_of_a_query_does_not_choose_for_it():
    """Each setting is good on two queries; the fold that holds them must not find it."""
    table = np.eye(6).repeat(2, axis=1)
    for seed in range(5):
        found = cross_validated(table, folds=12, rng=np.random.default_rng(seed))
        assert found.sum() < 12
    with pytest.raises(ValueError, match="folds must be between 2 and 12 queries, got 13"):
        cross_validated(table, folds=13, rng=np.random.default_rng(0))


def test_tuning_judges_every_family(store, collection, monkeypatch):
    families = {"min-max": [BASE], "some": [RetrievalSettings(), replace(BASE, mode="bm25")]}
    monkeypatch.setattr(tuning, "STEPS", families)
    seen = []
    steps = tune(store, collection, folds=3, progress=lambda done, of: seen.append((done, of)))
    assert [step.name for step in steps] == ["min-max", "some"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert steps[0].over_fusion.mean == 0
    assert steps[1].best_mean >= steps[1].mean
    record = json.loads(json.dumps(as_record(steps)))
    assert record[0]["best"] == {"fusion": "minmax", "smoothing": False, "feedback": False}
    assert record[1]["over_fusion"]["n"] == 12
