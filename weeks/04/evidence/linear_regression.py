"""Checks, claims and figures of linear_regression."""

import numpy as np
from jaxtyping import Float

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, UserError
from week04.linear_regression import (
    BayesianLinearRegression,
    LinearRegression,
    Ridge,
    StandardScaler,
    sgd_steps,
)


def diabetes() -> tuple[np.ndarray, np.ndarray]:
    """442 patients, 10 measurements each, and how their diabetes went on in a year (25 to 346)."""
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True, scaled=False)


def housing(run: Run) -> tuple[str, np.ndarray, np.ndarray]:
    """California's districts without missing values; the target in thousands of dollars.

    Where the file is not there, generated districts with features of like scales take its place.
    """
    try:
        data = datasets.california_housing()
    except UserError:
        run.say("california_housing is not here (study fetch california_housing): generated "
                "districts take its place")  # fmt: skip
        return "generated districts", *generated_districts(20_000, np.random.default_rng(0))
    whole = np.isfinite(data.features).all(axis=1)
    return "california_housing", data.features[whole], data.target[whole] / 1e3


def generated_districts(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Eight columns as in the census (median income last) and a value that is mostly linear."""
    longitude, latitude = rng.normal(-119.6, 2.0, n), rng.normal(35.6, 2.1, n)
    age, rooms = rng.uniform(1.0, 52.0, n), rng.lognormal(7.6, 0.7, n)
    bedrooms, population = 0.2 * rooms * rng.lognormal(0, 0.2, n), rng.lognormal(7.0, 0.7, n)
    households, income = population / rng.lognormal(1.0, 0.25, n), rng.gamma(4.0, 1.0, n)
    value = 40 * income + 1.1 * age - 4 * (latitude - 35.6) + rng.normal(0.0, 60.0, n) + 20
    columns = (longitude, latitude, age, rooms, bedrooms, population, households, income)
    return np.column_stack(columns), value


def split(n: int, n_test: int, *seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of a random training and test set."""
    order = np.random.default_rng(seed).permutation(n)
    return order[n_test:], order[:n_test]


def rmse(a: Float[np.ndarray, " n"], b: Float[np.ndarray, " n"]) -> float:
    """Root mean squared difference."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


# ---- checks


def check_solvers(run: Run) -> None:
    """Same coefficients and predictions as scikit-learn, on both data sets."""
    from sklearn import linear_model

    for name, X, y in (("diabetes", *diabetes()), housing(run)):
        reference = linear_model.LinearRegression().fit(X, y)
        ours = LinearRegression().fit(X, y)
        against = "sklearn.linear_model.LinearRegression"
        why = "rounding times the condition number of the raw columns, about 1e4 to 1e6"
        run.check(f"coefficients, {name}", ours.coef_, reference.coef_, against=against,
                  rtol=1e-8, why=why)  # fmt: skip
        run.check(f"predictions, {name}", ours.predict(X), reference.predict(X), against=against,
                  rtol=1e-9, atol=1e-7, why="rounding; some are near 0")  # fmt: skip
        normal = LinearRegression(solver="normal").fit(X, y)
        run.check(f"normal equations, {name}", normal.coef_, reference.coef_, against=against,
                  rtol=1e-4, why="rounding times the squared condition number")  # fmt: skip
        for alpha in (0.1, 10.0):
            theirs = linear_model.Ridge(alpha, solver="svd").fit(X, y)
            mine = Ridge(alpha).fit(X, y)
            run.check(f"ridge {alpha:g}, {name}", np.append(mine.coef_, mine.intercept_),
                      np.append(theirs.coef_, theirs.intercept_), rtol=1e-8,
                      against="sklearn.linear_model.Ridge", why="as above")  # fmt: skip


def check_bayes(run: Run) -> None:
    """Posterior, precisions and evidence, against scikit-learn and against the definition."""
    from scipy.stats import multivariate_normal
    from sklearn.linear_model import BayesianRidge

    X, y = diabetes()
    X = StandardScaler().fit_transform(X)
    ours = BayesianLinearRegression().fit(X, y)
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    theirs = BayesianRidge(tol=1e-12, max_iter=5000, compute_score=True, **flat).fit(X, y)
    against, why = "sklearn.linear_model.BayesianRidge", "two fixed-point iterations stop near it"
    for name, mine, reference in (
        ("posterior mean", ours.coef_, theirs.coef_),
        ("posterior covariance", ours.covariance_, theirs.sigma_),
        ("both precisions", [ours.alpha_, ours.lambda_], [theirs.alpha_, theirs.lambda_]),
        ("log evidence", ours.log_evidence_, theirs.scores_[-1]),
    ):
        run.check(name, mine, reference, against=against, rtol=1e-6, atol=1e-9, why=why)
    Xc = X - X.mean(axis=0)
    covariance = np.eye(len(y)) / ours.alpha_ + Xc @ Xc.T / ours.lambda_
    run.check(
        "log evidence, by its definition", ours.log_evidence_,
        multivariate_normal(cov=covariance).logpdf(y - y.mean()), rtol=1e-9,
        against="scipy's density of all 442 targets at once", why="rounding of a determinant",
    )  # fmt: skip
    # The intercept as one more weight, with a prior so wide that it is flat.
    D = np.column_stack([X, np.ones(len(X))])
    prior = np.diag([ours.lambda_] * X.shape[1] + [1e-12])
    S = np.linalg.inv(prior + ours.alpha_ * D.T @ D)
    exact = np.sqrt(1 / ours.alpha_ + np.einsum("ij,jk,ik->i", D, S, D))
    run.check("predictive deviation", ours.predict_std(X), exact, rtol=1e-9,
              against="numpy, the intercept as a weight", why="rounding of an inverse")  # fmt: skip
    run.metric(
        "predictive deviation left out by scikit-learn",
        100 * float(1 - np.mean(theirs.predict(X, return_std=True)[1] / exact)),
        "%", rtol=0.05,
    )  # fmt: skip


def check_sgd(run: Run) -> None:
    """The first steps of SGD and the gradient of the likelihood, against torch autograd."""
    import torch

    X, y = diabetes()
    X, y = StandardScaler().fit_transform(X), y - y.mean()
    path = sgd_steps(X, y, learning_rate=0.1, n_epochs=1, batch_size=40,
                     rng=np.random.default_rng(run.seed))  # fmt: skip
    w = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    theirs = []
    order = np.random.default_rng(run.seed).permutation(len(X))
    for batch in np.split(order, range(40, len(X), 40)):
        residual = torch.tensor(X[batch]) @ w - torch.tensor(y[batch])
        (gradient,) = torch.autograd.grad(residual.square().mean() / 2, w)
        w = (w - 0.1 * gradient).detach().requires_grad_()
        theirs.append(w.detach().numpy().copy())
    run.check("12 steps of SGD", path, np.array(theirs), against="torch autograd",
              atol=1e-10, why="rounding; weights up to 30")  # fmt: skip

    fit = LinearRegression().fit(X, y)
    w = torch.tensor(fit.coef_, requires_grad=True)
    variance = torch.tensor(fit.noise_variance_, dtype=torch.float64, requires_grad=True)
    noise = torch.distributions.Normal(torch.tensor(X) @ w, variance.sqrt())
    noise.log_prob(torch.tensor(y)).sum().backward()
    run.check(
        "gradient of the log-likelihood at its maximum",
        np.append(w.grad.numpy(), variance.grad.numpy()), np.zeros(11), atol=1e-10,
        against="torch autograd of the density; a maximum has gradient 0", why="rounding",
    )  # fmt: skip
    sgd = LinearRegression(solver="sgd", n_epochs=60).fit(X, y)
    excess = sgd.noise_variance_ / fit.noise_variance_ - 1
    distance = np.linalg.norm(sgd.coef_ - fit.coef_) / np.linalg.norm(fit.coef_)
    run.metric("SGD's distance from the solution", 100 * distance, "% of its length", rtol=0.1)
    run.metric("SGD's excess training error", 100 * excess, "%", rtol=0.2)
    run.claim(
        "60 passes of SGD bring the error within 2 % of the minimum and not below it",
        0 <= excess < 0.02,
        f"mean squared error {excess:.2%} above it, weights still {distance:.0%} away",
    )


# ---- what the posterior knows


def bumps(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 9"]:
    """Nine Gaussian bumps on [0, 1], the features of Bishop's figure 3.8."""
    return np.exp(-((x[:, None] - np.linspace(0, 1, 9)) ** 2) / (2 * 0.12**2))


def bands(run: Run) -> None:
    """Predictive bands for 1, 4 and 25 points: wide where nothing was seen."""
    rng = np.random.default_rng([run.seed, 8])
    grid, noise = np.linspace(0, 1, 300), 0.2
    x = np.append([0.25, 0.36, 0.12, 0.9], rng.uniform(size=21))
    y = np.sin(2 * np.pi * x) + noise * rng.normal(size=len(x))
    title = "What does the model not know? 95 % bands after 2, 4 and 25 observations"
    with run.figure("bands", title, columns=3, size=(9.2, 3.6), sharey=True) as axes:
        for ax, n in zip(axes, (2, 4, 25), strict=True):
            model = BayesianLinearRegression(noise_precision=noise**-2, weight_precision=1.0)
            model.fit(bumps(x[:n]), y[:n])
            mean, std = model.predict(bumps(grid)), model.predict_std(bumps(grid))
            ax.fill_between(grid, mean - 1.96 * std, mean + 1.96 * std, color=plots.SKY,
                            alpha=0.3, lw=0)  # fmt: skip
            ax.plot(grid, np.sin(2 * np.pi * grid), "--", color=plots.REFERENCE, lw=1.3)
            ax.plot(grid, mean, color=plots.BLUE)
            ax.plot(x[:n], y[:n], "o", color=plots.ORANGE, markersize=5.5)
            ax.set(xlabel="x", ylim=(-2.6, 2.6), xlim=(0, 1))
            ax.set_title(f"{n} observations", fontsize=11, weight="normal")
        axes[0].set_ylabel("y")
        for text, color, place in (
            ("truth", plots.REFERENCE, (0.55, -1.55)), ("mean", plots.BLUE, (0.33, 1.25)),
            ("95 % of new observations", plots.BLUE, (0.04, -2.3)),
        ):  # fmt: skip
            axes[2].text(*place, text, color=color, fontsize=10)


def coverage_and_control(run: Run, seeds: int) -> None:
    """Do the bands hold what they promise, and does the fit need the labels?"""
    X, y = diabetes()
    coverage, narrow, score, control = [], [], [], []
    for seed in run.progress(range(seeds), "splits"):
        train, test = split(len(X), 142, run.seed, seed)
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[test])
        model = BayesianLinearRegression().fit(A, y[train])
        error, std = np.abs(model.predict(B) - y[test]), model.predict_std(B)
        coverage.append(np.mean(error < 1.96 * std))
        weights_only = np.sqrt(std**2 - (1 + 1 / len(A)) / model.alpha_)
        narrow.append(np.mean(error < 1.96 * weights_only))
        score.append(LinearRegression().fit(A, y[train]).score(B, y[test]))
        shuffled = np.random.default_rng([run.seed, seed, 1]).permutation(y[train])
        control.append(LinearRegression().fit(A, shuffled).score(B, y[test]))
    mean = mean_interval(coverage)
    run.claim("95 % bands hold 93 to 97 % of unseen patients", 0.93 < mean.mean < 0.97,
              f"{mean}; forgetting the noise {mean_interval(narrow)}")  # fmt: skip
    run.metric("coverage of the 95 % band", 100 * mean.mean, "%")
    run.metric("coverage of the 95 % band without the noise", 100 * np.mean(narrow), "%", rtol=0.1)
    real, chance = mean_interval(score), mean_interval(control)
    run.metric("R² on unseen patients", real.mean, rtol=0.05)
    run.claim(
        "it learns from the targets: R² above 0.35, and below 0.05 with permuted targets",
        chance.mean < 0.05 and real.low > 0.35, f"R² {real}; permuted {chance}",
    )  # fmt: skip


