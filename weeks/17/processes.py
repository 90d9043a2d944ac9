r"""Processes that train together: start them, collect what they return, and never hang.

Parallel training is $n$ copies of one program that exchange tensors. Process $r$ of $n$ knows its
rank and the size of the group; messages travel by *gloo*, torch's library for CPUs. What makes such
programs hard is not the messages but the waiting: each exchange needs both sides, so one process
that dies or stalls leaves all others waiting,

$$ \text{who waits for } r \ \supseteq\ \{\text{who exchanges with } r\} \ \cup\
   \{\text{who waits for those}\} = \text{everybody} . $$

`launch` starts the copies of a function, gives back the tensors that each returned, and ends all of
them with one line that names the culprit when one fails. Under `torchrun` the processes are there
already, and `launch` runs the function in them.

>>> for answer in launch(meet, 2):
...     print(answer["rank"].item(), answer["all"].tolist())
0 [0, 1]
1 [0, 1]

    uv run weeks/17/processes.py
    uv run torchrun --nproc-per-node 2 weeks/17/processes.py

Source: torch's documentation, "Distributed communication package" (version 2.9, 2025), sections
"Initialization" and "Debugging".
"""

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import connection, parent_process
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from safetensors import torch as safetensors
from torch import Tensor
from torch import multiprocessing as mp

from shared.errors import UserError
from shared.require import require

__all__ = ["Answer", "launch", "meet", "subgroups", "under_torchrun"]

Answer = dict[str, Shaped[Tensor, "..."]]

START_SECONDS = 180.0  # to import torch n times on a busy machine
GRACE_SECONDS = 1.0  # after the first failure: so that the cause can be told from its effects
# The first byte of a message says what it is; the rest is text, or tensors as safetensors.
MET, ANSWER, RAISED, LOST = b"m", b"a", b"r", b"l"


def launch(worker: Callable[..., Answer], size: int, *args, timeout: float = 300.0) -> list[Answer]:
    """Run `worker(*args)` in `size` processes that form torch's default group.

    Parameters
    ----------
    worker
        A function at module level, since each process imports it anew. It returns named tensors.
    size
        Number of processes. Under torchrun all of its processes take part, whatever their number.
    args
        Handed to each process.
    timeout
        Seconds that all may take, once they have met. One process may wait for another half of it.

    Returns
    -------
    answers
        What each process returned, by rank.

    Raises
    ------
    UserError
        If a process dies, raises or does not answer in time; none is left then.
    """
    require(size >= 1, "size must be at least 1", size)
    require(timeout > 0, "timeout must be positive", timeout)
    if under_torchrun():
        return _among_torchruns(worker, args, timeout)
    context, processes, pipes = _context(), [], []
    with tempfile.TemporaryDirectory() as folder:
        store = (Path(folder) / "store").as_uri()  # a file: no port that another may take
        try:
            for rank in range(size):
                reader, writer = context.Pipe(duplex=False)
                given = (worker, args, rank, size, store, timeout, writer)
                processes.append(context.Process(target=_child, args=given, daemon=True))
                pipes.append(reader)
                processes[-1].start()
                writer.close()  # the child's copy is the only one: its death closes the pipe
            return _collect(processes, pipes, timeout)
        finally:
            for process in processes:
                if process.pid is not None:
                    process.kill()
                    process.join()


def _context():
    """Fresh processes, without the parent's threads; where possible, forked from one with torch."""
    if "forkserver" not in mp.get_all_start_methods():
        return mp.get_context("spawn")
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.fsdp", "torch._dynamo"])
    return context


def meet() -> Answer:
    """The smallest worker: its own rank, and everybody's, gathered."""
    rank = torch.tensor(dist.get_rank())
    ranks = [torch.empty_like(rank) for _ in range(dist.get_world_size())]
    dist.all_gather(ranks, rank)
    return {"rank": rank, "all": torch.stack(ranks)}


def subgroups() -> dict[int, dist.ProcessGroup | None]:
    """Groups of the first 1, 2, … processes, by size; None where this process is not a member.

    One launch thus serves every smaller number of processes. All must call it.
    """
    rank, groups = dist.get_rank(), {}
    for size in range(1, dist.get_world_size() + 1):
        group = dist.new_group(range(size))
        groups[size] = group if rank < size else None
    return groups


