"""Every optimizer follows torch's, trains, and two of them are broken on purpose."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week09.muon import NEWTON_SCHULZ, Muon, orthogonalize
from week09.optimizers import SGD, Adam, AdamW, RMSProp


def main(run: Run, *, steps: PositiveInt = 50) -> None:
    """Follow torch's optimizers step by step, train with each, and break two of them.

    Parameters
    ----------
    steps
        Steps of each trajectory.
    """
    check_trajectories(run, run.budget(quick=min(steps, 10), default=steps))
    check_orthogonalize(run)
    train_digits(run)
    without_bias_correction(run)
    decay_inside_adam(run)
    draw_newton_schulz(run)


# ---- step for step


CASES = (
    (SGD, torch.optim.SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    (RMSProp, torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.8, "centered": True}),
    (Adam, torch.optim.Adam, {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1}),
    (AdamW, torch.optim.AdamW, {"lr": 0.05, "weight_decay": 0.1}),
    (Muon, torch.optim.Muon, {"lr": 0.05, "weight_decay": 0.1}),
)


def check_trajectories(run: Run, steps: int) -> None:
    """The same path through weight space as torch's optimizer."""
    generator = run.generator()
    x = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, -2, 12, dtype=torch.float64)  # ill-conditioned on purpose
    y = x @ torch.randn(12, 8, generator=generator, dtype=torch.float64)
    start = torch.randn(8, 12, generator=generator, dtype=torch.float64)
    batches = torch.randint(64, (steps, 16), generator=generator)

    def follow(make, *, decoupled: bool | None = None, **options) -> Tensor:
        weight, path = start.clone().requires_grad_(), []
        optimizer = make([weight], **options)
        if decoupled is not None:
            optimizer.decoupled = decoupled
        for batch in batches:
            optimizer.zero_grad()
            ((x[batch] @ weight.T - y[batch]) ** 2).mean().backward()
            optimizer.step()
            path.append(weight.detach().clone())
        return torch.stack(path)

    for make, theirs, options in CASES:
        extra = {"dtype": torch.bfloat16} if make is Muon else {}
        why = "equal bfloat16 products, then float64 rounding" if extra else "float64 rounding"
        run.check(
            f"{make.__name__} trajectory",
            follow(make, **options, **extra),
            follow(theirs, **options),
            against=f"torch.optim.{theirs.__name__}",
            atol=1e-12,
            why=f"{why} over {steps} steps",
        )
    run.check(
        "plain SGD, decoupled decay",
        follow(SGD, lr=0.05, weight_decay=0.1, decoupled=True),
        follow(SGD, lr=0.05, weight_decay=0.1),
        against="the L2 penalty: p - η (g + λp) = (1 - ηλ) p - ηg",
        kind="theorem",
        atol=1e-12,
        why=f"float64 rounding over {steps} steps",
    )


