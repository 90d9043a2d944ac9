"""What `information.py` is measured by: scipy, scikit-learn, closed forms, counted errors."""

import math

import numpy as np
from jaxtyping import Float
from scipy import optimize, special, stats
from sklearn.feature_selection import mutual_info_regression

from shared import plots
from shared.study import PositiveInt, Run
from week03 import distributions as d
from week03 import information as i

UNBIASED = "both estimators of KL are unbiased"
NOTHING = "neighbors find nothing in noise"
Row = Float[np.ndarray, " n"]
PROCESSING = "no processing of Y adds information about X"
GRID = np.linspace(-40, 40, 8001)  # on bells the trapezoidal rule is exact to rounding


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
    information_in_noise(run, pairs, seeds)
    processing(run)


def tables(run: Run) -> None:
    """Check sums over tables and Gaussian closed forms against scipy and its log-densities."""
    rng = run.rng
    p, q = rng.dirichlet(np.ones(20)), rng.dirichlet(np.ones(20))
    logits, targets, rows = 300 * rng.normal(size=(50, 8)), rng.integers(8, size=50), np.arange(50)
    equal = run.against("scipy", atol=1e-13, why="float64 rounding of a sum")
    equal("entropy", i.entropy(p), stats.entropy(p))
    equal("KL divergence", i.kl_divergence(p, q), stats.entropy(p, q))
    ours = i.softmax_cross_entropy(logits, targets)
    theirs = -special.log_softmax(logits, axis=1)[rows, targets]
    equal("softmax cross-entropy of logits up to 1000", ours, theirs, rtol=1e-13)

    a, b = rng.normal(size=(2, 3, 3))
    cov_p, cov_q, mean_q = a @ a.T + np.eye(3), b @ b.T + np.eye(3), rng.normal(size=3)
    zero = np.zeros(3)
    at_p, at_q = stats.multivariate_normal(zero, cov_p), stats.multivariate_normal(mean_q, cov_q)
    n = run.budget(quick=50_000, default=200_000)
    z = d.sample_normal(rng, 3 * n).reshape(n, 3) @ np.linalg.cholesky(cov_p).T
    terms = at_p.logpdf(z) - at_q.logpdf(z)
    error, source = terms.std() / math.sqrt(n), f"a mean of {n:,} draws of scipy's log-densities"
    equal = run.against(source, atol=5 * error, why="five standard errors")
    ours = i.normal_kl(zero, cov_p, mean_q, cov_q)
    equal("KL divergence of 3-D normals", ours, terms.mean())


def estimators_of_kl(run: Run) -> None:
    """Two unbiased estimators of one divergence, and where each has the smaller spread."""
    n, shifts = 20_000, np.logspace(-1.5, 0.5, 17)
    close = shifts < 1
    spread, scores = np.zeros((2, len(shifts))), np.zeros((3, len(shifts)))
    for j, mu in enumerate(shifts):
        x = d.sample_normal(np.random.default_rng([run.seed, 40, j]), n)
        both = i.kl_terms(d.normal_log_pdf(x), d.normal_log_pdf(x, float(mu)))
        exact = i.normal_kl(np.zeros(1), np.eye(1), np.array([mu]), np.eye(1))
        spread[:, j] = [terms.std() for terms in both]
        terms = np.array([*both, 0.5 * both[0] ** 2])  # the third is biased by μ⁴/8
        scores[:, j] = (terms.mean(axis=1) - exact) / (terms.std(axis=1) / math.sqrt(n))
    theory = np.array([shifts, np.sqrt(np.expm1(shifts**2) - shifts**2)])
    why = "the fourth moment of the second grows as exp(6μ²)"
    equal = run.against("μ and √(exp(μ²) - 1 - μ²)", kind="theorem", rtol=0.15, why=why)
    name = "spread of both estimators for shifts below 1"
    equal(name, spread[:, close], theory[:, close])
    rule = {"each": True, "unit": "standard errors", "note": f"{n:,} draws for every shift below 1"}
    run.claim(UNBIASED, scores[:2, close].ravel(), at_least=-4, at_most=4, **rule)
    run.falsifier("half the square of ln p/q", scores[2, close], breaks=UNBIASED)

    # exp(m) = 1 + 2m at m = μ² has one root beyond 0, on Lambert's other branch
    crossing = math.sqrt(-0.5 - special.lambertw(-0.5 * math.exp(-0.5), -1).real)
    ahead = np.log(spread[0] / spread[1])
    j = int(np.argmax(ahead < 0))
    found = np.exp(np.interp(0, ahead[[j, j - 1]], np.log(shifts)[[j, j - 1]]))
    why = "the spread of the second, near 1 still known to a tenth, grows by μ²"
    equal = run.against("exp(μ²) - 1 - μ² = μ²", kind="theorem", rtol=0.05, why=why)
    equal("where the measured spreads cross", found, crossing)
    run.metric("least shift", shifts[0])
    name = "spread of ln p/q over the corrected at the least shift"
    run.metric(name, spread[0, 0] / spread[1, 0])
    run.metric("shift from which the corrected estimator is worse", crossing)
    title = "Which estimator of D(p‖q) is quieter? It depends how near q is"
    with run.figure("kl_estimators", title) as ax:
        names = ("ln p/q", "ln p/q + q/p - 1")
        for name, row, exact, color in zip(names, spread, theory, plots.COLORS[1::-1], strict=True):
            ax.plot(shifts, row, "o", color=color, label=name)
            ax.plot(shifts, exact, color=plots.REFERENCE, lw=1, ls="--")
        ax.plot(shifts, shifts**2 / 2, color=plots.GRAY, lw=1.2, label="the divergence, μ²/2")
        ax.axvline(crossing, color=plots.REFERENCE, lw=0.8, ls=":")
        ax.legend(title="dashed: theory")
        ax.set(xscale="log", yscale="log", xlabel="shift μ between p = N(0, 1) and q = N(μ, 1)")
        ax.set(ylim=(1e-4, 1e3), ylabel="standard deviation of one term (nats)")


