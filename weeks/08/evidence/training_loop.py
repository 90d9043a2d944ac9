"""Checks, claims and figures of training_loop."""

import copy
import itertools
import math
import shutil

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader

from shared import plots
from shared.study import PositiveFloat, PositiveInt, Run
from week08.loop_by_hand import draw_order, train_by_hand
from week08.training_loop import (
    Table,
    evaluate,
    fit,
    make_loaders,
    make_model,
    prepare,
    split,
    train_epoch,
    warmup_cosine,
)

PARTS = (1197, 300, 300)  # training, validation, test


# ---- checks


def check_helpers(run: Run, x, y) -> None:
    """Each helper against what it stands for: order, loop, gradient, schedule."""
    numbers = torch.arange(50.0, dtype=torch.float64)[:, None]
    loader, _ = make_loaders(Table(numbers, y[:50]), Table(numbers, y[:50]), batch_size=8, seed=3)
    seen = [batch[:, 0] for _ in range(3) for batch, _ in loader]
    generator, expected = torch.Generator().manual_seed(3), []
    for _ in range(3):
        expected += draw_order(50, generator).double().split(8)
    run.check(
        "rows of 21 batches in 3 epochs",
        torch.cat(expected),
        torch.cat(seen),
        against="torch.utils.data.DataLoader",
        why="the same integers",
    )

    epochs, clip, dropout, rows = 3, 0.5, 0.3, 211  # 211 = 13 * 16 + 3: a short last batch
    small = Table(x[:rows], y[:rows])
    options = {"batch_size": 16, "lr": 1e-2, "weight_decay": 0.1, "dropout": dropout}
    training, _ = prepare(small, small, epochs=epochs, width=20, seed=run.seed, **options)
    weights = {n: t.clone() for n, t in training.model.state_dict().items() if t.ndim}
    torch.manual_seed(run.seed + 1)
    losses = []
    for _ in range(epochs):
        losses += train_epoch(
            training.model, training.loader, training.optimizer, training.scheduler, clip=clip
        )
    by_hand = train_by_hand(
        weights,
        small.x,
        small.y,
        epochs=epochs,
        clip=clip,
        order=run.generator(),
        masks=run.generator(1),
        **options,
    )
    theirs = training.model.state_dict()
    helpers = "torch's DataLoader, nn, AdamW, clip_grad_norm_, LambdaLR"
    why = "float64 rounding over 42 steps of Adam, which divides by small roots"
    run.check(
        "losses of 42 steps by hand",
        np.array(by_hand),
        np.array(losses),
        against=helpers,
        atol=1e-9,
        why=why,
    )
    run.check(
        "weights and running statistics after them",
        torch.cat([t.flatten() for t in weights.values()]),
        torch.cat([theirs[name].flatten() for name in weights]),
        against=helpers,
        atol=1e-8,
        why=why,
    )
    check_gradient(run, x, y)

    warmup, total = 7, 60
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    schedule = torch.optim.lr_scheduler
    start = schedule.LinearLR(optimizer, 1 / (warmup + 1), 1.0, total_iters=warmup)
    rest = schedule.CosineAnnealingLR(optimizer, total - warmup)
    both = schedule.SequentialLR(optimizer, [start, rest], milestones=[warmup])
    factors = []
    for _ in range(total):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        both.step()
    run.check(
        "factors of the learning rate, 60 steps",
        np.array([warmup_cosine(i, total=total, warmup=warmup) for i in range(total)]),
        np.array(factors),
        against="torch LinearLR then CosineAnnealingLR",
        atol=1e-12,
        why="torch's recursion rounds at each step",
    )


