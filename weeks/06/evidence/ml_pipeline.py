"""The steps of `ml_pipeline.py` in order, with their checks, claims, figures and the report."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd

from shared import plots
from shared.artifacts import write_atomic
from shared.stats import mean_interval
from shared.study import PositiveFloat, PositiveInt, Run
from week06 import metrics, probabilities, saved_pipeline
from week06 import ml_pipeline as ours
from week06.comparison import corrected_resampled_ttest
from week06.cross_validation import StratifiedKFold
from week06.ml_pipeline import DatasetName, load_table

LARGE = 1000  # rows from which differences of cost can be told from chance
SHIPPABLE = ("logistic regression", "gradient boosting")  # those that save without a pickle


def run_project(run: Run, table: ours.Table, reason: str, costs: dict, rows: int) -> None:
    """Explore, split, select, set the threshold, test once, explain, save, report."""
    report = [f"# Will it be so: {table.question}?\n", f"Data: {reason}.\n"]
    X, y = _explore(run, table, report)
    numeric = [c for c in table.numeric if c in X]
    categorical = [c for c in table.categorical if c in X]

    # The first of five stratified folds is put away now and looked at once, at the end.
    train, test = next(StratifiedKFold(5, True, run.seed).split(np.zeros((len(y), 1)), y))
    X_train, y_train, X_test, y_test = X.iloc[train], y[train], X.iloc[test], y[test]
    report.append(f"\n## Split\n\n{len(train):,} rows to learn from, {len(test):,} to test once.\n")

    chosen, parameters, promised = _select(
        run, X_train, y_train, numeric, categorical, rows, report
    )
    model = ours.build_pipeline(chosen, numeric, categorical, **parameters).fit(X_train, y_train)
    threshold = _threshold(
        run, X_train, y_train, numeric, categorical, chosen, parameters, costs, report
    )
    p = model.predict_proba(X_test)[:, 1].astype(np.float64)
    _test(run, table, X_test, y_test, p, threshold, costs, promised, y_train.mean(), report)
    seen = pd.MultiIndex.from_frame(X_train.astype(str))
    new = ~pd.MultiIndex.from_frame(X_test.astype(str)).isin(seen)
    twins = f"{1 - new.mean():.1%} of the test rows have a twin among the training rows"
    if len(np.unique(y_test[new])) == 2:
        run.metric(
            "test AUC, rows without a twin in training", metrics.roc_auc(y_test[new], p[new])
        )
        twins += f"; without them the AUC is {metrics.roc_auc(y_test[new], p[new]):.3f}"
    report.append(f"\n{twins}.\n")
    _importance(run, model, X_test, y_test, report)
    _control(run, X_train, y_train, X_test, y_test, numeric, categorical, rows, p)
    _encoding_leak(run, y_train)
    _save(run, table, model, X_test, p, threshold, (X_train, y_train, numeric, categorical))
    report.append("\n## The model\n\nSaved in `model/`: numbers and JSON, checked on loading.\n")
    write_atomic(run.out / "report.md", "".join(report))
    run.say(f"report and model are in {run.out.name}/ under runs/")


def _explore(run: Run, table: ours.Table, report: list[str]) -> tuple[pd.DataFrame, np.ndarray]:
    X, y = table.features, table.target
    # Of two columns that say the same, the numeric one stays: its order means something.
    pairs = ours.redundant_columns(X)
    drop = {a if a in table.categorical else b for a, b in pairs}
    X = X.drop(columns=sorted(drop))
    missing = X.isna().mean()
    report += [
        "\n## The table\n\n",
        f"{len(X):,} rows, {X.shape[1]} columns, {y.mean():.1%} positive. ",
        f"Dropped as redundant: {', '.join(sorted(drop)) or 'nothing'}.\n\n",
        "| column | kind | missing | values |\n|---|---|---|---|\n",
        *(
            f"| {c} | {'number' if c in table.numeric else 'category'} | {missing[c]:.1%} | "
            f"{X[c].nunique()} |\n"
            for c in X
        ),
    ]
    run.say(
        f"{len(X):,} rows, {X.shape[1]} columns, {y.mean():.1%} positive; "
        f"dropped as redundant: {', '.join(sorted(drop)) or 'none'}"
    )
    run.metric("rows", len(X))
    run.metric("share of positives", y.mean())
    run.metric("largest share missing in a column", missing.max())
    return X, y


def _intervals(share: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Half-widths of 95 % intervals of shares, by Agresti and Coull (1998)."""
    smooth = (share * n + 2) / (n + 4)
    return 1.96 * np.sqrt(smooth * (1 - smooth) / (n + 4))


