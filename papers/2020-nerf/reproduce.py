r"""Do waves of doubling frequency help a network to see detail, and can there be too many?

$$ \gamma(p) = \left( \sin 2^0 \pi p,\, \cos 2^0 \pi p,\, \ldots,\,
   \sin 2^{L-1} \pi p,\, \cos 2^{L-1} \pi p \right) . $$

Reduced: a generated scene in small pictures, and one photograph as a function of two coordinates.
The rules stand in the front matter of README.md.

    uv run papers/2020-nerf/reproduce.py

Mildenhall et al. (2020), "NeRF: representing scenes as neural radiance fields for view synthesis",
equation 4, table 2.
"""

import math

import numpy as np
import torch
from scipy.integrate import quad
from torch import Tensor, nn
from torch.nn import functional as F

from shared import papers, plots
from shared.datasets import photographs
from shared.study import PositiveInt, Run, cli
from week26.image_quality import psnr
from week26.nerf import NeRF, positional_encoding, train
from week26.scenes import toy_views
from week26.volume_rendering import interval_lengths, picture, quadrature_weights

OCTAVES = (0, 2, 4, 6, 10)
INNER, SCENE = (2, 4, 6), 4
SAMPLES = {"n_coarse": 16}


class NoWaves(NeRF):
    """As many inputs of a point, all of them linear in it."""

    def encode(self, points: Tensor) -> Tensor:
        """The coordinates, and twice each times the powers of two that would be frequencies."""
        octaves = 2.0 ** torch.arange(self.frequencies[0])
        scaled = (points[..., None] * octaves / octaves.sum()).flatten(-2)
        return torch.cat([points, scaled, -scaled], -1)


def scene_network(arm: str, generator: torch.Generator) -> NeRF:
    """The network of an arm; all are alike but for what they are told of a point."""
    kind = NoWaves if arm == "no waves" else NeRF
    frequencies = 0 if arm == "0 octaves" else SCENE
    small = {"d_hidden": 64, "n_layers": 4, "skip": 2, "direction_frequencies": 2}
    return kind(generator, position_frequencies=frequencies, **small)


def measure_scene(seed: int, steps: int, size: int) -> dict[str, float]:
    """Mean PSNR of four held-out views, by arm."""
    views_of = torch.Generator().manual_seed(seed)
    views, test = toy_views(16, size, views_of), toy_views(4, size, views_of)
    found = {}
    for arm in (f"{SCENE} octaves", "0 octaves", "no waves"):
        g = torch.Generator().manual_seed(1000 + seed)
        field = scene_network(arm, g)
        g.manual_seed(2000 + seed)  # the same rays, however many weights were drawn
        train(field, views, steps=range(steps), generator=g, lr=1e-2, **SAMPLES)
        decibels = []
        for pose, image in zip(torch.as_tensor(test.poses), test.images, strict=True):
            drawn = picture(field, pose, size, test.focal, **SAMPLES)
            decibels.append(psnr(drawn, torch.as_tensor(image)))
        found[arm] = float(np.mean(decibels))
    return found


