"""Guided scores of a mixture in closed form, both conventions of diffusers, digits on demand."""

import math

import torch
from torch import Tensor

from shared import plots
from shared.study import PositiveInt, Run
from week23.ddpm import TimeMLP, simple_loss, train
from week23.digit_judge import Judge, Split, split
from week23.guidance import classifier_free, classifier_gradient, classifier_guided, drop_labels
from week23.mixtures import Mixture
from week23.schedules import Schedule, sample_ddim, sample_ddpm

SCHEDULE = Schedule.cosine(100)
SCALES, NULL = (0.0, 1.0, 2.0, 4.0), 10
THREE = Mixture(
    torch.tensor([0.2, 0.3, 0.5], dtype=torch.double),
    torch.tensor([[0.0, 1.5], [-1.3, -0.8], [1.3, -0.8]], dtype=torch.double),
    torch.tensor([0.7, 0.9, 0.8], dtype=torch.double),
)


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 600) -> None:
    """Check guided scores, then draw digits that were asked for.

    Parameters
    ----------
    seeds
        Networks, each with its own split of the digits.
    steps
        Of each training.
    """
    run.rounding(0.05, "some hundred steps in float32")
    check_scores(run)
    check_conventions(run)
    check_samples(run)
    check_dropped(run)
    too_loud(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    judge_digits(run, seeds, run.budget(quick=20, default=steps, full=5 * steps))


# ---- checks on a mixture


def at(t: Tensor) -> Mixture:
    """The mixture as noised at the time of all rows."""
    a = float(SCHEDULE.alphas_bar[int(t[0])])
    return THREE.noised(a**0.5, (1 - a) ** 0.5)


def exact_score(x: Tensor, t: Tensor) -> Tensor:
    """The mixture's, at time t."""
    return at(t).score(x)


def exact_classifier(x: Tensor, t: Tensor) -> Tensor:
    """Log-probabilities of the components, given x at time t."""
    return at(t).log_joint(x).log_softmax(-1)


def component_score(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
    """The score of each row's own component; without labels, of all."""
    if labels is None:
        return exact_score(x, t)
    mixture, rows = at(t), torch.arange(len(x))
    return torch.stack([mixture.given(k).score(x) for k in range(3)])[labels, rows]


def check_scores(run: Run) -> None:
    """At scale 1 the guided score is that of the component; at 0 that of all."""
    x = torch.randn(30, 2, generator=run.generator(), dtype=torch.double)
    labels = torch.arange(30) % 3
    ours, theirs, without, free = [], [], [], []
    for t in range(0, len(SCHEDULE), 9):
        times = torch.full((30,), t)
        guide = lambda scale, times=times: classifier_guided(  # noqa: E731
            exact_score, exact_classifier, SCHEDULE, labels, scale=scale, kind="score"
        )(x, times)
        ours.append(guide(1.0))
        theirs.append(component_score(x, times, labels))
        without.append(guide(0.0) - exact_score(x, times))
        other = classifier_free(component_score, labels, scale=3.0)(x, times)
        free.append(guide(3.0) - other)
    exact = run.against(
        "the component's score", kind="theorem", rtol=1e-9, atol=1e-9, why="float64 rounding"
    )
    exact("classifier guidance at scale 1", torch.stack(ours), torch.stack(theirs))
    zero = torch.zeros_like(torch.stack(without))
    exact("at scale 0, minus the score of all", torch.stack(without), zero, against="zero")
    exact("both kinds of guidance at scale 3", torch.stack(free), zero + 0, against="each other")
    times = torch.full((30,), 40)
    gradient = classifier_gradient(exact_classifier, x, times, labels)
    difference = component_score(x, times, labels) - exact_score(x, times)
    exact("the classifier's gradient", gradient, difference, against="c - u")


def check_conventions(run: Run) -> None:
    """u + w (c - u) and c + w' (c - u), with w = 1 + w'; and in each kind of prediction."""
    g = run.generator(1)
    u, c, x = (torch.randn(4, 3, generator=g, dtype=torch.double) for _ in range(3))
    net = lambda x, t, labels=None: u if labels is None else c  # noqa: E731
    t, labels = torch.full((4,), 30), torch.arange(4)
    ours = torch.stack([classifier_free(net, labels, scale=w)(x, t) for w in SCALES])
    shifted = torch.stack([(1 + w) * c - w * u for w in (-1.0, 0.0, 1.0, 3.0)])
    why = {"why": "float64 rounding", "rtol": 1e-12, "atol": 1e-12}
    name = "scales of 0, 1, 2 and 4"
    run.check(name, ours, shifted, against="(1 + w')c - w'u", kind="theorem", **why)
    if run.mode != "quick":  # its import takes longer than a quick run
        from diffusers.guiders import ClassifierFreeGuidance
        from diffusers.utils import logging

        logging.set_verbosity_error()  # each guider says that it is experimental
        theirs = [ClassifierFreeGuidance(w).forward(c, u).pred for w in SCALES]
        library = {"against": "diffusers' ClassifierFreeGuidance"} | why
        run.check("the same by diffusers", ours, torch.stack(theirs), **library)
        original = ClassifierFreeGuidance(2.0, use_original_formulation=True).forward(c, u).pred
        other = classifier_free(net, labels, scale=3.0)(x, t)
        run.check("its original formulation at 2 is ours at 3", other, original, **library)
    velocities = [SCHEDULE.convert(part, x, t, "epsilon", "v") for part in (u, c)]
    moved = velocities[0] + 2 * (velocities[1] - velocities[0])
    back = SCHEDULE.convert(moved, x, t, "v", "epsilon")
    same = {"against": "the same guidance of ε", "kind": "consistency"}
    run.check("guidance of v at scale 2", back, ours[2], **same, **(why | {"rtol": 1e-9}))


def check_samples(run: Run) -> None:
    """At scale 1 samples have the component's mean and covariance."""
    n = run.budget(quick=400, default=4000)
    labels, g = torch.full((n,), 1), run.generator(2)
    model = classifier_guided(
        exact_score, exact_classifier, SCHEDULE, labels, scale=1.0, kind="score"
    )
    start = torch.randn(n, 2, generator=g, dtype=torch.double)
    x = sample_ddpm(model, SCHEDULE, start, kind="score", variance="large", generator=g)
    s2, part = 0.81, {"against": "component 1", "kind": "theorem"}
    off = 4 / math.sqrt(n)
    why = "four standard errors, and a hundred steps in place of a continuum"
    run.check(
        "mean of samples at scale 1",
        x.mean(0),
        THREE.means[1],
        why=why,
        atol=0.03 + 0.9 * off,
        **part,
    )
    covariance = s2 * torch.eye(2, dtype=torch.double)
    run.check(
        "their covariance", x.T.cov(), covariance, why=why, atol=0.03 + 1.5 * s2 * off, **part
    )


def check_dropped(run: Run) -> None:
    """With all labels dropped in training no label has an effect, at any scale."""
    g = run.generator(3)
    net = TimeMLP(4, 16, len(SCHEDULE), g, n_labels=10)
    x0, y = torch.randn(50, 4, generator=g), torch.arange(50) % 10

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        labels = drop_labels(y[i], 1.0, null=NULL, generator=g)
        noise = torch.randn(len(i), 4, generator=g)
        return simple_loss(SCHEDULE, lambda x, t: net(x, t, labels), x0[i], t, noise)

    train(net, loss, 50, steps=5, generator=g)
    x, t = torch.randn(10, 4, generator=g), torch.arange(10) * 9
    with torch.no_grad():
        guided = classifier_free(net, torch.arange(10), scale=7.0)(x, t)
        alone = net(x, t)
    why = {"against": "the prediction without labels", "kind": "theorem", "why": "nothing differs"}
    run.check("guidance of a network that never saw a label", guided, alone, atol=1e-6, **why)


# ---- what guidance is not


def too_loud(run: Run) -> None:
    """At scale 4 two overlapping Gaussians are not the data reweighted by p(y | x)⁴."""
    two = Mixture(
        *(torch.tensor(v, dtype=torch.double) for v in ([0.5, 0.5], [[-1.0], [1.0]], [1.0, 1.0]))
    )
    grid = torch.linspace(-8, 8, 1601, dtype=torch.double)[:, None]
    classes = two.log_joint(grid).log_softmax(-1)[:, 1]
    weights = (two.log_prob(grid) + 4 * classes).softmax(0)
    mean = float((weights * grid[:, 0]).sum())

    def noised(t: Tensor) -> Mixture:
        a = float(SCHEDULE.alphas_bar[int(t[0])])
        return two.noised(a**0.5, (1 - a) ** 0.5)

    n, found = run.budget(quick=200, default=4000), []
    for seed in range(run.seed, run.seed + 3):
        model = classifier_guided(
            lambda x, t: noised(t).score(x),
            lambda x, t: noised(t).log_joint(x).log_softmax(-1),
            SCHEDULE,
            torch.ones(n, dtype=torch.long),
            scale=4.0,
            kind="score",
        )
        g = torch.Generator().manual_seed(3000 + seed)
        start = torch.randn(n, 1, generator=g, dtype=torch.double)
        x = sample_ddpm(model, SCHEDULE, start, kind="score", variance="large", generator=g)
        found.append(float(x.mean()) - mean)
    late = {"quick": False, "rtol": None, "unit": "deviations"}
    run.claim("at scale 4 samples end beyond the reweighted data", found, at_least=0.1, **late)
    run.metric("mean of the data reweighted by p(y | x)⁴", mean)
    with run.figure("loud", "What does guidance at scale 4 draw?") as axes:
        line = grid[:, 0]
        axes.hist(
            x[:, 0].numpy(),
            80,
            density=True,
            color=plots.COLORS[0],
            alpha=0.4,
            label="samples at scale 4",
        )
        axes.plot(line, weights / 0.01, color=plots.COLORS[1], label="data reweighted by p(y | x)⁴")
        density = two.given(1).log_prob(grid).exp()
        axes.plot(line, density, color="0.3", ls="--", label="scale 1: the asked component")
        axes.set(xlabel="x", ylabel="density", xlim=(-3, 6))
        axes.legend()


# ---- digits


def new_model(data: Split, seed: int, steps: int, *, strangers: bool = False) -> TimeMLP:
    """A network that predicts x₀ with labels, a tenth of them dropped; or with those of others."""
    g = torch.Generator().manual_seed(seed)
    net = TimeMLP(64, 128, len(SCHEDULE), g, n_labels=10)
    y = data.y[torch.randperm(len(data.y), generator=g)] if strangers else data.y

    def loss(i: Tensor) -> Tensor:
        t = torch.randint(len(SCHEDULE), (len(i),), generator=g)
        labels = drop_labels(y[i], 0.1, null=NULL, generator=g)
        noise, told = torch.randn(len(i), 64, generator=g), lambda x, t: net(x, t, labels)
        return simple_loss(SCHEDULE, told, data.x[i], t, noise, kind="x0")

    train(net, loss, len(data.x), steps=steps, generator=g)
    return net


def judge_digits(run: Run, seeds: int, steps: int) -> None:
    """How often the digit is the one that was asked for, and how much those of a label differ."""
    n = run.budget(quick=50, default=500)
    labels = torch.arange(n) % 10
    right: dict[float, list[float]] = {w: [] for w in SCALES}
    spread: dict[float, list[float]] = {w: [] for w in SCALES}
    strangers, pictures = [], {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "networks"):
        data = split(seed)
        judge = Judge.trained(data, seed, steps=run.budget(quick=20, default=400))
        g = torch.Generator().manual_seed(1000 + seed)
        start = torch.randn(n, 64, generator=g)

        def draw(net: TimeMLP, scale: float, start: Tensor = start) -> Tensor:
            model = classifier_free(net, labels, scale=scale)
            return sample_ddim(model, SCHEDULE, start, steps=50, kind="x0", clip=1.0)

        net = new_model(data, seed, steps)
        for w in SCALES:
            x = pictures[w] = draw(net, w)
            right[w].append(float((judge(x).argmax(-1) == labels).float().mean()))
            within = torch.stack([x[labels == k].var(0).sum() for k in range(10)])
            spread[w].append(float(within.mean()))
        other = draw(new_model(data, seed, steps // 2, strangers=True), 1.0)
        strangers.append(float((judge(other).argmax(-1) == labels).float().mean()))
    late = {"quick": False, "rtol": None}
    asked = "asked for a digit, it draws it"
    run.claim(asked, right[1.0], at_least=0.5, each=True, **late)
    run.falsifier("trained with the labels of other rows", strangers, breaks=asked)
    gain = (torch.tensor(right[4.0]) - torch.tensor(right[1.0])).double()
    run.claim("at scale 4 more digits are those asked for", gain, at_least=0.0, **late)
    ratio = (torch.tensor(spread[4.0]) / torch.tensor(spread[1.0])).double()
    run.claim(
        "and those of one label are more alike", ratio, at_most=0.9, unit="of the variance", **late
    )
    for w in SCALES:
        run.metric(f"digits as asked, scale {w:g}", sum(right[w]) / seeds, rtol=None)
        run.metric(f"variance within a label, scale {w:g}", sum(spread[w]) / seeds, rtol=None)
    show(run, pictures)


def show(run: Run, pictures: dict[float, Tensor]) -> None:
    """The same noise at four scales."""
    shown = {"rows": len(SCALES), "size": (8, 3.2)}
    with run.figure("digits", "0 to 9 were asked for twice. At which scale?", **shown) as axes:
        for ax, w in zip(axes, SCALES, strict=True):
            wide = torch.nn.functional.pad(pictures[w][:20].view(-1, 8, 8), (0, 1), value=-1)
            ax.imshow(wide.permute(1, 0, 2).reshape(8, -1), cmap="gray_r", vmin=-1, vmax=1)
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_ylabel(f"scale {w:g}", rotation=0, ha="right", va="center")
