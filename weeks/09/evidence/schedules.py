"""Schedules follow torch's; what warm-up and decay buy, and where they buy nothing."""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import lr_scheduler

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import Run
from week09 import schedules as ours
from week09.optimizers import Adam

STEPS = 200


def main(run: Run) -> None:
    """Follow torch's schedulers step by step, then measure what warm-up and decay buy."""
    check_against_torch(run)
    warmup_matters(run)
    decay_on_a_bowl(run)
    decay_on_digits(run)


# ---- step for step


def torch_rates(make) -> list[float]:
    """Learning rates of a torch scheduler, the first one included."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler, rates = make(optimizer), []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def one_after_another(parts, milestones):
    """torch's SequentialLR; parts are names with arguments."""

    def make(optimizer):
        schedulers = [getattr(lr_scheduler, name)(optimizer, **options) for name, options in parts]
        return lr_scheduler.SequentialLR(optimizer, schedulers, milestones)

    return make


RISE = ("LinearLR", {"start_factor": 1e-9, "total_iters": 20})
STAY = ("ConstantLR", {"factor": 1.0, "total_iters": 0})
FALL = ("LinearLR", {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 40})
COSINE = ("CosineAnnealingLR", {"T_max": STEPS - 20, "eta_min": 0.1})


def check_against_torch(run: Run) -> None:
    """The two schedules of today's training runs, at every step."""
    rise = {"steps": STEPS, "warmup_steps": 20}
    cases = {
        "warmup_cosine": (
            partial(ours.warmup_cosine, **rise, final=0.1),
            one_after_another([RISE, COSINE], [20]),
        ),
        "warmup_stable_decay": (
            partial(ours.warmup_stable_decay, **rise, decay_steps=40),
            one_after_another([RISE, STAY, FALL], [20, 160]),
        ),
    }
    why = "torch's LinearLR cannot start at 0, it starts at 1e-9"
    check = run.against("torch.optim.lr_scheduler.SequentialLR", atol=1e-8, why=why)
    for name, (function, make) in cases.items():
        rates = np.array([function(step) for step in range(STEPS)])
        check(name, rates, np.array(torch_rates(make)))


# ---- warm-up


def digits_tensors() -> tuple[Tensor, Tensor]:
    """Pixels in [0, 1], (1797, 64), and labels (1797,)."""
    data = datasets.digits()
    x = torch.from_numpy(np.asarray(data.images, dtype=np.float32)).flatten(1) / 16
    return x, torch.from_numpy(np.asarray(data.labels)).long()


def residual_net(runs: int, depth: int, width: int, generator) -> list[Tensor]:
    """Weights of `runs` nets side by side, (runs, in, out) each."""

    def draw(n, m, scale):
        return torch.randn(runs, n, m, generator=generator) * scale

    scales = [math.sqrt(2 / width), 1 / math.sqrt(width)] * depth
    blocks = [draw(width, width, scale) for scale in scales]
    return [draw(64, width, 1 / 8), *blocks, draw(width, 10, 1 / math.sqrt(width))]


def forward(weights: list[Tensor], x: Tensor, *, post_norm: bool) -> Tensor:
    """Logits (runs, batch, 10): residual blocks, normalized after the sum or before the branch."""
    h, width = x @ weights[0], weights[0].shape[-1]
    for first, second in zip(weights[1:-1:2], weights[2:-1:2], strict=True):
        branch = h if post_norm else F.layer_norm(h, (width,))
        h = h + torch.relu(branch @ first) @ second
        h = F.layer_norm(h, (width,)) if post_norm else h
    return (h if post_norm else F.layer_norm(h, (width,))) @ weights[-1]


