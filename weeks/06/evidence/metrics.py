"""Checks, claims and figures of metrics."""

import math

import numpy as np
from scipy.special import ndtr, ndtri

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week06 import metrics as ours
from week06 import probabilities

EXACT = "both count the same weights; only the order of additions differs"
DISTANCE = 1.5  # standard deviations between the two classes of the simulated classifier


def binormal(n: int, prevalence: float, rng: np.random.Generator):
    """Labels, scores N(0, 1) and N(DISTANCE, 1), and the true probability of each sample."""
    y = (np.arange(n) < round(n * prevalence)).astype(np.int64)
    score = rng.normal(size=n) + DISTANCE * y
    odds = math.log(prevalence / (1 - prevalence)) + DISTANCE * score - DISTANCE**2 / 2
    return y, score, 1 / (1 + np.exp(-odds))


# ---- checks


def _case(rng: np.random.Generator, n: int = 500, classes: int = 4):
    """Labels, predictions and scores full of ties, with weights some of which are zero."""
    y, weight = rng.integers(0, classes, n), rng.integers(0, 4, n) / 2
    scores = np.round(rng.dirichlet(np.ones(classes), n) + 0.5 * np.eye(classes)[y], 1)
    prob = (scores + 0.05) / (scores + 0.05).sum(axis=1, keepdims=True)
    return y, scores, prob, weight


def check_decisions(run: Run) -> None:
    """Confusion matrix, accuracy, precision, recall and F1, weighted and averaged every way."""
    from sklearn import metrics as reference

    y, scores, _, weight = _case(np.random.default_rng(run.seed))
    pred = scores.argmax(axis=1)
    pred[pred == 3] = 0  # a class that is never predicted: 0 / 0
    against = "sklearn.metrics"
    run.check(
        "confusion matrix, weighted",
        ours.confusion_matrix(y, pred, sample_weight=weight),
        reference.confusion_matrix(y, pred, sample_weight=weight),
        against=against,
        atol=1e-12,
        why=EXACT,
    )
    run.check(
        "accuracy, weighted",
        ours.accuracy(y, pred, sample_weight=weight),
        reference.accuracy_score(y, pred, sample_weight=weight),
        against=against,
        atol=1e-14,
        why=EXACT,
    )
    for name in ("precision", "recall", "f1"):
        mine, theirs = getattr(ours, name), getattr(reference, f"{name}_score")
        found, expected = [], []
        for average in ("macro", "micro", "weighted"):
            for zero in (0.0, 1.0, np.nan):
                for w in (None, weight):
                    options = {"average": average, "zero_division": zero, "sample_weight": w}
                    found.append(mine(y, pred, **options))
                    expected.append(theirs(y, pred, **options))
        run.check(
            f"{name}: 3 averages × 3 values of 0/0 × weights",
            found,
            expected,
            against=against,
            atol=1e-14,
            why=EXACT,
        )


def check_rankings(run: Run) -> None:
    """Curves point by point, areas, and AUC by counting pairs."""
    from scipy.stats import mannwhitneyu
    from sklearn import metrics as reference

    y, scores, _, weight = _case(np.random.default_rng([run.seed, 1]))
    label, score = (y == 0).astype(np.int64), scores[:, 0]
    against = "sklearn.metrics"
    for name, mine, theirs in (
        ("ROC curve", ours.roc_curve, reference.roc_curve),
        ("precision-recall curve", ours.precision_recall_curve, reference.precision_recall_curve),
    ):
        run.check(
            f"{name}, tied and weighted: rates and thresholds",
            np.concatenate(mine(label, score, sample_weight=weight)),
            np.concatenate(theirs(label, score, sample_weight=weight)),
            against=against,
            atol=1e-14,
            why=EXACT,
        )
    averages = ("macro", "weighted", "micro")
    run.check(
        "AUC of 4 classes against the rest, 3 averages",
        [ours.roc_auc(y, scores, average=a, sample_weight=weight) for a in averages],
        [
            reference.roc_auc_score(
                y[:, None] == np.arange(4), scores, average=a, sample_weight=weight
            )
            for a in averages
        ],
        against=against,
        atol=1e-14,
        why=EXACT,
    )
    run.check(
        "average precision of 4 classes, 3 averages",
        [ours.average_precision(y, scores, average=a, sample_weight=weight) for a in averages],
        [
            reference.average_precision_score(
                y[:, None] == np.arange(4), scores, average=a, sample_weight=weight
            )
            for a in averages
        ],
        against=against,
        atol=1e-14,
        why=EXACT,
    )
    u = mannwhitneyu(score[label == 1], score[label == 0]).statistic
    run.check(
        "AUC is the share of pairs in order",
        ours.roc_auc(label, score),
        u / (label.sum() * (1 - label).sum()),
        against="scipy.stats.mannwhitneyu",
        atol=1e-14,
        why=EXACT,
    )


