r"""Unigram: a tokenizer that is a probability model, with every segmentation weighed by its chance.

Pieces $t$ have probabilities $p(t)$; a segmentation is as likely as the product of its pieces, and
a word $x$ as likely as all its segmentations together:

$$P(x) = \sum_{s \in S(x)} \prod_{t \in s} p(t), \qquad
  s^\star = \arg\max_{s \in S(x)} \sum_{t \in s} \ln p(t) .$$

Training starts with far too many pieces. EM fits $p$ (how often is each piece used, over all
segmentations?); pieces that the likelihood would hardly miss are dropped; again, until few enough
are left. Sums over exponentially many segmentations are two passes over a [lattice](lattice.py).
Left out of SentencePiece: its sparse prior (digamma) in the M step.

>>> model = Unigram(["a", "b", "c", "ab", "bc"], np.log([0.3, 0.1, 0.1, 0.3, 0.2]))
>>> for score, pieces in model.n_best("abc", 2):
...     print(pieces, round(math.exp(score), 3))
['a', 'bc'] 0.06
['ab', 'c'] 0.03
>>> Unigram.train(["low lower lowest", "newer newest"], 15).viterbi("▁lowest")[1]
['▁low', 'est']

    uv run weeks/15/unigram.py                          # Python's manual
    uv run weeks/15/unigram.py --vocab-size 4000

Source: Kudo, "Subword regularization: improving neural network translation models with multiple
subword candidates" (2018), sections 3.1 and 3.2, arXiv 1804.10959.
"""

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from shared.require import require
from week15.cut import count_bounded
from week15.lattice import Lattice

SPACE = "▁"  # U+2581 stands for the space before a word, as in SentencePiece
UNKNOWN_PENALTY = 10.0  # nats below the least likely piece
MOST_CHARACTERS = 16  # in a piece
LONGEST_WORD = 100  # in training: what has no spaces is cut, so that work and memory are linear
SEED_FACTOR = 10  # candidates at the start, in vocabularies
SHRINKING = 0.75  # share of the pieces that survives a pruning
EM_STEPS = 2  # before each


def space_words(text: str) -> list[str]:
    """Words between white space, each with the mark of the space before it."""
    return [SPACE + word for word in text.split()]


def seed_pieces(words: Mapping[str, int], size: int) -> dict[str, int]:
    """Candidates with their counts: all characters, and `size` substrings that cover most text."""
    of_length: list[dict[str, int]] = []
    for length in range(1, MOST_CHARACTERS + 1):
        counts: Counter[str] = Counter()
        for word, n in words.items():
            for start in range(len(word) - length + 1):
                # What occurs twice begins with what does: memory holds no more than that.
                if length < 3 or word[start : start + length - 1] in of_length[-1]:
                    counts[word[start : start + length]] += n
        of_length.append({piece: n for piece, n in counts.items() if n > 1 or length == 1})
    longer = {piece: n for counts in of_length[1:] for piece, n in counts.items()}
    best = heapq.nsmallest(size, longer, key=lambda piece: (-longer[piece] * len(piece), piece))
    return of_length[0] | {piece: longer[piece] for piece in best}


def m_step(counts: Float[np.ndarray, " piece"]) -> Float[np.ndarray, " piece"]:
    """Log-probabilities in proportion to the counts; a piece without any keeps a trace."""
    counts = np.maximum(counts, 1e-12)  # -inf would cut characters that new text may need
    return np.log(counts) - math.log(counts.sum())


def losses(
    pieces: Sequence[str], log_p: Float[np.ndarray, " piece"], counts: Float[np.ndarray, " piece"]
) -> Float[np.ndarray, " piece"]:
    r"""Nats of log-likelihood that each piece is worth; infinite for characters.

    Without piece $t$, its $c_t$ uses go to the best segmentation $s$ of $t$ into other pieces,
    whose counts and the total $C$ change accordingly:

    $$L_t = c_t \Big[ \ln \frac{c_t}{C}
        - \sum_{u \in s} \ln \frac{c_u + c_t}{C + c_t (|s| - 1)} \Big] .$$

    References
    ----------
    Kudo (2018), section 3.2, step 2b; the estimate is that of SentencePiece's trainer.
    """
    model = Unigram(pieces, log_p)
    index = {piece: i for i, piece in enumerate(pieces)}
    total, worth = counts.sum(), np.full(len(pieces), np.inf)
    for i, piece in enumerate(pieces):
        if len(piece) > 1 and counts[i] < 1e-3:
            worth[i] = 0.0  # hardly used, and most of the seeds are
        elif len(piece) > 1:
            others = [index[other] for other in model.viterbi(piece, without=piece)[1]]
            alone = math.log(counts[i] / total)
            spread = total + counts[i] * (len(others) - 1)
            apart = sum(math.log((counts[j] + counts[i]) / spread) for j in others)
            worth[i] = counts[i] * (alone - apart)
    return worth


