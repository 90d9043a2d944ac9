r"""Collectives from messages between neighbors: ring all-reduce, and what it costs.

Every process holds a vector of $m$ bytes, and all want the sum. Sent to one that adds, $n$ vectors
would pass through a single link. In a ring each process cuts its vector into $n$ pieces and talks
to its neighbors only. In $n - 1$ rounds the partial sum of each piece travels once around
(*reduce-scatter*: process $r$ ends with the sum of piece $r$), in $n - 1$ more the sums do
(*all-gather*). Each process sends one piece a round,

$$ 2\,(n - 1)\,\frac mn \ \text{bytes}, \qquad
   t_\text{ring} = 2\,(n - 1)\Big(\alpha + \frac{\beta m}{n}\Big), \qquad
   t_\text{tree} = 2 \lceil \log_2 n \rceil\, (\alpha + \beta m), $$

with a latency of $\alpha$ seconds per message and $\beta$ seconds per byte. Fewer than $2m$ bytes
however large $n$ is; but for short vectors the tree's few rounds win.

>>> wire_bytes(4, 1000)  # of 250 a round
1500
>>> model = AlphaBeta(alpha=1e-4, beta=1e-9)
>>> round(model.crossover(8))  # bytes above which the ring wins
188235
>>> alone = Ring(None, rank=0, size=1)
>>> alone.all_reduce(torch.tensor([1.0, 2.0])), alone.sent
(tensor([1., 2.]), 0)

    uv run weeks/17/collectives.py

Sources: P. Patarasuk and X. Yuan, *Bandwidth optimal all-reduce algorithms for clusters of
workstations* (2009); R. Thakur, R. Rabenseifner and W. Gropp, *Optimization of collective
communication operations in MPICH* (2005), section 3.
"""

from dataclasses import dataclass
from math import ceil, log2

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from jaxtyping import Float, Real, Shaped
from torch import Tensor

from shared.require import require

__all__ = ["AlphaBeta", "Ring", "wire_bytes"]

Array = Shaped[Tensor, "..."]


