"""What `gradient_boosting.py` is measured by: xgboost, other models, and permuted labels."""

import numpy as np

from shared import plots
from shared.study import PositiveInt, Run
from week05.evidence.gradient_boosting_benchmark import benchmark
from week05.evidence.tables import Table, load_tables
from week05.evidence.xgboost_twin import fit_xgboost, xgboost_margin
from week05.gradient_boosting import GradientBoosting

CHANCE = "permuted labels score at chance"
OVERFIT = "without early stopping full steps end worse than predicting the class shares"
SETTINGS = (
    {},
    {"max_depth": 4, "reg_alpha": 1.0, "reg_lambda": 0.3},
    {"gamma": 1.0, "min_child_weight": 5.0},
)


def main(run: Run, *, rounds: PositiveInt = 80, rows: PositiveInt = 1500) -> None:
    """Compare with xgboost, with other models on three tables, and with permuted labels.

    Parameters
    ----------
    rounds
        Trees of each model of the benchmark.
    rows
        Rows taken of each table.
    """
    rows = run.budget(quick=min(rows, 150), default=rows, full=2 * rows)
    tables = load_tables(run, rows)
    check_against_xgboost(run, tables, run.budget(quick=2, default=20))
    control(run, tables[1], run.budget(quick=2, default=20), run.budget(quick=2, default=12))
    benchmark(run, tables, run.budget(quick=min(rounds, 3), default=rounds))
    draw_stages(run)
    learning_curves(run, tables[1], run.budget(quick=4, default=200))


def check_against_xgboost(run: Run, tables: list[Table], rounds: int) -> None:
    """Equal predictions on rows that neither has seen, with missing values and coded categories."""
    housing, adult, _ = tables
    thirds = np.digitize(housing.target, np.quantile(housing.target, [1 / 3, 2 / 3]))
    cases = [
        ("squared_error", housing.coded, housing.target, "categories as numbers"),
        ("logistic", adult.coded, adult.target, "categories as numbers"),
        ("logistic", adult.one_hot, adult.target, "categories one-hot"),
        ("softmax", housing.coded, thirds, "categories as numbers"),
    ]
    why = "leaves are float32 in xgboost, and a margin sums all rounds"
    for method, bins in (("hist", ", its bins"), ("exact", "")):
        equal = run.against(f"xgboost, tree_method={method}{bins}", atol=1e-4, why=why)
        for objective, X, y, how in cases:
            cut = 2 * len(X) // 3
            n = cut if method == "hist" else min(cut, 400)  # a bin for every value is slow
            ours, theirs = [], []
            for settings in SETTINGS:
                options = {"tree_method": method, **settings}
                booster, cuts = fit_xgboost(X[:n], y[:n], objective, rounds, **options)
                model = GradientBoosting(objective, n_estimators=rounds, **options)
                ours.append(model.fit(X[:n], y[:n], cuts=cuts).decision_function(X[cut:]))
                theirs.append(xgboost_margin(booster, X[cut:]))
            equal(f"{objective}, {method}, {how}", np.array(ours), np.array(theirs))

    booster, cuts = fit_xgboost(housing.coded, housing.target, "squared_error", 1)
    frame = booster.trees_to_dataframe()
    theirs = np.sort(frame.loc[frame.Feature != "Leaf", "Gain"].to_numpy())
    tree = (
        GradientBoosting(n_estimators=1).fit(housing.coded, housing.target, cuts=cuts).trees_[0][0]
    )
    ours, why = np.sort(tree.gain[tree.feature >= 0]), "gains are float32 differences"
    equal = run.against("xgboost's dump", rtol=1e-4, atol=1e-4, why=why)
    equal("gains of the first tree", ours, theirs)


def control(run: Run, table: Table, rounds: int, seeds: int) -> None:
    """With permuted labels there is nothing to learn, however well the training rows are fitted."""
    from sklearn.metrics import roc_auc_score

    half, auc, fitted = len(table.target) // 2, {"permuted": [], "true": []}, []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 17, seed])
        permuted, order = rng.permutation(table.target), rng.permutation(len(table.target))
        train, test = order[:half], order[half:]
        for name, y in (("permuted", permuted), ("true", table.target)):
            model = GradientBoosting("logistic", n_estimators=rounds)
            model.fit(table.coded[train], y[train])
            auc[name].append(roc_auc_score(y[test], model.predict_proba(table.coded[test])[:, 1]))
            fitted.append(model.score(table.coded[train], y[train]))
    note = f"AUC on held-out rows of {table.name}; {np.mean(fitted[::2]):.3f} of those it saw right"
    run.claim(CHANCE, auc["permuted"], at_least=0.47, at_most=0.53, note=note, quick=False)
    run.falsifier("true labels score at chance", auc["true"], breaks=CHANCE)


