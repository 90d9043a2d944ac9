r"""Bayes' rule where it is exact: conjugate families, and what two kinds of interval promise.

$$p(\theta \mid x) = \frac{p(x \mid \theta)\, p(\theta)}{p(x)}, \qquad
  p(x) = \int p(x \mid \theta)\, p(\theta)\, d\theta .$$

If the likelihood, as a function of θ, has the same form as the prior, the posterior has it too and
updating is adding: successes to a, failures to b. Four such families, their predictions for data to
come, credible intervals, and the confidence intervals and bootstrap that they compete with.

    >>> belief = BetaBinomial(1.0, 1.0).update(successes=7, trials=10)
    >>> belief, round(belief.mean(), 4)
    (BetaBinomial(a=8.0, b=4.0), 0.6667)
    >>> print("{:.3f} {:.3f}".format(*belief.credible_interval(0.9)))
    0.436 0.865
    >>> print("{:.3f} {:.3f}".format(*wald_interval(7, 10, 0.9)))
    0.462 0.938

    uv run weeks/03/bayesian_updating.py

Source: Gelman et al., *Bayesian Data Analysis* (3rd ed., 2013), chapters 2 and 3; Brown, Cai &
DasGupta, "Interval estimation for a binomial proportion", Statistical Science 16 (2001); Efron,
"Bootstrap methods: another look at the jackknife", Annals of Statistics 7 (1979).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np
from jaxtyping import Float, Int

from shared.arguments import checked
from shared.require import require
from week03.special_functions import (
    Number,
    beta_cdf,
    gamma_cdf,
    log_beta,
    log_gamma,
    quantile,
    require_positive,
    student_t_cdf,
)

# ---- conjugate families: each is a belief; update gives the next one


@dataclass(frozen=True)
class BetaBinomial:
    """Belief about a proportion, θ ~ Beta(a, b), from successes among trials (BDA3, 2.4)."""

    a: Number = 1.0
    b: Number = 1.0

    def __post_init__(self):
        require_positive("a", self.a)
        require_positive("b", self.b)

    def update(self, successes: int, trials: int) -> "BetaBinomial":
        """Beta(a + successes, b + failures)."""
        inside = 0 <= successes <= trials
        require(inside, f"successes must be between 0 and trials = {trials}", successes)
        return BetaBinomial(self.a + successes, self.b + trials - successes)

    def mean(self) -> float:
        """Posterior mean: a weighted average of the prior's mean and the frequency seen."""
        return self.a / (self.a + self.b)

    def credible_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal tails of the belief about θ."""
        return _central(lambda x: beta_cdf(x, self.a, self.b), level, 0.0, 1.0)

    @checked
    def predictive_log_pmf(
        self, k: Int[np.ndarray, "*shape"], trials: int
    ) -> Float[np.ndarray, "*shape"]:
        """ln P(k successes in `trials` to come), beta–binomial: θ integrated out."""
        inside = ((k >= 0) & (k <= trials)).all()
        require(inside, f"k must be between 0 and trials = {trials}", k)
        choose = -log_beta(k + 1.0, trials - k + 1.0) - math.log(trials + 1)
        return np.asarray(
            choose + log_beta(k + self.a, trials - k + self.b) - log_beta(self.a, self.b)
        )


@dataclass(frozen=True)
class GammaPoisson:
    """Belief about a rate, λ ~ Gamma(shape, rate), from Poisson counts (BDA3, 2.6)."""

    shape: Number
    rate: Number

    def __post_init__(self):
        require_positive("shape", self.shape)
        require_positive("rate", self.rate)

    @checked
    def update(self, counts: Int[np.ndarray, " n"]) -> "GammaPoisson":
        """Gamma(shape + Σ counts, rate + n)."""
        require((counts >= 0).all(), "counts must be non-negative", counts)
        return GammaPoisson(self.shape + float(counts.sum()), self.rate + len(counts))

    def mean(self) -> float:
        """Posterior mean of the rate."""
        return self.shape / self.rate

    def credible_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal tails of the belief about λ."""
        return _central(lambda x: gamma_cdf(x * self.rate, self.shape), level, 0.0, math.inf)

    @checked
    def predictive_log_pmf(self, k: Int[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
        """ln P(next count = k), negative binomial."""
        require((k >= 0).all(), "k must be non-negative", k)
        stay = math.log(self.rate / (self.rate + 1))
        choose = log_gamma(k + self.shape) - log_gamma(self.shape) - log_gamma(k + 1.0)
        return np.asarray(choose + self.shape * stay - k * math.log1p(self.rate))


@dataclass(frozen=True)
class NormalKnownVariance:
    """Belief about a mean, μ ~ N(mean, sd²), from values of known noise (BDA3, 2.5)."""

    mean: Number
    sd: Number
    noise_sd: Number

    def __post_init__(self):
        require_positive("sd", self.sd)
        require_positive("noise_sd", self.noise_sd)

    @checked
    def update(self, x: Float[np.ndarray, " n"]) -> "NormalKnownVariance":
        """Precisions 1/variance add; the mean is their weighted average (BDA3, 2.12)."""
        precision = self.sd**-2 + len(x) * self.noise_sd**-2
        mean = (self.mean * self.sd**-2 + float(x.sum()) * self.noise_sd**-2) / precision
        return NormalKnownVariance(mean, precision**-0.5, self.noise_sd)

    def credible_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal tails of the belief about μ."""
        half = _normal_quantile(level) * self.sd
        return self.mean - half, self.mean + half

    def predictive_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the next value lies: uncertainty about μ and noise add as variances."""
        half = _normal_quantile(level) * math.hypot(self.sd, self.noise_sd)
        return self.mean - half, self.mean + half


@dataclass(frozen=True)
class NormalInverseGamma:
    """Belief about mean and variance together: σ² ~ InvGamma(α, β), μ | σ² ~ N(mean, σ²/κ).

    BDA3, 3.3, with κ how many observations the prior mean is worth.
    """

    mean: Number
    kappa: Number
    alpha: Number
    beta: Number

    def __post_init__(self):
        for name in ("kappa", "alpha", "beta"):
            require_positive(name, getattr(self, name))

    @checked
    def update(self, x: Float[np.ndarray, " n"]) -> "NormalInverseGamma":
        """Add the data's sums of squares, and the disagreement of their mean with the prior's."""
        n = len(x)
        if n == 0:
            return self
        center = float(x.mean())
        kappa = self.kappa + n
        surprise = self.kappa * n / kappa * (center - self.mean) ** 2
        return NormalInverseGamma(
            (self.kappa * self.mean + n * center) / kappa,
            kappa,
            self.alpha + n / 2,
            self.beta + 0.5 * float(((x - center) ** 2).sum()) + 0.5 * surprise,
        )

    def credible_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Equal tails of the belief about μ: Student's t with 2α degrees of freedom."""
        return self._t_interval(level, self.beta / (self.alpha * self.kappa))

    def predictive_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Where the next value lies: the same t, wider by the noise of one observation."""
        return self._t_interval(level, self.beta * (self.kappa + 1) / (self.alpha * self.kappa))

    def _t_interval(self, level: float, variance: float) -> tuple[float, float]:
        half = t_quantile(level, 2 * self.alpha) * math.sqrt(variance)
        return self.mean - half, self.mean + half


# ---- confidence intervals


def wald_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """p̂ ± z √(p̂(1 - p̂)/n), the textbook's; has no width at p̂ = 0 or 1."""
    p = _frequency(successes, trials)
    half = _normal_quantile(level) * math.sqrt(p * (1 - p) / trials)
    return p - half, p + half


def wilson_interval(successes: int, trials: int, level: float = 0.95) -> tuple[float, float]:
    """All p that a z-test with the variance *at p* would not reject (Brown et al., eq. 4)."""
    p, z = _frequency(successes, trials), _normal_quantile(level)
    center = (p + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / (1 + z**2 / trials)
    return center - half, center + half


def clopper_pearson_interval(
    successes: int, trials: int, level: float = 0.95
) -> tuple[float, float]:
    """All p that an exact binomial test would not reject: covers at least `level`, often more."""
    _frequency(successes, trials)  # checks the counts
    k, n = successes, trials
    low = 0.0 if k == 0 else _central(lambda x: beta_cdf(x, k, n - k + 1), level, 0.0, 1.0)[0]
    high = 1.0 if k == n else _central(lambda x: beta_cdf(x, k + 1, n - k), level, 0.0, 1.0)[1]
    return low, high


@checked
def t_interval(x: Float[np.ndarray, " n"], level: float = 0.95) -> tuple[float, float]:
    """Student's interval for a mean."""
    require(len(x) >= 2, "x must hold at least 2 values", len(x))
    half = t_quantile(level, len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return float(x.mean()) - half, float(x.mean()) + half


@checked
def bootstrap_statistics(
    x: Float[np.ndarray, " n"],
    statistic: Callable[..., np.ndarray],
    rng: np.random.Generator,
    n_resamples: int = 2000,
) -> Float[np.ndarray, " n_resamples"]:
    """A statistic of resamples with replacement; quantiles of it are the percentile interval."""
    require(len(x) >= 1, "x must hold at least 1 value", len(x))
    require(n_resamples >= 1, "n_resamples must be at least 1", n_resamples)
    return statistic(x[rng.integers(len(x), size=(n_resamples, len(x)))], axis=1)


@checked
def binomial_coverage(
    interval: Callable[[int, int], tuple[float, float]], p: Float[np.ndarray, " m"], trials: int
) -> Float[np.ndarray, " m"]:
    """Probability that the interval contains p, summed over all outcomes: no simulation needed."""
    require(((p > 0) & (p < 1)).all(), "p must lie strictly between 0 and 1", p)
    k = np.arange(trials + 1)
    low, high = np.array([interval(int(i), trials) for i in k]).T
    choose = -log_beta(k + 1.0, trials - k + 1.0) - math.log(trials + 1)
    pmf = np.exp(choose + k * np.log(p)[:, None] + (trials - k) * np.log1p(-p)[:, None])
    return (pmf * ((low <= p[:, None]) & (p[:, None] <= high))).sum(axis=1)


@cache  # simulations ask for the same few again and again
def t_quantile(level: float, df: Number) -> float:
    """The t with P(-t < T < t) = level."""
    _check_level(level)
    return float(quantile(lambda x: student_t_cdf(x, df), np.array([0.5 + level / 2]))[0])


def _central(cdf: Callable, level: float, low: float, high: float) -> tuple[float, float]:
    _check_level(level)
    ends = quantile(cdf, np.array([(1 - level) / 2, (1 + level) / 2]), low, high)
    return float(ends[0]), float(ends[1])


def _normal_quantile(level: float) -> float:
    _check_level(level)
    return NormalDist().inv_cdf(0.5 + level / 2)


def _check_level(level: float) -> None:
    require(0 < level < 1, "level must be strictly between 0 and 1", level)


def _frequency(successes: int, trials: int) -> float:
    require(trials >= 1, "trials must be at least 1", trials)
    inside = 0 <= successes <= trials
    require(inside, f"successes must be between 0 and trials = {trials}", successes)
    return successes / trials


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
