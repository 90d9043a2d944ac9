"""What `random_forest.py` is measured by: scikit-learn's forests, theory, and a column of noise."""

import numpy as np
from jaxtyping import Float

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week05.random_forest import (
    RandomForestClassifier,
    RandomForestRegressor,
    bootstrap_counts,
    permutation_importance,
)

CHANCE = "permuted labels score at chance"
SHUFFLED = "shuffling a column of noise costs less than 0.01 of R²"
NAMES = {
    **{"s1": "cholesterol", "s2": "LDL", "s3": "HDL", "s4": "cholesterol / HDL"},
    **{"s5": "log triglycerides", "s6": "glucose", "bp": "blood pressure"},
}


def main(run: Run, *, trees: PositiveInt = 60, seeds: PositiveInt = 6) -> None:
    """Compare with scikit-learn's forests, count trees, and ask which features matter.

    Parameters
    ----------
    trees
        Trees of the largest forest.
    seeds
        Forests in each comparison.
    """
    trees = run.budget(quick=min(trees, 4), default=trees)
    seeds = run.budget(quick=2, default=max(seeds, 2))
    few, step = run.budget(quick=6, default=max(5, trees // 3)), run.budget(quick=3, default=1)
    cancer, diabetes = datasets.bundled("breast_cancer"), datasets.bundled("diabetes")
    X, y = cancer.data[::step], cancer.target[::step]
    A, b = diabetes.data[::step], diabetes.target[::step]
    check_against_sklearn(run, X, y, A, b, few, seeds)
    check_bootstrap(run)
    control(run, X[::3], y[::3], few, seeds)
    forest_size(run, A, b, trees, seeds)
    names = [NAMES.get(name, name) for name in diabetes.feature_names]
    importances(run, A, b, names, few, seeds)


# ---- checks


def check_against_sklearn(run: Run, X, y, X_number, y_number, n_trees: int, seeds: int) -> None:
    """Scores and importances of forests grown from other random numbers, within their noise."""
    from sklearn import ensemble
    from sklearn.inspection import permutation_importance as reference_importance

    def noise(*samples) -> float:
        variance = sum(np.var(values, axis=0, ddof=1) / len(values) for values in samples)
        return float(4 * np.sqrt(variance).max())

    why = "four standard errors of the difference over the seeds"
    equal = run.against(f"sklearn.ensemble, {seeds} seeds each", why=why)
    few = {"max_features": 0.34, "min_samples_leaf": 3}
    for name, Ours, Theirs, A, b, options in (
        ("classifier", RandomForestClassifier, ensemble.RandomForestClassifier, X, y, {}),
        (
            "regressor",
            RandomForestRegressor,
            ensemble.RandomForestRegressor,
            X_number,
            y_number,
            few,
        ),
    ):
        found = []
        for kind, more in ((Ours, {}), (Theirs, {"oob_score": True})):
            models = [kind(n_trees, random_state=s, **options, **more) for s in range(seeds)]
            for model in models:
                model.fit(A[::2], b[::2])
            found.append(
                {
                    "held-out score": [model.score(A[1::2], b[1::2]) for model in models],
                    "out-of-bag score": [model.oob_score_ for model in models],
                    "importances": [model.feature_importances_ for model in models],
                }
            )
        slack = run.budget(quick=0.3, default=1e-3)  # two forests of few trees say little
        for measure in found[0]:
            ours, theirs = (np.array(values[measure]) for values in found)
            allowed = noise(ours, theirs) + slack
            equal(f"{name}: {measure}", ours.mean(axis=0), theirs.mean(axis=0), atol=allowed)
    unseen = X_number[1::2], y_number[1::2]
    model = RandomForestRegressor(n_trees, **few).fit(X_number[::2], y_number[::2])
    ours = permutation_importance(model, *unseen, n_repeats=20, rng=run.rng)
    theirs = reference_importance(model, *unseen, n_repeats=20, random_state=0).importances
    why = "four standard errors of the shuffles"
    equal = run.against("sklearn.inspection", atol=noise(ours.T, theirs.T), why=why)
    equal("permutation importances", ours.mean(axis=1), theirs.mean(axis=1))


def check_bootstrap(run: Run) -> None:
    """How many rows a bootstrap sample leaves out."""
    n, repeats = 2000, 50
    left_out = [(bootstrap_counts(n, run.rng) == 0).mean() for _ in range(repeats)]
    variance = (np.exp(-1) - 2 * np.exp(-2)) / n  # of the share of n boxes that n balls leave empty
    atol, why = 4 * np.sqrt(variance / repeats), "four standard errors of 50 samples"
    equal = run.against("(1 - 1/n)ⁿ, about 1/e", kind="theorem", atol=atol, why=why)
    equal("share of rows left out of a bootstrap sample", np.mean(left_out), (1 - 1 / n) ** n)


# ---- claims and figures


def control(run: Run, X, y, n_trees: int, seeds: int) -> None:
    """With permuted labels the out-of-bag votes are worth nothing."""
    from sklearn.metrics import roc_auc_score

    auc = {"permuted": [], "true": []}
    for seed in range(2 * seeds):
        permuted = np.random.default_rng([run.seed, 47, seed]).permutation(y)
        for name, labels in (("permuted", permuted), ("true", y)):
            model = RandomForestClassifier(n_trees, random_state=seed).fit(X, labels)
            votes = model.oob_decision_function_[:, 1]
            judged = np.isfinite(votes)
            auc[name].append(roc_auc_score(labels[judged], votes[judged]))
    options = {"note": "out-of-bag AUC", "quick": False}
    run.claim(CHANCE, auc["permuted"], at_least=0.44, at_most=0.56, **options)
    run.falsifier("true labels score at chance", auc["true"], breaks=CHANCE)


def rmse(prediction: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Root mean square error over the rows that have a prediction."""
    return float(np.sqrt(np.nanmean((prediction - y) ** 2)))


def forest_size(run: Run, X, y, n_trees: int, seeds: int) -> None:
    """One tree beside many; and a forest judged on new rows, out of bag, and on those it saw."""
    gain, share = [], []
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 41, seed]).permutation(len(y))
        train, test = np.split(order, [2 * len(y) // 3])
        bag, forest = (
            RandomForestRegressor(n_trees, max_features=m, random_state=seed) for m in (1.0, "sqrt")
        )
        trees = bag.fit(X[train], y[train]).trees_
        one, many = (model.predict(X[test]) for model in (trees[0], bag))
        gain.append(rmse(one, y[test]) - rmse(many, y[test]))
        forest.fit(X[train], y[train])
        unseen, seen = (rmse(forest.predict(X[rows]), y[rows]) for rows in (test, train))
        oob = rmse(forest.oob_prediction_, y[train])
        share.append((oob - unseen) / (unseen - seen))
    note = f"error of one tree minus that of {n_trees}"
    run.claim("averaging trees helps", gain, at_least=0, note=note)
    note = "RMSE out of bag minus unseen, as a share of how far rows seen flatter"
    name = "out of bag is an honest estimate, rows seen are not"
    run.claim(name, share, at_least=-0.25, at_most=0.25, note=note, quick=False)


def importances(run: Run, X, y, names: list[str], n_trees: int, seeds: int) -> None:
    """A column of noise: impurity gives it credit, permutation on unseen rows does not."""
    impurity, shuffled = [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 43, seed])
        A = np.c_[X, rng.normal(size=len(y))]
        train, test = np.split(rng.permutation(len(y)), [2 * len(y) // 3])
        model = RandomForestRegressor(n_trees, max_features=0.34, random_state=seed)
        model.fit(A[train], y[train])
        impurity.append(100 * model.feature_importances_)
        falls = permutation_importance(model, A[test], y[test], n_repeats=5, rng=rng)
        shuffled.append(falls.mean(axis=1))
    impurity, shuffled, names = np.array(impurity), np.array(shuffled), [*names, "random noise"]
    run.metric("share of the impurity that noise gets", impurity[:, -1].mean(), "%", rtol=0.3)
    sex = names.index("sex")
    run.metric("share of the impurity that sex gets", impurity[:, sex].mean(), "%", rtol=0.3)
    name = "impurity credits pure noise with over 1 %"
    run.claim(name, impurity[:, -1], at_least=1, unit="% of the impurity")
    run.claim(SHUFFLED, shuffled[:, -1], at_most=0.01, unit="of R²", quick=False)
    order = np.argsort(impurity.mean(axis=0))
    colors = [plots.ORANGE if j == len(names) - 1 else plots.BLUE for j in order[::-1]]
    title = "Which features matter? Impurity gives credit to pure noise"
    with run.figure("importance", title, columns=2, size=(9.2, 4.3), sharey=True) as axes:
        for ax, values, label in (
            (axes[0], impurity, "share of the impurity taken off, %"),
            (axes[1], shuffled, "fall of R² on unseen rows when shuffled"),
        ):
            rows = {names[j]: values[:, j] for j in order[::-1]}
            plots.bars(ax, rows, colors=colors, xlabel=label)
            ax.axvline(0, color=plots.REFERENCE, lw=1)
