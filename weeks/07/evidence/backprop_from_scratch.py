"""Checks, claims and figures of `backprop_from_scratch.py`, apart so that it can be read alone."""

import numpy as np
import torch
import torch.nn.functional as F

from shared import datasets, plots
from shared.stats import mean_interval
from shared.study import PositiveInt, Run
from week07.backprop_from_scratch import (
    Graph,
    chain,
    cross_entropy,
    gradient_check,
    residual,
    squared_error,
)
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

# ---- the same thing in torch


def in_torch(layer: Layer, tensors: dict[int, torch.Tensor]):
    """A function of tensors that computes what `layer` does, with its parameters in `tensors`.

    `tensors` maps the id of a parameter to a leaf, so that a shared parameter is one leaf.
    """
    p = [
        tensors.setdefault(id(q), torch.tensor(q.value, requires_grad=True))
        for q in layer.parameters
    ]
    if isinstance(layer, Graph):
        inner = [(in_torch(node, tensors), sources) for node, sources in layer.nodes]

        def run_graph(x):
            values = [x]
            for f, sources in inner:
                values.append(f(*(values[s] for s in sources)))
            return values[-1]

        return run_graph
    simple = {
        Sigmoid: torch.sigmoid,
        Tanh: torch.tanh,
        ReLU: torch.relu,
        Add: torch.add,
        Multiply: torch.mul,
    }
    if type(layer) in simple:
        return simple[type(layer)]
    return {
        Linear: lambda x: F.linear(x, p[0].T, p[1]),
        LayerNorm: lambda x: F.layer_norm(x, x.shape[-1:], p[0], p[1], layer.eps),
        Embedding: lambda ids: F.embedding(ids, p[0]),
        Conv1d: lambda x: F.conv1d(x, p[0], p[1]),
    }[type(layer)]


def both_gradients(layer: Layer, inputs: tuple, rng: np.random.Generator):
    """Outputs, input gradients and parameter gradients, ours and torch's, each as one row."""
    leaves = [torch.tensor(x, requires_grad=x.dtype.kind == "f") for x in inputs]
    tensors: dict[int, torch.Tensor] = {}
    theirs = in_torch(layer, tensors)(*leaves)
    y, cache = layer.forward(*inputs)
    dy = rng.normal(size=y.shape)
    for p in layer.parameters:
        p.grad[...] = 0
    found = layer.backward(dy, cache)
    found = found if isinstance(found, tuple) else (found,)
    ours = [g for g in found if g is not None] + [p.grad for p in layer.parameters]
    theirs.backward(torch.from_numpy(dy))
    reference = [leaf for leaf in leaves if leaf.requires_grad]
    reference += [tensors[id(p)] for p in layer.parameters]

    def row(arrays):
        return np.concatenate([np.ravel(a) for a in arrays])

    zero = [t.grad if t.grad is not None else torch.zeros_like(t) for t in reference]
    return y, theirs.detach().numpy(), row(ours), row([t.numpy() for t in zero])


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
    """Each layer, the two losses, and the sums of shared weights, against torch."""
    rng = run.rng
    x = rng.normal(size=(4, 6))
    table = Embedding(rng.normal(size=(5, 3)))
    shared = random_linear(6, 6, rng)
    cases = {
        "linear": (random_linear(6, 3, rng), (x,)),
        "sigmoid": (Sigmoid(), (10 * x,)),
        "tanh": (Tanh(), (x,)),
        "ReLU": (ReLU(), (x,)),
        "layer norm": (LayerNorm(rng.normal(size=6), rng.normal(size=6)), (x,)),
        "embedding, indices repeated": (table, (np.array([[0, 3, 3], [3, 1, 0]]),)),
        "1-D convolution": (
            Conv1d(rng.normal(size=(3, 2, 4)), rng.normal(size=3)),
            (rng.normal(size=(2, 2, 9)),),
        ),
        "product of two inputs": (Multiply(), (x, rng.normal(size=(4, 6)))),
        "residual connection": (residual(chain(random_linear(6, 6, rng), Tanh())), (x,)),
        "one layer used three times": (chain(shared, Tanh(), shared, Tanh(), shared), (x,)),
    }
    why = "float64 rounding; a wrong term would be of order 1"
    for name, (layer, inputs) in cases.items():
        y, expected, ours, theirs = both_gradients(layer, inputs, rng)
        run.check(f"{name}, output", y, expected, against="torch", atol=1e-10, why=why)
        run.check(f"{name}, gradients", ours, theirs, against="torch.autograd", atol=1e-10, why=why)
    Z, labels, target = (
        30 * rng.normal(size=(7, 5)),
        rng.integers(5, size=7),
        rng.normal(size=(7, 5)),
    )
    leaf = torch.tensor(Z, requires_grad=True)
    for name, (ours, gradient), theirs in (
        (
            "cross-entropy",
            cross_entropy(Z, labels),
            F.cross_entropy(leaf, torch.from_numpy(labels)),
        ),
        ("squared error", squared_error(Z, target), F.mse_loss(leaf, torch.from_numpy(target))),
    ):
        (expected,) = torch.autograd.grad(theirs, leaf)
        run.check(
            f"{name}, loss and gradient",
            np.append(gradient.ravel(), ours),
            np.append(expected.numpy().ravel(), theirs.item()),
            against="torch.autograd",
            rtol=1e-10,
            atol=1e-10,
            why=why,
        )


