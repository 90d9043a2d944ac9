r"""Distributions from uniform numbers: log-densities and four ways to sample.

A generator gives $U$ uniform on $[0, 1)$; everything else is made of it:

$$F^{-1}(U) \sim F, \qquad \sqrt{-2 \ln U_1}\,(\cos 2\pi U_2, \sin 2\pi U_2) \sim \mathcal N(0, I),
  \qquad X \sim q \text{ kept with probability } \frac{p(X)}{M q(X)} \;\Rightarrow\; X \sim p,$$

by inverse CDF, Box–Muller and rejection; and the alias method, which draws one of n categories in
constant time.

    >>> rng = np.random.default_rng(0)
    >>> x = sample_normal(rng, 100_000, loc=3.0, scale=2.0)
    >>> print(f"{x.mean():.1f} {x.std():.1f}")
    3.0 2.0
    >>> print(f"{normal_log_pdf(np.array([3.0]), 3.0, 2.0)[0]:.4f}")
    -1.6121

    uv run weeks/03/distributions.py

Source: Devroye, *Non-Uniform Random Variate Generation* (1986), II.2, II.3, III.4; Marsaglia &
Tsang, "A simple method for generating gamma variables", ACM TOMS 26 (2000); Vose, "A linear
algorithm for generating random numbers with a given distribution", IEEE TSE 17 (1991).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week03.special_functions import Number, log_beta, log_gamma, require_positive

Values = Float[np.ndarray, "*shape"]

# ---- log-densities: -inf outside the support, so that products of densities stay right


@checked
def normal_log_pdf(x: Values, loc: Number = 0.0, scale: Number = 1.0) -> Values:
    """ln N(x; loc, scale²)."""
    scale = float(require_positive("scale", scale))
    z = (x - loc) / scale
    return np.asarray(-0.5 * z**2 - math.log(scale) - 0.5 * math.log(2 * math.pi))


@checked
def exponential_log_pdf(x: Values, rate: Number = 1.0) -> Values:
    """ln(rate e^(-rate x)) for x >= 0."""
    return gamma_log_pdf(x, 1.0, rate)


@checked
def gamma_log_pdf(x: Values, shape: Number, rate: Number = 1.0) -> Values:
    """Log-density of Gamma(shape, rate): x^(shape - 1) e^(-rate x) rate^shape / Γ(shape)."""
    shape, rate = float(require_positive("shape", shape)), float(require_positive("rate", rate))
    power = _times_log(shape - 1, np.where(x >= 0, x, 1.0))
    value = power - rate * x + shape * math.log(rate) - log_gamma(shape)
    return np.asarray(np.where(x < 0, -np.inf, value))


@checked
def beta_log_pdf(x: Values, a: Number, b: Number) -> Values:
    """Log-density of Beta(a, b): x^(a - 1) (1 - x)^(b - 1) / B(a, b)."""
    normalizer = float(log_beta(a, b))
    outside = (x < 0) | (x > 1)
    z = np.where(outside, 0.5, x)
    value = _times_log(a - 1, z) + _times_log(b - 1, 1 - z) - normalizer
    return np.asarray(np.where(outside, -np.inf, value))


@checked
def student_t_log_pdf(x: Values, df: Number, loc: Number = 0.0, scale: Number = 1.0) -> Values:
    """Log-density of loc + scale · t with df degrees of freedom; df = 1 is the Cauchy."""
    df, scale = float(require_positive("df", df)), float(require_positive("scale", scale))
    z = (x - loc) / scale
    normalizer = float(log_beta(df / 2, 0.5)) + 0.5 * math.log(df) + math.log(scale)
    # log1p, because for a large df the square is a small addition to 1.
    return np.asarray(-0.5 * (df + 1) * np.log1p(z**2 / df) - normalizer)


@checked
def poisson_log_pmf(k: Int[np.ndarray, "*shape"], rate: Number) -> Values:
    """Log-probability of k events where `rate` are expected: k ln rate - rate - ln k!."""
    rate = float(require_positive("rate", rate))
    inside = np.where(k >= 0, k, 0).astype(np.float64)
    value = inside * math.log(rate) - rate - log_gamma(inside + 1)
    return np.asarray(np.where(k >= 0, value, -np.inf))


# ---- samplers


def sample_exponential(
    rng: np.random.Generator, n: int, rate: Number = 1.0
) -> Float[np.ndarray, " n"]:
    """Inverse CDF: F(x) = 1 - e^(-rate x), so x = -ln(1 - U) / rate."""
    rate = float(require_positive("rate", rate))
    # U can be exactly 0 and never 1: ln(1 - U) is always finite, ln U is not.
    return -np.log1p(-rng.random(_count(n))) / rate


def sample_normal(
    rng: np.random.Generator, n: int, loc: Number = 0.0, scale: Number = 1.0
) -> Float[np.ndarray, " n"]:
    """Box–Muller: the squared radius of a 2-D normal is exponential, its angle uniform."""
    scale = float(require_positive("scale", scale))
    half = (_count(n) + 1) // 2
    radius = np.sqrt(2 * sample_exponential(rng, half))
    angle = 2 * np.pi * rng.random(half)
    z = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return loc + scale * z[:n]


def sample_gamma(
    rng: np.random.Generator, n: int, shape: Number, rate: Number = 1.0
) -> Float[np.ndarray, " n"]:
    """Gamma(shape, rate) by Marsaglia and Tsang's rejection."""
    shape, rate = float(require_positive("shape", shape)), float(require_positive("rate", rate))
    return np.exp(_sample_log_gamma(rng, n, shape)) / rate


