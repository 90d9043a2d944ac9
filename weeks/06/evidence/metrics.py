"""What `metrics.py` and `probabilities.py` are measured by, and where each metric misleads."""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.special import ndtr, ndtri

from shared import plots
from shared.study import PositiveInt, Run
from week06 import metrics as ours
from week06 import probabilities

EXACT = "both count the same weights; only the order of additions differs"
DISTANCE = 1.5  # standard deviations between the two classes of the simulated classifier
SHARES = {"half positive": 0.5, "1 % positive": 0.01}
COLORS = (plots.BLUE, plots.ORANGE, plots.GREEN)
HALVED = "average precision falls by more than half when 1 % are positive"
LAZY = "accuracy prefers a model that never says yes to one that finds a fifth of the rare class"
CONSTANT = "by the trapezoid rule, a constant score beats the classifier it was made from"
CHANCE = "with permuted labels the {} is 0.5, half of them positive"


def main(run: Run, *, samples: PositiveInt = 20_000, seeds: PositiveInt = 20) -> None:
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
    n = min(samples, run.budget(quick=2000, default=samples))
    seeds = run.budget(quick=4, default=seeds)
    ranking_and_prevalence(run, n, seeds)
    accuracy_is_not_enough(run, n, seeds)
    straight_lines_lie(run, n, seeds)
    honest_probabilities(run, n, seeds)


