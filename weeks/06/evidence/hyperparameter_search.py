"""Checks, claims and figures of `hyperparameter_search.py`, apart so that it can be read alone."""

import math

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week06 import gaussian_process
from week06 import hyperparameter_search as ours
from week06.metrics import accuracy

BRANIN = np.array([[-5.0, 10.0], [0.0, 15.0]])
BRANIN_MINIMUM = 0.39788735772973816  # Jones, Schonlau and Welch (1998), at (π, 2.275)


# ---- checks


def check_process(run: Run) -> None:
    """Prediction and likelihood at fixed hyper-parameters, three kernels."""
    from scipy.stats import multivariate_normal
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Matern

    rng = np.random.default_rng(run.seed)
    X, new = rng.uniform(size=(30, 3)), rng.uniform(size=(40, 3))
    y = np.sin(4 * X[:, 0]) + X[:, 1] * X[:, 2]
    shapes = {"rbf": RBF(0.4), "matern32": Matern(0.4, nu=1.5), "matern52": Matern(0.4, nu=2.5)}
    for name, shape in shapes.items():
        mine = gaussian_process.GaussianProcess(0.4, 2.0, 1e-3, name).fit(X, y)
        theirs = GaussianProcessRegressor(
            ConstantKernel(2.0) * shape, alpha=1e-3, optimizer=None
        ).fit(X, y)
        run.check(
            f"{name}: mean and deviation of new points",
            np.stack(mine.predict(new)),
            np.stack(theirs.predict(new, return_std=True)),
            against="sklearn GaussianProcessRegressor",
            atol=1e-7,
            why="rounding times the condition of K, about 1e4",
        )
        run.check(
            f"{name}: log marginal likelihood",
            mine.log_marginal_likelihood_,
            theirs.log_marginal_likelihood_value_,
            rtol=1e-7,
            against="sklearn GaussianProcessRegressor",
            why="the same",
        )
    K = 2.0 * gaussian_process.kernel_matrix(X, X, length_scale=0.4) + 1e-3 * np.eye(30)
    run.check(
        "log marginal likelihood is a Gaussian's log-density",
        mine.log_marginal_likelihood_,
        multivariate_normal(np.zeros(30), K).logpdf(y),
        rtol=1e-7,
        against="scipy.stats.multivariate_normal",
        why="the same",
    )
    found = gaussian_process.fit_by_likelihood(
        X, y, length_scales=np.array([0.7]), noise_ratios=np.array([1e-3])
    )
    around = [
        gaussian_process.GaussianProcess(0.7, found.variance * f, 1e-3 * found.variance * f).fit(
            X, y
        )
        for f in (0.99, 1.01)
    ]
    run.claim(
        "the variance in closed form is the likeliest",
        all(p.log_marginal_likelihood_ < found.log_marginal_likelihood_ for p in around),
        f"variance {found.variance:.4g}; 1 % less and more are less likely",
    )


def check_expected_improvement(run: Run) -> None:
    """The closed form against samples and against quadrature."""
    from scipy.integrate import quad
    from scipy.stats import norm

    mean, std, best = np.linspace(-2, 2, 9), np.linspace(0.2, 1.5, 9), 0.3
    closed = ours.expected_improvement(mean, std, best)
    exact = [
        quad(lambda f, m=m, s=s: (best - f) * norm.pdf(f, m, s), m - 12 * s, best, epsabs=1e-13)[0]
        for m, s in zip(mean, std, strict=True)
    ]
    run.check(
        "expected improvement",
        closed,
        exact,
        against="scipy.integrate.quad",
        atol=1e-9,
        why="the quadrature's own error",
    )
    n = run.budget(quick=20_000, default=1_000_000)
    draws = np.random.default_rng(run.seed).normal(size=n)
    gain = (best - (mean[:, None] + std[:, None] * draws)).clip(min=0)
    z = (gain.mean(axis=1) - closed) / (gain.std(axis=1) / math.sqrt(n))
    run.check(
        "expected improvement, in standard errors",
        z,
        np.zeros(9),
        against=f"Monte Carlo, {n:,} draws",
        atol=4.5,
        why="nine values beyond 4.5 standard errors: once in 16,000 runs",
    )


