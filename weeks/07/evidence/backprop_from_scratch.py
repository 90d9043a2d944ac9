"""Layers and graphs against torch, how small a check's step should be, and life without the sum."""

import numpy as np
import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week07.backprop_from_scratch import Graph, chain, cross_entropy, residual
from week07.layers import (
    Add,
    Conv1d,
    Embedding,
    Layer,
    LayerNorm,
    Linear,
    Multiply,
    ReLU,
    Sigmoid,
    Tanh,
)

ORDER = "the error of central differences falls as h²: its exponent"
LEAST = "the error is least near ∛ε = 6e-6: log10 of the best step"
THIRD = "theory: h² times the third derivative / 6"
COSTS = "overwriting costs: its loss ends higher"
TRAINS = "the right network trains: loss below guessing, over its noise"
NOTHING = "shuffled labels teach nothing: new digits right"


def main(run: Run, *, compositions: PositiveInt = 30, seeds: PositiveInt = 5) -> None:
    """Layers and graphs against torch, the tool's own errors, and what happens without the sum.

    Parameters
    ----------
    compositions
        Random networks in the comparison.
    seeds
        Networks trained each way.
    """
    check_layers(run)
    check_compositions(run, run.budget(quick=5, default=compositions))
    with threadpool_limits(1):  # on matrices so small, threads only wait for each other
        check_steps(run)
        show_step_sizes(run, run.budget(quick=3, default=25))
        seeds = run.budget(quick=2, default=seeds)
        show_overwriting(run, seeds, run.budget(quick=10, default=250))


# ---- the same thing in torch


def in_torch(layer: Layer, tensors: dict[int, torch.Tensor]):
    """A function of tensors that computes what `layer` does, with its parameters in `tensors`.

    `tensors` maps the id of a parameter to a leaf, so that a shared parameter is one leaf.
    """
    leaves = {id(q): torch.tensor(q.value, requires_grad=True) for q in layer.parameters}
    p = [tensors.setdefault(key, leaf) for key, leaf in leaves.items()]
    if isinstance(layer, Graph):
        inner = [(in_torch(node, tensors), sources) for node, sources in layer.nodes]

        def run_graph(x):
            values = [x]
            for f, sources in inner:
                values.append(f(*(values[s] for s in sources)))
            return values[-1]

        return run_graph
    return {
        Sigmoid: torch.sigmoid,
        Tanh: torch.tanh,
        ReLU: torch.relu,
        Add: torch.add,
        Multiply: torch.mul,
        Linear: lambda x: F.linear(x, p[0].T, p[1]),
        LayerNorm: lambda x: F.layer_norm(x, x.shape[-1:], p[0], p[1], layer.eps),
        Embedding: lambda ids: F.embedding(ids, p[0]),
        Conv1d: lambda x: F.conv1d(x, p[0], p[1]),
    }[type(layer)]