def two_bumps(x: Row, gap: float) -> Row:
    """Log-density of two unit normals at ±gap."""
    return np.logaddexp(d.normal_log_pdf(x, -gap), d.normal_log_pdf(x, gap)) - math.log(2)


def fit_reverse(gap: float, mean: float, sd: float) -> tuple[float, float]:
    """The reverse fit to two bumps from a start; their score pulls to each by its share."""
    return i.fit_normal_reverse(lambda x: gap * np.tanh(gap * x) - x, mean, sd)


def divergence(log_p: Row, log_q: Row) -> float:
    """D(p‖q) of two densities on the grid."""
    return float(np.trapezoid(np.exp(log_p) * (log_p - log_q), GRID))


def two_directions(run: Run) -> None:
    """Fit one bump to two: the forward fit covers both, the reverse fit chooses."""
    gap = 3.0
    forward, reverse = (0.0, math.hypot(1, gap)), fit_reverse(gap, gap, 1.0)
    log_p = two_bumps(GRID, gap)

    def cost(fit, order: int) -> float:
        pair = (log_p, stats.norm.logpdf(GRID, *fit))
        return divergence(*pair[::order])

    source = "scipy.optimize.minimize of the divergence"
    equal = run.against(source, atol=1e-4, why="a minimum is flat: 1e-12 in value is 1e-6 in place")
    options = {"xatol": 1e-6, "fatol": 1e-12}
    for name, fit, order in (("forward", forward, 1), ("reverse", reverse, -1)):
        start = np.add(fit, (0.2, 0.1))
        best = optimize.minimize(cost, start, (order,), method="Nelder-Mead", options=options).x
        equal(f"{name} fit of a normal to two bumps", fit, best)

    gaps = np.linspace(0.6, 4.0, run.budget(quick=8, default=35))
    costs = np.full((2, len(gaps)), np.nan)
    for j, g in enumerate(gaps):
        for row, start in enumerate(((0.0, math.hypot(1, g)), (g, 1.0))):
            fit = fit_reverse(g, *start)
            if row == 0 or fit[0] > 1:  # near bumps have no one-sided minimum
                costs[row, j] = divergence(d.normal_log_pdf(GRID, *fit), two_bumps(GRID, g))
    covering, choosing = costs
    j = int(np.argmax(choosing < covering))
    ahead = choosing - covering  # crosses zero between two points of the grid
    turn = float(np.interp(0, ahead[[j, j - 1]], gaps[[j, j - 1]]))
    run.metric("half distance of the bumps from which choosing one is cheaper", turn, "sd")
    run.metric("price of choosing one of two bumps", choosing[-1], "nats")
    note = f"at ±4 covering both costs {covering[-1]:.3f} nats"
    rule = {"deterministic": True, "note": note, "seen_before": "the figure"}
    name = "the reverse fit covers both bumps until about ±2.8 standard deviations"
    run.claim(name, turn, at_least=2.6, at_most=3.1, unit="standard deviations", **rule)
    name, price = "leaving one of two bumps far apart out costs ln 2", math.log(2)
    near = {"at_least": price - 0.01, "at_most": price + 0.01}
    run.claim(name, choosing[-1], deterministic=True, unit="nats", **near)
    title = "One bump for two: what does each direction of KL choose?"
    with run.figure("directions", title, columns=2, size=(8.8, 4.1)) as (left, right):
        left.fill_between(GRID, np.exp(log_p), color=plots.GRAY, alpha=0.35, lw=0, label="p")
        left.plot(GRID, stats.norm.pdf(GRID, *forward), color=plots.BLUE, label="forward D(p‖q)")
        left.plot(GRID, stats.norm.pdf(GRID, *reverse), color=plots.ORANGE, label="reverse D(q‖p)")
        left.legend(loc="upper left")
        left.set(xlabel="x", ylabel="density", ylim=(0, 0.55), xlim=(-9, 9))
        left.set_title("bumps at ±3", fontsize=11)
        plots.reference_line(right, price, "ln 2: leave half out")
        lines = {"cover both": covering, "take one": choosing}
        labels = {"xlabel": "equal bumps at ± (standard deviations)", "ylabel": "D(q‖p) (nats)"}
        plots.curves(right, gaps, lines, colors=(plots.SKY, plots.ORANGE), ends=False, **labels)
        right.axvline(turn, color=plots.REFERENCE, lw=0.8, ls=":")
        right.set_title("reverse fit: two minima", fontsize=11)


