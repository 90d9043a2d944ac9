"""Balance by enumeration, moments and laws in closed form, and how chains get stuck."""

import contextlib
import warnings

import numpy as np
from scipy import stats

from shared import plots
from shared.study import PositiveInt, Run
from week24.diagnostics import ess_bulk, ess_mean, ess_tail, mcse_mean, mcse_sd, rhat
from week24.mcmc import (
    Chain,
    gibbs,
    langevin,
    log_random_walk,
    metropolis_hastings,
    parallel_tempering,
    random_walk,
    slice_sample,
    swap_acceptance,
    transition_matrix,
)

RHO, SHARE, DISTANCE = 0.9, 0.3, 10.0  # correlation; the left mode's share, and between the modes
SEEN = "a run of the quick size"
BETAS = (1.0, 0.4, 0.15, 0.05, 0.02)


def main(run: Run, *, seeds: PositiveInt = 4) -> None:
    """Diagnostics against arviz, samplers against what they should sample, then what goes wrong.

    Parameters
    ----------
    seeds
        Independent repetitions of each claim.
    """
    run.rounding(0.2, "a step that rounds to the other side of its coin changes the chain")
    check_diagnostics(run)
    check_balance(run)
    check_moments(run, run.budget(quick=300, default=4000))
    seeds = run.budget(quick=2, default=max(seeds, 2))
    judge_langevin(run, seeds)
    judge_tempering(run, seeds)
    judge_scale(run, seeds)


# ---- checks


