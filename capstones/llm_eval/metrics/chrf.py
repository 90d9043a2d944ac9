r"""chrF: precision and recall of character n-grams, so that a near miss of a word counts.

With the mean precision $P$ and the mean recall $R$ of n-grams of 1 to 6 characters (and of 1 and 2
words: chrF++), where recall counts $\beta^2 = 4$ times (Popović, 2015, eq. 1),

$$\mathrm{chrF}_\beta = (1 + \beta^2) \frac{P R}{\beta^2 P + R}.$$

>>> round(corpus_chrf(["the cats sat"], [["the cat sat"]]).score, 2)
74.78
>>> round(corpus_chrf(["the cats sat"], [["the cat sat"]], word_order=2).score, 2)
64.44
>>> signature(word_order=2)
'nrefs:1|case:mixed|eff:yes|nc:6|nw:2|space:no|version:llm-eval-1'

Sources: Popović, "chrF: character n-gram F-score for automatic MT evaluation" (2015); "chrF++:
words helping character n-grams" (2017). Which mean is taken where is sacreBLEU 2's choice.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

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
from shared.require import require

PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
EPSILON = 1e-16


@dataclass(frozen=True)
class Score:
    """chrF from 0 to 100."""

    score: float


def corpus_chrf(
    hypotheses: Sequence[str],
    references: Sequence[References],
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2,
    lowercase: bool = False,
    whitespace: bool = False,
    eps_smoothing: bool = False,
) -> Score:
    """chrF of a corpus.

    Parameters
    ----------
    references
        Per hypothesis, its references, of which the one with the best score counts; None is passed
        over.
    char_order, word_order
        Longest n-grams; a word order of 2 is chrF++.
    whitespace
        Spaces are characters too.
    eps_smoothing
        The mean of each order's F, all orders alike, as chrF++.py has it; otherwise the F of mean
        precision and recall, over orders that both texts are long enough for.

    Raises
    ------
    ValueError
        Nothing to score, a hypothesis without a reference, or an option out of its range.
    """
    options = {"char_order": char_order, "word_order": word_order, "lowercase": lowercase}
    scoring = {"beta": beta, "eps_smoothing": eps_smoothing}
    rows = [
        statistics(hypothesis, texts, whitespace=whitespace, **options, **scoring)
        for hypothesis, texts in paired(hypotheses, references)
    ]
    return from_statistics(rows, **scoring)


def statistics(
    hypothesis: str,
    references: References,
    *,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2,
    lowercase: bool = False,
    whitespace: bool = False,
    eps_smoothing: bool = False,
) -> tuple[int, ...]:
    """What a text adds to a corpus: n-grams of the hypothesis, of the reference, and of both."""
    require(char_order >= 1, "char_order must be at least 1", char_order)
    require(word_order >= 0, "word_order must be at least 0", word_order)
    require(beta >= 0, "beta must be at least 0", beta)
    texts = [hypothesis, *given(references)]
    texts = [text.lower() for text in texts] if lowercase else texts
    found, *others = (
        [counts(grams) for grams in _all_ngrams(text, char_order, word_order, whitespace)]
        for text in texts
    )
    rows = [_compared(found, other) for other in others]
    return max(rows, key=lambda row: _f_score(row, beta, eps_smoothing))


def from_statistics(
    rows: Iterable[Sequence[int]], *, beta: float = 2, eps_smoothing: bool = False
) -> Score:
    """The chrF of texts whose statistics are given; a bootstrap draws those."""
    return Score(100 * _f_score(summed(rows), beta, eps_smoothing))


def signature(
    *,
    nrefs: NRefs = 1,
    char_order: int = 6,
    word_order: int = 0,
    beta: float = 2,
    lowercase: bool = False,
    whitespace: bool = False,
    eps_smoothing: bool = False,
) -> str:
    """The protocol in one line, as sacreBLEU writes it; a beta other than 2 is named too."""
    words = {"case": "lc" if lowercase else "mixed", "eff": not eps_smoothing}
    words |= {"nc": char_order, "nw": word_order, "space": whitespace}
    return signed(nrefs, **words, **({} if beta == 2 else {"beta": beta}))


def _all_ngrams(
    text: str, char_order: int, word_order: int, whitespace: bool
) -> Iterator[Iterable]:
    characters = text if whitespace else "".join(text.split())
    for n in range(1, char_order + 1):
        yield ngrams(characters, n)
    words = _words(text) if word_order else []
    for n in range(1, word_order + 1):
        yield ngrams(words, n)


def _words(text: str) -> list[str]:
    """Words, each without one mark at its end or, failing that, at its beginning."""
    words = []
    for word in text.split():
        cut = 0
        if len(word) > 1:
            cut = len(word) - 1 if word[-1] in PUNCTUATION else word[0] in PUNCTUATION
        words += [word[:cut], word[cut:]] if cut else [word]
    return words


def _compared(found: Sequence, other: Sequence) -> tuple[int, ...]:
    row = []
    for ours, theirs in zip(found, other, strict=True):
        n_theirs = theirs.total()
        row += [ours.total() if n_theirs else 0, n_theirs, matches(ours, theirs)]
    return tuple(row)


def _f_score(row: Sequence[float], beta: float, eps_smoothing: bool) -> float:
    orders = list(zip(row[::3], row[1::3], row[2::3], strict=True))
    if eps_smoothing:
        ratios = [(m / h if h else EPSILON, m / r if r else EPSILON) for h, r, m in orders]
        return sum(_f(p, r, beta, EPSILON) for p, r in ratios) / len(orders)
    both = [(match / hyp, match / ref) for hyp, ref, match in orders if hyp and ref]
    if not both:
        return 0.0
    precision, recall = (sum(column) / len(both) for column in zip(*both, strict=True))
    return _f(precision, recall, beta)


def _f(precision: float, recall: float, beta: float, otherwise: float = 0.0) -> float:
    weighted = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / weighted if weighted else otherwise
