"""What `information.py` is measured by: scipy, scikit-learn, closed forms, counted errors."""

import math

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week03 import distributions as d
from week03 import information as i


def tables(run: Run) -> None:
    """Check sums over tables and Gaussian closed forms against libraries and quadrature."""
    from scipy import special, stats
    from sklearn.metrics import mutual_info_score

    rng = run.rng
    p, q = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
    run.check("entropy", i.entropy(p), stats.entropy(p), against="scipy.stats.entropy", atol=1e-13,
              why="float64 rounding of a sum")  # fmt: skip
    run.check("KL divergence, both ways", [i.kl_divergence(p, q), i.kl_divergence(q, p)],
              [stats.entropy(p, q), stats.entropy(q, p)], against="scipy.stats.entropy",
              atol=1e-13, why="float64 rounding of a sum")  # fmt: skip
    logits = 300 * rng.normal(size=(50, 8))
    targets = rng.integers(8, size=50)
    run.check("log-sum-exp of logits up to 1000", i.log_sum_exp(logits),
              special.logsumexp(logits, axis=1), against="scipy.special.logsumexp", rtol=1e-14,
              why="float64 rounding")  # fmt: skip
    rows = np.arange(50)
    run.check("softmax cross-entropy", i.softmax_cross_entropy(logits, targets),
              -special.log_softmax(logits, axis=1)[rows, targets],
              against="scipy.special.log_softmax", rtol=1e-13, atol=1e-13,
              why="differences of logits up to 1000")  # fmt: skip
    counts = rng.integers(1, 30, size=(4, 6))
    pairs = np.repeat(np.array(list(np.ndindex(4, 6))), counts.ravel(), axis=0)
    run.check("mutual information of a table", i.mutual_information(counts / counts.sum()),
              mutual_info_score(*pairs.T), against="sklearn.metrics.mutual_info_score", atol=1e-13,
              why="float64 rounding of a sum")  # fmt: skip
    a, b = rng.normal(size=(2, 3, 3))
    cov_p, cov_q, mean_q = a @ a.T + np.eye(3), b @ b.T + np.eye(3), rng.normal(size=3)
    zero = np.zeros(3)
    run.check("entropy of a 3-D normal", i.normal_entropy(cov_p),
              stats.multivariate_normal(zero, cov_p).entropy(),
              against="scipy.stats.multivariate_normal", atol=1e-12,
              why="float64 rounding of a log-determinant")  # fmt: skip
    n = run.budget(quick=50_000, default=200_000)
    log_p, log_q = stats.multivariate_normal(zero, cov_p), stats.multivariate_normal(mean_q, cov_q)
    z = d.sample_normal(rng, 3 * n).reshape(n, 3) @ np.linalg.cholesky(cov_p).T
    terms = log_p.logpdf(z) - log_q.logpdf(z)
    run.check("KL divergence of 3-D normals", i.normal_kl(zero, cov_p, mean_q, cov_q), terms.mean(),
              against=f"Monte Carlo with scipy's densities, {n:,} draws",
              atol=5 * terms.std() / math.sqrt(n), why="five standard errors")  # fmt: skip


