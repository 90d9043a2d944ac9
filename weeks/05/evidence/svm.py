"""What `svm.py` is measured by: LIBSVM, optimality conditions, and machines that fail."""

import warnings

import numpy as np
from jaxtyping import Float, Int, Shaped
from matplotlib.axes import Axes

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week05.smo import SELECTIONS, kernel_matrix, objectives, smo, smo_steps
from week05.svm import SVC

KERNELS = {"linear": "linear", "rbf": "RBF", "poly": "cubic"}
NARROW = "on unseen data an RBF kernel that is too narrow is hardly better than the commoner class"
STALLED = "SMO is not there after as many steps on measurements that are not scaled"
CHANCE = "with permuted labels digits are told apart as by chance, 1 in 10"


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Check SMO against LIBSVM, look at margins and at convergence, and overfit on purpose.

    Parameters
    ----------
    seeds
        Repetitions of each claim that involves chance.
    """
    seeds = run.budget(quick=2, default=seeds, full=3 * seeds)
    table = datasets.bundled("breast_cancer")
    raw, y = table.data, table.target  # 30 measurements of 569 tumors; 1 is benign
    X = standardized(raw)
    images, labels = datasets.digits()
    digits = images.reshape(len(images), -1).astype(float)
    check_against_libsvm(run, X, y, digits, labels)
    check_optimality(run, X, y)
    show_margins(run)
    show_convergence(run, X, y, seeds)
    show_memorizing(run, raw, y, seeds)
    unscaled_features(run, raw, y)
    permuted_labels(run, digits, labels, seeds)


def standardized(X: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Columns with mean 0 and variance 1."""
    return (X - X.mean(axis=0)) / X.std(axis=0)


def moons(n: int, seed: int) -> tuple[Float[np.ndarray, "n 2"], Int[np.ndarray, " n"]]:
    """Two interleaved half circles with noise 0.25."""
    from sklearn.datasets import make_moons

    return make_moons(n, noise=0.25, random_state=seed)


# ---- checks


def check_against_libsvm(run: Run, X, y, digits, labels) -> None:
    """Same optimum, support vectors, outputs and labels as LIBSVM, on three data sets."""
    from sklearn.svm import SVC as Reference

    n, m = run.budget(quick=120, default=400), run.budget(quick=150, default=1200)
    moon = *moons(run.budget(quick=80, default=300), 0), moons(200, 1)[0]
    cases = {
        f"breast cancer, {name}": (X[:n], y[:n], X[n:], {"kernel": kernel})
        for kernel, name in KERNELS.items()
    }
    cases["moons, RBF, C = 100"] = (*moon, {"C": 100.0})
    cases["digits, RBF, 45 pairs"] = (digits[:m], labels[:m], digits[m:], {})
    why = "both stop at violations of 1e-6; LIBSVM rounds its kernel to float32: 6e-8, times Σ α"
    equal = run.against("sklearn.svm.SVC (LIBSVM)", why=why)
    for name, (A, b, unseen, options) in cases.items():
        options |= {"tol": 1e-6, "decision_function_shape": "ovo"}
        ours, theirs = SVC(**options).fit(A, b), Reference(**options).fit(A, b)
        outputs = (model.decision_function(unseen) for model in (ours, theirs))
        if len(ours.classes_) == 2:
            how = {"gamma": theirs._gamma, "degree": theirs.degree, "coef0": theirs.coef0}
            kernel = kernel_matrix(*[theirs.support_vectors_] * 2, theirs.kernel, **how)
            u = theirs.dual_coef_
            dual = np.abs(u).sum(axis=1) - (u @ kernel * u).sum(axis=1) / 2
            equal(f"{name}: dual objective", ours.dual_objective_, dual, rtol=1e-6)
        equal(f"{name}: support vectors", ours.support_, theirs.support_)
        equal(f"{name}: outputs on unseen data", *outputs, atol=1e-4)
        if name in ("breast cancer, linear", "breast cancer, RBF"):
            run.metric(f"{name}: support vectors of 400 samples", len(ours.support_))


def check_optimality(run: Run, X, y) -> None:
    """The Karush-Kuhn-Tucker conditions, sample by sample, and the duality gap."""
    n = run.budget(quick=150, default=len(X))
    X, y, C = X[:n], np.where(y[:n] == 1, 1.0, -1.0), 1.0
    K = kernel_matrix(X, X, "rbf", gamma=1 / X.shape[1])
    alpha, errors, bias, _, _ = smo(K, y, C, tol=1e-9)
    margin = y * (K @ (alpha * y) + bias)
    outside, inside = np.maximum(0, 1 - margin), np.maximum(0, margin - 1)
    broken = np.select([alpha == 0, alpha == C], [outside, inside], np.abs(margin - 1))
    why = "tol = 1e-9 on pairs of samples, and rounding of 569 terms"
    equal = run.against("Karush-Kuhn-Tucker conditions", kind="theorem", atol=3e-9, why=why)
    equal("KKT: margin is ≥ 1, = 1, ≤ 1 at α = 0, between, C", broken, np.zeros(n))
    primal, dual = objectives(alpha, errors, y, C)
    why = "at most n C tol = 6e-7 off"
    equal = run.against("strong duality", kind="theorem", rtol=1e-7, why=why)
    equal("duality gap", dual, primal)


