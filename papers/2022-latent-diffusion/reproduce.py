r"""Are codes easier to learn than pixels, and how small may they be?

For each factor f an autoencoder makes images f times smaller per side, and the same U-Net learns,
with the same number of steps, to remove noise from what it gives. At f = 1 there is none:

$$ L = E\, \lVert \epsilon - \epsilon_\theta(\sqrt{\bar\alpha_t}\, z + \sqrt{1 - \bar\alpha_t}\,
   \epsilon, t) \rVert^2 , \qquad z = E_f(x) . $$

Reduced: small digits, and a first stage with squared error only. The rules stand in the front
matter of README.md.

    uv run papers/2022-latent-diffusion/reproduce.py

Rombach, Blattmann, Lorenz, Esser & Ommer (2022), "High-resolution image synthesis with latent
diffusion models", section 4.1.
"""

import statistics
import time
from typing import NamedTuple

import numpy as np
import scipy.linalg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli
from week23.autoencoder import Autoencoder, AutoencoderConfig
from week23.digit_judge import frechet_distance
from week23.schedules import Schedule, sample_ddim
from week23.score_matching import fit
from week23.unet import UNet, UNetConfig

FACTORS, SCHEDULE = (1, 2, 4, 8), Schedule.scaled_linear(1000)


class Size(NamedTuple):
    """How much is trained, and how wide."""

    seeds: int
    first_stage: int
    steps: int
    width: int
    samples: int
    judge: int


class Split(NamedTuple):
    """Images of 16×16 in [-1, 1], with labels; others that judge."""

    x: Tensor
    y: Tensor
    x_test: Tensor