def estimators_of_kl(run: Run) -> None:
    """Two unbiased estimators of one divergence, and where each has the smaller spread."""
    n, shifts = run.budget(quick=4000, default=20_000), np.logspace(-1.5, 0.5, 17)
    spread, z_scores = np.zeros((2, len(shifts))), []
    for j, mu in enumerate(shifts):
        x = d.sample_normal(np.random.default_rng([run.seed, 40, j]), n)
        both = i.kl_terms(d.normal_log_pdf(x), d.normal_log_pdf(x, float(mu)))
        exact = i.normal_kl(np.zeros(1), np.eye(1), np.array([mu]), np.eye(1))
        spread[:, j] = [t.std() for t in both]
        if mu < 1:
            z_scores += [(t.mean() - exact) / (t.std() / math.sqrt(n)) for t in both]
    theory = np.array([shifts, np.sqrt(np.expm1(shifts**2) - shifts**2)])
    close = shifts < 1
    run.check("spread of both estimators for shifts below 1", spread[:, close] / theory[:, close],
              np.ones((2, close.sum())), against="μ and √(exp(μ²) - 1 - μ²)",
              atol=0.15 if run.mode != "quick" else 0.3,
              why="the fourth moment of the second grows as exp(6μ²)")  # fmt: skip
    run.claim(
        "both estimators of KL are unbiased",
        max(map(abs, z_scores)) < 4,
        f"largest of {len(z_scores)} deviations: {max(map(abs, z_scores)):.1f} standard errors",
    )
    gain = spread[0, 0] / spread[1, 0]
    run.metric("spread of ln p/q over the corrected, shift 0.03", gain, rtol=0.1)
    crossing = 1.2564312086261697**0.5  # e^m = 1 + 2m, m = μ²
    run.check("where the two theories cross", math.expm1(crossing**2), 2 * crossing**2,
              against="exp(μ²) - 1 - μ² = μ²", atol=1e-12, why="float64 rounding")  # fmt: skip
    run.metric("shift from which the corrected estimator is worse", crossing)
    title = "Which estimator of D(p‖q) is quieter? It depends how near q is"
    with run.figure("kl_estimators", title, size=(8.0, 4.3)) as ax:
        for row, line, color in zip(spread, theory, (plots.ORANGE, plots.BLUE), strict=True):
            ax.plot(shifts, line, color=plots.REFERENCE, lw=1, ls="--")
            ax.plot(shifts, row, "o", color=color)
        ax.plot(shifts, shifts**2 / 2, color=plots.GRAY, lw=1.2)
        ax.axvline(crossing, color=plots.REFERENCE, lw=0.8, ls=":")
        ax.text(crossing * 1.05, 2e-4, f"μ = {crossing:.2f}", color=plots.REFERENCE)
        ax.text(0.035, 0.08, "ln p/q", color=plots.ORANGE)
        ax.text(0.07, 0.02, "ln p/q + q/p - 1", color=plots.BLUE)
        ax.text(0.09, 0.0012, "the divergence itself, μ²/2", color="#666666")
        ax.text(2.0, 90, "theory", color=plots.REFERENCE, ha="right")
        ax.set(xscale="log", yscale="log", xlabel="shift μ between p = N(0, 1) and q = N(μ, 1)",
               ylabel="standard deviation of one term (nats)", ylim=(1e-4, 1e3))  # fmt: skip


def mixture_log_pdf(
    x: Float[np.ndarray, " n"], gap: float, weight: float = 0.5
) -> Float[np.ndarray, " n"]:
    """Two unit normals at ±gap, the right one with the given weight."""
    parts = [math.log(1 - weight) + d.normal_log_pdf(x, -gap),
             math.log(weight) + d.normal_log_pdf(x, gap)]  # fmt: skip
    return i.log_sum_exp(np.stack(parts, axis=-1))


def mixture_score(
    x: Float[np.ndarray, " n"], gap: float, weight: float = 0.5
) -> Float[np.ndarray, " n"]:
    """Derivative of the mixture's log-density: a pull to each mode, by responsibility."""
    right = np.exp(math.log(weight) + d.normal_log_pdf(x, gap) - mixture_log_pdf(x, gap, weight))
    return gap * (2 * right - 1) - x


def reverse_divergence(mean: float, sd: float, gap: float) -> float:
    """D(q‖p) of a normal q from two equal unit normals at ±gap, by Gauss–Hermite sums."""
    z, weight = np.polynomial.hermite_e.hermegauss(80)
    x = mean + sd * z
    terms = d.normal_log_pdf(x, mean, sd) - mixture_log_pdf(x, gap)
    return float(weight @ terms / weight.sum())


