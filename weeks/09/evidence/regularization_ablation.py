"""Nine ingredients against memorized labels, each alone, and training mode left on by mistake."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from shared import plots
from shared.datasets import digits
from shared.stats import mean_interval
from shared.study import Run
from week09.regularization import early_stopping
from week09.stacked_mlp import Settings, StackedMLP, train_step

N_TRAIN, N_VALID, BATCH, HIDDEN, LR, EVERY = 200, 300, 50, 64, 3e-3, 10
GRID = {
    "weight decay": [{"decay": v} for v in (0.3, 1.0, 3.0, 10.0)],
    "L2 in Adam": [{"l2": v} for v in (0.003, 0.01, 0.03, 0.1)],
    "dropout": [{"dropout": v} for v in (0.2, 0.35, 0.5, 0.65)],
    "max-norm": [{"max_norm": v} for v in (0.25, 0.35, 0.5, 0.8)],
    "label smoothing": [{"smoothing": v} for v in (0.03, 0.1, 0.3, 0.6)],
    "gradient clipping": [{"clip": v} for v in (0.01, 0.1, 0.3, 1.0)],
    "dropout + decay": [{"dropout": p, "decay": d} for p in (0.2, 0.35) for d in (1.0, 3.0)],
}
PATIENCE = (1, 2, 4, 8)


class Task:
    """Rows to learn from and to choose by, drawn by seed with wrong labels; one clean test set.

    The test rows are the same for every seed and never among those drawn.
    """

    def __init__(self, seeds: int, noise: float, first: int):
        data = digits()
        x = torch.tensor(data.images.reshape(-1, 64) / 8 - 1, dtype=torch.float32)
        y = torch.tensor(data.labels)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(first))
        self.x, self.y_test = x[order], y[order][1000:]
        rows, labels = [], []
        for seed in range(seeds):
            g = torch.Generator().manual_seed(1000 * first + seed + 1)
            row = torch.randperm(1000, generator=g)[: N_TRAIN + N_VALID]
            label = y[order][row]
            wrong = torch.rand(len(row), generator=g) < noise
            other = (label + torch.randint(1, 10, label.shape, generator=g)) % 10
            rows.append(row)
            labels.append(torch.where(wrong, other, label))
        self.rows, self.labels, self.seeds = torch.stack(rows), torch.stack(labels), seeds
        self.x_test = self.x[1000:]

    def train(self, rows: list[dict], norm: str, steps: int, *, watch: Callable | None = None):
        """All settings, all seeds at once; losses by step, and what `watch` saw every few steps."""
        seeds = list(range(self.seeds)) * len(rows)
        settings = Settings.of([{"lr": LR} | row for row in rows for _ in range(self.seeds)])
        model = StackedMLP((64, HIDDEN, HIDDEN, 10), seeds, norm)
        states = [{} for _ in model.parameters()]
        generator = torch.Generator().manual_seed(7)
        order = [torch.Generator().manual_seed(seed) for seed in range(self.seeds)]
        each = torch.tensor(seeds)[:, None]
        losses, seen = [], []
        for step in range(steps):
            if watch is not None and step % EVERY == 0:
                seen.append(watch(model))
            batch = torch.stack([torch.randperm(N_TRAIN, generator=g)[:BATCH] for g in order])
            x, y = self.x[self.rows[each, batch[seeds]]], self.labels[each, batch[seeds]]
            losses.append(train_step(model, x, y, settings, states, generator))
        return model, torch.stack(losses).view(steps, len(rows), self.seeds).numpy(), seen

    @torch.no_grad()
    def score(self, model: StackedMLP, part: str) -> tuple[Tensor, Tensor]:
        """Log loss and accuracy in %, (settings, seeds), by the labels that the part has."""
        cut = {"train": slice(0, N_TRAIN), "valid": slice(N_TRAIN, None)}
        if part == "test":
            x, y = self.x_test[None], self.y_test[None].expand(self.seeds, -1)
        else:
            x, y = self.x[self.rows[:, cut[part]]], self.labels[:, cut[part]]
        repeat = len(model.weights[0]) // self.seeds
        x = x.expand(self.seeds, -1, -1).repeat(repeat, 1, 1)
        y = y.repeat(repeat, 1)
        log_p = model.forward(x).log_softmax(-1)
        loss = -log_p.gather(-1, y[..., None]).mean((1, 2))
        right = 100 * (log_p.argmax(-1) == y).float().mean(1)
        return loss.view(repeat, self.seeds), right.view(repeat, self.seeds)

    def best(self, rows: list[dict], steps: int) -> tuple[StackedMLP, dict]:
        """The networks of the setting that validation rows like best, and that setting."""
        model, *_ = self.train(rows, "none", steps)
        best = int(self.score(model, "valid")[1].mean(1).argmax())
        return model.pick(list(range(best * self.seeds, (best + 1) * self.seeds))), rows[best]


def ablate(run: Run, seeds: int, steps: int) -> None:
    """Each ingredient alone against none; strengths by validation, the test set used once."""
    run.rounding(0.02, "accuracies on few rows: one digit more or less")
    task, copies = Task(seeds, 0.2, run.seed + 1), []

    def watch(model):
        copies.append(model.pick(list(range(seeds))))
        return [task.score(copies[-1], part)[0][0].numpy() for part in ("train", "valid")]

    plain, losses, seen = task.train([{}, {"lr": 0.0}], "none", steps, watch=watch)
    curves = np.array(seen)  # (evaluation, part, seed)
    chosen, strength = {"none": plain.pick(list(range(seeds)))}, {}
    for name in run.progress(GRID, "ablation"):
        chosen[name], strength[name] = task.best(GRID[name], steps)
    for norm in ("batch", "layer"):
        chosen[f"{norm} norm"], *_ = task.train([{}], norm, steps)
    test = {name: task.score(model, "test")[1][0].numpy() for name, model in chosen.items()}

    def stopped(patience: int, part: str) -> np.ndarray:
        """Accuracies of the networks where early stopping would have stopped: no new training."""
        stops = [early_stopping(curves[:, 1, s], patience) for s in range(seeds)]
        return np.array([task.score(copies[i], part)[1][0, s].item() for s, i in enumerate(stops)])

    patience = max(PATIENCE, key=lambda q: stopped(q, "valid").mean())
    test["early stopping"] = stopped(patience, "test")
    strength["early stopping"] = {"patience": patience * EVERY}
    gain = {name: right - test["none"] for name, right in test.items() if name != "none"}
    run.metric("test accuracy, none", test["none"].mean(), "%")
    it_trains(run, task, losses)
    judge(run, gain)
    draw_overfitting(run, curves)
    names = sorted(gain, key=lambda name: -gain[name].mean())
    labels = {n: ", ".join(f"{v:g}" for v in strength.get(n, {}).values()) for n in names}
    values = {f"{n} ({labels[n]})" if labels[n] else n: gain[n] for n in names}
    intervals = [mean_interval(gain[n]) for n in names]
    colors = [
        plots.BLUE if i.low > 0 else plots.ORANGE if i.high < 0 else plots.GRAY for i in intervals
    ]
    title = "What does each ingredient add by itself?"
    with run.figure("ablation", title, size=(8.4, 4.8)) as axes:
        xlabel = f"test accuracy minus the plain network's, points ({seeds} seeds, paired)"
        plots.bars(axes, values, colors=colors, xlabel=xlabel)
    leave_training_mode_on(run, task, chosen, strength["dropout"]["dropout"])


def it_trains(run: Run, task: Task, losses: np.ndarray) -> None:
    """And not with a learning rate of zero, nor from labels without a signal."""
    options = {"quick": False, "note": "last of the training loss over first"}
    fallen, frozen = (losses[-20:, k].mean(0) / losses[:5, k].mean(0) for k in (0, 1))
    run.claim("it trains", fallen, at_most=0.2, **options)
    run.falsifier("learning rate 0", frozen, breaks="it trains")
    # nine tenths wrong at random: no signal is left
    shuffled = Task(2 * task.seeds, 0.9, run.seed + 1)
    blind, *_ = shuffled.train([{}], "none", len(losses))
    name = "from random labels it learns nothing: test accuracy"
    options = {"unit": "%", "quick": False, "note": "chance 10 %", "rtol": 0.1}
    accuracy = shuffled.score(blind, "test")[1][0].numpy()
    run.claim(name, accuracy, at_least=6, at_most=14, **options)


def judge(run: Run, gain: dict[str, np.ndarray]) -> None:
    """What each ingredient adds to the plain network's test accuracy, paired by seed."""
    options = {"unit": "points", "quick": False, "rtol": 0.5}
    for name in ("weight decay", "L2 in Adam", "dropout", "early stopping"):
        run.claim(f"{name} helps against memorized labels", gain[name], at_least=0, **options)
    for name in ("batch norm", "layer norm", "gradient clipping"):
        run.claim(f"{name} is not what stops memorizing", gain[name], at_most=2, **options)
    seen = "that the gain could not be distinguished from nothing"
    options |= {"at_most": 2, "seen_before": seen}
    run.claim("label smoothing adds little", gain["label smoothing"], **options)
    pair = gain["dropout + decay"] - gain["dropout"]
    run.claim("decay beside dropout adds little to dropout", pair, **options)


