"""Checks, claims and figures of schedules."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim import lr_scheduler

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import Run
from week09 import schedules as ours
from week09.optimizers import Adam

STEPS = 200
WSD = {"steps": STEPS, "warmup_steps": 20, "decay_steps": 40}


def torch_rates(make) -> list[float]:
    """Learning rates of a torch scheduler, the first one included."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def _sequential_cosine(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20),
             lr_scheduler.CosineAnnealingLR(optimizer, STEPS - 20, eta_min=0.05)]  # fmt: skip
    return lr_scheduler.SequentialLR(optimizer, parts, [20])


def _sequential_wsd(optimizer):
    parts = [lr_scheduler.LinearLR(optimizer, 1e-9, total_iters=20),
             lr_scheduler.ConstantLR(optimizer, 1.0, total_iters=0),
             lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=40)]  # fmt: skip
    return lr_scheduler.SequentialLR(optimizer, parts, [20, 160])


def _lambda_cosine(optimizer):
    """A ramp, then the cosine in another form, from a table."""
    knots = np.linspace(0, np.pi, STEPS - 20 + 1)
    table = np.concatenate([np.arange(20) / 20, 0.1 + 0.9 * np.cos(knots / 2) ** 2])
    return lr_scheduler.LambdaLR(optimizer, lambda step: float(table[step]))


PAIRS = (  # ours, torch's name, torch's
    (
        "warmup", functools.partial(ours.warmup, steps=20, start=0.1), "LinearLR",
        lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=20),
    ),
    (
        "linear", functools.partial(ours.linear, steps=150, final=0.1), "LinearLR",
        lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=150),
    ),
    (
        "cosine", functools.partial(ours.cosine, steps=STEPS, final=0.05), "CosineAnnealingLR",
        lambda o: lr_scheduler.CosineAnnealingLR(o, STEPS, eta_min=0.05),
    ),
    (
        "step_decay", functools.partial(ours.step_decay, every=60, gamma=0.3), "StepLR",
        lambda o: lr_scheduler.StepLR(o, 60, 0.3),
    ),
    (
        "exponential", functools.partial(ours.exponential, gamma=0.98), "ExponentialLR",
        lambda o: lr_scheduler.ExponentialLR(o, 0.98),
    ),
    (
        "one_cycle", functools.partial(ours.one_cycle, steps=STEPS), "OneCycleLR",
        lambda o: lr_scheduler.OneCycleLR(o, max_lr=1.0, total_steps=STEPS),
    ),
    (
        "sequential", functools.partial(
            ours.sequential, milestones=[20],
            parts=[functools.partial(ours.warmup, steps=20, start=0.1),
                   functools.partial(ours.cosine, steps=STEPS - 20, final=0.05)],
        ), "SequentialLR of LinearLR and CosineAnnealingLR", _sequential_cosine,
    ),
    (
        "warmup_cosine",
        functools.partial(ours.warmup_cosine, steps=STEPS, warmup_steps=20, final=0.1),
        "LambdaLR of 0.1 + 0.9 cos²(x/2)", _lambda_cosine,
    ),
    (
        "warmup_stable_decay", functools.partial(ours.warmup_stable_decay, **WSD),
        "SequentialLR of LinearLR, ConstantLR and LinearLR", _sequential_wsd,
    ),
)  # fmt: skip


def check_against_torch(run: Run) -> None:
    """Every schedule at every step."""
    for name, function, reference, make in PAIRS:
        starts_above_0 = make is _sequential_wsd
        run.check(
            name,
            np.array([function(step) for step in range(STEPS)]),
            np.array(torch_rates(make)),
            against=f"torch {reference}",
            atol=1e-8 if starts_above_0 else 1e-12,
            why="torch's LinearLR cannot start at 0, it starts at 1e-9"
            if starts_above_0
            else "torch multiplies step by step: float64 rounding",
        )


