r"""Subwords: one vocabulary for two languages, learned by merging the most frequent pair.

Words are spelled with letters; then, again and again, the two neighbors that stand together most
often in the text become one symbol (of equally frequent pairs the older symbols win):

$$ (a, b) = \arg\max_{(a, b)} \sum_w n_w \, \#\{i : w_i = a,\, w_{i+1} = b\} . $$

A space is part of the word behind it, written ▁, so that joining symbols gives back the text.

>>> bpe = Subwords(["low low low", "lower lower"], n_merges=4)
>>> [bpe.symbols[i] for i in bpe.encode("lowest low")]
['▁low', 'e', '<unk>', '<unk>', '▁low']
>>> bpe.decode(bpe.encode("low lower"))
'low lower'

`uv run weeks/13/translate.py` translates with them and checks them against `tokenizers`.
Sennrich, Haddow & Birch (2016), "Neural machine translation of rare words with subword units",
algorithm 1, who also learn one vocabulary for both languages (section 3.2).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from shared.require import require

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
PAD, BOS, EOS, UNKNOWN = range(4)
Pair = tuple[int, int]
Learner = Callable[[dict[tuple[int, ...], int], int, int], list[Pair]]


def words_of(text: str) -> list[str]:
    """Words and marks, each with the space before it; joined they are the text, spaces made one."""
    return re.findall(r"▁?(?:\w+|[^\w▁]+)|▁", "▁" + "▁".join(text.split()) if text.split() else "")


def join(word: Sequence[int], pair: Pair, new: int) -> list[int]:
    """The word with each occurrence of the pair, from the left, as one symbol."""
    out, i = [], 0
    while i < len(word):
        both = tuple(word[i : i + 2]) == pair
        out.append(new if both else word[i])
        i += 2 if both else 1
    return out


def learn_by_recounting(words: dict[tuple[int, ...], int], n_merges: int, first: int) -> list[Pair]:
    """The pairs to merge, in order, to the letter of the algorithm; new symbols start at first."""
    merges = []
    while len(merges) < n_merges:
        count = Counter(pair for word, n in words.items() for pair in list(pairwise(word)) * n)
        if not count:
            break
        merges.append(max(count, key=lambda pair: (count[pair], -pair[0], -pair[1])))
        new = first + len(merges) - 1
        words = {tuple(join(word, merges[-1], new)): n for word, n in words.items()}
    return merges


def learn(words: dict[tuple[int, ...], int], n_merges: int, first: int) -> list[Pair]:
    """The same pairs, where only words that hold the pair are counted again."""
    spelled, times = [list(word) for word in words], list(words.values())
    count: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)

    def add(i: int, sign: int) -> None:
        for pair in pairwise(spelled[i]):
            count[pair] += sign * times[i]
            where[pair].add(i)

    for i in range(len(spelled)):
        add(i, 1)
    merges: list[Pair] = []
    while len(merges) < n_merges and count:
        best = max(count, key=lambda pair: (count[pair], -pair[0], -pair[1]))
        if count[best] <= 0:
            break
        for i in where.pop(best):
            add(i, -1)
            spelled[i] = join(spelled[i], best, first + len(merges))
            add(i, 1)
        del count[best]
        merges.append(best)
    return merges


class Subwords:
    """A vocabulary learned from texts; ids of padding, start, end and unknown come first.

    Parameters
    ----------
    texts
        Of both languages, for a shared vocabulary.
    n_merges
        Symbols beyond the letters; fewer if the pairs run out.
    choose
        How the pairs are found; `learn`, unless what it is worth is the question.
    """

    def __init__(self, texts: Iterable[str], n_merges: int, *, choose: Learner = learn):
        require(n_merges >= 0, "n_merges must be at least 0", n_merges)
        count = Counter(word for text in texts for word in words_of(text))
        require(count, "texts must hold at least one word", "none")
        self.symbols = [*SPECIAL, *sorted({letter for word in count for letter in word})]
        self.letters = {letter: i for i, letter in enumerate(self.symbols) if i >= len(SPECIAL)}
        spelled = {tuple(self.letters[x] for x in word): n for word, n in count.items()}
        merges = choose(spelled, n_merges, len(self.symbols))
        self.new = {pair: len(self.symbols) + i for i, pair in enumerate(merges)}
        for a, b in merges:
            self.symbols.append(self.symbols[a] + self.symbols[b])
        self._known: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Ids of the text, without start and end; a letter never seen is unknown."""
        return [i for word in words_of(text) for i in self._encode_word(word)]

    def _encode_word(self, word: str) -> list[int]:
        if word not in self._known:
            ids = [self.letters.get(letter, UNKNOWN) for letter in word]
            while found := [pair for pair in pairwise(ids) if pair in self.new]:
                pair = min(found, key=self.new.__getitem__)  # learned first, merged first
                ids = join(ids, pair, self.new[pair])
            self._known[word] = ids
        return self._known[word]

    def decode(self, ids: Iterable[int]) -> str:
        """The text up to the first end; padding and start are left out."""
        out = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                out.append("?" if i == UNKNOWN else self.symbols[i])
        return "".join(out).replace("▁", " ").strip()
