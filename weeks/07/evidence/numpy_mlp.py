"""Step for step the same as torch; MNIST, a control, the surest errors, and starts that fail."""

from dataclasses import dataclass

import numpy as np
from threadpoolctl import threadpool_limits

from shared import datasets, plots
from shared.errors import UserError
from shared.study import PositiveInt, Run
from week07.numpy_mlp import MLP, accuracy, forward, initialize, predict_proba, train

FALLS = "the loss falls by more than five times its noise"
FLOAT32 = "all equal, float32"
ONE_UNIT = "equal weights in both layers stay equal: distinct hidden units"


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
    data = load(run, run.budget(quick=2000, default=60_000))
    with threadpool_limits(1):  # in products of batches, threads mostly wait for each other
        check_steps(run, data, run.budget(quick=20, default=100))
        net = show_training(run, data, hidden, run.budget(quick=2, default=epochs), batch_size)
        show_failures(run, data, hidden, run.budget(quick=10, default=300))
    draw_errors(run, data, net)
    draw_units(run, data, net)


@dataclass(frozen=True, eq=False)
class Data:
    """Images as rows of numbers between 0 and 1, and the accuracy (%) that is asked of them."""

    X: np.ndarray
    y: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray
    goal: float

    def picture(self, row: np.ndarray) -> np.ndarray:
        """Pixels as they stood in the image."""
        return row.reshape(-1, int(np.sqrt(len(row))))


def load(run: Run, n: int) -> Data:
    """The first n training images of MNIST and its test images; without MNIST, the small digits."""
    try:
        mnist = datasets.mnist()
    except UserError:
        run.chose(dataset="digits: MNIST is not here")
        images, labels = datasets.digits()
        order = np.random.default_rng(run.seed).permutation(len(images))
        X = (images.reshape(len(images), -1) / 16).astype(np.float32)[order]
        return Data(X[:1297], labels[order][:1297], X[1297:], labels[order][1297:], 90.0)
    run.chose(dataset="mnist")
    m = run.budget(quick=1000, default=10_000)
    X, X_test = (
        images.reshape(len(images), -1).astype(np.float32) / 255
        for images in (mnist.train_images[:n], mnist.test_images[:m])
    )
    y, y_test = mnist.train_labels[:n].astype(int), mnist.test_labels[:m].astype(int)
    return Data(X, y, X_test, y_test, 97.0)


