"""Scores against bm25s, an index that changes, and what stems and weights are worth in a search."""

import itertools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from shared import plots
from shared.corpora import Cranfield, cranfield
from shared.stats import paired_bootstrap
from shared.study import Run
from week12.bm25 import BM25, idf, score_by_definition
from week12.porter import stem
from week12.preprocessing import STOP_WORDS, terms, words
from week12.ranking import average_precision, ndcg, trec_order
from week12.tfidf import CountVectorizer, TfidfTransformer

VARIANTS = ("robertson", "lucene", "atire", "bm25+")
Cut = Callable[[str], list[str]]
CUTS: dict[str, Cut] = {
    "words": words,
    "without stop words": lambda text: [w for w in words(text) if w not in STOP_WORDS],
    "stems": lambda text: [stem(w) for w in words(text)],
    "stems without stop words": terms,
}


def main(run: Run) -> None:
    """Check scores, index and metrics, then search the Cranfield collection."""
    collection = cranfield()
    queries = collection.queries[: run.budget(quick=20, default=225)]
    collection = collection._replace(queries=queries)
    check_scores(run, collection)
    check_index(run)
    check_metrics(run)
    judge_searches(run, collection)
    draw_settings(run, collection)


def texts_of(collection: Cranfield, cut: Cut) -> tuple[list, list, list]:
    """Names and terms of the documents, and the terms of the queries."""
    names = [document.name for document in collection.documents]
    documents = [cut(document.text) for document in collection.documents]
    return names, documents, [cut(query.text) for query in collection.queries]


# ---- checks


def check_scores(run: Run, collection: Cranfield) -> None:
    """Scores of all documents for all queries against bm25s; it gives δ to absent terms too."""
    import bm25s

    names, documents, queries = texts_of(collection, terms)
    table = CountVectorizer(str.split, binary=True)
    has = table.fit_transform(map(" ".join, documents)).toarray()
    queries = [[term for term in query if term in table.vocabulary] for query in queries]
    extra = idf(has.sum(axis=0), len(documents), "bm25+") * (1 - has)
    codes = [[table.vocabulary[term] for term in query] for query in queries]
    absent = np.array([extra[:, code].sum(axis=1) for code in codes])
    equal = run.against("bm25s", rtol=1e-5, atol=1e-5, why="float32 sums")
    found = {}
    for variant in VARIANTS:
        ours = BM25(variant).add(names, documents)
        theirs = bm25s.BM25(method=variant, delta=1.0, dtype="float64")
        theirs.index(documents, show_progress=False)
        scores = np.array([ours.scores(query) for query in queries])
        found[variant] = np.array([theirs.get_scores(query) for query in queries])
        equal(f"scores, {variant}", scores, found[variant] - (variant == "bm25+") * absent)
    plain = bm25s.BM25(method="bm25+", delta=0.0, dtype="float64")
    plain.index(documents, show_progress=False)
    of_delta = found["bm25+"] - np.array([plain.get_scores(query) for query in queries])
    run.metric("what δ adds in bm25s: spread over documents", np.ptp(of_delta, axis=1).max())
    run.metric("what δ adds here: spread over documents", np.ptp(of_delta - absent, axis=1).max())


