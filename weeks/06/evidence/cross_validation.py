"""What `cross_validation.py` and `comparison.py` are measured by, and four ways to be fooled."""

import math

import numpy as np

from shared import datasets, plots
from shared.stats import Interval
from shared.study import PositiveInt, Run
from week06 import comparison
from week06 import cross_validation as ours
from week06.metrics import accuracy

SAME = "indices and decisions are the same or they are not"
CLASSES = np.array([0, 1])
ORDER = "features selected before splitting make cross-validation see order in pure noise"
PERSONS = "with a person's recordings on both sides of the split meaningless labels are learned"
BEST = "the best cross-validated score of 30 worthless models promises more than chance"
CORRECTED = "the corrected t-test over 100 splits prefers one of two equal models rarely"


def main(run: Run, *, simulations: PositiveInt = 50) -> None:
    """Compare splits and tests with scikit-learn and SciPy, then measure what leaks.

    Parameters
    ----------
    simulations
        Data sets of each leakage experiment.
    """
    check_splits(run)
    check_scores(run)
    check_comparisons(run)
    picture_of_folds(run)
    n = min(simulations, run.budget(quick=4, default=simulations))
    selection_leak(run, n)
    group_leak(run, n)
    tuning_leak(run, n)
    false_alarms(run, run.budget(quick=20, default=400, full=2000))


# ---- checks


def check_splits(run: Run) -> None:
    """Index by index what scikit-learn gives for the same seed."""
    from sklearn import model_selection as reference

    rng = np.random.default_rng(run.seed)
    X, y = np.zeros((103, 1)), rng.choice(4, 103, p=[0.5, 0.3, 0.1, 0.1])
    groups, shuffled = rng.integers(0, 17, 103), {"shuffle": True, "random_state": 3}
    for name, options in (
        ("KFold", {"n_splits": 7}),
        ("KFold", {"n_splits": 7} | shuffled),
        ("StratifiedKFold", {"n_splits": 5}),
        ("StratifiedKFold", {"n_splits": 5} | shuffled),
        ("GroupKFold", {"n_splits": 4}),
    ):
        known = groups if name == "GroupKFold" else None
        both = (getattr(module, name)(**options) for module in (ours, reference))
        pairs = (splitter.split(X, y, known) for splitter in both)
        mine, theirs = (np.concatenate([i for pair in p for i in pair]) for p in pairs)
        equal = run.against(f"sklearn.model_selection.{name}", why=SAME)
        how = ", shuffled" if len(options) > 1 else ""
        equal(f"{name}{how}: training and test indices", mine, theirs)


def check_scores(run: Run) -> None:
    """Nested cross-validation of a model of scikit-learn's."""
    from sklearn import model_selection as reference
    from sklearn.neighbors import KNeighborsClassifier

    images, y = datasets.digits()
    X, y = images.reshape(len(images), -1)[:300].astype(float), y[:300].astype(np.int64)
    grid = {"n_neighbors": [1, 3, 9], "weights": ["uniform", "distance"]}
    outer, inner = ours.StratifiedKFold(5, True, 0), ours.StratifiedKFold(3, True, 1)
    mine, _ = ours.nested_cross_val_score(KNeighborsClassifier, grid, X, y, outer, inner, accuracy)
    outer, inner = (
        reference.StratifiedKFold(k, shuffle=True, random_state=seed)
        for k, seed in ((5, 0), (3, 1))
    )
    search = reference.GridSearchCV(KNeighborsClassifier(), grid, cv=inner)
    equal = run.against("sklearn GridSearchCV within cross_val_score", why=SAME)
    theirs = reference.cross_val_score(search, X, y, cv=outer)
    equal("nested cross-validation", mine, theirs)


def check_comparisons(run: Run) -> None:
    """The t-test without correction is SciPy's; the bootstrap's error has a closed form."""
    from scipy import stats

    rng = np.random.default_rng([run.seed, 1])
    a = rng.normal(0.8, 0.05, 30)
    b = a - rng.normal(0.01, 0.02, 30)
    plain = comparison.corrected_resampled_ttest(a, b, test_share=0.0)
    theirs = stats.ttest_rel(a, b)
    why = "rounding, and another route to the tail of Student's t"
    equal = run.against("scipy.stats.ttest_rel", rtol=1e-10, why=why)
    mine = [plain.t, plain.p, plain.low, plain.high]
    expected = [theirs.statistic, theirs.pvalue, *theirs.confidence_interval()]
    equal("t-test without correction: t, p, interval", mine, expected, atol=1e-12)
    y, resamples = rng.integers(0, 2, 500), run.budget(quick=500, default=10_000)
    pred_a, pred_b = (np.where(rng.random(500) < right, y, 1 - y) for right in (0.85, 0.8))
    options = {"rng": rng, "n_resamples": resamples}
    draws = comparison.bootstrap_difference(y, pred_a, pred_b, accuracy, **options)
    each = (pred_a == y).astype(float) - (pred_b == y)
    why = "four standard errors of a standard deviation from so many draws"
    reference = "standard deviation of the paired differences / √n"
    equal = run.against(reference, kind="theorem", rtol=4 / math.sqrt(2 * resamples), why=why)
    equal("bootstrap error of a difference in accuracy", draws.std(), each.std() / 500**0.5)


