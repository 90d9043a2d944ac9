"""Checks, claims and figures of train_minigrad."""

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from shared import datasets, plots
from shared.study import PositiveFloat, PositiveInt, Run, UserError
from week08.minigrad import DataLoader, Tensor, TensorDataset, nn, optim
from week08.minigrad import functional as F
from week08.train_minigrad import (
    Images,
    Trained,
    as_images,
    learn,
    make_cnn,
    make_mlp,
    predict,
    train,
)

# ---- beside torch


def torch_twin(model: nn.Sequential):
    """The same network in torch, with the same weights and dtype."""
    import torch

    def twin(layer: nn.Module) -> torch.nn.Module:
        weight = getattr(layer, "weight", None)
        if isinstance(layer, nn.Linear):
            return torch.nn.Linear(weight.shape[1], weight.shape[0])
        if isinstance(layer, nn.Conv2d):
            return torch.nn.Conv2d(
                weight.shape[1], weight.shape[0], weight.shape[2:], layer.stride, layer.padding
            )
        if isinstance(layer, nn.MaxPool2d):
            return torch.nn.MaxPool2d(layer.kernel_size)
        return getattr(torch.nn, type(layer).__name__)()

    theirs = torch.nn.Sequential(*map(twin, model))
    state = {name: torch.from_numpy(t.numpy().copy()) for name, t in model.state_dict().items()}
    dtype = next(iter(state.values())).dtype
    theirs.to(dtype).load_state_dict(state)  # torch's own keys, or this complains
    return theirs


def as_dtype(model: nn.Module, dtype: type) -> nn.Module:
    """Parameters in another precision, in place."""
    for p in model.parameters():
        p.data = p.data.astype(dtype)
    return model


class Twins(NamedTuple):
    """One training run in both frameworks: losses, last gradients, last weights."""

    losses: np.ndarray
    losses_torch: np.ndarray
    gradients: np.ndarray
    gradients_torch: np.ndarray
    weights: np.ndarray
    weights_torch: np.ndarray


def train_twins(
    images: Images, make, optimizer: str, *, steps: int, dtype: type, seed: int
) -> Twins:
    """Train a network in minigrad and its twin in torch, on the same batches."""
    import torch

    rng = np.random.default_rng(seed)
    model = as_dtype(make(images.x.shape[-1], generator=rng), dtype)
    twin = torch_twin(model)
    n, batch = min(len(images.x), 1000), 50
    x, y = images.x[:n].to(dtype), images.y[:n]
    options = {"SGD": {"lr": 0.1, "momentum": 0.9}, "Adam": {"lr": 2e-3}}[optimizer]
    loader = DataLoader(TensorDataset(x, y), batch, shuffle=True, generator=rng)
    order = rng.bit_generator.state
    losses = train(
        model,
        getattr(optim, optimizer)(model.parameters(), **options),
        loader,
        epochs=math.ceil(steps / len(loader)),
    )

    rng.bit_generator.state = order  # torch gets its batches from the same permutations
    theirs = getattr(torch.optim, optimizer)(twin.parameters(), **options)
    total, losses_torch = len(losses), []
    decay = torch.optim.lr_scheduler.LambdaLR(theirs, lambda step: 1 - step / total)
    x, y = torch.from_numpy(x.numpy()), torch.from_numpy(y.numpy())
    while len(losses_torch) < total:
        for rows in torch.from_numpy(rng.permutation(n)).split(batch):
            theirs.zero_grad()
            loss = torch.nn.functional.cross_entropy(twin(x[rows]), y[rows])
            loss.backward()
            theirs.step()
            decay.step()
            losses_torch.append(loss.item())

    def flat(values) -> np.ndarray:
        return np.concatenate([np.asarray(value).ravel() for value in values])

    return Twins(
        np.array(losses),
        np.array(losses_torch),
        flat(p.grad.numpy() for p in model.parameters()),
        flat(p.grad.numpy() for p in twin.parameters()),
        flat(p.detach().numpy() for p in model.parameters()),
        flat(p.detach().numpy() for p in twin.parameters()),
    )