def check_halving(run: Run) -> None:
    """Which candidates survive, rung by rung, as in scikit-learn's search."""
    from sklearn.base import BaseEstimator
    from sklearn.experimental import enable_halving_search_cv  # noqa: F401
    from sklearn.model_selection import HalvingGridSearchCV

    noise = np.random.default_rng(run.seed).normal(size=(40, 82))

    def loss(candidate: int, resource: int) -> float:
        return float(candidate / 40 + noise[candidate, resource] / math.sqrt(resource))

    class Scored(BaseEstimator):
        """An estimator whose score is looked up: candidate and resource are its parameters."""

        def __init__(self, candidate=0, resource=1):
            self.candidate, self.resource = candidate, resource

        def fit(self, X, y=None):
            return self

        def score(self, X, y=None):
            return -loss(self.candidate, self.resource)

    for factor in (2, 3):
        mine = ours.successive_halving(loss, 40, min_resource=1, max_resource=81, factor=factor)
        theirs = HalvingGridSearchCV(
            Scored(),
            {"candidate": list(range(40))},
            resource="resource",
            max_resources=81,
            min_resources=1,
            factor=factor,
            cv=2,
            refit=False,
        ).fit(np.zeros((10, 1)), np.arange(10) % 2)
        rungs, who = theirs.cv_results_["iter"], theirs.cv_results_["param_candidate"]
        resource = theirs.cv_results_["n_resources"]
        run.check(
            f"survivors of halving by {factor}, rung by rung",
            np.concatenate([np.sort(r.candidates) * 1000 + r.resource for r in mine]),
            np.concatenate(
                [
                    np.sort(who[rungs == i].astype(int)) * 1000 + resource[rungs == i]
                    for i in range(rungs.max() + 1)
                ]
            ),
            against="sklearn HalvingGridSearchCV",
            why="the same candidates at the same cost or not",
        )


# ---- pictures and claims


def one_dimension(run: Run) -> None:
    """What the process believes after four trials, and where it would try next."""

    def f(x):
        return np.sin(9 * x) * 0.6 + (x - 0.65) ** 2 * 4

    grid = np.linspace(0, 1, 400)
    X = np.array([0.08, 0.34, 0.62, 0.95])
    with run.figure(
        "one_dimension",
        "Where to try next? Where the mean is low or nobody knows",
        rows=2,
        columns=2,
        size=(8.0, 4.8),
        sharex=True,
        gridspec_kw={"height_ratios": [3, 1]},
    ) as axes:
        for column in range(2):
            y = f(X)
            process = gaussian_process.fit_by_likelihood(
                X[:, None],
                y - y.mean(),
                length_scales=np.array([0.15]),
                noise_ratios=np.array([1e-6]),
            )
            mean, std = process.predict(grid[:, None])
            gain = ours.expected_improvement(mean, std, float((y - y.mean()).min()))
            mean = mean + y.mean()
            top, bottom = axes[:, column]
            top.fill_between(
                grid, mean - 2 * std, mean + 2 * std, color=plots.BLUE, alpha=0.15, lw=0
            )
            top.plot(grid, mean, color=plots.BLUE)
            top.plot(grid, f(grid), color=plots.REFERENCE, ls="--", lw=1.2)
            top.plot(X, y, "o", color="black", ms=6, zorder=5)
            following = grid[gain.argmax()]
            for ax in (top, bottom):
                ax.axvline(following, color=plots.ORANGE, lw=1, ls=":")
            bottom.fill_between(grid, gain, color=plots.ORANGE, alpha=0.4, lw=0)
            bottom.set(xlabel="hyper-parameter (scaled)", ylim=(0, None), yticks=[])
            top.set_title(f"after {len(X)} trials", fontsize=11, weight="normal")
            top.set_ylim(-1.7, 3.1)
            X = np.append(X, following)
        axes[0, 0].set_ylabel("loss")
        axes[1, 0].set_ylabel("gain")
        axes[0, 0].text(0.3, 2.6, "mean ± 2 deviations", color=plots.BLUE, fontsize=10)
        axes[0, 0].text(0.3, 2.15, "truth (dashed)", color=plots.REFERENCE, fontsize=10)
        axes[1, 0].text(
            0.03,
            axes[1, 0].get_ylim()[1] * 0.5,
            "expected\nimprovement",
            color=plots.ORANGE,
            fontsize=10,
        )


