"""Start n processes that talk to each other over gloo, and collect what each returns.

>>> launch(abs, 0)
Traceback (most recent call last):
ValueError: n_processes must be at least 1, got 0
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from shared.errors import UserError
from shared.require import require


def launch(
    function: Callable[..., Any], n_processes: int, *arguments: Any, timeout: float = 60.0
) -> list:
    """Call `function(rank, world, *arguments)` in n processes; what each returned, by rank."""
    require(n_processes >= 1, "n_processes must be at least 1", n_processes)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "week17.processes"])
    with tempfile.TemporaryDirectory() as folder:
        store, pipes, started = str(Path(folder) / "store"), [], []
        for rank in range(n_processes):
            mine, theirs = context.Pipe(duplex=False)
            task = (theirs, store, function, rank, n_processes, arguments)
            process = context.Process(target=_work, args=task, daemon=True)
            process.start()
            theirs.close()
            pipes.append(mine)
            started.append(process)
        try:
            return _collect(pipes, timeout)
        finally:
            for process in started:
                process.join(1 if process.exitcode is None else 0)
                process.kill()
                process.join()


def _collect(pipes: list, timeout: float) -> list:
    results, end = [None] * len(pipes), time.monotonic() + timeout
    waiting = {pipe: rank for rank, pipe in enumerate(pipes)}
    while waiting:
        ready = wait(list(waiting), max(0.0, end - time.monotonic()))
        if not ready:
            raise UserError(f"processes {sorted(waiting.values())} gave nothing in {timeout:g} s")
        for pipe in ready:
            rank = waiting.pop(pipe)
            try:
                error, result = pipe.recv()
            except EOFError:
                raise UserError(f"process {rank} ended without a result") from None
            if error:
                raise UserError(f"process {rank}: {error}")
            results[rank] = _mapped(result, np.ndarray, torch.from_numpy)
    return results


def _mapped(value: Any, kind: type, change: Callable) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(item, kind, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_mapped(item, kind, change) for item in value)
    return change(value) if isinstance(value, kind) else value


def _work(pipe, store, function, rank, world, arguments):
    torch.set_num_threads(1)
    try:
        address = f"file://{store}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
        result = function(rank, world, *arguments)
        dist.barrier()
        pipe.send((None, _mapped(result, torch.Tensor, lambda x: x.detach().numpy())))
        dist.destroy_process_group()
    except Exception as error:
        import os
        import traceback

        if os.environ.get("W17B_TRACE"):
            traceback.print_exc()
        pipe.send((f"{type(error).__name__}: {error}", None))
