"""Checks, claims and figures of numpy_mlp."""

from dataclasses import dataclass

import numpy as np

from shared import datasets, plots
from shared.errors import UserError
from shared.study import PositiveInt, Run
from week03.bayesian_updating import wilson_interval
from week07.numpy_mlp import (
    MLP,
    accuracy,
    forward,
    initialize,
    loss_and_gradients,
    predict_proba,
    train,
)


@dataclass(frozen=True, eq=False)
class Data:
    """Images as rows of numbers between 0 and 1, and what accuracy is asked of them."""

    name: str
    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    side: int
    goal: float


def load(run: Run, n: int) -> Data:
    """The first n training images of MNIST and its test images; without MNIST, the small digits."""
    try:
        mnist = datasets.mnist()
    except UserError:
        run.say("MNIST is not here: the 1797 digits of scikit-learn take its place, goal 90 %")
        images, labels = datasets.digits()
        X = (images.reshape(len(images), -1) / 16).astype(np.float32)
        order = np.random.default_rng(run.seed).permutation(len(X))
        X, y = X[order], labels[order]
        return Data("digits", X[:1297], y[:1297], X[1297:], y[1297:], 8, 0.90)
    m = 10_000 if n >= 60_000 else 2000

    def rows(images):
        return images.reshape(len(images), -1).astype(np.float32) / 255

    return Data(
        "MNIST",
        rows(mnist.train_images[:n]),
        mnist.train_labels[:n].astype(int),
        rows(mnist.test_images[:m]),
        mnist.test_labels[:m].astype(int),
        28,
        0.97,
    )


# ---- checks