def sample_beta(rng: np.random.Generator, n: int, a: Number, b: Number) -> Float[np.ndarray, " n"]:
    """Beta(a, b) as G_a / (G_a + G_b) of two gamma variables."""
    a, b = float(require_positive("a", a)), float(require_positive("b", b))
    # In logarithms: for small a and b both gammas underflow, and 0 / 0 is no probability.
    difference = _sample_log_gamma(rng, n, b) - _sample_log_gamma(rng, n, a)
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(difference))


def sample_student_t(rng: np.random.Generator, n: int, df: Number) -> Float[np.ndarray, " n"]:
    """A normal variable over the square root of an independent χ²/df: Gamma(df/2, df/2)."""
    df = float(require_positive("df", df))
    return sample_normal(rng, n) / np.sqrt(sample_gamma(rng, n, df / 2, df / 2))


def sample_poisson(rng: np.random.Generator, n: int, rate: Number) -> Int[np.ndarray, " n"]:
    """Inverse CDF over a table. Knuth's product of uniforms fails where e^(-rate) underflows."""
    rate = float(require_positive("rate", rate))
    highest = int(rate + 12 * math.sqrt(rate) + 40)  # less than 1e-16 of the mass lies beyond
    table = np.cumsum(np.exp(poisson_log_pmf(np.arange(highest), rate)))
    return np.searchsorted(table, rng.random(_count(n)), side="right")


