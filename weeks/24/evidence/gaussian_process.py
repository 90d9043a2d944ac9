"""scikit-learn's regressor, refitting without each point, known kernels, sparse bounds."""

import numpy as np
from scipy.stats import multivariate_normal

from shared import plots
from shared.study import PositiveInt, Run
from week24.gaussian_process import GaussianProcess, log_marginal_likelihood
from week24.kernels import RBF, Constant, Kernel, Linear, Matern, Periodic
from week24.sparse_gp import SparseGP, collapsed_bound


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check exact and sparse processes; then choose kernels, cover held-out values, be sparse.

    Parameters
    ----------
    seeds
        Data sets of each claim.
    """
    run.rounding(0.05, "an optimizer that stops a step sooner or later")
    seeds = run.budget(quick=2, default=max(seeds, 2))
    check_sklearn(run)
    check_leave_one_out(run)
    check_bounds(run)
    check_natural_step(run)
    judge_kernels(run, seeds)
    judge_coverage(run, seeds)
    judge_sparse(run, seeds)
    draw_extrapolation(run)


# ---- checks


def twins() -> dict[str, tuple[Kernel, object]]:
    """Our kernels and scikit-learn's, with the same parameters in the same order."""
    from sklearn.gaussian_process import kernels as sk

    return {
        "RBF": (RBF(0.8), sk.RBF(0.8)),
        "Matérn 1/2": (Matern(0.7, 0.5), sk.Matern(0.7, nu=0.5)),
        "Matérn 3/2": (Matern(0.7, 1.5), sk.Matern(0.7, nu=1.5)),
        "Matérn 5/2": (Matern(0.7, 2.5), sk.Matern(0.7, nu=2.5)),
        "periodic": (Periodic(0.9, 1.7), sk.ExpSineSquared(0.9, 1.7)),
        "linear": (Linear(0.6), sk.DotProduct(0.6**0.5)),
        "sum and product": (
            Constant(1.3) * RBF(0.8) * Periodic(1.1, 2.0) + Constant(0.4) * Matern(0.5, 2.5),
            sk.ConstantKernel(1.3) * sk.RBF(0.8) * sk.ExpSineSquared(1.1, 2.0)
            + sk.ConstantKernel(0.4) * sk.Matern(0.5, nu=2.5),
        ),
    }