# ---- pictures and claims


def picture_of_folds(run: Run) -> None:
    """Who is tested when, for data sorted by class that comes in groups."""
    rng = np.random.default_rng(run.seed)
    y = np.sort(rng.choice(3, 60, p=[0.6, 0.3, 0.1]))
    groups = np.sort(rng.integers(0, 12, 60))
    splitters = {
        "KFold": ours.KFold(4),
        "KFold, shuffled": ours.KFold(4, True, 0),
        "StratifiedKFold": ours.StratifiedKFold(4),
        "GroupKFold": ours.GroupKFold(4),
    }
    rows = {"class": y, "group": groups % 2}
    for name, splitter in splitters.items():
        fold = np.empty(60)
        for k, (_, test) in enumerate(splitter.split(np.zeros((60, 1)), y, groups)):
            fold[test] = k
        rows[name] = fold
    title, labels = "Which fold tests each sample?", {"label": "class, group or fold"}
    with run.figure("folds", title, size=(8.0, 3.2)) as ax:
        labels |= {"rows": list(rows), "cmap": "viridis", "xlabel": "sample (sorted by class)"}
        plots.heat_map(ax, np.array(list(rows.values())), **labels)


def selection_leak(run: Run, simulations: int) -> None:
    """Hastie, Tibshirani and Friedman's experiment: 50 samples, 5000 features, pure noise."""
    wrong, right, fresh = [], [], []
    for s in run.progress(range(simulations), "selection before and within the folds"):
        rng = np.random.default_rng([run.seed, 2, s])
        X = rng.normal(size=(50, 5000)).astype(np.float32).astype(float)
        y, folds = rng.permutation(np.repeat(CLASSES, 25)), ours.StratifiedKFold(5, True, s)
        some = X[:, ours.most_correlated(X, y, 100)]
        rest = (y, folds, accuracy)
        wrong.append(ours.cross_val_score(ours.NearestNeighbor, some, *rest).mean())
        right.append(ours.cross_val_score(lambda: ours.SelectThenFit(100), X, *rest).mean())
        new = rng.normal(size=(200, 100))  # of noise, all columns are alike
        predicted = ours.NearestNeighbor().fit(some, y).predict(new)
        fresh.append(accuracy(rng.permutation(np.repeat(CLASSES, 100)), predicted))
    run.metric("accuracy on noise, features selected before splitting", np.mean(wrong))
    run.metric("accuracy on noise, features selected within the folds", np.mean(right), rtol=0.05)
    run.claim(ORDER, wrong, at_least=0.8, note="accuracy", quick=False)
    run.falsifier("selected within the folds", right, breaks=ORDER)
    chance = {"at_least": 0.45, "at_most": 0.55, "quick": False}
    chance["seen_before"] = "that 99 % intervals over 50 data sets held 0.5"
    run.claim("on new samples the selected model is at chance", fresh, **chance)
    run.claim("selected within the folds, the same features score at chance", right, **chance)
    title = "Accuracy on pure noise: where were the features selected?"
    with run.figure("leak", title, size=(8.0, 3.9)) as ax:
        bins = np.arange(-0.01, 1.02, 0.02)
        for values, where, color in (
            (right, "within each fold", plots.BLUE),
            (wrong, "before splitting", plots.ORANGE),
        ):
            label = f"{where}: {np.mean(values):.0%} right"
            ax.hist(values, bins, color=color, alpha=0.85, label=label)
        ax.axvline(0.5, color=plots.REFERENCE, ls="--", lw=1, label="truth")
        ax.legend(loc="upper left")
        ax.set(xlim=(0.1, 1.03), xlabel="accuracy by 5-fold cross-validation")
        ax.set(ylabel=f"data sets (of {simulations})")


def group_leak(run: Run, simulations: int) -> None:
    """Ten recordings of each person, labels that mean nothing: who is recognized?"""
    mixed, apart = [], []
    for s in range(simulations):
        rng = np.random.default_rng([run.seed, 3, s])
        person = np.repeat(np.arange(40), 10)
        X = rng.normal(size=(40, 8))[person] + 0.3 * rng.normal(size=(400, 8))
        y = rng.permutation(np.repeat(CLASSES, 20))[person]
        for scores, splitter in ((mixed, ours.KFold(5, True, s)), (apart, ours.GroupKFold(5))):
            some = (ours.NearestNeighbor, X, y, splitter, accuracy)
            scores.append(ours.cross_val_score(*some, groups=person).mean())
    run.metric("accuracy on meaningless labels, persons in both parts", np.mean(mixed))
    run.claim(PERSONS, mixed, at_least=0.95, note="accuracy; chance 0.5", quick=False)
    run.falsifier("persons kept apart", apart, breaks=PERSONS)
    # 20 persons of each class: without the tested one, the others lean the other way, 19 to 20.
    name = "with persons kept apart they are not learned"
    run.claim(name, apart, at_most=0.6, note="accuracy", quick=False)


