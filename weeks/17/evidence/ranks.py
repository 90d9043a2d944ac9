"""Which group sizes a script can show, and who of several processes speaks."""

import os
import sys

from torch import Tensor

from shared.errors import UserError
from shared.study import Run
from week17.processes import Answer, under_torchrun


def prepare(run: Run, most: int = 4) -> int:
    """The number of processes: `most`, or torchrun's, of which only the first one prints."""
    if not under_torchrun():
        return most
    if run.mode == "default" and "--record" in sys.argv:
        raise UserError("records are made without torchrun: leave it out or leave --record out")
    if int(os.environ["RANK"]):
        run.console.quiet = True
        run.out = run.out / f"rank-{os.environ['RANK']}"
    return int(os.environ["WORLD_SIZE"])


def worst(answers: list[Answer], name: str, truth: Tensor) -> Tensor:
    """The answer farthest from the truth among the processes that have one of this name."""
    found = [answer[name] for answer in answers if name in answer]
    return max(found, key=lambda x: float((x.double() - truth.double()).abs().max()))
