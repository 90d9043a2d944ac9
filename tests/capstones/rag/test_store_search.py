"""Search against brute force in NumPy and against bm25s; what a filter says against Python."""

import bm25s
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tiny_store import WORDS, Hashed, make_documents, make_store, open_store

from rag.store import generation, index
from rag.store.filters import parse
from rag.store.generation import Generation
from rag.types import Document
from shared.errors import UserError
from week12.bm25 import BM25


def generated(folder, vectors, kind="flat", rows=None):
    """A generation of these vectors, with no words."""
    rows = np.arange(len(vectors)) * 3 + 5 if rows is None else rows
    generation.write(folder / "000001", rows, vectors, BM25(), kind)
    return Generation(folder / "000001")


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def brute(rows, vectors, query, k, allowed=None):
    """The k best of all by NumPy; of equals, the lower row."""
    keep = np.ones(len(rows), bool) if allowed is None else np.isin(rows, allowed)
    scores = (vectors * query).sum(axis=1)[keep]
    best = np.lexsort((rows[keep], -scores))[:k]
    return rows[keep][best], scores[best]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 10**6), st.booleans())
@settings(max_examples=25)
def test_flat_is_brute_force(tmp_path_factory, n, k, seed, filtered):
    """On a grid, where sums are exact: whoever is equal is equal in both."""
    draw = np.random.default_rng(seed)
    vectors = draw.integers(-1, 2, (n, 4)).astype(np.float32)
    files = generated(tmp_path_factory.mktemp("g"), vectors)
    query = draw.integers(-1, 2, 4).astype(np.float32)
    allowed = draw.choice(np.arange(3 * n + 10), draw.integers(0, 2 * n + 1)) if filtered else None
    rows, scores = brute(files.rows, vectors, query, k, allowed)
    found = files.dense(query, k, allowed)
    assert found.rows.tolist() == rows.tolist()
    assert found.scores.tolist() == scores.tolist()


def test_more_are_equal_than_were_asked_for(tmp_path):
    vectors = np.eye(4, dtype=np.float32)[np.arange(400) % 4]
    files = generated(tmp_path, vectors)
    assert files.dense(vectors[1], 3, None).rows.tolist() == files.rows[[1, 5, 9]].tolist()
    assert files.dense(vectors[1], 101, None).rows[-2:].tolist() == files.rows[[397, 0]].tolist()


def test_flat_scores_are_numpys(tmp_path):
    draw = np.random.default_rng(0)
    vectors, query = unit(draw.standard_normal((500, 384))), unit(draw.standard_normal((1, 384)))[0]
    files = generated(tmp_path, vectors)
    rows, scores = brute(files.rows, vectors, query, 50)
    found = files.dense(query, 50, None)
    assert found.rows.tolist() == rows.tolist()
    np.testing.assert_allclose(found.scores, scores, atol=1e-5)  # order of summing 384 products


