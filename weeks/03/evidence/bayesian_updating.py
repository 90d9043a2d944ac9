"""What `bayesian_updating.py` is measured by: scipy, quadrature, and intervals that are counted."""

import itertools
import math

import numpy as np
from scipy import integrate, stats

from shared import plots
from shared.study import PositiveFloat, PositiveInt, Run
from week03 import bayesian_updating as b
from week03 import distributions as d

PRIOR = "with truths drawn from the prior the credible interval keeps its promise"
FIXED = "at every fixed truth the confidence interval keeps its promise"
EXACT = "Clopper–Pearson never covers less than it promises"
NEXT = "a posterior predictive band holds the next value as often as promised"
NEARS = "with 40 values the percentile bootstrap of a mean is within 5 points of its promise"


def main(run: Run, *, level: PositiveFloat = 0.9, experiments: PositiveInt = 4000) -> None:
    """Check posteriors against scipy and quadrature, and count how often intervals are right.

    Parameters
    ----------
    level
        What the intervals promise, below 1.
    experiments
        Repetitions of every simulated coverage.
    """
    experiments = run.budget(quick=min(experiments, 80), default=experiments)
    proportions(run, level)
    families(run)
    intervals(run)
    two_promises(run, level, experiments)
    priors_meet(run, level)
    prediction(run, level, experiments)
    bootstrap(run, level, run.budget(quick=24, default=4000))


def families(run: Run) -> None:
    """Check posteriors against quadrature of prior × likelihood, predictions against scipy."""
    x = np.array([1.3, -0.4, 2.2, 0.9, 1.7])
    counts = np.array([3, 0, 5, 2])
    beta = b.BetaBinomial(2.0, 3.0).update(7, 10)
    gamma = b.GammaPoisson(2.0, 0.5).update(counts)
    normal = b.NormalKnownVariance(0.0, 1.5, 0.8).update(x)
    both = b.NormalInverseGamma(0.5, 0.7, 2.0, 1.5).update(x)

    def beta_density(t):
        return stats.beta.pdf(t, 2, 3) * stats.binom.pmf(7, 10, t)

    def gamma_density(t):
        return stats.gamma.pdf(t, 2, scale=2) * stats.poisson.pmf(counts, t).prod()

    def normal_density(t):
        return stats.norm.pdf(t, 0, 1.5) * stats.norm.pdf(x, t, 0.8).prod()

    def both_density(mu):
        v = np.exp(np.linspace(-8, 8, 321))  # the trapezoidal rule in ln σ² is exact to rounding
        prior = stats.invgamma.pdf(v, 2, scale=1.5) * stats.norm.pdf(mu, 0.5, np.sqrt(v / 0.7))
        return float((prior * stats.norm.pdf(x[:, None], mu, np.sqrt(v)).prod(axis=0) * v).sum())

    why = "error of the quadrature, and the mass beyond its range"
    quadrature = {"against": "scipy.integrate.quad of prior × likelihood", "why": why}
    for name, belief, density, (low, high), atol in (
        ("beta–binomial", beta, beta_density, (0.0, 1.0), 1e-9),
        ("gamma–Poisson", gamma, gamma_density, (0.0, 40.0), 1e-9),
        ("normal–normal", normal, normal_density, (-9.0, 11.0), 1e-9),
        ("normal–inverse-gamma", both, both_density, (-60.0, 60.0), 1e-5),
    ):
        ends = (low, *belief.credible_interval(0.9), high)
        below, inside, above = (
            integrate.quad(density, *part, epsabs=0, epsrel=1e-8)[0]
            for part in itertools.pairwise(ends)
        )
        share = inside / (below + inside + above)
        run.check(f"mass of the 90 % interval, {name}", share, 0.9, atol=atol, **quadrature)

    equal = run.against("scipy.stats", atol=1e-12, why="float64 rounding of sums of log-gammas")
    scale = (both.beta * (both.kappa + 1) / (both.alpha * both.kappa)) ** 0.5
    theirs = stats.t.interval(0.9, 2 * both.alpha, both.mean, scale)
    equal("predictive interval of the next value", both.predictive_interval(0.9), theirs)


