r"""Byte-level BPE: a tokenizer that is trained by counting, and never meets an unknown character.

Text is bytes; a token is a string of bytes. Training starts with the 256 single bytes and, again
and again, turns the most frequent pair of neighbors into a new token ([merges](merges.py)):

$$a\,b \to ab, \qquad (a, b) = \arg\max_{(a, b)} n(a\,b) .$$

Encoding replays the merges in the order in which they were learned.

>>> tokenizer = ByteLevelBPE.train(["low low low lowest newest newest widest"], 262)
>>> ids = tokenizer.encode("slowest")
>>> [tokenizer.vocab[i] for i in ids]
[b's', b'low', b'est']
>>> tokenizer.decode(ids)
'slowest'

    uv run weeks/15/bpe.py                              # Python's manual
    uv run weeks/15/bpe.py --dataset tinyshakespeare

Sources: Sennrich, Haddow & Birch, "Neural machine translation of rare words with subword units"
(2016), algorithm 1; Radford et al., "Language models are unsupervised multitask learners" (2019),
section 2.2, for bytes and for the pattern that cuts text into words.
"""

import heapq
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

import regex

from shared.require import require
from week15.cut import count_words, cut_words
from week15.merges import Pair, learn_merges, merge, printable_bytes

# No merge crosses a word's end: letters, digits and the rest apart, each with its leading space.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class ByteLevelBPE:
    """A byte-level BPE tokenizer.

    Parameters
    ----------
    merges
        Pairs of tokens in the order in which they merge.
    pattern
        Regular expression that cuts text into words, see `cut_words`; None leaves it whole.
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
        names = list(special_tokens)
        distinct = len(set(names)) == len(names) and "" not in names
        require(distinct, "special_tokens must be different and not empty", names)
        self.special_tokens = {name: i for i, name in enumerate(names)}
        self.vocab = [name.encode() for name in names]
        self.vocab += [bytes([byte]) for byte in printable_bytes()]
        self._id = {t: i for i, t in enumerate(self.vocab) if i >= len(names)}
        self._merged: dict[Pair, int] = {}  # a pair's token; its id grows with the merge's rank
        for a, b in self.merges:
            known = a in self._id and b in self._id
            require(known, "merges must join tokens known by then", (a, b))
            require(a + b not in self._id, "merges must make new tokens", a + b)
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
    ) -> "ByteLevelBPE":
        """Learn a vocabulary of at most `vocab_size` ids, special tokens and bytes included.

        Work and memory are bounded by the table of words, see `count_words`.
        """
        least = 256 + len(special_tokens)
        must = f"vocab_size must be at least {least} (bytes and special tokens)"
        require(vocab_size >= least, must, vocab_size)
        cut = regex.compile(pattern) if pattern else None
        words = count_words(texts, cut)
        counts = {word.encode("utf-8", "surrogatepass"): n for word, n in words.items()}
        merges = learn_merges(counts, vocab_size - least)
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
        ordered = by_rank[:256] == found.vocab and sorted(ranks.values()) == [*range(len(ranks))]
        require(ordered, "ranks must count from 0, the 256 bytes first, printable ones leading")
        for token in by_rank[256:]:
            halves = [found.vocab[i] for i in found.encode_bytes(token)]
            must = f"ranks must be those of BPE, but {token!r} is not made of two tokens"
            require(len(halves) == 2, must, halves)
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
        require(not unknown, f"allowed_special must be among {list(self.special_tokens)}", unknown)
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
        for word in cut_words(text, self._words) if self._words else [text]:
            known = cache.get(word)
            if known is None:
                known = self.encode_bytes(word.encode("utf-8", "surrogatepass"))
                if len(cache) < 2**16 and len(word) < 64:  # words repeat, long strings do not
                    cache[word] = known
            ids += known
        return ids

    def replay(self, data: bytes) -> list[int]:
        """Ids of one word's bytes, any bytes: each merge in its turn, from left to right."""
        ids = tuple(self._byte[byte] for byte in data)
        for pair, new in self._merged.items():
            ids = merge(ids, pair, new)
        return list(ids)

    def encode_bytes(self, data: bytes) -> list[int]:
        """The same ids in O(n log n) for n bytes: a heap holds the merges that are possible."""
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
        low, high, last = min(ids, default=0), max(ids, default=0), len(self.vocab) - 1
        require(0 <= low <= high <= last, f"ids must lie between 0 and {last}", f"{low} to {high}")
        return b"".join([self.vocab[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for; bytes that are no UTF-8 become U+FFFD.

        Ids can cut a character in two: decode what belongs together at once.
        """
        return self.decode_bytes(ids).decode("utf-8", "replace")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
