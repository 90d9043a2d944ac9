"""Checks, claims and figures of training_loop."""

import copy
import math
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

from shared import datasets, plots
from shared.study import PositiveFloat, PositiveInt, Run
from week08.loop_by_hand import train_by_hand
from week08.training_loop import Table, evaluate, fit, prepare, split, train_epoch

PARTS = (1197, 300, 300)  # training, validation, test


def main(
    run: Run,
    *,
    epochs: PositiveInt = 40,
    batch_size: PositiveInt = 64,
    lr: PositiveFloat = 5e-3,
    patience: PositiveInt = 10,
) -> None:
    """Check the loop, train it on digits, then break it in the usual ways.

    Parameters
    ----------
    epochs
        Longest training; the learning rate reaches zero there.
    batch_size
        Samples a step.
    lr
        Highest learning rate of AdamW.
    patience
        Epochs without a lower validation loss before the loop stops.
    """
    run.rounding(5e-2, "float32 steps amplify rounding, which differs between processors")
    digits = datasets.digits()
    x = torch.from_numpy(digits.images.reshape(-1, 64) / 16).float()  # 16 is the format's maximum
    y = torch.from_numpy(digits.labels).long()
    options = {"batch_size": batch_size, "lr": lr, "epochs": run.budget(quick=2, default=epochs)}
    check_steps(run, x.double(), y)
    look_more_often(run, x, y)
    stop_and_resume(run, x, y, **options)
    learn(run, x, y, patience=patience, **options)
    forget_zero_grad(run, x, y, **{**options, "epochs": min(options["epochs"], 10)})
    forget_eval_and_weights(run, x, y, **options)


def check_steps(run: Run, x, y) -> None:
    """The loop with helpers against the loop by hand; 211 = 13 * 16 + 3: a short last batch."""
    epochs, clip, small = 3, 0.5, Table(x[:211], y[:211])
    options = {"batch_size": 16, "lr": 1e-2, "weight_decay": 0.1, "dropout": 0.3}
    training, valid = prepare(small, small, epochs=epochs, width=20, seed=run.seed, **options)
    model = training.model
    weights = {name: t.clone() for name, t in model.state_dict().items() if t.ndim}
    torch.manual_seed(run.seed + 1)
    losses = []
    for _ in range(epochs):
        parts = (model, training.loader, training.optimizer, training.scheduler)
        losses += train_epoch(*parts, clip=clip)
    streams = {"order": run.generator(), "masks": run.generator(1)}
    by_hand = train_by_hand(
        weights, small.x, small.y, epochs=epochs, clip=clip, **options, **streams
    )
    theirs = model.state_dict()
    check = run.against(
        "torch's DataLoader, nn, AdamW, clip_grad_norm_, LambdaLR",
        atol=1e-9,
        why="float64 rounding over 42 steps of Adam, which divides by small roots",
    )
    check("losses of 42 steps by hand", np.array(by_hand), np.array(losses))
    ours, theirs = (torch.cat([w[n].flatten() for n in weights]) for w in (weights, theirs))
    check("weights and running statistics after them", ours, theirs, atol=1e-8)

    from sklearn.metrics import accuracy_score, log_loss

    with torch.no_grad():
        p = model.eval()(small.x).softmax(dim=1).numpy()
    check = run.against("sklearn.metrics", atol=1e-12, why="float64 rounding of a sum")
    expected = np.array([log_loss(small.y, p), accuracy_score(small.y, p.argmax(1))])
    check("validation loss and accuracy", np.array(evaluate(model, valid)), expected)


def look_more_often(run: Run, x, y) -> None:
    """What a validation loader does to the training if it has no generator of its own."""
    losses = {}
    for validations in (1, 3):
        table = Table(x[:301], y[:301])
        options = {"epochs": 3, "batch_size": 32, "lr": 1e-3, "seed": run.seed, "dropout": 0.5}
        training, _ = prepare(table, table, **options)
        parts = (training.model, training.loader, training.optimizer, training.scheduler)
        for _ in range(3):
            training.losses += train_epoch(*parts, clip=1.0)
            for _ in range(validations):
                evaluate(training.model, DataLoader(table, batch_size=128))
        losses[validations] = np.array(training.losses)
    run.claim(
        "a validation loader without a generator of its own changes the training",
        [np.abs(losses[3] - losses[1]).max()],
        at_least=1e-3,
        unit="nats",
        deterministic=True,
        note="largest change of a training loss when validating 3 times an epoch",
    )


