r"""Is the likelihood of a coupling flow exact, and is scaling worth more than shifting?

$$ \ln p(x) = \ln N(f(x); 0, I) + \sum_{\text{layers}} \sum_j (1 - b_j)\, s_j $$

is integrated over a grid, inverted and held against autograd's Jacobian; then three kinds of flow
fit two moons. The rules stand in README.md's front matter.

    uv run papers/2017-realnvp/reproduce.py

Dinh, Sohl-Dickstein & Bengio (2017), "Density estimation using Real NVP", sections 3.2 to 3.4.
"""

import numpy as np
import torch
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week22.plane import LogDensity, fit, mass_on_grid, moons
from week22.realnvp import Chain, Linear, real_nvp, standard_normal

ARMS = {
    "affine": {},
    "additive": {"additive": True},
    "one mask": {"alternate": False},
}


def fitted(train: Tensor, steps: int, seed: int, **arm) -> Chain:
    """Eight couplings, Adam on the negative log-likelihood with a decaying step size."""
    g = torch.Generator().manual_seed(seed)
    flow = real_nvp(2, generator=g, **arm)
    fit(flow, lambda: train[torch.randint(len(train), (256,), generator=g)], steps=steps)
    return flow.requires_grad_(False)


def mass_error(log_prob: LogDensity, points: int) -> float:
    """|mass - 1| of a density on a square that is wide enough."""
    return abs(mass_on_grid(log_prob, 6.0, points) - 1)


def jacobian_error(flow: Chain, x: Tensor) -> float:
    """Largest distance of our log-determinant from slogdet of autograd's Jacobian."""
    jacobians = [
        torch.autograd.functional.jacobian(lambda v: flow(v[None])[0][0], row) for row in x
    ]
    exact = torch.stack(jacobians).slogdet().logabsdet
    return float((flow(x)[1] - exact).abs().max())


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Fit three kinds of flow to two moons and judge what is exact, and which is better.

    Parameters
    ----------
    seeds
        Fits of each kind; 8 with --full.
    """
    paper = papers.load(__file__)
    check_linear(run)
    seeds = run.budget(quick=2, default=seeds, full=max(seeds, 8))
    n, steps = run.budget(quick=(300, 5), default=(5000, 400), full=(20_000, 5000))
    points = run.budget(quick=60, default=300)
    scores = {name: [] for name in (*ARMS, "Gaussian", "mixture of 10")}
    errors = {"mass": [], "inverse": [], "log-det": [], "no log-det": []}
    for seed in range(seeds):
        train, test = moons(n, 2 * seed), moons(n, 2 * seed + 1)
        for name, arm in ARMS.items():
            flow = fitted(train, steps, seed, **arm)
            scores[name].append(float(flow.log_prob(test).mean()) / 2)
            if name == "affine":
                errors["inverse"].append(float((flow.inverse(flow(test)[0]) - test).abs().max()))
                flow = flow.double()
                errors["mass"].append(mass_error(flow.log_prob, points))
                wrong = lambda x, flow=flow: standard_normal(flow(x)[0])  # noqa: E731
                errors["no log-det"].append(mass_error(wrong, points))
                errors["log-det"].append(jacobian_error(flow, test[:20].double()))
        for name, score in baselines(train, test).items():
            scores[name].append(score)
    paper.judge(run, "the density has mass 1", errors["mass"], quick=False, rtol=None)
    paper.judge(run, "the inverse is exact", errors["inverse"], rtol=None)
    paper.judge(run, "the log-determinant is exact", errors["log-det"], rtol=None)
    run.falsifier(
        "without the log-determinant", errors["no log-det"], breaks="the density has mass 1"
    )
    affine = np.array(scores["affine"])
    late = {"quick": False, "rtol": None}
    paper.judge(run, "scaling beats shifting alone", affine - scores["additive"], **late)
    paper.judge(run, "masks must alternate", affine - scores["one mask"], **late)
    for name, values in scores.items():
        run.metric(f"held-out log density, {name}", np.mean(values), "nats per dim", rtol=0.05)
    draw(run, scores)


def check_linear(run: Run) -> None:
    """The linear flow that whitens the data has the Gaussian's likelihood."""
    from scipy.stats import multivariate_normal

    x = moons(500, 0).double()
    covariance = torch.cov(x.T, correction=0)
    flow = Linear(2).double()
    with torch.no_grad():
        flow.matrix.copy_(torch.linalg.inv(torch.linalg.cholesky(covariance)))
        flow.bias.copy_(-flow.matrix @ x.mean(0))
    exact = multivariate_normal(x.mean(0).numpy(), covariance.numpy()).logpdf(x.numpy())
    run.check(
        "density of a linear flow",
        flow.log_prob(x).detach(),
        exact,
        atol=1e-10,
        against="scipy.stats.multivariate_normal",
        why="float64 rounding",
    )


def baselines(train: Tensor, test: Tensor) -> dict[str, float]:
    """Held-out log density per dimension by scikit-learn's mixtures of 1 and 10 Gaussians."""
    from sklearn.mixture import GaussianMixture

    sizes = {"Gaussian": 1, "mixture of 10": 10}
    return {
        name: GaussianMixture(k, random_state=0).fit(train).score(test) / 2
        for name, k in sizes.items()
    }


def draw(run: Run, scores: dict[str, list[float]]) -> None:
    """Every seed's held-out log density."""
    title = "Which couplings fit two moons?"
    with run.figure("arms", title, size=(7.0, 3.4)) as axes:
        for i, (name, values) in enumerate(scores.items()):
            color = plots.BLUE if name in ARMS else plots.GRAY
            axes.plot(values, [i] * len(values), "o", color=color)
        axes.set_yticks(range(len(scores)), list(scores))
        axes.invert_yaxis()
        axes.set(xlabel="held-out log density (nats per dimension), one point per seed")


if __name__ == "__main__":
    cli(main)