def check_sklearn(run: Run) -> None:
    """Log marginal likelihood, its gradient, mean and deviation, each kernel."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import WhiteKernel

    noise, rounding = 0.05, "float64 rounding, condition numbers to 1e4"
    same = run.against("sklearn's GaussianProcessRegressor", rtol=1e-8, atol=1e-8, why=rounding)
    X, new = run.rng.uniform(-2, 2, (25, 1)), run.rng.uniform(-3, 3, (8, 1))
    y = 5 + np.sin(3 * X[:, 0]) + 0.2 * run.rng.normal(size=25)
    for name, (ours, theirs) in twins().items():
        value, slope = log_marginal_likelihood(ours, noise, X, y)
        white = theirs + WhiteKernel(noise)
        model = GaussianProcessRegressor(white, alpha=0.0, optimizer=None).fit(X, y)
        their, their_slope = model.log_marginal_likelihood(white.theta, eval_gradient=True)
        if name == "linear":
            their_slope[0] /= 2  # theirs is by ln σ₀, ours by ln σ₀²
        same(f"log marginal likelihood, {name}", value, their)
        same(f"gradient, {name}", slope, their_slope)
    ours, theirs = twins()["sum and product"]
    model = GaussianProcessRegressor(theirs, alpha=noise, optimizer=None, normalize_y=True)
    mean, sd = model.fit(X, y).predict(new, return_std=True)
    found = GaussianProcess(ours, noise, normalize=True).fit(X, y).predict(new)
    same("mean at new points", found.mean, mean)
    same("deviation at new points", np.sqrt(found.variance), sd)
    first = Constant(1.0) * RBF(1.0)
    best = GaussianProcess(first, 0.1).optimize(X, y - y.mean())
    model = GaussianProcessRegressor(
        1.0 * twins()["RBF"][1].clone_with_theta([0.0]) + WhiteKernel(0.1), alpha=0.0
    ).fit(X, y - y.mean())
    found = best.log_evidence()
    loose = {"rtol": 1e-5, "why": "both optimizers stop near the peak"}
    same("log marginal likelihood, optimized", found, model.log_marginal_likelihood_value_, **loose)


def check_leave_one_out(run: Run) -> None:
    """In closed form and by refitting; and the trap of one point."""
    X, y = run.rng.uniform(-2, 2, (12, 1)), run.rng.normal(size=12)
    model = GaussianProcess(Constant(1.5) * Matern(0.6, 2.5), 0.1).fit(X, y)
    refitted = []
    for i in range(12):
        rest = np.arange(12) != i
        other = GaussianProcess(model.kernel, 0.1).fit(X[rest], y[rest])
        refitted.append(np.concatenate(other.predict(X[i : i + 1], noisy=True)))
    ours = np.stack(model.leave_one_out(), axis=1)
    theorem = {"kind": "theorem", "why": "float64 rounding", "rtol": 1e-9, "atol": 1e-10}
    run.check("leave-one-out", ours, np.array(refitted), against="twelve refits", **theorem)
    one = GaussianProcess(RBF(1.0), 0.1).fit(np.zeros((1, 1)), np.ones(1))
    found = [one.predict(np.zeros((1, 1)), noisy=noisy).variance[0] for noisy in (False, True)]
    run.check("one point", found, [1 - 1 / 1.1, 1.1 - 1 / 1.1], against="by hand", **theorem)


def noisy_sine(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A wave that grows faster, with noise of deviation 0.2."""
    X = np.sort(rng.uniform(0, 6, (n, 1)), axis=0)
    return X, np.sin(0.6 * X[:, 0] ** 1.5) + 0.2 * rng.normal(size=n)


SMOOTH = Constant(0.8) * RBF(0.5)


def check_bounds(run: Run) -> None:
    """From the definition, below the exact value, and equal with all points."""
    X, y = noisy_sine(run.rng, 60)
    exact = log_marginal_likelihood(SMOOTH, 0.04, X, y)[0]
    Z, K = X[::7], SMOOTH(X, X)
    across = SMOOTH(X, Z)
    Q = across @ np.linalg.solve(SMOOTH(Z, Z), across.T)
    normal = multivariate_normal(np.zeros(60), Q + 0.04 * np.eye(60)).logpdf(y)
    ours = collapsed_bound(SMOOTH, 0.04, X, y, Z)
    theorem = {"kind": "theorem", "rtol": 1e-6, "why": "jitter of 1e-10 on the inducing values"}
    definition = normal - np.trace(K - Q) / 0.08
    run.check("collapsed bound", ours, definition, against="a normal of 60 values", **theorem)
    few = [collapsed_bound(SMOOTH, 0.04, X, y, X[:: 2**i]) for i in range(6, -1, -1)]
    falls = np.minimum(np.diff([*few, exact]), 0)
    theorem |= {"atol": 1e-5, "rtol": 0.0}
    run.check("more points never hurt", falls, 0 * falls, against="nested points", **theorem)
    run.check("bound with all points", few[-1], exact, against="the exact likelihood", **theorem)
    rough = Constant(0.8) * Matern(0.5, 1.5)
    whole = SparseGP(rough, 0.04, X)
    whole.step(X, y, n_data=60, rho=1.0)
    new = np.linspace(-1, 7, 9)[:, None]
    full = np.array(GaussianProcess(rough, 0.04).fit(X, y).predict(new))
    found = np.array(whole.predict(new))
    run.check("predictions with all points", found, full, against="the exact process", **theorem)


