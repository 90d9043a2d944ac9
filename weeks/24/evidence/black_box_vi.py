"""Gradients against closed forms, conjugate posteriors, numpyro's guides, and what each misses."""

import numpy as np
import torch
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week24.adaptation import sample
from week24.black_box_vi import (
    ESTIMATORS,
    Gaussian,
    LogDensity,
    elbo,
    fit,
    gradient,
    subsampled,
)
from week24.guide_twins import GUIDES, ask
from week24.hmc_nuts import nuts
from week24.posteriors import logistic

DIM = 4


def main(run: Run, *, repeats: PositiveInt = 400) -> None:
    """Check the estimators, fit conjugate posteriors, and measure noise and what is missed.

    Parameters
    ----------
    repeats
        Gradients of each estimator whose variance is measured.
    """
    run.rounding(0.05, "some hundred steps of Adam with random gradients")
    check_gradients(run, run.budget(quick=50, default=500))
    check_conjugate(run)
    check_minibatch(run)
    judge_noise(run, run.budget(quick=10, default=max(repeats, 2)))
    if run.mode != "quick":  # JAX takes seconds to start and compile
        compare(run)
    draw_misses(run)


def normal(run: Run, offset: int, dim: int = DIM) -> tuple[Tensor, Tensor, LogDensity]:
    """Mean, precision and unnormalized log density of a Gaussian with strong correlations."""
    draw = run.generator(offset)
    root = torch.randn(dim, dim, generator=draw, dtype=torch.double)
    precision = root @ root.T + 0.5 * torch.eye(dim, dtype=torch.double)
    mean = torch.randn(dim, generator=draw, dtype=torch.double)
    return mean, precision, lambda z: -(((z - mean) @ precision) * (z - mean)).sum(-1) / 2


# ---- checks


def check_gradients(run: Run, n: int) -> None:
    """Each estimator's mean is the gradient of the ELBO, which a Gaussian target gives exactly."""
    mean, precision, log_density = normal(run, 1)
    q = Gaussian(DIM, full_rank=True, sd=0.7)
    with torch.no_grad():
        q.mean += torch.randn(DIM, generator=run.generator(2), dtype=torch.double)
        q.below += 0.2 * torch.randn(DIM, DIM, generator=run.generator(3), dtype=torch.double)
    apart, cov = q.mean - mean, q.factor() @ q.factor().T
    exact = -((apart @ precision @ apart) + (precision * cov).sum()) / 2 + q.entropy()
    exact = gradient(-exact, q)
    draw = run.generator(4)
    for name, estimator in ESTIMATORS.items():
        grads = torch.stack([gradient(estimator(log_density, q, 8, draw), q) for _ in range(n)])
        error = grads.std(0) / n**0.5 + 1e-9
        z = (grads.mean(0) - exact) / error
        why = "five standard errors, twenty numbers"
        theorem = {"against": "closed form", "kind": "theorem", "atol": 5, "why": why}
        run.check(f"gradient in errors, {name}", z, torch.zeros(len(z)), **theorem)


def check_conjugate(run: Run) -> None:
    """Full rank finds the posterior, mean field its conditional variances."""
    mean, precision, log_density = normal(run, 5, 3)
    draw, steps = run.generator(6), run.budget(quick=80, default=1200)
    full, narrow = Gaussian(3, full_rank=True), Gaussian(3)
    for q in (full, narrow):
        fit(
            log_density,
            q,
            steps=steps,
            lr=run.budget(quick=0.2, default=0.05),
            generator=draw,
            n=32,
        )
    with torch.no_grad():
        exact = run.budget(quick=0.2, default=1e-4)
        why = "noise vanishes where q is the posterior"
        same = {"against": "the exact posterior", "kind": "theorem", "why": why, "atol": exact}
        run.check("mean, full rank", full.mean, mean, **same)
        run.check("covariance, full rank", full.covariance(), precision.inverse(), **same)
        noisy = {"rtol": run.budget(quick=0.5, default=0.05), "why": "noise of the last steps"}
        same |= {"against": "1 / diagonal of the precision", "atol": 0.0} | noisy
        run.check(
            "variances, mean field",
            narrow.covariance().diagonal(),
            1 / precision.diagonal(),
            **same,
        )
        sd = (narrow.covariance().diagonal() * precision.diagonal()).sqrt()
        errors = (narrow.mean - mean) / precision.diagonal().rsqrt() / sd
        same |= {"against": "the exact posterior", "atol": run.budget(quick=0.5, default=0.05)}
        run.check("means, mean field, in deviations", errors, torch.zeros(3), **same)


