r"""WordPiece: subwords that know whether they begin a word, cut by longest match.

A token that continues a word is written with `##`: "unaffable" may become `un ##aff ##able`. To
encode, take the longest token that fits, then the longest that continues it; a word that cannot
be finished is unknown as a whole. Training merges neighbors as BPE does. What differs between
sources is which pair goes next; with counts $n$ and $N = \sum_t n_t$ tokens in the text,

$$\text{count: } n_{ab}, \qquad \text{ratio: } \frac{n_{ab}}{n_a n_b}, \qquad
  \text{likelihood: } \Delta \Big[ \sum_t n_t \ln n_t - N \ln N \Big] .$$

The third is the criterion that the paper states, the second its usual short form, the first what
Hugging Face's trainer does. All three are here. Google's own trainer was never published.

>>> tokenizer = WordPiece(["[UNK]", "un", "##aff", "##able"])
>>> [tokenizer.vocab[i] for i in tokenizer.encode("Unaffable, unaffably")]
['un', '##aff', '##able', '[UNK]', '[UNK]']

    uv run weeks/15/wordpiece.py                        # Python's manual
    uv run weeks/15/wordpiece.py --vocab-size 4000

Sources: Schuster & Nakajima, "Japanese and Korean voice search" (2012), section 3; Devlin et al.,
"BERT" (2019), with the published code for longest match.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import xlogy

from shared.require import require
from week15.bert_words import basic_words
from week15.cut import count_bounded

PREFIX = "##"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MOST_CHARACTERS = 100  # a longer word is unknown: longest match can take quadratic time
Score = Literal["count", "ratio", "likelihood"]


def spell(word: str) -> list[str]:
    """A word's characters as tokens: only the first stands without the prefix."""
    return [char if i == 0 else PREFIX + char for i, char in enumerate(word)]


def pair_scores(
    n_pair: Int[np.ndarray, " pair"],
    n_left: Int[np.ndarray, " pair"],
    n_right: Int[np.ndarray, " pair"],
    twins: Bool[np.ndarray, " pair"],
    n_tokens: int,
    score: Score,
) -> Float[np.ndarray, " pair"]:
    r"""How much each pair deserves to be merged.

    Parameters
    ----------
    n_pair, n_left, n_right
        Counts of the pair $ab$, of $a$ and of $b$.
    twins
        Where $a = b$: a merge then takes two from the same count.
    n_tokens
        Tokens in the text.
    score
        `likelihood`: by how many nats the best unigram model's log-likelihood rises when the pair
        becomes a token. Exact, but for runs such as aaa, in which pairs overlap.

    References
    ----------
    Schuster & Nakajima (2012), section 3, for the likelihood.
    """
    scores = get_args(Score)
    require(score in scores, f"score must be one of {', '.join(scores)}", repr(score))
    if score == "count":
        return n_pair.astype(float)
    if score == "ratio":
        return n_pair / np.maximum(n_left * n_right, 1)
    left, right, fewer = n_left - n_pair, n_right - n_pair, n_tokens - n_pair
    apart = xlogy(left, left) - xlogy(n_left, n_left) + xlogy(right, right)
    rest = np.maximum(n_left - 2 * n_pair, 0)
    change = np.where(twins, xlogy(rest, rest), apart) - xlogy(n_right, n_right)
    return change + xlogy(n_pair, n_pair) + xlogy(n_tokens, n_tokens) - xlogy(fewer, fewer)


def alphabet_of(words: Iterable[str]) -> list[str]:
    """Every character of the words, then `##` with every character that continues one."""
    words = list(words)
    first = {char for word in words for char in word}
    return sorted(first) + sorted({token for word in words for token in spell(word)[1:]})