def correlated(rng: np.random.Generator, n: int, rho: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of standard normals with the given correlation."""
    x, noise = d.sample_normal(rng, 2 * n).reshape(2, n)
    return x, rho * x + math.sqrt(1 - rho**2) * noise


def estimators_of_information(run: Run, pairs: int, seeds: int) -> None:
    """Mutual information of normals: closed form, histogram, neighbors."""
    x, y = correlated(run.rng, 500, 0.7)
    theirs = mutual_info_regression(x[:, None], y, n_neighbors=3, random_state=0)[0]
    why = "sklearn adds noise of 1e-10, which can move a neighbor or two"
    equal = run.against("sklearn.feature_selection.mutual_info_regression", atol=1e-3, why=why)
    equal("KSG estimate", i.mutual_information_ksg(x, y, 3), theirs)
    rhos = np.array([0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98])
    exact = np.array([i.normal_mutual_information(float(r)) for r in rhos])
    bins, estimates = 12, np.zeros((2, seeds, len(rhos)))
    for s, j in np.ndindex(seeds, len(rhos)):
        rng = np.random.default_rng([run.seed, 50, s, j])
        x, y = correlated(rng, pairs, float(rhos[j]))
        estimates[0, s, j] = i.mutual_information_ksg(x, y)
        estimates[1, s, j] = i.mutual_information_binned(x, y, bins)
    neighbors, histogram = np.abs(estimates - exact)
    for j in (0, -1):
        name = f"neighbors are nearer to the closed form than a histogram, correlation {rhos[j]:g}"
        means = (estimates[:, :, j] - exact[j]).mean(axis=1)
        note = "mean errors {:+.3f} and {:+.3f}".format(*means)
        run.claim(name, (histogram - neighbors)[:, j], at_least=0, unit="nats nearer", note=note)
    title = f"Who is near the closed form? Normals, {pairs:,} pairs, {seeds} seeds"
    with run.figure("normals", title) as ax:
        names = ("neighbors (KSG)", f"histogram, {bins} bins")
        lines = dict(zip(names, estimates, strict=True))
        plots.curves(ax, rhos, lines, marker="o", ends=False)
        rho = np.linspace(0, 0.985, 300)
        theory = {"color": plots.REFERENCE, "ls": "--", "label": "closed form -½ ln(1 - ρ²)"}
        ax.plot(rho, -0.5 * np.log(1 - rho**2), **theory)
        ax.legend()
        ax.set(xlabel="correlation ρ", ylabel="mutual information (nats)")


def information_in_noise(run: Run, pairs: int, seeds: int) -> None:
    """What the estimators find between independent variables."""
    bins = np.array([2, 4, 8, 12, 16, 24, 32, 48])
    plain, corrected, neighbors = np.zeros((3, seeds, len(bins)))
    for s in range(seeds):
        x, y = d.sample_normal(np.random.default_rng([run.seed, 51, s]), 2 * pairs).reshape(2, -1)
        plain[s] = [i.mutual_information_binned(x, y, m) for m in bins.tolist()]
        corrected[s] = [i.mutual_information_binned(x, y, m, corrected=True) for m in bins.tolist()]
        neighbors[s] = i.mutual_information_ksg(x, y)
    bias = (bins - 1) ** 2 / (2 * pairs)
    why = "each estimate scatters by a fifth (49 degrees of freedom), and the next order adds"
    miller = run.against("Miller (1955), (b - 1)²/2n", kind="theorem", rtol=0.35, why=why)
    miller("bias of the histogram for independent data, 8 bins", plain[:, 2].mean(), bias[2])
    run.metric("pairs", pairs)
    run.claim("a histogram of 48 bins finds over 0.3 nats in noise", plain[:, -1], at_least=0.3)
    run.claim(NOTHING, neighbors[:, 0], at_least=-0.05, at_most=0.05, unit="nats")
    run.falsifier("a histogram of 48 bins", plain[:, -1], breaks=NOTHING)
    with run.figure("noise", f"What is found in noise? {pairs:,} pairs, {seeds} seeds") as ax:
        lines = {"histogram": plain, "corrected": corrected, "neighbors": neighbors}
        colors = (plots.ORANGE, plots.SKY, plots.BLUE, plots.REFERENCE)
        lines["(b - 1)²/2n"] = bias
        plots.curves(ax, bins, lines, colors=colors, ylim=(-0.2, 1.2))
        ax.set(xlabel="bins b on each axis", ylabel="mutual information (nats)")


def processing(run: Run) -> None:
    """Whatever is done to Y, it does not come to know more about X."""
    gains, cheating = [], []
    for _ in range(run.budget(quick=300, default=3000)):
        n, m, k = run.rng.integers(2, 7, size=3)
        joint = run.rng.dirichlet(np.full(n * m, 0.3)).reshape(n, m)
        channel = run.rng.dirichlet(np.full(k, 0.3), size=m)
        before = i.mutual_information(joint)
        gains.append(i.mutual_information(joint @ channel) - before)
        # The control breaks the chain: a Z that is X itself did not come by way of Y.
        cheating.append(i.mutual_information(np.diag(joint.sum(axis=1))) - before)
    rule = {"each": True, "unit": "nats gained", "note": "random tables and channels"}
    run.claim(PROCESSING, gains, at_most=1e-12, **rule)
    run.falsifier("a Z that looks past Y at X", cheating, breaks=PROCESSING)

    flip, copies = 0.1, np.arange(13)
    step = np.array([[1 - flip, flip], [flip, 1 - flip]])
    chain = [i.mutual_information(0.5 * np.linalg.matrix_power(step, t)) for t in copies]
    wrong = 0.5 * (1 - (1 - 2 * flip) ** copies)
    closed = math.log(2) - special.entr([wrong, 1 - wrong]).sum(axis=0)
    source = "ln 2 - h((1 - (1 - 2p)^t) / 2)"
    equal = run.against(source, kind="theorem", atol=1e-14, why="float64 rounding")
    equal("information along a chain of noisy copies", chain, closed)

    rho, levels = 0.9, 2 ** np.arange(1, 7)
    truth = i.normal_mutual_information(rho)
    known = [i.mutual_information(coarse_table(rho, m)) for m in levels.tolist()]
    share = 100 * known[0] / truth
    run.metric("share of the information that one bit of Y keeps, correlation 0.9", share, "%")
    least = min(np.diff([*known, truth]))
    note = f"least loss from {levels[0]} to {levels[-1]} bins"
    name = "coarser bins of Y only lose information"
    run.claim(name, least, at_least=0, deterministic=True, unit="nats", note=note)
    title = "Processing only loses: what is left of the information?"
    with run.figure("processing", title, columns=2, size=(8.6, 3.9)) as (left, right):
        left.plot(copies, np.array(chain) / math.log(2), "o-", color=plots.BLUE)
        left.set_title(f"a bit copied again and again, {flip:.0%} flips", fontsize=11)
        left.set(xlabel="copies t", ylabel="I(first; t-th) (bits)", ylim=(0, 1.05))
        right.plot(np.log2(levels), known, "o-", color=plots.BLUE)
        plots.reference_line(right, truth, "I(X; Y) = -½ ln(1 - ρ²), ρ = 0.9")
        right.set_title("Y rounded to equally likely bins", fontsize=11)
        right.set(xlabel="bits of Y that are kept", ylabel="I(X; bin of Y) (nats)", ylim=(0, 0.95))


def coarse_table(rho: float, bins: int) -> np.ndarray:
    """Joint table of X, finely cut, and Y in equally likely bins, for correlated normals."""
    x = np.linspace(-6, 6, 961)
    noise = (x[None, :] - rho * x[:, None]) / math.sqrt(1 - rho**2)
    joint = np.exp(-0.5 * (x[:, None] ** 2 + noise**2))
    joint /= joint.sum()
    cell = np.minimum((np.cumsum(joint.sum(axis=0)) - 1e-12) * bins, bins - 1).astype(int)
    return np.stack([joint[:, cell == c].sum(axis=1) for c in range(bins)], axis=1)