def check_index(run: Run) -> None:
    """The formula read aloud; and an index that grew, shrank and was saved, as one made anew."""
    letters = run.rng.integers(0, 26, (40, 12))
    documents = [[chr(97 + x) for x in row[: 1 + i % 12]] for i, row in enumerate(letters**2 // 26)]
    names, query = [f"d{i}" for i in range(40)], ["a", "b", "k", "a", "?"]
    equal = run.against("the definition", kind="theorem", rtol=1e-6, atol=1e-6, why="float32 sums")
    for variant in VARIANTS:
        scores = BM25(variant).add(names, documents).scores(query)
        expected = [score_by_definition(query, d, documents, variant=variant) for d in documents]
        equal(f"scores of 40 documents, {variant}", scores, np.array(expected))

    anew = BM25().add(names[10:], documents[10:]).scores(query)
    index = BM25()
    for start in range(0, 40, 8):
        index.add(names[start : start + 8], documents[start : start + 8]).scores(query)
    index.delete(names[:10])
    with tempfile.TemporaryDirectory() as folder:
        index.save(Path(folder) / "index")
        loaded = BM25.load(Path(folder) / "index")
    same = run.against("an index made anew", kind="consistency", why="the same counts")
    same("scores after five additions and a deletion", index.scores(query), anew)
    same("scores after saving and loading", loaded.scores(query), anew)


def check_metrics(run: Run) -> None:
    """All 120 rankings of five judged documents against scikit-learn, and ties as trec_eval's."""
    from sklearn.metrics import average_precision_score, ndcg_score

    grades = {"a": 0, "b": 2, "c": 1, "d": 0, "e": 1}
    rankings = [list(order) for order in itertools.permutations(grades)]
    scores = [[-order.index(name) for name in grades] for order in rankings]
    values, relevant = np.array([list(grades.values())]), [int(g > 0) for g in grades.values()]
    equal = run.against("sklearn.metrics", atol=1e-12, why="float64 rounding")
    found = [[ndcg(order, grades, 3), average_precision(order, grades)] for order in rankings]
    expected = [
        [ndcg_score(values, [score], k=3), average_precision_score(relevant, score)]
        for score in scores
    ]
    equal("nDCG@3 and AP of 120 rankings", found, np.array(expected))
    tied = [ndcg(trec_order({"a": 1.0, "b": 1.0}), {name: 1}, 2) for name in "ba"]
    exact = {"against": "trec_eval's rule", "kind": "theorem", "why": "float64 rounding"}
    run.check("nDCG of two tied documents", tied, [1, 1 / np.log2(3)], atol=1e-12, **exact)


# ---- what helps


def judge(collection: Cranfield, scores: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """nDCG@10 and average precision of each query, from the scores of all documents."""
    names = [document.name for document in collection.documents]
    found = []
    for query, row in zip(collection.queries, scores, strict=True):
        ranking = trec_order(dict(zip(names, row.tolist(), strict=True)))
        grades = collection.relevant[query.name]
        found.append((ndcg(ranking, grades, 10), average_precision(ranking, grades)))
    gains, precisions = np.array(found).T
    return gains, precisions


def bm25_scores(collection: Cranfield, cut: Cut, **options) -> list[np.ndarray]:
    """BM25 of all documents for each query."""
    names, documents, queries = texts_of(collection, cut)
    index = BM25(**options).add(names, documents)
    return [index.scores(query) for query in queries]


def tfidf_scores(collection: Cranfield, cut: Cut) -> np.ndarray:
    """Cosines of TF-IDF rows."""
    vectorizer = CountVectorizer(cut)
    counts = vectorizer.fit_transform([document.text for document in collection.documents])
    weigh = TfidfTransformer().fit(counts)
    asked = weigh.transform(vectorizer.transform([query.text for query in collection.queries]))
    return (asked @ weigh.transform(counts).T).toarray()


def judge_searches(run: Run, collection: Cranfield) -> None:
    """Stems, stop words and weights: paired over the queries."""
    known = sorted({w for document in collection.documents for w in words(document.text)})
    other = dict(zip(known, run.rng.permutation(known), strict=True))
    ways = {name: bm25_scores(collection, cut) for name, cut in CUTS.items()}
    ways["cosines of TF-IDF"] = tfidf_scores(collection, terms)
    ways["words in groups at random"] = bm25_scores(
        collection, lambda text: [stem(other.get(w, w)) for w in words(text)]
    )
    gains = {name: judge(collection, scores) for name, scores in ways.items()}
    for name, (gain, precision) in gains.items():
        run.metric(f"nDCG@10, {name}", gain.mean())
        run.metric(f"MAP, {name}", precision.mean())

    def over(name: str, other: str):
        return paired_bootstrap(gains[name][0], gains[other][0], rng=run.rng)

    helps, unit = "stems find more than words", {"unit": "nDCG@10"}
    seen = {"seen_before": "that stems were better in a first look", "quick": False}
    run.claim(helps, over("stems", "words"), at_least=0.005, **unit, **seen)
    random = over("words in groups at random", "words")
    run.falsifier("groups of words at random", random, breaks=helps)
    weights = over("stems without stop words", "cosines of TF-IDF")
    run.claim("BM25 finds more than cosines", weights, at_least=0, quick=False, **unit)
    note = {**unit, "quick": False, "seen_before": "a first look: a difference of .002"}
    stop = over("stems without stop words", "stems")
    run.claim("leaving out stop words changes little", stop, at_least=-0.01, at_most=0.01, **note)


def draw_settings(run: Run, collection: Cranfield) -> None:
    """nDCG@10 over saturation and length."""
    k1s = run.budget(quick=[0.0, 1.5], default=[0.0, 0.4, 0.8, 1.2, 1.5, 2.0, 3.0, 6.0, 100.0])
    bs = run.budget(quick=[0.0, 0.75], default=[0.0, 0.25, 0.5, 0.75, 1.0])
    names, documents, queries = texts_of(collection, terms)
    grid = np.zeros((len(bs), len(k1s)))
    for (row, b), (column, k1) in itertools.product(enumerate(bs), enumerate(k1s)):
        index = BM25(k1=k1, b=b).add(names, documents)
        pairs = zip(queries, collection.queries, strict=True)
        grid[row, column] = np.mean(
            [ndcg(index.search(q)[0], collection.relevant[asked.name], 10) for q, asked in pairs]
        )
    run.metric("nDCG@10, counts ignored", grid[0, 0])
    run.metric("nDCG@10, best of the grid", grid.max())
    with run.figure("settings", "How much do counts and length matter?", size=(9.0, 3.8)) as axes:
        labels = {"xlabel": "k₁: how late counts saturate", "ylabel": "b: how much length counts"}
        plots.heat_map(axes, grid, label="nDCG@10", rows=bs, columns=k1s, **labels)
        for (row, column), value in np.ndenumerate(grid):
            ink = "white" if value > (grid.min() + grid.max()) / 2 else "black"
            axes.text(column, row, f"{value:.3f}"[1:], ha="center", va="center", color=ink)