def effective_dimension(run: Run, repetitions: int) -> None:
    """Bergstra and Bengio's argument: a grid of 64 in 3-D tries 4 values of what matters."""
    bounds = np.tile([0.0, 1.0], (3, 1))
    grid_best, random_best = [], []
    for s in range(repetitions):
        rng = np.random.default_rng([run.seed, 1, s])
        where = rng.uniform()

        def loss(x, where=where):
            return float(abs(x[0] - where))  # the other two do nothing

        grid_best.append(ours.evaluate(loss, ours.grid_points(bounds, 4)).values.min())
        random_best.append(ours.evaluate(loss, ours.random_points(bounds, 64, rng)).values.min())
    # Mean distance of a uniform point to the middle of its cell of width 1/4: 1/16.
    error = np.std(grid_best) / math.sqrt(repetitions)
    run.check(
        "mean distance of the best of a 4 × 4 × 4 grid",
        np.mean(grid_best),
        1 / 16,
        against="1/16, by integration",
        atol=4.5 * error,
        why="4.5 standard errors of the mean",
    )
    grid, rand = mean_interval(grid_best), mean_interval(random_best)
    run.metric("distance left by a grid of 64, one axis of three matters", grid.mean, rtol=0.1)
    run.metric("distance left by 64 random points", rand.mean, rtol=0.15)
    run.claim(
        "if one axis of three matters, 64 random points come closer to the optimum than a grid",
        rand.high < grid.low,
        f"distance {rand} against {grid}",
    )


def tune_branin(run: Run, budget: int, seeds: int) -> None:
    """A function whose minimum is known."""
    run.check(
        "Branin at its three minima",
        [
            ours.branin(np.array(x))
            for x in ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475))
        ],
        np.full(3, BRANIN_MINIMUM),
        against="Jones, Schonlau and Welch (1998)",
        atol=1e-12,
        why="rounding",
    )
    regrets = {"random": [], "expected improvement": []}
    for s in run.progress(range(seeds), "Branin"):
        points = ours.random_points(BRANIN, budget, np.random.default_rng([run.seed, 2, s]))
        regrets["random"].append(ours.evaluate(ours.branin, points).best_so_far)
        search = ours.bayesian_search(
            ours.branin, BRANIN, budget, np.random.default_rng([run.seed, 2, s])
        )
        regrets["expected improvement"].append(search.best_so_far)
    regrets = {name: np.array(rows) - BRANIN_MINIMUM for name, rows in regrets.items()}
    grid = ours.evaluate(ours.branin, ours.grid_points(BRANIN, math.isqrt(budget)))
    left = float(grid.values.min() - BRANIN_MINIMUM)
    last = {name: np.median(rows[:, -1]) for name, rows in regrets.items()}
    run.metric("Branin, distance to the minimum: random", last["random"], rtol=0.3)
    run.metric("Branin, distance to the minimum: grid", left)
    run.metric(
        "Branin, distance to the minimum: expected improvement",
        last["expected improvement"],
        rtol=None,
    )
    run.claim(
        "on Branin's function the worst search by expected improvement ends below the best random "
        "one",
        regrets["expected improvement"][:, -1].max() < regrets["random"][:, -1].min(),
        f"medians {last['expected improvement']:.1e} and {last['random']:.2f} above the minimum, "
        f"grid {left:.2f}; {budget} trials each (n = {seeds})",
        quick=False,
    )
    title = "How close to Branin's minimum after so many trials?"
    with run.figure("branin", title, size=(8.0, 4.2)) as ax:
        trials = np.arange(1, budget + 1)
        for (name, rows), color in zip(regrets.items(), (plots.ORANGE, plots.BLUE), strict=True):
            rows = rows.clip(min=1e-7)
            ax.fill_between(trials, rows.min(0), rows.max(0), color=color, alpha=0.18, lw=0)
            ax.plot(trials, np.median(rows, axis=0), color=color, label=name.replace(" ", "\n"))
        ax.plot(trials[-1], left, "s", color=plots.GREEN, ms=7)
        ax.annotate(
            f"grid {math.isqrt(budget)} × {math.isqrt(budget)}",
            (trials[-1], left),
            (-8, 8),
            textcoords="offset points",
            color=plots.GREEN,
            ha="right",
        )
        ax.axvline(6, color=plots.REFERENCE, lw=1, ls=":")
        ax.text(6.3, ax.get_ylim()[0] * 1.6, "model takes over", color=plots.REFERENCE, fontsize=10)
        ax.set(yscale="log", xlabel="trials", ylabel="best value − minimum (median and range)")
        plots.label_lines(ax)