def check_natural_step(run: Run) -> None:
    """One whole step gives the best q(u); batches give it in the mean."""
    X, y = noisy_sine(run.rng, 60)
    Z = X[::7]
    model = SparseGP(SMOOTH, 0.04, Z)
    model.step(X, y, n_data=60, rho=1.0)
    theorem = {"kind": "theorem", "rtol": 1e-7, "why": "float64 rounding, condition 1e6"}
    collapsed = collapsed_bound(SMOOTH, 0.04, X, y, Z)
    against = {"against": "the collapsed bound"}
    run.check("bound after one step", model.bound(X, y, n_data=60), collapsed, **theorem, **against)
    parts = []
    for i in range(0, 60, 15):
        part = SparseGP(SMOOTH, 0.04, Z)
        part.step(X[i : i + 15], y[i : i + 15], n_data=60, rho=1.0)
        parts.append(np.append(part.precision.ravel(), part.linear))
    whole = np.append(model.precision.ravel(), model.linear)
    run.check(
        "natural parameters, mean over batches",
        np.mean(parts, 0),
        whole,
        against="all data",
        **theorem,
    )
    pieces = [model.bound(X[i : i + 15], y[i : i + 15], n_data=60) for i in range(0, 60, 15)]
    run.check("bound, mean over batches", np.mean(pieces), collapsed, **theorem, **against)


# ---- claims


def draw_from(kernel: Kernel, noise: float, n: int, rng: np.random.Generator):
    """A function of the process at random places, with noise."""
    X = np.sort(rng.uniform(0, 10, (n, 1)), axis=0)
    K = kernel(X, X) + (noise + 1e-10) * np.eye(n)
    return X, np.linalg.cholesky(K) @ rng.normal(size=n)


def best_evidence(X: np.ndarray, y: np.ndarray, starts: list[Kernel]) -> float:
    """Log marginal likelihood of a kernel at the highest peak that several starts lead to."""
    models = [GaussianProcess(kernel, 0.1).optimize(X, y, most=30) for kernel in starts]
    return max(model.log_evidence() for model in models)


def judge_kernels(run: Run, seeds: int) -> None:
    """The likelihood prefers the kernel that made the data, though both are fitted."""
    n, gains, spoiled = run.budget(quick=15, default=70), [], []
    rough = [Constant(1.0) * Matern(length, 0.5) for length in (0.3, 0.6, 1.0, 3.0)]
    periodic = [Constant(1.0) * Periodic(1.0, period) for period in (1.6, 2.0, 2.5, 3.2)]
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, seed])
        X, y = draw_from(Constant(1.0) * Periodic(1.0, 2.3), 0.02, n, rng)
        for values, labels in ((gains, y), (spoiled, rng.permutation(y))):
            values.append(best_evidence(X, labels, periodic) - best_evidence(X, labels, rough))
    name, seen = (
        "the likelihood knows the kernel that made the data",
        "one start: -1 ± 25; four: 26 to 60 on three seeds",
    )
    late = {"quick": False, "rtol": 0.5}  # where a search on no signal ends, rounding decides
    run.claim(name, gains, at_least=10.0, unit="nats", seen_before=seen, **late)
    run.falsifier("values in random order", spoiled, breaks=name)


def judge_coverage(run: Run, seeds: int) -> None:
    """Held-out values in intervals of 95 %, of what is observed and, by mistake, of f."""
    n, held, latent = run.budget(quick=30, default=60), [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 100, seed])
        X, y = draw_from(Constant(1.0) * Matern(1.5, 2.5), 0.2, n + 200, rng)
        train = rng.permutation(n + 200)[:n]
        test = np.setdiff1d(np.arange(n + 200), train)
        model = GaussianProcess(Constant(0.5) * Matern(1.0, 2.5), 0.1).optimize(X[train], y[train])
        for values, noisy in ((held, True), (latent, False)):
            found = model.predict(X[test], noisy=noisy)
            inside = np.abs(y[test] - found.mean) < 1.96 * np.sqrt(found.variance)
            values.append(inside.mean())
    name = "intervals of 95 % hold 95 % of what is observed"
    run.claim(name, held, at_least=0.9, at_most=1.0, quick=False)
    run.falsifier("the noise left out", latent, breaks=name)


