"""Training that goes on where it was broken off: weights, Adam's moments and the draws that follow.

Each kept step has three entries of the journal under its number, so that a big model is never in
memory as one more whole; it counts if all three are there. Those before it are dropped afterwards.

>>> import tempfile
>>> from pathlib import Path
>>> from compress.pipeline.journal import Journal
>>> def trained(journal, stop=25):
...     draws, p = torch.Generator().manual_seed(0), nn.Parameter(torch.zeros(3))
...     optimizer = torch.optim.Adam([p], lr=0.1)
...     done = take_up(journal, "fit", stop, {"p": p}, optimizer, draws)
...     for number in range(done, stop):
...         optimizer.zero_grad()
...         (torch.randn(3, generator=draws) - p).square().sum().backward()
...         optimizer.step()
...         keep(journal, "fit", number + 1, {"p": p}, optimizer, draws)
...     return done, p.detach()
>>> with tempfile.TemporaryDirectory() as folder:
...     journal = Journal(Path(folder) / "OUT", {})
...     _ = trained(journal, stop=23)
...     (done, resumed), (_, straight) = trained(journal), trained(NoJournal())
...     twice = [trained(Journal(Path(folder) / "B", {}), stop=20)[0] for _ in range(2)]
>>> done, torch.equal(resumed, straight), twice
(20, True, [0, 20])
"""

from collections.abc import Mapping

import torch
from torch import nn

from compress.pipeline.journal import Journal, NoJournal

EVERY = 10  # steps between two that are kept
DRAWS = "draws"  # beside the weights: the generator's state
MOMENTS = ("exp_avg", "exp_avg_sq")


def keep(
    journal: Journal | NoJournal,
    key: str,
    number: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Adam,
    generator: torch.Generator,
) -> None:
    """After so many steps: put what the rest depends on into the journal, if it is their turn."""
    if number % EVERY:
        return
    weights = {name: p.detach() for name, p in trained.items()}
    parts = {"weights": weights | {DRAWS: generator.get_state()}}
    for moment in MOMENTS:
        parts[moment] = {name: optimizer.state[p][moment] for name, p in trained.items()}
    for part, tensors in parts.items():
        journal.put(f"{key}.{number}.{part}", tensors, {})
    drop(journal, key, number - 1)


@torch.no_grad()
def take_up(
    journal: Journal | NoJournal,
    key: str,
    steps: int,
    trained: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Adam,
    generator: torch.Generator,
) -> int:
    """Put everything where an earlier process had it; return how many steps are done."""
    for number in range(steps, 0, -1):
        found = [journal.get(f"{key}.{number}.{part}") for part in ("weights", *MOMENTS)]
        if None in found:
            continue
        weights, *moments = (tensors for tensors, _ in found)
        generator.set_state(weights[DRAWS])
        for name, p in trained.items():
            p.copy_(weights[name])
            state = {"step": torch.tensor(float(number))}
            optimizer.state[p] = state | {
                moment: tensors[name] for moment, tensors in zip(MOMENTS, moments, strict=True)
            }
        return number
    return 0


def drop(journal: Journal | NoJournal, key: str, most: int) -> None:
    """Forget the kept steps up to this one."""
    for number in range(1, most + 1):
        for part in ("weights", *MOMENTS):
            journal.drop(f"{key}.{number}.{part}")