class Pixels:
    """The first stage with f = 1: none."""

    def to_latents(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The images."""
        return x

    def to_images(self, latents: Tensor) -> Tensor:
        """The images again."""
        return latents


def enlarged_digits(draw: torch.Generator) -> Split:
    """Digits of 8×8 pixels, interpolated to 16×16; 500 of 1,797 judge."""
    found = datasets.digits()
    x = torch.from_numpy(found.images).float()[:, None] / 8 - 1
    x = F.interpolate(x, size=16, mode="bilinear", align_corners=False)
    y, order = torch.from_numpy(found.labels).long(), torch.randperm(len(x), generator=draw)
    return Split(x[order[500:]], y[order[500:]], x[order[:500]])


def small_mnist(draw: torch.Generator) -> Split:
    """MNIST, reduced to 16×16."""
    found = datasets.mnist()
    parts = [
        F.interpolate(torch.from_numpy(x).float()[:, None] / 127.5 - 1, size=16, mode="area")
        for x in (found.train_images[:20_000], found.test_images[:5000])
    ]
    return Split(parts[0], torch.from_numpy(found.train_labels[:20_000]).long(), parts[1])


class Judge(nn.Module):
    """A classifier of clean images; what its last hidden layer holds are features."""

    def __init__(self, data: Split, draw: torch.Generator, steps: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 32), nn.Tanh()
        )
        self.head = nn.Linear(32, 10)
        for p in self.parameters():
            nn.init.normal_(p, std=p[0].numel() ** -0.5 if p.ndim > 1 else 0.0, generator=draw)

        def loss() -> Tensor:
            i = torch.randint(len(data.x), (64,), generator=draw)
            return F.cross_entropy(self.head(self.body(data.x[i])), data.y[i])

        fit(self, loss, steps=steps, lr=3e-3)

    @torch.no_grad()
    def distance(self, a: Tensor, b: Tensor) -> float:
        """The Fréchet distance of two sets of images, in features."""
        return frechet_distance(self.body(a).double(), self.body(b).double())


def first_stage(f: int, channels: int, data: Split, size: Size, draw: torch.Generator):
    """An autoencoder of factor f, trained and scaled; nothing at f = 1."""
    if f == 1:
        return Pixels()
    widths = (size.width,) + (2 * size.width,) * (f.bit_length() - 1)
    config = AutoencoderConfig(1, channels, widths, n_layers=1, n_groups=4)
    model = Autoencoder(config, draw)

    def loss() -> Tensor:
        return model.loss(data.x[torch.randint(len(data.x), (16,), generator=draw)], 1e-2, draw)

    fit(model, loss, steps=size.first_stage, lr=5e-3)
    model.fit_scale(data.x[:1000], draw)
    return model.requires_grad_(False)


def denoiser(latents: Tensor, size: Size, draw: torch.Generator) -> UNet:
    """The same U-Net for each factor, but for its first and last convolution."""
    config = UNetConfig(
        latents.shape[1], (size.width, 2 * size.width), (False, False), 1, 2, None, n_groups=4
    )
    model = UNet(config, draw)

    def loss() -> Tensor:
        x = latents[torch.randint(len(latents), (32,), generator=draw)]
        t = torch.randint(len(SCHEDULE), (len(x),), generator=draw)
        noise = torch.randn(x.shape, generator=draw)
        return (model(SCHEDULE.add_noise(x, noise, t), t) - noise).square().mean()

    fit(model, loss, steps=size.steps, lr=2e-3)
    return model


def distances(run: Run, data: Split, channels: dict[int, int], size: Size) -> dict:
    """By factor: of samples, per seed, and of what the first stage makes of real images."""
    judge, n = Judge(data, run.generator(2), size.judge), size.samples
    found: dict = {"real": judge.distance(data.x[:n], data.x_test), "alone": {}, "seconds": {}}
    found["samples"] = {f: [] for f in FACTORS}
    for f in run.progress(FACTORS, "factors"):
        draw = run.generator(10 * f)
        stage = first_stage(f, channels.get(f, 1), data, size, draw)
        latents = stage.to_latents(data.x, draw)
        coded = stage.to_images(stage.to_latents(data.x_test, draw))
        found["alone"][f] = judge.distance(coded, data.x_test)
        for seed in range(size.seeds):
            draw, start = run.generator(1000 + seed), time.perf_counter()
            model = denoiser(latents, size, draw)
            found["seconds"].setdefault(f, []).append(time.perf_counter() - start)
            noise = torch.randn(n, *latents.shape[1:], generator=draw)
            images = stage.to_images(sample_ddim(model, SCHEDULE, noise, steps=20))
            found["samples"][f].append(judge.distance(images.clamp(-1, 1), data.x_test))
    return found


def main(run: Run, *, seeds: PositiveInt = 3) -> None:
    """Train denoisers on pixels and on codes of three sizes, and judge by the front matter.

    Parameters
    ----------
    seeds
        Denoisers per factor.
    """
    paper = papers.load(__file__)
    run.rounding(0.3, "samples of networks after few steps")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check(run)
    quick, default = Size(2, 3, 3, 8, 40, 20), Size(max(seeds, 2), 150, 100, 8, 200, 200)
    full = Size(max(seeds, 8), 3000, 8000, 32, 5000, 3000)
    size = run.budget(quick=quick, default=default, full=full)
    data = (small_mnist if run.mode == "full" else enlarged_digits)(run.generator(1))
    found = distances(run, data, paper.matter["latent_channels"], size)
    samples = {f: np.array(values) for f, values in found["samples"].items()}
    best, late = np.minimum(samples[2], samples[4]), {"quick": False, "rtol": None}
    pixels, smallest = paper.rules
    paper.judge(run, pixels, samples[1] / best, **late)
    paper.judge(run, smallest, samples[8] / best, **late)
    run.falsifier("pixels with no limit on training", found["real"] / best, breaks=pixels)
    for f in FACTORS:
        run.metric(f"distance, f = {f}", samples[f].mean(), rtol=None)
        run.metric(f"first stage alone, f = {f}", found["alone"][f], rtol=None)
    run.metric("distance of real images", found["real"], rtol=None)
    ratios = [a / b for a, b in zip(found["seconds"][1], found["seconds"][4], strict=True)]
    run.metric("time per step, f = 1 over f = 4", statistics.median(ratios), rtol=None)
    with run.figure("factors", "How small should the code be that diffusion learns?") as axes:
        rows = [samples[f] for f in FACTORS]
        lines = {"samples": np.stack(rows, axis=1)}
        lines["first stage alone"] = np.array([found["alone"][f] for f in FACTORS])
        labels = {"xlabel": "f, the first stage's factor per side", "xscale": "log"}
        labels |= {"ylabel": "Fréchet distance from held-out images", "yscale": "log"}
        real = {"real images": found["real"]}
        plots.curves(axes, FACTORS, lines, marker="o", reference=real, **labels)
        axes.set_xticks(FACTORS, [str(f) for f in FACTORS])
        axes.minorticks_off()


def check(run: Run) -> None:
    """The distance against scipy's matrix root; f = 1 against diffusion on pixels."""
    draw = run.generator(3)
    mixes = torch.randn(2, 6, 6, generator=draw).double()
    a, b = (torch.randn(200, 6, generator=draw).double() @ mix for mix in mixes)
    c, d = (np.cov(x.T.numpy()) for x in (a, b))
    gap = float((a.mean(0) - b.mean(0)).square().sum())
    theirs = gap + np.trace(c + d - 2 * scipy.linalg.sqrtm(c @ d).real)
    same = {"atol": 1e-6, "rtol": 1e-6, "why": "float64, roots of products"}
    run.check("Fréchet distance", frechet_distance(a, b), theirs, against="scipy sqrtm", **same)
    x = torch.randn(2, 1, 16, 16, generator=draw)
    size = Size(1, 1, 2, 8, 2, 1)
    data, stage = Split(x, torch.zeros(2).long(), x), first_stage(1, 1, Split(x, x, x), size, draw)
    rule = {"kind": "theorem", "against": "the image: there is no first stage", "why": "equal bits"}
    run.check("f = 1, there and back", stage.to_images(stage.to_latents(data.x)), x.clone(), **rule)


if __name__ == "__main__":
    cli(main)
