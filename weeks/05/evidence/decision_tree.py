"""Checks, claims and figures of decision_tree."""

import numpy as np

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week05.decision_tree import (
    DecisionTreeClassifier,
    DecisionTreeRegressor,
    best_split,
    pruned,
)


def sklearn_tree(classifier: bool, **options):
    """The same tree in scikit-learn."""
    from sklearn import tree

    kind = tree.DecisionTreeClassifier if classifier else tree.DecisionTreeRegressor
    return kind(random_state=0, **options)


def split_costs(X, y, criterion: str, reference) -> tuple[np.ndarray, np.ndarray]:
    """At each split of a fitted scikit-learn tree: the least impurity that we find, and its own.

    Where two splits are equally good scikit-learn takes one at random, so that trees may differ and
    both be right; what a split leaves may not.
    """
    tree, reached = reference.tree_, reference.decision_path(X).toarray().astype(bool)
    Y = np.eye(len(np.unique(y)))[y] if criterion != "squared_error" else y[:, None]
    X = X.astype(np.float32).astype(np.float64)
    ours, theirs = [], []
    for node in np.flatnonzero(tree.children_left >= 0):
        rows = reached[:, node]
        ours.append(best_split(X[rows], Y[rows], np.ones(rows.sum()), criterion).impurity)
        children = [tree.children_left[node], tree.children_right[node]]
        theirs.append(tree.weighted_n_node_samples[children] @ tree.impurity[children])
    return np.array(ours), np.array(theirs)


def check_against_sklearn(run: Run, X, y, X_number, y_number) -> None:
    """Trees, splits, predictions, importances and pruning paths."""
    against = "sklearn.tree"
    cases = [("gini", X, y, DecisionTreeClassifier), ("entropy", X, y, DecisionTreeClassifier),
             ("squared_error", X_number, y_number, DecisionTreeRegressor)]  # fmt: skip
    for criterion, A, target, kind in cases:
        classifier = kind is DecisionTreeClassifier
        reference = sklearn_tree(classifier, criterion=criterion).fit(A, target)
        run.check(f"{criterion}: each split of the full tree", *split_costs(
            A, target, criterion, reference), against=against, rtol=1e-9, atol=1e-8,
            why="rounding of running sums")  # fmt: skip
        # Counts make many splits equally good; random weights leave one that is best.
        rng = np.random.default_rng(run.seed)
        if classifier:
            A = rng.normal(size=(400, 5))
            target = np.digitize(A[:, 0] + A[:, 1] * A[:, 2] + rng.normal(size=400), [-1, 0.5])
        weight = rng.uniform(0.5, 1.5, len(A))
        options = {"criterion": criterion, "min_samples_leaf": 10}
        ours = kind(**options).fit(A, target, weight)
        reference = sklearn_tree(classifier, **options).fit(A, target, weight)
        inner = ours.tree_.feature >= 0
        run.check(f"{criterion}: features", ours.tree_.feature[inner],
                  reference.tree_.feature[reference.tree_.feature >= 0], against=against,
                  why="exact: weights leave no ties")  # fmt: skip
        run.check(f"{criterion}: thresholds", ours.tree_.threshold[inner],
                  reference.tree_.threshold[reference.tree_.feature >= 0], against=against,
                  rtol=1e-12, why="rounding of a midpoint")  # fmt: skip
        predict = "predict_proba" if classifier else "predict"
        run.check(f"{criterion}: predictions", getattr(ours, predict)(A),
                  getattr(reference, predict)(A), against=against, rtol=1e-12, atol=1e-12,
                  why="rounding of a mean")  # fmt: skip
        run.check(f"{criterion}: importances", ours.feature_importances_,
                  reference.feature_importances_, against=against, atol=1e-12,
                  why="rounding")  # fmt: skip
        alphas, impurities = kind(**options).cost_complexity_pruning_path(A, target, weight)
        path = sklearn_tree(classifier, **options).cost_complexity_pruning_path(A, target, weight)
        run.check(f"{criterion}: pruning alphas", alphas, path.ccp_alphas, against=against,
                  rtol=1e-9, atol=1e-12 * (1 + impurities.max()), why="rounding")  # fmt: skip
        run.check(f"{criterion}: impurities along the path", impurities, path.impurities,
                  against=against, rtol=1e-9, atol=1e-12 * (1 + impurities.max()),
                  why="rounding")  # fmt: skip


