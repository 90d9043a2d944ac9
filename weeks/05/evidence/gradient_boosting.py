"""Checks, claims and figures of gradient_boosting."""

import itertools
import math

import numpy as np

from shared import plots
from shared.stats import Interval, mean_interval
from shared.study import PositiveInt, Run
from week05.gradient_boosting import GradientBoosting
from week05.tables import Table, load_tables

XGBOOST = {
    "squared_error": "reg:squarederror",
    "logistic": "binary:logistic",
    "softmax": "multi:softprob",
}


def fit_xgboost(X, y, objective, rounds, *, tree_method="hist", max_bins=256, **settings):
    """Train xgboost with one thread; return the booster and the edges of its bins."""
    import xgboost as xgb

    settings |= {"objective": XGBOOST[objective], "tree_method": tree_method, "nthread": 1}
    if objective == "softmax":
        settings["num_class"] = len(np.unique(y))
    X = X.astype(np.float32)
    if tree_method == "exact":
        return xgb.train(settings, xgb.DMatrix(X, y, nthread=1), rounds), None
    data = xgb.QuantileDMatrix(X, y, max_bin=max_bins, nthread=1)
    settings["max_bin"] = max_bins
    starts, cuts = data.get_quantile_cut()
    starts = starts.astype(int)
    # The first cut of a feature lies below everything and is no edge.
    edges = [cuts[a + 1 : b] for a, b in itertools.pairwise(starts)]
    return xgb.train(settings, data, rounds), edges


def xgboost_margin(booster, X) -> np.ndarray:
    """Margins of a booster, (n, k)."""
    import xgboost as xgb

    data = xgb.DMatrix(X.astype(np.float32), nthread=1)
    return booster.predict(data, output_margin=True).reshape(len(X), -1)


SETTINGS = (
    {},
    {"max_depth": 4, "reg_alpha": 1.0, "reg_lambda": 0.3},
    {"gamma": 1.0, "min_child_weight": 5.0},
)


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
    for objective, X, y, how in cases:
        cut = 2 * len(X) // 3
        for method in ("hist", "exact"):
            n = cut if method == "hist" else min(cut, 400)  # a bin for every value is slow
            errors, ours, theirs = [], [], []
            for settings in SETTINGS:
                booster, cuts = fit_xgboost(
                    X[:n], y[:n], objective, rounds, tree_method=method, **settings
                )
                model = GradientBoosting(
                    objective, n_estimators=rounds, tree_method=method, **settings
                ).fit(X[:n], y[:n], cuts=cuts)
                ours.append(model.decision_function(X[cut:]))
                theirs.append(xgboost_margin(booster, X[cut:]))
                errors.append(np.abs(ours[-1] - theirs[-1]).max())
            run.check(
                f"{objective}, {method}, {how}", np.array(ours), np.array(theirs),
                against=f"xgboost, tree_method={method}"
                + (", its bins" if method == "hist" else ""),
                atol=1e-4, why=why,
            )  # fmt: skip
    run.check("gains of the first tree", *_first_gains(housing), rtol=1e-4, atol=1e-4,
              against="xgboost's dump", why="gains are float32 differences")  # fmt: skip


def _first_gains(table: Table) -> tuple[np.ndarray, np.ndarray]:
    """All gains of one tree, sorted, ours and xgboost's."""
    booster, cuts = fit_xgboost(table.coded, table.target, "squared_error", 1)
    frame = booster.trees_to_dataframe()
    theirs = frame.loc[frame.Feature != "Leaf", "Gain"].to_numpy()
    model = GradientBoosting(n_estimators=1).fit(table.coded, table.target, cuts=cuts)
    tree = model.trees_[0][0]
    return np.sort(tree.gain[tree.feature >= 0]), np.sort(theirs)


# ---- the benchmark


def score(truth: np.ndarray, prediction: np.ndarray) -> float:
    """AUC for classes, R² for numbers."""
    from sklearn.metrics import r2_score, roc_auc_score

    measure = roc_auc_score if truth.dtype.kind == "i" else r2_score
    return float(measure(truth, prediction))


