"""A small network trained with each way of storing its weights; which updates are lost where."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week16.choice_of_precision import choose_precision
from week16.evidence.mixed_precision_formats import (
    add_small_numbers,
    check_autocast,
    check_formats,
    draw_formats,
)
from week16.mixed_precision import Policy, Trace, gradients, mlp_loss, train

ARMS = {
    "float32": Policy(torch.float32),
    "fp16 weights": Policy(torch.float16, "plain"),
    "bf16 weights": Policy(torch.bfloat16, "plain"),
    "fp16 + master copy": Policy(torch.float16, "master", 2.0**10),
    "bf16 stochastic": Policy(torch.bfloat16, "stochastic"),
    "bf16 Kahan": Policy(torch.bfloat16, "kahan"),
}
INK = (plots.REFERENCE, plots.ORANGE, plots.PINK, plots.BLUE, plots.GREEN, plots.SKY)
COLORS = dict(zip(ARMS, INK, strict=True))
RATES = (0.001, 0.01, 0.1)


def main(run: Run, *, steps: PositiveInt = 600, seeds: PositiveInt = 5) -> None:
    """Check the formats bit by bit, then train a small network with each way of storing.

    Parameters
    ----------
    steps
        Training steps of each network.
    seeds
        Networks trained side by side.
    """
    run.rounding(0.05, "a last bit that differs decides which way 16 bits round")
    check_formats(run)
    draw_formats(run)
    check_autocast(run)
    add_small_numbers(run)
    digits = Digits(run)
    check_steps(run, digits)
    steps = run.budget(quick=min(steps, 30), default=steps)
    digits.seeds = run.budget(quick=min(seeds, 2), default=seeds)
    run.metric("seeds", digits.seeds, rtol=0)
    traces = compare_storage(run, digits, steps)
    shuffle_labels(run, digits, traces["fp16 + master copy", 0.1], steps)
    overflow_the_scale(run, digits, min(steps, 200))
    underflow(run, digits, steps)
    run.say(f"the probe's choice here: {choose_precision(torch.device('cpu')).reason}")


# ---- data and networks


class Digits:
    """Batches of scikit-learn's digits, and networks to start from, one of each per seed."""

    def __init__(self, run: Run):
        data = datasets.digits()
        self.x = torch.from_numpy(data.images / 16).float().flatten(1)
        self.y, self.seed, self.seeds = torch.from_numpy(data.labels).long(), run.seed, 1

    def batches(
        self, steps: int, *, size: int = 32, offset: int = 0, shuffle: bool = False
    ) -> Iterator[tuple[Float32[Tensor, "seed batch pixel"], Int64[Tensor, "seed batch"]]]:
        """Other rows for each seed, the same for every arm."""
        generator = torch.Generator().manual_seed(self.seed + offset)
        y = self.y[torch.randperm(len(self.y), generator=generator)] if shuffle else self.y
        for _ in range(steps):
            i = torch.randint(len(self.x), (self.seeds, size), generator=generator)
            yield self.x[i], y[i]

    def start(self, hidden: int = 64) -> list[Float32[Tensor, "seed _ _"]]:
        """He's initialization of 64–hidden–10."""
        g = torch.Generator().manual_seed(1000 + self.seed)
        w1 = torch.randn(self.seeds, 64, hidden, generator=g) * (2 / 64) ** 0.5
        w2 = torch.randn(self.seeds, hidden, 10, generator=g) * hidden**-0.5
        return [w1, torch.zeros(self.seeds, 1, hidden), w2, torch.zeros(self.seeds, 1, 10)]

    def judged(self) -> tuple[Float32[Tensor, "seed batch pixel"], Int64[Tensor, "seed batch"]]:
        """1,500 digits, the same for every seed."""
        i = torch.randint(len(self.x), (1500,), generator=torch.Generator().manual_seed(7))
        return self.x[i].expand(self.seeds, -1, -1), self.y[i].expand(self.seeds, -1)

    def train(self, policy: Policy, *, steps: int, lr: float, **options) -> Trace:
        """A stack of networks trained under `policy`."""
        rounding = torch.Generator().manual_seed(self.seed + 3)
        batches = self.batches(steps, **options)
        return train(mlp_loss, self.start(), batches, policy, lr=lr, generator=rounding)


