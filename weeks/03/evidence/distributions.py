"""What `distributions.py` is measured by: scipy.stats, goodness-of-fit tests, and two failures."""

import math

import numpy as np
from scipy import stats

from shared import plots
from shared.study import PositiveInt, Run
from week03 import distributions as d
from week03.special_functions import gamma_cdf

WEIGHTS = np.array([0.4, 0.05, 0.2, 0.0, 0.25, 0.1])
LEVEL = 1e-3  # of a false alarm among all tests of a run together
INNOCENT = "no right sampler is accused"
SETTLE = "means of exponentials close in as n^(-1/2)"


def main(run: Run, *, draws: PositiveInt = 20_000, seeds: PositiveInt = 5) -> None:
    """Compare densities and samplers with scipy.stats; show two samplers that are subtly wrong.

    Parameters
    ----------
    draws
        Numbers drawn by each sampler and seed.
    seeds
        Independent repetitions of every test.
    """
    draws = run.budget(quick=min(draws, 8000), default=draws, full=10 * draws)
    densities(run)
    samplers(run, draws, run.budget(quick=2, default=seeds, full=4 * seeds))
    two_broken(run, 10 * draws)
    nearer_the_bell(run, averages(run))


def good_samplers() -> dict[str, tuple]:
    """Every sampler of the week with parameters that use each branch, and its distribution."""
    categorical = stats.rv_discrete(values=(np.arange(len(WEIGHTS)), WEIGHTS))
    return {
        "exponential: inverse CDF": (d.sample_exponential, (1.5,), stats.expon(scale=1 / 1.5)),
        "normal: Box–Muller": (d.sample_normal, (1.0, 2.0), stats.norm(1, 2)),
        "gamma(2.5): rejection": (d.sample_gamma, (2.5,), stats.gamma(2.5)),
        "gamma(0.6): boosted": (d.sample_gamma, (0.6, 2.0), stats.gamma(0.6, scale=0.5)),
        "beta(0.5, 2): two gammas": (d.sample_beta, (0.5, 2.0), stats.beta(0.5, 2)),
        "Student t(3): ratio": (d.sample_student_t, (3.0,), stats.t(3)),
        "Poisson(4.5): table": (d.sample_poisson, (4.5,), stats.poisson(4.5)),
        "categorical: alias": (d.AliasTable(WEIGHTS).sample, (), categorical),
        "beta(2, 5): envelope": (rejection_beta, (2.46,), stats.beta(2, 5)),
        "below 100: redrawn": (below_100, (), stats.randint(0, 100)),
    }


def broken_samplers() -> dict[str, tuple]:
    """Samplers with a classic mistake each; most code that uses them would never notice."""
    return {
        "modulo bias": (byte_modulo, (), stats.randint(0, 100)),
        "envelope too small": (rejection_beta, (1.8,), stats.beta(2, 5)),
        "gamma not boosted": (d.sample_gamma, (1.6, 2.0), stats.gamma(0.6, scale=0.5)),
    }


def rejection_beta(rng: np.random.Generator, n: int, envelope: float) -> np.ndarray:
    """Beta(2, 5) under an envelope that should be 30 · 0.2 · 0.8⁴ = 2.4576 or more.

    Where it is less the density is cut at it: what a sampler that does not look would draw.
    """

    def log_target(x):
        return np.minimum(d.beta_log_pdf(x, 2.0, 5.0), math.log(envelope))

    proposal = np.zeros_like, lambda rng, n: rng.random(n)
    return d.rejection_sample(rng, n, log_target, *proposal, math.log(envelope))[0]


def below_100(rng: np.random.Generator, n: int) -> np.ndarray:
    """Bytes below 100, drawn again where they would bias."""
    return d.sample_below(rng, n, 100, bits=8)


def byte_modulo(rng: np.random.Generator, n: int) -> np.ndarray:
    """Bytes below 100 as they are often drawn."""
    return rng.integers(256, size=n) % 100


