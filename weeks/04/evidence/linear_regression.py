"""What linear and Bayesian regression are measured by: scikit-learn and unseen patients."""

import numpy as np
from jaxtyping import Float

from shared import plots
from shared.study import PositiveInt, Run
from week04.bayesian_regression import BayesianLinearRegression
from week04.evidence.data import Table, diabetes, housing, rmse, split
from week04.linear_regression import LinearRegression, Ridge, StandardScaler

SGD = "60 passes of SGD bring the error within 2 % of the minimum and not below it"
COVERAGE = "95 % bands hold 93 to 97 % of unseen patients"
LEARNS = "it learns from the targets: R² above 0.35 on unseen patients"
HIDDEN = "normalizing test data by itself costs under 1 % of error for batches of 3000"


def main(run: Run, *, seeds: PositiveInt = 20) -> None:
    """Check every solver, draw what the posterior knows, and normalize test data wrongly.

    Parameters
    ----------
    seeds
        Random splits of the data for the claims.
    """
    seeds = run.budget(quick=min(seeds, 2), default=seeds)
    patients, districts = diabetes(), housing(run)
    check_solvers(run, {"diabetes": patients, run.options["districts"]: districts})
    check_bayes(run, *patients)
    measure_sgd(run, *patients)
    bands(run)
    coverage_and_control(run, *patients, seeds)
    shrinkage(run, *patients, seeds)
    own_statistics(run, *districts, min(seeds, 8))


# ---- checks


def check_solvers(run: Run, tables: dict[str, Table]) -> None:
    """Same coefficients and predictions as scikit-learn, on both data sets."""
    from sklearn import linear_model

    why = "rounding times the condition number of the raw columns, about 1e4 to 1e6"
    linear = run.against("sklearn.linear_model.LinearRegression", rtol=1e-8, why=why)
    ridge = run.against("sklearn.linear_model.Ridge", rtol=1e-8, why=why)
    for name, (X, y) in tables.items():
        theirs, ours = linear_model.LinearRegression().fit(X, y), LinearRegression().fit(X, y)
        normal = LinearRegression(solver="normal").fit(X, y)
        linear(f"coefficients, {name}", ours.coef_, theirs.coef_)
        linear(f"normal equations, {name}", normal.coef_, theirs.coef_, rtol=1e-4)
        models = Ridge(10.0).fit(X, y), linear_model.Ridge(10.0, solver="svd").fit(X, y)
        ridge(f"ridge 10, {name}", *(np.append(m.coef_, m.intercept_) for m in models))


def check_bayes(run: Run, X, y) -> None:
    """Posterior, precisions and evidence, against scikit-learn; the predictive deviation."""
    from sklearn.linear_model import BayesianRidge

    X = StandardScaler().fit_transform(X)
    ours = BayesianLinearRegression().fit(X, y)
    flat = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 0.0)
    theirs = BayesianRidge(tol=1e-12, max_iter=5000, compute_score=True, **flat).fit(X, y)
    source, why = "sklearn.linear_model.BayesianRidge", "two fixed-point iterations stop near it"
    equal = run.against(source, rtol=1e-6, atol=1e-9, why=why)
    equal("posterior mean", ours.coef_, theirs.coef_)
    equal("posterior covariance", ours.covariance_, theirs.sigma_)
    equal("both precisions", [ours.alpha_, ours.lambda_], [theirs.alpha_, theirs.lambda_])
    equal("log evidence", ours.log_evidence_, theirs.scores_[-1])
    # The intercept as one more weight, with a prior so wide that it is flat.
    D = np.column_stack([X, np.ones(len(X))])
    prior = np.diag([ours.lambda_] * X.shape[1] + [1e-12])
    S = np.linalg.inv(prior + ours.alpha_ * D.T @ D)
    exact = np.sqrt(1 / ours.alpha_ + np.einsum("ij,jk,ik->i", D, S, D))
    source, why = "numpy, the intercept as a weight", "rounding of an inverse"
    equal = run.against(source, kind="theorem", rtol=1e-9, why=why)
    equal("predictive deviation", ours.predict_std(X), exact)
    left_out = 1 - np.mean(theirs.predict(X, return_std=True)[1] / exact)
    run.metric("predictive deviation left out by scikit-learn", 100 * left_out, "%", rtol=0.05)