def check_steps(run: Run, digits: Digits) -> None:
    """Ten steps in float32 with a loss scale of 2¹⁰, and the same ten of plain torch."""
    ours = digits.train(Policy(torch.float32, scale=2.0**10), steps=10, lr=0.1)
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    for p, w in zip(model.parameters(), digits.start(), strict=True):
        p.data = (w[0].T if p.ndim == 2 else w[0, 0]).clone()
    sgd, losses = torch.optim.SGD(model.parameters(), lr=0.1), []
    for x, y in digits.batches(10):
        loss = nn.functional.cross_entropy(model(x[0]), y[0])
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    plain = run.against("torch.optim.SGD, unscaled", rtol=1e-5, why="float32 rounding")
    plain("losses of ten scaled steps", ours.loss[:, 0], losses)


# ---- which update is lost, and what brings it back


def compare_storage(run: Run, digits: Digits, steps: int) -> dict[tuple[str, float], Trace]:
    """Every arm at its rates, paired by seed: loss above float32's, and updates swallowed."""
    traces, final = {}, {}
    for rate in run.progress(RATES, "learning rates"):
        for arm, policy in ARMS.items():
            if rate == 0.01 or arm not in ("bf16 stochastic", "bf16 Kahan"):
                traces[arm, rate] = trace = digits.train(policy, steps=steps, lr=rate)
                loss = mlp_loss(trace.weights, digits.judged(), torch.float32)
                final[arm, rate] = loss.numpy()
    excess = {key: final[key] - final["float32", key[1]] for key in final}
    for arm in ("fp16 weights", "bf16 weights"):
        lost = traces[arm, 0.01].swallowed[-steps // 5 :].mean()
        run.metric(f"swallowed updates, {arm}, lr 0.01", 100 * lost, "%", rtol=0.1)
    run.metric("excess loss, bf16 weights, lr 0.01", excess["bf16 weights", 0.01].mean(), "nats")

    rule = {"unit": "nats above float32", "quick": False}  # final losses, paired by seed
    seen = "fp16 at 0.001 and bf16 at 0.01 lay above the bound, fp16 at 0.01 below"
    for rate in (0.001, 0.01):
        for arm in ("fp16 weights", "bf16 weights"):
            name = f"{arm} stall at a rate of {rate}"
            run.claim(name, excess[arm, rate], at_least=0.02, seen_before=seen, **rule)
    stall, with_copy = "fp16 weights stall at a rate of 0.001", excess["fp16 + master copy", 0.001]
    run.falsifier("a master copy in float32", with_copy, breaks=stall)
    name = "a master copy is float32's equal at a rate of 0.001"
    run.claim(name, with_copy, at_least=-0.01, at_most=0.01, **rule)
    for arm, words in (("bf16 stochastic", "stochastic rounding"), ("bf16 Kahan", "Kahan's sum")):
        name = f"{words} replaces the master copy"
        run.claim(name, excess[arm, 0.01], at_least=-0.02, at_most=0.02, **rule)
        run.falsifier(f"without {words}", excess["bf16 weights", 0.01], breaks=name)
    rule |= {"unit": "nats above fp16", "seen_before": "0.44 against 0.01 in three seeds"}
    coarser = excess["bf16 weights", 0.01] - excess["fp16 weights", 0.01]
    name = "bf16 weights stall more than fp16 weights, both at a rate of 0.01"
    run.claim(name, coarser, at_least=0.1, **rule)
    draw_training(run, traces, excess, steps)
    return traces


def draw_training(run: Run, traces: dict, excess: dict, steps: int) -> None:
    """Training curves at one rate, and the final loss at all of them."""
    width = max(1, steps // 40)
    n = steps // width
    arms = ("fp16 + master copy", "bf16 stochastic", "bf16 Kahan", "bf16 weights", "float32")
    means = {
        arm: traces[arm, 0.01].loss[: n * width].unflatten(0, (n, width)).mean(1).T.numpy()
        for arm in arms
    }
    at = (np.arange(n) + 0.5) * width
    title = "16-bit weights stall: small steps are swallowed"
    with run.figure("training", title, columns=2, size=(10.0, 4.3)) as (left, right):
        labels = {"xlabel": "step, at a rate of 0.01", "ylabel": "training loss (nats)"}
        plots.curves(left, at, means, colors=[COLORS[arm] for arm in arms], ylim=(0, 2.6), **labels)
        arms = ("fp16 weights", "bf16 weights", "fp16 + master copy")
        lines = {arm: np.stack([excess[arm, rate] for rate in RATES], axis=1) for arm in arms}
        labels = {"xlabel": "learning rate", "ylabel": "final loss (nats above float32's)"}
        options = {"colors": [COLORS[arm] for arm in arms], "marker": "o"}
        plots.curves(right, RATES, lines, xscale="log", **options, **labels)


def shuffle_labels(run: Run, digits: Digits, learned: Trace, steps: int) -> None:
    """The control: 16 bits with a master copy learn from labels, not from their order."""
    policy = ARMS["fp16 + master copy"]
    control = digits.train(policy, steps=steps, lr=0.1, shuffle=True)
    last, shuffled = (t.loss[-steps // 10 :].mean(0) for t in (learned, control))
    name = "fp16 with a master copy learns digits"
    run.claim(name, last, at_most=0.7, unit="nats", note="last tenth of training", quick=False)
    run.falsifier("shuffled labels", shuffled, breaks=name)


# ---- gradients that overflow or underflow


def overflow_the_scale(run: Run, digits: Digits, steps: int) -> None:
    """From a scale of 2^30: a dynamic one comes down, a static one skips every step."""
    skipped = {}
    for dynamic in (True, False):
        policy = Policy(torch.float16, "master", 2.0**30, dynamic)
        skipped[dynamic] = digits.train(policy, steps=steps, lr=0.1).skipped.float().mean(0)
    name, note = "a dynamic scale that overflows finds its way", f"of {steps} steps skipped"
    run.claim(name, skipped[True], at_most=0.5, note=note)
    run.falsifier("a static scale", skipped[False], breaks=name, note=note)


def underflow(run: Run, digits: Digits, steps: int) -> None:
    """Gradients of a well-trained network: which would fp16 lose, and with a loss scale?"""
    weights = digits.train(Policy(torch.float32), steps=steps, lr=1.0).weights
    one = torch.ones(digits.seeds, dtype=torch.float64)

    def of(dtype: torch.dtype, scale: float = 1.0) -> Float[Tensor, "seed gradient"]:
        grads = gradients(mlp_loss, weights, digits.judged(), dtype, scale * one)[1]
        return torch.cat([g.flatten(1) for g in grads], dim=1)

    exact = of(torch.float32)
    lost = {}
    for scale in (1.0, 2.0**14):
        zero = (exact != 0) & (of(torch.float16, scale) == 0)
        lost[scale] = (zero.sum(1) / (exact != 0).sum(1)).numpy()
    run.metric("gradients lost, fp16", 100 * lost[1.0].mean(), "%", rtol=0.3)
    run.metric("gradients lost, fp16, scaled", 100 * lost[2.0**14].mean(), "%", rtol=0.3)
    saved = lost[1.0] - 10 * lost[2.0**14]
    name = "a loss scale of 2^14 saves nine in ten of the gradients that fp16 loses"
    note = "share lost minus ten times that with the scale"
    run.claim(name, saved, at_least=0, note=note, quick=False)
    run.falsifier("a loss scale of 1", lost[1.0] - 10 * lost[1.0], breaks=name)
    draw_exponents(run, exact)


def draw_exponents(run: Run, exact: Float[Tensor, "seed gradient"]) -> None:
    """A histogram of powers of two, as they are and shifted by the loss scale."""
    exponents = np.floor(np.log2(exact[exact != 0].abs().numpy()))
    share, bins = np.full(len(exponents), 100 / len(exponents)), np.arange(-45, 18) - 0.5
    title = "Where do the gradients lie, and what can fp16 hold?"
    with run.figure("exponents", title, size=(8.0, 4.2)) as axes:
        kinds = {"as they are": (0, plots.ORANGE), "loss × 2¹⁴": (14, plots.BLUE)}
        for label, (shift, color) in kinds.items():
            text = {"label": label, "color": color, "alpha": 0.65}
            axes.hist(exponents + shift, bins, weights=share, **text)
        axes.axvspan(-40, -25, color=plots.GRAY, alpha=0.18, lw=0)
        for x in (-14, 15):
            axes.axvline(x, color=plots.REFERENCE, ls="--", lw=1)
        top = 1.2 * axes.get_ylim()[1]
        for x, words in ((-39.5, "fp16: zero"), (-24.6, "subnormal"), (-13.6, "normal")):
            axes.text(x, 0.93 * top, words, color=plots.REFERENCE)
        axes.set(ylim=(0, top), xlim=(-40, 17), ylabel="gradients (%)")
        axes.set(xlabel="exponent of the gradient (power of two)")
        axes.legend(loc="center left")
