"""What `word_geometry.py` is measured by: scikit-learn, plurals, and text that was shuffled."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.text import Text
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

GROUPS = {
    "numbers": ("integer", "float", "floating", "complex", "numeric", "precision"),
    "errors": ("exception", "exceptions", "raise", "except", "try", "finally"),
    "coroutines": ("async", "await", "coroutine", "generator", "yield"),
    "matching": ("pattern", "patterns", "subject", "capture", "succeeds", "fails"),
    "modules": ("module", "modules", "import", "package", "relative"),
    "classes": ("class", "classes", "metaclass", "instance", "base"),
    "debugging": ("breakpoint", "breakpoints", "debugger", "stack"),
}
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
    U, sigma, Vt = truncated_svd(table, k, run.rng)
    E = U * sigma
    model = TruncatedSVD(k, algorithm="arpack", tol=0.0, random_state=run.seed)
    reference = model.fit_transform(table)
    why = "triplets accepted at a residual of 1e-10 σ_max, divided by the gap to the next σ"
    equal = run.against("sklearn TruncatedSVD (ARPACK)", atol=1e-6, why=why)
    squared = "Rayleigh quotients: the square of the vectors' error"
    theirs = model.singular_values_
    equal("singular values", sigma, theirs, rtol=1e-10, atol=0.0, why=squared)
    equal("inner products of the embeddings", E @ E.T, reference @ reference.T)
    theirs = model.components_.T @ model.components_
    equal("the subspace, V Vᵀ", Vt.T @ Vt, theirs, atol=1e-7)
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
    name = "in shuffled text a word's plural is beyond its nearest 25 %"
    run.claim(name, shuffled, at_least=25, **rule)
    lead = np.subtract(medians["counts"], medians["PPMI"])
    name = "weighting by PPMI brings plurals nearer than raw counts"
    run.claim(name, lead, at_least=0, **(rule | {"note": "pairs of the same text"}))
    order = list(medians)
    title = f"How near is a word's plural? (SVD: {k} numbers)"
    with run.figure("plurals", title, size=(8.0, 3.7)) as ax:
        for row, name in enumerate(order[::-1]):
            color = plots.GRAY if "shuffled" in name else plots.BLUE
            values = np.array(medians[name])
            ax.plot(values, np.full(len(values), row), "o", color=color, alpha=0.5)
            ax.plot(values.mean(), row, "|", color=color, markersize=18, markeredgewidth=2.5)
        ax.axvline(50, color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        ax.text(48.5, len(order) - 0.6, "chance", color=plots.REFERENCE, ha="right", va="center")
        ax.set_yticks(range(len(order)), order[::-1])
        ax.set(xlabel="median place among all words, % (0 is nearest)", xlim=(0, 60))
        ax.set_ylim(-0.6, len(order) - 0.2)


def _place_labels(ax: Axes, points: np.ndarray, labels: list[str], colors: list[str]) -> None:
    """Write each label beside its point, at the first of many places where it covers nothing."""
    ax.figure.canvas.draw()
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in ax.transData.transform(points)]
    turns = np.pi * np.array([0, 1, 0.5, 1.5, 0.25, 0.75, 1.25, 1.75])
    places = [
        (r * np.cos(t), r * np.sin(t)) for r in (7, 12, 18, 25, 33, 42, 52, 64) for t in turns
    ]
    for point, label, color in zip(points, labels, colors, strict=True):
        for dx, dy in places:
            ha = "left" if dx > 1 else "right" if dx < -1 else "center"
            line = {"arrowstyle": "-", "color": color, "lw": 0.5, "shrinkA": 0}
            style = {"textcoords": "offset points", "color": color, "fontsize": 9, "va": "center"}
            arrow = line if np.hypot(dx, dy) > 15 else None
            text = ax.annotate(label, point, (dx, dy), ha=ha, arrowprops=arrow, **style)
            text.update_positions(ax.figure.canvas.get_renderer())
            x0, y0, x1, y1 = Text.get_window_extent(text).extents  # without the line
            if not any(x0 < b[2] and b[0] < x1 and y0 < b[3] and b[1] < y1 for b in taken):
                taken.append((x0, y0, x1, y1))
                break
            text.remove()


def _map(run: Run, E: np.ndarray, vocabulary: list[str]) -> None:
    index = {word: i for i, word in enumerate(vocabulary)}
    palette = [plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, "#9C6B00", "#2B8CBE", "#000000"]
    words = [
        (word, group, color)
        for (group, members), color in zip(GROUPS.items(), palette, strict=True)
        for word in members
        if word in index
    ]
    rows = E[[index[word] for word, _, _ in words]]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    pca = PCA(2)
    points = pca.fit_transform(rows)
    share = pca.explained_variance_ratio_
    title = "A map of words drawn by someone who only counted neighbors"
    with run.figure("map", title, size=(8.0, 6.4)) as ax:
        colors = [color for _, _, color in words]
        ax.scatter(*points.T, s=20, c=colors)
        ax.margins(0.1)
        ax.set_xlabel(f"component 1 ({share[0]:.0%} of the variance)")
        ax.set_ylabel(f"component 2 ({share[1]:.0%})")
        for group, color in dict.fromkeys((group, color) for _, group, color in words):
            ax.plot([], [], "o", color=color, label=group)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": 7}
        ax.legend(handletextpad=0.1, columnspacing=1.0, **below)
        _place_labels(ax, points, [word for word, _, _ in words], colors)