# ---- figures and claims


def show_margins(run: Run) -> None:
    """Six machines on the same moons: three prices of slack, three kernels."""
    X, y = moons(120, 3)
    X = standardized(X)
    settings = {
        "RBF, C = 0.1": SVC(C=0.1, gamma=1.0),
        "RBF, C = 1": SVC(C=1.0, gamma=1.0),
        "RBF, C = 1000": SVC(C=1000.0, gamma=1.0),
        "linear, C = 1": SVC(kernel="linear"),
        "cubic, C = 1": SVC(kernel="poly", gamma=1.0, coef0=1.0),
        "RBF, γ = 30": SVC(gamma=30.0),
    }
    title = "Where does the boundary run, and on which points (ringed) does it rest?"
    layout = {"rows": 2, "columns": 3, "size": (8.0, 5.9), "sharex": True, "sharey": True}
    with run.figure("margins", title, **layout) as axes:
        for ax, (name, machine) in zip(axes.flat, settings.items(), strict=True):
            draw_machine(ax, machine.fit(X, y), X, y)
            ax.set_title(f"{name}: {len(machine.support_)} of {len(X)}", fontsize=10.5)
        for ax in axes[:, 0]:
            ax.set_ylabel("second feature (s.d.)")
        for ax in axes[1]:
            ax.set_xlabel("first feature (s.d.)")


def draw_machine(
    ax: Axes, machine: SVC, X: Float[np.ndarray, "n 2"], y: Int[np.ndarray, " n"]
) -> None:
    """The boundary, both margins, and the points, support vectors ringed."""
    across, up = np.linspace(X.min(axis=0) - 0.5, X.max(axis=0) + 0.5, 160).T
    grid = np.stack(np.meshgrid(across, up), axis=-1)
    height = machine.decision_function(grid.reshape(-1, 2)).reshape(160, 160)
    ax.contourf(across, up, height, [-np.inf, 0, np.inf], colors=["#DDEBF5", "#FAE5D8"])
    style = {"linewidths": [0.9, 1.8, 0.9], "linestyles": ["--", "-", "--"]}
    ax.contour(across, up, height, [-1, 0, 1], colors=plots.REFERENCE, **style)
    held, ring = np.isin(np.arange(len(X)), machine.support_), {"edgecolor": "#111111"}
    for label, color in ((0, plots.BLUE), (1, plots.ORANGE)):
        ax.scatter(*X[(y == label) & ~held].T, s=9, color=color, alpha=0.55, linewidths=0)
        ax.scatter(*X[(y == label) & held].T, s=26, facecolor=color, linewidths=0.9, **ring)
    ax.grid(False)


