"""Checks, claims and figures of universal_approximation."""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from shared import plots
from shared.stats import mean_interval
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


def _wave(x):
    return np.sin(2 * np.pi * x) + 0.3 * np.cos(6 * np.pi * x)


def _fold(x, k):
    for _ in range(k):
        x = tent(x)
    return x


# ---- checks of the constructions


def check_networks(run: Run) -> None:
    """Each exact network against a formula or a library that knows no network."""
    net = interpolator(_wave, 37)
    knots = np.linspace(0, 1, 38)
    run.check(
        "broken line with 37 units",
        net(FINE),
        np.interp(FINE, knots, _wave(knots)),
        against="numpy.interp",
        atol=1e-10,
        why="float64 rounding of 37 ramps",
    )
    run.check(
        "sawtooth of depth 9",
        sawtooth(9)(FINE),
        _fold(FINE, 9),
        against="the tent's formula, nine times",
        atol=1e-11,
        why="each fold doubles the rounding: 2⁹ eps, and some",
    )
    layers = []
    net = sawtooth(4)
    for W, b in zip(net.weights, net.biases, strict=True):
        linear = nn.Linear(*W.shape[::-1], dtype=torch.float64)
        linear.weight.data, linear.bias.data = torch.tensor(W), torch.tensor(b)
        layers += [linear, nn.ReLU()]
    theirs = nn.Sequential(*layers[:-1])(torch.tensor(FINE)[:, None])[:, 0]
    run.check(
        "forward pass of four layers",
        net(FINE),
        theirs,
        against="torch.nn.Linear and ReLU",
        atol=1e-13,
        why="float64 rounding",
    )
    errors = [np.abs(square(m)(FINE) - FINE**2).max() for m in (1, 3, 5, 7)]
    run.check(
        "worst error of x² with m = 1, 3, 5, 7",
        np.array(errors),
        4.0 ** -(np.array([1, 3, 5, 7]) + 1),
        against="Yarotsky: 4^-(m + 1), attained",
        rtol=0.02,
        why="the grid may miss the worst point by half a step",
    )
    ks = np.arange(1, 11)
    run.check(
        "pieces of a sawtooth of depth 1 to 10",
        np.array([count_pieces(sawtooth(int(k))) for k in ks]),
        2**ks,
        against="Telgarsky: 2^k",
        why="whole numbers",
    )


def interpolation(run: Run) -> None:
    """Error against units for a smooth function: the theory's bound and its exponent."""
    ns = 2 ** np.arange(2, run.budget(quick=6, default=11))
    errors, curvature = [], 0.0
    second = -4 * np.pi**2 * np.sin(2 * np.pi * FINE) - 0.3 * 36 * np.pi**2 * np.cos(
        6 * np.pi * FINE
    )
    curvature = float(np.abs(second).max())
    for n in ns:
        errors.append(float(np.abs(interpolator(_wave, int(n))(FINE) - _wave(FINE)).max()))
    errors, bound = np.array(errors), curvature / (8 * ns.astype(float) ** 2)
    slope = float(np.polyfit(np.log(ns[-4:]), np.log(errors[-4:]), 1)[0])
    run.metric("exponent of the units in the error, one hidden layer", slope, rtol=0.02)
    run.claim(
        "n units interpolate with an error of 1/n², within the bound ‖f''‖/(8n²)",
        bool((errors <= 1.001 * bound).all() and abs(slope + 2) < 0.1),
        f"exponent {slope:.3f}; error over bound {errors[-1] / bound[-1]:.3f} with {ns[-1]} units",
        quick=False,
    )
    depths = np.arange(1, 10)
    deep = np.array([np.abs(square(int(m))(FINE) - FINE**2).max() for m in depths])
    flat = np.array([np.abs(interpolator(np.square, int(n))(FINE) - FINE**2).max() for n in ns])
    with run.figure(
        "constructed", "What does one more unit buy?", columns=2, size=(9.4, 4.2), sharey=True
    ) as (left, right):
        left.plot(ns, bound, "--", color=plots.REFERENCE, lw=1.2)
        left.text(ns[1], bound[1] * 1.5, "bound  ‖f''‖ / (8 n²)", color=plots.REFERENCE)
        left.plot(ns, errors, "o-", color=plots.ORANGE)
        left.set(
            xscale="log", yscale="log", xlabel="ReLUs, one hidden layer", ylabel="largest error"
        )
        left.set_title("sin 2πx + 0.3 cos 6πx, broken line", fontsize=10.5, weight="normal")
        right.plot(ns, flat, "o-", color=plots.ORANGE)
        right.text(ns[-4], flat[-4] * 2.2, "one layer: 1/(4n²)", color=plots.ORANGE)
        right.plot(3 * depths, deep, "s-", color=plots.BLUE)
        right.text(
            3 * depths[-1] + 5,
            deep[-1],
            "layers of three:\n4 times better each",
            color=plots.BLUE,
            va="bottom",
        )
        right.set(xscale="log", xlabel="ReLUs")
        right.set_title("x²", fontsize=10.5, weight="normal")


