r"""Does the simple loss draw better, and the bound code shorter?

$$ L_{t-1} = E\Big[\frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1 - \bar\alpha_t)} \|\epsilon -
   \epsilon_\theta\|^2\Big] + C, \qquad L_{\text{simple}} = E \|\epsilon - \epsilon_\theta\|^2 . $$

Reduced: 8×8 digits and an MLP for CIFAR-10 and a U-Net. The rules stand in the front matter of
README.md.

    uv run papers/2020-ddpm/reproduce.py

Ho, Jain and Abbeel (2020), "Denoising diffusion probabilistic models", section 4.1, tables 1 and 2.
"""

import math

import numpy as np
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week23.ddpm import TimeMLP, bits_per_dim, bound_terms, prior_term, simple_loss, train
from week23.digit_judge import LEVELS, Judge, Split, split
from week23.schedules import Model, Schedule, sample_ddpm

SCHEDULE = Schedule.linear(100, 1e-3, 0.2)
ARMS = ("simple, ε", "bound, ε", "reweighted")
ALL_ARMS = (*ARMS, "simple, mean", "bound, mean")  # in the quick and the full run
WIDTH = 128


def of_mean(net: Model) -> Model:
    """A network that predicts the posterior's mean, as one of the data: x₀ solved for."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        one, zero = torch.ones_like(x), torch.zeros_like(x)
        of_x0, of_x = (SCHEDULE.posterior(a, b, t)[0] for a, b in ((zero, one), (one, zero)))
        return (net(x, t) - of_x * x) / of_x0

    return model


def loss_of(arm: str, net: Model, x0: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """What an arm minimizes, per row; the bound in bits per pixel, with all times counted."""
    if arm == "simple, ε":
        return simple_loss(SCHEDULE, net, x0, t, noise)
    if arm == "simple, mean":
        x = SCHEDULE.add_noise(x0, noise, t)
        return (net(x, t) - SCHEDULE.posterior(x, x0, t)[0]).square().mean(-1)
    scale = len(SCHEDULE) / x0.shape[1] / math.log(2)
    if arm == "bound, mean":
        terms = bound_terms(SCHEDULE, of_mean(net), x0, t, noise, kind="x0", levels=LEVELS)
        return scale * terms
    bound = lambda i: bound_terms(SCHEDULE, net, x0[i], t[i], noise[i], levels=LEVELS)  # noqa: E731
    if arm == "bound, ε":
        return scale * bound(t >= 0)
    nats = weight(t) * x0.shape[1] * simple_loss(SCHEDULE, net, x0, t, noise)
    first = t == 0
    return scale * (nats.masked_scatter(first, bound(first)) if first.any() else nats)


def weight(t: Tensor) -> Tensor:
    """What the bound multiplies ‖ε - ε̂‖² by, where the steps back have variance β."""
    beta, a = SCHEDULE.betas[t], SCHEDULE.alphas_bar[t]
    return (beta / (2 * (1 - beta) * (1 - a))).float()


def trained(arm: str, data: Split, seed: int, steps: int) -> Model:
    """A network after so many updates; all arms start alike and see the same rows and noise."""
    g = torch.Generator().manual_seed(seed)
    net = TimeMLP(64, WIDTH, len(SCHEDULE), g)

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        noise = torch.randn(len(i), 64, generator=g)
        return loss_of(arm, net, data.x[i], t, noise)

    train(net, loss, len(data.x), steps=steps, generator=g, batch_size=64)
    return of_mean(net) if arm.endswith("mean") else net


def measure(
    seed: int, arms: tuple[str, ...], steps: int, n: int, rows: int
) -> dict[str, tuple[float, float]]:
    """Distance of samples and bits per pixel, by arm."""
    data = split(seed)
    judge = Judge.trained(data, seed, steps=min(steps, 400))
    found = {}
    for arm in arms:
        model = trained(arm, data, seed, steps)
        g = torch.Generator().manual_seed(1000 + seed)
        options = {"kind": "x0" if arm.endswith("mean") else "epsilon", "clip": 1.0, "generator": g}
        x = sample_ddpm(model, SCHEDULE, torch.randn(n, 64, generator=g), **options)
        bits = bits_per_dim(model, SCHEDULE, data.x_test[:rows], levels=LEVELS, **options)
        found[arm] = (judge.distance(x, data.x_test), float(bits.mean()))
    found["other digits"] = (judge.distance(data.x[:n], data.x_test), 0.0)
    return found


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 300) -> None:
    """Train, draw and code, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Splits of the digits, each with networks of its own.
    steps
        Updates of each network.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "some hundred steps in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    size = run.budget(quick=(10, 60, 20), default=(steps, 400, 100), full=(10 * steps, 2000, 500))
    arms = run.budget(quick=ALL_ARMS, default=ARMS, full=ALL_ARMS)
    span = range(run.seed, run.seed + seeds)
    found = [measure(seed, arms, *size) for seed in run.progress(span, "splits")]
    distance = {arm: np.array([f[arm][0] for f in found]) for arm in found[0]}
    bits = {arm: np.array([f[arm][1] for f in found]) for arm in arms}
    late = {"quick": False, "rtol": None}
    draws, codes = list(paper.rules)
    for arm, judged in (("simple, ε", True), ("reweighted", False)):
        nearer = float(np.mean(distance[arm] <= 0.99 * distance["bound, ε"]))
        shorter = float(np.mean(bits["bound, ε"] <= bits[arm] - 0.01))
        if judged:
            paper.judge(run, draws, nearer, **late)
            paper.judge(run, codes, shorter, **late)
        else:
            run.falsifier(
                "the simple loss with the bound's weights, distance", nearer, breaks=draws
            )
            run.falsifier("the simple loss with the bound's weights, bits", shorter, breaks=codes)
    for arm in arms:
        run.metric(f"distance, {arm}", distance[arm].mean(), rtol=None)
        run.metric(f"bits, {arm}", bits[arm].mean(), "bits per pixel", rtol=None)
    run.metric("distance, other digits", distance["other digits"].mean(), rtol=None)
    draw(run, distance, bits, paper.matter)


