r"""BLEU of resampled sentences from the counts of each, so that a bootstrap costs only sums.

BLEU is no mean over sentences: it multiplies a penalty for being short and the geometric mean of
four shares, of the n-grams (n = 1 to 4) that the reference has too, each summed over the corpus,

$$ \min\left(1, e^{1 - r / c}\right) \prod_{n=1}^{4} \left(\frac{\sum_i m_{i n}}{\sum_i t_{i n}}
   \right)^{1/4} . $$

All of it follows from ten sums: matches, totals, and the two lengths.

>>> one = counts(["a dog sleeps", "a cat runs in the sun"], ["a dog sleeps", "the cat runs in it"])
>>> one.astype(int).tolist()
[[3, 2, 1, 0, 3, 2, 1, 0, 3, 3], [4, 2, 1, 0, 6, 5, 4, 3, 6, 5]]
>>> round(bleu(one.sum(axis=0)), 1)
41.5

`uv run weeks/13/translate.py` compares systems with it. Papineni et al. (2002), "BLEU: a method for
automatic evaluation of machine translation", section 2; the bootstrap: Koehn (2004).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from sacrebleu.metrics import BLEU

from shared.require import require
from shared.stats import Interval


def counts(written: Sequence[str], references: Sequence[str]) -> Float[np.ndarray, "n 10"]:
    """Matches and totals of 1- to 4-grams, length, and reference's length, per sentence."""
    metric = BLEU(effective_order=True)  # which changes a sentence's score, not its counts
    scores = [metric.sentence_score(w, [r]) for w, r in zip(written, references, strict=True)]
    return np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in scores], dtype=float)


def bleu(sums: Float[np.ndarray, "10"]) -> float:
    """Corpus BLEU (sacrebleu's formula) of summed counts."""
    correct, total, (length, reference) = sums[:4].tolist(), sums[4:8].tolist(), sums[8:].tolist()
    lengths = {"sys_len": int(length), "ref_len": int(reference)}
    return BLEU.compute_bleu(correct, total, **lengths, smooth_method="exp").score


def resampled(
    *systems: Float[np.ndarray, "n 10"], rng: np.random.Generator, n_resamples: int = 1000
) -> Float[np.ndarray, "system resample"]:
    """BLEU of each system on sentences drawn with replacement, the same ones for all systems."""
    n = len(systems[0])
    same = all(len(system) == n for system in systems)
    require(n >= 1, "systems must hold counts of at least one sentence", n)
    require(same, f"systems must all have counts of {n} sentences", [*map(len, systems)])
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=n_resamples)
    return np.array([[bleu(sums) for sums in drawn @ system] for system in systems])


def gain(
    a: Float[np.ndarray, "n 10"],
    b: Float[np.ndarray, "n 10"],
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Interval:
    """BLEU of a minus BLEU of b with its percentile interval; sentences are drawn in pairs."""
    one, other = resampled(a, b, rng=rng, n_resamples=n_resamples)
    return _interval(bleu(a.sum(axis=0)) - bleu(b.sum(axis=0)), one - other, len(a))


def gain_of_gains(
    long: Sequence[Float[np.ndarray, "n 10"]],
    short: Sequence[Float[np.ndarray, "m 10"]],
    rng: np.random.Generator,
    n_resamples: int = 1000,
) -> Interval:
    """By how much a pair of systems is farther apart on one set of sentences than on another."""
    draws, means = [], []
    for a, b in (long, short):
        one, other = resampled(a, b, rng=rng, n_resamples=n_resamples)
        draws.append(one - other)
        means.append(bleu(a.sum(axis=0)) - bleu(b.sum(axis=0)))
    n = len(long[0]) + len(short[0])
    return _interval(means[0] - means[1], draws[0] - draws[1], n)


def _interval(mean: float, draws: Float[np.ndarray, " resample"], n: int) -> Interval:
    low, high = np.percentile(draws, [2.5, 97.5])
    return Interval(mean, min(mean, low), max(mean, high), n)
