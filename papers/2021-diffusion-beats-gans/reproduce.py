r"""Does a classifier's gradient, scaled up, make samples surer and less varied?

$$ \hat\epsilon = \epsilon_\theta(x_t) - s \sqrt{1 - \bar\alpha_t}\, \nabla_{x_t} \log
   p_\phi(y \mid x_t) . $$

Reduced: 8×8 digits and MLPs for ImageNet and U-Nets. The rules stand in the front matter of
README.md.

    uv run papers/2021-diffusion-beats-gans/reproduce.py

Dhariwal and Nichol (2021), "Diffusion models beat GANs on image synthesis", section 4.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from torch import Tensor

from shared import papers, plots
from shared.study import PositiveInt, Run, cli
from week23.ddpm import TimeMLP, simple_loss, train
from week23.digit_judge import Judge, Split, split
from week23.guidance import Classifier, classifier_guided
from week23.mixtures import Mixture
from week23.schedules import Model, Schedule, ancestral_step, sample_ddpm

SCHEDULE = Schedule.cosine(100)
WIDTH = 128


def ring() -> Mixture:
    """Eight Gaussians on a circle, near enough to be mistaken for each other."""
    angles = torch.arange(8, dtype=torch.double) * math.pi / 4
    means = 2 * torch.stack([angles.cos(), angles.sin()], -1)
    one = torch.ones(8, dtype=torch.double)
    return Mixture(one / 8, means, 0.5 * one)


def exact(data: Mixture) -> tuple[Model, Classifier]:
    """The score of a mixture at each time, and the best classifier of its components."""

    def at(t: Tensor) -> Mixture:
        a = float(SCHEDULE.alphas_bar[int(t[0])])
        return data.noised(a**0.5, (1 - a) ** 0.5)

    return (lambda x, t: at(t).score(x)), lambda x, t: at(t).log_joint(x).log_softmax(-1)


def precision_recall(samples: Tensor, real: Tensor, k: int) -> tuple[float, float]:
    """Shares of samples within the k-neighbor balls of real points, and the other way round."""

    def inside(points: Tensor, balls: Tensor) -> float:
        radius = torch.cdist(balls, balls).kthvalue(k + 1, dim=-1).values  # the first is itself
        return float((torch.cdist(points, balls) <= radius).any(-1).float().mean())

    return inside(samples, real), inside(real, samples)


def mmd_and_limit(a: Tensor, b: Tensor, g: torch.Generator) -> tuple[float, float]:
    """Squared maximum mean discrepancy, and the 95 % point of its value with labels permuted."""
    both = torch.cat([a, b])
    d2 = torch.cdist(both, both).square()
    kernel = (-d2 / d2.median()).exp()
    sign = torch.cat([torch.ones(len(a)), -torch.ones(len(b))]).double()
    signs = torch.stack([sign, *(sign[torch.randperm(len(sign), generator=g)] for _ in range(200))])
    values = ((signs @ kernel) * signs).sum(-1) / len(a) ** 2
    return float(values[0]), float(values[1:].quantile(0.95))


def denoiser(data: Split, seed: int, steps: int) -> TimeMLP:
    """An unconditional network that predicts the data."""
    g = torch.Generator().manual_seed(seed)
    net = TimeMLP(64, WIDTH, len(SCHEDULE), g)

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        noise = torch.randn(len(i), 64, generator=g)
        return simple_loss(SCHEDULE, net, data.x[i], t, noise, kind="x0")

    train(net, loss, len(data.x), steps=steps, generator=g)
    return net


def noisy_classifier(data: Split, seed: int, steps: int, *, shuffled: bool = False) -> Classifier:
    """A network that tells digits at all levels of noise; shuffled, it has learned no digit."""
    g = torch.Generator().manual_seed(500 + seed)
    body, head = TimeMLP(64, WIDTH, len(SCHEDULE), g), torch.nn.Linear(64, 10)
    torch.nn.init.normal_(body.leave[1].weight, std=0.05, generator=g)
    torch.nn.init.normal_(head.weight, std=0.1, generator=g)
    torch.nn.init.zeros_(head.bias)
    y = data.y[torch.randperm(len(data.y), generator=g)] if shuffled else data.y

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        return head(body(x, t)).log_softmax(-1)

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        x = SCHEDULE.add_noise(data.x[i], torch.randn(len(i), 64, generator=g), t)
        return F.nll_loss(classifier(x, t), y[i], reduction="none")

    both = torch.nn.ModuleList([body, head])
    train(both, loss, len(data.x), steps=steps, generator=g)
    both.requires_grad_(False)
    return classifier


def samples(model: Model, classifier: Classifier, labels: Tensor, scale: float, g) -> Tensor:
    """Digits that were asked for, at a scale."""
    guided = classifier_guided(model, classifier, SCHEDULE, labels, scale=scale, kind="x0")
    start = torch.randn(len(labels), 64, generator=g)
    return sample_ddpm(guided, SCHEDULE, start, kind="x0", clip=1.0, generator=g)


def measure(seed: int, matter: dict, steps: int, n: int) -> dict:
    """Probability, precision and recall by scale; the probability with a useless classifier."""
    data = split(seed)
    judge = Judge.trained(data, seed, steps=min(steps, 400))
    model = denoiser(data, seed, steps)
    useful, useless = (noisy_classifier(data, seed, steps // 2, shuffled=s) for s in (False, True))
    labels, found = torch.arange(n) % 10, {}
    sure = lambda x: float(judge(x).softmax(-1).gather(-1, labels[:, None]).mean())  # noqa: E731
    for scale in matter["scales"]:
        g = torch.Generator().manual_seed(1000 + seed)
        x = samples(model, useful, labels, scale, g)
        pairs = [
            precision_recall(x[labels == c], data.x_test[data.y_test == c], matter["k"])
            for c in range(10)
        ]
        found[scale] = (sure(x), *np.mean(pairs, axis=0))
    ends = []
    for scale in (1, 8):
        g = torch.Generator().manual_seed(1000 + seed)
        ends.append(sure(samples(model, useless, labels, scale, g)))
    return found | {"useless": ends[1] - ends[0]}


def oracle(run: Run, matter: dict, n: int) -> dict:
    """The same numbers with nothing learned."""
    data, (model, classifier), found = ring(), exact(ring()), {}
    g, labels = run.generator(2), torch.zeros(n, dtype=torch.long)
    real = data.given(0).sample(n, g)
    for scale in matter["scales"]:
        guided = classifier_guided(model, classifier, SCHEDULE, labels, scale=scale, kind="score")
        start = torch.randn(n, 2, generator=g, dtype=torch.double)
        options = {"kind": "score", "variance": "large", "generator": g}
        x = sample_ddpm(guided, SCHEDULE, start, **options)
        if scale == 1:
            mmd, limit = mmd_and_limit(x, real, g)
            name = "squared discrepancy of samples at scale 1"
            theory = {"against": "the component itself", "kind": "theorem"}
            run.check(name, mmd, 0.0, atol=limit, why="95 % point of permutations", **theory)
        sure = data.log_joint(x).softmax(-1)[:, 0].mean()
        found[scale] = (float(sure), *precision_recall(x, real, matter["k"]))
    return found


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 500) -> None:
    """Draw digits at all scales and judge by the front matter's rules.

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
    steps, n = run.budget(quick=(10, 50), default=(steps, 300), full=(5 * steps, 1000))
    known = oracle(run, paper.matter, run.budget(quick=100, default=500))
    span = range(run.seed, run.seed + seeds)
    found = [measure(seed, paper.matter, steps, n) for seed in run.progress(span, "splits")]
    scales = paper.matter["scales"]
    parts = np.array([[f[s] for s in scales] for f in found])  # seeds, scales, three numbers
    at = {scale: i for i, scale in enumerate(scales)}
    sure, precision, recall = (parts[..., i] for i in range(3))
    late = {"quick": False, "rtol": None}
    names = list(paper.rules)
    paper.judge(run, names[0], sure[:, at[8]] - sure[:, at[1]], **late)
    paper.judge(run, names[1], recall[:, at[1]] - recall[:, at[8]], **late)
    paper.judge(run, names[2], precision[:, at[4]] - precision[:, at[1]], **late)
    useless = np.array([f["useless"] for f in found])
    run.falsifier("a classifier of shuffled labels", useless, breaks=names[0])
    named = {"probability": sure, "precision": precision, "recall": recall}
    for i, (name, values) in enumerate(named.items()):
        for scale in scales:
            run.metric(f"{name}, scale {scale}", values[:, at[scale]].mean(), rtol=None)
            run.metric(f"exact {name}, scale {scale}", known[scale][i], rtol=None)
    title = "What does the classifier's scale buy, and what does it cost?"
    with run.figure("scales", title, columns=2, sharey=True) as axes:
        plots.curves(
            axes[0],
            scales,
            named,
            marker="o",
            ends=False,
            xlabel="scale",
            ylabel="probability or share",
        )
        exact_lines = {name: [[known[s][i] for s in scales]] for i, name in enumerate(named)}
        plots.curves(axes[1], scales, exact_lines, marker="o", ends=False, xlabel="scale")
        axes[0].set_title("learned, digits", size=10)
        axes[1].set_title("exact, eight Gaussians", size=10)


