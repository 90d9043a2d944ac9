r"""Perplexity: how many equally likely continuations a model chooses from, on average.

$$\mathrm{ppl} = \exp\Big(-\frac{\sum_d \ell_d}{\sum_d N_d}\Big), \qquad
  \text{bits per byte} = -\frac{\sum_d \ell_d}{\ln 2 \, \sum_d B_d},$$

with $\ell_d$ the log-likelihood of document d in nats. Sums come before the division: the mean of
the documents' own perplexities is another number, ruled by the shortest. What is counted are words
or bytes, never tokens, so that models with different tokenizers can be compared.

>>> pairs = [(-2.0, 1), (-8.0, 9)]  # log-likelihood and words of two documents
>>> round(weighted_perplexity(pairs), 4)
2.7183
>>> round(bits_per_byte([(-8 * math.log(2), 4)]), 4)
2.0

Source: Jelinek et al., "Perplexity" (1977); Gao et al., "The Pile" (2020), section 3.1, for bits
per byte; words and bytes are counted as by the lm-evaluation-harness.
"""

import math
import re
from collections.abc import Sequence

from shared.require import require

Pair = tuple[float, int] | list[float]  # log-likelihood of a document, and its length


def count_words(text: str) -> int:
    """Pieces between white space, as the lm-evaluation-harness counts: an empty one too."""
    return len(re.split(r"\s+", text))


def count_bytes(text: str) -> int:
    """Bytes of UTF-8."""
    return len(text.encode())


def perplexity(logprobs: Sequence[float]) -> float:
    """Of answers of one unit each, such as LAMBADA's last words."""
    require(len(logprobs) > 0, "logprobs must be at least one", len(logprobs))
    return _exp(-sum(logprobs) / len(logprobs))


def weighted_perplexity(pairs: Sequence[Pair]) -> float:
    """Of documents of several words or bytes; each word counts the same, not each document."""
    return _exp(-_per_unit(pairs))


def bits_per_byte(pairs: Sequence[Pair]) -> float:
    """How many bits an ideal coder with this model needs for a byte of text."""
    return -_per_unit(pairs) / math.log(2)


def _per_unit(pairs: Sequence[Pair]) -> float:
    length = sum(n for _, n in pairs)
    require(length > 0, "documents must have a length together", length)
    return sum(logprob for logprob, _ in pairs) / length


def _exp(x: float) -> float:
    return math.inf if x > 709 else math.exp(x)