def draw_schedules(run: Run) -> None:
    """Eight panels, one curve each."""
    shown = [
        ("warm-up", functools.partial(ours.warmup, steps=40)),
        ("linear", functools.partial(ours.linear, steps=STEPS)),
        ("cosine", functools.partial(ours.cosine, steps=STEPS)),
        ("step decay", functools.partial(ours.step_decay, every=60, gamma=0.3)),
        ("exponential", functools.partial(ours.exponential, gamma=0.98)),
        ("one cycle", functools.partial(ours.one_cycle, steps=STEPS)),
        (
            "warm-up + cosine",
            functools.partial(ours.warmup_cosine, steps=STEPS, warmup_steps=20),
        ),
        ("warm-up, stable, decay", functools.partial(ours.warmup_stable_decay, **WSD)),
    ]
    steps = np.arange(STEPS)
    with run.figure(
        "all", "How long is the step, as training goes on?", 2, 4, size=(9.4, 4.4), sharex=True,
        sharey=True,
    ) as axes:  # fmt: skip
        for panel, (name, function) in zip(axes.flat, shown, strict=True):
            values = [function(int(step)) for step in steps]
            panel.fill_between(steps, values, color=plots.BLUE, alpha=0.12, lw=0)
            panel.plot(steps, values, color=plots.BLUE)
            panel.set_title(name, fontsize=10.5, weight="normal")
            panel.set(ylim=(0, 1.08), xlim=(0, STEPS))
        for panel in axes[1]:
            panel.set_xlabel("step")
        for panel in axes[:, 0]:
            panel.set_ylabel("learning rate / peak")


# ---- warm-up


def digits_tensors():
    """Pixels in [0, 1], (1797, 64), and labels (1797,)."""
    data = datasets.digits()
    x = torch.from_numpy(np.asarray(data.images, dtype=np.float32)).flatten(1) / 16
    return x, torch.from_numpy(np.asarray(data.labels)).long()


def residual_net(runs: int, depth: int, width: int, generator) -> list[torch.Tensor]:
    """Weights of `runs` nets side by side, (runs, in, out) each."""

    def draw(n, m, scale):
        return torch.randn(runs, n, m, generator=generator) * scale

    blocks = [
        draw(width, width, scale / math.sqrt(width))
        for _ in range(depth)
        for scale in (math.sqrt(2), 1.0)
    ]
    return [draw(64, width, 1 / 8), *blocks, draw(width, 10, 1 / math.sqrt(width))]


def forward(weights, x, *, post_norm: bool):
    """Logits (runs, batch, 10): residual blocks, normalized after the sum or before the branch."""
    h, width = x @ weights[0], weights[0].shape[-1]
    for first, second in zip(weights[1:-1:2], weights[2:-1:2], strict=True):
        branch = h if post_norm else F.layer_norm(h, (width,))
        h = h + torch.relu(branch @ first) @ second
        h = F.layer_norm(h, (width,)) if post_norm else h
    return (h if post_norm else F.layer_norm(h, (width,))) @ weights[-1]


