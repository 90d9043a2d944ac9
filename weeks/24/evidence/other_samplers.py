"""Densities, moments and the price of a draw, beside numpyro's NUTS and blackjax's."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shared import datasets
from shared.study import Run
from week24 import chains
from week24.adaptation import Sample
from week24.diagnostics import rhat
from week24.hmc import State
from week24.jax_twins import ask, summary
from week24.posteriors import (
    eight_schools,
    funnel,
    gaussian,
    logistic,
    random_covariance,
    schools_theta,
)

CHAINS, WARMUP, DRAWS = 16, 400, 500
ERRORS_APART = {"atol": 4.0, "why": "four Monte-Carlo errors of both"}


def targets(rng: np.random.Generator) -> dict[str, tuple]:
    """By numpyro's names: a target, its dimensions, and the data that numpyro needs."""
    wide = random_covariance(100, 100.0, rng)
    table = datasets.bundled("breast_cancer")
    X = ((table.data - table.data.mean(axis=0)) / table.data.std(axis=0))[:, :10]
    y = table.target.astype(float)
    return {
        "gaussian": (gaussian(wide), 100, {"covariance": wide.tolist()}),
        "logistic": (logistic(X, y), 11, {"X": X.tolist(), "y": y.tolist()}),
        "schools": (eight_schools(centered=False), 10, {}),
        "centered schools": (eight_schools(centered=True), 10, {}),
        "funnel": (funnel(5), 5, {"dim": 5}),
    }


def in_their_terms(name: str, found: Sample) -> np.ndarray:
    """Draws of what numpyro reports: of the schools mu, log tau and theta."""
    if name != "schools":
        return found.draws
    theta = schools_theta(found.flat, centered=False)
    return np.concatenate([found.draws[..., :2], theta.reshape(*found.depth.shape, 8)], axis=-1)


def errors_apart(ours: dict, theirs: dict, moment: str) -> np.ndarray:
    """Differences of means or standard deviations, in units of their error."""
    error = np.hypot(ours[f"mcse_{moment}"], theirs[f"mcse_{moment}"])
    return np.subtract(ours[moment], theirs[moment]) / error


def compare(run: Run) -> None:
    """All five densities; moments of four posteriors, both forms of the schools; two prices."""
    models = targets(run.rng)
    points = {name: run.rng.normal(size=(4, dim)) for name, (_, dim, _) in models.items()}
    priced = ("gaussian", "schools")
    size = {"chains": CHAINS, "n_warmup": WARMUP, "n_draws": DRAWS, "seed": run.seed}
    requests = [
        {"job": "density", "model": name, "data": data, "points": points[name].tolist()}
        for name, (_, _, data) in models.items()
    ]
    requests += [
        {"job": "numpyro", "model": name, "data": models[name][2], **size} for name in priced
    ]
    # The curvature is up to 569 rows / 4 times the inputs' largest variance: 2 / 28 explodes.
    given = {"data": models["logistic"][2], "step": 0.04, "inverse_mass": [1.0] * 11}
    requests.append({"job": "blackjax", "model": "logistic", **given, **size})
    with ThreadPoolExecutor(1) as pool:  # most of the child's time goes into compiling
        waiting = pool.submit(ask, requests)
        found = {}
        for name in (*priced, "logistic"):
            target, dim, _ = models[name]
            start = run.rng.normal(size=(CHAINS, dim))
            args = target, start, chains.nuts(), WARMUP, DRAWS, run.rng
            found[name] = chains.sample_chains(*args)
        ours = {name: summary(in_their_terms(name, sample)) for name, sample in found.items()}
        moved = centered_steps(in_their_terms("schools", found["schools"]), run.rng)
        answers = waiting.result()

    for (name, (target, _, _)), answer in zip(models.items(), answers, strict=False):
        density, gradient = target(points[name])
        equal = run.against("numpyro's potential_energy", rtol=1e-9, atol=1e-9, why="rounding")
        steps = np.diff(density), np.diff(answer["log_density"])
        equal(f"log density up to a constant, {name}", *steps)
        equal(f"gradient, {name}", gradient, answer["gradient"])
    *numpyro, blackjax = answers[len(models) :]
    theirs = dict(zip(priced, numpyro, strict=True))
    for name in priced:
        same_moments(run, name, ours[name], theirs[name])
    same_moments(run, "centered schools", summary(moved), theirs["schools"])
    same_moments(run, "logistic", ours["logistic"], blackjax, "blackjax.nuts")
    for name, sample in found.items():
        columns = np.moveaxis(sample.draws, -1, 0)
        run.metric(f"R̂, largest, {name}", max(rhat(x) for x in columns), rtol=None)
        run.metric(f"acceptance, {name}", sample.accept.mean(), rtol=None)
    gains = []
    for name, answer in theirs.items():
        run.metric(f"acceptance, numpyro, {name}", answer["accept"], rtol=None)
        price = ours[name]["ess"] / found[name].n_leapfrogs.sum()
        gains.append(price / (answer["ess"] / answer["gradients"]))
        run.metric(f"ESS per gradient, ours over numpyro's, {name}", gains[-1], rtol=None)
    rule = {"at_least": 0.7, "each": True, "unit": "times", "rtol": None, "note": "two posteriors"}
    seen = "a run of half as many chains and fewer draws: 0.70 and 0.80"
    run.claim("a gradient buys as much as numpyro's", gains, **rule, seen_before=seen)


def centered_steps(draws: np.ndarray, rng: np.random.Generator, n: int = 3) -> np.ndarray:
    """Draws of the posterior after n more steps of NUTS, in the centered form: they stay draws.

    Chains that run in this form alone would need long to reach the neck.
    """
    q = draws.reshape(-1, 10)
    target, ones = eight_schools(centered=True), np.ones(len(q))
    state = State(q, np.zeros_like(q), *target(q))
    for _ in range(n):
        state = chains.nuts(7)(target, state, 0.25 * ones, np.ones_like(q), rng).state
    return state.q.reshape(draws.shape)


def same_moments(
    run: Run, name: str, ours: dict, theirs: dict, against: str = "numpyro.infer.NUTS"
) -> None:
    """Two checks, of means and of standard deviations."""
    for moment in ("mean", "sd"):
        apart = errors_apart(ours, theirs, moment)
        label = f"{moment} in errors, {name}, {against.split('.')[0]}"
        run.check(label, apart, np.zeros(len(apart)), against=against, **ERRORS_APART)