def nested_cross_validate(
    models: dict, table: Table, folds: int, repeats: int, seed: int
) -> dict[str, np.ndarray]:
    """Score of each model on the outer folds, its setting chosen on inner folds of the rest.

    The outer test rows take no part in the choice; all models see the same folds.

    Parameters
    ----------
    models
        By name: a function (table, train, test, setting) to predictions, and its settings.
    """
    from sklearn.model_selection import KFold, RepeatedKFold

    scores = {name: [] for name in models}
    outer = RepeatedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    inner = KFold(2, shuffle=True, random_state=seed)
    for train, test in outer.split(table.coded):
        halves = [(train[a], train[b]) for a, b in inner.split(train)]
        for name, (predict, settings) in models.items():

            def inner_score(setting, predict=predict, halves=halves):
                return sum(score(table.target[b], predict(table, a, b, setting)) for a, b in halves)

            best = max(settings, key=inner_score)
            scores[name].append(score(table.target[test], predict(table, train, test, best)))
    return {name: np.array(values) for name, values in scores.items()}


def corrected_interval(folds: np.ndarray, share: float = 0.25) -> Interval:
    """95% interval of a mean over folds whose training rows overlap.

    The variance of the mean is s² (1/J + test rows / training rows), not s²/J.
    """
    from scipy.special import stdtrit

    n, mean = len(folds), float(folds.mean())
    half = stdtrit(n - 1, 0.975) * folds.std(ddof=1) * math.sqrt(1 / n + share)
    return Interval(mean, mean - half, mean + half, n)