def _scores(y: np.ndarray, p: np.ndarray) -> tuple[float, float]:
    return metrics.roc_auc(y, p), probabilities.log_loss(y, p)


def _select(run, X, y, numeric, categorical, rows, report):
    """Nested cross-validation on a subsample: how good is tuning *and* fitting each model?"""
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.model_selection import StratifiedKFold as Reference

    some = np.random.default_rng([run.seed, 1]).permutation(len(y))[:rows]
    X, y = X.iloc[some], y[some]
    outside, inside = run.budget(quick=(2, 2), default=(5, 3))
    outer, inner = (StratifiedKFold(k, True, run.seed) for k in (outside, inside))
    position = np.zeros((len(y), 1))
    results, choices = {}, {}
    for name, grid in run.progress(list(ours.MODELS.items()), "nested cross-validation"):
        scores, picks = [], []
        for train, test in outer.split(position, y):
            means = []
            for parameters in grid:
                parts = inner.split(position[train], y[train])
                means.append(
                    np.mean(
                        [
                            _fit_and_score(
                                name, parameters, X, y, train[a], train[b], numeric, categorical
                            )
                            for a, b in parts
                        ]
                    )
                )
            picks.append(int(np.argmax(means)))
            scores.append(
                _fit_and_score(name, grid[picks[-1]], X, y, train, test, numeric, categorical)
            )
        results[name] = np.array(scores)
        choices[name] = grid[Counter(picks).most_common(1)[0][0]]
    search = GridSearchCV(
        ours.build_pipeline("logistic regression", numeric, categorical),
        {"logisticregression__C": [g["C"] for g in ours.MODELS["logistic regression"]]},
        scoring=lambda m, a, b: roc_auc_score(b, m.predict_proba(a)[:, 1]),
        cv=Reference(inside, shuffle=True, random_state=run.seed),
    )
    folds = Reference(outside, shuffle=True, random_state=run.seed)
    theirs = cross_val_score(search, X, y, cv=folds, scoring=search.scoring)
    run.check(
        "nested cross-validation of logistic regression",
        results["logistic regression"],
        theirs,
        against="sklearn GridSearchCV within cross_val_score",
        atol=1e-12,
        why="the same fits; areas add up in another order",
    )
    share = 1 / (outside - 1)  # one part tests, the others train
    best = max(SHIPPABLE, key=lambda name: results[name].mean())
    report += [
        f"\n## Which model?\n\nNested cross-validation on {len(y):,} training rows, "
        "AUC; differences with an interval corrected for overlapping training sets.\n\n",
        "| model | AUC | chosen | against the best |\n|---|---|---|---|\n",
    ]
    gaps = {}
    for name, scores in results.items():
        gaps[name] = corrected_resampled_ttest(scores, results[best], test_share=share)
        gap = gaps[name]
        against = "" if name == best else f"{gap.difference:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]"
        report.append(f"| {name} | {scores.mean():.3f} | {choices[name]} | {against} |\n")
        run.metric(f"nested AUC, {name}", scores.mean())
    report += [
        f"\nShipped: {best}, the better of those that can be saved without a pickle.\n",
        "\n![Nested AUC](ml_pipeline_models.png)\n",
    ]
    title = "Which model? AUC on the outer folds"
    with run.figure("models", title, size=(8.0, 2.9)) as ax:
        colors = (plots.BLUE, plots.GREEN, plots.ORANGE)
        for i, scores in enumerate(results.values()):
            interval = corrected_resampled_ttest(scores, np.zeros(outside), test_share=share)
            ax.plot(
                [interval.low, interval.high],
                [i, i],
                color=colors[i],
                lw=7,
                alpha=0.25,
                solid_capstyle="butt",
            )
            ax.plot(scores, np.full(outside, i), "o", color=colors[i], ms=5, alpha=0.8)
            ax.plot(scores.mean(), i, "|", color="black", ms=18, mew=2)
        ax.set_yticks(range(3))
        ax.set_yticklabels(results)
        ax.set(ylim=(2.6, -0.6), xlabel="AUC (dots: folds; band: corrected 95 % interval)")
        ax.grid(axis="y", visible=False)
    promise = corrected_resampled_ttest(results[best], np.zeros(outside), test_share=share)
    return best, choices[best], promise


