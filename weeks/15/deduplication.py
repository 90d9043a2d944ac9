r"""Deduplication: find every document that is another one, or nearly, without comparing all pairs.

A document is the set of its five-word *shingles*; two documents are near-duplicates if their
Jaccard similarity $s = |A \cap B| / |A \cup B|$ is high. For a random order of all shingles the
first one of $A$ equals the first one of $B$ with probability exactly $s$ (MinHash), so $k$ random
orders estimate $s$ with variance $s(1-s)/k$. Cut the $k$ minima into $b$ bands of $r$ rows and
compare only documents that agree on a whole band (LSH); a pair is compared with probability

$$P(s) = 1 - (1 - s^r)^b .$$

What this finds are candidates. Exact Jaccard on the texts decides, so nothing is removed by chance.

    uv run weeks/15/deduplication.py

Sources: Broder, "On the resemblance and containment of documents" (1997), sections 2-3; Leskovec,
Rajaraman & Ullman, "Mining of massive datasets", 3rd ed. (2020), sections 3.3-3.4; Carter &
Wegman, "Universal classes of hash functions" (1979), for the hash family.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt64

MERSENNE = 2**61 - 1  # a prime modulo which reduction is a shift and an addition
_P, _LOW = np.uint64(MERSENNE), np.uint64(2**31 - 1)
_1, _30, _31, _61 = (np.uint64(n) for n in (1, 30, 31, 61))

Shingles = UInt64[np.ndarray, " m"]


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
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    words = re.findall(r"\w+", normalize(text))
    runs = {" ".join(words[i : i + width]) for i in range(max(1, len(words) - width + 1))} - {""}
    digests = b"".join(
        hashlib.blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        for run in runs
    )
    return np.unique(np.frombuffer(digests, dtype="<u8").astype(np.uint64) % _P)


def jaccard(a: UInt64[np.ndarray, " m"], b: UInt64[np.ndarray, " n"]) -> float:
    """|a ∩ b| / |a ∪ b| of two sets; 0 if both are empty, for no words are no evidence."""
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / max(1, len(a) + len(b) - shared)


def multiply_mod(
    a: UInt64[np.ndarray, "*s"], b: UInt64[np.ndarray, "*t"]
) -> UInt64[np.ndarray, "*u"]:
    """a · b modulo 2^61 - 1, for a and b below it, in 64 bits and broadcast.

    The product has 122 bits. With a = a₁2³¹ + a₀ and b alike, its three parts fit in 64 bits each,
    and 2⁶¹ ≡ 1: what lies above bit 61 is added below.
    """
    a1, a0, b1, b0 = a >> _31, a & _LOW, b >> _31, b & _LOW
    middle = a1 * b0 + a0 * b1  # < 2^62, counts 2^31
    folded = (middle >> _30) + ((middle & np.uint64(2**30 - 1)) << _31)
    return _reduce(((a1 * b1) << _1) + folded + a0 * b0)  # 2^62 ≡ 2; the sum is below 2^63.6


def _reduce(x: UInt64[np.ndarray, "*s"]) -> UInt64[np.ndarray, "*s"]:
    x = (x & _P) + (x >> _61)
    return np.where(x >= _P, x - _P, x)


class MinHash:
    """Minima of `n_hashes` random polynomials over the prime field of 2^61 - 1.

    Parameters
    ----------
    n_hashes
        k, the length of a signature.
    seed
        Signatures can be compared only if they have the same seed.
    independence
        Any so many hash values are independent; a polynomial has one coefficient each.

    References
    ----------
    Carter & Wegman (1979), proposition 7 for independence = 2: h(x) = (a x + b) mod p.
    """

    def __init__(self, n_hashes: int = 128, *, seed: int = 0, independence: int = 2):
        for name, value in (("n_hashes", n_hashes), ("independence", independence)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        self.n_hashes = n_hashes
        draw = np.random.default_rng(seed).integers
        self.coefficients = draw(1, MERSENNE, (independence, n_hashes), dtype=np.uint64)

    def hash(self, shingles: Shingles) -> UInt64[np.ndarray, "m k"]:
        """All hash values, by Horner's rule."""
        x, values = (shingles % _P)[:, None], np.zeros((1, self.n_hashes), dtype=np.uint64)
        for coefficient in self.coefficients:
            values = _reduce(multiply_mod(values, x) + coefficient)
        return np.broadcast_to(values, (len(shingles), self.n_hashes))

    def signature(self, shingles: Shingles) -> UInt64[np.ndarray, " k"]:
        """The least value of each function; of no shingles 2^61 - 1, which none reaches."""
        least = np.full(self.n_hashes, _P)
        for start in range(0, len(shingles), 2048):  # a megabyte or two at a time
            least = np.minimum(least, self.hash(shingles[start : start + 2048]).min(axis=0))
        return least


def s_curve(similarity: Float[np.ndarray, " n"], bands: int, rows: int) -> Float[np.ndarray, " n"]:
    """Probability that a pair of such similarity agrees on at least one band."""
    return 1 - (1 - similarity**rows) ** bands


def choose_bands(n_hashes: int, threshold: float, recall: float) -> tuple[int, int]:
    """Bands and rows with the fewest candidates that find a pair at the threshold so often.

    Raises
    ------
    ValueError
        If threshold or recall is not between 0 and 1, or so few hashes cannot do it.
    """
    for name, value in (("threshold", threshold), ("recall", recall)):
        if not 0 < value < 1:
            raise ValueError(f"{name} must be between 0 and 1, got {value}")
    for rows in range(n_hashes, 0, -1):  # the more rows, the steeper and the fewer candidates
        if s_curve(np.array([threshold]), n_hashes // rows, rows)[0] >= recall:
            return n_hashes // rows, rows
    raise ValueError(f"n_hashes = {n_hashes} cannot reach recall {recall} at {threshold}")


def candidate_pairs(
    signatures: UInt64[np.ndarray, "n k"], bands: int, rows: int
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs i < j, sorted, whose signatures agree on all rows of a band."""
    k = signatures.shape[1]
    if bands < 1 or rows < 1 or bands * rows > k:
        raise ValueError(f"bands x rows must be 1 to {k} hashes, got {bands} x {rows}")
    found: set[tuple[int, int]] = set()
    for band in range(bands):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, row in enumerate(signatures[:, band * rows : (band + 1) * rows]):
            earlier = buckets[row.tobytes()]  # the whole row, not a hash of it: no false meetings
            found.update((j, i) for j in earlier)
            earlier.append(i)
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)


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
    pairs: list[tuple[int, int, float]]
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

    Raises
    ------
    ValueError
        If documents is one string, or a generator that would have to be read again.
    """
    if isinstance(documents, str) or (verify and iter(documents) is documents):
        kind = type(documents).__name__
        raise ValueError(f"documents must be texts to read again (or verify=False), got a {kind}")
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
        measured = ((int(index[i]), int(index[j]), float(np.mean(table[i] == table[j])))
                    for i, j in candidates)  # fmt: skip
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
) -> Iterator[tuple[int, int, float]]:
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