def intervals(run: Run) -> None:
    """Check a confidence interval against scipy, and a coverage against the literature."""
    why = "scipy solves for the exact ends to about 1e-12"
    equal = run.against("scipy.stats", atol=1e-11, why=why)
    ours = [b.clopper_pearson_interval(k, 20, 0.9) for k in range(21)]
    theirs = [tuple(stats.binomtest(k, 20).proportion_ci(0.9, "exact")) for k in range(21)]
    equal("exact interval for a proportion", ours, theirs)
    ours = [b.binomial_coverage(b.wald_interval, np.array([0.5]), n)[0] for n in (17, 40)]
    source, why = "Brown, Cai & DasGupta (2001), section 2", "the paper prints three digits"
    printed = run.against(source, kind="theorem", atol=5e-4, why=why)
    printed("coverage of the Wald interval at p = 1/2, n = 17 and 40", ours, [0.951, 0.919])


def proportions(run: Run, level: float) -> None:
    """How often three intervals for a proportion contain it, whatever it is."""
    n, p = 30, np.linspace(0.005, 0.995, run.budget(quick=99, default=991))

    def exact(k: int, trials: int) -> tuple[float, float]:
        return b.clopper_pearson_interval(k, trials, level)

    def jeffreys(k: int, trials: int) -> tuple[float, float]:
        low, high = b.BetaBinomial(0.5, 0.5).update(k, trials).credible_interval(level)
        # Brown et al. let the interval reach the edge when every trial went the same way.
        return (0.0 if k == 0 else low), (1.0 if k == trials else high)

    def wald(k: int, trials: int) -> tuple[float, float]:
        return b.wald_interval(k, trials, level)

    coverage = {
        "Clopper–Pearson (confidence)": b.binomial_coverage(exact, p, n),
        "Jeffreys prior (credible)": b.binomial_coverage(jeffreys, p, n),
        "Wald (confidence)": b.binomial_coverage(wald, p, n),
    }
    run.metric("trials of a proportion", n)
    for name in ("Jeffreys prior (credible)", "Wald (confidence)"):
        run.metric(f"mean coverage, {name}", 100 * coverage[name].mean(), "%")
    inner = (p >= 0.05) & (p <= 0.95)
    gaps = [abs(values.mean() - level) for values in coverage.values()]
    rule = {"deterministic": True, "note": f"least coverage for {n} trials"}
    run.claim(EXACT, coverage["Clopper–Pearson (confidence)"].min(), at_least=level, **rule)
    run.falsifier("the Wald interval", coverage["Wald (confidence)"][inner].min(), breaks=EXACT)
    name = "averaged over p, the credible interval is nearest to its promise"
    lead = 100 * (min(gaps[0], gaps[2]) - gaps[1])
    run.claim(name, lead, at_least=0, deterministic=True, unit="points nearer than the next")

    title = f"How often does a {level:.0%} interval from {n} trials contain p?"
    with run.figure("coverage", title, rows=3, size=(8.0, 5.6), sharex=True, sharey=True) as axes:
        colors = (plots.BLUE, plots.GREEN, plots.ORANGE)
        for ax, (name, values), color in zip(axes, coverage.items(), colors, strict=True):
            ax.plot(p, 100 * values, color=color, lw=1.1)
            ax.axhline(100 * level, color=plots.REFERENCE, lw=1, ls="--")
            ax.set_title(f"{name}: mean {values.mean():.1%}", fontsize=11, color=color)
            ax.set(ylim=(70, 101.5), xlim=(0, 1), yticks=(70, 80, 90, 100))
        axes[1].set_ylabel("coverage (%)")
        axes[2].set_xlabel("true proportion p")


