r"""Batches of sequences of different lengths: sort by length, cut, shuffle the batches.

Padding is work for nothing. If a batch holds rows of lengths $n_i$, a share
$1 - \sum_i n_i / (B \max_i n_i)$ of it is padding; among rows of like lengths there is hardly any.

>>> rows = [[5, 6, 7], [8], [9, 9]]
>>> batches = length_buckets([len(row) for row in rows], batch_size=2)
>>> [batch.tolist() for batch in batches]
[[1, 2], [0]]
>>> pad([rows[i] for i in batches[0]], value=0)
(tensor([[8, 0],
        [9, 9]]), tensor([1, 2]))

`uv run weeks/11/sentiment.py` trains with them.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from shared.require import require


def length_buckets(
    lengths: Sequence[int], batch_size: int, generator: torch.Generator | None = None
) -> list[Int[Tensor, "rows"]]:
    """Row numbers of each batch; rows of a batch have like lengths, each row occurs once.

    Parameters
    ----------
    generator
        Draws the order of the batches and who meets whom among rows of equal length; without one
        batches come in the order of their lengths.
    """
    require(batch_size >= 1, "batch_size must be at least 1", batch_size)
    n = len(lengths)
    rows = torch.arange(n) if generator is None else torch.randperm(n, generator=generator)
    by_length = rows[torch.tensor(lengths, dtype=torch.long)[rows].argsort(stable=True)]
    batches = list(by_length.split(batch_size)) if n else []
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def pad(
    rows: Sequence[Sequence[int]], value: int
) -> tuple[Int[Tensor, "rows longest"], Int[Tensor, " rows"]]:
    """The rows as one array, filled up with `value`, and their lengths."""
    require(len(rows) >= 1, "rows must hold at least one sequence", "none")
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), max(1, int(lengths.max()))), value)
    for row, target in zip(rows, padded, strict=True):
        target[: len(row)] = torch.tensor(row, dtype=torch.long)
    return padded, lengths
