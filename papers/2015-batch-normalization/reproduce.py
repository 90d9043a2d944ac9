r"""Does batch normalization reach the same accuracy in many times fewer steps?

Three hidden layers of 100 sigmoids, as in the paper's section 4.1, on small digits, by plain SGD.
With the transform of algorithm 1 between each product and its sigmoid,

$$ \hat x = \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}}, \qquad y = \gamma \hat x + \beta, $$

and without it. Each net has a learning rate chosen from the same grid, by seeds that take no part
in the verdict. Counted are the steps to the accuracy that the plain net reaches at best. What
counts as reproduced stands in the front matter of README.md and is read from there.

    uv run papers/2015-batch-normalization/reproduce.py

Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", section 3, algorithm 1; sections 4.1 and 4.2.2.
"""

import itertools
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.datasets import digits
from shared.study import PositiveInt, Run, cli
from week09.regularization import BatchNorm

README = Path(__file__).with_name("README.md")
Arm = Literal["plain", "normalized", "affine only"]
ARMS = ("plain", "normalized", "affine only")
EVERY, BATCH, N_TRAIN = 20, 60, 1297


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


class Nets:
    """Nets of one kind: plain, normalized, or with gain and bias but no normalizing.

    Parameters
    ----------
    lrs, seeds
        (run,) the learning rate and the seed of each run's first weights.
    hidden
        Widths of the hidden layers.
    activation
        `sigmoid` with weights of variance 1/fan_in, or `relu` with 2/fan_in (He et al., 2015).
    """

    def __init__(
        self,
        arm: Arm,
        lrs: list[float],
        seeds: list[int],
        hidden: tuple[int, ...] = (100, 100, 100),
        activation: str = "sigmoid",
    ):
        if arm not in ARMS:
            raise ValueError(f"arm must be one of {', '.join(ARMS)}, got {arm!r}")
        if activation not in ("sigmoid", "relu"):
            raise ValueError(f"activation must be sigmoid or relu, got {activation!r}")
        if len(lrs) != len(seeds):
            raise ValueError(
                f"lrs must have as many entries as seeds, {len(seeds)}, got {len(lrs)}"
            )
        self.arm, self.activation = arm, getattr(torch, activation)
        self.seeds, self.lr = seeds, torch.tensor(lrs, dtype=torch.float32)[:, None, None]
        power = 2.0 if activation == "relu" else 1.0
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.weights, self.biases = [], []
        for fan_in, fan_out in itertools.pairwise((64, *hidden, 10)):
            drawn = torch.stack([torch.randn(fan_in, fan_out, generator=g) for g in generators])
            self.weights.append((drawn * (power / fan_in) ** 0.5).requires_grad_())
            self.biases.append(torch.zeros(len(seeds), 1, fan_out, requires_grad=True))
        self.norms = [] if arm == "plain" else [BatchNorm(len(seeds), width) for width in hidden]

    def forward(
        self, x: Float[Tensor, "run batch 64"], *, training: bool
    ) -> Float[Tensor, "run batch 10"]:
        """Logits; the transform stands before the activation, as in the paper's section 3.2."""
        for i in range(len(self.weights) - 1):
            x = torch.baddbmm(self.biases[i], x, self.weights[i])
            if self.arm == "normalized":
                x = self.norms[i](x, training=training)
            elif self.arm == "affine only":
                x = x * self.norms[i].gain + self.norms[i].bias
            x = self.activation(x)
        return torch.baddbmm(self.biases[-1], x, self.weights[-1])

    def step(
        self, x: Float[Tensor, "run batch 64"], y: Int[Tensor, "run batch"]
    ) -> Float[Tensor, " run"]:
        """One step of plain SGD on the mean log loss of each run; the losses before it."""
        log_p = self.forward(x, training=True).log_softmax(-1)
        losses = -log_p.gather(-1, y[..., None]).mean((1, 2))
        norms = [t for norm in self.norms for t in (norm.gain, norm.bias)]
        params = self.weights + self.biases + norms
        grads = torch.autograd.grad(losses.sum(), params)
        with torch.no_grad():
            for param, grad in zip(params, grads, strict=True):
                param.sub_(self.lr * grad)
        return losses.detach()


class Curves(NamedTuple):
    """Held-out accuracy and log loss, (run, evaluation), one evaluation every `EVERY` steps."""

    accuracy: Float[np.ndarray, "run evaluation"]
    loss: Float[np.ndarray, "run evaluation"]