def measure_photograph(seed: int, steps: int, size: int) -> dict[int, float]:
    """PSNR of pixels that training did not see, by octaves."""
    g = torch.Generator().manual_seed(seed)
    photo, side = photographs()["flower"], 4 * size
    top, left = (int(torch.randint(n - side + 1, (), generator=g)) for n in photo.shape[:2])
    square = torch.as_tensor(photo[top : top + side, left : left + side] / 255).float()
    pixels = F.avg_pool2d(square.permute(2, 0, 1), 4).permute(1, 2, 0).reshape(-1, 3)
    axis = (torch.arange(size) + 0.5) * 2 / size - 1
    points = torch.cartesian_prod(axis, axis)
    order = torch.randperm(len(points), generator=g)
    seen, kept = order[: len(order) // 2], order[len(order) // 2 :]
    found = {}
    for octaves in OCTAVES:
        g.manual_seed(1000 + seed)
        inputs = positional_encoding(points, octaves)
        net = image_network(inputs.shape[1], g)
        optimizer = torch.optim.Adam(net.parameters(), 3e-3)
        for _ in range(steps):
            batch = seen[torch.randint(len(seen), (512,), generator=g)]
            loss = F.mse_loss(net(inputs[batch]), pixels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            error = F.mse_loss(net(inputs[kept]), pixels[kept])
        found[octaves] = -10 * math.log10(float(error))
    return found


def image_network(width: int, generator: torch.Generator) -> nn.Sequential:
    """From what is told of a point to a color."""
    layers: list[nn.Module] = []
    for rows in (width, 64, 64):
        layers += [nn.Linear(rows, 64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 3), nn.Sigmoid())
    for layer in net[::2]:
        nn.init.kaiming_uniform_(layer.weight, generator=generator, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    return net


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 200) -> None:
    """Train, draw what was not seen, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Sets of views, and parts of the photograph.
    steps
        Updates of each network.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "a training in float32")
    check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=10 * steps)
    span = range(run.seed, run.seed + seeds)
    sizes = run.budget(quick=(16, 16), default=(32, 64), full=(64, 96))
    scene = [measure_scene(seed, steps, sizes[0]) for seed in run.progress(span, "scenes")]
    photo = [
        measure_photograph(seed, 2 * steps, sizes[1]) for seed in run.progress(span, "photographs")
    ]
    of_scene = {arm: np.array([found[arm] for found in scene]) for arm in scene[0]}
    of_photo = {n: np.array([found[n] for found in photo]) for n in OCTAVES}
    verdicts(run, paper, of_scene, of_photo)
    draw(run, of_photo, paper.matter)


def verdicts(run: Run, paper: papers.Paper, scene: dict, photo: dict) -> None:
    """Judge decibels of each seed."""
    late = {"quick": False, "rtol": None}
    helps, few, many = list(paper.rules)
    without = scene["0 octaves"]
    paper.judge(run, helps, scene[f"{SCENE} octaves"] - without, **late)
    run.falsifier("as many inputs without waves", scene["no waves"] - without, breaks=helps)
    best = np.max([photo[n] for n in INNER], 0)
    paper.judge(run, few, best - photo[0], **late)
    paper.judge(run, many, best - photo[10], **late)
    for arm, values in scene.items():
        run.metric(f"scene, {arm}", values.mean(), "dB", rtol=None)
    for n, values in photo.items():
        run.metric(f"photograph, {n} octaves", values.mean(), "dB", rtol=None)


def draw(run: Run, photo: dict[int, np.ndarray], matter: dict) -> None:
    """Ours by octaves, and the paper's ablation."""
    title = "How many octaves should a network be told?"
    with run.figure("octaves", title, columns=2, size=(10, 4)) as axes:
        lines = {"unseen pixels": np.array(list(photo.values())).T}
        labels = {"xlabel": "octaves", "ylabel": "PSNR, dB", "ends": False}
        plots.curves(axes[0], list(photo), lines, marker="o", **labels)
        axes[0].set_title("a photograph, each seed's part", size=10)
        names = list(matter["paper_psnr"])[::-1]
        axes[1].plot([matter["paper_psnr"][n] for n in names], names, "o", color=plots.REFERENCE)
        axes[1].set(xlabel="PSNR, dB", xlim=(26, 32))
        axes[1].set_title("the paper, mean of eight scenes", size=10)


def check(run: Run) -> None:
    """A constant medium against the analytic integral; the encoding's kernel."""
    t = torch.linspace(1, 3, 65, dtype=torch.double)[None]
    direction = torch.tensor([[0.0, 0.6, -1.2]], dtype=torch.double)
    lengths = interval_lengths(t[:, :-1], direction, t[:, -1])
    weights, left = quadrature_weights(torch.full_like(lengths, 0.8), lengths)
    speed = float(direction.norm())
    survives = lambda s: math.exp(-0.8 * speed * (s - 1))  # noqa: E731
    light = quad(lambda s: survives(s) * 0.8 * speed, 1, 3)[0]
    why = {"why": "float64 rounding", "atol": 1e-8}
    run.check(
        "light of a constant medium", weights.sum(), light, against="scipy.integrate.quad", **why
    )
    behind = {"against": "exp(-σ L)", "kind": "theorem"}
    run.check("what is left of the background", left[0], survives(3), **behind, **why)
    x, y = torch.rand(2, 20, 2, generator=run.generator(), dtype=torch.double)
    ours = (positional_encoding(x, 10) * positional_encoding(y, 10)).sum(-1) - (x * y).sum(-1)
    octaves = np.pi * 2.0 ** np.arange(10)
    kernel = np.cos((x - y).numpy()[..., None] * octaves).sum((1, 2))
    stationary = {"against": "Σ cos 2ᵏπ(x - y)", "kind": "theorem"}
    run.check("kernel of ten octaves", ours, kernel, **stationary, **why)


if __name__ == "__main__":
    cli(main)
