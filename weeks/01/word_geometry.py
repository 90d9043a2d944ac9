r"""Word geometry: from counting neighbors to directions that mean something.

Words are known by the company they keep. Count which words stand within a few places of each
other, keep what is more frequent than chance (positive pointwise mutual information), and let the
SVD compress each word's row of a matrix with hundreds of columns to a short vector:

$$\mathrm{PPMI}_{wc} = \max\left(0, \log \frac{p(w, c)}{p(w)\, p_\alpha(c)}\right), \qquad
  \mathrm{PPMI} \approx U_k \Sigma_k V_k^\top, \qquad E = U_k \Sigma_k .$$

Nothing here sees the letters of a word. Whether E knows anything is tested with plurals: how far
down the list of nearest neighbors of *object* is *objects*?

    >>> texts = [tokenize("The cat sat."), tokenize("The dog sat.")]
    >>> words = build_vocabulary(texts, min_count=1)
    >>> words, cooccurrence(texts, words, window=1)[2].tolist()  # beside whom the cat stands
    (['sat', 'the', 'cat', 'dog'], [1.0, 1.0, 0.0, 0.0])
    >>> ppmi(cooccurrence(texts, words, window=1), alpha=1.0)[2].round(3).tolist()
    [0.693, 0.693, 0.0, 0.0]

    uv run weeks/01/word_geometry.py

Source: Levy, Goldberg and Dagan, "Improving distributional similarity with lessons learned from
word embeddings" (TACL 2015), sections 2 and 3; Church and Hanks (1990); Deerwester et al. (1990).
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week01.matrix_decompositions import svd_jacobi


def tokenize(text: str) -> list[str]:
    """Lower-case runs of two or more letters."""
    return re.findall(r"[a-z]{2,}", text.lower())


def build_vocabulary(documents: Sequence[Sequence[str]], min_count: int) -> list[str]:
    """Words that occur at least `min_count` times, the most frequent first, ties by alphabet."""
    require(min_count >= 1, "min_count must be at least 1", min_count)
    counts = Counter(word for document in documents for word in document)
    return sorted((w for w, n in counts.items() if n >= min_count), key=lambda w: (-counts[w], w))


def cooccurrence(
    documents: Sequence[Sequence[str]], vocabulary: Sequence[str], window: int
) -> Float[np.ndarray, "word context"]:
    """How often each word stands within `window` places of each other, in the same document.

    Words outside the vocabulary keep their place in the text, but are not counted.
    """
    require(window >= 1, "window must be at least 1", window)
    once = len(set(vocabulary)) == len(vocabulary)
    require(once, "vocabulary must hold each word once", "repeated words")
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


@checked
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
    valid = (counts >= 0).all() and np.isfinite(counts).all()
    require(valid, "counts must be finite and at least 0", f"a minimum of {counts.min()}")
    require(0.0 < alpha <= 1.0, "alpha must be above 0 and at most 1", alpha)
    if counts.sum() == 0:
        return np.zeros_like(counts)
    joint = counts / counts.sum()
    word = joint.sum(axis=1, keepdims=True)
    context = counts.sum(axis=0) ** alpha
    expected = word * (context / context.sum())
    seen = counts > 0
    # What was never seen together would be -inf; PPMI makes no difference between that and chance.
    return np.log(np.divide(joint, expected, where=seen, out=np.ones_like(joint))).clip(min=0.0)


@checked
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
    most = min(A.shape)
    require(1 <= k <= most, f"k must be between 1 and min(A.shape) = {most}", k)
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


@checked
def cosine_similarity(E: Float[np.ndarray, "word dim"]) -> Float[np.ndarray, "word word"]:
    """Cosines of the angles between all rows; a row of zeros is similar to nothing."""
    norms = np.linalg.norm(E, axis=1, keepdims=True)
    unit = np.divide(E, norms, where=norms > 0, out=np.zeros_like(E))
    return unit @ unit.T


@checked
def nearest_neighbors(E: Float[np.ndarray, "word dim"], word: int, k: int) -> Int[np.ndarray, "k"]:
    """Rows with the largest cosine to row `word`, itself left out, the nearest first."""
    last = len(E) - 1
    require(0 <= word <= last, f"word must be between 0 and {last}", word)
    require(1 <= k <= last, f"k must be between 1 and {last}", k)
    similarity = cosine_similarity(E)[word]
    similarity[word] = -np.inf
    return np.argsort(-similarity, kind="stable")[:k]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
