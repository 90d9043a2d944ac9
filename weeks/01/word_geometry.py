r"""Word geometry: from counting neighbors to directions that mean something.

Words are known by the company they keep. Count which words stand within a few places of each
other, keep what is more frequent than chance (positive pointwise mutual information), and let the
SVD compress each word's row of a matrix with hundreds of columns to a short vector:

$$\mathrm{PPMI}_{wc} = \max\left(0, \log \frac{p(w, c)}{p(w)\, p_\alpha(c)}\right), \qquad
  \mathrm{PPMI} \approx U_k \Sigma_k V_k^\top, \qquad E = U_k \Sigma_k .$$

Nothing here sees the letters of a word. Whether E knows anything is tested with plurals: how far
down the list of nearest neighbors of *object* is *objects*?

    uv run weeks/01/word_geometry.py

Source: Levy, Goldberg and Dagan, "Improving distributional similarity with lessons learned from
word embeddings" (TACL 2015), sections 2 and 3; Church and Hanks (1990); Deerwester et al. (1990).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from week01.matrix_decompositions import svd_jacobi


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


def nearest_neighbors(E: Float[np.ndarray, "word dim"], word: int, k: int) -> Int[np.ndarray, "k"]:
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
    """Rank of word + "s" among the neighbors of word, and the other way round; 1 is nearest."""
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


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
