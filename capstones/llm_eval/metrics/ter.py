r"""TER: how many edits make a text its reference, where a phrase that is moved costs one.

$$\mathrm{TER} = 100 \cdot \frac{\text{insertions, deletions, substitutions and shifts}}
{\text{mean number of words of the references}}$$

The fewest edits are hard to find, so the shifts are greedy: the one that lowers the word edit
distance most is made, and again, until none lowers it (Snover et al., 2006).

>>> corpus_ter(["on the mat sat the cat"], [["the cat sat on the mat"]])  # two phrases moved
Score(score=33.33..., edits=2, ref_length=6.0)
>>> corpus_ter(["cat"], [["the cat sat on the mat"]]).score  # five of six words
83.33...
>>> signature()
'nrefs:1|case:lc|tok:tercom|norm:no|punct:yes|asian:no|version:llm-eval-1'

Source: Snover et al., "A Study of Translation Edit Rate with Targeted Human Annotation" (2006);
ties, limits and the beam are those of Tercom as sacreBLEU 2 follows it.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from llm_eval.metrics.texts import NRefs, References, given, paired, signed, summed
from llm_eval.metrics.tokenizers import tercom

MAX_SHIFT_SIZE = 10
MAX_SHIFT_DISTANCE = 50
MAX_CANDIDATES = 1000  # of shifts, for a pair of texts; then what was found so far stands
BEAM_WIDTH = 25
MAX_ROWS = 10_000  # kept in memory
FAR = 10**9

Words = Sequence[str]


@dataclass(frozen=True)
class Score:
    """TER in percent, which may exceed 100; lower is better."""

    score: float
    edits: int
    ref_length: float


def corpus_ter(
    hypotheses: Sequence[str],
    references: Sequence[References],
    *,
    normalized: bool = False,
    no_punct: bool = False,
    asian_support: bool = False,
    case_sensitive: bool = False,
) -> Score:
    """TER of a corpus: all edits per all reference words.

    Parameters
    ----------
    references
        Per hypothesis, its references, of which the nearest counts; None is passed over.
    normalized, no_punct, asian_support
        Punctuation becomes words; or is dropped; and so are Chinese and Japanese characters and
        punctuation, where one of the two is asked for.

    Raises
    ------
    ValueError
        Nothing to score, or a hypothesis without a reference.
    """
    cutting = {"normalized": normalized, "no_punct": no_punct}
    cutting |= {"asian_support": asian_support, "case_sensitive": case_sensitive}
    rows = [statistics(text, texts, **cutting) for text, texts in paired(hypotheses, references)]
    return from_statistics(rows)


def statistics(hypothesis: str, references: References, **options: bool) -> tuple[int, float]:
    """What a text adds to a corpus: edits, and the mean length of its references."""
    words = tercom(hypothesis.rstrip(), **options)
    once = [tercom(text.rstrip(), **options) for text in given(references)]
    # sacreBLEU cuts references twice: some marks part words only once spaces stand around them.
    others = [tercom(" ".join(other), **options) for other in once]
    edits = min(edit_rate(words, other) for other in others)
    return edits, sum(map(len, others)) / len(others)


def from_statistics(rows: Iterable[Sequence[float]]) -> Score:
    """The TER of texts whose statistics are given; a bootstrap draws those."""
    edits, length = summed(rows)
    rate = edits / length if length else float(edits > 0)
    return Score(100 * rate, int(edits), float(length))


def signature(
    *,
    nrefs: NRefs = 1,
    normalized: bool = False,
    no_punct: bool = False,
    asian_support: bool = False,
    case_sensitive: bool = False,
) -> str:
    """The protocol in one line, as sacreBLEU writes it."""
    case = "mixed" if case_sensitive else "lc"
    options = {"norm": normalized, "punct": not no_punct, "asian": asian_support}
    return signed(nrefs, case=case, tok="tercom", **options)


def edit_rate(words: Words, reference: Words) -> int:
    """Edits, shifts among them, that make the words the reference's."""
    if not reference:
        return len(words)
    table = _Table(tuple(reference))
    shifts = tried = 0
    words = tuple(words)
    while True:
        gain, shifted, tried = _best_shift(words, table, tried)
        if gain <= 0 or tried >= MAX_CANDIDATES:
            return shifts + table.rows(words)[-1][-1]
        words, shifts = shifted, shifts + 1


