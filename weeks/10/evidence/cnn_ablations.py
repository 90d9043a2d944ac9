"""Batch normalization and training against torch's; one part changed at a time, on MNIST."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shared import datasets, plots
from shared.study import PositiveInt, Run
from week10.augmentation import crop, random_crop, random_flip
from week10.cnn_ablations import BatchNorm2d, Recipe, SmallCNN, accuracy, train, weight_std

SHIFT = 2
moved = partial(random_crop, padding=SHIFT)
# recipe, augmentation, and the best of the rates 0.02, 0.05, 0.1, 0.2, 0.5
# on seeds 100 and 101 (without batch norm, where seeds differ much, 100 to 103), on other pictures
ARMS = {
    "all of it": (Recipe(), None, 0.5),
    "no batch norm": (Recipe(norm=False), None, 0.05),
    "Glorot's weights": (Recipe(init="glorot"), None, 0.2),
    "small weights": (Recipe(init="small"), None, 0.2),
    "small weights, no batch norm": (Recipe(norm=False, init="small"), None, 0.2),
    "tanh": (Recipe(activation="tanh"), None, 0.2),
    "sigmoid": (Recipe(activation="sigmoid"), None, 0.5),
    "sigmoid, no batch norm": (Recipe(norm=False, activation="sigmoid"), None, 0.2),
    "moved": (Recipe(), moved, 0.2),
    "mirrored": (Recipe(), random_flip, 0.5),
    "shuffled labels": (Recipe(), None, 0.5),
}


def main(run: Run, *, seeds: PositiveInt = 3, steps: PositiveInt = 100) -> None:
    """Check the parts, then train with each part changed, and all at equal budgets.

    Parameters
    ----------
    seeds
        Trainings of each arm; seeds are shared, so that differences are paired.
    steps
        Steps of 64 pictures in each.
    """
    run.rounding(2e-2, "float32 convolutions, summed in another order, over a few steps")
    check_batch_norm(run)
    check_crops(run)
    check_training(run)
    seeds, steps = run.budget(quick=2, default=seeds), run.budget(quick=4, default=steps)
    x, y, test_x, test_y = half_mnist(*run.budget(quick=(300, 200), default=(2000, 1000)))
    right, moved_right = {name: [] for name in ARMS}, {"all of it": [], "moved": []}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training all arms"):
        mixed = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
        places = torch.randint(2 * SHIFT + 1, (len(test_x), 2), generator=run.generator(seed))
        elsewhere = crop(test_x, places, padding=SHIFT)
        for name in ARMS:
            model = fit(name, x, mixed if "shuffled" in name else y, steps=steps, seed=seed)
            right[name].append(accuracy(model, test_x, test_y))
            if name in moved_right:
                moved_right[name].append(accuracy(model, elsewhere, test_y))
    judge(run, right, moved_right)


def half_mnist(n_train: int, n_test: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures of 14 × 14 pixels between 0 and 1 with their digits, to train on and to test on."""
    data, found = datasets.mnist(), []
    for images, labels, n in (
        (data.train_images, data.train_labels, n_train),
        (data.test_images, data.test_labels, n_test),
    ):
        x = torch.tensor(images[:n]).float()[:, None] / 255
        found += [F.avg_pool2d(x, 2), torch.tensor(labels[:n]).long()]
    return tuple(found)


def fit(
    name: str, x: Tensor, y: Tensor, *, steps: int, seed: int, lr: float | None = None
) -> SmallCNN:
    """One arm trained; arms of one seed see the same rows."""
    recipe, augment, best = ARMS[name]
    model = SmallCNN(recipe, generator=torch.Generator().manual_seed(seed))
    g = torch.Generator().manual_seed(1000 + seed)
    train(model, x, y, lr=best if lr is None else lr, steps=steps, generator=g, augment=augment)
    return model