def check_gradient(run: Run, x, y) -> None:
    """The loop on softmax regression, against NumPy with the gradient X'(p - onehot) / |B|."""
    table = Table(x[:200], y[:200])
    torch.manual_seed(run.seed)
    model = nn.Linear(64, 10).double()
    w, b = (p.detach().numpy().copy() for p in model.parameters())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    constant = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    loader, _ = make_loaders(table, table, batch_size=48, seed=run.seed)
    losses = [train_epoch(model, loader, optimizer, constant, clip=math.inf) for _ in range(4)]
    loader, _ = make_loaders(table, table, batch_size=48, seed=run.seed)
    expected, speed = [], [np.zeros_like(w), np.zeros_like(b)]
    for rows, labels in itertools.chain.from_iterable(itertools.repeat(loader, 4)):
        rows, onehot = rows.numpy(), np.eye(10)[labels.numpy()]
        logits = rows @ w.T + b
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        expected.append(-np.log((p * onehot).sum(1)).mean())
        slope = (p - onehot) / len(rows)
        for parameter, v, g in zip((w, b), speed, (slope.T @ rows, slope.sum(0)), strict=True):
            v *= 0.9
            v += g
            parameter -= 0.5 * v
    run.check(
        "losses of 20 steps, softmax regression",
        np.concatenate(losses),
        np.array(expected),
        against="NumPy, gradient X'(p - onehot) / |B|, momentum by hand",
        atol=1e-11,
        why="float64 rounding over 20 steps",
    )


def check_evaluation(run: Run, x, y) -> None:
    """The validation score is a mean over samples, whatever the batches, and disturbs nothing."""
    from sklearn.metrics import accuracy_score, log_loss

    torch.manual_seed(run.seed)
    model = make_model(64, 10).double().eval()
    x = x.double()
    with torch.no_grad():
        p = model(x[:301]).softmax(dim=1).numpy()
    for batch in (1, 7, 300):
        scores = evaluate(model, DataLoader(Table(x[:301], y[:301]), batch_size=batch))
        run.check(
            f"validation loss and accuracy, batches of {batch}",
            np.array(scores),
            np.array([log_loss(y[:301], p), accuracy_score(y[:301], p.argmax(1))]),
            against="sklearn.metrics",
            atol=1e-12,
            why="float64 rounding of a sum",
        )

    def losses(*, validations: int, own: bool) -> list[float]:
        table = Table(x[:301].float(), y[:301])
        training, valid = prepare(
            table, table, epochs=3, batch_size=32, lr=1e-3, seed=run.seed, dropout=0.5
        )
        if not own:
            valid = DataLoader(table, batch_size=128)
        for _ in range(3):
            training.losses += train_epoch(
                training.model, training.loader, training.optimizer, training.scheduler, clip=1.0
            )
            for _ in range(validations):
                evaluate(training.model, valid)
        return training.losses

    once = losses(validations=1, own=True)
    run.check(
        "training losses, validated three times an epoch",
        np.array(losses(validations=3, own=True)),
        np.array(once),
        against="validated once an epoch",
        why="validation must not touch the training",
    )
    shared = np.array(losses(validations=1, own=False)), np.array(losses(validations=3, own=False))
    change = np.abs(shared[1] - shared[0]).max()
    run.claim(
        "a validation loader without a generator of its own changes the training",
        [change],
        at_least=1e-3,
        unit="nats",
        deterministic=True,
        note="largest change of a training loss when validating 3 times an epoch",
    )


