r"""Does batch normalization reach the same accuracy in many times fewer steps?

Three hidden layers of 100 sigmoids, as in the paper's section 4.1, on small digits, by plain SGD.
With the transform of algorithm 1 between each product and its sigmoid,

$$ \hat x = \frac{x - \mu_B}{\sqrt{\sigma_B^2 + \epsilon}}, \qquad y = \gamma \hat x + \beta, $$

and without it. Each net has a learning rate chosen from the same grid, by seeds that take no part
in the verdict. Counted are the steps to the accuracy that the plain net reaches at best. The rules
stand in the front matter of README.md.

    uv run papers/2015-batch-normalization/reproduce.py

Ioffe and Szegedy (2015), "Batch Normalization: Accelerating Deep Network Training by Reducing
Internal Covariate Shift", section 3, algorithm 1; sections 4.1 and 4.2.2.
"""

import itertools
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import papers, plots
from shared.datasets import digits
from shared.require import require
from shared.study import PositiveInt, Run, cli
from week09.regularization import BatchNorm

Arm = Literal["plain", "normalized", "affine only"]
ARMS = ("plain", "normalized", "affine only")
EVERY, BATCH, N_TRAIN = 20, 60, 1297


class Nets:
    """Nets of one kind: plain, normalized, or with gain and bias but no normalizing.

    Each run has a learning rate and a seed of its first weights, of variance 1/fan_in for sigmoids
    and 2/fan_in for ReLU (He et al., 2015).
    """

    def __init__(
        self,
        arm: Arm,
        lrs: list[float],
        seeds: list[int],
        hidden: tuple[int, ...] = (100, 100, 100),
        activation: str = "sigmoid",
    ):
        require(arm in ARMS, f"arm must be one of {', '.join(ARMS)}", repr(arm))
        known = activation in ("sigmoid", "relu")
        require(known, "activation must be sigmoid or relu", repr(activation))
        n = len(seeds)
        require(len(lrs) == n, f"lrs must have as many entries as seeds, {n}", len(lrs))
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
    """Held-out accuracy and log loss, one evaluation every `EVERY` steps."""

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
    ends = range(1, curves.shape[1] + 1)
    return np.stack([curves[:, max(end - 5, 0) : end].mean(1) for end in ends], axis=1)


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


def compare(
    lrs: list[float], tuning: int, seeds: int, steps: int, slack: float, base: int, **kind
) -> dict:
    """Tune each arm on seeds of its own, then count steps on fresh ones."""
    accuracy, loss, trial = {}, {}, list(range(base + 5000, base + 5000 + tuning))
    for arm in ARMS:
        rates = [lr for lr in lrs for _ in trial]
        curves = train(Nets(arm, rates, trial * len(lrs), **kind), steps)
        accuracy[arm] = curves.accuracy.reshape(len(lrs), tuning, -1).mean(1)
        loss[arm] = curves.loss[:, -1].reshape(len(lrs), tuning)
    target = np.full(len(lrs), accuracy["plain"].max() - slack)
    best = {arm: int(steps_to(accuracy[arm], target).argmin()) for arm in ARMS}
    fresh = list(range(base, base + seeds))
    nets = {arm: Nets(arm, [lrs[best[arm]]] * seeds, fresh, **kind) for arm in ARMS}
    curves = {arm: train(nets[arm], steps).accuracy for arm in ARMS}
    goal = curves["plain"].max(1)
    counted = {arm: steps_to(curves[arm], goal - slack) for arm in ARMS}
    ratio = {arm: counted["plain"] / counted[arm] for arm in ARMS}
    return {"loss": loss, "best": best, "curves": curves, "goal": goal, "ratio": ratio}


