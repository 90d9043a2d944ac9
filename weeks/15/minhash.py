r"""MinHash and banding: which sets are alike, without comparing all pairs.

For a random order of all elements the first one of $A$ equals the first one of $B$ with probability
exactly $s = |A \cap B| / |A \cup B|$, so $k$ random orders estimate $s$ with variance $s(1-s)/k$.
Cut the $k$ minima into $b$ bands of $r$ rows and compare only sets that agree on a whole band (LSH,
locality-sensitive hashing); a pair is compared with probability

$$P(s) = 1 - (1 - s^r)^b .$$

>>> items = np.random.default_rng(0).integers(0, 2**32, 100, dtype=np.uint64)
>>> a, b = items[:90], items[10:]  # s = 80 / 100
>>> table = np.stack([MinHash(128).signature(a), MinHash(128).signature(b)])
>>> float(np.mean(table[0] == table[1]))
0.84375
>>> choose_bands(128, threshold=0.8, recall=0.99)
(21, 6)
>>> candidate_pairs(table, bands=21, rows=6).tolist()
[[0, 1]]

Sources: Broder, "On the resemblance and containment of documents" (1997), sections 2-3; Leskovec,
Rajaraman & Ullman, "Mining of massive datasets", 3rd ed. (2020), sections 3.3-3.4; Carter &
Wegman, "Universal classes of hash functions" (1979), for the hash family.
"""

from collections import defaultdict

import numpy as np
from jaxtyping import Float, Int, UInt64

from shared.require import require

MERSENNE = 2**61 - 1  # a prime modulo which reduction is a shift and an addition
_P, _LOW = np.uint64(MERSENNE), np.uint64(2**31 - 1)
_1, _30, _31, _61 = (np.uint64(n) for n in (1, 30, 31, 61))


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
    """Minima of `n_hashes` random functions h(x) = (a x + b) mod 2^61 - 1.

    Parameters
    ----------
    n_hashes
        k, the length of a signature.
    seed
        Signatures can be compared only if they have the same seed.

    References
    ----------
    Carter & Wegman (1979), proposition 7: any two values of a function are independent.
    """

    def __init__(self, n_hashes: int = 128, *, seed: int = 0):
        require(n_hashes >= 1, "n_hashes must be at least 1", n_hashes)
        self.n_hashes = n_hashes
        draw = np.random.default_rng(seed).integers
        self.a, self.b = draw(1, MERSENNE, (2, n_hashes), dtype=np.uint64)

    def hash(self, shingles: UInt64[np.ndarray, " m"]) -> UInt64[np.ndarray, "m k"]:
        """All hash values."""
        return _reduce(multiply_mod(self.a, (shingles % _P)[:, None]) + self.b)

    def signature(self, shingles: UInt64[np.ndarray, " m"]) -> UInt64[np.ndarray, " k"]:
        """The least value of each function; of no shingles 2^61 - 1, which none reaches."""
        least = np.full(self.n_hashes, _P)
        for start in range(0, len(shingles), 2048):  # a megabyte or two at a time
            least = np.minimum(least, self.hash(shingles[start : start + 2048]).min(axis=0))
        return least


def s_curve(similarity: Float[np.ndarray, " n"], bands: int, rows: int) -> Float[np.ndarray, " n"]:
    """Probability that a pair of such similarity agrees on at least one band."""
    return 1 - (1 - similarity**rows) ** bands


def choose_bands(n_hashes: int, threshold: float, recall: float) -> tuple[int, int]:
    """Bands and rows with the fewest candidates that find a pair at the threshold so often."""
    require(0 < threshold < 1, "threshold must be between 0 and 1", threshold)
    require(0 < recall < 1, "recall must be between 0 and 1", recall)
    for rows in range(n_hashes, 0, -1):  # the more rows, the steeper and the fewer candidates
        if s_curve(np.array([threshold]), n_hashes // rows, rows)[0] >= recall:
            return n_hashes // rows, rows
    raise ValueError(f"n_hashes = {n_hashes} cannot reach recall {recall} at {threshold}")


def candidate_pairs(
    signatures: UInt64[np.ndarray, "n k"], bands: int, rows: int
) -> Int[np.ndarray, "pairs 2"]:
    """Pairs i < j, sorted, whose signatures agree on all rows of a band."""
    k = signatures.shape[1]
    fits = bands >= 1 and rows >= 1 and bands * rows <= k
    require(fits, f"bands x rows must be 1 to {k} hashes", f"{bands} x {rows}")
    found: set[tuple[int, int]] = set()
    for band in range(bands):
        buckets: defaultdict[bytes, list[int]] = defaultdict(list)
        for i, row in enumerate(signatures[:, band * rows : (band + 1) * rows]):
            earlier = buckets[row.tobytes()]  # the whole row, not a hash of it: no false meetings
            found.update((j, i) for j in earlier)
            earlier.append(i)
    return np.array(sorted(found), dtype=np.int64).reshape(-1, 2)
