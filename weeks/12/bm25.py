r"""BM25: a search engine whose index can grow, shrink and be saved.

A document scores by the terms that it shares with the query. Each adds its weight
$\mathrm{idf}_t$, which falls with the number $\mathrm{df}_t$ of the $N$ documents that have the
term, times a fraction that rises with its count $n$ in the document but never above 1, and the
slower, the longer the document is compared to the average:

$$ s(q, d) = \sum_{t \in q} \ln\Big(1 + \frac{N - \mathrm{df}_t + 1/2}{\mathrm{df}_t + 1/2}\Big)
   \frac{n_{td}}{n_{td} + k_1 \big(1 - b + b\, \ell_d / \bar\ell\big)} . $$

Nothing in a summand but the term depends on the query, so all of them are computed beforehand: the
index keeps, by term, the documents that have it and its *impact* there. A query adds up a few
lists and never sees the other documents.

>>> index = BM25().add(["x", "y", "z"], [["rain", "sun"], ["rain", "rain"], ["fog"]])
>>> index.search(["rain", "sun"], k=2)
(['x', 'y'], array([0.53241575, 0.25235096], dtype=float32))
>>> index.delete(["x"]).search(["rain", "sun"], k=2)
(['y'], array([0.3577534], dtype=float32))

    uv run weeks/12/bm25.py

Source: S. Robertson and H. Zaragoza, *The Probabilistic Relevance Framework: BM25 and Beyond*
(2009), section 3.5; variants: C. Kamphuis et al., "Which BM25 do you mean?" (2020); BM25+: Y. Lv
and C. Zhai, "Lower-bounding term frequency normalization" (2011); impacts ahead of the query:
X. H. Lù, "BM25S" (2024).
"""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float, Num
from scipy.sparse import csr_array, vstack

from shared import artifacts
from shared.require import require

Variant = Literal["robertson", "lucene", "atire", "bm25+"]


def idf(
    df: Num[np.ndarray, "*terms"] | int, n: int, variant: Variant
) -> Float[np.ndarray, "*terms"] | float:
    """Weight of a term that `df` of `n` documents have.

    Robertson's would be negative for a term that more than half of them have; it is taken as 0.
    """
    odds = (n - df + 0.5) / (df + 0.5)
    weight = {
        "robertson": np.log(np.maximum(odds, 1)),
        "lucene": np.log1p(odds),
        "atire": np.log(n / df),
        "bm25+": np.log((n + 1) / df),
    }
    return weight[variant]


def saturation(
    tf: Num[np.ndarray, "*n"] | int,
    k: Float[np.ndarray, "*n"] | float,
    k1: float,
    delta: float,
    variant: Variant,
) -> Float[np.ndarray, "*n"] | float:
    """What `tf` ≥ 1 occurrences are worth, if `k` of them are worth half the most."""
    part = tf / (tf + k)
    if variant in ("robertson", "lucene"):
        return part
    return (k1 + 1) * part + (delta if variant == "bm25+" else 0)


def score_by_definition(
    query: list[str],
    document: list[str],
    documents: list[list[str]],
    *,
    variant: Variant = "lucene",
    k1: float = 1.5,
    b: float = 0.75,
    delta: float = 1.0,
) -> float:
    """The formula read aloud, for one query and one of the documents: the reference."""
    average = sum(map(len, documents)) / len(documents)
    k = k1 * (1 - b + b * len(document) / average)
    score = 0.0
    for term in query:
        if term in document:
            weight = idf(sum(term in other for other in documents), len(documents), variant)
            score += weight * saturation(document.count(term), k, k1, delta, variant)
    return float(score)