def check_probabilities(run: Run) -> None:
    """Log loss, Brier score and the calibration curve."""
    from sklearn import metrics as reference
    from sklearn.calibration import calibration_curve

    y, _, prob, weight = _case(np.random.default_rng([run.seed, 2]))
    label, p = (y == 0).astype(np.int64), prob[:, 0]
    certain = np.where(np.arange(len(p)) % 50 == 0, 1.0, p)  # confident and often wrong: clipped
    against = "sklearn.metrics"
    run.check(
        "log loss: two classes, four, and certain mistakes",
        [
            probabilities.log_loss(label, p, sample_weight=weight),
            probabilities.log_loss(y, prob),
            probabilities.log_loss(label, certain),
        ],
        [
            reference.log_loss(label, p, sample_weight=weight),
            reference.log_loss(y, prob),
            reference.log_loss(label, certain),
        ],
        against=against,
        atol=1e-13,
        why=EXACT,
    )
    run.check(
        "Brier score: two classes and four",
        [
            probabilities.brier_score(label, p, sample_weight=weight),
            probabilities.brier_score(y, prob),
        ],
        [
            reference.brier_score_loss(label, p, sample_weight=weight),
            reference.brier_score_loss(y, prob),
        ],
        against=against,
        atol=1e-14,
        why=EXACT,
    )
    for strategy in ("uniform", "quantile"):
        happened, predicted = calibration_curve(label, p, n_bins=8, strategy=strategy)
        mine = probabilities.calibration_curve(label, p, n_bins=8, strategy=strategy)
        run.check(
            f"calibration curve, {strategy} bins",
            np.concatenate(mine[:2]),
            np.concatenate([happened, predicted]),
            against="sklearn.calibration.calibration_curve",
            atol=1e-14,
            why=EXACT,
        )


# ---- what misleads


