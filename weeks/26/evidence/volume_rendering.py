"""Media whose light is known in closed form, cameras turned back, and where samples pay."""

import itertools

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week26.scenes import look_at
from week26.volume_rendering import (
    Field,
    Rays,
    box_bounds,
    camera_rays,
    interval_lengths,
    march,
    quadrature_weights,
    render,
    sample_pdf,
    stratified,
)


def main(run: Run, *, seeds: PositiveInt = 5, rays: PositiveInt = 400) -> None:
    """Check the quadrature and the samplers, then compare even samples with well-placed ones.

    Parameters
    ----------
    seeds
        Sets of rays through a ball.
    rays
        In each set.
    """
    run.rounding(0.02, "float32 sums in another order")
    check_cameras(run)
    check_media(run)
    check_gradient(run)
    check_sampler(run)
    rays = run.budget(quick=50, default=rays)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 20))
    compare_samples(run, seeds, rays)
    show_ray(run)


# ---- checks


def check_cameras(run: Run) -> None:
    """Points on rays, projected by a pinhole's matrix, are the pixels the rays came from."""
    pose, focal = look_at(torch.tensor([1.0, -2.0, 1.5])).double(), 7.0
    rays = camera_rays(pose, 4, 6, focal)
    points = (rays.origins + 1.7 * rays.directions).numpy()
    local = (points - pose[:3, 3].numpy()) @ np.linalg.inv(pose[:3, :3].numpy()).T
    flip = np.diag([1.0, -1.0, -1.0])  # to the convention of matrices: y down, z forward
    seen = local @ flip @ np.array([[focal, 0, 3.0], [0, focal, 2.0], [0, 0, 1.0]]).T
    row, column = np.meshgrid(np.arange(4) + 0.5, np.arange(6) + 0.5, indexing="ij")
    pixels = np.stack([column, row], -1).reshape(-1, 2)
    why = {"why": "float64 rounding", "atol": 1e-6, "kind": "theorem"}
    run.check(
        "pixels of points on rays", seen[:, :2] / seen[:, 2:], pixels, against="K [R|t]", **why
    )
    run.check("their depth", seen[:, 2], np.full(24, 1.7), against="t itself", **why)


def random_medium(generator: torch.Generator, n: int = 6) -> tuple[Tensor, ...]:
    """Edges, densities and colors of slabs, and a direction that is no unit vector."""
    t = 1 + torch.rand(3, n + 1, generator=generator, dtype=torch.double).cumsum(-1)
    density = 2 * torch.rand(3, n, generator=generator, dtype=torch.double)
    color = torch.rand(3, n, generator=generator, dtype=torch.double)
    return t, density, color, torch.randn(3, 3, generator=generator, dtype=torch.double)


def check_media(run: Run) -> None:
    """Constant and piecewise constant media exactly, a smooth one in the limit."""
    t, density, color, d = random_medium(run.generator())
    lengths = interval_lengths(t[:, :-1], d, t[:, -1])
    exact = run.against("its closed form", kind="theorem", why="float64 rounding", atol=1e-12)
    _, left = quadrature_weights(torch.full_like(density, 0.7), lengths)
    far = (t[:, -1] - t[:, 0]) * d.norm(dim=-1)
    exact("transmittance of a constant medium", left, torch.exp(-0.7 * far))
    weights, left = quadrature_weights(density, lengths)
    exact("weights add up to", weights.sum(-1), 1 - left, against="1 - T")
    wall = quadrature_weights(density + 0.01, torch.cat([lengths[:, :-1], far[:, None] * 1e10], 1))
    exact("weights before a wall add up to", wall[0].sum(-1), torch.ones(3), against="1")
    double = interval_lengths(t[:, :-1] / 2, 2 * d, t[:, -1] / 2)
    exact("lengths along a direction of twice the length", double, lengths, against="the same")
    ours = (weights * color).sum(-1)
    media = [part.numpy() for part in (t, density, color, d)]
    slabs = [slab_integral(*one) for one in zip(*media, strict=True)]
    run.check(
        "color of slabs",
        ours,
        np.array(slabs),
        against="scipy.integrate.quad",
        why="its tolerance",
        atol=1e-8,
    )
    errors = []
    for n in (64, 256, 1024):
        even, seen = torch.linspace(0, 4, n + 1, dtype=torch.double)[None], 0.0
        middle = (even[:, 1:] + even[:, :-1]) / 2
        weights, _ = quadrature_weights(bump(middle), even.diff(dim=-1))
        seen = float((weights * middle.cos()).sum())
        errors.append(abs(seen - smooth_integral()))
    run.check(
        "color of a smooth medium, 1024 samples",
        errors[-1],
        0.0,
        against="scipy.integrate.quad, twice",
        why="the midpoint rule's error is of second order",
        atol=1e-5,
    )
    run.metric("error of 64 samples over that of 256, smooth medium", errors[0] / errors[1])


