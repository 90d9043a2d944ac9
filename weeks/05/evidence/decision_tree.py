"""What `decision_tree.py` is measured by: scikit-learn's trees, and labels that are wrong."""

import numpy as np

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week05.decision_tree import DecisionTreeClassifier, DecisionTreeRegressor
from week05.pruning import pruned
from week05.splits import best_split

CHANCE = "permuted labels score at chance"
ALPHA = 0.02  # set before the first run


def main(run: Run, *, seeds: PositiveInt = 10) -> None:
    """Compare with scikit-learn's trees, and prune a tree that learned wrong labels.

    Parameters
    ----------
    seeds
        Random splits into training and unseen rows.
    """
    seeds = run.budget(quick=min(seeds, 3), default=seeds)
    table = datasets.bundled("breast_cancer")
    numbers = datasets.bundled("diabetes")
    check_splits(run, table.data, table.target, numbers.data, numbers.target)
    check_trees(run)
    control(run, table.data, table.target, seeds)
    prune_wrong_labels(run, table.data, table.target, seeds)


# ---- checks


def reference_tree(criterion: str, **options):
    """The same tree in scikit-learn."""
    from sklearn import tree

    numbers = criterion == "squared_error"
    kind = tree.DecisionTreeRegressor if numbers else tree.DecisionTreeClassifier
    return kind(criterion=criterion, random_state=0, **options)


def check_splits(run: Run, X, y, X_number, y_number) -> None:
    """At each split of scikit-learn's full tree: the least impurity that we find, and its own.

    Where two splits are equally good scikit-learn takes one at random, so that trees may differ and
    both be right; what a split leaves may not.
    """
    equal = run.against("sklearn.tree", rtol=1e-9, atol=1e-8, why="rounding of running sums")
    step = run.budget(quick=3, default=1)
    one_hot = np.eye(2)[y[::step]]
    for criterion, A, Y in (
        ("gini", X[::step], one_hot),
        ("entropy", X[::step], one_hot),
        ("squared_error", X_number[::step], y_number[::step, None]),
    ):
        model = reference_tree(criterion).fit(A, Y[:, -1])
        tree, reached = model.tree_, model.decision_path(A).toarray().astype(bool)
        A = A.astype(np.float32).astype(float)
        ours, theirs = [], []
        for node in np.flatnonzero(tree.children_left >= 0):
            rows = reached[:, node]
            ours.append(best_split(A[rows], Y[rows], np.ones(rows.sum()), criterion).impurity)
            children = [tree.children_left[node], tree.children_right[node]]
            theirs.append(tree.weighted_n_node_samples[children] @ tree.impurity[children])
        equal(f"{criterion}: each split of the full tree", ours, theirs)


def check_trees(run: Run) -> None:
    """Predictions, importances and pruning paths, with weights that leave no ties."""
    rng = np.random.default_rng(run.seed)
    X = rng.normal(size=(400, 5))
    y = X[:, 0] + X[:, 1] * X[:, 2] + rng.normal(size=400)
    weight = rng.uniform(0.5, 1.5, 400)
    equal = run.against("sklearn.tree", rtol=1e-9, atol=1e-12, why="rounding of sums")
    for criterion in ("gini", "entropy", "squared_error"):
        numbers = criterion == "squared_error"
        labels = y if numbers else np.digitize(y, [-1, 0.5])
        predict = "predict" if numbers else "predict_proba"
        kind = DecisionTreeRegressor if numbers else DecisionTreeClassifier
        ours = kind(criterion=criterion, min_samples_leaf=10).fit(X, labels, weight)
        theirs = reference_tree(criterion, min_samples_leaf=10).fit(X, labels, weight)
        path = theirs.cost_complexity_pruning_path(X, labels, weight)
        expected = path.ccp_alphas, path.impurities
        found = ours.cost_complexity_pruning_path(X, labels, weight)
        predictions = (getattr(model, predict)(X) for model in (ours, theirs))
        equal(f"{criterion}: predictions", *predictions)
        importances = ours.feature_importances_, theirs.feature_importances_
        equal(f"{criterion}: importances", *importances)
        equal(f"{criterion}: pruning path", np.array(found), np.array(expected))


# ---- claims and figures


def control(run: Run, X, y, seeds: int) -> None:
    """With permuted labels a full tree still fits its rows, and knows nothing."""
    balanced, fitted = {"permuted": [], "true": []}, []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 31, seed])
        order = rng.permutation(len(y))
        train, test = order[::2], order[1::2]
        for name, labels in (("permuted", rng.permutation(y)), ("true", y)):
            model = DecisionTreeClassifier().fit(X[train], labels[train])
            right = model.predict(X[test]) == labels[test]
            balanced[name].append(np.mean([right[labels[test] == c].mean() for c in (0, 1)]))
            fitted.append(model.score(X[train], labels[train]))
    note = f"balanced accuracy on unseen rows; {np.mean(fitted):.3f} on those it saw"
    run.claim(CHANCE, balanced["permuted"], at_least=0.44, at_most=0.56, note=note, quick=False)
    run.falsifier("true labels score at chance", balanced["true"], breaks=CHANCE)


def prune_wrong_labels(run: Run, X, y, seeds: int) -> None:
    """Accuracy on rows kept back against the number of leaves that pruning leaves."""
    alphas = np.r_[0.0, np.geomspace(1e-3, 0.3, run.budget(quick=4, default=24)), ALPHA]
    leaves, seen, unseen = np.empty((3, seeds, len(alphas)))
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
            seen[seed, i] = 100 * model.score(X[train], noisy[train])
            unseen[seed, i] = 100 * model.score(X[test], y[test])
    full, best, fixed = unseen[:, 0], unseen[:, unseen.mean(0).argmax()], unseen[:, -1]
    run.metric("accuracy of the full tree, true labels", full.mean(), "%")
    run.metric("accuracy of the best pruned tree", best.mean(), "%")
    run.metric("accuracy at the α set beforehand", fixed.mean(), "%")
    name, note = "pruning undoes the learning of wrong labels", f"α = {ALPHA}, set beforehand"
    run.claim(name, fixed - full, at_least=0, unit="points on unseen rows", note=note, quick=False)
    grid = slice(-2, None, -1)  # without the α set beforehand, few leaves first
    lines = {"training rows,\nas labeled": seen[:, grid]}
    lines |= {"unseen rows,\ntrue labels": unseen[:, grid]}
    title = "10 % of the training labels are wrong: the full tree learns them"
    with run.figure("pruning", title, size=(8.0, 4.2)) as ax:
        labels = {"xlabel": "leaves left by pruning (mean over splits)", "xscale": "log"}
        labels |= {"ylabel": "accuracy, %", "colors": (plots.GRAY, plots.BLUE)}
        common = {"always the commoner label": 100 * max(y.mean(), 1 - y.mean())}
        plots.curves(ax, leaves.mean(0)[grid], lines, reference=common, **labels)