def check_diagnostics(run: Run) -> None:
    """The numbers of arviz on chains that mix, drift, hold ties, alternate and have no variance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        with contextlib.suppress(ImportError):  # as of version 1 it asks for no compiler
            from arviz.utils import Numba

            Numba.disable_numba()
    noise = run.rng.normal(size=(4, 101))
    cases = [noise, noise.cumsum(axis=1), (noise > 1.2) * 1.0, noise + 0.1 * np.arange(101)]
    cases += [noise * 0.3 + (-1.0) ** np.arange(101), run.rng.standard_cauchy((4, 101))]
    equal = run.against("arviz", atol=1e-6, rtol=1e-9, why="float64 rounding")
    for name, ours, method in [
        ("R̂", rhat, lambda x: arviz.rhat(x)),
        ("bulk ESS", ess_bulk, lambda x: arviz.ess(x, method="bulk")),
        ("tail ESS", ess_tail, lambda x: arviz.ess(x, method="tail", prob=(0.05, 0.95))),
        ("MCSE of the mean", mcse_mean, lambda x: arviz.mcse(x, method="mean")),
        ("MCSE of the sd", mcse_sd, lambda x: arviz.mcse(x, method="sd")),
    ]:
        equal(f"{name}, six kinds of chains", [ours(x) for x in cases], [method(x) for x in cases])


def check_balance(run: Run) -> None:
    """All pairs of a small space: as much probability goes from i to j as comes back."""
    p, q = run.rng.dirichlet(np.ones(6)), run.rng.dirichlet(np.ones(6), size=6)
    exact = run.against("detailed balance", kind="theorem", atol=1e-14, why="float64 rounding")
    flow = p[:, None] * transition_matrix(p, q)
    exact("flow between six states, uneven proposals", flow, flow.T.copy())
    log_p, betas = np.log(p), (1.0, 0.3)
    joint = p[:, None] ** betas[0] * p[None, :] ** betas[1]
    flow = joint * swap_acceptance(log_p[:, None], log_p[None, :], *betas)
    exact("flow of swaps between two temperatures", flow, flow.T.copy())

    def propose(x, rng):
        i = x[:, 0].astype(int)
        j = np.array([rng.choice(6, p=q[state]) for state in i])
        return j[:, None].astype(float), np.log(q[j, i] / q[i, j])

    n = run.budget(quick=600, default=6000)
    start = np.repeat(np.arange(6.0), n // 6)[:, None]
    step = metropolis_hastings(lambda x: log_p[x[:, 0].astype(int)], start, 1, propose, run.rng)
    counts = np.zeros((6, 6))
    np.add.at(counts, (start[:, 0].astype(int), step.draws[:, 0, 0].astype(int)), 6 / n)
    why = "five standard errors of a share"
    table = transition_matrix(p, q)
    run.check(
        "steps of the sampler, counted from each state",
        counts,
        table,
        against="the table of the step, enumerated",
        kind="theorem",
        atol=5 * 0.5 / np.sqrt(n / 6),
        why=why,
    )


def normal(x):
    """Log density of N(0, I)."""
    return -0.5 * (x**2).sum(axis=1)


def correlated(x):
    """Log density of two normals of correlation RHO."""
    return -(x[:, 0] ** 2 - 2 * RHO * x[:, 0] * x[:, 1] + x[:, 1] ** 2) / (2 * (1 - RHO**2))


def slope(x):
    """Its gradient."""
    return -(x - RHO * x[:, ::-1]) / (1 - RHO**2)


def conditional(i: int):
    """Coordinate i given the other."""

    def draw(x, rng):
        return RHO * x[:, 1 - i] + np.sqrt(1 - RHO**2) * rng.normal(size=len(x))

    return draw


def two_modes(x):
    """Two unit normals, DISTANCE apart, the left one with SHARE of the probability."""
    left, right = (np.log(w) - 0.5 * (x - m) ** 2 for w, m in modes())
    return np.logaddexp(left, right).sum(axis=1)


def modes() -> list[tuple[float, float]]:
    """Share and center of each mode."""
    return [(SHARE, -DISTANCE / 2), (1 - SHARE, DISTANCE / 2)]


def check_moments(run: Run, n: int) -> None:
    """Mean, spread and law of what each sampler draws; the first fifth is thrown away."""
    chains, rng = 40, run.rng
    zero, one = np.zeros((chains, 2)), np.ones((chains, 1))
    unit, gamma = stats.norm(), stats.gamma(3)
    sides = [stats.norm(m) for _, m in modes()]
    mean = SHARE * -DISTANCE / 2 + (1 - SHARE) * DISTANCE / 2
    mixture = (mean, np.sqrt(1 + SHARE * (1 - SHARE) * DISTANCE**2))
    runs: dict[str, tuple[Chain, tuple, object]] = {
        "random walk": (
            metropolis_hastings(correlated, zero, n, random_walk(0.8), rng),
            (0, 1),
            unit.cdf,
        ),
        "Langevin": (
            metropolis_hastings(correlated, zero, n, langevin(slope, 0.5), rng),
            (0, 1),
            unit.cdf,
        ),
        "Gibbs": (gibbs([conditional(0), conditional(1)], zero, n, rng), (0, 1), unit.cdf),
        "slice": (slice_sample(correlated, zero, n // 4, 1.0, rng), (0, 1), unit.cdf),
        "walk of log x": (
            metropolis_hastings(
                lambda x: (2 * np.log(x) - x)[:, 0], one, n, log_random_walk(1.0), rng
            ),
            (3, np.sqrt(3)),
            gamma.cdf,
        ),
        "tempering": (
            parallel_tempering(two_modes, one, n, BETAS, 1.5, rng),
            mixture,
            lambda x: SHARE * sides[0].cdf(x) + (1 - SHARE) * sides[1].cdf(x),
        ),
    }
    for name, (chain, (center, spread), law) in runs.items():
        x = chain.draws[:, n // 20 if name == "slice" else n // 5 :, 0]
        exact = run.against("the closed form", kind="theorem", why="four Monte-Carlo errors")
        exact(f"mean, {name}", x.mean(), float(center), atol=4 * mcse_mean(x))
        exact(f"standard deviation, {name}", x.std(), float(spread), atol=4 * mcse_sd(x))
        every = int(np.ceil(3 * x.size / ess_mean(x)))
        thinned = x[:, ::every].ravel()
        distance = stats.kstest(thinned, law).statistic
        why = "Kolmogorov's bound at p = 0.0005, draws thinned to thrice their memory"
        exact(
            f"distance from the law, {name}",
            distance,
            0.0,
            atol=2.04 / len(thinned) ** 0.5,
            why=why,
        )
    x = runs["Gibbs"][0].draws[:, n // 5 :, 0]
    lagged = float((x[:, 1:] * x[:, :-1]).mean() / (x**2).mean())
    why = "four standard errors, four times as many as of independent pairs"
    exact("memory of Gibbs, lag 1", lagged, RHO**2, atol=16 * x.size**-0.5, why=why)


# ---- claims


def judge_langevin(run: Run, seeds: int) -> None:
    """A step along the gradient is biased by its size, until its asymmetry is paid for."""
    step, n = 1.0, run.budget(quick=300, default=3000)
    start = run.rng.normal(size=(100, 1))

    def variance(log_density) -> float:
        move = langevin(lambda x: -x, step)
        return metropolis_hastings(log_density, start, n, move, run.rng).draws.var()

    name = "paid for, a Langevin step keeps the variance"
    right = [variance(normal) - 1 for _ in range(seeds)]
    run.claim(name, right, at_least=-0.02, at_most=0.02, each=True, quick=False, seen_before=SEEN)
    wrong = [unadjusted(start, step, n, run.rng) - 1 for _ in range(seeds)]
    run.falsifier("Langevin without acceptance", wrong, breaks=name)
    run.check(
        "variance without acceptance",
        1 + np.mean(wrong),
        1 / (1 - step**2 / 4),
        against="1 / (1 - step² / 4)",
        kind="theorem",
        atol=0.05,
        why="Monte-Carlo error of 30,000 draws and more",
    )


def unadjusted(start, step: float, n: int, rng: np.random.Generator) -> float:
    """Variance of the draws if each proposal is taken."""
    move, x, seen = langevin(lambda x: -x, step), start, []
    for _ in range(n):
        x, _ = move(x, rng)
        seen.append(x)
    return float(np.var(seen[n // 5 :]))


def judge_tempering(run: Run, seeds: int) -> None:
    """Chains that start in the right mode: how often are they in the left one?"""
    n = run.budget(quick=500, default=5000)
    start = np.full((20 * seeds, 1), DISTANCE / 2)

    def shares(betas) -> list[float]:
        """One per twenty chains."""
        draws = parallel_tempering(two_modes, start, n, betas, 1.5, run.rng).draws
        return [float((x < 0).mean()) for x in np.split(draws[:, n // 5 :], seeds)]

    name = "tempering finds the other mode's share"
    rule = {"at_least": SHARE - 0.05, "at_most": SHARE + 0.05}
    run.claim(name, shares(BETAS), **rule, note="true share 0.3", quick=False, seen_before=SEEN)
    run.falsifier("one temperature", shares(BETAS[:1]), breaks=name)
    few = {"hot and cold": BETAS, "cold alone": BETAS[:1]}
    with run.figure("modes", "A chain in one mode does not know that there is another") as axes:
        for (name, betas), color in zip(few.items(), plots.COLORS, strict=False):
            draws = parallel_tempering(two_modes, start[:1], 600, betas, 1.5, run.rng).draws
            axes.plot(draws[0, :, 0], ".", ms=3, color=color, label=name)
        for share, center in modes():
            plots.reference_line(axes, center, f"{share:.0%} of the probability")
        axes.set(xlabel="draw", ylabel="x", ylim=(-8, 8))
        axes.legend(loc="lower left", markerscale=3)


def judge_scale(run: Run, seeds: int) -> None:
    """The best random walk is refused most of the time, the more so the more coordinates it has."""
    n, chains = run.budget(quick=200, default=2000), 10
    factors = np.geomspace(0.5, 8, run.budget(quick=4, default=9))
    rates, worth = {}, {}
    for dim in run.budget(quick=(20,), default=(1, 5, 20)):
        rates[dim], worth[dim] = np.empty((2, seeds, len(factors)))
        walk = random_walk(np.repeat(factors, chains)[:, None] / np.sqrt(dim))
        for seed in range(seeds):
            start = run.rng.normal(size=(len(factors) * chains, dim))
            chain = metropolis_hastings(normal, start, n, walk, run.rng)
            rates[dim][seed] = chain.accepted.reshape(len(factors), -1).mean(axis=1)
            of_factor = np.split(chain.draws[..., 0], len(factors))
            worth[dim][seed] = [ess_mean(x) / x.size for x in of_factor]
    best = rates[20][np.arange(seeds), worth[20].argmax(axis=1)]
    name = "the best walk in 20 dimensions is accepted a quarter of the time"
    rule = {"at_least": 0.15, "at_most": 0.35, "each": True}
    run.claim(
        name,
        best,
        **rule,
        note="theory 0.234 in many dimensions",
        seen_before=SEEN,
        quick=False,
        rtol=None,
    )
    title = "How often should a random walk be accepted?"
    with run.figure("scale", title) as axes:
        for dim, color in zip(rates, plots.COLORS, strict=False):
            x, y = rates[dim].mean(axis=0), worth[dim] * dim
            axes.plot(x, y.mean(axis=0), "o-", color=color, label=f"{dim} dimensions")
        axes.axvline(0.234, ls="--", lw=1, color=plots.REFERENCE)
        axes.text(0.24, 0.02, "0.234", color=plots.REFERENCE, transform=axes.get_xaxis_transform())
        axes.set(
            xlabel="share of steps accepted",
            ylabel="ESS per draw, times dimensions",
            ylim=(0, None),
        )
        axes.legend()
    if 1 in rates:
        run.metric(
            "acceptance of the best walk, one dimension",
            rates[1][0, worth[1].mean(0).argmax()],
            rtol=None,
        )
    run.metric("acceptance of the best walk, 20 dimensions", best.mean(), rtol=None)