def draw_overfitting(run: Run, curves: np.ndarray) -> None:
    """Loss on training and validation rows, whose labels are as wrong."""
    floor = -(0.8 * np.log(0.8) + 0.2 * np.log(0.2 / 9))
    title = "Without any ingredient the network learns its wrong labels"
    with run.figure("overfitting", title, size=(8.0, 4.0)) as axes:
        parts = {"training rows": curves[:, 0].T, "validation rows": curves[:, 1].T}
        labels = {"xlabel": "optimizer steps", "ylabel": "log loss (nats, mean and range)"}
        labels |= {"reference": {"perfect knowledge of the noise": floor}, "ylim": (0, None)}
        colors = (plots.BLUE, plots.ORANGE)
        plots.curves(axes, EVERY * np.arange(len(curves)), parts, colors=colors, **labels)


@torch.no_grad()
def leave_training_mode_on(run: Run, task: Task, chosen: dict, p: float) -> None:
    """The failure on display: the same weights, used as if they were still being trained."""
    x, y = task.x_test, task.y_test
    every = x.expand(task.seeds, -1, -1)

    def accuracy(scores: Tensor, labels: Tensor = y) -> np.ndarray:
        return 100 * (scores.argmax(-1) == labels).float().mean(1).numpy()

    def in_batches(batches) -> np.ndarray:
        options = {"training": True, "update": False}
        scores = [chosen["batch norm"].forward(every[:, rows], **options) for rows in batches]
        return accuracy(torch.cat(scores, 1), y[torch.cat(batches)])

    sizes, rows = run.budget(quick=(1, 8), default=(1, 2, 4, 8, 16, 32, 64)), torch.arange(len(x))
    right = {size: in_batches(rows[: len(x) // size * size].split(size)) for size in sizes}
    of_one_kind = in_batches(torch.argsort(y, stable=True).split(32))
    generator, off = run.generator(8), torch.full((task.seeds,), p)
    passes = [
        chosen["dropout"].forward(every, training=True, p=off, generator=generator).softmax(-1)
        for _ in range(run.budget(quick=5, default=50))
    ]
    dropout = {
        "off": accuracy(chosen["dropout"].forward(every)),
        "left on": np.mean([accuracy(q) for q in passes], 0),
        f"left on, mean of {len(passes)} passes": accuracy(torch.stack(passes).mean(0)),
    }
    options = {"rtol": 0.1}
    run.metric("batch norm left in training mode, batch of one", right[1].mean(), "%", **options)
    name = "batch norm left in training mode, sorted by class"
    run.metric(name, of_one_kind.mean(), "%", **options)
    kinds = ("dropout off", "dropout left on", "dropout left on, mean of passes")
    for name, values in zip(kinds, dropout.values(), strict=True):
        run.metric(name, values.mean(), "%", **options)
    options = {"quick": False, "rtol": 0.5}
    name = "batch norm left in training mode knows nothing of a batch of one: accuracy"
    run.claim(name, right[1], at_most=20, unit="%", **options)
    run.falsifier("in use", accuracy(chosen["batch norm"].forward(every)), breaks=name)
    cost = dropout["off"] - dropout["left on"]
    run.claim("dropout left on costs accuracy", cost, at_least=0, unit="points", **options)
    title = "What does a forgotten eval() cost?"
    with run.figure("training_mode", title, 1, 2, size=(9.2, 4.2)) as (left, panel):
        used = accuracy(chosen["batch norm"].forward(every)).mean()
        left.plot(32, of_one_kind.mean(), "s", color=plots.PINK, ms=8, label="32, sorted by class")
        curve = {"training mode": np.array(list(right.values())).T}
        labels = {"xlabel": "batch size at test time", "ylabel": "test accuracy, %", "ends": False}
        labels |= {"reference": {"in use": used, "chance": 10}, "ylim": (0, 100)}
        plots.curves(left, list(sizes), curve, colors=[plots.ORANGE], **labels)
        left.set_xscale("log", base=2)
        left.set_title("Batch norm", fontsize=11, weight="normal")
        values = {name.replace(", mean", ",\nmean"): found for name, found in dropout.items()}
        plots.bars(panel, values, colors=plots.COLORS, xlabel="test accuracy, %", xlim=(50, 100))
        panel.set_title(f"Dropout, p = {p:g}", fontsize=11, weight="normal")
