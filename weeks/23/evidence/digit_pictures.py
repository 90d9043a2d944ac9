"""Digits out of noise: does it learn, how near do samples come, what does predicting x₀ cost?"""

import math

import torch
from torch import Tensor

from shared import plots
from shared.study import Run
from week23.ddpm import TimeMLP, bits_per_dim, simple_loss, train
from week23.digit_judge import LEVELS, Judge, Split, split
from week23.mixtures import Mixture
from week23.schedules import Kind, Model, Schedule, sample_ddim, sample_ddpm

SCHEDULE = Schedule.cosine(100)
SEEN = "all kinds of prediction with two schedules, one split of seed 100, 1,000 steps"


def optimal(points: Tensor, schedule: Schedule) -> Model:
    """What no training can beat on a finite data set: the score of its noised points."""
    data = Mixture.of_points(points)

    def model(x: Tensor, t: Tensor) -> Tensor:
        a = float(schedule.alphas_bar[int(t[0])])
        return data.noised(a**0.5, (1 - a) ** 0.5).score(x)

    return model


def new_model(data: Split, seed: int, steps: int, kind: Kind, *, shuffled: bool = False) -> TimeMLP:
    """A network trained by the simple loss; shuffled, it is to name the noise of another row."""
    g = torch.Generator().manual_seed(seed)
    net = TimeMLP(64, 128, len(SCHEDULE), g)

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        noise = torch.randn(len(i), 64, generator=g)
        if not shuffled:
            return simple_loss(SCHEDULE, net, data.x[i], t, noise, kind=kind)
        x = SCHEDULE.add_noise(data.x[i], noise, t)
        target = SCHEDULE.convert(noise.roll(1, 0), x, t, "epsilon", kind)
        return (net(x, t) - target).square().mean(-1)

    train(net, loss, len(data.x), steps=steps, generator=g)
    return net


@torch.no_grad()
def explained(net: Model, data: Split, seed: int) -> float:
    """Which share of held-out noise is named: 1 is all of it, 0 that of saying nothing."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(len(data.x_test)) % len(SCHEDULE)
    noise = torch.randn(data.x_test.shape, generator=g)
    return float(1 - simple_loss(SCHEDULE, net, data.x_test, t, noise).mean())


def gaussian_samples(data: Split, n: int, g: torch.Generator) -> Tensor:
    """Pictures from a Gaussian with the data's mean and covariance, cut off like the others."""
    values, vectors = torch.linalg.eigh(data.x.T.cov())
    root = vectors * values.clamp(min=0).sqrt()
    return (data.x.mean(0) + torch.randn(n, 64, generator=g) @ root.T).clamp(-1, 1)


def pixels_alone(data: Split) -> float:
    """Bits per pixel of a code that knows how often each pixel has each level, and no more."""
    level = lambda x: ((x + 1) * (LEVELS - 1) / 2).round().long()  # noqa: E731
    seen = torch.nn.functional.one_hot(level(data.x), LEVELS).sum(0) + 1.0
    p = seen / seen.sum(-1, keepdim=True)
    return float(-p[torch.arange(64), level(data.x_test)].log2().mean())