def _fit_and_score(name, parameters, X, y, train, test, numeric, categorical) -> float:
    model = ours.build_pipeline(name, numeric, categorical, **parameters)
    model.fit(X.iloc[train], y[train])
    return metrics.roc_auc(y[test], model.predict_proba(X.iloc[test])[:, 1].astype(float))


def _threshold(run, X, y, numeric, categorical, chosen, parameters, costs, report) -> float:
    """The cheapest threshold on predictions that no row had a part in making."""
    p = np.empty(len(y))
    for train, test in StratifiedKFold(3, True, run.seed).split(np.zeros((len(y), 1)), y):
        model = ours.build_pipeline(chosen, numeric, categorical, **parameters)
        model.fit(X.iloc[train], y[train])
        p[test] = model.predict_proba(X.iloc[test])[:, 1]
    threshold = ours.cheapest_threshold(y, p, **costs)
    few = slice(0, 400)
    brute = [
        ours.decision_cost(y[few], p[few] >= t, **costs)
        for t in np.append(np.inf, np.unique(p[few])[::-1])
    ]
    run.check(
        "cost at every threshold",
        ours.cost_curve(y[few], p[few], **costs)[1],
        brute,
        against="counting anew for each threshold",
        atol=1e-12,
        why="the same integers",
    )
    theory = costs["cost_fp"] / (costs["cost_fp"] + costs["cost_fn"])
    run.metric("cheapest threshold, out of fold", threshold, rtol=0.2)
    run.metric("threshold in theory", theory)
    thresholds, curve = ours.cost_curve(y, p, **costs)
    in_theory = ours.decision_cost(y, p >= theory, **costs)
    if len(y) >= LARGE:
        run.claim(
            "the threshold of theory costs at most 3 % more than the cheapest one",
            in_theory <= 1.03 * curve.min(),
            f"{in_theory:.4f} at {theory:.2f}, {curve.min():.4f} at {threshold:.2f}",
        )
    report += [
        f"\n## When to act\n\nA false alarm costs {costs['cost_fp']:g}, a miss "
        f"{costs['cost_fn']:g}. Cheapest on out-of-fold predictions: act from "
        f"p = {threshold:.3f}; theory for honest probabilities: {theory:.3f}.\n",
        "\n![Cost against threshold](ml_pipeline_cost.png)\n",
    ]
    title = "When to act? The cheapest threshold is not one half"
    with run.figure(
        "cost", title, columns=2, size=(8.0, 4.0), gridspec_kw={"width_ratios": [1.35, 1]}
    ) as axes:
        axes[0].plot(thresholds[1:], curve[1:], color=plots.BLUE)
        act, never = costs["cost_fp"] * (1 - y.mean()), costs["cost_fn"] * y.mean()
        for cost, name in ((act, "always act"), (never, "never act")):
            axes[0].axhline(cost, color=plots.REFERENCE, ls="--", lw=1)
            axes[0].text(0.55, cost, name, va="bottom", ha="center", color=plots.REFERENCE)
        axes[0].axvline(theory, color=plots.ORANGE, lw=1.2)
        axes[0].plot(threshold, curve.min(), "o", color=plots.BLUE)
        low = 0.8 * curve.min()
        axes[0].text(
            theory + 0.02,
            low + 0.9 * (max(act, never) - low),
            f"theory: {theory:.2f}",
            color=plots.ORANGE,
        )
        axes[0].set(
            xlabel="act from probability",
            ylabel="mean cost a row (out of fold)",
            xlim=(0, 1),
            ylim=(low, 1.1 * max(act, never)),
        )
        happened, predicted, n = probabilities.calibration_curve(y, p)
        axes[1].plot([0, 1], [0, 1], color=plots.REFERENCE, ls="--", lw=1)
        axes[1].errorbar(
            predicted, happened, _intervals(happened, n), fmt="o", color=plots.BLUE, capsize=2
        )
        axes[1].set(
            xlabel="predicted probability", ylabel="observed frequency", xlim=(0, 1), ylim=(0, 1)
        )
        axes[1].set_title("and the probabilities behind it", fontsize=11, weight="normal")
    return threshold


