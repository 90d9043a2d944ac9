"""Checks, claims and figures of activations."""

from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week07.activations import (
    ACTIVATIONS,
    SwiGLU,
    gated_backward,
    gradient_factors,
    preserving_variance,
    silu,
)

TORCH = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ReLU": F.relu,
    "leaky ReLU": F.leaky_relu,
    "ELU": F.elu,
    "softplus": lambda x: F.softplus(x, threshold=40),
    "GELU": F.gelu,
    "GELU (tanh)": lambda x: F.gelu(x, approximate="tanh"),
    "SiLU": F.silu,
}
GATED, BARE = "RMSNorm + SwiGLU", "SwiGLU"
LEARNING_RATES = 3.0 ** np.arange(-6, 2)  # 0.0014 to 3, by factors of three
BATCH = 32

# ---- many multilayer perceptrons at once, by hand


class Stack:
    """MLPs of one shape, each with its own weights: arrays carry the run first.

    Parameters
    ----------
    activation
        A name in ACTIVATIONS, or one of the gated: then a layer's product is twice as wide, one
        half gates the other, and widths are divided by √2 so that there are as many parameters.
    sizes
        Inputs, hidden widths, classes.
    rngs
        One generator a run.
    variance
        σ_w²: fan-in times a weight's variance; what keeps unit variance if not given.
    bias
        First bias of the hidden layers.
    """

    def __init__(self, activation, sizes, rngs, *, variance=None, bias=0.0, dtype=np.float32):
        self.activation = activation
        self.gated = gated = activation in (GATED, BARE)
        if gated:
            sizes = [sizes[0], *(round(s / np.sqrt(2)) for s in sizes[1:-1]), sizes[-1]]
            kept = preserving_variance(ACTIVATIONS["SiLU"].value)  # E[(silu(a) b)²] = E[silu²]
            kept = 1.0 if activation == GATED else kept
        else:
            kept = preserving_variance(ACTIVATIONS[activation].value)
        kept = variance or kept
        self.W, self.b = [], []
        for i, (n, m) in enumerate(pairwise(sizes)):
            last = i == len(sizes) - 2
            out = 2 * m if gated and not last else m
            scale = np.sqrt((1.0 if i == 0 else kept) / n)  # inputs have unit variance themselves
            W = np.stack([rng.normal(0, scale, (n, out)) for rng in rngs])
            self.W.append(W.astype(dtype))
            self.b.append(np.full((len(rngs), 1, out), 0.0 if last else bias, dtype))

    def forward(self, x):
        """Logits (run, n, classes), and what the backward pass needs: each layer's input and z."""
        inputs, before = [], []
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            inputs.append(x)
            x = x @ W + b
            if i < len(self.W) - 1:
                before.append(x)
                x = self._value(x)
        return x, inputs, before

    def _value(self, z):
        if self.gated:
            a, b = np.split(z, 2, axis=-1)
            y = silu(a) * b
            return y / _rms(y) if self.activation == GATED else y
        return ACTIVATIONS[self.activation].value(z)

    def backward(self, dz, inputs, before):
        """Gradients of weights and biases from that of the logits; and dz of every layer."""
        gW, gb, deltas = [], [], [dz]
        for i in range(len(self.W) - 1, -1, -1):
            gW.append(inputs[i].swapaxes(-1, -2) @ dz)
            gb.append(dz.sum(axis=-2, keepdims=True))
            if i:
                dy = dz @ self.W[i].swapaxes(-1, -2)
                if self.gated:
                    a, b = np.split(before[i - 1], 2, axis=-1)
                    if self.activation == GATED:
                        y = silu(a) * b
                        rms = _rms(y)
                        # what a norm takes away is the part of dy along y
                        dy = (dy - y * (dy * y).mean(-1, keepdims=True) / rms**2) / rms
                    dz = np.concatenate(gated_backward(a, b, dy), axis=-1)
                else:
                    dz = dy * ACTIVATIONS[self.activation].slope(before[i - 1])
                deltas.append(dz)
        return gW[::-1], gb[::-1], deltas[::-1]


