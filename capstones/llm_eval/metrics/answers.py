r"""Short answers: equal to a reference, almost equal, or sharing words with it.

SQuAD compares what is left after case, punctuation, articles and spaces are taken off, and counts
shared words as a multiset, each as often as both have it:

$$F_1 = \frac{2 \sum_w \min(a_w, b_w)}{\sum_w a_w + \sum_w b_w} .$$

>>> exact_match("Paris.", ["Paris"]), squad_exact_match("the Paris.", ["Paris"])
(0.0, 1.0)
>>> token_f1("New York City", ["York", "new york, new york"])  # 2 of 3 words, 2 of 4
0.5714285714285714
>>> token_f1("", []), token_f1("Paris", [])  # no answer is the right answer
(1.0, 0.0)

Source: Rajpurkar et al., "SQuAD" (2016), section 6.1, and "Know what you don't know" (2018) for
questions without an answer; Liang et al., "HELM" (2022), for the quasi-exact match.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

from shared.require import require

PUNCTUATION = str.maketrans("", "", string.punctuation)
DIGITS = str.maketrans("", "", string.digits)


def exact_match(
    prediction: str,
    references: Sequence[str],
    *,
    ignore_case: bool = False,
    ignore_punctuation: bool = False,
    ignore_numbers: bool = False,
    regexes_to_ignore: Sequence[str] = (),
) -> float:
    """1 if the prediction is one of the references, but for what is ignored.

    Parameters
    ----------
    regexes_to_ignore
        What they match is deleted, in their order, before anything else.
    ignore_punctuation, ignore_numbers
        ASCII's punctuation, ASCII's digits.
    """
    require(len(references) > 0, "references must be at least one", len(references))

    def kept(text: str) -> str:
        for pattern in regexes_to_ignore:
            text = re.sub(pattern, "", text)
        text = text.lower() if ignore_case else text
        text = text.translate(PUNCTUATION) if ignore_punctuation else text
        return text.translate(DIGITS) if ignore_numbers else text

    return float(kept(prediction) in {kept(reference) for reference in references})


def normalize(text: str) -> str:
    """What SQuAD compares: lower case, no punctuation, no articles, single spaces."""
    text = text.lower().translate(PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the normalized prediction is a normalized reference; no reference means no answer."""
    return float(normalize(prediction) in {normalize(text) for text in _answers(references)})


def quasi_exact_match(prediction: str, references: Sequence[str]) -> float:
    """HELM's: as SQuAD's, but nothing is never a match."""
    right = {normalize(reference) for reference in references}
    return float(prediction != "" and normalize(prediction) in right)


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Harmonic mean of the shares of words in common, of the reference that suits best.

    Where one side has no words, as for a question without an answer, it is 1 if neither has any:
    SQuAD 2's rule. SQuAD 1's script gives 0 there.
    """
    return max(
        _f1(normalize(prediction).split(), normalize(r).split()) for r in _answers(references)
    )


def _answers(references: Sequence[str]) -> Sequence[str]:
    """References that say something; if there are none, the right answer is silence."""
    return [reference for reference in references if normalize(reference)] or [""]


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))
