"""One Gaussian in closed form, layers one by one, and a photograph in as many numbers as pixels."""

import numpy as np
import torch
from scipy.stats import multivariate_normal
from torch import Tensor
from torch.nn import functional as F

from shared.datasets import photographs
from shared.study import PositiveInt, Run
from week26.gaussian_splatting import Splats, composite_weights, fit, pixel_centers, render_splats
from week26.image_quality import psnr
from week26.volume_rendering import quadrature_weights


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 300) -> None:
    """Check the splats, then fit parts of a photograph.

    Parameters
    ----------
    seeds
        Parts of the photograph, each with its own start.
    steps
        Of each fit.
    """
    run.rounding(0.05, "a training in float32")
    check_one(run)
    check_stack(run)
    check_gradient(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    fit_photographs(run, seeds, run.budget(quick=6, default=steps, full=10 * steps))


def one(dtype: torch.dtype = torch.double) -> Splats:
    """A slanted ellipse."""
    parts = ([[0.2, -0.1]], [[0.3, 0.1]], [0.6], [0.8], [[0.9, 0.2, 0.4]])
    return Splats(*(torch.tensor(part, dtype=dtype) for part in parts))


def check_one(run: Run) -> None:
    """Alpha is a normal density over its peak; all of it together is o 2π √|Σ|."""
    splats, points = one(), pixel_centers(200, 200).double()
    alpha, covariance = splats.alpha(points)[:, 0].detach(), splats.covariance()[0].detach()
    normal = multivariate_normal(splats.mean[0].detach(), covariance)
    why = {"why": "float64 rounding", "atol": 1e-9}
    theirs = 0.8 * normal.pdf(points.numpy()) / normal.pdf(normal.mean)
    run.check(
        "alpha of one Gaussian", alpha, theirs, against="scipy.stats.multivariate_normal", **why
    )
    whole = 0.8 * 2 * np.pi * np.sqrt(np.linalg.det(covariance))
    exact = {"kind": "theorem", "why": "what lies outside of the square", "rtol": 1e-3}
    total = float(alpha.sum()) * (2 / 200) ** 2
    run.check("its sum over the square", total, whole, against="o 2π √|Σ|", **exact)


def check_stack(run: Run) -> None:
    """Layer over layer by a loop, and as a medium of that optical depth."""
    alpha = torch.rand(40, 9, generator=run.generator(), dtype=torch.double)
    color = torch.rand(9, generator=run.generator(1), dtype=torch.double)
    weights, left = composite_weights(alpha)
    seen = np.full(40, 1.0)
    for i in reversed(range(9)):  # painted from back to front
        seen = alpha[:, i].numpy() * color[i].item() + (1 - alpha[:, i].numpy()) * seen
    exact = run.against("painting from back to front", kind="theorem", why="rounding", atol=1e-12)
    exact("colors of a stack", weights @ color + left, seen)
    medium, behind = quadrature_weights(-torch.log1p(-alpha), torch.ones_like(alpha))
    exact(
        "weights", weights, medium, against="volume rendering, σδ = -ln(1 - α)", kind="consistency"
    )
    exact("what is left", left, behind, against="exp(-Σ σδ)")


def check_gradient(run: Run) -> None:
    """All kinds of parameters by finite differences."""
    g = run.generator(2)
    splats = Splats.scattered(3, g).double()
    for p in splats.parameters():
        p.data += 0.1 * torch.randn(p.shape, generator=g)
    image = torch.rand(5, 6, 3, generator=g, dtype=torch.double)
    loss = lambda: F.mse_loss(render_splats(splats, 5, 6), image)  # noqa: E731
    loss().backward()
    ours = torch.cat([p.grad.flatten() for p in splats.parameters()])
    theirs = []
    with torch.no_grad():
        for p in splats.parameters():
            flat = p.view(-1)
            for i in range(len(flat)):
                start, ends = float(flat[i]), []
                for side in (1e-6, -1e-6):
                    flat[i] = start + side
                    ends.append(float(loss()))
                flat[i] = start
                theirs.append((ends[0] - ends[1]) / 2e-6)
    why = {"why": "differences of a float64 loss", "kind": "theorem", "atol": 1e-8}
    run.check("gradients", ours, np.array(theirs), against="finite differences", **why)


def fit_photographs(run: Run, seeds: int, steps: int) -> None:
    """The error of the fit against other ways to spend as many numbers."""
    n, size = run.budget(quick=(20, 16), default=(100, 48), full=(400, 96))
    found: dict[str, list[float]] = {"splats": [], "fixed": [], "pixels": [], "mean": []}
    photo = photographs()["flower"]
    for seed in run.progress(range(run.seed, run.seed + seeds), "photographs"):
        image = part_of(photo, seed, size)
        splats = Splats.scattered(n, torch.Generator().manual_seed(seed))
        fit(splats, image, steps=steps)
        fixed = Splats.scattered(n, torch.Generator().manual_seed(seed))
        fit(fixed, image, steps=steps // 3, moves=lambda name: "color" in name)
        with torch.no_grad():
            pictures = {"splats": render_splats(splats, size, size)}
            pictures["fixed"] = render_splats(fixed, size, size)
        pictures["pixels"] = as_pixels(image, splats.n_numbers)
        pictures["mean"] = image.mean((0, 1)).expand_as(image)
        for name, picture in pictures.items():
            found[name].append(psnr(picture.clamp(0, 1), image))
    values = {name: np.array(each) for name, each in found.items()}
    late = {"quick": False, "rtol": None, "unit": "dB"}
    better = "Gaussians fit better than pixels of as many numbers"
    seen = "-1.0 ± 0.7 with half the learning rate"
    pixels = values["splats"] - values["pixels"]
    run.claim(better, pixels, at_least=0.0, seen_before=seen, **late)
    name = "Gaussians that move fit far better than one color"
    run.claim(name, values["splats"] - values["mean"], at_least=8.0, **late)
    run.falsifier(
        "Gaussians that stay where they are", values["fixed"] - values["mean"], breaks=name
    )
    for label, each in values.items():
        run.metric(f"PSNR, {label}", each.mean(), "dB", rtol=None)
    title = "As many numbers: ellipses, pixels, or ellipses that cannot move?"
    shown = {"photograph": image} | {k: pictures[k] for k in ("splats", "pixels", "fixed")}
    with run.figure("fit", title, columns=4, size=(9, 2.8)) as axes:
        for ax, (label, picture) in zip(axes, shown.items(), strict=True):
            ax.imshow(picture.clamp(0, 1).numpy(), interpolation="nearest")
            ax.set_axis_off()
            ax.set_title(label, size=10)


def part_of(photo: np.ndarray, seed: int, size: int) -> Tensor:
    """A square of the photograph, from another place for each seed, averaged to this size."""
    g = torch.Generator().manual_seed(seed)
    side = 288
    top, left = (int(torch.randint(n - side, (), generator=g)) for n in photo.shape[:2])
    square = torch.as_tensor(photo[top : top + side, left : left + side] / 255).float()
    return F.adaptive_avg_pool2d(square.permute(2, 0, 1), size).permute(1, 2, 0)


def as_pixels(image: Tensor, numbers: int) -> Tensor:
    """The picture in at most about this many numbers: averaged, and interpolated back."""
    side = round((numbers / 3) ** 0.5)
    planes = image.permute(2, 0, 1)[None]
    small = F.adaptive_avg_pool2d(planes, side)
    return F.interpolate(small, image.shape[:2], mode="bicubic")[0].permute(1, 2, 0)