def check_resume(run: Run, x, y, *, epochs: int, **options) -> None:
    """A run stopped half-way and resumed from disk, beside the one that was never stopped."""
    epochs = min(epochs, 20)
    half = epochs // 2
    train, valid, _ = split(x, y, parts=PARTS, seed=run.seed)
    folder = run.out / "checkpoint"
    shutil.rmtree(folder, ignore_errors=True)

    training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed, **options)
    straight = fit(training, valid_loader, epochs=epochs)

    training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed, **options)
    fit(training, valid_loader, epochs=half, folder=folder)
    # another seed: whatever is not in the checkpoint would be different now
    training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed + 99, **options)
    training.load(folder)
    resumed = fit(training, valid_loader, epochs=epochs)
    run.check(
        "training losses, stopped half-way and resumed",
        np.array(resumed.losses),
        np.array(straight.losses),
        against="the run that was never stopped",
        why="bitwise: everything that changes is in the checkpoint",
    )
    run.check(
        "best weights, stopped half-way and resumed",
        torch.cat([t.flatten().double() for t in resumed.model.state_dict().values()]),
        torch.cat([t.flatten().double() for t in straight.model.state_dict().values()]),
        against="the run that was never stopped",
        why="bitwise: everything that changes is in the checkpoint",
    )

    def without(part: str) -> np.ndarray:
        """|difference| of each training loss after the stop, `part` left out of the checkpoint."""
        training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed, **options)
        fresh = training.scheduler.state_dict()
        training.load(folder)
        if part == "Adam's running means":
            training.optimizer.state.clear()
        elif part == "the schedule":
            training.scheduler.load_state_dict(fresh)
        elif part == "the order's generator":
            training.loader.generator.manual_seed(run.seed)
        elif part == "the dropout stream":
            torch.manual_seed(run.seed)
        fit(training, valid_loader, epochs=epochs)
        return np.abs(np.array(training.losses) - straight.losses)[half * steps :]

    steps = len(resumed.loader)
    parts = {
        "the order's generator": plots.ORANGE,
        "the schedule": plots.GREEN,
        "the dropout stream": plots.PINK,
        "Adam's running means": plots.SKY,
    }
    gaps = {part: without(part) for part in parts}
    run.claim(
        "whatever is left out of the checkpoint, the run becomes another",
        [min(gap.max() for gap in gaps.values())],
        at_least=1e-3,
        unit="nats",
        deterministic=True,
        note="largest change of a training loss, the least of the four parts",
    )
    for part, gap in gaps.items():
        run.metric(f"largest change of a loss without {part}", gap.max(), "nats", rtol=None)
    with run.figure("resume", "What must a checkpoint hold, besides the weights?") as axes:
        at = half + np.arange(1, epochs - half + 1)
        for part, color in parts.items():
            gap = gaps[part].reshape(-1, steps).mean(1)
            axes.plot(at, gap, "o-", color=color, label=part)
        zero = np.abs(np.array(resumed.losses) - straight.losses)[half * steps :]
        axes.plot(at, zero.reshape(-1, steps).mean(1), "o-", color=plots.BLUE, label="nothing: 0")
        axes.set(
            xlabel=f"epochs (stopped and resumed after {half})",
            ylabel="distance from the run never stopped\n(mean |difference| of the losses, nats)",
            xticks=at,
        )
        axes.text(1.01, 1.0, "left out:", transform=axes.transAxes, color=plots.REFERENCE)
        plots.label_lines(axes)


# ---- it trains


def learn(run: Run, x, y, *, epochs: int, patience: int, **options) -> None:
    """Five seeds with early stopping; the control learns shuffled labels."""
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=5, full=10))
    real, control, tested, stopped = [], [], [], []
    for seed in run.progress(seeds, "seeds"):
        train, valid, test = split(x, y, parts=PARTS, seed=seed)
        training, valid_loader = prepare(train, valid, epochs=epochs, seed=seed, **options)
        real.append(fit(training, valid_loader, epochs=epochs, patience=patience))
        tested.append(evaluate(training.model, DataLoader(test, batch_size=len(test))))
        stopped.append(training.epoch)

        generator = torch.Generator().manual_seed(seed)
        shuffled = Table(train.x, train.y[torch.randperm(len(train), generator=generator)])
        training, valid_loader = prepare(shuffled, valid, epochs=epochs, seed=seed, **options)
        control.append(fit(training, valid_loader, epochs=epochs))

    steps = len(training.loader)
    run.metric("epochs until it stopped", float(np.mean(stopped)), "", rtol=None)
    ends = np.array([np.mean(t.losses[-steps:]) for t in real])
    by_heart = np.array([np.mean(t.losses[-steps:]) for t in control])
    accuracy = [100 * scores.accuracy for scores in tested]
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
    draw_learning(run, real, control, steps)


def draw_learning(run: Run, real, control, steps: int) -> None:
    """Training and validation loss of the first seed, and of the same with shuffled labels."""
    size = {"size": (8.6, 4.2), "sharey": True}
    with run.figure("learning", "The same loop, with a signal and without", 1, 2, **size) as axes:
        for panel, training, title in zip(
            axes, (real[0], control[0]), ("true labels", "shuffled labels"), strict=True
        ):
            train = np.array(training.losses).reshape(-1, steps).mean(1)
            valid = [scores.loss for scores in training.valid]
            at = np.arange(1, len(train) + 1)
            panel.plot(at, train, color=plots.BLUE)
            panel.plot(at, valid, color=plots.ORANGE)
            panel.plot(training.best_epoch, training.best_loss, "o", color=plots.ORANGE, ms=8)
            panel.axhline(math.log(10), color=plots.REFERENCE, lw=1, ls="--")
            panel.set_title(
                f"{title}: {training.valid[-1].accuracy:.0%} right on held-out digits",
                fontsize=11,
                weight="normal",
            )
            panel.set(xlabel="epochs", yscale="log", xlim=(0, len(control[0].valid)))
        stop, last = real[0].epoch, real[0].valid[-1].loss
        axes[0].text(stop, 1.15 * last, "  validation", color=plots.ORANGE)
        axes[0].text(stop, np.mean(real[0].losses[-steps:]), "  training", color=plots.BLUE)
        axes[0].annotate(
            "these weights are kept",
            (real[0].best_epoch, real[0].best_loss),
            xytext=(0, 40),
            textcoords="offset points",
            ha="center",
            color=plots.ORANGE,
            arrowprops={"arrowstyle": "-", "color": plots.ORANGE},
        )
        axes[0].text(len(control[0].valid), 2.1, "guessing: ln 10", ha="right", va="top")
        axes[0].set_ylabel("loss (nats)")


