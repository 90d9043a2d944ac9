"""Checks, claims and figures of cross_validation."""

import math

import numpy as np

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week06 import comparison
from week06 import cross_validation as ours
from week06.metrics import accuracy, f1

SAME = "indices and decisions are the same or they are not"


def share_interval(hits: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact interval for a share (1934)."""
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(betaincinv(hits, n - hits + 1, tail))
    high = 1.0 if hits == n else float(betaincinv(hits + 1, n - hits, 1 - tail))
    return low, high


def _digits(n: int):
    images, labels = datasets.digits()
    return images.reshape(len(images), -1)[:n].astype(float), labels[:n].astype(np.int64)


# ---- checks


def check_splits(run: Run) -> None:
    """Index by index what scikit-learn gives for the same seed."""
    from sklearn import model_selection as reference

    rng = np.random.default_rng(run.seed)
    X, y = np.zeros((103, 1)), rng.choice(4, 103, p=[0.5, 0.3, 0.1, 0.1])
    groups = rng.integers(0, 17, 103)
    cases = [
        ("KFold", {"n_splits": 7}),
        ("KFold", {"n_splits": 7, "shuffle": True, "random_state": 3}),
        ("StratifiedKFold", {"n_splits": 5}),
        ("StratifiedKFold", {"n_splits": 5, "shuffle": True, "random_state": 3}),
        ("GroupKFold", {"n_splits": 4}),
    ]
    for name, options in cases:
        mine = getattr(ours, name)(**options).split(X, y, groups)
        known = groups if name == "GroupKFold" else None
        theirs = getattr(reference, name)(**options).split(X, y, known)
        shuffled = ", shuffled" if options.get("shuffle") else ""
        run.check(
            f"{name}{shuffled}: training and test indices",
            np.concatenate([np.concatenate(pair) for pair in mine]),
            np.concatenate([np.concatenate(pair) for pair in theirs]),
            against=f"sklearn.model_selection.{name}",
            why=SAME,
        )


def check_scores(run: Run) -> None:
    """Cross-validation and nested cross-validation of a model of scikit-learn's."""
    from sklearn import model_selection as reference
    from sklearn.neighbors import KNeighborsClassifier

    X, y = _digits(300)
    outer, inner = ours.StratifiedKFold(5, True, 0), ours.StratifiedKFold(3, True, 1)
    same_outer = reference.StratifiedKFold(5, shuffle=True, random_state=0)
    same_inner = reference.StratifiedKFold(3, shuffle=True, random_state=1)
    run.check(
        "cross_val_score",
        ours.cross_val_score(KNeighborsClassifier, X, y, outer, accuracy),
        reference.cross_val_score(KNeighborsClassifier(), X, y, cv=same_outer),
        against="sklearn.model_selection.cross_val_score",
        why=SAME,
    )
    run.check(
        "our nearest neighbor",
        ours.cross_val_score(ours.NearestNeighbor, X, y, outer, accuracy),
        reference.cross_val_score(KNeighborsClassifier(1), X, y, cv=same_outer),
        against="sklearn.neighbors.KNeighborsClassifier(1)",
        why=SAME,
    )
    grid = {"n_neighbors": [1, 3, 9], "weights": ["uniform", "distance"]}
    mine, _ = ours.nested_cross_val_score(KNeighborsClassifier, grid, X, y, outer, inner, accuracy)
    search = reference.GridSearchCV(KNeighborsClassifier(), grid, cv=same_inner)
    run.check(
        "nested cross-validation",
        mine,
        reference.cross_val_score(search, X, y, cv=same_outer),
        against="sklearn GridSearchCV within cross_val_score",
        why=SAME,
    )


def check_comparisons(run: Run) -> None:
    """The t-test without correction is SciPy's; the bootstrap's error has a closed form."""
    from scipy import stats

    rng = np.random.default_rng([run.seed, 1])
    a = rng.normal(0.8, 0.05, 30)
    b = a - rng.normal(0.01, 0.02, 30)
    plain = comparison.corrected_resampled_ttest(a, b, test_share=0.0)
    theirs = stats.ttest_rel(a, b)
    ends = theirs.confidence_interval()
    run.check(
        "t-test without correction: t, p, interval",
        [plain.t, plain.p, plain.low, plain.high],
        [theirs.statistic, theirs.pvalue, ends.low, ends.high],
        against="scipy.stats.ttest_rel",
        atol=1e-12,
        rtol=1e-10,
        why="rounding, and another route to the tail of Student's t",
    )
    share = 0.25
    scaled = theirs.statistic / math.sqrt(1 + len(a) * share)
    corrected = comparison.corrected_resampled_ttest(a, b, test_share=share)
    run.check(
        "corrected t-test: t and p",
        [corrected.t, corrected.p],
        [scaled, 2 * stats.t.sf(abs(scaled), len(a) - 1)],
        against="scipy.stats, t / √(1 + J n_test/n_train)",
        rtol=1e-10,
        why="rounding, as above",
    )
    y = rng.integers(0, 2, 500)
    pred_a, pred_b = (np.where(rng.random(500) < right, y, 1 - y) for right in (0.85, 0.8))
    resamples = run.budget(quick=2000, default=10_000)
    draws = comparison.bootstrap_difference(
        y, pred_a, pred_b, accuracy, rng=rng, n_resamples=resamples
    )
    each = (pred_a == y).astype(float) - (pred_b == y)
    run.check(
        "bootstrap error of a difference in accuracy",
        draws.std(),
        each.std() / 500**0.5,
        against="standard deviation of the paired differences / √n",
        rtol=4 / math.sqrt(2 * resamples),
        why="four standard errors of a standard deviation from so many draws",
    )
    low, high = np.quantile(
        comparison.bootstrap_difference(y, pred_a, pred_b, f1, rng=rng, n_resamples=resamples // 4),
        [0.025, 0.975],
    )
    run.say(f"F1 of two classifiers on 500 samples: difference in [{low:.3f}, {high:.3f}]")


# ---- pictures and claims


def picture_of_folds(run: Run) -> None:
    """Who is tested when, for data sorted by class that comes in groups."""
    rng = np.random.default_rng(run.seed)
    y = np.sort(rng.choice(3, 60, p=[0.6, 0.3, 0.1]))
    groups = np.sort(rng.integers(0, 12, 60))
    X = np.zeros((60, 1))
    rows = [
        ("KFold", ours.KFold(4)),
        ("KFold, shuffled", ours.KFold(4, True, 0)),
        ("StratifiedKFold", ours.StratifiedKFold(4)),
        ("GroupKFold", ours.GroupKFold(4)),
    ]
    image, ticks = [], []
    for name, splitter in rows:
        for k, (_, test) in enumerate(splitter.split(X, y, groups)):
            ticks.append((len(image), name if k == 0 else ""))
            image.append(np.where(np.isin(np.arange(60), test), 1.0, 0.0))
        image.append(np.full(60, np.nan))
    classes, group_row = y / 2, (groups % 2).astype(float)
    with run.figure(
        "folds",
        "Which samples does each fold test?",
        size=(8.0, 4.6),
        rows=2,
        sharex=True,
        gridspec_kw={"height_ratios": [1, 6.2]},
    ) as axes:
        from matplotlib.colors import ListedColormap

        folds = ListedColormap(["#DDE3E8", plots.ORANGE])
        kinds = ListedColormap([plots.BLUE, plots.SKY, plots.YELLOW])
        axes[1].pcolormesh(
            np.ma.masked_invalid(image[:-1]),
            cmap=folds,
            edgecolors="white",
            linewidth=0.6,
            vmin=0,
            vmax=1,
        )
        axes[1].invert_yaxis()
        axes[1].set_yticks([row + 2 for row, name in ticks if name])
        axes[1].set_yticklabels([name for _, name in ticks if name])
        axes[1].set_xlabel("sample (sorted by class); orange is tested, gray trains")
        axes[0].pcolormesh(
            [classes, np.full(60, np.nan)], cmap=kinds, edgecolors="white", linewidth=0.6
        )
        grays = ListedColormap(["#555555", "#BBBBBB"])
        axes[0].pcolormesh(
            np.arange(61), [1, 2], [group_row], cmap=grays, edgecolors="white", linewidth=0.6
        )
        axes[0].invert_yaxis()
        axes[0].set_yticks([0.5, 1.5])
        axes[0].set_yticklabels(["class", "group"])
        for ax in axes:
            ax.grid(False)
            ax.tick_params(length=0)
            ax.spines[:].set_visible(False)


def selection_leak(run: Run, simulations: int) -> None:
    """Hastie, Tibshirani and Friedman's experiment: 50 samples, 5000 features, pure noise."""
    wrong, right, fresh = [], [], []
    for s in run.progress(range(simulations), "selection before and within the folds"):
        rng = np.random.default_rng([run.seed, 2, s])
        X = rng.normal(size=(50, 5000)).astype(np.float32).astype(float)
        y = rng.permutation(np.repeat([0, 1], 25))
        folds = ours.StratifiedKFold(5, True, s)
        chosen = ours.most_correlated(X, y, 100)
        score = (ours.NearestNeighbor, X[:, chosen], y, folds, accuracy)
        wrong.append(ours.cross_val_score(*score).mean())
        right.append(
            ours.cross_val_score(lambda: ours.SelectThenFit(100), X, y, folds, accuracy).mean()
        )
        model = ours.NearestNeighbor().fit(X[:, chosen], y)
        new = rng.normal(size=(200, 100))  # of noise, all columns are alike
        fresh.append(accuracy(rng.permutation(np.repeat([0, 1], 100)), model.predict(new)))
    leak, honest, truth = (mean_interval(v, level=0.99) for v in (wrong, right, fresh))
    run.metric("accuracy on noise, features selected before splitting", leak.mean)
    run.metric("accuracy on noise, features selected within the folds", honest.mean, rtol=0.05)
    run.metric("accuracy of the selected model on new samples", truth.mean)
    run.claim(
        "features selected before splitting make cross-validation see order in pure noise",
        leak.low > 0.8 and truth.low <= 0.5 <= truth.high,
        f"cross-validation {leak}, the same model on new samples {truth}; 99 % intervals",
    )
    run.claim(
        "control: selected within the folds, the same features score at chance",
        honest.low <= 0.5 <= honest.high,
        f"{honest}; 99 % interval",
    )
    title = "Accuracy on pure noise: where were the features selected?"
    with run.figure("leak", title, size=(8.0, 3.9)) as ax:
        bins = np.arange(-0.01, 1.02, 0.02)
        for values, color in ((right, plots.BLUE), (wrong, plots.ORANGE)):
            ax.hist(values, bins, color=color, alpha=0.85)
        ax.axvline(0.5, color=plots.REFERENCE, ls="--", lw=1)
        top = ax.get_ylim()[1] * 1.25
        ax.text(0.49, top * 0.97, "truth", color=plots.REFERENCE, ha="right", va="top")
        ax.text(
            honest.mean,
            top * 0.75,
            f"within each fold: {honest.mean:.0%} right",
            color=plots.BLUE,
            weight="bold",
            ha="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )
        ax.text(
            leak.mean,
            top * 0.9,
            f"before splitting: {leak.mean:.0%} right",
            color=plots.ORANGE,
            weight="bold",
            ha="right",
        )
        ax.set(xlim=(0.1, 1.03), ylim=(0, top), xlabel="accuracy by 5-fold cross-validation")
        ax.set(ylabel=f"data sets (of {simulations})")


def group_leak(run: Run, simulations: int) -> None:
    """Ten recordings of each person, labels that mean nothing: who is recognized?"""
    scores = {"KFold": [], "GroupKFold": []}
    for s in range(simulations):
        rng = np.random.default_rng([run.seed, 3, s])
        person = np.repeat(np.arange(40), 10)
        X = rng.normal(size=(40, 8))[person] + 0.3 * rng.normal(size=(400, 8))
        y = rng.permutation(np.repeat([0, 1], 20))[person]
        for name, splitter in (
            ("KFold", ours.KFold(5, True, s)),
            ("GroupKFold", ours.GroupKFold(5)),
        ):
            result = ours.cross_val_score(
                ours.NearestNeighbor, X, y, splitter, accuracy, groups=person
            )
            scores[name].append(result.mean())
    mixed, apart = (mean_interval(scores[k], level=0.99) for k in ("KFold", "GroupKFold"))
    run.metric("accuracy on meaningless labels, persons in both parts", mixed.mean)
    run.metric("accuracy on meaningless labels, persons kept apart", apart.mean, rtol=0.1)
    # 20 persons of each class: without the tested one, the others lean the other way, 19 to 20.
    run.claim(
        "if a person's recordings fall on both sides of the split, meaningless labels are learned",
        mixed.low > 0.95 and apart.high < 0.6,
        f"KFold {mixed}, GroupKFold {apart}; chance 0.5, 99 % intervals",
        quick=False,
    )


def tuning_leak(run: Run, simulations: int) -> None:
    """Report the best of 30 candidates, or cross-validate the choosing too; all are worthless."""
    best, nested = [], []
    slices = [slice(3 * k, 3 * k + 3) for k in range(30)]
    for s in range(simulations):
        rng = np.random.default_rng([run.seed, 4, s])
        X, y = rng.normal(size=(60, 90)), rng.permutation(np.repeat([0, 1], 30))
        outer, inner = ours.StratifiedKFold(5, True, s), ours.StratifiedKFold(3, True, s)
        best.append(
            max(
                ours.cross_val_score(lambda c=c: ours.NearestMean(c), X, y, outer, accuracy).mean()
                for c in slices
            )
        )
        scores, _ = ours.nested_cross_val_score(
            ours.NearestMean, {"columns": slices}, X, y, outer, inner, accuracy
        )
        nested.append(scores.mean())
    promise, truth = mean_interval(best, level=0.99), mean_interval(nested, level=0.99)
    run.metric("best of 30 worthless models by cross-validation", promise.mean)
    run.metric("choosing among 30 worthless models, nested", truth.mean, rtol=0.05)
    run.claim(
        "the best cross-validated score of 30 worthless models promises more than chance, nested "
        "cross-validation does not",
        promise.low > 0.55 and truth.low <= 0.5 <= truth.high,
        f"best {promise}, nested {truth}; 99 % intervals",
        quick=False,
    )


def false_alarms(run: Run, repetitions: int) -> None:
    """Two equally good models on many random splits: how often does a test prefer one?"""
    n, n_test, most = 100, 20, 100
    counts = np.array([5, 10, 20, 50, 100])
    alarms = {"plain": np.zeros(len(counts), int), "corrected": np.zeros(len(counts), int)}
    for s in run.progress(range(repetitions), "two models that are equally good"):
        rng = np.random.default_rng([run.seed, 5, s])
        y = rng.permutation(np.repeat([0, 1], n // 2))
        X = rng.normal(size=(n, 10)) + 0.4 * y[:, None]  # columns 0-4 and 5-9 are exchangeable
        scores = np.empty((2, most))
        for j in range(most):
            order = rng.permutation(n)
            train, test = order[n_test:], order[:n_test]
            for m, columns in enumerate((slice(0, 5), slice(5, 10))):
                model = ours.NearestMean(columns).fit(X[train], y[train])
                scores[m, j] = np.mean(model.predict(X[test]) == y[test])
        for i, count in enumerate(counts):
            for name, share in (("plain", 0.0), ("corrected", n_test / (n - n_test))):
                result = comparison.corrected_resampled_ttest(
                    scores[0, :count], scores[1, :count], test_share=share
                )
                alarms[name][i] += result.p < 0.05
    bounds = {
        name: np.array([share_interval(int(h), repetitions) for h in hits])
        for name, hits in alarms.items()
    }
    rates = {name: hits / repetitions for name, hits in alarms.items()}
    for name in alarms:
        run.metric(f"false alarms of the {name} t-test, 100 splits", rates[name][-1], rtol=0.3)
    run.claim(
        "the plain t-test over 100 splits prefers one of two equal models in more than a quarter "
        "of all cases, the corrected one in about 5 %",
        bounds["plain"][-1, 0] > 0.25
        and bounds["corrected"][-1, 0] < 0.06
        and bounds["corrected"][-1, 1] < 0.1,
        f"plain {rates['plain'][-1]:.1%}, 95 % interval {bounds['plain'][-1, 0]:.1%} to "
        f"{bounds['plain'][-1, 1]:.1%}; corrected {rates['corrected'][-1]:.1%}, "
        f"{bounds['corrected'][-1, 0]:.1%} to {bounds['corrected'][-1, 1]:.1%} "
        f"({repetitions} data sets)",
        quick=False,
    )
    title = "How often is one of two equally good models called better?"
    with run.figure("false_alarms", title, size=(8.0, 4.2)) as ax:
        for name, color, label in (
            ("plain", plots.ORANGE, "paired t-test"),
            ("corrected", plots.BLUE, "corrected for overlap"),
        ):
            below, above = bounds[name].T
            ax.fill_between(counts, below, above, color=color, alpha=0.18, linewidth=0)
            ax.plot(counts, rates[name], "o-", color=color, label=label)
        ax.axhline(0.05, color=plots.REFERENCE, ls="--", lw=1)
        ax.text(
            counts[-1], 0.055, "5 % as promised", color=plots.REFERENCE, ha="right", va="bottom"
        )
        ax.set(xscale="log", xlabel="random splits, 80 to train and 20 to test", ylim=(0, None))
        ax.set(ylabel="share of p < 0.05", xticks=counts)
        ax.set_xticklabels([str(c) for c in counts])
        ax.minorticks_off()
        ax.yaxis.set_major_formatter(lambda v, _: f"{v:.0%}")
        plots.label_lines(ax)


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
    n = min(simulations, run.budget(quick=8, default=simulations))
    selection_leak(run, n)
    group_leak(run, n)
    tuning_leak(run, n)
    false_alarms(run, run.budget(quick=60, default=400, full=2000))
