"""Exact constructions against their theorems, and what training makes of networks of equal size."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from shared import plots
from shared.study import PositiveInt, Run
from week07.universal_approximation import (
    ReLUNetwork,
    count_pieces,
    interpolator,
    sawtooth,
    shape_of,
    square,
    tent,
)

FINE = np.linspace(0, 1, 20001)
WITHIN = "n units interpolate within the bound ‖f''‖/(8n²): error over it, at most"
EXPONENT = "exponent of the units in the error, one hidden layer"
FLAT = "a quarter as many pieces miss some tooth: largest error"
ADDS = "one layer of 12 ReLUs makes at most 13 pieces"
INSIDE = "best learning rates lie inside the grid: their place on it"
FALLS = "training lowers the error fivefold: last over first"
LINE = "four linear layers learn no more than the best line: error over its"
WIDE = "at equal size one wide layer learns 8 pieces better than four narrow ones"
NOBODY = "expressible is not trainable: nobody finds the exact sawtooth of 32 pieces"


def main(run: Run, *, seeds: PositiveInt = 8, steps: PositiveInt = 1200) -> None:
    """Exact constructions against their theorems, then trained networks of equal size.

    Parameters
    ----------
    seeds
        Networks for each target and depth.
    steps
        Training steps of a network.
    """
    seeds = run.budget(quick=2, default=max(seeds, 2), full=2 * max(seeds, 2))
    steps = run.budget(quick=min(steps, 20), default=steps, full=4 * steps)
    width_adds(run)
    depth_multiplies(run)
    trained(run, seeds, steps)


def wave(x: np.ndarray) -> np.ndarray:
    """A smooth target."""
    return np.sin(2 * np.pi * x) + 0.3 * np.cos(6 * np.pi * x)


def fold(x: np.ndarray, k: int) -> np.ndarray:
    """The tent, k times."""
    for _ in range(k):
        x = tent(x)
    return x


def exponent(errors: np.ndarray, n: np.ndarray) -> float:
    """Slope of the last four points in the logarithms."""
    return np.polyfit(np.log(n[-4:]), np.log(errors[-4:]), 1)[0]


def width_adds(run: Run) -> None:
    """Error against units for smooth functions: the bound, its exponent, and what depth does."""
    equal = run.against("numpy.interp", atol=1e-10, why="float64 rounding of 37 ramps")
    knots = np.linspace(0, 1, 38)
    reference = np.interp(FINE, knots, wave(knots))
    equal("broken line with 37 units", interpolator(wave, 37)(FINE), reference)

    def error(net: ReLUNetwork, f) -> float:
        return np.abs(net(FINE) - f(FINE)).max()

    n, m = 2 ** np.arange(2, run.budget(quick=7, default=11)), np.arange(1, 10)
    errors = np.array([error(interpolator(wave, int(k)), wave) for k in n])
    x = 2 * np.pi * FINE
    curvature = np.abs(4 * np.pi**2 * (np.sin(x) + 0.3 * 9 * np.cos(3 * x))).max()
    bound = curvature / (8 * n.astype(float) ** 2)
    run.claim(WITHIN, (errors / bound).max(), at_most=1.001, deterministic=True)
    note = f"{n[-1]} units at most"
    rule = {"at_least": -2.1, "at_most": -1.9, "deterministic": True, "note": note}
    run.claim(EXPONENT, exponent(errors, n), **rule)
    jump = np.array([error(interpolator(np.round, int(k)), np.round) for k in n + 1])
    run.falsifier("a target with a jump", exponent(jump, n), breaks=EXPONENT)
    deep = np.array([error(square(int(k)), np.square) for k in m])
    why = "the grid may miss the worst point by half a step"
    attained = run.against("Yarotsky: 4^-(m + 1)", kind="theorem", rtol=0.02, why=why)
    attained("worst error of x² with m = 1, 3, 5, 7", deep[:7:2], 4.0 ** -(m[:7:2] + 1))
    flat = np.array([error(interpolator(np.square, int(k)), np.square) for k in n])
    layout = {"columns": 2, "size": (9.4, 4.2), "sharey": True}
    with run.figure("constructed", "What does one more unit buy?", **layout) as (left, right):
        axes = {"xscale": "log", "yscale": "log", "xlabel": "ReLUs"}
        lines = {"bound ‖f''‖/(8n²)": bound, "broken line": errors}
        labels = axes | {"ylabel": "largest error of sin 2πx + 0.3 cos 6πx", "marker": "o"}
        plots.curves(left, n, lines, colors=(plots.GRAY, plots.ORANGE), ends=False, **labels)
        lines = {"one layer: 1/(4n²)": flat, "layers of three: 4 times better each": deep}
        x = dict(zip(lines, (n, 3 * m), strict=True))
        labels = axes | {"ylabel": "largest error of x²", "marker": "o"}
        plots.curves(right, x, lines, colors=(plots.ORANGE, plots.BLUE), ends=False, **labels)


def depth_multiplies(run: Run) -> None:
    """2^k pieces: units of the sawtooth and of the smallest shallow network; who can follow."""
    ks = np.arange(1, 11)
    equal = run.against("Telgarsky: 2^k", kind="theorem", why="whole numbers")
    equal("pieces of sawteeth", [count_pieces(sawtooth(int(k))) for k in ks], 2**ks)
    deep = sawtooth(5)(FINE)
    equal = run.against("one layer of 32", kind="consistency", atol=1e-10, why="float64 rounding")
    equal("five layers of two ReLUs", deep, interpolator(lambda x: fold(x, 5), 32)(FINE))
    # A line crosses the teeth at most once per piece: with fewer pieces some tooth is missed whole.
    missed = np.abs(interpolator(lambda x: fold(x, 5), 8)(FINE) - deep).max()
    run.claim(FLAT, missed, at_least=0.9, deterministic=True)
    rng, pieces = np.random.default_rng(run.seed), []
    for _ in range(run.budget(quick=3, default=30)):
        weights = [rng.normal(size=(12, 1)), rng.normal(size=(1, 12))]
        biases = [rng.uniform(-1, 1, 12), np.zeros(1)]
        pieces.append(count_pieces(ReLUNetwork(weights, biases)))
    run.claim(ADDS, pieces, at_most=13, each=True, note="random layers")
    folded = [count_pieces(sawtooth(5)), count_pieces(sawtooth(6))]
    run.falsifier("five and six layers of two", folded, breaks=ADDS)
    title = "How does a network fold the line?"
    with run.figure("sawtooth", title, columns=3, size=(9.4, 3.3), sharey=True) as axes:
        for ax, k in zip(axes, (1, 3, 5), strict=True):
            ax.plot(FINE, sawtooth(k)(FINE), color=plots.BLUE, lw=1.6)
            ax.set_title(f"{2 * k} ReLUs in depth {k}: {2**k} pieces", fontsize=11)
            ax.set(xlabel="x", xticks=[0, 0.5, 1])
        axes[0].set_ylabel("network's value")


# ---- trained networks of equal size

TARGETS = {
    "smooth": wave,
    "kink": lambda x: np.abs(x - 0.37) + 0.5 * np.maximum(x - 0.7, 0),
    "8 pieces": lambda x: 2 * fold(x, 3) - 1,
    "32 pieces": lambda x: 2 * fold(x, 5) - 1,
}


def train_stack(
    y: np.ndarray,
    sizes: Sequence[int],
    lrs: Sequence[float],
    seeds: Sequence[int],
    steps: int,
    *,
    linear: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Networks side by side, one per learning rate and seed; RMS errors at the end and the start.

    Adam takes the same steps whatever a loss is multiplied by, so that a parameter kept as p / lr
    and trained at rate 1 is p trained at lr.
    """
    x = torch.linspace(-1, 1, len(y))[None, :, None].expand(len(lrs), -1, 1)
    y = torch.tensor(y, dtype=torch.float32)[None]
    rate = torch.tensor(lrs, dtype=torch.float32)[:, None, None]
    params, sources = [], [torch.Generator().manual_seed(s) for s in seeds]
    for n, m in pairwise(sizes):
        W = torch.stack([torch.randn(n, m, generator=g) for g in sources]) * np.sqrt(2 / n)
        b = torch.stack([torch.rand(1, m, generator=g) for g in sources]) * 2 - 1
        # bends spread over the interval: with biases 0 all of them would start at x = 0
        b = b * (W.norm(dim=1, keepdim=True) if n == 1 else 0.1)
        params += [(p / rate).requires_grad_() for p in (W, b)]
    adam = torch.optim.Adam(params, lr=1.0, betas=(0.9, 0.99), eps=1e-12)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)

    def errors() -> torch.Tensor:
        h = x
        for i in range(0, len(params), 2):
            h = torch.baddbmm(rate * params[i + 1], h, rate * params[i])
            if i < len(params) - 2 and not linear:
                h = h.relu()
        return (h[..., 0] - y).square().mean(dim=1)

    first = errors().detach()
    for _ in range(steps):
        adam.zero_grad()
        errors().sum().backward()
        adam.step()
        decay.step()
    return errors().detach().sqrt().double().numpy(), first.sqrt().double().numpy()


