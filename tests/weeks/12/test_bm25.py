"""The index against bm25s, against the formula, and after additions, deletions and files."""

import itertools

import bm25s
import numpy as np
import pytest
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, ndcg_score

from shared import artifacts
from week12.bm25 import BM25, idf, score_by_definition
from week12.ranking import average_precision, ndcg, trec_order

VARIANTS = ("robertson", "lucene", "atire", "bm25+")
document = st.lists(st.sampled_from("abcdef"), max_size=9)
documents = st.lists(document, min_size=1, max_size=12)
query = st.lists(st.sampled_from("abcxyz"), max_size=6)
options = {"k1": st.floats(0, 5), "b": st.floats(0, 1), "delta": st.floats(0, 2)}


def names(n, start=0):
    return [f"d{i}" for i in range(start, start + n)]


@given(documents, query, st.sampled_from(VARIANTS), st.fixed_dictionaries(options))
def test_scores_equal_the_definition(texts, asked, variant, options):
    if not any(texts):
        texts = [["a"]]
    found = BM25(variant, **options).add(names(len(texts)), texts).scores(asked)
    expected = [score_by_definition(asked, d, texts, variant=variant, **options) for d in texts]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (found >= 0).all()


@given(documents, query, st.sampled_from(VARIANTS[:3]), st.floats(0.1, 3), st.floats(0, 1))
def test_scores_equal_bm25s(texts, asked, variant, k1, b):
    texts = [text or ["a"] for text in texts]  # bm25s takes no empty document
    asked = [term for term in asked if any(term in text for text in texts)]
    if asked:
        theirs = bm25s.BM25(method=variant, k1=k1, b=b, dtype="float64")
        theirs.index(texts, show_progress=False)
        ours = BM25(variant, k1=k1, b=b).add(names(len(texts)), texts)
        expected = theirs.get_scores(asked)
        np.testing.assert_allclose(ours.scores(asked), expected, rtol=1e-5, atol=1e-6)


@given(documents, documents, query, st.data())
def test_an_index_that_grows_and_shrinks_equals_a_new_one(first, more, asked, data):
    texts = first + more
    gone = data.draw(st.sets(st.sampled_from(names(len(texts)))))
    index = BM25().add(names(len(first)), first)
    index.scores(asked)  # impacts are there already, and must be made again
    index.add(names(len(more), len(first)), more).scores(asked)
    index.delete(gone)
    left = [i for i, name in enumerate(names(len(texts))) if name not in gone]
    anew = BM25().add([names(len(texts))[i] for i in left], [texts[i] for i in left])
    assert index.ids == anew.ids
    np.testing.assert_array_equal(index.scores(asked), anew.scores(asked))
    index.add(["late"], [["a", "x"]])
    anew.add(["late"], [["a", "x"]])
    np.testing.assert_array_equal(index.scores(asked), anew.scores(asked))


@given(documents, query, st.integers(1, 12))
def test_search_gives_the_best_in_order(texts, asked, k):
    index = BM25().add(names(len(texts)), texts)
    scores = index.scores(asked)
    found, values = index.search(asked, k)
    order = sorted(range(len(texts)), key=lambda i: (-scores[i], i))
    best = [i for i in order if scores[i] > 0][:k]
    assert found == [index.ids[i] for i in best]
    np.testing.assert_array_equal(values, scores[best])


def test_weights():
    assert idf(1, 2, "lucene") == pytest.approx(np.log(2))  # .693 where Robertson's is 0
    assert idf(1, 2, "robertson") == 0 == idf(2, 2, "robertson")
    repeated = BM25("atire").add(["x", "y", "z"], [["a", "a", "a"], ["b"], ["c"]])
    once = BM25("atire").add(["x", "y", "z"], [["a"], ["b"], ["c"]])
    assert repeated.scores(["a"])[0] > once.scores(["a"])[0]  # df counts a document once
    assert once.scores(["a", "a"])[0] == 2 * once.scores(["a"])[0]


def test_an_empty_index():
    assert BM25().search(["a"])[0] == []
    index = BM25().add(["x"], [["a"]]).delete(["x"])
    assert len(index) == 0 == len(index.scores(["a"]))
    assert BM25().add(["x", "y"], [[], []]).search(["a"])[0] == []