def two_directions(run: Run) -> None:
    """Fit one bump to two: the forward fit covers both, the reverse fit chooses."""
    from scipy import optimize, stats

    gap, weight = 3.0, 0.6
    forward = (gap * (2 * weight - 1), math.sqrt(1 + 4 * weight * (1 - weight) * gap**2))
    reverse = i.fit_normal_reverse(lambda x: mixture_score(x, gap, weight), 1.0, 1.0)
    grid = np.linspace(-9, 9, 1201)

    places = np.linspace(-14, 14, 4001)  # the trapezoidal rule is exact to rounding on bells
    parts = [stats.norm.logpdf(places, sign * gap) for sign in (-1, 1)]
    log_p = np.logaddexp(parts[0] + math.log(1 - weight), parts[1] + math.log(weight))

    def divergence(parameters: np.ndarray, order: int) -> float:
        log_q = stats.norm.logpdf(places, parameters[0], math.exp(parameters[1]))
        first, second = (log_p, log_q) if order > 0 else (log_q, log_p)
        return float(np.trapezoid(np.exp(first) * (first - second), places))

    for name, fit, order in (("forward", forward, 1), ("reverse", reverse, -1)):
        start = np.array([fit[0] + 0.2, math.log(fit[1]) + 0.1])
        best = optimize.minimize(divergence, start, (order,), method="Nelder-Mead",
                                 options={"xatol": 1e-6, "fatol": 1e-12}).x  # fmt: skip
        run.check(f"{name} fit of a normal to two bumps", fit, [best[0], math.exp(best[1])],
                  against="scipy.optimize.minimize of the divergence", atol=1e-4,
                  why="a minimum is flat: 1e-12 in value is 1e-6 in place")  # fmt: skip
        run.metric(f"mean of the {name} fit", fit[0])
        run.metric(f"sd of the {name} fit", fit[1])
    table = np.array([
        [divergence(np.array([m, math.log(s)]), order) for m, s in (forward, reverse)]
        for order in (1, -1)
    ])  # fmt: skip
    run.claim(
        "each fit wins in its own direction and loses in the other",
        table[0, 0] < table[0, 1] and table[1, 1] < table[1, 0],
        f"D(p‖q): forward fit {table[0, 0]:.2f}, reverse fit {table[0, 1]:.2f}; "
        f"D(q‖p): {table[1, 0]:.2f}, {table[1, 1]:.2f} nats",
    )
    gaps = np.linspace(0.6, 4.0, run.budget(quick=8, default=35))
    costs = np.full((2, len(gaps)), np.nan)
    for j, g in enumerate(gaps):
        for row, start in enumerate(((0.0, math.hypot(1, g)), (g, 1.0))):
            fit = i.fit_normal_reverse(lambda x, g=g: mixture_score(x, g), *start)
            if row == 0 or fit[0] > 1:  # near bumps have no one-sided minimum
                costs[row, j] = reverse_divergence(*fit, float(g))
    covering, choosing = costs
    j = int(np.argmax(choosing < covering))
    ahead = (choosing - covering)[[j - 1, j]]  # the curves cross between two grid points
    turn = float(gaps[j - 1] + (gaps[j] - gaps[j - 1]) * ahead[0] / (ahead[0] - ahead[1]))
    run.metric("half distance of the bumps from which choosing one is cheaper", turn, "sd")
    run.metric("price of choosing one of two bumps", choosing[-1], "nats")
    run.claim(
        "the reverse fit covers both bumps too, until they are so far apart that ln 2 is less",
        2.6 < turn < 3.1 and abs(choosing[-1] - math.log(2)) < 0.01,
        f"choosing one is cheaper from ±{turn:.1f} standard deviations on; at ±4 it costs "
        f"{choosing[-1]:.3f} nats (ln 2 = {math.log(2):.3f}), covering both {covering[-1]:.2f}",
    )
    title = "One bump for two: what does each direction of KL choose?"
    with run.figure("directions", title, columns=2, size=(8.8, 4.1)) as (left, right):
        left.fill_between(grid, np.exp(mixture_log_pdf(grid, gap, weight)), color=plots.GRAY,
                          alpha=0.35, linewidth=0)  # fmt: skip
        for (mean, sd), color in ((forward, plots.BLUE), (reverse, plots.ORANGE)):
            left.plot(grid, np.exp(d.normal_log_pdf(grid, mean, sd)), color=color)
        left.text(-8.8, 0.135, "forward D(p‖q):\ncover all of p", color=plots.BLUE)
        left.text(2.4, 0.413, "reverse D(q‖p): stay inside p", color=plots.ORANGE, ha="center")
        left.text(-3, 0.03, "p", color="#555555", ha="center", weight="bold")
        left.set(xlabel="x", ylabel="density", ylim=(0, 0.45), xlim=(-9, 9))
        left.set_title("bumps at ±3", fontsize=11, weight="normal")
        right.axhline(math.log(2), color=plots.REFERENCE, lw=1, ls="--")
        right.plot(gaps, covering, color=plots.SKY)
        right.plot(gaps, choosing, color=plots.ORANGE)
        right.axvline(turn, color=plots.REFERENCE, lw=0.8, ls=":")
        right.text(turn + 0.06, 0.05, f"±{turn:.1f}", color=plots.REFERENCE)
        right.text(0.65, math.log(2) + 0.03, "ln 2: leave half out",
                   color=plots.REFERENCE)  # fmt: skip
        right.text(2.7, 1.25, "cover both", color="#2a7fb0", ha="right")
        right.text(4.0, 0.6, "take one", color=plots.ORANGE, ha="right", va="top")
        right.set_title("reverse fit: two minima", fontsize=11, weight="normal")
        right.set(xlabel="equal bumps at ± (standard deviations)", ylabel="D(q‖p) (nats)",
                  ylim=(0, 1.6))  # fmt: skip