def densities(run: Run) -> None:
    """Check the log-densities, their tails and the values outside their support."""
    x = np.concatenate([[-1e3, -1.0, 0.0, 1.0, 1e3, 1e-12], np.linspace(-8, 8, 401)])
    unit = np.linspace(0, 1, 401)
    k = np.concatenate([np.arange(-3, 200), [10_000]])
    why = "float64 rounding of sums of logarithms"
    equal = run.against("scipy.stats", rtol=1e-12, atol=1e-12, why=why)
    for name, ours, theirs in (
        ("normal", d.normal_log_pdf(x, 1.5, 0.3), stats.norm.logpdf(x, 1.5, 0.3)),
        ("exponential", d.exponential_log_pdf(x, 2.5), stats.expon.logpdf(x, scale=1 / 2.5)),
        ("gamma", d.gamma_log_pdf(x, 2.5, 3.0), stats.gamma.logpdf(x, 2.5, scale=1 / 3)),
        ("beta", d.beta_log_pdf(unit, 0.5, 7.0), stats.beta.logpdf(unit, 0.5, 7)),
        ("Student t", d.student_t_log_pdf(x, 2.5, 1.0, 2.0), stats.t.logpdf(x, 2.5, 1, 2)),
        ("Poisson", d.poisson_log_pmf(k, 30.0), stats.poisson.logpmf(k, 30)),
    ):
        equal(f"log-density, {name}", ours, theirs)


def samplers(run: Run, draws: int, seeds: int) -> None:
    """Test every sampler with every seed; m tests share one level by Bonferroni."""

    def p_values(group: dict[str, tuple]) -> np.ndarray:
        keys = [[[run.seed, i, j] for j in range(seeds)] for i in range(len(group))]
        return np.array(
            [
                [p_value(*sampler, np.random.default_rng(key), draws) for key in row]
                for sampler, row in zip(group.values(), keys, strict=True)
            ]
        )

    p_good, p_broken = p_values(good_samplers()), p_values(broken_samplers())
    m = p_good.size
    lg_good, lg_broken = (np.log10(np.maximum(p, 1e-300)) for p in (p_good, p_broken))
    threshold, note = math.log10(LEVEL / m), f"{m} tests of {draws:,} draws"
    rule = {"each": True, "unit": "log10 p", "note": note}
    run.claim(INNOCENT, lg_good.ravel(), at_least=threshold, **rule)
    run.claim("every broken sampler is found", lg_broken.ravel(), at_most=threshold, **rule)
    for name, row in zip(broken_samplers(), lg_broken, strict=True):
        run.falsifier(name, row, breaks=INNOCENT)
    run.metric("tests of good samplers", m)
    run.metric("least p of good samplers", p_good.min())
    figure_fit(run, draws)
    figure_p_values(run, np.sort(p_good.ravel()), p_broken)


def p_value(sample, parameters, reference, rng: np.random.Generator, draws: int) -> float:
    """Kolmogorov–Smirnov for continuous, χ² for discrete distributions."""
    x = sample(rng, draws, *parameters)
    if not hasattr(reference, "pmf"):
        return float(stats.kstest(x, reference.cdf).pvalue)
    values = np.arange(int(reference.ppf(1 - 1e-15)) + 1)
    expected = draws * reference.pmf(values)
    seen = np.bincount(np.clip(x, 0, values[-1]), minlength=len(values))
    rare = expected < 5  # the χ² limit needs counts that are not tiny: these share one cell
    seen, expected = (np.append(v[~rare], v[rare].sum()) for v in (seen, expected))
    if seen[expected == 0].any():
        return 0.0
    seen, expected = seen[expected > 0], expected[expected > 0]
    return float(stats.chisquare(seen, expected * draws / expected.sum()).pvalue)


def figure_fit(run: Run, draws: int) -> None:
    """Histograms of eight samplers beside their densities."""
    title = f"Do {draws:,} draws of each sampler follow scipy's density (line)?"
    with run.figure("samplers", title, rows=2, columns=4, size=(8.6, 4.6)) as axes:
        for ax, (name, sampler) in zip(axes.flat, good_samplers().items(), strict=False):
            sample, parameters, reference = sampler
            x = sample(np.random.default_rng([run.seed, 99]), draws, *parameters)
            low, high = reference.ppf([0.003, 0.997])
            if hasattr(reference, "pmf"):
                values = np.arange(low, high + 1)
                ax.bar(values, [(x == v).mean() for v in values], color=plots.SKY, width=0.75)
                ax.plot(values, reference.pmf(values), "o", color=plots.REFERENCE, ms=4)
            else:
                counts, edges = np.histogram(x, bins=48, range=(low, high))
                density = counts / (draws * (edges[1] - edges[0]))
                ax.stairs(density, edges, fill=True, color=plots.SKY)
                grid = np.linspace(low, high, 400)[1:]
                ax.plot(grid, reference.pdf(grid), color=plots.REFERENCE, lw=1.3)
                ax.set_ylim(0, 1.15 * density.max())
            ax.set_title(name, fontsize=10, weight="normal")


