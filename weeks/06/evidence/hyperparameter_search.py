"""What `hyperparameter_search.py` and `gaussian_process.py` are measured by, and four searches."""

import math
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week06 import hyperparameter_search as ours
from week06.gaussian_process import GaussianProcess, fit_by_likelihood
from week06.metrics import accuracy

Loss = Callable[..., float]
BRANIN = np.array([[-5.0, 10.0], [0.0, 15.0]])
BRANIN_MINIMUM = 0.39788735772973816  # Jones, Schonlau and Welch (1998), at (π, 2.275)
DIGITS = np.log([[0.05, 100.0], [1e-8, 100.0]])  # length scale and ridge
ONE_AXIS = "if one axis of three matters, 64 random points come closer to the optimum than a grid"
NARROW = "on Branin's function expected improvement ends ten times nearer to the minimum"
SCALE = "random search on a linear scale loses to random search on a logarithmic one"
NEARER = "with equal budgets expected improvement ends nearer to the optimum than random search"
CHANCE = "tuned on permuted labels, the classifier is at chance on the test set"


def main(run: Run, *, budget: PositiveInt = 36, seeds: PositiveInt = 20) -> None:
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
    seeds = min(seeds, run.budget(quick=2, default=seeds))
    budget = min(budget, run.budget(quick=10, default=budget))
    with threadpool_limits(1):  # on matrices so small, threads only wait for each other
        effective_dimension(run, run.budget(quick=20, default=200))
        tune_branin(run, budget, seeds)
        tune_digits(run, budget, seeds)


# ---- checks