def trained(run: Run, seeds: int, steps: int) -> None:
    """One, two and four hidden layers of equal size on four targets, each at its own best rate."""
    x, size, depths = np.linspace(0, 1, run.budget(quick=64, default=160)), 200, (1, 2, 4)
    lrs = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    judged = list(range(seeds))
    errors, first, places = {}, {}, []
    for name, depth in run.progress([(n, d) for n in TARGETS for d in depths], "training"):
        y, sizes = TARGETS[name](x), shape_of(depth, size)
        trial = np.repeat([1000, 1001], len(lrs)).tolist()  # never judged
        tuned = train_stack(y, sizes, lrs * 2, trial, steps)[0].reshape(2, -1)
        places.append(np.nan_to_num(tuned, nan=9.0).mean(axis=0).argmin())
        best = [lrs[places[-1]]] * seeds
        errors[name, depth], first[name, depth] = train_stack(y, sizes, best, judged, steps)
    judge = {"quick": False}
    note = f"0 to {len(lrs) - 1}; {lrs[min(places)]} to {lrs[max(places)]} of {lrs[0]} to {lrs[-1]}"
    run.claim(INSIDE, places, at_least=1, at_most=len(lrs) - 2, each=True, note=note, **judge)
    note = "two hidden layers, smooth target"
    run.claim(FALLS, errors["smooth", 2] / first["smooth", 2], at_most=0.2, note=note, **judge)
    y = TARGETS["smooth"](x)
    best_line = np.std(y - np.polyval(np.polyfit(x, y, 1), x))
    line, _ = train_stack(y, shape_of(4, size), [0.01] * seeds, judged, steps, linear=True)
    run.claim(LINE, line / best_line, at_least=0.99, **judge)
    run.falsifier("with ReLUs", errors["smooth", 4] / best_line, breaks=LINE)
    price = np.log10(errors["8 pieces", 4] / errors["8 pieces", 1])
    note = f"log10 of the errors' ratio, {10 ** price.mean():.0f} times"
    run.claim(WIDE, price, at_least=0, note=note, **judge)
    hard = np.concatenate([errors["32 pieces", depth] for depth in depths])
    exact = sawtooth(5)
    run.metric("parameters of the exact sawtooth of 32 pieces", exact.n_parameters)
    run.metric("parameters of a trained network, about", size)
    run.metric("lowest error of a trained network on 32 pieces", hard.min())
    note = f"a constant is off by {np.std(TARGETS['32 pieces'](x)):.2f}"
    run.claim(NOBODY, hard, at_least=0.01, each=True, note=note, **judge)
    both = exact, interpolator(lambda x: fold(x, 5), 32)
    built = [np.abs(2 * net(x) - 1 - TARGETS["32 pieces"](x)).max() for net in both]
    run.falsifier("constructed ones, deep and wide", built, breaks=NOBODY)
    title = f"About {size} parameters, wide or deep: who learns what?"
    with run.figure("trained", title, columns=4, size=(9.6, 3.6), sharey=True) as axes:
        for ax, name in zip(axes, TARGETS, strict=True):
            for depth, color in zip(depths, plots.COLORS, strict=False):
                values = errors[name, depth]
                ax.plot([depth] * seeds, values, "o", color=color, alpha=0.35, mec="none")
                ax.plot(depth, np.exp(np.log(values).mean()), "D", color=color, ms=8)
            plots.reference_line(ax, np.std(TARGETS[name](x)), "a constant")
            ax.set(yscale="log", xlim=(0, 5), xlabel="hidden layers", xticks=depths)
            ax.set_title(name, fontsize=11, weight="normal")
        axes[0].set_ylabel("RMS error (diamond: geometric mean)")
