"""The rows of the benchmark: what is measured beside which rival, with its goal."""

from typing import Any

import numpy as np

from rag.benchmark.measure import each, times
from rag.benchmark.world import World, for_langchain
from rag.retrieval.retriever import Retriever
from rag.store.store import Store
from shared.measuring import resident, seconds
from shared.require import require

K = 10
GOALS = {
    "lexical": "queries per second at least 20 times rank_bm25's",
    "filters": "as many results as asked for, wherever as many pass",
    "opening": "under 1 s",
    "again": "under 1 s",
}


# ---- words


def lexical(world: World) -> dict[str, Any]:
    """Index time and queries per second of BM25; rivals are given our terms, but for LangChain."""
    import bm25s
    from langchain_community.retrievers import BM25Retriever
    from rank_bm25 import BM25Okapi

    took, store = world.built
    texts = [d.text for d in world.documents]
    cutting, terms = seconds(lambda: [store.terms(text) for text in texts])
    asked = [store.terms(query) for query in world.queries]
    few = min(len(asked), 20)  # the slow ones

    def indexed() -> Any:
        index = bm25s.BM25(method="lucene")
        index.index(terms, show_progress=False)
        return index

    lines = []

    def line(side: str, index_seconds: float, taken: list[float], note: str = "") -> None:
        lines.append({"side": side, "index_seconds": index_seconds, "note": note, **times(taken)})
        world.say(f"{side}: {lines[-1]['per_second']:.0f} queries/s")

    taken = each(lambda query: store.lexical(query, K), world.queries)
    line("rag", took, taken, "text to results; index with vectors, safe on the disk")
    took, theirs = seconds(indexed)
    words = [[w for w in query if w in theirs.vocab_dict] or [terms[0][0]] for query in asked]
    quiet = {"k": K, "show_progress": False}
    taken = each(lambda query: theirs.retrieve([query], **quiet), words)
    line("bm25s", cutting + took, taken, "terms to results")
    took, theirs = seconds(lambda: BM25Okapi(terms))
    taken = each(lambda query: theirs.get_top_n(query, texts, K), asked[:few])
    line("rank_bm25", cutting + took, taken, "terms to results")
    took, theirs = seconds(lambda: BM25Retriever.from_texts(texts, k=K))
    taken = each(theirs.invoke, world.queries[:few])
    line("LangChain BM25Retriever", took, taken, "words cut at spaces, no stems")
    ratio = lines[0]["per_second"] / lines[2]["per_second"]
    return {"n": len(texts), "lines": lines, "times_rank_bm25": ratio, "reached": ratio >= 20}


# ---- stages


def stages(world: World) -> dict[str, Any]:
    """Milliseconds of each stage of the default search, beside LangChain's FAISS."""
    _, store = world.built
    retriever = Retriever(store)
    found: dict[str, list[float]] = {}

    def search(pair: tuple[str, np.ndarray]) -> None:
        query, vector = pair
        for stage in next(retriever.search_many([query], vectors=vector[None])).stages:
            found.setdefault(stage.name, []).append(stage.milliseconds / 1000)

    pairs = list(zip(world.queries, world.vectors, strict=True))
    whole = each(search, pairs)
    lines = [{"side": f"rag: {name}", **times(taken)} for name, taken in found.items()]
    lines.append({"side": "rag: whole search", **times(whole)})
    theirs = world.langchain[1].similarity_search_by_vector
    taken = each(lambda vector: theirs(vector.tolist(), k=K), list(world.vectors))
    lines.append({"side": "LangChain FAISS: vectors alone", **times(taken)})
    return {"n": len(store), "lines": lines}


# ---- filters


def filters(world: World) -> dict[str, Any]:
    """The share of k results that come back under a filter that one chunk in a hundred passes."""
    _, store = world.built
    allowed = store.select("part == 7")
    theirs = world.langchain[1].similarity_search_by_vector
    ours = [len(store.dense(vector, K, allowed).rows) for vector in world.vectors]
    other = [len(theirs(vector.tolist(), k=K, filter={"part": 7})) for vector in world.vectors]
    wanted = min(K, len(allowed))
    shares = {
        "rag": float(np.mean(ours)) / wanted,
        "LangChain FAISS": float(np.mean(other)) / wanted,
    }
    return {
        "n": len(store),
        "passing": len(allowed),
        "shares": shares,
        "reached": shares["rag"] == 1,
    }