def slab_integral(t: np.ndarray, density: np.ndarray, color: np.ndarray, d: np.ndarray) -> float:
    """The integral of T σ c over slabs, by adaptive quadrature of the definition."""
    speed = np.linalg.norm(d)

    def optical(end: float) -> float:
        inside = np.clip(end - t[:-1], 0, np.diff(t))
        return speed * float((density * inside).sum())

    def light(s: float) -> float:
        i = min(np.searchsorted(t, s, side="right") - 1, len(color) - 1)
        return np.exp(-optical(s)) * density[i] * color[i] * speed

    return sum(quad(light, a, b, epsabs=1e-10)[0] for a, b in itertools.pairwise(t))


def bump(t: Tensor) -> Tensor:
    """Density of a smooth cloud along a ray."""
    return 1.5 * torch.exp(-((t - 2) ** 2))


def smooth_integral() -> float:
    """Its light, with color cos t."""
    density = lambda s: 1.5 * np.exp(-((s - 2) ** 2))  # noqa: E731
    light = lambda s: np.exp(-quad(density, 0, s)[0]) * density(s) * np.cos(s)  # noqa: E731
    return quad(light, 0, 4, epsabs=1e-10)[0]


def check_gradient(run: Run) -> None:
    """More density shows more of a slab, and hides what is behind it."""
    t, density, color, d = random_medium(run.generator(1))
    lengths, density = interval_lengths(t[:, :-1], d, t[:, -1]), density.requires_grad_()
    weights, left = quadrature_weights(density, lengths)
    (grad,) = torch.autograd.grad(((weights * color).sum(-1) + 0.4 * left).sum(), density)
    after = torch.exp(-(density * lengths).cumsum(-1))
    light = weights * color
    behind = light.sum(-1, keepdim=True) - light.cumsum(-1) + 0.4 * left[:, None]
    expected = lengths * (after * color - behind)
    why = {"why": "float64 rounding", "kind": "theorem", "atol": 1e-12}
    run.check("gradient in the densities", grad, expected, against="δ (T c - light behind)", **why)


def check_sampler(run: Run) -> None:
    """Quantiles by interpolation of the cumulative weights, and their distribution."""
    g = run.generator(2)
    edges = torch.rand(4, 9, generator=g, dtype=torch.double).sort(-1).values
    weights = torch.rand(4, 8, generator=g, dtype=torch.double) ** 4
    ours = sample_pdf(edges, weights, 50)
    cdf = np.cumsum(np.pad(weights.numpy(), ((0, 0), (1, 0))), -1)
    quantiles = (np.arange(50) + 0.5) / 50
    theirs = [np.interp(quantiles, c / c[-1], e) for c, e in zip(cdf, edges.numpy(), strict=True)]
    run.check(
        "quantiles of weights",
        ours,
        np.array(theirs),
        against="numpy.interp",
        why="float64 rounding",
        atol=1e-12,
    )
    drawn = sample_pdf(edges, weights, 4000, g)
    shares = np.stack(
        [np.histogram(x, e)[0] / 4000 for x, e in zip(drawn.numpy(), edges.numpy(), strict=True)]
    )
    run.check(
        "shares of samples in the bins",
        shares,
        np.diff(cdf) / cdf[:, -1:],
        against="the weights",
        kind="theorem",
        why="each of 4000 strata has one sample",
        atol=2 / 4000,
    )


