r"""Deduplication: find every document that is another one, or nearly, without comparing all pairs.

A document is the set of its *shingles*, runs of five words; where a script has no spaces, each
character is a word. Two documents are near-duplicates if their Jaccard similarity

$$s = |A \cap B| / |A \cup B|$$

is high. [MinHash and banding](minhash.py) propose candidates; the exact similarity decides, so
nothing is removed by chance.

>>> text = "it was the best of times it was the worst of times it was the age of wisdom "
>>> found = deduplicate([text, text.upper(), text + "it was", "something else entirely"])
>>> found.leader, found.exact
([0, 0, 0, 3], [1])
>>> print(found)
4 documents: 1 exact and 1 near-duplicates removed

    uv run weeks/15/deduplication.py

Source: Broder, "On the resemblance and containment of documents" (1997), sections 2-3.
"""

import hashlib
import itertools
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from jaxtyping import UInt64

from shared.require import require
from week15.minhash import MERSENNE, MinHash, candidate_pairs, choose_bands

Pair = tuple[int, int, float]  # two documents and their similarity
_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_WORD = rf"[[{_NO_SPACES}]&&\w]\p{{M}}*|[\w--[{_NO_SPACES}]]+"
# Hyphens are no signs, nor are * and / where they stand at one side of a word.
_SIGN = (
    r"[\p{Sm}\p{Sc}\p{So}^]|-(?=\s?\d)|(?<!\w)-(?=\w)|(?<=\w)[*/%&](?=\w)|(?<=\w )[-*/%&](?= \w)"
)
WORD, SIGN, BOTH = (regex.compile("(?V1)" + p) for p in (_WORD, _SIGN, f"{_WORD}|{_SIGN}"))


def normalize(text: str) -> str:
    """What counts as the same text: compatible characters, letter case and white space unified."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fingerprint(text: str) -> bytes:
    """SHA-256 of the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def words_of(text: str) -> list[str]:
    """What shingles are runs of: words, and each character of a script without spaces.

    In formulas signs are words, too: 0-1=-1 is no copy of 0+1=1. A text is one if it has a sign for
    every four words, and under five words or mostly numbers and single letters.
    """
    text = normalize(text)
    words = WORD.findall(text)
    if 4 * len(SIGN.findall(text)) < max(1, len(words)):
        return words
    terms = sum(len(word) == 1 or word[0].isdigit() for word in words)
    return BOTH.findall(text) if len(words) < 5 or 2 * terms > len(words) else words


def shingles(text: str, width: int = 5) -> UInt64[np.ndarray, " m"]:
    """Hashes (below 2^61 - 1, sorted, each once) of all runs of `width` words (see `words_of`).

    A shorter text is one shingle, a text without words has none. The hash is BLAKE2b and not
    Python's `hash`, which differs from process to process.
    """
    require(width >= 1, "width must be at least 1", width)
    words = words_of(text)
    runs = {" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))} - {""}
    digests = b"".join(
        hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for run in runs
    )
    return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64) % np.uint64(MERSENNE))


def jaccard(a: UInt64[np.ndarray, " m"], b: UInt64[np.ndarray, " n"]) -> float:
    """|a ∩ b| / |a ∪ b| of two sets; 0 if both are empty, for no words are no evidence."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def compare_all_pairs(documents: Sequence[str], *, threshold: float = 0.8) -> list[Pair]:
    """Near-duplicates i < j by looking at every pair: what all that follows is to find."""
    sets = [shingles(text) for text in documents]
    pairs = itertools.combinations(range(len(sets)), 2)
    measured = [(i, j, jaccard(sets[i], sets[j])) for i, j in pairs]
    return [pair for pair in measured if pair[2] >= threshold]


class DisjointSets:
    """Union-find in which the smallest member leads, so the order of unions does not matter."""

    def __init__(self, n: int):
        self.parent = list(range(n))

    def find(self, i: int) -> int:
        """The smallest member of i's set."""
        while self.parent[i] != i:
            self.parent[i] = i = self.parent[self.parent[i]]  # halve the path
        return i

    def union(self, i: int, j: int) -> None:
        """Join two sets."""
        i, j = sorted((self.find(i), self.find(j)))
        self.parent[j] = i


