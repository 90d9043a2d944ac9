r"""SelfCheckGPT with n-grams: what a model says only once, it may have made up.

A response R is held against others that were drawn for the same question. All of them, R included,
give each n-gram its probability, and R is scored sentence by sentence,

$$\tilde p(g) = \frac{c(g) + k}{N + k V}, \qquad
  S_i^{\mathrm{avg}} = -\frac1J \sum_j \ln \tilde p_{ij}, \qquad
  S_i^{\max} = \max_j (-\ln \tilde p_{ij}) ,$$

with N n-grams, V kinds of them and one more for those unknown. That R is counted is the paper's
smoothing: no probability is then 0. It must be counted once, or R agrees with itself.

>>> alike = [[["it", "is", "paris"]]] * 3
>>> other = [[["it", "was", "rome"]], [["it", "is", "oslo"]]]
>>> check([["it", "is", "paris"]], alike).average < check([["it", "is", "paris"]], other).average
True
>>> round(check([["a", "b"]], [[["a"]]]).average, 4)  # -(ln 2/3 + ln 1/3) / 2
0.752

Scores are in nats and have no scale of their own: they grow with the length of responses, so only
equal numbers of samples, prompts and limits may be compared.

Source: Manakul, Liusie and Gales, "SelfCheckGPT: zero-resource black-box hallucination detection
for generative large language models" (EMNLP 2023), section 5.3, and the authors' code for sentence
borders, the unknown and k.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from llm_eval.safety.abstention import grade
from llm_eval.safety.rows import answered, mean, row, statistic, text_of
from llm_eval.types import Number, Sample
from shared.require import require

Sentences = Sequence[Sequence[str]]  # tokens of each
START = ""  # before a sentence; no token is empty


@dataclass(frozen=True)
class Check:
    """Scores of a response, higher where it agrees less with the others.

    Attributes
    ----------
    averages, maxima
        Of each sentence.
    average
        Over all tokens.
    maximum
        The mean of the sentences' maxima.
    """

    averages: tuple[float, ...]
    maxima: tuple[float, ...]
    average: float
    maximum: float


def check(
    response: Sentences, others: Sequence[Sentences], *, n: int = 1, smoothing: float = 0.0
) -> Check:
    """Score a response against others.

    Parameters
    ----------
    response, others
        Tokens by sentence; sentences without tokens are passed over.
    n
        Length of n-grams, which begin before the sentence does.
    smoothing
        k, added to the count of each kind of n-gram and of the unknown.

    Raises
    ------
    ValueError
        The response has no token, or an argument is out of range.
    """
    require(n >= 1, "n must be at least 1", n)
    require(smoothing >= 0, "smoothing must be at least 0", smoothing)
    scored = [grams(sentence, n) for sentence in response if len(sentence)]
    require(scored, "response must have at least one token", "none")
    counts = Counter(gram for sentence in scored for gram in sentence)
    for other in others:
        counts.update(gram for sentence in other for gram in grams(sentence, n))
    kinds = len(counts) + 1
    total = counts.total() + smoothing * kinds
    losses = [[-math.log((counts[g] + smoothing) / total) for g in s] for s in scored]
    averages = tuple(sum(loss) / len(loss) for loss in losses)
    maxima = tuple(max(loss) for loss in losses)
    tokens = [value for loss in losses for value in loss]
    return Check(averages, maxima, sum(tokens) / len(tokens), sum(maxima) / len(maxima))


def grams(sentence: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """As many n-grams as tokens."""
    padded = [START] * (n - 1) + list(sentence)
    return [tuple(padded[i : i + n]) for i in range(len(sentence))]


def sentences(text: str) -> list[list[str]]:
    """Lower-case words and signs, by sentence."""
    parts = re.split(r"(?<=[.!?])\s+|\n+", text.casefold())
    found = [re.findall(r"\w+(?:['’]\w+)*|[^\w\s]", part) for part in parts]
    return [tokens for tokens in found if tokens]


def selfcheck(
    samples: Sequence[Sample], *, task: str, signature: str, seed: int = 0
) -> list[Number]:
    """Mean scores of the first response against the others, and whether they find mistakes.

    Where documents have `answers` and `answerable`, selfcheck_auc is the chance that a wrong first
    response scores higher than another; 0.5 is chance. First responses without a word are left out,
    and the note says how many.
    """
    said = answered(samples)
    there = [s for s in said if sentences(text_of(s))]
    for s in there:
        require(len(s.responses) > 1, f"sample {s.id} must have at least 2 responses", 1)
    checks = []
    for s in there:
        first, *others = [sentences(text_of(s, i)) for i in range(len(s.responses))]
        checks.append(check(first, others))
    k = ",".join(map(str, sorted({len(s.responses) - 1 for s in there})))
    of = row(samples, task=task, signature=f"{signature}|selfcheck:n=1,others={k or 0},v1")
    silent = len(said) - len(there)
    left_out = f"{silent} without a word are left out." if silent else ""
    numbers = []
    for metric, values in (
        ("selfcheck_average", [c.average for c in checks]),
        ("selfcheck_maximum", [c.maximum for c in checks]),
    ):
        estimate = mean(values, there)
        note = f"In nats; comparable only at equal numbers and lengths of responses. {left_out}"
        numbers.append(of.number(metric, estimate, better="lower", note=note.strip()))
    if there and all({"answers", "answerable"} <= s.document.keys() for s in there):
        pairs = [
            (grade(text_of(s), s.document) == "wrong", c.maximum)
            for s, c in zip(there, checks, strict=True)
        ]
        auc = statistic(pairs, _auc, there, seed=seed)
        note = "Of wrong against other first responses; 0.5 is chance."
        numbers.append(of.number("selfcheck_auc", auc, better="higher", gap=True, note=note))
    return numbers


def _auc(pairs: Sequence[tuple[bool, float]]) -> float:
    import numpy as np

    from week06.metrics import roc_auc

    wrong = np.array([w for w, _ in pairs], int)
    if wrong.min() == wrong.max():
        return math.nan
    return roc_auc(wrong, np.array([score for _, score in pairs]))