def two_promises(run: Run, level: float, experiments: int) -> None:
    """One truth and many data sets, or many truths drawn from the prior: who keeps which word."""
    n, noise, prior = 4, 2.0, b.NormalKnownVariance(0.0, 1.0, 2.0)
    z = stats.norm.ppf(0.5 + level / 2)
    se, sd = noise / n**0.5, prior.update(np.zeros(n)).sd

    def hits(truth: np.ndarray, seed: int) -> np.ndarray:
        """Whether the credible and the confidence interval hold each truth, (2, truths)."""
        rng = np.random.default_rng([run.seed, seed])
        x = truth[:, None] + noise * d.sample_normal(rng, truth.size * n).reshape(-1, n)
        credible = [prior.update(row).credible_interval(level) for row in x]
        confidence = x.mean(axis=1)[:, None] + z * se * np.array([-1, 1])
        low, high = np.moveaxis(np.stack([credible, confidence]), 2, 0)
        return (low <= truth) & (truth <= high)

    def theory(t: np.ndarray) -> np.ndarray:
        shrink = sd**2 / se**2  # the posterior mean is this much of the sample mean
        high, low = ((s * z * sd + (1 - shrink) * t) / (shrink * se) for s in (1, -1))
        return stats.norm.cdf(high) - stats.norm.cdf(low)

    thetas = np.linspace(-3.5, 3.5, 15)
    at_fixed = [hits(np.full(experiments, t), 10 + i) for i, t in enumerate(thetas)]
    counted = np.mean(at_fixed, axis=2)
    error, why = 0.5 / math.sqrt(experiments), "five standard errors, at most 1/2 each"
    source = "the normal distribution of the posterior mean"
    equal = run.against(source, kind="theorem", atol=5 * error, why=why)
    equal("coverage of the credible interval at 15 fixed truths", counted[:, 0], theory(thetas))

    truths = prior.sd * d.sample_normal(np.random.default_rng([run.seed, 1]), 5 * experiments)
    credible, _ = hits(truths, 2).astype(float)
    far = float(theory(np.array([3.0]))[0])
    margin = 4 * math.sqrt(level * (1 - level) / len(truths))
    run.claim(PRIOR, credible, at_least=level - margin, at_most=level + margin)
    wrong = hits(np.full(experiments, 3.0), 3)[0].astype(float)
    run.falsifier("truths three prior standard deviations out", wrong, breaks=PRIOR)
    margin, note = 4.5 * error, f"coverages at 15 truths, {experiments:,} experiments each"
    bounds = {"at_least": level - margin, "at_most": level + margin}
    run.claim(FIXED, counted[:, 1], each=True, note=note, **bounds)
    run.falsifier("the credible interval at the same truths", counted[:, 0], breaks=FIXED)
    run.metric("credible interval's coverage, truths from the prior", 100 * credible.mean(), "%")
    run.metric("credible interval's coverage at three prior sd", 100 * far, "%")

    with run.figure("two_promises", f"Two intervals promise {level:.0%}. Over what?") as ax:
        grid = np.linspace(-3.5, 3.5, 200)
        prior_shape = 30 * np.exp(-(grid**2) / 2)
        ax.fill_between(grid, prior_shape, color=plots.GRAY, alpha=0.25, lw=0, label="prior of θ")
        ax.plot(grid, 100 * theory(grid), "--", color=plots.REFERENCE, label="theory")
        lines = {"credible interval": 100 * counted[:, 0], "confidence": 100 * counted[:, 1]}
        labels = {"xlabel": "true θ (prior standard deviations)", "ylabel": "coverage (%)"}
        colors = (plots.GREEN, plots.BLUE)
        plots.curves(ax, thetas, lines, colors=colors, marker="o", ends=False, **labels)


