"""What `bayesian_updating.py` is measured by: scipy, quadrature, and intervals that are counted."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from shared import plots
from shared.study import PositiveFloat, PositiveInt, Run
from week03 import bayesian_updating as b
from week03 import distributions as d
from week03.bayesian_updating import _check_level

NORMAL = NormalDist()


def families(run: Run) -> None:
    """Check posteriors against quadrature of prior × likelihood, predictions against scipy."""
    from scipy import integrate, stats

    x = np.array([1.3, -0.4, 2.2, 0.9, 1.7])
    counts = np.array([3, 0, 5, 2])
    beta = b.BetaBinomial(2.0, 3.0).update(7, 10)
    gamma = b.GammaPoisson(2.0, 0.5).update(counts)
    normal = b.NormalKnownVariance(0.0, 1.5, 0.8).update(x)
    both = b.NormalInverseGamma(0.5, 0.7, 2.0, 1.5).update(x)

    def two_parameters(mu: float) -> float:
        """Prior × likelihood of μ with the variance integrated out, by quadrature too."""
        v = np.exp(np.linspace(-8, 8, 321))  # the trapezoidal rule in ln σ² is exact to rounding
        prior = stats.invgamma.pdf(v, 2, scale=1.5) * stats.norm.pdf(mu, 0.5, np.sqrt(v / 0.7))
        return float((prior * stats.norm.pdf(x[:, None], mu, np.sqrt(v)).prod(axis=0) * v).sum())

    unnormalized = {
        "beta–binomial": (
            beta, lambda t: stats.beta.pdf(t, 2, 3) * stats.binom.pmf(7, 10, t), (0.0, 1.0), 1e-9),
        "gamma–Poisson": (
            gamma, lambda t: stats.gamma.pdf(t, 2, scale=2) * stats.poisson.pmf(counts, t).prod(),
            (0.0, 40.0), 1e-9),
        "normal–normal": (
            normal, lambda t: stats.norm.pdf(t, 0, 1.5) * stats.norm.pdf(x, t, 0.8).prod(),
            (-9.0, 11.0), 1e-9),
        "normal–inverse-gamma": (both, two_parameters, (-60.0, 60.0), 1e-5),
    }  # fmt: skip
    for name, (posterior, density, (low, high), tolerance) in unnormalized.items():
        start, end = posterior.credible_interval(0.9)

        def area(left: float, right: float, f: Callable = density) -> float:
            return integrate.quad(f, left, right, epsabs=0, epsrel=1e-8)[0]

        inside = area(start, end)
        total = area(low, start) + inside + area(end, high)
        run.check(f"mass of the 90 % interval, {name}", inside / total, 0.9,
                  against="scipy.integrate.quad of prior × likelihood", atol=tolerance,
                  why="error of the quadrature, and the mass beyond its range")  # fmt: skip

    k = np.arange(13)
    run.check("predictive of 12 more trials", beta.predictive_log_pmf(k, 12),
              stats.betabinom.logpmf(k, 12, 9, 6), against="scipy.stats.betabinom", atol=1e-12,
              why="float64 rounding of sums of log-gammas")  # fmt: skip
    run.check("predictive of the next count", gamma.predictive_log_pmf(k),
              stats.nbinom.logpmf(k, 12, 4.5 / 5.5), against="scipy.stats.nbinom", atol=1e-12,
              why="float64 rounding of sums of log-gammas")  # fmt: skip
    variance = both.beta * (both.kappa + 1) / (both.alpha * both.kappa)
    run.check("predictive interval of the next value", both.predictive_interval(0.9),
              stats.t.interval(0.9, 2 * both.alpha, both.mean, variance**0.5),
              against="scipy.stats.t", atol=1e-12, why="float64 rounding")  # fmt: skip
    step = b.NormalInverseGamma(0.5, 0.7, 2.0, 1.5)
    for value in x:
        step = step.update(np.array([value]))
    run.check("one value at a time", [step.mean, step.kappa, step.alpha, step.beta],
              [both.mean, both.kappa, both.alpha, both.beta], against="all values at once",
              atol=1e-13, why="float64 rounding")  # fmt: skip


def intervals(run: Run) -> None:
    """Check the confidence intervals against scipy, and a coverage against the literature."""
    from scipy import stats

    for method, ours in (("exact", b.clopper_pearson_interval), ("wilson", b.wilson_interval)):
        reference = [tuple(stats.binomtest(k, 20).proportion_ci(0.9, method)) for k in range(21)]
        run.check(f"{method} interval for a proportion", [ours(k, 20, 0.9) for k in range(21)],
                  reference, against="scipy.stats.binomtest", atol=1e-11,
                  why="scipy solves for the exact ends to about 1e-12")  # fmt: skip
    x = d.sample_normal(run.rng, 12)
    run.check("Student's interval", b.t_interval(x, 0.9),
              stats.t.interval(0.9, 11, x.mean(), stats.sem(x)), against="scipy.stats.t",
              atol=1e-12, why="float64 rounding")  # fmt: skip
    half = np.array([0.5])
    ours = [b.binomial_coverage(b.wald_interval, half, n)[0] for n in (17, 40)]
    run.check("coverage of the Wald interval at p = 1/2, n = 17 and 40", ours, [0.951, 0.919],
              against="Brown, Cai & DasGupta (2001), section 2", atol=5e-4,
              why="the paper prints three digits")  # fmt: skip


def proportions(run: Run, level: float) -> None:
    """How often three intervals for a proportion contain it, whatever it is."""
    n, p = 30, np.linspace(0.005, 0.995, run.budget(quick=199, default=991))

    def jeffreys(k: int, trials: int) -> tuple[float, float]:
        low, high = b.BetaBinomial(0.5, 0.5).update(k, trials).credible_interval(level)
        # Brown et al. let the interval reach the edge when every trial went the same way.
        return (0.0 if k == 0 else low), (1.0 if k == trials else high)

    methods = {
        "Clopper–Pearson (confidence)": (
            lambda k, m: b.clopper_pearson_interval(k, m, level), plots.BLUE),
        "Jeffreys prior (credible)": (jeffreys, plots.GREEN),
        "Wald (confidence)": (lambda k, m: b.wald_interval(k, m, level), plots.ORANGE),
    }  # fmt: skip
    coverage = {name: b.binomial_coverage(f, p, n) for name, (f, _) in methods.items()}
    inner = (p >= 0.05) & (p <= 0.95)
    exact, bayes, wald = coverage.values()
    for name, values in coverage.items():
        run.metric(f"mean coverage, {name}", 100 * values.mean(), "%")
        run.metric(f"least coverage for p in [0.05, 0.95], {name}", 100 * values[inner].min(), "%")
    run.claim(
        "Clopper–Pearson never covers less than it promises, Wald less by over 10 points somewhere",
        exact.min() >= level and wald[inner].min() < level - 0.1,
        f"least coverage for n = {n}: {exact.min():.1%} and {wald[inner].min():.1%} of {level:.0%}",
    )
    run.claim(
        "averaged over p, the credible interval is nearest to its promise",
        abs(bayes.mean() - level) < min(abs(exact.mean() - level), abs(wald.mean() - level)),
        f"mean coverage: credible {bayes.mean():.1%}, Clopper–Pearson {exact.mean():.1%}, "
        f"Wald {wald.mean():.1%}",
    )
    hits, repeats = 0, run.budget(quick=20_000, default=100_000)
    outcomes = np.bincount((run.rng.random((repeats, n)) < 0.3).sum(axis=1), minlength=n + 1)
    for k, count in enumerate(outcomes):
        low, high = b.wald_interval(k, n, level)
        hits += int(count) * (low <= 0.3 <= high)
    reference = b.binomial_coverage(methods["Wald (confidence)"][0], np.array([0.3]), n)[0]
    run.check("coverage counted in simulated experiments, p = 0.3", hits / repeats, reference,
              against="the sum over all outcomes",
              atol=5 * math.sqrt(reference * (1 - reference) / repeats),
              why="five standard errors of a frequency")  # fmt: skip

    title = f"How often does a {level:.0%} interval from {n} trials contain p?"
    with run.figure("coverage", title, rows=3, size=(8.0, 5.6), sharex=True, sharey=True) as axes:
        for ax, (name, (_, color)) in zip(axes, methods.items(), strict=True):
            ax.plot(p, 100 * coverage[name], color=color, lw=1.1)
            ax.axhline(100 * level, color=plots.REFERENCE, lw=1, ls="--")
            ax.text(0.5, 76, f"{name}: mean {coverage[name].mean():.1%}", color=color, ha="center",
                    va="center", weight="bold")  # fmt: skip
            ax.set(ylim=(70, 101.5), xlim=(0, 1), yticks=(70, 80, 90, 100))
        axes[1].set_ylabel("coverage (%)")
        axes[2].set_xlabel("true proportion p")


def two_promises(run: Run, level: float, experiments: int) -> None:
    """One truth and many data sets, or many truths drawn from the prior: who keeps which word."""
    n, noise, prior = 4, 2.0, b.NormalKnownVariance(0.0, 1.0, 2.0)
    z = NORMAL.inv_cdf(0.5 + level / 2)
    se, sd = noise / n**0.5, prior.update(np.zeros(n)).sd

    def covered(truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng([run.seed, seed])
        x = truth[:, None] + noise * d.sample_normal(rng, truth.size * n).reshape(-1, n)
        credible = np.array([prior.update(row).credible_interval(level) for row in x])
        confidence = x.mean(axis=1)[:, None] + z * se * np.array([-1, 1])
        hits = [(i[:, 0] <= truth) & (truth <= i[:, 1]) for i in (credible, confidence)]
        return hits[0], hits[1], np.stack([credible, confidence])

    thetas = np.linspace(-3.5, 3.5, 15)
    counted = np.array([
        [h.mean() for h in covered(np.full(experiments, t), 10 + i)[:2]]
        for i, t in enumerate(thetas)
    ])  # fmt: skip
    shrink = sd**2 / se**2  # the posterior mean is this much of the sample mean

    def theory(t: np.ndarray) -> np.ndarray:
        ends = [(s * z * sd + (1 - shrink) * t) / (shrink * se) for s in (1, -1)]
        return np.array([NORMAL.cdf(a) - NORMAL.cdf(b) for a, b in zip(*ends, strict=True)])

    run.check("coverage of the credible interval at 15 fixed truths", counted[:, 0], theory(thetas),
              against="the normal distribution of the posterior mean",
              atol=5 * 0.5 / math.sqrt(experiments),
              why="five standard errors of a frequency, at most 1/2 each")  # fmt: skip
    truths = prior.sd * d.sample_normal(np.random.default_rng([run.seed, 1]), 5 * experiments)
    credible, confidence, _ = covered(truths, 2)
    margin = 4 * math.sqrt(level * (1 - level) / len(truths))
    far = float(theory(np.array([3.0]))[0])
    run.claim(
        "with truths drawn from the prior the credible interval keeps its promise, and is shorter",
        abs(credible.mean() - level) < margin and sd < 0.75 * se,
        f"{credible.mean():.2%} ± {margin / 2:.2%} of {len(truths):,} intervals right, "
        f"{sd / se:.2f} of the confidence interval's width",
    )
    run.claim(
        "at a fixed truth only the confidence interval keeps its promise",
        bool((np.abs(counted[:, 1] - level) < 4.5 * 0.5 / math.sqrt(experiments)).all())
        and far < 0.5,
        f"confidence {counted[:, 1].min():.1%} to {counted[:, 1].max():.1%} at 15 truths; "
        f"credible {theory(np.array([0.0]))[0]:.1%} at the prior's mean, {far:.1%} three prior "
        "standard deviations away",
    )
    run.metric("credible interval's coverage, truths from the prior", 100 * credible.mean(), "%")
    run.metric("confidence interval's coverage, truths from the prior", 100 * confidence.mean(),
               "%")  # fmt: skip
    run.metric("credible interval's coverage at three prior sd", 100 * far, "%")

    title = f"Two intervals promise {level:.0%}. Over what?"
    with run.figure("two_promises", title, columns=2, size=(8.8, 4.4), width_ratios=(1, 1.15)) as (
        left, right,
    ):  # fmt: skip
        truth = 2.0
        hit_b, hit_f, spans = covered(np.full(25, truth), 4)
        for i in range(25):
            for span, hit, color, shift in (
                (spans[0, i], hit_b[i], plots.GREEN, 0.2),
                (spans[1, i], hit_f[i], plots.BLUE, -0.2),
            ):
                left.plot(span, [i + shift] * 2, color=color if hit else plots.ORANGE,
                          lw=2.2 if hit else 2.8, solid_capstyle="butt")  # fmt: skip
        left.axvline(truth, color=plots.REFERENCE, lw=1.2, ls="--")
        left.set_title("25 experiments, truth fixed at 2", fontsize=11, weight="normal")
        left.set(xlabel="θ", ylabel="experiment", xlim=(-2.2, 6.2), ylim=(-1, 25.2))
        left.text(6.2, 23.6, "confidence", color=plots.BLUE, ha="right")
        left.text(-2.1, 23.6, "credible", color=plots.GREEN)
        left.text(6.2, -0.4, "misses", color=plots.ORANGE, ha="right")
        grid = np.linspace(-3.5, 3.5, 200)
        density = np.exp(-(grid**2) / 2)
        right.fill_between(grid, 0, 30 * density, color=plots.GRAY, alpha=0.25, linewidth=0)
        right.text(0, 6, "prior of θ", color="#666666", ha="center")
        right.plot(grid, 100 * theory(grid), color=plots.GREEN)
        right.axhline(100 * level, color=plots.BLUE)
        error = 196 * np.sqrt(counted * (1 - counted) / experiments)
        for column, color in ((0, plots.GREEN), (1, plots.BLUE)):
            right.errorbar(thetas, 100 * counted[:, column], error[:, column], fmt="o", color=color,
                           ms=4)  # fmt: skip
        right.text(3.6, 100 * level + 2.5, "confidence", color=plots.BLUE, ha="right")
        right.text(0, 68, "credible: right on\naverage over the prior", color=plots.GREEN,
                   ha="center")  # fmt: skip
        right.set_title(f"coverage at fixed truths, {experiments:,} each", fontsize=11,
                        weight="normal")  # fmt: skip
        right.set(xlabel="true θ (prior standard deviations)", ylabel="coverage (%)", ylim=(0, 104))


def priors_meet(run: Run, level: float) -> None:
    """Three people with different priors watch the same coin."""
    truth, n = 0.7, run.budget(quick=1000, default=10_000)
    steps = np.unique(np.logspace(0, math.log10(n), 28).astype(int))
    tosses = np.random.default_rng([run.seed, 8]).random(n) < truth
    heads = np.cumsum(tosses)[steps - 1]
    people = {
        "no idea, Beta(1, 1)": (b.BetaBinomial(1.0, 1.0), plots.BLUE),
        "sure it is fair,\nBeta(50, 50)": (b.BetaBinomial(50.0, 50.0), plots.GREEN),
        "sure of tails, Beta(3, 27)": (b.BetaBinomial(3.0, 27.0), plots.ORANGE),
    }
    beliefs = {
        name: [prior.update(int(k), int(m)) for k, m in zip(heads, steps, strict=True)]
        for name, (prior, _) in people.items()
    }
    means = np.array([[belief.mean() for belief in row] for row in beliefs.values()])
    bands = {
        name: np.array([belief.credible_interval(level) for belief in row])
        for name, row in beliefs.items()
    }
    gap = means.max(0) - means.min(0)
    width = np.diff(bands["no idea, Beta(1, 1)"], axis=1)[:, 0]
    late = steps >= n / 30
    slopes = [np.polyfit(np.log(steps[late]), np.log(v[late]), 1)[0] for v in (gap, width)]
    run.metric("gap between priors after the first toss", gap[0])
    run.metric("gap between priors at the end", gap[-1])
    run.metric("exponent of the gap between priors", slopes[0])
    run.metric("exponent of the interval's width", slopes[1])
    run.claim(
        "priors are forgotten as 1/n, faster than 1/√n at which uncertainty shrinks",
        abs(slopes[0] + 1) < 0.15 and abs(slopes[1] + 0.5) < 0.1,
        f"exponents {slopes[0]:+.2f} and {slopes[1]:+.2f}; after {n:,} tosses the gap is "
        f"{gap[-1]:.4f}, the interval {width[-1]:.4f}",
        quick=False,
    )
    title = "Three priors watch one coin: when do they agree?"
    with run.figure("priors", title, size=(8.0, 4.3)) as ax:
        places = [(1.05, 0.985), (1.05, 0.625), (1.6, 0.03)]
        for (name, (_, color)), mean, place in zip(people.items(), means, places, strict=True):
            ax.fill_between(steps, *bands[name].T, color=color, alpha=0.18, linewidth=0)
            ax.plot(steps, mean, color=color)
            ax.text(*place, name, color=color, va="center")
        ax.axhline(truth, color=plots.REFERENCE, lw=1, ls="--")
        ax.text(n, truth + 0.012, "truth", color=plots.REFERENCE, ha="right", va="bottom")
        ax.set(xscale="log", xlabel="tosses seen", xlim=(1, n), ylim=(0, 1.02),
               ylabel=f"P(heads): mean and {level:.0%} interval")  # fmt: skip


def prediction(run: Run, level: float, experiments: int) -> None:
    """How often the next value falls into a band that knows, or forgets, what it does not know."""
    prior = b.NormalInverseGamma(0.0, 0.5, 3.0, 3.0)
    sizes = np.array([2, 3, 5, 10, 20, 50])
    z = NORMAL.inv_cdf(0.5 + level / 2)
    hits, widths = np.zeros((2, len(sizes))), np.zeros((2, len(sizes)))
    for j, n in enumerate(sizes.tolist()):
        rng = np.random.default_rng([run.seed, 20, j])
        sigma = np.sqrt(1 / d.sample_gamma(rng, experiments, prior.alpha, prior.beta))
        mu = prior.mean + sigma / prior.kappa**0.5 * d.sample_normal(rng, experiments)
        draws = d.sample_normal(rng, experiments * (n + 1)).reshape(-1, n + 1)
        data = mu[:, None] + sigma[:, None] * draws
        x, future = data[:, :-1], data[:, -1]
        bayes = np.array([prior.update(row).predictive_interval(level) for row in x])
        plug_in = x.mean(1)[:, None] + z * x.std(axis=1, ddof=1)[:, None] * np.array([-1, 1])
        for i, band in enumerate((bayes, plug_in)):
            hits[i, j] = ((band[:, 0] <= future) & (future <= band[:, 1])).mean()
            widths[i, j] = np.median((band[:, 1] - band[:, 0]) / sigma)
    margin = 4.5 * math.sqrt(level * (1 - level) / experiments)
    run.claim(
        "a posterior predictive band holds the next value as often as promised; one from "
        "plugged-in estimates does not",
        bool((np.abs(hits[0] - level) < margin).all()) and hits[1, 0] < level - 0.15,
        f"predictive {hits[0].min():.1%} to {hits[0].max():.1%} for n = 2 to 50; plug-in "
        f"{hits[1, 0]:.1%} at n = 2, {hits[1, -1]:.1%} at n = 50; {experiments:,} experiments each",
    )
    for name, row in (("predictive", hits[0]), ("plug-in", hits[1])):
        run.metric(f"coverage of the next value at n = 2, {name}", 100 * row[0], "%", rtol=0.05)
    title = f"Does a {level:.0%} band contain the next value?"
    with run.figure("prediction", title, columns=2, size=(8.6, 4.0)) as (left, right):
        rng = np.random.default_rng([run.seed, 3])
        path = 1.0 + d.sample_normal(rng, 40)
        seen = np.arange(2, 40)
        bayes = np.array([prior.update(path[:n]).predictive_interval(level) for n in seen])
        plug = np.array([
            path[:n].mean() + z * path[:n].std(ddof=1) * np.array([-1, 1]) for n in seen
        ])  # fmt: skip
        left.fill_between(seen + 1, *bayes.T, color=plots.GREEN, alpha=0.22, linewidth=0)
        for end in plug.T:
            left.plot(seen + 1, end, color=plots.ORANGE, lw=1.5)
        for end in (1 - z, 1 + z):
            left.axhline(end, color=plots.REFERENCE, lw=1, ls="--")
        left.plot(np.arange(1, 41), path, "o", color=plots.REFERENCE, ms=3.5)
        left.set_title("one series, band before each value", fontsize=11, weight="normal")
        left.set(xlabel="value number", ylabel="value", xlim=(0.5, 40.5))
        for row, color, name, y in (
            (hits[0], plots.GREEN, "posterior predictive", 93.2),
            (hits[1], plots.ORANGE, "plug-in: estimates taken\nfor the truth", 72),
        ):
            error = 196 * np.sqrt(row * (1 - row) / experiments)
            right.errorbar(sizes, 100 * row, error, fmt="o-", color=color)
            right.text(3.6 if y < 90 else 2, y, name, color=color, va="center")
        right.axhline(100 * level, color=plots.REFERENCE, lw=1, ls="--")
        right.set_title(f"counted, {experiments:,} truths from the prior", fontsize=11,
                        weight="normal")  # fmt: skip
        right.set(xscale="log", xlabel="values seen, n", ylabel="next value inside (%)",
                  ylim=(55, 100))  # fmt: skip
        right.set_xticks(sizes, labels=[str(n) for n in sizes], minor=False)
        right.minorticks_off()


def bootstrap(run: Run, level: float, experiments: int) -> None:
    """The bootstrap works for a mean once there are enough data, and never for a maximum."""
    sizes, resamples = np.array([5, 10, 20, 40]), run.budget(quick=399, default=999)
    hits = np.zeros((3, len(sizes)))
    tails = [(1 - level) / 2, (1 + level) / 2]
    for j, n in enumerate(sizes.tolist()):
        rng = np.random.default_rng([run.seed, 30, j])
        for _ in range(experiments):
            x = d.sample_exponential(rng, n)
            low, high = np.quantile(b.bootstrap_statistics(x, np.mean, rng, resamples), tails)
            hits[0, j] += low <= 1 <= high
            low, high = b.t_interval(x, level)
            hits[1, j] += low <= 1 <= high
            x = rng.random(n)
            low, high = np.quantile(b.bootstrap_statistics(x, np.max, rng, resamples), tails)
            hits[2, j] += low <= 1 <= high
    hits /= experiments
    n = 40
    x = np.random.default_rng([run.seed, 31]).random(n)
    many = run.budget(quick=20_000, default=100_000)
    maxima = b.bootstrap_statistics(x, np.max, run.rng, many)
    stuck = (maxima == x.max()).mean()
    theory = 1 - (1 - 1 / n) ** n
    run.check("share of resamples that hold the maximum itself", stuck, theory,
              against="1 - (1 - 1/n)^n", atol=5 * math.sqrt(theory * (1 - theory) / many),
              why="five standard errors of a frequency")  # fmt: skip
    run.claim(
        "the percentile bootstrap nears its promise for a mean, and is never right for a maximum",
        hits[0, -1] > hits[0, 0] + 0.03 and abs(hits[0, -1] - level) < 0.05 and hits[2].max() == 0,
        f"mean of exponentials: {hits[0, 0]:.1%} at n = 5, {hits[0, -1]:.1%} at n = {n}; end of a "
        f"uniform: {hits[2].max():.0%} at every n; {experiments:,} experiments each",
        quick=False,
    )
    for j, size in enumerate(sizes[[0, -1]]):
        run.metric(f"bootstrap coverage for a mean, n = {size}", 100 * hits[0, -j], "%", rtol=0.05)
        run.metric(f"Student's coverage for a mean, n = {size}", 100 * hits[1, -j], "%", rtol=0.05)
    run.metric("resamples that hold the maximum itself", 100 * stuck, "%")
    title = "What may be bootstrapped?"
    with run.figure("bootstrap", title, columns=2, size=(8.6, 4.0)) as (left, right):
        names = ("mean, percentile bootstrap", "mean, Student's t", "end of a uniform, bootstrap")
        for row, color, name, y in zip(hits, (plots.BLUE, plots.SKY, plots.ORANGE), names,
                                       (74, 95.5, 6), strict=True):  # fmt: skip
            error = 196 * np.sqrt(row * (1 - row) / experiments)
            left.errorbar(sizes, 100 * row, error, fmt="o-", color=color)
            left.text(40, y, name, color=color, ha="right", va="center")
        left.axhline(100 * level, color=plots.REFERENCE, lw=1, ls="--")
        left.set_title("how often the interval is right", fontsize=11, weight="normal")
        left.set(xlabel="observations n", ylabel="coverage (%)", ylim=(-3, 102), xlim=(3, 42))
        bins = np.linspace(0.86, 1.0, 57)
        right.hist(maxima, bins=bins, weights=np.full(many, 100 / many), color=plots.ORANGE)
        fresh = np.random.default_rng([run.seed, 32]).random(many) ** (1 / n)
        right.hist(fresh, bins=bins, weights=np.full(many, 100 / many), histtype="step",
                   color=plots.REFERENCE, lw=1.3)  # fmt: skip
        right.text(x.max() - 0.005, 55, f"resampled: {stuck:.0%} of the\nresamples hold it",
                   color=plots.ORANGE, ha="right")  # fmt: skip
        right.text(0.865, 12, "really: n x^(n-1)", color=plots.REFERENCE)
        right.set_title(f"maximum of {n} uniforms", fontsize=11, weight="normal")
        right.set(xlabel="maximum", ylabel="share (%)")


def main(run: Run, *, level: PositiveFloat = 0.9, experiments: PositiveInt = 4000) -> None:
    """Check posteriors against scipy and quadrature, and count how often intervals are right.

    Parameters
    ----------
    level
        What the intervals promise, below 1.
    experiments
        Repetitions of every simulated coverage.
    """
    _check_level(level)
    experiments = run.budget(quick=min(experiments, 250), default=experiments)
    families(run)
    intervals(run)
    proportions(run, level)
    two_promises(run, level, experiments)
    priors_meet(run, level)
    prediction(run, level, experiments)
    bootstrap(run, level, run.budget(quick=60, default=1000))