def stop_and_resume(run: Run, x, y, *, epochs: int, **options) -> None:
    """A run stopped half-way and resumed from disk, beside the one that was never stopped."""
    epochs = min(epochs, 20)
    half = epochs // 2
    train, valid, _ = split(x, y, parts=PARTS, seed=run.seed)
    folder = run.out / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)

    def fresh(seed: int = run.seed):
        return prepare(train, valid, epochs=epochs, seed=seed, **options)

    straight = np.array(fit(*fresh(), epochs=epochs).losses)
    fit(*fresh(), epochs=half, folder=folder)

    def resumed(left_out: str) -> np.ndarray:
        """All training losses, with a part left out of the checkpoint."""
        # another seed: whatever is not in the checkpoint is different now
        training, valid_loader = fresh(run.seed + 99)
        schedule = training.scheduler.state_dict()
        training.load(folder)
        if left_out == "Adam's running means":
            training.optimizer.state.clear()
        elif left_out == "the schedule":
            training.scheduler.load_state_dict(schedule)
        elif left_out == "the order's generator":
            training.loader.generator.manual_seed(run.seed)
        elif left_out == "the dropout stream":
            torch.manual_seed(run.seed)
        return np.array(fit(training, valid_loader, epochs=epochs).losses)

    parts = ["the order's generator", "the schedule", "the dropout stream", "Adam's running means"]
    losses = {part: resumed(part) for part in [*parts, "nothing"]}
    run.check(
        "training losses, stopped half-way and resumed",
        losses["nothing"],
        straight,
        against="the run that was never stopped",
        kind="consistency",
        why="bitwise: everything that changes is in the checkpoint",
    )
    gaps = {part: np.abs(values - straight) for part, values in losses.items()}
    run.claim(
        "whatever is left out of the checkpoint, the run becomes another",
        [min(gaps[part].max() for part in parts)],
        at_least=1e-3,
        unit="nats",
        deterministic=True,
        note="largest change of a training loss, the least of the four parts",
    )
    with run.figure("resume", "What must a checkpoint hold, besides the weights?") as axes:
        lines = {f"− {p}": gap.reshape(epochs, -1)[half:].mean(1) for p, gap in gaps.items()}
        label = f"epochs (stopped and resumed after {half})"
        distance = "distance from the run never stopped\n(mean |difference| of the losses, nats)"
        at = range(half + 1, epochs + 1)
        plots.curves(axes, at, lines, marker="o", xlabel=label, ylabel=distance, xticks=at)


# ---- it trains


def learn(run: Run, x, y, *, epochs: int, patience: int, **options) -> None:
    """Five seeds with early stopping; the control learns shuffled labels."""
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=5, full=10))
    real, control, accuracy = [], [], []
    for seed in run.progress(seeds, "seeds"):
        train, valid, test = split(x, y, parts=PARTS, seed=seed)
        training, valid_loader = prepare(train, valid, epochs=epochs, seed=seed, **options)
        real.append(fit(training, valid_loader, epochs=epochs, patience=patience))
        accuracy.append(100 * evaluate(training.model, DataLoader(test, len(test))).accuracy)

        generator = torch.Generator().manual_seed(seed)
        shuffled = Table(train.x, train.y[torch.randperm(len(train), generator=generator)])
        training, valid_loader = prepare(shuffled, valid, epochs=epochs, seed=seed, **options)
        control.append(fit(training, valid_loader, epochs=epochs))

    steps = len(training.loader)
    ends, by_heart = (np.array([np.mean(t.losses[-steps:]) for t in ts]) for ts in (real, control))
    chance = [100 * t.valid[-1].accuracy for t in control]
    common = {"quick": False, "note": "by seed, each with a split of its own"}
    fits, reads = "it fits the training digits", "it reads held-out digits"
    run.claim(fits, ends, at_most=0.1, unit="nats at the end", **common)
    run.claim(reads, accuracy, at_least=95, unit="% right", **common)
    run.falsifier("shuffled labels", chance, breaks=reads)
    run.claim(
        "shuffled labels are partly learned by heart",
        math.log(10) - by_heart,
        at_least=0.25 * math.log(10),
        unit="nats below ln 10",
        **common,
    )
    title, size = "The same loop, with a signal and without", {"size": (9.0, 4.2), "sharey": True}
    with run.figure("learning", title, 1, 2, **size) as axes:
        for panel, t, labels in zip(axes, (real[0], control[0]), ("true", "shuffled"), strict=True):
            train = np.array(t.losses).reshape(-1, steps).mean(1)
            lines = {"training": train, "validation": [scores.loss for scores in t.valid]}
            at = {"xlabel": f"epochs ({labels} labels)", "yscale": "log", "ends": False}
            reference = {"guessing: ln 10": math.log(10)}
            plots.curves(panel, range(1, len(train) + 1), lines, reference=reference, **at)
            panel.plot(t.best_epoch, t.best_loss, "o", color=plots.ORANGE, label="weights kept")
            panel.legend()
        axes[0].set_ylabel("loss (nats)")


# ---- failures on display


