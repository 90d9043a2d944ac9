"""The steps of `ml_pipeline.py` in order, with their checks, claims, figures and the report."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from shared import plots
from shared.artifacts import write_atomic
from shared.stats import Interval
from shared.study import PositiveFloat, PositiveInt, Run
from week06 import metrics, probabilities, saved_pipeline
from week06 import ml_pipeline as ours
from week06.comparison import corrected_resampled_ttest
from week06.cross_validation import StratifiedKFold

LARGE = 1000  # rows from which differences of cost can be told from chance
SHIPPABLE = ("logistic regression", "gradient boosting")  # those that save without a pickle
CHEAPER = "on the test rows the chosen threshold is cheaper than one half"
KNOWS = "the model knows more than the share of positives: its log loss is lower"
CHANCE = "trained on permuted labels, the same pipeline ranks at chance"
LEAK = "a meaningless code, encoded by the mean target before the split, looks like a predictor"


def main(
    run: Run,
    *,
    dataset: ours.DatasetName = "auto",
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
    run.rounding(1e-2, "xgboost breaks ties otherwise from one version to the next")
    if run.mode == "quick" and dataset == "auto":
        dataset = "bundled"  # the same everywhere
    table, reason = ours.load_table(dataset, np.random.default_rng(run.seed))
    run.chose(dataset=table.name)
    costs = {"cost_fp": float(cost_fp), "cost_fn": float(cost_fn)}
    rows = run.budget(quick=min(rows, 300), default=rows)
    Project(run, table, reason, costs, rows).run_all()


class Project:
    """Explore, split, select, set the threshold, test once, explain, save, report."""

    def __init__(self, run: Run, table: ours.Table, reason: str, costs: dict, rows: int):
        self.run, self.table, self.costs, self.rows = run, table, costs, rows
        self.report = [f"# Will it be so: {table.question}?\n\nData: {reason}.\n"]

    def run_all(self) -> None:
        """The steps, in order."""
        X, y = self.explore()
        # The first of five stratified folds is put away now and looked at once, at the end.
        train, test = next(StratifiedKFold(5, True, self.run.seed).split(np.zeros((len(y), 1)), y))
        self.X, self.y = X.iloc[train], y[train]
        self.write(f"## Split\n\n{len(train):,} rows to learn from, {len(test):,} to test once.")
        chosen, parameters, promised = self.select()
        threshold = self.choose_threshold(chosen, parameters)
        model = self.build(chosen, **parameters).fit(self.X, self.y)
        p = positive(model, X.iloc[test])
        self.test(X.iloc[test], y[test], p, threshold)
        name = "nested cross-validation did not promise more than the test rows gave"
        auc = metrics.roc_auc(y[test], p)
        gap = Interval(*(v - auc for v in promised[:3]), n=promised[3])
        options = {"seen_before": "that the promise was 0.007 too high", "quick": False}
        self.run.claim(name, gap, at_most=0.05, note="nested AUC minus test AUC", **options)
        self.twins(X.iloc[test], y[test], p)
        self.importance(model, X.iloc[test], y[test])
        self.control(X.iloc[test], y[test])
        encoding_leak(self.run, self.y)
        self.save(model, X.iloc[test], p, threshold)
        self.write("## The model\n\nSaved in `model/`: numbers and JSON, checked on loading.")
        write_atomic(self.run.out / "report.md", "".join(self.report))
        self.run.say(f"report and model are in {self.run.out.name}/ under runs/")

    def write(self, text: str) -> None:
        """A paragraph of the report."""
        self.report.append(f"\n{text}\n")

    def build(self, name: str, **parameters: Any) -> Any:
        """One of the models after this table's preprocessing."""
        return ours.build_pipeline(name, self.numeric, self.categorical, **parameters)

    def explore(self) -> tuple[pd.DataFrame, np.ndarray]:
        """What there is, without columns that say what another says."""
        X, y = self.table.features, self.table.target
        # Of two columns that say the same, the numeric one stays: its order means something.
        pairs = ours.redundant_columns(X)
        drop = sorted({a if a in self.table.categorical else b for a, b in pairs})
        X = X.drop(columns=drop)
        self.numeric, self.categorical = (
            [c for c in columns if c in X]
            for columns in (self.table.numeric, self.table.categorical)
        )
        size = f"{len(X):,} rows, {X.shape[1]} columns, {y.mean():.1%} positive"
        self.run.say(f"{size}; dropped as redundant: {', '.join(drop) or 'none'}")
        self.write(f"## The table\n\n{size}. Dropped as redundant: {', '.join(drop) or 'nothing'}.")
        columns = {"missing": X.isna().mean().map("{:.1%}".format), "values": X.nunique()}
        self.write(markdown(pd.DataFrame({"column": list(X)} | columns)))
        return X, y

    def select(self) -> tuple[str, dict, tuple[float, float, float, int]]:
        """Nested cross-validation on a subsample: how good is tuning *and* fitting each model?"""
        from sklearn.model_selection import GridSearchCV, cross_validate
        from sklearn.model_selection import StratifiedKFold as folds

        run = self.run
        some = np.random.default_rng([run.seed, 1]).permutation(len(self.y))[: self.rows]
        X, y = self.X.iloc[some], self.y[some]
        outside, inside = run.budget(quick=(2, 2), default=(5, 3))
        outer, inner = (folds(k, shuffle=True, random_state=run.seed) for k in (outside, inside))
        results, choices = {}, {}
        for name, grid in run.progress(list(ours.MODELS.items()), "nested cross-validation"):
            pipeline = self.build(name)
            last = pipeline.steps[-1][0]
            wanted = [{f"{last}__{key}": [g[key]] for key in g} for g in grid]
            search = GridSearchCV(pipeline, wanted, scoring="roc_auc", cv=inner)
            options = {"scoring": "roc_auc", "cv": outer, "return_estimator": True}
            found = cross_validate(search, X, y, **options)
            results[name] = found["test_score"]
            picks = Counter(tuned.best_index_ for tuned in found["estimator"])
            choices[name] = grid[picks.most_common(1)[0][0]]
            run.metric(f"nested AUC, {name}", results[name].mean())
        best = max(SHIPPABLE, key=lambda name: results[name].mean())
        share = 1 / (outside - 1)  # one part tests, the others train
        gaps, intervals = (
            [corrected_resampled_ttest(s, than, test_share=share) for s in results.values()]
            for than in (results[best], np.zeros(outside))
        )
        frame = pd.DataFrame({"model": list(results), "chosen": [choices[n] for n in results]})
        frame["AUC"] = [f"{s.mean():.3f}" for s in results.values()]
        texts = [f"{g.difference:+.3f} [{g.low:+.3f}, {g.high:+.3f}]" for g in gaps]
        frame["against the best"] = texts
        self.write(
            f"## Which model?\n\nNested cross-validation on {len(y):,} training rows, AUC; "
            f"intervals are corrected for overlapping training sets.\n\n{markdown(frame)}\n\n"
            f"Shipped: {best}, the better of those that can be saved without a pickle."
        )
        self.write("![Nested AUC](ml_pipeline_models.png)")
        with run.figure("models", "Which model? AUC on the outer folds", size=(8.0, 2.9)) as ax:
            for i, (scores, band) in enumerate(zip(results.values(), intervals, strict=True)):
                half = band.high - band.difference
                ax.errorbar(band.difference, i, xerr=half, fmt="|", color=plots.BLUE, capsize=4)
                ax.plot(scores, np.full(outside, i), "o", color=plots.ORANGE, ms=4)
            ax.set_yticks(range(3), results)
            ax.set(ylim=(2.6, -0.6), xlabel="AUC (dots: folds; bars: corrected 95 % interval)")
        found = intervals[list(results).index(best)]
        return best, choices[best], (found.difference, found.low, found.high, outside)

    def choose_threshold(self, name: str, parameters: dict) -> float:
        """The cheapest threshold on predictions that no row had a part in making."""
        run, X, y, costs, p = self.run, self.X, self.y, self.costs, np.empty(len(self.y))
        for train, test in StratifiedKFold(3, True, run.seed).split(np.zeros((len(y), 1)), y):
            model = self.build(name, **parameters).fit(X.iloc[train], y[train])
            p[test] = positive(model, X.iloc[test])
        threshold = ours.cheapest_threshold(y, p, **costs)
        theory = costs["cost_fp"] / sum(costs.values())
        run.metric("cheapest threshold, out of fold", threshold, rtol=0.2)
        in_theory, cheapest = (self.cost_of(y, p >= t) for t in (theory, threshold))
        if len(y) >= LARGE:
            title = "the threshold of theory costs at most 3 % more than the cheapest one"
            note = f"cost per row at {theory:.2f} minus 1.03 times that at {threshold:.2f}"
            run.claim(title, in_theory - 1.03 * cheapest, at_most=0, note=note)
        self.write(
            f"## When to act\n\nA false alarm costs {costs['cost_fp']:g}, a miss "
            f"{costs['cost_fn']:g}. Cheapest on out-of-fold predictions: act from "
            f"p = {threshold:.3f}; theory for honest probabilities: {theory:.3f}."
        )
        self.write("![Cost against threshold](ml_pipeline_cost.png)")
        self.draw_cost(p, threshold, theory)
        return threshold

    def cost_of(self, y: np.ndarray, act: np.ndarray) -> Float[np.ndarray, " n"]:
        """What each row costs if one acts so."""
        false_alarm, miss = act & (y == 0), ~act & (y == 1)
        return self.costs["cost_fp"] * false_alarm + self.costs["cost_fn"] * miss

    def draw_cost(self, p: np.ndarray, threshold: float, theory: float) -> None:
        """Cost by threshold, and the calibration that theory rests on."""
        y, thresholds, curve = self.y, *ours.cost_curve(self.y, p, **self.costs)
        title = "When to act? The cheapest threshold is not one half"
        with self.run.figure("cost", title, columns=2, size=(8.0, 4.0)) as (left, right):
            labels = {"xlabel": "act from probability", "ylabel": "mean cost per row (out of fold)"}
            always, never = (self.cost_of(y, np.full(len(y), act)).mean() for act in (True, False))
            levels = {"always act": always, "never act": never}
            line = {"out of fold": curve[1:]}
            plots.curves(left, thresholds[1:], line, reference=levels, ends=False, **labels)
            left.axvline(theory, color=plots.ORANGE, label=f"theory: {theory:.2f}")
            left.plot(threshold, curve.min(), "o", label=f"least: {threshold:.2f}")
            left.legend()
            happened, predicted, _ = probabilities.calibration_curve(y, p)
            lines = {"this model": happened, "honest": predicted}
            labels = {"xlabel": "predicted probability", "ylabel": "observed frequency"}
            plots.curves(right, predicted, lines, ends=False, marker="o", **labels)

    def test(self, X, y: np.ndarray, p: np.ndarray, threshold: float) -> None:
        """Look at the test rows once."""
        run = self.run
        measures = {
            "AUC": metrics.roc_auc,
            "average precision": metrics.average_precision,
            "log loss": probabilities.log_loss,
            "Brier score": probabilities.brier_score,
        }
        found = [measure(y, p) for measure in measures.values()]
        at = {"cheapest threshold": threshold, "acting from 0.50": 0.5, "never acting": np.inf}
        costs = {f"cost, {name}": self.cost_of(y, p >= t) for name, t in at.items()}
        rng = np.random.default_rng([run.seed, 2])
        draws = [rng.integers(0, len(y), len(y)) for _ in range(run.budget(quick=20, default=300))]
        tried = {name: [mine(y[i], p[i]) for i in draws] for name, mine in measures.items()}
        tried |= {name: [cost[i].mean() for i in draws] for name, cost in costs.items()}
        values = [*found, *(cost.mean() for cost in costs.values())]
        frame = pd.DataFrame({"measure": list(tried), "value": [f"{v:.4f}" for v in values]})
        ends = (np.quantile(values, [0.025, 0.975]) for values in tried.values())
        frame["95 % interval"] = [f"{low:.4f} to {high:.4f}" for low, high in ends]
        self.write("## Test")
        self.write(markdown(frame))
        run.metric("test AUC", found[0])
        for name in ("cost, cheapest threshold", "cost, acting from 0.50"):
            run.metric(f"test {name}", costs[name].mean(), rtol=0.1)
        saved = costs["cost, acting from 0.50"] - costs["cost, cheapest threshold"]
        if len(y) >= LARGE:
            run.claim(CHEAPER, saved, at_least=0, note="saved per row")
            same = ((p >= 0.5) != (y == 1)) * 1.0 - ((p >= threshold) != (y == 1))
            run.falsifier("a miss costs no more than a false alarm", same, breaks=CHEAPER)
        share = self.y.mean()
        base = -np.log(np.where(y == 1, share, 1 - share))
        known = [-np.log(np.where(y == 1, q, 1 - q).clip(1e-15)) for q in (p, rng.permutation(p))]
        note = "nats per row, model minus share"
        run.claim(KNOWS, known[0] - base, at_most=0, note=note)
        run.falsifier("predictions dealt out anew", known[1] - base, breaks=KNOWS)
        self.by_group(X[self.table.group], y, p >= threshold)

    def by_group(self, group: pd.Series, y: np.ndarray, act: np.ndarray) -> None:
        """The errors of each group."""
        rows = []
        for value in group.dropna().unique():
            mine = (group == value).to_numpy()
            a, b = act[mine], y[mine]
            missed = (~a[b == 1]).mean() if b.any() else math.nan
            alarms = a[b == 0].mean() if (b == 0).any() else math.nan
            shares = [f"{v:.1%}" for v in (b.mean(), a.mean(), missed, alarms)]
            rows.append([value, f"{mine.sum():,}", *shares])
            if self.table.name == "adult":
                self.run.metric(f"missed positives, {value}", missed, rtol=0.2)
                self.run.metric(f"false alarms, {value}", alarms, rtol=0.2)
        heads = [group.name, "rows", "positive", "acted on", "positives missed", "false alarms"]
        self.write(f"### By {group.name}")
        self.write(markdown(pd.DataFrame(rows, columns=heads)))

    def twins(self, X, y: np.ndarray, p: np.ndarray) -> None:
        """Are test rows easy because the same row was trained on?"""
        seen = pd.MultiIndex.from_frame(self.X.astype(str))
        new = ~pd.MultiIndex.from_frame(X.astype(str)).isin(seen)
        text = f"{1 - new.mean():.1%} of the test rows have a twin among the training rows"
        if len(np.unique(y[new])) == 2:
            auc = metrics.roc_auc(y[new], p[new])
            self.run.metric("test AUC, rows without a twin in training", auc)
            text += f"; without them the AUC is {auc:.3f}"
        self.write(f"{text}.")

    def importance(self, model: Any, X, y: np.ndarray) -> None:
        """Permutation importance, with scikit-learn's own permutations for the comparison."""
        from sklearn.inspection import permutation_importance

        run, n = self.run, min(len(y), self.run.budget(quick=60, default=600))
        repeats, X, y = run.budget(quick=2, default=5), X.iloc[:n], y[:n]
        state = np.random.RandomState(np.random.RandomState(run.seed).randint(2**31))
        order, step, permutations = np.arange(n), np.arange(n), []
        for _ in range(repeats):  # it shuffles what is already shuffled
            state.shuffle(step)
            order = order[step]
            permutations.append(order)
        how = (metrics.roc_auc, np.array(permutations))
        drops = ours.permutation_importance(lambda rows: positive(model, rows), X, y, *how)
        options = {"scoring": "roc_auc", "n_repeats": repeats, "random_state": run.seed}
        theirs = permutation_importance(model, X, y, **options)
        why = "the same permutations; areas add up in another order"
        equal = run.against("sklearn.inspection", atol=1e-9, why=why)
        equal("permutation importance", drops, theirs.importances)
        self.write("## What the model uses\n\nFall of the AUC when one column is dealt out anew.")
        self.write("![Permutation importance](ml_pipeline_importance.png)")
        ranked = np.argsort(-drops.mean(axis=1))
        with run.figure("importance", "What does the model use?", size=(8.0, 4.0)) as ax:
            label = "fall of the test AUC when the column is permuted (dots: permutations)"
            plots.bars(ax, {X.columns[j]: drops[j] for j in ranked}, xlabel=label)

    def control(self, X, y: np.ndarray) -> None:
        """The same pipeline on labels that were dealt out anew."""
        permuted, true = [], []
        for s in range(self.run.budget(quick=4, default=80)):
            rng = np.random.default_rng([self.run.seed, 3, s])
            some = rng.permutation(len(self.y))[: self.rows // 3]
            for scores, labels in ((permuted, rng.permutation(self.y[some])), (true, self.y[some])):
                model = self.build("logistic regression", C=0.1).fit(self.X.iloc[some], labels)
                scores.append(metrics.roc_auc(y, positive(model, X)))
        seen = "a mean of 0.6 ± 0.2 over eight permutations"
        options = {"note": "AUC", "seen_before": seen, "quick": False}
        self.run.claim(CHANCE, permuted, at_least=0.45, at_most=0.55, **options)
        self.run.falsifier("true labels", true, breaks=CHANCE)

    def save(self, model: Any, X, p: np.ndarray, threshold: float) -> None:
        """Save, read back without scikit-learn, compare; a linear model too."""
        run, target = self.run, Path(self.run.out)
        facts = {"dataset": self.table.name, "question": self.table.question}
        saved_pipeline.save_model(target / "model", model, facts | {"threshold": threshold})
        why = "single precision of the boosted trees"
        equal = run.against("the fitted pipeline", kind="consistency", atol=1e-6, why=why)
        loaded = saved_pipeline.load_model(target / "model")(X)
        equal("reloaded model: probabilities of the test rows", loaded, p)
        linear = self.build("logistic regression", C=0.1).fit(self.X.iloc[:3000], self.y[:3000])
        saved_pipeline.save_model(target / "model_linear", linear, facts)
        strange = with_gaps_and_new_words(X, self.numeric, self.categorical)
        loaded = saved_pipeline.load_model(target / "model_linear")(strange)
        why = "rounding of the dot product"
        equal = run.against("sklearn.pipeline.Pipeline", atol=1e-12, why=why)
        name = "reloaded linear model: gaps and unseen words included"
        equal(name, loaded, linear.predict_proba(strange)[:, 1])


def positive(model: Any, X: pd.DataFrame) -> Float[np.ndarray, " n"]:
    """The probability of the positive class."""
    return model.predict_proba(X)[:, 1].astype(np.float64)


def markdown(frame: pd.DataFrame) -> str:
    """A table of the report."""
    rows = [list(frame), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def encoding_leak(run: Run, y: Int[np.ndarray, " n"]) -> None:
    """Failure on display: a meaningless code, replaced by the mean target of its rows."""
    before, within = [], []
    for s in range(run.budget(quick=3, default=10)):
        rng = np.random.default_rng([run.seed, 4, s])
        code = rng.integers(0, len(y) // 2, len(y))  # two rows a code on average
        train, test = next(StratifiedKFold(5, True, s).split(np.zeros((len(y), 1)), y))
        frame = pd.DataFrame({"code": code, "y": y.astype(float)})
        encoded = frame.groupby("code")["y"].transform("mean").to_numpy()
        before.append(metrics.roc_auc(y[test], encoded[test]))
        means = frame.iloc[train].groupby("code")["y"].mean()
        encoded = frame["code"].map(means).fillna(y[train].mean()).to_numpy()
        within.append(metrics.roc_auc(y[test], encoded[test]))
    run.metric("AUC of a meaningless code, encoded before the split", np.mean(before))
    run.metric("AUC of a meaningless code, encoded within training", np.mean(within), rtol=0.05)
    run.claim(LEAK, before, at_least=0.7, note="AUC", quick=False)
    run.falsifier("encoded within training", within, breaks=LEAK)
    seen = "that a 99.9 % interval over ten draws held 0.5"
    options = {"note": "AUC", "seen_before": seen, "quick": False}
    name = "encoded within training, it does not"
    run.claim(name, within, at_least=0.45, at_most=0.55, **options)


def with_gaps_and_new_words(
    X: pd.DataFrame, numeric: list[str], categorical: list[str]
) -> pd.DataFrame:
    """Some values missing, and some words that training never saw."""
    X = X.copy()
    X[categorical], X[numeric] = X[categorical].astype(object), X[numeric].astype(float)
    X.iloc[::7, X.columns.get_loc(categorical[0])] = "never seen"
    X.iloc[::5, X.columns.get_loc(categorical[-1])] = np.nan
    X.iloc[::3, X.columns.get_loc(numeric[0])] = np.nan
    return X
