"""Losses against the distance they stand for, by quadrature; samplers against a known mixture."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from shared import plots
from shared.study import PositiveInt, Run
from week23.mixtures import Mixture
from week23.score_matching import (
    NoisyScore,
    ScoreNet,
    annealed_langevin,
    denoising,
    explicit,
    fit,
    langevin,
    noise_levels,
    sliced,
)

FAR = Mixture(torch.tensor([0.2, 0.8]), torch.tensor([[-4.0, -4.0], [4.0, 4.0]]), torch.ones(2))
NEAR = Mixture(
    torch.tensor([0.3, 0.7], dtype=torch.double),
    torch.tensor([[-1.5], [1.0]], dtype=torch.double),
    torch.tensor([0.6, 0.8], dtype=torch.double),
)
NORMAL = Mixture(*(torch.tensor(part, dtype=torch.double) for part in ([1.0], [[0.0]], [1.0])))
PLANE = Mixture(
    torch.tensor([0.3, 0.7]), torch.tensor([[-1.5, 0.5], [1.0, -0.5]]), torch.tensor([0.6, 0.8])
)
LEVELS = noise_levels(10.0, 0.3, 12)
SEEN = "the same seeds with twice the updates and twice the samples: all rules kept"


def main(run: Run, *, seeds: PositiveInt = 5) -> None:
    """Check the losses, then train networks by them and draw samples.

    Parameters
    ----------
    seeds
        Runs of each training and of each sampler.
    """
    run.rounding(0.02, "some hundred steps in float32")
    check_mixture(run)
    check_losses(run)
    check_gaussian(run)
    seeds = run.budget(quick=2, default=max(seeds, 2))
    nets = judge_training(run, seeds)
    judge_samplers(run, seeds, nets)


# ---- checks


def quadrature(data: Mixture, n: int = 801) -> tuple[Tensor, Tensor]:
    """Points and weights whose sums are expectations under a mixture in one dimension.

    For smooth functions that vanish at both ends an even grid is as good as any.
    """
    x = torch.linspace(-10, 10, n, dtype=torch.double)[:, None]
    return x, data.log_prob(x).exp() * 20 / (n - 1)


def check_mixture(run: Run) -> None:
    """Density and score at each level of noise, by torch's distributions and autograd."""
    noisy = FAR.noised(0.8, 0.6)
    x = noisy.sample(50, run.generator()).requires_grad_()
    parts = Independent(Normal(0.8 * FAR.means, torch.ones(2, 2)), 1)  # 0.64 · 1 + 0.36
    theirs = MixtureSameFamily(Categorical(FAR.weights), parts).log_prob(x)
    same = run.against("torch.distributions", rtol=1e-5, atol=1e-5, why="float32 rounding")
    same("density of a noised mixture", noisy.log_prob(x), theirs)
    same("its score", noisy.score(x), torch.autograd.grad(theirs.sum(), x)[0])


def check_losses(run: Run) -> None:
    """Each loss minus the distance it stands for is one number, whatever the network."""
    g = run.generator(1)
    net = ScoreNet(1, 6, g).double()
    scores = [lambda x: -x, lambda x: net(x, torch.ones_like(x)), lambda x: x.sin() - x**3 / 9]
    x, w = quadrature(NEAR)
    half = (w * NEAR.score(x).square().sum(-1)).sum() / 2
    losses = [(w * explicit(s, x)).sum() for s in scores]
    distances = [(w * (s(x) - NEAR.score(x)).square().sum(-1)).sum() / 2 for s in scores]
    exact = run.against(
        "the distance from the mixture's score",
        kind="theorem",
        rtol=1e-6,
        why="sums on a grid for integrals",
    )
    exact("explicit, plus E‖∇ log p‖² / 2", torch.stack(losses) + half, torch.stack(distances))
    sigma = 0.5
    noisy = NEAR.noised(1.0, sigma)
    (x, w), (z, v) = quadrature(NEAR, 161), quadrature(NORMAL, 161)
    pairs, weights = x.repeat_interleave(len(z), 0), torch.outer(w, v).flatten()
    losses = [(weights * denoising(s, pairs, z.repeat(len(x), 1), sigma)).sum() for s in scores]
    y, u = quadrature(noisy)
    distances = [(u * (s(y) - noisy.score(y)).square().sum(-1)).sum() / 2 for s in scores]
    half = (u * noisy.score(y).square().sum(-1)).sum() / 2
    constant = 1 / (2 * sigma**2) - half
    ours = torch.stack(losses) / sigma**2 - constant
    exact("denoising, minus its constant", ours, torch.stack(distances))
    plane = ScoreNet(2, 6, g).double()
    score = lambda x: plane(x, torch.ones_like(x[:, :1]))  # noqa: E731
    x = torch.randn(20, 2, generator=g).double()
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=2)), dtype=torch.double)
    mean = torch.stack([sliced(score, x, v.expand(20, 2)) for v in signs]).mean(0)
    why = {"against": "explicit", "kind": "theorem", "why": "float64 rounding", "atol": 1e-12}
    run.check("sliced, over all signs in the plane", mean, explicit(score, x), **why)