def slow_steps(arm: str, step: int, steps: int, slow: int) -> float:
    """Share of the peak rate: rising over the first `slow` steps, or in the middle, or never."""
    begin = {"warm-up": 0, "slow steps in the middle": steps // 2, "no warm-up": steps}[arm]
    return ours.warmup(step - begin, steps=slow, start=1 / slow) if step >= begin else 1.0


def train_deep(arm, rates, seeds: int, *, post_norm: bool, steps: int, slow: int, depth: int):
    """Training loss over the last tenth of the steps, (seeds, rates); all nets at once."""
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
        factor = slow_steps(arm, step, steps, slow)
        with torch.no_grad():
            for w, state in zip(weights, optimizer.state, strict=True):
                w.sub_(lr * factor * optimizer.update(w.grad, state))
        losses.append(loss.detach())
    return torch.stack(losses)[-steps // 10 :].mean(0).view(len(rates), seeds).T.numpy()


def warmup_matters(run: Run) -> None:
    """Deep nets at many learning rates, with, without and with misplaced slow steps."""
    seeds, depth = run.budget(quick=2, default=6), run.budget(quick=3, default=12)
    steps = run.budget(quick=10, default=200)
    rates = [1e-3, 10**-2.5, 10**-2.25, 1e-2, 10**-1.75, 10**-1.5]
    options = {"steps": steps, "slow": steps // 4, "depth": depth}
    arms = ["no warm-up", "warm-up", "slow steps in the middle"]
    post = {arm: train_deep(arm, rates, seeds, post_norm=True, **options) for arm in arms}
    pre = {arm: train_deep(arm, rates, seeds, post_norm=False, **options) for arm in arms[:2]}
    high = rates.index(1e-2)
    none, warm, middle = (post[arm][:, high] for arm in arms)
    pre_gain = pre["no warm-up"][:, high] - pre["warm-up"][:, high]
    run.metric("loss at lr 0.01 without warm-up", none.mean(), "nats", rtol=0.3)
    run.metric("loss at lr 0.01 with warm-up", warm.mean(), "nats", rtol=0.5)
    options = {"unit": "nats", "quick": False}
    name = "at a high learning rate a deep post-norm net needs Adam warmed up"
    note = f"excess at lr 0.01 without warm-up, {depth} blocks"
    run.claim(name, none - warm, at_least=0, note=note, **options)
    name = "the same slow steps in the middle of training do not replace it"
    run.claim(name, middle - warm, at_least=0, note="excess over warm-up", **options)
    name = "normalizing before the branch takes most of the need away"
    note = f"half that excess, minus the pre-norm net's, which is {mean_interval(pre_gain)}"
    run.claim(name, (none - warm) / 2 - pre_gain, at_least=0, note=note, **options)
    titles = {"norm after each block (as in 2017)": post, "norm before each block (as today)": pre}
    question = f"Does warm-up matter? {depth} blocks, mean and range of {seeds} seeds"
    with run.figure("warmup", question, 1, 2, size=(9.4, 4.4), sharey=True) as axes:
        colors, reference = (plots.ORANGE, plots.BLUE, plots.GRAY), {"guessing": math.log(10)}
        for panel, (title, losses) in zip(axes, titles.items(), strict=True):
            labels = {"xlabel": "peak learning rate of Adam", "xscale": "log", "ends": False}
            plots.curves(panel, rates, losses, colors=colors, reference=reference, **labels)
            panel.set_title(title, fontsize=10.5, weight="normal")
        axes[0].set_ylabel("training loss at the end (nats)")


# ---- decay


def decay_on_a_bowl(run: Run) -> None:
    """The noise floor of SGD on λx²/2, measured with many walkers, and what decay gets below it."""
    curvature, sigma, start, steps = 1.0, 1.0, 3.0, run.budget(quick=200, default=600)
    walkers = run.budget(quick=1000, default=20_000)
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

    etas = run.budget(quick=(0.1, 0.2, 0.5), default=(0.02, 0.05, 0.1, 0.2, 0.5))
    floors = np.array([walk(lambda step: 1.0, eta)[0][-1].mean() for eta in etas])
    predicted = np.array([eta * sigma**2 / (2 * (2 - eta * curvature)) for eta in etas])
    eta, last = 0.2, steps // 4
    arms = {
        "constant": lambda step: 1.0,
        "step decay": partial(ours.step_decay, every=steps // 3, gamma=0.3),
        "cosine to zero": partial(ours.cosine, steps=steps),
        "stable, then to zero": lambda step: ours.linear(max(step - steps + last, 0), steps=last),
    }
    walks = {name: walk(factor, eta) for name, factor in arms.items()}
    why = "4.5 standard errors: the relative variance of a squared normal is 2"
    allowed = {"kind": "theorem", "atol": 4.5 * math.sqrt(2 / walkers), "why": why}
    check = run.against("ησ²/(2(2 - ηλ))", **allowed)
    name = "noise floor of constant learning rates / theory"
    check(name, floors / predicted, np.ones(len(etas)))
    check = run.against("E[x²] ← (1 - ηλ)² E[x²] + η²σ²", **allowed)
    ratios = np.array([losses[-1].mean() / exact[-1] for losses, exact in walks.values()])
    check("final loss of decayed rates / exact second moment", ratios, np.ones(len(arms)))

    constant, decayed = (walks[n][0][-1] for n in ("constant", "stable, then to zero"))
    ratio = constant.mean() / decayed.mean()
    run.metric("constant over decayed final loss, noisy bowl", ratio, "times", rtol=0.1)
    note = f"η = {eta}: constant {mean_interval(constant)}, decayed {mean_interval(decayed)}"
    name = (
        "decay in the last quarter gets under the noise floor: constant minus 3 times decayed loss"
    )
    run.claim(name, constant - 3 * decayed, at_least=0, note=note)
    quiet = {name: walk(factor, eta, noise=0.0)[1][-1] for name, factor in arms.items()}
    best = min(quiet[name] for name in arms if name != "constant")
    name = "without noise decay buys nothing: constant minus best decayed loss"
    run.claim(name, quiet["constant"] - best, at_most=0, deterministic=True)

    title = "What does it buy to let the learning rate fall?"
    with run.figure("noise_floor", title, 1, 2, size=(9.4, 4.3)) as (left, right):
        left.plot(etas, predicted, color=plots.REFERENCE, ls="--", label="ησ²/(2(2 - ηλ))")
        left.plot(etas, floors, "o", color=plots.ORANGE, label="measured")
        left.set(xscale="log", yscale="log", xlabel="constant learning rate η", ylabel="mean loss")
        left.set_xticks(etas, [f"{eta:g}" for eta in etas])
        left.minorticks_off()
        left.legend()
        means = {name: losses.mean(1) for name, (losses, _) in walks.items()}
        colors = (plots.ORANGE, plots.GRAY, plots.SKY, plots.BLUE)
        labels = {"xlabel": f"step (η = {eta} at first)", "yscale": "log", "ends": False}
        plots.curves(right, np.arange(steps), means, colors=colors, **labels)


def decay_on_digits(run: Run) -> None:
    """Softmax regression on digits, where the optimum is known: excess loss by schedule."""
    from sklearn.linear_model import LogisticRegression

    x, y = digits_tensors()
    x = F.pad(x.double(), (0, 1), value=1.0)
    penalty, steps = 1e-2, run.budget(quick=50, default=2000)
    seeds, eta = run.budget(quick=2, default=8), 0.5
    options = {"C": 1 / (penalty * len(x)), "fit_intercept": False, "tol": 1e-9}
    best = LogisticRegression(max_iter=10_000, **options).fit(x, y).coef_
    decay = partial(
        ours.warmup_stable_decay, steps=steps, warmup_steps=steps // 20, decay_steps=steps // 4
    )

    def loss_of(weight: Tensor) -> Tensor:
        logits = x @ weight
        loss = (logits.logsumexp(-1) - logits[..., torch.arange(len(y)), y]).mean(-1)
        return loss + penalty * (weight**2).sum((-1, -2)) / 2

    optimum = loss_of(torch.tensor(best.T))

    def excess(factor, batches) -> np.ndarray:
        weight = torch.zeros(len(batches[0]), 65, 10, dtype=torch.float64)
        for step, rows in enumerate(batches):
            residual = torch.softmax(x[rows] @ weight, -1) - F.one_hot(y[rows], 10)
            gradient = x[rows].mT @ residual / rows.shape[1] + penalty * weight
            weight -= eta * factor(step) * gradient
        return (loss_of(weight) - optimum).numpy()

    generators = [torch.Generator().manual_seed(s) for s in range(seeds)]
    noisy = torch.stack([torch.randint(len(x), (steps, 8), generator=g) for g in generators], 1)
    gain = np.log10(excess(lambda step: 1.0, noisy) / excess(decay, noisy))
    name = (
        "on digits too, the last quarter's decay takes off most of what is left: log10 of the ratio"
    )
    run.claim(name, gain, at_least=math.log10(2), quick=False)
    whole = torch.arange(len(x)).expand(steps, 1, -1)
    gain = np.log10(excess(lambda step: 1.0, whole) / excess(decay, whole))
    name = "control: with gradients of the whole set the decay buys nothing"
    run.claim(name, gain[0], at_most=0, deterministic=True, note="log10 of the ratio")
