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
THEORY = {"color": plots.REFERENCE, "lw": 1.2, "ls": "--", "zorder": 3}
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
    check_metrics(run)
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


def check_metrics(run: Run) -> None:
    """Decisions, rankings and probabilities of weighted samples with tied scores."""
    from sklearn import metrics as reference
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(run.seed)
    y, weight = rng.integers(0, 4, 500), rng.integers(0, 4, 500) / 2
    scores = np.round(rng.dirichlet(np.ones(4), 500) + 0.5 * np.eye(4)[y], 1)
    prob = (scores + 0.05) / (scores + 0.05).sum(axis=1, keepdims=True)
    pred = scores.argmax(axis=1)
    pred[pred == 3] = 0  # a class that is never predicted: 0 / 0
    one_hot, w, macro = y[:, None] == np.arange(4), {"sample_weight": weight}, {"average": "macro"}
    label, score, p = one_hot[:, 0].astype(np.int64), scores[:, 0], prob[:, 0]
    equal = run.against("sklearn.metrics", atol=1e-13, why=EXACT)
    theirs = reference.confusion_matrix(y, pred, **w)
    equal("confusion matrix", ours.confusion_matrix(y, pred, **w), theirs, atol=1e-12)
    for name in ("precision", "recall", "f1"):
        mine, theirs = getattr(ours, name), getattr(reference, f"{name}_score")
        options = {"zero_division": 0.0} | macro | w
        equal(f"{name}, mean of 4 classes", mine(y, pred, **options), theirs(y, pred, **options))
    mine = ours.roc_curve(label, score, **w)
    theirs = reference.roc_curve(label, score, drop_intermediate=False, **w)
    equal("ROC curve: rates and thresholds", np.concatenate(mine), np.concatenate(theirs))
    mine, theirs = (m.precision_recall_curve(label, score, **w) for m in (ours, reference))
    equal("precision-recall curve", np.concatenate(mine), np.concatenate(theirs))
    for name, mine, theirs in (
        ("AUC", ours.roc_auc, reference.roc_auc_score),
        ("average precision", ours.average_precision, reference.average_precision_score),
    ):
        expected = theirs(one_hot, scores, **macro, **w)
        equal(f"{name}, mean of 4 classes", mine(y, scores, **macro, **w), expected)
    for name, mine, theirs in (
        ("log loss", probabilities.log_loss, reference.log_loss),
        ("Brier score", probabilities.brier_score, reference.brier_score_loss),
    ):
        equal(f"{name} of 4 classes", mine(y, prob, **w), theirs(y, prob, **w))
    mine, theirs = (
        probabilities.calibration_curve(label, p)[:2],
        calibration_curve(label, p, n_bins=10),
    )
    equal("calibration curve", np.concatenate(mine), np.concatenate(theirs))


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
    title = "One classifier, two populations: which curve notices that positives are rare?"
    grid, fpr = np.linspace(0.02, 1, 200), np.geomspace(1e-7, 1, 800)
    tpr = ndtr(ndtri(fpr) + DISTANCE)
    with run.figure("curves", title, columns=2, size=(8.0, 4.2)) as (left, right):
        roc, recalls = {}, {}
        for name, pairs in data.items():
            roc[name] = [np.interp(grid, *ours.roc_curve(*pair)[:2]) for pair in pairs]
            ratios = [ours.precision_recall_curve(*pair)[:2] for pair in pairs]
            recalls[name] = [np.interp(grid, r[::-1], p[::-1]) for p, r in ratios]
            share = SHARES[name]
            right.plot(tpr, share * tpr / (share * tpr + (1 - share) * fpr), **THEORY)
        left.plot(fpr, tpr, label="theory", **THEORY)
        labels = {"xlabel": "false positive rate", "ylabel": "true positive rate"}
        plots.curves(left, grid, roc, colors=COLORS, ends=False, **labels)
        labels = {"xlabel": "recall (= true positive rate)", "ylabel": "precision"}
        plots.curves(right, grid, recalls, colors=COLORS, ends=False, **labels)


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
    table, floor = np.empty((seeds, len(powers), len(scores))), []
    for s in range(seeds):
        y, _, p = binormal(n, 0.5, np.random.default_rng([run.seed, 6, s]))
        for i, (name, power) in enumerate(powers.items()):
            q = p**power / (p**power + (1 - p) ** power)
            table[s, i] = [score(y, q) for score in scores.values()]
            happened, predicted, _ = probabilities.calibration_curve(y, q)
            curves[name].append(np.interp(grid, predicted, happened))
    run.metric("log loss, true", table[:, 0, 0].mean())
    run.metric("log loss, overconfident", table[:, 1, 0].mean())
    for k, score in enumerate(scores):
        cost = (table[:, 1:, k] - table[:, :1, k]).min(axis=1)
        note = "the smaller of both distortions' costs"
        run.claim(f"distorted log-odds cost {score}", cost, at_least=0, note=note)
    for s in range(seeds):
        rng = np.random.default_rng([run.seed, 7, s])
        p = binormal(100, 0.5, rng)[2]
        floor.append(probabilities.calibration_error((rng.random(100) < p).astype(int), p))
    run.metric("calibration error of a perfect model, 100 samples", np.mean(floor), rtol=0.3)
    title = "How often does it happen when the model says 30 %?"
    with run.figure("calibration", title, size=(6.4, 5.0)) as ax:
        labels = {"xlabel": "predicted probability", "ylabel": "observed frequency"}
        plots.curves(ax, grid, curves, colors=COLORS, **labels)
