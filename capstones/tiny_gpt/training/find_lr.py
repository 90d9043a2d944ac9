"""Finding the learning rate: short runs on the same batches, by powers of two, downhill.

Every trial is a whole training in small, its schedule included, and reads the same windows in the
same order as the others, so that two of them differ by their rates alone. Beginning at the
settings' own rates, all of them are doubled or halved together until both neighbors are worse.
The measure is the mean training loss of a trial's last quarter. In less than one pass through the
text no window was seen before, so that this is the loss on new text; the validation split is not
touched, and is as new after the search as before it.

A range test (one run whose rate grows until it diverges) is cheaper and answers another question:
how far the rate can rise for a few steps.

Sources: Smith, "Cyclical learning rates for training neural networks" (2017), section 3.3, for the
range test; Bergstra & Bengio, "Random search for hyper-parameter optimization" (2012), section 1,
for steps on a logarithmic scale.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from shared.require import require
from tiny_gpt.data.shards import PreparedData
from tiny_gpt.settings import Settings
from tiny_gpt.training.train import Diverged, training_losses

__all__ = ["Found", "descend", "find_lr"]

FARTHEST = 8  # powers of two from where it began


@dataclass(frozen=True)
class Found:
    """Where a search ended: what the settings' rates are to be multiplied by, and the rates.

    `flags` has the rates as `tiny-gpt train` takes them, `losses` the nats per token of each factor
    that was tried, infinite where training diverged.
    """

    factor: float
    lr: float
    matrix_lr: float
    flags: str
    losses: dict[float, float]

    @property
    def at_the_edge(self) -> bool:
        """Whether the search ended because it had gone as far as it may."""
        return abs(math.log2(self.factor)) >= FARTHEST


def descend(loss: Callable[[int], float]) -> dict[int, float]:
    """Losses at whole numbers from 0 downhill, until both neighbors of the best are worse.

    No more than `FARTHEST` away from 0. Each is asked for once; the best has the smallest loss.
    """
    known = {0: loss(0)}
    while True:
        # Of equals the lowest: where all have diverged the way is down.
        best = min(known, key=lambda k: (known[k], k))
        # Upwards first: too low a rate is the likelier mistake, and a wrong turn costs one trial.
        new = [k for k in (best + 1, best - 1) if k not in known and abs(k) <= FARTHEST]
        if not new:
            return known
        known[new[0]] = loss(new[0])


def find_lr(
    data: PreparedData,
    settings: Settings,
    *,
    steps: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Found:
    """Search for the peak learning rates of `settings`, one line said for each trial.

    A trial has a fifth of the settings' steps if not `steps`; a warm-up is shortened in proportion.
    """
    steps = max(4, settings.steps // 5) if steps is None else steps
    require(steps >= 4, "steps of a trial must be at least 4", steps)
    for name in ("lr", "matrix_lr") if settings.optimizer == "muon" else ("lr",):
        require(getattr(settings, name) > 0, f"{name} must be above 0 to be searched for", 0)
    warmup = settings.warmup_steps * steps // settings.steps
    # A probe of each trial's own might choose another precision for it.
    dtype = "fp32" if settings.dtype == "auto" else settings.dtype
    short = replace(settings, steps=steps, warmup_steps=warmup, dtype=dtype, compile="off")

    def trial(power: int) -> float:
        rates = {name: getattr(settings, name) * 2.0**power for name in ("lr", "matrix_lr")}
        try:
            losses = training_losses(data, replace(short, **rates))
        except Diverged:
            losses = [math.inf]
        last = losses[-max(1, len(losses) // 4) :]
        loss = math.fsum(last) / len(last) if all(map(math.isfinite, last)) else math.inf
        say(f"{_flags(settings, 2.0**power)}: {loss:.4f} nats per token")
        return loss

    losses = descend(trial)
    best = min(losses, key=lambda k: (losses[k], k))
    if losses[best] == math.inf:
        raise Diverged(f"training diverged at every rate, down to {_flags(settings, 2.0**best)}")
    by_factor = {2.0**power: loss for power, loss in sorted(losses.items())}
    factor = 2.0**best
    rates = settings.lr * factor, settings.matrix_lr * factor
    return Found(factor, *rates, _flags(settings, factor), by_factor)


def _flags(settings: Settings, factor: float) -> str:
    """The rates times `factor`, as `tiny-gpt train` takes them."""
    flags = f"--lr {settings.lr * factor:.3g}"
    if settings.optimizer == "muon":
        flags += f" --matrix-lr {settings.matrix_lr * factor:.3g}"
    return flags