def shrinkage(run: Run, seeds: int) -> None:
    """The evidence picks a penalty from the training data alone; is it a good one?"""
    X, y = diabetes()
    penalties = np.logspace(-2, 4, 25)
    n_train = 60  # few enough patients for the penalty to matter
    errors, chosen, evidences, least = [], [], [], []
    for seed in run.progress(range(seeds), "penalties"):
        train, test = split(len(X), len(X) - n_train, run.seed, seed, 2)
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[test])
        errors.append([rmse(Ridge(a).fit(A, y[train]).predict(B), y[test]) for a in penalties])
        best = BayesianLinearRegression().fit(A, y[train])
        chosen.append((best.lambda_ / best.alpha_, rmse(best.predict(B), y[test])))
        fixed = [
            BayesianLinearRegression(
                noise_precision=best.alpha_, weight_precision=best.alpha_ * a, max_iter=1
            ).fit(A, y[train]).log_evidence_
            for a in penalties
        ]  # fmt: skip
        evidences.append(np.array(fixed) - best.log_evidence_)
        least.append(rmse(LinearRegression().fit(A, y[train]).predict(B), y[test]))
    errors, chosen = np.array(errors), np.array(chosen)
    hindsight = errors.min(axis=1)
    loss = mean_interval(chosen[:, 1] / hindsight - 1)
    gain = mean_interval(1 - chosen[:, 1] / np.array(least))
    run.metric("error of least squares, 60 patients", np.mean(least), rtol=0.05)
    run.metric("error of the penalty that the evidence picks", chosen[:, 1].mean(), rtol=0.05)
    run.metric("error of the best penalty in hindsight", hindsight.mean(), rtol=0.05)
    run.claim(
        "the evidence picks a penalty within 3 % of the best in hindsight, and beats least squares",
        loss.high < 0.03 and gain.low > 0,
        f"worse than hindsight by {loss}, better than least squares by {gain}, {seeds} splits",
        quick=False,
    )
    title = "Can the training data alone pick the penalty? (60 patients)"
    with run.figure("evidence", title, rows=2, size=(8.0, 5.6), sharex=True) as (top, low):
        plots.interval_band(top, penalties, evidences, color=plots.GREEN, label="")
        top.set(ylabel="log evidence, relative\nto its maximum (nats)", ylim=(-14, 1.5))
        plots.interval_band(low, penalties, errors, color=plots.BLUE, label="")
        middle = float(np.median(chosen[:, 0]))
        low.axhline(np.mean(least), color=plots.REFERENCE, ls="--", lw=1.2)
        low.text(penalties[0], np.mean(least) + 0.6, "least squares", color=plots.REFERENCE,
                 va="bottom")  # fmt: skip
        for ax in (top, low):
            ax.axvline(middle, color=plots.ORANGE, lw=1.5)
        low.text(middle * 0.88, 77, "the evidence's choice\n(median)", color=plots.ORANGE,
                 ha="right", va="top")  # fmt: skip
        top.text(penalties[0], -0.4, f"mean and range\nof {seeds} splits", color=plots.GREEN,
                 va="top")  # fmt: skip
        low.set(xscale="log", xlabel="ridge penalty λ/α (standardized columns)")
        low.set_ylabel("error on the other\n382 patients (RMSE)")


