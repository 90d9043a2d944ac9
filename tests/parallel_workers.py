"""What processes do in the tests of week 17: functions that a new process can import."""

import torch
import torch.distributed as dist

from week17 import tensor_parallel
from week17.sharded_runs import mesh_run, sharded_runs


def tensor_pieces(rank, world):
    """Functions of `tensor_parallel` by themselves, on three of four processes."""
    group = dist.new_group([0, 1, 2])
    if rank == 3:
        return None
    cut, whole = (torch.nn.Parameter(torch.ones(1)) for _ in range(2))
    cut.cut, cut.grad, whole.grad = 0, torch.ones(1), torch.ones(1)
    same, own = tensor_parallel.generators(0, group)
    draws = [torch.rand(5, generator=g) for g in (same, own)]
    return {"norm": tensor_parallel.grad_norm([cut, whole], group), "draws": draws}


def tensor_parallel_all(rank, world, cases, on_mesh):
    """Everything that `test_tensor_parallel` needs, of one launch."""
    return {
        "cases": sharded_runs(rank, world, cases),
        "pieces": tensor_pieces(rank, world),
        "mesh": mesh_run(rank, world, on_mesh),
    }