def depth_multiplies(run: Run) -> None:
    """2^k pieces: units of the sawtooth and of the smallest shallow network; who can follow."""
    k = 5
    deep, shallow = sawtooth(k), interpolator(lambda x: _fold(x, k), 2**k)
    gap = float(np.abs(deep(FINE) - shallow(FINE)).max())
    # A line crosses the teeth at most once a piece: with fewer pieces some tooth is missed whole.
    few = 2 ** (k - 2)
    missed = float(np.abs(interpolator(lambda x: _fold(x, k), few)(FINE) - deep(FINE)).max())
    run.metric("units of the deep sawtooth, k = 5", deep.n_units, rtol=0)
    run.metric("units of the shallow sawtooth, k = 5", shallow.n_units, rtol=0)
    rng = np.random.default_rng(run.seed)
    most = 0
    for _ in range(run.budget(quick=3, default=30)):
        n = 12
        net = ReLUNetwork(
            [rng.normal(size=(n, 1)), rng.normal(size=(1, n))], [rng.uniform(-1, 1, n), np.zeros(1)]
        )
        most = max(most, count_pieces(net))
    run.claim(
        "k layers of two make 2^k pieces, one layer of n makes at most n + 1",
        gap < 1e-10 and missed > 0.9 and most <= 13,
        f"{deep.n_units} ReLUs in {k} layers equal {shallow.n_units} in one up to {gap:.0e}; "
        f"{few} in one are off by {missed:.2f}; random layers of 12: at most {most} pieces",
    )
    with run.figure(
        "sawtooth", "How does a network fold the line?", columns=3, size=(9.4, 3.3), sharey=True
    ) as axes:
        for ax, depth in zip(axes, (1, 3, 5), strict=True):
            net = sawtooth(depth)
            ax.plot(FINE, net(FINE), color=plots.BLUE, lw=1.6)
            ax.set_title(
                f"{net.n_units} ReLUs in {depth} layer{'s' * (depth > 1)}: "
                f"{count_pieces(net)} pieces",
                fontsize=10.5,
                weight="normal",
            )
            ax.set(xlabel="x", xticks=[0, 0.5, 1])
        axes[0].set_ylabel("network's value")


def linear_is_a_line(run: Run) -> None:
    """The falsifier: without ReLU all depths are one straight line."""
    rng = np.random.default_rng([run.seed, 1])
    sizes = [1, 20, 20, 20, 1]
    pairs = list(pairwise(sizes))
    net = ReLUNetwork(
        [rng.normal(size=(m, n)) / np.sqrt(n) for n, m in pairs],
        [rng.normal(size=m) for _, m in pairs],
    )
    h = FINE[None]
    for W, b in zip(net.weights, net.biases, strict=True):
        h = W @ h + b[:, None]
    run.check(
        "four linear layers are one line",
        net.linearized()(FINE),
        h[0],
        against="the layers, one after the other",
        atol=1e-12,
        why="float64 rounding of three products",
    )
    run.check(
        "their second difference",
        np.diff(h[0], 2),
        np.zeros(len(FINE) - 2),
        against="a line has none",
        atol=1e-11,
        why="rounding",
    )


# ---- trained networks of equal size


