"""Checks, claims and figures of bias_variance."""

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week04.bias_variance import (
    decompose,
    double_descent_risk,
    polynomial,
    relu_features,
    train_validation_test_split,
    weak_features_error,
)
from week04.evidence.linear_regression import split
from week04.evidence.logistic_regression import digits
from week04.linear_regression import Ridge, StandardScaler, minimum_norm

NOISE = 0.3  # standard deviation
X_TRAIN = np.linspace(-1, 1, 30)
GRID = np.linspace(-0.97, 0.97, 101)


def truth(x: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """What the data are drawn around."""
    return np.sin(np.pi * x) + 0.5 * np.cos(2.5 * np.pi * x)


def hat(degree: int, x: Float[np.ndarray, " m"]) -> Float[np.ndarray, "m 30"]:
    """The matrix that takes training targets to predictions at x: a polynomial fit is linear."""
    return polynomial(x, degree) @ minimum_norm(polynomial(X_TRAIN, degree), np.eye(30))


# ---- the decomposition


def identity(run: Run, training_sets: int) -> None:
    """bias² + variance + noise = MSE, simulated and in closed form; and where it fails."""
    rng = np.random.default_rng([run.seed, 1])
    degrees = np.arange(0, 19)
    Y = truth(X_TRAIN) + NOISE * rng.normal(size=(training_sets, 30))
    fresh = truth(GRID) + NOISE * rng.normal(size=(training_sets, len(GRID)))
    parts, mse, error, train, exact_parts = [], [], [], [], []
    gaps, gap_errors = [], []
    new_y = truth(X_TRAIN) + NOISE * rng.normal(size=Y.shape)
    for degree in degrees.tolist():
        H = hat(degree, GRID)
        predictions = Y @ H.T
        squares = ((fresh - predictions) ** 2).mean(axis=1)
        mse.append(squares.mean())
        error.append(squares.std(ddof=1) / np.sqrt(training_sets))
        parts.append(decompose(predictions, truth(GRID), NOISE**2))
        bias = ((H @ truth(X_TRAIN) - truth(GRID)) ** 2).mean()
        exact_parts.append((bias, NOISE**2 * (H**2).sum(axis=1).mean()))
        at_train = Y @ hat(degree, X_TRAIN).T
        on_train = ((Y - at_train) ** 2).mean(axis=1)
        train.append(on_train.mean())
        gap = ((new_y - at_train) ** 2).mean(axis=1) - on_train
        gaps.append(gap.mean())
        gap_errors.append(gap.std(ddof=1) / np.sqrt(training_sets))
        if degree == 5:
            total = decompose(predictions, truth(GRID), 0.0).total
            run.check("bias² + variance, no noise", total,
                      ((predictions - truth(GRID)) ** 2).mean(), rtol=1e-12, why="rounding",
                      against="the mean squared error itself")  # fmt: skip
    exact = np.array(exact_parts)
    # 19 degrees: the largest of as many normal deviations is below 4.5 in all but 1e-4 of runs.
    z = 4.5
    run.check("MSE on new data, 19 degrees, in standard errors",
              (np.array(mse) - exact.sum(axis=1) - NOISE**2) / np.array(error),
              np.zeros(len(degrees)), atol=z,
              against="bias² + variance + noise in closed form",
              why="Monte-Carlo error: 4.5 standard errors, 19 at once")  # fmt: skip
    run.check("optimism of the training error, 19 degrees, in standard errors",
              (np.array(gaps) - 2 * NOISE**2 * (degrees + 1) / 30) / np.array(gap_errors),
              np.zeros(len(degrees)), atol=z, against="2 σ² p / n (Mallows)",
              why="Monte-Carlo error: 4.5 standard errors, 19 at once")  # fmt: skip
    totals = np.array([p.total for p in parts])
    on_train = np.abs(np.array(train) - totals) / np.array(error)
    run.claim(
        "the identity needs new data: on the training points it is off by over 20 standard errors "
        "at every degree from 3",
        bool((on_train[3:] > 20).all()), f"smallest {on_train[3:].min():.0f} standard errors",
        quick=False,
    )  # fmt: skip
    best = int(totals.argmin())
    run.metric("best degree", best, rtol=None)
    run.metric("bias² at degree 1", parts[1].bias_squared, rtol=0.05)
    run.metric("variance at degree 1", parts[1].variance, rtol=0.1)
    run.metric("bias² at degree 17", parts[17].bias_squared, rtol=None)
    run.metric("variance at degree 17", parts[17].variance, rtol=0.1)
    run.metric("error at the best degree", totals[best], rtol=0.05)
    run.metric("noise", NOISE**2)
    title = "What is the error made of? Bias falls, variance rises, noise stays"
    with run.figure("decomposition", title, size=(8.6, 4.6)) as ax:
        bias = np.array([p.bias_squared for p in parts])
        variance = np.array([p.variance for p in parts])
        noise = np.full(len(degrees), NOISE**2)
        ax.stackplot(degrees, noise, bias, variance, lw=0, alpha=0.55,
                     colors=[plots.GRAY, plots.ORANGE, plots.SKY])  # fmt: skip
        ax.plot(degrees, mse, "o", color=plots.REFERENCE, markersize=5)
        ax.plot(degrees, train, "s-", color=plots.GREEN, markersize=4, lw=1.3)
        for text, color, place in (
            ("noise", "#555555", (0.3, 0.03)), ("bias²", "#8A3D00", (0.3, 0.3)),
            ("variance", plots.BLUE, (15.2, 0.108)),
            ("● measured on new data", plots.REFERENCE, (6.2, 0.235)),
            ("■ measured on the training data", plots.GREEN, (4.6, 0.012)),
        ):  # fmt: skip
            ax.text(*place, text, color=color, fontsize=11)
        ax.set(xlabel="degree of the polynomial (30 points)", xticks=degrees[::2])
        ax.set(ylabel="mean squared error", ylim=(0, 0.75), xlim=(0, 18))


def fits(run: Run) -> None:
    """Thirty fits each of a stiff, a fitting and a wild model."""
    rng = np.random.default_rng([run.seed, 2])
    Y = truth(X_TRAIN) + NOISE * rng.normal(size=(30, 30))
    title = "Which one underfits, which one overfits? 30 training sets each"
    with run.figure("fits", title, columns=3, size=(9.2, 3.7), sharey=True) as axes:
        for ax, (degree, name) in zip(
            axes, ((1, "underfitting"), (7, "about right"), (20, "overfitting")), strict=True
        ):
            predictions = Y @ hat(degree, GRID).T
            ax.plot(GRID, predictions.T, color=plots.SKY, lw=0.6, alpha=0.8)
            ax.plot(X_TRAIN, Y[0], "o", color=plots.ORANGE, markersize=3.5)
            ax.plot(GRID, truth(GRID), "--", color=plots.REFERENCE, lw=1.5)
            ax.plot(GRID, predictions.mean(axis=0), color=plots.BLUE, lw=2.2)
            ax.set(xlabel="x", ylim=(-2.3, 2.3))
            ax.set_title(f"degree {degree}: {name}", fontsize=11, weight="normal")
        axes[0].set_ylabel("y")
        for text, color, place in (
            ("truth", plots.REFERENCE, (-0.95, 1.6)),
            ("mean of the fits", plots.BLUE, (-0.95, 1.9)),
            ("one training set", plots.ORANGE, (-0.95, -2.1)),
        ):  # fmt: skip
            axes[0].text(*place, text, color=color, fontsize=10)


# ---- splits


def winners_curse(run: Run) -> None:
    """Choosing on the validation set makes its error a promise that the test set breaks."""
    from scipy.stats import binom

    repeats, n = run.budget(quick=200, default=2000), 100
    counts = np.array([1, 2, 5, 10, 20, 50, 100, 200])
    rng = np.random.default_rng([run.seed, 3])
    chosen, tested = np.empty((repeats, len(counts))), np.empty((repeats, len(counts)))
    for i in range(repeats):
        _, validation, test = train_validation_test_split(300, (1 / 3, 1 / 3, 1 / 3), rng)
        hits = rng.integers(0, 2, (counts[-1], 300))  # coin-flipping models: right or not
        on_validation, on_test = hits[:, validation].mean(1), hits[:, test].mean(1)
        for j, k in enumerate(counts):
            best = on_validation[:k].argmax()
            chosen[i, j], tested[i, j] = on_validation[best], on_test[best]
    # E max of k independent binomials: a sum over the tails of their largest.
    tails = 1 - binom.cdf(np.arange(n), n, 0.5) ** counts[:, None]
    theory = tails.sum(axis=1) / n
    standard_error = chosen.std(axis=0, ddof=1) / np.sqrt(repeats)
    run.check("validation accuracy of the best of k guessers, in standard errors",
              (chosen.mean(axis=0) - theory) / standard_error, np.zeros(len(counts)), atol=4.5,
              against="expected maximum of k binomials",
              why="Monte-Carlo error: 4.5 of them")  # fmt: skip
    test = mean_interval(tested[:, -1])
    run.metric("validation accuracy of the best of 200 guessers", 100 * chosen[:, -1].mean(), "%")
    run.metric("its test accuracy", 100 * test.mean, "%")
    run.claim("the best of 200 guessers shines in validation and is back at chance in the test",
              abs(test.mean - 0.5) < 0.01 and chosen[:, -1].mean() > 0.6,
              f"validation {mean_interval(chosen[:, -1])}, test {test}")  # fmt: skip
    title = "Why a third split? The best of k guessers, seen twice"
    with run.figure("winners_curse", title, size=(8.4, 4.0)) as ax:
        ax.plot(counts, 100 * theory, "--", color=plots.REFERENCE, lw=1.4, zorder=5)
        for values, color, label in (
            (chosen, plots.ORANGE, "validation set,\nwhere it won"),
            (tested, plots.BLUE, "test set,\nlooked at once"),
        ):
            low, high = np.quantile(100 * values, [0.1, 0.9], axis=0)
            ax.fill_between(counts, low, high, color=color, alpha=0.15, lw=0)
            ax.plot(counts, 100 * values.mean(axis=0), "o-", color=color, label=label)
        ax.text(5.5, 55.3, "theory: expected maximum", color=plots.REFERENCE, va="top")
        ax.set(xscale="log", xlabel="k models to choose from, all of them guessing")
        ax.set(ylabel="accuracy (%), mean and 80 % range")
        plots.label_lines(ax)


# ---- double descent


def weak_features(run: Run) -> None:
    """Least squares on a growing share of 120 weak features, against the exact expectation."""
    n, n_all, noise = 40, 120, 0.04
    sizes = np.array([0, 5, 10, 15, 20, 25, 30, 33, 35, 37, 38, 39, 40, 41, 42, 43, 45, 48, 52, 60,
                      70, 80, 100, 120])  # fmt: skip
    repeats = run.budget(quick=12, default=100)
    rng = np.random.default_rng([run.seed, 4])
    errors = np.array(
        [
            [weak_features_error(n, p, n_all, noise, rng) for p in sizes.tolist()]
            for _ in run.progress(range(repeats), "weak features")
        ]
    )
    theory = np.array([double_descent_risk(n, p, n_all, noise) for p in sizes.tolist()])
    # nearer to the peak the error has no finite variance; without features it has none at all
    calm = (np.abs(sizes - n) > 6) & (sizes > 0)
    standard_error = errors.std(axis=0, ddof=1) / np.sqrt(repeats)
    run.check(
        "error of least squares on p features, in standard errors",
        ((errors.mean(axis=0) - theory) / standard_error)[calm], np.zeros(calm.sum()), atol=5.0,
        against="Belkin, Hsu and Xu, theorem 1",
        why="Monte-Carlo error; heavy tails near the peak make 5 of 4",
    )  # fmt: skip
    middle = np.median(errors, axis=0)
    peak, end = middle[sizes == n][0], middle[-1]
    first = middle[sizes < n].min()
    run.metric("peak over the end", peak / end, rtol=0.5)
    run.claim("the error peaks where p = n, 5 times as high as before and after",
              peak > 5 * first and peak > 5 * end and abs(sizes[middle.argmax()] - n) <= 1,
              f"medians: best before {first:.2f}, peak {peak:.1f}, with all {end:.2f}")  # fmt: skip
    title = "Does more model always mean more error? Not past p = n"
    with run.figure("double_descent", title, size=(8.6, 4.6)) as ax:
        low, high = np.quantile(errors, [0.1, 0.9], axis=0)
        ax.fill_between(sizes, low, high, color=plots.SKY, alpha=0.3, lw=0)
        fine = np.arange(n_all + 1)
        line = np.array([double_descent_risk(n, p, n_all, noise) for p in fine.tolist()])
        ax.plot(fine, np.where(np.isfinite(line), line, np.nan), "--", color=plots.REFERENCE)
        ax.plot(sizes, middle, "o-", color=plots.BLUE, markersize=4, lw=1.4)
        ax.axhline(1 + noise, color=plots.GRAY, lw=1)
        ax.text(119, (1 + noise) * 1.05, "predicting 0", color="#555555", va="bottom", ha="right")
        ax.axvline(n, color=plots.ORANGE, lw=1)
        ax.text(n + 1, 150, "p = n: every training\nset is fitted exactly", color=plots.ORANGE,
                va="top")  # fmt: skip
        ax.text(62, 7, "theory, mean", color=plots.REFERENCE)
        ax.text(62, 4.8, f"median and 80 % of {repeats} training sets", color=plots.BLUE)
        ax.set(yscale="log", ylim=(0.3, 200), xlim=(0, n_all))
        ax.set(xlabel=f"features used, p of {n_all} (40 samples)", ylabel="error on new data (MSE)")


def digits_descent(run: Run) -> None:
    """The same on real digits: random ReLU features, with and without a penalty, and a control."""
    X, y = digits()
    n = run.budget(quick=60, default=200)
    sizes = (n * np.array([0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 3, 5])).astype(int)
    seeds = run.budget(quick=2, default=5)
    plain, ridge, control = (np.empty((seeds, len(sizes))) for _ in range(3))
    for seed in run.progress(range(seeds), "digits"):
        train, test = split(len(X), len(X) - n, run.seed, seed, 6)
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[test])
        targets = np.eye(10)[y[train]] - 0.1
        permuted = np.random.default_rng([run.seed, seed, 7]).permutation(targets)
        for j, p in enumerate(sizes.tolist()):
            features = relu_features(np.vstack([A, B]), p, np.random.default_rng([seed, p]))
            F, G = features[:n], features[n:]
            predicted = G @ minimum_norm(F, np.hstack([targets, permuted]))
            plain[seed, j] = np.mean(predicted[:, :10].argmax(1) != y[test])
            control[seed, j] = np.mean(predicted[:, 10:].argmax(1) != y[test])
            # Ridge on the side that is smaller: FᵀF + αI and FFᵀ + αI give the same weights.
            K = F @ F.T + p * np.eye(n) * 0.1
            ridge[seed, j] = np.mean((G @ (F.T @ np.linalg.solve(K, targets))).argmax(1) != y[test])
    if run.mode != "quick":
        small = Ridge(float(0.1 * sizes[0]), fit_intercept=False)
        train, _ = split(len(X), len(X) - n, run.seed, 0, 6)
        A = StandardScaler().fit_transform(X[train])
        F, t = relu_features(A, int(sizes[0]), np.random.default_rng(0)), 1.0 * (y[train] == 3)
        K = F @ F.T + 0.1 * sizes[0] * np.eye(n)
        run.check("ridge by rows and by columns", F.T @ np.linalg.solve(K, t),
                  small.fit(F, t).coef_, against="QR of the prior's rows", atol=1e-10,
                  why="rounding")  # fmt: skip
    at = int(np.flatnonzero(sizes == n)[0])
    peak, after = mean_interval(100 * plain[:, at]), mean_interval(100 * plain[:, -1])
    before = mean_interval(100 * plain[:, :at].min(axis=1))
    chance = mean_interval(100 * control[:, -1])
    run.metric("digits, error before the peak", before.mean, "%", rtol=0.1)
    run.metric("digits, error at p = n", peak.mean, "%", rtol=0.15)
    run.metric("digits, error at p = 5 n", after.mean, "%", rtol=0.1)
    run.metric("digits, ridge at p = n", 100 * ridge[:, at].mean(), "%", rtol=0.1)
    run.claim("digits: the error at p = n is twice that of before and after, and 5 n beats both",
              peak.low > 2 * before.mean and peak.low > 2 * after.mean
              and after.high < before.low,
              f"best before {before}, p = n {peak}, p = 5 n {after} % of digits wrong",
              quick=False)  # fmt: skip
    run.claim("digits: with a ridge penalty there is no peak (no size adds 1 % of wrong digits)",
              bool((np.diff(100 * ridge.mean(axis=0)) < 1).all()),
              f"p = n {100 * ridge[:, at].mean():.1f} %, p = 5 n {100 * ridge[:, -1].mean():.1f} %",
              quick=False)  # fmt: skip
    run.claim("digits: with permuted labels the error is at chance (90 %, to 4)",
              abs(chance.mean - 90) < 4, f"{chance} % wrong at p = 5 n", quick=False)  # fmt: skip
    title = f"Double descent on real digits: random ReLU features, {n} for training"
    with run.figure("digits", title, size=(8.6, 4.4)) as ax:
        for values, color, label in (
            (control, plots.GRAY, "labels permuted"),
            (plain, plots.BLUE, "shortest\nleast squares"),
            (ridge, plots.GREEN, "ridge"),
        ):  # fmt: skip
            plots.interval_band(ax, sizes, 100 * values, color=color, label=label)
        ax.axvline(n, color=plots.ORANGE, lw=1)
        ax.text(n * 1.03, 78, "p = n", color=plots.ORANGE)
        ax.set(xscale="log", ylim=(0, 100), xlabel="random features p")
        ticks = sizes[[0, 1, 2, 5, 8, 9, 10, 11]]
        ax.set_xticks(ticks, [str(p) for p in ticks])
        ax.minorticks_off()
        ax.set_ylabel(f"test error (%), mean and range of {seeds}")
        plots.label_lines(ax)


def main(run: Run, *, training_sets: PositiveInt = 2000) -> None:
    """Check the identity, draw under- and overfitting, and go past the interpolation peak.

    Parameters
    ----------
    training_sets
        How many training sets the decomposition is averaged over.
    """
    training_sets = run.budget(quick=min(training_sets, 400), default=training_sets)
    identity(run, training_sets)
    fits(run)
    winners_curse(run)
    weak_features(run)
    digits_descent(run)
