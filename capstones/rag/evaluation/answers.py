"""Answers judged without a judge: overlap with the truth, support, and knowing when to be silent.

- Exact match and F1 are SQuAD's: case, punctuation and articles aside, the tokens that answer and
  truth share; the best of several truths counts. In version 2 the truth may be that there is none.
- A citation is right if its quote is in the document where it says and shares enough words with
  a sentence that cites it: counted with other means than those that placed it.
- Faithfulness is the share of an answer's words that the chunks hold.
- Coverage and risk: answer only the most confident share of the questions; what share is wrong?

>>> exact_match("The Cat!", ["cat"]), f1("a black cat", ["the cat"])
(1.0, 0.6666666666666666)
>>> coverage, risk = coverage_risk([0.9, 0.8, 0.1], [True, False, True])
>>> risk
array([0.        , 0.5       , 0.33333333])

Sources: Rajpurkar et al., "SQuAD" (2016), section 6; Rajpurkar et al., "Know what you don't know"
(2018), for version 2; Gao et al., "Enabling large language models to generate text with citations"
(2023), section 4, for citation precision and recall; Geifman et al., "Bias-reduced uncertainty
estimation" (2019), for the area under the risk-coverage curve.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Float

from rag.types import Answer
from shared.require import require

MARKER = re.compile(r"\s*\[\d+\]")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


# ---- SQuAD


def normalized(text: str) -> str:
    """Lower case, without punctuation, without articles, single blanks."""
    text = text.lower().translate(NO_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_match(answer: str, truths: Sequence[str]) -> float:
    """1 if the answer is one of the truths, once both are normalized."""
    return _best(lambda truth: float(normalized(answer) == normalized(truth)), truths)


def f1(answer: str, truths: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of tokens; of two empty texts it is 1."""

    def one(truth: str) -> float:
        said, true = normalized(answer).split(), normalized(truth).split()
        if not said or not true:
            return float(said == true)
        shared = sum((Counter(said) & Counter(true)).values())
        return 2 * shared / (len(said) + len(true))

    return _best(one, truths)


def _best(score: Callable[[str], float], truths: Sequence[str]) -> float:
    require(not isinstance(truths, str), "truths must be a list of texts, not one", repr(truths))
    return max(map(score, truths), default=0.0)


def squad(answers: Mapping[str, str], truths: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """SQuAD's two numbers, in percent; a question without an answer counts as wrong."""
    require(truths, "truths must hold at least one question", len(truths))
    pairs = [(answers.get(key), true) for key, true in truths.items()]
    ems = [exact_match(said, true) if said is not None else 0.0 for said, true in pairs]
    # Version 1 gives nothing for an empty answer, even where the truth is empty too.
    f1s = [f1(said, true) if normalized(said or "") else 0.0 for said, true in pairs]
    return {"exact_match": 100 * float(np.mean(ems)), "f1": 100 * float(np.mean(f1s))}


def squad_v2(answers: Mapping[str, str], truths: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """SQuAD 2's: no truths mean no answer, which is then the empty text; in percent.

    Truths of nothing but articles and punctuation do not count, as in the official script.
    """
    require(truths, "truths must hold at least one question", len(truths))
    missing = [key for key in truths if key not in answers]
    require(not missing, "answers must hold every question", *missing[:3])
    found: dict[str, list[tuple[float, float]]] = {"HasAns": [], "NoAns": []}
    for key, given in truths.items():
        true = [text for text in given if normalized(text)] or [""]
        score = exact_match(answers[key], true), f1(answers[key], true)
        found["HasAns" if given else "NoAns"].append(score)
    both = [score for scores in found.values() for score in scores]
    result = {"exact": _percent(both, 0), "f1": _percent(both, 1), "total": len(both)}
    for name, scores in found.items():
        if scores:
            result |= {f"{name}_exact": _percent(scores, 0), f"{name}_f1": _percent(scores, 1)}
            result[f"{name}_total"] = len(scores)
    return result


def _percent(scores: Sequence[tuple[float, float]], which: int) -> float:
    return 100 * float(np.mean([score[which] for score in scores]))


# ---- support


def citation_scores(answer: Answer, *, least: float = 0.5) -> tuple[int, int, int, int]:
    """Counts: citations that are right, citations, sentences with a right one, sentences.

    Parameters
    ----------
    least
        The share of a sentence's normalized tokens that a right quote holds.
    """
    quotes = {citation.number: citation.quote for citation in answer.citations}
    right, backed = set(), 0
    sentences = [s for s in answer.sentences if normalized(MARKER.sub("", s.text))]
    for sentence in sentences:
        said = normalized(MARKER.sub("", sentence.text))
        good = {n for n in sentence.citations if recall(said, quotes.get(n, "")) >= least}
        right |= good
        backed += bool(good)
    return len(right), len(quotes), backed, len(sentences)


def faithfulness(answer: Answer) -> float:
    """The share of the answer's tokens that the chunks hold; 1 where nothing is said."""
    said = MARKER.sub("", answer.text)
    return 1.0 if answer.abstained else recall(said, " ".join(h.chunk.text for h in answer.hits))


def recall(said: str, source: str) -> float:
    """The share of the normalized tokens of a text that a source holds; 1 of an empty text."""
    tokens, there = normalized(said).split(), set(normalized(source).split())
    return sum(token in there for token in tokens) / len(tokens) if tokens else 1.0


# ---- silence


def coverage_risk(
    confidence: Sequence[float], right: Sequence[bool]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Coverage and risk when only the n most confident answers are given, for n = 1, 2, …

    Answers of equal confidence are given together, each counted as the average of them, so that
    their order does not matter.
    """
    confidence, wrong = np.asarray(confidence, float), ~np.asarray(right, bool)
    same = confidence.shape == wrong.shape and confidence.size > 0
    require(same, "confidence and right must be as many, at least 1", confidence.size, wrong.size)
    _, group = np.unique(-confidence, return_inverse=True)
    mean = np.bincount(group, wrong) / np.bincount(group)
    n = np.arange(1, len(wrong) + 1)
    return n / len(wrong), np.cumsum(mean[np.sort(group)]) / n


def aurc(confidence: Sequence[float], right: Sequence[bool]) -> float:
    """Area under the curve of risk over coverage: the mean risk; lower is better."""
    return float(coverage_risk(confidence, right)[1].mean())


def refusals(abstained: Sequence[bool], answerable: Sequence[bool]) -> dict[str, float]:
    """Precision and recall of silence, and the share of answerable questions that got an answer."""
    silent, known = np.asarray(abstained, bool), np.asarray(answerable, bool)
    require(silent.shape == known.shape, "abstained and answerable must be as many", len(silent))
    right = int((silent & ~known).sum())
    return {
        "precision": right / max(int(silent.sum()), 1),
        "recall": right / max(int((~known).sum()), 1),
        "answered": float((~silent & known).sum() / max(int(known.sum()), 1)),
    }
