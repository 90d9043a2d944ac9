"""The integrator's theorems, the law after one step and by simulation, numpyro and blackjax."""

import numpy as np
from scipy import stats

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week24.adaptation import DualAveraging, Sample, sample
from week24.calibration import ranks, uniformity, unweighted
from week24.diagnostics import ess_bulk, mcse_mean, mcse_sd, rhat
from week24.hmc import Metric, at, energy, hmc, leapfrog
from week24.hmc_nuts import nuts
from week24.jax_twins import ask
from week24.posteriors import (
    eight_schools,
    funnel,
    gaussian,
    logistic,
    random_covariance,
    schools_theta,
)

SEEN = "runs of other seeds while the code was written"
TRAP = np.array([[2.0, 1.5], [1.5, 2.0]])  # an inverse mass whose roots are easily confused


def main(run: Run, *, replicates: PositiveInt = 600) -> None:
    """Leapfrog, momenta, one exact step, simulation-based calibration, then other people's NUTS.

    Parameters
    ----------
    replicates
        Data sets of the simulation-based calibration.
    """
    run.rounding(0.3, "rounding grows along a trajectory until another state is drawn")
    check_leapfrog(run)
    check_metric(run)
    check_one_step(run, run.budget(quick=300, default=4000))
    calibrate(run, run.budget(quick=60, default=replicates))
    check_adaptation(run)
    if run.mode != "quick":  # JAX takes seconds to start and compile
        compare(run)
    judge_funnel(run)
    draw_paths(run)


# ---- theorems


def check_leapfrog(run: Run) -> None:
    """Order, reversibility and volume, on a target that is not normal."""
    target = eight_schools(centered=False)
    metric = Metric(run.rng.uniform(0.5, 2, 10))
    start = at(target, 0.5 * run.rng.normal(size=10), metric.draw(run.rng))

    def after(state, step: float, n: int):
        for _ in range(n):
            state = leapfrog(target, state, step, metric)
        return state

    ends = [after(start, 0.4 / n, n) for n in (20, 40, 80)]
    errors = [abs(energy(end, metric) - energy(start, metric)) for end in ends]
    theorem = {"kind": "theorem", "why": "terms of order ε⁴ that remain"}
    order = np.log2(np.divide(errors[:-1], errors[1:]))
    run.check("order of the energy error", order, [2, 2], against="O(ε²)", atol=0.1, **theorem)
    back = after(after(start, 0.1, 30), -0.1, 30)
    reversible = run.against("a step back", kind="theorem", atol=1e-10, why="float64 rounding")
    reversible("point after 30 steps and back", back.q, start.q)
    reversible("momentum after 30 steps and back", back.p, start.p)

    def moved(z):
        end = after(at(target, z[:10], z[10:]), 0.1, 5)
        return np.concatenate([end.q, end.p])

    z, h = np.concatenate([start.q, start.p]), 1e-5
    jacobian = np.array([(moved(z + h * e) - moved(z - h * e)) / (2 * h) for e in np.eye(20)])
    volume = np.linalg.det(jacobian)
    why = "central differences"
    run.check("volume", volume, 1.0, against="Liouville", kind="theorem", atol=1e-7, why=why)


def check_metric(run: Run) -> None:
    """Momenta have covariance M, the inverse of what the metric is given."""
    n = run.budget(quick=2000, default=40_000)
    metric = Metric(TRAP)
    momenta = np.array([metric.draw(run.rng) for _ in range(n)])
    why = "five standard errors"
    exact = {"against": "M", "kind": "theorem", "atol": 5 * 1.62 / n**0.5, "why": why}
    run.check("covariance of dense momenta", np.cov(momenta.T), np.linalg.inv(TRAP), **exact)


def check_one_step(run: Run, n: int) -> None:
    """From an exact draw, one step of any right kernel gives an exact draw."""
    target = gaussian(TRAP)
    for name, kernel in {"NUTS": nuts(), "HMC": hmc(1.5)}.items():
        q = stepped(target, kernel, run.rng.multivariate_normal([0, 0], TRAP, n), run.rng)
        for what, law, values in [
            ("place", stats.norm(scale=2**0.5).cdf, q[:, 0]),
            ("size", stats.chi2(2).cdf, np.einsum("ni,ij,nj->n", q, np.linalg.inv(TRAP), q)),
        ]:
            run.check(
                f"{what} after one step of {name}, distance from its law",
                stats.kstest(values, law).statistic,
                0.0,
                against="the law it began with",
                kind="theorem",
                atol=2.04 / n**0.5,
                why="Kolmogorov's bound at p = 0.0005",
            )


def stepped(target, kernel, starts: np.ndarray, rng: np.random.Generator, step: float = 0.9):
    """One step of a kernel from each start."""
    metric = Metric(np.ones(starts.shape[1]))
    return np.array([kernel(target, at(target, q), step, metric, rng).state.q for q in starts])


# ---- simulation-based calibration