def check_compositions(run: Run, compositions: int) -> None:
    """Random graphs with fan-out and shared layers, and one of them by finite differences."""
    ours, theirs = [], []
    for i in range(compositions):
        rng = np.random.default_rng([run.seed, 1, i])
        _, _, found, expected = both_gradients(random_network(rng), (rng.normal(size=(3, 5)),), rng)
        size = np.abs(expected).max() + 1
        ours.append(found / size)
        theirs.append(expected / size)
    run.check(
        f"{compositions} random graphs, gradients / largest",
        np.concatenate(ours),
        np.concatenate(theirs),
        against="torch.autograd",
        atol=1e-10,
        why="float64 rounding through up to 20 layers",
    )
    rng = np.random.default_rng([run.seed, 2])
    net = chain(
        random_linear(6, 8, rng),
        Tanh(),
        residual(chain(random_linear(8, 8, rng), Tanh())),
        random_linear(8, 3, rng),
    )
    x, y = rng.normal(size=(10, 6)), rng.integers(3, size=10)
    dx = backpropagate(net, x, y)[1]
    pairs = [(p.value, p.grad) for p in net.parameters] + [(x, dx)]
    error = gradient_check(lambda: cross_entropy(net.forward(x)[0], y)[0], pairs)
    run.check(
        "gradient check of a small network, relative error",
        error,
        0.0,
        atol=1e-8,
        against="central differences of step 6e-6",
        why="step² and ε/step are 1e-10, over the size of the gradients",
    )