def learn_pieces(
    words: Mapping[str, int],
    alphabet: Sequence[str],
    n_merges: int,
    *,
    score: Score = "count",
    min_frequency: int = 1,
) -> list[str]:
    """The tokens that merging adds to an alphabet, in the order in which they are made.

    A merge changes only the counts beside it, as in BPE. The best pair is then found by a scan over
    all pairs: two of the scores rise when `a` gets rarer elsewhere, and a heap would miss that.

    Parameters
    ----------
    words
        Words and how often each occurs; none may contain `##`.
    alphabet
        See `alphabet_of`. Of pairs with equal scores, the one with the older tokens goes first.
    n_merges
        Merges to make; fewer if the pairs run out.
    min_frequency
        Rarer pairs are not merged, however high they score.
    """
    require(n_merges >= 0, "n_merges must be at least 0", n_merges)
    require(min_frequency >= 1, "min_frequency must be at least 1", min_frequency)
    bad = [word for word in words if PREFIX in word]
    require(not bad, f"words must not contain {PREFIX!r}", *bad[:1])
    tokens = list(alphabet)
    ids = {token: i for i, token in enumerate(tokens)}
    missing = sorted({token for word in words for token in spell(word)} - set(ids))
    require(not missing, f"alphabet must hold all characters, but {missing[:1]} are not in it")
    spelled = [[ids[token] for token in spell(word)] for word in words]
    frequency = list(words.values())

    slot: dict[tuple[int, int], int] = {}  # a pair's place in the three arrays
    places: defaultdict[int, set[int]] = defaultdict(set)  # words that (may) hold the pair
    most = 3 * sum(map(len, spelled))  # each merge in a word shortens it and makes two pairs
    n_pair, left, right = (np.zeros(most, dtype=np.int64) for _ in range(3))
    n_token = np.zeros(len(tokens) + n_merges, dtype=np.int64)

    def add(a: int, b: int, word: int, times: int) -> None:
        k = slot.setdefault((a, b), len(slot))
        left[k], right[k] = a, b
        n_pair[k] += times
        if times > 0:
            places[k].add(word)

    for i, word in enumerate(spelled):
        for a in word:
            n_token[a] += frequency[i]
        for a, b in pairwise(word):
            add(a, b, i, frequency[i])

    for _ in range(n_merges):
        n, lefts, rights = (array[: len(slot)] for array in (n_pair, left, right))
        singles, n_tokens = (n_token[lefts], n_token[rights]), int(n_token.sum())
        value = pair_scores(n, *singles, lefts == rights, n_tokens, score)
        value[n < min_frequency] = -np.inf
        if not (value > -np.inf).any():
            break
        tied = np.flatnonzero(value == value.max())
        a, b = min(zip(lefts[tied].tolist(), rights[tied].tolist(), strict=True))
        merged = len(tokens)
        tokens.append(tokens[a] + tokens[b].removeprefix(PREFIX))
        for i in places.pop(slot[a, b]):
            word, times = spelled[i], frequency[i]
            made = 0  # each takes a token from the word: what follows moves up
            for place in [j for j, token in enumerate(word) if token == a]:
                j = place - made
                if word[j : j + 2] == [a, b]:
                    made += 1
                    word[j : j + 2] = [merged]
                    n_token[[a, merged]] += (-times, times)
                    n_token[b] -= times
                    add(a, b, i, -times)
                    if j > 0:
                        add(word[j - 1], a, i, -times)
                        add(word[j - 1], merged, i, times)
                    if j + 1 < len(word):
                        add(b, word[j + 1], i, -times)
                        add(merged, word[j + 1], i, times)
        n_pair[slot[a, b]] = 0
    return tokens[len(alphabet) :]


class WordPiece:
    """A WordPiece tokenizer.

    Parameters
    ----------
    vocab
        The tokens, ids in their order; `[UNK]` must be one of them.
    lowercase
        As in `basic_words`.
    """

    def __init__(self, vocab: Iterable[str], *, lowercase: bool = True):
        self.vocab = list(vocab)
        self._id = {token: i for i, token in enumerate(self.vocab)}
        known = len(self._id) == len(self.vocab) and "[UNK]" in self._id
        require(known, "vocab must hold different tokens and [UNK]")
        self.lowercase = lowercase
        self._longest = max(map(len, self.vocab))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        score: Score = "count",
        lowercase: bool = True,
    ) -> "WordPiece":
        """Learn at most `vocab_size` tokens, special ones and characters included.

        Words that are unknown for their length teach nothing: each merge reads its words anew.
        Memory is bounded by the table of words, see `count_bounded`.
        """
        cut = (basic_words(text, lowercase=lowercase) for text in texts)
        words = count_bounded([w for w in found if len(w) <= MOST_CHARACTERS] for found in cut)
        alphabet = alphabet_of(words)
        least = len(SPECIAL) + len(alphabet)
        must = f"vocab_size must be at least {least} (special tokens and characters)"
        require(vocab_size >= least, must, vocab_size)
        made = learn_pieces(words, alphabet, vocab_size - least, score=score)
        return cls([*SPECIAL, *alphabet, *made], lowercase=lowercase)

    def __len__(self) -> int:
        return len(self.vocab)

    def encode_word(self, word: str) -> list[int]:
        """Ids of one word: the longest token that fits, again and again, or `[UNK]` alone."""
        if len(word) > MOST_CHARACTERS:
            return [self._id["[UNK]"]]
        ids, start = [], 0
        while start < len(word):
            prefix = PREFIX if start else ""
            for end in range(min(len(word), start + self._longest), start, -1):
                if (found := self._id.get(prefix + word[start:end])) is not None:
                    break
            else:  # not the rest alone: what has been matched so far is given up, too
                return [self._id["[UNK]"]]
            ids.append(found)
            start = end
        return ids

    def words(self, text: str) -> list[str]:
        """The words that a text is cut into first."""
        return basic_words(text, lowercase=self.lowercase)

    def encode(self, text: str) -> list[int]:
        """Ids of a text."""
        return [i for word in self.words(text) for i in self.encode_word(word)]

    def decode(self, ids: Iterable[int]) -> str:
        """Words with single spaces: where the text had spaces, WordPiece does not remember."""
        ids = list(ids)
        low, high, last = min(ids, default=0), max(ids, default=0), len(self.vocab) - 1
        require(0 <= low <= high <= last, f"ids must lie between 0 and {last}", f"{low} to {high}")
        return " ".join(self.vocab[i] for i in ids).replace(" " + PREFIX, "")


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
