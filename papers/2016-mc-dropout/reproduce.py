r"""Is a net with dropout left on better than with all its units, and does it know its limits?

Judge passes $f_t$ by the log-likelihood of their mixture,

$$ \log \frac1T \sum_t \mathcal N(y \mid f_t(x), \sigma^2), $$

against one pass of the same weights, $\sigma$ chosen for each on validation rows. Nets of all
splits train at once. Reduced: diabetes and generated rows. The rules stand in the front matter of
README.md.

    uv run papers/2016-mc-dropout/reproduce.py

Gal and Ghahramani (2016), "Dropout as a Bayesian approximation", sections 4 and 5.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from shared import datasets, papers, plots
from shared.study import PositiveInt, Run, cli

WIDTH, BATCH, LR, MEMBERS = 50, 64, 0.01, 5
NOISE = torch.logspace(-1.5, 0.3, 40)  # standard deviations to choose from, targets having 1


class Rows(NamedTuple):
    """Training, validation and test rows of each split: x (splits, n, d), y (splits, n)."""

    x: list[Tensor]
    y: list[Tensor]


def table(name: str, rng: np.random.Generator, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and targets of mean 0 and deviation 1."""
    if name == "diabetes":
        bunch = datasets.bundled("diabetes")
        X, y = bunch.data, bunch.target
    else:
        X = rng.normal(size=(n, 5))
        y = np.sin(2 * X[:, 1]) + X[:, 2] * X[:, 3] / 2
        y += (0.1 + 0.5 * abs(X[:, 0])) * rng.normal(size=n)
    return (X - X.mean(axis=0)) / X.std(axis=0), (y - y.mean()) / y.std()


def split(X: np.ndarray, y: np.ndarray, splits: int, rng: np.random.Generator) -> Rows:
    """Seven tenths to train, the rest in halves; each split is another order."""
    orders = np.array([rng.permutation(len(y)) for _ in range(splits)])
    cuts = [round(0.7 * len(y)), round(0.85 * len(y))]
    parts = np.split(orders, cuts, axis=1)
    return Rows(
        [torch.from_numpy(X[part]).float() for part in parts],
        [torch.from_numpy(y[part]).float() for part in parts],
    )


# ---- nets of one hidden layer, many at once


def first_weights(nets: int, d: int, g: torch.Generator) -> list[Tensor]:
    """Matrices of variance 2 / d_in, biases zero."""
    first = torch.randn(nets, d, WIDTH, generator=g) * math.sqrt(2 / d)
    last = torch.randn(nets, WIDTH, 1, generator=g) * math.sqrt(2 / WIDTH)
    return [first, torch.zeros(nets, 1, WIDTH), last, torch.zeros(nets, 1, 1)]


def keep(shape: tuple[int, ...], p: float, g: torch.Generator) -> Tensor:
    """Inverted dropout's factors."""
    return (torch.rand(shape, generator=g) >= p) / (1 - p)


def forward(w: list[Tensor], x: Tensor, p: float = 0.0, g: torch.Generator | None = None) -> Tensor:
    """Outputs (nets, rows); inputs and units are dropped anew for each row."""
    if p:
        x = x * keep(x.shape, p, g)
    h = torch.baddbmm(w[1], x, w[0]).relu()
    if p:
        h = h * keep(h.shape, p, g)
    return torch.baddbmm(w[3], h, w[2])[..., 0]


def train(
    w: list[Tensor],
    x: Tensor,
    y: Tensor,
    decay: Tensor,
    *,
    p: float,
    steps: int,
    g: torch.Generator,
) -> None:
    """Adam in place, on squared error and weight decay, each net with rows of its own."""
    parameters = [part.requires_grad_() for part in w]
    optimizer = torch.optim.Adam(parameters, lr=LR, fused=True)
    nets = torch.arange(len(x))[:, None]
    for step in range(steps):
        i = torch.randint(x.shape[1], (len(x), BATCH), generator=g)
        optimizer.param_groups[0]["lr"] = LR * (1 - step / steps)
        optimizer.zero_grad()
        error = (forward(w, x[nets, i], p, g) - y[nets, i]).square().mean(1)
        penalty = sum(part.square().sum((1, 2)) for part in (w[0], w[2]))
        (error + decay * penalty).sum().backward()
        optimizer.step()
    for part in parameters:
        part.requires_grad_(False)


# ---- judging; outputs are (passes, splits, rows)


