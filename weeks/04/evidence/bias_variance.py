"""What `bias_variance.py` is measured by: closed forms, many training sets, and real digits."""

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.study import PositiveInt, Run
from week01.matrix_decompositions import least_squares
from week04.bias_variance import (
    decompose,
    double_descent_risk,
    polynomial,
    relu_features,
    train_validation_test_split,
    weak_features_error,
)
from week04.evidence.data import digits, split
from week04.linear_regression import Ridge, StandardScaler

NOISE = 0.3  # standard deviation
X_TRAIN = np.linspace(-1, 1, 30)
GRID = np.linspace(-0.97, 0.97, 101)
BACK = "the best of 200 guessers is back at chance in the test"
NEW = "on the training points the identity is off by 20 standard errors from degree 3 on"
NO_PEAK = "with a ridge penalty p = n is no worse than before, to 1 point"
CHANCE = "with permuted labels 90 % of digits are wrong, to 4"


def main(run: Run, *, training_sets: PositiveInt = 2000) -> None:
    """Check the identity, draw under- and overfitting, and go past the interpolation peak.

    Parameters
    ----------
    training_sets
        How many training sets the decomposition is averaged over.
    """
    identity(run, run.budget(quick=min(training_sets, 200), default=training_sets))
    fits(run)
    winners_curse(run)
    weak_features(run)
    digits_descent(run)


