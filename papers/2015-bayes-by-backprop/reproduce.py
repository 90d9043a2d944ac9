r"""Can a net lose nearly all of its weights, if it has learned how sure it is of each?

Learn $\mu$ and $\sigma$ of each weight by the ELBO's gradient, keep those with the largest

$$ |\mu_i| / \sigma_i , $$

set the others to zero, and compare with a plain net that is pruned by size. Reduced: 8×8 digits and
two layers of 128 tanh units. The rules stand in the front matter of README.md.

    uv run papers/2015-bayes-by-backprop/reproduce.py

Blundell et al. (2015), "Weight uncertainty in neural networks", sections 3.2, 5.1 and 5.2.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week24.bayes_by_backprop import MeanField, fit_mean_field
from week24.bayesian_nn import fit
from week24.net_posterior import MLP, Categorical, Gaussian, Posterior

INSIDE, OUTSIDE = (0.0, 0.5), (-0.5, 1.2)  # where the regression has data, where it is asked


@dataclass(frozen=True)
class ScaleMixture(Posterior):
    """The paper's prior: a wide normal law or, for weights that are not needed, a narrow one."""

    narrow_sd: float = 0.02
    wide_share: float = 0.25

    def log_prior(self, theta: Tensor) -> Tensor:
        """Equation 7, without the constant √(2π)."""
        parts = [
            math.log(share / sd) - 0.5 * (theta / sd).square()
            for share, sd in (
                (self.wide_share, self.prior_sd),
                (1 - self.wide_share, self.narrow_sd),
            )
        ]
        return torch.logaddexp(*parts).sum(-1)


def digits(seed: int, n: int, prior_sd: float) -> tuple[Posterior, Tensor, Tensor]:
    """So many rows in a posterior, and all others to judge by."""
    images, labels = datasets.digits()
    order = np.random.default_rng(seed).permutation(len(labels))
    x = torch.from_numpy(images[order]).float().flatten(1) / 16
    y = torch.from_numpy(labels[order])
    posterior = ScaleMixture(MLP(64, 128, 128, 10), Categorical(), x[:n], y[:n], prior_sd)
    return posterior, x[n:], y[n:]


def keep(theta: Tensor, scores: Tensor, share: float) -> Tensor:
    """Weights with the share of largest scores as they are, all others zero."""
    left = scores.topk(round(share * len(theta))).indices
    return torch.zeros_like(theta).index_copy(0, left, theta[left])


def accuracies(
    posterior: Posterior, q: MeanField, plain: Tensor, x: Tensor, y: Tensor, shares: list[float]
) -> dict[str, list[float]]:
    """Per order of going, the accuracy at each share that is left."""
    noise = torch.rand(len(plain), generator=torch.Generator().manual_seed(0))
    orders = {
        "signal to noise": (q.mean, q.mean.abs() / q.sd),
        "|mean| alone": (q.mean, q.mean.abs()),
        "random order": (q.mean, noise),
        "plain net, magnitude": (plain, plain.abs()),
    }

    def accuracy(theta: Tensor) -> float:
        return 100 * float((posterior.net(theta, x).argmax(-1) == y).double().mean())

    return {k: [accuracy(keep(*v, share)) for share in shares] for k, v in orders.items()}


def trained(posterior: Posterior, seed: int, steps: int) -> tuple[MeanField, Tensor]:
    """The mean field and the plain net, from the same first weights, with as many steps."""
    g = torch.Generator().manual_seed(seed)
    start = posterior.net.start(1, g)[0].float()
    options = {"steps": steps, "lr": 3e-3, "generator": g, "batch_size": 100}
    q = fit_mean_field(posterior, start=start, start_sd=0.02, n_draws=1, **options)
    return q, fit(posterior, start, **options)


def curve(seed: int) -> Posterior:
    """The paper's regression, hundred rows; the noise is inside the sines too."""
    rng = np.random.default_rng(seed)
    x, e = rng.uniform(*INSIDE, 100), 0.02 * rng.normal(size=100)
    y = x + 0.3 * np.sin(2 * np.pi * (x + e)) + 0.3 * np.sin(4 * np.pi * (x + e)) + e
    x = torch.from_numpy(4 * x[:, None] - 1)  # from -1 to 1
    return Posterior(MLP(1, 20, 20, 1), Gaussian(0.05), x, torch.from_numpy(y), 1.0)