def check_process(run: Run) -> None:
    """Prediction and likelihood at fixed hyper-parameters."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    rng = np.random.default_rng(run.seed)
    X, new = rng.uniform(size=(30, 3)), rng.uniform(size=(40, 3))
    y = np.sin(4 * X[:, 0]) + X[:, 1] * X[:, 2]
    mine = GaussianProcess(0.4, 2.0, 1e-3).fit(X, y)
    kernel = ConstantKernel(2.0) * Matern(0.4, nu=2.5)
    theirs = GaussianProcessRegressor(kernel, alpha=1e-3, optimizer=None).fit(X, y)
    why = "rounding times the condition of K, about 1e4"
    equal = run.against("sklearn GaussianProcessRegressor", atol=1e-7, why=why)
    expected = np.stack(theirs.predict(new, return_std=True))
    equal("mean and deviation of new points", np.stack(mine.predict(new)), expected)
    both = mine.log_marginal_likelihood_, theirs.log_marginal_likelihood_value_
    equal("log marginal likelihood", *both, rtol=1e-7, atol=0)


def check_expected_improvement(run: Run) -> None:
    """The closed form against quadrature."""
    from scipy.integrate import quad
    from scipy.stats import norm

    mean, std, best = np.linspace(-2, 2, 9), np.linspace(0.2, 1.5, 9), 0.3

    def gain_of(m: float, s: float) -> float:
        inside = (m - 12 * s, best)
        return quad(lambda f: (best - f) * norm.pdf(f, m, s), *inside, epsabs=1e-13)[0]

    exact = [gain_of(m, s) for m, s in zip(mean, std, strict=True)]
    equal = run.against("scipy.integrate.quad", atol=1e-9, why="the quadrature's own error")
    equal("expected improvement", ours.expected_improvement(mean, std, best), exact)


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

    limits = {"max_resources": 81, "min_resources": 1, "cv": 2, "refit": False}
    why = "the same candidates at the same cost or not"
    equal = run.against("sklearn HalvingGridSearchCV", why=why)
    for factor in (2, 3):
        rungs = ours.successive_halving(loss, 40, min_resource=1, max_resource=81, factor=factor)
        mine = {(i, int(c), r.resource) for i, r in enumerate(rungs) for c in r.candidates}
        grid = {"candidate": list(range(40))}
        search = HalvingGridSearchCV(Scored(), grid, resource="resource", factor=factor, **limits)
        found = search.fit(np.zeros((10, 1)), np.arange(10) % 2).cv_results_
        columns = (found[key] for key in ("iter", "param_candidate", "n_resources"))
        theirs = np.stack([np.asarray(column, dtype=int) for column in columns], axis=1)
        name = f"survivors of halving by {factor}, rung by rung"
        equal(name, np.array(sorted(mine)), np.array(sorted(map(tuple, theirs))))


# ---- pictures and claims


def one_dimension(run: Run) -> None:
    """What the process believes after four trials, and where it would try next."""
    grid, X = np.linspace(0, 1, 400), np.array([0.08, 0.34, 0.62, 0.95])
    options = {"length_scales": np.array([0.15]), "noise_ratios": np.array([1e-6])}
    layout = {"rows": 2, "columns": 2, "sharex": True, "gridspec_kw": {"height_ratios": [3, 1]}}
    title = "Where to try next? Where the mean is low or nobody knows"
    with run.figure("one_dimension", title, size=(8.0, 4.8), **layout) as axes:
        for top, bottom in axes.T:
            truth, y = (np.sin(9 * x) * 0.6 + (x - 0.65) ** 2 * 4 for x in (grid, X))
            process = fit_by_likelihood(X[:, None], y - y.mean(), **options)
            mean, std = process.predict(grid[:, None])
            gain = ours.expected_improvement(mean, std, float(y.min() - y.mean()))
            band = {"mean ± 2 deviations": mean + y.mean() + 2 * std * np.array([[-1], [0], [1]])}
            plots.curves(top, grid, band | {"truth": truth}, ends=False, ylim=(-1.7, 3.1))
            top.plot(X, y, "o", color="black", ms=6)
            plots.curves(bottom, grid, {"expected gain": gain}, colors=[plots.ORANGE], ends=False)
            top.set_title(f"after {len(X)} trials", fontsize=11, weight="normal")
            bottom.set(xlabel="hyper-parameter (scaled)", yticks=[])
            X = np.append(X, grid[gain.argmax()])
        axes[0, 0].set_ylabel("loss")


def effective_dimension(run: Run, repetitions: int) -> None:
    """Bergstra and Bengio's argument: a grid of 64 in 3-D tries 4 values of what matters."""
    left = np.empty((2, 2, repetitions))  # one axis of three or of one; grid or random
    for s in range(repetitions):
        rng = np.random.default_rng([run.seed, 1, s])
        where = rng.uniform()
        for i, d in enumerate((3, 1)):
            bounds = np.tile([0.0, 1.0], (d, 1))
            points = ours.grid_points(bounds, round(64 ** (1 / d)))
            for j, tried in enumerate((points, ours.random_points(bounds, 64, rng))):
                trace = ours.evaluate(lambda x, w=where: float(abs(x[0] - w)), tried)
                left[i, j, s] = trace.values.min()
    grid, rand = left[0]
    why = "4.5 standard errors of the mean"
    mean = run.against("1/16, by integration", kind="theorem", why=why)  # cells of width 1/4
    error = grid.std() / math.sqrt(repetitions)
    mean("mean distance of the best of a 4 × 4 × 4 grid", grid.mean(), 1 / 16, atol=4.5 * error)
    run.metric("distance left by a grid of 64, one axis of three matters", grid.mean(), rtol=0.1)
    run.metric("distance left by 64 random points", rand.mean(), rtol=0.15)
    run.claim(ONE_AXIS, grid - rand, at_least=0, note="distance of the grid minus random")
    run.falsifier("one axis in all", left[1, 0] - left[1, 1], breaks=ONE_AXIS)


