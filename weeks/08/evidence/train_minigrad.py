"""Checks, claims and figures of train_minigrad."""

import copy
import math
from collections import deque

import numpy as np

from shared import datasets, plots
from shared.study import PositiveFloat, PositiveInt, Run, UserError
from week08.minigrad import DataLoader, Tensor, TensorDataset, nn, no_grad, optim
from week08.minigrad import functional as F
from week08.train_minigrad import Images, as_images, learn, make_cnn, make_mlp, predict, train


def main(
    run: Run,
    *,
    epochs: PositiveInt = 4,
    cnn_epochs: PositiveInt = 1,
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
    read(run, name, train_images, test_images, (epochs, cnn_epochs), batch_size, lr)
    backward_in_the_wrong_order(run)


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


# ---- beside torch


def train_beside_torch(run: Run, images: Images) -> None:
    """Losses and weights of both networks under both optimizers, in float64."""
    steps = run.budget(quick=20, default=60)
    run.metric("steps beside torch", steps, "", rtol=0)
    for name, make in (("MLP", make_mlp), ("CNN", make_cnn)):
        for optimizer in ("SGD", "Adam"):
            options = {"lr": 0.1, "momentum": 0.9} if optimizer == "SGD" else {"lr": 2e-3}
            ours, theirs = train_twins(images, make, optimizer, options, steps, run.seed)
            case = f"{name}, {optimizer}" + " with momentum" * (optimizer == "SGD")
            against = f"torch.nn, torch.optim.{optimizer}"
            equal = run.against(against, atol=1e-8, why="float64 rounding, step upon step")
            equal(f"loss of each step, {case}", ours[0], theirs[0])
            equal(f"weights after the last step, {case}", ours[1], theirs[1], atol=1e-7)


def train_twins(images: Images, make, name: str, options: dict, steps: int, seed: int):
    """Losses and last weights in minigrad, and in torch on the same batches."""
    import torch

    rng = np.random.default_rng(seed)
    model = as_float64(make(images.x.shape[-1], generator=rng))
    twin = torch_twin(model)
    n, batch = min(len(images.x), 1000), 50
    x, y = images.x[:n].to(np.float64), images.y[:n]
    loader = DataLoader(TensorDataset(x, y), batch, shuffle=True, generator=rng)
    same_order = copy.deepcopy(rng)
    optimizer = getattr(optim, name)(model.parameters(), **options)
    losses = train(model, optimizer, loader, epochs=math.ceil(steps / len(loader)))

    optimizer = getattr(torch.optim, name)(twin.parameters(), **options)
    total, losses_torch = len(losses), []
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / total)
    x, y = torch.from_numpy(x.numpy()), torch.from_numpy(y.numpy())
    while len(losses_torch) < total:
        for rows in torch.from_numpy(same_order.permutation(n)).split(batch):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(twin(x[rows]), y[rows])
            loss.backward()
            optimizer.step()
            decay.step()
            losses_torch.append(loss.item())

    def flat(network) -> np.ndarray:
        return np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])

    return (np.array(losses), flat(model)), (np.array(losses_torch), flat(twin))


def torch_twin(model: nn.Sequential):
    """The same network in torch, with the same weights."""
    import torch

    def twin(layer: nn.Module) -> torch.nn.Module:
        if isinstance(layer, nn.Linear):
            return torch.nn.Linear(*reversed(layer.weight.shape))
        if isinstance(layer, nn.Conv2d):
            out, channels, *kernel = layer.weight.shape
            return torch.nn.Conv2d(channels, out, kernel, layer.stride, layer.padding)
        if isinstance(layer, nn.MaxPool2d):
            return torch.nn.MaxPool2d(layer.kernel_size)
        return getattr(torch.nn, type(layer).__name__)()

    theirs = torch.nn.Sequential(*map(twin, model)).double()
    state = {name: torch.tensor(t.numpy()) for name, t in model.state_dict().items()}
    theirs.load_state_dict(state)  # torch's own keys, or this complains
    return theirs


def as_float64(model: nn.Module) -> nn.Module:
    """Parameters in double precision, in place."""
    for p in model.parameters():
        p.data = p.data.astype(np.float64)
    return model


# ---- on MNIST


