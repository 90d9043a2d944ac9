"""Checks, claims and figures of optimizers."""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week09.optimizers import (
    NEWTON_SCHULZ,
    SGD,
    Adam,
    AdamW,
    Muon,
    RMSProp,
    orthogonalize,
    trajectory,
)


def every_combination(**choices) -> list[dict]:
    """All dictionaries that take one value of each choice."""
    return [
        dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())
    ]


SGD_OPTIONS = [
    o
    for o in every_combination(
        momentum=[0.0, 0.9], dampening=[0.0, 0.3], nesterov=[False, True], weight_decay=[0.0, 0.1]
    )
    if not o["nesterov"] or (o["momentum"] and not o["dampening"])
]
CASES = (  # name, ours, torch's, its options, steps of equal size
    ("SGD", SGD, torch.optim.SGD, SGD_OPTIONS, 0.05),
    (
        "RMSProp",
        RMSProp,
        torch.optim.RMSprop,
        every_combination(
            alpha=[0.9], momentum=[0.0, 0.8], centered=[False, True], weight_decay=[0.0, 0.1]
        ),
        0.01,
    ),
    *(
        (
            name,
            ours,
            theirs,
            every_combination(betas=[(0.9, 0.95)], amsgrad=[False, True], weight_decay=[0.0, 0.1]),
            0.05,
        )
        for name, ours, theirs in (
            ("Adam", Adam, torch.optim.Adam),
            ("AdamW", AdamW, torch.optim.AdamW),
        )
    ),
    (
        "Muon",
        Muon,
        torch.optim.Muon,
        every_combination(
            momentum=[0.9],
            ns_coefficients=[NEWTON_SCHULZ, (2.0, -1.5, 0.5)],
            nesterov=[True, False],
            adjust_lr_fn=["original", "match_rms_adamw", "spectral_unclamped"],
            weight_decay=[0.0, 0.1],
        ),
        0.05,
    ),
)


def check_trajectories(run: Run, steps: int) -> None:
    """The same path through weight space as torch's optimizer, for every combination of options."""
    steps = run.budget(quick=min(steps, 10), default=steps)
    generator = run.generator()
    x = torch.randn(64, 12, generator=generator, dtype=torch.float64)
    x = x * torch.logspace(0, -2, 12, dtype=torch.float64)  # ill-conditioned on purpose
    y = x @ torch.randn(12, 8, generator=generator, dtype=torch.float64)
    start = torch.randn(8, 12, generator=generator, dtype=torch.float64)

    def losses():
        """A loss that takes another 16 rows at every call, the same ones for every optimizer."""
        rows = iter(torch.randint(64, (steps, 16), generator=run.generator(9)))

        def loss_of(weight):
            batch = next(rows)
            return ((x[batch] @ weight.T - y[batch]) ** 2).mean()

        return loss_of

    for name, ours, theirs, combinations, lr in CASES:
        paths = [], []
        for options in combinations:
            for store, make in zip(paths, (ours, theirs), strict=True):
                extra = {"dtype": torch.bfloat16} if make is Muon else {}
                weight = start.clone().requires_grad_()
                optimizer = make([weight], lr=lr, **options, **extra)
                store.append(trajectory(optimizer, weight, losses(), steps))
        why = "equal bfloat16 products, then float64 rounding" if name == "Muon" else None
        run.check(
            f"{name} trajectory, {len(combinations)} combinations of options",
            torch.stack(paths[0]),
            torch.stack(paths[1]),
            against=f"torch.optim.{theirs.__name__}",
            atol=1e-12,
            why=why or f"float64 rounding over {steps} steps",
        )

    # p - lr (g + λp) = (1 - lr λ) p - lr g: for plain SGD the two kinds of decay are one
    paths = []
    for decoupled in (True, False):
        weight = start.clone().requires_grad_()
        optimizer = SGD([weight], lr=0.05, weight_decay=0.1)
        optimizer.decoupled = decoupled
        paths.append(trajectory(optimizer, weight, losses(), steps))
    run.check(
        "plain SGD, decoupled decay",
        paths[0],
        paths[1],
        against="the L2 penalty",
        atol=1e-12,
        why=f"float64 rounding over {steps} steps",
    )


