r"""Byte-level BPE: a tokenizer that is trained by counting, and never meets an unknown character.

Text is bytes; a token is a string of bytes. Training starts with the 256 single bytes and, again
and again, turns the most frequent pair of neighbors into a new token:

$$(a, b)_k = \arg\max_{(a, b)} \; \sum_{w} n_w \cdot \#\{\, i : w_i = a,\ w_{i+1} = b \,\},
  \qquad a\,b \to ab .$$

Encoding replays the merges in the order in which they were learned. Pairs are counted once; a merge
then changes only the counts beside it, in only the words that hold the pair, and a heap knows the
maximum: no rescan of the text.

    uv run weeks/15/bpe.py                              # Python's manual
    uv run weeks/15/bpe.py --dataset tinyshakespeare

Sources: Sennrich, Haddow & Birch, "Neural machine translation of rare words with subword units"
(2016), algorithm 1; Radford et al., "Language models are unsupervised multitask learners" (2019),
section 2.2, for bytes and for the pattern that cuts text into words.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import regex

# No merge crosses a word's end: letters, digits and the rest apart, each with its leading space.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

Pair = tuple[int, int]


def printable_bytes() -> dict[int, str]:
    """Each byte's visible stand-in, by which vocabularies are written to JSON files.

    A printable byte stands for itself, the other 68 for the characters from U+0100 on (a space
    becomes Ġ). The order is that of the stand-ins, and with it that of the first 256 ids.

    References
    ----------
    Radford et al. (2019), the published encoder.
    """
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {b: chr(b) for b in visible} | {b: chr(256 + i) for i, b in enumerate(hidden)}


def learn_merges(
    words: Mapping[bytes, int], n_merges: int, *, min_frequency: int = 1
) -> list[tuple[bytes, bytes]]:
    """The most frequent pairs of neighboring tokens, in the order in which they are merged.

    Of pairs that are equally frequent, the one with the older tokens goes first (left, then right).

    Parameters
    ----------
    words
        Words and how often each occurs.
    n_merges
        Merges to learn; fewer if the pairs run out.
    min_frequency
        Stop when the most frequent pair occurs less often.

    References
    ----------
    Sennrich et al. (2016), algorithm 1, there with a rescan of all words for every merge.
    """
    if n_merges < 0:
        raise ValueError(f"n_merges must be at least 0, got {n_merges}")
    if min_frequency < 1:
        raise ValueError(f"min_frequency must be at least 1, got {min_frequency}")
    tokens = [bytes([byte]) for byte in printable_bytes()]
    id_of_byte = {token[0]: i for i, token in enumerate(tokens)}
    spelled = [[id_of_byte[byte] for byte in word] for word in words]
    frequency = list(words.values())

    count: Counter[Pair] = Counter()
    places: defaultdict[Pair, set[int]] = defaultdict(set)  # words that (may) hold the pair
    for i, word in enumerate(spelled):
        for pair in pairwise(word):
            count[pair] += frequency[i]
            places[pair].add(i)
    heap = [(-n, pair) for pair, n in count.items()]
    heapq.heapify(heap)

    merges = []
    while heap and len(merges) < n_merges:
        n, pair = heapq.heappop(heap)
        if count[pair] != -n:  # an old entry: counts have fallen since it was pushed
            if count[pair] > 0:
                heapq.heappush(heap, (-count[pair], pair))
            continue
        if -n < min_frequency:
            break
        a, b = pair
        merged = len(tokens)
        tokens.append(tokens[a] + tokens[b])
        merges.append((tokens[a], tokens[b]))
        born = set()
        for i in places.pop(pair):
            word, times = spelled[i], frequency[i]
            j = 0
            while j < len(word) - 1:
                if word[j] == a and word[j + 1] == b:
                    word[j : j + 2] = [merged]
                    if j > 0:
                        count[word[j - 1], a] -= times
                        born.add(left := (word[j - 1], merged))
                        count[left] += times
                        places[left].add(i)
                    if j + 1 < len(word):
                        count[b, word[j + 1]] -= times
                        born.add(right := (merged, word[j + 1]))
                        count[right] += times
                        places[right].add(i)
                j += 1
        del count[pair]
        for new in born:
            heapq.heappush(heap, (-count[new], new))
    return merges


class ByteLevelBPE:
    """A byte-level BPE tokenizer.

    Parameters
    ----------
    merges
        Pairs of tokens in the order in which they merge.
    pattern
        Regular expression that cuts text into words; None leaves it whole.
    special_tokens
        Names that stand for no text, such as `<|endoftext|>`; they get the first ids.

    Attributes
    ----------
    vocab
        The bytes of every id: special tokens, 256 bytes, merges.
    """

    def __init__(
        self,
        merges: Iterable[tuple[bytes, bytes]],
        *,
        pattern: str | None = GPT2_PATTERN,
        special_tokens: Sequence[str] = (),
    ):
        self.merges = list(merges)
        self.pattern = pattern
        if len(set(special_tokens)) != len(special_tokens) or "" in special_tokens:
            raise ValueError(
                f"special_tokens must be different and not empty, got {list(special_tokens)}"
            )
        self.special_tokens = {name: i for i, name in enumerate(special_tokens)}
        self.vocab = [name.encode() for name in special_tokens]
        self.vocab += [bytes([byte]) for byte in printable_bytes()]
        self._id = {t: i for i, t in enumerate(self.vocab) if i >= len(special_tokens)}
        self._first_merge = len(self.vocab)
        self._merged: dict[Pair, int] = {}  # a pair's token; its id grows with the merge's rank
        for a, b in self.merges:
            if a not in self._id or b not in self._id:
                raise ValueError(f"merges must join tokens known by then, got {(a, b)}")
            if a + b in self._id:
                raise ValueError(f"merges must make new tokens, got {a + b!r} twice")
            self._merged[self._id[a], self._id[b]] = self._id[a + b] = len(self.vocab)
            self.vocab.append(a + b)
        self._words = regex.compile(pattern) if pattern else None
        self._byte = [self._id[bytes([byte])] for byte in range(256)]
        self._cache: dict[str, list[int]] = {}

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        pattern: str | None = GPT2_PATTERN,
        special_tokens: Sequence[str] = (),
        min_frequency: int = 1,
    ) -> "ByteLevelBPE":
        """Learn a vocabulary of at most `vocab_size` ids, special tokens and bytes included.

        Raises
        ------
        ValueError
            If `vocab_size` has no room for the special tokens and the 256 bytes.
        """
        least = 256 + len(special_tokens)
        if vocab_size < least:
            raise ValueError(
                f"vocab_size must be at least {least} (bytes and special tokens), got {vocab_size}"
            )
        cut = regex.compile(pattern).findall if pattern else lambda text: [text]
        words: Counter[str] = Counter()
        for text in texts:
            words.update(cut(text))
        counts = {word.encode("utf-8", "surrogatepass"): n for word, n in words.items()}
        merges = learn_merges(counts, vocab_size - least, min_frequency=min_frequency)
        return cls(merges, pattern=pattern, special_tokens=special_tokens)

    @classmethod
    def from_ranks(
        cls, ranks: Mapping[bytes, int], *, pattern: str | None = GPT2_PATTERN
    ) -> "ByteLevelBPE":
        """The tokenizer of a table token → rank, as tiktoken's are published.

        A merge's two halves are not in the table, but they are what the merges before it make of
        its bytes: two tokens, or the table is not one of BPE.
        """
        found = cls([], pattern=None)
        by_rank = sorted(ranks, key=ranks.__getitem__)
        if by_rank[:256] != found.vocab or sorted(ranks.values()) != list(range(len(ranks))):
            raise ValueError("ranks must count from 0, the 256 bytes first, printable ones leading")
        for token in by_rank[256:]:
            halves = [found.vocab[i] for i in found.encode_bytes(token)]
            if len(halves) != 2:
                raise ValueError(
                    f"ranks must be those of BPE, but {token!r} is made of {len(halves)} tokens"
                )
            found._merged[found._id[halves[0]], found._id[halves[1]]] = len(found.vocab)
            found._id[token] = len(found.vocab)
            found.vocab.append(token)
            found.merges.append((halves[0], halves[1]))
        return cls(found.merges, pattern=pattern)

    def __len__(self) -> int:
        return len(self.vocab)

    def encode(
        self, text: str, *, allowed_special: Literal["all"] | Iterable[str] = ()
    ) -> list[int]:
        """Ids of a text.

        Parameters
        ----------
        allowed_special
            Special tokens that the text may contain. None by default: whoever writes
            `<|endoftext|>` into a prompt gets these thirteen characters, not the end of the text.
        """
        allowed = self.special_tokens if allowed_special == "all" else set(allowed_special)
        unknown = sorted(set(allowed) - set(self.special_tokens))
        if unknown:
            raise ValueError(
                f"allowed_special must be among {list(self.special_tokens)}, got {unknown}"
            )
        if not allowed:
            return self._encode_ordinary(text)
        longest_first = sorted(allowed, key=len, reverse=True)
        ids = []
        for part in regex.split("(" + "|".join(map(regex.escape, longest_first)) + ")", text):
            special = part in allowed
            ids += [self.special_tokens[part]] if special else self._encode_ordinary(part)
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        cache, ids = self._cache, []
        for word in self._words.findall(text) if self._words else [text]:
            known = cache.get(word)
            if known is None:
                known = self.encode_bytes(word.encode("utf-8", "surrogatepass"))
                if len(cache) < 2**16 and len(word) < 64:  # words repeat, long strings do not
                    cache[word] = known
            ids += known
        return ids

    def encode_bytes(self, data: bytes) -> list[int]:
        """Ids of one word's bytes, any bytes: replay the merges, the oldest first, left to right.

        A heap holds the merges that are possible, so that a word of n bytes takes O(n log n).
        """
        merged = self._merged
        ids = [self._byte[byte] for byte in data]
        after = list(range(1, len(ids) + 1))  # where the next token starts
        before = list(range(-1, len(ids) - 1))
        heap = [
            (new, i)
            for i, pair in enumerate(pairwise(ids))
            if (new := merged.get(pair)) is not None
        ]
        heapq.heapify(heap)
        while heap:
            new, i = heapq.heappop(heap)
            j = after[i]
            if ids[i] < 0 or j >= len(ids) or merged.get((ids[i], ids[j])) != new:
                continue  # one of the two has been merged meanwhile
            ids[i], ids[j] = new, -1
            after[i] = k = after[j]
            if k < len(ids):
                before[k] = i
                if (right := merged.get((new, ids[k]))) is not None:
                    heapq.heappush(heap, (right, i))
            if (h := before[i]) >= 0 and (left := merged.get((ids[h], new))) is not None:
                heapq.heappush(heap, (left, h))
        return [i for i in ids if i >= 0]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes that ids stand for; special tokens give their names."""
        ids = list(ids)
        if ids and not 0 <= min(ids) <= max(ids) < len(self.vocab):
            raise ValueError(
                f"ids must lie between 0 and {len(self.vocab) - 1}, got {min(ids)} to {max(ids)}"
            )
        return b"".join([self.vocab[i] for i in ids])

    def decode(self, ids: Iterable[int], *, errors: str = "replace") -> str:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD.

        Ids can cut a character in two: decode what belongs together at once.
        """
        return self.decode_bytes(ids).decode("utf-8", errors)


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
