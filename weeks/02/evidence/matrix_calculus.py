"""Checks, claims and figures of matrix_calculus."""

import math

import numpy as np

from shared import plots
from shared.stats import mean_interval
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
    softmax_jacobian,
)


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
    import torch
    import torch.nn.functional as F

    rng, d, k = run.rng, 6, 4
    X, W, b, gain = rng.normal(size=(n, d)), rng.normal(size=(k, d)), *rng.normal(size=(2, d))
    c, Z = rng.normal(size=k), 3.0 * rng.normal(size=(n, k))
    Q, K, V = rng.normal(size=(n, d)), rng.normal(size=(n + 2, d)), rng.normal(size=(n + 2, k))
    targets = rng.integers(k, size=n)
    mask = np.tri(n, n + 2, 1, dtype=bool)
    allowed = torch.from_numpy(mask)

    def attend(Q, K, V):
        return F.scaled_dot_product_attention(Q, K, V, attn_mask=allowed)

    def batch(X, gain, bias):
        return F.batch_norm(X, None, None, gain, bias, training=True)

    P = attention(Q, K, V, mask)[1]
    cases = {
        "linear": (F.linear, linear(X, W, c), (X, W, c), lambda dY: linear_backward(dY, X, W)),
        "softmax": (
            lambda Z: F.softmax(Z, dim=-1), softmax(Z), (Z,),
            lambda dY: (softmax_backward(dY, softmax(Z)),),
        ),
        "cross-entropy": (
            lambda Z: F.cross_entropy(Z, torch.from_numpy(targets)),
            np.array(cross_entropy(Z, targets)), (Z,),
            lambda dY: (dY * cross_entropy_backward(Z, targets),),
        ),
        "layer norm": (
            lambda X, gain, bias: F.layer_norm(X, (d,), gain, bias), layer_norm(X, gain, b),
            (X, gain, b), lambda dY: layer_norm_backward(dY, X, gain),
        ),
        "batch norm": (
            batch, batch_norm(X, gain, b), (X, gain, b),
            lambda dY: batch_norm_backward(dY, X, gain),
        ),
        "attention": (
            attend, attention(Q, K, V, mask)[0], (Q, K, V),
            lambda dY: attention_backward(dY, Q, K, V, P),
        ),
    }  # fmt: skip
    for name, (theirs, output, inputs, backward) in cases.items():
        leaves = [torch.from_numpy(x).clone().requires_grad_() for x in inputs]
        expected = theirs(*leaves)
        dY = rng.normal(size=expected.shape)
        gradients = torch.autograd.grad(expected, leaves, torch.as_tensor(dY))
        options = {"atol": 1e-9, "why": "float64 rounding; a wrong term would be of order 1"}
        run.check(f"{name}, output", output, expected, against="torch.nn.functional", **options)
        run.check(
            f"{name}, gradients", np.concatenate([np.ravel(g) for g in backward(dY)]),
            torch.cat([g.flatten() for g in gradients]), against="torch.autograd", **options,
        )  # fmt: skip
    z = Z[0]
    run.check("softmax, full Jacobian", softmax_jacobian(z),
              torch.func.jacrev(lambda z: z.softmax(0))(torch.from_numpy(z)),
              against="torch.func.jacrev", atol=1e-9, why="float64 rounding")  # fmt: skip


def _jacobian(backward, shape: tuple[int, int]) -> np.ndarray:
    """Rows of a layer's Jacobian, one unit of the output at a time."""
    units = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.array([backward(unit).ravel() for unit in units])


