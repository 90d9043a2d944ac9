r"""Does dropping units at random lower the test error, and is scaling as good as averaging?

In training each unit is kept with probability $1 - p$; in use all are kept. With the scaling done
in training (the paper's section 10), a layer computes

$$ \tilde y = \frac{m \odot y}{1 - p}, \quad m_i \sim \mathrm{Bernoulli}(1 - p), \qquad
   \mathbb{E}[\tilde y] = y . $$

Reduced: 3 layers of 128 rectified linear units (the paper: 3 of 1024) on small digits instead of
MNIST, SGD with momentum. Plain, tuned L2 and dropout get five trials each, on seeds of their own.
What counts as reproduced stands in the front matter of README.md and is read from there.

    uv run papers/2014-dropout/reproduce.py

Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov (2014), "Dropout: A Simple Way to
Prevent Neural Networks from Overfitting", JMLR 15, sections 4, 6.1, 7.4, 7.5 and 9.1.
"""

import itertools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import yaml
from jaxtyping import Float, Int
from torch import Tensor

from shared import plots
from shared.datasets import digits
from shared.stats import Interval, mean_interval
from shared.study import PositiveInt, Run, cli
from week09.regularization import dropout

README = Path(__file__).with_name("README.md")
WIDTH, BATCH, MOMENTUM, N_VALID, N_POOL, EVERY = 128, 50, 0.95, 300, 1300, 100
P_INPUT, P_HIDDEN = 0.2, 0.5


def front_matter(readme: str) -> dict:
    """The YAML between the first two lines of three dashes."""
    parts = readme.split("---\n", 2)
    if len(parts) < 3 or parts[0]:
        raise ValueError("readme must start with front matter between two lines '---', got none")
    return yaml.safe_load(parts[1])


class Arm(NamedTuple):
    """How a net is trained: its rate, an L2 penalty, and what share of the recommended p."""

    lr: float
    l2: float = 0.0
    dropping: float = 0.0
    frozen: bool = False


class Nets:
    """Rectified linear nets, one a run.

    Parameters
    ----------
    arms, seeds
        (run,) what each run does, and the seed of its first weights and masks.
    """

    def __init__(self, arms: list[Arm], seeds: list[int]):
        if len(arms) != len(seeds):
            raise ValueError(
                f"arms must have as many entries as seeds, {len(seeds)}, got {len(arms)}"
            )
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
        self.masks = [dropout(torch.ones(len(seeds), 1, size), p, ones)
                      for size, p in zip(sizes[:-1], [self.p_input] + 3 * [self.p_hidden],
                                         strict=True)]  # fmt: skip

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
        self, x: Float[Tensor, "run batch 64"], y: Int[Tensor, "run batch"],
        generator: torch.Generator,
    ) -> Float[Tensor, " run"]:  # fmt: skip
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
    """One draw a run: training rows and rows to choose by; the test rows are common to all."""

    x: Float[Tensor, "run n 64"]
    y: Int[Tensor, "run n"]
    x_valid: Float[Tensor, "run v 64"]
    y_valid: Int[Tensor, "run v"]
    x_test: Float[Tensor, "1 t 64"]
    y_test: Int[Tensor, "1 t"]


def draw(n: int, seeds: list[int]) -> Rows:
    """Rows of the digits for each seed; the test rows are never among those drawn."""
    if not 1 <= n <= N_POOL - N_VALID:
        raise ValueError(f"n must be between 1 and {N_POOL - N_VALID}, got {n}")
    data = digits()
    order = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(data.images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)[order]
    y = torch.tensor(data.labels)[order]
    rows = torch.stack([torch.randperm(N_POOL, generator=torch.Generator().manual_seed(50_000 + s))
                        for s in seeds])  # fmt: skip
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
    """Log of the mean probability of `samples` thinned nets."""
    total = sum(nets.forward(x, generator).softmax(-1) for _ in range(samples))
    return (total / samples).log()