def figure_p_values(run: Run, good: np.ndarray, broken: np.ndarray) -> None:
    """`good` are sorted, `broken` has a row per sampler."""
    m = len(good)
    ranks = np.arange(1, m + 1)
    expected = (ranks - 0.5) / m
    band = [stats.beta.ppf(q, ranks, m + 1 - ranks) for q in (0.025, 0.975)]
    title = f"Which of {m} p-values is small enough to accuse a sampler?"
    with run.figure("p_values", title) as ax:
        ax.fill_between(expected, *band, color=plots.REFERENCE, alpha=0.14, linewidth=0)
        ax.plot(expected, expected, color=plots.REFERENCE, lw=1, ls="--")
        ax.plot(expected, good, "o", color=plots.BLUE, ms=5, label=f"{m} tests of right samplers")
        for k, (row, name) in enumerate(zip(broken, broken_samplers(), strict=True)):
            label = f"{name}, p at most {max(row.max(), 1e-300):.0e}"
            low = np.full(len(row), 3e-7 * 3**k)  # really far below the axis
            ax.plot(expected[: len(row)], low, "v", color=plots.COLORS[k + 1], label=label)
        plots.reference_line(ax, 0.05, f"p < 0.05 would accuse {(good < 0.05).sum()} of {m}")
        plots.reference_line(ax, LEVEL / m, f"{LEVEL:g} / {m} tests")
        ax.legend(loc="lower right", fontsize=9)
        ax.set(xscale="log", yscale="log", ylim=(1.5e-7, 2), ylabel="p-value (triangles: below)")
        ax.set_xlabel("p-value expected at this rank")


def two_broken(run: Run, n: int) -> None:
    """What the biased byte and the cut density look like."""
    rng = np.random.default_rng([run.seed, 7])
    frequency = 100 * np.bincount(byte_modulo(rng, n), minlength=100) / n
    ratio = frequency[:56].mean() / frequency[56:].mean()
    run.metric("modulo bias, frequency below 56 over the rest", ratio, rtol=0.03)
    x, grid = rejection_beta(rng, n, 1.8), np.linspace(0, 1, 2001)
    density = np.exp(d.beta_log_pdf(grid, 2.0, 5.0))
    layout = {"columns": 2, "size": (8.4, 3.9)}
    with run.figure("broken", "Two samplers that look fine and are not", **layout) as axes:
        left, right = axes
        left.bar(np.arange(100), frequency, width=1.0, color=plots.SKY)
        theory = np.where(np.arange(101) < 256 % 100, 3, 2) / 2.56
        left.step(np.arange(101) - 0.5, theory, where="post", color=plots.ORANGE)
        plots.reference_line(left, 1.0, "asked for: 1 %")
        left.set_title("a random byte modulo 100", fontsize=11, weight="normal")
        left.set(xlabel="value", ylabel="frequency (%)", ylim=(0, 1.5))
        right.hist(x, bins=60, range=(0, 1), density=True, color=plots.SKY, label="drawn")
        right.plot(grid, density, color=plots.REFERENCE, ls="--", label="asked for: beta(2, 5)")
        cut = np.minimum(density, 1.8)
        cut /= np.trapezoid(cut, grid)
        right.plot(grid, cut, color=plots.ORANGE, label="min(f, 1.8), rescaled")
        right.legend(fontsize=9)
        right.set_title("rejection with envelope 1.8 < max f", fontsize=11, weight="normal")
        right.set(xlabel="value", ylabel="density", xlim=(0, 1), ylim=(0, 2.75))