def _show_jacobians(run: Run) -> None:
    n, d = 4, 5
    X, W, gain = run.rng.normal(size=(n, d)), run.rng.normal(size=(d, d)), np.ones(d)
    P = attention(X, X, X)[1]
    found = {
        "linear": _jacobian(lambda dY: linear_backward(dY, X, W)[0], (n, d)),
        "softmax": _jacobian(lambda dY: softmax_backward(dY, softmax(X)), (n, d)),
        "layer norm": _jacobian(lambda dY: layer_norm_backward(dY, X, gain)[0], (n, d)),
        "batch norm": _jacobian(lambda dY: batch_norm_backward(dY, X, gain)[0], (n, d)),
        "self-attention": _jacobian(lambda dY: sum(attention_backward(dY, X, X, X, P)), (n, d)),
        "softmax, diagonal only": _jacobian(
            lambda dY: softmax_backward_diagonal(dY, softmax(X)), (n, d)
        ),
    }
    title = "Which outputs does each input reach?"
    with run.figure("jacobians", title, rows=2, columns=3, size=(8.3, 6.1)) as axes:
        for ax, (name, J) in zip(axes.flat, found.items(), strict=True):
            top = np.abs(J).max()
            ax.imshow(J, cmap="RdBu", vmin=-top, vmax=top)
            for edge in range(d, n * d, d):
                ax.axhline(edge - 0.5, color="#BBBBBB", linewidth=0.8)
                ax.axvline(edge - 0.5, color="#BBBBBB", linewidth=0.8)
            middle = np.arange(n) * d + d / 2 - 0.5
            ax.set_xticks(middle, [f"{i + 1}" for i in range(n)])
            ax.set_yticks(middle, [f"{i + 1}" for i in range(n)])
            ax.tick_params(length=0)
            ax.grid(visible=False)
            ax.set_title(name, fontsize=11, weight="normal",
                         color=plots.ORANGE if "diagonal" in name else "black")  # fmt: skip
            ax.set_xlabel("input: example", fontsize=9.5)
            if ax in axes[:, 0]:
                ax.set_ylabel("output: example", fontsize=9.5)

    def between(J: np.ndarray) -> float:
        """Share of the Jacobian's squares that couples one example with another."""
        blocks = J.reshape(n, d, n, d).transpose(0, 2, 1, 3) ** 2
        return float(1.0 - sum(blocks[i, i].sum() for i in range(n)) / blocks.sum())

    share = {name: between(J) for name, J in found.items()}
    run.claim(
        "only batch norm and attention couple one row with another",
        all((share[name] > 0.01) == (name in ("batch norm", "self-attention")) for name in share),
        ", ".join(f"{name} {value:.2f}" for name, value in share.items()),
    )
    flat = max(
        np.abs(found[name].reshape(n, d, n, d).sum(axis=axis)).max()
        for name, axis in (("softmax", 3), ("layer norm", 3), ("batch norm", 2))
    )
    run.check("a shift of all inputs changes nothing", flat, 0.0,
              against="theory: softmax and both norms are invariant to it", atol=1e-12,
              why="float64 rounding")  # fmt: skip


def _train(seed: int, steps: int, softmax_gradient, *, shuffled: bool = False):
    """Softmax regression on digits, full batch; losses (train) and accuracy (held out)."""
    from sklearn.datasets import load_digits

    data, labels = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    X, y = data[order] / 16.0, labels[order]
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
        _, dW, db = linear_backward(softmax_gradient(dP, P), X, W)
        W, b = W - 0.5 * dW, b - 0.5 * db
    accuracy = float((linear(X_test, W, b).argmax(axis=1) == y_test).mean())
    return losses, accuracy


def _show_diagonal(run: Run, seeds: int, steps: int) -> None:
    """Train with the full Jacobian, with its diagonal only, and on labels without signal."""
    settings = {
        "full Jacobian": (softmax_backward, {}, plots.BLUE),
        "diagonal only": (softmax_backward_diagonal, {}, plots.ORANGE),
        "labels shuffled": (softmax_backward, {"shuffled": True}, plots.GRAY),
    }
    curves, accuracy = {}, {}
    for name, (gradient, options, _) in settings.items():
        runs = [_train(run.seed + s, steps, gradient, **options) for s in range(seeds)]
        curves[name], accuracy[name] = [r[0] for r in runs], [r[1] for r in runs]
        run.metric(f"accuracy, {name}", np.mean(accuracy[name]), rtol=None)
        run.metric(f"last loss, {name}", np.mean([c[-1] for c in curves[name]]), rtol=0.05)
    title = "Does a model learn with only the diagonal of the softmax's Jacobian?"
    with run.figure("diagonal", title, size=(8.0, 4.2)) as ax:
        for name, (_, _, color) in settings.items():
            plots.interval_band(ax, np.arange(1, steps + 1), curves[name], color=color, label=name)
        ax.axhline(math.log(10), color=plots.REFERENCE, linestyle="--", linewidth=1.2)
        ax.text(1.1, math.log(10) + 0.03, "guessing: ln 10", color=plots.REFERENCE)
        ax.set(xlabel="step", ylabel="cross-entropy in nats", xscale="log", xlim=(1, steps))
        plots.label_lines(ax)
    full, diagonal, control = accuracy.values()
    run.claim(
        "with the diagonal only, the model learns worse in every seed",
        min(full) > max(diagonal)
        and min(c[-1] for c in curves["diagonal only"])
        > max(c[-1] for c in curves["full Jacobian"]),
        f"{seeds} seeds, {steps} steps: accuracy {min(full):.3f} to {max(full):.3f} full, "
        f"{min(diagonal):.3f} to {max(diagonal):.3f} diagonal",
        quick=False,
    )
    chance = mean_interval(control)
    run.claim(
        "shuffled labels cannot be learned",
        chance.low < 0.15 and max(control) < min(diagonal) / 2,
        f"mean accuracy {chance.mean:.3f} [{chance.low:.3f}, {chance.high:.3f}], chance is 0.1; "
        "rule: the interval reaches below 0.15, and no run half of what the others get",
    )