class Ring:
    """A group of processes in a circle; `sent` counts the bytes that this one has sent.

    All members call the same operations in the same order, with tensors of the same shape.
    """

    def __init__(
        self,
        group: dist.ProcessGroup | None = None,
        *,
        rank: int | None = None,
        size: int | None = None,
    ):
        self.group, self.sent = group, 0
        self.rank = dist.get_rank(group) if rank is None else rank
        self.size = dist.get_world_size(group) if size is None else size

    # ---- the one way of talking

    def exchange(self, x: Array, to: int, source: int) -> Array:
        """Send x to one process while another's arrives.

        Both are under way before either is waited for. If all sent first and received then, each
        would wait for a receiver that is itself sending.
        """
        received = torch.empty_like(x, memory_format=torch.contiguous_format)
        requests = [
            dist.isend(x.contiguous(), group=self.group, group_dst=to % self.size),
            dist.irecv(received, group=self.group, group_src=source % self.size),
        ]
        for request in requests:
            request.wait()
        self.sent += x.nbytes
        return received

    def shift(self, x: Array) -> Array:
        """Everybody's x goes one place to the right."""
        return self.exchange(x, self.rank + 1, self.rank - 1)

    # ---- collectives

    def reduce_scatter(self, x: Shaped[Tensor, "n"]) -> Shaped[Tensor, "piece"]:
        """Sum over processes of piece `rank` of x, which is padded to `size` equal pieces.

        The sum that ends here set out one place to the right, one time around before.
        """
        pieces = self.pad(x).view(self.size, -1)
        total = pieces[self.rank - 1]
        for step in range(1, self.size):
            total = self.shift(total) + pieces[self.rank - 1 - step]  # negative: from the end
        return total.clone()

    def all_gather(self, piece: Shaped[Tensor, "piece"]) -> Shaped[Tensor, "n"]:
        """All processes' pieces, in the order of their ranks."""
        pieces = [piece] * self.size
        for step in range(1, self.size):
            piece = self.shift(piece)
            pieces[self.rank - step] = piece
        return torch.cat(pieces)

    def all_reduce(self, x: Array) -> Array:
        """Sum over processes: each piece's sum is made once, so that all get the same bits."""
        flat = x.flatten()
        return self.all_gather(self.reduce_scatter(flat))[: len(flat)].view(x.shape)

    def all_to_all(self, rows: Shaped[Tensor, "size ..."]) -> Shaped[Tensor, "size ..."]:
        """Row i goes to process i; what came from process i is row i."""
        n = len(rows)
        require(n == self.size, f"rows must have one per process, {self.size}", n)
        received = rows.clone()
        for step in range(1, self.size):
            to, source = (self.rank + step) % self.size, (self.rank - step) % self.size
            received[source] = self.exchange(rows[to], to, source)
        return received

    def broadcast(self, x: Array, source: int = 0) -> Array:
        """The source's x everywhere, by a tree: who knows it doubles in each round."""
        place, distance, x = (self.rank - source) % self.size, 1, x.clone()
        while distance < self.size:
            if place < distance and place + distance < self.size:
                self._send(x, self.rank + distance)
            elif distance <= place < 2 * distance:
                self._receive(x, self.rank - distance)
            distance *= 2
        return x

    def tree_all_reduce(self, x: Array) -> Array:
        """The sum by a tree: the broadcast backwards, adding, and then the broadcast."""
        total, distance = x.clone(), 1 << max(0, self.size - 1).bit_length()
        while distance > 1:
            distance //= 2
            if self.rank < distance and self.rank + distance < self.size:
                part = torch.empty_like(total)
                self._receive(part, self.rank + distance)
                total += part
            elif distance <= self.rank < 2 * distance:
                self._send(total, self.rank - distance)
        return self.broadcast(total)

    # ---- helpers

    def pad(self, x: Shaped[Tensor, "n"]) -> Shaped[Tensor, "padded"]:
        """Zeros at the end, so that all pieces are equally long."""
        return F.pad(x, (0, -len(x) % self.size))

    def _send(self, x: Tensor, to: int) -> None:
        dist.send(x.contiguous(), group=self.group, group_dst=to % self.size)
        self.sent += x.nbytes

    def _receive(self, x: Tensor, source: int) -> None:
        dist.recv(x, group=self.group, group_src=source % self.size)


# ---- cost


def wire_bytes(size: int, n_bytes: int) -> int:
    """Bytes that each process sends in a ring all-reduce of a vector that `size` divides."""
    return 2 * (size - 1) * n_bytes // size


@dataclass(frozen=True)
class AlphaBeta:
    """A message of m bytes takes alpha + beta m seconds."""

    alpha: float
    beta: float

    @classmethod
    def fit(cls, n_bytes: Real[np.ndarray, "n"], seconds: Float[np.ndarray, "n"]) -> "AlphaBeta":
        """Least squares of relative errors, so that short messages count as much as long ones.

        Both parameters are kept from being negative.
        """
        from scipy.optimize import nnls  # a reader who copies the collectives needs no SciPy

        m, t = np.asarray(n_bytes, dtype=float), np.asarray(seconds, dtype=float)
        require(len(m) >= 2, "n_bytes must be at least 2 sizes", len(m))
        scale = m.max()
        (alpha, beta), _ = nnls(np.column_stack([1 / t, m / scale / t]), np.ones(len(m)))
        return cls(float(alpha), float(beta / scale))

    def ring(self, size: int, n_bytes: float) -> float:
        """Seconds of a ring all-reduce."""
        return 2 * (size - 1) * (self.alpha + self.beta * n_bytes / size)

    def tree(self, size: int, n_bytes: float) -> float:
        """Seconds of a tree all-reduce."""
        return 2 * ceil(log2(size)) * (self.alpha + self.beta * n_bytes)

    def crossover(self, size: int) -> float:
        """Bytes at which ring and tree take the same time; the ring wins above."""
        rounds, depth = size - 1, ceil(log2(size))
        require(size >= 2, "size must be at least 2", size)
        return (rounds - depth) * self.alpha / (self.beta * (depth - rounds / size))


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
