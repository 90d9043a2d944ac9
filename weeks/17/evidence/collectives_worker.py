"""What each process does for the evidence of the collectives, and for their tests."""

import time

import torch
import torch.distributed as dist
from torch import Tensor

from week17.collectives import Ring
from week17.processes import Answer, subgroups


def vector(length: int, rank: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """What process `rank` holds: known to all, so that each can compute the truth."""
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    if dtype.is_floating_point:
        return torch.randn(length, generator=generator, dtype=dtype)
    return torch.randint(-(2**40), 2**40, (length,), generator=generator).to(dtype)


def in_ring_order(vectors: list[Tensor]) -> Tensor:
    """The sum of all vectors in the order in which a ring adds: piece r begins with process r+1."""
    n = len(vectors)
    length = -(-len(vectors[0]) // n)
    pieces = []
    for r in range(n):
        part = [v[r * length : (r + 1) * length] for v in vectors]
        total = part[(r + 1) % n]
        for step in range(2, n + 1):
            total = total + part[(r + step) % n]
        pieces.append(total)
    return torch.cat(pieces)


def compare(lengths: tuple[int, ...], seed: int = 0) -> Answer:
    """Ours and torch's results for every group size, length and dtype; bytes sent."""
    out: Answer = {}
    for n, group in subgroups().items():
        if group is None:
            continue
        for length in lengths:
            for dtype in (torch.float64, torch.int64):
                name = f"{n} {length} {str(dtype).removeprefix('torch.')}"
                xs = [vector(length, r, dtype, seed) for r in range(n)]
                x, ring = xs[dist.get_rank()], Ring(group)
                theirs = x.clone()
                dist.all_reduce(theirs, group=group)
                out[f"all_reduce ours {name}"] = ring.all_reduce(x)
                out[f"sent {name}"] = torch.tensor(ring.sent)
                out[f"all_reduce torch {name}"] = theirs
                out[f"all_reduce order {name}"] = in_ring_order(xs)
                out[f"tree ours {name}"] = ring.tree_all_reduce(x)
                out |= _others(ring, group, x, name)
    return out


def _others(ring: Ring, group, x: Tensor, name: str) -> Answer:
    """Reduce-scatter, all-gather, broadcast and all-to-all, ours and torch's."""
    n, padded = ring.size, ring.pad(x)
    scattered = padded.new_empty(len(padded) // n)
    dist.reduce_scatter_tensor(scattered, padded, group=group)
    gathered = [torch.empty_like(x) for _ in range(n)]
    dist.all_gather(gathered, x, group=group)
    source = n - 1
    sent = x.clone()
    dist.broadcast(sent, group_src=source, group=group)
    rows = padded.view(n, -1)
    exchanged = torch.empty_like(rows)
    dist.all_to_all_single(exchanged, rows, group=group)
    return {
        f"reduce_scatter ours {name}": ring.reduce_scatter(x),
        f"reduce_scatter torch {name}": scattered,
        f"all_gather ours {name}": ring.all_gather(x),
        f"all_gather torch {name}": torch.cat(gathered),
        f"broadcast ours {name}": ring.broadcast(x, source),
        f"broadcast torch {name}": sent,
        f"all_to_all ours {name}": ring.all_to_all(rows),
        f"all_to_all torch {name}": exchanged,
    }


def clock(n_bytes: tuple[int, ...], repeats: int) -> Answer:
    """Seconds of one ring and one tree all-reduce per size, the least of several."""
    ring, out = Ring(), {}
    for name in ("ring", "tree"):
        all_reduce = ring.all_reduce if name == "ring" else ring.tree_all_reduce
        found = torch.full((len(n_bytes),), torch.inf, dtype=torch.float64)
        for _ in range(repeats):
            for i, m in enumerate(n_bytes):
                x = torch.ones(m // 4)
                dist.barrier()
                start = time.perf_counter()
                all_reduce(x)
                found[i] = min(found[i], time.perf_counter() - start)
        dist.all_reduce(found, op=dist.ReduceOp.MAX)  # the slowest process is when it is over
        out[name] = found
    return out


def send_first(length: int) -> Answer:
    """The mistake: everybody sends, and receives only when its own message has been taken."""
    ring, x = Ring(), torch.ones(length)
    received = torch.empty_like(x)
    dist.send(x, group_dst=(ring.rank + 1) % ring.size)
    dist.recv(received, group_src=(ring.rank - 1) % ring.size)
    return {"received": received}


def send_and_receive(length: int) -> Answer:
    """The same exchange with both under way at once."""
    return {"received": Ring().shift(torch.ones(length))}
