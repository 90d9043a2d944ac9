r"""Does dropping units at random lower the test error, and is scaling as good as averaging?

In training each unit is kept with probability $1 - p$; in use all are kept. With the scaling done
in training (the paper's section 10), a layer computes

$$ \tilde y = \frac{m \odot y}{1 - p}, \quad m_i \sim \mathrm{Bernoulli}(1 - p), \qquad
   \mathbb{E}[\tilde y] = y . $$

Reduced: 3 layers of 128 rectified linear units (the paper: 3 of 1024) on small digits instead of
MNIST, SGD with momentum. Plain, tuned L2 and dropout get five trials each, on seeds of their own.
The rules stand in the front matter of README.md.

    uv run papers/2014-dropout/reproduce.py

Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014), "Dropout: A Simple Way to
Prevent Neural Networks from Overfitting", JMLR 15, sections 4, 6.1, 7.4, 7.5 and 9.1.
"""

import itertools
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from shared import papers, plots
from shared.datasets import digits
from shared.require import require
from shared.stats import mean_interval
from shared.study import PositiveInt, Run, cli
from week09.regularization import dropout

WIDTH, BATCH, MOMENTUM, N_VALID, N_POOL, EVERY = 128, 50, 0.95, 300, 1300, 100
P_INPUT, P_HIDDEN = 0.2, 0.5


class Arm(NamedTuple):
    """How a net is trained: its rate, an L2 penalty, and what share of the recommended p."""

    lr: float
    l2: float = 0.0
    dropping: float = 0.0
    frozen: bool = False


class Nets:
    """Rectified linear nets, one per run: what it does, and the seed of its weights and masks."""

    def __init__(self, arms: list[Arm], seeds: list[int]):
        must = f"arms must have as many entries as seeds, {len(seeds)}"
        require(len(arms) == len(seeds), must, len(arms))
        self.seeds = seeds
        self.lr, self.l2, dropping, frozen = torch.tensor(arms, dtype=torch.float32).T
        self.p_input, self.p_hidden = P_INPUT * dropping, P_HIDDEN * dropping
        self.frozen = frozen[:, None, None].bool()
        self.weights, self.biases, self.velocity = [], [], {}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        sizes = (64, WIDTH, WIDTH, WIDTH, 10)
        for fan_in, fan_out in itertools.pairwise(sizes):
            drawn = torch.stack([torch.randn(fan_in, fan_out, generator=g) for g in generators])
            self.weights.append((drawn * (2 / fan_in) ** 0.5).requires_grad_())
            self.biases.append(torch.zeros(len(seeds), 1, fan_out, requires_grad=True))
        ones = torch.Generator().manual_seed(sum(seeds))
        shares = (self.p_input, *3 * [self.p_hidden])
        self.masks = [
            dropout(torch.ones(len(seeds), 1, size), p, ones)
            for size, p in zip(sizes[:-1], shares, strict=True)
        ]

    def forward(
        self, x: Float[Tensor, "run batch 64"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "run batch 10"]:
        """Logits; units are dropped if a generator is given. A frozen net drops the same always."""
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            frozen = x * self.masks[i] if self.frozen.any() else None
            if generator is not None and self.p_hidden.any():
                x = dropout(x, self.p_hidden if i else self.p_input, generator)
            if frozen is not None:
                x = torch.where(self.frozen, frozen, x)
            x = torch.baddbmm(bias, x, weight)
            if i < len(self.weights) - 1:
                x = x.relu()
        return x

    def step(
        self,
        x: Float[Tensor, "run batch 64"],
        y: Int[Tensor, "run batch"],
        generator: torch.Generator,
    ) -> Float[Tensor, " run"]:
        """One step of SGD with momentum on the mean log loss of each run; the losses before it."""
        log_p = self.forward(x, generator).log_softmax(-1)
        losses = -log_p.gather(-1, y[..., None]).mean((1, 2))
        params = self.weights + self.biases
        grads = torch.autograd.grad(losses.sum(), params)
        with torch.no_grad():
            for i, (param, grad) in enumerate(zip(params, grads, strict=True)):
                if i < len(self.weights):
                    grad = torch.addcmul(grad, self.l2[:, None, None], param)
                velocity = self.velocity.setdefault(i, torch.zeros_like(param))
                velocity.mul_(MOMENTUM).add_(grad)
                param.sub_(self.lr[:, None, None] * velocity)
        return losses.detach()


class Rows(NamedTuple):
    """One draw per run: training rows and rows to choose by; the test rows are common to all."""

    x: Float[Tensor, "run n 64"]
    y: Int[Tensor, "run n"]
    x_valid: Float[Tensor, "run v 64"]
    y_valid: Int[Tensor, "run v"]
    x_test: Float[Tensor, "1 t 64"]
    y_test: Int[Tensor, "1 t"]


def draw(n: int, seeds: list[int]) -> Rows:
    """Rows of the digits for each seed; the test rows are never among those drawn."""
    most = N_POOL - N_VALID
    require(1 <= n <= most, f"n must be between 1 and {most}", n)
    data = digits()
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)[order]
    y = torch.tensor(data.labels)[order]
    generators = [torch.Generator().manual_seed(50_000 + seed) for seed in seeds]
    rows = torch.stack([torch.randperm(N_POOL, generator=g) for g in generators])
    valid, train = rows[:, :N_VALID], rows[:, N_VALID : N_VALID + n]
    return Rows(x[train], y[train], x[valid], y[valid], x[None, N_POOL:], y[None, N_POOL:])


