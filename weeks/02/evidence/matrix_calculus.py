"""What `matrix_calculus.py` is measured by: torch, invariances, and a training run gone wrong."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week02.matrix_calculus import (
    attention,
    attention_backward,
    batch_norm,
    batch_norm_backward,
    cross_entropy,
    cross_entropy_backward,
    layer_norm,
    layer_norm_backward,
    linear,
    linear_backward,
    softmax,
    softmax_backward,
    softmax_backward_diagonal,
)

CHANCE = "shuffled labels cannot be learned"


def main(run: Run, *, n: PositiveInt = 7, seeds: PositiveInt = 5) -> None:
    """Check every gradient against torch.autograd, look at the Jacobians, and break one.

    Parameters
    ----------
    n
        Examples in the checks.
    seeds
        Initial weights in the training runs.
    """
    _check_layers(run, n)
    _show_jacobians(run)
    _show_diagonal(run, seeds, run.budget(quick=40, default=200))


def _check_layers(run: Run, n: int) -> None:
    """Output and gradients of every layer against torch's."""
    rng, d, k = run.rng, 6, 4
    X, W, b, gain = rng.normal(size=(n, d)), rng.normal(size=(k, d)), *rng.normal(size=(2, d))
    c, Z = rng.normal(size=k), 3.0 * rng.normal(size=(n, k))
    Q, K, V = rng.normal(size=(n, d)), rng.normal(size=(n + 2, d)), rng.normal(size=(n + 2, k))
    targets = rng.integers(k, size=n)
    mask = np.tri(n, n + 2, 1, dtype=bool)
    why = "float64 rounding; a wrong term would be of order 1"
    output = run.against("torch.nn.functional", atol=1e-9, why=why)
    gradients = run.against("torch.autograd", atol=1e-9, why=why)

    def layer(name, theirs, inputs, ours, backward) -> None:
        leaves = [torch.from_numpy(x).clone().requires_grad_() for x in inputs]
        expected = theirs(*leaves)
        dY = rng.normal(size=expected.shape)
        found = torch.autograd.grad(expected, leaves, torch.as_tensor(dY))
        output(f"{name}, output", ours, expected)
        flat = np.concatenate([np.ravel(g) for g in backward(dY)])
        gradients(f"{name}, gradients", flat, torch.cat([g.flatten() for g in found]))

    layer("linear", F.linear, (X, W, c), linear(X, W, c), lambda dY: linear_backward(dY, X, W))

    def softmax_gradients(dY):
        return [softmax_backward(dY, softmax(Z))]

    layer("softmax", lambda Z: Z.softmax(-1), (Z,), softmax(Z), softmax_gradients)

    def cross_entropy_gradients(dY):
        return [dY * cross_entropy_backward(Z, targets)]

    loss, labels = np.array(cross_entropy(Z, targets)), torch.from_numpy(targets)
    entropy = (lambda Z: F.cross_entropy(Z, labels)), (Z,), loss, cross_entropy_gradients
    layer("cross-entropy", *entropy)

    def norm_of_rows(X, gain, bias):
        return F.layer_norm(X, (d,), gain, bias)

    def norm_of_columns(X, gain, bias):
        return F.batch_norm(X, None, None, gain, bias, training=True)

    for name, theirs, ours, backward in (
        ("layer norm", norm_of_rows, layer_norm, layer_norm_backward),
        ("batch norm", norm_of_columns, batch_norm, batch_norm_backward),
    ):
        inputs = (X, gain, b)
        layer(name, theirs, inputs, ours(*inputs), lambda dY, f=backward: f(dY, X, gain))

    def attend(Q, K, V):
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=torch.from_numpy(mask))

    Y, P = attention(Q, K, V, mask)
    layer("attention", attend, (Q, K, V), Y, lambda dY: attention_backward(dY, Q, K, V, P))


def _jacobian(backward, shape: tuple[int, int]) -> np.ndarray:
    """Rows of a layer's Jacobian, one unit of the output at a time."""
    units = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.array([backward(unit).ravel() for unit in units])