def backpropagate(net: Graph, x: np.ndarray, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Loss, and the gradient of x; those of the parameters are in them, and only this batch's."""
    for p in net.parameters:
        p.grad[...] = 0
    Z, cache = net.forward(x)
    loss, dZ = cross_entropy(Z, y)
    return loss, net.backward(dZ, cache)


def check_steps(run: Run) -> None:
    """Fifty steps of gradient descent on digits, in torch too."""
    images, labels = datasets.digits()
    X, steps, lr = images.reshape(len(images), -1) / 16, 50, 0.3
    rng = np.random.default_rng([run.seed, 3])
    net = digits_network(rng, blocks=3)
    tensors: dict[int, torch.Tensor] = {}
    theirs = in_torch(net, tensors)
    sgd = torch.optim.SGD([tensors[id(p)] for p in net.parameters], lr=lr)
    losses, reference = [], []
    for step in range(steps):
        rows = slice(30 * step, 30 * step + 30)
        losses.append(backpropagate(net, X[rows], labels[rows])[0])
        for p in net.parameters:
            p.value -= lr * p.grad
        loss = F.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(labels[rows]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        reference.append(loss.item())
    run.check(
        "losses of fifty steps",
        np.array(losses),
        np.array(reference),
        atol=1e-10,
        against="torch.autograd + torch.optim.SGD",
        why="float64 rounding, 50 steps",
    )


# ---- how small a step?


def show_step_sizes(run: Run) -> None:
    """Error of the numeric gradient along a direction, against its step: theory, dtype, kinks."""
    steps = np.logspace(-14, 0, run.budget(quick=29, default=113))
    trials = run.budget(quick=5, default=25)
    found = {name: np.empty((trials, len(steps))) for name in ("tanh", "tanh32", "ReLU")}
    theory = np.empty((trials, len(steps)))
    for t in range(trials):
        rng = np.random.default_rng([run.seed, 4, t])
        x, y = rng.normal(size=(8, 10)), rng.integers(4, size=8)
        first, last = random_linear(10, 24, rng), random_linear(24, 4, rng)
        u = rng.normal(size=first.W.value.shape)
        u /= np.linalg.norm(u)
        for name in found:
            net = chain(first, ReLU() if name == "ReLU" else Tanh(), last)
            backpropagate(net, x, y)
            slope = (first.W.grad * u).sum()
            dtype = np.float32 if name == "tanh32" else np.float64
            for i, h in enumerate(steps):
                above, below = (_loss_at(net, first, s * h * u, x, y, dtype) for s in (1, -1))
                numeric = (float(above) - float(below)) / (2 * h)
                found[name][t, i] = abs(numeric - slope) / abs(slope)
            if name == "tanh":
                third = abs(_third_derivative(net, first, u, x, y))
                loss = cross_entropy(net.forward(x)[0], y)[0]
                eps = np.finfo(float).eps
                theory[t] = (third * steps**2 / 6 + eps * loss / steps) / abs(slope)
    middle = {name: np.median(np.maximum(e, 1e-17), axis=0) for name, e in found.items()}
    expected = np.median(theory, axis=0)
    best = steps[middle["tanh"].argmin()]
    title = "How small should the step of a gradient check be?"
    with run.figure("step", title, size=(8.4, 4.8)) as ax:
        colors = {"tanh": plots.BLUE, "tanh32": plots.ORANGE, "ReLU": plots.GREEN}
        labels = {"tanh": "tanh", "tanh32": "tanh, float32", "ReLU": "ReLU (thin: each)"}
        for name, color in colors.items():
            # float32 and the kinks are of interest where float64's rounding does not rule
            shown = slice(None) if name == "tanh" else steps > (1e-7 if name == "tanh32" else 1e-6)
            ax.loglog(steps[shown], middle[name][shown], color=color, label=labels[name])
        ax.loglog(steps, expected, color=plots.REFERENCE, ls="--", lw=1.3)
        ax.text(2e-13, 7e-6, "theory: $\\varepsilon |L| / h$", color=plots.REFERENCE, rotation=0)
        ax.text(0.9, 3e-10, "theory: $|L'''| h^2 / 6$", color=plots.REFERENCE, ha="right")
        jumps = np.maximum(found["ReLU"], 1e-17)[:, steps > 1e-6].T
        ax.loglog(steps[steps > 1e-6], jumps, color=plots.GREEN, lw=0.6, alpha=0.45)
        ax.axvline(6e-6, color=plots.GRAY, lw=1, ls=":")
        ax.text(4.5e-6, 5e-12, "∛ε", color="#666666", ha="right", va="center")
        ax.axhspan(1e-2, 3, color="#F6E9E2", zorder=0, lw=0)
        ax.text(3e-11, 0.3, "where a bug would be", color="#9A5A3C", fontsize=9.5, va="center")
        ax.set(xlabel="step h", ylabel="relative error of the numeric gradient", ylim=(3e-12, 3))
        plots.label_lines(ax)
    fit = (steps > 1e-4) & (steps < 1e-2)
    order = float(np.polyfit(np.log(steps[fit]), np.log(middle["tanh"][fit]), 1)[0])
    ratio = np.median(middle["tanh"][fit] / expected[fit])
    at = int(np.abs(np.log(steps / 1e-3)).argmin())
    run.metric("best step, tanh", best, rtol=None)
    run.metric("error at the best step, tanh", middle["tanh"].min(), rtol=None)
    run.metric("error at the best step, tanh in float32", middle["tanh32"].min(), rtol=None)
    run.metric("order of the truncation error", order, rtol=0.05)
    run.metric("error at step 0.001, tanh", middle["tanh"][at], rtol=0.5)
    run.metric("error at step 0.001, ReLU", middle["ReLU"][at], rtol=None)
    run.check(
        "truncation error over |L'''| h²/6",
        ratio,
        1.0,
        rtol=0.05,
        against="theory, third derivative by torch",
        why="the next term is of order h²",
    )
    run.claim(
        "the error falls as h² and then rises as 1/h, with its least near ∛ε",
        bool(abs(order - 2) < 0.1 and 6e-7 < best < 6e-5),
        f"order {order:.2f}, least error {middle['tanh'].min():.0e} at h = {best:.0e}, "
        f"∛ε = 6e-06; {trials} networks",
    )
    layer = ReLU()
    kink, gradient = np.zeros(1), layer.backward(np.ones(1), layer.forward(np.zeros(1))[1])
    numeric = float((layer.forward(kink + 1e-6)[0] - layer.forward(kink - 1e-6)[0])[0] / 2e-6)
    run.metric("numeric slope of ReLU at its kink", numeric)
    run.claim(
        "at a kink the two disagree and neither is wrong",
        bool(gradient[0] == 0.0 and abs(numeric - 0.5) < 1e-9),
        f"backward says {gradient[0]:g}, central differences say {numeric:g}",
    )


def _loss_at(net: Graph, layer: Linear, move: np.ndarray, x, y, dtype) -> float:
    """The loss with the layer's weights moved, in the given precision."""
    kept = [p.value for p in net.parameters]
    layer.W.value = layer.W.value + move
    for p in net.parameters:
        p.value = p.value.astype(dtype)
    loss = cross_entropy(net.forward(x.astype(dtype))[0], y)[0]
    for p, value in zip(net.parameters, kept, strict=True):
        p.value = value
    return loss


def _third_derivative(net: Graph, layer: Linear, u: np.ndarray, x, y) -> float:
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
    blocks, lr, batch = 12, 0.05, 50
    images, labels = datasets.digits()
    X = images.reshape(len(images), -1) / 16
    names = ("right", "overwritten", "never cleared", "labels shuffled")
    losses = {name: np.empty((seeds, steps)) for name in names}
    accuracy = {name: [] for name in names}
    norms = {name: np.empty((seeds, blocks)) for name in names[:2]}
    for seed in range(seeds):
        order = np.random.default_rng([run.seed, 5, seed]).permutation(len(X))
        train, test = order[:1300], order[1300:]
        for name in names:
            rng = np.random.default_rng([run.seed, 6, seed])
            kind = OverwritingGraph if name == "overwritten" else Graph
            net = digits_network(rng, blocks, kind)
            y = labels.copy()
            if name == "labels shuffled":
                y[train] = rng.permutation(y[train])
            rng = np.random.default_rng([run.seed, 7, seed])
            for step in range(steps):
                rows = rng.choice(train, batch, replace=False)
                old = [p.grad.copy() for p in net.parameters]
                losses[name][seed, step] = backpropagate(net, X[rows], y[rows])[0]
                if step == 0 and name in norms:
                    weights = [p.grad for p in net.parameters[2:-2:2]]
                    norms[name][seed] = [np.linalg.norm(g) for g in weights]
                for p, before in zip(net.parameters, old, strict=True):
                    if name == "never cleared":
                        p.grad += before
                    p.value -= lr * p.grad
            guess = net.forward(X[test])[0].argmax(axis=1)
            accuracy[name].append(float(np.mean(guess == labels[test])))
    colors = dict(zip(names, (plots.BLUE, plots.ORANGE, plots.PINK, plots.GRAY), strict=True))
    title = "What if gradients that meet overwrite each other? Twelve residual blocks"
    with run.figure(
        "overwriting", title, columns=2, size=(9.6, 4.2), gridspec_kw={"width_ratios": [1.25, 1]}
    ) as (left, right):
        for name in names:
            wide = max(steps // 25, 1)
            smooth = np.array([np.convolve(r, np.ones(wide) / wide, "valid") for r in losses[name]])
            x = np.arange(smooth.shape[1]) + (wide + 1) / 2
            above = " (above 20)" if smooth[:, -1].mean() > 20 else ""
            label = f"{name}{above}\n{100 * np.mean(accuracy[name]):.0f} % right"
            plots.interval_band(left, x, np.minimum(smooth, 20), color=colors[name], label=label)
        left.axhline(np.log(10), color=plots.REFERENCE, lw=1.2, ls="--", zorder=1)
        left.set(xlabel="steps", ylabel="training loss, nats", yscale="log")
        ticks = [0.2, 0.5, 1, 2, 5, 10, 20]
        left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        left.minorticks_off()
        plots.label_lines(left, gap=0.08, fontsize=9.5)
        for name in norms:
            plots.interval_band(
                right, np.arange(1, blocks + 1), norms[name], color=colors[name], label=name
            )
        right.set(yscale="log", xlabel="block, from the input", xticks=range(2, blocks + 1, 2))
        right.set_ylabel("gradient of its weights, first step")
        right.text(1, norms["right"][:, :3].mean() * 0.35, "right", color=plots.BLUE)
        right.text(
            5.3,
            norms["overwritten"][:, 0].mean() * 2,
            "overwritten: what\nthe skip carried\nis lost",
            color=plots.ORANGE,
        )
    for name in names:
        run.metric(f"test accuracy, {name}", 100 * np.mean(accuracy[name]), "%", rtol=0.2)
    shrink = norms["overwritten"].mean(0)[0] / norms["right"].mean(0)[0]
    run.metric("gradient of the first block, overwritten over right", shrink, rtol=0.5)
    tail = max(steps // 10, 1)
    last = {name: rows[:, -tail:].mean(1) for name, rows in losses.items()}
    gap = mean_interval(last["overwritten"] - last["right"])
    run.claim(
        "overwriting costs: its loss ends higher",
        gap.low > 0,
        f"loss of the last tenth, overwritten minus right: {gap} nats, {seeds} seeds",
        quick=False,
    )
    fall = mean_interval(losses["right"][:, :tail].mean(1) - last["right"])
    noise = float(losses["right"][:, -tail:].std())
    run.claim(
        "the right network trains",
        bool(fall.low > 5 * noise),
        f"its loss falls by {fall} nats, noise {noise:.3f}",
        quick=False,
    )
    control = float(np.mean(accuracy["labels shuffled"]))
    run.claim(
        "control: shuffled labels teach nothing",
        bool(control < 0.25),
        f"{100 * control:.0f} % of new digits right, guessing is 10 %",
    )


def main(run: Run, *, compositions: PositiveInt = 30, seeds: PositiveInt = 5) -> None:
    """Every layer against torch, the tool's own errors, and what happens without the sum.

    Parameters
    ----------
    compositions
        Random networks in the comparison.
    seeds
        Networks trained each way.
    """
    check_layers(run)
    check_compositions(run, run.budget(quick=5, default=compositions))
    check_steps(run)
    show_step_sizes(run)
    seeds = run.budget(quick=2, default=seeds)
    show_overwriting(run, seeds, run.budget(quick=20, default=250))
