"""Weights are scikit-learn's, the bound holds and is sharp, exclusive or goes round in a circle."""

import numpy as np

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week07.perceptron import augment, errors, fit, max_margin, novikoff_bound, predict

CORNERS = np.array([[1.0, -1.0], [-1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]])
AND, XOR = np.array([-1, -1, -1, 1]), np.array([1, -1, 1, -1])
WITHIN = "no separable problem makes more mistakes than R²/γ²"
SHARP = "the bound is sharp: orthogonal examples use it up"
CIRCLE = "XOR sends the weights round in a circle: mistakes until they return"
AVERAGE = "the average of all weights beats the last"


def main(run: Run, *, problems: PositiveInt = 40, seeds: PositiveInt = 8) -> None:
    """Same weights as scikit-learn, mistakes against the bound, a circle, and two ways out.

    Parameters
    ----------
    problems
        Separable problems for each of three dimensions.
    seeds
        Samples of the digits that cannot be separated.
    """
    check_weights(run)
    check_margin(run)
    show_steps(run)
    show_bound(run, run.budget(quick=6, default=problems))
    show_xor(run)
    show_averages(run, run.budget(quick=2, default=seeds))


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


def check_weights(run: Run) -> None:
    """Same examples in the same order give the same weights, also where nothing converges."""
    from sklearn.linear_model import Perceptron, SGDClassifier

    images, labels = datasets.digits()
    X = images.reshape(len(images), -1)[: run.budget(quick=300, default=1797)]
    constant = {"loss": "perceptron", "penalty": None, "learning_rate": "constant", "eta0": 1.0}
    last, average = [], []
    for digit in range(10):
        y = np.where(labels[: len(X)] == digit, 1, -1)
        ours = fit(X, y, max_epochs=5)
        epochs = len(ours.mistakes_per_epoch)  # fewer if it converged: then no weight moves again
        options = {"shuffle": False, "tol": None, "max_iter": epochs}
        theirs = Perceptron(**options).fit(X, y)
        last.append((ours.weights, np.append(theirs.coef_, theirs.intercept_)))
        theirs = SGDClassifier(average=True, **constant, **options).fit(X, y)
        average.append((ours.average, np.append(theirs.coef_, theirs.intercept_)))
    why = "whole numbers: pixels are 0 to 16, so nothing is rounded"
    equal = run.against("sklearn.linear_model.Perceptron", why=why)
    equal("weights after 5 epochs, ten digits", *np.stack(last, axis=1))
    why = "float64 rounding of up to 9000 summands"
    equal = run.against("sklearn SGDClassifier, average=True", rtol=1e-9, atol=1e-9, why=why)
    equal("averaged weights, ten digits", *np.stack(average, axis=1))


def check_margin(run: Run) -> None:
    """The widest margin against a support vector machine's."""
    from sklearn.svm import SVC

    ours, theirs = [], []
    for i, gap in enumerate((0.3, 0.2, 0.1, 0.03)):
        X, y = separable(60, 3, gap, np.random.default_rng([run.seed, 1, i]))
        ours.append(max_margin(X, y).gamma)
        # Examples and their mirror images: the SVM's own intercept must then be 0.
        both = np.vstack([augment(X), -augment(X)]), np.append(y, -y)
        theirs.append(1 / np.linalg.norm(SVC(kernel="linear", C=1e12, tol=1e-9).fit(*both).coef_))
    why = "libsvm stops early, ours has a duality gap of 1e-12"
    equal = run.against("sklearn.svm.SVC, hard margin, on mirrored examples", rtol=1e-4, why=why)
    equal("widest margin γ", ours, theirs)