def train(nets: Nets, steps: int) -> Curves:
    """Train all nets on the same split, the minibatches drawn by each run's seed."""
    data = digits()
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)[order]
    y = torch.tensor(data.labels)[order]
    seeds = sorted(set(nets.seeds))
    place = [seeds.index(seed) for seed in nets.seeds]
    generators = [torch.Generator().manual_seed(10_000 + seed) for seed in seeds]
    held_out, target = x[N_TRAIN:].expand(len(place), -1, -1), y[N_TRAIN:].expand(len(place), -1)
    seen = []
    for step in range(1, steps + 1):
        rows = torch.stack([torch.randint(N_TRAIN, (BATCH,), generator=g) for g in generators])
        nets.step(x[rows[place]], y[rows[place]])
        if step % EVERY == 0:
            with torch.no_grad():
                log_p = nets.forward(held_out, training=False).log_softmax(-1)
            loss = -log_p.gather(-1, target[..., None]).mean((1, 2))
            seen.append(((log_p.argmax(-1) == target).float().mean(1).numpy(), loss.numpy()))
    accuracy, loss = (np.array(v, dtype=float).T for v in zip(*seen, strict=True))
    return Curves(smooth(accuracy), np.nan_to_num(loss, nan=np.inf))


def smooth(curves: Float[np.ndarray, "run evaluation"]) -> Float[np.ndarray, "run evaluation"]:
    """Mean of the last five evaluations: the luck of one of them is no accuracy reached."""
    total = np.cumsum(np.pad(curves, ((0, 0), (1, 0))), axis=1)
    first = np.maximum(np.arange(1, total.shape[1]) - 5, 0)
    last = np.arange(1, total.shape[1])
    return (total[:, last] - total[:, first]) / (last - first)


def steps_to(
    accuracy: Float[np.ndarray, "run evaluation"], target: Float[np.ndarray, " run"]
) -> Float[np.ndarray, " run"]:
    """Steps until a run has its target; all steps there were, if it never has."""
    reached = accuracy >= target[:, None] - 1e-9
    first = np.where(reached.any(1), reached.argmax(1), accuracy.shape[1] - 1)
    return EVERY * (first + 1.0)


def usable_range(lrs: Float[np.ndarray, " lr"], loss: Float[np.ndarray, " lr"]) -> float:
    """Largest over smallest rate whose loss is below 1.5 times the best, without a gap between."""
    good, best = loss < 1.5 * loss.min(), int(loss.argmin())
    low = high = best
    while low > 0 and good[low - 1]:
        low -= 1
    while high < len(lrs) - 1 and good[high + 1]:
        high += 1
    return float(lrs[high] / lrs[low])


def ratios_by_target(curves: dict, targets: np.ndarray) -> np.ndarray:
    """Steps plain over steps normalized, (target, seed); NaN if a net never gets there."""
    found = []
    for target in targets:
        goal = np.full(len(curves["plain"]), target)
        both = [curves[arm] for arm in ("plain", "normalized")]
        plain, normalized = (steps_to(accuracy, goal) for accuracy in both)
        never = (np.minimum(*(accuracy.max(1) for accuracy in both)) < target).any()
        found.append(np.full(len(goal), np.nan) if never else plain / normalized)
    return np.array(found)


def judge(ratios: Float[np.ndarray, " seed"], least: float) -> str:
    """`reproduced` if every seed's ratio exceeds 1 and their geometric mean is at least `least`."""
    if len(ratios) < 2:
        raise ValueError(f"ratios must hold at least 2 seeds, got {len(ratios)}")
    large = np.exp(np.log(ratios).mean()) >= least
    if large and (ratios > 1).all():
        return "reproduced"
    return "inconclusive" if large else "not reproduced"