def measure_sgd(run: Run, X, y) -> None:
    """How near SGD comes, in error and in weights."""
    X, y = StandardScaler().fit_transform(X), y - y.mean()
    fit = LinearRegression().fit(X, y)
    epochs, draws = run.budget(quick=5, default=60), run.budget(quick=2, default=8)
    fits = [LinearRegression(solver="sgd", epochs=epochs, random_state=s) for s in range(draws)]
    away = np.array([model.fit(X, y).coef_ - fit.coef_ for model in fits])
    flattest = np.linalg.eigh(X.T @ X)[1][:, 0]
    excess = [model.noise_variance_ / fit.noise_variance_ - 1 for model in fits]
    distance = 100 * np.linalg.norm(away, axis=1).mean() / np.linalg.norm(fit.coef_)
    share = 100 * np.mean((away @ flattest) ** 2 / (away**2).sum(axis=1))
    run.metric("SGD's distance from the solution", distance, "% of its length", rtol=0.1)
    run.metric("SGD's excess training error", 100 * np.mean(excess), "%", rtol=0.2)
    run.metric("share of SGD's squared distance in the flattest direction", share, "%")
    note = f"{epochs} passes; weights still {distance:.0f} % away"
    run.claim(SGD, excess, at_least=0, at_most=0.02, note=note, quick=False)


# ---- what the posterior knows