def _test(run, table, X, y, p, threshold, costs, promised, share, report) -> None:
    """Look at the test rows once."""
    from sklearn import metrics as reference

    measures = {
        "AUC": (metrics.roc_auc, reference.roc_auc_score),
        "average precision": (metrics.average_precision, reference.average_precision_score),
        "log loss": (probabilities.log_loss, reference.log_loss),
        "Brier score": (probabilities.brier_score, reference.brier_score_loss),
    }
    run.check(
        "test metrics",
        [mine(y, p) for mine, _ in measures.values()],
        [theirs(y, p) for _, theirs in measures.values()],
        against="sklearn.metrics",
        atol=1e-12,
        why="order of additions",
    )
    decisions = {
        f"cost, acting from {threshold:.2f}": p >= threshold,
        "cost, acting from 0.50": p >= 0.5,
        "cost, never acting": np.zeros(len(y), bool),
        "cost, always acting": np.ones(len(y), bool),
    }
    rng = np.random.default_rng([run.seed, 2])
    draws = [rng.integers(0, len(y), len(y)) for _ in range(run.budget(quick=50, default=300))]
    report += ["\n## Test\n\n| | value | 95 % interval |\n|---|---|---|\n"]
    bounds = {}
    for name, (mine, _) in measures.items():
        low, high = np.quantile([mine(y[i], p[i]) for i in draws], [0.025, 0.975])
        bounds[name] = low, high
        run.metric(f"test {name}", mine(y, p))
        report.append(f"| {name} | {mine(y, p):.4f} | {low:.4f} to {high:.4f} |\n")
    each = {
        name: costs["cost_fp"] * (act & (y == 0)) + costs["cost_fn"] * (~act & (y == 1))
        for name, act in decisions.items()
    }
    for name, cost in each.items():
        low, high = np.quantile([cost[i].mean() for i in draws], [0.025, 0.975])
        label = "cost, cheapest threshold" if name.startswith("cost, acting from ") else name
        label = name if name.endswith("0.50") and threshold != 0.5 else label
        run.metric(f"test {label}", cost.mean(), rtol=0.1)
        report.append(f"| {name} | {cost.mean():.4f} | {low:.4f} to {high:.4f} |\n")
    saved = list(each.values())[1] - next(iter(each.values()))
    low, high = np.quantile([saved[i].mean() for i in draws], [0.025, 0.975])
    if len(y) >= LARGE:
        run.claim(
            "on the test rows the chosen threshold is cheaper than one half",
            bool(low > 0),
            f"saves {saved.mean():.3f} a row, 95 % bootstrap interval {low:.3f} to {high:.3f}",
        )
    base = -float(share * np.log(share) + (1 - share) * np.log(1 - share))
    run.claim(
        "the model knows more than the share of positives: its log loss is below that of the share",
        bool(bounds["log loss"][1] < base),
        f"{probabilities.log_loss(y, p):.3f}, interval to {bounds['log loss'][1]:.3f}; "
        f"share {base:.3f}",
    )
    auc, (low, high) = metrics.roc_auc(y, p), bounds["AUC"]
    run.claim(
        "nested cross-validation did not promise more than the test rows gave",
        bool(promised.low <= high),
        f"promised {promised.difference:.3f} [{promised.low:.3f}, {promised.high:.3f}], "
        f"test {auc:.3f} [{low:.3f}, {high:.3f}]",
    )
    act = p >= threshold
    heads = (table.group, "rows", "positive", "acted on", "positives missed", "false alarms")
    report += [f"\n### By {table.group}\n\n| ", " | ".join(heads), " |\n", "|---" * 6, "|\n"]
    for value in X[table.group].dropna().unique():
        mine = (X[table.group] == value).to_numpy()
        a, b = act[mine], y[mine]
        missed = (~a[b == 1]).mean() if b.any() else float("nan")
        alarms = a[b == 0].mean() if (b == 0).any() else float("nan")
        report.append(
            f"| {value} | {mine.sum():,} | {b.mean():.1%} | {a.mean():.1%} | "
            f"{missed:.1%} | {alarms:.1%} |\n"
        )
        if table.name == "adult":
            run.metric(f"missed positives, {value}", missed, rtol=0.2)
            run.metric(f"false alarms, {value}", alarms, rtol=0.2)