def tune_digits(run: Run, budget: int, seeds: int) -> None:
    """A kernel classifier of digits: length scale and ridge, four ways, one budget."""
    images, labels = datasets.digits()
    X = images.reshape(len(images), -1).astype(float) / 16
    y = labels.astype(np.int64)
    order = np.random.default_rng([run.seed, 3]).permutation(len(X))
    train, valid, test = np.split(order[:1500], [270, 770])
    bounds = np.log(np.array([[0.05, 100.0], [1e-8, 100.0]]))

    def loss(x: np.ndarray, n: int = len(train), rows=valid, target=y) -> float:
        """Mean squared error of the indicators, logarithms in, first n training samples."""
        model = ours.KernelClassifier(*np.exp(x).tolist()).fit(X[train[:n]], target[train[:n]], 10)
        return float(np.mean((model.decision_function(X[rows]) - np.eye(10)[target[rows]]) ** 2))

    _check_classifier(run, X[train], y[train], X[valid])
    side = run.budget(quick=9, default=21)
    ticks = [np.linspace(low, high, side) for low, high in bounds]
    surface = np.array([[loss(np.array([a, b])) for a in ticks[0]] for b in ticks[1]])
    chance = float(np.mean((0.1 - np.eye(10)[y[valid]]) ** 2))

    searches = {k: [] for k in ("random", "halving", "expected improvement", "linear scale")}
    tuned, example = [], None
    for s in run.progress(range(seeds), "digits"):
        rng = np.random.default_rng([run.seed, 4, s])
        searches["random"].append(
            ours.evaluate(loss, ours.random_points(bounds, budget, rng)).best_so_far
        )
        linear = np.log(ours.random_points(np.exp(bounds), budget, rng))
        searches["linear scale"].append(ours.evaluate(loss, linear).best_so_far)
        search = ours.bayesian_search(loss, bounds, budget, rng)
        searches["expected improvement"].append(search.best_so_far)
        example = search if example is None else example
        best = search.points[search.values.argmin()]
        model = ours.KernelClassifier(*np.exp(best).tolist()).fit(X[train], y[train], 10)
        tuned.append(accuracy(y[test], model.decision_function(X[test]).argmax(axis=1)))
        searches["halving"].append(_halving_progress(loss, bounds, budget, len(train), rng))
    curves = {name: np.array(rows) for name, rows in searches.items()}
    side = math.isqrt(budget)
    grid = float(ours.evaluate(loss, ours.grid_points(bounds, side)).values.min())
    floor = min(_polished(loss, ticks, surface, bounds), grid, example.values.min())
    for name, rows in curves.items():
        run.metric(
            f"digits, loss above the best known: {name}", np.mean(rows[:, -1]) - floor, rtol=None
        )
        run.metric(f"digits, validation loss: {name}", np.mean(rows[:, -1]), rtol=0.1)
    run.metric("digits, validation loss: grid", grid)
    run.metric("digits, test accuracy of the tuned model", np.mean(tuned))
    rand, line = curves["random"][:, -1], curves["linear scale"][:, -1]
    excess = {k: np.log10((rows[:, -1] - floor).clip(min=1e-7)) for k, rows in curves.items()}
    scale_costs = mean_interval(line - rand)
    model_gains = mean_interval(excess["random"] - excess["expected improvement"])
    run.claim(
        "random search on a linear scale loses to random search on a logarithmic one",
        scale_costs.low > 0,
        f"loss {line.mean():.4f} against {rand.mean():.4f}, difference {scale_costs}; predicting "
        f"the mean {chance:.4f}",
        quick=False,
    )
    run.claim(
        "with equal budgets expected improvement ends nearer to the optimum than random search",
        model_gains.low > 0,
        f"factor 10^({model_gains}) in what is left above the best known loss {floor:.5f}; "
        f"{budget} trials each",
        quick=False,
    )
    shuffled = []
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, 5, s])
        target = rng.permutation(y)

        def control(x: np.ndarray, target=target) -> float:
            return loss(x, target=target)

        points = ours.random_points(bounds, budget, rng)
        trace = ours.evaluate(control, points)
        best = points[trace.values.argmin()]
        model = ours.KernelClassifier(*np.exp(best).tolist()).fit(X[train], target[train], 10)
        shuffled.append(accuracy(target[test], model.decision_function(X[test]).argmax(axis=1)))
    control_interval = mean_interval(shuffled, level=0.99)
    run.claim(
        "control: tuned on permuted labels, the classifier is at chance on the test set",
        control_interval.low < 0.13 and np.mean(shuffled) < 0.15 and np.mean(tuned) > 0.8,
        f"accuracy {control_interval}, 99 % interval; with the true labels {mean_interval(tuned)}",
    )
    _draw_digits(run, curves, grid, budget, side, floor)
    _draw_surface(run, ticks, surface, example, bounds, side)


