r"""Texts as sparse vectors: which words, pairs of words and runs of letters occur, hashed.

No vocabulary is kept. A run of letters $c_1 \dots c_n$ has the hash $\sum_i c_i\, b^{n-i}$ modulo
$2^{64}$, so that the runs of *all* texts come from n multiplications of one long array; the top
bits say which column. Each text's vector has length 1.

>>> table = vectors(["You are kind", "you ARE kind!", "Lizards sleep"])
>>> table.shape[1] == 2**BITS
True
>>> similarity = (table @ table.T).toarray().round(2)
>>> float(similarity[0, 1]), float(similarity[0, 2])
(1.0, 0.0)

Source: Weinberger et al., "Feature hashing for large scale multitask learning" (2009); Karp and
Rabin, "Efficient randomized pattern-matching algorithms" (1987), for the rolling hash.
"""

import re
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64, UInt64
from scipy.sparse import csr_array

BITS = 18
RUNS = (3, 4, 5)  # letters
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd: every letter stays in the low bits of its power
_MIX = np.uint64(0xD6E8FEB86659FD93)
Hashes = UInt64[np.ndarray, " m"]
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


def vectors(texts: Sequence[str]) -> csr_array:
    """(n, 2^BITS) float64, rows of length 1; a text without letters and digits is zero."""
    words = [_WORD.findall(text.casefold().replace("’", "'")) for text in texts]
    rows, hashes = [], []
    for found in (*(_letters(words, width) for width in RUNS), _words(words, 1), _words(words, 2)):
        rows.append(found[0])
        hashes.append(found[1])
    row = np.concatenate(rows)
    column = (np.concatenate(hashes) >> np.uint64(64 - BITS)).astype(np.int64)
    cells = np.unique(row * 2**BITS + column)  # how often does not count
    row, column = cells >> BITS, cells & (2**BITS - 1)
    n_cells = np.bincount(row, minlength=len(texts))
    values = 1 / np.sqrt(n_cells[row])
    starts = np.concatenate([[0], np.cumsum(n_cells)])
    return csr_array((values, column, starts), shape=(len(texts), 2**BITS))


def _letters(words: list[list[str]], width: int) -> tuple[Int64[np.ndarray, " m"], Hashes]:
    """Text and hash of each run of letters; runs cross words, never texts."""
    coded = [f" {' '.join(found)} ".encode("utf-32-le", "surrogatepass") for found in words]
    lengths = np.array([len(code) // 4 for code in coded], np.int64)
    letters = np.frombuffer(b"".join(coded), "<u4").astype(np.uint64) + np.uint64(1)
    text = np.repeat(np.arange(len(words)), lengths)
    n = max(0, len(letters) - width + 1)
    hashes = np.zeros(n, np.uint64)
    for i in range(width):
        hashes = hashes * _BASE + letters[i : i + n]
    inside = (text[:n] == text[width - 1 :][:n]) & (lengths[text[:n]] > 2)
    return text[:n][inside], _mixed(hashes[inside], width)


def _words(words: list[list[str]], width: int) -> tuple[Int64[np.ndarray, " m"], Hashes]:
    """Text and hash of each run of words."""
    text = np.repeat(np.arange(len(words)), [max(0, len(w) - width + 1) for w in words])
    runs = [" ".join(w[i : i + width]) for w in words for i in range(len(w) - width + 1)]
    known = {run: i for i, run in enumerate(dict.fromkeys(runs))}
    digests = (blake2b(run.encode("utf-8", "surrogatepass"), digest_size=8) for run in known)
    table = np.frombuffer(b"".join(d.digest() for d in digests), "<u8").astype(np.uint64)
    codes = np.array([known[run] for run in runs], np.int64)
    return text, _mixed(table[codes], 16 + width)


def _mixed(hashes: Hashes, kind: int) -> Hashes:
    """Spread over all bits, differently for each kind of feature."""
    hashes = (hashes ^ np.uint64(kind)) * _MIX
    return (hashes ^ (hashes >> np.uint64(32))) * _MIX
