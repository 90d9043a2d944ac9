r"""The special functions that densities and intervals of this week need, from their series.

$\ln\Gamma$ by Stirling's series, the distribution functions of gamma, beta and Student's t by
series and continued fraction, and quantiles of any of them by root finding. Plain NumPy, accurate
to about 1e-13 while parameters stay below a thousand (their logarithms cancel beyond).

    >>> print(f"{log_gamma(5.0):.6f}")  # ln 4!
    3.178054
    >>> print(f"{beta_cdf(np.array([0.3]), 2, 5)[0]:.6f}")
    0.579825
    >>> print(quantile(lambda x: student_t_cdf(x, 3), np.array([0.975])).round(4))
    [3.1824]

Source: NIST Digital Library of Mathematical Functions (2010), 5.11.1, 8.7.1, 8.9.2, 8.17.22;
continued fractions by Lentz's method, Press et al., *Numerical Recipes* (3rd ed., 2007), 5.2;
roots by Chandrupatla, Advances in Engineering Software 28 (1997).
"""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from shared.arguments import checked
from shared.require import require

Number = float | int
STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def log_gamma(x: Number | Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """ln Γ(x) for x > 0, DLMF 5.11.1 after moving x up to at least 10 by Γ(x + 1) = x Γ(x)."""
    x = require_positive("x", x)
    z, product = x, np.ones_like(x)
    for _ in range(10):
        product = np.where(z < 10, product * z, product)
        z = np.where(z < 10, z + 1, z)
    series = sum(c / z ** (2 * i + 1) for i, c in enumerate(STIRLING))
    value = (z - 0.5) * np.log(z) - z + 0.5 * math.log(2 * math.pi) + series
    return np.asarray(value - np.log(product))


@checked
def gamma_cdf(
    x: Float[np.ndarray, "*shape"], shape: Number | Float[np.ndarray, "*#shape"]
) -> Float[np.ndarray, "*shape"]:
    """P(X <= x) of a gamma variable with rate 1: the regularized lower incomplete gamma function.

    A series left of the mean (DLMF 8.7.1), a continued fraction right of it (8.9.2): each
    converges fast only on its own side.
    """
    a = np.broadcast_to(require_positive("shape", shape), x.shape)
    z = np.where(x > 0, np.minimum(x, 1e300), 1.0)
    left = z < a + 1
    with np.errstate(under="ignore", over="ignore"):
        front = np.exp(a * np.log(z) - z - log_gamma(a))
        # Points of the other side are moved to where this side converges at once.
        series = front * _power_series(np.where(left, z, 0.0), a)
        tail = front * _gamma_fraction(np.where(left, a + 10, z), a)
    value = np.clip(np.where(left, series, 1 - tail), 0, 1)
    return np.asarray(np.where(x > 0, value, np.where(np.isnan(x), x, 0.0)))


@checked
def beta_cdf(
    x: Float[np.ndarray, "*shape"],
    a: Number | Float[np.ndarray, "*#shape"],
    b: Number | Float[np.ndarray, "*#shape"],
) -> Float[np.ndarray, "*shape"]:
    """P(X <= x) of a beta variable: the regularized incomplete beta function, DLMF 8.17.22."""
    a = np.broadcast_to(require_positive("a", a), x.shape)
    b = np.broadcast_to(require_positive("b", b), x.shape)
    inside = (x > 0) & (x < 1)
    z = np.where(inside, x, 0.5)
    # The fraction converges fast left of the mean only; 8.17.4, I_x(a,b) = 1 - I_{1-x}(b,a).
    flip = z > (a + 1) / (a + b + 2)
    log_front = a * np.log(z) + b * np.log1p(-z) - log_beta(a, b)
    z, p, q = np.where(flip, 1 - z, z), np.where(flip, b, a), np.where(flip, a, b)
    with np.errstate(under="ignore"):
        value = np.exp(log_front) / p * _beta_fraction(z, p, q)
    value = np.clip(np.where(flip, 1 - value, value), 0, 1)
    return np.asarray(np.where(inside, value, np.where(np.isnan(x), x, x >= 1)))


@checked
def student_t_cdf(x: Float[np.ndarray, "*shape"], df: Number) -> Float[np.ndarray, "*shape"]:
    """P(X <= x) of Student's t: X² / (df + X²) is Beta(1/2, df/2)."""
    df = float(require_positive("df", df))
    inner = x**2 < df
    # Each side from its own end of [0, 1]: 1 - x²/(df + x²) would swallow a small x.
    share = np.asarray(np.where(inner, x**2, df) / (df + x**2))
    half = 0.5 * beta_cdf(share, np.where(inner, 0.5, df / 2), np.where(inner, df / 2, 0.5))
    below = np.where(inner, 0.5 - half, half)
    return np.asarray(np.where(x > 0, 1 - below, below))


def log_beta(
    a: Number | Float[np.ndarray, "*shape"], b: Number | Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """ln B(a, b) = ln Γ(a) + ln Γ(b) - ln Γ(a + b)."""
    a, b = require_positive("a", a), require_positive("b", b)
    return np.asarray(log_gamma(a) + log_gamma(b) - log_gamma(np.asarray(a + b)))


@checked
def quantile(
    cdf: Callable[[np.ndarray], np.ndarray],
    p: Float[np.ndarray, "*shape"],
    low: Number = -math.inf,
    high: Number = math.inf,
) -> Float[np.ndarray, "*shape"]:
    """Invert an increasing distribution function: widen a bracket, then close it.

    Parameters
    ----------
    cdf
        Called with arrays of p's shape.
    p
        Probabilities, strictly between 0 and 1.
    low, high
        Ends of the support, which must overlap [-1, 1].

    Raises
    ------
    ValueError
        If a probability is not strictly between 0 and 1, or the support lies elsewhere.
    """
    overlaps = low < 1 and high > -1 and low < high
    require(overlaps, "low and high must enclose part of [-1, 1]", low, high)
    require(((p > 0) & (p < 1)).all(), "p must lie strictly between 0 and 1", p)
    left = np.full(p.shape, max(float(low), -1.0))
    right = np.full(p.shape, min(float(high), 1.0))

    def excess(x: np.ndarray) -> np.ndarray:
        return cdf(np.asarray(x)) - p

    for _ in range(1000):
        too_high, too_low = (excess(left) > 0) & (left > low), (excess(right) < 0) & (right < high)
        if not (too_high | too_low).any():
            break
        left = np.where(too_high, np.maximum(2 * left, low), left)
        right = np.where(too_low, np.minimum(2 * right, high), right)
    return _root(excess, left, right)


def require_positive(
    name: str, value: Number | Float[np.ndarray, "*shape"]
) -> Float[np.ndarray, "*shape"]:
    """Give the value as an array; a ValueError naming it if it is not positive and finite."""
    array = np.asarray(value, dtype=np.float64)
    bad = ~((array > 0) & (array < np.inf))
    require(not bad.any(), f"{name} must be positive and finite", *array[bad].flat[:1])
    return array


def _root(f: Callable[[np.ndarray], np.ndarray], left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Chandrupatla's method: inverse quadratic steps where they are safe, else bisection."""
    a, b = left, right  # a is the newest point, b the end across the root, c the one before
    fa, fb = f(a), f(b)
    t = np.full(left.shape, 0.5)
    for _ in range(500):
        x = a + t * (b - a)
        fx = f(x)
        same = np.sign(fx) == np.sign(fa)
        c, fc = np.where(same, a, b), np.where(same, fa, fb)
        b, fb = np.where(same, b, a), np.where(same, fb, fa)
        a, fa = x, fx
        best = np.where(np.abs(fa) < np.abs(fb), a, b)
        width = np.maximum(np.abs(b - a), 1e-300)
        limit = (2.3e-16 * np.abs(best) + 1e-300) / width
        if ((limit > 0.5) | (fa == 0) | (fb == 0)).all():
            break
        with np.errstate(all="ignore"):
            xi, phi = (a - b) / (c - b), (fa - fb) / (fc - fb)
            step = fa / (fb - fa) * fc / (fb - fc) + (c - a) / (b - a) * fa / (fc - fa) * fb / (
                fc - fb
            )
            t = np.where((phi**2 < xi) & ((1 - phi) ** 2 < 1 - xi), step, 0.5)
        t = np.clip(
            np.where(np.isfinite(t), t, 0.5), np.minimum(limit, 0.5), 1 - limit.clip(0, 0.5)
        )
    return np.asarray(best)


def _power_series(x: np.ndarray, a: np.ndarray) -> np.ndarray:
    term = total = 1 / a
    for n in range(1, 100_000):
        term = term * x / (a + n)
        total = total + term
        if (term < total * 1e-17).all():
            return np.asarray(total)
    raise ArithmeticError("the series of the incomplete gamma function did not converge")


def _gamma_fraction(x: np.ndarray, a: np.ndarray) -> np.ndarray:
    return _lentz(lambda n: (-n * (n - a), x + 2 * n + 1 - a), 1 / (x + 1 - a))


def _beta_fraction(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    def term(n: int) -> tuple[Float[np.ndarray, "*shape"], Float[np.ndarray, "*shape"]]:
        m = n // 2
        if n % 2:
            d = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            d = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        return np.asarray(d), np.ones_like(x)

    # n = 1 is the first partial numerator after the leading 1 of 1 / (1 + d_1 / (1 + d_2 / ...)).
    return _lentz(term, np.ones_like(x))


def _lentz(term: Callable[[int], tuple[np.ndarray, np.ndarray]], first: np.ndarray) -> np.ndarray:
    """1 / (b_0 + a_1 / (b_1 + a_2 / ...)) with (a_n, b_n) = term(n) and first = 1 / b_0."""
    tiny = 1e-300
    d, value = first, first
    c = np.full_like(first, np.inf)  # the numerators' ratio starts without a predecessor
    for n in range(1, 100_000):
        numerator, denominator = term(n)
        d = denominator + numerator * d
        c = denominator + numerator / c
        d = 1 / np.where(np.abs(d) < tiny, tiny, d)
        c = np.where(np.abs(c) < tiny, tiny, c)
        factor = c * d
        value = value * factor
        if (np.abs(factor - 1) < 1e-15).all():
            return np.asarray(value)
    raise ArithmeticError("a continued fraction did not converge")