def _polished(loss, ticks, surface, bounds) -> float:
    """The best loss known: the best cell of a fine grid, then downhill from there."""
    from scipy.optimize import minimize

    b, a = np.unravel_index(surface.argmin(), surface.shape)
    start = np.array([ticks[0][a], ticks[1][b]])
    result = minimize(loss, start, method="Nelder-Mead", bounds=bounds, options={"maxfev": 120})
    return float(result.fun)


def _check_classifier(run: Run, X: np.ndarray, y: np.ndarray, new: np.ndarray) -> None:
    from sklearn.kernel_ridge import KernelRidge

    mine = ours.KernelClassifier(2.0, 1e-3).fit(X, y, 10).decision_function(new)
    theirs = KernelRidge(alpha=1e-3, kernel="rbf", gamma=1 / 8).fit(X, np.eye(10)[y] - 0.1)
    run.check(
        "kernel classifier",
        mine,
        theirs.predict(new) + 0.1,
        against="sklearn.kernel_ridge.KernelRidge",
        atol=1e-9,
        why="rounding times the condition of K + ridge, up to 3e5",
    )


def _halving_progress(loss, bounds, budget: int, most: int, rng) -> np.ndarray:
    """Full-data loss of the leader after each unit of cost; NaN before the first rung is done.

    27 candidates at a ninth of the data, 9 at a third and 3 in full cost 9 full trainings; the
    rounds are repeated with new candidates until the budget is spent. Cost is counted in training
    samples.
    """
    progress, best = np.full(budget, np.nan), math.inf
    for start in range(0, budget - 8, 9):
        points = ours.random_points(bounds, 27, rng)
        rungs = ours.successive_halving(
            lambda c, n, points=points: loss(points[c], n),
            27,
            min_resource=most // 9,
            max_resource=most,
        )
        for done, rung in zip((3, 6, 9), rungs, strict=True):
            leader = loss(points[rung.candidates[np.argmin(rung.values)]])  # to draw; not charged
            best = min(best, leader)
            progress[start + done - 1 :] = best
    return progress