@pytest.mark.parametrize("kind", ["ivf", "hnsw", "sq8"])
def test_approximate_indexes(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(generation, "SCAN_UP_TO", 100)
    draw = np.random.default_rng(0)
    centers = draw.standard_normal((30, 32))
    vectors = unit(centers[draw.integers(0, 30, 3000)] + 0.3 * draw.standard_normal((3000, 32)))
    files = generated(tmp_path, vectors, kind)
    assert files.kind == kind
    allowed = files.rows[draw.random(3000) < 0.3]
    rare = files.rows[:: 3000 // 110]
    recall = []
    for query in unit(centers[:20] + 0.3 * draw.standard_normal((20, 32))):
        for some, k in ((None, 10), (allowed, 10), (rare, 60), (rare, 200)):
            rows, _ = brute(files.rows, vectors, query, k, some)
            found = files.dense(query, k, some)
            assert len(found.rows) == len(rows)  # k, whenever there are k
            assert some is None or np.isin(found.rows, some).all()
            places = files.places(np.sort(found.rows))
            exact = dict(zip(files.rows[places], vectors[places] @ query, strict=True))
            expected = [exact[row] for row in found.rows]
            np.testing.assert_allclose(found.scores, expected, atol=1e-6)
            recall.append(np.isin(rows, found.rows).mean())
    assert np.mean(recall) > 0.95


def test_choice_by_size():
    kinds = [index.choose("auto", n)[0] for n in (0, 100_000, 100_001, 1_000_001)]
    assert kinds == ["flat", "flat", "ivf", "sq8"]
    assert index.choose("hnsw", 10) == index.choose("ivf", 10)
    assert index.choose("hnsw", 5_000) == ("hnsw", "it was asked for")
    with pytest.raises(UserError, match="index must be one of auto, flat, ivf, hnsw, sq8, got 'x'"):
        index.choose("x", 10)


# ---- words


def test_bm25_is_bm25s(tmp_path):
    given = make_documents(60)
    with make_store(tmp_path / "s") as store:
        store.ingest(given[:40])
        store.ingest(given[10:], prune=True)
        texts = [store.terms(chunk.text) for chunk in store.chunks(store.files.rows)]
        reference = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        reference.index(texts, show_progress=False)
        for query in ("tea rain", "fog", "the wind and the sun"):
            terms = [t for t in store.terms(query) if t in reference.vocab_dict]
            scores = reference.get_scores(terms)
            best = np.lexsort((np.arange(50), -scores))[:12]
            found = store.lexical(query, 12)
            np.testing.assert_allclose(found.scores, scores[best], atol=1e-5)
            assert len(np.unique(scores.round(5))) > 3
            order = np.argsort(-found.scores, kind="stable")
            assert order.tolist() == list(range(12))
        allowed = store.select("page == 3")
        found = store.lexical("tea", 100, allowed)
        everywhere = store.lexical("tea", 100)
        kept = np.isin(everywhere.rows, allowed)
        assert found.rows.tolist() == everywhere.rows[kept].tolist()
        assert found.scores.tolist() == everywhere.scores[kept].tolist()
        assert len(store.lexical("nothing of it", 5).rows) == 0


def test_headings_count(tmp_path):
    text = "# Coffee\n\nHot and black.\n\n# Tea\n\nHot and green.\n"
    with make_store(tmp_path / "s", splitter="markdown", size=40, overlap=0) as store:
        store.ingest([Document("a.md", text), Document("b.md", "")])
        (row,) = store.lexical("tea", 5).rows
        assert "green" in store.chunks([row])[0].text
        assert store.document("b.md").text == ""
        assert [d.chunks for d in store.documents()] == [len(store), 0]


# ---- readers


def test_a_reader_keeps_its_state(tmp_path):
    with make_store(tmp_path / "s") as writer:
        writer.ingest(make_documents(30))
        with open_store(tmp_path / "s") as reader:
            vector = Hashed().encode(["tea"])[0]
            before = reader.dense(vector, 30)
            writer.ingest(make_documents(5, seed=1), prune=True)
            writer.ingest(make_documents(6, seed=2), prune=True)
            assert reader.is_outdated()
            assert len(reader) == 30
            after = reader.dense(vector, 30)
            assert after.rows.tolist() == before.rows.tolist()
            assert len(reader.chunks(after.rows)) == 30
            assert len(reader.lexical("tea", 30).rows) > 5  # its words were not read before
            assert reader.refresh()
            assert not reader.refresh()
            assert (len(reader), reader.generation) == (6, 3)
            assert not reader.is_outdated()
        writer.ingest(make_documents(7, seed=2))
    assert [p.name for p in (tmp_path / "s" / "generations").iterdir()] == ["000004"]


def test_two_writers_take_turns(tmp_path):
    with make_store(tmp_path / "s") as one, open_store(tmp_path / "s") as other:
        one.ingest(make_documents(10))
        other.ingest([Document("x", "fog fog")])
        one.ingest([Document("y", "wind wind")])
        assert one.verify() == []
        assert len(one.documents()) == 12
        rows = [one.rows_of(id)[0] for id in ("x", "y")]
        assert rows == [10, 11]
        assert one.neighbors(10) == []


def test_rows_are_never_used_twice(tmp_path):
    with make_store(tmp_path / "s") as store:
        store.ingest(make_documents(10))
        store.delete(["d9.md", "d0.md"])
        store.ingest([Document("x", "fog")])
        assert store.files.rows.tolist() == [*range(1, 9), 10]
        vectors = store.vectors([10, 3])
        texts = [chunk.text for chunk in store.chunks([10, 3])]
        np.testing.assert_allclose(vectors, Hashed().encode(texts), atol=1e-6)


# ---- upkeep


def test_upkeep(tmp_path):
    given = make_documents(40)
    with make_store(tmp_path / "s") as store:
        store.ingest(given)
        store.delete([d.id for d in given[5:]])
        facts = store.stats()
        assert (facts["documents"], facts["chunks"], facts["generation"]) == (5, 5, 2)
        assert facts["index"] == "flat"
        assert store.compact() > 0
        assert store.verify() == []
        store.export(tmp_path / "out")
        with (tmp_path / "out" / "vectors.npy").open("rb") as stream:
            vectors = np.lib.format.read_array(stream, allow_pickle=False)
        np.testing.assert_array_equal(vectors, store.vectors(store.files.rows))
        assert len((tmp_path / "out" / "chunks.jsonl").read_text().splitlines()) == 5
        with pytest.raises(UserError, match="is not empty: nothing is exported there"):
            store.export(tmp_path / "out")


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([Document("a", "x"), Document("a", "y")], "documents must have ids of their own, got 'a'"),
        ([Document("a", "x \ud800")], "document 'a' holds half a character"),
        ([Document("a", "x", "", {"n": float("nan")})], "metadata must be what JSON can hold"),
    ],
)
def test_wrong_documents_change_nothing(tmp_path, documents, message):
    with make_store(tmp_path / "s") as store:
        store.ingest(make_documents(3))
        with pytest.raises(UserError, match=message):
            store.ingest([Document("new", "tea"), *documents])
        assert (len(store), store.generation) == (3, 1)
        with pytest.raises(ValueError, match="k must be at least 1, got 0"):
            store.lexical("tea", 0)
        with pytest.raises(ValueError, match="vector must have 16 numbers"):
            store.dense(np.ones(3, np.float32), 1)
        with pytest.raises(UserError, match="row must be in the store, got 99"):
            store.chunks([99])


