r"""Bits for each part of a model: the best choice under a budget, found exactly.

With a cost $c$ and a loss $\ell$ for each option of each part, and both adding up, the choices that
no other one beats are found part by part: of all sums so far, those with a lower sum in both are
enough. Costs are whole numbers (bytes), so there are at most as many sums as there are costs.

>>> options = [{8: (8, 0.0), 4: (4, 0.3)}, {8: (8, 0.0), 4: (4, 0.1)}]
>>> [(c.cost, round(c.loss, 1), c.options) for c in frontier(options)]
[(8, 0.4, (4, 4)), (12, 0.1, (8, 4)), (16, 0.0, (8, 8))]
>>> within_cost(frontier(options), 13).options
(8, 4)
>>> within_loss(frontier(options), 0.35).options
(8, 4)
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from shared.errors import UserError
from shared.require import require


@dataclass(frozen=True)
class Choice:
    """An option for each part, and what they cost and lose together."""

    cost: int
    loss: float
    options: tuple[Hashable, ...]


def frontier(parts: Sequence[Mapping[Hashable, tuple[int, float]]]) -> list[Choice]:
    """All choices that no other one beats, the cheapest first.

    Parameters
    ----------
    parts
        Of each part its options: (cost, loss). Costs are whole numbers.
    """
    cost, loss = np.zeros(1, np.int64), np.zeros(1)
    steps = []  # of each part: what each sum goes on from, and by which option
    for options in parts:
        require(options, "parts must have an option each", "none")
        own = np.array([price for price, _ in options.values()])
        sums = (cost[:, None] + own).ravel()
        losses = (loss[:, None] + np.array([lost for _, lost in options.values()])).ravel()
        order = np.lexsort((losses, sums))
        best = np.minimum.accumulate(losses[order])
        better = np.append(True, best[1:] < best[:-1])
        kept = order[better]
        cost, loss = sums[kept], losses[kept]
        steps.append((list(options), *divmod(kept, len(options))))
    found = []
    for at, (price, lost) in enumerate(zip(cost.tolist(), loss.tolist(), strict=True)):
        names = []
        for options, before, option in reversed(steps):
            names.append(options[option[at]])
            at = before[at]
        found.append(Choice(price, lost, tuple(reversed(names))))
    return found


def within_cost(choices: Sequence[Choice], most: float) -> Choice:
    """The choice with the least loss that costs at most so much.

    Raises
    ------
    UserError
        If even the cheapest costs more.
    """
    fitting = [choice for choice in choices if choice.cost <= most]
    must = f"budget must be at least {choices[0].cost} for these options"
    require(fitting, must, f"{most:.0f}", error=UserError)
    return fitting[-1]


def within_loss(choices: Sequence[Choice], most: float) -> Choice:
    """The cheapest choice that loses at most so much; where none does, the one that loses least."""
    return next((choice for choice in choices if choice.loss <= most), choices[-1])