def both(layer: Layer, inputs, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Output, input gradients and parameter gradients in one row: ours, and torch's."""
    tensors: dict[int, torch.Tensor] = {}
    leaves = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    expected = in_torch(layer, tensors)(*leaves)
    y, cache = layer.forward(*inputs)
    dy = rng.normal(size=y.shape)
    for p in layer.parameters:
        p.grad[...] = 0
    found = layer.backward(dy, cache)
    found = found if isinstance(found, tuple) else (found,)
    ours = [y, *(g for g in found if g is not None), *(p.grad for p in layer.parameters)]
    expected.backward(torch.from_numpy(dy))
    leaves = [leaf for leaf in leaves if leaf.requires_grad]
    leaves += [tensors[id(p)] for p in layer.parameters]
    grads = [torch.zeros_like(t) if t.grad is None else t.grad for t in leaves]
    theirs = [expected.detach(), *grads]
    return tuple(np.concatenate([np.ravel(a) for a in row]) for row in (ours, theirs))


def random_linear(d: int, k: int, rng: np.random.Generator) -> Linear:
    """He-like weights and small random biases: zeros would hide mistakes."""
    return Linear(rng.normal(size=(d, k)) / np.sqrt(d), 0.1 * rng.normal(size=k))


def random_network(rng: np.random.Generator, d: int = 5, depth: int = 6) -> Graph:
    """Random layers on random earlier values; some layers are used twice."""
    smooth = (Sigmoid(), Tanh(), ReLU())
    shared = random_linear(d, d, rng)
    nodes = []
    for i in range(depth):
        sources = tuple(int(s) for s in rng.integers(0, i + 1, 2))
        kind = rng.integers(7)
        layer = (
            random_linear(d, d, rng),
            shared,
            smooth[rng.integers(3)],
            LayerNorm(rng.normal(size=d), rng.normal(size=d), 0.1),
            Add(),
            Multiply(),
            residual(chain(shared, Tanh())),
        )[kind]
        nodes.append((layer, sources if kind in (4, 5) else sources[:1]))
    return Graph([*nodes, (shared, (depth,))])


# ---- checks


def check_layers(run: Run) -> None:
    """Output and gradients of each layer."""
    rng = run.rng
    x, shared = rng.normal(size=(4, 6)), random_linear(6, 6, rng)
    convolution = Conv1d(rng.normal(size=(3, 2, 4)), rng.normal(size=3))
    cases = {
        "linear": (random_linear(6, 3, rng), x),
        "sigmoid": (Sigmoid(), 10 * x),
        "tanh": (Tanh(), x),
        "ReLU": (ReLU(), x),
        "layer norm": (LayerNorm(rng.normal(size=6), rng.normal(size=6)), x),
        "embedding, indices repeated": (Embedding(x), np.array([[0, 3, 3], [3, 1, 0]])),
        "1-D convolution": (convolution, rng.normal(size=(2, 2, 9))),
        "product of two inputs": (Multiply(), x, rng.normal(size=(4, 6))),
        "residual connection": (residual(chain(random_linear(6, 6, rng), Tanh())), x),
        "one layer used three times": (chain(shared, Tanh(), shared, Tanh(), shared), x),
    }
    why = "float64 rounding; a wrong term would be of order 1"
    equal = run.against("torch.autograd", atol=1e-10, why=why)
    for name, (layer, *inputs) in cases.items():
        equal(f"{name}, output and gradients", *both(layer, inputs, rng))


def check_compositions(run: Run, compositions: int) -> None:
    """Random graphs with fan-out and shared layers."""
    pairs = []
    for i in range(compositions):
        rng = np.random.default_rng([run.seed, 1, i])
        pair = both(random_network(rng), [rng.normal(size=(3, 5))], rng)
        pairs.append(np.stack(pair) / (1 + np.abs(pair[1]).max()))
    why = "float64 rounding through up to 20 layers"
    equal = run.against("torch.autograd", atol=1e-10, why=why)
    equal(f"{compositions} random graphs, over their largest", *np.concatenate(pairs, axis=1))


def backpropagate(net: Graph, x: np.ndarray, y: np.ndarray) -> float:
    """The loss; the gradients of the parameters are in them, and only this batch's."""
    for p in net.parameters:
        p.grad[...] = 0
    Z, cache = net.forward(x)
    loss, dZ = cross_entropy(Z, y)
    net.backward(dZ, cache)
    return loss


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Pixels between 0 and 1, one row per digit, and the labels."""
    images, labels = datasets.digits()
    return images.reshape(len(images), -1) / 16, labels


def check_steps(run: Run) -> None:
    """Fifty steps of gradient descent on digits, in torch too."""
    (X, labels), lr = digits(), 0.3
    net, tensors = digits_network(np.random.default_rng([run.seed, 3]), blocks=3), {}
    theirs = in_torch(net, tensors)
    sgd = torch.optim.SGD([tensors[id(p)] for p in net.parameters], lr=lr)
    losses, reference = [], []
    for start in range(0, 1500, 30):
        rows = slice(start, start + 30)
        losses.append(backpropagate(net, X[rows], labels[rows]))
        for p in net.parameters:
            p.value -= lr * p.grad
        loss = F.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(labels[rows]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        reference.append(loss.item())
    why = "float64 rounding, 50 steps"
    equal = run.against("torch.autograd, torch.optim.SGD", atol=1e-10, why=why)
    equal("losses of fifty steps", losses, reference)


# ---- how small a step?


def show_step_sizes(run: Run, trials: int) -> None:
    """Error of the numeric gradient along a direction, against its step: theory, dtype, kinks."""
    steps = np.logspace(-14, 0, run.budget(quick=29, default=113))
    names = ("tanh", "tanh, float32", "ReLU", "tanh, one-sided", "theory")
    error = {name: np.empty((trials, len(steps))) for name in names}
    for t in range(trials):
        rng = np.random.default_rng([run.seed, 4, t])
        x, y = rng.normal(size=(8, 10)), rng.integers(4, size=8)
        first, last = random_linear(10, 24, rng), random_linear(24, 4, rng)
        u = rng.normal(size=first.W.value.shape)
        u /= np.linalg.norm(u)
        for name in names[:3]:
            net = chain(first, ReLU() if name == "ReLU" else Tanh(), last)
            loss = backpropagate(net, x, y)
            slope = (first.W.grad * u).sum()
            dtype = np.float32 if "float32" in name else np.float64
            up, down = (
                np.array([loss_at(net, first, sign * h * u, x, y, dtype) for h in steps])
                for sign in (1, -1)
            )
            error[name][t] = np.abs((up - down) / (2 * steps) - slope) / abs(slope)
            if name == "tanh":
                error["tanh, one-sided"][t] = np.abs((up - loss) / steps - slope) / abs(slope)
                third = abs(third_derivative(net, first, u, x, y))
                rounding = np.finfo(float).eps * loss / steps
                error["theory"][t] = (third * steps**2 / 6 + rounding) / abs(slope)
    middle = {name: np.median(np.maximum(e, 1e-17), axis=0) for name, e in error.items()}
    run.metric("error at the best step, tanh", middle["tanh"].min(), rtol=None)
    run.metric("error at the best step, tanh in float32", middle["tanh, float32"].min(), rtol=None)
    straight = (steps > 1e-4) & (steps < 1e-2)
    ratio = np.median(middle["tanh"][straight] / middle["theory"][straight])
    why = "the next term is of order h²; the third derivative is torch's"
    equal = run.against(THIRD, kind="theorem", rtol=0.05, why=why)
    equal("error over theory, h from 1e-4 to 1e-2", ratio, 1.0)

    def exponents(name: str) -> np.ndarray:
        return np.polyfit(np.log(steps[straight]), np.log(error[name][:, straight].T), 1)[0]

    run.claim(ORDER, exponents("tanh"), at_least=1.9, at_most=2.1)
    run.falsifier("one-sided differences", exponents("tanh, one-sided"), breaks=ORDER)
    best = np.log10(steps[error["tanh"].argmin(axis=1)])
    rule = {"at_least": np.log10(6e-7), "at_most": np.log10(6e-5), "quick": False}
    run.claim(LEAST, best, **rule, rtol=None)  # of two good steps, the last bits choose
    layer, kink = ReLU(), np.array([-1e-6, 1e-6])
    slope = np.diff(layer.forward(kink)[0]).item() / 2e-6
    run.metric("numeric slope of ReLU at its kink", slope)
    title = "How small should the step of a gradient check be?"
    with run.figure("step", title, size=(8.4, 4.8)) as ax:
        ax.plot(steps, error["ReLU"].T, color=plots.GREEN, lw=0.6, alpha=0.45)
        colors = (plots.BLUE, plots.ORANGE, plots.GREEN, plots.PINK, plots.REFERENCE)
        labels = {"xlabel": "step h", "ylabel": "relative error of the numeric gradient"}
        labels |= {"xscale": "log", "yscale": "log", "ylim": (3e-12, 3)}
        plots.curves(ax, steps, middle, colors=colors, **labels)


def loss_at(net: Graph, layer: Linear, move: np.ndarray, x, y, dtype) -> float:
    """The loss with the layer's weights moved, in the given precision."""
    kept = [p.value for p in net.parameters]
    layer.W.value = layer.W.value + move
    for p in net.parameters:
        p.value = p.value.astype(dtype)
    loss = cross_entropy(net.forward(x.astype(dtype))[0], y)[0]
    for p, value in zip(net.parameters, kept, strict=True):
        p.value = value
    return loss


def third_derivative(net: Graph, layer: Linear, u: np.ndarray, x, y) -> float:
    """d³L/dt³ of the loss along u, by torch, three times differentiated."""
    tensors = {id(p): torch.tensor(p.value) for p in net.parameters}
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    tensors[id(layer.W)] = tensors[id(layer.W)] + t * torch.from_numpy(u)
    value = F.cross_entropy(in_torch(net, tensors)(torch.from_numpy(x)), torch.from_numpy(y))
    for _ in range(3):
        (value,) = torch.autograd.grad(value, t, create_graph=True)
    return value.item()


# ---- without the sum


class OverwritingGraph(Graph):
    """The mistake, for display: the last reader's gradient replaces what others sent."""

    def backward(self, dy, caches):
        """As in `Graph`, with = in place of +=."""
        grads = [None] * len(self.nodes) + [dy]
        for i in range(len(self.nodes), 0, -1):
            layer, sources = self.nodes[i - 1]
            found = layer.backward(grads[i], caches[i - 1])
            found = found if isinstance(found, tuple) else (found,)
            for source, grad in zip(sources, found, strict=True):
                grads[source] = grad
        return grads[0]


def digits_network(
    rng: np.random.Generator, blocks: int, kind: type[Graph] = Graph, width: int = 32
) -> Graph:
    """Linear, residual blocks of tanh(W x + b), linear; `kind` of the blocks' graph."""
    layers: list[Layer] = [random_linear(64, width, rng)]
    for _ in range(blocks):
        block = chain(random_linear(width, width, rng), Tanh())
        for p in block.parameters:
            p.value *= 0.5  # so that twelve blocks add up to moderate sizes
        layers.append(kind([(block, (0,)), (Add(), (0, 1))]))
    return chain(*layers, random_linear(width, 10, rng))


def show_overwriting(run: Run, seeds: int, steps: int) -> None:
    """Twelve residual blocks on digits: the right sum, the overwritten one, stale gradients."""
    (X, labels), blocks, lr = digits(), 12, 0.05
    names = ("right", "overwritten", "never cleared", "labels shuffled")
    losses = {name: np.empty((seeds, steps)) for name in names}
    norms = {name: np.empty((seeds, blocks)) for name in names}
    right = {name: np.empty(seeds) for name in names}
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 5, seed]).permutation(len(X))
        train, test = order[:1300], order[1300:]
        for name in names:
            rng = np.random.default_rng([run.seed, 6, seed])
            net = digits_network(rng, blocks, OverwritingGraph if "over" in name else Graph)
            y = labels.copy()
            if name == "labels shuffled":
                y[train] = rng.permutation(y[train])
            rng = np.random.default_rng([run.seed, 7, seed])
            for step in range(steps):
                rows = rng.choice(train, 50, replace=False)
                old = [p.grad.copy() for p in net.parameters]
                losses[name][seed, step] = backpropagate(net, X[rows], y[rows])
                if step == 0:
                    norms[name][seed] = [np.linalg.norm(p.grad) for p in net.parameters[2:-2:2]]
                for p, before in zip(net.parameters, old, strict=True):
                    if name == "never cleared":
                        p.grad += before
                    p.value -= lr * p.grad
            guess = net.forward(X[test])[0].argmax(axis=1)
            right[name][seed] = 100 * np.mean(guess == labels[test])
    for name in names[:3]:
        run.metric(f"test accuracy, {name}", right[name].mean(), "%")
    shrink = norms["overwritten"][:, 0] / norms["right"][:, 0]
    run.metric("residual blocks", blocks)
    run.metric("gradient of the first block, overwritten over right", np.mean(shrink))
    tail = max(steps // 10, 2)
    last = {name: rows[:, -tail:].mean(axis=1) for name, rows in losses.items()}
    note = "last tenth of the steps, overwritten minus right"
    gap = last["overwritten"] - last["right"]
    run.claim(COSTS, gap, at_least=0, unit="nats", note=note, quick=False)
    below = {
        name: (np.log(10) - last[name]) / rows[:, -tail:].std(axis=1)
        for name, rows in losses.items()
    }
    seen = "counted from the first steps, shuffled labels fall by 8 ± 5 times their noise too"
    run.claim(TRAINS, below["right"], at_least=5, quick=False, seen_before=seen)
    run.falsifier("shuffled labels", below["labels shuffled"], breaks=TRAINS)
    rule = {"at_most": 25, "unit": "%", "note": "guessing: 10 %", "quick": False}
    run.claim(NOTHING, right["labels shuffled"], **rule)
    run.falsifier("true labels", right["right"], breaks=NOTHING)
    title = "What if gradients that meet overwrite each other? Twelve residual blocks"
    with run.figure("overwriting", title, columns=2, size=(9.6, 4.2)) as (left, right_axes):
        wide = max(steps // 25, 1)
        kernel = np.ones(wide) / wide
        smooth = {
            name: np.minimum([np.convolve(row, kernel, "valid") for row in rows], 20)
            for name, rows in losses.items()
        }
        x = np.arange(len(smooth["right"][0])) + (wide + 1) / 2
        axes = {"xlabel": "steps", "ylabel": "training loss, nats (cut at 20)", "yscale": "log"}
        plots.curves(left, x, smooth, **axes, reference={"guessing: ln 10": np.log(10)})
        axes = {"xlabel": "block, from the input", "ylabel": "gradient of its weights, first step"}
        lines = {name: norms[name] for name in names[:2]}
        plots.curves(right_axes, np.arange(1, blocks + 1), lines, ends=False, yscale="log", **axes)
