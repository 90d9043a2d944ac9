r"""How BPE learns: count neighbors, merge the most frequent pair, again and again.

$$(a, b)_k = \arg\max_{(a, b)} \; \sum_{w} n_w \cdot \#\{\, i : w_i = a,\ w_{i+1} = b \,\},
  \qquad a\,b \to ab .$$

First the algorithm in three lines, which counts everything anew for each merge. Then the same
merges without a rescan: a merge changes only the counts beside it, only at the places that hold the
pair, and a heap knows the maximum. No word is read twice, however long it is: n bytes have at most
n - 1 merges and 3n places, so that a megabyte without a space costs no more than one of prose.

>>> words = {b"low": 5, b"lower": 2, b"newest": 6, b"widest": 3}
>>> [a + b for a, b in learn_merges(words, 4)]
[b'es', b'est', b'lo', b'low']
>>> learn_merges(words, 4) == learn_merges_by_recounting(words, 4)
True

Source: Sennrich, Haddow & Birch, "Neural machine translation of rare words with subword units"
(2016), algorithm 1.
"""

import heapq
from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from shared.require import require

Token = TypeVar("Token", int, str)
Pair = tuple[int, int]


def printable_bytes() -> dict[int, str]:
    """Each byte's visible stand-in, by which vocabularies are written to JSON files.

    A printable byte stands for itself, the other 68 for the characters from U+0100 on (a space
    becomes Ġ). The order is that of the stand-ins, and with it that of the first 256 ids: that of
    GPT-2's published encoder.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def merge(word: Sequence[Token], pair: tuple[Token, Token], new: Token) -> tuple[Token, ...]:
    """The word with every `pair`, from left to right, replaced by the token `new`."""
    merged: list[Token] = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return tuple(merged)


def count_pairs(text: Mapping[tuple[int, ...], int]) -> Counter[Pair]:
    """How often two tokens stand side by side in words that occur so often each."""
    count: Counter[Pair] = Counter()
    for word, times in text.items():
        for pair in pairwise(word):
            count[pair] += times
    return count


def learn_merges_by_recounting(
    words: Mapping[bytes, int], n_merges: int
) -> list[tuple[bytes, bytes]]:
    """The algorithm to the letter; of equal counts the older tokens win, left then right."""
    tokens = [bytes([byte]) for byte in printable_bytes()]
    text = {tuple(tokens.index(bytes([byte])) for byte in word): n for word, n in words.items()}
    merges = []
    while len(merges) < n_merges and (count := count_pairs(text)):
        a, b = max(count, key=lambda pair: (count[pair], -pair[0], -pair[1]))
        text = {merge(word, (a, b), len(tokens)): n for word, n in text.items()}
        merges.append((tokens[a], tokens[b]))
        tokens.append(tokens[a] + tokens[b])
    return merges


def learn_merges(words: Mapping[bytes, int], n_merges: int) -> list[tuple[bytes, bytes]]:
    """The same merges, with the counts kept.

    Counts of pairs that exist only fall. So an entry of the heap may be too high, never too low,
    and one that is popped and still true is the maximum.

    Parameters
    ----------
    words
        Words and how often each occurs.
    n_merges
        Merges to learn; fewer if the pairs run out.
    """
    require(n_merges >= 0, "n_merges must be at least 0", n_merges)
    tokens = [bytes([byte]) for byte in printable_bytes()]
    id_of_byte = {token[0]: i for i, token in enumerate(tokens)}
    ids, before, after = (array("i") for _ in range(3))  # all words, one after another
    times = array("q")
    for word, n in words.items():
        first, end = len(ids), len(ids) + len(word)
        ids.extend(id_of_byte[byte] for byte in word)
        before.extend([-1, *range(first, end - 1)][: len(word)])
        after.extend([*range(first + 1, end), -1][: len(word)])
        times.extend([n] * len(word))

    count: Counter[Pair] = Counter()
    # Where it starts, or did.
    places: defaultdict[Pair, array[int]] = defaultdict(lambda: array("i"))
    for i, j in enumerate(after):
        if j >= 0:
            count[ids[i], ids[j]] += times[i]
            places[ids[i], ids[j]].append(i)
    heap = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(heap)

    merges = []
    while heap and len(merges) < n_merges and heap[0][0] < 0:
        n, pair = heapq.heappop(heap)
        if count[pair] != -n:  # an old entry: counts have fallen since it was pushed
            if count[pair] > 0:
                heapq.heappush(heap, (-count[pair], pair))
            continue
        a, b = pair
        new, born = len(tokens), set()
        tokens.append(tokens[a] + tokens[b])
        merges.append((tokens[a], tokens[b]))
        for i in sorted(places.pop(pair)):
            if ids[i] != a or (j := after[i]) < 0 or ids[j] != b:
                continue  # one of the two has been merged meanwhile
            ids[i], ids[j] = new, -1
            h, k = before[i], after[j]
            after[i] = k
            if h >= 0:
                count[ids[h], a] -= times[i]
                born.add(left := (ids[h], new))
                count[left] += times[i]
                places[left].append(h)
            if k >= 0:
                before[k] = i
                count[b, ids[k]] -= times[i]
                born.add(right := (new, ids[k]))
                count[right] += times[i]
                places[right].append(i)
        del count[pair]
        for fresh in born:
            heapq.heappush(heap, (-count[fresh], fresh))
    return merges