def check_gaussian(run: Run) -> None:
    """One Gaussian of deviation s: its score, the loss that is left, Langevin's own error."""
    s, sigmas = 0.7, torch.tensor([0.1, 1.0, 10.0], dtype=torch.double)
    one = NORMAL.noised(s, 0.0)
    x = torch.linspace(-3, 3, 7, dtype=torch.double)[:, None]
    ours = torch.cat([one.noised(1.0, float(sigma)).score(x) for sigma in sigmas])
    closed = {"kind": "theorem", "why": "float64 rounding", "rtol": 1e-12}
    theirs = torch.cat([-x / (s**2 + sigma**2) for sigma in sigmas])
    run.check("score of a noised Gaussian", ours, theirs, against="-x̃ / (s² + σ²)", **closed)
    z, w = quadrature(NORMAL, 161)
    pairs, weights = s * z.repeat_interleave(161, 0), torch.outer(w, w).flatten()
    left = []
    for sigma in sigmas:
        score = one.noised(1.0, float(sigma)).score
        left.append((weights * denoising(score, pairs, z.repeat(161, 1), float(sigma))).sum())
    theirs = s**2 / (s**2 + sigmas**2) / 2
    closed["rtol"] = 1e-9
    run.check(
        "loss at the best score", torch.stack(left), theirs, against="s²/2(s² + σ²)", **closed
    )
    n, rate = run.budget(quick=2000, default=20_000), 0.5
    x = langevin(lambda x: -x, torch.zeros(n, 1), steps=60, rate=rate, generator=run.generator(2))
    limit = {"against": "1 / (1 - η/4)", "kind": "theorem", "why": "four standard errors"}
    variance = 1 / (1 - rate / 4)
    options = limit | {"atol": 4 * variance * math.sqrt(2 / n)}
    run.check("variance that Langevin's steps of size η settle at", x.var(), variance, **options)


# ---- training


def relative_error(net: NoisyScore, data: Mixture, sigma: float, g: torch.Generator) -> float:
    """Mean squared distance from the exact score, in units of that score's mean square."""
    noisy = data.noised(1.0, sigma)
    x = noisy.sample(2000, g)
    exact = noisy.score(x)
    with torch.no_grad():
        off = net(x, torch.full_like(x[:, :1], sigma)) - exact
    return float(off.square().sum() / exact.square().sum())


def trained_on_levels(seed: int, steps: int, *, shuffled: bool) -> tuple[ScoreNet, list[float]]:
    """A network for all levels of noise; shuffled, the noise in the target is not in the data."""
    g = torch.Generator().manual_seed(seed)
    net, levels = ScoreNet(2, 64, g), torch.tensor(LEVELS)[:, None]

    def loss(x: Tensor) -> Tensor:
        sigma = levels[torch.randint(len(levels), (len(x),), generator=g)]
        noise = torch.randn(x.shape, generator=g)
        if shuffled:
            noisy = x + sigma * noise
            target = noise[torch.randperm(len(x), generator=g)]
            return (sigma * net(noisy, sigma) + target).square().sum(-1) / 2
        return denoising(lambda y: net(y, sigma), x, noise, sigma)

    return net, fit(net, lambda: loss(FAR.sample(256, g)).mean(), steps=steps)


def trained_without_noise(seed: int, steps: int, name: str) -> ScoreNet:
    """A network for the data as they are, by the explicit or the sliced loss."""
    g = torch.Generator().manual_seed(seed)
    net = ScoreNet(2, 32, g)
    score = lambda x: net(x, torch.ones_like(x[:, :1]))  # noqa: E731

    def loss(x: Tensor) -> Tensor:
        if name == "explicit":
            return explicit(score, x)
        return sliced(score, x, torch.randn(x.shape, generator=g).sign())

    fit(net, lambda: loss(PLANE.sample(256, g)).mean(), steps=steps)
    return net