class AliasTable:
    """Draw from n categories in constant time: one column at random, then one of two in it.

    Every category has n p worth of probability where a column holds 1. Who has too little shares
    a column with one who has too much, its alias; n such pairings use everything up.

    Parameters
    ----------
    p
        Probabilities, shape (n,), summing to one.

    Attributes
    ----------
    keep_, alias_ : (n,)
        Column i yields i with probability keep_[i], else alias_[i].

    References
    ----------
    Vose (1991); Walker (1977) for the idea.
    """

    def __init__(self, p: Float[np.ndarray, " n"]):
        left = require_distribution("p", p) * len(p)
        self.keep_, self.alias_ = np.ones(len(p)), np.arange(len(p))
        small = [int(i) for i in np.flatnonzero(left < 1)]
        large = [int(i) for i in np.flatnonzero(left >= 1)]
        while small and large:
            i, j = small.pop(), large[-1]
            self.keep_[i], self.alias_[i] = left[i], j
            left[j] -= 1 - left[i]
            if left[j] < 1:
                small.append(large.pop())
        # Whoever remains holds 1 up to rounding, whichever list it is in: keep_ = 1 as set above.

    def probabilities(self) -> Float[np.ndarray, " n"]:
        """What the table really draws: p again, if it was built right."""
        n = len(self.keep_)
        return (self.keep_ + np.bincount(self.alias_, 1 - self.keep_, minlength=n)) / n

    def sample(self, rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
        """Draw n categories."""
        column = rng.integers(len(self.keep_), size=_count(n))
        return np.where(rng.random(n) < self.keep_[column], column, self.alias_[column])


def rejection_sample(
    rng: np.random.Generator,
    n: int,
    log_target: Callable[[np.ndarray], np.ndarray],
    log_proposal: Callable[[np.ndarray], np.ndarray],
    propose: Callable[[np.random.Generator, int], np.ndarray],
    log_envelope: float,
) -> tuple[Float[np.ndarray, " n"], float]:
    """Sample a density by throwing away draws of another one.

    Parameters
    ----------
    log_target, log_proposal
        Log-densities; the target's may lack its normalizer.
    propose
        Draws n numbers from the proposal, given a generator and n.
    log_envelope
        ln M with target(x) <= M · proposal(x) everywhere.

    Returns
    -------
    draws, acceptance_rate
        The rate estimates 1/M if the target is normalized.

    Raises
    ------
    ValueError
        If a proposed point lies above the envelope: the draws would silently follow
        min(target, M · proposal).
    """
    kept, n_kept, n_tried = [], 0, 0
    while n_kept < _count(n):
        x = propose(rng, max(n, 64))
        log_ratio = log_target(x) - log_proposal(x) - log_envelope
        worst = int(log_ratio.argmax())
        require(
            log_ratio[worst] <= 1e-9,
            "log_envelope must bound log_target - log_proposal",
            f"{log_envelope:.6g} where x = {x[worst]:.6g} needs {log_ratio[worst]:.6g} more",
        )
        kept.append(x[np.log1p(-rng.random(len(x))) <= log_ratio])
        n_kept, n_tried = n_kept + len(kept[-1]), n_tried + len(x)
        lost = n_kept == 0 and n_tried > 1000 * max(n, 64)
        require(not lost, f"the envelope accepts nothing: 0 of {n_tried} draws were kept")
    draws = np.concatenate(kept)[:n] if kept else np.empty(0)
    return draws, n_kept / max(n_tried, 1)


def sample_below(
    rng: np.random.Generator, n: int, high: int, *, bits: int = 32
) -> Int[np.ndarray, " n"]:
    """Uniform integers 0 … high - 1 from words of `bits` random bits, without modulo bias.

    2^bits is rarely a multiple of `high`; the words of the last, incomplete round are redrawn.
    """
    require(1 <= high <= 2**bits, f"high must be between 1 and 2**bits = {2**bits}", high)
    whole_rounds = 2**bits - 2**bits % high
    words = rng.integers(2**bits, size=_count(n))
    while (bad := words >= whole_rounds).any():
        words[bad] = rng.integers(2**bits, size=int(bad.sum()))
    return words % high


def require_distribution(name: str, p: Values) -> Values:
    """Give p as float64; a ValueError naming it if it is not a probability distribution."""
    p = np.array(p, dtype=np.float64)
    found = f"sum {p.sum():.6g}, least {p.min():.6g}" if p.size else "no entry"
    valid = p.size > 0 and (p >= 0).all() and abs(p.sum() - 1) <= 1e-8
    require(valid, f"{name} must be non-negative and sum to 1", found)
    return p / p.sum()


def _sample_log_gamma(rng: np.random.Generator, n: int, shape: float) -> np.ndarray:
    """ln of Gamma(shape, 1) draws; in logarithms, because small shapes underflow."""
    if shape < 1:  # G_shape = G_(shape + 1) U^(1 / shape)
        return _sample_log_gamma(rng, n, shape + 1) + np.log1p(-rng.random(n)) / shape
    d = shape - 1 / 3
    draws = np.empty(_count(n))
    missing = np.arange(n)
    while missing.size:
        z = sample_normal(rng, missing.size)
        v = np.maximum(1 + z / math.sqrt(9 * d), 0.0) ** 3
        with np.errstate(divide="ignore", invalid="ignore"):
            # v = 0 gives -inf, which is never accepted.
            accepts = np.log1p(-rng.random(missing.size)) < z**2 / 2 + d - d * v + d * np.log(v)
            draws[missing] = np.log(d * v)
        missing = missing[~accepts]
    return draws


def _times_log(power: float, x: np.ndarray) -> np.ndarray:
    """power · ln x with 0 · ln 0 = 0: a density whose power vanishes is finite at the edge."""
    if power == 0:
        return np.where(np.isnan(x), x, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(power * np.log(x))


def _count(n: int) -> int:
    require(n >= 0, "n must be at least 0", n)
    return n


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