def under_torchrun() -> bool:
    """Whether torchrun started this process, as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ


# ---- in a child


def _child(worker, args, rank, size, store, timeout, writer) -> None:
    """Meet the others, work, answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends us
    threading.Thread(target=_follow_parent, daemon=True).start()
    _join(timeout, init_method=store, rank=rank, world_size=size)
    writer.send_bytes(MET)
    try:
        answer = {name: tensor.contiguous() for name, tensor in worker(*args).items()}
        dist.barrier()  # who leaves early closes connections that others still read from
        message = ANSWER + safetensors.save(answer)
    except Exception as error:
        said = " ".join(str(error).split()) or "no reason given"
        lost = isinstance(error, dist.DistError) or "gloo" in said
        message = (LOST if lost else RAISED) + f"{type(error).__name__}: {said[:500]}".encode()
    writer.send_bytes(message)
    dist.destroy_process_group()


def _join(timeout: float, **where) -> None:
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    if loopback and not under_torchrun():
        os.environ["GLOO_SOCKET_IFNAME"] = loopback  # nothing is offered to the network
    torch.set_num_threads(1)  # processes are the parallelism
    dist.init_process_group("gloo", timeout=timedelta(seconds=timeout / 2), **where)


def _follow_parent() -> None:
    """No orphan, even if the parent is killed and can clear nothing away."""
    connection.wait([parent_process().sentinel])
    os._exit(1)


def _among_torchruns(worker, args, timeout: float) -> list[Answer]:
    """The function in the processes that are there; each gets all answers."""
    if not dist.is_initialized():
        _join(timeout)
    data = torch.frombuffer(bytearray(safetensors.save(worker(*args))), dtype=torch.uint8)
    lengths = [torch.tensor(0) for _ in range(dist.get_world_size())]
    dist.all_gather(lengths, torch.tensor(len(data)))
    padded = torch.zeros(int(max(lengths)), dtype=torch.uint8)
    padded[: len(data)] = data
    all_data = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(all_data, padded)
    pairs = zip(all_data, lengths, strict=True)
    return [safetensors.load(bytes(d[:n].tolist())) for d, n in pairs]


# ---- in the parent


def _collect(processes, pipes, timeout: float) -> list[Answer]:
    """Wait for all answers; a first failure leaves the others a moment to say what they saw."""
    answers: dict[int, Answer] = {}
    faults: dict[int, tuple[bytes, str]] = {}
    met: set[int] = set()
    deadline = time.monotonic() + START_SECONDS
    while len(answers) + len(faults) < len(pipes):
        open_pipes = {p: r for r, p in enumerate(pipes) if r not in answers and r not in faults}
        ready = connection.wait(open_pipes, max(0.0, deadline - time.monotonic()))
        if not ready:
            break
        for pipe in ready:
            rank, before = open_pipes[pipe], bool(faults)
            kind, content = _receive(pipe, processes[rank])
            if kind == MET:
                met.add(rank)
                if len(met) == len(pipes):
                    deadline = time.monotonic() + timeout
            elif kind == ANSWER:
                answers[rank] = safetensors.load(content)
            else:
                faults[rank] = (kind, content.decode())
            if faults and not before:
                deadline = min(deadline, time.monotonic() + GRACE_SECONDS)
    if len(answers) == len(pipes):
        return [answers[rank] for rank in range(len(pipes))]
    silent = [rank for rank in range(len(pipes)) if rank not in answers and rank not in faults]
    seconds = timeout if len(met) == len(pipes) else START_SECONDS
    raise UserError(_verdict(faults, silent, len(pipes), seconds))


def _receive(pipe, process) -> tuple[bytes, bytes]:
    """The next message of a child; its death is one, of kind b"d"."""
    try:
        message = pipe.recv_bytes()
        return message[:1], message[1:]
    except (EOFError, OSError):
        process.join()
        code = process.exitcode
        if code < 0:
            return b"d", f"was ended by {signal.Signals(-code).name}".encode()
        return b"d", f"ended with status {code} and no answer".encode()


def _verdict(faults: dict, silent: list[int], size: int, timeout: float) -> str:
    """One line about the cause: a death, else an error of its own, else a silence."""
    for sought, verb in ((b"d", ""), (RAISED, "raised ")):
        for rank, (kind, text) in sorted(faults.items()):
            if kind == sought:
                return f"process {rank} of {size} {verb}{text}; the others were ended"
    if silent:
        names = ("process " if len(silent) == 1 else "processes ") + ", ".join(map(str, silent))
        return f"no answer from {names} of {size} within {timeout:g} s; all were ended"
    if any("imed out" in text for _, text in faults.values()):  # none has gone, and yet
        return f"all {size} processes waited for one another for {timeout / 2:g} s; all were ended"
    rank, (_, text) = min(faults.items())
    return f"process {rank} of {size} lost the others: {text}; all were ended"


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
