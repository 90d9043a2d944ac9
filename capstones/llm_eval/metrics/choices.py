r"""A model's choice among answers, from the log-likelihood of each.

The likeliest answer is rarely the best one, since every token costs: long answers are less likely
than short ones. So the likelihood is compared as it is, per character or per byte,

$$\hat y = \arg\max_i \; \ell_i / L_i, \qquad \ell_i = \ln p(\text{answer}_i \mid \text{context}),$$

which are `acc`, `acc_norm` and `acc_bytes` of the lm-evaluation-harness. Tokens would not do as
$L_i$: two models that cut text differently would be asked different questions.

>>> logprobs, choices = [-6.0, -8.0], ["No.", "Certainly not."]
>>> best(logprobs), best(logprobs, choices, per="character")
(0, 1)
>>> [round(p, 3) for p in probabilities(logprobs)]
[0.881, 0.119]

Source: Gao, "Multiple choice normalization in LM evaluation" (2021); Brier (1950); Gorodkin,
"Comparing two K-category assignments by a K-category correlation coefficient" (2004).
"""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from shared.require import require

Per = Literal["answer", "character", "byte"]
Gold = int | Sequence[int]  # the right answer's index, or those of several


def best(logprobs: Sequence[float], choices: Sequence[str] = (), *, per: Per = "answer") -> int:
    """Index of the likeliest answer, of equals the first.

    Parameters
    ----------
    logprobs
        Of each answer, in nats.
    choices
        The answers as they were scored; needed where `per` is not answer.

    Raises
    ------
    ValueError
        A log-likelihood is NaN, or an answer has no length to divide by.
    """
    x = np.array(logprobs, np.float64)
    require(len(x) > 0, "logprobs must be at least one", len(x))
    require(not np.isnan(x).any(), "logprobs must be numbers", "NaN")
    if per != "answer":
        require(len(choices) == len(x), f"choices must be as many as logprobs, {len(x)}", choices)
        lengths = [len(c) if per == "character" else len(c.encode()) for c in choices]
        require(min(lengths) > 0, "choices must not be empty", list(choices))
        x = x / lengths
    return int(np.argmax(x))


def is_right(chosen: int, gold: Gold, n_choices: int) -> float:
    """1 if the chosen answer is the right one, or one of the right ones; else 0."""
    right = [gold] if isinstance(gold, int) else list(gold)
    known = len(right) > 0 and all(0 <= index < n_choices for index in right)
    require(known, f"gold must be among {n_choices} choices", gold)
    return float(chosen in right)


def probabilities(logprobs: Sequence[float]) -> list[float]:
    """How likely the model holds each answer if it must be one of them: the softmax."""
    x = np.array(logprobs, np.float64)
    sane = len(x) > 0 and not np.isnan(x).any() and math.isfinite(x.max())
    require(sane, "logprobs must be numbers, one of them finite", list(logprobs))
    weight = np.exp(x - x.max())
    return (weight / weight.sum()).tolist()


def brier(logprobs: Sequence[float], gold: int) -> float:
    """Squared distance of the probabilities from the truth, summed over answers: 0 to 2."""
    said = probabilities(logprobs)
    require(0 <= gold < len(said), f"gold must be among {len(said)} choices", gold)
    return math.fsum((p - (i == gold)) ** 2 for i, p in enumerate(said))


def mcc(gold: Sequence[int], chosen: Sequence[int]) -> float:
    r"""Correlation of truth and choice (Matthews), of any number of classes.

    With $c$ right of $n$, $t_k$ documents of class k and $p_k$ choices of it (Gorodkin, 2004),

    $$\frac{c\,n - \sum_k t_k p_k}{\sqrt{n^2 - \sum_k p_k^2}\,\sqrt{n^2 - \sum_k t_k^2}};$$

    0 where one of them is always the same.
    """
    n = len(gold)
    require(n == len(chosen) > 0, f"chosen must be as many as gold, {n}, and some", len(chosen))
    labels, codes = np.unique([*gold, *chosen], return_inverse=True)
    t = np.bincount(codes[:n], minlength=len(labels))
    p = np.bincount(codes[n:], minlength=len(labels))
    right = int((codes[:n] == codes[n:]).sum())
    scale = math.sqrt(int(n * n - p @ p) * int(n * n - t @ t))
    return (right * n - int(t @ p)) / scale if scale else 0.0