def forget_zero_grad(run: Run, x, y, *, epochs: int, lr: float, **_) -> None:
    """The same runs with gradients that add up for ever, under four recipes."""
    recipes = ("SGD", "SGD, clipped", "AdamW", "AdamW, clipped")
    # small batches make many steps: the sum of all gradients grows with their number
    options = {"epochs": epochs, "lr": lr, "batch_size": 32}
    losses = {(recipe, forget): [] for recipe in recipes for forget in (False, True)}
    final = {key: [] for key in losses}
    for seed in range(run.seed, run.seed + run.budget(quick=2, default=5)):
        train, valid, _ = split(x, y, parts=PARTS, seed=seed)
        for recipe, forget in losses:
            training, valid_loader = prepare(train, valid, seed=seed, **options)
            clip = 1.0 if recipe.endswith("clipped") else math.inf
            if recipe.startswith("SGD"):
                sgd = training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
                training.scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
            if forget:
                training.optimizer.zero_grad = lambda: None
            fit(training, valid_loader, epochs=epochs, clip=clip)
            losses[recipe, forget].append(np.array(training.losses).reshape(epochs, -1).mean(1))
            final[recipe, forget].append(100 * training.valid[-1].accuracy)
    lost = {r: np.array(final[r, False]) - np.array(final[r, True]) for r in recipes}
    common = {"unit": "points of accuracy lost", "note": "by seed", "quick": False}
    run.claim("a forgotten zero_grad ruins SGD", lost["SGD"], at_least=5, **common)
    hidden = "AdamW with clipping hides it"
    run.claim(hidden, lost["AdamW, clipped"], at_most=3, **common)
    run.falsifier("SGD without clipping", lost["SGD"], breaks=hidden)
    title = "zero_grad forgotten: a bug that the optimizer can hide"
    with run.figure("zero_grad", title, 1, 4, size=(10.0, 3.6), sharey=True) as axes:
        for panel, recipe in zip(axes, recipes, strict=True):
            lines = {"as it should be": losses[recipe, False], "forgotten": losses[recipe, True]}
            label = f"epochs of {recipe}\n({lost[recipe].mean():.1f} points lost)"
            at = {"xlabel": label, "yscale": "log", "ends": False}
            plots.curves(panel, range(1, epochs + 1), lines, **at)
        axes[0].set_ylabel("training loss (nats)")


@torch.no_grad()
def forget_eval_and_weights(run: Run, x, y, *, epochs: int, **options) -> None:
    """One model, one validation set: numbers that depend on how it is cut into batches."""
    train, valid, _ = split(x, y, parts=PARTS, seed=run.seed)
    training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed, **options)
    with torch.enable_grad():
        model = fit(training, valid_loader, epochs=min(epochs, 10)).model
    n = len(valid)
    losses = F.cross_entropy(model.eval()(valid.x), valid.y, reduction="none").double()
    truth = losses.mean().item()
    means = [np.mean([part.mean() for part in losses.split(size)]) for size in range(1, n + 1)]
    errors = 100 * np.abs(np.array(means) / truth - 1)
    worst = int(errors.argmax()) + 1

    torch.manual_seed(run.seed)
    right = 100 * evaluate(model, valid_loader).accuracy
    sizes, accuracy, loss = [2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 75, 100, 150, 300], [], []
    for size in sizes:
        wrong = copy.deepcopy(model).train()
        hits = [wrong(rows).argmax(1) == labels for rows, labels in DataLoader(valid, size)]
        accuracy.append(100 * torch.cat(hits).double().mean().item())
        loss.append(F.cross_entropy(wrong.eval()(valid.x), valid.y).item() / truth)
    run.metric("accuracy in train mode, batches of 2", accuracy[0], "%", rtol=None)
    run.metric("accuracy in eval mode", right, "%", rtol=None)
    run.metric("loss after being evaluated in train mode", loss[0], "times", rtol=None)
    common = {"deterministic": True, "quick": False}
    run.claim(
        "an evaluation in train mode depends on its batch size",
        [right - accuracy[0]],
        at_least=10,
        unit="points of accuracy lost",
        note="batches of 2",
        **common,
    )
    run.claim(
        "a mean of batch means depends on the batch size",
        [errors.max()],
        at_least=20,
        unit="% off the true loss",
        note=f"batches of {worst}, which leave {n % worst} for the last",
        **common,
    )
    title = "An honest evaluation does not depend on its batch size"
    at = {"xlabel": "evaluation batch size (samples)", "colors": [plots.ORANGE], "ends": False}
    with run.figure("evaluation", title, 1, 2, size=(9.0, 4.2)) as axes:
        label, ours = "validation accuracy (%)", {"eval mode": right}
        lines = {"train mode, eval() forgotten": accuracy}
        plots.curves(axes[0], sizes, lines, reference=ours, ylabel=label, xscale="log", **at)
        label, ours = "validation loss (nats)", {"mean over samples": truth}
        lines = {"mean of the batches' means": means}
        plots.curves(axes[1], range(1, n + 1), lines, reference=ours, ylabel=label, **at)