class Unigram:
    """A unigram tokenizer.

    Parameters
    ----------
    pieces
        The vocabulary, without repetition; `<unk>` gets id 0, the pieces the ids after it.
    log_p
        Their scores: log-probabilities, or anything that adds up along a segmentation.
    """

    def __init__(self, pieces: Sequence[str], log_p: Float[np.ndarray, " piece"]):
        self.scores = dict(zip(pieces, np.asarray(log_p, dtype=float).tolist(), strict=True))
        distinct = 0 < len(self.scores) == len(pieces) and "" not in self.scores
        require(distinct, "pieces must be different and not empty", f"{len(pieces)} pieces")
        self.vocab = ["<unk>", *pieces]
        self._id = {piece: i for i, piece in enumerate(self.vocab) if i}
        self._longest = max(map(len, pieces))
        self._unknown = min(self.scores.values()) - UNKNOWN_PENALTY

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> "Unigram":
        """Learn at most `vocab_size` tokens, `<unk>` included, from words cut at `LONGEST_WORD`.

        Memory is bounded by the table of words, see `count_bounded`.
        """
        words = count_bounded(
            [
                word[start : start + LONGEST_WORD]
                for word in space_words(text)
                for start in range(0, len(word), LONGEST_WORD)
            ]
            for text in texts
        )
        least = len({char for word in words for char in word}) + 1
        must = f"vocab_size must be at least {least} (characters and <unk>) for some text"
        require(words and vocab_size >= least, must, f"{vocab_size} for {len(words)} words")
        frequency = np.array(list(words.values()), dtype=float)
        seeds = seed_pieces(words, SEED_FACTOR * vocab_size)
        pieces, log_p = list(seeds), m_step(np.array(list(seeds.values()), dtype=float))
        lattice = Lattice(list(words), pieces)
        while True:
            for _ in range(EM_STEPS):
                _, counts = lattice.expected_counts(log_p, frequency)
                log_p = m_step(counts)
            if len(pieces) < vocab_size:
                break
            keep = max(vocab_size - 1, int(SHRINKING * len(pieces)))
            order = np.argsort(-losses(pieces, log_p, counts), kind="stable")[:keep]
            pieces = [pieces[i] for i in order]
            log_p = m_step(np.exp(log_p[order]))
            lattice.keep(order)
        # a rare character must stay affordable: no probability below that of half a use
        log_p = m_step(np.maximum(counts, 0.5))
        order = np.argsort(-log_p, kind="stable")
        return cls([pieces[i] for i in order], log_p[order])

    def __len__(self) -> int:
        return len(self.vocab)

    def _edges(self, word: str, end: int):
        """Pieces that end at a position: (start, piece, score); `<unk>` for a lone character."""
        for start in range(max(0, end - self._longest), end):
            piece = word[start:end]
            if piece in self.scores:
                yield start, piece, self.scores[piece]
        if word[end - 1] not in self.scores:
            yield end - 1, word[end - 1], self._unknown

    def viterbi(self, word: str, *, without: str | None = None) -> tuple[float, list[str]]:
        """The best score and segmentation; of equal ones, that with the longest last piece."""
        best, back = [0.0], [0]
        for end in range(1, len(word) + 1):  # as `_edges` has it, without a call for each
            top, last = -math.inf, -1
            for start in range(max(0, end - self._longest), end):
                score = self.scores.get(piece := word[start:end])
                if score is not None and best[start] + score > top and piece != without:
                    top, last = best[start] + score, start
            if word[end - 1] not in self.scores and best[-1] + self._unknown > top:
                top, last = best[-1] + self._unknown, end - 1
            best.append(top)
            back.append(last)
        pieces, end = [], len(word)
        spelled = best[end] > -math.inf
        require(spelled, "word must be spelled by the pieces", f"{word!r} without {without!r}")
        while end:
            pieces.append(word[back[end] : end])
            end = back[end]
        return best[-1], pieces[::-1]

    def n_best(self, word: str, n: int) -> list[tuple[float, list[str]]]:
        """The `n` best segmentations with their scores, the best first."""
        require(n >= 1, "n must be at least 1", n)
        best: list[list[tuple]] = [[(0.0, 0, None)]]
        for end in range(1, len(word) + 1):
            ways = (
                (way[0] + score, start, way)
                for start, _, score in self._edges(word, end)
                for way in best[start]
            )
            best.append(heapq.nlargest(n, ways, key=lambda way: way[0]))
        return [(way[0], _pieces(word, way)) for way in best[-1]]

    def sample(self, word: str, rng: np.random.Generator, *, alpha: float = 1.0) -> list[str]:
        r"""A segmentation, drawn in proportion to $P(s)^\alpha$, from the word's end backward.

        References
        ----------
        Kudo (2018), section 3.3; large `alpha` gives Viterbi's choice, `alpha` = 0 any path alike.
        """
        require(alpha >= 0, "alpha must be at least 0", alpha)
        total = [0.0]
        for end in range(1, len(word) + 1):
            ways = [total[start] + alpha * score for start, _, score in self._edges(word, end)]
            total.append(float(np.logaddexp.reduce(ways)))
        pieces, end = [], len(word)
        while end:
            ways = list(self._edges(word, end))
            weights = [math.exp(total[i] + alpha * score - total[end]) for i, _, score in ways]
            start, piece, _ = ways[rng.choice(len(ways), p=np.divide(weights, sum(weights)))]
            pieces.append(piece)
            end = start
        return pieces[::-1]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; unknown characters in a row are one `<unk>`."""
        ids: list[int] = []
        for word in space_words(text):
            first = len(ids)
            for piece in self.viterbi(word)[1]:
                i = self._id.get(piece, 0)
                if i or len(ids) == first or ids[-1]:
                    ids.append(i)
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Words with single spaces."""
        ids = list(ids)
        low, high, last = min(ids, default=0), max(ids, default=0), len(self.vocab) - 1
        require(0 <= low <= high <= last, f"ids must lie between 0 and {last}", f"{low} to {high}")
        return "".join(self.vocab[i] for i in ids).replace(SPACE, " ").strip()


def _pieces(word: str, way: tuple) -> list[str]:
    """Along a way, which is its score, where its last piece starts, and the way up to there."""
    pieces, end = [], len(word)
    while way[2] is not None:
        pieces.append(word[way[1] : end])
        _, end, way = way
    return pieces[::-1]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
