"""LangChain's own suite for vector stores, and what other stores are known to get wrong."""

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.vectorstores.utils import maximal_marginal_relevance
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from tiny_store import Hashed, make_documents, make_store

from rag.adapters.chat import RagChatModel, chain, until
from rag.adapters.langchain import LangEmbedder, RagEmbeddings, RagRetriever, RagVectorStore
from rag.store.store import Store
from rag.types import Hit, Results
from shared.artifacts import ArtifactError
from shared.errors import UserError


@pytest.mark.asyncio
@pytest.mark.filterwarnings("ignore:.*is not an async function")
class TestStandardSuite(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        embedder = LangEmbedder(self.get_embeddings())
        with Store.create(tmp_path / "s", embedder=embedder, splitter="whole") as store:
            yield RagVectorStore(store)


@pytest.fixture
def store(tmp_path):
    with make_store(tmp_path / "s") as store:
        store.ingest(make_documents(70))
        yield RagVectorStore(store)


def test_an_existing_id_leaves_no_vector_behind(store):
    """A store that appends the vector first maps every later result to another document."""
    store.add_texts(["fog fog fog"], ids=["d3.md"])
    store.add_texts(["sun sun sun"], ids=["d3.md"])
    store.add_texts(["wind", "wheel wheel"], ids=["new", "new"])
    assert len(store.store) == len(store.store.documents()) == 71
    for word, text, id in (("sun", "sun sun sun", "d3.md"), ("wheel", "wheel wheel", "new")):
        assert store.similarity_search(word, k=1) == [Document(text, id=id, metadata={})]
    found = store.similarity_search("fog fog fog", k=71)
    assert all(d.page_content != "fog fog fog" for d in found)


def test_filter_returns_k_whenever_k_pass(store):
    best = store.similarity_search("road car", k=10)
    rare = next(p for p in range(7) if sum(d.metadata["page"] == p for d in best) <= 2)
    for where in (f"page == {rare}", {"page": rare}):
        found = store.similarity_search("road car", k=10, filter=where)
        assert len(found) == 10
        assert all(d.metadata["page"] == rare for d in found)


def test_scores_are_cosines_and_greater_is_better(store):
    found = store.similarity_search_with_score("tea tea milk", k=20)
    texts = [d.page_content for d, _ in found]
    cosines = Hashed().encode(texts) @ Hashed().encode(["tea tea milk"])[0]
    np.testing.assert_allclose([s for _, s in found], cosines, atol=1e-6)
    assert cosines[0] == max(cosines)
    relevant = store.similarity_search_with_relevance_scores("tea tea milk", k=70)
    scores = [s for _, s in relevant]
    assert scores == sorted(scores, reverse=True)
    assert 0 <= scores[-1] < scores[0] <= 1
    same = relevant[0][0].page_content
    assert store.similarity_search_with_relevance_scores(same, k=1)[0][1] == pytest.approx(1)


def test_mmr_is_langchains_order(store):
    vector = Hashed().encode(["tea road"])[0]
    pool = [d.page_content for d in store.similarity_search("tea road", k=20)]
    for weight in (0.0, 0.3, 1.0):
        best = maximal_marginal_relevance(vector, list(Hashed().encode(pool)), weight, 5)
        found = store.max_marginal_relevance_search("tea road", 5, 20, weight)
        assert [d.page_content for d in found] == [pool[i] for i in best]
    assert store.max_marginal_relevance_search("tea", filter="page == 99") == []


def test_cut_documents_say_where_they_stand(tmp_path):
    text = "Tea is hot. " * 30 + "Ice is cold. " * 30
    options = {"folder": tmp_path / "s", "splitter": "recursive", "size": 200, "overlap": 0}
    store = RagVectorStore.from_texts(
        [text], RagEmbeddings(Hashed()), [{"lang": "en"}], ids=["a"], **options
    )
    for found in store.similarity_search("ice", k=3):
        at = found.metadata
        assert (at["document"], at["lang"]) == ("a", "en")
        assert text[at["start"] : at["end"]] == found.page_content
        assert found.id == f"a:{at['start']}-{at['end']}"
    assert store.get_by_ids(["a", "b"]) == [Document(text, id="a", metadata={"lang": "en"})]
    store.delete()
    assert len(store.store) == 0
    store.store.close()


def test_another_model_is_noticed(tmp_path):
    given = RagEmbeddings(Hashed())
    RagVectorStore.from_texts(["tea"], given, folder=tmp_path / "s").store.close()
    Store.open(tmp_path / "s", embedder=LangEmbedder(given)).close()

    class Other(RagEmbeddings):
        def embed_documents(self, texts):
            return [v[::-1] for v in super().embed_documents(texts)]

    Other.__name__ = "RagEmbeddings"
    with pytest.raises(ArtifactError, match="holds vectors of langchain:RagEmbeddings"):
        Store.open(tmp_path / "s", embedder=LangEmbedder(Other(Hashed())))


# ---- retriever, model, chain


class Found:
    """A retriever that finds what a store's dense search finds."""

    def __init__(self, store):
        self.store = store

    def search(self, query, *, k=None, where=None):
        found = self.store.dense(Hashed().encode([query])[0], k or 2, self.store.select(where))
        chunks = zip(self.store.chunks(found.rows), found.rows, found.scores, strict=True)
        return Results(query, tuple(Hit(c, int(row), float(s)) for c, row, s in chunks))


class Echo:
    """A model that says what it was told."""

    name = "echo"

    def stream(self, messages, *, max_new_tokens, temperature, seed):
        self.messages = messages
        for word in messages[-1]["content"].split():
            yield word + " "


def test_retriever(store):
    retriever = RagRetriever(retriever=Found(store.store), k=3, where="page == 2")
    found = retriever.invoke("sun")
    assert [d.metadata["page"] for d in found] == [2, 2, 2]
    assert [d.metadata["score"] for d in found] == sorted(
        (d.metadata["score"] for d in found), reverse=True
    )
    assert found[0].metadata["document"] in store.store


def test_chat_model():
    model = RagChatModel(model=Echo())
    told = [SystemMessage("be kind"), HumanMessage("hi"), AIMessage("yes?"), HumanMessage("a b c")]
    assert model.invoke(told).content == "a b c "
    roles = [m["role"] for m in model.model.messages]
    assert roles == ["system", "user", "assistant", "user"]
    assert [piece.content for piece in model.stream("a b c") if piece.content] == ["a ", "b ", "c "]
    assert model.invoke("a b c d", stop=["b c"]).content == "a "
    with pytest.raises(UserError, match="messages must be text"):
        model.invoke([HumanMessage("x"), ToolMessage("y", tool_call_id="1")])


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stop_words_may_be_cut_anywhere(size):
    text = "one two STOP three"
    pieces = [text[i : i + size] for i in range(0, len(text), size)]
    assert "".join(until(pieces, ["STOP", "never"])) == "one two "
    assert "".join(until(pieces, [])) == "".join(until(pieces, ["STOPPED"])) == text


def test_chain(store):
    pytest.importorskip("rag.answering.prompt")
    model = RagChatModel(model=Echo())
    answer = chain(RagRetriever(retriever=Found(store.store)), model).invoke("tea or sun?")
    found = [
        d.page_content for d in RagRetriever(retriever=Found(store.store)).invoke("tea or sun?")
    ]
    assert all(text in answer for text in found)
    assert "tea or sun?" in answer
    assert model.model.messages[0]["role"] == "system"
