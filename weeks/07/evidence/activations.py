"""Values and slopes are torch's; what slopes do to deep networks, and which activation matters."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week07.activations import ACTIVATIONS, SwiGLU, gradient_factors, preserving_variance, silu

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
RATES = 3.0 ** np.arange(-6, 2)  # 0.0014 to 3, by factors of three
BATCH, DEPTH, GUESS = 32, 4, np.log(10)
INSIDE = "best learning rates lie inside the grid: their place on it"
LEARNS = "ReLU layers learn: share right"
SIGMOID = "at its own best rate the sigmoid is worse than ReLU in four layers, every seed"
BLOWS_UP = "SwiGLU layers without a norm start at five times the loss: log10 of the ratio"
KILLS = "a large learning rate kills ReLUs"
BIAS = "a negative first bias kills ReLUs"
STUCK = "twenty sigmoid layers stay at guessing at their best learning rate"


def main(run: Run, *, seeds: PositiveInt = 8, steps: PositiveInt = 300) -> None:
    """Against torch, then four experiments on networks of handwritten digits.

    Parameters
    ----------
    seeds
        Networks for each setting; a setting's learning rate is chosen on three others.
    steps
        Training steps of a network.
    """
    seeds, few = run.budget(quick=(2, 2), default=(max(seeds, 2), 5))
    steps = run.budget(quick=min(steps, 6), default=steps)
    check_values(run)
    draw_functions(run)
    with threadpool_limits(1):  # on matrices so small, threads only wait for each other
        data = digits()
        vanishing_gradients(run, data, run.budget(quick=2, default=8))
        ablation(run, data, seeds, steps)
        gates_need_norms(run, data, seeds)
        dead_relus(run, data, few, steps)
        twenty_layers(run, data, few, steps)


# ---- many multilayer perceptrons at once: arrays carry the network first


class Applied(torch.autograd.Function):
    """One of our functions inside torch: its value forward, its slope on the way back."""

    @staticmethod
    def forward(ctx, z, name):
        """Keep z."""
        ctx.z, ctx.name = z.detach().numpy(), name
        return torch.from_numpy(ACTIVATIONS[name].value(ctx.z))

    @staticmethod
    def backward(ctx, dy):
        """dy times the slope at z."""
        return dy * torch.from_numpy(ACTIVATIONS[ctx.name].slope(ctx.z)), None


class Networks:
    """MLPs of one shape, one per generator; biases of the hidden layers begin at `bias`."""

    def __init__(self, name, sizes, rngs, *, variance=None, bias=0.0, dtype=torch.float32):
        self.name, self.params, gated = name, [], name in (GATED, BARE)
        if gated:  # a layer's product is twice as wide: one half gates the other
            sizes = [sizes[0], *(round(s / np.sqrt(2)) for s in sizes[1:-1]), sizes[-1]]
        kept = preserving_variance(ACTIVATIONS["SiLU" if gated else name].value)
        kept = variance or (1.0 if name == GATED else kept)
        for i, (n, m) in enumerate(pairwise(sizes)):
            hidden = i < len(sizes) - 2
            scale = np.sqrt((kept if i else 1.0) / n)  # inputs have unit variance themselves
            shape = (n, 2 * m if gated and hidden else m)
            W = np.stack([rng.normal(0, scale, shape) for rng in rngs])
            b = np.full((len(rngs), 1, shape[1]), bias * hidden)
            self.params += [torch.tensor(p, dtype=dtype, requires_grad=True) for p in (W, b)]

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Logits (network, n, classes), and what enters each activation."""
        before = []
        for W, b in zip(self.params[:-2:2], self.params[1:-2:2], strict=True):
            before.append(x @ W + b)
            x = self.activate(before[-1])
        return x @ self.params[-2] + self.params[-1], before

    def activate(self, z: torch.Tensor) -> torch.Tensor:
        """The activation, or the product of the two halves with or without a norm behind it."""
        if self.name not in (GATED, BARE):
            return Applied.apply(z, self.name)
        a, b = z.chunk(2, -1)
        y = Applied.apply(a, "SiLU") * b
        return F.rms_norm(y, y.shape[-1:], eps=1e-6) if self.name == GATED else y

    def train(self, X, y, lrs, rngs, steps: int) -> np.ndarray:
        """SGD with momentum 0.9, a rate that falls to zero; losses (step, network)."""
        rate = torch.tensor(lrs, dtype=X.dtype)[:, None, None]
        velocity, losses = [torch.zeros_like(p) for p in self.params], []
        with np.errstate(all="ignore"):  # a network that diverges goes on as infinities
            for step in range(steps):
                rows = np.stack([rng.integers(0, len(X), BATCH) for rng in rngs])
                loss = cross_entropy(self.forward(X[rows])[0], y[rows])
                losses.append(loss.detach().numpy())
                gradients = torch.autograd.grad(loss.sum(), self.params)
                for p, v, g in zip(self.params, velocity, gradients, strict=True):
                    p.data.sub_((1 - step / steps) * rate * v.mul_(0.9).add_(g))
        return np.array(losses)

    def evaluate(self, X, y) -> tuple[np.ndarray, np.ndarray]:
        """Loss and accuracy of each network; infinity and chance where one has diverged."""
        with torch.no_grad(), np.errstate(all="ignore"):
            logits, _ = self.forward(X[None])
            loss = cross_entropy(logits, y.expand(logits.shape[:2])).numpy()
        good = np.isfinite(loss) & (loss < 1e3)
        right = (logits.argmax(-1) == y).double().mean(dim=-1).numpy()
        return np.where(good, loss, np.inf), np.where(good, right, 0.1)


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Mean loss of each network."""
    return F.cross_entropy(logits.movedim(-1, 1), y, reduction="none").mean(dim=-1)


class Data(NamedTuple):
    """Standardized pixels and labels: to train on, to choose a learning rate on, to judge by."""

    X: torch.Tensor
    y: torch.Tensor
    choose: tuple[torch.Tensor, torch.Tensor]
    judge: tuple[torch.Tensor, torch.Tensor]


def digits() -> Data:
    """1200 rows to train on, 200 to choose by, 397 to judge by, in an order fixed once."""
    images, labels = datasets.digits()
    order = np.random.default_rng(0).permutation(len(images))
    X, y = images.reshape(len(images), -1)[order], torch.tensor(labels)[order]
    X = (X - X[:1200].mean()) / X[:1200].std()  # one number each: pixels share a unit
    X = torch.tensor(X, dtype=torch.float32)
    return Data(X[:1200], y[:1200], (X[1200:1400], y[1200:1400]), (X[1400:], y[1400:]))


def generators(run: Run, kind: int, seeds) -> list[np.random.Generator]:
    """One per seed, apart for each kind of use."""
    return [np.random.default_rng([run.seed, kind, s]) for s in seeds]


def fit(run: Run, name, hidden: Sequence[int], lrs, seeds, steps, data: Data, **options):
    """Networks trained with these learning rates and seeds, and their losses."""
    nets = Networks(name, [64, *hidden, 10], generators(run, 1, seeds), **options)
    return nets, nets.train(data.X, data.y, lrs, generators(run, 2, seeds), steps)


# ---- checks


def check_values(run: Run) -> None:
    """Values and slopes in both precisions, out to ±1000; the gated layer."""
    far = [-1000.0, -100.0, -40.0, -1e-17, 0.0, 1e-17, 40.0, 100.0, 1000.0]
    grid = np.sort(np.concatenate([np.linspace(-12, 12, 2001), far]))
    why = "a few roundings of numbers near 1"
    for kind, eps in ((np.float64, 1e-14), (np.float32, 2e-6)):
        x = grid.astype(kind)
        rows = []
        for name, (value, slope) in ACTIVATIONS.items():
            t = torch.tensor(x, requires_grad=True)
            y = TORCH[name](t)
            rows.append((value(x), y.detach(), slope(x), torch.autograd.grad(y.sum(), t)[0]))
        equal = run.against("torch.nn.functional, autograd", atol=eps, rtol=eps, why=why)
        values, their_values, slopes, their_slopes = (np.stack(c) for c in zip(*rows, strict=True))
        equal(f"values of nine activations, {kind.__name__}", values, their_values)
        equal(f"slopes of nine activations, {kind.__name__}", slopes, their_slopes)
    rng = np.random.default_rng(run.seed)
    shapes = {"gate": (5, 7), "up": (5, 7), "down": (7, 3), "x": (4, 6, 5)}
    ours = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    gate, up, down, x = theirs = [torch.tensor(v, requires_grad=True) for v in ours.values()]
    out = (F.silu(x @ gate) * (x @ up)) @ down
    dy, x = rng.normal(size=out.shape), ours.pop("x")
    dx, gradients = SwiGLU(**ours).backward(x, dy)
    mine = [SwiGLU(**ours).forward(x), *gradients.values(), dx]
    reference = [out.detach(), *torch.autograd.grad(out, theirs, torch.tensor(dy))]
    flat, expected = (np.concatenate([np.ravel(v) for v in row]) for row in (mine, reference))
    equal = run.against("torch.autograd", atol=1e-11, why="float64 rounding of 24 products")
    equal("SwiGLU: output and four gradients", flat, expected)


def draw_functions(run: Run) -> None:
    """Small multiples: each function and its slope."""
    x, title = np.linspace(-4, 4, 801), "Nine activations (blue) and their slopes (orange)"
    layout = {"rows": 2, "columns": 5, "size": (9.6, 4.5), "sharex": True, "sharey": True}
    with run.figure("functions", title, **layout) as axes:
        for ax, (name, (value, slope)) in zip(axes.flat, ACTIVATIONS.items(), strict=False):
            d = slope(x)
            d = np.where(np.abs(np.diff(d, prepend=d[0])) > 0.2, np.nan, d)  # no line over a jump
            ax.plot(x, value(x), color=plots.BLUE)
            ax.plot(x, d, color=plots.ORANGE, lw=1.6)
            ax.set_title(name, fontsize=10.5, weight="normal")
            ax.set(ylim=(-1.3, 2.2), xticks=[-4, 0, 4])
        for gain in (0.5, 1.0, 2.0):
            axes.flat[-1].plot(x, silu(x) * gain, color=plots.GREEN, alpha=0.3 + gain / 3)
        axes.flat[-1].set_title("SwiGLU: u · silu(g)", fontsize=10.5, weight="normal")


# ---- vanishing gradients


def vanishing_gradients(run: Run, data: Data, seeds: int) -> None:
    """Mean square gradient by layer at the start, in 20 layers, against the product of χ."""
    depth, width = 20, run.budget(quick=48, default=200)
    X, y, layers = data.X[:100].double(), data.y[:100], np.arange(1, depth + 1)
    lines, dashed = {}, []
    for name, variance in (("ReLU", 2.0), ("tanh", 1.0), ("sigmoid", 1.0)):
        options = {"variance": variance, "dtype": torch.float64}
        rngs = generators(run, 5, range(seeds))
        logits, before = Networks(name, [64, *[width] * depth, 10], rngs, **options).forward(X)
        loss = cross_entropy(logits, y.expand(logits.shape[:2])).sum()
        deltas = torch.autograd.grad(loss, before)
        measured = np.stack([(d**2).mean(dim=(1, 2)) for d in deltas], axis=1)
        measured /= measured[:, -1:]
        factors = gradient_factors(ACTIVATIONS[name], variance, depth, q=float((X**2).mean()))
        # δ of layer l is what passed W and f' of layers l to depth - 1; the last one is the unit
        theory = np.cumprod(np.r_[1.0, factors[:-1][::-1]])[::-1]
        slopes = np.polyfit(layers, np.log10(measured).T, 1)[0]
        predicted = np.polyfit(layers, np.log10(theory), 1)[0]
        claim = f"{name}: the gradient shrinks as its slopes predict"
        note = f"{slopes.mean():.3f} measured, {predicted:.3f} predicted"
        rule = {"at_least": -0.05, "at_most": 0.05, "unit": "decades per layer", "quick": False}
        run.claim(claim, slopes - predicted, **rule, note=note)
        lines[name] = np.sqrt(measured)
        dashed.append(np.sqrt(theory))
    run.falsifier("every slope taken as 1", slopes, breaks=claim)
    run.metric("sigmoid: decades a layer, measured", slopes.mean())
    run.metric("sigmoid: decades a layer, theory", predicted)
    share = "sigmoid: gradient in layer 1 over that in layer 20, root mean square"
    run.metric(share, np.median(lines["sigmoid"][:, 0]))
    with run.figure("vanishing", "What reaches the first layer of twenty?", size=(8, 4.3)) as ax:
        ax.plot(layers, np.transpose(dashed), color=plots.REFERENCE, ls="--", zorder=3)
        labels = {"xlabel": "layer, counted from the input (dashed: theory)", "yscale": "log"}
        labels["ylabel"] = "gradient, relative to the last layer's"
        plots.curves(ax, layers, lines, **labels, ends=False, xticks=[1, 5, 10, 15, 20])


# ---- the ablation


def ablation(run: Run, data: Data, seeds: int, steps: int) -> None:
    """Four hidden layers: each activation at its own best rate of one grid, then fresh seeds."""
    lrs, hidden = run.budget(quick=RATES[2::2], default=RATES), [48] * DEPTH
    names = [*(n for n in ACTIVATIONS if n != "GELU (tanh)"), GATED]
    curve, place, right, at_sigmoids = {}, {}, {}, {}
    for name in run.progress(names, "learning rates"):
        trial = run.budget(quick=[100], default=[100, 101, 102])  # never judged
        who, rates = np.repeat(trial, len(lrs)), np.tile(lrs, len(trial))
        nets, _ = fit(run, name, hidden, rates, who, steps, data)
        # loss, not accuracy: it is finer; diverged networks have an infinite one
        loss = np.minimum(nets.evaluate(*data.choose)[0], 2 * GUESS)
        curve[name] = loss.reshape(len(trial), -1).mean(axis=0)
        place[name] = curve[name].argmin()
    for name in run.progress(names, "fresh seeds"):
        rates = np.repeat(lrs[[place[name], place["sigmoid"]]], seeds)
        nets, _ = fit(run, name, hidden, rates, [*range(seeds)] * 2, steps, data)
        right[name], at_sigmoids[name] = 100 * nets.evaluate(*data.judge)[1].reshape(2, -1)
    judge = {"unit": "points", "quick": False}
    limits = {"at_least": 1, "at_most": len(lrs) - 2, "each": True, "quick": False}
    run.claim(INSIDE, list(place.values()), **limits, note=f"0 to {len(lrs) - 1}")
    gap = {name: right[name] - right["ReLU"] for name in names}
    run.claim(SIGMOID, -gap["sigmoid"], at_least=0.1, each=True, **judge)
    for name in ("GELU", "SiLU", GATED, "leaky ReLU", "ELU", "tanh"):
        claim = f"tuned alike, {name} is within 3 points of ReLU"
        run.claim(claim, gap[name], at_least=-3, at_most=3, **judge)
    broken = "tuned alike, GELU is within 3 points of ReLU"
    run.falsifier("GELU at the sigmoid's rate", at_sigmoids["GELU"] - right["ReLU"], breaks=broken)
    for name in ("ReLU", "tanh"):
        claim = f"at the sigmoid's rate {name} loses more than 20 points"
        run.claim(claim, right[name] - at_sigmoids[name], at_least=20, **judge)
    for name in ("ReLU", "tanh", "GELU"):
        run.metric(f"accuracy, {name}", right[name].mean() / 100)
    mixed = data._replace(y=data.y[np.random.default_rng([run.seed, 6]).permutation(1200)])
    control, _ = fit(run, "ReLU", hidden, lrs[[place["ReLU"]] * 3], range(3), steps, mixed)
    run.claim(LEARNS, right["ReLU"], at_least=80, unit="%", quick=False)
    run.falsifier("shuffled labels", 100 * control.evaluate(*data.judge)[1], breaks=LEARNS)
    title = "Four layers, each activation at its own best learning rate"
    with run.figure("ablation", title, columns=2, size=(9.6, 4.4)) as (left, axes):
        wrong = {name: 100 - right[name] for name in sorted(names, key=lambda n: right[n].mean())}
        plots.bars(left, wrong, xscale="log", xlim=(1, 100), xlabel="test error, %")
        axes.plot(lrs, np.transpose(list(curve.values())), color=plots.GRAY, lw=1, alpha=0.5)
        lines = {name: curve[name] for name in ("ReLU", "sigmoid", "tanh", "softplus")}
        labels = {"xlabel": "learning rate (gray: the others)", "ylabel": "validation loss, nats"}
        labels |= {"xscale": "log", "yscale": "log", "reference": {"guessing": GUESS}}
        plots.curves(axes, lrs, lines, **labels)


def gates_need_norms(run: Run, data: Data, seeds: int) -> None:
    """A gate multiplies its input by itself: variance is kept on average, by hardly any network."""
    first = {}
    for name in (BARE, GATED, "ReLU"):
        nets = Networks(name, [64, *[48] * DEPTH, 10], generators(run, 1, range(seeds)))
        first[name] = nets.evaluate(data.X, data.y)[0]
    run.metric("first loss, SwiGLU", np.median(first[BARE]), "nats")
    ratio = {name: np.log10(first[name] / first[GATED]) for name in (BARE, "ReLU")}
    note = f"first loss {first[BARE].min():.0f} to {first[BARE].max():.0f} nats, "
    note += f"with RMSNorm at most {first[GATED].max():.1f}"
    run.claim(BLOWS_UP, ratio[BARE], at_least=np.log10(5), note=note, quick=False)
    run.falsifier("ReLU layers without a norm", ratio["ReLU"], breaks=BLOWS_UP)


# ---- failures on display


def dead_relus(run: Run, data: Data, seeds: int, steps: int) -> None:
    """Dead units after training against the learning rate, for three first biases."""
    lrs = run.budget(quick=np.array([0.03, 1.0]), default=3.0 ** np.arange(-5, 2))
    dead = {}
    for bias in (-1.0, 0.0, 1.0):
        rates, who = np.repeat(lrs, seeds), [*range(seeds)] * len(lrs)
        nets, _ = fit(run, "ReLU", [48] * 3, rates, who, steps, data, bias=bias)
        with torch.no_grad():
            off = [~(z > 0).any(dim=1) for z in nets.forward(data.X[None])[1]]
        share = torch.stack(off).double().mean(dim=(0, 2)).numpy()
        dead[f"first bias {bias:g}"] = 100 * share.reshape(len(lrs), seeds).T
    low, high = dead["first bias 0"][:, 1], dead["first bias 0"][:, -2]
    judge = {"unit": "points more dead units", "quick": False}
    note = f"learning rate {lrs[-2]:.2g} against {lrs[1]:.2g}"
    run.claim(KILLS, high - low, at_least=5, note=note, **judge)
    note = f"-1 against 1, learning rate {lrs[1]:.2g}"
    down = dead["first bias -1"][:, 1] - dead["first bias 1"][:, 1]
    run.claim(BIAS, down, at_least=0, note=note, **judge)
    title = "What kills a ReLU: long steps and a negative bias"
    with run.figure("dead", title, size=(7.8, 4.1)) as ax:
        labels = {"xlabel": "learning rate", "ylabel": "units off for every training image, %"}
        plots.curves(ax, lrs, dead, xscale="log", ylim=(-2, 102), **labels)


def twenty_layers(run: Run, data: Data, seeds: int, steps: int) -> None:
    """Twenty sigmoid layers do not learn at any rate of the grid; twenty ReLU layers do."""
    depth = run.budget(quick=5, default=20)
    lrs = run.budget(quick=RATES[3::2], default=RATES[1:])
    curves, end = {}, {}
    for name, variance in (("ReLU", 2.0), ("sigmoid", 1.0)):
        rates, who = np.repeat(lrs, seeds), [*range(seeds)] * len(lrs)
        _, losses = fit(run, name, [32] * depth, rates, who, steps, data, variance=variance)
        ends = np.nan_to_num(losses[-20:].mean(axis=0), nan=99).reshape(len(lrs), seeds)
        best = ends.max(axis=1).argmin()  # the rate whose worst seed is best
        end[name] = ends.min(axis=0) if name == "sigmoid" else ends[best]
        curves[name] = losses.reshape(steps, len(lrs), seeds)[:, best].T
    note = f"lowest of {len(lrs)} rates; guessing {GUESS:.3f}"
    judge = {"unit": "nats", "quick": False}
    run.claim(STUCK, end["sigmoid"], at_least=0.95 * GUESS, note=note, **judge)
    run.falsifier("ReLU layers", end["ReLU"], breaks=STUCK)
    title = "Twenty layers: the sigmoid never leaves the start"
    with run.figure("failure", title, size=(7.8, 4.0)) as ax:
        kernel = np.ones(min(9, steps)) / min(9, steps)
        lines = {n: [np.convolve(row, kernel, "valid") for row in r] for n, r in curves.items()}
        x = np.arange(len(lines["ReLU"][0])) + 4
        labels = {"xlabel": "training step", "ylabel": "training loss, nats", "ylim": (0, 2.8)}
        plots.curves(ax, x, lines, reference={"guessing, ln 10": GUESS}, **labels)
