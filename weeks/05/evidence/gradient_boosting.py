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
    theirs = frame.loc[frame.Feature != "Leaf", "Gain"].to_numpy()
    model = GradientBoosting(n_estimators=1).fit(housing.coded, housing.target, cuts=cuts)
    gains, why = model.trees_[0][0].gain, "gains are float32 differences"
    equal = run.against("xgboost's dump", rtol=1e-4, atol=1e-4, why=why)
    equal("gains of the first tree", np.sort(gains[gains > 0]), np.sort(theirs))


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


# ---- failure on display


def learning_curves(run: Run, table: Table, rounds: int) -> None:
    """Held-out loss by learning rate, and the failure: full steps without early stopping."""
    colors = {0.05: plots.GREEN, 0.3: plots.BLUE, 1.0: plots.ORANGE}
    X, y, half = table.coded, table.target, len(table.target) // 2
    seeds, p = run.budget(quick=2, default=5), table.target.mean()
    unseen = {}
    for rate in colors:
        options = {"n_estimators": rounds, "max_depth": 4, "max_bins": 64}
        models = [GradientBoosting("logistic", learning_rate=rate, **options) for _ in range(seeds)]
        for seed, model in enumerate(models):
            order = np.random.default_rng([run.seed, 23, seed]).permutation(len(y))
            train, test = order[:half], order[half:]
            model.fit(X[train], y[train], eval_set=(X[test], y[test]))
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

    lines = {f"η = {rate:g}": losses for rate, losses in unseen.items()}
    title = "Small steps take longer and get further"
    with run.figure("learning_curves", title, size=(8.0, 4.3)) as ax:
        labels = {"xlabel": "rounds", "ylabel": "log loss held out, nats", "xscale": "log"}
        labels |= {"ylim": (0, None), "reference": {"predicting the share of each class": nothing}}
        plots.curves(ax, np.arange(1, rounds + 1), lines, colors=list(colors.values()), **labels)