def ranking_and_prevalence(run: Run, n: int, seeds: int) -> None:
    """One classifier where half are positive and where one in a hundred is."""
    rngs = [np.random.default_rng([run.seed, 3, s]) for s in range(seeds)]
    theory = float(ndtr(DISTANCE / math.sqrt(2)))
    common, rare = (
        [(y, s) for y, s, _ in (binormal(n, share, rng) for rng in rngs)] for share in (0.5, 0.01)
    )
    auc_common, auc_rare = (
        mean_interval([ours.roc_auc(y, s) for y, s in data], level=0.99) for data in (common, rare)
    )
    ap_common, ap_rare = (
        mean_interval([ours.average_precision(y, s) for y, s in data], level=0.99)
        for data in (common, rare)
    )
    run.claim(
        "the AUC of two normal classes is Φ(d/√2), whether half or 1 % are positive",
        auc_common.low <= theory <= auc_common.high and auc_rare.low <= theory <= auc_rare.high,
        f"theory {theory:.4f}; half {auc_common}, 1 % {auc_rare}; 99 % intervals over seeds",
    )
    run.claim(
        "average precision of the same classifier falls by more than half when positives are rare",
        ap_rare.high < ap_common.low / 2,
        f"half positive {ap_common}, 1 % positive {ap_rare}",
    )
    run.metric("AUC, half positive", auc_common.mean)
    run.metric("AUC, 1 % positive", auc_rare.mean, rtol=0.05)
    run.metric("average precision, half positive", ap_common.mean)
    run.metric("average precision, 1 % positive", ap_rare.mean, rtol=0.1)
    shuffled = [
        [metric(rng.permutation(y), s) for rng, (y, s) in zip(rngs, common, strict=True)]
        for metric in (ours.roc_auc, ours.average_precision)
    ]
    chance = [mean_interval(values, level=0.999) for values in shuffled]
    run.claim(
        "with permuted labels the AUC is a half and the average precision the share of positives",
        all(c.low <= 0.5 <= c.high for c in chance),
        f"AUC {chance[0]}, average precision {chance[1]}; 99.9 % intervals, half positive",
    )
    title = "One classifier, two populations: which curve notices that positives are rare?"
    with run.figure("curves", title, columns=2, size=(8.0, 4.2)) as axes:
        fpr = np.geomspace(1e-7, 1, 800)
        tpr = ndtr(ndtri(fpr) + DISTANCE)
        axes[0].plot(fpr, tpr, color=plots.REFERENCE, lw=1.2, ls="--", zorder=3)
        axes[0].plot([0, 1], [0, 1], color=plots.GRAY, lw=1)
        axes[0].text(0.62, 0.5, "chance", color=plots.GRAY, fontsize=10)
        axes[0].annotate(
            "theory",
            (0.3, ndtr(ndtri(0.3) + DISTANCE)),
            (0.42, 0.72),
            color=plots.REFERENCE,
            fontsize=10,
            arrowprops={"arrowstyle": "-", "color": plots.REFERENCE},
        )
        for data, share, color in ((common, 0.5, plots.BLUE), (rare, 0.01, plots.ORANGE)):
            grid = np.linspace(0, 1, 200)
            curves = [ours.roc_curve(y, s) for y, s in data]
            roc = np.array([np.interp(grid, c[0], c[1]) for c in curves])
            axes[0].fill_between(grid, roc.min(0), roc.max(0), color=color, alpha=0.35, lw=0)
            pr = [ours.precision_recall_curve(y, s) for y, s in data]
            recalls = np.linspace(0.02, 1, 200)
            steps = np.array([np.interp(recalls, c[1][::-1], c[0][::-1]) for c in pr])
            axes[1].fill_between(recalls, steps.min(0), steps.max(0), color=color, alpha=0.35, lw=0)
            exact = share * tpr / (share * tpr + (1 - share) * fpr)
            axes[1].plot(tpr, exact, color=plots.REFERENCE, lw=1.2, ls="--")
            axes[1].axhline(share, color=color, lw=1, ls=":")
        axes[0].text(
            0.97,
            0.13,
            f"half positive, AUC {auc_common.mean:.2f}",
            color=plots.BLUE,
            ha="right",
            weight="bold",
        )
        axes[0].text(
            0.97,
            0.04,
            f"1 % positive, AUC {auc_rare.mean:.2f}",
            color=plots.ORANGE,
            ha="right",
            weight="bold",
        )
        axes[1].text(
            0.97,
            0.9,
            f"half positive,\nAP {ap_common.mean:.2f}",
            color=plots.BLUE,
            ha="right",
            va="top",
            weight="bold",
        )
        axes[1].text(
            0.62,
            0.2,
            f"1 % positive,\nAP {ap_rare.mean:.2f}",
            color=plots.ORANGE,
            ha="left",
            weight="bold",
        )
        axes[1].text(0.02, 0.515, "chance, half positive", color=plots.BLUE, fontsize=9)
        axes[0].set(xlabel="false positive rate", ylabel="true positive rate", ylim=(0, 1.02))
        axes[1].set(xlabel="recall (= true positive rate)", ylabel="precision", ylim=(0, 1.02))


def accuracy_is_not_enough(run: Run, n: int, seeds: int) -> None:
    """Failure on display: at 1 % positives, never saying yes beats a useful classifier."""
    lazy, useful, caught = [], [], []
    for s in range(seeds):
        y, _, p = binormal(n, 0.01, np.random.default_rng([run.seed, 4, s]))
        act = (p > 0.05).astype(np.int64)  # worth it if a miss costs 19 false alarms
        lazy.append(ours.accuracy(y, np.zeros_like(y)))
        useful.append(ours.accuracy(y, act))
        caught.append(ours.recall(y, act))
    difference = mean_interval(np.subtract(lazy, useful))
    found = mean_interval(caught)
    run.metric("accuracy of never saying yes, 1 % positive", np.mean(lazy))
    run.metric("accuracy of the useful classifier, 1 % positive", np.mean(useful))
    run.metric("recall of the useful classifier, 1 % positive", np.mean(caught), rtol=0.1)
    run.claim(
        "accuracy prefers a model that never says yes to one that finds a fifth of the rare class",
        difference.low > 0 and found.low > 0.2,
        f"accuracy {np.mean(lazy):.4f} against {np.mean(useful):.4f}, difference {difference}; "
        f"recall 0 against {found}",
        quick=False,
    )