ARMS = {
    "no warm-up": lambda step, steps, w: 1.0,
    "warm-up": lambda step, steps, w: ours.warmup(step, steps=w, start=1 / w),
    "the same slow steps in the middle": lambda step, steps, w: (
        ours.warmup(step - steps // 2, steps=w, start=1 / w) if step >= steps // 2 else 1.0
    ),
}


def train_deep(arm, rates, seeds: int, *, post_norm: bool, steps: int, slow: int, depth: int):
    """Training loss over the last tenth of the steps, (rates, seeds); all nets at once."""
    x, y = digits_tensors()
    generator = torch.Generator().manual_seed(7)
    one = residual_net(seeds, depth, 32, generator)
    weights = [w.repeat(len(rates), 1, 1).requires_grad_() for w in one]  # paired across rates
    lr = torch.tensor(rates).repeat_interleave(seeds)[:, None, None]
    optimizer = Adam(weights, lr=1.0)
    losses = []
    for step in range(steps):
        rows = torch.randint(len(x), (64,), generator=generator)
        logits = forward(weights, x[rows], post_norm=post_norm)
        target = y[rows].expand(len(lr), -1)
        loss = F.cross_entropy(logits.transpose(1, 2), target, reduction="none").mean(1)
        optimizer.zero_grad()
        loss.sum().backward()
        factor = ARMS[arm](step, steps, slow)
        with torch.no_grad():
            for w, state in zip(weights, optimizer.state, strict=True):
                w.sub_(lr * factor * optimizer.update(w.grad, state))
        losses.append(loss.detach())
    return torch.stack(losses)[-steps // 10 :].mean(0).view(len(rates), seeds).numpy()


def warmup_matters(run: Run) -> None:
    """Deep nets at many learning rates, with, without and with misplaced slow steps."""
    seeds, depth = run.budget(quick=2, default=6), run.budget(quick=4, default=12)
    steps = run.budget(quick=30, default=200)
    rates = [1e-3, 10**-2.5, 10**-2.25, 1e-2, 10**-1.75, 10**-1.5]
    options = {"steps": steps, "slow": steps // 4, "depth": depth}
    post = {arm: train_deep(arm, rates, seeds, post_norm=True, **options) for arm in ARMS}
    pre = {arm: train_deep(arm, rates, seeds, post_norm=False, **options) for arm in list(ARMS)[:2]}
    high = rates.index(1e-2)
    none, warm, middle = (post[arm][high] for arm in ARMS)
    gain, placed = mean_interval(none - warm), mean_interval(middle - warm)
    pre_gain = mean_interval(pre["no warm-up"][high] - pre["warm-up"][high])
    run.metric("loss at lr 0.01 without warm-up", none.mean(), "nats", rtol=0.3)
    run.metric("loss at lr 0.01 with warm-up", warm.mean(), "nats", rtol=0.5)
    run.claim(
        "at a high learning rate a deep post-norm net needs Adam warmed up",
        gain.low > 0,
        f"lr 0.01, {depth} blocks, {seeds} seeds: the loss is higher by {gain} without warm-up",
        quick=False,
    )
    run.claim(
        "control: the same slow steps in the middle of training do not replace it",
        placed.low > 0,
        f"the loss is higher by {placed} than with warm-up",
        quick=False,
    )
    run.claim(
        "normalizing before the branch takes most of the need away",
        pre_gain.high < gain.mean / 2,
        f"pre-norm: the loss is higher by {pre_gain} without warm-up",
        quick=False,
    )
    colors = (plots.ORANGE, plots.BLUE, plots.GRAY)
    with run.figure(
        "warmup", "Does warm-up matter?", 1, 2, size=(9.4, 4.4), sharey=True
    ) as axes:  # fmt: skip
        for panel, results, title in (
            (axes[0], post, f"norm after each of {depth} blocks (as in 2017)"),
            (axes[1], pre, "norm before each block (as today)"),
        ):
            for (arm, losses), color in zip(results.items(), colors, strict=False):
                plots.interval_band(panel, rates, losses.T, color=color, label=arm)
            panel.axhline(math.log(10), color=plots.REFERENCE, ls="--", lw=1)
            panel.set_title(title, fontsize=10.5, weight="normal")
            panel.set(xscale="log", xlabel="peak learning rate of Adam")
        axes[0].text(1e-3, math.log(10) + 0.03, "guessing", color=plots.REFERENCE, fontsize=9)
        axes[0].set_ylabel("training loss at the end (nats)")
        lines, names = axes[0].get_legend_handles_labels()
        axes[1].legend(lines, names, loc="center", fontsize=9.5)
        axes[1].text(0.5, 0.36, f"lines: means of {seeds} seeds, bands: their range", fontsize=9,
                     color=plots.REFERENCE, ha="center", transform=axes[1].transAxes)  # fmt: skip


# ---- decay


def decay_on_a_bowl(run: Run) -> None:
    """The noise floor of SGD on λx²/2, measured with many walkers, and what decay gets below it."""
    curvature, sigma, start, steps = 1.0, 1.0, 3.0, 600
    walkers = run.budget(quick=2000, default=20_000)
    generator = run.generator(5)

    def walk(factor, eta, noise=sigma):
        x, losses, exact, moment = torch.full((walkers,), start).double(), [], [], start**2
        for step in range(steps):
            rate = eta * factor(step)
            gradient = curvature * x + noise * torch.randn(walkers, generator=generator).double()
            x = x - rate * gradient
            moment = (1 - rate * curvature) ** 2 * moment + (rate * noise) ** 2
            losses.append(curvature * x**2 / 2)
            exact.append(curvature * moment / 2)
        return torch.stack(losses).numpy(), np.array(exact)

    etas, floors = (0.02, 0.05, 0.1, 0.2, 0.5), []
    for eta in etas:
        losses, _ = walk(lambda step: 1.0, eta)
        floors.append(losses[-1])
    predicted = np.array([eta * sigma**2 / (2 * (2 - eta * curvature)) for eta in etas])
    means = np.array([f.mean() for f in floors])
    run.check(
        "noise floor of constant learning rates / theory",
        means / predicted,
        np.ones(len(etas)),
        against="ησ²/(2(2 - ηλ))",
        atol=4.5 * math.sqrt(2 / walkers),
        why="4.5 standard errors: the relative variance of a squared normal is 2",
    )
    eta = 0.2
    arms = {
        "constant": lambda step: 1.0,
        "step decay": lambda step: ours.step_decay(step, every=200, gamma=0.3),
        "cosine to zero": lambda step: ours.cosine(step, steps=steps),
        "stable, then linear to zero": lambda step: (
            ours.warmup_stable_decay(step, steps=steps, warmup_steps=1, decay_steps=150)
            if step
            else 1.0
        ),
    }
    walks = {name: walk(factor, eta) for name, factor in arms.items()}
    run.check(
        "final loss of decayed rates / exact second moment",
        np.array([losses[-1].mean() / exact[-1] for losses, exact in walks.values()]),
        np.ones(len(arms)),
        against="E[x²] ← (1 - ηλ)² E[x²] + η²σ²",
        atol=4.5 * math.sqrt(2 / walkers),
        why="4.5 standard errors: the relative variance of a squared normal is 2",
    )
    constant, decayed = walks["constant"][0][-1], walks["stable, then linear to zero"][0][-1]
    quiet = {name: walk(factor, eta, noise=0.0)[1][-1] for name, factor in arms.items()}
    ratio = constant.mean() / decayed.mean()
    run.metric("constant over decayed final loss, noisy bowl", ratio, "times", rtol=0.1)
    run.claim(
        "decay gets under the noise floor, and without noise it buys nothing",
        ratio > 3 and all(quiet["constant"] <= value for value in quiet.values()),
        f"η = {eta}, {walkers} walkers: constant {mean_interval(constant)}, decayed in the last "
        f"quarter {mean_interval(decayed)}; without noise the constant rate ends lowest",
    )
    with run.figure(
        "noise_floor", "What does it buy to let the learning rate fall?", 1, 2, size=(9.4, 4.3)
    ) as (left, right):  # fmt: skip
        grid = np.geomspace(0.015, 0.6, 50)
        left.plot(grid, grid / (2 * (2 - grid)), color=plots.REFERENCE, ls="--", lw=1)
        left.text(0.11, 0.02, "$ησ^2/(2(2-ηλ))$", color=plots.REFERENCE, ha="left")
        left.text(0.085, 0.034, "measured", color=plots.ORANGE, ha="right")
        left.plot(etas, means, "o", color=plots.ORANGE, ms=7)
        left.set(xscale="log", yscale="log", xlabel="constant learning rate η",
                 ylabel="mean loss after 600 steps")  # fmt: skip
        left.set_xticks(etas, [f"{eta:g}" for eta in etas])
        left.minorticks_off()
        left.set_title("the floor is proportional to η", fontsize=10.5, weight="normal")
        colors = (plots.ORANGE, plots.GRAY, plots.SKY, plots.BLUE)
        for (name, (losses, exact)), color in zip(walks.items(), colors, strict=True):
            right.plot(losses.mean(1), color=color, lw=1.6, label=name)
            right.plot(exact, color="white", lw=0.5, ls=":")
        right.axhline(predicted[etas.index(eta)], color=plots.REFERENCE, ls="--", lw=1)
        right.set(yscale="log", xlabel="step", ylabel="mean loss, η = 0.2 at first", xlim=(0, 600))
        right.set_title("falling rates get below it", fontsize=10.5, weight="normal")
        right.legend(loc="upper right", fontsize=9)


def decay_on_digits(run: Run) -> None:
    """Softmax regression on digits, where the optimum is known: excess loss by schedule."""
    x, y = digits_tensors()
    x = F.pad(x.double(), (0, 1), value=1.0)
    penalty, steps = 1e-2, run.budget(quick=100, default=2000)
    seeds, eta = run.budget(quick=2, default=8), 0.5
    optimum = _best_loss(x, y, penalty)
    factors = {
        "constant": lambda step: 1.0,
        "a tenth, constant": lambda step: 0.1,
        "cosine to zero": lambda step: ours.cosine(step, steps=steps),
        "stable, then linear to zero": lambda step: ours.warmup_stable_decay(
            step, steps=steps, warmup_steps=steps // 20, decay_steps=steps // 4
        ),
    }

    def excess(factor, batch: int | None):
        runs = seeds if batch else 1
        weight = torch.zeros(runs, 65, 10, dtype=torch.float64)
        generators = [torch.Generator().manual_seed(s) for s in range(runs)]
        curve = []
        for step in range(steps):
            if batch:
                rows = torch.stack(
                    [torch.randint(len(x), (batch,), generator=g) for g in generators]
                )
                inputs, target = x[rows], F.one_hot(y[rows], 10)
            else:
                inputs, target = x[None], F.one_hot(y, 10)[None]
            residual = torch.softmax(inputs @ weight, -1) - target
            gradient = inputs.mT @ residual / inputs.shape[1] + penalty * weight
            weight -= eta * factor(step) * gradient
            if step % 20 == 19:
                logits = x @ weight
                loss = (logits.logsumexp(-1) - logits[:, torch.arange(len(y)), y]).mean(-1)
                curve.append(loss + penalty * (weight**2).sum((1, 2)) / 2 - optimum)
        return torch.stack(curve).numpy()

    curves = {name: excess(factor, 8) for name, factor in factors.items()}
    final = {name: curve[-1] for name, curve in curves.items()}
    gain = mean_interval(
        np.log(final["constant"] / final["stable, then linear to zero"]) / math.log(10)
    )
    control = {
        name: float(excess(factors[name], None)[-1, 0])
        for name in ("constant", "stable, then linear to zero")
    }
    run.metric("excess loss, constant rate", final["constant"].mean(), "nats", rtol=0.1)
    run.metric("excess loss, stable then linear to zero",
               final["stable, then linear to zero"].mean(), "nats", rtol=0.1)  # fmt: skip
    run.claim(
        "on digits too, the last quarter's decay takes off most of what is left",
        gain.low > math.log10(2),
        f"{seeds} seeds: the excess loss is 10^x times smaller than at a constant rate, x = {gain}",
        quick=False,
    )
    run.claim(
        "control: with gradients of the whole set the decay buys nothing",
        control["constant"] <= control["stable, then linear to zero"],
        f"excess loss {control['constant']:.1e} constant, "
        f"{control['stable, then linear to zero']:.1e} decayed",
    )
    at = np.arange(19, steps, 20)
    with run.figure("digits", "Digits: how far above the best possible loss?") as axes:
        for (name, curve), color in zip(
            curves.items(), (plots.ORANGE, plots.GRAY, plots.SKY, plots.BLUE), strict=True
        ):
            plots.interval_band(axes, at, curve.T, color=color, label=name)
        axes.set(yscale="log", xlabel="step (8 images each)", xlim=(0, steps),
                 ylabel="training loss above the optimum (nats)")  # fmt: skip
        axes.legend(loc="lower left")


def _best_loss(x, y, penalty: float) -> float:
    """The optimum of softmax regression with an L2 penalty, by L-BFGS."""
    from scipy.optimize import minimize

    a, target = x.numpy(), np.eye(10)[y.numpy()]

    def loss(flat):
        w = flat.reshape(65, 10)
        logits = a @ w
        top = logits.max(1, keepdims=True)
        log_sum = top[:, 0] + np.log(np.exp(logits - top).sum(1))
        p = np.exp(logits - log_sum[:, None])
        value = (log_sum - (logits * target).sum(1)).mean() + penalty * (w**2).sum() / 2
        return value, (a.T @ (p - target) / len(a) + penalty * w).ravel()

    options = {"maxiter": 2000, "ftol": 1e-14, "gtol": 1e-9}
    return minimize(loss, np.zeros(650), jac=True, method="L-BFGS-B", options=options).fun


def main(run: Run) -> None:
    """Follow torch's schedulers step by step, then measure what warm-up and decay buy."""
    check_against_torch(run)
    draw_schedules(run)
    warmup_matters(run)
    decay_on_a_bowl(run)
    decay_on_digits(run)