def draw(run: Run, distance: dict, bits: dict, matter: dict) -> None:
    """Ours beside the paper's: each training as a point."""
    with run.figure("orders", "Who draws better, and who codes shorter?", columns=2) as axes:
        for (arm, values), color in zip(bits.items(), plots.COLORS, strict=False):
            axes[0].scatter(values, distance[arm], color=color, label=arm)
        axes[0].set(xlabel="bits per pixel, at most", ylabel="Fréchet distance", yscale="log")
        axes[0].set_title("digits, each split", size=10)
        axes[0].legend(fontsize=8)
        for name, fid in matter["paper_fid"].items():
            axes[1].scatter(matter["paper_bits"][name], fid, color="0.3")
            axes[1].annotate(
                name,
                (matter["paper_bits"][name], fid),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                size=8,
            )
        axes[1].set(xlabel="bits per dimension, at most", ylabel="FID", xlim=(3.66, 3.79))
        axes[1].set_ylim(0, 16)
        axes[1].set_title("the paper, CIFAR-10", size=10)


def check(run: Run) -> None:
    """The posterior by diffusers, and the reweighted loss as the bound's by their gradients."""
    g = run.generator(1)
    x, x0 = (torch.randn(4, 6, generator=g, dtype=torch.double) for _ in range(2))
    betas = SCHEDULE.betas.tolist()
    theirs = DDPMScheduler(
        len(betas), trained_betas=betas, prediction_type="sample", clip_sample=False
    )
    theirs.alphas_cumprod = SCHEDULE.alphas_bar  # in float64
    means, variances = [], []
    for t in range(1, len(SCHEDULE)):
        noise = torch.randn(4, 6, generator=run.generator(t), dtype=torch.double)
        step = theirs.step(x0, t, x, run.generator(t)).prev_sample
        mean, variance = SCHEDULE.posterior(x, x0, t)
        means.append(step - variance.sqrt() * noise - mean)
        variances.append(theirs._get_variance(t) - variance)
    same = run.against("diffusers' DDPMScheduler", atol=1e-9, why="float64 rounding")
    zeros = torch.zeros(len(means), 4, 6)
    same("mean of the posterior, minus theirs", torch.stack(means), zeros)
    same("its variance, minus theirs", torch.stack(variances), zeros[:, 0, 0])
    net = TimeMLP(64, 16, len(SCHEDULE), g).double()
    torch.nn.init.normal_(net.leave[1].weight, generator=g)
    x0 = split(0).x[:100].double()
    t, noise = torch.arange(100), torch.randn(100, 64, generator=g, dtype=torch.double)
    slopes = []
    for arm in ("reweighted", "bound, ε"):
        net.zero_grad()
        loss_of(arm, net, x0, t, noise).mean().backward()
        slopes.append(torch.cat([p.grad.flatten() for p in net.parameters()]))
    why = {"against": "those of the bound", "kind": "theorem", "rtol": 1e-5, "atol": 1e-6}
    run.check("gradients of the reweighted loss", *slopes, why="float32 weights", **why)
    entropy_of_a_gaussian(run)


def entropy_of_a_gaussian(run: Run) -> None:
    """For data from N(0, 1) the best network's bound is the entropy itself."""
    grid = torch.linspace(-8, 8, 65, dtype=torch.double)
    w = (-grid.square() / 2).exp() / math.sqrt(2 * math.pi) / 4
    x0, noise = grid.repeat_interleave(65)[:, None], grid.repeat(65)[:, None]
    terms = prior_term(SCHEDULE, x0)
    best = lambda x, t: -x  # noqa: E731
    for t in range(len(SCHEDULE)):
        terms = terms + bound_terms(
            SCHEDULE, best, x0, torch.full((len(x0),), t), noise, kind="score"
        )
    found = (torch.outer(w, w).flatten() * terms).sum()
    exact = {"against": "½ ln(2πe)", "kind": "theorem", "why": "sums on a grid for integrals"}
    entropy = math.log(2 * math.pi * math.e) / 2
    run.check("bound of one Gaussian pixel", found, entropy, rtol=1e-6, **exact)


if __name__ == "__main__":
    cli(main)