def tune(lrs: list[float], penalties: list[float], seeds: int, n: int, steps: int) -> dict:
    """Five trials for each arm on validation rows of the tuning seeds."""
    fresh = list(range(7000, 7000 + seeds))

    def best(arms: list[Arm]) -> tuple[int, np.ndarray]:
        nets, rows, _ = train([arm for arm in arms for _ in fresh], fresh * len(arms), n, steps)
        with torch.no_grad():
            error, loss = error_and_loss(nets.forward(rows.x_valid), rows.y_valid)
        error = np.where(np.isfinite(loss), error, 90.0).reshape(len(arms), seeds).mean(1)
        # the log loss decides between equal errors
        key = error + 1e-3 * np.minimum(loss.reshape(len(arms), seeds).mean(1), 100)
        return int(key.argmin()), error

    plain, plain_errors = best([Arm(lr) for lr in lrs])
    dropped, dropped_errors = best([Arm(lr, dropping=1.0) for lr in lrs])
    decayed, decayed_errors = best([Arm(lrs[plain], l2=l2) for l2 in penalties])
    return {"arms": {"none": Arm(lrs[plain]), "L2": Arm(lrs[plain], l2=penalties[decayed]),
                     "dropout": Arm(lrs[dropped], dropping=1.0),
                     "frozen masks": Arm(lrs[dropped], dropping=1.0, frozen=True)},
            "place": {"none": plain, "dropout": dropped, "L2": decayed},
            "errors": {"none": plain_errors, "dropout": dropped_errors,
                       "L2": decayed_errors}}  # fmt: skip


def judge(gain: Float[np.ndarray, " seed"], share: float) -> str:
    """`reproduced` if the gain is positive on at least this share of the seeds, and on average."""
    if not 0 < share <= 1:
        raise ValueError(f"share must be in (0, 1], got {share}")
    return "reproduced" if (gain > 0).mean() >= share and gain.mean() > 0 else "not reproduced"


def main(run: Run, *, seeds: PositiveInt = 5, steps: PositiveInt = 2000) -> None:
    """Train with and without dropout on three sizes, and judge by the front matter's margins.

    Parameters
    ----------
    seeds
        Seeds of the verdict; rates and the penalty are chosen with others.
    steps
        Steps of SGD of each net.
    """
    paper = front_matter(README.read_text(encoding="utf-8"))
    rules = {rule["name"]: rule for rule in paper["rules"]}
    _check(run)
    seeds = run.budget(quick=2, default=max(seeds, 2), full=max(seeds, 10))
    steps = run.budget(quick=min(steps, 60), default=steps, full=2 * steps)
    sizes = run.budget(quick=paper["sizes"], default=paper["sizes"], full=paper["sizes_full"])
    samples = run.budget(quick=10, default=100)
    tuned = tune(paper["lrs"], paper["penalties"], run.budget(quick=1, default=2, full=4),
                 paper["size"], steps)  # fmt: skip
    edge = [name for name, i in tuned["place"].items() if i in (0, len(paper["lrs"]) - 1)]
    arms = tuned["arms"]
    run.claim("no best setting lies on the grid's edge", not edge,
              f"learning rate {arms['none'].lr} without and {arms['dropout'].lr} with dropout, "
              f"L2 {arms['L2'].l2}", quick=False)  # fmt: skip

    fresh, test, fitted = list(range(100 * run.seed, 100 * run.seed + seeds)), {}, {}
    for n in sizes:
        names = [name for name in arms if n == paper["size"] or name != "frozen masks"]
        trained = [arms[name] for name in names for _ in fresh]
        nets, rows, along = train(trained, fresh * len(names), n, steps)
        with torch.no_grad():
            _, losses = error_and_loss(nets.forward(rows.x), rows.y)
        for i, name in enumerate(names):
            here = slice(i * seeds, (i + 1) * seeds)
            test[name, n], fitted[name, n] = along[-1, here], losses[here]
            run.metric(f"test error, {name}, n = {n}", along[-1, here].mean(), "%", rtol=0.15)
            run.metric(f"training loss, {name}, n = {n}", losses[here].mean(), "nats", rtol=None)
        if n == paper["size"]:
            history = {name: along[:, i * seeds : (i + 1) * seeds]
                       for i, name in enumerate(names)}  # fmt: skip
            at_test, kept = averages(nets, rows, samples, run.generator(2)), names.index("dropout")
            at_test = {k: v[kept * seeds : (kept + 1) * seeds] for k, v in at_test.items()}
    n, small = paper["size"], min(sizes)
    gain = {(name, size): test["none", size] - test[name, size] for name, size in test}
    early = len(history["none"]) * 2 // 5 - 1
    before = (history["none"] - history["dropout"])[early].mean()
    run.metric("gain after two fifths of the steps, not in the rule", before, "points", rtol=None)
    run.metric("two fifths of the steps", EVERY * (early + 1), "steps", rtol=None)
    interval = mean_interval(gain["dropout", n])
    run.metric("gain at the end", interval.mean, "points", rtol=None)
    run.metric("gain at the end, lower end of the interval", interval.low, "points", rtol=None)
    run.metric("gain at the end, upper end of the interval", interval.high, "points", rtol=None)
    size = f"{seeds} seeds" + (", direction only" if seeds < 8 else "")
    run.metric("noise floor: one standard error of a test error of 5 %",
               100 * (0.05 * 0.95 / rows.y_test.shape[1]) ** 0.5, "points")  # fmt: skip
    rule = rules["lower test error, higher training loss"]
    higher = (fitted["dropout", n] > fitted["none", n]).all()
    verdict = judge(gain["dropout", n], rule["least"]) if higher else "not reproduced"
    run.verdict(rule["name"], verdict,
                f"gain {mean_interval(gain['dropout', n])} points at n = {n}, positive on "
                f"{(gain['dropout', n] > 0).sum()} of {size}; training loss "
                f"{fitted['none', n].mean():.4f} to {fitted['dropout', n].mean():.4f}")  # fmt: skip
    rule = rules["smaller gain on very few rows"]
    less = gain["dropout", n].mean() - gain["dropout", small].mean()
    run.verdict(rule["name"], "reproduced" if less > rule["least"] else "not reproduced",
                f"gain {mean_interval(gain['dropout', small])} points at n = {small}, "
                f"{mean_interval(gain['dropout', n])} at n = {n} ({size})")  # fmt: skip
    rule = rules["better than tuned L2"]
    over = test["L2", n] - test["dropout", n]
    run.verdict(rule["name"], judge(over, rule["least"]),
                f"{mean_interval(over)} points below L2 at n = {n}, positive on {(over > 0).sum()} "
                f"of {size}")  # fmt: skip
    rule = rules["weight scaling averages"]
    apart = mean_interval(at_test["scaled"] - at_test[samples])
    near = abs(apart.mean) <= rule["most"]
    run.verdict(rule["name"], "reproduced" if near else "not reproduced",
                f"scaling minus the mean of {samples} thinned nets: {apart} points, at most "
                f"{rule['most']} allowed either way")  # fmt: skip
    frozen = judge(
        gain["frozen masks", n], rules["lower test error, higher training loss"]["least"]
    )
    frozen_higher = (fitted["frozen masks", n] > fitted["none", n]).all()
    run.claim("frozen masks, the same units always, fail the rule",
              not (frozen == "reproduced" and frozen_higher),
              f"gain {mean_interval(gain['frozen masks', n])} points, training loss "
              f"{fitted['frozen masks', n].mean():.4f}", quick=False)  # fmt: skip
    _figure_sizes(run, paper, sizes, test)
    _figure_steps(run, history, steps)
    _figure_averaging(run, at_test, test["none", n])