def edit_distance(words: Words, reference: Words) -> int:
    """Levenshtein's, whole: what the beam follows in part."""
    row = list(range(len(reference) + 1))
    for i, word in enumerate(words, 1):
        above, row = row, [i]
        for j, other in enumerate(reference, 1):
            row.append(min(above[j - 1] + (word != other), above[j] + 1, row[-1] + 1))
    return row[-1]


@dataclass
class _Node:
    """A row of the table after some words, and the rows one word further."""

    row: list[int]
    then: dict[str, "_Node"] = field(default_factory=dict)


class _Table:
    """Edit distances to a reference near the diagonal; rows of common beginnings are kept.

    That is sound only for words of one number, as shifts leave it: the diagonal depends on it.
    """

    def __init__(self, reference: tuple[str, ...]):
        self.reference = reference
        self.root = _Node(list(range(len(reference) + 1)))
        self.size = 0

    def rows(self, words: Words) -> list[list[int]]:
        """Distance of the first i words to the first j of the reference, at [i][j]."""
        node, rows = self.root, [self.root.row]
        for i, word in enumerate(words, 1):
            known = node.then.get(word)
            if known is None:
                known = _Node(self._row(rows[-1], word, i, len(words)))
                if self.size < MAX_ROWS:
                    node.then[word] = known
                    self.size += 1
            node = known
            rows.append(node.row)
        return rows

    def _row(self, above: list[int], word: str, i: int, n_words: int) -> list[int]:
        slope = len(self.reference) / n_words
        width = math.ceil(slope / 2 + BEAM_WIDTH) if slope / 2 > BEAM_WIDTH else BEAM_WIDTH
        start, end = math.floor(i * slope) - width, math.floor(i * slope) + width
        end = len(above) if i == n_words else min(len(above), end)
        row = [FAR] * len(above)
        if start <= 0:
            row[0] = above[0] + 1
        for j in range(max(1, start), end):
            kept = above[j - 1] + (word != self.reference[j - 1])
            row[j] = min(kept, above[j] + 1, row[j - 1] + 1, FAR)
        return row

    def alignment(self, words: Words) -> tuple[list[int], list[bool], list[bool]]:
        """By reference word, the place it is edited at, and whether; by word, whether it is."""
        rows, reference = self.rows(words), self.reference
        i, j = len(words), len(reference)
        places, missed, wrong = [0] * j, [True] * j, [True] * i
        while i or j:
            differ = bool(i and j) and words[i - 1] != reference[j - 1]
            if i and j and rows[i - 1][j - 1] + differ == rows[i][j]:
                i, j = i - 1, j - 1
                places[j], missed[j], wrong[i] = i, differ, differ
            elif i and rows[i - 1][j] + 1 == rows[i][j]:
                i -= 1
            else:
                j -= 1
                places[j] = i - 1
        return places, missed, wrong


def _best_shift(words: Words, table: _Table, tried: int) -> tuple[int, Words, int]:
    """The shift that gains most; of equals the longest, the earliest, the least far."""
    places, missed, wrong = table.alignment(words)
    before, best = table.rows(words)[-1][-1], None
    for start, target, length in _common_phrases(words, table.reference):
        if not any(wrong[start : start + length]) or not any(missed[target : target + length]):
            continue  # it is where it belongs
        if start <= places[target] < start + length:
            continue
        if tried >= MAX_CANDIDATES:
            break
        to = range(target - 1, min(target + length, len(places)))
        for place in dict.fromkeys(places[t] + 1 if t >= 0 else 0 for t in to):
            shifted = _shifted(words, start, length, place)
            gain = before - table.rows(shifted)[-1][-1]
            candidate = (gain, length, -start, -place, shifted)
            best = max(best or candidate, candidate)
            tried += 1
    return (best[0], best[-1], tried) if best else (0, words, tried)


def _common_phrases(words: Words, reference: Words) -> Iterator[tuple[int, int, int]]:
    for start in range(len(words)):
        for target in range(len(reference)):
            if abs(target - start) > MAX_SHIFT_DISTANCE:
                continue
            longest = min(MAX_SHIFT_SIZE, len(words) - start, len(reference) - target)
            for length in range(1, longest + 1):
                if words[start + length - 1] != reference[target + length - 1]:
                    break
                yield start, target, length


def _shifted(words: Words, start: int, length: int, place: int) -> Words:
    phrase, rest = words[start : start + length], words[:start] + words[start + length :]
    place -= length if place > start + length else 0
    return rest[:place] + phrase + rest[place:]