def compare(
    lrs: list[float], tuning: int, seeds: int, steps: int, slack: float, base: int, **kind
) -> dict:
    """Tune each arm on seeds of its own, then count steps on fresh ones."""
    grid, trial = {}, list(range(base + 5000, base + 5000 + tuning))
    for arm in ARMS:
        curves = train(
            Nets(arm, [lr for lr in lrs for _ in trial], trial * len(lrs), **kind), steps
        )
        grid[arm] = (curves.accuracy.reshape(len(lrs), tuning, -1).mean(1),
                     curves.loss[:, -1].reshape(len(lrs), tuning).mean(1))  # fmt: skip
    target = np.full(len(lrs), grid["plain"][0].max() - slack)
    best = {arm: int(steps_to(grid[arm][0], target).argmin()) for arm in ARMS}
    fresh = list(range(base, base + seeds))
    curves = {arm: train(Nets(arm, [lrs[best[arm]]] * seeds, fresh, **kind), steps).accuracy
              for arm in ARMS}  # fmt: skip
    goal = curves["plain"].max(1)
    counted = {arm: steps_to(curves[arm], goal - slack) for arm in ARMS}
    exact = {arm: steps_to(curves[arm], goal) for arm in ARMS}
    return {"grid": grid, "best": best, "curves": curves, "goal": goal, "steps": counted,
            "ratio": {arm: counted["plain"] / counted[arm] for arm in ARMS},
            "exact": exact["plain"] / exact["normalized"]}  # fmt: skip


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 1600) -> None:
    """Count steps with and without normalization, and judge by the front matter's margins.

    Parameters
    ----------
    seeds
        Seeds of the verdict; the learning rates are chosen with others.
    steps
        Longest training, in steps.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    _check_against_torch(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 8))
    steps = run.budget(quick=min(steps, 100), default=steps, full=steps)
    tuning, slack, lrs = run.budget(quick=1, default=2, full=4), paper["slack"], paper["lrs"]
    size = "direction only" if seeds < 8 else "all seeds"
    base = 100 * (run.seed + 1)
    deep = compare(lrs, tuning, seeds, steps, slack, base)
    shallow = compare(lrs, tuning, seeds, max(100, steps // 2), slack, base, hidden=(100, 100),
                      activation="relu")  # fmt: skip

    for name, result in (("sigmoid", deep), ("ReLU", shallow)):
        for arm in ARMS:
            run.metric(f"{name}, {arm}: learning rate", lrs[result["best"][arm]], rtol=None)
            run.metric(f"{name}, {arm}: steps", result["steps"][arm].mean(), "steps", rtol=0.2)
        for arm in ARMS[1:]:
            run.metric(f"{name}, {arm}: ratio", _mean(result["ratio"][arm]), "×", rtol=0.3)
    # looked at afterwards: how the answer depends on the accuracy counted to; decides nothing
    for target in (0.9, 0.95):
        ratios = ratios_by_target(deep["curves"], np.array([target]))[0]
        if np.isfinite(ratios).all():
            run.metric(
                f"steps ratio to {target:.0%}, not in the rule", _mean(ratios), "×", rtol=0.3
            )
    edge = [arm for arm in ARMS for r in (deep, shallow) if r["best"][arm] in (0, len(lrs) - 1)]
    run.claim("no best learning rate lies on the grid's edge", not edge,
              f"rates {lrs[0]} to {lrs[-1]}; chosen with sigmoids: "
              + ", ".join(f"{arm} {lrs[deep['best'][arm]]}" for arm in ARMS),
              quick=False)  # fmt: skip
    ratio, rule = deep["ratio"]["normalized"], rules["fewer steps"]
    run.metric("steps ratio, exactly the plain net's best", _mean(deep["exact"]), "×", rtol=None)
    run.metric("plain net's best accuracy", 100 * deep["goal"].mean(), "%")
    run.metric("noise floor: SD of log ratio over seeds", np.log(ratio).std(ddof=1), rtol=None)
    run.verdict(rule["name"], judge(ratio, rule["least"]),
                f"{_mean(ratio):.1f} times fewer steps, seeds {_list(ratio)}; asked for: "
                f"{rule['least']} ({size}, n = {seeds})")  # fmt: skip
    rule = rules["wider range of learning rates"]
    width = {arm: usable_range(np.array(lrs), deep["grid"][arm][1]) for arm in ARMS}
    wider = width["normalized"] / width["plain"]
    run.metric("usable range, plain", width["plain"], "×", rtol=None)
    run.metric("usable range, normalized", width["normalized"], "×", rtol=None)
    run.verdict(rule["name"], "reproduced" if wider >= rule["least"] else "not reproduced",
                f"usable rates span {width['normalized']:.0f} times with, {width['plain']:.0f} "
                f"times without: {wider:.0f} times wider, asked for: {rule['least']} "
                f"({tuning} seeds)")  # fmt: skip
    rule, relu = rules["little to gain in a shallow ReLU net"], shallow["ratio"]["normalized"]
    small = _mean(relu) < rule["most"]
    run.verdict(rule["name"], "reproduced" if small else "not reproduced",
                f"{_mean(relu):.1f} times fewer steps, seeds {_list(relu)}; asked for: below "
                f"{rule['most']}")  # fmt: skip
    margin = rules["fewer steps"]["least"]
    affine = deep["ratio"]["affine only"]
    run.claim("gain and bias without normalizing fail the rule",
              judge(affine, margin) != "reproduced",
              f"{_mean(affine):.1f} times fewer steps, seeds {_list(affine)}",
              quick=False)  # fmt: skip
    _figure_steps(run, paper, deep, shallow)
    _figure_rates(run, lrs, deep, width)


def _mean(ratios: np.ndarray) -> float:
    """Geometric: a halving and a doubling cancel."""
    return float(np.exp(np.log(ratios).mean()))


def _list(ratios: np.ndarray) -> str:
    return ", ".join(f"{r:.1f}" for r in ratios)


def _check_against_torch(run: Run, steps: int = 10) -> None:
    from torch import nn

    nets, layers, widths = Nets("normalized", [0.5, 1.0], [1, 2]), [], (64, 100, 100, 100, 10)
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        layers.append(nn.Linear(fan_in, fan_out))
        with torch.no_grad():
            layers[-1].weight.copy_(nets.weights[i][1].T)
            layers[-1].bias.zero_()
        if i < 3:
            layers += [nn.BatchNorm1d(fan_out), nn.Sigmoid()]
    alone = nn.Sequential(*layers)
    optimizer, losses = torch.optim.SGD(alone.parameters(), lr=1.0), []
    generator = run.generator()
    for _ in range(steps):
        x = torch.randn(2, 32, 64, generator=generator)
        y = torch.randint(10, (2, 32), generator=generator)
        loss = nn.functional.cross_entropy(alone(x[1]), y[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((nets.step(x, y)[1].item(), loss.item()))
    run.check(f"losses of {steps} steps", *np.array(losses).T,
              against="torch.nn.BatchNorm1d, torch.optim.SGD", atol=1e-4,
              why="float32 rounding")  # fmt: skip
    run.check("outputs in use, running statistics", nets.forward(x, training=False)[1],
              alone.eval()(x[1]), against="torch.nn.BatchNorm1d in eval mode", atol=1e-3,
              why="float32 rounding over ten steps")  # fmt: skip


COLORS = {"plain": plots.ORANGE, "normalized": plots.BLUE, "affine only": plots.GRAY}


def _figure_steps(run: Run, paper: dict, deep: dict, shallow: dict) -> None:
    with run.figure("steps", "How many fewer steps does normalizing take?", columns=2,
                    size=(9.4, 4.3), width_ratios=[1.25, 1]) as (left, right):  # fmt: skip
        for arm, color in COLORS.items():
            curves = 100 * deep["curves"][arm]
            x = EVERY * np.arange(1, curves.shape[1] + 1)
            plots.interval_band(left, x, curves, color=color, label=arm)
        goal = 100 * (deep["goal"].mean() - paper["slack"])
        left.axhline(goal, color=plots.REFERENCE, ls="--", lw=1)
        left.text(1.02 * x[0], goal + 0.25, "counted to here", fontsize=9, color=plots.REFERENCE)
        left.set(xscale="log", xlabel="steps of SGD", ylim=(80, 100.5),
                 ylabel="held-out accuracy, %\n(mean, range of seeds)")  # fmt: skip
        left.set_title("Here: 3 × 100 sigmoids on digits", fontsize=11, weight="normal")
        left.legend(loc="lower right")
        targets = np.arange(0.80, 0.985, 0.005)
        for name, result, color in (("3 × 100 sigmoids", deep, plots.BLUE),
                                    ("2 × 100 ReLU", shallow, plots.GREEN)):  # fmt: skip
            ratios = ratios_by_target(result["curves"], targets)
            there = np.isfinite(ratios).all(1)
            plots.interval_band(right, 100 * targets[there], ratios[there].T, color=color,
                                label=name)  # fmt: skip
        for value, text in ((paper["paper_ratio"], "the paper's abstract: 14× (ImageNet)"),
                            (paper["rules"][0]["least"], "asked for")):  # fmt: skip
            right.axhline(value, color=plots.REFERENCE, ls="--", lw=1)
            right.text(80, 1.06 * value, text, fontsize=9, color=plots.REFERENCE)
        right.axhline(1, color=plots.GRAY, lw=0.8)
        right.set(yscale="log", xlabel="held-out accuracy counted to, %",
                  ylabel="steps without / steps with")  # fmt: skip
        right.set_yticks([0.5, 1, 2, 5, 10, 20], ["½", "1", "2", "5", "10", "20"])
        right.minorticks_off()
        right.set_title("It depends on where one counts to", fontsize=11, weight="normal")
        right.legend(loc="lower left", fontsize=9)


def _figure_rates(run: Run, lrs: list[float], deep: dict, width: dict) -> None:
    with run.figure("rates", "Which learning rates can be used?", size=(7.8, 4.0)) as ax:
        for arm, color in COLORS.items():
            loss = np.minimum(deep["grid"][arm][1], 20)
            ax.plot(lrs, loss, "o-", color=color, label=f"{arm}: usable × {width[arm]:.0f}")
        ax.axhline(np.log(10), color=plots.REFERENCE, ls="--", lw=1)
        ax.text(lrs[0], 1.1 * np.log(10), "guessing", color=plots.REFERENCE, fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel="learning rate",
               ylabel="held-out log loss at the end, nats\n(above 20 drawn at 20)")  # fmt: skip
        ax.legend(loc="upper left", bbox_to_anchor=(0.2, 1.0))


if __name__ == "__main__":
    cli(main)