# ---- figures


def draw_stages(run: Run) -> None:
    """A wave, after 1, 3, 10 and 100 trees."""
    rng = np.random.default_rng(run.seed)
    x, grid = np.sort(rng.uniform(0, 10, 150)), np.linspace(0, 10, 400)
    y = np.sin(x) + 0.2 * x + rng.normal(scale=0.25, size=150)
    model = GradientBoosting(n_estimators=100, max_depth=2, learning_rate=0.3).fit(x[:, None], y)
    title = "What does a sum of 1, 3, 10 and 100 small trees look like?"
    with run.figure("stages", title, columns=4, size=(9.6, 2.9), sharey=True) as axes:
        for ax, n in zip(axes, (1, 3, 10, 100), strict=True):
            ax.plot(x, y, "o", ms=3, color=plots.GRAY, alpha=0.5, mew=0)
            ax.plot(grid, np.sin(grid) + 0.2 * grid, color=plots.REFERENCE, lw=1, ls="--")
            ax.plot(grid, model.decision_function(grid[:, None], n)[:, 0], color=plots.BLUE)
            ax.set_title(f"{n} tree{'s' * (n > 1)}", fontsize=11, weight="normal")
            ax.set_xlabel("x")
        axes[0].set_ylabel("y")
        axes[0].text(0.3, 2.55, "dashed: truth", fontsize=9, color=plots.REFERENCE)


def learning_curves(run: Run, table: Table, rounds: int) -> None:
    """Held-out loss by learning rate, and the failure: full steps without early stopping."""
    colors = {0.05: plots.GREEN, 0.3: plots.BLUE, 1.0: plots.ORANGE}
    X, y, half = table.coded, table.target, len(table.target) // 2
    seeds, p = run.budget(quick=2, default=5), table.target.mean()
    seen, unseen = {}, {}
    for rate in colors:
        options = {"n_estimators": rounds, "max_depth": 4, "max_bins": 64}
        models = [GradientBoosting("logistic", learning_rate=rate, **options) for _ in range(seeds)]
        for seed, model in enumerate(models):
            order = np.random.default_rng([run.seed, 23, seed]).permutation(len(y))
            train, test = order[:half], order[half:]
            model.fit(X[train], y[train], eval_set=(X[test], y[test]))
        seen[rate] = np.mean([model.train_loss_ for model in models], axis=0)
        unseen[rate] = np.array([model.eval_loss_ for model in models])
    nothing = float(-(p * np.log(p) + (1 - p) * np.log(1 - p)))
    slow, fast = unseen[0.05], unseen[1.0]
    run.metric("held-out log loss at η = 1 after all rounds", fast[:, -1].mean(), "nats", rtol=0.2)
    run.metric("least held-out log loss at η = 1", fast.min(1).mean(), "nats", rtol=0.1)
    run.metric("predicting the share of each class", nothing, "nats", rtol=0.05)
    name, gap = "small steps reach a lower loss", fast.min(1) - slow.min(1)
    note = "least held-out log loss at η = 1 minus at η = 0.05"
    run.claim(name, gap, at_least=0, unit="nats", note=note, quick=False)
    known = "an earlier run of this script, where the means were 0.63 and 0.54"
    options = {"unit": "nats", "seen_before": known, "quick": False}
    run.claim(OVERFIT, fast[:, -1] - nothing, at_least=0, **options)
    run.falsifier("small steps end worse", slow[:, -1] - nothing, breaks=OVERFIT)

    x, title = np.arange(1, rounds + 1), "Small steps take longer and get further"
    lines = {f"η = {rate:g}": losses for rate, losses in unseen.items()}
    with run.figure("learning_curves", title, size=(8.0, 4.3)) as ax:
        for rate, color in colors.items():
            best = unseen[rate].mean(0)
            ax.plot(x, seen[rate], ":", color=color, lw=1.4)
            ax.plot(1 + best.argmin(), best.min(), "v", color=color, ms=8)
        top = max(1.25 * nothing, min(2.0, fast.mean(0)[-1] * 1.1))
        labels = {"xlabel": "rounds", "ylabel": "log loss, nats", "xscale": "log", "ylim": (0, top)}
        reference = {"predicting the share of each class": nothing}
        plots.curves(ax, x, lines, colors=list(colors.values()), reference=reference, **labels)
        key = "solid: held out (band: range over splits), dotted: training,\n"
        key += "triangle: where early stopping would stop"
        ax.text(0.02, 0.04, key, transform=ax.transAxes, fontsize=9, color="#666666")
        ticks = [t for t in (1, 10, 100) if t <= rounds]
        ax.set_xticks(ticks, [str(t) for t in ticks])