TARGETS = {
    "smooth": _wave,
    "kink": lambda x: np.abs(x - 0.37) + 0.5 * np.maximum(x - 0.7, 0),
    "sawtooth, 8 pieces": lambda x: 2 * _fold(x, 3) - 1,
    "sawtooth, 32 pieces": lambda x: 2 * _fold(x, 5) - 1,
}


def train_stack(y, sizes, lrs, seeds, steps, *, linear=False):
    """Adam on all points of a grid, one network a (rate, seed); root mean squared errors.

    Parameters
    ----------
    y
        Targets at equally spaced points of [0, 1].
    lrs, seeds
        One learning rate and one seed a network; the rates fall to zero along a cosine.

    Returns
    -------
    errors, at_start
        One a network.
    """
    x = torch.linspace(-1, 1, len(y))[None, :, None].expand(len(lrs), -1, 1)
    y = torch.tensor(y, dtype=torch.float32)[None]
    params = []
    sources = [torch.Generator().manual_seed(s) for s in seeds]
    for n, m in pairwise(sizes):
        W = torch.stack([torch.randn(n, m, generator=g) for g in sources]) * np.sqrt(2 / n)
        # bends spread over the interval: with biases 0 all of them would start at x = 0
        spread = 1.0 if n == 1 else 0.1
        b = torch.stack([torch.rand(1, m, generator=g) for g in sources]) * 2 - 1
        b = b * spread * (W.norm(dim=1, keepdim=True) if n == 1 else 1.0)
        params += [W.requires_grad_(), b.detach().requires_grad_()]
    rate = torch.tensor(lrs, dtype=torch.float32)[:, None, None]
    mean, square_ = ([torch.zeros_like(p) for p in params] for _ in range(2))

    def errors():
        h = x
        for i in range(0, len(params), 2):
            h = torch.baddbmm(params[i + 1], h, params[i])
            if i < len(params) - 2 and not linear:
                h = h.relu()
        return (h[..., 0] - y).square().mean(dim=1)

    first = errors().detach()
    for t in range(1, steps + 1):
        gradients = torch.autograd.grad(errors().sum(), params)
        factor = 0.5 * (1 + np.cos(np.pi * (t - 1) / steps))
        with torch.no_grad():
            for p, g, m, v in zip(params, gradients, mean, square_, strict=True):
                m.lerp_(g, 0.1)
                v.mul_(0.99).addcmul_(g, g, value=0.01)
                rms = (v / (1 - 0.99**t)).sqrt_().add_(1e-8)
                p.sub_(factor / (1 - 0.9**t) * rate * m / rms)
    return errors().detach().sqrt().double().numpy(), first.sqrt().double().numpy()