def straight_lines_lie(run: Run, n: int, seeds: int) -> None:
    """Failure on display: the trapezoid rule on a precision-recall curve rewards few levels."""
    levels, trapezoid, steps = [1, 2, 3, 5, 10, 30, 100, 1000], [], []
    for s in range(seeds):
        y, score, _ = binormal(n, 0.01, np.random.default_rng([run.seed, 5, s]))
        # Levels of equal mass: rank the scores, then keep only k values of the rank.
        rank = np.argsort(np.argsort(score)) / n
        coarse = [np.floor(rank * k) for k in levels]
        curves = [ours.precision_recall_curve(y, c) for c in coarse]
        trapezoid.append([float(-np.trapezoid(p, r)) for p, r, _ in curves])
        steps.append([ours.average_precision(y, c) for c in coarse])
    constant = mean_interval([row[0] for row in trapezoid]) if seeds > 1 else None
    run.metric("trapezoid area of a constant score, 1 % positive", np.mean(trapezoid, axis=0)[0])
    run.metric("average precision of a constant score, 1 % positive", np.mean(steps, axis=0)[0])
    run.check(
        "trapezoid area of a constant score",
        [row[0] for row in trapezoid],
        np.full(seeds, (1 + round(n * 0.01) / n) / 2),
        against="(1 + share of positives) / 2",
        atol=1e-12,
        why="a straight line from (0, 1) to (1, share); rounding",
    )
    best = np.mean(trapezoid, axis=0)[-1]
    run.claim(
        "by the trapezoid rule, a constant score beats the classifier it was made from",
        min(row[0] for row in trapezoid) > max(row[-1] for row in trapezoid)
        and all(row[0] < row[-1] for row in steps),
        f"constant {np.mean(trapezoid, axis=0)[0]:.3f} against {best:.3f}; average precision "
        f"{np.mean(steps, axis=0)[0]:.3f} against {np.mean(steps, axis=0)[-1]:.3f}"
        + (f" (n = {constant.n})" if constant else ""),
    )
    title = "Straight lines in a precision-recall curve reward knowing less"
    with run.figure("trapezoid", title, size=(8.0, 4.0)) as ax:
        for rows, color, label in (
            (trapezoid, plots.ORANGE, "trapezoid rule"),
            (steps, plots.BLUE, "average precision"),
        ):
            plots.interval_band(ax, levels, rows, color=color, label=label)
        ax.axhline(0.01, color=plots.REFERENCE, lw=1, ls="--")
        ax.text(1000, 0.022, "chance: 1 % positive", color=plots.REFERENCE, ha="right", fontsize=10)
        ax.set(xscale="log", xlabel="distinct scores left after rounding (1 = constant)")
        ax.set(ylabel="area under the curve", ylim=(0, 0.55))
        plots.label_lines(ax)