def tune_branin(run: Run, budget: int, seeds: int) -> None:
    """A function whose minimum is known."""
    minima = ((-math.pi, 12.275), (math.pi, 2.275), (3 * math.pi, 2.475))
    equal = run.against("Jones, Schonlau and Welch (1998)", atol=1e-12, why="rounding")
    found = [ours.branin(np.array(x)) for x in minima]
    equal("Branin at its three minima", found, np.full(3, BRANIN_MINIMUM), kind="theorem")
    paths = {"expected improvement": [], "random": [], "other random points": []}
    for s in run.progress(range(seeds), "Branin"):
        rngs = [np.random.default_rng([run.seed, 2, s]) for _ in range(2)]
        search = ours.bayesian_search(ours.branin, BRANIN, budget, rngs[0])
        paths["expected improvement"].append(search.best_so_far)
        for name in ("random", "other random points"):
            points = ours.random_points(BRANIN, budget, rngs[1])
            paths[name].append(ours.evaluate(ours.branin, points).best_so_far)
    paths = {name: (np.array(p) - BRANIN_MINIMUM).clip(min=1e-7) for name, p in paths.items()}
    model, rand, others = (np.log10(p[:, -1]) for p in paths.values())
    note = "log10 of the distance, random search minus expected improvement"
    seen = "that medians over ten seeds were a factor of 140 apart"
    run.claim(NARROW, rand - model, at_least=1, note=note, seen_before=seen, quick=False)
    run.falsifier("other random points in its place", rand - others, breaks=NARROW)
    title = "How close to Branin's minimum after so many trials?"
    with run.figure("branin", title, size=(8.0, 4.2)) as ax:
        del paths["other random points"]
        labels = {"xlabel": "trials", "ylabel": "best value − minimum\n(median and quartiles)"}
        draw_searches(ax, paths, (plots.ORANGE, plots.BLUE), **labels)


def tune_digits(run: Run, budget: int, seeds: int) -> None:
    """A kernel classifier of digits: length scale and ridge, four ways, one budget."""
    from sklearn.kernel_ridge import KernelRidge

    images, labels = datasets.digits()
    X, y = images.reshape(len(images), -1).astype(float) / 16, labels.astype(np.int64)
    order = np.random.default_rng([run.seed, 3]).permutation(len(X))
    train, valid, test = np.split(order[:1500], [270, 770])

    def fitted(x: np.ndarray, n: int, target: np.ndarray) -> KernelRidge:
        """Ridge regression of the classes' indicators, minus their mean."""
        length_scale, ridge = np.exp(x).tolist()
        model = KernelRidge(alpha=ridge, kernel="rbf", gamma=0.5 / length_scale**2)
        return model.fit(X[train[:n]], np.eye(10)[target[train[:n]]] - 0.1)

    def loss(x: np.ndarray, n: int = len(train), target: np.ndarray = y) -> float:
        """Mean squared error of the indicators, logarithms in, first n training samples."""
        outputs = fitted(x, n, target).predict(X[valid]) + 0.1
        return float(np.mean((outputs - np.eye(10)[target[valid]]) ** 2))

    def tested(trace: ours.Trace, target: np.ndarray) -> float:
        model = fitted(trace.points[trace.values.argmin()], len(train), target)
        return accuracy(target[test], model.predict(X[test]).argmax(axis=1))

    paths = {k: [] for k in ("random", "halving", "expected improvement", "linear scale")}
    tuned, shuffled = [], []
    for s in run.progress(range(seeds), "digits"):
        rng = np.random.default_rng([run.seed, 4, s])
        points = ours.random_points(DIGITS, budget, rng)
        paths["random"].append(ours.evaluate(loss, points).best_so_far)
        points = np.log(ours.random_points(np.exp(DIGITS), budget, rng))
        paths["linear scale"].append(ours.evaluate(loss, points).best_so_far)
        search = ours.bayesian_search(loss, DIGITS, budget, rng)
        paths["expected improvement"].append(search.best_so_far)
        paths["halving"].append(halving_progress(loss, budget, len(train), rng))
        tuned.append(tested(search, y))
        rng = np.random.default_rng([run.seed, 5, s])
        target = rng.permutation(y)
        points = ours.random_points(DIGITS, budget, rng)
        trace = ours.evaluate(lambda x, t=target: loss(x, target=t), points)
        shuffled.append(tested(trace, target))
    paths = {name: np.array(rows) for name, rows in paths.items()}
    last = {name: rows[:, -1] for name, rows in paths.items()}
    for name in ("expected improvement", "random", "linear scale"):
        run.metric(f"digits, validation loss: {name}", last[name].mean(), rtol=0.1)
    side = math.isqrt(budget)
    grid = float(ours.evaluate(loss, ours.grid_points(DIGITS, side)).values.min())
    floor = min(best_known(loss, run.budget(quick=9, default=21)), grid)
    floor = min(floor, *(rows.min() for rows in last.values()))
    left = {name: np.log10((rows - floor).clip(min=1e-7)) for name, rows in last.items()}
    note = "validation loss, linear minus logarithmic"
    run.claim(SCALE, last["linear scale"] - last["random"], at_least=0, note=note, quick=False)
    note = "log10 of what is left above the best known loss, random minus expected improvement"
    difference = left["random"] - left["expected improvement"]
    run.claim(NEARER, difference, at_least=0, note=note, quick=False)
    difference = left["random"] - left["linear scale"]
    run.falsifier("a linear scale in its place", difference, breaks=NEARER)
    run.claim(CHANCE, shuffled, at_most=0.15, note="accuracy of ten classes")
    run.falsifier("true labels", tuned, breaks=CHANCE)
    title = "How far from the best loss known, after so much training?"
    with run.figure("digits", title, size=(8.0, 4.4)) as ax:
        above = {name: (rows - floor).clip(min=1e-6) for name, rows in paths.items()}
        labels = {"xlabel": f"cost (trainings on all {len(train)} samples)", "ylim": (1e-6, 0.3)}
        labels["ylabel"] = "validation loss − best known\n(median and quartiles)"
        draw_searches(ax, above, (plots.ORANGE, plots.PINK, plots.BLUE, plots.GRAY), **labels)
        plots.reference_line(ax, grid - floor, f"grid {side} × {side}, when all of it is done")