def after_products(s: Tensor, steps: int = 5) -> Tensor:
    """What the iteration makes of singular values."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def check_orthogonalize(run: Run) -> None:
    """Singular vectors stay, singular values follow the polynomial."""
    matrix = torch.randn(32, 32, generator=run.generator(1), dtype=torch.float64)
    u, s, vt = torch.linalg.svd(matrix)
    check = run.against("torch.linalg.svd", atol=1e-10, why="float64 rounding through the products")
    check(
        "orthogonalize: every singular value follows the scalar polynomial",
        orthogonalize(matrix, dtype=torch.float64),
        u @ torch.diag(after_products(s / matrix.norm())) @ vt,
    )


# ---- they train

TRAINED = {
    "SGD": lambda p: SGD(p, lr=0.3),
    "SGD, Nesterov momentum": lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "RMSProp": lambda p: RMSProp(p, lr=0.003),
    "Adam": lambda p: Adam(p, lr=0.003),
    "AdamW": lambda p: AdamW(p, lr=0.003),
    "Muon": lambda p: Muon(p, lr=0.02),
}


def digits_accuracy(make, x, y, *, seed: int, steps: int, shuffled: bool = False) -> float:
    """Share of unseen digits that a two-layer net gets right after `steps` batches of 64."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=generator)
    test, train = order[:400], order[400:]
    targets = y.clone()
    if shuffled:
        targets[train] = y[train][torch.randperm(len(train), generator=generator)]
    weights = [
        (torch.randn(n, m, generator=generator) / math.sqrt(m)).requires_grad_()
        for m, n in ((64, 64), (64, 10))
    ]
    optimizer = make(weights)
    for _ in range(steps):
        rows = train[torch.randint(len(train), (64,), generator=generator)]
        loss = F.cross_entropy(torch.relu(x[rows] @ weights[0].T) @ weights[1].T, targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        guess = (torch.relu(x[test] @ weights[0].T) @ weights[1].T).argmax(1)
    return float((guess == y[test]).float().mean())


def train_digits(run: Run) -> None:
    """Each optimizer trains; on shuffled labels none does."""
    images = datasets.digits()
    x = torch.from_numpy(np.asarray(images.images, dtype=np.float32)).flatten(1)
    x, y = x / x.max(), torch.from_numpy(np.asarray(images.labels)).long()
    seeds, steps = run.budget(quick=2, default=5), run.budget(quick=10, default=300)

    def accuracies(seed: int, shuffled: bool = False) -> list[float]:
        options = {"seed": seed, "steps": steps, "shuffled": shuffled}
        return [digits_accuracy(make, x, y, **options) for make in TRAINED.values()]

    options = {"quick": False, "note": f"{steps} steps", "rtol": 0.1}
    worst = [min(accuracies(seed)) for seed in range(seeds)]
    name = "every optimizer trains a small net: least accuracy on unseen digits"
    run.claim(name, worst, at_least=0.9, **options)
    luckiest = [max(accuracies(seed, shuffled=True)) for seed in range(seeds)]
    control = "none learns from shuffled labels: largest accuracy"
    run.claim(control, luckiest, at_most=0.25, **options)
    run.falsifier("labels shuffled", luckiest, breaks=name)


# ---- failures on display


def without_bias_correction(run: Run) -> None:
    """How many times too long Adam's steps are when the means are taken as they are."""
    beta1, steps = 0.9, run.budget(quick=200, default=5000)
    t = np.unique(np.logspace(0, math.log10(steps), 60).astype(int))
    generator = run.generator(3)
    measured, theory = {}, {}
    for beta2 in (0.99, 0.999, 0.9999):
        fair = Adam([torch.zeros(4, dtype=torch.float64)], lr=0.05, betas=(beta1, beta2), eps=0)
        state, ratios = {}, []
        for gradient in torch.randn(steps, 4, generator=generator, dtype=torch.float64):
            corrected = fair.update(gradient, state)
            uncorrected = 0.05 * state["mean"] / state["square"].sqrt()
            ratios.append(float((uncorrected / corrected).mean()))
        measured[f"$β_2$ = {beta2}"] = np.array(ratios)[t - 1]
        theory[beta2] = (1 - beta1**t) / np.sqrt(1 - beta2**t)
        run.metric(f"longest step without bias correction, β2 = {beta2}", max(ratios), "times")
    first = measured["$β_2$ = 0.999"][0]
    run.metric("first step without bias correction, β2 = 0.999", first, "times")
    run.check(
        "steps without bias correction / with it",
        np.concatenate(list(measured.values())),
        np.concatenate(list(theory.values())),
        against="(1 - β1ᵗ)/√(1 - β2ᵗ)",
        kind="theorem",
        rtol=1e-9,
        why="float64 rounding; no epsilon",
    )
    title = "How many times too long are Adam's steps without bias correction?"
    with run.figure("bias_correction", title) as axes:
        colors = (plots.SKY, plots.BLUE, plots.ORANGE)
        labels = {"xlabel": "step (dots: theory)", "xscale": "log"}
        labels |= {"ylabel": "step without / step with", "yscale": "log"}
        plots.curves(axes, t, measured, colors=colors, reference={"corrected": 1}, **labels)
        for ratios in theory.values():
            axes.plot(t, ratios, ".", color=plots.REFERENCE, ms=4)
        axes.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        axes.minorticks_off()


def decay_inside_adam(run: Run) -> None:
    """Weights whose gradient is pure noise: only the decay should move them."""
    lr, decay, steps = 0.003, 0.3, run.budget(quick=200, default=1000)
    copies = run.budget(quick=50, default=400)
    scales = torch.logspace(-3, 3, 13, dtype=torch.float64)
    left = {}
    for make in (AdamW, Adam, SGD):
        generator = run.generator(4)
        weight = torch.ones(13, copies, dtype=torch.float64)
        optimizer = make([weight], lr=lr, weight_decay=decay)
        for _ in range(steps):
            noise = torch.randn(13, copies, generator=generator, dtype=torch.float64)
            # SGD would wander off in proportion to the noise; the mean over copies is what counts
            weight.grad = scales[:, None] * (noise - noise.mean(1, keepdim=True))
            optimizer.step()
        left[make] = weight.numpy().copy()
    expected = (1 - lr * decay) ** steps
    options = {"quick": False, "note": f"{steps} steps; decay alone leaves {expected:.3f}"}
    off = np.abs(left[AdamW].mean(1) - expected)
    name = "AdamW decays weights alike, whatever their gradient's noise: distance from (1 - ηλ)ᵗ"
    run.claim(name, off, at_most=0.05, each=True, **options)
    run.falsifier("L2 inside Adam", np.abs(left[Adam].mean(1) - expected), breaks=name)
    spared = "L2 inside Adam spares a weight with much noise: share left at noise 1000"
    run.claim(spared, left[Adam][-1], at_least=0.95, **options)
    run.falsifier("decay beside the step", left[AdamW][-1], breaks=spared)
    name = "L2 inside Adam wipes out a weight with little noise: share left at noise 0.001"
    run.claim(name, left[Adam][0], at_most=0.05, **options)
    run.check(
        "mean weight under SGD with an L2 penalty",
        left[SGD].mean(1),
        np.full(13, expected),
        against="(1 - ηλ)ᵗ",
        kind="theorem",
        rtol=1e-6,
        why="the noise is centered, up to float64 rounding of noise 1000 times the weight",
    )
    title = "How much of a weight does decay leave, if its gradient is only noise?"
    with run.figure("coupled_decay", title) as axes:
        colors = {Adam: plots.ORANGE, AdamW: plots.BLUE}
        for make, color in colors.items():
            below, above = np.quantile(left[make], [0.05, 0.95], axis=1)
            axes.fill_between(scales, below, above, color=color, alpha=0.15, lw=0)
        means = {"L2 inside\nAdam": left[Adam].mean(1), "AdamW": left[AdamW].mean(1)}
        labels = {"xlabel": "standard deviation of the gradient's noise", "xscale": "log"}
        labels |= {"ylabel": f"weight after {steps} steps (band: middle 90 %)"}
        reference = {"$(1-ηλ)^t$": expected}
        plots.curves(
            axes, scales, means, colors=list(colors.values()), reference=reference, **labels
        )


def draw_newton_schulz(run: Run) -> None:
    """Where the singular values end."""
    s = torch.logspace(-4, 0, 2000, dtype=torch.float64)
    lifted = after_products(s[s > 0.01])
    run.metric("least singular value after five products", float(lifted.min()))
    run.metric("largest singular value after five products", float(lifted.max()))
    title = "Five products lift all but tiny singular values to about one"
    with run.figure("newton_schulz", title) as axes:
        lines = {f"after {n}": after_products(s, n) for n in (1, 3, 5)}
        colors, reference = (plots.GRAY, plots.SKY, plots.BLUE), {"$UV^\\top$ by SVD": 1.0}
        labels = {"xlabel": "singular value of the normalized momentum", "xscale": "log"}
        labels |= {"ylabel": "after the iterations", "ends": False}
        plots.curves(axes, s, lines, colors=colors, reference=reference, **labels)