def train_beside_torch(run: Run, images: Images) -> None:
    """Losses, gradients and weights of both networks under both optimizers, and the figure."""
    steps = run.budget(quick=20, default=60)
    run.metric("steps beside torch", steps, "", rtol=0)
    drawn = {}
    for name, make in (("MLP", make_mlp), ("CNN", make_cnn)):
        for optimizer in ("SGD", "Adam"):
            twins = train_twins(
                images, make, optimizer, steps=steps, dtype=np.float64, seed=run.seed
            )
            drawn[name, optimizer] = twins
            case = f"{name}, {optimizer}" + " with momentum" * (optimizer == "SGD")
            against = f"torch.nn, torch.optim.{optimizer}"
            equal = run.against(against, atol=1e-8, why="float64 rounding, step upon step")
            equal(f"loss of each step, {case}", twins.losses, twins.losses_torch)
            equal(f"gradients of the last step, {case}", twins.gradients, twins.gradients_torch)
            weights = f"weights after the last step, {case}"
            equal(weights, twins.weights, twins.weights_torch, atol=1e-7)
    in_float32 = train_twins(images, make_mlp, "Adam", steps=steps, dtype=np.float32, seed=run.seed)
    draw_twins(run, drawn, in_float32)


def draw_twins(run: Run, drawn: dict, in_float32: Twins) -> None:
    """Both frameworks' losses on top of each other; below, what separates them."""
    title = "Can you tell minigrad from torch? Only in the sixteenth digit"
    colors = {("MLP", "SGD"): plots.BLUE, ("MLP", "Adam"): plots.SKY}
    colors |= {("CNN", "SGD"): plots.ORANGE, ("CNN", "Adam"): plots.YELLOW}
    options = {"size": (8.0, 6.2), "sharex": True, "height_ratios": (1, 1.15)}
    with run.figure("beside_torch", title, 2, 1, **options) as axes:
        for key, twins in drawn.items():
            at = np.arange(1, len(twins.losses) + 1)
            label = f"{key[0]}, {key[1]}"
            axes[0].plot(at, twins.losses_torch, color=plots.REFERENCE, lw=0.8, zorder=3)
            axes[0].plot(at, twins.losses, color=colors[key], lw=4, alpha=0.6, label=label)
            gap = np.abs(twins.losses - twins.losses_torch)
            gap = np.where(gap > 0, gap, np.nan)  # equal to the last bit: nothing to draw
            axes[1].plot(at, gap, "o", color=colors[key], ms=3, label=label)
        gap = np.abs(in_float32.losses - in_float32.losses_torch)
        axes[1].plot(
            at,
            np.where(gap > 0, gap, np.nan),
            "o",
            color=plots.GREEN,
            ms=3,
            label="MLP, Adam,\nfloat32",
        )
        axes[1].axhline(1e-8, color=plots.REFERENCE, ls="--", lw=1)
        axes[1].text(1, 6e-9, "allowed in float64", color=plots.REFERENCE, va="top")
        axes[0].plot([], [], color=plots.REFERENCE, lw=0.8, label="torch (thin)")
        axes[0].legend(loc="upper right", ncols=2)
        axes[0].set(ylabel="loss (nats)", ylim=(0, None))
        axes[1].set(
            xlabel="training step", ylabel="|difference of the losses| (nats)", yscale="log"
        )
        plots.label_lines(axes[1])


# ---- on MNIST


def judge(
    run: Run,
    name: str,
    models: dict[tuple[str, int], Trained],
    train_images: Images,
    test_images: Images,
    **options,
) -> None:
    """Accuracies with intervals, the control with shuffled labels, figures."""
    goal = {"MNIST": 97, "digits": 93}[name]
    mlps = [trained for (kind, _), trained in models.items() if kind == "MLP"]
    cnn = models["CNN", 0]
    final = [100 * trained.accuracies[-1] for trained in mlps]
    run.metric(f"test errors on {name}, MLP", 100 - float(np.mean(final)), "%", rtol=0.1)
    run.metric(f"test errors on {name}, CNN", 100 * (1 - cnn.accuracies[-1]), "%", rtol=0.1)
    for kind, trained in (("MLP", mlps[0]), ("CNN", cnn)):
        count = sum(p.numel() for p in trained.model.parameters())
        run.metric(f"parameters, {kind}", count, rtol=0)
    common = {"unit": "% of the test images read", "quick": False}
    learned = f"the MLP reads {goal} % of {name}"
    run.claim(learned, final, at_least=goal, note="by seed", **common)
    right = 100 * hits(cnn.model, test_images)
    run.claim(f"the CNN reads {goal} % of {name}", right, at_least=goal, note="by image", **common)

    rng = np.random.default_rng(run.seed)
    shuffled = Images(train_images.x, train_images.y[rng.permutation(len(train_images.y))])
    epochs = run.budget(quick=1, default=2)
    control = learn(make_mlp, shuffled, test_images, epochs=epochs, seed=run.seed, **options)
    by_chance = 100 * hits(control.model, test_images)
    run.falsifier("shuffled labels", by_chance, breaks=learned)
    at_end = control.losses[-50:]
    run.claim(
        "shuffled labels are no better than guessed",
        math.log(10) - np.array(at_end),
        at_most=0.1 * math.log(10),
        unit="nats below ln 10",
        note="the last steps",
    )
    draw_training(run, name, mlps, cnn, control.losses, options["batch_size"] / len(train_images.y))
    draw_filters(run, mlps[0].model, test_images)
    draw_errors(run, name, cnn.model, test_images)