def judge_sparse(run: Run, seeds: int) -> None:
    """Twenty inducing points for many data: bound and predictions beside the exact ones."""
    n, kernel = run.budget(quick=100, default=600), SMOOTH
    sizes, gaps, few = run.budget(quick=(4, 20), default=(4, 6, 8, 12, 16, 20, 30)), [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 200, seed])
        X, y = noisy_sine(rng, n)
        exact = log_marginal_likelihood(kernel, 0.04, X, y)[0]
        values = []
        for m in sizes:
            Z = np.linspace(0, 6, m)[:, None]
            values.append((exact - collapsed_bound(kernel, 0.04, X, y, Z)) / n)
        gaps.append(values)
    at = sizes.index(20)
    name = "twenty inducing points lose less than 0.01 nats per value"
    run.claim(name, [g[at] for g in gaps], at_most=0.01, unit="nats", quick=False)
    few = [g[0] for g in gaps]
    run.falsifier("four inducing points", few, breaks=name)
    model = SparseGP(kernel, 0.04, np.linspace(0, 6, 20)[:, None])
    best, t = collapsed_bound(kernel, 0.04, X, y, model.Z), 0
    rng, path = np.random.default_rng(run.seed), []
    for _ in range(run.budget(quick=2, default=6)):
        order = rng.permutation(n)
        for i in range(0, n, 50):
            t += 1
            batch = order[i : i + 50]
            model.step(X[batch], y[batch], n_data=n, rho=(t + 1.0) ** -0.9)
            path.append((best - model.bound(X, y, n_data=n)) / n)
    run.metric("bound lost by batches of 50 at the end", path[-1], "nats per value", rtol=0.5)
    with run.figure("sparse", "What do a few points, and batches, cost?", columns=2) as axes:
        labels = {"xlabel": "inducing points", "ylabel": "nats per value below exact"}
        options = {"yscale": "log", "marker": "o", "ends": False}
        plots.curves(axes[0], sizes, {"best q": np.maximum(gaps, 1e-9)}, **options, **labels)
        passes = np.arange(1, len(path) + 1) * 50 / n
        labels = {"xlabel": "passes", "ylabel": "nats per value below the best q"}
        plots.curves(axes[1], passes, {"batches of 50": path}, yscale="log", ends=False, **labels)


def draw_extrapolation(run: Run) -> None:
    """A trend with a season, and three beliefs about it."""
    rng = np.random.default_rng(run.seed)
    X = np.sort(rng.uniform(0, 7, (50, 1)), axis=0)
    y = 0.4 * X[:, 0] + np.sin(2 * np.pi * X[:, 0]) + 0.2 * rng.normal(size=50)
    line = np.linspace(0, 11, 300)[:, None]
    season = Constant(1.0) * Periodic(1.0, 1.0)
    beliefs = {
        "RBF": Constant(1.0) * RBF(0.3),
        "periodic": season,
        "linear + periodic": Linear(1.0) + season,
    }
    title = "What a kernel believes shows where the data end"
    with run.figure("kernels", title, columns=3, size=(11, 4), sharey=True) as axes:
        for ax, (name, kernel) in zip(axes, beliefs.items(), strict=True):
            model = GaussianProcess(kernel, 0.04).optimize(
                X, y, most=run.budget(quick=5, default=80)
            )
            found = model.predict(line)
            sd = 2 * np.sqrt(found.variance)
            ax.fill_between(line[:, 0], found.mean - sd, found.mean + sd, alpha=0.25)
            ax.plot(line, found.mean, color=plots.BLUE)
            ax.plot(X, y, ".", color=plots.REFERENCE, ms=4)
            truth = 0.4 * line[:, 0] + np.sin(2 * np.pi * line[:, 0])
            ax.plot(line, truth, "--", color=plots.REFERENCE, lw=1)
            ax.set(title=name, xlabel="x", ylim=(-3, 8))
            run.metric(f"log marginal likelihood, {name}", model.log_evidence(), "nats", rtol=0.05)