def _show_jacobians(run: Run) -> None:
    n, d = 4, 5
    X, W, gain = run.rng.normal(size=(n, d)), run.rng.normal(size=(d, d)), np.ones(d)
    P, P_X = attention(X, X, X)[1], softmax(X)
    found = {
        "linear": _jacobian(lambda dY: linear_backward(dY, X, W)[0], (n, d)),
        "softmax": _jacobian(lambda dY: softmax_backward(dY, P_X), (n, d)),
        "layer norm": _jacobian(lambda dY: layer_norm_backward(dY, X, gain)[0], (n, d)),
        "batch norm": _jacobian(lambda dY: batch_norm_backward(dY, X, gain)[0], (n, d)),
        "self-attention": _jacobian(lambda dY: sum(attention_backward(dY, X, X, X, P)), (n, d)),
        "softmax, diagonal only": _jacobian(lambda dY: softmax_backward_diagonal(dY, P_X), (n, d)),
    }
    title = "Which outputs does each input reach?"
    with run.figure("jacobians", title, rows=2, columns=3, size=(8.3, 6.1)) as axes:
        for ax, (name, J) in zip(axes.flat, found.items(), strict=True):
            top = np.abs(J).max()
            ax.imshow(J, cmap="RdBu", vmin=-top, vmax=top)
            edges = np.arange(n) * d - 0.5  # where the next example begins
            ax.set_xticks(edges, range(1, n + 1))
            ax.set_yticks(edges, range(1, n + 1))
            ax.set_title(name, fontsize=11)
        for ax in axes[:, 0]:
            ax.set_ylabel("output: example")
        for ax in axes[1]:
            ax.set_xlabel("input: example")

    def between(J: np.ndarray) -> float:
        """Share of the Jacobian's squares that couples one example with another."""
        blocks = J.reshape(n, d, n, d).transpose(0, 2, 1, 3) ** 2
        return float(1.0 - sum(blocks[i, i].sum() for i in range(n)) / blocks.sum())

    coupling = ("batch norm", "self-attention")
    apart = [between(J) for name, J in found.items() if name not in coupling]
    rule = {"each": True, "note": "share of the Jacobian's squares between rows"}
    name = "linear, softmax and layer norm couple no row with another"
    run.claim(name, apart, at_most=0.01, **rule)
    together = [between(found[name]) for name in coupling]
    run.falsifier("batch norm and attention", together, breaks=name)
    shifts = (("softmax", 3), ("layer norm", 3), ("batch norm", 2))
    flat = [found[name].reshape(n, d, n, d).sum(axis=axis) for name, axis in shifts]
    source = "invariance of softmax and both norms to it"
    zero = run.against(source, kind="theorem", atol=1e-12, why="float64 rounding")
    name = "a shift before softmax, layer norm or batch norm changes nothing"
    zero(name, [np.abs(J).max() for J in flat], np.zeros(3))


def _train(data: datasets.Digits, seed: int, steps: int, gradient, *, shuffled: bool = False):
    """Softmax regression on digits, full batch; losses (train) and accuracy (held out)."""
    images, labels = data
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(labels))
    X, y = images.reshape(-1, 64)[order] / 16.0, labels[order]
    X, X_test, y, y_test = X[:600], X[600:], y[:600], y[600:]
    if shuffled:
        y = rng.permutation(y)
    W, b, losses = rng.normal(size=(10, 64)) * 0.01, np.zeros(10), []
    for _ in range(steps):
        Z = linear(X, W, b)
        losses.append(cross_entropy(Z, y))
        P = softmax(Z)
        dP = np.zeros_like(P)
        picked = np.arange(len(y)), y
        dP[picked] = -1.0 / (len(y) * np.maximum(P[picked], 1e-12))
        _, dW, db = linear_backward(gradient(dP, P), X, W)
        W, b = W - 0.5 * dW, b - 0.5 * db
    accuracy = float((linear(X_test, W, b).argmax(axis=1) == y_test).mean())
    return losses, accuracy


def _show_diagonal(run: Run, seeds: int, steps: int) -> None:
    """Train with the full Jacobian, with its diagonal only, and on labels without signal."""
    settings = {
        "full Jacobian": (softmax_backward, False),
        "diagonal only": (softmax_backward_diagonal, False),
        "labels shuffled": (softmax_backward, True),
    }
    data, losses, accuracy = datasets.digits(), {}, {}
    for name, (gradient, shuffled) in settings.items():
        options = {"shuffled": shuffled}
        runs = [_train(data, run.seed + s, steps, gradient, **options) for s in range(seeds)]
        losses[name] = np.array([r[0] for r in runs])
        accuracy[name] = np.array([r[1] for r in runs])
    full, diagonal, control = accuracy.values()
    run.metric("seeds", seeds)
    run.metric("accuracy, full Jacobian", full.mean())
    run.metric("accuracy, diagonal only", diagonal.mean())
    rule = {"at_least": 0, "quick": False, "note": f"{steps} steps, pairs of the same seed"}
    run.claim("with the diagonal only the model learns worse", full - diagonal, **rule)
    excess = losses["diagonal only"][:, -1] - losses["full Jacobian"][:, -1]
    run.claim("with the diagonal only the loss stays higher", excess, unit="nats", **rule)
    run.claim(CHANCE, control, at_most=0.15, note="accuracy; chance is 0.1")
    run.falsifier("the true labels", full, breaks=CHANCE)
    title = "Does a model learn with only the diagonal of the softmax's Jacobian?"
    with run.figure("diagonal", title, size=(8.0, 4.2)) as ax:
        x, colors = np.arange(1, steps + 1), (plots.BLUE, plots.ORANGE, plots.GRAY)
        plots.curves(ax, x, losses, colors=colors, xscale="log", xlim=(1, steps))
        plots.reference_line(ax, math.log(10), "guessing: ln 10")
        ax.set(xlabel="step", ylabel="cross-entropy in nats")
