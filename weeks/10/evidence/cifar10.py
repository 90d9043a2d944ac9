"""A small ResNet beside a linear model, nearest neighbors and LeNet, on 1,000 test pictures."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from shared import datasets, plots
from shared.stats import paired_bootstrap
from shared.study import PositiveInt, Run
from week10.cifar10 import (
    FilterMuon,
    confusion,
    predict,
    small_resnet,
    standardize,
    train,
    worst,
)
from week10.lenet_alexnet_resnet import LeNet5

NAMES = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
LENET, LINEAR, NEAREST = "LeNet-5", "linear model", "5 nearest neighbors"
RESNET, FLIPS, SHUFFLED = "ResNet", "ResNet, flips in use", "ResNet, shuffled labels"
# the best of three or four for each, on seed 100, 200 steps, judged on 2,000 training pictures
RATES = {"muon": 0.2, "sgd": 0.3, LENET: 0.05, LINEAR: 0.003}
AIRBENCH = 94.0  # percent, in seconds on an A100, from all 50,000 pictures


def main(
    run: Run,
    *,
    optimizer: Literal["sgd", "muon"] = "muon",
    seeds: PositiveInt = 3,
    steps: PositiveInt = 160,
    channels_last: bool = False,
    bf16: bool = False,
) -> None:
    """Train the networks at equal numbers of pictures and compare them on the same test pictures.

    Parameters
    ----------
    optimizer
        Of the ResNet's filters.
    seeds
        Networks of each kind.
    steps
        Of 64 pictures each; with --full a ResNet-14 at full resolution is trained for 2,500.
    channels_last, bf16
        Order of memory, and precision of the products: faster on some machines.
    """
    run.rounding(2e-2, "float32 convolutions, summed in another order, over a few steps")
    check_training(run)
    data = datasets.cifar10(run.budget(quick=1, default=15))
    n_test = run.budget(quick=100, default=1000)
    x, test = (standardize(a) for a in (data.train_images, data.test_images[:n_test]))
    y, test_y = (torch.tensor(a).long() for a in (data.train_labels, data.test_labels[:n_test]))
    fast = {"optimizer": optimizer, "channels_last": channels_last, "bf16": bf16}
    steps = run.budget(quick=3, default=steps, full=max(2500, steps))
    seeds = run.budget(quick=2, default=max(seeds, 2), full=2)
    depth, halve = run.budget(quick=(8, True), default=(8, True), full=(14, False))
    x, y, test, test_y = (a.to(run.device) for a in (x, y, test, test_y))
    logits: dict[str, list[Tensor]] = {}
    for seed in run.progress(range(run.seed, run.seed + seeds), "training"):

        def fit(make: Callable[[], nn.Module], labels: Tensor, seed: int = seed, **options):
            torch.manual_seed(seed)
            model, g = make().to(run.device), torch.Generator().manual_seed(seed)
            train(model, x, labels, generator=g, **{"steps": steps, **options})
            return model

        def resnet() -> nn.Module:
            return small_resnet(depth, halve=halve)

        mixed = y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]
        nets = {
            RESNET: fit(resnet, y, lr=RATES[optimizer], **fast),
            LENET: fit(lambda: LeNet5(channels=3), y, lr=RATES[LENET]),
            LINEAR: fit(linear, y, lr=RATES[LINEAR], padding=0),
            SHUFFLED: fit(
                resnet, mixed, lr=RATES[optimizer], **fast | {"steps": min(steps // 3, 50)}
            ),
        }
        for name, net in nets.items():
            logits.setdefault(name, []).append(predict(net, test).cpu())
        logits.setdefault(FLIPS, []).append(predict(nets[RESNET], test, flips=True).cpu())
    test_y = test_y.cpu()
    right = {name: torch.stack([z.argmax(1) == test_y for z in zs]) for name, zs in logits.items()}
    right[NEAREST] = torch.tensor(nearest(x, y, test) == test_y.numpy())[None]
    judge(run, right)
    draw(run, right, torch.stack(logits[FLIPS]).mean(0), test_y, data.test_images)


def linear() -> nn.Module:
    """Softmax regression on pixels."""
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))


def nearest(x: Tensor, y: Tensor, test: Tensor) -> np.ndarray:
    """Votes of the five nearest training pictures, by scikit-learn."""
    from sklearn.neighbors import KNeighborsClassifier

    rows = [a.flatten(1).cpu().numpy() for a in (x, test)]
    return KNeighborsClassifier(5, algorithm="brute").fit(rows[0], y.cpu().numpy()).predict(rows[1])


def judge(run: Run, right: dict[str, Tensor]) -> None:
    """Differences over test pictures (means over seeds, resampled) and over seeds."""
    percent = {name: 100 * table.double() for name, table in right.items()}
    for name, table in percent.items():
        run.metric(f"accuracy, {name}", table.mean(), "%", rtol=0.4)
    seen = "held-out training pictures, seed 100: 50 %, LeNet-5 37 %; a longer run of all seeds"
    common = {"unit": "points", "quick": False, "rtol": None}

    def over_pictures(name: str, other: str):
        rng = np.random.default_rng(run.seed)
        return paired_bootstrap(*(percent[k].mean(0).numpy() for k in (name, other)), rng=rng)

    for other in (LENET, NEAREST, LINEAR):
        rule = f"ResNet beats {other}, over test pictures"
        run.claim(rule, over_pictures(RESNET, other), at_least=2, seen_before=seen, **common)
        run.falsifier(f"shuffled labels, {other}", over_pictures(SHUFFLED, other), breaks=rule)
    by_seed = {name: table.mean(1) for name, table in percent.items()}
    rule = f"ResNet beats {LENET}, over seeds"
    run.claim(rule, by_seed[RESNET] - by_seed[LENET], at_least=2, seen_before=seen, **common)
    seen = "held-out training pictures, seed 100: a point lost; a longer run: 1 ± 1 gained"
    flips = by_seed[FLIPS] - by_seed[RESNET]
    run.claim("flips in use gain", flips, at_least=0, seen_before=seen, **common)


def draw(run: Run, right: dict[str, Tensor], logits: Tensor, y: Tensor, images: np.ndarray) -> None:
    """The table, what is taken for what, and the pictures of the largest losses."""
    long = "half an hour" if run.mode == "full" else "a minute"
    with run.figure("table", f"What does {long} of training reach?") as ax:
        names = (LINEAR, NEAREST, LENET, RESNET, FLIPS, SHUFFLED)
        values = {name: 100 * right[name].double().mean(1) for name in names}
        colors = (plots.GRAY, plots.GRAY, plots.ORANGE, plots.BLUE, plots.BLUE, plots.SKY)
        reference = {"guessing": 10.0, "airbench, 50,000 pictures": AIRBENCH}
        limits = {"xlim": (0, 100), "xlabel": "accuracy on 1,000 test pictures (%)"}
        plots.bars(ax, values, colors=colors, reference=reference, **limits)
    table = confusion(y, logits.argmax(1), 10)
    with run.figure("confusion", "What is taken for what?", size=(7.2, 5.4)) as ax:
        share = 100 * table / table.sum(1, keepdim=True).clamp(min=1)
        axes = {"xlabel": "answer", "ylabel": "truth", "label": "% of the true class"}
        plots.heat_map(ax, share.numpy(), rows=NAMES, columns=NAMES, **axes)
        ax.tick_params(axis="x", rotation=45)
    title = "Where is it most wrong? Truth, and the answer below it"
    with run.figure("worst", title, rows=2, columns=6, size=(9.0, 4.0)) as axes:
        for ax, row in zip(axes.flat, worst(logits, y, 12).tolist(), strict=True):
            ax.imshow(images[row])
            ax.set_axis_off()
            answer = NAMES[int(logits[row].argmax())]
            ax.set_title(f"{NAMES[int(y[row])]}\n{answer}", fontsize=10, weight="normal")


# ---- checks


def check_training(run: Run) -> None:
    """Three steps against torch's SGD with two groups and its schedule; counts; Muon's step."""
    from sklearn.metrics import confusion_matrix

    torch.manual_seed(run.seed)
    g, steps = run.generator(), 4
    ours, x = small_resnet(8, 4), torch.randn(16, 3, 32, 32, generator=g)
    theirs, y = small_resnet(8, 4), torch.randint(10, (16,), generator=g)
    theirs.load_state_dict(ours.state_dict())
    options = {"lr": 0.1, "steps": steps, "padding": 0, "batch_size": 16}
    losses = train(ours, x, y, generator=run.generator(1), **options)
    weights, rest = ([p for p in theirs.parameters() if (p.ndim > 1) == w] for w in (True, False))
    groups = [{"params": weights, "weight_decay": 5e-4}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=steps, cycle_momentum=False
    )
    expected = []
    for _ in range(steps):
        loss = nn.functional.cross_entropy(theirs(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        expected.append(loss.detach())
    equal = run.against("torch.optim.SGD and OneCycleLR", atol=1e-4, why="float32 rounding")
    equal(f"losses of {steps} steps", losses, torch.stack(expected))

    bank = nn.Parameter(torch.randn(6, 3, 3, 3, generator=g))
    matrix = nn.Parameter(bank.detach().flatten(1).clone())
    muon = FilterMuon([bank], lr=0.1, momentum=0.9)
    their_muon = torch.optim.Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.0)
    for _ in range(3):
        bank.grad = torch.randn(bank.shape, generator=g)
        matrix.grad = bank.grad.flatten(1).clone()
        muon.step()
        their_muon.step()
    why = "torch's Newton-Schulz iteration is in bfloat16"
    run.check(
        "three steps of Muon",
        bank.flatten(1),
        matrix,
        against="torch.optim.Muon",
        atol=2e-2,
        why=why,
    )
    answers = torch.randint(10, (16,), generator=g)
    counts = confusion_matrix(y, answers, labels=range(10))
    exact = run.against("sklearn's confusion_matrix", why="whole numbers")
    exact("confusion", confusion(y, answers, 10), counts)