def train(
    arms: list[Arm], seeds: list[int], n: int, steps: int
) -> tuple[Nets, Rows, Float[np.ndarray, "evaluation run"]]:
    """Train all nets; runs with the same seed see the same rows in the same order.

    The third thing returned is the test error every `EVERY` steps; no choice sees it.
    """
    nets, rows = Nets(arms, seeds), draw(n, seeds)
    known = sorted(set(seeds))
    place, each = [known.index(seed) for seed in seeds], torch.arange(len(seeds))[:, None]
    order = [torch.Generator().manual_seed(90_000 + seed) for seed in known]
    masks = torch.Generator().manual_seed(sum(seeds))
    seen = []
    for step in range(1, steps + 1):
        batch = torch.stack([torch.randint(n, (BATCH,), generator=g) for g in order])[place]
        nets.step(rows.x[each, batch], rows.y[each, batch], masks)
        if step % EVERY == 0 or step == steps:
            with torch.no_grad():
                logits = nets.forward(rows.x_test.expand(len(seeds), -1, -1))
            seen.append(error_and_loss(logits, rows.y_test)[0])
    return nets, rows, np.array(seen)


@torch.no_grad()
def error_and_loss(
    logits: Float[Tensor, "run n 10"], y: Int[Tensor, "runs n"]
) -> tuple[Float[np.ndarray, " run"], Float[np.ndarray, " run"]]:
    """Errors in percent and mean log loss of each run; infinite where a run has diverged."""
    y = y.expand(len(logits), -1)
    loss = -logits.log_softmax(-1).gather(-1, y[..., None]).mean((1, 2))
    wrong = (logits.argmax(-1) != y).double().mean(1)
    return 100 * wrong.numpy(), torch.nan_to_num(loss, nan=torch.inf).double().numpy()


@torch.no_grad()
def averaged(
    nets: Nets, x: Float[Tensor, "run n 64"], samples: int, generator: torch.Generator
) -> Float[Tensor, "run n 10"]:
    """Log of the mean probability of several thinned nets."""
    total = sum(nets.forward(x, generator).softmax(-1) for _ in range(samples))
    return (total / samples).log()


def tune(lrs: list[float], penalties: list[float], seeds: int, n: int, steps: int) -> dict:
    """Five trials for each arm on validation rows of the tuning seeds: arms and grid places."""
    fresh = list(range(7000, 7000 + seeds))

    def best(arms: list[Arm]) -> int:
        nets, rows, _ = train([arm for arm in arms for _ in fresh], fresh * len(arms), n, steps)
        with torch.no_grad():
            error, loss = error_and_loss(nets.forward(rows.x_valid), rows.y_valid)
        error = np.where(np.isfinite(loss), error, 90.0).reshape(len(arms), seeds).mean(1)
        # the log loss decides between equal errors
        key = error + 1e-3 * np.minimum(loss.reshape(len(arms), seeds).mean(1), 100)
        return int(key.argmin())

    plain = best([Arm(lr) for lr in lrs])
    dropped = best([Arm(lr, dropping=1.0) for lr in lrs])
    decayed = best([Arm(lrs[plain], l2=l2) for l2 in penalties])
    arms = {"none": Arm(lrs[plain]), "L2": Arm(lrs[plain], l2=penalties[decayed])}
    arms["dropout"] = Arm(lrs[dropped], dropping=1.0)
    arms["frozen masks"] = Arm(lrs[dropped], dropping=1.0, frozen=True)
    return {"arms": arms, "place": {"none": plain, "dropout": dropped, "L2": decayed}}


