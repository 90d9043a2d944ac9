r"""What word vectors are asked: similarity, analogies, and whether twins find each other.

Similarity: rank pairs of words by cosine and by what people said, and correlate the ranks
(Spearman's $\rho$). Analogies: the word nearest to $b - a + c$, where $a$, $b$ and $c$ themselves
do not count. Twins: split a word's occurrences by a coin into two words; the same company makes
each the other's neighbor, and the mean of 1 / rank says how nearly.

>>> vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
>>> score = similarity(vectors, ["cup", "mug", "sea"], [("cup", "mug", 9), ("mug", "sea", 1)])
>>> round(score.value, 6), score.n
(1.0, 2)
>>> reciprocal_ranks(vectors, np.array([0]), np.array([2])).tolist()  # sea is second to mug
[0.5]

Finkelstein et al. (2002), WordSim-353; Hill, Reichart and Korhonen (2015), SimLex-999; Mikolov et
al. (2013), arXiv:1301.3781, section 4.1: analogies.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.stats import rankdata
from torch import Tensor

from shared.arguments import checked
from shared.require import require
from week12.word2vec import Corpus


class Score(NamedTuple):
    """A measure and how many questions it rests on: those whose words all have a vector."""

    value: float
    n: int


def unit(vectors: Float[np.ndarray, "vocab dim"]) -> Float[np.ndarray, "vocab dim"]:
    """Rows of length one (a row of zeros stays)."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


@checked
def similarity(
    vectors: Float[np.ndarray, "vocab dim"],
    words: Sequence[str],
    pairs: Sequence[tuple[str, str, float]],
) -> Score:
    """Spearman's correlation of cosines with what people said; ties share their mean rank."""
    index = {word: i for i, word in enumerate(words)}
    known = [(index[a], index[b], s) for a, b, s in pairs if a in index and b in index]
    require(len(known) >= 2, "pairs must hold 2 or more of known words", len(known))
    first, second, said = (np.array(column) for column in zip(*known, strict=True))
    e = unit(vectors)
    ranks = [rankdata(x) for x in ((e[first] * e[second]).sum(axis=1), said)]
    spread = [np.ptp(r) > 0 for r in ranks]
    return Score(float(np.corrcoef(*ranks)[0, 1]) if all(spread) else 0.0, len(known))


@checked
def analogies(
    vectors: Float[np.ndarray, "vocab dim"],
    words: Sequence[str],
    questions: Sequence[tuple[str, str, str, str]],
) -> Score:
    """Share of "a is to b as c is to d" answered with d by the word nearest to b - a + c."""
    index = {word: i for i, word in enumerate(words)}
    known = [[index[w] for w in q] for q in questions if all(w in index for w in q)]
    require(known, "questions must hold one or more of known words", len(known))
    a, b, c, d = np.array(known).T
    e, right = unit(vectors), 0
    for part in np.array_split(np.arange(len(d)), -(-len(d) // 500)):
        cosine = (e[b[part]] - e[a[part]] + e[c[part]]) @ e.T
        for given in (a, b, c):
            cosine[np.arange(len(part)), given[part]] = -np.inf
        right += int((cosine.argmax(axis=1) == d[part]).sum())
    return Score(right / len(d), len(d))


def split_twins(
    corpus: Corpus, chosen: Int[Tensor, " twin"], generator: torch.Generator
) -> tuple[Corpus, Int[Tensor, " twin"]]:
    """Give each occurrence of a chosen word to it or to its twin, by a coin.

    Returns
    -------
    corpus, twins
        The twins' numbers follow those of all words, in the order of `chosen`.
    """
    n = len(corpus.words)
    twin = torch.full((n,), -1, dtype=torch.int64)
    twin[chosen] = n + torch.arange(len(chosen))
    heads = torch.rand(len(corpus.tokens), generator=generator) < 0.5
    other = twin[corpus.tokens]
    tokens = torch.where(heads & (other >= 0), other, corpus.tokens)
    words = corpus.words + [f"{corpus.words[i]}~" for i in chosen.tolist()]
    counts = torch.bincount(tokens, minlength=len(words))
    return Corpus(words, counts, tokens, corpus.sentence), twin[chosen]


@checked
def reciprocal_ranks(
    vectors: Float[np.ndarray, "vocab dim"],
    first: Int[np.ndarray, " pair"],
    second: Int[np.ndarray, " pair"],
) -> Float[np.ndarray, " pair"]:
    """1 / rank of each second word among the neighbors of its first; ties rank it last."""
    e = unit(vectors)
    cosine = e[first] @ e.T
    rows = np.arange(len(first))
    own = cosine[rows, second]
    cosine[rows, first] = -np.inf
    return 1 / (cosine >= own[:, None]).sum(axis=1)


def draw_bands(
    counts: Int[Tensor, " vocab"], edges: Sequence[int], n: int, generator: torch.Generator
) -> list[Int[Tensor, " drawn"]]:
    """At most n words of each band of counts: from each edge on, and below the next one."""
    bands = []
    for low, high in itertools.pairwise(edges):
        inside = ((counts >= low) & (counts < high)).nonzero().flatten()
        require(len(inside), f"counts must hold some from {low} to below {high}", "none")
        bands.append(inside[torch.randperm(len(inside), generator=generator)[:n]])
    return bands