def test_files(tmp_path):
    index = BM25("bm25+", k1=0.9, b=0.4, delta=0.7)
    index.add(["ä", "b"], [["x", "数", "x"], ["x", "y"]]).delete([]).add(["c"], [["new"]])
    index.save(tmp_path / "index")
    loaded = BM25.load(tmp_path / "index")
    for asked in (["x"], ["new", "y"], ["?"]):
        np.testing.assert_array_equal(loaded.scores(asked), index.scores(asked))
    assert loaded.add(["d"], [["x"]]).ids == ["ä", "b", "c", "d"]
    assert (loaded.variant, loaded.k1, loaded.b, loaded.delta) == ("bm25+", 0.9, 0.4, 0.7)
    words = tmp_path / "index" / "words.json"
    words.write_bytes(words.read_bytes().replace(b"new", b"old"))
    with pytest.raises(artifacts.ArtifactError, match=r"words\.json was altered or is torn"):
        BM25.load(tmp_path / "index")
    artifacts.save_tensors(tmp_path / "other", {"x": np.zeros(2)})
    with pytest.raises(artifacts.ArtifactError, match="is no BM25 index"):
        BM25.load(tmp_path / "other")


def test_a_refused_addition_changes_nothing():
    index = plain("12", "bm25").BM25().add(["x"], [["a"]])  # without contracts on types
    for ids, texts, match in [
        (["y", "x"], [["b"], ["c"]], "ids must be new and each its own, got 'x'"),
        (["y", "y"], [["b"], ["c"]], "ids must be new and each its own, got 'y'"),
        (["y"], [["b"], ["c"]], "ids must name each document once, got 1 for 2 documents"),
        (["y"], [["b", 3]], "ids and terms must be strings, got others in 'y'"),
    ]:
        with pytest.raises(ValueError, match=match):
            index.add(ids, texts)
    assert index.ids == ["x"]
    assert index.search(["b", "c"])[0] == []


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: BM25(k1=-1), "k1 must be finite and at least 0, got -1"),
        (lambda: BM25(b=1.5), "b must be between 0 and 1, got 1.5"),
        (lambda: BM25(delta=float("nan")), "delta must be finite and at least 0, got nan"),
        (lambda: BM25().search(["a"], k=0), "k must be at least 1, got 0"),
        (lambda: BM25().scores("rain"), "query must be a list of terms, not one string, got rain"),
        (lambda: BM25().delete(["x"]), "ids must be in the index, got 'x'"),
        (lambda: ndcg(["a"], {"a": 1}, 0), "k must be at least 1, got 0"),
        (lambda: ndcg(["a", "a"], {"a": 1}, 3), "ranking must name each document once, got 'a'"),
        (
            lambda: average_precision(["a"], {"a": 0}),
            "grades must hold a relevant document, got no",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@given(st.permutations("abcdef"), st.lists(st.integers(0, 3), min_size=6, max_size=6))
def test_metrics_equal_sklearns(ranking, values):
    grades = dict(zip("abcdef", values, strict=True))
    if not any(values):
        values[0] = grades["a"] = 1
    score = [-ranking.index(name) for name in "abcdef"]
    for k in (1, 3, 9):
        assert ndcg(ranking, grades, k) == pytest.approx(ndcg_score([values], [score], k=k))
    expected = average_precision_score([v > 0 for v in values], score)
    assert average_precision(ranking, grades) == pytest.approx(expected)


def test_metrics_by_trec_evals_rules():
    assert ndcg(trec_order({"a": 1.0, "b": 1.0}), {"b": 1}, 2) == 1.0  # of equals, the later name
    assert ndcg(trec_order({"a": 1.0, "b": 1.0}), {"a": 1}, 2) == pytest.approx(0.6309, abs=1e-4)
    assert ndcg(["a"], {"a": 1, "lost": 1}, 10) == pytest.approx(1 / (1 + 1 / np.log2(3)))
    assert average_precision(["a"], {"a": 1, "lost": 1}) == 0.5
    best = max(ndcg(order, {"a": 1, "b": 2, "c": 0}, 3) for order in itertools.permutations("abc"))
    assert best == 1
