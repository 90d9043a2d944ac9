r"""A mesh of processes: rows share a model, columns share its work on the data.

With $D \cdot T$ processes in a grid, process $d \cdot T + t$ holds part $t$ of the model and sees
part $d$ of the batch. The two kinds of parallelism never meet: sums of tensor parallelism go along
a row, gradients are summed along a column,

$$\nabla L = \frac1N \sum_{d} \nabla \sum_{i \in \text{rows}_d} \ell_i ,$$

with $N$ the tokens of all columns together. Processes that talk most, those of a row, get
neighboring ranks, since those share a machine.

>>> grid(2, 2)
[[0, 1], [2, 3]]
>>> grid(2, 3)  # two copies of a model in three parts
[[0, 1, 2], [3, 4, 5]]

    uv run weeks/17/mesh.py

Sources: Shoeybi et al., "Megatron-LM" (2019), appendix B.1; Narayanan et al., "Efficient
large-scale language model training on GPU clusters using Megatron-LM" (2021), section 3.
"""

import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor
from torch.distributed import ProcessGroup

from shared.require import require
from week17.tensor_parallel import TensorParallelGPT


def grid(data: int, tensor: int) -> list[list[int]]:
    """Ranks as rows that share a model; columns hold the same part of it."""
    require(data >= 1 and tensor >= 1, "data and tensor must be at least 1", data, tensor)
    return [list(range(d * tensor, (d + 1) * tensor)) for d in range(data)]


def groups(data: int, tensor: int) -> tuple[ProcessGroup, ProcessGroup]:
    """This process's column (data parallel) and row (tensor parallel).

    Each process makes all groups, in the same order: making one is itself a collective.
    """
    rows, rank = grid(data, tensor), dist.get_rank()
    of_row = [dist.new_group(row) for row in rows]
    of_column = [dist.new_group(list(column)) for column in zip(*rows, strict=True)]
    return of_column[rank % tensor], of_row[rank // tensor]


def mine(x: Int[Tensor, "batch ..."], group: ProcessGroup) -> Int[Tensor, "rows ..."]:
    """This column's rows of a batch; columns may have unequal numbers of them."""
    return x.tensor_split(dist.get_world_size(group))[dist.get_rank(group)]


def backward(
    model: TensorParallelGPT,
    tokens: Int[Tensor, "rows seq"],
    targets: Int[Tensor, "rows seq"],
    column: ProcessGroup,
    n_tokens: int,
) -> float:
    """Leave the whole batch's gradient in this process's shards, and give the batch's loss.

    Parameters
    ----------
    n_tokens
        Of the whole batch: dividing by the own number would be a mean of means.
    """
    # The mean over the own tokens, weighed by how many there are.
    loss = model.loss(model(tokens), targets) * (targets.numel() / n_tokens)
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        dist.all_reduce(p.grad, group=column)
    total = loss.detach().clone()
    dist.all_reduce(total, group=column)
    return total.item()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