def _competitors(rounds: int) -> dict:
    """Each model with two settings between a simple and a flexible one."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def is_classes(table):
        return table.target.dtype.kind == "i"

    def objective(table):
        return "logistic" if is_classes(table) else "squared_error"

    def ours(table, train, test, depth):
        model = GradientBoosting(
            objective(table), n_estimators=rounds, max_bins=64, learning_rate=0.1, max_depth=depth
        )
        model.fit(table.one_hot[train], table.target[train])
        return model.decision_function(table.one_hot[test])[:, -1]

    def xgboost(table, train, test, depth):
        booster, _ = fit_xgboost(
            table.one_hot[train], table.target[train], objective(table), rounds, max_bins=64,
            learning_rate=0.1, max_depth=depth,
        )  # fmt: skip
        return xgboost_margin(booster, table.one_hot[test])[:, -1]

    def sklearn_model(classifier, regressor):
        def predict(table, train, test, setting):
            model = classifier(setting) if is_classes(table) else regressor(setting)
            model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), model)
            model.fit(table.one_hot[train], table.target[train])
            if is_classes(table):
                return model.predict_proba(table.one_hot[test])[:, 1]
            return model.predict(table.one_hot[test])

        return predict

    trees = {"n_estimators": rounds, "random_state": 0}
    forest = sklearn_model(
        lambda leaf: RandomForestClassifier(min_samples_leaf=leaf, **trees),
        lambda leaf: RandomForestRegressor(min_samples_leaf=leaf, max_features=0.34, **trees),
    )
    linear = sklearn_model(
        lambda penalty: LogisticRegression(C=1 / penalty, solver="newton-cholesky"),
        lambda penalty: Ridge(penalty),
    )
    return {
        "ours": (ours, (2, 4)),
        "xgboost": (xgboost, (2, 4)),
        "random forest": (forest, (1, 4)),
        "ridge or logistic": (linear, (1.0, 10.0)),
    }


def benchmark(run: Run, tables: list[Table], rounds: int) -> None:
    """Four models on three tables by nested cross-validation, with intervals."""
    folds, repeats = run.budget(quick=(2, 1), default=(5, 1), full=(5, 5))
    colors = (plots.BLUE, plots.SKY, plots.GREEN, plots.GRAY)
    with run.figure("benchmark", "Which model predicts held-out rows of three tables best?",
                    columns=3, size=(9.2, 3.2), sharey=True) as axes:  # fmt: skip
        for ax, table in zip(axes, tables, strict=True):
            models = _competitors(rounds)
            scores = nested_cross_validate(models, table, folds, repeats, run.seed)
            measure = "AUC" if table.target.dtype.kind == "i" else "R²"
            for row, (name, color) in enumerate(zip(models, colors, strict=True)):
                interval = corrected_interval(scores[name])
                run.metric(f"{measure} on {table.name}, {name}", interval.mean, rtol=0.05)
                ax.plot([interval.low, interval.high], [row, row], color=color, lw=3, alpha=0.5)
                ax.plot(interval.mean, row, "o", color=color, ms=8)
                ax.annotate(f"{interval.mean:.3f}", (interval.mean, row), (0, 8), ha="center",
                            textcoords="offset points", fontsize=9.5, color="#333333")  # fmt: skip
            ax.set_yticks(range(4), list(models))
            ax.set_ylim(3.6, -0.7)
            ax.set_title(f"{table.name}\n{len(table.target):,} rows", fontsize=10.5,
                         weight="normal")  # fmt: skip
            ax.set_xlabel(f"{measure}, nested, {folds} outer folds")
            ax.margins(x=0.12)
            gap = corrected_interval(scores["ours"] - scores["ridge or logistic"])
            level = corrected_interval(scores["ours"] - scores["xgboost"])
            run.metric(f"{measure} of ours minus xgboost's, {table.name}", level.mean, rtol=None)
            run.claim(
                f"as good as xgboost on {table.name}", bool(abs(level.mean) < 0.02),
                f"{measure} of ours minus xgboost's, each with its own bins: {level}",
                quick=False,
            )  # fmt: skip
            if table is tables[0]:
                run.claim(
                    f"trees beat the linear model on {table.name}", bool(gap.low > 0),
                    f"{measure} of ours minus ridge's {gap}", quick=False,
                )  # fmt: skip
            else:
                run.metric(f"AUC of ours minus logistic's, {table.name}", gap.mean, rtol=None)


def control(run: Run, table: Table, rounds: int, seeds: int) -> None:
    """With permuted labels there is nothing to learn, however well the training rows are fitted."""
    from sklearn.metrics import roc_auc_score

    half, auc, fitted = len(table.target) // 2, [], []
    for seed in range(seeds):
        rng = np.random.default_rng([run.seed, 17, seed])
        y, order = rng.permutation(table.target), rng.permutation(len(table.target))
        train, test = order[:half], order[half:]
        model = GradientBoosting("logistic", n_estimators=rounds).fit(table.coded[train], y[train])
        auc.append(roc_auc_score(y[test], model.predict_proba(table.coded[test])[:, 1]))
        fitted.append(roc_auc_score(y[train], model.predict_proba(table.coded[train])[:, 1]))
    interval = mean_interval(auc)
    run.claim(
        "permuted labels score at chance", bool(abs(interval.mean - 0.5) < 0.03),
        f"AUC {interval} on held-out rows of {table.name}, {np.mean(fitted):.3f} on those it saw",
    )  # fmt: skip


# ---- figures


def draw_stages(run: Run) -> None:
    """A wave, after 1, 3, 10 and 100 trees."""
    rng = np.random.default_rng(run.seed)
    x = np.sort(rng.uniform(0, 10, 150))
    truth = np.linspace(0, 10, 400)
    y = np.sin(x) + 0.2 * x + rng.normal(scale=0.25, size=150)
    model = GradientBoosting(n_estimators=100, max_depth=2, learning_rate=0.3).fit(x[:, None], y)
    with run.figure("stages", "What does a sum of 1, 3, 10 and 100 small trees look like?",
                    columns=4, size=(9.6, 2.9), sharey=True, sharex=True) as axes:  # fmt: skip
        for ax, n in zip(axes, (1, 3, 10, 100), strict=True):
            ax.plot(x, y, "o", ms=3, color=plots.GRAY, alpha=0.5, mew=0)
            ax.plot(truth, np.sin(truth) + 0.2 * truth, color=plots.REFERENCE, lw=1, ls="--")
            ax.plot(truth, model.decision_function(truth[:, None], n)[:, 0], color=plots.BLUE)
            ax.set_title(f"{n} tree{'s' * (n > 1)}", fontsize=11, weight="normal")
            ax.set_xlabel("x")
        axes[0].set_ylabel("y")
        axes[0].text(0.3, 2.55, "dashed: truth", fontsize=9, color=plots.REFERENCE)


def learning_curves(run: Run, table: Table, rounds: int) -> None:
    """Held-out loss by learning rate, and the failure: full steps without early stopping."""
    rates = {0.05: plots.GREEN, 0.3: plots.BLUE, 1.0: plots.ORANGE}
    half, curves, final = len(table.target) // 2, {}, {}
    n_seeds = run.budget(quick=2, default=5)
    for rate in rates:
        curves[rate] = []
        for seed in range(n_seeds):
            order = np.random.default_rng([run.seed, 23, seed]).permutation(len(table.target))
            train, test = order[:half], order[half:]
            X, y = table.coded, table.target
            model = GradientBoosting(
                "logistic", n_estimators=rounds, learning_rate=rate, max_depth=4, max_bins=64
            ).fit(X[train], y[train], eval_set=(X[test], y[test]))
            curves[rate].append([model.train_loss_, model.eval_loss_])
        curves[rate] = np.array(curves[rate])
        final[rate] = curves[rate][:, 1]
    x = np.arange(1, rounds + 1)
    p = table.target.mean()
    nothing = -(p * np.log(p) + (1 - p) * np.log(1 - p))
    with run.figure("learning_curves", "Small steps take longer and get further", size=(8.0, 4.3)
                    ) as ax:  # fmt: skip
        for rate, color in rates.items():
            plots.interval_band(ax, x, final[rate], color=color, label=f"η = {rate:g}")
            ax.plot(x, curves[rate][:, 0].mean(0), ":", color=color, lw=1.4)
            best = final[rate].mean(0)
            ax.plot(1 + best.argmin(), best.min(), "v", color=color, ms=8)
        ax.axhline(nothing, color=plots.REFERENCE, lw=1, ls="--")
        ax.text(1.4, nothing, "predicting the share of each class", va="bottom", fontsize=9,
                color=plots.REFERENCE)  # fmt: skip
        ax.text(0.02, 0.04, "solid: held out (band: range over splits), dotted: training,\n"
                "triangle: where early stopping would stop", transform=ax.transAxes, fontsize=9,
                color="#666666")  # fmt: skip
        ax.set(xlabel="rounds", ylabel="log loss, nats", xscale="log",
               ylim=(0, max(1.25 * nothing, min(2.0, final[1.0].mean(0)[-1] * 1.1))))  # fmt: skip
        ticks = [t for t in (1, 10, 100) if t <= rounds]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        plots.label_lines(ax)
    slow, fast = final[0.05], final[1.0]
    run.metric("held-out log loss at η = 1 after all rounds", fast[:, -1].mean(), "nats", rtol=0.2)
    run.metric("least held-out log loss at η = 0.05", slow.min(1).mean(), "nats", rtol=0.1)
    run.metric("least held-out log loss at η = 1", fast.min(1).mean(), "nats", rtol=0.1)
    run.metric("predicting the share of each class", nothing, "nats", rtol=0.05)
    gap = mean_interval(fast.min(1) - slow.min(1))
    run.claim("small steps reach a lower loss", bool(gap.low > 0),
              f"least held-out log loss at η = 1 minus at η = 0.05: {gap}",
              quick=False)  # fmt: skip
    rise = mean_interval(fast[:, -1] - fast.min(1))
    run.claim("without early stopping full steps overfit", bool(rise.low > 0),
              f"held-out log loss rises by {rise} after its best round at η = 1",
              quick=False)  # fmt: skip


def show(run: Run, rounds: int, rows: int) -> None:
    """All of it."""
    tables = load_tables(run, rows)
    check_against_xgboost(run, tables, run.budget(quick=3, default=20))
    control(run, tables[1], run.budget(quick=5, default=20), run.budget(quick=6, default=8))
    benchmark(run, tables, rounds)
    draw_stages(run)
    learning_curves(run, tables[1], run.budget(quick=10, default=200))


def main(run: Run, *, rounds: PositiveInt = 80, rows: PositiveInt = 1500) -> None:
    """Compare with xgboost, with other models on three tables, and with permuted labels.

    Parameters
    ----------
    rounds
        Trees of each model of the benchmark.
    rows
        Rows taken of each table.
    """
    show(
        run,
        run.budget(quick=min(rounds, 8), default=rounds),
        run.budget(quick=min(rows, 300), default=rows, full=2 * rows),
    )