def control(run: Run, X, y, seeds: int) -> None:
    """With permuted labels a full tree still fits its rows, and knows nothing."""
    scores, fitted, balanced = [], [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 31, seed])
        order, labels = rng.permutation(len(y)), rng.permutation(y)
        train, test = order[::2], order[1::2]
        model = DecisionTreeClassifier().fit(X[train], labels[train])
        right = model.predict(X[test]) == labels[test]
        scores.append(right.mean())
        balanced.append(np.mean([right[labels[test] == c].mean() for c in np.unique(y)]))
        fitted.append(model.score(X[train], labels[train]))
    interval = mean_interval(balanced)
    run.claim(
        "permuted labels score at chance",
        bool(abs(interval.mean - 1 / len(np.unique(y))) < 0.06),
        f"balanced accuracy {interval} on held-out rows, {np.mean(fitted):.3f} on those it saw",
    )


def draw_regions(run: Run, X, y, names: list[str]) -> None:
    """The rectangles of a small, a full and a pruned tree on two features."""
    train = np.arange(len(y)) % 2 == 0
    alphas, _ = DecisionTreeClassifier().cost_complexity_pruning_path(X[train], y[train])
    trees = {
        "2 splits deep": DecisionTreeClassifier(max_depth=2),
        "grown to the end": DecisionTreeClassifier(),
        "then pruned": DecisionTreeClassifier(ccp_alpha=float(np.sort(alphas)[-3])),
    }
    low, high = X.min(0), X.max(0)
    margin = 0.04 * (high - low)
    grid = np.stack(np.meshgrid(*np.linspace(low - margin, high + margin, 300).T), axis=-1)
    with run.figure("regions", "A tree cuts the plane into boxes: how many are worth having?",
                    columns=3, size=(9.6, 3.7), sharey=True) as axes:  # fmt: skip
        for ax, (name, model) in zip(axes, trees.items(), strict=True):
            model.fit(X[train], y[train])
            share = model.predict_proba(grid.reshape(-1, 2))[:, 1].reshape(300, 300)
            cmap = _two_colors()
            ax.imshow(share, origin="lower", aspect="auto", cmap=cmap, vmin=0, vmax=1, alpha=0.45,
                      extent=(*(low - margin)[:1], *(high + margin)[:1],
                              *(low - margin)[1:], *(high + margin)[1:]))  # fmt: skip
            ax.contour(grid[..., 0], grid[..., 1], share > 0.5, [0.5], colors=plots.REFERENCE,
                       linewidths=1)  # fmt: skip
            for label, color, marker in ((0, plots.ORANGE, "s"), (1, plots.BLUE, "o")):
                ax.plot(*X[train][y[train] == label].T, marker, ms=3, color=color, mew=0, alpha=0.8)
            leaves, score = model.get_n_leaves(), model.score(X[~train], y[~train])
            ax.set_title(f"{name}: {leaves} leaves,\n{score:.1%} of unseen rows right",
                         fontsize=10.5, weight="normal")  # fmt: skip
            ax.set_xlabel(names[0])
            ax.grid(False)
            run.metric(f"held-out accuracy on two features, {name}", score, rtol=0.05)
            run.metric(f"leaves, {name}", leaves, rtol=0.3)
        axes[0].set_ylabel(names[1])
        axes[0].annotate("benign", (0.97, 0.04), xycoords="axes fraction", color=plots.BLUE,
                         ha="right", weight="bold")  # fmt: skip
        axes[0].annotate("malignant", (0.97, 0.93), xycoords="axes fraction", color=plots.ORANGE,
                         ha="right", weight="bold")  # fmt: skip


def _two_colors():
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("two", [plots.ORANGE, "white", plots.BLUE])


