r"""Classes of words from text without tags: words that have the same neighbors.

What stands before a word and what stands behind it are two distributions over the commonest words.
Square roots of probabilities are vectors of length 1, whose distances do not hang on the few most
frequent neighbors alone (Hellinger's distance); their principal components are grouped by k-means:

$$ x_w = \Big(\sqrt{p(\text{left} = c \mid w)},\ \sqrt{p(\text{right} = c \mid w)}\Big)_c , \qquad
   \mathrm{class}(w) = \arg\min_j |P x_w - m_j|^2 . $$

>>> text = "the dog ran . a cat sat . the cat ran . a dog sat .".split()
>>> found = word_classes(text, n_words=7, n_contexts=7, n_classes=4, dim=3, least=2)
>>> found["dog"] == found["cat"], found["ran"] == found["sat"], found["dog"] == found["ran"]
(True, True, False)

`uv run weeks/12/pos_tagging.py` asks what they tell a tagger.

H. Schütze, "Distributional part-of-speech tagging" (1995), section 3, for left and right neighbors,
a decomposition and groups; R. Lebret and R. Collobert, "Word embeddings through Hellinger PCA"
(2014), for the roots.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from shared.require import require
from week05.kmeans import KMeans


def tokens(text: str) -> list[str]:
    """Words in lower case and marks, cut as treebanks do: ``do n't``, ``it 's``."""
    text = re.sub(r"n't\b", " n't ", text.lower())
    text = re.sub(r"'(s|re|ve|ll|d|m)\b", r" '\1 ", text)
    return re.findall(r"n't|'\w+|\w+(?:[.-]\w+)*|[^\w\s]+", text)


def neighbors(
    words: Sequence[str], vocabulary: Sequence[str], n_contexts: int
) -> Float[np.ndarray, "vocab columns"]:
    """How often each word of the vocabulary has each of its first words to its left, and right.

    Columns are the `n_contexts` first words and one for all others, first of the left, then of the
    right.
    """
    require(1 <= n_contexts <= len(vocabulary), "n_contexts must be 1 to vocab", n_contexts)
    index = {word: i for i, word in enumerate(vocabulary)}
    ids = np.array([index.get(word, -1) for word in words])
    contexts = np.where((ids < 0) | (ids >= n_contexts), n_contexts, ids)
    shape = (len(vocabulary), 2 * (n_contexts + 1))
    rows = np.concatenate([ids[1:], ids[:-1]])
    columns = np.concatenate([contexts[:-1], contexts[1:] + n_contexts + 1])
    known = rows >= 0
    cells = rows[known] * shape[1] + columns[known]
    return np.bincount(cells, minlength=shape[0] * shape[1]).reshape(shape).astype(float)


def components(
    counts: Float[np.ndarray, "vocab columns"], dim: int
) -> Float[np.ndarray, "vocab dim"]:
    """Roots of each row's shares, on the `dim` directions in which they differ most."""
    require(1 <= dim <= counts.shape[1], f"dim must be 1 to columns = {counts.shape[1]}", dim)
    roots = np.sqrt(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    roots -= roots.mean(axis=0)
    _, directions = np.linalg.eigh(roots.T @ roots)  # ascending
    return roots @ directions[:, -dim:]


def word_classes(
    words: Sequence[str],
    *,
    n_words: int = 20_000,
    n_contexts: int = 500,
    n_classes: int = 200,
    dim: int = 50,
    least: int = 5,
    seed: int = 0,
) -> dict[str, int]:
    """The class of each of the `n_words` commonest words that occur at least `least` times.

    Parameters
    ----------
    words
        A text, in order.
    n_contexts
        Commonest words that are told apart as neighbors.
    dim
        Directions kept before grouping.
    """
    commonest = Counter(words).most_common(n_words)
    vocabulary = [word for word, n in commonest if n >= least]
    enough = len(vocabulary) >= n_classes
    require(enough, f"words must hold n_classes = {n_classes} frequent words", len(vocabulary))
    counts = neighbors(words, vocabulary, min(n_contexts, len(vocabulary)))
    groups = KMeans(n_classes, max_iter=20, random_state=seed).fit(components(counts, dim))
    return dict(zip(vocabulary, groups.labels_.tolist(), strict=True))
