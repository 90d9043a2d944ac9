"""Checks, claims and figures of svm."""

import warnings

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week05.smo import SELECTIONS, kernel_matrix, objectives, smo
from week05.svm import SVC

LIBSVM = "sklearn.svm.SVC (LIBSVM)"
NAMES = {"linear": "linear", "rbf": "RBF", "poly": "cubic"}


def breast_cancer() -> tuple[Float[np.ndarray, "n p"], Int[np.ndarray, " n"]]:
    """The 569 tumours, 30 measurements each, as they come; 1 is benign."""
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def standardized(X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Columns with mean 0 and variance 1."""
    return (X - X.mean(axis=0)) / X.std(axis=0)


def moons(n: int, seed: int) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
    """Two interleaved half circles with noise 0.25."""
    from sklearn.datasets import make_moons

    return make_moons(n, noise=0.25, random_state=seed)


# ---- checks


def check_against_sklearn(run: Run) -> None:
    """Same optimum, support vectors, outputs and labels as LIBSVM, on three data sets."""
    X, y = breast_cancer()
    X = standardized(X)
    for kernel in NAMES:
        _check_one(run, f"breast cancer, {NAMES[kernel]}", X[:400], y[:400], X[400:], kernel=kernel)
    _check_one(run, "moons, RBF, C = 100", *moons(300, 0), moons(200, 1)[0], C=100.0)
    images, digits = datasets.digits()
    X, n = images.reshape(len(images), -1).astype(float), run.budget(quick=500, default=1200)
    _check_one(run, "digits, RBF, 45 pairs", X[:n], digits[:n], X[n:])
    _check_one(run, "digits, linear, 45 pairs", X[:n], digits[:n], X[n:], kernel="linear")


def _check_one(
    run: Run,
    name: str,
    X: Float[np.ndarray, "n p"],
    y: Shaped[np.ndarray, " n"],
    unseen: Float[np.ndarray, "m p"],
    **options,
) -> None:
    from sklearn.svm import SVC as Reference

    options |= {"tol": 1e-6, "decision_function_shape": "ovo"}
    ours, reference = SVC(**options).fit(X, y), Reference(**options).fit(X, y)
    run.check(f"{name}: dual objective", ours.dual_objective_,
              dual_objectives_of(reference, X, y), against=LIBSVM, rtol=1e-6,
              why="both stop at violations of 1e-6; LIBSVM's kernel is float32")  # fmt: skip
    run.check(f"{name}: support vectors", ours.support_, reference.support_, against=LIBSVM,
              why="the same rows, exactly")  # fmt: skip
    run.check(f"{name}: outputs on unseen data", ours.decision_function(unseen),
              reference.decision_function(unseen), against=LIBSVM, atol=1e-4,
              why="LIBSVM rounds its kernel to float32: 6e-8, times Σ α")  # fmt: skip
    run.check(f"{name}: predicted classes", ours.predict(unseen), reference.predict(unseen),
              against=LIBSVM, why="the same labels, exactly")  # fmt: skip
    if name.startswith("breast"):
        run.metric(f"{name}: support vectors of 400 samples", len(ours.support_))


def dual_objectives_of(
    machine: object, X: Float[np.ndarray, "n p"], y: Shaped[np.ndarray, " n"]
) -> Float[np.ndarray, " n_pairs"]:
    """Dual objective of every pair's machine in a fitted `sklearn.svm.SVC`.

    Row a of its `dual_coef_` holds, for the support vectors of class b > a, those of machine
    (a, b); for those of class b <= a, of machine (b, a + 1).
    """
    kernel = kernel_matrix(
        machine.support_vectors_, machine.support_vectors_, machine.kernel,
        gamma=machine._gamma, degree=machine.degree, coef0=machine.coef0,
    )  # fmt: skip
    start = np.concatenate([[0], np.cumsum(machine.n_support_)])
    found, n_classes = [], len(machine.classes_)
    for a in range(n_classes):
        for b in range(a + 1, n_classes):
            first, second = slice(start[a], start[a + 1]), slice(start[b], start[b + 1])
            rows = np.r_[first, second]
            u = np.concatenate([machine.dual_coef_[b - 1, first], machine.dual_coef_[a, second]])
            found.append(np.abs(u).sum() - u @ kernel[np.ix_(rows, rows)] @ u / 2)
    return np.array(found)


def check_optimality(run: Run) -> None:
    """The Karush-Kuhn-Tucker conditions, sample by sample, and the duality gap."""
    X, y = breast_cancer()
    X, y, C = standardized(X), np.where(y == 1, 1.0, -1.0), 1.0
    K = kernel_matrix(X, X, "rbf", gamma=1 / X.shape[1])
    alpha, errors, bias, _, _ = smo(K, y, C, tol=1e-9)
    margin = y * (K @ (alpha * y) + bias)
    broken = np.select(
        [alpha == 0, alpha == C], [np.maximum(0, 1 - margin), np.maximum(0, margin - 1)],
        np.abs(margin - 1),
    )  # fmt: skip
    why = "tol = 1e-9 on pairs of samples, and rounding of 569 terms"
    run.check("KKT: margin is ≥ 1, = 1, ≤ 1 at α = 0, between, C", broken, np.zeros_like(broken),
              against="Karush-Kuhn-Tucker conditions", atol=3e-9, why=why)  # fmt: skip
    run.check("KKT: Σ α y", alpha @ y, 0.0, against="dual constraint", atol=1e-11,
              why="rounding: each step adds and takes the same")  # fmt: skip
    primal, dual = objectives(alpha, errors, y, C)
    run.check("duality gap", dual, primal, against="strong duality", rtol=1e-7,
              why="at most n C tol = 6e-7 off")  # fmt: skip
    at_bound = int((alpha == C).sum())
    run.say(f"breast cancer, RBF: {int((alpha > 0).sum())} support vectors, {at_bound} at C")


# ---- figures and claims


def show_margins(run: Run) -> None:
    """Six machines on the same moons: three prices of slack, three kernels."""
    X, y = moons(120, 3)
    X = standardized(X)
    settings = [
        ("RBF, C = 0.1", SVC(C=0.1, gamma=1.0)),
        ("RBF, C = 1", SVC(C=1.0, gamma=1.0)),
        ("RBF, C = 1000", SVC(C=1000.0, gamma=1.0)),
        ("linear, C = 1", SVC(kernel="linear")),
        ("cubic, C = 1", SVC(kernel="poly", gamma=1.0, coef0=1.0)),
        ("RBF, γ = 30", SVC(gamma=30.0)),
    ]
    with run.figure(
        "margins", "Where does the boundary run, and on which points (ringed) does it rest?",
        rows=2, columns=3, size=(8.0, 5.9), sharex=True, sharey=True,
    ) as axes:  # fmt: skip
        for ax, (name, machine) in zip(axes.flat, settings, strict=True):
            _draw_machine(ax, machine.fit(X, y), X, y)
            ax.set_title(f"{name}: {len(machine.support_)} of {len(X)}", fontsize=10.5)
            run.metric(f"moons, {name}: support vectors", len(machine.support_))
        for ax in axes[:, 0]:
            ax.set_ylabel("second feature (s.d.)")
        for ax in axes[1]:
            ax.set_xlabel("first feature (s.d.)")


def _draw_machine(
    ax: Axes, machine: SVC, X: Float[np.ndarray, "n 2"], y: Int[np.ndarray, " n"]
) -> None:
    low, high = X.min(axis=0) - 0.5, X.max(axis=0) + 0.5
    grid = np.meshgrid(np.linspace(low[0], high[0], 160), np.linspace(low[1], high[1], 160))
    height = machine.decision_function(np.column_stack([g.ravel() for g in grid]))
    height = height.reshape(grid[0].shape)
    ax.contourf(*grid, height, [-np.inf, 0, np.inf], colors=["#DDEBF5", "#FAE5D8"])
    ax.contour(*grid, height, [-1, 0, 1], colors=plots.REFERENCE, linewidths=[0.9, 1.8, 0.9],
               linestyles=["--", "-", "--"])  # fmt: skip
    held = np.isin(np.arange(len(X)), machine.support_)
    for label, color in ((0, plots.BLUE), (1, plots.ORANGE)):
        ax.scatter(*X[(y == label) & ~held].T, s=9, color=color, alpha=0.55, linewidths=0)
        ax.scatter(*X[(y == label) & held].T, s=26, facecolor=color, edgecolor="#111111",
                   linewidths=0.9)  # fmt: skip
    ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    ax.grid(False)


def show_convergence(run: Run, seeds: int) -> None:
    """Primal and dual approach each other; the second-order choice takes fewer steps."""
    X, y = breast_cancer()
    X, y, C = standardized(X), np.where(y == 1, 1.0, -1.0), 10.0
    K = kernel_matrix(X, X, "rbf", gamma=1 / X.shape[1])
    paths = {}
    for selection in SELECTIONS:
        path = []

        def watch(alpha, errors, path=path):
            path.append(objectives(alpha, errors, y, C))

        smo(K, y, C, tol=1e-6, selection=selection, watch=watch)
        primal, dual = np.array(path).T
        # A larger primal than one seen before proves nothing: the best so far is the certificate.
        paths[selection] = np.minimum.accumulate(primal), dual
        worst = max(0.0, float((dual[:-1] - dual[1:]).max()))
        run.check(f"the dual never falls, {selection}", worst, 0.0, atol=1e-10,
                  against="each step maximizes over two variables",
                  why="rounding of a sum of 569 terms of size 10")  # fmt: skip
    ratios = []
    for seed in range(seeds):
        rows = np.random.default_rng([run.seed, seed]).permutation(len(X))[: len(X) // 2]
        steps = [smo(K[np.ix_(rows, rows)], y[rows], C, selection=s).n_iter for s in SELECTIONS]
        ratios.append(steps[1] / steps[0])
    ratio = mean_interval(ratios)
    run.metric("steps of second order / maximal violating pair", ratio.mean)
    run.claim("choosing the second variable by its gain saves steps", ratio.high < 1,
              f"steps, relative to the maximal violating pair: {ratio}")  # fmt: skip
    _draw_convergence(run, paths)


def _draw_convergence(run: Run, paths: dict) -> None:
    colors = {SELECTIONS[0]: plots.ORANGE, SELECTIONS[1]: plots.BLUE}
    with run.figure(
        "convergence", "How does SMO know that it has arrived? Primal and dual meet",
        columns=2, size=(8.0, 4.0),
    ) as (left, right):  # fmt: skip
        primal, dual = paths[SELECTIONS[1]]
        optimum, steps = dual[-1], np.arange(len(dual))
        left.fill_between(steps, dual, primal, color=plots.GRAY, alpha=0.18, linewidth=0)
        left.plot(steps, primal, color=plots.PINK)
        left.plot(steps, dual, color=plots.GREEN)
        left.axhline(optimum, color=plots.REFERENCE, linewidth=0.9, linestyle=":")
        shown = min(len(dual) - 1, 400)
        left.set(xlim=(0, shown), ylim=(0, 3 * optimum))
        left.text(shown * 0.3, optimum * 1.75, "primal (best so far)", color=plots.PINK)
        left.text(shown * 0.3, optimum * 0.6, "dual", color=plots.GREEN)
        left.text(shown * 0.12, optimum * 1.12, "gap", color="#666666")
        left.set(xlabel="step", ylabel="objective")
        for selection, (primal, dual) in paths.items():
            gap = np.maximum(primal - dual, 1e-300) / optimum
            right.semilogy(gap, color=colors[selection])
            run.metric(f"steps to tol = 1e-6, {selection}", len(gap) - 1)
            at = int(len(gap) * 0.55)
            first = selection == SELECTIONS[0]
            right.annotate(
                "maximal\nviolating\npair" if first else "second\norder", (at, gap[at]),
                (10, 4) if first else (-10, -6), textcoords="offset points", va="bottom" if first
                else "top", ha="left" if first else "right", color=colors[selection],
            )  # fmt: skip
        right.set(xlabel="step", ylabel="duality gap / optimum")
        right.set_xlim(0, max(len(gap) for gap, _ in paths.values()) * 1.12)


def show_memorizing(run: Run, seeds: int) -> None:
    """Failure on display: with a γ too large each training point is an island."""
    gammas = np.logspace(-4, 2, run.budget(quick=4, default=13))
    X, y = breast_cancer()
    rows = []
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, seed]).permutation(len(X))
        train, test = order[:300], order[300:]
        mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
        A, B = (X[train] - mean) / scale, (X[test] - mean) / scale
        machines = [SVC(C=10.0, gamma=float(g)).fit(A, y[train]) for g in gammas]
        rows.append([(m.score(A, y[train]), m.score(B, y[test]), len(m.support_) / len(A))
                     for m in machines])  # fmt: skip
    training, test, share = np.array(rows).transpose(2, 0, 1)
    at = int(test.mean(axis=0).argmax())
    majority = max(y.mean(), 1 - y.mean())
    last = mean_interval(test[:, -1])
    run.metric("best test accuracy over γ", test[:, at].mean())
    run.metric("test accuracy at γ = 100", last.mean)
    run.metric("share of samples that are support vectors at γ = 100", share[:, -1].mean())
    run.claim(
        "an RBF kernel that is too narrow is right on all it has seen and knows nothing else",
        bool((training[:, -1] == 1).all() and last.high < majority + 0.05),
        f"γ = 100: training accuracy {training[:, -1].min():.3f} at least, test {last}; always "
        f"saying benign gives {majority:.3f}",
    )
    with run.figure(
        "memorizing", "When does the RBF kernel stop learning and start memorizing?"
    ) as ax:
        for values, color, label, place in (
            (training, plots.ORANGE, "training accuracy", (0.45, 1.02)),
            (test, plots.BLUE, "test accuracy", (1.5, 0.7)),
            (share, plots.GRAY, "share of samples that\nare support vectors", (1.4e-4, 0.47)),
        ):
            plots.interval_band(ax, gammas, values, color=color, label=label)
            ax.text(*place, label, color="#666666" if color == plots.GRAY else color)
        ax.axhline(majority, color=plots.REFERENCE, linestyle=":", linewidth=1)
        ax.text(gammas[0], majority + 0.015, "always “benign”", color=plots.REFERENCE)
        ax.axvline(1 / X.shape[1], color=plots.REFERENCE, linestyle="--", linewidth=1)
        ax.text(1.15 / X.shape[1], 0.02, "γ = 1 / 30, “scale”", color=plots.REFERENCE, fontsize=10)
        ax.set(xscale="log", xlabel="γ (per squared standard deviation)", ylim=(0, 1.08))
        ax.set_ylabel(f"share (mean and range, {len(test)} splits)")


def unscaled_features(run: Run) -> None:
    """Raw measurements from 0.001 to 4,000 make a valley that two-variable steps cannot leave."""
    X, y = breast_cancer()
    limit = run.budget(quick=3000, default=50_000)
    scaled = SVC(kernel="linear").fit(standardized(X), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not converge is the point
        raw = SVC(kernel="linear", max_iter=limit).fit(X, y)
    run.metric("linear SVM on scaled measurements: steps", scaled.n_iter_[0], rtol=0.05)
    run.metric("linear SVM on raw measurements: violation left", raw.violation_[0], rtol=None)
    run.claim(
        "features that are not scaled stall SMO",
        bool(raw.n_iter_[0] == limit and scaled.n_iter_[0] < limit),
        f"scaled: {scaled.n_iter_[0]:,} steps; raw: not there after {limit:,}, violation "
        f"{raw.violation_[0]:.2g}, tol 0.001",
    )


def permuted_labels(run: Run, seeds: int) -> None:
    """Control: labels dealt at random leave nothing to learn."""
    images, labels = datasets.digits()
    X, n = images.reshape(len(images), -1).astype(float), run.budget(quick=300, default=600)
    accuracies = []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 100, seed])
        order = rng.permutation(len(X))
        train, test = order[:n], order[n:]
        accuracies.append(SVC().fit(X[train], rng.permutation(labels[train]))
                          .score(X[test], labels[test]))  # fmt: skip
    real = SVC().fit(X[train], labels[train]).score(X[test], labels[test])
    chance = mean_interval(accuracies)
    run.metric("digits: test accuracy", real)
    run.claim(
        "control: with permuted labels digits are told apart as by chance, 1 in 10",
        chance.low < 0.1 < chance.high < 0.5 * real,
        f"test accuracy {chance}; with the true labels {real:.3f}",
    )


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check SMO against LIBSVM, look at margins and at convergence, and overfit on purpose.

    Parameters
    ----------
    seeds
        Repetitions of each claim that involves chance.
    """
    seeds = run.budget(quick=3, default=seeds, full=3 * seeds)
    check_against_sklearn(run)
    check_optimality(run)
    show_margins(run)
    show_convergence(run, seeds)
    show_memorizing(run, seeds)
    unscaled_features(run)
    permuted_labels(run, seeds)