# ---- failure on display


def own_statistics(run: Run, seeds: int) -> None:
    """Test data normalized by its own mean and deviation: the bug, and what it costs."""
    _, X, y = housing(run)
    sizes = np.array([1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000])
    right, wrong, sorted_wrong, guess = [], [], [], []
    for seed in range(min(seeds, run.budget(quick=2, default=8))):
        train, test = split(len(X), 6000, run.seed, seed, 3)
        scaler = StandardScaler().fit(X[train])
        model = LinearRegression().fit(scaler.transform(X[train]), y[train])
        right.append(rmse(model.predict(scaler.transform(X[test])), y[test]))
        guess.append(rmse(np.full(len(test), y[train].mean()), y[test]))
        by_income = test[np.argsort(X[test, 7], kind="stable")]
        rows = []
        for order in (test, by_income):
            errors = []
            for size in sizes:
                batches = X[order].reshape(-1, size, X.shape[1])
                mean = batches.mean(axis=1, keepdims=True)
                std = batches.std(axis=1, keepdims=True)
                own = (batches - mean) / np.where(std > 0, std, 1.0)
                errors.append(rmse(model.predict(own.reshape(-1, X.shape[1])), y[order]))
            rows.append(errors)
        wrong.append(rows[0])
        sorted_wrong.append(rows[1])
    right_mean, wrong, sorted_wrong = np.mean(right), np.array(wrong), np.array(sorted_wrong)
    run.metric("error, scaled by the training data", right_mean, "thousand dollars")
    run.metric("error, one district at a time by its own statistics", wrong[:, 0].mean(),
               "thousand dollars")  # fmt: skip
    run.metric("error, batches of 3000 by their own statistics", wrong[:, -1].mean(),
               "thousand dollars")  # fmt: skip
    at = int(np.flatnonzero(sizes == 100)[0])
    run.metric("error, 100 districts of like income by their own statistics",
               sorted_wrong[:, at].mean(), "thousand dollars")  # fmt: skip
    cost = mean_interval(wrong[:, 0] / np.array(right) - 1)
    hidden = mean_interval(wrong[:, -1] / np.array(right) - 1)
    run.claim(
        "normalizing test data by itself costs over 40 % of error for one row, under 1 % for 3000",
        cost.low > 0.4 and hidden.high < 0.01,
        f"one row {cost}, 3000 rows {hidden}, as shares of the right error",
    )
    title = "What does it cost to normalize test data by its own statistics?"
    with run.figure("own_statistics", title, size=(8.6, 4.6)) as ax:
        plots.interval_band(ax, sizes, sorted_wrong, color=plots.ORANGE,
                            label="batches of\nlike income")  # fmt: skip
        plots.interval_band(ax, sizes, wrong, color=plots.PINK, label="random\nbatches")
        ax.axhline(right_mean, color=plots.BLUE)
        ax.text(1, right_mean - 1.5, "statistics of the training data, whatever the batch",
                color=plots.BLUE, va="top")  # fmt: skip
        ax.axhline(np.mean(guess), color=plots.REFERENCE, ls="--", lw=1.2)
        ax.text(30, np.mean(guess) - 1, "always predicting the mean",
                color=plots.REFERENCE, va="top", ha="center")  # fmt: skip
        ax.set(xscale="log", xlabel="districts in a test batch")
        ax.set_ylabel("error (RMSE, thousand dollars)")
        plots.label_lines(ax)


def main(run: Run, *, seeds: PositiveInt = 20) -> None:
    """Check every solver, draw what the posterior knows, and normalize test data wrongly.

    Parameters
    ----------
    seeds
        Random splits of the data for the claims.
    """
    seeds = run.budget(quick=min(seeds, 6), default=seeds)
    check_solvers(run)
    check_bayes(run)
    check_sgd(run)
    bands(run)
    coverage_and_control(run, seeds)
    shrinkage(run, seeds)
    own_statistics(run, seeds)
