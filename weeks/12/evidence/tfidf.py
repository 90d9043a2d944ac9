"""Counts, weights and naive Bayes against scikit-learn, and what they know of a film review."""

import math
from fractions import Fraction

import numpy as np

from shared import plots
from shared.datasets import sst2
from shared.stats import bootstrap_interval, paired_bootstrap
from shared.study import PositiveInt, Run
from week12.tfidf import CountVectorizer, MultinomialNB, TfidfTransformer


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Check the three tables, then classify the sentences of SST-2.

    Parameters
    ----------
    seeds
        Draws of training sentences for each size of the learning curve.
    """
    parts = sst2()
    n = run.budget(quick=600, default=6920)
    train = [parts["train"][i] for i in run.rng.permutation(6920)[:n]]
    chosen = {"train": train, "test": parts["test"][: run.budget(quick=300, default=1821)]}
    texts = {name: [s.sentence for s in part] for name, part in chosen.items()}
    labels = {name: np.array([s.label for s in part]) for name, part in chosen.items()}
    check_definitions(run)
    check_library(run, texts["train"], labels["train"], texts["test"][:300])
    sentiment(run, texts, labels)
    learning_curve(run, texts, labels, run.budget(quick=2, default=seeds))


def check_definitions(run: Run) -> None:
    """The weights of four documents by hand, and Bayes' rule in fractions."""
    equal = run.against("the definition", kind="theorem", atol=1e-12, why="float64 rounding")
    texts = ["rain rain sun", "rain wind", "sun", "fog"]
    counts = CountVectorizer().fit_transform(texts)
    idf = TfidfTransformer().fit(counts).idf
    expected = [math.log(5 / (1 + df)) + 1 for df in (1, 2, 2, 1)]
    equal("idf of fog, rain, sun and wind", idf, np.array(expected))
    run.metric("idf of a term in 2 of 4 documents", idf[1])

    model = MultinomialNB(alpha=1).fit(counts, [1, 1, 0, 0])
    # "rain sun" after classes {sun, fog} and {rain rain sun rain wind}, 4 kinds of words
    joint = [Fraction(1, 2) * Fraction(1, 6) * Fraction(2, 6)]
    joint += [Fraction(1, 2) * Fraction(4, 9) * Fraction(2, 9)]
    found = np.exp(model.predict_log_proba(CountVectorizer().fit(texts).transform(["rain sun"])))
    equal("posterior of two classes", found[0], np.array([float(p / sum(joint)) for p in joint]))


def check_library(run: Run, texts: list[str], y: np.ndarray, new: list[str]) -> None:
    """Tables of words and pairs of words against scikit-learn's."""
    from sklearn.feature_extraction import text as sklearn
    from sklearn.naive_bayes import MultinomialNB as Reference

    options = {"ngram_range": (1, 2), "min_df": 2}
    ours, theirs = CountVectorizer(**options), sklearn.CountVectorizer(**options)
    counts, reference = ours.fit_transform(texts), theirs.fit_transform(texts)
    exact = run.against("CountVectorizer", why="whole numbers and strings are equal or not")
    differ = sum(a != b for a, b in zip(ours.terms, theirs.get_feature_names_out(), strict=True))
    exact("terms that differ", differ, 0)
    exact("counts that differ", (counts != reference).nnz, 0)
    unseen, seen_by_them = ours.transform(new), theirs.transform(new)
    exact("counts of new texts that differ", (unseen != seen_by_them).nnz, 0)
    equal = run.against("TfidfTransformer", atol=1e-15, why="the last bit of float64")
    for sublinear in (False, True):
        weights = TfidfTransformer(sublinear_tf=sublinear).fit(counts).transform(unseen)
        other = sklearn.TfidfTransformer(sublinear_tf=sublinear).fit(reference)
        name = f"TF-IDF{', logarithms of counts' if sublinear else ''}"
        equal(name, weights.toarray(), other.transform(seen_by_them).toarray())
    ours, theirs = MultinomialNB(0.5).fit(counts, y), Reference(alpha=0.5).fit(reference, y)
    found, expected = ours.predict_log_proba(unseen), theirs.predict_log_proba(seen_by_them)
    equal("log-posterior", found, expected, atol=1e-12, against="MultinomialNB")