def draw(ax, X: np.ndarray, y: np.ndarray, lines, reach: float) -> None:
    """Examples, and pairs of weights and a style: the line where their score is zero."""
    for label, color, marker in ((1, plots.BLUE, "o"), (-1, plots.ORANGE, "s")):
        ax.plot(*X[y == label].T, marker, color=color, ms=6, mec="white", zorder=3)
    for (a, b, c), style in lines:
        middle = -c * np.array([a, b]) / (a * a + b * b)
        ends = middle + np.outer([-9, 9], [-b, a]) / np.hypot(a, b)
        ax.plot(*ends.T, style, color="black", lw=1.6)
    limits = (-reach, reach)
    ax.set(xlim=limits, ylim=limits, aspect="equal", xlabel="$x_1$", xticks=[-1, 1], yticks=[-1, 1])


def show_steps(run: Run) -> None:
    """The line before and after some of the mistakes, and the example that made it move."""
    X = np.random.default_rng([run.seed, 3]).uniform(-1, 1, (70, 2))
    side = X @ [0.8, 0.6] - 0.15
    X, y = X[np.abs(side) > 0.09], np.where(side > 0, 1, -1)[np.abs(side) > 0.09]
    path = fit(X, y).path
    last = len(path) - 1
    title = f"Each mistake turns the line: {last} of them, then none"
    with run.figure("steps", title, columns=4, size=(9.4, 3.35), sharey=True) as axes:
        for ax, step in zip(axes, (1, 2, max(3, last // 2), last), strict=True):
            lines = [(path[step], "-"), (path[step - 1], ":")][: 1 if step == 1 else 2]
            draw(ax, X, y, lines, 1.12)
            moved = path[step] - path[step - 1]
            culprit = np.abs(augment(X) * y[:, None] - moved).sum(axis=1).argmin()
            ax.plot(*X[culprit], "o", ms=14, mfc="none", mec="black", zorder=4)
            wrong = errors(path[step], X, y)
            ax.set_title(f"mistake {step}: {wrong} wrong", fontsize=11, weight="normal")
        axes[0].set_ylabel("$x_2$")


def show_bound(run: Run, problems: int) -> None:
    """Mistakes against R²/γ² for separable problems of three dimensions, and where it is tight."""
    found = {}
    for d in (3, 10, 100):
        found[f"random, {d} features"] = pairs = []
        for i in range(problems):
            rng = np.random.default_rng([run.seed, 4, d, i])
            X, y = separable(100, d, 10 ** rng.uniform(-2, -0.3), rng)
            pairs.append((novikoff_bound(X, y), fit(X, y, max_epochs=100_000).mistakes))
    bounds, mistakes = np.concatenate(list(found.values())).T
    share = mistakes / bounds
    found["orthogonal"] = pairs = []
    for n in (2, 5, 14, 40, 120):
        # Perpendicular examples teach nothing about each other; at length 100 the constant 1 that
        # `augment` adds to each hardly bends the right angles.
        X, y = 100.0 * np.eye(n), np.where(np.arange(n) % 2, 1, -1)
        pairs.append((novikoff_bound(X, y), fit(X, y).mistakes))
    tight = np.array([mistakes / bound for bound, mistakes in pairs])
    broken = []
    for i in range(5):
        rng = np.random.default_rng([run.seed, 5, i])
        X, y = separable(100, 10, 0.2, rng)
        flipped = y.copy()
        flipped[rng.choice(100, 5, replace=False)] *= -1
        broken.append(fit(X, flipped, max_epochs=100).mistakes / novikoff_bound(X, y))

    run.metric("share of the bound used, median", float(np.median(share)))
    run.metric("share of the bound used, most", share.max())
    run.metric("share of the bound used, orthogonal examples", tight[-1])
    note = f"mistakes / bound, bounds {bounds.min():.0f} to {bounds.max():,.0f}"
    run.claim(WITHIN, np.append(share, tight), at_most=1 + 1e-6, each=True, note=note)
    note = "after 100 epochs and without an end, over the bound before the flips"
    run.falsifier("five flipped labels of 100", broken, breaks=WITHIN, note=note)
    run.claim(SHARP, tight, at_least=0.97, each=True, note="mistakes / bound")
    run.falsifier("random examples", share, breaks=SHARP)
    title = "Does the perceptron keep to its bound? Always, and mostly far below"
    with run.figure("bound", title, size=(8.0, 4.9)) as ax:
        ends = np.array([1.5, 2 * bounds.max()])
        ax.loglog(ends, ends, color=plots.REFERENCE, ls="--", label="$R^2/\\gamma^2$")
        colors = (plots.BLUE, plots.GREEN, plots.PINK, plots.ORANGE)
        for (name, pairs), color in zip(found.items(), colors, strict=True):
            ax.plot(*np.array(pairs).T, "o", color=color, ms=5, alpha=0.8, mew=0, label=name)
        ax.set(xlabel="the bound $R^2/\\gamma^2$, from the widest margin", ylabel="mistakes")
        ax.legend(loc="upper left")


def circle(path: np.ndarray, per_epoch: np.ndarray) -> np.ndarray:
    """Weights from the end of one epoch to the next one that ends with the same, both included."""
    seen: dict[tuple, int] = {}
    for end in np.cumsum(per_epoch):
        start = seen.setdefault(tuple(path[end]), end)
        if start < end:
            return path[start : end + 1]
    return path[:1]


def show_xor(run: Run) -> None:
    """AND is learned; XOR goes round in a circle."""
    learned, circling = fit(CORNERS, AND), fit(CORNERS, XOR, max_epochs=40)
    loop = circle(circling.path, circling.mistakes_per_epoch)
    note = f"no weight beyond {np.abs(circling.path).max():.0f}"
    run.claim(CIRCLE, len(loop) - 1, at_least=1, deterministic=True, note=note)
    still = len(circle(learned.path, learned.mistakes_per_epoch)) - 1
    note = f"learned after {learned.mistakes} mistakes"
    run.falsifier("AND", still, breaks=CIRCLE, note=note)
    title = "Why does the perceptron never learn exclusive or?"
    with run.figure("xor", title, columns=2, size=(7.6, 4.0)) as (left, right):
        draw(left, CORNERS, AND, [(learned.weights, "-")], 2)
        left.set_title("and: one line will do", fontsize=11, weight="normal")
        draw(right, CORNERS, XOR, [(weights, "-") for weights in loop if weights[:2].any()], 2)
        right.set_title("xor: these lines, for ever", fontsize=11, weight="normal")
        left.set_ylabel("$x_2$")


def show_averages(run: Run, seeds: int) -> None:
    """Even digits against odd ones: last weights, best so far, and the mean of all."""
    images, labels = datasets.digits()
    X, y = images.reshape(len(images), -1), np.where(labels % 2 == 0, 1, -1)
    epochs = run.budget(quick=(1, 3), default=(1, 2, 3, 5, 8, 12, 20, 30))
    wrong = {name: np.zeros((seeds, len(epochs))) for name in ("last", "pocket", "average")}
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 6, seed]).permutation(len(X))
        train, test = order[:900], order[900:]
        for column, limit in enumerate(epochs):
            found = fit(X[train], y[train], max_epochs=limit, pocket=True)
            kept = {"last": found.weights, "pocket": found.pocket, "average": found.average}
            for name, weights in kept.items():
                missed = predict(weights, X[test]) != y[test]
                wrong[name][seed, column] = 100 * missed.mean()
    for name, rates in wrong.items():
        run.metric(f"errors on new digits, {name}", rates[:, -1].mean(), "%")
    gain = (wrong["last"] - wrong["average"]).mean(axis=1)
    note = "errors of the last minus the average, mean over epochs"
    run.claim(AVERAGE, gain, at_least=0, unit="points", note=note, quick=False)
    title = "Digits, even or odd: which of its weights should it keep?"
    with run.figure("averages", title, size=(8.0, 4.3)) as ax:
        colors = (plots.ORANGE, plots.GREEN, plots.BLUE)
        labels = {"xlabel": f"epochs of 900 digits (bands: range of {seeds} splits)"}
        labels["ylabel"] = "errors on new digits, %"
        plots.curves(ax, epochs, wrong, colors=colors, xscale="log", ylim=(0, None), **labels)
        ax.set_xticks(epochs, [str(e) for e in epochs])
        ax.minorticks_off()