def check_steps(run: Run, data: Data, steps: int) -> None:
    """The same weights, batches and rates in torch, float64: the same losses and weights."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    batch, lr = 50, 0.1
    X, y = data.X[: steps * batch].astype(np.float64), data.y[: steps * batch]
    ours = initialize(X.shape[1], 64, 10, np.random.default_rng(run.seed), "float64")
    theirs = nn.Sequential(nn.Linear(X.shape[1], 64), nn.ReLU(), nn.Linear(64, 10)).double()
    with torch.no_grad():
        for p, array in zip(theirs.parameters(), ours.arrays(), strict=True):
            p.copy_(torch.from_numpy(array.T))  # torch keeps weights as (out, in)
    rng = np.random.default_rng([run.seed, 1])
    losses = train(ours, X, y, epochs=1, batch_size=batch, lr=lr, rng=rng)
    sgd = torch.optim.SGD(theirs.parameters(), lr=lr, momentum=0.9)
    decay = torch.optim.lr_scheduler.LinearLR(sgd, 1.0, 0.0, total_iters=len(losses))
    order, reference = np.random.default_rng([run.seed, 1]).permutation(len(X)), []
    for start in range(0, len(X), batch):
        rows = order[start : start + batch]
        loss = F.cross_entropy(theirs(torch.from_numpy(X[rows])), torch.from_numpy(y[rows]))
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        decay.step()
        reference.append(loss.item())
    why = f"float64 rounding, carried through {len(losses)} steps"
    equal = run.against("torch.nn.Sequential, torch.optim.SGD", atol=1e-10, why=why)
    equal("losses step by step", losses, reference)
    flat = np.concatenate([array.T.ravel() for array in ours.arrays()])
    equal("weights after the last step", flat, nn.utils.parameters_to_vector(theirs.parameters()))


def smooth(losses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Running means of each row, and the steps in their middle."""
    width = max(losses.shape[1] // 60, 1)
    mean = np.stack([np.convolve(row, np.ones(width) / width, mode="valid") for row in losses])
    return np.arange(mean.shape[1]) + (width + 1) / 2, mean


def show_training(run: Run, data: Data, hidden: int, epochs: int, batch_size: int) -> MLP:
    """Networks of three seeds, and three whose labels were shuffled; returns the first."""
    losses, right, nets = {}, {}, []
    some = -(-20 * batch_size // len(data.X))  # passes, so that a tenth of the steps is two
    for name, passes in (("trained", epochs), ("labels shuffled", some)):
        losses[name], right[name] = [], []
        for seed in run.progress(range(run.budget(quick=2, default=3)), name):
            rng = np.random.default_rng([run.seed, 2, seed])
            net = initialize(data.X.shape[1], hidden, 10, rng)
            y = data.y if name == "trained" else rng.permutation(data.y)
            options = {"epochs": passes, "batch_size": batch_size, "rng": rng}
            losses[name].append(train(net, data.X, y, **options))
            right[name].append(100 * accuracy(net, data.X_test, data.y_test))
            nets.append(net)
    run.metric("test accuracy", np.mean(right["trained"]), "%")
    run.metric("parameters", sum(a.size for a in nets[0].arrays()))
    goal = f"at least {data.goal:.0f} % of the test images are right"
    note = f"{len(data.X_test):,} images"
    run.claim(goal, right["trained"], at_least=data.goal, unit="%", note=note, quick=False)
    run.falsifier("shuffled labels", right["labels shuffled"], breaks=goal)
    ratio = {}
    for name, rows in losses.items():
        tenths = np.array_split(np.array(rows), 10, axis=1)
        first, last = tenths[0], tenths[-1]
        ratio[name] = (first.mean(axis=1) - last.mean(axis=1)) / last.std(axis=1)
    note = "first tenth of the steps minus the last tenth, over the deviation there"
    run.claim(FALLS, ratio["trained"], at_least=5, note=note, quick=False)
    run.falsifier("the loss of shuffled labels", ratio["labels shuffled"], breaks=FALLS)
    curves = {name: smooth(np.array(rows)) for name, rows in losses.items()}
    with run.figure("learning", "What is learned, and what is only noise?", size=(8, 4.2)) as ax:
        x = {name: steps * batch_size / len(data.X) for name, (steps, _) in curves.items()}
        lines = {name: rows for name, (_, rows) in curves.items()}
        labels = {"yscale": "log", "xlabel": "epochs", "ylabel": "training loss, nats"}
        plots.curves(ax, x, lines, reference={"guessing: ln 10": np.log(10)}, **labels)
    return nets[0]


def draw_errors(run: Run, data: Data, net: MLP) -> None:
    """The wrong answers that the network was surest of."""
    p = predict_proba(net, data.X_test)
    said, sure = p.argmax(axis=1), p.max(axis=1)
    wrong = np.flatnonzero(said != data.y_test)
    run.metric("test images wrong", len(wrong))
    run.metric("wrong with more than 99 % confidence", np.sum(sure[wrong] > 0.99))
    title = "Which errors is the network surest of? Answer given (label), confidence"
    with run.figure("errors", title, rows=2, columns=8, size=(9.0, 3.1)) as axes:
        for ax, i in zip(axes.flat, wrong[np.argsort(-sure[wrong])], strict=False):
            ax.imshow(data.picture(data.X_test[i]), cmap="gray_r")
            answer = f"{said[i]} ({data.y_test[i]}), {100 * sure[i]:.1f} %"
            ax.set_title(answer, fontsize=10, weight="normal")
            ax.axis("off")


def draw_units(run: Run, data: Data, net: MLP) -> None:
    """Incoming weights of the hidden units that matter most."""
    use = forward(net, data.X_test)[0].std(axis=0) * np.linalg.norm(net.W2, axis=1)
    title = "What do hidden units look for? Blue: ink here speaks for, red: against"
    with run.figure("units", title, rows=3, columns=8, size=(9.0, 3.9)) as axes:
        for ax, unit in zip(axes.flat, np.argsort(-use), strict=False):
            top = np.abs(net.W1[:, unit]).max()
            ax.imshow(data.picture(net.W1[:, unit]), cmap="RdBu", vmin=-top, vmax=top)
            ax.axis("off")


def distinct_units(net: MLP) -> int:
    """How many hidden units differ from all others in what comes in."""
    columns = np.vstack([net.W1, net.b1])
    return len(np.unique(columns.round(4), axis=1).T)


def show_failures(run: Run, data: Data, hidden: int, steps: int) -> None:
    """One mistake each: equal weights in one layer, in both, none at all, a rate too large."""
    n = min(len(data.X), steps * 100)
    X, y, epochs = data.X[:n], data.y[:n], max(1, steps * 100 // n)
    names = ("random", "first layer equal", "all equal", "all zero", "random, rate × 30", FLOAT32)
    losses, right, units = ({name: [] for name in names} for _ in range(3))
    for seed in range(run.budget(quick=2, default=3)):
        good = initialize(X.shape[1], hidden, 10, np.random.default_rng([run.seed, 4, seed]))
        first, both = good.copy(), good.copy()
        first.W1[:] = both.W1[:] = both.W2[:] = 0.003
        exact = MLP(*(array.astype("float64") for array in both.arrays()))
        nets = (good, first, exact, good.zeros(), good.copy(), both)
        for name, net in zip(names, nets, strict=True):
            rng, lr = np.random.default_rng([run.seed, 5, seed]), 3.0 if "× 30" in name else 0.1
            with np.errstate(over="ignore", invalid="ignore"):
                losses[name].append(train(net, X, y, epochs=epochs, lr=lr, rng=rng))
            right[name].append(100 * accuracy(net, data.X_test, data.y_test))
            units[name].append(distinct_units(net))
    worse = {name: np.subtract(right["random"], right[name]) for name in names}
    for (
        name
    ) in names:  # which last bits differ, and so what float32 does, is the processor's choice
        run.metric(f"test accuracy, {name}", np.mean(right[name]), "%", rtol=None)
    run.metric(f"distinct hidden units, {FLOAT32}", np.mean(units[FLOAT32]), rtol=None)
    for name in names[2:5]:
        claim = {"at_least": 5, "unit": "points", "quick": False}
        run.claim(f"{name}: worse than random weights", worse[name], **claim)
    broken = "all equal: worse than random weights"
    run.falsifier("only the first layer equal", worse["first layer equal"], breaks=broken)
    run.claim(ONE_UNIT, units["all equal"], at_most=1, each=True, note="float64")
    run.falsifier("only the first layer's", units["first layer equal"], breaks=ONE_UNIT)
    title = "Which initial weights can learn? The same batches for all"
    with run.figure("failures", title, size=(8.4, 4.8)) as ax:
        rows = {name: smooth(np.minimum(losses[name], 50)) for name in names}
        x, lines = rows["random"][0], {name: mean for name, (_, mean) in rows.items()}
        labels = {"xlabel": "steps of 100 images", "ylabel": "training loss, nats"}
        plots.curves(ax, x, lines, yscale="log", **labels)
        plots.reference_line(ax, np.log(10), "guessing: ln 10")
