"""What `random_forest.py` is measured by: scikit-learn's forests, theory, and a column of noise."""

import numpy as np
from jaxtyping import Bool, Float

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
    check_bootstrap(run, A, b, run.budget(quick=20, default=max(40, trees)))
    control(run, X[::3], y[::3], few, seeds)
    forest_size(run, A, b, trees, seeds)
    names = [NAMES.get(name, name) for name in diabetes.feature_names]
    importances(run, A, b, names, few, seeds)


# ---- checks


def noise_of_difference(ours, theirs) -> float:
    """Four standard errors of the difference of two means, the largest of several."""
    variance = sum(np.var(values, axis=0, ddof=1) / len(values) for values in (ours, theirs))
    return float(4 * np.sqrt(variance).max())


def check_against_sklearn(run: Run, X, y, X_number, y_number, n_trees: int, seeds: int) -> None:
    """Scores and importances of forests grown from other random numbers, within their noise."""
    from sklearn import ensemble
    from sklearn.inspection import permutation_importance as reference_importance

    why = "four standard errors of the difference over the seeds"
    equal = run.against(f"sklearn.ensemble, {seeds} seeds each", why=why)
    cases = {
        "classifier": (RandomForestClassifier, ensemble.RandomForestClassifier, X, y, {}),
        "regressor": (
            RandomForestRegressor,
            ensemble.RandomForestRegressor,
            X_number,
            y_number,
            {"max_features": 0.34, "min_samples_leaf": 3},
        ),
    }
    for name, (Ours, Theirs, A, b, options) in cases.items():
        ours = [Ours(n_trees, random_state=s, **options) for s in range(seeds)]
        options |= {"oob_score": True}
        theirs = [Theirs(n_trees, random_state=100 + s, **options) for s in range(seeds)]
        for model in (*ours, *theirs):
            model.fit(A[::2], b[::2])
        slack = run.budget(quick=0.3, default=1e-3)  # two forests of few trees say little
        for measure, value in {
            "held-out score": lambda m, A=A, b=b: m.score(A[1::2], b[1::2]),
            "out-of-bag score": lambda m: m.oob_score_,
            "importances": lambda m: m.feature_importances_,
        }.items():
            found = [np.array([value(m) for m in models]) for models in (ours, theirs)]
            means, allowed = [values.mean(axis=0) for values in found], noise_of_difference(*found)
            equal(f"{name}: {measure}", *means, atol=allowed + slack)
    model, unseen = ours[0], (X_number[1::2], y_number[1::2])
    ours = permutation_importance(model, *unseen, n_repeats=20, rng=run.rng)
    theirs = reference_importance(model, *unseen, n_repeats=20, random_state=0).importances
    atol, why = noise_of_difference(ours.T, theirs.T), "four standard errors of the shuffles"
    equal = run.against("sklearn.inspection, on our forest", atol=atol, why=why)
    equal("permutation importances", ours.mean(axis=1), theirs.mean(axis=1))