def main(run: Run, *, seeds: PositiveInt = 8, steps: PositiveInt = 2000) -> None:
    """Train with and without dropout on two sizes, and judge by the front matter's rules.

    Parameters
    ----------
    seeds
        Seeds of the verdict; rates and the penalty are chosen with others.
    steps
        Steps of SGD of each net.
    """
    paper = papers.load(__file__)
    matter = paper.matter
    _check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 16))
    steps = run.budget(quick=min(steps, 10), default=steps, full=2 * steps)
    sizes = run.budget(quick=matter["sizes"], default=matter["sizes"], full=matter["sizes_full"])
    samples = run.budget(quick=5, default=100)
    n, small = matter["size"], min(sizes)
    trials = run.budget(quick=1, default=2, full=4)
    tuned = tune(matter["lrs"], matter["penalties"], trials, n, steps)
    arms, last = tuned["arms"], len(matter["lrs"]) - 1
    edge = sum(place in (0, last) for place in tuned["place"].values())
    note = f"rate {arms['none'].lr} without, {arms['dropout'].lr} with dropout; L2 {arms['L2'].l2}"
    once = {"deterministic": True, "quick": False, "note": note}
    run.claim("best settings on the grid's edge", edge, at_most=0, **once)

    fresh, test, fitted = list(range(100 * run.seed, 100 * run.seed + seeds)), {}, {}
    for size in sizes:
        names = [name for name in arms if size == n or name != "frozen masks"]
        trained = [arms[name] for name in names for _ in fresh]
        nets, rows, along = train(trained, fresh * len(names), size, steps)
        with torch.no_grad():
            _, losses = error_and_loss(nets.forward(rows.x), rows.y)
        here = {name: slice(i * seeds, (i + 1) * seeds) for i, name in enumerate(names)}
        test |= {(name, size): along[-1, part] for name, part in here.items()}
        fitted |= {(name, size): losses[part] for name, part in here.items()}
        if size == n:
            history = {name: along[:, part] for name, part in here.items()}
            x = rows.x_test.expand(len(nets.seeds), -1, -1)
            mean = averaged(nets, x, samples, run.generator(2))
            with torch.no_grad():
                both = [error_and_loss(z, rows.y_test)[0] for z in (nets.forward(x), mean)]
            scaled, sampled = (error[here["dropout"]] for error in both)
    gain = {(name, size): test["none", size] - test[name, size] for name, size in test}
    early = max(len(history["none"]) * 2 // 5 - 1, 0)
    before = (history["none"] - history["dropout"])[early].mean()
    run.metric("gain after two fifths of the steps, not in the rule", before, "points", rtol=0.5)
    run.metric("two fifths of the steps", EVERY * (early + 1), "steps")
    noise = 100 * (0.05 * 0.95 / rows.y_test.shape[1]) ** 0.5
    run.metric("noise floor: one standard error of a test error of 5 %", noise, "points")

    late = {"quick": False, "note": f"training loss {fitted['dropout', n].mean():.4f}"}
    paper.judge(run, "lower test error", gain["dropout", n], **late)
    paper.judge(run, "higher training loss", fitted["dropout", n] - fitted["none", n], quick=False)
    less = gain["dropout", n] - gain["dropout", small]
    note = f"{mean_interval(gain['dropout', small])} at n = {small}"
    paper.judge(run, "smaller gain on very few rows", less, quick=False, note=note)
    paper.judge(run, "better than tuned L2", test["L2", n] - test["dropout", n], quick=False)
    paper.judge(run, "weight scaling averages", scaled - sampled, quick=False)
    frozen = fitted["frozen masks", n] - fitted["none", n]
    run.falsifier("frozen masks, gain", gain["frozen masks", n], breaks="lower test error")
    run.falsifier("frozen masks, training loss", frozen, breaks="higher training loss")
    _figure_sizes(run, matter, sizes, test)
    _figure_steps(run, history, steps)


def _check(run: Run, steps: int = 10) -> None:
    from torch import nn

    generator = run.generator(4)
    nets, layers = Nets([Arm(0.1), Arm(0.05, l2=0.01)], [1, 2]), []
    for i, weight in enumerate(nets.weights):
        layers += [nn.Linear(*weight.shape[1:])] + [nn.ReLU()] * (i < 3)
        with torch.no_grad():
            layers[2 * i].weight.copy_(weight[1].T)
            layers[2 * i].bias.zero_()
    alone, losses = nn.Sequential(*layers), []
    weights, biases = ([p for p in alone.parameters() if p.ndim == n] for n in (2, 1))
    groups = [{"params": weights, "weight_decay": 0.01}, {"params": biases}]
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=MOMENTUM)
    for _ in range(steps):
        x = torch.randn(2, 16, 64, generator=generator)
        y = torch.randint(10, (2, 16), generator=generator)
        loss = nn.functional.cross_entropy(alone(x[1]), y[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((nets.step(x, y, generator)[1].item(), loss.item()))
    against = "torch.nn and torch.optim.SGD with momentum and weight decay"
    rounding = {"atol": 1e-4, "why": "float32 rounding"}
    run.check(f"losses of {steps} steps", *np.array(losses).T, against=against, **rounding)
    # one linear layer: the mean gradient over masks is ridge's
    draws = run.budget(quick=4000, default=40_000)
    x, y = torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator)
    w, p = torch.randn(6, generator=generator), torch.full((draws,), P_HIDDEN)
    z = dropout(x.expand(draws, -1, -1), p, generator)
    grads = 2 * torch.einsum("rnd,rn->rd", z, z @ w - y)
    ridge = 2 * x.T @ (x @ w - y) + 2 * P_HIDDEN / (1 - P_HIDDEN) * (x**2).sum(0) * w
    name, against = "mean gradient of a linear layer with dropout", "ridge, closed form"
    five = {"atol": float(5 * grads.std(0).max() / draws**0.5), "kind": "theorem"}
    why = "Monte Carlo: five standard errors"
    run.check(name, grads.mean(0), ridge, against=against, why=why, **five)


COLORS = {"none": plots.ORANGE, "L2": plots.GREEN, "dropout": plots.BLUE}


def _figure_steps(run: Run, history: dict, steps: int) -> None:
    title = "How long must a net with dropout be trained?"
    with run.figure("steps", title, size=(7.8, 4.0)) as ax:
        x = np.minimum(EVERY * np.arange(1, len(history["none"]) + 1), steps)
        lines = {name: history[name].T for name in COLORS}
        labels = {"xlabel": "steps of SGD", "ylabel": "test error, %\n(mean, range of seeds)"}
        labels["ylim"] = (0, min(20, max(h[:2].max() for h in history.values())))
        plots.curves(ax, x, lines, colors=list(COLORS.values()), **labels)


def _figure_sizes(run: Run, matter: dict, sizes: list[int], test: dict) -> None:
    title, layout = "How much does dropout take off the test error?", {"width_ratios": [1, 2.2]}
    with run.figure("sizes", title, columns=2, size=(9.2, 4.2), **layout) as (left, right):
        names = ("standard\n(2 × 800)", "dropout +\nmax-norm")
        values = dict(zip(names, matter["paper_errors"], strict=True))
        inks = (plots.ORANGE, plots.BLUE)
        plots.bars(left, values, colors=inks, xlabel="MNIST test error, %\n(the paper, table 2)")
        for shift, (name, color) in zip((-0.16, 0, 0.16), COLORS.items(), strict=True):
            found = [mean_interval(test[name, n]) for n in sizes]
            x, ends = np.arange(len(sizes)) + shift, [i.high - i.mean for i in found]
            style = {"fmt": "o", "color": color, "capsize": 4, "ms": 7, "label": name}
            right.errorbar(x, [i.mean for i in found], ends, **style)
        right.set_xticks(range(len(sizes)), [str(n) for n in sizes])
        right.set(xlabel="training rows, digits", ylabel="test error, % (95 % interval)")
        right.set(ylim=(0, None), xlim=(-0.5, len(sizes) - 0.5))
        right.legend(loc="upper right")


if __name__ == "__main__":
    cli(main)
