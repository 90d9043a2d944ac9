"""What `distributions.py` is measured by: scipy.stats, goodness-of-fit tests, and two failures."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week03 import distributions as d
from week03.special_functions import gamma_cdf, quantile, student_t_cdf

WEIGHTS = np.array([0.4, 0.05, 0.2, 0.0, 0.25, 0.1])
LEVEL = 1e-3  # of a false alarm among all tests of a run together


class Sampler(NamedTuple):
    """A sampler, the scipy.stats distribution it should follow, and how to draw it."""

    name: str
    sample: Callable[[np.random.Generator, int], np.ndarray]
    reference: object
    discrete: bool = False
    span: tuple[float, float] = (0.0, 1.0)


def good_samplers() -> list[Sampler]:
    """Every sampler of the week, with parameters that use each of its branches."""
    from scipy import stats

    table = d.AliasTable(WEIGHTS)
    categorical = stats.rv_discrete(values=(np.arange(len(WEIGHTS)), WEIGHTS))
    return [
        Sampler("exponential: inverse CDF", lambda r, n: d.sample_exponential(r, n, 1.5),
                stats.expon(scale=1 / 1.5), span=(0, 4)),
        Sampler("normal: Box–Muller", lambda r, n: d.sample_normal(r, n, 1.0, 2.0),
                stats.norm(1, 2), span=(-6, 8)),
        Sampler("gamma(2.5): rejection", lambda r, n: d.sample_gamma(r, n, 2.5),
                stats.gamma(2.5), span=(0, 10)),
        Sampler("gamma(0.6): boosted", lambda r, n: d.sample_gamma(r, n, 0.6, 2.0),
                stats.gamma(0.6, scale=0.5), span=(0, 2)),
        Sampler("beta(0.5, 2): two gammas", lambda r, n: d.sample_beta(r, n, 0.5, 2.0),
                stats.beta(0.5, 2), span=(0, 1)),
        Sampler("Student t(3): ratio", lambda r, n: d.sample_student_t(r, n, 3.0),
                stats.t(3), span=(-6, 6)),
        Sampler("beta(2, 5): envelope", lambda r, n: _rejection_beta(r, n, math.log(2.46)),
                stats.beta(2, 5), span=(0, 1)),
        Sampler("Poisson(4.5): table", lambda r, n: d.sample_poisson(r, n, 4.5),
                stats.poisson(4.5), discrete=True, span=(0, 14)),
        Sampler("categorical: alias", table.sample, categorical, discrete=True, span=(0, 5)),
        Sampler("below 100: redrawn", lambda r, n: d.sample_below(r, n, 100, bits=8),
                stats.randint(0, 100), discrete=True, span=(0, 99)),
    ]  # fmt: skip


def broken_samplers() -> list[Sampler]:
    """Samplers with a classic mistake each; most code that uses them would never notice."""
    from scipy import stats

    return [
        Sampler("modulo bias", lambda r, n: r.integers(256, size=n) % 100,
                stats.randint(0, 100), discrete=True),
        Sampler("envelope too small", lambda r, n: _rejection_beta(r, n, math.log(1.8)),
                stats.beta(2, 5)),
        Sampler("gamma not boosted", lambda r, n: d.sample_gamma(r, n, 1.6, 2.0),
                stats.gamma(0.6, scale=0.5)),
    ]  # fmt: skip


def _rejection_beta(rng: np.random.Generator, n: int, log_envelope: float) -> np.ndarray:
    """Beta(2, 5) from uniform proposals; its highest density is 30 · 0.2 · 0.8⁴ = 2.4576."""
    return d.rejection_sample(
        rng, n, lambda x: d.beta_log_pdf(x, 2.0, 5.0), np.zeros_like, lambda r, m: r.random(m),
        log_envelope, strict=False,
    )[0]  # fmt: skip


def densities(run: Run) -> None:
    """Check the log-densities, their tails and the values outside their support."""
    from scipy import stats

    x = np.concatenate([[-1e3, -1.0, 0.0, 1.0, 1e3, 1e-12], np.linspace(-8, 8, 401)])
    unit = np.linspace(0, 1, 401)
    k = np.concatenate([np.arange(-3, 200), [10_000]])
    cases = [
        ("normal", d.normal_log_pdf(x, 1.5, 0.3), stats.norm.logpdf(x, 1.5, 0.3)),
        ("exponential", d.exponential_log_pdf(x, 2.5), stats.expon.logpdf(x, scale=1 / 2.5)),
        ("gamma", d.gamma_log_pdf(x, 2.5, 3.0), stats.gamma.logpdf(x, 2.5, scale=1 / 3)),
        ("beta", d.beta_log_pdf(unit, 0.5, 7.0), stats.beta.logpdf(unit, 0.5, 7)),
        ("Student t", d.student_t_log_pdf(x, 2.5, 1.0, 2.0), stats.t.logpdf(x, 2.5, 1, 2)),
        ("Poisson", d.poisson_log_pmf(k, 30.0), stats.poisson.logpmf(k, 30)),
    ]
    for name, ours, reference in cases:
        run.check(f"log-density, {name}", ours, reference, against=f"scipy.stats ({name})",
                  rtol=1e-12, atol=1e-12, why="float64 rounding of sums of logarithms")  # fmt: skip
    p = np.linspace(0.005, 0.995, 199)
    run.check("quantiles of t(3)", quantile(lambda q: student_t_cdf(q, 3.0), p),
              stats.t.ppf(p, 3), against="scipy.stats.t.ppf", rtol=1e-12, atol=1e-12,
              why="a continued fraction, then bisection to the last bit")  # fmt: skip


def exact_samplers(run: Run) -> None:
    """Check what can be known about samplers without drawing."""
    p = run.rng.dirichlet(np.full(1000, 0.1))
    run.check("probabilities of an alias table of 1000", d.AliasTable(p).probabilities(), p,
              against="the probabilities that went in", atol=1e-15,
              why="float64 rounding of shares of 1/1000")  # fmt: skip
    table = d.AliasTable(np.array([0.5, 0.25, 0.25]))
    n = 20_000
    _, rate = d.rejection_sample(
        run.rng, n, lambda x: d.beta_log_pdf(x, 2.0, 5.0), np.zeros_like,
        lambda r, m: r.random(m), math.log(2.4576),
    )  # fmt: skip
    run.check("acceptance rate of beta(2, 5) from uniform proposals", rate, 1 / 2.4576,
              against="1 / M, M the highest density", atol=5 * math.sqrt(0.41 * 0.59 / n),
              why="five standard errors of a rate of 20,000 draws")  # fmt: skip
    run.check("columns that hold 1 keep it", table.probabilities(), [0.5, 0.25, 0.25],
              against="exact fractions", why="sums of powers of two do not round")  # fmt: skip


def samplers(run: Run, draws: int, seeds: int) -> None:
    """Test every sampler with every seed; m tests share one level by Bonferroni."""
    good, broken = good_samplers(), broken_samplers()
    m = len(good) * seeds
    threshold = LEVEL / m
    p_good, p_broken = (
        np.array(
            [[_p_value(s, draws, [run.seed, i, j]) for j in range(seeds)]
             for i, s in enumerate(group)]
        )
        for group in (good, broken)
    )  # fmt: skip
    least = np.unravel_index(p_good.argmin(), p_good.shape)
    run.claim(
        f"no sampler can be told from its distribution, in {m} tests with level {LEVEL:g} together",
        p_good.min() > threshold,
        f"least p = {p_good.min():.1e} ({good[least[0]].name}), rejected below {threshold:.1e}; "
        f"{draws:,} draws a test",
    )
    run.claim(
        "the same tests find each broken sampler with every seed",
        p_broken.max() < threshold,
        ", ".join(f"{s.name}: p <= {p.max():.0e}" for s, p in zip(broken, p_broken, strict=True)),
    )
    run.metric("tests of good samplers", m)
    run.metric("least p of good samplers", p_good.min(), rtol=None)
    run.metric("good p-values below 0.05", (p_good < 0.05).mean(), rtol=None)
    _figure_fit(run, good, draws)
    _figure_p_values(run, p_good.ravel(), p_broken, [s.name for s in broken], threshold)
    _figure_broken(run, draws)


def _p_value(sampler: Sampler, draws: int, seed: list[int]) -> float:
    """Kolmogorov–Smirnov for continuous, χ² for discrete distributions."""
    from scipy import stats

    x = sampler.sample(np.random.default_rng(seed), draws)
    if not sampler.discrete:
        return float(stats.kstest(x, sampler.reference.cdf).pvalue)
    values = np.arange(int(sampler.reference.ppf(1 - 1e-15)) + 1)
    p = sampler.reference.pmf(values)
    if np.isin(x, values[p == 0]).any():
        return 0.0
    order = np.argsort(p)
    merged = np.cumsum(p[order]) * draws < 5  # the χ² limit needs counts that are not tiny
    cell = np.where(merged, 0, np.arange(len(p)) - merged.sum() + bool(merged.any()))
    expected = np.bincount(cell, p[order]) * draws
    rank = np.argsort(order)
    seen = np.bincount(cell[rank[np.clip(x, 0, values[-1])]], minlength=len(expected))
    keep = expected > 0
    return float(stats.chisquare(seen[keep], expected[keep] * draws / expected.sum()).pvalue)


def _figure_fit(run: Run, good: list[Sampler], draws: int) -> None:
    shown = good[:6] + good[7:9]
    title = f"Do {draws:,} draws of each sampler follow scipy's density (line)?"
    with run.figure("samplers", title, rows=2, columns=4, size=(8.6, 4.6)) as axes:
        for ax, sampler in zip(axes.flat, shown, strict=True):
            low, high = sampler.span
            x = sampler.sample(np.random.default_rng([run.seed, 99]), draws)
            if sampler.discrete:
                values = np.arange(low, high + 1)
                ax.bar(values, [(x == v).mean() for v in values], color=plots.SKY, width=0.75)
                ax.plot(values, sampler.reference.pmf(values), "o", color=plots.REFERENCE, ms=4)
            else:
                counts, edges = np.histogram(x, bins=48, range=(low, high))
                ax.stairs(counts / (draws * (edges[1] - edges[0])), edges, fill=True,
                          color=plots.SKY)  # fmt: skip
                grid = np.linspace(low, high, 400)[1:]
                ax.plot(grid, sampler.reference.pdf(grid), color=plots.REFERENCE, lw=1.3)
                highest = (counts / (draws * (edges[1] - edges[0]))).max()
                ax.set_ylim(0, 1.15 * highest)
            ax.set_title(sampler.name, fontsize=10, weight="normal")
            ax.tick_params(labelsize=9)
            ax.grid(False)
        for ax in axes[:, 0]:
            ax.set_ylabel("density")
        for ax in axes[1]:
            ax.set_xlabel("value")


def _figure_p_values(
    run: Run, good: np.ndarray, broken: np.ndarray, names: list[str], threshold: float
) -> None:
    m = len(good)
    expected = (np.arange(m) + 0.5) / m
    title = f"Which of {m} p-values is small enough to accuse a sampler?"
    with run.figure("p_values", title, size=(8.0, 4.6)) as ax:
        from scipy import stats

        ranks = np.arange(1, m + 1)
        band = [stats.beta.ppf(q, ranks, m + 1 - ranks) for q in (0.025, 0.975)]
        ax.fill_between(expected, *band, color=plots.REFERENCE, alpha=0.14, linewidth=0)
        ax.plot(expected, expected, color=plots.REFERENCE, lw=1, ls="--")
        ax.plot(expected, np.sort(good), "o", color=plots.BLUE, ms=5)
        ax.text(0.06, 0.0035, f"{m} tests of right samplers, sorted\n(band: uniform p, 95 % each)",
                color=plots.BLUE, va="center")  # fmt: skip
        ax.axhline(0.05, color=plots.GRAY, lw=1, ls=":")
        ax.text(1.0, 0.042, f"p < 0.05 would accuse {(good < 0.05).sum()} of {m}", color="#666666",
                ha="right", va="top")  # fmt: skip
        ax.axhline(threshold, color=plots.GREEN, lw=1.5)
        ax.text(1.0, threshold * 1.25, f"Bonferroni: {LEVEL:g} / {m} tests", color=plots.GREEN,
                ha="right", va="bottom")  # fmt: skip
        for place, row, name in zip((0.022, 0.11, 0.55), broken, names, strict=True):
            x = place * np.logspace(-0.1, 0.1, len(row))
            ax.plot(x, np.full(len(row), 3e-7), "v", color=plots.ORANGE, ms=8)
            size = f"p ≤ {row.max():.0e}" if row.max() > 0 else "p < 1e-300"
            ax.text(place, 7e-7, f"{name}\n{size}", color=plots.ORANGE, ha="center", va="bottom")
        ax.set(xscale="log", yscale="log", xlabel="p-value expected at this rank",
               ylabel="p-value", ylim=(1.5e-7, 2))  # fmt: skip


def _figure_broken(run: Run, draws: int) -> None:
    rng = np.random.default_rng([run.seed, 7])
    with run.figure("broken", "Two samplers that look fine and are not", columns=2,
                    size=(8.4, 3.9)) as axes:  # fmt: skip
        n = 10 * draws
        x = rng.integers(256, size=n) % 100
        frequency = 100 * np.bincount(x, minlength=100) / n
        left, right = axes
        left.bar(np.arange(100), frequency, width=1.0, color=plots.SKY)
        theory = np.where(np.arange(100) < 256 % 100, 3, 2) / 256 * 100
        left.step(np.arange(101) - 0.5, np.append(theory, theory[-1]), where="post",
                  color=plots.ORANGE)  # fmt: skip
        left.axhline(1, color=plots.REFERENCE, lw=1, ls="--")
        left.text(99, 1.02, "asked for: 1 %", color=plots.REFERENCE, ha="right", va="bottom")
        left.text(
            57, 1.25, "3 of 256 bytes each\nbelow 56, else 2", color=plots.ORANGE, va="center"
        )
        left.set_title("a random byte modulo 100", fontsize=11, weight="normal")
        left.set(xlabel="value", ylabel="frequency (%)", ylim=(0, 1.5))
        ratio = frequency[:56].mean() / frequency[56:].mean()
        run.metric("modulo bias, frequency below 56 over the rest", ratio, rtol=0.03)

        log_m = math.log(1.8)
        x = _rejection_beta(rng, n, log_m)
        grid = np.linspace(0, 1, 2001)
        density = np.exp(d.beta_log_pdf(grid, 2.0, 5.0))
        clipped = np.minimum(density, 1.8)
        clipped /= np.trapezoid(clipped, grid)
        right.hist(x, bins=60, range=(0, 1), density=True, color=plots.SKY)
        right.plot(grid, density, color=plots.REFERENCE, lw=1.5, ls="--")
        right.plot(grid, clipped, color=plots.ORANGE)
        right.text(0.33, 2.33, "asked for: beta(2, 5)", color=plots.REFERENCE)
        right.text(0.48, 1.5, "drawn: min(f, 1.8),\nrescaled", color=plots.ORANGE)
        right.set_title("rejection with envelope 1.8 < max f", fontsize=11, weight="normal")
        right.set(xlabel="value", ylabel="density", xlim=(0, 1), ylim=(0, 2.75))


def averages(run: Run) -> None:
    """Law of large numbers and central limit theorem, and the distribution they leave out."""
    seeds, n = 40, run.budget(quick=2000, default=20_000)
    steps = np.unique(np.logspace(0, math.log10(n), 60).astype(int))
    means = {}
    for name, sample in (
        ("exponential", d.sample_exponential),
        ("Cauchy", lambda r, m: d.sample_student_t(r, m, 1.0)),
    ):
        rows = [np.cumsum(sample(np.random.default_rng([run.seed, 5, s]), n)) for s in range(seeds)]
        means[name] = (np.array(rows) / np.arange(1, n + 1))[:, steps - 1]

    def spread(name: str) -> np.ndarray:
        return np.subtract(*np.quantile(means[name], [0.75, 0.25], axis=0))

    exponents = {
        name: np.polyfit(np.log(steps[steps >= 10]), np.log(spread(name)[steps >= 10]), 1)[0]
        for name in means
    }
    for name, exponent in exponents.items():
        run.metric(f"exponent of the spread of means, {name}", exponent, rtol=None)
    run.claim(
        "means of exponentials close in as n^(-1/2), means of Cauchy variables not at all",
        abs(exponents["exponential"] + 0.5) < 0.12 and abs(exponents["Cauchy"]) < 0.2,
        "exponent of the interquartile range against n over "
        f"{seeds} seeds: {exponents['exponential']:+.2f} and {exponents['Cauchy']:+.2f}",
        quick=False,
    )

    # The sum of n exponentials is Gamma(n, 1): the distance to the normal needs no simulation.
    sizes = 2 ** np.arange(0, 11)
    z = np.linspace(-5, 5, 4001)
    normal = 0.5 * np.array([math.erfc(-v / math.sqrt(2)) for v in z])
    distance = np.array([
        np.abs(gamma_cdf(np.asarray(k + z * math.sqrt(k)), float(k)) - normal).max() for k in sizes
    ])  # fmt: skip
    slope = np.polyfit(np.log(sizes[-5:]), np.log(distance[-5:]), 1)[0]
    constant = 2 / (6 * math.sqrt(2 * math.pi))  # skewness 2, first term of Edgeworth at z = 0
    run.check("distance of a mean of 1024 exponentials from the normal, times √n",
              distance[-1] * 32, constant, against="Edgeworth's skewness / (6 √(2π))", rtol=5e-3,
              why="the next term of the expansion is 1/√n smaller")  # fmt: skip
    bound = 0.4748 * (12 / math.e - 2)  # Shevtsova's constant times E|X - 1|³
    run.claim(
        "the central limit theorem is reached as n^(-1/2), below Berry and Esseen's bound",
        abs(slope + 0.5) < 0.02 and bool((distance < bound / np.sqrt(sizes)).all()),
        f"exponent {slope:+.3f}; distance at n = 1024 {distance[-1]:.4f}, bound {bound / 32:.4f}",
    )
    run.metric("distance of a mean of 1024 exponentials from the normal", distance[-1])
    _figure_averages(run, steps, means, sizes, distance, bound, constant)


def _figure_averages(run, steps, means, sizes, distance, bound, constant) -> None:
    with run.figure("averages", "What does averaging do?", columns=3, size=(9.2, 3.7)) as axes:
        for ax, name, center in zip(axes[:2], ("exponential", "Cauchy"), (1, 0), strict=True):
            for row in means[name][:12]:
                ax.plot(steps, row, color=plots.BLUE if center else plots.ORANGE, lw=0.9, alpha=0.7)
            for sign in (-1, 1):
                ax.plot(steps, center + sign * 1.96 / np.sqrt(steps), color=plots.REFERENCE, lw=1.2,
                        ls="--")  # fmt: skip
            ax.set(xscale="log", xlabel="n", ylim=(center - 3, center + 3))
        axes[0].set_title("exponential: the mean settles", fontsize=11, weight="normal")
        axes[1].set_title("Cauchy: it never does", fontsize=11, weight="normal")
        axes[0].set_ylabel("mean of the first n draws")
        axes[0].text(3, 2.6, "±1.96/√n around 1", color=plots.REFERENCE, fontsize=10)
        ax = axes[2]
        ax.plot(sizes, distance, "o", color=plots.BLUE)
        ax.plot(sizes, constant / np.sqrt(sizes), color=plots.REFERENCE, lw=1.2, ls="--")
        ax.plot(sizes, bound / np.sqrt(sizes), color=plots.GREEN, lw=1.2)
        ax.text(1.3, 0.022, "theory\n0.133/√n", color=plots.REFERENCE, fontsize=10)
        ax.text(5, 0.75, "Berry–Esseen bound", color=plots.GREEN, fontsize=10, ha="left")
        ax.set_title("exponential: nearer the bell", fontsize=11, weight="normal")
        ax.set(xscale="log", yscale="log", xlabel="n", ylim=(2e-3, 2),
               ylabel="greatest gap to the normal CDF")  # fmt: skip


def main(run: Run, *, draws: PositiveInt = 20_000, seeds: PositiveInt = 5) -> None:
    """Compare densities and samplers with scipy.stats; show two samplers that are subtly wrong.

    Parameters
    ----------
    draws
        Numbers drawn by each sampler and seed.
    seeds
        Independent repetitions of every test.
    """
    draws = run.budget(quick=draws, default=draws, full=10 * draws)
    densities(run)
    exact_samplers(run)
    samplers(run, draws, run.budget(quick=2, default=seeds, full=4 * seeds))
    averages(run)
