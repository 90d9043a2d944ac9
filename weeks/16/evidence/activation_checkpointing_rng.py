"""Failure on display: the second call draws other dropout masks, and the loss still falls."""

import copy
import functools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared import datasets, plots
from shared.study import Run
from week16.activation_checkpointing import Block, checkpoint
from week16.evidence.gradients import flat_grad, relative

CALLS = {
    "plain": lambda block, x: block(x),
    "restored": checkpoint,
    "forgotten": functools.partial(checkpoint, restore_rng=False),
}
COLORS = (plots.BLUE, plots.ORANGE)


def forget_the_rng(run: Run, dropout: float) -> None:
    """Gradient errors and training with and without the random state."""
    digits = datasets.digits()
    x, y = torch.from_numpy(digits.images / 16).float(), torch.from_numpy(digits.labels).long()
    seeds = range(run.seed, run.seed + run.budget(quick=2, default=8))
    rates = run.budget(quick=(0.0, 0.1), default=(0.0, 0.05, 0.1, 0.2, 0.3, 0.5))
    errors = {
        arm: np.array([[gradient_error(CALLS[arm], x, y, s, p) for p in rates] for s in seeds])
        for arm in ("restored", "forgotten")
    }
    none, at = rates.index(0.0), rates.index(0.1)
    name = "with the random state forgotten the gradient is wrong"
    note = "of the gradient's length, dropout 0.1"
    run.claim(name, errors["forgotten"][:, at], at_least=5, unit="%", note=note)
    run.falsifier("the state restored", errors["restored"][:, at], breaks=name)
    run.falsifier("no dropout", errors["forgotten"][:, none], breaks=name)

    ten = {"seed": run.seed, "steps": 10, "dropout": dropout}
    ours, plain = (train(CALLS[arm], x, y, **ten) for arm in ("restored", "plain"))
    exact = run.against("torch autograd", why="the same operations in the same order")
    exact("losses of the first 10 AdamW steps", ours, plain)

    steps = run.budget(quick=5, default=100)
    permuted = y[torch.randperm(len(y), generator=run.generator())]
    arms = {"restored": y, "forgotten": y, "permuted labels": permuted}
    curves = {
        arm: np.array(
            [
                train(CALLS.get(arm, checkpoint), x, labels, seed=s, steps=steps, dropout=0.3)
                for s in seeds
            ]
        )
        for arm, labels in arms.items()
    }
    last = {arm: losses[:, -steps // 5 :].mean(axis=1) for arm, losses in curves.items()}
    name = "checkpointed training learns digits"
    rule = {"at_most": 1.0, "unit": "nats", "note": "last fifth of training", "quick": False}
    run.claim(name, last["restored"], seen_before="0.8 ± 0.2 in five seeds", **rule)
    run.falsifier("permuted labels", last["permuted labels"], breaks=name)

    title = "Masks drawn anew in the second call: wrong gradients, a loss that still falls"
    with run.figure("forgotten_rng", title, columns=2, size=(10.5, 4.2)) as (left, right):
        lines = {f"state\n{arm}": values for arm, values in errors.items()}
        labels = {"xlabel": "dropout", "ylabel": "error of the gradient (% of its length)"}
        plots.curves(left, rates, lines, colors=COLORS, **labels)
        width = max(1, steps // 15)
        at = np.arange(width, steps + 1, width)
        shape = (len(seeds), len(at), width)
        smooth = {arm: curves[arm][:, : len(at) * width].reshape(shape).mean(2) for arm in errors}
        labels = {"xlabel": "steps", "ylabel": "training loss at dropout 0.3 (nats)"}
        labels |= {"ylim": (0, 2.6), "reference": {"guessing: ln 10": math.log(10)}}
        plots.curves(right, at, smooth, colors=COLORS, **labels)


def gradient_error(call: Callable, x: Tensor, y: Tensor, seed: int, dropout: float) -> float:
    """Relative error (%) of one gradient against that without checkpoints."""
    torch.manual_seed(seed)
    model, found = Rows(dropout, call), []
    for other in (call, CALLS["plain"]):
        twin = copy.deepcopy(model)
        twin.call = other
        torch.manual_seed(seed)
        F.cross_entropy(twin(x[:64]), y[:64]).backward()
        found.append(flat_grad(twin))
    return 100 * relative(*found)


class Rows(nn.Module):
    """Digits read as eight tokens, the rows: two blocks, a mean, a linear layer."""

    def __init__(self, dropout: float, call: Callable):
        super().__init__()
        self.embed, self.head = nn.Linear(8, 32), nn.Linear(32, 10)
        self.position = nn.Parameter(0.1 * torch.randn(8, 32))
        self.blocks = nn.ModuleList(Block(32, 4, dropout) for _ in range(2))
        self.call = call

    def forward(self, x: Float[Tensor, "batch 8 8"]) -> Float[Tensor, "batch 10"]:
        """Logits."""
        x = self.embed(x) + self.position
        for block in self.blocks:
            x = self.call(block, x)
        return self.head(x.mean(dim=1))


def train(
    call: Callable, x: Tensor, y: Int[Tensor, " n"], *, seed: int, steps: int, dropout: float
) -> Float[np.ndarray, " steps"]:
    """Losses of AdamW steps on batches of 32 digits."""
    torch.manual_seed(seed)
    model = Rows(dropout, call)
    adam = torch.optim.AdamW(model.parameters(), lr=3e-3)
    order, losses = torch.Generator().manual_seed(seed), []
    for _ in range(steps):
        rows = torch.randint(len(x), (32,), generator=order)
        loss = F.cross_entropy(model(x[rows]), y[rows])
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return np.array(losses)
