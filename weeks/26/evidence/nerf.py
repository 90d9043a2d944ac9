"""The network against closed forms and finite differences, then views it never saw."""

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch.nn import functional as F

from shared.images import Views
from shared.study import PositiveInt, Run
from week26.evidence.novel_views import (
    beside,
    decibels,
    draw,
    film,
    mean_picture,
    nearest,
    structure,
)
from week26.image_quality import ssim
from week26.nerf import NeRF, positional_encoding, train
from week26.scenes import orbit, toy_views
from week26.volume_rendering import Rays, picture, render

SAMPLES = {"n_coarse": 24}


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Check the network, then train it on views of a small scene.

    Parameters
    ----------
    seeds
        Networks, each with its own views.
    steps
        Of each training.
    """
    run.rounding(0.05, "a training in float32")
    check_encoding(run)
    check_training(run)
    check_similarity(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=10 * steps)
    size = run.budget(quick=16, default=40, full=80)
    new_views(run, seeds, steps, size)


def network(generator: torch.Generator) -> NeRF:
    """Small: octaves that 40 pixels can show."""
    small = {"d_hidden": 64, "n_layers": 4, "skip": 2}
    return NeRF(generator, position_frequencies=4, direction_frequencies=2, **small)


# ---- checks


def check_encoding(run: Run) -> None:
    """Inner products of encodings depend on differences alone; the paper's network has its size."""
    x, y = torch.rand(2, 50, 3, generator=run.generator(), dtype=torch.double) * 2 - 1
    ours = (positional_encoding(x, 6) * positional_encoding(y, 6)).sum(-1) - (x * y).sum(-1)
    octaves = np.pi * 2.0 ** np.arange(6)
    kernel = np.cos((x - y).numpy()[..., None] * octaves).sum((1, 2))
    run.check(
        "kernel of the encoding",
        ours,
        kernel,
        against="Σ cos 2ᵏπ(x - y)",
        kind="theorem",
        why="float64 rounding",
        atol=1e-9,
    )
    ours = sum(p.numel() for p in NeRF(run.generator()).parameters())
    widths = [(63, 256), *[(256, 256)] * 4, (63 + 256, 256), *[(256, 256)] * 2]
    widths += [(256, 1), (256, 256), (256 + 27, 128), (128, 3)]
    theirs = sum((rows + 1) * columns for rows, columns in widths)
    exact = {"why": "whole numbers", "kind": "theorem", "against": "the layers of the paper's code"}
    run.check("parameters of the paper's network", ours, theirs, **exact)


def check_training(run: Run) -> None:
    """Three steps on one ray, by finite differences of the loss and Adam written out."""
    g = run.generator(1)
    field = NeRF(g, d_hidden=4, n_layers=2, skip=1, position_frequencies=1, direction_frequencies=0)
    field = field.double()
    rays = Rays(torch.tensor([[0.1, -3.0, 0.2]]).double(), torch.tensor([[0.0, 1.1, 0.1]]).double())
    target = torch.tensor([[0.2, 0.5, 0.7]]).double()
    loss = lambda: F.mse_loss(render(field, rays, n_coarse=5).color, target)  # noqa: E731
    flat = lambda: torch.nn.utils.parameters_to_vector(field.parameters())  # noqa: E731
    start = flat().detach().clone()
    optimizer = torch.optim.Adam(field.parameters(), 1e-3)
    gradients, ours = [], []
    for _ in range(3):
        optimizer.zero_grad()
        loss().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in field.parameters()]).clone())
        optimizer.step()
        ours.append(flat().detach().clone())
    m = v = torch.zeros_like(start)
    here, slopes, theirs = start, [], []
    for t in range(1, 4):
        slope = torch.zeros_like(here)
        with torch.no_grad():
            for i in range(len(here)):
                ends = []
                for side in (1e-6, -1e-6):
                    moved = here.clone()
                    moved[i] += side
                    torch.nn.utils.vector_to_parameters(moved, field.parameters())
                    ends.append(float(loss()))
                slope[i] = (ends[0] - ends[1]) / 2e-6
        m, v = 0.9 * m + 0.1 * slope, 0.999 * v + 0.001 * slope**2
        step = m / (1 - 0.9**t) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        here = here - 1e-3 * step
        slopes.append(slope)
        theirs.append(here)
    why = {"kind": "theorem", "why": "differences of a float64 loss"}
    against = {"against": "finite differences"}
    run.check(
        "gradients of the loss",
        torch.stack(gradients),
        torch.stack(slopes),
        atol=1e-7,
        **why,
        **against,
    )
    run.check(
        "three steps of training",
        torch.stack(ours),
        torch.stack(theirs),
        against="Adam by hand on finite differences",
        rtol=1e-3,
        atol=2e-6,
        **why,
    )


