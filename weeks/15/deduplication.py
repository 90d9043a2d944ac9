r"""Deduplication: find every document that is another one, or nearly, without comparing all pairs.

A document is the set of its five-word *shingles*; two documents are near-duplicates if their
Jaccard similarity

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
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int, UInt64

from shared.require import require
from week15.minhash import MERSENNE, MinHash, candidate_pairs, choose_bands

Shingles = UInt64[np.ndarray, " m"]
Pair = tuple[int, int, float]  # two documents and their similarity


def normalize(text: str) -> str:
    """What counts as the same text: compatible characters, letter case and white space unified."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def fingerprint(text: str) -> bytes:
    """SHA-256 of the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def shingles(text: str, width: int = 5) -> Shingles:
    """Hashes (below 2^61 - 1, sorted, each once) of all runs of `width` words.

    A shorter text is one shingle, a text without words has none. The hash is BLAKE2b and not
    Python's `hash`, which differs from process to process.
    """
    require(width >= 1, "width must be at least 1", width)
    words = re.findall(r"\w+", normalize(text))
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


def compare_all_pairs(
    documents: Sequence[str], *, threshold: float = 0.8, width: int = 5
) -> list[Pair]:
    """Near-duplicates i < j by looking at every pair: what all that follows is to find."""
    sets = [shingles(text, width) for text in documents]
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
    n_candidates, bands, rows
        How many pairs were compared, and what made them candidates.
    examples
        Removed and kept, the beginnings of their texts, and their similarity.
    """

    leader: list[int]
    exact: list[int]
    pairs: list[Pair]
    n_candidates: int
    bands: int
    rows: int
    examples: list[tuple[str, str, float]] = field(repr=False)

    @property
    def kept(self) -> list[int]:
        """Documents to go on with, in their order."""
        return [i for i, first in enumerate(self.leader) if i == first]

    def __str__(self) -> str:
        n, exact = len(self.leader), len(self.exact)
        near = n - len(self.kept) - exact
        return f"{n:,} documents: {exact:,} exact and {near:,} near-duplicates removed"


def deduplicate(
    documents: Iterable[str],
    *,
    threshold: float = 0.8,
    n_hashes: int = 128,
    width: int = 5,
    recall: float = 0.99,
    seed: int = 0,
    verify: bool = True,
    digest: Callable[[str], bytes] = fingerprint,
    n_examples: int = 5,
) -> Deduplicated:
    """Group exact and near-duplicates and keep the first document of each group.

    Only signatures stay in memory, 8 `n_hashes` bytes a document, and while candidates are
    verified the shingles of those whose partners are still to come.

    Parameters
    ----------
    documents
        Texts, read up to three times: a list, or an object whose `__iter__` starts afresh. The
        order decides what is kept; sort by date or address if it is not stable.
    threshold
        Least Jaccard similarity of near-duplicates.
    recall
        Probability of finding a pair at the threshold; above it the curve only rises.
    verify
        Compare bytes and shingles of what the hashes found. Without it a generator will do, but
        SHA-256 and the estimated similarity are trusted.
    """
    again = not (isinstance(documents, str) or (verify and iter(documents) is documents))
    kind = f"a {type(documents).__name__}"
    require(again, "documents must be texts to read again (or verify=False)", kind)
    bands, rows = choose_bands(n_hashes, threshold, recall)
    hasher = MinHash(n_hashes, seed=seed)
    starts, signatures = [], {}
    first_with: dict[bytes, int] = {}
    copy_of: dict[int, int] = {}
    for i, text in enumerate(documents):
        text = normalize(text)
        starts.append(text[:80])
        first = first_with.setdefault(digest(text), i)
        if first != i:
            copy_of[i] = first
        elif len(found := shingles(text, width)):
            signatures[i] = hasher.signature(found)
    if verify:
        for i, first, text in _confirm_copies(documents, copy_of):
            if first is None:  # the digests were equal, the texts are not
                del copy_of[i]
                if len(found := shingles(text, width)):
                    signatures[i] = hasher.signature(found)
            else:
                copy_of[i] = first

    index = np.array(sorted(signatures), dtype=np.int64)
    table = np.array([signatures[i] for i in index], dtype=np.uint64).reshape(-1, n_hashes)
    candidates = candidate_pairs(table, bands, rows)
    if verify:
        measured = _exact_similarities(documents, index[candidates], width)
    else:
        estimates = [float(np.mean(table[i] == table[j])) for i, j in candidates]
        measured = zip(*index[candidates].T.tolist(), estimates, strict=True)
    pairs = sorted(pair for pair in measured if pair[2] >= threshold)
    sets = DisjointSets(len(starts))
    for i, j in [*copy_of.items(), *((i, j) for i, j, _ in pairs)]:
        sets.union(i, j)
    return Deduplicated(
        leader=[sets.find(i) for i in range(len(starts))],
        exact=sorted(copy_of),
        pairs=pairs,
        n_candidates=len(candidates),
        bands=bands,
        rows=rows,
        examples=[(starts[j], starts[i], s) for i, j, s in pairs[:n_examples]],
    )


def _confirm_copies(
    documents: Iterable[str], copy_of: dict[int, int]
) -> Iterator[tuple[int, int | None, str]]:
    """Of each supposed copy the first document with the same bytes (None: there is none)."""
    copy_of = dict(copy_of)  # the caller changes its own as it goes
    last = {first: i for i, first in sorted(copy_of.items())}
    texts: defaultdict[int, dict[str, int]] = defaultdict(dict)  # by first index with the digest
    for i, text in enumerate(documents):
        first = copy_of.get(i, i)
        if first not in last:
            continue
        text = normalize(text)
        if i != first:
            yield i, texts[first].get(text), text
        texts[first].setdefault(text, i)
        if i == last[first]:
            del texts[first]


def _exact_similarities(
    documents: Iterable[str], pairs: Int[np.ndarray, "pairs 2"], width: int
) -> Iterator[Pair]:
    """Jaccard of the candidates in one pass, each set held as long as a partner is to come."""
    earlier: defaultdict[int, list[int]] = defaultdict(list)
    last: dict[int, int] = {}
    for i, j in pairs.tolist():
        earlier[j].append(i)
        last[i] = max(j, last.get(i, j))
    held: dict[int, Shingles] = {}
    for j, text in enumerate(documents):
        if j not in earlier and j not in last:
            continue
        held[j] = shingles(text, width)
        yield from ((i, j, jaccard(held[i], held[j])) for i in earlier[j])
        for i in [*earlier[j], j]:
            if last.get(i, j) == j:
                del held[i]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