def regression(seed: int, steps: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the outputs at x."""
    posterior, g = curve(seed), torch.Generator().manual_seed(seed)
    q = fit_mean_field(
        posterior, steps=steps, lr=0.02, start_sd=0.03, n_draws=8, batch_size=50, generator=g
    )
    outputs = posterior.net(q.draw(300, g), torch.from_numpy(4 * x[:, None] - 1))[..., 0]
    return outputs.mean(0).numpy(), outputs.std(0).numpy()


def spreads(x: np.ndarray, sd: np.ndarray) -> tuple[float, float]:
    """Geometric means of the standard deviation inside the data and outside them."""
    inside = (x >= INSIDE[0]) & (x <= INSIDE[1])
    return tuple(float(np.exp(np.log(sd[part]).mean())) for part in (inside, ~inside))


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 1500) -> None:
    """Prune, regress, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Nets, each with its own split of the digits.
    steps
        Of each training.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "float32 sums in another order, over hundreds of steps")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check(run)
    shares, n = paper.matter["shares"], paper.matter["rows"]
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=20, default=steps, full=3 * steps)
    x = np.linspace(*OUTSIDE, 86)
    found, curves = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "seeds"):
        posterior, x_test, y_test = digits(seed, n, paper.matter["prior_sd"])
        q, plain = trained(posterior, seed, steps)
        found.append(accuracies(posterior, q, plain, x_test, y_test, shares))
        curves.append(regression(seed, steps, x))
    judge(run, paper, found, [spreads(x, sd) for _, sd in curves])
    draw_pruning(run, paper, found)
    draw_curve(run, x, *curves[0])


def judge(run: Run, paper: papers.Paper, found: list[dict], apart: list) -> None:
    """Accuracies and spreads per seed, against the rules."""
    shares, late = paper.matter["shares"], {"quick": False, "rtol": None}

    def lost(name: str, share: float) -> np.ndarray:
        at = shares.index(share)
        return np.array([f[name][0] - f[name][at] for f in found])

    tenth, twentieth, magnitude, unsure = paper.rules
    paper.judge(run, tenth, -lost("signal to noise", 0.1), **late)
    paper.judge(run, twentieth, -lost("signal to noise", 0.05), **late)
    rival = lost("plain net, magnitude", 0.1)
    paper.judge(run, magnitude, rival - lost("signal to noise", 0.1), **late)
    paper.judge(run, unsure, [outside / inside for inside, outside in apart], **late)
    run.falsifier("weights in random order", -lost("random order", 0.1), breaks=tenth)
    run.falsifier("by |mean| alone", rival - lost("|mean| alone", 0.1), breaks=magnitude)
    inside, outside = np.mean(apart, axis=0)
    run.metric("sd inside the data", inside, rtol=None)
    run.metric("sd outside the data", outside, rtol=None)


def draw_pruning(run: Run, paper: papers.Paper, found: list[dict]) -> None:
    """Errors against the share that is left, ours and the paper's on axes of their own."""
    title = "How many weights are needed? By signal to noise, and by size"
    with run.figure("pruning", title, columns=2) as axes:
        left = 100 * np.array(paper.matter["shares"])
        lines = {k: [100 - np.array(f[k]) for f in found] for k in found[0]}
        labels = {"xlabel": "weights left (%)", "xscale": "log"}
        options = {"marker": "o", "ends": False, "yscale": "log"}
        plots.curves(axes[0], left, lines, ylabel="test errors (%)", **options, **labels)
        axes[0].set(title="8×8 digits, ours")
        paper_left = 100 * np.array(paper.matter["paper_errors_at"])
        axes[1].plot(paper_left, paper.matter["paper_errors"], "s--", color=plots.REFERENCE)
        axes[1].set(title="MNIST, the paper's table 2", **labels)
        for ax in axes:
            ax.set_xticks([100, 50, 25, 10, 5, 2], ["100", "50", "25", "10", "5", "2"])
            ax.minorticks_off()
            ax.invert_xaxis()


def draw_curve(run: Run, x: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> None:
    """The first seed's band."""
    with run.figure("curve", "Is it unsure where it saw nothing?") as axes:
        axes.fill_between(x, mean - 2 * sd, mean + 2 * sd, color=plots.BLUE, alpha=0.25, lw=0)
        axes.plot(x, mean, color=plots.BLUE, label="mean, and two standard deviations")
        data = curve(run.seed)
        axes.plot((data.x[:, 0] + 1) / 4, data.y, ".", color=plots.ORANGE, label="data")
        axes.set(xlabel="x", ylabel="y")
        axes.legend()


def check(run: Run) -> None:
    """A linear model with normal noise: the exact mean, and variances of 1 / precision."""
    g = torch.Generator().manual_seed(run.seed)
    x = torch.randn(80, 3, generator=g, dtype=torch.float64)
    y = x @ torch.tensor([1.0, -0.5, 0.0], dtype=torch.float64)
    posterior = Posterior(MLP(3, 1), Gaussian(0.5), x, y, 1.0)
    steps = run.budget(quick=300, default=1500)
    q = fit_mean_field(posterior, steps=steps, lr=0.05, n_draws=16, generator=g, batch_size=40)
    X = torch.nn.functional.pad(x, (0, 1), value=1.0)
    precision = X.T @ X / 0.25 + torch.eye(4)
    exact = torch.linalg.solve(precision, X.T @ y / 0.25)
    equal = run.against("closed form", kind="theorem", why="draws of stochastic gradients")
    loose = run.budget(quick=3, default=1)
    equal("variances, linear model", q.sd.square(), 1 / precision.diagonal(), rtol=0.05 * loose)
    equal("means in their sd", (q.mean - exact) / q.sd, torch.zeros(4), atol=0.3 * loose)


if __name__ == "__main__":
    cli(main)