def _importance(run, model, X, y, report) -> None:
    """Permutation importance, with scikit-learn's own permutations for the comparison."""
    from sklearn.inspection import permutation_importance

    n = min(len(y), run.budget(quick=60, default=600))
    repeats = run.budget(quick=2, default=5)
    X, y = X.iloc[:n], y[:n]
    state = np.random.RandomState(np.random.RandomState(run.seed).randint(2**31))
    order, step, permutations = np.arange(n), np.arange(n), []
    for _ in range(repeats):  # it shuffles what is already shuffled
        state.shuffle(step)
        order = order[step]
        permutations.append(order)
    drops = ours.permutation_importance(
        lambda rows: model.predict_proba(rows)[:, 1].astype(float),
        X,
        y,
        metrics.roc_auc,
        np.array(permutations),
    )
    theirs = permutation_importance(
        model, X, y, scoring="roc_auc", n_repeats=repeats, random_state=run.seed
    )
    run.check(
        "permutation importance",
        drops,
        theirs.importances,
        atol=1e-9,
        against="sklearn.inspection.permutation_importance",
        why="the same permutations; areas add up in another order",
    )
    ranked = np.argsort(-drops.mean(axis=1))
    report.append(
        "\n## What the model uses\n\nFall of the AUC when one column is dealt out anew.\n"
        "\n![Permutation importance](ml_pipeline_importance.png)\n"
    )
    run.say("most used: " + ", ".join(X.columns[ranked[:3]]))
    with run.figure("importance", "What does the model use?", size=(8.0, 4.0)) as ax:
        for place, j in enumerate(ranked):
            ax.plot(
                [0, drops[j].mean()], [place, place], color=plots.SKY, lw=6, solid_capstyle="butt"
            )
            ax.plot(drops[j], np.full(repeats, place), "o", color=plots.BLUE, ms=4)
        ax.set_yticks(range(len(ranked)))
        ax.set_yticklabels(X.columns[ranked])
        ax.set(ylim=(len(ranked) - 0.4, -0.6))
        ax.set_xlabel("fall of the test AUC when the column is permuted (dots: permutations)")
        ax.grid(axis="y", visible=False)