def bumps(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 9"]:
    """Nine Gaussian bumps on [0, 1], the features of Bishop's figure 3.8."""
    return np.exp(-((x[:, None] - np.linspace(0, 1, 9)) ** 2) / (2 * 0.12**2))


def bands(run: Run) -> None:
    """Predictive bands for 2, 4 and 25 points: wide where nothing was seen."""
    rng, grid, noise = np.random.default_rng([run.seed, 8]), np.linspace(0, 1, 300), 0.2
    x = np.append([0.25, 0.36, 0.12, 0.9], rng.uniform(size=21))
    y = np.sin(2 * np.pi * x) + noise * rng.normal(size=len(x))
    title = "What does the model not know? 95 % bands after 2, 4 and 25 observations"
    with run.figure("bands", title, columns=3, size=(9.2, 3.6), sharey=True) as axes:
        for ax, n in zip(axes, (2, 4, 25), strict=True):
            model = BayesianLinearRegression(noise_precision=noise**-2, weight_precision=1.0)
            model.fit(bumps(x[:n]), y[:n])
            mean, half = model.predict(bumps(grid)), 1.96 * model.predict_std(bumps(grid))
            ax.fill_between(grid, mean - half, mean + half, color=plots.SKY, alpha=0.3, lw=0)
            truth = np.sin(2 * np.pi * grid)
            ax.plot(grid, truth, "--", color=plots.REFERENCE, lw=1.3, label="truth")
            ax.plot(grid, mean, color=plots.BLUE, label="mean and 95 %")
            ax.plot(x[:n], y[:n], "o", color=plots.ORANGE, markersize=5.5)
            ax.set(xlabel="x", ylim=(-2.6, 2.6), xlim=(0, 1))
            ax.set_title(f"{n} observations", fontsize=11, weight="normal")
        axes[0].set_ylabel("y")
        axes[2].legend(fontsize=9, loc="lower left")


def coverage_and_control(run: Run, X, y, seeds: int) -> None:
    """Do the bands hold what they promise, and does the fit need the labels?"""
    coverage, narrow, score, permuted = [], [], [], []
    for seed in run.progress(range(seeds), "splits"):
        train, test = split(len(X), 142, run.seed, seed)
        scaler = StandardScaler().fit(X[train])
        A, B = scaler.transform(X[train]), scaler.transform(X[test])
        model = BayesianLinearRegression().fit(A, y[train])
        error, std = np.abs(model.predict(B) - y[test]), model.predict_std(B)
        weights_only = np.sqrt(std**2 - (1 + 1 / len(A)) / model.alpha_)
        coverage.append(np.mean(error < 1.96 * std))
        narrow.append(np.mean(error < 1.96 * weights_only))
        shuffled = np.random.default_rng([run.seed, seed, 1]).permutation(y[train])
        score.append(LinearRegression().fit(A, y[train]).score(B, y[test]))
        permuted.append(LinearRegression().fit(A, shuffled).score(B, y[test]))
    run.metric("coverage of the 95 % band", 100 * np.mean(coverage), "%")
    run.metric("coverage of the 95 % band without the noise", 100 * np.mean(narrow), "%", rtol=0.1)
    run.claim(COVERAGE, coverage, at_least=0.93, at_most=0.97, quick=False)
    run.falsifier("bands that forget the noise", narrow, breaks=COVERAGE)
    run.claim(LEARNS, score, at_least=0.35, quick=False)
    run.falsifier("permuted targets", permuted, breaks=LEARNS)


def shrinkage(run: Run, X, y, seeds: int) -> None:
    """The evidence picks a penalty from the training data alone; is it a good one?"""
    n_train, penalties = 60, np.logspace(-2, 4, run.budget(quick=5, default=25))
    errors, chosen, evidences, least = [], [], [], []
    for seed in run.progress(range(seeds), "penalties"):
        train, test = split(len(X), len(X) - n_train, run.seed, seed, 2)
        scaler = StandardScaler().fit(X[train])
        A, B, t = scaler.transform(X[train]), scaler.transform(X[test]), y[train]
        errors.append([rmse(Ridge(a).fit(A, t).predict(B), y[test]) for a in penalties])
        best = BayesianLinearRegression().fit(A, t)
        chosen.append((best.lambda_ / best.alpha_, rmse(best.predict(B), y[test])))
        options = {"noise_precision": best.alpha_, "max_iter": 1}
        fixed = [
            BayesianLinearRegression(weight_precision=best.alpha_ * a, **options).fit(A, t)
            for a in penalties
        ]
        evidences.append([model.log_evidence_ - best.log_evidence_ for model in fixed])
        least.append(rmse(LinearRegression().fit(A, t).predict(B), y[test]))
    picked, error = np.array(chosen).T
    hindsight = np.min(errors, axis=1)
    run.metric("error of the penalty that the evidence picks", error.mean(), rtol=0.05)
    run.metric("error of the best penalty in hindsight", hindsight.mean(), rtol=0.05)
    name = "the evidence picks a penalty within 3 % of the best in hindsight"
    run.claim(name, error / hindsight - 1, at_most=0.03, quick=False)
    lead = 1 - error / np.array(least)
    run.claim("the evidence beats least squares", lead, at_least=0, quick=False)
    title = "Can the training data alone pick the penalty? (60 patients)"
    with run.figure("evidence", title, rows=2, size=(8.0, 5.6), sharex=True) as (top, low):
        plots.interval_band(top, penalties, evidences, color=plots.GREEN, label="")
        plots.interval_band(low, penalties, errors, color=plots.BLUE, label="")
        plots.reference_line(low, np.mean(least), "least squares")
        for ax in (top, low):
            ax.axvline(
                np.median(picked), color=plots.ORANGE, label="the evidence's choice (median)"
            )
        low.legend(loc="upper left")
        top.set_title(f"mean and range of {seeds} splits", fontsize=11, weight="normal")
        top.set(ylabel="log evidence, relative\nto its maximum (nats)", ylim=(-14, 1.5))
        low.set(xscale="log", xlabel="ridge penalty λ/α (standardized columns)")
        low.set_ylabel("error on the other\n382 patients (RMSE)")


# ---- failure on display


def own_statistics(run: Run, X, y, seeds: int) -> None:
    """Test data normalized by its own mean and deviation: the bug, and what it costs."""
    sizes = np.array([1, 2, 3, 5, 10, 30, 100, 300, 1000, 3000])
    n_test = run.budget(quick=3000, default=6000)
    right, random, alike, guess = [], [], [], []
    for seed in range(seeds):
        train, test = split(len(X), n_test, run.seed, seed, 3)
        scaler = StandardScaler().fit(X[train])
        model = LinearRegression().fit(scaler.transform(X[train]), y[train])
        right.append(rmse(model.predict(scaler.transform(X[test])), y[test]))
        guess.append(rmse(np.full(len(test), y[train].mean()), y[test]))
        by_income = test[np.argsort(X[test, 7], kind="stable")]
        for order, errors in ((test, random), (by_income, alike)):
            own = [normalized_by_batch(X[order], size) for size in sizes.tolist()]
            errors.append([rmse(model.predict(A), y[order]) for A in own])
    right, random, alike = np.array(right), np.array(random), np.array(alike)
    for name, errors in (
        ("scaled by the training data", right),
        ("one district at a time by its own statistics", random[:, 0]),
        ("batches of 3000 by their own statistics", random[:, -1]),
        ("100 districts of like income by their own statistics", alike[:, list(sizes).index(100)]),
    ):
        run.metric(f"error, {name}", errors.mean(), "thousand dollars")
    options = {"unit": "of the right error", "quick": False}
    run.claim(HIDDEN, random[:, -1] / right - 1, at_most=0.01, **options)
    run.falsifier("one row at a time", random[:, 0] / right - 1, breaks=HIDDEN)
    lines = {"batches of like income": alike, "random batches": random}
    labels = {"xscale": "log", "xlabel": "districts in a test batch"}
    labels |= {"ylabel": "error (RMSE, thousand dollars)"}
    levels = {"always predicting the mean": np.mean(guess), "scaled by training data": right.mean()}
    title = "What does it cost to normalize test data by its own statistics?"
    with run.figure("own_statistics", title, size=(8.6, 4.6)) as ax:
        plots.curves(ax, sizes, lines, colors=plots.COLORS[1:], reference=levels, **labels)


def normalized_by_batch(X: Float[np.ndarray, "n p"], size: int) -> Float[np.ndarray, "n p"]:
    """Each batch of rows minus its own mean, over its own deviation: the mistake."""
    batches = X.reshape(-1, size, X.shape[1])
    std = batches.std(axis=1, keepdims=True)
    own = (batches - batches.mean(axis=1, keepdims=True)) / np.where(std > 0, std, 1.0)
    return own.reshape(X.shape)
