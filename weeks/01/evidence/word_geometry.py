"""What `word_geometry.py` is measured by: scikit-learn, plurals, and text that was shuffled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.decomposition import TruncatedSVD

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week01.pca import PCA
from week01.word_geometry import (
    build_vocabulary,
    cooccurrence,
    cosine_similarity,
    nearest_neighbors,
    ppmi,
    tokenize,
    truncated_svd,
)

GROUPS = (
    ("integer", "float", "floating", "complex", "numeric", "precision"),
    ("exception", "exceptions", "raise", "except", "try", "finally"),
    ("async", "await", "coroutine", "generator", "yield"),
    ("pattern", "patterns", "subject", "capture", "succeeds", "fails"),
    ("module", "modules", "import", "package", "relative"),
    ("class", "classes", "metaclass", "instance", "base"),
    ("breakpoint", "breakpoints", "debugger", "stack"),
)
NEAR = "a word's plural is among its nearest 10 %"


def main(
    run: Run, *, k: PositiveInt = 50, min_count: PositiveInt = 10, seeds: PositiveInt = 5
) -> None:
    """Embed the words of Python's language reference and test them on plurals.

    Parameters
    ----------
    k
        Numbers in each word's vector.
    min_count
        Rarer words are left out.
    seeds
        Random samples of 80 % of the documents, each with a shuffled control.
    """
    documents = [tokenize(document.text) for document in datasets.pydocs()]
    min_count = run.budget(quick=max(min_count, 40), default=min_count)
    k = run.budget(quick=min(k, 10), default=k)
    vocabulary = build_vocabulary(documents, min_count)
    words = sum(map(len, documents))
    run.say(f"{len(documents)} documents, {words:,} words, {len(vocabulary)} in the vocabulary")
    E = _check_against_sklearn(run, ppmi(cooccurrence(documents, vocabulary, 5)), k)
    for word in ("function", "exception", "async", "float", "import", "breakpoint", "true"):
        if word in vocabulary:
            near = nearest_neighbors(E, vocabulary.index(word), 6)
            run.say(f"{word:>11}: {', '.join(vocabulary[i] for i in near)}")
    _plurals(run, documents, min_count, k, run.budget(quick=2, default=seeds, full=4 * seeds))
    _map(run, E, vocabulary)


def plural_ranks(
    E: Float[np.ndarray, "word dim"], vocabulary: Sequence[str]
) -> Int[np.ndarray, "pair"]:
    """Rank of word + "s" among the neighbors of word, and the other way round; 1 is nearest."""
    index = {word: i for i, word in enumerate(vocabulary)}
    pairs = [(i, index[w + "s"]) for w, i in index.items() if w + "s" in index]
    both = [pair for i, j in pairs for pair in ((i, j), (j, i))]
    similarity = cosine_similarity(E)
    np.fill_diagonal(similarity, -np.inf)
    return np.array([1 + (similarity[a] > similarity[a, b]).sum() for a, b in both], dtype=int)


def _shuffled(documents: list[list[str]], rng: np.random.Generator) -> list[list[str]]:
    """The same words and document lengths; who stands beside whom is chance."""
    words = rng.permutation([word for document in documents for word in document]).tolist()
    ends = np.cumsum([len(document) for document in documents])
    return [words[end - len(d) : end] for end, d in zip(ends, documents, strict=True)]


def _check_against_sklearn(run: Run, table: np.ndarray, k: int) -> np.ndarray:
    U, sigma, _ = truncated_svd(table, k, run.rng)
    E = U * sigma
    model = TruncatedSVD(k, algorithm="arpack", tol=0.0, random_state=run.seed)
    reference = model.fit_transform(table)
    why = "triplets accepted at a residual of 1e-10 σ_max, divided by the gap to the next σ"
    equal = run.against("sklearn TruncatedSVD (ARPACK)", atol=1e-6, why=why)
    squared = "Rayleigh quotients: the square of the vectors' error"
    theirs = model.singular_values_
    equal("singular values", sigma, theirs, rtol=1e-10, atol=0.0, why=squared)
    equal("inner products of the embeddings", E @ E.T, reference @ reference.T)
    return E


def _plurals(run: Run, documents: list[list[str]], min_count: int, k: int, seeds: int) -> None:
    medians: dict[str, list[float]] = {}
    for seed in run.progress(range(seeds), "resampled texts"):
        rng = np.random.default_rng([run.seed, seed])
        drawn = rng.choice(len(documents), int(0.8 * len(documents)), replace=False)
        sample = [documents[i] for i in drawn]
        vocabulary = build_vocabulary(sample, min_count)
        for text, name in ((sample, ""), (_shuffled(sample, rng), ", shuffled text")):
            counts = cooccurrence(text, vocabulary, 5)
            table = ppmi(counts)
            U, sigma, _ = truncated_svd(table, k, rng, tol=1e-2)
            for step, E in (("counts", counts), ("PPMI", table), ("PPMI + SVD", U * sigma)):
                place = 100 * np.median(plural_ranks(E, vocabulary)) / len(vocabulary)
                medians.setdefault(step + name, []).append(float(place))
    for name in ("counts", "PPMI", "PPMI + SVD", "PPMI + SVD, shuffled text"):
        run.metric(f"plural's place, {name}", np.mean(medians[name]), "%")
    real, shuffled = medians["PPMI + SVD"], medians["PPMI + SVD, shuffled text"]
    note = f"{k} numbers, samples of 80 % that overlap"
    rule = {"unit": "% of the vocabulary", "note": note, "quick": False}
    run.claim(NEAR, real, at_most=10, **rule)
    run.falsifier("shuffled text", shuffled, breaks=NEAR)
    lead = np.subtract(medians["counts"], medians["PPMI"])
    name = "weighting by PPMI brings plurals nearer than raw counts"
    run.claim(name, lead, at_least=0, **(rule | {"note": "pairs of the same text"}))
    title = f"How near is a word's plural? (SVD: {k} numbers)"
    with run.figure("plurals", title, size=(8.0, 3.7)) as ax:
        colors = [plots.GRAY if "shuffled" in name else plots.BLUE for name in medians]
        label = "median place among all words, % (0 is nearest)"
        reference = {"chance": 50}
        plots.bars(ax, medians, colors=colors, reference=reference, xlabel=label, xlim=(0, 60))


def _map(run: Run, E: np.ndarray, vocabulary: list[str]) -> None:
    index = {word: i for i, word in enumerate(vocabulary)}
    groups = [[word for word in members if word in index] for members in GROUPS]
    rows = E[[index[word] for words in groups for word in words]]
    pca = PCA(2)
    points = pca.fit_transform(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    share = pca.explained_variance_ratio_
    title = "A map of words drawn by someone who only counted neighbors"
    with run.figure("map", title, size=(8.0, 6.4)) as ax:
        parts = np.split(points, np.cumsum([len(words) for words in groups])[:-1])
        for part, words, color in zip(parts, groups, (*plots.COLORS[:6], "black"), strict=True):
            ax.plot(*part.T, "o", color=color, label=", ".join(words))
        ax.set_xlabel(f"component 1 ({share[0]:.0%} of the variance)")
        ax.set_ylabel(f"component 2 ({share[1]:.0%})")
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), fontsize=9, ncols=2)