def _draw_digits(run: Run, curves, grid: float, budget: int, side: int, floor: float) -> None:
    title = "How far from the best loss known, after so much training?"
    with run.figure("digits", title, size=(8.0, 4.4)) as ax:
        cost = np.arange(1, budget + 1)
        colors = (plots.ORANGE, plots.PINK, plots.BLUE, plots.GRAY)
        names = {
            "random": "random",
            "halving": "successive\nhalving",
            "expected improvement": "expected\nimprovement",
            "linear scale": "random on a\nlinear scale",
        }
        for (name, rows), color in zip(curves.items(), colors, strict=True):
            there = np.isfinite(rows).all(axis=0)
            left = (rows[:, there] - floor).clip(min=1e-6)
            low, middle, high = np.quantile(left, [0.25, 0.5, 0.75], axis=0)
            ax.fill_between(cost[there], low, high, color=color, alpha=0.18, lw=0, step="post")
            ax.step(cost[there], middle, color=color, label=names[name], where="post")
        ax.plot(side * side, grid - floor, "s", color=plots.GREEN, ms=7, zorder=5)
        ax.annotate(
            f"grid {side} × {side}",
            (side * side, grid - floor),
            (-8, 8),
            textcoords="offset points",
            color=plots.GREEN,
            ha="right",
        )
        ax.set(yscale="log", xlabel="cost (trainings on all 270 samples)", ylim=(1e-6, 0.3))
        ax.set(ylabel="validation loss − best known\n(median and quartiles)")
        plots.label_lines(ax, gap=0.06)


def _draw_surface(run: Run, ticks, surface, search, bounds, side: int) -> None:
    title = "Where did the trials go?"
    with run.figure("surface", title, columns=3, size=(8.0, 3.5), sharey=True) as axes:
        rng = np.random.default_rng([run.seed, 6])
        n = len(search.points)
        sets = (
            (f"grid {side} × {side}", ours.grid_points(bounds, side)),
            ("random", ours.random_points(bounds, n, rng)),
            ("expected improvement", search.points),
        )
        scale = 1 / np.log(10)
        for ax, (name, points) in zip(axes, sets, strict=True):
            ax.contourf(
                ticks[0] * scale, ticks[1] * scale, np.log(surface), 14, cmap="Blues_r", alpha=0.8
            )
            ax.plot(*(points.T * scale), "o", color=plots.ORANGE, ms=4, mec="white", mew=0.5)
            ax.set_title(name, fontsize=11, weight="normal")
            ax.set_xlabel("log₁₀ length scale")
            ax.grid(False)
        axes[0].set_ylabel("log₁₀ ridge")


def main(run: Run, *, budget: PositiveInt = 36, seeds: PositiveInt = 10) -> None:
    """Check the process, EI and halving; then let four searches spend the same budget.

    Parameters
    ----------
    budget
        Trials of each search, in units of one full training; a grid takes the nearest square below.
    seeds
        Repetitions of each search.
    """
    if budget < 9:
        raise ValueError(f"budget must be at least 9, got {budget}")
    check_process(run)
    check_expected_improvement(run)
    check_halving(run)
    one_dimension(run)
    seeds = min(seeds, run.budget(quick=3, default=seeds))
    budget = min(budget, run.budget(quick=16, default=budget))
    effective_dimension(run, run.budget(quick=20, default=200))
    tune_branin(run, budget, seeds)
    tune_digits(run, budget, seeds)
