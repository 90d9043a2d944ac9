r"""Pipeline parallelism: layers on different processes, kept busy by cutting the batch in pieces.

With $K$ stages a whole batch keeps one of them busy at a time. Cut it into $M$ micro-batches and
they overlap; a stage then idles while the first is on its way and the last one ends,

$$\text{bubble} = \frac{K-1}{M+K-1}, \qquad \frac{K-1}{vM+K-1} \text{ if each process has } v
  \text{ pieces of the model.}$$

A schedule is one list per process, of forward and backward passes in the order in which they are
done. *GPipe* does all forward passes first and keeps $M$ inputs; *1F1B* turns round as soon as it
can and keeps at most $K$; the *interleaved* one gives each process several thin stages. All of
them add up the same gradients.

>>> print(timeline(schedule("gpipe", n_processes=2, n_micro=3)))  # backward in capitals, 2 long
0 abc   CCBBAA
1  abcCCBBAA
>>> print(timeline(schedule("1f1b", n_processes=2, n_micro=3)))
0 ab  AAcBB CC
1  aAAbBBcCC
>>> bubble(schedule("1f1b", n_processes=2, n_micro=3))
0.25

    uv run weeks/17/pipeline_parallel.py

Sources: Huang et al., "GPipe" (2018), section 2.3; Narayanan et al., "Efficient large-scale
language model training on GPU clusters using Megatron-LM" (2021), section 2.2.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Num
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from shared.require import require

Name = Literal["gpipe", "1f1b", "interleaved"]


class Pass(NamedTuple):
    """One micro-batch through one piece of a process's layers, forward or backward."""

    backward: bool
    micro: int
    piece: int = 0


class Done(NamedTuple):
    """When a process began and ended a pass."""

    process: int
    task: Pass
    start: float
    end: float


# ---- schedules


def gpipe(n_micro: int) -> list[Pass]:
    """All forward, then all backward, the last one first; the same list for each process."""
    forward = [Pass(False, m) for m in range(n_micro)]
    return forward + [Pass(True, m) for m in reversed(range(n_micro))]


def one_forward_one_backward(process: int, n_processes: int, n_micro: int) -> list[Pass]:
    """Enough forward passes to fill the pipe behind this process, then one of each in turn."""
    ahead = min(n_processes - 1 - process, n_micro)
    forward = [Pass(False, m) for m in range(n_micro)]
    backward = [Pass(True, m) for m in range(n_micro)]
    return _alternate(forward, backward, ahead)


def interleaved(process: int, n_processes: int, n_micro: int, n_pieces: int) -> list[Pass]:
    """1F1B where piece i of process p is stage i · n_processes + p of the model.

    Micro-batches go in groups of `n_processes`: a group runs through a process's first piece, then
    through its second, and so on; backward from the last piece to the first.
    """
    require(n_micro % n_processes == 0, f"n_micro must be a multiple of {n_processes}", n_micro)
    groups = range(0, n_micro, n_processes)
    order = [
        (m + first, piece)
        for first in groups
        for piece in range(n_pieces)
        for m in range(n_processes)
    ]
    forward = [Pass(False, m, piece) for m, piece in order]
    backward = [Pass(True, m, n_pieces - 1 - piece) for m, piece in order]
    ahead = 2 * (n_processes - 1 - process) + (n_pieces - 1) * n_processes
    return _alternate(forward, backward, min(ahead, len(forward)))


def _alternate(forward: list[Pass], backward: list[Pass], ahead: int) -> list[Pass]:
    tasks = forward[:ahead]
    for one, other in zip(forward[ahead:], backward, strict=False):
        tasks += [one, other]
    return tasks + backward[len(forward) - ahead :]


def schedule(name: Name, n_processes: int, n_micro: int, n_pieces: int = 1) -> list[list[Pass]]:
    """The passes of each process in their order."""
    for what, n in (("n_processes", n_processes), ("n_micro", n_micro), ("n_pieces", n_pieces)):
        require(n >= 1, f"{what} must be at least 1", n)
    single = name == "interleaved" or n_pieces == 1
    require(single, f"n_pieces must be 1 with {name}", n_pieces)
    if name == "gpipe":
        return [gpipe(n_micro) for _ in range(n_processes)]
    each = range(n_processes)
    if name == "1f1b":
        return [one_forward_one_backward(p, n_processes, n_micro) for p in each]
    return [interleaved(p, n_processes, n_micro, n_pieces) for p in each]