def check_similarity(run: Run) -> None:
    """SSIM by SciPy's Gaussian filter."""
    x = torch.rand(20, 24, 3, generator=run.generator(2), dtype=torch.double)
    y = (x + 0.2 * torch.randn(x.shape, generator=run.generator(3), dtype=torch.double)).clamp(0, 1)
    blur = lambda a: gaussian_filter(a, 1.5, axes=(0, 1), radius=5)[5:-5, 5:-5]  # noqa: E731
    a, b = x.numpy(), y.numpy()
    ma, mb = blur(a), blur(b)
    va, vb, ab = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    top = (2 * ma * mb + 0.01**2) * (2 * ab + 0.03**2)
    theirs = (top / (ma**2 + mb**2 + 0.01**2) / (va + vb + 0.03**2)).mean()
    why = {"why": "float64 rounding", "atol": 1e-10}
    run.check("SSIM", ssim(x, y), theirs, against="scipy.ndimage.gaussian_filter", **why)


# ---- views that training did not see


def new_views(run: Run, seeds: int, steps: int, size: int) -> None:
    """Held-out pictures against the nearest view; wrong places; too few views."""
    gain, lost, strangers, few, fits = [], [], [], [], []
    shares: dict[str, list[float]] = {"NeRF": [], "nearest view": [], "mean picture": []}
    alike: dict[str, list[float]] = {name: [] for name in shares}
    for seed in run.progress(range(run.seed, run.seed + seeds), "networks"):
        g = torch.Generator().manual_seed(seed)
        views, test = toy_views(24, size, g), toy_views(4, size, g)
        field = network(g)
        losses = learn(run, field, views, steps, g)
        fifth = max(steps // 5, 1)
        fits.append(np.mean(losses[-fifth:]) / np.mean(losses[:fifth]))
        rows = {
            "NeRF": draw(field, test, **SAMPLES),
            "nearest view": nearest(views, test),
            "mean picture": mean_picture(views, test),
        }
        for name, pictures in rows.items():
            shares[name].append(np.mean(decibels(pictures, test)))
            alike[name].append(np.mean(structure(pictures, test)))
        best = max(shares["nearest view"][-1], shares["mean picture"][-1])
        gain.append(shares["NeRF"][-1] - best)
        moved = Views(views.images, np.roll(views.poses, 5, 0), views.focal)
        wrong = network(g)
        learn(run, wrong, moved, steps // 2, g)
        strangers.append(np.mean(decibels(draw(wrong, test, **SAMPLES), test)) - best)
        three = Views(views.images[:3], views.poses[:3], views.focal)
        starved = network(g)
        learn(run, starved, three, steps // 2, g)
        alone = draw(starved, test, **SAMPLES)
        few.append(np.mean(decibels(draw(starved, three, **SAMPLES), three)))
        lost.append(few[-1] - np.mean(decibels(alone, test)))
    late = {"quick": False, "rtol": None}
    seen = "0.2 ± 0.1: a first rule, at most 0.2, was inconclusive"
    run.claim("the loss falls by half", fits, at_most=0.5, seen_before=seen, **late)
    name = "new views are nearer than the nearest view and the mean picture"
    run.claim(name, gain, at_least=2.0, unit="dB", **late)
    run.falsifier("each picture with another's camera", strangers, breaks=name)
    run.claim("three views are fitted and not understood", lost, at_least=5.0, unit="dB", **late)
    for label in shares:
        run.metric(f"PSNR, {label}", np.mean(shares[label]), "dB", rtol=None)
        run.metric(f"SSIM, {label}", np.mean(alike[label]), rtol=None)
    run.metric("PSNR of the training pictures, three views", np.mean(few), "dB", rtol=None)
    rows = {"truth": test.images, **rows, "of three views": alone}
    with run.figure(
        "views", "What does a view show that nobody took?", rows=5, size=(7, 8)
    ) as axes:
        beside(rows, axes)
    poses = orbit(run.budget(quick=2, default=24))
    frames = [picture(field, pose, size, test.focal, **SAMPLES).numpy() for pose in poses]
    film(run, "orbit", "A walk around the scene", frames)


def learn(run: Run, field: NeRF, views: Views, steps: int, g: torch.Generator) -> list[float]:
    """The losses of a training, with its progress."""
    return train(field, views, steps=range(steps), generator=g, lr=1e-2, **SAMPLES)