def unknown_mean(run: Run, n: int, batch: int, offset: int) -> tuple[LogDensity, Tensor]:
    """Normal data of an unknown mean, subsampled; and mean and variance of the exact posterior."""
    y = 1.5 + 2 * torch.randn(n, generator=run.generator(offset), dtype=torch.double)
    log_density = subsampled(
        lambda z: -z.square().sum(-1) / 2,
        lambda z, i: -(z - y[i]).square() / 8,
        n,
        batch,
        run.generator(offset + 1),
    )
    variance = 1 / (1 + n / 4)
    return log_density, torch.tensor([variance * y.sum() / 4, variance], dtype=torch.double)


def check_minibatch(run: Run) -> None:
    """Twenty of 200 data at a time: the posterior is that of all."""
    log_density, exact = unknown_mean(run, 200, 20, 10)
    q, steps = Gaussian(1, sd=0.3), run.budget(quick=100, default=2000)
    rate = run.budget(quick=0.1, default=0.02)
    fit(log_density, q, steps=steps, lr=rate, generator=run.generator(12), n=8)
    found = torch.stack([q.mean[0], q.covariance()[0, 0]]).detach()
    errors = (found - exact) / torch.stack([exact[1].sqrt(), exact[1]])
    why = "noise of batches in the last steps"
    theorem = {"against": "the exact posterior", "kind": "theorem", "why": why}
    theorem |= {"atol": run.budget(quick=1.5, default=0.2)}
    run.check(
        "mean in deviations, variance relative, by batches", errors, torch.zeros(2), **theorem
    )


# ---- a posterior that is not conjugate