def check_bootstrap(run: Run, X, y, n_trees: int) -> None:
    """How many rows a sample leaves out; ρσ² + (1 - ρ)σ²/B, over forests of B trees from many."""
    n, repeats = 2000, 50
    left_out = [(bootstrap_counts(n, run.rng) == 0).mean() for _ in range(repeats)]
    share = (1 - 1 / n) ** n
    variance = (np.exp(-1) - 2 * np.exp(-2)) / n  # of the share of n boxes that n balls leave empty
    atol, why = 4 * np.sqrt(variance / repeats), "four standard errors of 50 samples"
    equal = run.against("(1 - 1/n)ⁿ, about 1/e", kind="theorem", atol=atol, why=why)
    equal("share of rows left out of a bootstrap sample", np.mean(left_out), share)

    model = RandomForestRegressor(n_trees, max_features=0.34).fit(X[::2], y[::2])
    votes = np.array([tree.predict(X[1::2]) for tree in model.trees_])
    sigma2 = votes.var(axis=0, ddof=1).mean()  # given the data the trees are independent
    source, why = "σ²/B: equation 15.1 with ρ = 0", "a variance from few groups, rows correlated"
    rtol = run.budget(quick=0.6, default=0.35)
    equal = run.against(source, kind="theorem", rtol=rtol, why=why)
    for size in (2, 5):
        groups = votes[: n_trees // size * size].reshape(-1, size, votes.shape[1]).mean(axis=1)
        name = f"variance of a mean of {size} trees, given the data"
        equal(name, groups.var(axis=0, ddof=1).mean(), sigma2 / size)


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


def forest_size(run: Run, X, y, n_trees: int, seeds: int) -> None:
    """Error against the number of trees: bagging, feature sampling, OOB; and in-bag, the trap."""
    sizes = np.unique(np.geomspace(1, n_trees, 14).astype(int))
    colors = {
        "bagging, unseen rows": plots.GREEN,
        "forest, unseen rows": plots.BLUE,
        "forest, out of bag": plots.SKY,
        "forest, rows it has\nseen (the trap)": plots.ORANGE,
    }
    curves = []
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 41, seed]).permutation(len(y))
        train, test = np.split(order, [2 * len(y) // 3])
        bag, forest = (
            RandomForestRegressor(n_trees, max_features=m, random_state=seed) for m in (1.0, "sqrt")
        )
        errors = []
        for model in (bag, forest):
            trees = model.fit(X[train], y[train]).trees_
            votes, seen = (np.array([tree.predict(X[i]) for tree in trees]) for i in (test, train))
            errors.append(error_of_first(votes, np.ones_like(votes, dtype=bool), y[test], sizes))
        everyone, out = np.ones_like(seen, dtype=bool), out_of_bag(seed, n_trees, len(train))
        errors += [error_of_first(seen, who, y[train], sizes) for who in (out, everyone)]
        curves.append(errors)
    bagged, unseen, oob, in_bag = np.array(curves).transpose(1, 0, 2)  # (seed, size) each
    name, note = "averaging trees helps", f"error of one tree minus that of {n_trees}"
    run.claim(name, bagged[:, 0] - bagged[:, -1], at_least=0, note=note)
    flattery = (unseen - in_bag)[:, -1]
    note = "RMSE out of bag minus unseen, as a share of how far rows seen flatter"
    share = (oob - unseen)[:, -1] / flattery
    name = "out of bag is an honest estimate, rows seen are not"
    run.claim(name, share, at_least=-0.25, at_most=0.25, note=note, quick=False)
    lines = dict(zip(colors, (bagged, unseen, oob, in_bag), strict=True))
    title = "How many trees, and may a forest be judged on rows that it has seen?"
    labels = {"xlabel": "trees", "ylabel": "root mean square error (diabetes score)"}
    labels |= {"xscale": "log", "reference": {"predicting the mean": y.std()}}
    with run.figure("size", title, size=(8.0, 4.4)) as ax:
        plots.curves(ax, sizes, lines, colors=list(colors.values()), **labels)
        ticks = [size for size in (1, 3, 10, 30, 60, 100) if size <= n_trees]
        ax.set_xticks(ticks, [str(size) for size in ticks])
        ax.minorticks_off()


def out_of_bag(seed: int, n_trees: int, n: int) -> Bool[np.ndarray, "tree n"]:
    """Which rows each tree of a forest with this seed has not seen, by drawing again."""
    rng, out = np.random.default_rng(seed), []
    for _ in range(n_trees):
        out.append(bootstrap_counts(n, rng) == 0)
        rng.integers(2**31)
    return np.array(out)


def error_of_first(
    votes: Float[np.ndarray, "tree n"], who: Bool[np.ndarray, "tree n"], y, sizes
) -> list[float]:
    """Root mean square error of the first so many trees, each row judged by those in `who`."""
    total, judges = np.cumsum(votes * who, axis=0), np.cumsum(who, axis=0)
    with np.errstate(invalid="ignore"):
        squares = (total / judges - y) ** 2
    return [float(np.sqrt(np.nanmean(squares[size - 1]))) for size in sizes]


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