def calibrate(run: Run, replicates: int) -> None:
    """If draws follow the posterior, the truth has any rank among them equally often."""
    right = ranks(nuts(), replicates, run.rng)
    wrong = ranks(unweighted, replicates, run.rng)
    name = "ranks of the truth are uniform"
    rule = {"at_least": 0.01, "deterministic": True, "seen_before": SEEN, "quick": False}
    run.claim(name, uniformity(right), **rule, note="p, three coordinates", rtol=None)
    run.falsifier("the last state instead of a weighted draw", uniformity(wrong), breaks=name)
    title = "Simulation-based calibration: where does the truth rank among 19 draws?"
    with run.figure("ranks", title) as axes:
        width, x = 0.4, np.arange(10)
        for i, (label, found) in enumerate({"NUTS": right, "last state taken": wrong}.items()):
            counts = np.bincount(found[:, 0] // 2, minlength=10) / replicates
            axes.bar(x + (i - 0.5) * width, counts, width, color=plots.COLORS[i], label=label)
        plots.reference_line(axes, 0.1, "uniform")
        labels = [f"{2 * i}–{2 * i + 1}" for i in range(10)]
        axes.set_xticks(x, labels)
        axes.set(xlabel="rank of the true mean", ylabel="share of data sets")
        axes.legend()


# ---- adaptation


def check_adaptation(run: Run) -> None:
    """With a long warm-up and nothing else to learn, the acceptance is what was asked for."""
    target, metric = gaussian(np.eye(10)), Metric(np.ones(10))
    state, found = at(target, run.rng.normal(size=10)), []
    tuned, kernel = DualAveraging(0.5, 0.8), nuts()
    n = run.budget(quick=300, default=4000)
    for _ in range(n):
        moved = kernel(target, state, tuned.step, metric, run.rng)
        state, _ = moved.state, tuned.update(moved.accept)
    for _ in range(n // 4):
        moved = kernel(target, state, tuned.averaged, metric, run.rng)
        state = moved.state
        found.append(moved.accept)
    why = "the average of the logarithm is not the logarithm that gives the average"
    against = {"against": "the target, 0.8", "kind": "theorem", "atol": 0.06, "why": why}
    run.check("realized acceptance on N(0, I)", np.mean(found), 0.8, **against)


# ---- numpyro and blackjax


def summary(draws: np.ndarray) -> dict:
    """Moments with their errors, and the smallest bulk ESS of a coordinate or its square."""
    columns = [draws[:, :, i] for i in range(draws.shape[-1])]
    return {
        "mean": np.array([x.mean() for x in columns]),
        "mcse_mean": np.array([mcse_mean(x) for x in columns]),
        "sd": np.array([x.std(ddof=1) for x in columns]),
        "mcse_sd": np.array([mcse_sd(x) for x in columns]),
        "ess": min(min(ess_bulk(x), ess_bulk((x - x.mean()) ** 2)) for x in columns),
        "rhat": max(rhat(x) for x in columns),
    }


def in_their_terms(found: Sample, *, centered: bool) -> np.ndarray:
    """Draws of mu, log tau and theta, from either form."""
    theta = schools_theta(found.flat, centered=centered).reshape(*found.draws.shape[:2], 8)
    return np.concatenate([found.draws[..., :2], theta], axis=-1)


def compare(run: Run) -> None:
    """Densities, gradients, moments and the price of a draw, beside numpyro and blackjax."""
    size = {"chains": 4, "n_warmup": 500, "n_draws": 500}
    wide = random_covariance(100, 100.0, run.rng)
    table = datasets.bundled("breast_cancer")
    X = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    X, y = X[:, :10], table.target.astype(float)
    models = {
        "schools": (eight_schools(centered=False), 10, {}),
        "centered schools": (eight_schools(centered=True), 10, {}),
        "gaussian": (gaussian(wide), 100, {"covariance": wide.tolist()}),
        "logistic": (logistic(X, y), 11, {"X": X.tolist(), "y": y.tolist()}),
    }
    points = {name: run.rng.normal(size=(4, dim)) for name, (_, dim, _) in models.items()}
    runs = {
        name: sample(target, np.zeros((4, dim)), nuts(), 500, 500, run.rng)
        for name, (target, dim, _) in models.items()
    }
    requests = [
        {"job": "density", "model": name, "data": data, "points": points[name].tolist()}
        for name, (_, _, data) in models.items()
    ]
    requests += [
        {"job": "numpyro", "model": name, "data": data, "seed": run.seed, **size}
        for name, (_, _, data) in models.items()
    ]
    given = {"step": 0.35, "inverse_mass": [1.0] * 10, "seed": run.seed, **size}
    requests.append({"job": "blackjax", "model": "schools", **given})
    *answers, blackjax = ask(requests)
    densities, theirs = answers[: len(models)], answers[len(models) :]
    for (name, (target, _, _)), answer in zip(models.items(), densities, strict=True):
        ours = [target(q) for q in points[name]]
        equal = run.against("numpyro's potential_energy", rtol=1e-9, atol=1e-9, why="rounding")
        steps = np.diff([o[0] for o in ours]), np.diff(answer["log_density"])
        equal(f"log density up to a constant, {name}", *steps)
        equal(f"gradient, {name}", np.array([o[1] for o in ours]), answer["gradient"])
    gains = []
    for name, answer in zip(models, theirs, strict=True):
        found = runs[name]
        schools = "schools" in name
        draws = in_their_terms(found, centered="centered" in name) if schools else found.draws
        ours = summary(draws)
        if name != "centered schools":
            same_moments(run, f"{name}, numpyro", ours, answer)
            price = answer["gradients"] / answer["ess"] / (found.n_leapfrogs.sum() / ours["ess"])
            gains.append(price)
            run.metric(f"ESS per gradient, ours over numpyro's, {name}", price, rtol=None)
            run.metric(f"R̂, largest, {name}", ours["rhat"], rtol=None)
            run.metric(f"acceptance, {name}", found.accept.mean(), rtol=None)
            run.metric(f"acceptance, numpyro, {name}", answer["accept"], rtol=None)
        else:
            run.metric("divergences, centered schools", found.diverged.sum(), rtol=None)
            run.metric("divergences, centered schools, numpyro", answer["diverged"], rtol=None)
    run.claim(
        "a gradient buys as much as numpyro's",
        gains,
        at_least=0.7,
        each=True,
        unit="times",
        note="three posteriors",
        rtol=None,
    )
    mean = np.array(blackjax["mean"][:2])
    ours = summary(runs["schools"].draws)
    z = (ours["mean"][:2] - mean) / np.hypot(ours["mcse_mean"][:2], blackjax["mcse_mean"][:2])
    same = {"against": "blackjax.nuts", "atol": 4, "why": "four Monte-Carlo errors of both"}
    run.check("mu and log tau in errors, blackjax", z, [0, 0], **same)


def same_moments(run: Run, name: str, ours: dict, theirs: dict) -> None:
    """Differences of means and standard deviations, in units of their error."""
    for moment in ("mean", "sd"):
        error = np.hypot(ours[f"mcse_{moment}"], theirs[f"mcse_{moment}"])
        z = (ours[moment] - np.array(theirs[moment])) / error
        why = "four Monte-Carlo errors of both"
        run.check(
            f"{moment} in errors, {name}", z, np.zeros(len(z)), against="numpyro", atol=4, why=why
        )


# ---- what goes wrong


def judge_funnel(run: Run) -> None:
    """The neck of the funnel is not visited, and divergences say so."""
    dim, n = 5, run.budget(quick=100, default=1000)
    found = sample(funnel(dim), run.rng.normal(size=(4, dim)), nuts(), n, n, run.rng)
    v, diverged = found.draws[..., 0], found.diverged
    run.metric("divergences in the funnel", diverged.sum(), rtol=None)
    run.metric("share of the funnel's draws below v = -4", (v < -4).mean(), rtol=None)
    run.metric("share of the funnel below v = -4", stats.norm(scale=3).cdf(-4))
    title = "Neal's funnel: the steps that suit its mouth do not fit its neck"
    with run.figure("funnel", title) as axes:
        flat, bad = found.flat, diverged.ravel()
        axes.plot(flat[~bad, 1], flat[~bad, 0], ".", ms=2, color=plots.BLUE, label="draws")
        style = {"color": plots.ORANGE, "label": "after a divergence"}
        axes.plot(flat[bad, 1], flat[bad, 0], "x", ms=6, **style)
        height = np.linspace(-9, 9)
        for sign in (-2, 2):
            edge = sign * np.exp(height / 2)
            axes.plot(edge, height, "--", lw=1, color=plots.REFERENCE)
        axes.text(6, 2.0, "two standard deviations", color=plots.REFERENCE)
        axes.set(xlim=(-25, 25), ylim=(-9, 9), xlabel="$x_1$", ylabel="v, log variance of x")
        axes.legend(loc="lower right", markerscale=2)


def draw_paths(run: Run) -> None:
    """A random walk and a trajectory for the same number of gradients."""
    target, metric, rng = gaussian(TRAP), Metric(np.ones(2)), np.random.default_rng(3)
    start = np.array([-2.0, -2.2])
    walk = [start]
    for _ in range(30):
        y = walk[-1] + 0.6 * rng.normal(size=2)
        walk.append(y if rng.random() < np.exp(target(y)[0] - target(walk[-1])[0]) else walk[-1])
    state = at(target, start, np.array([1.5, 0.4]))
    path = [state.q]
    for _ in range(30):
        state = leapfrog(target, state, 0.2, metric)
        path.append(state.q)
    with run.figure("paths", "Thirty steps: a random walk, and a leapfrog") as axes:
        angle = np.linspace(0, 2 * np.pi, 100)
        circle = np.linalg.cholesky(TRAP) @ np.array([np.cos(angle), np.sin(angle)])
        for radius in (1, 2):
            axes.plot(*(radius * circle), "--", lw=1, color=plots.REFERENCE)
        for label, points, color in [
            ("random walk", walk, plots.ORANGE),
            ("leapfrog", path, plots.BLUE),
        ]:
            axes.plot(*np.array(points).T, ".-", color=color, label=label)
        axes.set(xlabel="$q_1$", ylabel="$q_2$", aspect="equal")
        axes.legend()
