"""Checks, claims and figures of random_forest."""

import math

import numpy as np

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week05.random_forest import (
    RandomForestClassifier,
    RandomForestRegressor,
    bootstrap_counts,
    permutation_importance,
)


def noise_of_difference(ours, theirs) -> float:
    """Four standard errors of the difference of two means, the largest of several."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    variance = ours.var(axis=0, ddof=1) / len(ours) + theirs.var(axis=0, ddof=1) / len(theirs)
    return float(4 * np.sqrt(variance).max())


def check_against_sklearn(run: Run, X, y, X_number, y_number, n_trees: int, seeds: int) -> None:
    """Scores and importances of forests grown from other random numbers, within their noise."""
    from sklearn import ensemble
    from sklearn.inspection import permutation_importance as reference_importance

    cases = {
        "classifier": (RandomForestClassifier, ensemble.RandomForestClassifier, X, y, {}),
        "regressor": (RandomForestRegressor, ensemble.RandomForestRegressor, X_number, y_number,
                      {"max_features": 0.34, "min_samples_leaf": 3}),
    }  # fmt: skip
    why = "four standard errors of the difference over the seeds"
    for name, (Ours, Theirs, A, b, options) in cases.items():
        fitted = [Ours(n_trees, random_state=s, **options).fit(A[::2], b[::2])
                  for s in range(seeds)]  # fmt: skip
        others = [Theirs(n_trees, random_state=100 + s, oob_score=True, **options)
                  .fit(A[::2], b[::2]) for s in range(seeds)]  # fmt: skip
        for measure, value in (
            ("held-out score", lambda m, A=A, b=b: m.score(A[1::2], b[1::2])),
            ("out-of-bag score", lambda m: m.oob_score_),
            ("importances", lambda m: m.feature_importances_),
        ):
            ours, theirs = ([value(m) for m in models] for models in (fitted, others))
            allowed = noise_of_difference(ours, theirs)
            run.check(f"{name}: {measure}", np.mean(ours, axis=0), np.mean(theirs, axis=0),
                      against=f"sklearn.ensemble, {seeds} seeds each",
                      atol=allowed + run.budget(quick=0.1, default=1e-3), why=why)  # fmt: skip
    model = fitted[0]
    ours = permutation_importance(model, X_number[1::2], y_number[1::2], n_repeats=20, rng=run.rng)
    theirs = reference_importance(model, X_number[1::2], y_number[1::2], n_repeats=20,
                                  random_state=0).importances  # fmt: skip
    allowed = noise_of_difference(ours.T, theirs.T)
    run.check("permutation importances", ours.mean(1), theirs.mean(1),
              against="sklearn.inspection, on our forest", atol=allowed,
              why="four standard errors of the shuffles")  # fmt: skip
    n = 2000
    left_out = [(bootstrap_counts(n, run.rng) == 0).mean() for _ in range(50)]
    run.check("share of rows left out of a bootstrap sample", np.mean(left_out), (1 - 1 / n) ** n,
              against="(1 - 1/n)ⁿ, about 1/e", atol=4 * 0.0108 / math.sqrt(50) * math.sqrt(0.5),
              why="four standard errors of 50 samples")  # fmt: skip


def check_variance_formula(run: Run, X, y, n_trees: int) -> None:
    """ρσ² + (1 - ρ)σ²/B, measured over forests of B trees drawn from many."""
    model = RandomForestRegressor(n_trees, max_features=0.34).fit(X[::2], y[::2])
    votes = np.array([tree.predict(X[1::2]) for tree in model.trees_])
    n = len(votes)
    sigma2 = votes.var(axis=0, ddof=1)  # per row; given the data the trees are independent
    for size in (2, 5):
        groups = votes[: n // size * size].reshape(-1, size, votes.shape[1]).mean(axis=1)
        run.check(f"variance of a mean of {size} trees, given the data",
                  groups.var(axis=0, ddof=1).mean(), sigma2.mean() / size,
                  against="σ²/B: equation 15.1 with ρ = 0", rtol=0.35,
                  why=f"a variance from {len(groups)} groups, rows correlated")  # fmt: skip


def draw_forest_size(run: Run, X, y, n_trees: int, seeds: int) -> None:
    """Error against the number of trees: bagging, feature sampling, OOB; and in-bag, the trap."""
    sizes = np.unique(np.geomspace(1, n_trees, 14).astype(int))
    curves = {name: np.empty((seeds, len(sizes))) for name in ("bag", "forest", "oob", "in-bag")}
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 41, seed]).permutation(len(y))
        train, test = order[: 2 * len(y) // 3], order[2 * len(y) // 3 :]
        for name, m in (("bag", 1.0), ("forest", "sqrt")):
            model = RandomForestRegressor(n_trees, max_features=m, random_state=seed)
            model.fit(X[train], y[train])
            votes = np.array([tree.predict(X[test]) for tree in model.trees_])
            means = np.cumsum(votes, axis=0)[sizes - 1] / sizes[:, None]
            curves[name][seed] = np.sqrt(((means - y[test]) ** 2).mean(1))
        inside = np.array([tree.predict(X[train]) for tree in model.trees_])
        means = np.cumsum(inside, axis=0)[sizes - 1] / sizes[:, None]
        curves["in-bag"][seed] = np.sqrt(((means - y[train]) ** 2).mean(1))
        rng = np.random.default_rng(seed)  # replays which rows each tree has seen
        counts = []
        for _ in range(n_trees):
            counts.append(bootstrap_counts(len(train), rng))
            rng.integers(2**31)
        out = np.array(counts) == 0
        total, judges = np.cumsum(inside * out, axis=0), np.cumsum(out, axis=0)
        with np.errstate(invalid="ignore"):
            error = (total / judges - y[train]) ** 2
        curves["oob"][seed] = np.sqrt([np.nanmean(error[s - 1]) for s in sizes])
    with run.figure("size", "How many trees, and may a forest be judged on rows that it has seen?",
                    size=(8.0, 4.4)) as ax:  # fmt: skip
        for name, label, color in (
            ("bag", "bagging, unseen rows", plots.GREEN),
            ("forest", "forest, unseen rows", plots.BLUE),
            ("oob", "forest, out of bag", plots.SKY),
            ("in-bag", "forest, rows it has\nseen (the trap)", plots.ORANGE),
        ):
            plots.interval_band(ax, sizes, curves[name], color=color, label=label)
        spread = y.std()
        ax.axhline(spread, color=plots.REFERENCE, ls="--", lw=1)
        ax.text(n_trees, spread + 0.6, "predicting the mean", ha="right", fontsize=9,
                color=plots.REFERENCE)  # fmt: skip
        ax.set(xscale="log", xlabel="trees", ylabel="root mean square error (diabetes score)")
        ax.set_xticks([s for s in (1, 3, 10, 30, 60, 100) if s <= n_trees],
                      [str(s) for s in (1, 3, 10, 30, 60, 100) if s <= n_trees])  # fmt: skip
        ax.minorticks_off()
        plots.label_lines(ax)
    last = {name: curve[:, -1] for name, curve in curves.items()}
    for name in last:
        run.metric(f"RMSE, {name}", last[name].mean(), rtol=0.1)
    run.metric("RMSE, one tree", curves["bag"][:, 0].mean(), rtol=0.1)
    honest, flattering = last["oob"] - last["forest"], last["in-bag"] - last["forest"]
    gain = mean_interval(curves["bag"][:, 0] - last["bag"])
    run.claim("averaging trees helps", bool(gain.low > 0),
              f"one tree's error minus that of {n_trees}: {gain}")  # fmt: skip
    run.claim("out of bag is an honest estimate, rows seen are not",
              bool(abs(honest.mean()) < 0.25 * abs(flattering.mean())),
              f"out of bag minus unseen {mean_interval(honest)}; "
              f"seen minus unseen {mean_interval(flattering)}")  # fmt: skip


def draw_importances(run: Run, X, y, names: list[str], n_trees: int, seeds: int) -> None:
    """A column of noise: impurity gives it credit, permutation on unseen rows does not."""
    impurity, shuffled = [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 43, seed])
        A = np.c_[X, rng.normal(size=len(y))]
        order = rng.permutation(len(y))
        train, test = order[: 2 * len(y) // 3], order[2 * len(y) // 3 :]
        model = RandomForestRegressor(n_trees, max_features=0.34, random_state=seed)
        model.fit(A[train], y[train])
        impurity.append(model.feature_importances_)
        falls = permutation_importance(model, A[test], y[test], n_repeats=5, rng=rng)
        shuffled.append(falls.mean(axis=1))
    impurity, shuffled = np.array(impurity), np.array(shuffled)
    names = [*names, "random noise"]
    order = np.argsort(impurity.mean(0))
    place = np.arange(len(names))
    with run.figure("importance", "Which features matter? Impurity gives credit to pure noise",
                    columns=2, size=(9.2, 4.3), sharey=True) as axes:  # fmt: skip
        for ax, values, label in (
            (axes[0], 100 * impurity, "share of the impurity taken off, %"),
            (axes[1], shuffled, "fall of R² on unseen rows when shuffled"),
        ):
            means = values.mean(0)[order]
            widths = [mean_interval(values[:, j]) for j in order]
            half = [i.high - i.mean for i in widths]
            noise = order == len(names) - 1
            ax.barh(place, means, xerr=half, height=0.65, capsize=2,
                    color=np.where(noise, plots.ORANGE, plots.BLUE),
                    error_kw={"elinewidth": 1.2, "ecolor": "#333333"})  # fmt: skip
            ax.axvline(0, color=plots.REFERENCE, lw=1)
            ax.set_xlabel(label)
            ax.grid(axis="y", visible=False)
        axes[0].set_yticks(place, [names[j] for j in order])
    by_impurity, by_shuffling = mean_interval(impurity[:, -1]), mean_interval(shuffled[:, -1])
    run.metric("share of the impurity that noise gets", 100 * by_impurity.mean, "%", rtol=0.3)
    beaten = int((impurity.mean(0)[:-1] < impurity.mean(0)[-1]).sum())
    run.metric("real features that noise beats by impurity", beaten, rtol=None)
    run.claim(
        "impurity credits pure noise, permutation does not",
        bool(by_impurity.low > 0.01 and by_shuffling.mean < 0.01),
        f"noise gets {by_impurity} of the impurity; shuffled, R² falls by {by_shuffling}",
    )


def control(run: Run, X, y, n_trees: int, seeds: int) -> None:
    """With permuted labels the out-of-bag votes are worth nothing."""
    from sklearn.metrics import roc_auc_score

    auc = []
    for seed in range(seeds):
        labels = np.random.default_rng([run.seed, 47, seed]).permutation(y)
        model = RandomForestClassifier(n_trees, random_state=seed).fit(X, labels)
        judged = np.isfinite(model.oob_decision_function_[:, 1])
        auc.append(roc_auc_score(labels[judged], model.oob_decision_function_[judged, 1]))
    interval = mean_interval(auc)
    run.claim("permuted labels score at chance", bool(abs(interval.mean - 0.5) < 0.06),
              f"out-of-bag AUC {interval}")  # fmt: skip


def show(run: Run, n_trees: int, seeds: int) -> None:
    """All of it."""
    from sklearn.datasets import load_breast_cancer, load_diabetes

    X, y = load_breast_cancer(return_X_y=True)
    table = load_diabetes(scaled=False)
    step = run.budget(quick=2, default=1)
    few = max(5, n_trees // 3)
    check_against_sklearn(run, X[::step], y[::step], table.data, table.target, few, seeds)
    check_variance_formula(run, table.data[::step], table.target[::step], max(40, n_trees))
    control(run, X[::3], y[::3], few, seeds)
    draw_forest_size(run, table.data, table.target, n_trees, min(seeds, 4))
    full_names = {"s1": "cholesterol", "s2": "LDL", "s3": "HDL", "s4": "cholesterol / HDL",
                  "s5": "log triglycerides", "s6": "glucose", "bp": "blood pressure"}  # fmt: skip
    names = [full_names.get(name, name) for name in table.feature_names]
    draw_importances(run, table.data, table.target, names, few, min(seeds, 5))


def main(run: Run, *, trees: PositiveInt = 60, seeds: PositiveInt = 6) -> None:
    """Compare with scikit-learn's forests, count trees, and ask which features matter.

    Parameters
    ----------
    trees
        Trees of the largest forest.
    seeds
        Forests in each comparison.
    """
    show(
        run,
        run.budget(quick=min(trees, 12), default=trees),
        run.budget(quick=min(seeds, 3), default=max(seeds, 2)),
    )