def check_orthogonalize(run: Run) -> None:
    """Singular vectors stay, singular values follow the polynomial, batches change nothing."""
    generator = run.generator(1)
    matrix = torch.randn(32, 32, generator=generator, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix)
    mapped = after_products(torch.linalg.svdvals(matrix / matrix.norm()))
    run.check(
        "orthogonalize: every singular value follows the scalar polynomial",
        orthogonalize(matrix, dtype=torch.float64),
        u @ torch.diag(mapped) @ vt,
        against="torch.linalg.svd",
        atol=1e-10,
        why="float64 rounding through five products",
    )
    shapes = [(8, 12), (12, 8), (8, 12), (12, 8), (8, 12)]
    start = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    gradients = [
        [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes] for _ in range(5)
    ]
    ends = []
    for groups in ([range(5)], [[i] for i in range(5)]):
        weights = [w.clone() for w in start]
        optimizers = [Muon([weights[i] for i in g], dtype=torch.float64) for g in groups]
        for step in gradients:
            for weight, gradient in zip(weights, step, strict=True):
                weight.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()
        ends.append(torch.cat([w.flatten() for w in weights]))
    run.check(
        "Muon, equal shapes in one batched product",
        ends[0],
        ends[1],
        against="one optimizer a matrix",
        atol=1e-12,
        why="float64 rounding, sums in another order",
    )


def check_resume(run: Run) -> None:
    """Ten steps straight, and five, a saved and loaded state, five: the same bits."""
    generator = run.generator(2)
    start = torch.randn(6, 4, generator=generator)
    gradients = torch.randn(10, 6, 4, generator=generator)
    straight, resumed = [], []
    for _, ours, _, combinations, lr in CASES:
        for options in combinations:
            weight = start.clone()
            optimizer = ours([weight], lr=lr, **options)
            for step, gradient in enumerate(gradients):
                if step == 5:
                    copy = weight.clone()
                    later = ours([copy], lr=lr, **options)
                    later.load_state_dict(optimizer.state_dict())
                weight.grad = gradient
                optimizer.step()
                if step >= 5:
                    copy.grad = gradient
                    later.step()
            straight.append(weight)
            resumed.append(copy)
    run.check(
        f"resumed from state_dict, {len(straight)} combinations",
        torch.stack(resumed),
        torch.stack(straight),
        against="the run without a break",
        why="the same operations on the same bits",
    )


TRAINED = (
    ("SGD", lambda p: SGD(p, lr=0.3)),
    ("SGD, Nesterov momentum", lambda p: SGD(p, lr=0.05, momentum=0.9, nesterov=True)),
    ("RMSProp", lambda p: RMSProp(p, lr=0.003)),
    ("Adam", lambda p: Adam(p, lr=0.003)),
    ("AdamW", lambda p: AdamW(p, lr=0.003)),
    ("Muon", lambda p: Muon(p, lr=0.02)),
)


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
    seeds, steps = run.budget(quick=1, default=3), run.budget(quick=30, default=300)
    scores, control = {}, {}
    for name, make in TRAINED:
        scores[name] = [digits_accuracy(make, x, y, seed=s, steps=steps) for s in range(seeds)]
        control[name] = [
            digits_accuracy(make, x, y, seed=s, steps=steps, shuffled=True) for s in range(seeds)
        ]
        run.metric(f"accuracy on unseen digits, {name}", np.mean(scores[name]), rtol=0.02)
    worst = min(scores, key=lambda name: min(scores[name]))
    luckiest = max(control, key=lambda name: max(control[name]))
    run.claim(
        "every optimizer trains a small net, and none on shuffled labels",
        min(scores[worst]) > 0.9 and max(control[luckiest]) < 0.25,
        f"{seeds} seeds, {steps} steps: least accuracy on unseen digits {min(scores[worst]):.3f} "
        f"({worst}), largest with shuffled labels {max(control[luckiest]):.3f}",
        quick=False,
    )