def best_known(loss: Loss, side: int) -> float:
    """The best cell of a fine grid, then downhill from there."""
    from scipy.optimize import minimize

    trace = ours.evaluate(loss, ours.grid_points(DIGITS, side))
    start, options = trace.points[trace.values.argmin()], {"maxfev": 120}
    return float(minimize(loss, start, method="Nelder-Mead", bounds=DIGITS, options=options).fun)


def halving_progress(loss: Loss, budget: int, most: int, rng: np.random.Generator) -> np.ndarray:
    """Full-data loss of the leader after each unit of cost; NaN before the first rung is done.

    27 candidates at a ninth of the data, 9 at a third and 3 in full cost 9 full trainings; the
    rounds are repeated with new candidates until the budget is spent. Cost is counted in training
    samples.
    """
    progress, best = np.full(budget, np.nan), math.inf
    for start in range(0, budget - 8, 9):
        points = ours.random_points(DIGITS, 27, rng)
        limits = {"min_resource": most // 9, "max_resource": most}
        rungs = ours.successive_halving(lambda c, n, p=points: loss(p[c], n), 27, **limits)
        for done, rung in zip((3, 6, 9), rungs, strict=True):
            leader = loss(points[rung.candidates[np.argmin(rung.values)]])  # to draw; not charged
            best = min(best, leader)
            progress[start + done - 1 :] = best
    return progress


def draw_searches(ax, paths: dict[str, np.ndarray], colors: tuple, **labels) -> None:
    """Median and quartiles of each search by its cost, on a logarithmic axis."""
    for (name, rows), color in zip(paths.items(), colors, strict=True):
        cost = 1 + np.flatnonzero(np.isfinite(rows).all(axis=0))
        low, middle, high = np.quantile(rows[:, cost - 1], [0.25, 0.5, 0.75], axis=0)
        ax.fill_between(cost, low, high, color=color, alpha=0.18, lw=0, step="post")
        ax.step(cost, middle, color=color, label=name.replace(" ", "\n"), where="post")
    ax.set(yscale="log", **labels)
    plots.label_lines(ax, gap=0.06)