def tuning_leak(run: Run, simulations: int) -> None:
    """Report the best of 30 candidates, or cross-validate the choosing too; all are worthless."""
    best, nested = [], []
    slices = [slice(3 * k, 3 * k + 3) for k in range(30)]
    for s in range(simulations):
        rng = np.random.default_rng([run.seed, 4, s])
        X, y = rng.normal(size=(60, 90)), rng.permutation(np.repeat(CLASSES, 30))
        outer, inner = ours.StratifiedKFold(5, True, s), ours.StratifiedKFold(3, True, s)
        models = [lambda c=c: ours.NearestMean(c) for c in slices]
        scores = [ours.cross_val_score(model, X, y, outer, accuracy).mean() for model in models]
        best.append(max(scores))
        some = (ours.NearestMean, {"columns": slices}, X, y, outer, inner, accuracy)
        nested.append(ours.nested_cross_val_score(*some)[0].mean())
    run.metric("best of 30 worthless models by cross-validation", np.mean(best))
    run.metric("choosing among 30 worthless models, nested", np.mean(nested), rtol=0.05)
    run.claim(BEST, best, at_least=0.55, note="accuracy", quick=False)
    run.falsifier("nested cross-validation", nested, breaks=BEST)
    seen = "that a 99 % interval over 50 data sets held 0.5"
    options = {"at_least": 0.45, "at_most": 0.55, "seen_before": seen, "quick": False}
    name = "choosing among 30 worthless models, cross-validated as a whole, is at chance"
    run.claim(name, nested, **options)


def false_alarms(run: Run, repetitions: int) -> None:
    """Two equally good models on many random splits: how often does a test prefer one?"""
    n, n_test, counts = 100, 20, np.array([5, 10, 20, 50, 100])
    shares = {"plain": 0.0, "corrected": n_test / (n - n_test)}
    alarms = {name: np.zeros(len(counts), int) for name in shares}
    for s in run.progress(range(repetitions), "two models that are equally good"):
        rng = np.random.default_rng([run.seed, 5, s])
        y = rng.permutation(np.repeat(CLASSES, n // 2))
        X = rng.normal(size=(n, 10)) + 0.4 * y[:, None]  # columns 0-4 and 5-9 are exchangeable
        scores = np.empty((2, counts[-1]))
        for j in range(counts[-1]):
            test, train = np.split(rng.permutation(n), [n_test])
            for m, columns in enumerate((slice(0, 5), slice(5, 10))):
                model = ours.NearestMean(columns).fit(X[train], y[train])
                scores[m, j] = np.mean(model.predict(X[test]) == y[test])
        for i, count in enumerate(counts):
            for name, share in shares.items():
                pair = scores[:, :count]
                result = comparison.corrected_resampled_ttest(*pair, test_share=share)
                alarms[name][i] += result.p < 0.05
    rates = {
        name: [share_interval(int(hits), repetitions) for hits in row]
        for name, row in alarms.items()
    }
    for name, row in rates.items():
        run.metric(f"false alarms of the {name} t-test, 100 splits", row[-1].mean, rtol=0.3)
    plain, corrected = (rates[name][-1] for name in ("plain", "corrected"))
    name = "the plain t-test prefers one of them in more than a quarter of all cases"
    note = "share of p < 0.05; Clopper and Pearson's interval"
    run.claim(CORRECTED, corrected, at_most=0.1, note=note, quick=False)
    run.falsifier("the plain t-test", plain, breaks=CORRECTED)
    run.claim(name, plain, at_least=0.25, note=note, quick=False)
    title = "How often is one of two equally good models called better?"
    with run.figure("false_alarms", title, size=(8.0, 4.2)) as ax:
        for (name, row), color in zip(rates.items(), (plots.ORANGE, plots.BLUE), strict=True):
            low, mean, high = np.array([(r.low, r.mean, r.high) for r in row]).T
            ax.errorbar(counts, mean, (mean - low, high - mean), color=color, label=name, capsize=3)
        ax.set(xscale="log", xlabel="random splits, 80 to train and 20 to test", ylim=(0, None))
        ax.set_ylabel("share of p < 0.05")
        plots.reference_line(ax, 0.05, "5 % as promised")
        ax.legend()


def share_interval(hits: int, n: int, level: float = 0.95) -> Interval:
    """Clopper and Pearson's exact interval for a share (1934)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return Interval(hits / n, low, high, n)