def log_likelihood(f: Tensor, y: Tensor, sd: Tensor) -> Tensor:
    """Mean over rows of the mixture's log density; sd broadcasts over (…, splits, rows)."""
    z = (y - f) / sd
    log_p = -0.5 * z.square() - (sd * math.sqrt(2 * math.pi)).log()
    return (log_p.logsumexp(-3) - math.log(f.shape[-3])).mean(-1)


def tuned(f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Best validation log-likelihood over the noise, and that noise; per split."""
    by_noise = torch.stack([log_likelihood(f, y, sd) for sd in NOISE])
    best, at = by_noise.max(0)
    return best, NOISE[at]


def coverage(f: Tensor, y: Tensor, sd: Tensor, g: torch.Generator) -> Tensor:
    """Share of the rows in the central 95 % of the mixture, by its draws."""
    draws = f.repeat(math.ceil(500 / len(f)), 1, 1)
    draws = draws + sd[:, None] * torch.randn(draws.shape, generator=g)
    low, high = draws.quantile(torch.tensor([0.025, 0.975]), 0)
    return ((low <= y) & (y <= high)).double().mean(-1)


def compare(rows: Rows, decays: list[float], p: float, passes: int, steps: int, seed: int) -> dict:
    """Per method its test scores on each split; passes' outputs and weights for MC dropout."""
    g, splits, d = torch.Generator().manual_seed(seed), len(rows.y[0]), rows.x[0].shape[-1]
    found = {}
    for dropped in (True, False):
        members, rate = (1, p) if dropped else (MEMBERS, 0.0)
        repeats = (len(decays) * members, 1, 1)
        x, y = rows.x[0].repeat(repeats), rows.y[0].repeat(repeats[:2])
        decay = torch.tensor(decays).repeat_interleave(members * splits)
        w = first_weights(len(x), d, g)
        train(w, x, y, decay, p=rate, steps=steps, g=g)
        shape = (len(decays), members, splits)
        cut = [part.view(*shape, *part.shape[1:]) for part in w]
        methods = {"ensemble": (0.0, 1)}
        if dropped:
            methods = {"MC dropout": (p, passes), "one pass": (0.0, 1), "dropout off": (0.0, 5)}
        for method, setting in methods.items():
            best = None
            for i in range(len(decays)):  # the decay with the best validation rows, per split
                weights = [part[i] for part in cut]
                f = [outputs(weights, part, *setting, g) for part in rows.x[1:]]
                score, sd = tuned(f[0], rows.y[1])
                far = outputs(weights, 3 * rows.x[2], *setting, g)
                best = better(best, (score, sd, f[1], far))
            _, sd, f, far = best
            found[method] = {
                "log-likelihood": log_likelihood(f, rows.y[2], sd[:, None]),
                "RMSE": (f.mean(0) - rows.y[2]).square().mean(-1).sqrt(),
                "coverage": coverage(f, rows.y[2], sd, g),
                "far": far.std(0).mean(-1) / f.std(0).mean(-1) if len(f) > 1 else None,
            }
    return found


def outputs(w: list[Tensor], x: Tensor, p: float, passes: int, g: torch.Generator) -> Tensor:
    """Outputs (members · passes, splits, rows); with p = 0 all units are on."""
    members = range(len(w[0]))
    return torch.stack(
        [forward([part[m] for part in w], x, p, g) for m in members for _ in range(passes)]
    )


def better(best: tuple | None, new: tuple) -> tuple:
    """Per split what has the higher score, which comes first in both."""
    if best is None:
        return new
    won = new[0] > best[0]
    pairs = zip(best, new, strict=True)
    return tuple(torch.where(won[:, None] if a.ndim > 1 else won, b, a) for a, b in pairs)


# ---- the run


def main(run: Run, *, splits: PositiveInt = 20, steps: PositiveInt = 800) -> None:
    """Compare on two tables, then with four times the rows; judge by the front matter's rules.

    Parameters
    ----------
    splits
        Of each table.
    steps
        Of each training.
    """
    paper = papers.load(__file__)
    run.rounding(0.05, "float32 sums in another order, over hundreds of steps")
    torch.set_num_threads(1)  # products this small are slower on several threads
    check(run)
    splits, steps = run.budget(quick=2, default=max(splits, 2)), run.budget(quick=20, default=steps)
    p, passes = paper.matter["p"], run.budget(quick=10, default=paper.matter["passes"])
    found = {}
    for name in ("diabetes", "uneven noise"):
        rows = split(*table(name, run.rng), splits, run.rng)
        found[name] = compare(rows, paper.matter["decays"], p, passes, steps, run.seed)
    ratios = four_times_the_rows(run.rng, p, passes, steps, run.budget(quick=2, default=8))
    judge(run, paper, found, ratios)
    draw(run, found)


def four_times_the_rows(
    rng: np.random.Generator, p: float, passes: int, steps: int, tables: int
) -> dict[str, np.ndarray]:
    """Spread at the same rows after four times the training rows, over that before."""
    spread: dict[str, list] = {"MC dropout": [], "linear": []}
    for _ in range(tables):
        X, y = table("uneven noise", rng, 1000)
        x, t = torch.from_numpy(X).float()[None], torch.from_numpy(y).float()[None]
        for n in (200, 800):
            g = torch.Generator().manual_seed(n)
            w = first_weights(1, 5, g)
            train(w, x[:, :n], t[:, :n], torch.tensor([0.003]), p=p, steps=steps, g=g)
            passed = torch.stack([forward(w, x[:, 800:], p, g) for _ in range(passes)])
            spread["MC dropout"].append(float(passed.std(0).mean()))
            covariance = np.linalg.inv(X[:n].T @ X[:n] + 0.1 * np.eye(5))
            linear = np.einsum("ni,ij,nj->n", X[800:], covariance, X[800:])
            spread["linear"].append(float(np.sqrt(linear).mean()))
    return {k: np.array(v[1::2]) / np.array(v[::2]) for k, v in spread.items()}


def judge(run: Run, paper: papers.Paper, found: dict, ratios: dict) -> None:
    """Paired gains over splits, spread far away, and what more rows do to it."""
    late = {"quick": False, "rtol": None}
    *higher, unsure = paper.rules
    for rule, (name, by_method) in zip(higher, found.items(), strict=True):
        single = by_method["one pass"]["log-likelihood"]
        gain = by_method["MC dropout"]["log-likelihood"] - single
        paper.judge(run, rule, gain, **late)
        same = by_method["dropout off"]["log-likelihood"] - single
        run.falsifier(f"dropout off at test, {name}", same, breaks=rule)
    far = torch.cat([by_method["MC dropout"]["far"] for by_method in found.values()])
    paper.judge(run, unsure, far, **late)
    name = "with four times the rows it doubts as much as before"
    run.claim(name, ratios["MC dropout"], at_least=0.8, unit="times", **late)
    run.falsifier("the exact posterior of a linear model", ratios["linear"], breaks=name)
    for name, by_method in found.items():
        for method in ("MC dropout", "one pass", "ensemble"):
            scores = by_method[method]
            for what in ("RMSE", "log-likelihood", "coverage"):
                run.metric(f"{what}, {name}, {method}", scores[what].mean(), rtol=None)


def draw(run: Run, found: dict) -> None:
    """What each method gains over one pass, a dot per split."""
    title = "Test log-likelihood gained over one pass with all units"
    with run.figure("gain", title, columns=2) as axes:
        for ax, (name, by_method) in zip(axes, found.items(), strict=True):
            single = by_method["one pass"]["log-likelihood"]
            values = {
                method: (by_method[method]["log-likelihood"] - single).numpy()
                for method in ("MC dropout", "ensemble")
            }
            plots.bars(ax, values, xlabel="nats per row", title=name)


def check(run: Run) -> None:
    """Outputs against torch's layers, and dropout's variance in one linear layer."""
    g = torch.Generator().manual_seed(run.seed)
    w, x = first_weights(1, 4, g), torch.randn(1, 9, 4, generator=g)
    layers = nn.Sequential(nn.Linear(4, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))
    for layer, (matrix, bias) in zip(layers[::2], (w[:2], w[2:]), strict=True):
        layer.weight.data, layer.bias.data = matrix[0].T, bias[0, 0]
    rule = {"against": "torch.nn.Sequential", "atol": 1e-5, "why": "float32 rounding"}
    run.check("outputs, all units on", forward(w, x)[0], layers(x[0])[:, 0], **rule)
    n, p, line = run.budget(quick=5000, default=50_000), 0.3, torch.tensor([1.0, -2.0, 0.5])
    passed = keep((n, 3), p, g) @ line
    exact = p / (1 - p) * line.square().sum()
    rule = {"against": "p / (1 - p) Σ (x w)²", "kind": "theorem", "rtol": 6 * (2 / n) ** 0.5}
    run.check("variance in one linear layer", passed.var(), exact, why="six errors", **rule)


if __name__ == "__main__":
    cli(main)