def _control(run, X, y, X_test, y_test, numeric, categorical, rows, p) -> None:
    scores = []
    for s in range(run.budget(quick=5, default=8)):
        rng = np.random.default_rng([run.seed, 3, s])
        some = rng.permutation(len(y))[: rows // 3]
        model = ours.build_pipeline("logistic regression", numeric, categorical, C=0.1)
        model.fit(X.iloc[some], rng.permutation(y[some]))
        scores.append(metrics.roc_auc(y_test, model.predict_proba(X_test)[:, 1]))
    interval = mean_interval(scores, level=0.999)
    run.claim(
        "control: trained on permuted labels, the same pipeline ranks at chance",
        interval.low <= 0.5 <= interval.high and max(scores) < metrics.roc_auc(y_test, p),
        f"AUC {interval}, 99.9 % interval; true labels {metrics.roc_auc(y_test, p):.3f}",
    )


def _encoding_leak(run, y) -> None:
    """Failure on display: a meaningless code, replaced by the mean target of its rows."""
    before, after = [], []
    for s in range(run.budget(quick=3, default=10)):
        rng = np.random.default_rng([run.seed, 4, s])
        code = rng.integers(0, len(y) // 2, len(y))  # two rows a code on average
        train, test = next(StratifiedKFold(5, True, s).split(np.zeros((len(y), 1)), y))
        frame = pd.DataFrame({"code": code, "y": y.astype(float)})
        before.append(
            metrics.roc_auc(y[test], frame.groupby("code")["y"].transform("mean").to_numpy()[test])
        )
        means = frame.iloc[train].groupby("code")["y"].mean()
        honest = frame["code"].map(means).fillna(y[train].mean()).to_numpy()[test]
        after.append(metrics.roc_auc(y[test], honest))
    leak, honest = mean_interval(before, level=0.999), mean_interval(after, level=0.999)
    run.metric("AUC of a meaningless code, encoded before the split", leak.mean)
    run.metric("AUC of a meaningless code, encoded within training", honest.mean, rtol=0.05)
    run.claim(
        "a meaningless code, encoded by the mean target before the split, looks like a predictor",
        leak.low > 0.7 and honest.low <= 0.5 <= honest.high,
        f"AUC {leak} before, {honest} within training; 99.9 % intervals",
        quick=False,
    )


def _save(run, table, model, X, p, threshold, data) -> None:
    """Save, read back without scikit-learn, compare; the linear model beside the shipped one."""
    X_train, y_train, numeric, categorical = data
    target = Path(run.out) / "model"
    saved_pipeline.save_model(
        target, model, {"dataset": table.name, "threshold": threshold, "question": table.question}
    )
    run.check(
        "reloaded model: probabilities of the test rows",
        saved_pipeline.load_model(target)(X),
        p,
        against="the fitted pipeline",
        atol=1e-6,
        why="single precision of the boosted trees",
    )
    some = slice(0, 3000)
    linear = ours.build_pipeline("logistic regression", numeric, categorical, C=0.1)
    linear.fit(X_train.iloc[some], y_train[some])
    saved_pipeline.save_model(Path(run.out) / "model_linear", linear, {"dataset": table.name})
    strange = X.copy()
    strange[categorical] = strange[categorical].astype(object)
    strange.iloc[::7, strange.columns.get_loc(categorical[0])] = "never seen"
    strange.iloc[::5, strange.columns.get_loc(categorical[-1])] = np.nan
    strange[numeric] = strange[numeric].astype(float)
    strange.iloc[::3, strange.columns.get_loc(numeric[0])] = np.nan
    run.check(
        "reloaded linear model: gaps and unseen words included",
        saved_pipeline.load_model(Path(run.out) / "model_linear")(strange),
        linear.predict_proba(strange)[:, 1],
        against="sklearn.pipeline.Pipeline",
        atol=1e-12,
        why="rounding of the dot product",
    )
    size = len(json.dumps(saved_pipeline.Preprocessor.of(model).__dict__))
    run.metric("bytes of the preprocessing as JSON", size, rtol=0.1)


def main(
    run: Run,
    *,
    dataset: DatasetName = "auto",
    cost_fp: PositiveFloat = 1.0,
    cost_fn: PositiveFloat = 4.0,
    rows: PositiveInt = 1500,
) -> None:
    """Go from a table to a tested, saved model and a report, and check every step that is ours.

    Parameters
    ----------
    dataset
        adult, titanic or bundled; auto takes the first that needs no download.
    cost_fp
        What acting on a negative costs.
    cost_fn
        What missing a positive costs.
    rows
        Training rows that model selection works on; the chosen model then gets them all.
    """
    table, reason = load_table(dataset, np.random.default_rng(run.seed))
    run.say(f"data: {reason}")
    costs = {"cost_fp": float(cost_fp), "cost_fn": float(cost_fn)}
    run_project(run, table, reason, costs, run.budget(quick=min(rows, 300), default=rows))
