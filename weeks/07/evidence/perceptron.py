"""Checks, claims and figures of perceptron."""

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week07.perceptron import augment, errors, fit, max_margin, novikoff_bound, predict

CORNERS = np.array([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
XOR = CORNERS, np.array([1, -1, 1, -1])
AND = CORNERS, np.array([-1, -1, -1, 1])


def separable(
    n: int, dimension: int, gap: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Points of the unit sphere, none nearer than `gap` to a random plane through the origin."""
    normal = rng.normal(size=dimension)
    normal /= np.linalg.norm(normal)
    X = rng.normal(size=(n, dimension))
    X -= np.outer(X @ normal, normal)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    y = rng.choice([-1, 1], n)
    height = np.abs(rng.uniform(gap, 2 * gap, n))
    return X * np.sqrt(1 - height[:, None] ** 2) + (y * height)[:, None] * normal, y


# ---- checks


def _sklearn(average: bool, epochs: int):
    """Perceptron's own settings, on the estimator that can also average."""
    from sklearn.linear_model import Perceptron, SGDClassifier

    common = {"shuffle": False, "tol": None, "max_iter": epochs}
    if average:
        return SGDClassifier(
            loss="perceptron",
            penalty=None,
            learning_rate="constant",
            eta0=1.0,
            average=True,
            **common,
        )
    return Perceptron(**common)


def check_against_sklearn(run: Run) -> None:
    """Same examples in the same order give the same weights, also where nothing converges."""
    images, labels = datasets.digits()
    X = images.reshape(len(images), -1)[: run.budget(quick=300, default=1797)]
    epochs, last, theirs, averages, their_averages = 5, [], [], [], []
    for digit in range(10):
        y = np.where(labels[: len(X)] == digit, 1, -1)
        ours = fit(X, y, max_epochs=epochs)
        seen = len(ours.mistakes_per_epoch)  # fewer if it converged: then no weight moves again
        for average, mine, reference in (
            (False, last, theirs),
            (True, averages, their_averages),
        ):
            model = _sklearn(average, seen).fit(X, y)
            mine.append(ours.average if average else ours.weights)
            reference.append(np.append(model.coef_[0], model.intercept_))
    run.check(
        "weights after 5 epochs, ten digits",
        np.array(last),
        np.array(theirs),
        against="sklearn.linear_model.Perceptron",
        atol=0,
        why="whole numbers: pixels are 0 to 16, so nothing is rounded",
    )
    run.check(
        "averaged weights, ten digits",
        np.array(averages),
        np.array(their_averages),
        against="sklearn SGDClassifier(loss='perceptron', average=True)",
        rtol=1e-9,
        atol=1e-9,
        why="float64 rounding of up to 9000 summands",
    )
    check_margin(run)


def check_margin(run: Run) -> None:
    """The widest margin against a support vector machine and against a linear program's verdict."""
    from scipy.optimize import linprog
    from sklearn.svm import SVC

    ours, theirs, dual, separated, feasible = [], [], [], [], []
    for i, gap in enumerate((0.3, 0.2, 0.1, 0.03)):
        rng = np.random.default_rng([run.seed, 1, i])
        X, y = separable(60, 3, gap, rng)
        margin = max_margin(X, y)
        Z = augment(X)
        # Examples and their mirror images: the SVM's own intercept must then be 0.
        both = np.vstack([Z, -Z]), np.append(y, -y)
        machine = SVC(kernel="linear", C=1e12, tol=1e-9).fit(*both)
        ours.append(margin.gamma)
        dual.append(np.linalg.norm(margin.mixture @ (Z * y[:, None])))
        theirs.append(1 / np.linalg.norm(machine.coef_))
    for i in range(12):
        rng = np.random.default_rng([run.seed, 2, i])
        X = rng.normal(size=(9, 2))  # separable or not, about evenly
        y = np.where(X @ [1.0, 0.5] + 0.5 * rng.normal(size=9) > 0, 1, -1)
        Z = augment(X) * y[:, None]
        separated.append(max_margin(X, y).gamma > 0)
        program = linprog(np.zeros(3), A_ub=-Z, b_ub=-np.ones(9), bounds=(None, None))
        feasible.append(program.status == 0)
    run.check(
        "widest margin γ",
        np.array(ours),
        np.array(theirs),
        rtol=1e-4,
        against="sklearn.svm.SVC, hard margin, on mirrored examples",
        why="libsvm stops early, ours has a duality gap of 1e-12",
    )
    run.check(
        "margin against its dual",
        np.array(ours),
        np.array(dual),
        rtol=1e-9,
        against="theory: the shortest mixture is as long as the widest margin",
        why="float64 rounding",
    )
    run.check(
        "separable or not, twelve small problems",
        np.array(separated, dtype=int),
        np.array(feasible, dtype=int),
        against="scipy.optimize.linprog, feasibility",
        why="yes or no",
    )
    run.say(f"{sum(feasible)} of 12 small problems are separable")


# ---- figures


def _line(ax, weights: np.ndarray, **style) -> None:
    """The line where the score is zero, if it is one."""
    a, b, c = weights
    if a == b == 0:
        return
    center = -c * np.array([a, b]) / (a * a + b * b)
    ends = center + np.outer([-9, 9], [-b, a]) / np.hypot(a, b)
    ax.plot(*ends.T, **style)


def _points(ax, X: np.ndarray, y: np.ndarray, size: float = 7) -> None:
    for label, color, marker in ((1, plots.BLUE, "o"), (-1, plots.ORANGE, "s")):
        ax.plot(*X[y == label].T, marker, color=color, ms=size, mec="white", mew=0.8, zorder=3)


def show_steps(run: Run) -> None:
    """The line after some of the mistakes, and the example that made it move."""
    rng = np.random.default_rng([run.seed, 3])
    X = rng.uniform(-1, 1, (70, 2))
    side = X @ [0.8, 0.6] - 0.15
    keep = np.abs(side) > 0.09
    X, y = X[keep], np.where(side[keep] > 0, 1, -1)
    found, Z = fit(X, y), augment(X)
    last = len(found.path) - 1
    shown = [1, 2, max(3, last // 2), last]
    title = f"Each mistake turns the line: {last} of them, then none"
    with run.figure("steps", title, columns=4, size=(9.4, 3.35), sharey=True) as axes:
        for ax, step in zip(axes, shown, strict=True):
            moved = found.path[step] - found.path[step - 1]
            culprit = int(np.abs(Z * y[:, None] - moved).sum(axis=1).argmin())
            _points(ax, X, y, 5)
            if step > 1:
                _line(ax, found.path[step - 1], color=plots.GRAY, lw=1.4, ls="--")
            _line(ax, found.path[step], color="black", lw=2)
            ax.plot(*X[culprit], "o", ms=14, mfc="none", mec="black", mew=1.4, zorder=4)
            ax.set(xlim=(-1.12, 1.12), ylim=(-1.12, 1.12), aspect="equal")
            ax.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
            ax.set_xlabel("$x_1$")
            wrong = errors(found.path[step], X, y)
            ax.set_title(f"mistake {step}: {wrong} wrong", fontsize=11, weight="normal")
        axes[0].set_ylabel("$x_2$")
    run.metric("mistakes in the picture", last)


def show_bound(run: Run, problems: int) -> None:
    """Mistakes against R²/γ² for separable problems of three dimensions, and where it is tight."""
    found = {}
    for d in (3, 10, 100):
        found[d] = []
        for i in range(problems):
            rng = np.random.default_rng([run.seed, 4, d, i])
            X, y = separable(100, d, 10 ** rng.uniform(-2, -0.3), rng)
            found[d].append((novikoff_bound(X, y), fit(X, y, max_epochs=100_000).mistakes))
    corners = []
    for n in (2, 5, 14, 40, 120):
        # Perpendicular examples teach nothing about each other; at length 100 the constant 1 that
        # `augment` adds to each hardly bends the right angles.
        X, y = 100.0 * np.eye(n), np.where(np.arange(n) % 2, 1, -1)
        corners.append((novikoff_bound(X, y), fit(X, y).mistakes))
    every = np.array([pair for pairs in found.values() for pair in pairs])
    share = every[:, 1] / every[:, 0]
    tight = np.array(corners)

    rng = np.random.default_rng([run.seed, 5])
    X, y = separable(100, 10, 0.2, rng)
    bound = novikoff_bound(X, y)
    flipped = y.copy()
    flipped[rng.choice(100, 5, replace=False)] *= -1
    noisy = fit(X, flipped, max_epochs=100).mistakes
    hull = max_margin(X, flipped).gamma

    title = "Does the perceptron keep to its bound? Always, and mostly far below"
    with run.figure("bound", title, size=(8.0, 4.9)) as ax:
        ends = np.array([1.5, every[:, 0].max() * 2])
        ax.loglog(ends, ends, color=plots.REFERENCE, lw=1.4, ls="--")
        ax.fill_between(ends, ends, ends[1] * 2, color="#F1F1F1", zorder=0, linewidth=0)
        ax.text(
            3.2e3,
            4.6e3,
            "no run can lie above $R^2/\\gamma^2$",
            color=plots.REFERENCE,
            fontsize=10.5,
            ha="right",
        )
        for (d, pairs), color in zip(
            found.items(), (plots.BLUE, plots.GREEN, plots.PINK), strict=True
        ):
            ax.plot(
                *np.array(pairs).T,
                "o",
                color=color,
                ms=5,
                alpha=0.75,
                mew=0,
                label=f"random, {d} features",
            )
        ax.plot(*tight.T, "D", color=plots.ORANGE, ms=7, mec="white", label="orthogonal")
        ax.set(
            xlabel="the bound $R^2/\\gamma^2$, from the widest margin",
            ylabel="mistakes until none is left",
            xlim=ends,
            ylim=(1.5, ends[1]),
        )
        ax.legend(loc="upper left", bbox_to_anchor=(0.0, 0.99), handletextpad=0.3)
    run.metric("share of the bound used, median", float(np.median(share)), rtol=0.3)
    run.metric("share of the bound used, most", float(share.max()), rtol=0.5)
    run.metric("share of the bound used, orthogonal examples", tight[-1, 1] / tight[-1, 0])
    run.claim(
        "no separable problem makes more mistakes than R²/γ²",
        bool((every[:, 1] <= every[:, 0]).all()),
        f"{len(every)} random problems, bounds {every[:, 0].min():.0f} to "
        f"{every[:, 0].max():,.0f}: at most {share.max():.2f} of the bound",
    )
    run.claim(
        "the bound is sharp: orthogonal examples use it up",
        bool((tight[:, 1] > 0.97 * tight[:, 0]).all() and (tight[:, 1] < tight[:, 0] + 1e-6).all()),
        f"{', '.join(f'{m:.0f} of {b:.2f}' for b, m in corners)}",
    )
    run.claim(
        "falsifier: five flipped labels of 100, and the same bound is broken",
        bool(noisy > 3 * bound and hull == 0.0),
        f"{noisy:,} mistakes in 100 epochs and no end, {bound:.0f} allowed before the "
        "flips; no plane separates them any more",
    )


def cycle(path: np.ndarray, per_epoch: np.ndarray) -> tuple[int, int]:
    """First epoch at whose end the weights were seen before, and after how many epochs again."""
    ends = path[np.cumsum(per_epoch)]
    seen = {}
    for epoch, weights in enumerate(map(tuple, ends)):
        if weights in seen:
            return seen[weights], epoch - seen[weights]
        seen[weights] = epoch
    return -1, 0


def show_xor(run: Run) -> None:
    """AND is learned, XOR goes round in circles; the mixture that proves it."""
    epochs = 40
    learned, circling = fit(*AND), fit(*XOR, max_epochs=epochs)
    start, period = cycle(circling.path, circling.mistakes_per_epoch)
    begin = int(circling.mistakes_per_epoch[: start + 1].sum())
    length = int(circling.mistakes_per_epoch[start + 1 : start + 1 + period].sum())
    loop = circling.path[begin : begin + length + 1]
    proof = max_margin(*XOR)
    title = "Why does the perceptron never learn exclusive or?"
    ratios = {"width_ratios": [1, 1, 1.35]}
    with run.figure("xor", title, columns=3, size=(9.4, 3.5), gridspec_kw=ratios) as axes:
        left, middle, right = axes
        for ax, (X, y), name in (
            (left, AND, "and: one line will do"),
            (middle, XOR, "xor: these lines, for ever"),
        ):
            _points(ax, X, y, 11)
            ax.set(xlim=(-2, 2), ylim=(-2, 2), aspect="equal", xticks=[-1, 1], yticks=[-1, 1])
            ax.set_xlabel("$x_1$")
            ax.set_title(name, fontsize=11, weight="normal")
        left.set_ylabel("$x_2$")
        _line(left, learned.weights, color="black", lw=2)
        for number, weights in enumerate(loop[1:-1], 1):
            _line(middle, weights, color="black", lw=1.6)
            a, b, c = weights  # a number where the line leaves the picture
            at = (-c / a, -1.8) if b == 0 else (-1.75, (1.75 * a - c) / b)
            middle.text(
                *at,
                str(number),
                ha="center",
                va="center",
                fontsize=10,
                bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "black", "lw": 0.8},
            )
        shown = 8
        for result, color, label in (
            (circling, plots.ORANGE, f"xor: {length} in every epoch"),
            (learned, plots.BLUE, f"and: {learned.mistakes}, then none"),
        ):
            counts = np.zeros(shown + 1)
            counts[1 : 1 + len(result.mistakes_per_epoch)] = result.mistakes_per_epoch[:shown]
            total = np.cumsum(counts)
            right.plot(total, "o-", color=color)
            place = (
                {"xytext": (-10, 0), "ha": "right"}
                if result is circling
                else {"xytext": (0, 8), "ha": "right"}
            )
            right.annotate(
                label, (shown - 0.4, total[-1]), textcoords="offset points", color=color, **place
            )
        right.set(xlabel="epochs", ylim=(-1, None))
        right.set_title("mistakes so far", fontsize=11, weight="normal")
    sizes = np.abs(circling.path).max()
    run.check(
        "mixture that proves XOR inseparable",
        proof.mixture,
        np.full(4, 0.25),
        atol=1e-12,
        against="theory: a quarter of each corner",
        why="float64 rounding",
    )
    run.metric("mistakes until AND is learned", learned.mistakes)
    run.metric("weights in XOR's cycle", length)
    run.claim(
        "XOR cycles: the weights return to where they were",
        bool(period > 0 and not circling.converged and learned.converged and sizes <= 3),
        f"the weights come back after {length} mistakes, for ever, none beyond "
        f"{sizes:.0f} in size; AND is learned after {learned.mistakes} mistakes",
    )


def show_averages(run: Run, seeds: int) -> None:
    """Even digits against odd ones: last weights, best so far, and the mean of all."""
    images, labels = datasets.digits()
    X, y = images.reshape(len(images), -1), np.where(labels % 2 == 0, 1, -1)
    epochs = run.budget(quick=(1, 3), default=(1, 2, 3, 5, 8, 12, 20, 30))
    kinds = {"last": plots.ORANGE, "pocket": plots.GREEN, "average": plots.BLUE}
    rates = {name: np.zeros((seeds, len(epochs))) for name in kinds}
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 6, seed]).permutation(len(X))
        train, test = order[:900], order[900:]
        for column, limit in enumerate(epochs):
            found = fit(X[train], y[train], max_epochs=limit, pocket=True)
            for name, weights in (
                ("last", found.weights),
                ("pocket", found.pocket),
                ("average", found.average),
            ):
                wrong = predict(weights, X[test]) != y[test]
                rates[name][seed, column] = 100 * wrong.mean()
    title = "Digits, even or odd: which of its weights should it keep?"
    with run.figure("averages", title, size=(8.0, 4.3)) as ax:
        for name, color in kinds.items():
            label = {"last": "the last", "pocket": "best so far", "average": "the average"}[name]
            plots.interval_band(ax, epochs, rates[name], color=color, label=label)
        ax.set(
            xscale="log",
            xlabel="epochs (900 digits each)",
            ylabel="errors on new digits, %",
            ylim=(0, None),
        )
        ax.set_xticks(epochs, [str(e) for e in epochs])
        ax.minorticks_off()
        plots.label_lines(ax)
        ax.text(
            0.02,
            0.05,
            f"line: mean, band: range of {seeds} splits",
            transform=ax.transAxes,
            fontsize=9,
            color="#666666",
        )
    for name in kinds:
        run.metric(f"errors on new digits, {name}", rates[name][:, -1].mean(), "%", rtol=0.15)
    gain = mean_interval(rates["last"].mean(1) - rates["average"].mean(1))
    run.claim(
        "the average of all weights beats the last",
        gain.low > 0,
        f"errors of the last minus the average, mean over epochs: {gain} points, {seeds} splits",
        quick=False,
    )


def main(run: Run, *, problems: PositiveInt = 40, seeds: PositiveInt = 8) -> None:
    """Same weights as scikit-learn, mistakes against the bound, a cycle, and two ways out.

    Parameters
    ----------
    problems
        Separable problems for each of three dimensions.
    seeds
        Samples of the digits that cannot be separated.
    """
    check_against_sklearn(run)
    show_steps(run)
    show_bound(run, run.budget(quick=6, default=problems))
    show_xor(run)
    show_averages(run, run.budget(quick=2, default=seeds))