def priors_meet(run: Run, level: float) -> None:
    """Three people with different priors watch the same coins."""
    truth, n = 0.7, run.budget(quick=1000, default=10_000)
    coins = run.budget(quick=2, default=10)
    steps = np.unique(np.geomspace(1, n, run.budget(quick=10, default=28)).astype(int))
    late = np.log(steps[steps >= n / 30])
    people = {
        "no idea, Beta(1, 1)": b.BetaBinomial(1.0, 1.0),
        "sure it is fair, Beta(50, 50)": b.BetaBinomial(50.0, 50.0),
        "sure of tails, Beta(3, 27)": b.BetaBinomial(3.0, 27.0),
    }

    def watch(coin: int) -> list[list[b.BetaBinomial]]:
        """The belief of each person after each step."""
        tosses = np.random.default_rng([run.seed, 8, coin]).random(n) < truth
        seen = list(zip(np.cumsum(tosses)[steps - 1].tolist(), steps.tolist(), strict=True))
        return [[prior.update(*counts) for counts in seen] for prior in people.values()]

    def slope(values: np.ndarray) -> float:
        return np.polyfit(late, np.log(values[-len(late) :]), 1)[0]

    gaps, widths = [], []
    for coin in range(coins):
        beliefs = watch(coin)
        means = np.array([[belief.mean() for belief in row] for row in beliefs])
        gaps.append(slope(np.ptp(means, axis=0)))
        bands = [belief.credible_interval(level) for belief in beliefs[0][-len(late) :]]
        widths.append(slope(np.diff(bands, axis=1)[:, 0]))
    rule = {"quick": False, "note": f"exponents of {coins} coins, {n:,} tosses each"}
    name = "the gap between priors closes as 1/n"
    run.claim(name, gaps, at_least=-1.15, at_most=-0.85, **rule)
    name = "the interval narrows as 1/√n"
    run.claim(name, widths, at_least=-0.6, at_most=-0.4, **rule)
    with run.figure("priors", "Three priors watch one coin: when do they agree?") as ax:
        colors = (plots.BLUE, plots.GREEN, plots.ORANGE)
        for row, name, color in zip(watch(0), people, colors, strict=True):
            bands = np.array([belief.credible_interval(level) for belief in row])
            ax.fill_between(steps, *bands.T, color=color, alpha=0.18, linewidth=0)
            ax.plot(steps, [belief.mean() for belief in row], color=color, label=name)
        plots.reference_line(ax, truth, "truth")
        ax.legend()
        ax.set(xscale="log", xlabel="tosses seen", xlim=(1, n), ylim=(0, 1.02))
        ax.set_ylabel(f"P(heads): mean and {level:.0%} interval")