# ---- failures on display


def break_it(run: Run, x, y, *, epochs: int, **options) -> None:
    """A forgotten zero_grad, a forgotten eval(), a mean of means: each with its curve."""
    # many steps, because the sum of all gradients grows with their number
    forget_zero_grad(run, x, y, epochs=min(epochs, 10), **{**options, "batch_size": 32})
    train, valid, _ = split(x, y, parts=PARTS, seed=run.seed)
    training, valid_loader = prepare(train, valid, epochs=epochs, seed=run.seed, **options)
    fit(training, valid_loader, epochs=min(epochs, 10))
    forget_eval_and_weights(run, training.model, valid)


def forget_zero_grad(run: Run, x, y, *, epochs: int, **options) -> None:
    """The same runs with gradients that add up for ever, under four recipes."""
    recipes = ("SGD", "SGD, clipped", "AdamW", "AdamW, clipped")
    curves = {(recipe, forget): [] for recipe in recipes for forget in (False, True)}
    final = {key: [] for key in curves}
    for seed in range(run.seed, run.seed + run.budget(quick=2, default=5)):
        train, valid, _ = split(x, y, parts=PARTS, seed=seed)
        for recipe, forget in curves:
            training, valid_loader = prepare(train, valid, epochs=epochs, seed=seed, **options)
            clip = 1.0 if recipe.endswith("clipped") else math.inf
            if recipe.startswith("SGD"):
                sgd = training.optimizer = torch.optim.SGD(training.model.parameters(), lr=0.1)
                training.scheduler = torch.optim.lr_scheduler.LambdaLR(sgd, lambda step: 1.0)
            if forget:
                training.optimizer.zero_grad = lambda: None
            fit(training, valid_loader, epochs=epochs, clip=clip)
            curves[recipe, forget].append(np.array(training.losses).reshape(epochs, -1).mean(1))
            final[recipe, forget].append(training.valid[-1].accuracy)
    score = {key: np.mean(values) for key, values in final.items()}
    for recipe in recipes:
        run.metric(
            f"validation accuracy, zero_grad forgotten, {recipe}", score[recipe, True], rtol=None
        )
    lost = {
        recipe: 100 * (np.array(final[recipe, False]) - np.array(final[recipe, True]))
        for recipe in recipes
    }
    common = {"unit": "points of accuracy lost", "note": "by seed", "quick": False}
    run.claim("a forgotten zero_grad ruins SGD", lost["SGD"], at_least=5, **common)
    hidden = "AdamW with clipping hides it"
    run.claim(hidden, lost["AdamW, clipped"], at_most=3, **common)
    run.falsifier("SGD without clipping", lost["SGD"], breaks=hidden)
    title = "zero_grad forgotten: a bug that the optimizer can hide"
    with run.figure("zero_grad", title, 1, 4, size=(9.0, 3.6), sharey=True) as axes:
        at = np.arange(1, epochs + 1)
        for panel, recipe in zip(axes, recipes, strict=True):
            for forget, color in ((False, plots.BLUE), (True, plots.ORANGE)):
                plots.interval_band(panel, at, curves[recipe, forget], color=color, label="")
            panel.axhline(math.log(10), color=plots.REFERENCE, lw=1, ls="--")
            panel.set_title(
                f"{recipe}\n{score[recipe, False]:.1%} → {score[recipe, True]:.1%} right",
                fontsize=11,
                weight="normal",
            )
            panel.set(xlabel="epochs", yscale="log", xticks=[1, epochs // 2, epochs])
        axes[0].set_ylabel("training loss (nats)")
        axes[2].text(0.4, 0.6, "forgotten", transform=axes[2].transAxes, color=plots.ORANGE)
        axes[2].text(0.1, 0.1, "as it should be", transform=axes[2].transAxes, color=plots.BLUE)


@torch.no_grad()
def forget_eval_and_weights(run: Run, model: nn.Module, valid: Table) -> None:
    """One model, one validation set: numbers that depend on how it is cut into batches."""
    n = len(valid)
    losses = F.cross_entropy(model.eval()(valid.x), valid.y, reduction="none").double().numpy()
    means = [
        np.mean([losses[i : i + size].mean() for i in range(0, n, size)])
        for size in range(1, n + 1)
    ]
    truth = losses.mean()
    worst = int(np.argmax(np.abs(np.array(means) - truth))) + 1
    run.metric("largest error of a mean of means", abs(means[worst - 1] / truth - 1), "", rtol=None)
    torch.manual_seed(run.seed)
    sizes, accuracy, loss_moved = [2, 3, 4, 6, 8, 12, 16, 24, 32, 50, 75, 100, 150, 300], [], []
    right = evaluate(model, DataLoader(valid, batch_size=n)).accuracy
    for size in sizes:
        wrong = copy.deepcopy(model).train()
        hits = sum(
            (wrong(xs).argmax(1) == ys).sum().item()
            for xs, ys in DataLoader(valid, batch_size=size)
        )
        accuracy.append(hits / n)
        loss_moved.append(F.cross_entropy(wrong.eval()(valid.x), valid.y).item() / truth)
    run.metric("accuracy in train mode, batches of 2", accuracy[0], "", rtol=None)
    run.metric("accuracy in eval mode", right, "", rtol=None)
    run.metric("loss after being evaluated in train mode", loss_moved[0], "times", rtol=None)
    common = {"deterministic": True, "quick": False}
    run.claim(
        "an evaluation in train mode depends on its batch size",
        [100 * (right - accuracy[0])],
        at_least=10,
        unit="points of accuracy lost",
        note="batches of 2",
        **common,
    )
    run.claim(
        "a mean of batch means depends on the batch size",
        [100 * abs(means[worst - 1] / truth - 1)],
        at_least=20,
        unit="% off the true loss",
        note=f"batches of {worst}, which leave {n % worst} for the last",
        **common,
    )
    size = {"size": (8.6, 4.2)}
    title = "An honest evaluation does not depend on its batch size"
    with run.figure("evaluation", title, 1, 2, **size) as axes:
        axes[0].axhline(right, color=plots.BLUE)
        axes[0].plot(sizes, accuracy, "o-", color=plots.ORANGE)
        axes[0].set(
            xlabel="evaluation batch size (samples)",
            ylabel="validation accuracy",
            xscale="log",
            ylim=(None, 1.02),
        )
        axes[0].set_xticks([2, 10, 100, 300], ["2", "10", "100", "300"])
        axes[0].text(2, right + 0.005, "eval mode", color=plots.BLUE)
        axes[0].text(5, accuracy[2] - 0.03, "train mode,\neval() forgotten", color=plots.ORANGE)
        axes[1].plot(range(1, n + 1), means, color=plots.ORANGE, lw=1)
        axes[1].axhline(truth, color=plots.BLUE)
        axes[1].set(xlabel="evaluation batch size (samples)", ylabel="validation loss (nats)")
        top = axes[1].get_ylim()[1]
        axes[1].set_ylim(None, top + 0.1 * (top - min(means)))
        axes[1].text(
            0.02, 0.97, "mean over samples", transform=axes[1].transAxes, va="top", color=plots.BLUE
        )
        axes[1].text(5, min(means), "mean of the\nbatches' means", color=plots.ORANGE)


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
    from shared import datasets

    digits = datasets.digits()
    x = torch.from_numpy(digits.images.reshape(-1, 64) / 16).float()  # 16 is the format's maximum
    y = torch.from_numpy(digits.labels).long()
    options = {"batch_size": batch_size, "lr": lr, "epochs": run.budget(quick=2, default=epochs)}
    check_helpers(run, x.double(), y)
    check_evaluation(run, x, y)
    check_resume(run, x, y, **options)
    learn(run, x, y, patience=patience, **options)
    break_it(run, x, y, **options)