# ---- opening, doing it again, memory

OURS = """
import sys
from rag.benchmark.world import Generated
from rag.store.store import Store
store = Store.open(sys.argv[1], embedder=Generated())
store.lexical("the history of tea", 10)
store.dense(Generated().encode(["tea"])[0], 10)
"""
THEIRS = """
import sys
from rag.benchmark.world import Generated, for_langchain
from langchain_community.vectorstores import FAISS
from langchain_community.retrievers import BM25Retriever
risk = {"allow_dangerous_deserialization": True}
store = FAISS.load_local(sys.argv[1], for_langchain(Generated()), **risk)
store.similarity_search("tea", k=10)
words = BM25Retriever.from_documents(list(store.docstore._dict.values()))
words.invoke("the history of tea")
"""


def opening(world: World) -> dict[str, Any]:
    """Seconds to open what is on the disk, and from there to the first results of both kinds."""
    from langchain_community.vectorstores import FAISS

    embedder, query, vector = world.embedder, world.queries[0], world.vectors[0]
    _ = world.built, world.langchain  # both are on the disk now
    options = {"allow_dangerous_deserialization": True}
    taken: dict[str, list[tuple[float, float]]] = {"rag": [], "LangChain FAISS": []}
    for _ in range(3):
        took, store = seconds(lambda: Store.open(world.ours, embedder=embedder))
        with store:
            steps = (lambda s=store: s.lexical(query, K), lambda s=store: s.dense(vector, K))
            taken["rag"].append((took, sum(seconds(step)[0] for step in steps)))
        took, other = seconds(
            lambda: FAISS.load_local(str(world.theirs), for_langchain(embedder), **options)
        )
        first = seconds(lambda s=other: s.similarity_search_by_vector(vector.tolist(), k=K))[0]
        taken["LangChain FAISS"].append((took, first))
    lines = []
    for side, pairs in taken.items():
        took, first = np.median(pairs, axis=0).tolist()
        lines.append({"side": side, "seconds": took, "first_seconds": first})
    return {"n": len(world.documents), "lines": lines, "reached": lines[0]["seconds"] < 1}


def again(world: World) -> dict[str, Any]:
    """Seconds to ingest documents once more that have not changed."""
    documents = world.documents[:10_000]
    folder = world.folder / "again"
    with Store.create(folder, embedder=world.embedder, splitter="whole") as store:
        first, _ = seconds(lambda: store.ingest(documents))
        taken = [seconds(lambda: store.ingest(documents)) for _ in range(3)]
    must = "documents must be unchanged"
    require(all(report.unchanged == len(documents) for _, report in taken), must, "others")
    took = float(np.median([took for took, _ in taken]))
    return {"n": len(documents), "first_seconds": first, "seconds": took, "reached": took < 1}


def memory(world: World) -> dict[str, Any]:
    """Most memory of a process that opens both indexes and asks each once; bytes on the disk."""
    nothing = resident("from rag.benchmark.world import Generated; Generated().encode(['tea'])")
    _ = world.built, world.langchain
    lines = []
    for side, code, folder in (
        ("rag", OURS, world.ours),
        ("LangChain FAISS and BM25Retriever", THEIRS, world.theirs),
    ):
        files = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
        lines.append({"side": side, "bytes": resident(code, str(folder)), "disk": sum(files)})
    return {"n": len(world.documents), "lines": lines, "empty_process": nothing}


def haystack(world: World) -> dict[str, Any]:
    """Queries per second of haystack's in-memory BM25; skipped where it is not installed."""
    try:
        from haystack import Document as Theirs
        from haystack.document_stores.in_memory import InMemoryDocumentStore
    except ImportError:
        return {"skipped": "haystack is not among the project's dependencies"}
    store = InMemoryDocumentStore()
    documents = [Theirs(id=d.id, content=d.text) for d in world.documents]
    took, _ = seconds(lambda: store.write_documents(documents))
    taken = each(lambda query: store.bm25_retrieval(query, top_k=K), world.queries[:5])
    return {"n": len(documents), "index_seconds": took, **times(taken)}