def main(run: Run, *, seeds: PositiveInt = 8, steps: PositiveInt = 1600) -> None:
    """Count steps with and without normalization, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict; the learning rates are chosen with others.
    steps
        Longest training, in steps.
    """
    paper = papers.load(__file__)
    _check_against_torch(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 16))
    steps = run.budget(quick=min(steps, 40), default=steps, full=steps)
    tuning, lrs = run.budget(quick=1, default=4, full=8), paper.matter["lrs"]
    options = (lrs, tuning, seeds)
    slack, base = paper.matter["slack"], 100 * (run.seed + 1)
    deep = compare(*options, steps, slack, base)
    relu = {"hidden": (100, 100), "activation": "relu"}
    shallow = compare(*options, max(40, steps // 2), slack, base, **relu)

    # looked at afterwards: how the answer depends on the accuracy counted to; decides nothing
    for target in (0.9, 0.95):
        ratios = ratios_by_target(deep["curves"], np.array([target]))[0]
        name = f"steps ratio to {target:.0%}, not in the rule"
        if np.isfinite(ratios).all():
            run.metric(name, _mean(ratios), "×", rtol=0.3)
    run.metric("plain net's best accuracy", 100 * deep["goal"].mean(), "%")
    edge = [arm for arm in ARMS for r in (deep, shallow) if r["best"][arm] in (0, len(lrs) - 1)]
    note = "chosen: " + ", ".join(f"{arm} {lrs[deep['best'][arm]]}" for arm in ARMS)
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best learning rates on the grid's edge", len(edge), at_most=0, **once)

    def judge(name: str, ratio: np.ndarray) -> None:
        paper.judge(run, name, np.log2(ratio), quick=False, note=f"{_mean(ratio):.1f} times")

    judge("fewer steps", deep["ratio"]["normalized"])
    affine = deep["ratio"]["affine only"]
    name, note = "gain and bias without normalizing", f"{_mean(affine):.1f} times"
    run.falsifier(name, np.log2(affine), breaks="fewer steps", note=note)
    width = {}
    for arm in ARMS:
        ranges = [usable_range(np.array(lrs), loss) for loss in deep["loss"][arm].T]
        width[arm] = np.array(ranges)
    for arm in ("plain", "normalized"):
        run.metric(f"usable range, {arm}", _mean(width[arm]), "×", rtol=0.5)
    judge("wider range of learning rates", width["normalized"] / width["plain"])
    judge("little to gain in a shallow ReLU net", shallow["ratio"]["normalized"])
    _figure_steps(run, paper, deep, shallow)
    _figure_rates(run, lrs, deep, width)


def _mean(ratios: np.ndarray) -> float:
    """Geometric: a halving and a doubling cancel."""
    return float(np.exp(np.log(ratios).mean()))


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
    check = run.against("torch.nn.BatchNorm1d, torch.optim.SGD", atol=1e-3, why="float32 rounding")
    check(f"losses of {steps} steps", *np.array(losses).T, atol=1e-4)
    used = nets.forward(x, training=False)[1]
    check("outputs in use, running statistics", used, alone.eval()(x[1]))


COLORS = {"plain": plots.ORANGE, "normalized": plots.BLUE, "affine only": plots.GRAY}


def _figure_steps(run: Run, paper: papers.Paper, deep: dict, shallow: dict) -> None:
    title, layout = "How many fewer steps does normalizing take?", {"width_ratios": [1.25, 1]}
    with run.figure("steps", title, columns=2, size=(9.4, 4.3), **layout) as (left, right):
        lines = {arm: 100 * deep["curves"][arm] for arm in COLORS}
        x = EVERY * np.arange(1, lines["plain"].shape[1] + 1)
        goal = 100 * (deep["goal"].mean() - paper.matter["slack"])
        labels = {"xscale": "log", "xlabel": "steps of SGD", "ylim": (80, 100.5)}
        labels["ylabel"] = "held-out accuracy, %\n(mean, range of seeds)"
        style = {"colors": list(COLORS.values()), "ends": False}
        plots.curves(left, x, lines, reference={"counted to here": goal}, **style, **labels)
        targets, ratios, places = np.arange(0.80, 0.985, 0.005), {}, {}
        for name, result in (("3 × 100 sigmoids", deep), ("2 × 100 ReLU", shallow)):
            found = ratios_by_target(result["curves"], targets)
            there = np.isfinite(found).all(1)
            ratios[name], places[name] = found[there].T, 100 * targets[there]
        reference = {"the abstract: 14× (ImageNet)": paper.matter["paper_ratio"], "asked for": 2.0}
        labels = {"yscale": "log", "xlabel": "held-out accuracy counted to, %"}
        labels["ylabel"] = "steps without / steps with"
        style = {"colors": (plots.BLUE, plots.GREEN), "ends": False}
        plots.curves(right, places, ratios, reference=reference, **style, **labels)
        right.set_yticks([0.5, 1, 2, 5, 10, 20], ["½", "1", "2", "5", "10", "20"])
        right.minorticks_off()


def _figure_rates(run: Run, lrs: list[float], deep: dict, width: dict) -> None:
    with run.figure("rates", "Which learning rates can be used?", size=(7.8, 4.0)) as ax:
        lines = {
            f"{arm}: usable × {_mean(width[arm]):.0f}": np.minimum(deep["loss"][arm].T, 20)
            for arm in COLORS
        }
        labels = {"xscale": "log", "yscale": "log", "xlabel": "learning rate"}
        labels["ylabel"] = "held-out log loss at the end, nats\n(above 20 drawn at 20)"
        style = {"colors": list(COLORS.values()), "marker": "o", "ends": False}
        plots.curves(ax, lrs, lines, reference={"guessing": np.log(10)}, **style, **labels)


if __name__ == "__main__":
    cli(main)