# ---- where samples pay


def ball(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """A painted ball, opaque within a twentieth of its radius."""
    inside = 0.5 - points.norm(dim=-1)
    color = (8 * points).sin() / 2 + 0.5
    return 40 * (inside * 100).sigmoid(), color


def compare_samples(run: Run, seeds: int, n: int) -> None:
    """Error of color with 32 + 32 samples over that with 64 even ones."""
    ratios, blind, table = [], [], []
    for seed in range(run.seed, run.seed + seeds):
        g = torch.Generator().manual_seed(seed)
        eyes = torch.nn.functional.normalize(torch.randn(n, 3, generator=g), dim=-1) * 3
        aims = 0.8 * (torch.rand(n, 3, generator=g) - 0.5)
        rays = Rays(eyes, aims - eyes)
        truth = render(ball, rays, n_coarse=4000).color
        error = lambda found, truth=truth: float((found - truth).square().mean().sqrt())  # noqa: E731
        even = error(render(ball, rays, n_coarse=64, generator=g).color)
        placed = error(render(ball, rays, n_coarse=32, n_fine=32, generator=g).color)
        ratios.append(placed / even)
        blind.append(error(without_looking(ball, rays, g)) / even)
        table.append((even, placed))
    name = "samples where the light comes from leave less of the error"
    rule = {"at_most": 0.8, "unit": "of the error of even samples", "rtol": None, "quick": False}
    run.claim(name, ratios, seen_before="0.64 ± 0.08: a first rule, at most 0.5, failed", **rule)
    run.falsifier("the second half drawn without looking", blind, breaks=name)
    for label, values in zip(("even", "placed"), zip(*table, strict=True), strict=True):
        run.metric(f"error of color, 64 {label} samples", np.mean(values), rtol=None)


def without_looking(field: Field, rays: Rays, generator: torch.Generator) -> Tensor:
    """As `render`, with weights that know nothing."""
    near, far = box_bounds(*rays)
    t = stratified(near, far, 32, generator)
    edges = torch.cat([near[:, None], (t[:, 1:] + t[:, :-1]) / 2, far[:, None]], -1)
    more = sample_pdf(edges, torch.ones_like(t), 32, generator)
    return march(field, rays, torch.cat([t, more], -1).sort(-1).values, far).color


def show_ray(run: Run) -> None:
    """One ray through the ball: even samples, their weights, and the samples drawn from them."""
    rays = Rays(torch.tensor([[0.0, -3.0, 0.1]]), torch.tensor([[0.0, 1.0, 0.0]]))
    near, far = box_bounds(*rays)
    t = stratified(near, far, 32)
    edges = torch.cat([near[:, None], (t[:, 1:] + t[:, :-1]) / 2, far[:, None]], -1)
    weights = march(ball, rays, t, far).weights
    fine = sample_pdf(edges, weights, 32)
    line = torch.linspace(2, 4, 801)[None]
    light = march(ball, rays, line, far).weights[0] / (line[0, 1] - line[0, 0])
    with run.figure("ray", "Where does a ray's light come from?") as axes:
        axes.fill_between(line[0], light, color=plots.SKY, alpha=0.4, label="light per length")
        axes.stairs(
            weights[0] / edges[0].diff(), edges[0], color=plots.BLUE, label="32 even samples"
        )
        top = float(light.max())
        axes.plot(t[0], [-0.05 * top] * 32, "|", color=plots.BLUE)
        axes.plot(fine[0], [-0.1 * top] * 32, "|", color=plots.ORANGE, label="32 drawn from these")
        axes.set(xlabel="distance along the ray", ylabel="share of the light per unit of distance")
        axes.legend()