def prediction(run: Run, level: float, experiments: int) -> None:
    """How often the next value falls into a band that knows, or forgets, what it does not know."""
    prior = b.NormalInverseGamma(0.0, 0.5, 3.0, 3.0)
    sizes = np.array([2, 3, 5, 10, 20, 50])
    z = stats.norm.ppf(0.5 + level / 2)

    def bands(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Predictive and plug-in band, (2,) each, for what comes after x."""
        plug_in = x.mean() + z * x.std(ddof=1) * np.array([-1, 1])
        return np.array(prior.update(x).predictive_interval(level)), plug_in

    hits = np.zeros((2, len(sizes), experiments))
    for j, n in enumerate(sizes.tolist()):
        rng = np.random.default_rng([run.seed, 20, j])
        sigma = np.sqrt(1 / d.sample_gamma(rng, experiments, prior.alpha, prior.beta))
        mu = prior.mean + sigma / prior.kappa**0.5 * d.sample_normal(rng, experiments)
        draws = d.sample_normal(rng, experiments * (n + 1)).reshape(-1, n + 1)
        data = mu[:, None] + sigma[:, None] * draws
        low, high = np.array([bands(row[:-1]) for row in data]).T
        hits[:, j] = (low <= data[:, -1]) & (data[:, -1] <= high)
    predictive, plug_in = hits.mean(axis=2)
    margin = 4.5 * math.sqrt(level * (1 - level) / experiments)
    note = f"coverages for n = 2 to 50, {experiments:,} experiments each"
    bounds = {"at_least": level - margin, "at_most": level + margin}
    run.claim(NEXT, predictive, each=True, note=note, **bounds)
    run.falsifier("plugged-in estimates", plug_in, breaks=NEXT)
    for name, row in (("predictive", predictive), ("plug-in", plug_in)):
        run.metric(f"coverage of the next value at n = 2, {name}", 100 * row[0], "%")
    title = f"Does a {level:.0%} band contain the next value?"
    with run.figure("prediction", title) as ax:
        lines = {"posterior predictive": 100 * predictive, "plug-in": 100 * plug_in}
        labels = {"xlabel": "values seen, n", "ylabel": f"inside (%), {experiments:,} truths each"}
        labels |= {"ylim": (50, 100), "reference": {"promised": 100 * level}}
        plots.curves(ax, sizes, lines, colors=(plots.GREEN, plots.ORANGE), marker="o", **labels)


def bootstrap(run: Run, level: float, experiments: int) -> None:
    """The bootstrap works for a mean once there are enough data, and never for a maximum."""
    sizes, resamples = np.array([5, 10, 20, 40]), run.budget(quick=199, default=999)
    tails = [(1 - level) / 2, (1 + level) / 2]

    def resampled(x: np.ndarray, statistic, rng: np.random.Generator) -> np.ndarray:
        return np.quantile(b.bootstrap_statistics(x, statistic, rng, resamples), tails)

    hits = np.zeros((2, len(sizes), experiments))  # of the bootstrap and of Student's interval
    maximum = np.zeros((len(sizes), experiments // 8))
    for j, n in enumerate(sizes.tolist()):
        rng = np.random.default_rng([run.seed, 30, j])
        for e in range(experiments):
            x = d.sample_exponential(rng, n)
            for i, (low, high) in enumerate((resampled(x, np.mean, rng), b.t_interval(x, level))):
                hits[i, j, e] = low <= 1 <= high
        for e in range(maximum.shape[1]):
            low, high = resampled(rng.random(n), np.max, rng)
            maximum[j, e] = low <= 1 <= high
    coverage = hits.mean(axis=2)
    n, many = 40, run.budget(quick=20_000, default=100_000)
    x = np.random.default_rng([run.seed, 31]).random(n)
    maxima = b.bootstrap_statistics(x, np.max, run.rng, many)
    stuck, theory = (maxima == x.max()).mean(), 1 - (1 - 1 / n) ** n
    error, why = math.sqrt(theory * (1 - theory) / many), "five standard errors of a frequency"
    equal = run.against("1 - (1 - 1/n)^n", kind="theorem", atol=5 * error, why=why)
    equal("share of resamples that hold the maximum itself", stuck, theory)
    name = "the percentile bootstrap of a mean gains over 3 points from 5 values to 40"
    run.claim(name, hits[0, 3] - hits[0, 0], at_least=0.03, quick=False)
    near = {"at_least": level - 0.05, "at_most": level + 0.05}
    seen = "0.85 ± 0.02 with 2,000 experiments"
    run.claim(NEARS, hits[0, 3], seen_before=seen, quick=False, **near)
    run.falsifier("the end of a uniform", maximum[3], breaks=NEARS)
    name = "the percentile bootstrap is never right for a maximum"
    run.claim(name, maximum.ravel(), at_most=0, each=True, note="n = 5, 10, 20 and 40")
    run.metric("bootstrap coverage for a mean, n = 5", 100 * coverage[0, 0], "%")
    run.metric("Student's coverage for a mean, n = 5", 100 * coverage[1, 0], "%")
    run.metric("resamples that hold the maximum itself", 100 * stuck, "%")
    with run.figure("bootstrap", "How often is a bootstrap interval right?") as ax:
        lines = {
            "mean, percentile bootstrap": 100 * coverage[0],
            "mean, Student's t": 100 * coverage[1],
            "end of a uniform, bootstrap": 100 * maximum.mean(axis=1),
        }
        labels = {"xlabel": "observations n", "ylabel": "coverage (%)", "ylim": (-3, 102)}
        labels |= {"reference": {"promised": 100 * level}}
        colors = (plots.BLUE, plots.SKY, plots.ORANGE)
        plots.curves(ax, sizes, lines, colors=colors, marker="o", **labels)