def binormal(
    n: int, prevalence: float, rng: np.random.Generator
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Labels, scores N(0, 1) and N(DISTANCE, 1), and the true probability of each sample."""
    y = (np.arange(n) < round(n * prevalence)).astype(np.int64)
    score = rng.normal(size=n) + DISTANCE * y
    odds = math.log(prevalence / (1 - prevalence)) + DISTANCE * score - DISTANCE**2 / 2
    return y, score, 1 / (1 + np.exp(-odds))


# ---- checks


def tied(rng: np.random.Generator, n: int = 500, classes: int = 4):
    """Labels, scores full of ties, probabilities, and weights some of which are zero."""
    y, weight = rng.integers(0, classes, n), rng.integers(0, 4, n) / 2
    scores = np.round(rng.dirichlet(np.ones(classes), n) + 0.5 * np.eye(classes)[y], 1)
    prob = (scores + 0.05) / (scores + 0.05).sum(axis=1, keepdims=True)
    return y, scores, prob, weight


def check_decisions(run: Run) -> None:
    """Confusion matrix, accuracy, precision, recall and F1, weighted and averaged every way."""
    from sklearn import metrics as reference

    y, scores, _, weight = tied(np.random.default_rng(run.seed))
    pred = scores.argmax(axis=1)
    pred[pred == 3] = 0  # a class that is never predicted: 0 / 0
    equal = run.against("sklearn.metrics", atol=1e-14, why=EXACT)
    mine = ours.confusion_matrix(y, pred, sample_weight=weight)
    theirs = reference.confusion_matrix(y, pred, sample_weight=weight)
    equal("confusion matrix, weighted", mine, theirs, atol=1e-12)
    mine = ours.accuracy(y, pred, sample_weight=weight)
    equal("accuracy, weighted", mine, reference.accuracy_score(y, pred, sample_weight=weight))
    cases = [
        {"average": average, "zero_division": zero, "sample_weight": w}
        for average in ("macro", "micro", "weighted")
        for zero in (0.0, 1.0, np.nan)
        for w in (None, weight)
    ]
    for name in ("precision", "recall", "f1"):
        mine, theirs = getattr(ours, name), getattr(reference, f"{name}_score")
        found, expected = ([f(y, pred, **case) for case in cases] for f in (mine, theirs))
        equal(f"{name}: 3 averages × 3 values of 0/0 × weights", found, expected)


def check_rankings(run: Run) -> None:
    """Curves point by point, areas, and AUC by counting pairs."""
    from scipy.stats import mannwhitneyu
    from sklearn import metrics as reference

    y, scores, _, weight = tied(np.random.default_rng([run.seed, 1]))
    label, score = (y == 0).astype(np.int64), scores[:, 0]
    equal = run.against("sklearn.metrics", atol=1e-14, why=EXACT)
    for name in ("roc_curve", "precision_recall_curve"):
        both = (getattr(module, name) for module in (ours, reference))
        mine, theirs = (np.concatenate(f(label, score, sample_weight=weight)) for f in both)
        equal(f"{name}, tied and weighted: rates and thresholds", mine, theirs)
    areas = {
        "AUC": (ours.roc_auc, reference.roc_auc_score),
        "average precision": (ours.average_precision, reference.average_precision_score),
    }
    onehot, averages = y[:, None] == np.arange(4), ("macro", "weighted", "micro")
    for name, (mine, theirs) in areas.items():
        found = [mine(y, scores, average=a, sample_weight=weight) for a in averages]
        expected = [theirs(onehot, scores, average=a, sample_weight=weight) for a in averages]
        equal(f"{name} of 4 classes against the rest, 3 averages", found, expected)
    pairs = mannwhitneyu(score[label == 1], score[label == 0]).statistic
    share = pairs / (label.sum() * (1 - label).sum())
    equal = run.against("scipy.stats.mannwhitneyu", atol=1e-14, why=EXACT)
    equal("AUC is the share of pairs in order", ours.roc_auc(label, score), share)


def check_probabilities(run: Run) -> None:
    """Log loss, Brier score and the calibration curve."""
    from sklearn import metrics as reference
    from sklearn.calibration import calibration_curve

    y, _, prob, weight = tied(np.random.default_rng([run.seed, 2]))
    label, p = (y == 0).astype(np.int64), prob[:, 0]
    certain = np.where(np.arange(len(p)) % 50 == 0, 1.0, p)  # confident and often wrong: clipped
    cases = [(label, p, weight), (y, prob, None), (label, certain, None)]
    equal = run.against("sklearn.metrics", atol=1e-13, why=EXACT)
    for name, mine, theirs, some in (
        ("log loss", probabilities.log_loss, reference.log_loss, cases),
        ("Brier score", probabilities.brier_score, reference.brier_score_loss, cases),
    ):
        found, expected = ([f(*c[:2], sample_weight=c[2]) for c in some] for f in (mine, theirs))
        equal(f"{name}: two classes, four, and certain mistakes", found, expected)
    equal = run.against("sklearn.calibration.calibration_curve", atol=1e-14, why=EXACT)
    for strategy in ("uniform", "quantile"):
        theirs = calibration_curve(label, p, n_bins=8, strategy=strategy)
        mine = probabilities.calibration_curve(label, p, n_bins=8, strategy=strategy)[:2]
        equal(f"calibration curve, {strategy} bins", np.concatenate(mine), np.concatenate(theirs))


# ---- what misleads


def ranking_and_prevalence(run: Run, n: int, seeds: int) -> None:
    """One classifier where half are positive and where one in a hundred is."""
    rngs = [np.random.default_rng([run.seed, 3, s]) for s in range(seeds)]
    data = {name: [binormal(n, share, rng)[:2] for rng in rngs] for name, share in SHARES.items()}
    auc, precision = (
        {name: np.array([metric(*pair) for pair in pairs]) for name, pairs in data.items()}
        for metric in (ours.roc_auc, ours.average_precision)
    )
    theory = float(ndtr(DISTANCE / math.sqrt(2)))
    why = "four standard errors; the variance of an AUC is at most AUC (1 - AUC) / rarer class"
    equal = run.against("Φ(d/√2), the AUC of two normal classes", kind="theorem", why=why)
    for name, share in SHARES.items():
        error = math.sqrt(theory * (1 - theory) / (share * n * seeds))
        equal(f"AUC, {name}", auc[name].mean(), theory, atol=4 * error)
        run.metric(f"average precision, {name}", precision[name].mean(), rtol=0.1)
    half, rare = SHARES
    name, seen = "the AUC is the same, whether half or 1 % are positive", "both near theory"
    difference = auc[rare] - auc[half]
    run.claim(name, difference, at_least=-0.02, at_most=0.02, seen_before=seen, quick=False)
    note = "rare / half"
    run.claim(HALVED, precision[rare] / precision[half], at_most=0.5, note=note, quick=False)
    run.falsifier("the AUC in its place", auc[rare] / auc[half], breaks=HALVED, note=note)
    permuted = [(rng.permutation(y), s) for rng, (y, s) in zip(rngs, data[half], strict=True)]
    for name, metric, intact in (
        ("AUC", ours.roc_auc, auc[half]),
        ("average precision", ours.average_precision, precision[half]),
    ):
        options = {"at_least": 0.49, "at_most": 0.51, "quick": False}
        options["seen_before"] = "that 99.9 % intervals over 10 seeds held 0.5"
        run.claim(CHANCE.format(name), [metric(*pair) for pair in permuted], **options)
        run.falsifier(f"{name} of the true labels", intact, breaks=CHANCE.format(name))
    draw_curves(run, data, auc, precision)


def draw_curves(run: Run, data: dict, auc: dict, precision: dict) -> None:
    """ROC and precision-recall curves of both populations, theory drawn in."""
    title = "One classifier, two populations: which curve notices that positives are rare?"
    fpr, grid = np.geomspace(1e-7, 1, 800), np.linspace(0.02, 1, 200)
    tpr = ndtr(ndtri(fpr) + DISTANCE)
    left, right = {}, {}
    for name, pairs in data.items():
        rates = [ours.roc_curve(*pair)[:2] for pair in pairs]
        ratios = [ours.precision_recall_curve(*pair)[:2] for pair in pairs]
        left[f"{name}, AUC {auc[name].mean():.2f}"] = [np.interp(grid, *r) for r in rates]
        steps = [np.interp(grid, r[::-1], p[::-1]) for p, r in ratios]
        right[f"{name}, AP {precision[name].mean():.2f}"] = steps
    theory = {"color": plots.REFERENCE, "lw": 1.2, "ls": "--", "label": "theory"}
    with run.figure("curves", title, columns=2, size=(8.0, 4.2)) as axes:
        axes[0].plot(fpr, tpr, zorder=3, **theory)
        axes[0].plot([0, 1], [0, 1], color=plots.GRAY, lw=1, label="chance")
        labels = {"xlabel": "false positive rate", "ylabel": "true positive rate"}
        plots.curves(axes[0], grid, left, colors=COLORS, ends=False, **labels)
        for share, color in zip(SHARES.values(), COLORS, strict=False):
            axes[1].plot(tpr, share * tpr / (share * tpr + (1 - share) * fpr), **theory)
            axes[1].axhline(share, color=color, lw=1, ls=":", label=f"chance, {share:.0%}")
            theory["label"] = "_"
        labels = {"xlabel": "recall (= true positive rate)", "ylabel": "precision"}
        plots.curves(axes[1], grid, right, colors=COLORS, ends=False, ylim=(0, 1.02), **labels)
        axes[1].legend(loc="upper right", bbox_to_anchor=(1, 0.5))


def accuracy_is_not_enough(run: Run, n: int, seeds: int) -> None:
    """Failure on display: at 1 % positives, never saying yes beats a useful classifier."""
    rows = {name: [] for name in SHARES}
    for s in range(seeds):
        for name, share in SHARES.items():
            y, _, p = binormal(n, share, np.random.default_rng([run.seed, 4, s]))
            act = (p > 0.05).astype(np.int64)  # worth it if a miss costs 19 false alarms
            lazy, useful = ours.accuracy(y, np.zeros_like(y)), ours.accuracy(y, act)
            rows[name].append((lazy, useful, ours.recall(y, act)))
    half, rare = (np.transpose(rows[name]) for name in SHARES)
    run.metric("accuracy of never saying yes, 1 % positive", rare[0].mean())
    run.metric("accuracy of the useful classifier, 1 % positive", rare[1].mean())
    run.metric("recall of the useful classifier, 1 % positive", rare[2].mean(), rtol=0.1)
    note = "accuracy of never saying yes minus that of the useful classifier"
    run.claim(LAZY, rare[0] - rare[1], at_least=0, note=note)
    run.falsifier("half positive", half[0] - half[1], breaks=LAZY)
    name = "the useful classifier finds a fifth of the rare class"
    run.claim(name, rare[2], at_least=0.2, unit="of them", quick=False)


def straight_lines_lie(run: Run, n: int, seeds: int) -> None:
    """Failure on display: the trapezoid rule on a precision-recall curve rewards few levels."""
    levels, trapezoid, steps = [1, 2, 3, 5, 10, 30, 100, 1000], [], []
    for s in range(seeds):
        y, score, _ = binormal(n, 0.01, np.random.default_rng([run.seed, 5, s]))
        rank = np.argsort(np.argsort(score)) / n
        coarse = [np.floor(rank * k) for k in levels]  # k levels of equal mass
        curves = [ours.precision_recall_curve(y, c) for c in coarse]
        trapezoid.append([float(-np.trapezoid(p, r)) for p, r, _ in curves])
        steps.append([ours.average_precision(y, c) for c in coarse])
    trapezoid, steps = np.array(trapezoid), np.array(steps)
    run.metric("trapezoid area of a constant score, 1 % positive", trapezoid[:, 0].mean())
    run.metric("average precision of a constant score, 1 % positive", steps[:, 0].mean())
    why = "a straight line from (0, 1) to (1, share); rounding"
    equal = run.against("(1 + share of positives) / 2", kind="theorem", atol=1e-12, why=why)
    area = np.full(seeds, (1 + round(n * 0.01) / n) / 2)
    equal("trapezoid area of a constant score", trapezoid[:, 0], area)
    note = "area of the constant minus that of the classifier"
    run.claim(CONSTANT, trapezoid[:, 0] - trapezoid[:, -1], at_least=0, note=note)
    difference = steps[:, 0] - steps[:, -1]
    run.falsifier("average precision in its place", difference, breaks=CONSTANT)
    title = "Straight lines in a precision-recall curve reward knowing less"
    with run.figure("trapezoid", title, size=(8.0, 4.0)) as ax:
        lines = {"trapezoid rule": trapezoid, "average precision": steps}
        labels = {"xlabel": "distinct scores left after rounding (1 = constant)"}
        labels |= {"ylabel": "area under the curve", "xscale": "log", "ylim": (0, 0.55)}
        chance, colors = {"chance: 1 % positive": 0.01}, (plots.ORANGE, plots.BLUE)
        plots.curves(ax, levels, lines, colors=colors, reference=chance, **labels)


def honest_probabilities(run: Run, n: int, seeds: int) -> None:
    """True probabilities, and the same sharpened and flattened: one ranking, three calibrations."""
    powers = {"true": 1.0, "log-odds × 3": 3.0, "log-odds ÷ 3": 1 / 3}
    scores = {
        "log loss": probabilities.log_loss,
        "Brier score": probabilities.brier_score,
        "calibration error": probabilities.calibration_error,
    }
    grid, curves = np.linspace(0.03, 0.97, 60), {name: [] for name in powers}
    table, auc = np.empty((seeds, len(powers), len(scores))), np.empty((seeds, len(powers)))
    for s in range(seeds):
        y, _, p = binormal(n, 0.5, np.random.default_rng([run.seed, 6, s]))
        for i, (name, power) in enumerate(powers.items()):
            q = p**power / (p**power + (1 - p) ** power)
            table[s, i] = [score(y, q) for score in scores.values()]
            auc[s, i] = ours.roc_auc(y, q)
            happened, predicted, _ = probabilities.calibration_curve(y, q)
            curves[name].append(np.interp(grid, predicted, happened))
    run.metric("log loss, true", table[:, 0, 0].mean())
    run.metric("log loss, overconfident", table[:, 1, 0].mean())
    why = "the order is the same, but for scores that rounding makes equal"
    equal = run.against("AUC of the true probabilities", kind="consistency", atol=1e-6, why=why)
    equal("AUC of distorted log-odds", auc[:, 1:], np.repeat(auc[:, :1], 2, axis=1))
    for k, score in enumerate(scores):
        cost = (table[:, 1:, k] - table[:, :1, k]).min(axis=1)
        note = "the smaller of both distortions' costs"
        run.claim(f"distorted log-odds cost {score}", cost, at_least=0, note=note)
    draw_calibration(run, grid, curves, seeds)


def draw_calibration(run: Run, grid: Float[np.ndarray, " g"], curves: dict, seeds: int) -> None:
    """Reliability curves, and what a perfect model is measured as."""
    sizes = np.array([100, 300, 1000, 3000, 10000])
    floor = np.empty((seeds, len(sizes)))
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, 7, s])
        for i, size in enumerate(sizes):
            p = binormal(int(size), 0.5, rng)[2]
            floor[s, i] = probabilities.calibration_error((rng.random(size) < p).astype(int), p)
    run.metric("calibration error of a perfect model, 100 samples", floor[:, 0].mean(), rtol=0.3)
    title = "How often does it happen when the model says 30 %?"
    with run.figure("calibration", title, columns=2, size=(8.0, 4.2)) as (left, right):
        left.plot([0, 1], [0, 1], color=plots.REFERENCE, lw=1, ls="--")
        labels = {"xlabel": "predicted probability", "ylabel": "observed frequency"}
        labels |= {"aspect": "equal", "xlim": (0, 1), "ylim": (0, 1)}
        plots.curves(left, grid, curves, colors=COLORS, ends=False, **labels)
        lines = {"perfectly calibrated": floor}
        labels = {"xlabel": "test samples", "ylabel": "calibration error, 10 bins"}
        plots.curves(right, sizes, lines, ends=False, xscale="log", yscale="log", **labels)
        guide = floor[:, 0].mean() * np.sqrt(sizes[0] / sizes)
        right.plot(sizes, guide, color=plots.REFERENCE, lw=1, ls="--", label="∝ 1/√n")
        right.legend()