def _rms(y):
    return np.sqrt((y * y).mean(axis=-1, keepdims=True) + y.dtype.type(1e-6))


def cross_entropy(logits, labels):
    """Mean loss (run,) and its gradient; labels are (n,) or (run, n)."""
    labels = np.broadcast_to(labels, logits.shape[:-1])[..., None]
    shifted = logits - logits.max(axis=-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    gradient = np.exp(log_p)
    np.put_along_axis(gradient, labels, np.take_along_axis(gradient, labels, -1) - 1, -1)
    loss = -np.take_along_axis(log_p, labels, -1)[..., 0].mean(axis=-1)
    return loss, gradient / logits.shape[-2]


def train(stack, X, y, lrs, rngs, steps, momentum=0.9):
    """SGD with momentum, one learning rate and one order of examples a run; losses (step, run).

    The rate falls linearly to zero, so that the last steps are not noise.

    A run that diverges goes on as infinities and is judged as one that learned nothing.
    """
    lrs = np.asarray(lrs, dtype=stack.W[0].dtype)[:, None, None]
    velocity = [np.zeros_like(p) for p in stack.W + stack.b]
    losses = []
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        for step in range(steps):
            rows = np.stack([rng.integers(0, len(X), BATCH) for rng in rngs])
            logits, inputs, before = stack.forward(X[rows])
            loss, gradient = cross_entropy(logits, y[rows])
            gW, gb, _ = stack.backward(gradient, inputs, before)
            for p, v, g in zip(stack.W + stack.b, velocity, gW + gb, strict=True):
                v *= momentum
                v += g
                p -= (1 - step / steps) * lrs * v
            losses.append(loss)
    return np.array(losses)


def evaluate(stack, X, y):
    """Loss and accuracy, (run,) each; chance where a run has diverged."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        logits, _, _ = stack.forward(X[None])
        loss, _ = cross_entropy(logits, y)
    good = np.isfinite(loss) & (loss < 1e3)
    accuracy = (logits.argmax(-1) == y).mean(axis=-1)
    return np.where(good, loss, np.inf), np.where(good, accuracy, 0.1)


def _digits():
    """Standardized pixels: 1200 to train on, 597 to test on, in an order fixed once."""
    images, labels = datasets.digits()
    X = images.reshape(len(images), -1).astype(np.float64)
    order = np.random.default_rng(0).permutation(len(X))
    X, y = X[order], np.asarray(labels)[order]
    mean, sd = X[:1200].mean(), X[:1200].std()  # one number each: pixels share a unit
    X = ((X - mean) / sd).astype(np.float32)
    return X[:1200], y[:1200], X[1200:], y[1200:]


def _rngs(run, kind, seeds):
    return [np.random.default_rng([run.seed, kind, s]) for s in seeds]


def _fit(run, activation, depth, lrs, seeds, steps, *, width=48, bias=0.0, data=None, **options):
    """A stack trained with these learning rates and seeds, and its losses."""
    X, y, _, _ = data or _digits()
    sizes = [X.shape[1], *[width] * depth, 10]
    stack = Stack(activation, sizes, _rngs(run, 1, seeds), bias=bias, **options)
    return stack, train(stack, X, y, lrs, _rngs(run, 2, seeds), steps)


# ---- checks


def check_against_torch(run: Run) -> None:
    """Values and slopes in both precisions, out to ±1000."""
    far = [-1000.0, -100.0, -40.0, -1e-17, 0.0, 1e-17, 40.0, 100.0, 1000.0]
    grid = np.sort(np.concatenate([np.linspace(-12, 12, 2001), far]))
    for kind, tolerance in ((np.float64, 1e-14), (np.float32, 2e-6)):
        x, worst = grid.astype(kind), {"values": [], "slopes": []}
        for name, (value, slope) in ACTIVATIONS.items():
            t = torch.tensor(x, requires_grad=True)
            y = TORCH[name](t)
            y.sum().backward()
            worst["values"].append((value(x), y.detach().numpy()))
            worst["slopes"].append((slope(x), t.grad.numpy()))
        for what, pairs in worst.items():
            ours, theirs = (np.stack([pair[i] for pair in pairs]) for i in (0, 1))
            run.check(
                f"{what} of nine activations, {kind.__name__}",
                ours,
                theirs,
                against="torch.nn.functional and autograd",
                atol=tolerance,
                rtol=tolerance,
                why="a few roundings of numbers near 1",
            )
    rng = np.random.default_rng(run.seed)
    G, U, D = rng.normal(size=(5, 7)), rng.normal(size=(5, 7)), rng.normal(size=(7, 3))
    x, dy = rng.normal(size=(4, 6, 5)), rng.normal(size=(4, 6, 3))
    layer = SwiGLU(G, U, D)
    tensors = [torch.tensor(v, requires_grad=True) for v in (x, G, U, D)]
    tx, tG, tU, tD = tensors
    out = (F.silu(tx @ tG) * (tx @ tU)) @ tD
    out.backward(torch.tensor(dy))
    dx, gradients = layer.backward(x, dy)
    ours = [layer.forward(x), dx, *(gradients[k] for k in ("gate", "up", "down"))]
    run.check(
        "SwiGLU: output and four gradients",
        np.concatenate([v.ravel() for v in ours]),
        np.concatenate([v.detach().numpy().ravel() for v in (out, *(t.grad for t in tensors))]),
        against="torch.nn.functional.silu and autograd",
        atol=1e-11,
        why="float64 rounding of sums of 24 products",
    )
    # F.silu has no β; autograd of its definition does
    t = torch.linspace(-5, 5, 101, dtype=torch.float64, requires_grad=True)
    (t * torch.sigmoid(1.702 * t)).sum().backward()
    slope = ACTIVATIONS["SiLU"].slope(t.detach().numpy(), 1.702)
    run.check(
        "slope of Swish, β = 1.702",
        slope,
        t.grad,
        against="torch.autograd",
        atol=1e-14,
        why="float64 rounding",
    )


def check_training(run: Run) -> None:
    """Five steps by hand and five of torch: the same losses, elementwise and gated."""
    X, y, _, _ = _digits()
    X = X.astype(np.float64)
    ours, theirs = [], []
    for name in ("ReLU", "softplus", GATED):
        rngs, lrs = _rngs(run, 3, range(2)), [0.05, 0.01]
        stack = Stack(name, [64, 24, 24, 10], rngs, dtype=np.float64)
        for r, (lr, rng) in enumerate(zip(lrs, _rngs(run, 4, range(2)), strict=True)):
            layers = [nn.Parameter(torch.tensor(v[r])) for v in stack.W + stack.b]
            optimizer, half = torch.optim.SGD(layers, lr=lr, momentum=0.9), len(stack.W)
            for step in range(5):
                optimizer.param_groups[0]["lr"] = lr * (1 - step / 5)
                rows = rng.integers(0, len(X), BATCH)
                h = torch.tensor(X[rows])
                for i in range(half):
                    h = h @ layers[i] + layers[half + i]
                    if i < half - 1:
                        a, b = h.chunk(2, -1) if name == GATED else (h, None)
                        if name == GATED:
                            h = F.rms_norm(F.silu(a) * b, a.shape[-1:], eps=1e-6)
                        else:
                            h = TORCH[name](h)
                loss = F.cross_entropy(h, torch.tensor(y[rows]))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                theirs.append(loss.item())
        ours += train(stack, X, y, lrs, _rngs(run, 4, range(2)), 5).T.ravel().tolist()
    run.check(
        "losses of five steps, three stacks of two networks",
        np.array(ours),
        np.array(theirs),
        against="torch autograd + torch.optim.SGD",
        rtol=1e-9,
        why="float64 rounding, amplified by five steps",
    )


# ---- the functions


def draw_functions(run: Run) -> None:
    """Small multiples: each function and its slope."""
    x = np.linspace(-4, 4, 801)
    with run.figure(
        "functions",
        "Nine activations (blue) and their slopes (orange)",
        rows=2,
        columns=5,
        size=(9.6, 4.5),
        sharex=True,
        sharey=True,
    ) as axes:
        for ax, (name, (value, slope)) in zip(axes.flat, ACTIVATIONS.items(), strict=False):
            ax.axhline(0, color="#bbbbbb", lw=0.8)
            d = slope(x)
            d = np.where(np.abs(np.diff(d, prepend=d[0])) > 0.2, np.nan, d)  # no line over a jump
            ax.plot(x, value(x), color=plots.BLUE)
            ax.plot(x, d, color=plots.ORANGE, lw=1.6)
            ax.set_title(name, fontsize=10.5, weight="normal", pad=4)
            ax.set(ylim=(-1.3, 2.2), xticks=[-4, 0, 4])
        ax = axes.flat[-1]
        for gain, shade in ((0.5, 0.35), (1.0, 0.65), (2.0, 1.0)):
            ax.plot(x, silu(x) * gain, color=plots.GREEN, alpha=shade)
        ax.text(-3.9, 1.5, "u = 2, 1, ½", fontsize=9.5, color=plots.GREEN)
        ax.axhline(0, color="#bbbbbb", lw=0.8)
        ax.set_title("SwiGLU: u · silu(g)", fontsize=10.5, weight="normal", pad=4)
        for ax in axes[1]:
            ax.set_xlabel("input")


# ---- vanishing gradients


def vanishing_gradients(run: Run, seeds: int) -> None:
    """Mean square gradient by layer at the start, in 20 layers, against the product of χ."""
    depth, width = 20, run.budget(quick=64, default=200)
    X, y, _, _ = _digits()
    X, y = X[:100].astype(np.float64), y[:100]
    curves = {}
    for name, variance, color in (
        ("ReLU", 2.0, plots.BLUE),
        ("tanh", 1.0, plots.GREEN),
        ("sigmoid", 1.0, plots.ORANGE),
    ):
        stack = Stack(
            name,
            [64, *[width] * depth, 10],
            _rngs(run, 5, range(seeds)),
            variance=variance,
            dtype=np.float64,
        )
        logits, inputs, before = stack.forward(X[None])
        _, gradient = cross_entropy(logits, y)
        deltas = stack.backward(gradient, inputs, before)[2][:depth]
        measured = np.stack([(d**2).mean(axis=(1, 2)) for d in deltas], axis=1)
        measured /= measured[:, -1:]
        factors = gradient_factors(ACTIVATIONS[name], variance, depth, q=float((X**2).mean()))
        # δ of layer l is what passed W and f' of layers l to depth - 1; the last one is the unit
        theory = np.cumprod(np.r_[1.0, factors[:-1][::-1]])[::-1]
        curves[name] = measured, theory, color
    rates = {}
    for name, (measured, theory, _) in curves.items():
        slopes = np.array([np.polyfit(np.arange(depth), np.log10(row), 1)[0] for row in measured])
        predicted = float(np.polyfit(np.arange(depth), np.log10(theory), 1)[0])
        interval = mean_interval(slopes)
        rates[name] = interval, predicted
        run.metric(f"{name}: decades a layer, measured", interval.mean, rtol=None)
        run.metric(f"{name}: decades a layer, theory", predicted, rtol=0.02)
    sigmoid = curves["sigmoid"][0][:, 0]
    run.metric(
        "sigmoid: gradient in layer 1 over that in layer 20, root mean square",
        float(np.sqrt(np.median(sigmoid))),
        rtol=None,
    )
    close = all(abs(i.mean - p) < 0.05 for i, p in rates.values())
    run.claim(
        "gradients shrink by the factor that the slopes predict: within 0.05 decades a layer",
        close and rates["sigmoid"][0].low > 1.0 > 0.1 > rates["ReLU"][0].high,
        "; ".join(f"{n} {i} against {p:.3f}" for n, (i, p) in rates.items())
        + f"; width {width}, {depth} layers",
        quick=False,
    )
    layers = np.arange(1, depth + 1)
    with run.figure("vanishing", "What reaches the first layer of twenty?", size=(8.2, 4.3)) as ax:
        for name, (measured, theory, color) in curves.items():
            rms = np.sqrt(measured)
            ax.fill_between(layers, rms.min(0), rms.max(0), color=color, alpha=0.2, lw=0)
            ax.plot(layers, rms.mean(0), "o", color=color, ms=5)
            ax.plot(layers, np.sqrt(theory), color=plots.REFERENCE, lw=1.2, ls="--")
            y = np.sqrt(theory[4])
            ax.annotate(
                name,
                (5, y),
                (0, 9 if name == "ReLU" else -18),
                textcoords="offset points",
                color=color,
                weight="bold",
                ha="left" if name == "sigmoid" else "center",
            )
        ax.set(
            yscale="log",
            xlabel="layer, counted from the input (dashed: theory)",
            ylabel="gradient, relative to the last layer's",
            xticks=[1, 5, 10, 15, 20],
            ylim=(None, 30),
        )


# ---- the ablation


def ablation(run: Run, seeds: int, steps: int) -> None:
    """Four hidden layers: each activation at its own best rate of one grid, then fresh seeds."""
    depth = run.budget(quick=2, default=4)
    lrs = run.budget(quick=LEARNING_RATES[2::2], default=LEARNING_RATES)
    data = X, y, X_test, y_test = _digits()
    names = [*(n for n in ACTIVATIONS if n != "GELU (tanh)"), GATED]
    best, accuracy, curve = {}, {}, {}
    for name in run.progress(names, "ablation"):
        trial = run.budget(quick=[100], default=[100, 101, 102])  # never judged
        who, rates = np.repeat(trial, len(lrs)), np.tile(lrs, len(trial))
        stack, _ = _fit(run, name, depth, rates, who, steps, data=data)
        loss, _ = evaluate(stack, X_test[:200], y_test[:200])
        # mean loss, not accuracy: finer, and diverged runs are infinite
        loss = np.minimum(loss, np.log(10) * 2).reshape(len(trial), -1).mean(axis=0)
        curve[name], best[name] = loss, float(lrs[loss.argmin()])
    run.claim(
        "every best learning rate lies inside the grid",
        all(lrs[0] < lr < lrs[-1] for lr in best.values()),
        ", ".join(f"{n} {lr:.2g}" for n, lr in best.items()),
        quick=False,
    )
    shared = {}
    for name in run.progress(names, "fresh seeds"):
        rates = np.repeat([best[name], best["sigmoid"]], seeds)
        stack, _ = _fit(run, name, depth, rates, [*range(seeds)] * 2, steps, data=data)
        scores = evaluate(stack, X_test[200:], y_test[200:])[1].reshape(2, -1)
        accuracy[name], shared[name] = scores
        run.metric(f"accuracy, {name}", accuracy[name].mean(), rtol=0.05)
        run.metric(f"learning rate, {name}", best[name], rtol=None)
    gap = {n: mean_interval(100 * (accuracy[n] - accuracy["ReLU"])) for n in names if n != "ReLU"}
    worse = accuracy["sigmoid"] < accuracy["ReLU"]  # signs: stuck runs are no normal variables
    run.claim(
        "at its own best rate the sigmoid is worse than ReLU in four layers, every seed",
        bool(worse.all()),
        f"{worse.sum()} of {seeds} paired seeds, {gap['sigmoid']} points",
        quick=False,
    )
    modern = ("GELU", "SiLU", GATED, "leaky ReLU", "ELU", "tanh")
    run.claim(
        "tuned alike, six others are within 3 points of ReLU, intervals included",
        all(gap[n].low > -3 and gap[n].high < 3 for n in modern),
        ", ".join(f"{n} {gap[n]}" for n in modern),
        quick=False,
    )
    at_one = {n: float(100 * (shared[n].mean() - accuracy[n].mean())) for n in names}
    worst = min(at_one, key=at_one.get)
    run.metric("points lost at the sigmoid's rate, at most", -at_one[worst], rtol=None)
    run.claim(
        "at the sigmoid's rate the order turns: others lose more than 20 points",
        at_one[worst] < -20,
        f"{worst} loses {-at_one[worst]:.0f} points, ReLU {-at_one['ReLU']:.0f}, "
        f"tanh {-at_one['tanh']:.0f}",
        quick=False,
    )
    _control(run, depth, best["ReLU"], steps, data)
    _gates_need_norms(run, depth, seeds, X, y)
    _draw_ablation(run, names, lrs, curve, best, accuracy)


def _control(run: Run, depth: int, lr: float, steps: int, data) -> None:
    """The loss falls far beyond its noise; with shuffled labels none carries over."""
    X, y, X_test, y_test = data
    mixed = y[np.random.default_rng([run.seed, 6]).permutation(len(y))]
    stack, losses = _fit(run, "ReLU", depth, [lr] * 3, range(3), steps, data=data)
    control, _ = _fit(
        run, "ReLU", depth, [lr] * 3, range(3), steps, data=(X, mixed, X_test, y_test)
    )
    learned, chance = (evaluate(s, X_test, y_test)[1] for s in (stack, control))
    fall = losses[:10].mean() - losses[-10:].mean()
    run.claim(
        "it learns, and not from shuffled labels",
        bool(fall > 10 * losses[-10:].std() and learned.min() > 0.8 and chance.max() < 0.25),
        f"loss falls by {fall:.2f}, its noise {losses[-10:].std():.2f}; accuracy "
        f"{learned.mean():.2f} against {chance.mean():.2f} in the control, 3 seeds",
        quick=False,
    )


def _gates_need_norms(run: Run, depth: int, seeds: int, X, y) -> None:
    """A gate multiplies its input by itself: variance is kept on average, by hardly any network."""
    first = {}
    for name in (BARE, GATED, "ReLU"):
        stack = Stack(name, [64, *[48] * depth, 10], _rngs(run, 1, range(seeds)))
        first[name] = evaluate(stack, X, y)[0]
        run.metric(f"first loss, {name}", np.median(first[name]), "nats", rtol=None)
    run.claim(
        "SwiGLU layers without a norm blow up before the first step",
        bool(
            (first[BARE] > first[GATED]).all()
            and np.median(first[BARE]) > 5 * np.median(first[GATED])
        ),
        f"first loss {first[BARE].min():.0f} to {first[BARE].max():.0f} nats, with RMSNorm at "
        f"most {first[GATED].max():.1f}, ReLU {first['ReLU'].max():.1f}",
        quick=False,
    )


def _draw_ablation(run, names, lrs, curve, best, accuracy) -> None:
    order = sorted(names, key=lambda n: accuracy[n].mean())
    special = {
        "sigmoid": plots.ORANGE,
        "softplus": plots.YELLOW,
        "tanh": plots.GREEN,
        "ReLU": plots.BLUE,
    }
    with run.figure(
        "ablation",
        "Four layers, each activation at its own best learning rate",
        columns=2,
        size=(9.6, 4.4),
        width_ratios=[1, 1.1],
    ) as (left, right):
        for i, name in enumerate(order):
            wrong, color = 100 * (1 - accuracy[name]), special.get(name, plots.GRAY)
            left.plot(wrong, np.full(len(wrong), i), "o", color=color, alpha=0.35, mec="none")
            log = mean_interval(np.log(np.maximum(wrong, 0.1)))
            low, middle, high = np.exp([log.low, log.mean, log.high])
            left.errorbar(
                middle,
                i,
                xerr=[[middle - low], [high - middle]],
                fmt="D",
                ms=6,
                color=color,
                capsize=4,
            )
        left.set_yticks(range(len(order)), order)
        left.set(xscale="log", xlabel="test error, % (diamond: geometric mean, 95 %)")
        left.set_xticks([1, 2, 5, 10, 20, 50, 90], ["1", "2", "5", "10", "20", "50", "guess"])
        left.minorticks_off()
        relu = np.exp(np.log(100 * (1 - accuracy["ReLU"])).mean())
        left.axvline(relu, color=plots.REFERENCE, ls="--", lw=1)
        left.grid(axis="y", visible=False)
        for name in [n for n in names if n not in special] + [*special]:
            color = special.get(name, "#c4c4c4")
            right.plot(
                lrs,
                curve[name],
                color=color,
                lw=2 if name in special else 1.3,
                zorder=3 if name in special else 2,
                label=name if name in special else f"_{name}",
            )
            right.plot(best[name], curve[name].min(), "o", color=color, zorder=4)
        right.axhline(np.log(10), color=plots.REFERENCE, ls="--", lw=1)
        right.text(lrs[0], np.log(10) * 1.06, "guessing", fontsize=9, color=plots.REFERENCE)
        right.set(
            xscale="log",
            yscale="log",
            xlabel="learning rate (dot: the best; gray: other)",
            ylabel="validation loss (nats)",
        )
        ends = {"sigmoid": (0, 0), "softplus": (0, 0), "tanh": (0, 0), "ReLU": (0, 0)}
        for name in ends:
            i = int(np.argmin(curve[name]))
            right.annotate(
                name,
                (lrs[i], curve[name][i]),
                (0, -15),
                textcoords="offset points",
                color=special[name],
                fontsize=9.5,
                ha="center",
                weight="bold",
            )


# ---- dead units


def _dead(stack, X) -> np.ndarray:
    """Share of hidden units, (run,), that are off for every row of X and so learn nothing."""
    with np.errstate(over="ignore", invalid="ignore"):
        before = stack.forward(X[None])[2]
        return np.mean([~(z > 0).any(axis=1) for z in before], axis=(0, 2))


def dead_relus(run: Run, seeds: int, steps: int) -> None:
    """Dead units after training against the learning rate, for three first biases."""
    lrs = run.budget(quick=np.array([0.03, 1.0]), default=3.0 ** np.arange(-5, 2))
    data = _digits()
    results = {}
    for bias in (-1.0, 0.0, 1.0):
        rates, who = np.repeat(lrs, seeds), [*range(seeds)] * len(lrs)
        stack, _ = _fit(run, "ReLU", 3, rates, who, steps, bias=bias, data=data)
        results[bias] = 100 * _dead(stack, data[0]).reshape(len(lrs), seeds)
    low, high = results[0.0][1], results[0.0][-2]
    growth = mean_interval(high - low)
    down = mean_interval(results[-1.0][1] - results[1.0][1])
    run.metric(f"dead ReLUs, learning rate {lrs[1]:.2g}", low.mean(), "%", rtol=None)
    run.metric(f"dead ReLUs, learning rate {lrs[-2]:.2g}", high.mean(), "%", rtol=None)
    run.claim(
        "a large learning rate kills ReLUs, and so does a negative bias",
        growth.low > 5 and down.low > 0,
        f"learning rate {lrs[-2]:.2g} against {lrs[1]:.2g}: {growth} points more dead units; "
        f"bias -1 against 1, at {lrs[1]:.2g}: {down} points more",
        quick=False,
    )
    with run.figure(
        "dead", "What kills a ReLU: long steps and a negative bias", size=(7.8, 4.1)
    ) as ax:
        for bias, color in ((-1.0, plots.ORANGE), (0.0, plots.BLUE), (1.0, plots.GREEN)):
            plots.interval_band(ax, lrs, results[bias].T, color=color, label=f"first bias {bias:g}")
        ax.set(
            xscale="log",
            xlabel="learning rate",
            ylim=(-2, 102),
            ylabel="units off for every training image, %",
        )
        plots.label_lines(ax)


# ---- the failure on display


def failure(run: Run, seeds: int, steps: int) -> None:
    """Twenty sigmoid layers do not learn at any rate of the grid; twenty ReLU layers do."""
    depth = run.budget(quick=5, default=20)
    lrs = run.budget(quick=LEARNING_RATES[3::2], default=LEARNING_RATES[1:])
    data = _digits()
    curves, lowest = {}, {}
    for name, variance in (("ReLU", 2.0), ("sigmoid", 1.0)):
        rates, who = np.repeat(lrs, seeds), [*range(seeds)] * len(lrs)
        _, losses = _fit(
            run, name, depth, rates, who, steps, width=32, data=data, variance=variance
        )
        end = np.nan_to_num(losses[-20:].mean(axis=0), nan=99).reshape(len(lrs), seeds)
        i = int(end.max(axis=1).argmin())  # the rate whose worst seed is best
        lowest[name] = float(end.min())
        curves[name] = losses.reshape(steps, len(lrs), seeds)[:, i], float(lrs[i]), end[i]
    guess = np.log(10)
    sigmoid, relu = curves["sigmoid"][2], curves["ReLU"][2]
    run.metric("20 sigmoid layers, last losses at the best rate", sigmoid.mean(), "nats", rtol=0.05)
    run.metric("20 ReLU layers, last losses at the best rate", relu.mean(), "nats", rtol=None)
    run.claim(
        "twenty sigmoid layers stay at guessing at every learning rate, ReLU layers do not",
        bool(lowest["sigmoid"] > 0.95 * guess and relu.max() < 0.8 * guess),
        f"lowest of all sigmoid runs {lowest['sigmoid']:.3f}, ReLU at its best rate "
        f"{mean_interval(relu)}, guessing {guess:.3f} nats",
        quick=False,
    )
    with run.figure(
        "failure", "Twenty layers: the sigmoid never leaves the start", size=(7.8, 4.0)
    ) as ax:
        kernel = np.ones(9) / 9
        for name, color in (("sigmoid", plots.ORANGE), ("ReLU", plots.BLUE)):
            losses, lr, _ = curves[name]
            smooth = np.stack([np.convolve(row, kernel, "valid") for row in losses.T])
            plots.interval_band(
                ax,
                np.arange(smooth.shape[1]) + 4,
                smooth,
                color=color,
                label=f"{name}\n(rate {lr:.2g})",
            )
        ax.axhline(guess, color=plots.REFERENCE, ls="--", lw=1)
        ax.text(120, guess + 0.06, "guessing, ln 10", color=plots.REFERENCE, fontsize=9.5)
        ax.set(xlabel="training step", ylabel="training loss (nats)", ylim=(0, 2.8))
        plots.label_lines(ax)


def main(run: Run, *, seeds: PositiveInt = 8, steps: PositiveInt = 300) -> None:
    """Against torch, then four experiments on networks of handwritten digits.

    Parameters
    ----------
    seeds
        Networks for each setting; a setting's learning rate is chosen on two others.
    steps
        Training steps of a network.
    """
    seeds = run.budget(quick=2, default=max(seeds, 2))
    steps = run.budget(quick=min(steps, 20), default=steps)
    check_against_torch(run)
    check_training(run)
    draw_functions(run)
    vanishing_gradients(run, run.budget(quick=2, default=8))
    ablation(run, seeds, steps)
    dead_relus(run, run.budget(quick=2, default=5), steps)
    failure(run, run.budget(quick=2, default=5), steps)
