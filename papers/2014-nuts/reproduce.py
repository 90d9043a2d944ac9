r"""Does a sampler that chooses its own path length keep up with one whose length was tuned?

NUTS and HMC on three posteriors, step and metric tuned alike. What is compared is

$$ \min_i \mathrm{ESS}(x_i, x_i^2) \,/\, \text{gradients} , $$

and correctness comes first: moments, chains that agree, ranks of the truth. The rules stand in
README.md's front matter.

    uv run papers/2014-nuts/reproduce.py

Hoffman & Gelman (2014), "The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian
Monte Carlo", sections 1 and 4.
"""

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week24.calibration import ranks, uniformity, unweighted
from week24.chains import hmc, nuts, sample_chains
from week24.diagnostics import rhat
from week24.hmc import Target
from week24.jax_twins import ask, summary
from week24.posteriors import (
    eight_schools,
    gaussian,
    logistic,
    random_covariance,
    schools_theta,
)

Posterior = tuple[Target, int, dict]  # with its dimensions, and the data that numpyro needs
CHAINS = 4  # of each repeat; all repeats run together


def posteriors(rng: np.random.Generator, dim: int) -> dict[str, Posterior]:
    """The three, by name; `dim` is that of the normal."""
    wide = random_covariance(dim, 100.0, rng)
    table = datasets.bundled("breast_cancer")
    X = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    y = table.target.astype(float)
    return {
        "gaussian": (gaussian(wide), dim, {"covariance": wide.tolist()}),
        "logistic": (logistic(X, y), X.shape[1] + 1, {"X": X.tolist(), "y": y.tolist()}),
        "schools": (eight_schools(centered=False), 10, {}),
    }


def price(draws: np.ndarray, n_leapfrogs: np.ndarray) -> float:
    """Smallest bulk ESS of a coordinate or its square, per gradient of the draws."""
    return summary(draws)["ess"] / int(n_leapfrogs.sum())


def in_their_terms(name: str, draws: np.ndarray) -> np.ndarray:
    """Draws of what numpyro reports: of the schools, theta instead of z."""
    if name != "schools":
        return draws
    theta = schools_theta(draws.reshape(-1, 10), centered=False)
    return np.concatenate([draws[..., :2], theta.reshape(*draws.shape[:2], 8)], axis=-1)


def furthest(ours: dict, theirs: dict) -> float:
    """The largest difference of a mean or standard deviation, in errors of both."""
    apart = []
    for moment in ("mean", "sd"):
        error = np.hypot(ours[f"mcse_{moment}"], theirs[f"mcse_{moment}"])
        apart.append(np.abs(np.subtract(ours[moment], theirs[moment])) / error)
    return float(np.max(apart))


def main(run: Run, *, repeats: PositiveInt = 2) -> None:
    """Judge efficiency on three posteriors, after correctness.

    Parameters
    ----------
    repeats
        Of all runs; 5 with --full.
    """
    paper = papers.load(__file__)
    run.rounding(0.5, "rounding grows along a trajectory until another state is drawn")
    repeats = run.budget(quick=1, default=repeats, full=max(repeats, 5))
    lengths = run.budget(quick=[0.8, 1.6], default=paper.matter["lengths"])
    size = run.budget(quick=(60, 60), default=(300, 500))
    targets = posteriors(run.rng, run.budget(quick=5, default=50))
    if run.mode == "quick":
        targets.pop("logistic")
    kernels = {"NUTS": nuts()} | {f"HMC, length {length}": hmc(length) for length in lengths}
    with ThreadPoolExecutor(1) as pool:  # another process, most of whose time goes into compiling
        theirs = pool.submit(moments_of_numpyro, run, targets, *size)
        prices, draws = {name: {} for name in targets}, {}
        for name, (target, dim, _) in targets.items():
            for label, kernel in kernels.items():
                start = run.rng.normal(size=(CHAINS * repeats, dim))
                found = sample_chains(target, start, kernel, *size, run.rng)
                groups = zip(
                    np.split(found.draws, repeats),
                    np.split(found.n_leapfrogs, repeats),
                    strict=True,
                )
                prices[name][label] = np.mean([price(*group) for group in groups])
                if label == "NUTS":
                    draws[name] = in_their_terms(name, found.draws)
        judge_correctness(run, paper, targets, draws, theirs.result())
    for rule, of in [("half the best HMC or more", np.max), ("the median HMC or more", np.median)]:
        ratios = [
            cells["NUTS"] / of([v for k, v in cells.items() if k != "NUTS"])
            for cells in prices.values()
        ]
        paper.judge(run, rule, ratios, unit="times", quick=False, rtol=None)
    draw(run, prices, lengths)


def moments_of_numpyro(run: Run, targets: dict, n_warmup: int, n_draws: int) -> dict[str, dict]:
    """Of the two posteriors whose moments nobody knows; of none in a quick run."""
    names = [] if run.mode == "quick" else ["logistic", "schools"]
    size = {"chains": 8, "n_warmup": n_warmup, "n_draws": n_draws, "seed": run.seed}
    requests = [
        {"job": "numpyro", "model": name, "data": targets[name][2], **size} for name in names
    ]
    return dict(zip(names, ask(requests), strict=True)) if names else {}


def judge_correctness(
    run: Run, paper: papers.Paper, targets: dict, draws: dict, numpyro: dict
) -> None:
    """Moments, agreement of the chains, and ranks."""
    ours = {name: summary(x) for name, x in draws.items()}
    spread = np.sqrt(np.diag(targets["gaussian"][2]["covariance"]))
    exact = {"mean": 0 * spread, "sd": spread, "mcse_mean": 0 * spread, "mcse_sd": 0 * spread}
    apart = [furthest(ours["gaussian"], exact)]
    within = {"atol": 4.5, "why": "Monte-Carlo errors, the largest of a hundred"}
    known = {"against": "the covariance it was made of", "kind": "theorem"}
    run.check("the normal's moments, in errors", apart[0], 0.0, **known, **within)
    for name, theirs in numpyro.items():
        apart.append(furthest(ours[name], theirs))
        label = f"moments in errors, {name}"
        run.check(label, apart[-1], 0.0, against="numpyro.infer.NUTS", **within)
    paper.judge(run, "means and spreads are right", max(apart), quick=False, rtol=None)
    mixed = [max(rhat(x[:, :, i]) for i in range(x.shape[-1])) for x in draws.values()]
    paper.judge(run, "chains agree", mixed, quick=False, rtol=None)
    replicates = run.budget(quick=20, default=2000)
    rule = "ranks of the truth are uniform"
    p = {kernel: uniformity(ranks(kernel, replicates, run.rng)) for kernel in (nuts(), unweighted)}
    right, wrong = p.values()
    paper.judge(run, rule, right, quick=False, rtol=None)
    run.falsifier("the latest state, without weights", wrong, breaks=rule)


def draw(run: Run, means: dict, lengths: list[float]) -> None:
    """HMC's price against its path length, NUTS as a level line of each posterior."""
    title = "What does a gradient buy? HMC by its path length, NUTS dashed"
    with run.figure("efficiency", title) as axes:
        for (name, cells), color in zip(means.items(), plots.COLORS, strict=False):
            y = [value for kernel, value in cells.items() if kernel != "NUTS"]
            axes.plot(lengths, y, "o-", color=color, label=name)
            axes.axhline(cells["NUTS"], ls="--", lw=1, color=color)
        axes.set(xscale="log", yscale="log", ylabel="smallest ESS per gradient")
        axes.set(xlabel="path length of HMC, in standard deviations")
        axes.legend()


if __name__ == "__main__":
    cli(main)