# ---- filters

values = st.one_of(
    st.text("ab'\"\\ü*?[% \n", max_size=5), st.integers(-5, 5), st.floats(-5, 5), st.booleans()
)
keys = st.sampled_from(["lang", "page", "it's", 'a "b"', "ü"])


def quoted(value):
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return str(value).lower() if isinstance(value, bool) else repr(value)


@given(st.dictionaries(keys, values), keys, values, st.sampled_from(["==", "!=", "<", ">="]))
@settings(max_examples=100)
@example({"page": True}, "page", 1, "==")
@example({"page": "3"}, "page", 3, ">=")
@example({"page": 3}, "page", 3.0, "==")
@example({}, "page", 3, "!=")
def test_filters_compare_as_python_does(metadata, key, value, operator):
    have = metadata.get(key)
    numbers = not isinstance(have, bool | str) and not isinstance(value, bool | str)
    alike = key in metadata and (type(have) is type(value) or numbers)
    expected = {
        "==": alike and have == value,
        "!=": not (alike and have == value),
        "<": alike and have < value if alike else False,
        ">=": alike and have >= value if alike else False,
    }[operator]
    test = parse(f"{quoted(key)} {operator} {quoted(value)}")
    assert test.matches(metadata) == expected
    assert parse(f"not({quoted(key)} {operator} {quoted(value)})").matches(metadata) != expected
    if operator == "==":
        assert parse({key: value}).matches(metadata) == expected
        assert parse(f"{quoted(key)} in ({quoted(value)}, 99)").matches(metadata) == expected


@pytest.mark.parametrize(
    ("where", "passes"),
    [
        ("a or b and c", True),  # and binds closer
        ("(a or b) and c", False),
        ("not c and a", True),  # not binds closest
        ("not (c or a)", False),
        ("path ~ 'docs/*.md' and path !~ '*.txt'", True),
        ("path ~ 'DOCS/*'", False),
        ("n in [1, 2] and n not in (3)", True),
        ("c or missing", False),
        ("n>=2 and n<2.5 and n > -1e1", True),
    ],
)
def test_filter_language(where, passes):
    metadata = {"a": True, "b": True, "c": False, "path": "docs/a.md", "n": 2}
    assert parse(where).matches(metadata) == passes


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "must name a key at character 1, got 'the end'"),
        ("lang == ", "must have a value .* at character 9, got 'the end'"),
        ("lang == py", "must have a value .* at character 9, got 'py'"),
        ("lang == 'py' page", "must go on with 'and' or 'or', or end at character 14, got 'page'"),
        ("(lang", r"must have '\)' at character 6, got 'the end'"),
        ("lang == 'py", "must be a filter, at character 9 got"),
        ("a == 1; import os", "must be a filter, at character 7 got"),
        ("__import__('os')", "must have an operator .* at character 11"),
        ("n in 3", "must have a list"),
        ("not " * 60 + "a", "must not nest more than 50 deep"),
    ],
)
def test_wrong_filters_are_told_where(where, message):
    with pytest.raises(UserError, match=f"^where {message}"):
        parse(where)


def test_select(tmp_path):
    with make_store(tmp_path / "s") as store:
        store.ingest([Document(str(i), WORDS[i], "", {"n": i, "it's": 'a"b'}) for i in range(9)])
        assert store.select(None) is None
        assert store.select("n >= 7").tolist() == [7, 8]
        assert store.select({"n": [1, 3], "it's": 'a"b'}).tolist() == [1, 3]
        assert store.select("n > 100").tolist() == []
        assert len(store.dense(Hashed().encode(["tea"])[0], 3, store.select("n > 100")).rows) == 0
