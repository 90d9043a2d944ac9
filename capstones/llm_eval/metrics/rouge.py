r"""ROUGE: how much of a reference summary a text recalls, in n-grams or in order.

ROUGE-n counts common n-grams, ROUGE-L the longest common subsequence $\mathrm{LCS}(r, c)$. With $m$
and $n$ of them in reference and text (Lin, 2004, eq. 1-4, $\beta = 1$),

$$R = \frac{\text{common}}{m}, \qquad P = \frac{\text{common}}{n}, \qquad F = \frac{2PR}{P + R}.$$

ROUGE-Lsum takes each line of the reference, and what its subsequences with *all* lines of the text
cover together; no word counts twice.

>>> scores = rouge("the gunman police killed", "police killed the gunman", stem=True)
>>> [round(score.f1, 3) for score in scores.values()]
[1.0, 0.667, 0.5]
>>> lcs_length("police killed the gunman".split(), "the gunman police killed".split())
2
>>> rouge("cats sat", "a cat sat", ["rouge1"], stem=True)["rouge1"]
Rouge(precision=1.0, recall=0.66..., f1=0.8)

Sources: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (2004); Hyyrö, "Bit-parallel
LCS-length computation revisited" (2004).
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from llm_eval.metrics import stems
from llm_eval.metrics.texts import NRefs, counts, matches, ngrams, signed
from shared.errors import UserError
from shared.require import require

Words = Sequence[str]
KINDS = ("rouge1", "rouge2", "rougeL")
ORDERS = {f"rouge{n}": n for n in range(1, 10)}


class Rouge(NamedTuple):
    """Precision, recall and their harmonic mean, from 0 to 1."""

    precision: float
    recall: float
    f1: float


def rouge(
    prediction: str,
    target: str | Sequence[str],
    kinds: Sequence[str] = KINDS,
    *,
    stem: bool = False,
) -> dict[str, Rouge]:
    """ROUGE of a text.

    Parameters
    ----------
    target
        What it should say; of several, the one with the best F counts, for each kind.
    kinds
        rouge1 to rouge9, rougeL, rougeLsum (one sentence per line).
    stem
        Words of more than three letters lose their endings.

    Raises
    ------
    UserError
        There is no such kind.
    ValueError
        No target.
    """
    targets = [target] if isinstance(target, str) else list(target)
    require(targets, "target must be at least one text", targets)
    found = [_against(prediction, text, kinds, stem) for text in targets]
    if len(found) == 1:
        return found[0]
    return {kind: max((f[kind] for f in found), key=lambda score: score.f1) for kind in kinds}


def corpus_rouge(
    predictions: Sequence[str],
    targets: Sequence[str | Sequence[str]],
    kinds: Sequence[str] = KINDS,
    *,
    stem: bool = False,
) -> dict[str, Rouge]:
    """The mean over texts of precision, recall and F each: exact, where others resample."""
    must = f"targets must be as many as predictions, {len(predictions)}, and at least one"
    require(predictions and len(predictions) == len(targets), must, len(targets))
    pairs = zip(predictions, targets, strict=True)
    scores = [rouge(prediction, target, kinds, stem=stem) for prediction, target in pairs]
    return {
        kind: Rouge(*(sum(column) / len(scores) for column in zip(*by_kind, strict=True)))
        for kind in kinds
        for by_kind in [[score[kind] for score in scores]]
    }


def signature(*, nrefs: NRefs = 1, stem: bool = False) -> str:
    """The protocol in one line."""
    return signed(nrefs, case="lc", tok="a-z0-9", stem=stem)


def words_of(text: str, stem: bool = False) -> list[str]:
    """Runs of letters a to z and digits; everything else only parts them."""
    words = re.findall("[a-z0-9]+", text.lower())
    return [stems.stem(word) if len(word) > 3 else word for word in words] if stem else words


def lcs_length(a: Words, b: Words) -> int:
    """Length of the longest common subsequence."""
    return len(a) - (_lcs_rows(a, b)[-1] & ~(-1 << len(a))).bit_count()


def lcs_length_plain(a: Words, b: Words) -> int:
    """The same by the textbook's table, whose columns `_lcs_rows` holds as bits."""
    row = [0] * (len(b) + 1)
    for x in a:
        above, row = row, [0]
        for j, y in enumerate(b):
            row.append(above[j] + 1 if x == y else max(above[j + 1], row[-1]))
    return row[-1]


def _lcs_rows(a: Words, b: Words) -> list[int]:
    """After each word of b, which words of a lengthen the subsequence: a bit each, 0 if so.

    Along a the table rises by 0 or 1. A word of b that stands in a moves a rise, of each run
    between two rises, to its first match there; the addition's carry finds all of them at once.
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = ~(-1 << len(a))
    rows = [full]
    for word in b:
        bits = rows[-1]
        if here := bits & places.get(word, 0):
            bits = (bits + here | bits - here) & full
        rows.append(bits)
    return rows


def _common(a: Words, b: Words) -> set[int]:
    """Places in a of one longest common subsequence: the one that ROUGE's program traces."""
    rows, places = _lcs_rows(a, b), set()
    i, j = len(a), len(b)
    while i and j:
        if a[i - 1] == b[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif rows[j] >> (i - 1) & 1:
            i -= 1
        else:
            j -= 1
    return places


def _against(prediction: str, target: str, kinds: Sequence[str], stem: bool) -> dict[str, Rouge]:
    ours, theirs = words_of(prediction, stem), words_of(target, stem)
    scores = {}
    for kind in kinds:
        if kind in ORDERS:
            scores[kind] = _of_ngrams(ours, theirs, ORDERS[kind])
        elif kind == "rougeL":
            scores[kind] = _rouge(lcs_length(theirs, ours), len(ours), len(theirs))
        elif kind == "rougeLsum":
            scores[kind] = _of_lines(
                [words_of(line, stem) for line in prediction.split("\n")],
                [words_of(line, stem) for line in target.split("\n")],
            )
        else:
            raise UserError(f"kinds must be rouge1 to rouge9, rougeL or rougeLsum, got {kind!r}")
    return scores


def _of_ngrams(ours: Words, theirs: Words, n: int) -> Rouge:
    a, b = list(ngrams(ours, n)), list(ngrams(theirs, n))
    kinds_a, kinds_b = set(a), set(b)
    if len(kinds_a) == len(a) or len(kinds_b) == len(b):  # without repetition, sets will do
        return _rouge(len(kinds_a & kinds_b), len(a), len(b))
    return _rouge(matches(counts(a), counts(b)), len(a), len(b))


def _of_lines(ours: Sequence[Words], theirs: Sequence[Words]) -> Rouge:
    available = Counter(word for line in ours for word in line)
    hits = 0
    for line in theirs:
        covered = set().union(*(_common(line, other) for other in ours))
        once = counts(line[place] for place in covered)
        hits += matches(once, available)
        available -= once  # of what is left, so that no word counts twice
    return _rouge(hits, sum(map(len, ours)), sum(map(len, theirs)))


def _rouge(both: int, n_ours: int, n_theirs: int) -> Rouge:
    if not both:
        return Rouge(0.0, 0.0, 0.0)
    precision, recall = both / n_ours, both / n_theirs
    return Rouge(precision, recall, 2 * precision * recall / (precision + recall))