class BM25:
    """An inverted index of documents that are lists of terms, each with a name.

    Parameters
    ----------
    variant
        Lucene's, Robertson's (its weight is 0 for a term of more than half the documents), ATIRE's
        or BM25+.
    k1
        At how many occurrences a document of average length gets half of what a term can give.
    b
        How much length counts, from 0 to 1.
    delta
        BM25+ only: added for a term that is there at all, however long the document.
    """

    def __init__(
        self,
        variant: Variant = "lucene",
        *,
        k1: float = 1.5,
        b: float = 0.75,
        delta: float = 1.0,
    ):
        known = ("robertson", "lucene", "atire", "bm25+")
        require(variant in known, f"variant must be one of {', '.join(known)}", variant)
        require(0 <= k1 < math.inf, "k1 must be finite and at least 0", k1)
        require(0 <= b <= 1, "b must be between 0 and 1", b)
        require(0 <= delta < math.inf, "delta must be finite and at least 0", delta)
        self.variant, self.k1, self.b, self.delta = variant, k1, b, delta
        self.ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._vocabulary: defaultdict[str, int] = defaultdict()
        self._vocabulary.default_factory = self._vocabulary.__len__  # a new term takes the next
        self._blocks: list[csr_array] = []  # counts (document, term), in the order they came
        self._postings: tuple | None = None

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.ids)

    # ---- what is in it

    def add(self, ids: Sequence[str], documents: Iterable[Iterable[str]]) -> "BM25":
        """Add documents under new names; a call that raises adds none."""
        ids, documents = list(ids), [list(document) for document in documents]
        must = "ids must name each document once"
        require(len(ids) == len(documents), must, f"{len(ids)} for {len(documents)} documents")
        twice = [name for name, n in Counter(ids).items() if n > 1 or name in self._rows]
        require(not twice, "ids must be new and each its own", *map(repr, twice[:3]))
        for name, document in zip(ids, documents, strict=True):
            strings = isinstance(name, str) and all(isinstance(term, str) for term in document)
            require(strings, "ids and terms must be strings", f"others in {name!r}")
        lengths = [len(document) for document in documents]
        vocabulary = self._vocabulary
        terms = (vocabulary[term] for document in documents for term in document)
        codes = np.fromiter(terms, np.int64, sum(lengths))
        rows = np.repeat(np.arange(len(ids)), lengths)
        shape = (len(ids), len(vocabulary))
        counts = csr_array((np.ones(len(codes), np.int32), (rows, codes)), shape=shape)
        self._rows |= {name: len(self.ids) + i for i, name in enumerate(ids)}
        self.ids += ids
        self._blocks.append(counts)
        self._postings = None
        return self

    def delete(self, ids: Iterable[str]) -> "BM25":
        """Forget documents and their own terms; the weights become those of the others."""
        gone = set(ids)
        unknown = sorted(map(repr, gone - self._rows.keys()))
        require(not unknown, "ids must be in the index", *unknown[:3])
        keep = np.array([name not in gone for name in self.ids], bool)
        counts = self._counts()[keep]
        used = np.unique(counts.indices)
        self._blocks = [counts[:, used]]
        terms = list(self._vocabulary)
        self._vocabulary.clear()
        self._vocabulary.update((terms[old], new) for new, old in enumerate(used))
        self.ids = [name for name in self.ids if name not in gone]
        self._rows = {name: i for i, name in enumerate(self.ids)}
        self._postings = None
        return self

    def _counts(self) -> csr_array:
        """Counts of all documents, (document, term)."""
        width = len(self._vocabulary)
        for block in self._blocks:
            block.resize((block.shape[0], width))
        if len(self._blocks) != 1:
            empty = csr_array((0, width), dtype=np.int32)
            self._blocks = [vstack([empty, *self._blocks], format="csr")]
        return self._blocks[0]

    def _index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """By term: where its list begins, the documents in it, and its impact in each."""
        if self._postings is None:
            counts = self._counts()
            n = max(len(self), 1)
            lengths = np.asarray(counts.sum(axis=1), float)
            average = lengths.sum() / n or 1.0
            k = self.k1 * (1 - self.b + self.b * lengths / average)
            lists = counts.tocsc()
            df = np.diff(lists.indptr)
            weight = idf(np.maximum(df, 1), n, self.variant)
            tf, documents = lists.data, lists.indices
            impacts = saturation(tf, k[documents], self.k1, self.delta, self.variant)
            impacts *= np.repeat(weight, df)
            self._postings = lists.indptr, documents, impacts.astype(np.float32)
        return self._postings

    # ---- what it is asked

    def scores(self, query: Iterable[str]) -> Float[np.ndarray, " document"]:
        """Score of every document, in the order of `ids`; a term asked twice counts twice."""
        require(not isinstance(query, str), "query must be a list of terms, not one string", query)
        starts, documents, impacts = self._index()
        scores = np.zeros(len(self), np.float32)
        for term, times in Counter(query).items():
            code = self._vocabulary.get(term)
            if code is not None:
                of_term = slice(starts[code], starts[code + 1])  # no document is in it twice
                scores[documents[of_term]] += times * impacts[of_term]
        return scores

    def search(
        self, query: Iterable[str], k: int = 10
    ) -> tuple[list[str], Float[np.ndarray, " found"]]:
        """Names and scores of the best k documents above 0; of equals, the earlier first."""
        require(k >= 1, "k must be at least 1", k)
        scores = self.scores(query)
        found = np.flatnonzero(scores)
        if len(found) > k:
            least = np.partition(scores[found], -k)[-k]
            found = found[scores[found] >= least]
        best = found[np.argsort(-scores[found], kind="stable")[:k]]
        return [self.ids[i] for i in best], scores[best]

    # ---- files

    def save(self, folder: Path) -> None:
        """Write the index as an artifact: counts as safetensors, words and names as JSON."""
        counts = self._counts()
        tensors = {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}
        words = {"terms": list(self._vocabulary), "ids": self.ids}
        options = {"variant": self.variant, "k1": self.k1, "b": self.b, "delta": self.delta}
        artifacts.save_tensors(
            folder,
            tensors,
            metadata={"kind": "bm25", "options": options},
            files={"words.json": json.dumps(words, ensure_ascii=False).encode()},
        )

    @classmethod
    def load(cls, folder: Path) -> "BM25":
        """Read what `save` wrote; every byte is verified."""
        tensors, artifact = artifacts.load_tensors(folder)
        if artifact.metadata.get("kind") != "bm25":
            raise artifacts.ArtifactError(f"artifact {artifact.path} is no BM25 index")
        words = json.loads(artifact.files["words.json"])
        index = cls(**artifact.metadata["options"])
        index.ids = words["ids"]
        index._rows = {name: i for i, name in enumerate(index.ids)}
        index._vocabulary.update((term, i) for i, term in enumerate(words["terms"]))
        shape = (len(index.ids), len(words["terms"]))
        parts = (tensors["data"], tensors["indices"], tensors["indptr"])
        index._blocks = [csr_array(parts, shape=shape)]
        return index


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
