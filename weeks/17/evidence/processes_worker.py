"""Workers that fail: process 1 dies, raises, stalls, or leaves without an answer."""

import os
import signal
import time

import torch
import torch.distributed as dist

from week17.processes import Answer


def fault(kind: str) -> Answer:
    """All meet; then process 1 fails and the others wait for it."""
    dist.barrier()
    if dist.get_rank() == 1:
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
    with open(os.path.join(folder, f"{dist.get_rank()}"), "w") as file:
        file.write(str(os.getpid()))
    time.sleep(1000)
    return {}


def nothing() -> Answer:
    """An empty answer."""
    return {}