def correlated(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of standard normals with the given correlation."""
    x, noise = d.sample_normal(rng, 2 * n).reshape(2, n)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def estimators_of_information(run: Run, pairs: int, seeds: int) -> None:
    """Mutual information of normals: closed form, histogram, neighbors; and of nothing at all."""
    from sklearn.feature_selection import mutual_info_regression

    x, y = correlated(run.rng, 500, 0.7)
    ours = [i.mutual_information_ksg(x, y, k) for k in (1, 3, 10)]
    theirs = [
        mutual_info_regression(x[:, None], y, n_neighbors=k, random_state=0)[0] for k in (1, 3, 10)
    ]
    run.check("KSG estimates, k = 1, 3, 10", ours, theirs,
              against="sklearn.feature_selection.mutual_info_regression", atol=1e-3,
              why="sklearn adds noise of 1e-10, which can move a neighbor or two")  # fmt: skip
    rhos = np.array([0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98])
    exact = np.array([i.normal_mutual_information(float(r)) for r in rhos])
    bins = 12
    estimates = np.zeros((3, seeds, len(rhos)))
    for s in range(seeds):
        for j, rho in enumerate(rhos):
            x, y = correlated(np.random.default_rng([run.seed, 50, s, j]), pairs, float(rho))
            estimates[:, s, j] = (
                i.mutual_information_ksg(x, y),
                i.mutual_information_binned(x, y, bins),
                i.mutual_information_binned(x, y, bins, corrected=True),
            )
    error = np.abs(estimates.mean(axis=1) - exact)
    ksg = [mean_interval(estimates[0, :, j] - exact[j]) for j in (0, len(rhos) - 1)]
    run.claim(
        "the neighbor estimate is nearer to the closed form than the histogram at both ends",
        error[0, 0] < error[1, 0] and error[0, -1] < error[1, -1],
        f"error at ρ = 0: neighbors {ksg[0]}, histogram {error[1, 0]:+.3f}; at ρ = {rhos[-1]}: "
        f"{ksg[1]}, {estimates[1, :, -1].mean() - exact[-1]:+.3f} nats",
    )
    run.metric("largest error of the neighbor estimate", error[0].max(), "nats", rtol=None)
    run.metric("error of the histogram at correlation 0.98",
               estimates[1, :, -1].mean() - exact[-1], "nats", rtol=0.1)  # fmt: skip

    many = np.array([2, 4, 8, 12, 16, 24, 32, 48])
    nothing = np.zeros((3, seeds, len(many)))
    for s in range(seeds):
        x, y = d.sample_normal(np.random.default_rng([run.seed, 51, s]), 2 * pairs).reshape(2, -1)
        for j, m in enumerate(many):
            nothing[0, s, j] = i.mutual_information_binned(x, y, int(m))
            nothing[1, s, j] = i.mutual_information_binned(x, y, int(m), corrected=True)
        nothing[2, s] = i.mutual_information_ksg(x, y)
    bias = (many - 1) ** 2 / (2 * pairs)
    at = int(np.flatnonzero(many == 8)[0])
    run.check("bias of the histogram for independent data, 8 bins", nothing[0, :, at].mean(),
              bias[at], against="Miller (1955), (b - 1)²/2n", rtol=0.5 if seeds < 5 else 0.35,
              why="49 degrees of freedom: each estimate scatters by a fifth, and the next order"
                  " adds a few percent")  # fmt: skip
    interval = mean_interval(nothing[2, :, 0])
    run.claim(
        "a histogram finds information in noise, more with every bin; neighbors find none",
        nothing[0, :, -1].mean() > 0.3 and abs(interval.mean) < 0.05
        and bool((np.diff(nothing[0].mean(axis=0)) > 0).all()),
        f"independent pairs: {nothing[0, :, -1].mean():.2f} nats with {many[-1]} bins, neighbors "
        f"{interval}",
    )  # fmt: skip
    run.metric("histogram's information between independent variables, 48 bins",
               nothing[0, :, -1].mean(), "nats", rtol=0.05)  # fmt: skip
    run.metric("neighbors' information between independent variables", interval.mean, "nats",
               rtol=None)  # fmt: skip

    with run.figure("mutual_information", "How much do two samples tell about each other?",
                    columns=2, size=(8.8, 4.2)) as (left, right):  # fmt: skip
        smooth = np.linspace(0, 0.985, 300)
        left.plot(smooth, -0.5 * np.log(1 - smooth**2), color=plots.REFERENCE, lw=1.2, ls="--")
        names = ("neighbors (KSG)", f"histogram, {bins} bins", "corrected")
        places = ((0.93, 1.42), (0.0, 0.22), None)
        for rows, color, name, place in zip(
            estimates[:2], (plots.BLUE, plots.ORANGE), names[:2], places[:2], strict=True
        ):
            for row in rows:
                left.plot(rhos, row, "o", color=color, ms=3.5, alpha=0.5)
            left.plot(rhos, rows.mean(axis=0), color=color, lw=1.2)
            left.text(*place, name, color=color, ha="right" if place[0] > 0.5 else "left")
        left.text(0.6, 0.75, "closed form\n-½ ln(1 - ρ²)", color=plots.REFERENCE, ha="right")
        left.set_title(f"normals, {pairs:,} pairs, {seeds} seeds", fontsize=11, weight="normal")
        left.set(xlabel="correlation ρ", ylabel="mutual information (nats)", ylim=(-0.08, 1.85))
        for rows, color in zip(nothing, (plots.ORANGE, plots.SKY, plots.BLUE), strict=True):
            plots.interval_band(right, many, rows, color=color, label="_")
        right.plot(many, bias, color=plots.REFERENCE, lw=1.2, ls="--")
        right.text(30, 0.62, "(b - 1)²/2n", color=plots.REFERENCE, ha="right")
        right.text(48, 0.48, "histogram", color=plots.ORANGE, ha="right")
        right.text(36, 0.1, "corrected", color="#2a7fb0", ha="left")
        right.text(48, -0.12, "neighbors", color=plots.BLUE, ha="right")
        right.set_title("independent pairs: the truth is 0", fontsize=11, weight="normal")
        right.set(xlabel="bins b on each axis", ylabel="mutual information (nats)",
                  ylim=(-0.2, 1.1))  # fmt: skip


def processing(run: Run) -> None:
    """Whatever is done to Y, it does not come to know more about X."""
    trials = run.budget(quick=300, default=3000)
    worst, gains = -np.inf, []
    for _ in range(trials):
        n, m, k = run.rng.integers(2, 7, size=3)
        joint = run.rng.dirichlet(np.full(n * m, 0.3)).reshape(n, m)
        channel = run.rng.dirichlet(np.full(k, 0.3), size=m)
        before, after = i.mutual_information(joint), i.mutual_information(joint @ channel)
        worst = max(worst, after - before)
        gains.append(after / before if before > 1e-9 else 0.0)
    run.claim(
        "no processing of Y adds information about X",
        worst < 1e-12,
        f"{trials:,} random tables and channels: largest gain {worst:.1e} nats; kept on average "
        f"{np.mean(gains):.0%}",
    )
    # The control breaks the chain: Z may look at X, and then it can know more than Y did.
    joint = run.rng.dirichlet(np.full(9, 1.0)).reshape(3, 3)
    cheating = i.mutual_information(np.diag(joint.sum(axis=1))) - i.mutual_information(joint)
    run.claim(
        "a Z that looks past Y at X can gain",
        cheating > 0.1,
        f"I(X; X) - I(X; Y) = {cheating:.2f} nats for a random table",
    )
    flip, length = 0.1, 12
    step = np.array([[1 - flip, flip], [flip, 1 - flip]])
    chain = [i.mutual_information(0.5 * np.linalg.matrix_power(step, t)) for t in range(length + 1)]
    wrong = 0.5 * (1 - (1 - 2 * flip) ** np.arange(length + 1))
    closed = [math.log(2) - i.entropy(np.array([w, 1 - w])) for w in wrong]
    run.check("information along a chain of noisy copies", chain, closed,
              against="ln 2 - h((1 - (1 - 2p)^t) / 2)", atol=1e-14,
              why="float64 rounding")  # fmt: skip
    rho = 0.9
    levels = 2 ** np.arange(1, 7)
    truth = i.normal_mutual_information(rho)
    known = []
    for m in levels:  # of X and the bin of Y, exactly: h(X) - h(X | bin) by a fine table
        edges = np.linspace(-6, 6, 1921)
        centers = 0.5 * (edges[1:] + edges[:-1])
        joint = np.exp(
            d.normal_log_pdf(centers)[:, None]
            + d.normal_log_pdf(centers[None, :] - rho * centers[:, None], 0.0, (1 - rho**2) ** 0.5)
        )
        joint /= joint.sum()
        cumulative = np.cumsum(joint.sum(axis=0))
        cell = np.minimum((cumulative - 1e-12) * m, m - 1).astype(int)
        coarse = np.stack([joint[:, cell == c].sum(axis=1) for c in range(m)], axis=1)
        known.append(i.mutual_information(coarse))
    run.metric("share of the information that one bit of Y keeps, correlation 0.9",
               100 * known[0] / truth, "%")  # fmt: skip
    run.claim(
        "coarser bins of Y only lose information",
        bool((np.diff(known) > 0).all()) and known[-1] < truth,
        ", ".join(f"{m} bins {v:.3f}" for m, v in zip(levels, known, strict=True))
        + f"; unbinned {truth:.3f} nats",
    )
    with run.figure("processing", "Processing only loses: what is left of the information?",
                    columns=2, size=(8.6, 3.9)) as (left, right):  # fmt: skip
        left.plot(range(length + 1), np.array(chain) / math.log(2), "o-", color=plots.BLUE)
        left.set_title(f"a bit copied again and again, {flip:.0%} flips", fontsize=11,
                       weight="normal")  # fmt: skip
        left.set(xlabel="copies t", ylabel="I(first; t-th) (bits)", ylim=(0, 1.05))
        right.plot(levels, known, "o-", color=plots.BLUE)
        right.axhline(truth, color=plots.REFERENCE, lw=1.2, ls="--")
        right.text(2, truth + 0.015, "I(X; Y) = -½ ln(1 - ρ²), ρ = 0.9", color=plots.REFERENCE)
        right.set_title("Y rounded to equally likely bins", fontsize=11, weight="normal")
        right.set(xscale="log", xlabel="bins of Y", ylabel="I(X; bin of Y) (nats)", ylim=(0, 0.95))
        right.set_xticks(levels, labels=[str(m) for m in levels])
        right.minorticks_off()


def main(run: Run, *, pairs: PositiveInt = 1000, seeds: PositiveInt = 8) -> None:
    """Check every quantity against scipy, scikit-learn or a closed form, and watch estimators fail.

    Parameters
    ----------
    pairs
        Sample size of the mutual information estimates.
    seeds
        Independent samples for each point.
    """
    seeds = run.budget(quick=3, default=seeds, full=4 * seeds)
    tables(run)
    estimators_of_kl(run)
    two_directions(run)
    estimators_of_information(run, pairs, seeds)
    processing(run)