# ---- failures on display


def without_bias_correction(run: Run) -> None:
    """How many times too long Adam's steps are when the means are taken as they are."""
    beta1, steps = 0.9, 5000
    t = np.unique(np.logspace(0, math.log10(steps), 60).astype(int))
    generator = run.generator(3)
    measured, theory = {}, {}
    for beta2 in (0.99, 0.999, 0.9999):
        fair = Adam([torch.zeros(4, dtype=torch.float64)], lr=0.05, betas=(beta1, beta2), eps=0)
        mean, square = torch.zeros(2, 4, dtype=torch.float64)
        state, ratios = {}, []
        for _ in range(steps):
            gradient = torch.randn(4, generator=generator, dtype=torch.float64)
            corrected = fair.update(gradient, state)
            mean.mul_(beta1).add_(gradient, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            ratios.append(float((0.05 * mean / square.sqrt() / corrected).mean()))
            if run.mode == "quick" and len(ratios) == 200:
                break
        shown = t[t <= len(ratios)]
        measured[beta2] = np.array(ratios)[shown - 1]
        theory[beta2] = (1 - beta1**shown) / np.sqrt(1 - beta2**shown)
    run.check(
        "steps without bias correction / with it",
        np.concatenate(list(measured.values())),
        np.concatenate(list(theory.values())),
        against="(1 - β1ᵗ)/√(1 - β2ᵗ)",
        rtol=1e-9,
        why="float64 rounding; no epsilon",
    )
    first, expected = measured[0.999][0], (1 - beta1) / math.sqrt(1 - 0.999)
    run.claim(
        "without bias correction the first Adam step is (1 - β1)/√(1 - β2) times as long",
        abs(first - expected) < 1e-6,
        f"measured {first:.3f}, theory {expected:.3f}; corrected, every coordinate moves by lr",
    )
    peak = max(measured[0.999])
    run.metric("longest step without bias correction, β2 = 0.999", peak, "times", rtol=0.01)
    run.metric(
        "longest step without bias correction, β2 = 0.9999", max(measured[0.9999]), "times",
        rtol=0.01,
    )  # fmt: skip
    title = "How many times too long are Adam's steps without bias correction?"
    with run.figure("bias_correction", title) as axes:
        for (beta2, ratio), color in zip(
            measured.items(), (plots.SKY, plots.BLUE, plots.ORANGE), strict=True
        ):
            axes.plot(t[: len(ratio)], ratio, "o", color=color, ms=4, label=f"$β_2$ = {beta2}")
            axes.plot(t[: len(ratio)], theory[beta2], color=color, lw=1)
        axes.axhline(1, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(1.05, 1.06, "corrected", color=plots.REFERENCE, fontsize=9)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="step (dots: measured, lines: $(1-β_1^t)/\\sqrt{1-β_2^t}$ with $β_1$ = 0.9)",
            ylabel="step without / step with",
        )
        axes.set_yticks([1, 3, 10, 30], ["1", "3", "10", "30"])
        axes.minorticks_off()
        axes.legend(loc="upper right")


def decay_inside_adam(run: Run) -> None:
    """Weights whose gradient is pure noise: only the decay should move them."""
    lr, decay, steps = 0.003, 0.3, run.budget(quick=200, default=1000)
    copies = run.budget(quick=50, default=400)
    scales = torch.logspace(-3, 3, 13, dtype=torch.float64)
    left = {}
    for name, make in (("AdamW", AdamW), ("Adam, L2", Adam), ("SGD, L2", SGD)):
        generator = run.generator(4)
        weight = torch.ones(13, copies, dtype=torch.float64)
        optimizer = make([weight], lr=lr, weight_decay=decay)
        for _ in range(steps):
            noise = torch.randn(13, copies, generator=generator, dtype=torch.float64)
            # SGD would wander off in proportion to the noise; the mean over copies is what counts
            weight.grad = scales[:, None] * (noise - noise.mean(1, keepdim=True))
            optimizer.step()
        left[name] = weight.numpy().copy()
    expected = (1 - lr * decay) ** steps
    interval = {name: [mean_interval(row) for row in rows] for name, rows in left.items()}
    adamw, coupled = interval["AdamW"], interval["Adam, L2"]
    run.claim(
        "decoupled decay is the same for all weights, an L2 penalty inside Adam spares noisy ones",
        all(abs(i.mean - expected) < 0.05 for i in adamw)
        and coupled[-1].low > 0.95
        and coupled[0].high < 0.05,
        f"{steps} steps, {copies} copies: AdamW leaves {min(i.mean for i in adamw):.3f} to "
        f"{max(i.mean for i in adamw):.3f} of a weight (theory {expected:.3f}), Adam with L2 "
        f"{coupled[0].mean:.2f} at gradient noise 0.001 and {coupled[-1].mean:.2f} at 1000",
        quick=False,
    )
    run.check(
        "mean weight under SGD with an L2 penalty",
        left["SGD, L2"].mean(1),
        np.full(13, expected),
        against="(1 - lr λ)ᵗ",
        rtol=1e-6,
        why="the noise is centered, up to float64 rounding of noise 1000 times the weight",
    )
    title = "How much of a weight does decay leave, if its gradient is only noise?"
    with run.figure("coupled_decay", title) as axes:
        for name, color in (("Adam, L2", plots.ORANGE), ("AdamW", plots.BLUE)):
            mean = [i.mean for i in interval[name]]
            below, above = np.quantile(left[name], [0.05, 0.95], axis=1)
            axes.fill_between(scales, below, above, color=color, alpha=0.15, lw=0)
            axes.plot(scales, mean, "o-", color=color, ms=4)
        axes.axhline(expected, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(1.2e-3, expected + 0.025, "$(1-ηλ)^t$", color=plots.REFERENCE, fontsize=10)
        axes.text(1.2e-3, expected - 0.07, "AdamW: decay beside the step", color=plots.BLUE)
        axes.text(900, 0.75, "Adam: L2 in the gradient", color=plots.ORANGE, ha="right")
        axes.text(900, -0.15, f"bands: the middle 90 % of {copies} copies", fontsize=9,
                  color=plots.REFERENCE, ha="right")  # fmt: skip
        axes.set(
            xscale="log",
            xlabel="standard deviation of the gradient's noise (decay λ = 0.3 at weight 1)",
            ylabel=f"weight after {steps} steps",
            ylim=(-0.2, 1.2),
        )


def after_products(s, steps: int = 5):
    """What the iteration makes of singular values."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return s


def draw_newton_schulz(run: Run) -> None:
    """Where the singular values end."""
    s = torch.logspace(-4, 0, 2000, dtype=torch.float64)
    lifted = after_products(s[s > 0.01])
    run.metric("least singular value after five products", float(lifted.min()), rtol=0.01)
    run.metric("largest singular value after five products", float(lifted.max()), rtol=0.01)
    title = "Five products lift all but tiny singular values to about one"
    with run.figure("newton_schulz", title) as axes:
        for step, color in ((1, plots.GRAY), (3, plots.SKY), (5, plots.BLUE)):
            name = f"{step} iteration{'s' if step > 1 else ''}"
            axes.semilogx(s, after_products(s, step), color=color, lw=0.8 + step / 3, label=name)
        axes.axhline(1.0, color=plots.REFERENCE, ls="--", lw=1)
        axes.text(1.1e-4, 1.03, "$UV^\\top$ by SVD", color=plots.REFERENCE)
        axes.set(xlabel="singular value of the normalized momentum", ylabel="after the iteration")
        axes.legend()


def main(run: Run, *, steps: PositiveInt = 50) -> None:
    """Follow torch's optimizers step by step, train with each, and break two of them.

    Parameters
    ----------
    steps
        Steps of each trajectory.
    """
    check_trajectories(run, steps)
    check_orthogonalize(run)
    check_resume(run)
    train_digits(run)
    without_bias_correction(run)
    decay_inside_adam(run)
    draw_newton_schulz(run)