def check(run: Run) -> None:
    """The guided step beside diffusers' scheduler, given the prediction that is meant."""
    data = ring()
    (model, classifier), g = exact(data), run.generator(3)
    theirs = DDPMScheduler(
        len(SCHEDULE),
        trained_betas=SCHEDULE.betas.tolist(),
        clip_sample=False,
        variance_type="fixed_large",
    )
    theirs.alphas_cumprod = SCHEDULE.alphas_bar
    labels, ours, others = torch.zeros(6, dtype=torch.long), [], []
    guided = classifier_guided(model, classifier, SCHEDULE, labels, scale=2.0, kind="score")
    for t in range(len(SCHEDULE)):
        x = torch.randn(6, 2, generator=g, dtype=torch.double)
        times, a = torch.full((6,), t), SCHEDULE.alphas_bar[t]
        noisy = data.noised(a.sqrt(), (1 - a).sqrt())
        pull = noisy.given(0).score(x) - noisy.score(x)  # the gradient of log p(y | x)
        noise_of = -(1 - a).sqrt() * (noisy.score(x) + 2 * pull)
        others.append(theirs.step(noise_of, t, x, run.generator(t)).prev_sample)
        noise = torch.randn(6, 2, generator=run.generator(t), dtype=torch.double)
        options = {"kind": "score", "noise": noise, "variance": "large"}
        ours.append(ancestral_step(SCHEDULE, guided(x, times), x, t, **options))
    same = {"against": "diffusers' DDPMScheduler", "atol": 1e-8, "why": "float64 rounding"}
    run.check("guided steps at all times", torch.stack(ours), torch.stack(others), **same)


if __name__ == "__main__":
    cli(main)