def trained(run: Run, seeds: int, steps: int) -> None:
    """One, two and four hidden layers of equal size on four targets, each at its own best rate."""
    points, size = run.budget(quick=64, default=160), 200
    lrs = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3]
    x = np.linspace(0, 1, points)
    depths, errors, best, first = (1, 2, 4), {}, {}, {}
    jobs = [(name, depth) for name in TARGETS for depth in depths]
    for name, depth in run.progress(jobs, "training"):
        y, sizes = TARGETS[name](x), shape_of(depth, size)
        trial = [1000, 1001]
        tuned, _ = train_stack(y, sizes, lrs * 2, np.repeat(trial, len(lrs)).tolist(), steps)
        mean = np.nan_to_num(tuned, nan=9.0).reshape(2, -1).mean(axis=0)
        best[name, depth] = lrs[int(mean.argmin())]
        errors[name, depth], first[name, depth] = train_stack(
            y, sizes, [best[name, depth]] * seeds, list(range(seeds)), steps
        )
        run.metric(f"error, {name}, {depth} hidden", errors[name, depth].mean(), rtol=None)
    run.claim(
        "every best learning rate lies inside the grid",
        all(lrs[0] < lr < lrs[-1] for lr in best.values()),
        f"{min(best.values())} to {max(best.values())} of {lrs[0]} to {lrs[-1]}",
        quick=False,
    )
    spread = {n: float(np.std(TARGETS[n](x))) for n in TARGETS}
    line, _ = train_stack(
        _wave(x), shape_of(4, size), [0.01] * seeds, list(range(seeds)), steps, linear=True
    )
    straight = float(np.std(_wave(x) - np.polyval(np.polyfit(x, _wave(x), 1), x)))
    fell = errors["smooth", 2] < 0.2 * first["smooth", 2]
    run.claim(
        "training lowers the error fivefold; four linear layers stop at the best line",
        bool(fell.all() and (line > 0.99 * straight).all()),
        f"two hidden layers on the smooth target: {mean_interval(errors['smooth', 2])}; "
        f"linear layers {line.min():.3f}, best line {straight:.3f}",
        quick=False,
    )
    hard = "sawtooth, 32 pieces"
    gain = mean_interval(np.log(errors[hard, 1] / errors[hard, 4]))
    exact = sawtooth(5)
    run.metric("parameters of the exact sawtooth of 32 pieces", exact.n_parameters, rtol=0)
    run.metric(
        "depth's gain on 32 pieces, error of 1 over 4 hidden layers",
        float(np.exp(gain.mean)),
        "×",
        rtol=None,
    )
    easy = "sawtooth, 8 pieces"
    price = mean_interval(np.log(errors[easy, 4] / errors[easy, 1]))
    low, mid, high = np.exp([price.low, price.mean, price.high])
    run.claim(
        "at equal size one wide layer learns 8 pieces better than four narrow ones",
        price.low > 0,
        f"error of 4 over 1 hidden layers: {mid:.0f} times, 95 % interval "
        f"{low:.0f} to {high:.0f} (n = {seeds})",
        quick=False,
    )
    lowest = min(errors[hard, depth].min() for depth in depths)
    run.metric("lowest error of a trained network on 32 pieces", lowest, rtol=None)
    run.claim(
        "expressible is not trainable: nobody finds the exact sawtooth of 32 pieces",
        exact.n_parameters < size and lowest > 0.01,
        f"exact with {exact.n_parameters} parameters; trained with about {size}, the best of "
        f"{3 * seeds} networks is off by {lowest:.3f}, a constant by {spread[hard]:.2f}",
        quick=False,
    )
    _draw(run, depths, errors, spread, size)


def _draw(run: Run, depths, errors, spread, size) -> None:
    colors = {1: plots.ORANGE, 2: plots.GREEN, 4: plots.BLUE}
    with run.figure(
        "trained",
        f"About {size} parameters, wide or deep: who learns what?",
        columns=len(TARGETS),
        size=(9.6, 4.0),
        sharey=True,
    ) as axes:
        for ax, name in zip(axes, TARGETS, strict=True):
            for i, depth in enumerate(depths):
                values = errors[name, depth]
                ax.plot(
                    np.full(len(values), i),
                    values,
                    "o",
                    color=colors[depth],
                    alpha=0.35,
                    mec="none",
                )
                log = mean_interval(np.log(values))
                low, mid, high = np.exp([log.low, log.mean, log.high])
                ax.errorbar(
                    i + 0.22,
                    mid,
                    yerr=[[mid - low], [high - mid]],
                    fmt="D",
                    ms=6,
                    color=colors[depth],
                    capsize=4,
                )
            ax.axhline(spread[name], color=plots.REFERENCE, ls="--", lw=1)
            ax.set_xticks(range(len(depths)), [str(d) for d in depths])
            ax.set(yscale="log", xlim=(-0.5, 2.6), xlabel="hidden layers")
            ax.set_title(name, fontsize=10.5, weight="normal")
            ax.grid(axis="x", visible=False)
        axes[0].set_ylabel("root mean squared error")
        axes[0].text(-0.4, spread["smooth"] * 1.15, "a constant", fontsize=9, color=plots.REFERENCE)
        axes[0].set_ylim(top=2)
        axes[0].text(
            -0.4,
            axes[0].get_ylim()[0] * 1.6,
            "diamond: geometric\nmean, 95 %",
            fontsize=9,
            color=plots.REFERENCE,
        )


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
    check_networks(run)
    interpolation(run)
    depth_multiplies(run)
    linear_is_a_line(run)
    trained(run, seeds, steps)