def judge(run: Run, right: dict[str, list], moved_right: dict[str, list]) -> None:
    """The claims: differences of accuracy, paired by seed."""

    def gain(better: str, worse: str, table: dict[str, list] = right) -> list[float]:
        return [a - b for a, b in zip(table[better], table[worse], strict=True)]

    for name, values in right.items():
        run.metric(f"accuracy, {name}", sum(values) / len(values), "%", rtol=0.3)
    seen = "all seeds, at a rate too high without batch norm; margins 60 and 30 came after"
    common = {"unit": "points", "quick": False, "rtol": None, "seen_before": seen}
    rule = "batch norm gains with He's weights"
    normed = gain("all of it", "no batch norm")
    run.claim(rule, normed, at_least=0, **common)
    rule = "batch norm makes up for small weights"
    repaired = gain("small weights", "small weights, no batch norm")
    run.claim(rule, repaired, at_least=60, each=True, **common)
    run.falsifier("with He's weights", normed, breaks=rule)
    rule = "without batch norm ReLU beats the sigmoid"
    run.claim(
        rule, gain("no batch norm", "sigmoid, no batch norm"), at_least=30, each=True, **common
    )
    run.falsifier("with batch norm", gain("all of it", "sigmoid"), breaks=rule)
    rule = "with batch norm Glorot's weights do as well as He's"
    same = gain("all of it", "Glorot's weights")
    run.claim(rule, same, at_least=-1, at_most=1, **common)
    rule = "moved pictures in training gain on pictures as they are"
    run.claim(rule, gain("moved", "all of it"), at_least=0, **common)
    run.falsifier("mirrored digits", gain("mirrored", "all of it"), breaks=rule)
    rule = "moved pictures in training gain on moved pictures"
    run.claim(rule, gain("moved", "all of it", moved_right), at_least=2, **common)
    control = right["shuffled labels"]
    run.claim("shuffled labels teach nothing", control, at_most=20, **common | {"unit": "% right"})
    for name, values in moved_right.items():
        run.metric(f"accuracy on moved digits, {name}", sum(values) / len(values), "%", rtol=0.3)
    with run.figure("arms", "What is each part worth?", size=(8.0, 4.8)) as ax:
        colors = [plots.BLUE] + [plots.SKY] * 7 + [plots.GREEN] * 2 + [plots.GRAY]
        guess = {"guessing": 10.0}
        plots.bars(ax, right, colors=colors, reference=guess, xlabel="test accuracy (%)")


# ---- checks


def check_batch_norm(run: Run) -> None:
    """Outputs, gradients and what is remembered, over three batches; then in use."""
    g = run.generator()
    ours, theirs = BatchNorm2d(5).double(), nn.BatchNorm2d(5).double()
    for tensor in (*ours.parameters(), *theirs.parameters()):
        tensor.data.copy_(torch.linspace(0.5, 1.5, 5))
    equal = run.against("nn.BatchNorm2d", atol=1e-12, why="float64 rounding")
    outputs, gradients = ([], []), ([], [])
    for _ in range(3):
        x = torch.randn(4, 5, 6, 3, generator=g, dtype=torch.float64).mul(3).requires_grad_()
        up = torch.randn(x.shape, generator=g, dtype=torch.float64)
        for side, norm in enumerate((ours, theirs)):
            y = norm(x)
            outputs[side].append(y)
            parts = torch.autograd.grad(y, (x, norm.weight, norm.bias), up)
            gradients[side].append(torch.cat([p.flatten() for p in parts]))
    equal("normalized batches", *map(torch.stack, outputs))
    equal("gradients through the statistics", *map(torch.stack, gradients), atol=1e-11)
    equal("remembered mean", ours.running_mean, theirs.running_mean)
    equal("remembered variance", ours.running_var, theirs.running_var)
    equal("in use", ours.eval()(x), theirs.eval()(x))


def check_crops(run: Run) -> None:
    """Crops at all places against torchvision's."""
    from torchvision.transforms.functional import crop as their_crop
    from torchvision.transforms.functional import pad

    x = torch.randn(25, 3, 6, 7, generator=run.generator(1))
    corners = torch.cartesian_prod(torch.arange(5), torch.arange(5))
    padded = pad(x, 2, fill=0.5)
    theirs = [their_crop(padded[i], *corners[i].tolist(), 6, 7) for i in range(25)]
    equal = run.against("torchvision's pad and crop", why="the same numbers, moved")
    equal("crops at all 25 places", crop(x, corners, padding=2, fill=0.5), torch.stack(theirs))


def check_training(run: Run) -> None:
    """First weights and five steps against torch's initialization, layers and optimizer."""
    x, y, steps = *half_mnist(100, 1)[:2], 5
    ours = SmallCNN(Recipe(), generator=run.generator())
    layers, g = [], run.generator()
    for conv in ours.convs:
        twin = nn.Conv2d(conv.in_channels, conv.out_channels, 3, conv.stride, padding=1, bias=False)
        nn.init.kaiming_normal_(twin.weight, nonlinearity="relu", generator=g)
        layers += [twin, nn.BatchNorm2d(conv.out_channels), nn.ReLU()]
    head = nn.Linear(32, 10)
    head.load_state_dict(ours.fc.state_dict())
    theirs = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    equal = run.against("nn.init", atol=1e-6, why="float32 rounding")
    equal("He's weights", ours.convs[3].weight, layers[9].weight)
    glorot = nn.init.xavier_normal_(torch.empty(32, 16, 3, 3), generator=run.generator())
    drawn = torch.randn(32, 16, 3, 3, generator=run.generator())
    equal("Glorot's weights", weight_std("glorot", 9 * 16, 9 * 32) * drawn, glorot)
    losses = train(ours, x, y, lr=0.1, steps=steps, generator=run.generator(3))
    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=steps, cycle_momentum=False
    )
    g, expected = run.generator(3), []
    for _ in range(steps):
        rows = torch.randint(100, (64,), generator=g)
        loss = F.cross_entropy(theirs(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.detach())
    equal = run.against("torch's layers, SGD and OneCycleLR", atol=1e-4, why="float32 rounding")
    equal(f"losses of {steps} steps", losses, torch.stack(expected))