def read(run: Run, name: str, images: Images, test: Images, epochs, batch_size, lr) -> None:
    """Accuracies with intervals, and the control with shuffled labels."""
    goal = {"MNIST": 97, "digits": 93}[name]
    more = 1 if name == "MNIST" else 20  # the digits are few: a pass over them is 12 steps
    passes = run.budget(quick=(1, 1), default=tuple(more * n for n in epochs))

    def right(model: nn.Module) -> np.ndarray:
        """100 for each test image that is read right, else 0."""
        return 100.0 * (predict(model, test.x).argmax(axis=1) == test.y.numpy())

    mlps = []
    seeds = range(run.seed, run.seed + run.budget(quick=1, default=3, full=10))
    for seed in run.progress(seeds, "training"):
        mlp, _ = learn(make_mlp, images, epochs=passes[0], batch_size=batch_size, lr=lr, seed=seed)
        mlps.append(right(mlp).mean())
    options = {"batch_size": batch_size, "seed": run.seed}
    cnn, _ = learn(make_cnn, images, epochs=passes[1], lr=2 * lr, **options)
    by_cnn = right(cnn)
    run.metric(f"test errors on {name}, CNN", 100 - by_cnn.mean(), "%", rtol=0.1)
    run.metric("parameters, CNN", sum(p.numel() for p in cnn.parameters()), rtol=0)
    common = {"unit": "% of the test images read", "quick": False}
    learned = f"the MLP reads {goal} % of {name}"
    run.claim(learned, mlps, at_least=goal, note="by seed", **common)
    by_image = {"at_least": goal, "note": "by image", **common}
    run.claim(f"the CNN reads {goal} % of {name}", by_cnn, **by_image)

    order = np.random.default_rng(run.seed).permutation(len(images.y))
    shuffled = Images(images.x, images.y[order])
    control, losses = learn(make_mlp, shuffled, epochs=1, lr=lr, **options)
    run.falsifier("shuffled labels", right(control), breaks=learned)
    run.claim(
        "shuffled labels are no better than guessed",
        math.log(10) - np.array(losses[-50:]),
        at_most=0.1 * math.log(10),
        unit="nats below ln 10",
        note="the last steps",
    )
    draw_errors(run, cnn, test)


def draw_errors(run: Run, model: nn.Module, images: Images) -> None:
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
            text = f"{truth[i]}, read {said[i]}"
            panel.set_title(text, fontsize=9, weight="normal", loc="center")


# ---- failure on display: the order of the backward pass


def backward_in_the_wrong_order(run: Run) -> None:
    """Gradients without a topological order: exact in a chain, wrong with skips."""
    digits = datasets.digits()
    x = Tensor((digits.images.reshape(-1, 64) / 16).astype(np.float32))
    y = Tensor(digits.labels.astype(np.int64))
    steps, seeds = run.budget(quick=10, default=120), run.budget(quick=2, default=5)

    def compute(model: nn.Module, rows, *, naive: bool) -> tuple[float, float]:
        """Set the gradients; the loss, and how far the naive ones are from the right ones."""
        model.zero_grad()
        loss = F.cross_entropy(model(x[rows]), y[rows])
        wrong = naive_gradients(loss)
        loss.backward()
        parameters = list(model.parameters())
        right = np.concatenate([p.grad.data.ravel() for p in parameters])
        found = np.concatenate([wrong[id(p)].data.ravel() for p in parameters])
        if naive:
            for p in parameters:
                p.grad = wrong[id(p)]
        return loss.item(), float(np.linalg.norm(found - right) / np.linalg.norm(right))

    first = {}
    for residual in (False, True):
        model = make_deep(32, residual=residual, rng=np.random.default_rng(run.seed))
        first[residual] = compute(model, np.arange(256), naive=True)[1]
    unit = {"unit": "of the gradient's norm", "deterministic": True}
    run.claim("the naive order is right in a chain", [first[False]], at_most=1e-6, **unit)
    run.claim("it is wrong with skip connections", [first[True]], at_least=0.01, **unit)

    found = {False: [], True: []}
    for seed in range(run.seed, run.seed + seeds):
        for naive, runs in found.items():
            rng = np.random.default_rng(seed)
            model = make_deep(32, residual=True, rng=rng)
            optimizer, values = optim.SGD(model.parameters(), lr=0.1, momentum=0.9), []
            for _ in range(steps):
                values.append(compute(model, rng.integers(0, 1500, 64), naive=naive))
                optimizer.step()
            runs.append(values)
    losses = {naive: np.array(runs)[..., 0] for naive, runs in found.items()}
    errors = 100 * np.array(found[True])[..., 1]
    ends = {naive: runs[:, -max(steps // 6, 1) :].mean(axis=1) for naive, runs in losses.items()}
    run.metric("error of the naive order, in training", errors.mean(), "%", rtol=0.1)
    run.claim(
        "the loss curve does not show it",
        ends[True] / ends[False],
        at_most=2,
        quick=False,
        unit="of the loss with the right order",
        note="at the end, by seed",
    )
    title = "A gradient wrong by a third, and a loss curve that hides it"
    lines = {"topological order": losses[False], "nearest first": losses[True]}
    at = {"ends": False, "xlabel": "training step"}
    with run.figure("order", title, 1, 2, size=(9.0, 4.0)) as axes:
        label = "training loss (nats)"
        plots.curves(axes[0], range(steps), lines, ylabel=label, yscale="log", **at)
        label = "error of the gradient (% of its norm)"
        error = {"nearest first": errors}
        plots.curves(axes[1], range(steps), error, colors=[plots.ORANGE], ylabel=label, **at)


@no_grad()
def naive_gradients(loss: Tensor) -> dict[int, Tensor]:
    """Each node passes on what it has when it is first met, nearest to the loss first.

    Right in a chain. Where two paths meet, the longer one's share comes after the node has passed
    on the shorter one's, and stays there. The graph is kept.
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

    def linear(n: int = width, m: int = width) -> nn.Linear:
        return nn.Linear(n, m, generator=rng)

    kind = Residual if residual else nn.Sequential
    blocks = [kind(nn.ReLU(), linear(), nn.ReLU(), linear()) for _ in range(3)]
    return nn.Sequential(linear(64), *blocks, nn.ReLU(), linear(m=10))
