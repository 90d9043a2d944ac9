r"""BLEU: how much of a text's n-grams its references hold, times a penalty for brevity.

With $p_n$ the share of n-grams of the *whole corpus* that a reference has too, each counted at most
as often as in the reference that has it most (Papineni et al., 2002, eq. 1-3), $c$ the length of
the hypotheses and $r$ that of the references closest to them,

$$\mathrm{BLEU} = \min\big(1, e^{1 - r/c}\big) \exp\Big(\frac14 \sum_{n=1}^4 \log p_n\Big).$$

>>> hypotheses = ["the the the the the the the", "the cat is on the mat today"]
>>> references = [["the cat is on the mat"], ["the cat is on a mat", "there is a cat on the mat"]]
>>> score = corpus_bleu(hypotheses, references)
>>> round(score.score, 2), score.counts  # of seven `the`, two count
(29.73, (7, 5, 3, 1))
>>> signature()
'nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:llm-eval-1'

Sources: Papineni, Roukos, Ward, Zhu, "BLEU" (2002); Chen & Cherry, "A Systematic Comparison of
Smoothing Techniques for Sentence-Level BLEU" (2014); Post (2018) for the signature.
"""

import functools
import math
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from llm_eval.metrics.texts import (
    NRefs,
    References,
    counts,
    given,
    matches,
    ngrams,
    paired,
    signed,
    summed,
)
from llm_eval.metrics.tokenizers import tokenize as words_of
from shared.require import require

Smoothing = Literal["none", "floor", "add-k", "exp"]
SMOOTH_VALUES = {"floor": 0.1, "add-k": 1.0}


@dataclass(frozen=True)
class Score:
    """BLEU from 0 to 100, and what it is made of.

    Attributes
    ----------
    counts, totals
        N-grams that match, and all, by n from 1.
    precisions
        Their ratios in percent, smoothed.
    bp
        Brevity penalty.
    """

    score: float
    counts: tuple[int, ...]
    totals: tuple[int, ...]
    precisions: tuple[float, ...]
    bp: float
    hyp_len: int
    ref_len: int


def corpus_bleu(
    hypotheses: Sequence[str],
    references: Sequence[References],
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    max_ngram_order: int = 4,
    smooth_method: Smoothing = "exp",
    smooth_value: float | None = None,
    effective_order: bool = False,
) -> Score:
    """BLEU of a corpus: matches are summed before anything is divided.

    Parameters
    ----------
    references
        Per hypothesis, its references; None is passed over.
    tokenize
        13a, char, intl, none or zh.
    smooth_method, smooth_value
        What a precision without a match becomes: `floor` takes a value of 0.1 matches, `exp` halves
        it each time, and `add-k` adds 1 to all counts beyond single words.
    effective_order
        Orders that the hypotheses are too short for do not count.

    Raises
    ------
    ValueError
        Nothing to score, a hypothesis without a reference, or an option out of its range.
    UserError
        There is no such tokenizer.
    """
    rows = [
        statistics(
            hypothesis,
            texts,
            tokenize=tokenize,
            lowercase=lowercase,
            max_ngram_order=max_ngram_order,
        )
        for hypothesis, texts in paired(hypotheses, references)
    ]
    smoothing = {"smooth_method": smooth_method, "smooth_value": smooth_value}
    return from_statistics(rows, effective_order=effective_order, **smoothing)


def sentence_bleu(
    hypothesis: str, references: References, *, effective_order: bool = True, **options: object
) -> Score:
    """BLEU of one text, with the options of `corpus_bleu`."""
    return corpus_bleu([hypothesis], [references], effective_order=effective_order, **options)


def statistics(
    hypothesis: str,
    references: References,
    *,
    tokenize: str = "13a",
    lowercase: bool = False,
    max_ngram_order: int = 4,
) -> tuple[int, ...]:
    """What a text adds to a corpus: both lengths, matches by n, n-grams by n."""
    require(max_ngram_order >= 1, "max_ngram_order must be at least 1", max_ngram_order)
    texts = [hypothesis, *given(references)]
    texts = [text.lower() for text in texts] if lowercase else texts
    words, *others = (words_of(text.rstrip(), tokenize) for text in texts)
    _, closest = min((abs(len(other) - len(words)), len(other)) for other in others)
    correct = [0] * max_ngram_order
    for n in range(1, max_ngram_order + 1):
        of_each = [counts(ngrams(other, n)) for other in others]
        most = functools.reduce(operator.or_, of_each)  # the greater count of each
        correct[n - 1] = matches(counts(ngrams(words, n)), most)
        if not correct[n - 1]:
            break  # what is longer holds this
    totals = [max(0, len(words) - n) for n in range(max_ngram_order)]
    return (len(words), closest, *correct, *totals)


def from_statistics(
    rows: Iterable[Sequence[int]],
    *,
    smooth_method: Smoothing = "exp",
    smooth_value: float | None = None,
    effective_order: bool = False,
) -> Score:
    """BLEU of the texts whose statistics are given; a bootstrap draws those."""
    hyp_len, ref_len, *both = (int(value) for value in summed(rows))
    correct, totals = tuple(both[: len(both) // 2]), tuple(both[len(both) // 2 :])
    penalty = min(1.0, math.exp(1 - ref_len / hyp_len)) if hyp_len else float(ref_len == 0)
    value = SMOOTH_VALUES.get(smooth_method) if smooth_value is None else smooth_value
    require(value is None or value >= 0, "smooth_value must be at least 0", value)
    if not any(correct):  # smoothing would give something for nothing
        return Score(0.0, correct, totals, (0.0,) * len(correct), penalty, hyp_len, ref_len)
    precisions = _smoothed(correct, totals, smooth_method, value or 0.0)
    used = len(precisions) if effective_order else len(correct)
    precisions += [0.0] * (len(correct) - len(precisions))
    score = 0.0
    if all(precisions[:used]):
        score = penalty * math.exp(sum(map(math.log, precisions[:used])) / used)
    return Score(score, correct, totals, tuple(precisions), penalty, hyp_len, ref_len)


def signature(
    *,
    nrefs: NRefs = 1,
    tokenize: str = "13a",
    lowercase: bool = False,
    max_ngram_order: int = 4,
    smooth_method: Smoothing = "exp",
    smooth_value: float | None = None,
    effective_order: bool = False,
) -> str:
    """The protocol in one line, as sacreBLEU writes it; an order other than 4 is named too."""
    smoothing = smooth_method
    if smooth_method in SMOOTH_VALUES:
        value = SMOOTH_VALUES[smooth_method] if smooth_value is None else smooth_value
        smoothing += f"[{value:.2f}]"
    case = "lc" if lowercase else "mixed"
    order = {} if max_ngram_order == 4 else {"order": max_ngram_order}
    return signed(nrefs, case=case, eff=effective_order, tok=tokenize, smooth=smoothing, **order)


def _smoothed(
    correct: Sequence[int], totals: Sequence[int], method: Smoothing, value: float
) -> list[float]:
    """Precisions in percent, of the orders that the hypotheses are long enough for."""
    precisions, halving = [], 1.0
    for n, (match, total) in enumerate(zip(correct, totals, strict=True), 1):
        added = value if method == "add-k" and n > 1 else 0.0
        if total + added == 0:
            break
        hits = match + added
        if hits == 0 and method == "exp":
            halving /= 2
            hits = halving
        elif hits == 0 and method == "floor":
            hits = value
        precisions.append(100 * hits / (total + added))
    return precisions