def judge_training(run: Run, seeds: int) -> list[ScoreNet]:
    """How near to the exact score each loss comes, and where the noise is shuffled."""
    steps = run.budget(quick=30, default=400, full=5000)
    found: dict[str, list[float]] = {}
    nets, falls = [], []
    for seed in run.progress(range(run.seed, run.seed + seeds), "networks"):
        g = torch.Generator().manual_seed(1000 + seed)
        for name in ("denoising", "shuffled"):
            net, losses = trained_on_levels(seed, steps, shuffled=name == "shuffled")
            errors = [relative_error(net, FAR, sigma, g) for sigma in LEVELS]
            found.setdefault(name, []).append(float(np.mean(errors)))
            if name == "denoising":
                nets.append(net)
                n = len(losses) // 5
                falls.append(np.mean(losses[:n]) - np.mean(losses[-n:]))
        for name in ("explicit", "sliced"):
            net = trained_without_noise(seed, steps, name)
            x = PLANE.sample(2000, g)
            exact = PLANE.score(x)
            off = (net(x, torch.ones_like(x[:, :1])) - exact).detach().square().sum()
            found.setdefault(name, []).append(float(off / exact.square().sum()))
    late = {"quick": False, "rtol": None, "seen_before": SEEN}
    for name in ("denoising", "explicit", "sliced"):
        claim = f"{name} score matching finds the mixture's score"
        run.claim(claim, found[name], at_most=0.1, unit="of its mean square", **late)
    claim = "denoising score matching finds the mixture's score"
    run.falsifier("with the noise of other rows in the target", found["shuffled"], breaks=claim)
    run.metric("fall of the denoising loss", float(np.mean(falls)), rtol=None)
    return nets


# ---- samplers


def judge_samplers(run: Run, seeds: int, nets: list[ScoreNet]) -> None:
    """How much of each sample ends in the mode that holds 0.8 of the data."""
    n, steps = run.budget(quick=(200, 20), default=(1000, 100), full=(5000, 400))
    exact = lambda x, sigma: FAR.noised(1.0, float(sigma[0])).score(x)  # noqa: E731
    weights: dict[str, list[float]] = {"plain": [], "annealed": [], "annealed, learned": []}
    samples = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "samples"):
        g = torch.Generator().manual_seed(2000 + seed)
        start = 16 * torch.rand(n, 2, generator=g) - 8
        total = steps * len(LEVELS)
        samples["plain"] = langevin(FAR.score, start, steps=total, rate=0.1, generator=g)
        options = {"steps": steps, "rate": 0.1, "generator": g}
        samples["annealed"] = annealed_langevin(exact, start, LEVELS, **options)
        net = nets[seed - run.seed]
        samples["annealed, learned"] = annealed_langevin(net, start, LEVELS, **options)
        for name, x in samples.items():
            weights[name].append(float((x.sum(-1) > 0).float().mean()))
    off = {name: np.abs(np.array(found) - 0.8) for name, found in weights.items()}
    late = {"each": True, "quick": False, "rtol": None, "seen_before": SEEN}
    run.claim("plain Langevin misses the modes' weights", off["plain"], at_least=0.1, **late)
    claim = "annealed Langevin finds the modes' weights"
    run.claim(claim, off["annealed"], at_most=0.05, **late)
    run.falsifier("the exact score without annealing", off["plain"], breaks=claim)
    name = "with a learned score it finds them within a tenth"
    run.claim(name, off["annealed, learned"], at_most=0.1, **late)
    for name, found in weights.items():
        run.metric(f"weight of the larger mode, {name}", float(np.mean(found)), rtol=None)
    draw(run, samples)


def draw(run: Run, samples: dict[str, Tensor]) -> None:
    """Samples along the line through both modes."""
    with run.figure("modes", "Which share of a sample ends in which mode?") as axes:
        edges = np.linspace(-10, 10, 61)
        for (name, x), color in zip(samples.items(), plots.COLORS, strict=False):
            along = (x.sum(-1) / math.sqrt(2)).numpy()
            axes.hist(along, edges, density=True, histtype="step", lw=2, color=color, label=name)
        line = torch.linspace(-10, 10, 400)
        noisy = FAR.noised(1.0, LEVELS[-1])
        along = Mixture(
            noisy.weights, noisy.means.sum(-1, keepdim=True) / math.sqrt(2), noisy.spreads
        )
        density = along.log_prob(line[:, None]).exp()
        axes.plot(line, density, color="0.3", ls="--", label="the data, with the last noise")
        axes.set(xlabel="position along the line through both modes", ylabel="density")
        axes.legend()
