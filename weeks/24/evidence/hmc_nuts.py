"""The integrator's theorems, the law after one step and by simulation, numpyro and blackjax."""

import numpy as np
from scipy import stats

from shared import plots
from shared.study import PositiveInt, Run
from week24 import chains
from week24.adaptation import DualAveraging
from week24.calibration import ranks, uniformity, unweighted
from week24.evidence.other_samplers import compare
from week24.hmc import Metric, State, at, energy, hmc, leapfrog
from week24.hmc_nuts import nuts
from week24.posteriors import eight_schools, funnel, gaussian

SEEN = "runs of other seeds while the code was written"
TRAP = np.array([[2.0, 1.5], [1.5, 2.0]])  # an inverse mass whose roots are easily confused


def main(run: Run, *, replicates: PositiveInt = 2000) -> None:
    """Leapfrog, momenta, one exact step, simulation-based calibration, then other people's NUTS.

    Parameters
    ----------
    replicates
        Data sets of the simulation-based calibration.
    """
    run.rounding(0.3, "rounding grows along a trajectory until another state is drawn")
    check_leapfrog(run)
    check_metric(run)
    check_one_step(run, run.budget(quick=100, default=2000))
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
    n = run.budget(quick=1000, default=20_000)
    metric = Metric(TRAP)
    momenta = np.array([metric.draw(run.rng) for _ in range(n)])
    why = "five standard errors"
    exact = {"against": "M", "kind": "theorem", "atol": 5 * 1.62 / n**0.5, "why": why}
    run.check("covariance of dense momenta", np.cov(momenta.T), np.linalg.inv(TRAP), **exact)


def check_one_step(run: Run, n: int) -> None:
    """From an exact draw, one step of any right kernel gives an exact draw."""
    target, rng = gaussian(TRAP), run.rng
    kernels = {
        "NUTS": lambda q: stepped(target, nuts(), q, rng),
        "HMC": lambda q: stepped(target, hmc(1.5), q, rng),
        "NUTS, chains together": lambda q: stepped_together(target, chains.nuts(), q, rng),
        "HMC, chains together": lambda q: stepped_together(target, chains.hmc(1.5), q, rng),
    }
    for name, step in kernels.items():
        size = 10 * n if "together" in name else n
        q = step(rng.multivariate_normal([0, 0], TRAP, size))
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
                atol=2.04 / size**0.5,
                why="Kolmogorov's bound at p = 0.0005",
            )


def stepped(target, kernel, starts: np.ndarray, rng: np.random.Generator, step: float = 0.9):
    """One step of a kernel from each start."""
    metric = Metric(np.ones(starts.shape[1]))
    return np.array([kernel(target, at(target, q), step, metric, rng).state.q for q in starts])


def stepped_together(
    target, kernel, starts: np.ndarray, rng: np.random.Generator, step: float = 0.9
):
    """The same with a kernel for many chains."""
    state = State(starts, np.zeros_like(starts), *target(starts))
    return kernel(target, state, np.full(len(starts), step), np.ones_like(starts), rng).state.q


# ---- simulation-based calibration


def calibrate(run: Run, replicates: int) -> None:
    """If draws follow the posterior, the truth has any rank among them equally often."""
    right = ranks(chains.nuts(), replicates, run.rng)
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
    target, kernel, (many, dim) = gaussian(np.eye(10)), chains.nuts(), (20, 10)
    q, metric = run.rng.normal(size=(many, dim)), np.ones((many, dim))
    state, found, tuned = State(q, q, *target(q)), [], DualAveraging(np.full(many, 0.5))
    n = run.budget(quick=250, default=1000)
    for t in range(n + n // 4):
        moved = kernel(target, state, tuned.step if t < n else tuned.averaged, metric, run.rng)
        state = moved.state
        if t < n:
            tuned.update(moved.accept)
        else:
            found.append(moved.accept.mean())
    why = "the average of the logarithm is not the logarithm that gives the average"
    against = {"against": "the target, 0.8", "kind": "theorem", "atol": 0.06, "why": why}
    run.check("realized acceptance on N(0, I)", np.mean(found), 0.8, **against)


# ---- what goes wrong


def judge_funnel(run: Run) -> None:
    """Exact draws stay exact, but chains from elsewhere miss the neck, and divergences say so."""
    dim, n = 5, run.budget(quick=100, default=2000)
    v = 3 * run.rng.normal(size=(n, 1))
    q = np.concatenate([v, np.exp(v / 2) * run.rng.normal(size=(n, dim - 1))], axis=1)
    q = stepped_together(funnel(dim), chains.nuts(6), q, run.rng, step=0.3)
    law = {"against": "N(0, 3²)", "kind": "theorem", "why": "Kolmogorov's bound at p = 0.0005"}
    distance = stats.kstest(q[:, 0], stats.norm(scale=3).cdf).statistic
    run.check("v of the funnel after a step of NUTS", distance, 0.0, atol=2.04 / n**0.5, **law)
    n = run.budget(quick=20, default=100)
    start, kernel = run.rng.normal(size=(20, dim)), chains.nuts(7)
    found = chains.sample_chains(funnel(dim), start, kernel, n, n, run.rng)
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
