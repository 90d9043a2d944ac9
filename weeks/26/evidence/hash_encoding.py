"""The grid against three interpolators, then a small scene and a lego model in a minute."""

import numpy as np
import torch
from scipy.interpolate import RegularGridInterpolator
from torch import Tensor, nn
from torch.nn import functional as F

from shared import datasets
from shared.images import Views
from shared.study import PositiveInt, Run, UserError
from week26.evidence.novel_views import (
    beside,
    decibels,
    draw,
    film,
    mean_picture,
    nearest,
    structure,
)
from week26.hash_encoding import HashField, HashGrid, OccupancyGrid, skip_empty, spatial_hash
from week26.nerf import NeRF, train
from week26.scenes import orbit, toy_views
from week26.volume_rendering import Rays, picture, render

SAMPLES = {"n_coarse": 24}
LEGO_HALF = 1.5  # half of the cube around the model, in its own units


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 200) -> None:
    """Check the grid, train it on a small scene, then on the lego bulldozer if that is there.

    Parameters
    ----------
    seeds
        Fields, each with its own views of the small scene.
    steps
        Of each training.
    """
    run.rounding(0.05, "a training in float32")
    check_hash(run)
    check_dense_level(run)
    check_occupancy(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=4, default=steps, full=10 * steps)
    small_scene(run, seeds, steps)
    if run.mode != "quick":
        lego(run, 2 * steps)


# ---- checks


def check_hash(run: Run) -> None:
    """Arithmetic of 32 bits, and the fast reading against the slow one."""
    corners = torch.randint(0, 2048, (500, 3), generator=run.generator())
    primes = np.array([1, 2654435761, 805459861], np.uint32)
    products = corners.numpy().astype(np.uint32) * primes  # wraps around, as on a GPU
    theirs = np.bitwise_xor.reduce(products, -1) % np.uint32(2**14)
    why = {"why": "whole numbers", "against": "numpy.uint32"}
    run.check("rows of hashed corners", spatial_hash(corners, 2**14), theirs.astype(int), **why)
    grid = HashGrid(run.generator(1), n_levels=5, log2_size=9).double()
    nn.init.normal_(grid.table, generator=run.generator(2))
    points = torch.rand(200, 3, generator=run.generator(3), dtype=torch.double) * 2 - 1
    slow = {
        "against": "corner after corner",
        "kind": "consistency",
        "why": "rounding",
        "atol": 1e-9,
    }
    run.check("vectors of points", grid(points), grid.by_level(points), **slow)


def check_dense_level(run: Run) -> None:
    """A level whose corners all fit is plain trilinear interpolation; so is its training."""
    grid = HashGrid(run.generator(4), n_levels=2, n_features=1, coarsest=5, finest=7, log2_size=10)
    grid = grid.double()
    nn.init.normal_(grid.table, generator=run.generator(5))
    points = torch.rand(100, 3, generator=run.generator(6), dtype=torch.double) * 2 - 1
    ours = grid(points)[:, 0]
    cube = grid.table[: 6**3, 0].view(6, 6, 6).detach().clone()  # z, y, x
    axis = np.linspace(-1, 1, 6)
    theirs = RegularGridInterpolator((axis,) * 3, cube.numpy())(points.numpy()[:, ::-1])
    why = {"why": "float64 rounding", "atol": 1e-12}
    run.check("a dense level", ours, theirs, against="scipy RegularGridInterpolator", **why)
    cube = cube.requires_grad_()
    target = torch.randn(100, generator=run.generator(7), dtype=torch.double)

    def sampled() -> Tensor:
        return F.grid_sample(cube[None, None], points.view(1, -1, 1, 1, 3), align_corners=True)

    same = run.against("torch's grid_sample", **why)
    gradient = torch.autograd.grad(F.mse_loss(ours, target), grid.table)[0][: 6**3, 0]
    theirs = torch.autograd.grad(F.mse_loss(sampled().flatten(), target), cube)[0]
    same("gradient of its corners", gradient, theirs.flatten())
    for parameter, value in ((grid.table, lambda: grid(points)[:, 0]), (cube, sampled)):
        optimizer = torch.optim.Adam([parameter], 0.01)
        for _ in range(3):
            optimizer.zero_grad()
            F.mse_loss(value().flatten(), target).backward()
            optimizer.step()
    same("its corners after three steps", grid.table[: 6**3, 0], cube.flatten(), atol=1e-9)


