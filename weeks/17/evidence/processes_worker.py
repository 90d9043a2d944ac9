"""Workers that fail: process 1 dies, raises, stalls, or leaves without an answer."""

import os
import signal
import time
from pathlib import Path

import torch
import torch.distributed as dist

from week17.processes import Answer


def fault(kind: str, clock: str = "") -> Answer:
    """All meet; then process 1 notes the time and fails, and the others wait for it."""
    dist.barrier()
    if dist.get_rank() == 1:
        if clock:
            Path(clock).write_text(str(time.time()))
        if kind == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "raises":
            raise ValueError("no such token: 99")
        if kind == "stalls":
            time.sleep(1000)
        if kind == "leaves":
            os._exit(3)
    total = torch.ones(3)
    dist.all_reduce(total)
    return {"total": total}


def stall(folder: str) -> Answer:
    """Write the process's number into a folder, and sleep."""
    (Path(folder) / f"{dist.get_rank()}").write_text(str(os.getpid()))
    time.sleep(1000)
    return {}


def nothing() -> Answer:
    """An empty answer."""
    return {}