@dataclass(frozen=True)
class Deduplicated:
    """What was kept, what was removed, and why.

    Attributes
    ----------
    leader
        Of each document, the first of its group; a document that leads itself is kept.
    exact
        Documents whose normalized text an earlier one has.
    pairs
        Near-duplicates i < j and their Jaccard similarity (its estimate without verification).
    n_candidates
        How many pairs were compared.
    """

    leader: list[int]
    exact: list[int]
    pairs: list[Pair]
    n_candidates: int

    @property
    def kept(self) -> list[int]:
        """Documents to go on with, in their order."""
        return [i for i, first in enumerate(self.leader) if i == first]

    def __str__(self) -> str:
        n, exact = len(self.leader), len(self.exact)
        near = n - len(self.kept) - exact
        return f"{n:,} documents: {exact:,} exact and {near:,} near-duplicates removed"


def exact_copies(
    texts: Sequence[str], *, verify: bool = True, digest: Callable[[str], bytes] = fingerprint
) -> dict[int, int]:
    """The first document with the same text, of each that has an earlier one.

    Parameters
    ----------
    texts
        Normalized.
    verify
        Compare the texts, too, where digests agree.
    """
    firsts: defaultdict[bytes, list[int]] = defaultdict(list)  # different texts may collide
    copy_of: dict[int, int] = {}
    for i, text in enumerate(texts):
        alike = firsts[digest(text)]
        first = next((j for j in alike if not verify or texts[j] == text), None)
        if first is None:
            alike.append(i)
        else:
            copy_of[i] = first
    return copy_of


def deduplicate(
    documents: Sequence[str],
    *,
    threshold: float = 0.8,
    n_hashes: int = 128,
    recall: float = 0.99,
    seed: int = 0,
    verify: bool = True,
) -> Deduplicated:
    """Group exact and near-duplicates and keep the first document of each group.

    Parameters
    ----------
    documents
        Their order decides what is kept; sort by date or address if it is not stable.
    threshold
        Least Jaccard similarity of near-duplicates.
    recall
        Probability of finding a pair at the threshold; above it the curve only rises.
    verify
        Compare texts and shingles of what the hashes found; else SHA-256 and the estimated
        similarity are trusted.
    """
    require(not isinstance(documents, str), "documents must be several texts, got a str")
    bands, rows = choose_bands(n_hashes, threshold, recall)
    hasher = MinHash(n_hashes, seed=seed)
    texts = [normalize(text) for text in documents]
    copy_of = exact_copies(texts, verify=verify)
    found = {i: shingles(text) for i, text in enumerate(texts) if i not in copy_of}
    sets = {i: runs for i, runs in found.items() if len(runs)}  # no words are no evidence
    index = np.array(list(sets), dtype=np.int64)
    signatures = [hasher.signature(runs) for runs in sets.values()]
    table = np.array(signatures, dtype=np.uint64).reshape(-1, n_hashes)
    candidates = candidate_pairs(table, bands, rows)
    pairs = []
    for a, b in candidates.tolist():
        i, j = int(index[a]), int(index[b])
        s = jaccard(sets[i], sets[j]) if verify else float(np.mean(table[a] == table[b]))
        if s >= threshold:
            pairs.append((i, j, s))
    groups = DisjointSets(len(texts))
    for i, j in [*copy_of.items(), *((i, j) for i, j, _ in pairs)]:
        groups.union(i, j)
    leader = [groups.find(i) for i in range(len(texts))]
    return Deduplicated(leader, sorted(copy_of), pairs, len(candidates))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