def check_occupancy(run: Run) -> None:
    """Where nothing is, not asking changes nothing."""
    occupancy, asked = OccupancyGrid(8, threshold=0.0), []

    def box(points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        asked.append(len(points))
        inside = (points.abs() < 0.5).all(-1)
        return 5.0 * inside, points / 2 + 0.5

    occupancy.update(box, run.generator(8))
    aims = torch.rand(60, 3, generator=run.generator(9)) - 0.5
    rays = Rays(torch.tensor([0.0, -3.0, 0.0]).expand(60, 3), aims + torch.tensor([0.0, 3.0, 0.0]))
    asked.clear()
    whole = render(box, rays, n_coarse=32).color
    sparse = render(skip_empty(box, occupancy), rays, n_coarse=32).color
    why = {"against": "asking everywhere", "kind": "consistency", "why": "rounding", "atol": 1e-6}
    run.check("colors without asking where nothing is", sparse, whole, **why)
    run.metric("points asked, of a box in the cube", asked[1] / asked[0], rtol=None)


# ---- training


class Sparse(nn.Module):
    """A field that is trained, and asked only where its occupancy says so."""

    def __init__(self, field: HashField):
        super().__init__()
        self.field, self.occupancy = field, OccupancyGrid()

    def forward(self, points: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Density and color."""
        return skip_empty(self.field, self.occupancy)(points, directions)

    def learn(self, views: Views, steps: int, g: torch.Generator, **options: int) -> list[float]:
        """Train, with a look at every cell each sixteen steps; the losses."""

        def after(step: int) -> None:
            if step % 16 == 15:
                self.occupancy.update(self.field, g)

        return train(self, views, steps=range(steps), generator=g, lr=2e-2, after=after, **options)


def new_field(generator: torch.Generator, finest: int = 64) -> HashField:
    """Eight levels."""
    return HashField(HashGrid(generator, finest=finest), generator)


def products(module: nn.Module) -> int:
    """Multiplications per point in a module's layers."""
    return sum(m.weight.numel() for m in module.modules() if isinstance(m, nn.Linear))


def small_scene(run: Run, seeds: int, steps: int) -> None:
    """The grid, the same with a table that is not trained, and the MLP, after as many steps."""
    size = run.budget(quick=16, default=40, full=80)
    found: dict[str, list[float]] = {n: [] for n in ("grid", "frozen", "MLP", "nearest", "asked")}
    for seed in run.progress(range(run.seed, run.seed + seeds), "fields"):
        g = torch.Generator().manual_seed(seed)
        views, test = toy_views(24, size, g), toy_views(4, size, g)
        score = lambda field, test=test: np.mean(decibels(draw(field, test, **SAMPLES), test))  # noqa: E731
        grid = Sparse(new_field(g))
        grid.learn(views, steps, g, **SAMPLES)
        frozen = Sparse(new_field(g))
        nn.init.normal_(frozen.field.grid.table.requires_grad_(False), generator=g)
        frozen.learn(views, steps // 2, g, **SAMPLES)
        mlp = {"d_hidden": 64, "n_layers": 4, "skip": 2, "direction_frequencies": 2}
        net = NeRF(g, position_frequencies=4, **mlp)
        train(net, views, steps=range(steps), generator=g, lr=1e-2, **SAMPLES)
        for name, field in (("grid", grid), ("frozen", frozen), ("MLP", net)):
            found[name].append(score(field))
        found["nearest"].append(np.mean(decibels(nearest(views, test), test)))
        found["asked"].append(grid.occupancy.share)
    values = {name: np.array(each) for name, each in found.items()}
    late = {"quick": False, "rtol": None}
    name = "a learned grid draws new views better than the nearest view"
    run.claim(name, values["grid"] - values["nearest"], at_least=2.0, unit="dB", **late)
    run.falsifier(
        "a grid of fixed random numbers", values["frozen"] - values["nearest"], breaks=name
    )
    level = "after as many steps it is within a decibel of the MLP"
    run.claim(level, values["grid"] - values["MLP"], at_least=-1.0, unit="dB", **late)
    run.claim("most of the cube is not asked", values["asked"], at_most=0.4, **late)
    for label in ("grid", "frozen", "MLP", "nearest"):
        run.metric(f"PSNR, {label}", values[label].mean(), "dB", rtol=None)
    run.metric("multiplications per point, MLP", products(net))
    run.metric("multiplications per point, network behind the grid", products(grid.field))
    run.metric("numbers in the grid", grid.field.grid.table.numel())


def bulldozer(run: Run, g: torch.Generator) -> Views:
    """The lego bulldozer in the cube [-1, 1]³; the small scene where its pictures are not there."""
    size = run.budget(quick=20, default=100, full=200)
    try:
        views = datasets.nerf_lego(size)
    except UserError as missing:
        run.say(f"{missing}; the small scene is drawn instead")
        return toy_views(34, size, g)
    poses = views.poses.copy()
    poses[:, :3, 3] /= LEGO_HALF
    return Views(views.images, poses, views.focal)


def lego(run: Run, steps: int) -> None:
    """Held-out views of the bulldozer, and a film around it."""
    g, samples = run.generator(), {"n_coarse": 48}
    views = bulldozer(run, g)
    poses = views.poses
    held = np.arange(len(poses)) % 5 == 2
    seen, test = (Views(views.images[i], poses[i], views.focal) for i in (~held, held))
    field = Sparse(new_field(g, finest=128))
    field.learn(seen, steps, g, batch_size=512, **samples)
    rows = {
        "hash grid": draw(field, test, **samples),
        "nearest view": nearest(seen, test),
        "mean picture": mean_picture(seen, test),
    }
    scores = {name: decibels(pictures, test) for name, pictures in rows.items()}
    gain = np.array(scores["hash grid"]) - np.maximum(
        scores["nearest view"], scores["mean picture"]
    )
    note = "one field; n held-out views"
    name = "bulldozer: new views are nearer than the nearest view and the mean picture"
    run.claim(name, gain, at_least=3.0, unit="dB", note=note, rtol=None)
    for label, pictures in rows.items():
        run.metric(f"PSNR, bulldozer, {label}", np.mean(scores[label]), "dB", rtol=None)
        run.metric(f"SSIM, bulldozer, {label}", np.mean(structure(pictures, test)), rtol=None)
    shown = {"held out": test.images[:4]} | {k: v[:4] for k, v in rows.items()}
    with run.figure(
        "lego", "What does the grid draw of views that were held out?", rows=4, size=(8, 8)
    ) as axes:
        beside(shown, axes)
    around = orbit(20, distance=float(np.linalg.norm(poses[0, :3, 3])))
    size = views.images.shape[1]
    frames = [picture(field, pose, size, views.focal, **samples).numpy() for pose in around]
    film(run, "orbit", "A walk around the bulldozer", frames, zoom=2)
