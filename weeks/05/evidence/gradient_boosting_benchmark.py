"""Four models on three tables by nested cross-validation."""

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped

from shared import plots
from shared.stats import Interval
from shared.study import Run
from week05.evidence.tables import Table
from week05.evidence.xgboost_twin import fit_xgboost, xgboost_margin
from week05.gradient_boosting import GradientBoosting

COLORS = {
    "ours": plots.BLUE,
    "xgboost": plots.SKY,
    "random forest": plots.GREEN,
    "ridge or logistic": plots.GRAY,
}


def benchmark(run: Run, tables: list[Table], rounds: int) -> None:
    """Scores with intervals, and paired differences from xgboost and from a linear model."""
    folds, repeats = run.budget(quick=(2, 1), default=(5, 1), full=(5, 5))
    title = "Which model predicts held-out rows of three tables best?"
    with run.figure("benchmark", title, columns=3, size=(9.2, 3.2), sharey=True) as axes:
        for ax, table in zip(axes, tables, strict=True):
            scores = nested_cross_validate(competitors(rounds), table, folds, repeats, run.seed)
            measure = "AUC" if table.classes else "R²"
            for row, (name, color) in enumerate(COLORS.items()):
                found = corrected_interval(scores[name])
                if name in ("ours", "ridge or logistic"):
                    run.metric(f"{measure} on {table.name}, {name}", found.mean, rtol=0.05)
                half = found.high - found.mean
                ax.errorbar(found.mean, row, xerr=half, fmt="o", color=color, capsize=4)
            ax.set_yticks(range(4), list(COLORS))
            caption = f"{table.name}\n{len(table.target):,} rows"
            ax.set_title(caption, fontsize=10.5, weight="normal")
            ax.set(ylim=(3.6, -0.6), xlabel=f"{measure}, nested, {folds} outer folds")
            level = corrected_interval(scores["ours"] - scores["xgboost"])
            options = {"unit": measure, "note": "each with its own bins", "quick": False}
            name = f"as good as xgboost on {table.name}"
            run.claim(name, level, at_least=-0.02, at_most=0.02, **options)
            if not table.classes:
                gap = corrected_interval(scores["ours"] - scores["ridge or logistic"])
                name = f"trees beat the linear model on {table.name}"
                run.claim(name, gap, at_least=0, unit="R²", quick=False)


def score(truth: Shaped[np.ndarray, " n"], prediction: Float[np.ndarray, " n"]) -> float:
    """AUC for classes, R² for numbers."""
    from sklearn.metrics import r2_score, roc_auc_score

    measure = roc_auc_score if truth.dtype.kind == "i" else r2_score
    return float(measure(truth, prediction))


def nested_cross_validate(
    models: dict[str, tuple[Callable, tuple]], table: Table, folds: int, repeats: int, seed: int
) -> dict[str, Float[np.ndarray, " fold"]]:
    """Score of each model on the outer folds, its setting chosen on inner folds of the rest.

    A model is a function (table, train, test, setting) to predictions, and its settings.
    """
    from sklearn.model_selection import KFold, RepeatedKFold

    scores = {name: [] for name in models}
    outer = RepeatedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    inner = KFold(2, shuffle=True, random_state=seed)
    for train, test in outer.split(table.coded):
        halves = [(train[a], train[b]) for a, b in inner.split(train)]
        for name, (predict, settings) in models.items():
            totals = [
                sum(score(table.target[b], predict(table, a, b, setting)) for a, b in halves)
                for setting in settings
            ]
            best = settings[int(np.argmax(totals))]
            scores[name].append(score(table.target[test], predict(table, train, test, best)))
    return {name: np.array(values) for name, values in scores.items()}


def corrected_interval(folds: Float[np.ndarray, " fold"], share: float = 0.25) -> Interval:
    """95 % interval of a mean over folds whose training rows overlap.

    The variance of the mean is s² (1/J + test rows / training rows), not s²/J.
    """
    from scipy.special import stdtrit

    n, mean = len(folds), float(folds.mean())
    half = float(stdtrit(n - 1, 0.975) * folds.std(ddof=1) * math.sqrt(1 / n + share))
    return Interval(mean, mean - half, mean + half, n)


def competitors(rounds: int) -> dict[str, tuple[Callable, tuple]]:
    """Each model with two settings between a simple and a flexible one."""
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    common = {"learning_rate": 0.1, "max_bins": 64}

    def ours(table, train, test, depth):
        objective = "logistic" if table.classes else "squared_error"
        model = GradientBoosting(objective, n_estimators=rounds, max_depth=depth, **common)
        model.fit(table.one_hot[train], table.target[train])
        return model.decision_function(table.one_hot[test])[:, -1]

    def xgboost(table, train, test, depth):
        X, y = table.one_hot[train], table.target[train]
        objective = "logistic" if table.classes else "squared_error"
        booster, _ = fit_xgboost(X, y, objective, rounds, max_depth=depth, **common)
        return xgboost_margin(booster, table.one_hot[test])[:, -1]

    def from_sklearn(classifier, regressor):
        def predict(table, train, test, setting):
            model = (classifier if table.classes else regressor)(setting)
            model = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), model)
            model.fit(table.one_hot[train], table.target[train])
            if table.classes:
                return model.predict_proba(table.one_hot[test])[:, 1]
            return model.predict(table.one_hot[test])

        return predict

    trees = {"n_estimators": rounds, "random_state": 0}
    forest = from_sklearn(
        lambda leaf: RandomForestClassifier(min_samples_leaf=leaf, **trees),
        lambda leaf: RandomForestRegressor(min_samples_leaf=leaf, max_features=0.34, **trees),
    )
    linear = from_sklearn(
        lambda penalty: LogisticRegression(C=1 / penalty, solver="newton-cholesky"), Ridge
    )
    models = (ours, (2, 4)), (xgboost, (2, 4)), (forest, (1, 4)), (linear, (1.0, 10.0))
    return dict(zip(COLORS, models, strict=True))
