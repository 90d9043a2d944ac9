r"""Texts as counts of words: bags of words, TF-IDF, and naive Bayes on top of them.

A text becomes a row of a sparse table, its *bag of words*. TF-IDF weighs a term that few documents
have more than one in all of them and gives every row length 1; naive Bayes takes the words of a
class for draws from one urn and adds $\alpha$ to each count, so that no word is impossible:

$$ x_{dt} \propto n_{dt} \Big(\ln\frac{1 + N}{1 + \mathrm{df}_t} + 1\Big), \qquad
   \ln p(c \mid d) = \ln p(c) + \sum_t n_{dt} \ln\frac{n_{ct} + \alpha}{n_c + \alpha V} - \ln Z_d .
$$

>>> vectorizer = CountVectorizer()
>>> counts = vectorizer.fit_transform(["good good film", "bad film", "film"])
>>> vectorizer.terms, counts.toarray().tolist()
(['bad', 'film', 'good'], [[0, 1, 2], [1, 1, 0], [0, 1, 0]])
>>> TfidfTransformer().fit(counts).idf.round(4)
array([1.6931, 1.    , 1.6931])
>>> MultinomialNB().fit(counts, [1, 0, 0]).predict(vectorizer.transform(["a good one"]))
array([1])

    uv run weeks/12/tfidf.py

Source: K. Spärck Jones, "A statistical interpretation of term specificity" (1972); C. Manning,
P. Raghavan and H. Schütze, *Introduction to Information Retrieval* (2008), chapters 6 and 13; in
the variants of scikit-learn.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain

import numpy as np
from jaxtyping import Float, Shaped
from scipy.sparse import csr_array

from shared.arguments import checked
from shared.require import require
from week12.preprocessing import words


def ngrams(terms: list[str], low: int, high: int) -> list[str]:
    """Runs of `low` to `high` terms, joined with blanks, the shortest first."""
    return [
        " ".join(terms[i : i + n]) for n in range(low, high + 1) for i in range(len(terms) - n + 1)
    ]


class CountVectorizer:
    """Count the terms of texts.

    Parameters
    ----------
    analyzer
        Cuts a text into terms.
    ngram_range
        Least and greatest number of terms that are counted as one.
    min_df
        In how many documents a term must be to have a column.
    binary
        Count a term of a document once.
    """

    def __init__(
        self,
        analyzer: Callable[[str], list[str]] = words,
        *,
        ngram_range: tuple[int, int] = (1, 1),
        min_df: int = 1,
        binary: bool = False,
    ):
        low, high = ngram_range
        require(1 <= low <= high, "ngram_range must be 1 <= least <= greatest", ngram_range)
        require(min_df >= 1, "min_df must be at least 1", min_df)
        self.analyzer, self.ngram_range = analyzer, ngram_range
        self.min_df, self.binary = min_df, binary

    def fit(self, texts: Iterable[str]) -> "CountVectorizer":
        """Learn the terms that get a column, in alphabetical order."""
        self._learn(self._bags(texts))
        return self

    def transform(self, texts: Iterable[str]) -> csr_array:
        """Counts of the learned terms, (text, term); other terms are not seen."""
        require(hasattr(self, "terms"), "CountVectorizer must be fitted before use: call fit first")
        return self._table(self._bags(texts))

    def fit_transform(self, texts: Iterable[str]) -> csr_array:
        """`fit`, then `transform` of the same texts, which are cut once."""
        bags = self._bags(texts)
        self._learn(bags)
        return self._table(bags)

    def _bags(self, texts: Iterable[str]) -> list[Counter]:
        require(not isinstance(texts, str), "texts must be several texts, not one string")
        return [Counter(ngrams(self.analyzer(text), *self.ngram_range)) for text in texts]

    def _learn(self, bags: list[Counter]) -> None:
        frequency = Counter(chain.from_iterable(bags))  # a document counts once: keys, not items
        terms = sorted(term for term, df in frequency.items() if df >= self.min_df)
        must = f"texts must hold a term that is in min_df = {self.min_df} of them"
        require(terms, must, f"{len(bags)} texts with none")
        self.terms, self.vocabulary = terms, {term: i for i, term in enumerate(terms)}

    def _table(self, bags: list[Counter]) -> csr_array:
        column = self.vocabulary
        rows = [sorted((column[t], n) for t, n in bag.items() if t in column) for bag in bags]
        ends = np.cumsum([0, *map(len, rows)])
        columns, counts = np.array([*chain.from_iterable(rows)], np.int64).reshape(-1, 2).T
        counts = np.minimum(counts, 1) if self.binary else counts
        return csr_array((counts, columns, ends), shape=(len(bags), len(column)))


class TfidfTransformer:
    """Weigh counts by how rare a term is, and give every document length 1.

    Parameters
    ----------
    sublinear_tf
        Take 1 + ln of a count in place of the count.
    """

    def __init__(self, *, sublinear_tf: bool = False):
        self.sublinear_tf = sublinear_tf

    def fit(self, counts: csr_array) -> "TfidfTransformer":
        """Learn `idf`, one weight per term, from counts (document, term)."""
        n, n_terms = counts.shape
        require(n >= 1, "counts must hold at least one document", n)
        frequency = np.bincount(counts.indices[counts.data > 0], minlength=n_terms)
        self.idf: Float[np.ndarray, " term"] = np.log((1 + n) / (1 + frequency)) + 1
        return self

    def transform(self, counts: csr_array) -> csr_array:
        """Weighted rows of length 1; a document without a known term stays zero."""
        require(hasattr(self, "idf"), "TfidfTransformer must be fitted before use: call fit first")
        width = f"counts must have the {len(self.idf)} terms that were learned"
        require(counts.shape[1] == len(self.idf), width, counts.shape[1])
        tf = counts.data.astype(float)
        values = (1 + np.log(tf) if self.sublinear_tf else tf) * self.idf[counts.indices]
        weighted = csr_array((values, counts.indices, counts.indptr), shape=counts.shape)
        lengths = np.sqrt(weighted.power(2).sum(axis=1))
        rows = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
        weighted.data = values / lengths[rows]
        return weighted


class MultinomialNB:
    """Naive Bayes for counts: the words of a class are draws from one urn.

    Parameters
    ----------
    alpha
        Added to each count (Laplace for 1, Lidstone below).
    """

    def __init__(self, alpha: float = 1.0):
        require(alpha > 0, "alpha must be above 0", alpha)
        self.alpha = alpha

    @checked
    def fit(self, counts: csr_array, y: Shaped[np.ndarray, " n"]) -> "MultinomialNB":
        """Count each class's terms and documents; counts are (document, term), at least 0."""
        n = counts.shape[0]
        require(n == len(y) > 0, f"y must hold one label for each of the {n} documents", len(y))
        least = counts.data.min(initial=0)
        require(least >= 0, "counts must not be negative", least)
        self.classes, code = np.unique(y, return_inverse=True)
        members = csr_array((np.ones(n), (code, np.arange(n))), shape=(len(self.classes), n))
        totals = (members @ counts).toarray() + self.alpha
        self.log_prob = np.log(totals) - np.log(totals.sum(axis=1, keepdims=True))
        self.log_prior = np.log(np.bincount(code) / n)
        return self

    def predict_log_proba(self, counts: csr_array) -> Float[np.ndarray, "n c"]:
        """Log-probability of each class, in the order of `classes`."""
        require(hasattr(self, "classes"), "MultinomialNB must be fitted before use: call fit first")
        width = f"counts must have the {self.log_prob.shape[1]} terms that were learned"
        require(counts.shape[1] == self.log_prob.shape[1], width, counts.shape[1])
        joint = counts @ self.log_prob.T + self.log_prior
        return joint - np.logaddexp.reduce(joint, axis=1, keepdims=True)

    def predict(self, counts: csr_array) -> Shaped[np.ndarray, " n"]:
        """The likeliest class; the first of equals."""
        likeliest = self.predict_log_proba(counts).argmax(axis=1)
        return self.classes[likeliest]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
