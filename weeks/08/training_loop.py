r"""The training loop in torch, as practitioners write it, beside the same loop with no helpers.

Mini-batch training repeats one line. For a batch $B$ drawn without replacement,

$$ \theta \leftarrow \theta - \eta_t \, \mathrm{AdamW}\big(\mathrm{clip}(g)\big), \qquad
   g = \nabla_\theta \, \frac{1}{|B|} \sum_{i \in B} \ell(f_\theta(x_i), y_i), $$

and everything else in the loop is there so that this line does what it says: gradients that start
from zero, the right mode, a seeded order, a validation loss that is a mean over samples, the best
weights kept, and a checkpoint from which the run goes on as if it had never stopped.

`fit` is written with torch's helpers and is meant to be copied. loop_by_hand.py writes out what
DataLoader, BatchNorm1d, Dropout, AdamW, clip_grad_norm_ and the schedule do, and takes the same
steps. Data: scikit-learn's 1,797 digits of 8 × 8 pixels.

>>> [round(warmup_cosine(step, total=8, warmup=3), 3) for step in range(8)]
[0.25, 0.5, 0.75, 1.0, 0.905, 0.655, 0.345, 0.095]

    uv run weeks/08/training_loop.py

Source: I. Goodfellow, Y. Bengio and A. Courville, *Deep Learning* (2016), sections 7.8 (early
stopping), 8.1.3 (mini-batches) and 8.7.1 (batch normalization); AdamW: I. Loshchilov and F. Hutter,
*Decoupled Weight Decay Regularization* (ICLR 2019), algorithm 2.
"""

import copy
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from shared import artifacts
from shared.require import require

# ---- the data


class Table(Dataset):
    """Rows and their labels: all that a DataLoader asks of a dataset is a length and an item."""

    def __init__(self, x: Float[Tensor, "n features"], y: Int[Tensor, " n"]):
        require(len(x) > 0, "x must hold at least one row", "none")
        self.x, self.y = x, y

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.x)

    def __getitem__(self, i: int) -> tuple[Float[Tensor, " features"], Int[Tensor, ""]]:
        """Return row i and its label."""
        return self.x[i], self.y[i]


def split(
    x: Float[Tensor, "n features"], y: Int[Tensor, " n"], *, parts: tuple[int, ...], seed: int
) -> list[Table]:
    """Cut the rows, in a random order, into disjoint tables of `parts` rows."""
    fits = sum(parts) == len(x) and min(parts) >= 1
    require(fits, f"parts must be positive and sum to {len(x)} rows", parts)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [Table(x[rows], y[rows]) for rows in order.split(list(parts))]


def make_loaders(
    train: Table, valid: Table, *, batch_size: int, seed: int
) -> tuple[DataLoader, DataLoader]:
    """Shuffled batches to train on, ordered ones to evaluate on.

    Both get a generator of their own. A DataLoader without one takes a number from torch's global
    stream whenever it is iterated, even unshuffled: one more validation, and every dropout mask
    after it is another.
    """
    require(batch_size >= 1, "batch_size must be at least 1", batch_size)
    own = [torch.Generator().manual_seed(seed + i) for i in range(2)]
    return (
        DataLoader(train, batch_size=batch_size, shuffle=True, generator=own[0]),
        DataLoader(valid, batch_size=4 * batch_size, generator=own[1]),
    )


# ---- the pieces of the loop


def make_model(features: int, classes: int, *, width: int = 128, dropout: float = 0.2) -> nn.Module:
    """One hidden layer with the two modules that behave differently in training: norm, dropout."""
    return nn.Sequential(
        nn.Linear(features, width),
        nn.BatchNorm1d(width),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(width, classes),
    )


def warmup_cosine(step: int, *, total: int, warmup: int) -> float:
    """Factor of the learning rate: a line up to 1 over `warmup` steps, half a cosine down to 0."""
    require(0 <= warmup < total, f"warmup must be between 0 and total - 1 = {total - 1}", warmup)
    if step < warmup:
        return (step + 1) / (warmup + 1)  # never 0: a first step of length zero would be lost
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / (total - warmup))))