def averages(nets: Nets, rows: Rows, samples: int, generator: torch.Generator) -> dict:
    """Test errors by weight scaling and by averaging 1, 2, 5 … thinned nets."""
    x = rows.x_test.expand(len(nets.seeds), -1, -1)
    with torch.no_grad():
        found = {"scaled": error_and_loss(nets.forward(x), rows.y_test)[0]}
        total, done = torch.zeros(()), 0
        for k in (k for k in (1, 2, 5, 10, 20, 50, 100) if k <= samples):
            total = total + (k - done) * averaged(nets, x, k - done, generator).exp()
            done = k
            found[k] = error_and_loss((total / k).log(), rows.y_test)[0]
    return found


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
    groups = [{"params": [p for p in alone.parameters() if (p.ndim == 2) == decayed],
               "weight_decay": 0.01 * decayed} for decayed in (True, False)]  # fmt: skip
    optimizer = torch.optim.SGD(groups, lr=0.05, momentum=MOMENTUM)
    for _ in range(steps):
        x = torch.randn(2, 16, 64, generator=generator)
        y = torch.randint(10, (2, 16), generator=generator)
        loss = nn.functional.cross_entropy(alone(x[1]), y[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append((nets.step(x, y, generator)[1].item(), loss.item()))
    run.check(f"losses of {steps} steps", *np.array(losses).T,
              against="torch.nn and torch.optim.SGD with momentum and weight decay", atol=1e-4,
              why="float32 rounding")  # fmt: skip
    # one linear layer: the mean gradient over masks is ridge's
    draws = run.budget(quick=4000, default=40_000)
    x, y = torch.randn(20, 6, generator=generator), torch.randn(20, generator=generator)
    w, p = torch.randn(6, generator=generator), torch.full((draws,), P_HIDDEN)
    z = dropout(x.expand(draws, -1, -1), p, generator)
    grads = 2 * torch.einsum("rnd,rn->rd", z, z @ w - y)
    ridge = 2 * x.T @ (x @ w - y) + 2 * P_HIDDEN / (1 - P_HIDDEN) * (x**2).sum(0) * w
    run.check("mean gradient of a linear layer with dropout", grads.mean(0), ridge,
              against="ridge in units of the columns, closed form",
              atol=float(5 * grads.std(0).max() / draws**0.5),
              why="Monte Carlo: five standard errors")  # fmt: skip


COLORS = {"none": plots.ORANGE, "L2": plots.GREEN, "dropout": plots.BLUE}


def _bar(ax, x: float, interval: Interval, color: str, **options) -> None:
    ax.errorbar(x, interval.mean, interval.high - interval.mean, fmt="o", color=color, capsize=4,
                ms=7, **options)  # fmt: skip


def _figure_steps(run: Run, history: dict, steps: int) -> None:
    with run.figure("steps", "How long must a net with dropout be trained?",
                    size=(7.8, 4.0)) as ax:  # fmt: skip
        x = np.minimum(EVERY * np.arange(1, len(history["none"]) + 1), steps)
        for name, color in COLORS.items():
            plots.interval_band(ax, x, history[name].T, color=color, label=name)
        ax.set(xlabel="steps of SGD", ylabel="test error, %\n(mean, range of seeds)",
               ylim=(0, min(20, np.max([h[:2].max() for h in history.values()]))))  # fmt: skip
        plots.label_lines(ax)


def _figure_sizes(run: Run, paper: dict, sizes: list[int], test: dict) -> None:
    with run.figure("sizes", "How much does dropout take off the test error?", columns=2,
                    size=(9.2, 4.2), width_ratios=[1, 2.2]) as (left, right):  # fmt: skip
        standard_and_dropout = (plots.ORANGE, plots.BLUE)
        for i, color in enumerate(standard_and_dropout):
            value = paper["paper_errors"][i]
            left.bar(i, value, width=0.55, color=color)
            left.annotate(f"{value:.2f}", (i, value), (0, 4), textcoords="offset points",
                          ha="center", weight="bold")  # fmt: skip
        left.set_xticks([0, 1], ["standard\n(from memory)", "dropout + max-\nnorm (quoted)"])
        left.set(ylabel="MNIST test error, %")
        left.margins(y=0.12)
        left.set_title("The paper, table 2", fontsize=11, weight="normal")
        left.grid(axis="x", visible=False)
        for shift, (name, color) in zip((-0.16, 0, 0.16), COLORS.items(), strict=True):
            for i, n in enumerate(sizes):
                interval = mean_interval(test[name, n])
                _bar(right, i + shift, interval, color, label=name if i == 0 else None)
                right.plot(np.full(len(test[name, n]), i + shift), test[name, n], "_", ms=9,
                           color=color, alpha=0.6)  # fmt: skip
        right.set_xticks(range(len(sizes)), [str(n) for n in sizes])
        right.set(xlabel="training rows", ylabel="digits test error, % (95 % interval)",
                  ylim=(0, None), xlim=(-0.5, len(sizes) - 0.5))  # fmt: skip
        right.set_title("Here: 3 × 128 units, 8 by 8 digits", fontsize=11, weight="normal")
        right.legend(loc="upper right")


def _figure_averaging(run: Run, at_test: dict, none: np.ndarray) -> None:
    with run.figure("averaging", "Does scaling the weights replace averaging thinned nets?",
                    size=(7.8, 4.0)) as ax:  # fmt: skip
        counts = [k for k in at_test if k != "scaled"]
        plots.interval_band(ax, counts, np.array([at_test[k] for k in counts]).T,
                            color=plots.BLUE, label="mean of k thinned nets")  # fmt: skip
        for values, color, label in ((at_test["scaled"], plots.GREEN, "weight scaling, one pass"),
                                     (none, plots.ORANGE, "no dropout")):  # fmt: skip
            ax.axhline(values.mean(), color=color, ls="--", lw=1.5, label=label)
        ax.set(xscale="log", xlabel="thinned nets averaged, k", ylim=(0, None),
               ylabel="test error, %\n(mean, range of seeds)")  # fmt: skip
        ax.set_xticks(counts, [str(k) for k in counts])
        ax.minorticks_off()
        ax.legend(loc="upper right")


if __name__ == "__main__":
    cli(main)
