"""Four models on three tables by nested cross-validation."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.stats import Interval
from shared.study import Run
from week05.evidence.tables import Table
from week05.gradient_boosting import GradientBoosting

COLORS = {
    "ours": plots.BLUE,
    "xgboost": plots.SKY,
    "random forest": plots.GREEN,
    "ridge or logistic": plots.GRAY,
}


def benchmark(run: Run, tables: list[Table], rounds: int) -> None:
    """Scores with intervals, and paired differences from xgboost and from a linear model."""
    from sklearn.model_selection import KFold, RepeatedKFold

    folds, repeats = run.budget(quick=(2, 1), default=(5, 1), full=(5, 5))
    outer = RepeatedKFold(n_splits=folds, n_repeats=repeats, random_state=run.seed)
    inner = KFold(2, shuffle=True, random_state=run.seed)
    title = "Which model predicts held-out rows of three tables best?"
    with run.figure("benchmark", title, columns=3, size=(9.2, 3.2), sharey=True) as axes:
        for ax, table in zip(axes, tables, strict=True):
            scores = nested_scores(table, rounds, outer, inner)
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
            # A gap near 0 is made of ties, which xgboost breaks otherwise from version to version.
            run.claim(name, level, at_least=-0.02, at_most=0.02, rtol=None, **options)
            if not table.classes:
                gap = corrected_interval(scores["ours"] - scores["ridge or logistic"])
                name = f"trees beat the linear model on {table.name}"
                run.claim(name, gap, at_least=0, unit="R²", quick=False)


def nested_scores(table: Table, rounds: int, outer: Any, inner: Any) -> dict[str, Any]:
    """Score of each model on the outer folds, its setting chosen on inner folds of the rest."""
    from sklearn import metrics
    from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from xgboost import XGBClassifier, XGBRegressor

    def score(model: Any, X: np.ndarray, y: np.ndarray) -> float:
        if table.classes:
            return metrics.roc_auc_score(y, model.predict_proba(X)[:, 1])
        return metrics.r2_score(y, model.predict(X))

    boosted = {"n_estimators": rounds, "learning_rate": 0.1}
    trees, small = {"n_estimators": rounds, "random_state": 0}, {"max_depth": (2, 4)}
    if table.classes:
        ours = GradientBoosting("logistic", max_bins=64, **boosted)
        xgboost = XGBClassifier(max_bin=64, n_jobs=1, **boosted)
        forest = RandomForestClassifier(**trees)
        linear, penalty = LogisticRegression(solver="newton-cholesky"), {"C": (1.0, 0.1)}
    else:
        ours = GradientBoosting(max_bins=64, **boosted)
        xgboost = XGBRegressor(max_bin=64, n_jobs=1, **boosted)
        forest = RandomForestRegressor(max_features=0.34, **trees)
        linear, penalty = Ridge(), {"alpha": (1.0, 10.0)}
    settings = small, small, {"min_samples_leaf": (1, 4)}, penalty
    found = {}
    for name, model, grid in zip(COLORS, (ours, xgboost, forest, linear), settings, strict=True):
        steps = (
            () if model in (ours, xgboost) else (SimpleImputer(strategy="median"), StandardScaler())
        )
        pipeline = make_pipeline(*steps, model)
        grid = {f"{pipeline.steps[-1][0]}__{key}": values for key, values in grid.items()}
        search = GridSearchCV(pipeline, grid, scoring=score, cv=inner)
        found[name] = cross_val_score(search, table.one_hot, table.target, cv=outer, scoring=score)
    return found


def corrected_interval(folds: Float[np.ndarray, " fold"], share: float = 0.25) -> Interval:
    """95 % interval of a mean over folds whose training rows overlap.

    The variance of the mean is s² (1/J + test rows / training rows), not s²/J.
    """
    from scipy.special import stdtrit

    n, mean = len(folds), float(folds.mean())
    half = float(stdtrit(n - 1, 0.975) * folds.std(ddof=1) * math.sqrt(1 / n + share))
    return Interval(mean, mean - half, mean + half, n)