def truth(x: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """What the data are drawn around."""
    return np.sin(np.pi * x) + 0.5 * np.cos(2.5 * np.pi * x)


def hat(degree: int, x: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m 30"]:
    """The matrix that takes training targets to predictions at x: a polynomial fit is linear."""
    return polynomial(x, degree) @ least_squares(polynomial(X_TRAIN, degree), np.eye(30))


# ---- the decomposition


def identity(run: Run, training_sets: int) -> None:
    """bias² + variance + noise = MSE, simulated and in closed form; and where it fails."""
    rng, degrees = np.random.default_rng([run.seed, 1]), np.arange(19)
    Y = truth(X_TRAIN) + NOISE * rng.normal(size=(training_sets, 30))
    fresh = truth(GRID) + NOISE * rng.normal(size=(training_sets, len(GRID)))
    new_y = truth(X_TRAIN) + NOISE * rng.normal(size=Y.shape)
    parts, squares, on_train, gaps, exact = [], [], [], [], []
    for degree in degrees.tolist():
        H = hat(degree, GRID)
        predictions, at_train = Y @ H.T, Y @ hat(degree, X_TRAIN).T
        parts.append(decompose(predictions, truth(GRID), NOISE**2))
        squares.append(((fresh - predictions) ** 2).mean(axis=1))
        on_train.append(((Y - at_train) ** 2).mean(axis=1))
        gaps.append(((new_y - at_train) ** 2).mean(axis=1) - on_train[-1])
        bias = ((H @ truth(X_TRAIN) - truth(GRID)) ** 2).mean()
        exact.append(bias + NOISE**2 * (1 + (H**2).sum(axis=1).mean()))
    # 19 degrees: the largest of as many normal deviations is below 4.5 in all but 1e-4 of runs.
    why = "Monte-Carlo error: 4.5 standard errors, 19 at once"
    optimism = 2 * NOISE**2 * (degrees + 1) / 30
    for name, source, runs, theory in (
        ("MSE on new data", "bias² + variance + noise in closed form", squares, exact),
        ("optimism of the training error", "2 σ² p / n (Mallows)", gaps, optimism),
    ):
        equal = run.against(source, kind="theorem", atol=4.5, why=why)
        off = in_standard_errors(np.transpose(runs), theory)
        equal(f"{name}, 19 degrees, in standard errors", off, np.zeros(19))
    mse, training = np.mean(squares, axis=1), np.mean(on_train, axis=1)
    totals = np.array([part.total for part in parts])
    error = np.std(squares, axis=1, ddof=1) / np.sqrt(training_sets)
    off = np.abs(training - totals) / error
    run.claim(NEW, off[3:], at_least=20, each=True, unit="standard errors", quick=False)
    for degree in (1, 17):
        bias, variance, noise = parts[degree]
        run.metric(f"bias² at degree {degree}", bias, rtol=None if degree == 17 else 0.05)
        run.metric(f"variance at degree {degree}", variance, rtol=0.1)
    run.metric("noise", noise)
    title = "What is the error made of? Bias falls, variance rises, noise stays"
    with run.figure("decomposition", title, size=(8.6, 4.6)) as ax:
        bias, variance, noise = np.transpose(parts)
        colors = [plots.GRAY, plots.ORANGE, plots.SKY]
        names = ("noise", "bias²", "variance")
        stack = {"lw": 0, "alpha": 0.55, "colors": colors, "labels": names}
        ax.stackplot(degrees, noise, bias, variance, **stack)
        ax.plot(degrees, mse, "o", color=plots.REFERENCE, label="measured on new data")
        ax.plot(degrees, training, "s-", color=plots.GREEN, label="on the training data")
        ax.legend()
        ax.set(xlabel="degree of the polynomial (30 points)", xticks=degrees[::2])
        ax.set(ylabel="mean squared error", ylim=(0, 0.75), xlim=(0, 18))


def in_standard_errors(runs: Float[np.ndarray, "n k"], theory) -> Float[np.ndarray, " k"]:
    """How far the means of the runs are from theory."""
    return (runs.mean(axis=0) - theory) / (runs.std(axis=0, ddof=1) / np.sqrt(len(runs)))


def fits(run: Run) -> None:
    """Thirty fits each of a stiff, a fitting and a wild model."""
    rng = np.random.default_rng([run.seed, 2])
    Y = truth(X_TRAIN) + NOISE * rng.normal(size=(30, 30))
    models = {1: "underfitting", 7: "about right", 20: "overfitting"}
    title = "Which one underfits, which one overfits? 30 training sets each"
    with run.figure("fits", title, columns=3, size=(9.2, 3.7), sharey=True) as axes:
        for ax, (degree, name) in zip(axes, models.items(), strict=True):
            predictions = Y @ hat(degree, GRID).T
            ax.plot(GRID, predictions.T, color=plots.SKY, lw=0.6, alpha=0.8)
            ax.plot(X_TRAIN, Y[0], "o", color=plots.ORANGE, ms=3.5, label="one training set")
            ax.plot(GRID, truth(GRID), "--", color=plots.REFERENCE, lw=1.5, label="truth")
            ax.plot(GRID, predictions.mean(axis=0), color=plots.BLUE, label="mean of the fits")
            ax.set(xlabel="x", ylim=(-2.3, 2.3))
            ax.set_title(f"degree {degree}: {name}", fontsize=11, weight="normal")
        axes[0].set_ylabel("y")
        axes[0].legend(loc="upper left", fontsize=9)


# ---- splits


def winners_curse(run: Run) -> None:
    """Choosing on the validation set makes its error a promise that the test set breaks."""
    from scipy.stats import binom

    repeats, n = run.budget(quick=100, default=2000), 100
    counts = np.array([1, 2, 5, 10, 20, 50, 100, 200])
    rng = np.random.default_rng([run.seed, 3])
    chosen, tested = np.empty((2, repeats, len(counts)))
    for i in range(repeats):
        _, validation, test = train_validation_test_split(300, (1 / 3, 1 / 3, 1 / 3), rng)
        hits = rng.integers(0, 2, (counts[-1], 300))  # coin-flipping models: right or not
        on_validation, on_test = hits[:, validation].mean(1), hits[:, test].mean(1)
        for j, k in enumerate(counts):
            best = on_validation[:k].argmax()
            chosen[i, j], tested[i, j] = on_validation[best], on_test[best]
    # E max of k independent binomials: a sum over the tails of their largest.
    theory = (1 - binom.cdf(np.arange(n), n, 0.5) ** counts[:, None]).sum(axis=1) / n
    off, why = in_standard_errors(chosen, theory), "Monte-Carlo error: 4.5 of them"
    equal = run.against("expected maximum of k binomials", kind="theorem", atol=4.5, why=why)
    equal("validation accuracy of the best of k guessers, in standard errors", off, np.zeros(8))
    run.metric("validation accuracy of the best of 200 guessers", 100 * chosen[:, -1].mean(), "%")
    run.metric("its test accuracy", 100 * tested[:, -1].mean(), "%")
    run.claim(BACK, tested[:, -1], at_least=0.49, at_most=0.51, quick=False)
    run.falsifier("its validation accuracy", chosen[:, -1], breaks=BACK)
    title = "Why a third split? The best of k guessers, seen twice"
    with run.figure("winners_curse", title, size=(8.4, 4.0)) as ax:
        lines = {"validation, where it won": chosen, "test, looked at once": tested}
        means = {name: 100 * values.mean(axis=0) for name, values in lines.items()}
        labels = {"xlabel": "k models to choose from, all of them guessing", "xscale": "log"}
        labels |= {"ylabel": f"accuracy (%), mean of {repeats}", "ylim": (48, 66)}
        ax.plot(counts, 100 * theory, "--", color=plots.REFERENCE, label="expected maximum")
        colors = (plots.ORANGE, plots.BLUE)
        plots.curves(ax, counts, means, colors=colors, marker="o", ends=False, **labels)


# ---- double descent


def weak_features(run: Run) -> None:
    """Least squares on a growing share of 120 weak features, against the exact expectation."""
    n, n_all, noise, repeats = 40, 120, 0.04, run.budget(quick=10, default=100)
    before, around = np.arange(0, 31, 5), (33, 35, 37, 38, 39, 40, 41, 42, 43, 45, 48, 52)
    sizes = np.r_[before, around, 60, 70, 80, 100, 120]
    rng = np.random.default_rng([run.seed, 4])
    rows = run.progress(range(repeats), "weak features")
    errors = [[weak_features_error(n, int(p), n_all, noise, rng) for p in sizes] for _ in rows]
    errors = np.array(errors)
    theory = np.array([double_descent_risk(n, int(p), n_all, noise) for p in sizes])
    # nearer to the peak the error has no finite variance; without features it has none at all
    calm = (np.abs(sizes - n) > 6) & (sizes > 0)
    why = "Monte-Carlo error; heavy tails near the peak make 5 of 4"
    equal = run.against("Belkin, Hsu and Xu, theorem 1", kind="theorem", atol=5.0, why=why)
    off = in_standard_errors(errors[:, calm], theory[calm])
    equal("error of least squares on p features, in standard errors", off, np.zeros(calm.sum()))
    groups = np.median(errors.reshape(-1, run.budget(quick=5, default=10), len(sizes)), axis=1)
    peak, first, end = groups[:, sizes == n][:, 0], groups[:, sizes < n].min(axis=1), groups[:, -1]
    seen = "medians of 100 training sets: 1.04 before, 72 where p = n, 0.73 with all features"
    options = {"unit": "times", "note": "medians of 10 training sets", "quick": False}
    options |= {"seen_before": seen}
    run.claim("the error where p = n is 5 times that before", peak / first, at_least=5, **options)
    name, half = "the error where p = n is 5 times that with all features", groups[:, sizes == 20]
    run.claim(name, peak / end, at_least=5, **options)
    run.falsifier("the error where p = n / 2", half[:, 0] / end, breaks=name)
    title = "Does more model always mean more error? Not past p = n"
    with run.figure("double_descent", title, size=(8.6, 4.6)) as ax:
        low, middle, high = np.quantile(errors, [0.1, 0.5, 0.9], axis=0)
        ax.fill_between(sizes, low, high, color=plots.SKY, alpha=0.3, lw=0)
        line = [double_descent_risk(n, p, n_all, noise) for p in range(n_all + 1)]
        line = np.where(np.isfinite(line), line, np.nan)
        ax.plot(line, "--", color=plots.REFERENCE, label="theory, mean")
        label = f"median and 80 % of {repeats} training sets"
        ax.plot(sizes, middle, "o-", color=plots.BLUE, markersize=4, label=label)
        plots.reference_line(ax, 1 + noise, "predicting 0")
        ax.axvline(n, color=plots.ORANGE, lw=1)
        ax.text(n + 1, 150, "p = n", color=plots.ORANGE, va="top")
        ax.legend()
        ax.set(yscale="log", ylim=(0.3, 200), xlim=(0, n_all))
        ax.set(xlabel=f"features used, p of {n_all} (40 samples)", ylabel="error on new data (MSE)")


def digits_descent(run: Run) -> None:
    """The same on real digits: random ReLU features, with and without a penalty, and a control."""
    X, y = digits()
    n, seeds = run.budget(quick=40, default=200), run.budget(quick=2, default=5)
    shares = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5])
    sizes = (n * shares).astype(int)
    plain, ridge, control = np.empty((3, seeds, len(sizes)))
    for seed in run.progress(range(seeds), "digits"):
        train, test = split(len(X), len(X) - n, run.seed, seed, 6)
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[test])
        targets = np.eye(10)[y[train]] - 0.1
        permuted = np.random.default_rng([run.seed, seed, 7]).permutation(targets)
        for j, p in enumerate(sizes.tolist()):
            features = relu_features(np.vstack([A, B]), p, np.random.default_rng([seed, p]))
            F, G = features[:n], features[n:]
            shortest = G @ least_squares(F, np.hstack([targets, permuted]))
            # Ridge on the side that is smaller: FᵀF + αI and FFᵀ + αI give the same weights.
            penalized = G @ (F.T @ np.linalg.solve(F @ F.T + 0.1 * p * np.eye(n), targets))
            for errors, outputs in (
                (plain, shortest[:, :10]),
                (control, shortest[:, 10:]),
                (ridge, penalized),
            ):
                errors[seed, j] = 100 * np.mean(outputs.argmax(axis=1) != y[test])
    p, t = int(sizes[0]), 1.0 * (y[train] == 3)
    F = relu_features(A, p, np.random.default_rng(0))
    rows = F.T @ np.linalg.solve(F @ F.T + 0.1 * p * np.eye(n), t)
    source = "QR of the prior's rows"
    equal = run.against(source, kind="consistency", atol=1e-10, why="rounding")
    equal("ridge by rows and by columns", rows, Ridge(0.1 * p, fit_intercept=False).fit(F, t).coef_)

    at = list(shares).index(1.0)
    before, peak, after = plain[:, :at].min(axis=1), plain[:, at], plain[:, -1]
    run.metric("digits, error before the peak", before.mean(), "%", rtol=0.1)
    run.metric("digits, error at p = n", peak.mean(), "%", rtol=0.15)
    run.metric("digits, error at p = 5 n", after.mean(), "%", rtol=0.1)
    run.metric("digits, ridge at p = n", ridge[:, at].mean(), "%", rtol=0.1)
    points = {"unit": "points", "quick": False}
    name = "digits: the error at p = n is twice that before"
    run.claim(name, peak / before, at_least=2, unit="times", quick=False)
    run.claim("digits: p = 5 n beats the best before", before - after, at_least=0, **points)
    worse = (errors[:, at] - errors[:, :at].min(axis=1) for errors in (ridge, plain))
    seen = "7.6 % wrong at p = n and 5.9 % at p = 5 n"
    run.claim(NO_PEAK, next(worse), at_most=1, seen_before=seen, **points)
    run.falsifier("no penalty", next(worse), breaks=NO_PEAK)
    options = {"unit": "% wrong at p = 5 n", "quick": False}
    run.claim(CHANCE, control[:, -1], at_least=86, at_most=94, **options)
    run.falsifier("true labels", after, breaks=CHANCE)
    title = f"Double descent on real digits: random ReLU features, {n} for training"
    with run.figure("digits", title, size=(8.6, 4.4)) as ax:
        lines = {"labels permuted": control, "shortest": plain, "ridge": ridge}
        labels = {"xscale": "log", "ylim": (0, 100), "xlabel": "random features p"}
        labels |= {"ylabel": f"test error (%), mean and range of {seeds}"}
        plots.curves(ax, sizes, lines, colors=(plots.GRAY, plots.BLUE, plots.GREEN), **labels)
        ax.axvline(n, color=plots.ORANGE, lw=1)
        ax.text(n * 1.03, 78, "p = n", color=plots.ORANGE)