def show_convergence(run: Run, X, y, seeds: int) -> None:
    """Primal and dual approach each other; the second-order choice takes fewer steps."""
    n = run.budget(quick=100, default=len(X))
    X, y, C = X[:n], np.where(y[:n] == 1, 1.0, -1.0), 10.0
    K = kernel_matrix(X, X, "rbf", gamma=1 / X.shape[1])
    paths, why = {}, "rounding of a sum of 569 terms of size 10"
    source = "each step maximizes over two variables"
    equal = run.against(source, kind="theorem", atol=1e-10, why=why)
    for selection in SELECTIONS:
        steps = smo_steps(K, y, C, tol=1e-6, selection=selection)
        primal, dual = np.array([objectives(alpha, e, y, C) for alpha, e, _ in steps]).T
        # A larger primal than one seen before proves nothing: the best so far is the certificate.
        paths[selection] = np.minimum.accumulate(primal), dual
        equal(f"the dual never falls, {selection}", max(0.0, (dual[:-1] - dual[1:]).max()), 0.0)
    ratios = []
    for seed in range(seeds):
        rows = np.random.default_rng([run.seed, seed]).permutation(n)[: n // 2]
        steps = [smo(K[np.ix_(rows, rows)], y[rows], C, selection=s).n_iter for s in SELECTIONS]
        ratios.append(steps[1] / steps[0])
    run.metric("steps of second order / maximal violating pair", np.mean(ratios), rtol=None)
    name, note = "choosing the second variable by its gain saves steps", "relative to the other"
    options = {"unit": "of the steps", "quick": False, "rtol": 0.1}  # rounding decides ties
    run.claim(name, ratios, at_most=1, note=note, **options)
    title = "How does SMO know that it has arrived? Primal and dual meet"
    with run.figure("convergence", title, columns=2, size=(8.6, 4.0)) as (left, right):
        primal, dual = paths["second order"]
        shown = slice(400)
        lines = {"primal (best so far)": primal[shown], "dual": dual[shown]}
        labels = {"xlabel": "step", "ylabel": "objective", "ylim": (0, 3 * dual[-1])}
        x = np.arange(len(dual[shown]))
        plots.curves(left, x, lines, colors=(plots.PINK, plots.GREEN), ends=False, **labels)
        gaps = {name: np.maximum(p - d, 1e-300) / d[-1] for name, (p, d) in paths.items()}
        x = {name: np.arange(len(gap)) for name, gap in gaps.items()}
        labels = {"xlabel": "step", "ylabel": "duality gap / optimum", "yscale": "log"}
        plots.curves(right, x, gaps, colors=(plots.ORANGE, plots.BLUE), ends=False, **labels)


def show_memorizing(run: Run, X, y, seeds: int) -> None:
    """Failure on display: with a γ too large each training point is an island."""
    gammas = np.logspace(-4, 2, run.budget(quick=4, default=13))
    size = run.budget(quick=80, default=300)
    rows = []
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, seed]).permutation(len(X))
        train, test = order[:size], order[size:]
        mean, scale = X[train].mean(axis=0), X[train].std(axis=0)
        A, B = (X[train] - mean) / scale, (X[test] - mean) / scale
        machines = [SVC(C=10.0, gamma=float(g)).fit(A, y[train]) for g in gammas]
        accuracy = [(m.score(A, y[train]), m.score(B, y[test])) for m in machines]
        rows.append(np.c_[accuracy, [len(m.support_) / size for m in machines]])
    seen, unseen, share = np.array(rows).transpose(2, 0, 1)
    majority = max(y.mean(), 1 - y.mean())
    run.metric("test accuracy at γ = 100", unseen[:, -1].mean())
    name = "an RBF kernel that is too narrow is right on all that it has seen"
    run.claim(name, seen[:, -1], at_least=1, note="γ = 100", quick=False)
    note = f"γ = 100; always saying benign gives {majority:.3f}"
    above, best = unseen - majority, unseen.mean(axis=0).argmax()
    run.claim(NARROW, above[:, -1], at_most=0.05, unit="above it", note=note, quick=False)
    run.falsifier("the best γ", above[:, best], breaks=NARROW)
    lines = {"training accuracy": seen, "test accuracy": unseen, "support vectors": share}
    title = "When does the RBF kernel stop learning and start memorizing?"
    with run.figure("memorizing", title) as ax:
        labels = {"xlabel": "γ (per squared standard deviation)", "xscale": "log"}
        labels |= {"ylabel": f"share (mean and range, {seeds} splits)", "ylim": (0, 1.08)}
        reference = {"always “benign”": majority}
        colors = (plots.ORANGE, plots.BLUE, plots.GRAY)
        plots.curves(ax, gammas, lines, colors=colors, reference=reference, **labels)


def unscaled_features(run: Run, X, y) -> None:
    """Raw measurements from 0.001 to 4,000 make a valley that two-variable steps cannot leave."""
    limit = run.budget(quick=500, default=50_000)
    X, y = X[:: run.budget(quick=4, default=1)], y[:: run.budget(quick=4, default=1)]
    scaled = SVC(kernel="linear").fit(standardized(X), y)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it does not converge is the point
        raw = SVC(kernel="linear", max_iter=limit, leaps=False).fit(X, y)
    run.metric("linear SVM on scaled measurements: steps", scaled.n_iter_[0], rtol=0.05)
    run.metric("linear SVM on raw measurements: violation left", raw.violation_[0], rtol=None)
    note = f"the violation after {limit:,} steps; scaled: {scaled.n_iter_[0]:,} steps"
    options = {"deterministic": True, "note": note, "rtol": None}
    run.claim(STALLED, raw.violation_[0], at_least=1e-3, **options)
    run.falsifier("standardized measurements", scaled.violation_[0], breaks=STALLED)


def permuted_labels(run: Run, X, y: Shaped[np.ndarray, " n"], seeds: int) -> None:
    """Control: labels dealt at random leave nothing to learn."""
    n, accuracies = run.budget(quick=100, default=600), {"permuted": [], "true": []}
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 100, seed])
        order = rng.permutation(len(X))
        train, test = order[:n], order[n:]
        for name, labels in (("permuted", rng.permutation(y[train])), ("true", y[train])):
            accuracies[name].append(SVC().fit(X[train], labels).score(X[test], y[test]))
    seen = "that a 95 % interval over ten splits held 0.1"
    options = {"note": "test accuracy", "seen_before": seen, "quick": False}
    run.claim(CHANCE, accuracies["permuted"], at_least=0.05, at_most=0.15, **options)
    run.falsifier("true labels", accuracies["true"], breaks=CHANCE)