def classify(texts: dict, y: np.ndarray, **options) -> np.ndarray:
    """Learn from the training texts; the classes of the test texts."""
    vectorizer = CountVectorizer(**options)
    model = MultinomialNB().fit(vectorizer.fit_transform(texts["train"]), y)
    return model.predict(vectorizer.transform(texts["test"]))


def sentiment(run: Run, texts: dict, labels: dict) -> None:
    """Accuracy on the test sentences, and the words that decide."""
    y, truth = labels["train"], labels["test"]
    majority = truth == np.bincount(y).argmax()
    right = {
        "words": classify(texts, y) == truth,
        "words and pairs": classify(texts, y, ngram_range=(1, 2)) == truth,
        "shuffled labels": classify(texts, run.rng.permutation(y)) == truth,
    }
    for name in ("words", "words and pairs"):
        run.metric(f"accuracy, {name}", 100 * right[name].mean(), "% of the test part")
    run.metric("accuracy, the commoner class", 100 * majority.mean(), "% of the test part")

    def over_majority(name: str):
        return paired_bootstrap(right[name], majority, rng=run.rng)

    learned, unit = "counted words tell a good review from a bad one", {"unit": "accuracy"}
    run.claim(learned, over_majority("words"), at_least=0.2, **unit)
    run.falsifier("shuffled labels", over_majority("shuffled labels"), breaks=learned)
    gain = paired_bootstrap(right["words and pairs"], right["words"], rng=run.rng)
    seen = "the dev part, where there was no gain"
    run.claim("pairs of words help", gain, at_least=0.01, seen_before=seen, quick=False, **unit)

    vectorizer = CountVectorizer(min_df=5)
    model = MultinomialNB().fit(vectorizer.fit_transform(texts["train"]), y)
    odds = model.log_prob[1] - model.log_prob[0]
    order = odds.argsort()[[*range(-1, -11, -1), *range(9, -1, -1)]]
    with run.figure("odds", "Which words decide?", size=(7.0, 6.0)) as axes:
        colors = [plots.BLUE] * 10 + [plots.ORANGE] * 10
        label = "log-odds of a good review (nats)"
        decide = {vectorizer.terms[i]: odds[i] for i in order}
        plots.bars(axes, decide, colors=colors, xlabel=label)


def learning_curve(run: Run, texts: dict, labels: dict, seeds: int) -> None:
    """Accuracy against the number of training sentences."""
    sizes = [int(len(texts["train"]) / 2**k) for k in range(6, -1, -1)]
    settings = {"words": (1, 1), "words and pairs": (1, 2)}
    curves = {name: np.zeros((seeds, len(sizes))) for name in settings}
    for seed in run.progress(range(seeds), "learning curve"):
        rows = np.random.default_rng([run.seed, seed]).permutation(len(texts["train"]))
        for i, size in enumerate(sizes):
            part = {"train": [texts["train"][j] for j in rows[:size]], "test": texts["test"]}
            for name, ngram_range in settings.items():
                found = classify(part, labels["train"][rows[:size]], ngram_range=ngram_range)
                curves[name][seed, i] = 100 * (found == labels["test"]).mean()
    doubling = bootstrap_interval(curves["words"][:, -1] - curves["words"][:, -2], rng=run.rng)
    run.metric("gain of the last doubling", doubling.mean, "points of accuracy")
    with run.figure("curve", "Does naive Bayes need more reviews?") as axes:
        scale = {"xscale": "log", "xlabel": "training sentences", "ylabel": "% right"}
        chance = {"the commoner class": 100 * (labels["test"] == 1).mean()}
        plots.curves(axes, sizes, curves, marker="o", reference=chance, **scale)