class Scores(NamedTuple):
    """Means over the samples of a table: loss (nats) and accuracy."""

    loss: float
    accuracy: float


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader) -> Scores:
    """Score a model in evaluation mode; its mode afterwards is the one before."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    loss = correct = n = 0.0
    for x, y in loader:
        x, y = x.to(device), y.to(device)
        logits = model(x)
        # Sums, divided once by n: the mean of batch means overrates a short last batch.
        loss += F.cross_entropy(logits, y, reduction="sum").item()
        correct += (logits.argmax(dim=1) == y).sum().item()
        n += len(y)
    model.train(was_training)
    return Scores(loss / n, correct / n)


def train_epoch(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    clip: float,
) -> list[float]:
    """One pass over the training set; returns the loss of each step, before it was taken."""
    model.train()
    device = next(model.parameters()).device
    losses = []
    for x, y in loader:
        optimizer.zero_grad()  # backward adds to .grad
        loss = F.cross_entropy(model(x.to(device)), y.to(device))
        if not torch.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss.item()} after {len(losses)} steps")
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        scheduler.step()  # after optimizer.step, or the first rate is skipped
        losses.append(loss.item())  # a number: the tensor would keep the whole graph alive
    return losses


# ---- the loop


@dataclass
class Training:
    """Everything that changes while a model trains. What is missing here, a resumed run misses.

    Attributes
    ----------
    epoch
        Epochs done.
    best, best_loss, best_epoch
        The weights with the lowest validation loss so far, that loss, and when it was.
    losses, valid
        Training loss of every step; validation scores of every epoch.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    loader: DataLoader
    epoch: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    best_loss: float = math.inf
    best_epoch: int = 0
    losses: list[float] = field(default_factory=list)
    valid: list[Scores] = field(default_factory=list)

    _PLAIN = ("epoch", "best_loss", "best_epoch", "losses", "valid")

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch

    def save(self, folder: Path) -> None:
        """Write a checkpoint: safetensors and JSON, whole or not at all."""
        tensors = {f"model.{name}": t for name, t in self.model.state_dict().items()}
        tensors |= {f"best.{name}": t for name, t in self.best.items()}
        optimizer = self.optimizer.state_dict()
        for i, state in optimizer["state"].items():
            tensors |= {f"optimizer.{i}.{name}": t for name, t in state.items()}
        tensors["random.order"] = self.loader.generator.get_state()
        tensors["random.dropout"] = torch.get_rng_state()
        plain = {name: getattr(self, name) for name in self._PLAIN}
        plain |= {"groups": optimizer["param_groups"], "schedule": self.scheduler.state_dict()}
        artifacts.save_tensors(folder, tensors, metadata=plain)

    def load(self, folder: Path) -> None:
        """Take everything from a checkpoint of the same model, optimizer and schedule."""
        tensors, saved = artifacts.load_tensors(folder)
        parts: dict = {"model": {}, "best": {}, "optimizer": {}, "random": {}}
        for name, t in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = t
        self.model.load_state_dict(parts["model"])
        self.best = parts["best"]
        state: dict[int, dict] = {}
        for name, t in parts["optimizer"].items():
            i, _, rest = name.partition(".")
            state.setdefault(int(i), {})[rest] = t
        groups = saved.metadata["groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scheduler.load_state_dict(saved.metadata["schedule"])
        self.loader.generator.set_state(parts["random"]["order"])
        torch.set_rng_state(parts["random"]["dropout"])
        for name in self._PLAIN:
            setattr(self, name, saved.metadata[name])
        self.valid = [Scores(*scores) for scores in self.valid]


def fit(
    training: Training,
    valid_loader: DataLoader,
    *,
    epochs: int,
    clip: float = 1.0,
    patience: int | None = None,
    folder: Path | None = None,
) -> Training:
    """Train until `epochs` are done or `patience` epochs brought nothing; then take the best back.

    Parameters
    ----------
    training
        Fresh, or loaded from a checkpoint: the loop goes on from `training.epoch`.
    clip
        Longest gradient (Euclidean norm over all parameters) that is not shortened.
    patience
        Epochs without a lower validation loss before it stops; None: never.
    folder
        Where a checkpoint is written after each epoch.
    """
    require(epochs >= 1, "epochs must be at least 1", epochs)
    require(patience is None or patience >= 1, "patience must be at least 1", patience)
    while training.epoch < epochs and (patience is None or training.waited < patience):
        training.losses += train_epoch(
            training.model, training.loader, training.optimizer, training.scheduler, clip=clip
        )
        scores = evaluate(training.model, valid_loader)
        if not math.isfinite(scores.loss):
            raise FloatingPointError(f"the validation loss is {scores.loss}")
        training.valid.append(scores)
        training.epoch += 1
        if scores.loss < training.best_loss:
            training.best_loss, training.best_epoch = scores.loss, training.epoch
            # a copy: state_dict() hands out the very tensors that the next step overwrites
            training.best = copy.deepcopy(training.model.state_dict())
        if folder is not None:
            training.save(folder)
    training.model.load_state_dict(training.best)
    return training


def prepare(
    train: Table,
    valid: Table,
    *,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    classes: int = 10,
    width: int = 128,
    dropout: float = 0.2,
    weight_decay: float = 0.01,
) -> tuple[Training, DataLoader]:
    """Everything that `fit` needs, from one seed: model, AdamW, schedule, loaders."""
    torch.manual_seed(seed)  # initial weights, then dropout masks
    model = make_model(train.x.shape[1], classes, width=width, dropout=dropout).to(train.x.dtype)
    loader, valid_loader = make_loaders(train, valid, batch_size=batch_size, seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay)
    total = epochs * len(loader)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: warmup_cosine(step, total=total, warmup=len(loader))
    )
    return Training(model, optimizer, scheduler, loader), valid_loader


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