def draw_pruning(run: Run, X, y, seeds: int) -> None:
    """Accuracy on rows kept back against the number of leaves that pruning leaves."""
    alphas = np.r_[0.0, np.geomspace(1e-3, 0.3, 24)]
    leaves, seen, unseen = (np.empty((seeds, len(alphas))) for _ in range(3))
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 37, seed])
        order = rng.permutation(len(y))
        train, test = order[::2], order[1::2]
        noisy = np.where(rng.random(len(y)) < 0.1, 1 - y, y)  # the failure needs labels to memorize
        model = DecisionTreeClassifier().fit(X[train], noisy[train])
        full = model.tree_
        for i, alpha in enumerate(alphas):
            model.tree_ = pruned(full, float(alpha))
            leaves[seed, i] = model.get_n_leaves()
            seen[seed, i] = model.score(X[train], noisy[train])
            unseen[seed, i] = model.score(X[test], y[test])
    with run.figure("pruning", "10 % of the training labels are wrong: the full tree learns them",
                    size=(8.0, 4.2)) as ax:  # fmt: skip
        x = leaves.mean(0)[::-1]
        plots.interval_band(
            ax, x, 100 * seen[:, ::-1], color=plots.GRAY, label="training rows,\nas labeled"
        )
        plots.interval_band(
            ax, x, 100 * unseen[:, ::-1], color=plots.BLUE, label="unseen rows,\ntrue labels"
        )
        common = 100 * max(y.mean(), 1 - y.mean())
        ax.axhline(common, color=plots.REFERENCE, ls="--", lw=1)
        ax.text(x.max(), common + 0.6, "always the commoner label", ha="right", fontsize=9,
                color=plots.REFERENCE)  # fmt: skip
        ax.annotate("no pruning", (x[-1], 100 * unseen.mean(0)[0]), (0, -44), ha="right",
                    textcoords="offset points", fontsize=9.5, color=plots.BLUE)  # fmt: skip
        ax.set(xlabel="leaves left by pruning (mean over splits)", ylabel="accuracy, %",
               xscale="log")  # fmt: skip
        ax.set_xticks([2, 5, 10, 20, 40], ["2", "5", "10", "20", "40"])
        ax.minorticks_off()
        plots.label_lines(ax)
    best = int(unseen.mean(0).argmax())
    run.metric("accuracy of the full tree, true labels", 100 * unseen[:, 0].mean(), "%", rtol=0.05)
    run.metric("accuracy of the best pruned tree", 100 * unseen[:, best].mean(), "%", rtol=0.05)
    run.metric("leaves of the full tree", leaves[:, 0].mean(), rtol=0.2)
    run.metric("leaves of the best pruned tree", leaves[:, best].mean(), rtol=0.5)
    fixed = int(np.abs(alphas - 0.02).argmin())
    gain = mean_interval(100 * (unseen[:, fixed] - unseen[:, 0]))
    run.claim("pruning undoes the learning of wrong labels", bool(gain.low > 0),
              f"α = {alphas[fixed]:.3f}, set beforehand, gains {gain} points on unseen rows",
              quick=False)  # fmt: skip


def show(run: Run, seeds: int) -> None:
    """All of it."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    table = load_breast_cancer()
    X_number, y_number = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(run.seed)
    # A little noise parts values that are tied, so that only one tree is the right one.
    X_untied = X_number + 1e-3 * rng.normal(size=X_number.shape)
    check_against_sklearn(run, table.data, table.target, X_untied, y_number)
    control(run, table.data, table.target, seeds)
    names = ["mean radius", "mean texture"]
    columns = [list(table.feature_names).index(name) for name in names]
    draw_regions(
        run, table.data[:, columns], table.target, [f"{n} (of cell nuclei)" for n in names]
    )
    draw_pruning(run, table.data, table.target, seeds)


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Compare with scikit-learn's trees, and prune a tree that learned wrong labels.

    Parameters
    ----------
    seeds
        Random splits into training and unseen rows.
    """
    show(run, run.budget(quick=min(seeds, 6), default=seeds))