def table(columns: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Sixty tumors and three of their measurements, standardized."""
    data = datasets.bundled("breast_cancer")
    X = data.data[:60, columns]
    return (X - X.mean(axis=0)) / X.std(axis=0), data.target[:60].astype(float)


def in_torch(X: np.ndarray, y: np.ndarray) -> LogDensity:
    """The logistic posterior of `posteriors.py`, for many points at once."""
    inputs = torch.tensor(np.column_stack([np.ones(len(X)), X]))
    labels = torch.tensor(y)

    def log_density(w: Tensor) -> Tensor:
        logits = w @ inputs.T
        likelihood = (labels * logits - torch.nn.functional.softplus(logits)).sum(-1)
        prior = -w.square().sum(-1) / 2 - w.shape[-1] / 2 * np.log(2 * np.pi)
        return likelihood + prior

    return log_density


def judge_noise(run: Run, repeats: int) -> None:
    """Variance of each estimator at the start and at the end of a fit, summed over parameters."""
    log_density, draw = in_torch(*table([0, 1, 4])), run.generator(20)
    q, found = Gaussian(DIM, full_rank=True, sd=0.3), {}
    steps = run.budget(quick=30, default=1200)
    moments = ("start", "end")
    for moment in moments:
        for name, estimator in ESTIMATORS.items():
            grads = [gradient(estimator(log_density, q, 16, draw), q) for _ in range(repeats)]
            parts = torch.stack(grads).view(2, -1, len(grads[0])).var(1).sum(1)
            found[moment, name] = parts
            run.metric(f"variance at the {moment}, {name}", parts.mean(), rtol=None)
        if moment == "start":
            fit(log_density, q, steps=steps, lr=0.03, generator=draw)
    late = {"quick": False, "unit": "times", "rtol": None, "each": True}
    ratio = [found[m, "score, baseline"] / found[m, "reparameterized"] for m in moments]
    name = "the score function varies at least ten times as much as points that move"
    run.claim(name, torch.cat(ratio), at_least=10, **late)
    gain = [found[m, "score, baseline"] / found[m, "sticking the landing"] for m in moments]
    name = "the score function varies at least five times as much as sticking the landing"
    run.claim(
        name, torch.cat(gain), at_least=5, **late | {"seen_before": "12 and 18 in a quick run"}
    )
    gain = [found[m, "score"] / found[m, "score, baseline"] for m in moments]
    run.claim("a baseline takes nine tenths of its variance", torch.cat(gain), at_least=10, **late)
    title = "How noisy is a gradient from sixteen points?"
    with run.figure("noise", title, columns=2, sharex=True, sharey=True) as axes:
        for ax, moment in zip(axes, moments, strict=True):
            values = {name: found[moment, name].numpy() for name in ESTIMATORS}
            plots.bars(ax, values, xscale="log", xlabel="variance", title=f"{moment} of the fit")


def compare(run: Run) -> None:
    """Both families beside numpyro's guides, and beside NUTS, which has no family."""
    X, y = table([0, 2, 4])  # radius and perimeter say nearly the same
    log_density, draw, steps = in_torch(X, y), run.generator(30), 1500
    theirs = ask(X, y, steps=steps, seed=run.seed)
    truth = sample(logistic(X, y), np.zeros((2, DIM)), nuts(), 400, 1000, run.rng).flat
    widths = {}
    for name in GUIDES:
        q = Gaussian(DIM, full_rank=name != "AutoNormal", sd=0.3)
        fit(log_density, q, steps=steps, lr=0.03, generator=draw)
        sd = q.covariance().diagonal().sqrt().numpy()
        mean = q.mean.detach().numpy()
        other = {key: np.array(value) for key, value in theirs[name].items()}
        same = run.against(f"numpyro's {name}", atol=0.1, why="noise of the last steps of both")
        same(f"mean in deviations, {name}", (mean - other["mean"]) / sd, np.zeros(DIM))
        same(f"sd over theirs, {name}", sd / other["sd"], np.ones(DIM))
        same(f"ELBO, {name}", elbo(log_density, q, 20_000, draw), other["elbo"])
        widths[name] = (sd / truth.std(axis=0))[1:3]
        run.metric(f"sd over that of NUTS, {name}", widths[name].mean(), rtol=None)
        run.metric(f"ELBO by {name}", other["elbo"], "nats", rtol=None)
    late = {"rtol": None, "each": True, "unit": "times NUTS's"}
    late["seen_before"] = "weights of radius, texture and smoothness: 0.87 to 0.95"
    name = "mean field is too narrow for two weights that trade off"
    run.claim(name, widths["AutoNormal"], at_most=0.9, **late)
    run.falsifier("full rank", widths["AutoMultivariateNormal"], breaks=name)


# ---- what each misses


def skewed(z: Tensor) -> Tensor:
    """A normal x, and y near x² / 2: a bent ridge."""
    return -z[:, 0].square() / 2 - (z[:, 1] - z[:, 0].square() / 2).square() / 0.5


def two_modes(z: Tensor) -> Tensor:
    """Two equal normals, nearly seven deviations apart."""
    center = torch.tensor([2.4, 2.4], dtype=torch.double)
    parts = torch.stack([-(z - s * center).square().sum(-1) / 2 for s in (-1, 1)])
    return torch.logsumexp(parts, dim=0)


def draw_misses(run: Run) -> None:
    """Densities and the Gaussians that the bound prefers."""
    rho = 0.9
    precision = torch.tensor([[1, -rho], [-rho, 1]], dtype=torch.double) / (1 - rho**2)
    targets = {
        "correlation": lambda z: -((z @ precision) * z).sum(-1) / 2,
        "skew": skewed,
        "second mode": two_modes,
    }
    steps = run.budget(quick=15, default=600)
    title = "Which Gaussian does the bound choose, and what does it miss?"
    with run.figure("misses", title, columns=3, size=(11, 4.2), sharex=True, sharey=True) as axes:
        for ax, (name, log_density) in zip(axes, targets.items(), strict=True):
            grid = torch.linspace(-5, 5, 101, dtype=torch.double)
            x, y = torch.meshgrid(grid, grid, indexing="xy")
            values = log_density(torch.stack([x.flatten(), y.flatten()], 1)).view(101, 101)
            style = {"levels": [-4.5, -2.0, -0.5], "colors": plots.GRAY, "linestyles": "-"}
            ax.contour(x, y, values - values.max(), **style)
            for label, full, color in [
                ("mean field", False, plots.ORANGE),
                ("full rank", True, plots.BLUE),
            ]:
                q = Gaussian(2, full_rank=full, sd=0.5)
                with torch.no_grad():
                    q.mean += 0.3
                fit(log_density, q, steps=steps, lr=0.05, generator=run.generator(40))
                angle = np.linspace(0, 2 * np.pi, 100)
                circle = 2 * q.factor().detach().numpy() @ [np.cos(angle), np.sin(angle)]
                ax.plot(*(circle + q.mean.detach().numpy()[:, None]), color=color, label=label)
                if name == "correlation" and not full:
                    width = q.covariance()[0, 0]
                    run.metric("variance by mean field, correlation 0.9", width, rtol=None)
                if name == "second mode" and full:
                    z = q.draw(4000, run.generator(41))
                    run.metric("share of q on its side", (z.sum(1) > 0).double().mean(), rtol=None)
            ax.set(title=name, xlabel="$z_1$")
        axes[0].set_ylabel("$z_2$")
        axes[0].legend(loc="upper left")