def source(process: int, task: Pass, n_processes: int, n_pieces: int) -> tuple[int, Pass] | None:
    """Which pass of which process makes the input of this one; None at the ends of the model."""
    stage = task.piece * n_processes + process
    last = n_pieces * n_processes - 1
    if task.backward and stage == last:
        return process, task._replace(backward=False)
    before = stage + 1 if task.backward else stage - 1
    if before < 0:
        return None
    return before % n_processes, task._replace(piece=before // n_processes)


# ---- when does what happen?


def simulate(
    tasks: list[list[Pass]], forward: Sequence[float] | None = None, ratio: float = 2.0
) -> list[Done]:
    """Each process does its list in order, as soon as a pass's input is there.

    Parameters
    ----------
    forward
        Time of a forward pass through all pieces of each process; 1 for each by default.
    ratio
        Backward time over forward time.
    """
    n = len(tasks)
    forward = [1.0] * n if forward is None else forward
    n_pieces = 1 + max(task.piece for task in tasks[0])
    ends: dict[tuple[int, Pass], float] = {}
    done, clocks, places = [], [0.0] * n, [0] * n
    while any(place < len(own) for place, own in zip(places, tasks, strict=True)):
        moved = False
        for p, own in enumerate(tasks):
            while places[p] < len(own):
                task = own[places[p]]
                needs = source(p, task, n, n_pieces)
                if needs is not None and needs not in ends:
                    break
                start = max(clocks[p], ends[needs] if needs else 0.0)
                length = forward[p] / n_pieces * (ratio if task.backward else 1.0)
                ends[p, task] = clocks[p] = start + length
                done.append(Done(p, task, start, start + length))
                places[p], moved = places[p] + 1, True
        require(moved, "tasks must have an order in which none waits for ever")
    return done


def bubble(tasks: list[list[Pass]], forward: Sequence[float] | None = None) -> float:
    """Share of the time, from first start to last end, in which a process has nothing to do."""
    done = simulate(tasks, forward)
    work = sum(d.end - d.start for d in done)
    return 1 - work / (len(tasks) * max(d.end for d in done))


def peak_inputs(tasks: list[Pass]) -> int:
    """Most micro-batches that are inside a process at once: what it must remember."""
    inside = most = 0
    for task in tasks:
        inside += -1 if task.backward else 1
        most = max(most, inside)
    return most


def timeline(tasks: list[list[Pass]]) -> str:
    """A process per line, a unit of time per column; backward passes in capitals."""
    lines = [f"{p} " for p in range(len(tasks))]
    for done in simulate(tasks):
        letter = chr(ord("a") + done.task.micro)
        text = 2 * letter.upper() if done.task.backward else letter
        lines[done.process] = lines[done.process].ljust(2 + int(done.start)) + text
    return "\n".join(lines)


# ---- and for real


def run_pipeline(
    pieces: Sequence[nn.Module],
    tasks: list[Pass],
    inputs: Sequence[Num[Tensor, "batch ..."]],
    loss: Callable[[Tensor, int], Float[Tensor, ""]],
    shape: Callable[[int], Sequence[int]],
    *,
    dtype: torch.dtype = torch.float64,
    group: ProcessGroup | None = None,
) -> tuple[float, int]:
    """One step of this process: gradients are added up in its pieces.

    Parameters
    ----------
    pieces
        This process's parts of the model.
    tasks
        Its list of a schedule.
    inputs
        The model's inputs, by micro-batch.
    loss
        Of the model's output and the number of a micro-batch: a *sum*, divided by the tokens of
        the whole batch, so that micro-batches add up.
    shape
        What stages hand on has this shape, by micro-batch.

    Returns
    -------
    loss, most
        The loss added up (0 where the last stage is not), and the most micro-batches kept at once.
    """
    process, n = dist.get_rank(group), dist.get_world_size(group)
    n_pieces = len(pieces)
    require(n > 1 or n_pieces == 1, "pieces must be one on one process", n_pieces)
    kept: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
    total, most, sent = 0.0, 0, []

    def tag(task: Pass) -> int:
        return (task.micro * n_pieces + task.piece) * 2 + task.backward

    def receive(task: Pass) -> Tensor:
        origin, made = source(process, task, n, n_pieces)
        x = torch.empty(tuple(shape(task.micro)), dtype=dtype)
        dist.recv(x, group_src=origin, group=group, tag=tag(made))
        return x

    def send(x: Tensor, task: Pass, stage: int) -> None:
        # Not waited for: two processes that both sent first would wait for each other.
        x = x.detach().contiguous()
        work = dist.isend(x, group_dst=stage % n, group=group, tag=tag(task))
        sent.append((work, x))

    for task in tasks:
        key, stage = (task.micro, task.piece), task.piece * n + process
        last = stage == n_pieces * n - 1
        if not task.backward:
            x = inputs[task.micro] if stage == 0 else receive(task).requires_grad_()
            y = pieces[task.piece](x)
            if last:
                y = loss(y, task.micro)
                total += y.item()
            else:
                send(y, task, stage + 1)
            kept[key] = x, y
            most = max(most, len(kept))
        else:
            x, y = kept.pop(key)
            y.backward(None if last else receive(task))
            if stage > 0:
                send(x.grad, task, stage - 1)
    for work, _ in sent:
        work.wait()
    return total, most


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