def check_against_torch(run: Run, data: Data, steps: int) -> None:
    """The same weights, batches and rates in torch, float64: losses, gradients, weights, steps."""
    import torch
    import torch.nn.functional as F

    hidden, batch, lr = 64, 50, 0.1
    X, y = data.X[: steps * batch].astype(np.float64), data.y[: steps * batch]
    ours = initialize(X.shape[1], hidden, 10, np.random.default_rng(run.seed), "float64")
    theirs = torch.nn.Sequential(
        torch.nn.Linear(X.shape[1], hidden), torch.nn.ReLU(), torch.nn.Linear(hidden, 10)
    ).double()
    with torch.no_grad():
        for p, array in zip(theirs.parameters(), ours.arrays(), strict=True):
            p.copy_(torch.from_numpy(array.T))  # torch keeps weights as (out, in)
    rng = np.random.default_rng([run.seed, 1])
    order = np.random.default_rng([run.seed, 1]).permutation(len(X))

    _, gradients = loss_and_gradients(ours, X[order[:batch]], y[order[:batch]])
    start = F.cross_entropy(
        theirs(torch.from_numpy(X[order[:batch]])), torch.from_numpy(y[order[:batch]])
    )
    expected = torch.autograd.grad(start, list(theirs.parameters()))
    run.check(
        "gradients of the first batch",
        _flat(gradients.arrays()),
        _flat([g.numpy().T for g in expected]),
        against="torch.autograd",
        atol=1e-12,
        why="float64 rounding",
    )

    losses = train(ours, X, y, epochs=1, batch_size=batch, lr=lr, rng=rng)
    sgd = torch.optim.SGD(theirs.parameters(), lr=lr, momentum=0.9)
    decay = torch.optim.lr_scheduler.LinearLR(sgd, 1.0, 0.0, total_iters=len(losses))
    reference = []
    for i in range(0, len(X), batch):
        rows = order[i : i + batch]
        loss = F.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(y[rows]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        decay.step()
        reference.append(loss.item())
    why = f"float64 rounding, carried through {len(losses)} steps"
    run.check(
        "losses step by step",
        np.array(losses),
        np.array(reference),
        atol=1e-10,
        against="torch.nn.Sequential + torch.optim.SGD",
        why=why,
    )
    run.check(
        "weights after the last step",
        _flat(ours.arrays()),
        _flat([p.detach().numpy().T for p in theirs.parameters()]),
        atol=1e-10,
        against="torch.nn.Sequential + torch.optim.SGD",
        why=why,
    )


def _flat(arrays: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([array.ravel() for array in arrays])


# ---- training


def show_training(run: Run, data: Data, hidden: int, epochs: int, batch_size: int) -> None:
    """Three networks, and one whose labels were shuffled; then the errors of the first."""
    seeds = run.budget(quick=1, default=3)
    nets, curves, tests = [], [], []
    for seed in run.progress(range(seeds), "networks"):
        rng = np.random.default_rng([run.seed, 2, seed])
        net, scores = initialize(data.X.shape[1], hidden, 10, rng), []
        losses = train(
            net,
            data.X,
            data.y,
            epochs=epochs,
            batch_size=batch_size,
            rng=rng,
            every_epoch=lambda _, net=net, scores=scores: scores.append(
                accuracy(net, data.X_test, data.y_test)
            ),
        )
        nets.append(net)
        curves.append(losses)
        tests.append(scores)
    rng = np.random.default_rng([run.seed, 3])
    control = initialize(data.X.shape[1], hidden, 10, rng)
    control_losses = train(
        control,
        data.X,
        rng.permutation(data.y),
        epochs=max(1, epochs // 2),
        batch_size=batch_size,
        rng=rng,
    )

    n, final = len(data.X_test), [scores[-1] for scores in tests]
    intervals = [wilson_interval(round(a * n), n) for a in final]
    low, high = wilson_interval(round(accuracy(control, data.X_test, data.y_test) * n), n)
    run.metric("test accuracy", 100 * np.mean(final), "%", rtol=0.005)
    run.metric("training accuracy", 100 * accuracy(nets[0], data.X, data.y), "%", rtol=0.005)
    run.metric("test accuracy, shuffled labels", 100 * (low + high) / 2, "%", rtol=0.3)
    run.metric("parameters", sum(a.size for a in nets[0].arrays()))
    run.claim(
        f"at least {data.goal:.0%} of the test images are right",
        all(interval[0] >= data.goal for interval in intervals),
        f"{data.name}, {seeds} seeds: "
        + "; ".join(
            f"{100 * a:.2f} % [{100 * lo:.2f}, {100 * hi:.2f}]"
            for a, (lo, hi) in zip(final, intervals, strict=True)
        )
        + f", Wilson's 95 % intervals over {n:,} images",
        quick=False,
    )
    tenth = max(len(curves[0]) // 10, 1)
    first, last = np.mean(curves[0][:tenth]), np.mean(curves[0][-tenth:])
    noise = np.std(curves[0][-tenth:])
    run.claim(
        "the loss falls by more than five times its noise",
        bool(first - last > 5 * noise),
        f"{first:.3f} nats in the first tenth of the steps, {last:.4f} ± {noise:.4f} in the last",
        quick=False,
    )
    run.claim(
        "control: with shuffled labels the test images are guessed",
        bool(high < 0.2),
        f"{100 * low:.1f} to {100 * high:.1f} % right, guessing is near 10 %",
    )
    draw_learning(run, data, curves, control_losses, np.array(tests), epochs)
    draw_errors(run, data, nets[0])
    draw_units(run, data, nets[0])


def _smooth(values) -> tuple[np.ndarray, np.ndarray]:
    width = max(len(values) // 60, 1)
    mean = np.convolve(values, np.ones(width) / width, mode="valid")
    return np.arange(len(mean)) + (width - 1) / 2 + 1, mean


def draw_learning(run: Run, data: Data, curves, control, tests: np.ndarray, epochs: int) -> None:
    """Training loss against the control; test accuracy by epoch with its interval."""
    per_epoch, n = len(curves[0]) / epochs, len(data.X_test)
    title = f"{data.name} in NumPy: what is learned, and what is only noise"
    with run.figure("learning", title, columns=2, size=(9.4, 4.0)) as (left, right):
        for losses in curves:
            x, y = _smooth(losses)
            left.plot(x / per_epoch, y, color=plots.BLUE, lw=1.6)
        x, y = _smooth(control)
        left.plot(x / per_epoch, y, color=plots.ORANGE, lw=1.8)
        left.axhline(np.log(10), color=plots.REFERENCE, ls="--", lw=1.2)
        left.text(
            epochs,
            np.log(10) * 0.93,
            "guessing: ln 10",
            color=plots.REFERENCE,
            ha="right",
            va="top",
        )
        left.text(
            x[-1] / per_epoch * 1.02,
            1.35,
            "control:\nshuffled labels",
            color=plots.ORANGE,
            va="center",
        )
        left.text(epochs * 0.42, 0.13, f"{len(curves)} networks", color=plots.BLUE)
        left.set(yscale="log", xlabel="epochs", ylabel="training loss, nats")
        left.set_yticks([0.01, 0.1, 1.0], ["0.01", "0.1", "1"])

        x = np.arange(1, epochs + 1)
        low, high = np.array([wilson_interval(round(a * n), n) for a in tests.mean(0)]).T
        right.fill_between(x, 100 * low, 100 * high, color=plots.BLUE, alpha=0.18, lw=0)
        right.plot(x, 100 * tests.T, color=plots.BLUE, lw=1.0, alpha=0.5)
        right.plot(x, 100 * tests.mean(0), "o-", color=plots.BLUE)
        right.axhline(100 * data.goal, color=plots.REFERENCE, ls="--", lw=1.2)
        right.text(
            epochs,
            100 * data.goal,
            f"goal: {data.goal:.0%}",
            color=plots.REFERENCE,
            va="top",
            ha="right",
        )
        right.set(xlabel="epochs", ylabel="test images right, %")
        right.set_xticks(x)
        right.text(
            0.03,
            0.96,
            f"mean {100 * tests[:, -1].mean():.2f} % at the end,\nband: Wilson's 95 %",
            transform=right.transAxes,
            va="top",
            color=plots.BLUE,
            fontsize=10,
        )


def draw_errors(run: Run, data: Data, net: MLP) -> None:
    """The wrong answers that the network was surest of."""
    p = predict_proba(net, data.X_test)
    said = p.argmax(axis=1)
    wrong = np.flatnonzero(said != data.y_test)
    worst = wrong[np.argsort(-p[wrong, said[wrong]])][:16]
    run.metric("test images wrong", len(wrong), rtol=0.2)
    run.metric(
        "wrong with more than 99 % confidence", int((p[wrong, said[wrong]] > 0.99).sum()), rtol=0.5
    )
    title = "Which errors is the network surest of? Answer given (label)"
    with run.figure("errors", title, rows=2, columns=8, size=(9.0, 3.1)) as axes:
        for ax in axes.flat:
            ax.axis("off")
        for ax, i in zip(axes.flat, worst, strict=False):
            ax.imshow(data.X_test[i].reshape(data.side, data.side), cmap="gray_r")
            ax.set_title(
                f"{said[i]}  ({data.y_test[i]})", fontsize=11, weight="normal", pad=3, loc="center"
            )
            ax.text(
                0.5,
                -0.02,
                f"{100 * p[i, said[i]]:.2f} %",
                transform=ax.transAxes,
                ha="center",
                va="top",
                fontsize=9,
                color="#666666",
            )


def draw_units(run: Run, data: Data, net: MLP) -> None:
    """Incoming weights of the hidden units that matter most."""
    H, _ = forward(net, data.X_test)
    use = H.std(axis=0) * np.linalg.norm(net.W2, axis=1)
    best = np.argsort(-use)[:24]
    title = "What do hidden units look for? Blue: ink here speaks for, red: against"
    with run.figure("units", title, rows=3, columns=8, size=(9.0, 3.9)) as axes:
        for ax, j in zip(axes.flat, best, strict=False):
            picture = net.W1[:, j].reshape(data.side, data.side)
            top = np.abs(picture).max()
            ax.imshow(picture, cmap="RdBu", vmin=-top, vmax=top)
        for ax in axes.flat:
            ax.axis("off")


# ---- failures


def distinct_units(net: MLP) -> int:
    """How many hidden units differ from all others in what comes in."""
    columns = np.vstack([net.W1, net.b1])
    # Equal columns of a matrix product may differ in the last bit; that is not being different.
    return len(np.unique(columns.round(4), axis=1).T)


def show_failures(run: Run, data: Data, hidden: int, steps: int) -> None:
    """One mistake each: equal weights in one layer, in both, none at all, a rate too large."""
    n = min(len(data.X), steps * 100)
    X, y = data.X[:n], data.y[:n]
    good = initialize(X.shape[1], hidden, 10, np.random.default_rng([run.seed, 4]))
    first, both = good.copy(), good.copy()
    first.W1[:] = both.W1[:] = both.W2[:] = 0.003
    cases = {
        "random": (good, 0.1, plots.BLUE),
        "first layer equal": (first, 0.1, plots.SKY),
        "all equal": (both, 0.1, plots.GREEN),
        "all zero": (good.zeros(), 0.1, plots.ORANGE),
        "random, rate × 30": (good.copy(), 3.0, plots.PINK),
    }
    losses, right, units = {}, {}, {}
    epochs = max(1, steps * 100 // n)
    for name, (net, lr, _) in cases.items():
        rng = np.random.default_rng([run.seed, 5])
        with np.errstate(over="ignore", invalid="ignore"):
            losses[name] = train(net, X, y, epochs=epochs, lr=lr, rng=rng)
        right[name] = accuracy(net, data.X_test, data.y_test)
        units[name] = distinct_units(net)
        run.metric(f"test accuracy, {name}", 100 * right[name], "%", rtol=0.2)
    for name in ("first layer equal", "all equal"):
        run.metric(f"distinct hidden units, {name}", units[name], rtol=None)
    title = "Which initial weights can learn? The same batches for all"
    with run.figure("failures", title, size=(8.4, 4.8)) as ax:
        for name, (_, _, color) in cases.items():
            x, value = _smooth(np.minimum(losses[name], 1e3))
            ax.plot(x, value, color=color, label=f"{name}\n({100 * right[name]:.0f} % right)")
        ax.axhline(np.log(10), color=plots.REFERENCE, ls="--", lw=1.2, zorder=1)
        ax.text(
            len(losses[name]),
            np.log(10) * 1.08,
            "guessing: ln 10",
            color=plots.REFERENCE,
            va="bottom",
            ha="right",
            fontsize=9.5,
        )
        ax.set(yscale="log", xlabel="steps of 100 images", ylabel="training loss, nats")
        ticks = [0.2, 0.5, 1, 2, 5, 10, 20, 50]
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
        plots.label_lines(ax, gap=0.075)
    run.claim(
        "zero weights learn nothing but how frequent each class is",
        right["all zero"] < 0.2 and units["all zero"] == 1,
        f"{100 * right['all zero']:.1f} % right; the {hidden} hidden units are all one",
    )
    others = [right[name] for name in ("all equal", "all zero", "random, rate × 30")]
    run.claim(
        "equal weights in both layers stay equal, and one unit is not enough",
        units["all equal"] == 1 and right["random"] > 0.05 + max(others),
        ", ".join(f"{name} {100 * a:.1f} %" for name, a in right.items()),
        quick=False,
    )


def main(
    run: Run, *, hidden: PositiveInt = 256, epochs: PositiveInt = 5, batch_size: PositiveInt = 100
) -> None:
    """The same network in torch, then MNIST, a control, its errors, and bad starts.

    Parameters
    ----------
    hidden
        Hidden units.
    epochs
        Passes over the training images.
    batch_size
        Images in a mini-batch.
    """
    data = load(run, run.budget(quick=4000, default=60_000))
    check_against_torch(run, data, run.budget(quick=20, default=100))
    show_training(run, data, hidden, run.budget(quick=2, default=epochs), batch_size)
    show_failures(run, data, hidden, run.budget(quick=30, default=300))