def honest_probabilities(run: Run, n: int, seeds: int) -> None:
    """True probabilities, and the same sharpened and flattened: one ranking, three calibrations."""
    powers = {
        "true probabilities": 1.0,
        "overconfident (log-odds × 3)": 3.0,
        "underconfident (log-odds ÷ 3)": 1 / 3,
    }
    colors = (plots.BLUE, plots.ORANGE, plots.GREEN)
    table = {name: [] for name in powers}
    curves = {name: [] for name in powers}
    for s in range(seeds):
        y, _, p = binormal(n, 0.5, np.random.default_rng([run.seed, 6, s]))
        for name, power in powers.items():
            q = p**power / (p**power + (1 - p) ** power)
            table[name].append(
                [
                    ours.roc_auc(y, q),
                    probabilities.log_loss(y, q),
                    probabilities.brier_score(y, q),
                    probabilities.calibration_error(y, q),
                ]
            )
            happened, predicted, _ = probabilities.calibration_curve(y, q)
            curves[name].append(np.interp(np.linspace(0.03, 0.97, 60), predicted, happened))
    means = {name: np.mean(rows, axis=0) for name, rows in table.items()}
    for name, row in means.items():
        short = name.split(" ")[0]
        run.metric(f"log loss, {short}", row[1])
        run.metric(f"calibration error, {short}", row[3], rtol=0.3)
    true = np.array(table["true probabilities"])
    others = [np.array(rows) for name, rows in table.items() if not name.startswith("true")]
    run.claim(
        "distorted log-odds leave the AUC alone, and cost in log loss, Brier score and calibration",
        all(
            np.abs(o[:, 0] - true[:, 0]).max() < 1e-6 and (o[:, 1:] > true[:, 1:]).all()
            for o in others
        ),
        "; ".join(
            f"{k.split(' ')[0]}: AUC {v[0]:.3f}, log loss {v[1]:.3f}, Brier {v[2]:.3f}, "
            f"calibration error {v[3]:.3f}"
            for k, v in means.items()
        )
        + f" (n = {seeds})",
    )
    sizes, floor = np.array([100, 300, 1000, 3000, 10000]), []
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, 7, s])
        floor.append([])
        for size in sizes:
            y, _, p = binormal(int(size), 0.5, rng)
            y = (rng.random(size) < p).astype(np.int64)
            floor[-1].append(probabilities.calibration_error(y, p))
    run.metric(
        "calibration error of a perfect model, 100 samples", np.mean(floor, axis=0)[0], rtol=0.3
    )
    title = "How often does it happen when the model says 30 %?"
    with run.figure("calibration", title, columns=2, size=(8.0, 4.2)) as axes:
        axes[0].plot([0, 1], [0, 1], color=plots.REFERENCE, lw=1, ls="--")
        grid = np.linspace(0.03, 0.97, 60)
        for (name, rows), color in zip(curves.items(), colors, strict=True):
            plots.interval_band(axes[0], grid, rows, color=color, label=f"_{name}")
        labels = ("true probabilities", "log-odds × 3: too sure", "log-odds ÷ 3: too timid")
        for y_text, name, color in zip((0.18, 0.1, 0.02), labels, colors, strict=True):
            axes[0].text(0.98, y_text, name, color=color, weight="bold", fontsize=9, ha="right")
        axes[0].set(
            xlabel="predicted probability",
            ylabel="observed frequency",
            aspect="equal",
            xlim=(0, 1),
            ylim=(0, 1),
        )
        plots.interval_band(axes[1], sizes, floor, color=plots.BLUE, label="_")
        axes[1].set(xscale="log", yscale="log", xlabel="test samples")
        axes[1].set(ylabel="calibration error, 10 bins")
        axes[1].text(
            0.97,
            0.93,
            "a perfectly calibrated model\nis not measured as 0",
            transform=axes[1].transAxes,
            ha="right",
            va="top",
            color=plots.BLUE,
            weight="bold",
            fontsize=10,
        )
        guide = np.mean(floor, axis=0)[0] * np.sqrt(sizes[0] / sizes)
        axes[1].plot(sizes, guide, color=plots.REFERENCE, lw=1, ls="--")
        axes[1].text(sizes[3], guide[3] * 0.5, "∝ 1/√n", color=plots.REFERENCE, ha="right")


def main(run: Run, *, samples: PositiveInt = 20_000, seeds: PositiveInt = 10) -> None:
    """Compare every metric with scikit-learn's, then see where each of them misleads.

    Parameters
    ----------
    samples
        Samples of each simulated classifier.
    seeds
        Repetitions of each simulation.
    """
    check_decisions(run)
    check_rankings(run)
    check_probabilities(run)
    n = min(samples, run.budget(quick=4000, default=samples))
    ranking_and_prevalence(run, n, seeds)
    accuracy_is_not_enough(run, n, seeds)
    straight_lines_lie(run, n, seeds)
    honest_probabilities(run, n, seeds)