def averages(run: Run) -> dict[str, np.ndarray]:
    """The law of large numbers, and a distribution that it leaves out; give means of some seeds."""
    groups, seeds = run.budget(quick=2, default=10), 40
    steps = np.arange(1, run.budget(quick=2000, default=20_000) + 1)
    late = np.unique(np.geomspace(10, len(steps), 48).astype(int)) - 1
    shown, exponents = {}, {}
    for name, sample in (("exponential", d.sample_exponential), ("Cauchy", d.sample_student_t)):
        rngs = (np.random.default_rng([run.seed, 5, s]) for s in range(groups * seeds))
        means = np.array([np.cumsum(sample(r, len(steps), 1.0)) / steps for r in rngs])
        shown[name] = means[:12]
        low, high = np.quantile(means[:, late].reshape(groups, seeds, -1), [0.25, 0.75], axis=1)
        exponents[name] = np.polyfit(np.log(steps[late]), np.log(high - low).T, 1)[0]
    note = f"exponent of the interquartile range, {groups} groups of {seeds} seeds"
    rule = {"note": note, "quick": False}
    run.claim(SETTLE, exponents["exponential"], at_least=-0.62, at_most=-0.38, **rule)
    run.falsifier("means of Cauchy variables", exponents["Cauchy"], breaks=SETTLE)
    name = "means of Cauchy variables close in not at all"
    run.claim(name, exponents["Cauchy"], at_least=-0.2, at_most=0.2, **rule)
    return shown


def nearer_the_bell(run: Run, means: dict[str, np.ndarray]) -> None:
    """The central limit theorem without simulation: a sum of n exponentials is Gamma(n, 1)."""
    sizes, z = 2 ** np.arange(0, 11), np.linspace(-5, 5, 4001)
    normal, root = stats.norm.cdf(z), np.sqrt(sizes)
    gaps = [np.abs(gamma_cdf(n + z * math.sqrt(n), float(n)) - normal).max() for n in sizes]
    edgeworth = 2 / (6 * math.sqrt(2 * math.pi))  # skewness 2, the first term at z = 0
    theorem = {"against": "Edgeworth's skewness / (6 √(2π))", "kind": "theorem"}
    why = "the next term of the expansion is 1/√n smaller"
    name = "distance of a mean of 1024 exponentials from the normal, times √n"
    run.check(name, gaps[-1] * root[-1], edgeworth, rtol=5e-3, why=why, **theorem)
    slope = np.polyfit(np.log(sizes[-5:]), np.log(gaps[-5:]), 1)[0]
    name = "the gap to the normal closes as n^(-1/2)"
    run.claim(name, slope, at_least=-0.52, at_most=-0.48, deterministic=True)
    bound = 0.4748 * (12 / math.e - 2)  # Shevtsova's constant times E|X - 1|³
    name = "the gap to the normal stays below Berry and Esseen's bound"
    run.claim(name, (gaps * root).max() / bound, at_most=1, deterministic=True)
    run.metric("distance of a mean of 1024 exponentials from the normal", gaps[-1])
    with run.figure("averages", "What does averaging do?", columns=3, size=(9.2, 3.7)) as axes:
        titles = ("exponential: the mean settles", "Cauchy: it never does")
        for ax, rows, center, color, title in zip(
            axes[:2], means.values(), (1, 0), (plots.BLUE, plots.ORANGE), titles, strict=True
        ):
            steps = np.unique(np.geomspace(1, rows.shape[1], 60).astype(int))
            ax.plot(steps, rows[:, steps - 1].T, color=color, lw=0.9, alpha=0.7)
            edge = 1.96 / np.sqrt(steps)
            ax.plot(steps, center + np.array([edge, -edge]).T, color=plots.REFERENCE, ls="--")
            ax.set_title(title, fontsize=11, weight="normal")
            ax.set(xscale="log", xlabel="n (dashed: ±1.96/√n)", ylim=(center - 3, center + 3))
        axes[0].set_ylabel("mean of the first n draws")
        lines = {"measured": gaps, "0.133/√n": edgeworth / root, "Berry–Esseen": bound / root}
        colors = (plots.BLUE, plots.REFERENCE, plots.GREEN)
        plots.curves(axes[2], sizes, lines, colors=colors, ends=False)
        axes[2].set_title("exponential: nearer the bell", fontsize=11, weight="normal")
        axes[2].set(xscale="log", yscale="log", xlabel="n", ylabel="greatest gap to the normal CDF")