def judge_digits(run: Run, seeds: int, steps: int) -> None:
    """Networks that predict the noise, the data, and noise of other rows."""
    n, few = run.budget(quick=(100, (4, 10)), default=(500, (5, 10, 20, 50, 100)))
    found: dict[str, list] = {}
    note = lambda name, value: found.setdefault(name, []).append(value)  # noqa: E731
    pictures = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "networks"):
        data = split(seed)
        judge = Judge.trained(data, seed, steps=run.budget(quick=20, default=400))
        g = torch.Generator().manual_seed(1000 + seed)
        start = torch.randn(n, 64, generator=g)
        rows = data.x_test[: run.budget(quick=20, default=200)]
        for kind in ("epsilon", "x0"):
            net = new_model(data, seed, steps, kind)
            if kind == "epsilon":
                note("explained", explained(net, data, seed))
            options = {"kind": kind, "clip": 1.0, "generator": g}
            for name, sample in (("DDIM", sample_ddim), ("ancestral", sample_ddpm)):
                ends = [sample(net, SCHEDULE, start, steps=k, **options) for k in few]
                note(f"{name}, {kind}", [judge.distance(x, data.x_test) for x in ends])
                pictures[f"{name}, {kind}"] = ends[-1]
            bits = bits_per_dim(net, SCHEDULE, rows, levels=LEVELS, **options)
            note(f"bits, {kind}", float(bits.mean()))
        other = new_model(data, seed, steps // 2, "epsilon", shuffled=True)
        note("explained, shuffled", explained(other, data, seed))
        x = sample_ddim(other, SCHEDULE, start, steps=few[-1], clip=1.0)
        note("shuffled", judge.distance(x, data.x_test))
        note("floor", judge.distance(data.x[:n], data.x_test))
        note("Gaussian", judge.distance(gaussian_samples(data, n, g), data.x_test))
        note("bits, each pixel alone", pixels_alone(data))
    values = {name: torch.tensor(runs).double() for name, runs in found.items()}
    settle(run, values, few)
    draw(run, values, few)
    show(run, data, pictures)


def settle(run: Run, found: dict[str, Tensor], few: tuple[int, ...]) -> None:
    """Claims by their rules, and the numbers that the texts quote."""
    late = {"quick": False, "rtol": None, "seen_before": SEEN}
    learned = "it names half of held-out noise"
    run.claim(learned, found["explained"], at_least=0.5, each=True, **late)
    run.falsifier("told the noise of other rows", found["explained, shuffled"], breaks=learned)
    near = "samples are nearer than those of a Gaussian with the data's mean and covariance"
    best = found["DDIM, x0"][:, -1]
    options = late | {"unit": "of its distance"}
    run.claim(near, best / found["Gaussian"], at_most=0.8, **options)
    run.falsifier(
        "trained on the noise of other rows", found["shuffled"] / found["Gaussian"], breaks=near
    )
    at = few.index(10)
    gap = found["ancestral, epsilon"][:, at] - found["DDIM, epsilon"][:, at]
    run.claim("in ten steps DDIM comes nearer than ancestral steps", gap, at_least=0.0, **late)
    gap = found["DDIM, epsilon"][:, -1] - best
    run.claim("who predicts the data draws better", gap, at_least=0.0, **late)
    gap = found["bits, x0"] - found["bits, epsilon"]
    run.claim("and codes worse", gap, at_least=1.0, **(late | {"unit": "bits per pixel"}))
    for name in ("bits, epsilon", "bits, x0", "bits, each pixel alone"):
        run.metric(name, found[name].mean(), "bits per pixel", rtol=None)
    run.metric("bits, all levels alike", math.log2(LEVELS), "bits per pixel", rtol=0)
    for name in ("floor", "Gaussian", "shuffled"):
        run.metric(f"distance, {name}", found[name].mean(), rtol=None)
    for name in ("DDIM, epsilon", "ancestral, epsilon", "DDIM, x0", "ancestral, x0"):
        run.metric(f"distance, {name}", found[name][:, -1].mean(), rtol=None)


def draw(run: Run, found: dict[str, Tensor], few: tuple[int, ...]) -> None:
    """Distances from held-out digits against the number of steps."""
    names = {"DDIM, epsilon": "DDIM, predicts ε", "ancestral, epsilon": "ancestral, predicts ε"}
    names |= {"DDIM, x0": "DDIM, predicts x₀", "ancestral, x0": "ancestral, predicts x₀"}
    with run.figure("steps", "In how many steps do samples come near to digits?") as axes:
        lines = {label: found[name].numpy() for name, label in names.items()}
        levels = {"other digits": float(found["floor"].mean())}
        levels["Gaussian of the same covariance"] = float(found["Gaussian"].mean())
        labels = {"xlabel": "steps", "ylabel": "Fréchet distance from held-out digits"}
        plots.curves(axes, few, lines, marker="o", reference=levels, xscale="log", **labels)
        axes.set_xticks(few, [str(k) for k in few])
        axes.minorticks_off()


def show(run: Run, data: Split, pictures: dict[str, Tensor]) -> None:
    """Samples under real digits, and those of the best denoiser, which are real digits."""
    n = 12
    points = data.x[:300].double()
    start = torch.randn(n, 64, generator=run.generator(9), dtype=torch.double)
    memory = sample_ddim(optimal(points, SCHEDULE), SCHEDULE, start, kind="score")
    rows = {"held out": data.x_test[:n], "best denoiser": memory.float()}
    rows |= {"predicts x₀": pictures["DDIM, x0"][:n], "predicts ε": pictures["DDIM, epsilon"][:n]}
    with run.figure("samples", "What comes out of noise?", rows=len(rows), size=(8, 3.6)) as axes:
        for ax, (name, x) in zip(axes, rows.items(), strict=True):
            wide = torch.nn.functional.pad(x.view(n, 8, 8), (0, 1), value=-1)
            ax.imshow(wide.permute(1, 0, 2).reshape(8, -1), cmap="gray_r", vmin=-1, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_ylabel(name, rotation=0, ha="right", va="center")