def hits(model: nn.Module, images: Images) -> np.ndarray:
    """1 for each image that is read right, else 0."""
    return (predict(model, images.x).argmax(axis=1) == images.y.numpy()).astype(float)


def smooth(losses) -> tuple[np.ndarray, np.ndarray]:
    """Moving mean over a fiftieth of the run."""
    width = max(len(losses) // 50, 1)
    mean = np.convolve(losses, np.ones(width) / width, mode="valid")
    return np.arange(len(mean)) + (width + 1) / 2, mean


def draw_training(run: Run, name: str, mlps, cnn: Trained, control, epoch: float) -> None:
    """Training loss against images seen; test errors after each epoch."""
    title = f"{name}, learned by a framework of NumPy arrays"
    with run.figure("training", title, 1, 2, size=(9.0, 4.2)) as axes:
        lines = [
            *((t.losses, plots.BLUE, "MLP" if t is mlps[0] else "") for t in mlps),
            (cnn.losses, plots.ORANGE, "CNN"),
            (control, plots.GRAY, "shuffled labels"),
        ]
        for losses, color, label in lines:
            at, mean = smooth(losses)
            axes[0].plot(at * epoch, mean, color=color, lw=1.5)
            if label:
                axes[0].text(at[-1] * epoch, 0.98 * mean[-1], f" {label}", color=color, va="top")
        axes[0].axhline(math.log(10), color=plots.REFERENCE, lw=1, ls="--")
        right_end = len(mlps[0].accuracies) * 1.1
        axes[0].text(right_end, 2.4, "guessing: ln 10", ha="right", va="bottom")
        axes[0].set(xlabel="epochs", ylabel="training loss (nats)", yscale="log")
        axes[0].set_xlim(0, len(mlps[0].accuracies) * 1.12)
        for trained in (*mlps, cnn):
            color = plots.ORANGE if trained is cnn else plots.BLUE
            at = np.arange(1, len(trained.accuracies) + 1)
            axes[1].plot(at, 100 * (1 - np.array(trained.accuracies)), "o-", color=color, lw=1.2)
        axes[1].set(xlabel="epochs", ylabel="test errors (%)", ylim=(0, None))
        axes[1].set_xticks(range(1, len(mlps[0].accuracies) + 1))
        axes[1].text(
            len(cnn.accuracies),
            100 * (1 - cnn.accuracies[-1]),
            "  CNN",
            color=plots.ORANGE,
            va="top",
        )
        top = max(1 - t.accuracies[0] for t in mlps)
        axes[1].text(1.15, 100 * top, "MLP, each seed a line", color=plots.BLUE, va="center")


def draw_filters(run: Run, model: nn.Module, images: Images) -> None:
    """What the first layer looks for: the hidden units that matter most, as images."""
    weight, out = (model[i].weight.data for i in (1, 3))
    side = images.x.shape[-1]
    activity = np.maximum(images.x[:1000].numpy().reshape(-1, side * side) @ weight.T, 0).std(0)
    best = np.argsort(activity * np.linalg.norm(out, axis=0))[::-1][:32]
    title = "What do the MLP's busiest hidden units look for?"
    with run.figure("filters", title, 4, 8, size=(8.0, 4.5)) as axes:
        for panel, unit in zip(axes.flat, best, strict=True):
            image = weight[unit].reshape(side, side)
            limit = np.abs(image).max()
            panel.imshow(image, cmap="RdBu", vmin=-limit, vmax=limit)
            panel.set(xticks=[], yticks=[])
            panel.grid(visible=False)
            panel.spines[:].set_visible(False)


def draw_errors(run: Run, name: str, model: nn.Module, images: Images) -> None:
    """The test images that the network is surest about, and wrong."""
    p, truth = predict(model, images.x), images.y.numpy()
    said = p.argmax(axis=1)
    wrong = np.flatnonzero(said != truth)
    surest = wrong[np.argsort(p[wrong].max(axis=1))[::-1]][:32]
    title = f"{len(wrong)} of {len(truth):,} misread by the CNN: what would you have said?"
    with run.figure("errors", title, 4, 8, size=(8.0, 5.2)) as axes:
        for panel in axes.flat:
            panel.axis("off")
        for panel, i in zip(axes.flat, surest, strict=False):
            panel.imshow(images.x[int(i)].numpy()[0], cmap="gray_r", vmin=0, vmax=1)
            panel.set_title(
                f"{truth[i]}, read {said[i]}", fontsize=9, weight="normal", loc="center"
            )


# ---- failure on display: the order of the backward pass


def naive_gradients(loss: Tensor) -> dict[int, Tensor]:
    """Each node passes on what it has when it is first met, nearest to the loss first.

    Right in a chain. Where two paths meet, the longer one's share comes after the node has passed
    on the shorter one's, and stays there.
    """
    gradients = {id(loss.grad_fn): loss.ones_like().detach()}
    queue, done = deque([loss.grad_fn]), set()
    while queue:
        target = queue.popleft()
        if id(target) in done or isinstance(target, Tensor):
            continue
        done.add(id(target))
        for following, share in target.propagate(gradients[id(target)], lambda _: True):
            key = id(following)
            gradients[key] = gradients[key] + share if key in gradients else share
            queue.append(following)
    return gradients


class Residual(nn.Module):
    """x + f(x): two paths of different lengths to the same place."""

    def __init__(self, *layers: nn.Module):
        self.f = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Add what the layers compute to what they were given."""
        return x + self.f(x)


def make_deep(width: int, *, residual: bool, rng: np.random.Generator) -> nn.Module:
    """Six hidden layers on digits, with skip connections over pairs of them or without."""

    def pair() -> list[nn.Module]:
        return [
            nn.ReLU(),
            nn.Linear(width, width, generator=rng),
            nn.ReLU(),
            nn.Linear(width, width, generator=rng),
        ]

    blocks = [Residual(*pair()) if residual else nn.Sequential(*pair()) for _ in range(3)]
    first, last = nn.Linear(64, width, generator=rng), nn.Linear(width, 10, generator=rng)
    return nn.Sequential(first, *blocks, nn.ReLU(), last)


def backward_in_the_wrong_order(run: Run) -> None:
    """Gradients without a topological order: exact in a chain, wrong with skips."""
    digits = datasets.digits()
    x = Tensor((digits.images.reshape(-1, 64) / 16).astype(np.float32))
    y = Tensor(digits.labels.astype(np.int64))
    steps, seeds = run.budget(quick=10, default=120), run.budget(quick=2, default=5)

    def gradients(model: nn.Module, rows, naive: bool) -> float:
        for p in model.parameters():
            p.grad = None
        loss = F.cross_entropy(model(x[rows]), y[rows])
        if naive:
            found = naive_gradients(loss)
            for p in model.parameters():
                p.grad = found[id(p)]
        else:
            loss.backward()
        return loss.item()

    def flat(model: nn.Module) -> np.ndarray:
        return np.concatenate([p.grad.data.ravel() for p in model.parameters()])

    wrong_by = {}
    for kind, residual in (("chain", False), ("skips", True)):
        model = as_dtype(
            make_deep(32, residual=residual, rng=np.random.default_rng(run.seed)), np.float32
        )
        rows = np.arange(256)
        gradients(model, rows, naive=False)
        right = flat(model)
        gradients(model, rows, naive=True)
        wrong_by[kind] = float(np.linalg.norm(flat(model) - right) / np.linalg.norm(right))
    run.metric("error of the naive order, with skips", wrong_by["skips"], "of its norm", rtol=0.1)
    unit = {"unit": "of the gradient's norm", "deterministic": True}
    chain, skips = "the naive order is right in a chain", "it is wrong with skip connections"
    run.claim(chain, [wrong_by["chain"]], at_most=1e-6, **unit)
    run.claim(skips, [wrong_by["skips"]], at_least=0.01, **unit)
    curves = {naive: [] for naive in (False, True)}
    errors = []
    for seed in range(run.seed, run.seed + seeds):
        for naive in curves:
            rng = np.random.default_rng(seed)
            model = make_deep(32, residual=True, rng=rng)
            optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            losses, error = [], []
            for _ in range(steps):
                rows = rng.integers(0, 1500, 64)
                gradients(model, rows, naive=False)
                right = flat(model)
                losses.append(gradients(model, rows, naive=naive))
                error.append(float(np.linalg.norm(flat(model) - right) / np.linalg.norm(right)))
                optimizer.step()
            curves[naive].append(smooth(losses)[1])
            if naive:
                errors.append(smooth(error)[1])
    last = max(steps // 6, 1)
    ends = {naive: np.array(runs)[:, -last:].mean(axis=1) for naive, runs in curves.items()}
    run.metric("error of the naive order, in training", 100 * float(np.mean(errors)), "%", rtol=0.1)
    run.claim(
        "the loss curve does not show it",
        ends[True] / ends[False],
        at_most=2,
        quick=False,
        unit="of the loss with the right order",
        note="at the end, by seed",
    )
    title = "A gradient wrong by a third, and a loss curve that hides it"
    at = smooth(np.zeros(steps))[0]
    with run.figure("order", title, 1, 2, size=(9.0, 4.0)) as axes:
        for naive, color in ((False, plots.BLUE), (True, plots.ORANGE)):
            plots.interval_band(axes[0], at, curves[naive], color=color, label="")
        axes[0].axhline(math.log(10), color=plots.REFERENCE, lw=1, ls="--")
        axes[0].text(0.05, 0.22, "topological order", transform=axes[0].transAxes, color=plots.BLUE)
        axes[0].text(
            0.05, 0.14, "nearest to the loss first", transform=axes[0].transAxes, color=plots.ORANGE
        )
        axes[0].set(xlabel="training step", ylabel="training loss (nats)", yscale="log")
        plots.interval_band(axes[1], at, 100 * np.array(errors), color=plots.ORANGE, label="")
        axes[1].axhline(0, color=plots.BLUE)
        axes[1].set(
            xlabel="training step", ylabel="error of the gradient (% of its norm)", ylim=(-3, None)
        )


def load(run: Run) -> tuple[str, Images, Images]:
    """MNIST if its files are there, else the bundled digits: name, training and test images."""
    try:
        mnist = datasets.mnist()
    except UserError as error:
        run.say(f"No MNIST ({error}); scikit-learn's 8 × 8 digits take its place")
        digits = datasets.digits()
        order = np.random.default_rng(0).permutation(len(digits.labels))
        pixels = (digits.images * (255 / 16)).round().astype(np.uint8)[order]
        labels, n = digits.labels[order], 1437
        return "digits", as_images(pixels[:n], labels[:n]), as_images(pixels[n:], labels[n:])
    n, m = run.budget(quick=(2000, 1000), default=(60_000, 10_000))
    return (
        "MNIST",
        as_images(mnist.train_images[:n], mnist.train_labels[:n]),
        as_images(mnist.test_images[:m], mnist.test_labels[:m]),
    )


def main(
    run: Run,
    *,
    epochs: PositiveInt = 5,
    cnn_epochs: PositiveInt = 2,
    batch_size: PositiveInt = 128,
    lr: PositiveFloat = 2e-3,
) -> None:
    """Train beside torch, then on MNIST, then with a backward pass in the wrong order.

    Parameters
    ----------
    epochs, cnn_epochs
        Passes over the training images, for the perceptron and the convolutional network.
    batch_size
        Images a step.
    lr
        Adam's learning rate at the start; twice that for the convolutional network.
    """
    name, train_images, test_images = load(run)
    run.chose(dataset=name)
    train_beside_torch(run, train_images)
    recipes = {"MLP": (make_mlp, epochs, lr), "CNN": (make_cnn, cnn_epochs, 2 * lr)}
    seeds = run.budget(quick=1, default=3, full=10)
    more = 1 if name == "MNIST" else 20  # the digits are few: a pass over them is 12 steps
    models = {}
    for kind, seed in run.progress([("MLP", s) for s in range(seeds)] + [("CNN", 0)], "training"):
        make, passes, rate = recipes[kind]
        models[kind, seed] = learn(
            make,
            train_images,
            test_images,
            epochs=run.budget(quick=1, default=more * passes),
            batch_size=batch_size,
            lr=rate,
            seed=run.seed + seed,
        )
    judge(run, name, models, train_images, test_images, batch_size=batch_size, lr=lr)
    backward_in_the_wrong_order(run)
