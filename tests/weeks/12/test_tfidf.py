"""Counts, weights and naive Bayes against scikit-learn on random texts."""

import numpy as np
import pytest
import sklearn.feature_extraction.text as sklearn
from enforce import plain
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from sklearn import naive_bayes

from week12.tfidf import CountVectorizer, MultinomialNB, TfidfTransformer, ngrams

WORDS = ["ab", "bc", "cd", "de", "a", "ÉÉ", "c_1", "it's"]
texts = st.lists(st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), min_size=1, max_size=7)


@given(texts, texts, st.integers(1, 2), st.integers(0, 2), st.integers(1, 3), st.booleans())
def test_counts_equal_sklearns(train, test, low, more, min_df, binary):
    options = {"ngram_range": (low, low + more), "min_df": min_df, "binary": binary}
    theirs = sklearn.CountVectorizer(**options)
    ours = CountVectorizer(**options)
    try:
        expected = theirs.fit_transform(train)
    except ValueError:  # an empty vocabulary, or none left by min_df
        with pytest.raises(ValueError, match="texts must hold a term that is in min_df"):
            ours.fit(train)
        return
    found = ours.fit_transform(train)
    assert ours.terms == list(theirs.get_feature_names_out())
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    np.testing.assert_array_equal(ours.transform(test).toarray(), theirs.transform(test).toarray())
    assert ours.transform([]).shape == (0, len(ours.terms))


counts = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=n, max_size=n)
)


@given(counts, counts, st.booleans())
def test_weights_equal_sklearns(train, test, sublinear):
    train, test = (csr_array(np.array(rows)) for rows in (train, test))
    theirs = sklearn.TfidfTransformer(sublinear_tf=sublinear).fit(train)
    ours = TfidfTransformer(sublinear_tf=sublinear).fit(train)
    np.testing.assert_allclose(ours.idf, theirs.idf_, rtol=1e-15)
    found = ours.transform(test).toarray()
    np.testing.assert_allclose(found, theirs.transform(test).toarray(), rtol=0, atol=1e-15)
    assert np.isfinite(found).all()


def test_idf_counts_a_document_once():
    counts = CountVectorizer().fit_transform(["rain rain rain", "rain", "sun", "fog"])
    assert TfidfTransformer().fit(counts).idf[1] == pytest.approx(1.5108, abs=1e-4)


@given(counts, counts, st.floats(0.01, 5), st.integers(0, 99))
def test_naive_bayes_equals_sklearns(train, test, alpha, seed):
    y = np.random.default_rng(seed).integers(0, 3, len(train))
    y = np.array(["no", "yes", "maybe"])[y]
    train, test = (csr_array(np.array(rows)) for rows in (train, test))
    theirs = naive_bayes.MultinomialNB(alpha=alpha).fit(train, y)
    ours = MultinomialNB(alpha).fit(train, y)
    np.testing.assert_array_equal(ours.classes, theirs.classes_)
    found, expected = ours.predict_log_proba(test), theirs.predict_log_proba(test)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    best = np.sort(expected, axis=1)
    sure = best[:, -1] - best[:, -2] > 1e-9 if len(theirs.classes_) > 1 else slice(None)
    np.testing.assert_array_equal(ours.predict(test)[sure], theirs.predict(test)[sure])
    other = plain("12", "tfidf").MultinomialNB(alpha).fit(train, y.tolist())
    np.testing.assert_array_equal(other.predict_log_proba(test), found)


def test_ngrams_do_not_reach_beyond_the_text():
    assert ngrams(["a", "b", "c"], 2, 3) == ["a b", "b c", "a b c"]
    assert ngrams(["a"], 2, 3) == []


fitted = CountVectorizer().fit(["sun rain"])
table = fitted.transform(["sun", "rain rain"])


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: CountVectorizer(ngram_range=(2, 1)), r"ngram_range must be 1 <= least <= greates"),
        (lambda: CountVectorizer(min_df=0), "min_df must be at least 1, got 0"),
        (lambda: CountVectorizer().transform(["sun"]), "CountVectorizer must be fitted before use"),
        (lambda: CountVectorizer().fit("sun rain"), "texts must be several texts, not one string"),
        (lambda: CountVectorizer().fit([]), "texts must hold a term that is in min_df = 1 of them"),
        (lambda: TfidfTransformer().transform(table), "TfidfTransformer must be fitted before use"),
        (lambda: TfidfTransformer().fit(table[:0]), "counts must hold at least one document"),
        (
            lambda: TfidfTransformer().fit(table).transform(table[:, :1]),
            "counts must have the 2 terms that were learned, got 1",
        ),
        (lambda: MultinomialNB(0), "alpha must be above 0, got 0"),
        (
            lambda: MultinomialNB().fit(table, np.array([1])),
            "y must hold one label for each of the 2 documents, got 1",
        ),
        (lambda: MultinomialNB().fit(-table, np.array([1, 0])), "counts must not be negative"),
        (lambda: MultinomialNB().predict(table), "MultinomialNB must be fitted before use"),
        (
            lambda: MultinomialNB().fit(table, np.array([1, 0])).predict(table[:, :1]),
            "counts must have the 2 terms that were learned, got 1",
        ),
    ],
)
def test_bad_input_is_named(call, match):
    with pytest.raises(ValueError, match=match):
        call()
