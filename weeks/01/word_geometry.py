r"""Word geometry: from counting neighbours to directions that mean something.

Words are known by the company they keep. Count which words stand within a few places of each
other, keep what is more frequent than chance (positive pointwise mutual information), and let the
SVD compress each word's row of a matrix with hundreds of columns to a short vector:

$$\mathrm{PPMI}_{wc} = \max\left(0, \log \frac{p(w, c)}{p(w)\, p_\alpha(c)}\right), \qquad
  \mathrm{PPMI} \approx U_k \Sigma_k V_k^\top, \qquad E = U_k \Sigma_k .$$

Nothing here sees the letters of a word. Whether E knows anything is tested with plurals: how far
down the list of nearest neighbours of *object* is *objects*?

    uv run weeks/01/word_geometry.py

Source: Levy, Goldberg and Dagan, "Improving distributional similarity with lessons learned from
word embeddings" (TACL 2015), sections 2 and 3; Church and Hanks (1990); Deerwester et al. (1990).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.text import Text

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week01.matrix_decompositions import svd_jacobi
from week01.pca import PCA


def tokenize(text: str) -> list[str]:
    """Lower-case runs of two or more letters."""
    return re.findall(r"[a-z]{2,}", text.lower())


def build_vocabulary(documents: Sequence[Sequence[str]], min_count: int) -> list[str]:
    """Words that occur at least `min_count` times, the most frequent first, ties by alphabet."""
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    counts = Counter(word for document in documents for word in document)
    return sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))


def cooccurrence(
    documents: Sequence[Sequence[str]], vocabulary: Sequence[str], window: int
) -> Float[np.ndarray, "word context"]:
    """How often each word stands within `window` places of each other, in the same document.

    Words outside the vocabulary keep their place in the text, but are not counted.
    """
    if window < 1:
        raise ValueError(f"window must be at least 1, got {window}")
    if len(set(vocabulary)) < len(vocabulary):
        raise ValueError("vocabulary must hold each word once, got repeated words")
    index = {word: i for i, word in enumerate(vocabulary)}
    counts = np.zeros((len(vocabulary), len(vocabulary)))
    for document in documents:
        ids = np.array([index.get(word, -1) for word in document], dtype=int)
        for distance in range(1, window + 1):
            left, right = ids[:-distance], ids[distance:]
            known = (left >= 0) & (right >= 0)
            # add.at, because counts[left, right] += 1 would count a repeated pair once
            np.add.at(counts, (left[known], right[known]), 1.0)
    return counts + counts.T


def ppmi(
    counts: Float[np.ndarray, "word context"], alpha: float = 0.75
) -> Float[np.ndarray, "word context"]:
    r"""Positive pointwise mutual information of a table of counts.

    Parameters
    ----------
    alpha
        Contexts are weighted as $p_\alpha(c) \propto \#(c)^\alpha$; below 1, rare contexts count
        as less of a surprise. 1 is plain PPMI.

    References
    ----------
    Levy, Goldberg and Dagan (2015), equations 2 and 3.
    """
    if (counts < 0).any() or not np.isfinite(counts).all():
        raise ValueError(f"counts must be finite and at least 0, got a minimum of {counts.min()}")
    if not 0.0 < alpha <= 1.0:
        raise ValueError(f"alpha must be above 0 and at most 1, got {alpha}")
    if counts.sum() == 0:
        return np.zeros_like(counts)
    joint = counts / counts.sum()
    word = joint.sum(axis=1, keepdims=True)
    context = counts.sum(axis=0) ** alpha
    expected = word * (context / context.sum())
    seen = counts > 0
    # What was never seen together would be -inf; PPMI makes no difference between that and chance.
    return np.log(np.divide(joint, expected, where=seen, out=np.ones_like(joint))).clip(min=0.0)


def truncated_svd(
    A: Float[np.ndarray, "m n"], k: int, rng: np.random.Generator, tol: float = 1e-10
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, "k"], Float[np.ndarray, "k n"]]:
    """The k largest singular triplets by Lanczos: look at A only through products with vectors.

    The Krylov space of v, AᵀA v, (AᵀA)² v, … soon holds the leading right singular vectors; the
    SVD of A on it gives all three factors. The space is enlarged until each triplet satisfies
    |Aᵀu - σ v| <= tol σ_max.

    References
    ----------
    Golub and Van Loan, *Matrix Computations* (2013), section 10.4; Trefethen and Bau, lecture 36.
    """
    if not 1 <= k <= min(A.shape):
        raise ValueError(f"k must be between 1 and min(A.shape) = {min(A.shape)}, got {k}")
    if A.shape[0] < A.shape[1]:
        V, sigma, Ut = truncated_svd(A.T, k, rng, tol)
        return Ut.T, sigma, V.T
    steps = min(A.shape[1], 3 * k + 20)
    while True:
        V = np.zeros((A.shape[1], steps))
        v = rng.normal(size=len(V))
        for j in range(steps):
            length = np.linalg.norm(v)
            for _ in range(2):  # once leaves rounding that Lanczos would magnify; twice is enough
                v -= V[:, :j] @ (V[:, :j].T @ v)
            if np.linalg.norm(v) <= 1e-10 * length:  # the space is exhausted: start a new one
                v = rng.normal(size=len(V))
                for _ in range(2):
                    v -= V[:, :j] @ (V[:, :j].T @ v)
            V[:, j] = v / np.linalg.norm(v)
            v = A.T @ (A @ V[:, j])
        U, sigma, Qt = svd_jacobi(A @ V)
        U, sigma, Vt = U[:, :k], sigma[:k], Qt[:k] @ V.T
        residual = np.linalg.norm(A.T @ U - Vt.T * sigma, axis=0).max()
        if residual <= tol * sigma[0] or steps == A.shape[1]:
            return U, sigma, Vt
        steps = min(A.shape[1], 2 * steps)


def cosine_similarity(E: Float[np.ndarray, "word dim"]) -> Float[np.ndarray, "word word"]:
    """Cosines of the angles between all rows; a row of zeros is similar to nothing."""
    norms = np.linalg.norm(E, axis=1, keepdims=True)
    unit = np.divide(E, norms, where=norms > 0, out=np.zeros_like(E))
    return unit @ unit.T


def nearest_neighbours(E: Float[np.ndarray, "word dim"], word: int, k: int) -> Int[np.ndarray, "k"]:
    """Rows with the largest cosine to row `word`, itself left out, the nearest first."""
    if not 0 <= word < len(E):
        raise ValueError(f"word must be between 0 and {len(E) - 1}, got {word}")
    if not 1 <= k < len(E):
        raise ValueError(f"k must be between 1 and {len(E) - 1}, got {k}")
    similarity = cosine_similarity(E)[word]
    similarity[word] = -np.inf
    return np.argsort(-similarity, kind="stable")[:k]


# ---- the experiment

GROUPS = {
    "numbers": ("integer", "float", "floating", "complex", "numeric", "precision"),
    "errors": ("exception", "exceptions", "raise", "except", "try", "finally"),
    "coroutines": ("async", "await", "coroutine", "generator", "yield"),
    "matching": ("pattern", "patterns", "subject", "capture", "succeeds", "fails"),
    "modules": ("module", "modules", "import", "package", "relative"),
    "classes": ("class", "classes", "metaclass", "instance", "base"),
    "debugging": ("breakpoint", "breakpoints", "debugger", "stack"),
}


def plural_ranks(
    E: Float[np.ndarray, "word dim"], vocabulary: Sequence[str]
) -> Int[np.ndarray, "pair"]:
    """Rank of word + "s" among the neighbours of word, and the other way round; 1 is nearest."""
    index = {word: i for i, word in enumerate(vocabulary)}
    pairs = [(i, index[w + "s"]) for w, i in index.items() if w + "s" in index]
    similarity = cosine_similarity(E)
    np.fill_diagonal(similarity, -np.inf)
    return np.array(
        [
            1 + (similarity[a] > similarity[a, b]).sum()
            for i, j in pairs
            for a, b in ((i, j), (j, i))
        ],
        dtype=int,
    )


def _shuffled(documents: list[list[str]], rng: np.random.Generator) -> list[list[str]]:
    """The same words and document lengths; who stands beside whom is chance."""
    words = rng.permutation([word for document in documents for word in document]).tolist()
    ends = np.cumsum([len(document) for document in documents])
    return [words[end - len(d) : end] for end, d in zip(ends, documents, strict=True)]


def _check_against_sklearn(run: Run, table: np.ndarray, k: int) -> np.ndarray:
    from sklearn.decomposition import TruncatedSVD

    U, sigma, Vt = truncated_svd(table, k, run.rng)
    E = U * sigma
    model = TruncatedSVD(k, algorithm="arpack", tol=0.0, random_state=run.seed)
    reference = model.fit_transform(table)
    why = "triplets accepted at a residual of 1e-10 σ_max, divided by the gap to the next σ"
    against = "sklearn TruncatedSVD (ARPACK)"
    run.check("singular values", sigma, model.singular_values_, against=against, rtol=1e-10,
              why="Rayleigh quotients: the square of the vectors' error")  # fmt: skip
    run.check("inner products of the embeddings", E @ E.T, reference @ reference.T,
              against=against, atol=1e-6, why=why)  # fmt: skip
    run.check("the subspace, V Vᵀ", Vt.T @ Vt, model.components_.T @ model.components_,
              against=against, atol=1e-7, why=why)  # fmt: skip
    return E


def _plurals(run: Run, documents: list[list[str]], min_count: int, k: int, seeds: int) -> None:
    medians: dict[str, list[float]] = {}
    pairs = 0
    for seed in run.progress(range(seeds), "resampled texts"):
        rng = np.random.default_rng([run.seed, seed])
        drawn = rng.choice(len(documents), int(0.8 * len(documents)), replace=False)
        sample = [documents[i] for i in drawn]
        vocabulary = build_vocabulary(sample, min_count)
        for text, name in ((sample, ""), (_shuffled(sample, rng), ", shuffled text")):
            counts = cooccurrence(text, vocabulary, 5)
            table = ppmi(counts)
            U, sigma, _ = truncated_svd(table, k, rng, tol=1e-2)
            for step, E in (
                ("counts", counts),
                ("PPMI", table),
                (f"PPMI + SVD, {k} numbers", U * sigma),
            ):
                ranks = plural_ranks(E, vocabulary)
                medians.setdefault(step + name, []).append(np.median(ranks) / len(vocabulary))
        pairs = len(ranks) // 2
    real, shuffled = (
        medians[f"PPMI + SVD, {k} numbers"],
        medians[f"PPMI + SVD, {k} numbers, shuffled text"],
    )
    run.say(f"about {pairs} singular and plural pairs, e.g. object and objects")
    for name, values in medians.items():
        run.metric(f"plural's place, {name}", 100 * np.mean(values), "%", rtol=0.5)
    run.claim(
        "a word's plural is among its nearest 10 %; in shuffled text it is nowhere near",
        max(real) < 0.1 and min(shuffled) > 0.25,
        f"median place, % of the vocabulary: {mean_interval(100 * np.array(real))}; "
        f"shuffled {mean_interval(100 * np.array(shuffled))}",
    )
    run.claim(
        "weighting by PPMI brings plurals nearer than raw counts, in every resampled text",
        bool((np.array(medians["PPMI"]) < medians["counts"]).all()),
        f"median place: counts {mean_interval(100 * np.array(medians['counts']))} %, "
        f"PPMI {mean_interval(100 * np.array(medians['PPMI']))} %",
    )
    order = list(medians)
    title = "How near is a word's plural?"
    with run.figure("plurals", title, size=(8.0, 3.7)) as ax:
        for row, name in enumerate(order[::-1]):
            color = plots.GREY if "shuffled" in name else plots.BLUE
            values = 100 * np.array(medians[name])
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
            text = ax.annotate(
                label, point, (dx, dy), textcoords="offset points", color=color, fontsize=9,
                ha=ha, va="center", arrowprops=line if np.hypot(dx, dy) > 15 else None,
            )  # fmt: skip
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
    title = "A map of words drawn by someone who only counted neighbours"
    with run.figure("map", title, size=(8.0, 6.4)) as ax:
        colors = [color for _, _, color in words]
        ax.scatter(*points.T, s=20, c=colors)
        ax.margins(0.1)
        ax.set(xlabel=f"component 1 ({share[0]:.0%} of the variance)",
               ylabel=f"component 2 ({share[1]:.0%})")  # fmt: skip
        for group, color in dict.fromkeys((group, color) for _, group, color in words):
            ax.plot([], [], "o", color=color, label=group)
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=7, handletextpad=0.1,
                  columnspacing=1.0)  # fmt: skip
        _place_labels(ax, points, [word for word, _, _ in words], colors)


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
    min_count, k = (
        run.budget(quick=max(min_count, 20), default=min_count),
        run.budget(quick=min(k, 20), default=k),
    )
    vocabulary = build_vocabulary(documents, min_count)
    run.say(f"{len(documents)} documents, {sum(map(len, documents)):,} words, "
            f"{len(vocabulary)} of them in the vocabulary")  # fmt: skip
    E = _check_against_sklearn(run, ppmi(cooccurrence(documents, vocabulary, 5)), k)
    for word in ("function", "exception", "async", "float", "import", "breakpoint", "true"):
        if word in vocabulary:
            near = nearest_neighbours(E, vocabulary.index(word), 6)
            run.say(f"{word:>11}: {', '.join(vocabulary[i] for i in near)}")
    _plurals(run, documents, min_count, k, run.budget(quick=2, default=seeds, full=4 * seeds))
    _map(run, E, vocabulary)


if __name__ == "__main__":
    cli(main)
