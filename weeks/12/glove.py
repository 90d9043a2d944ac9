r"""GloVe: vectors whose products are the logarithms of how often two words meet.

Count $X_{ij}$, how often word $j$ stands near word $i$, a neighbor at distance $d$ as $1/d$. Then
fit the logarithms of all counts that are not zero, the frequent ones with more weight:

$$ J = \tfrac12 \sum_{X_{ij} > 0} f(X_{ij}) \left(w_i^\top \tilde w_j + b_i + \tilde b_j
       - \log X_{ij}\right)^2, \qquad f(x) = \min\left(1, (x / x_{\max})^\alpha\right) . $$

Differences of vectors are then log-ratios of counts: $(w_i - w_j)^\top \tilde w_k$ says how much
more often $k$ stands near $i$ than near $j$, up to a constant of the pair.

>>> X = cooccurrence(torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.int64), 2, window=2)
>>> X.toarray().tolist()  # 0 and 1 are neighbors twice; 0 meets itself at distance 2, both ways
[[1.0, 2.0], [2.0, 0.0]]
>>> weight(torch.tensor([1.0, 16.0, 99.0]), x_max=16.0, alpha=0.75)
tensor([0.1250, 1.0000, 1.0000])

    uv run weeks/12/glove.py

Pennington, Socher and Manning (2014), "GloVe: Global Vectors for Word Representation", section 3;
AdaGrad: Duchi, Hazan and Singer (2011).
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy import sparse
from torch import Tensor
from torch.nn.functional import embedding

from shared.require import require


def cooccurrence(
    tokens: Int[Tensor, " n"],
    sentence: Int[Tensor, " n"],
    vocab_size: int,
    *,
    window: int = 10,
    harmonic: bool = True,
) -> sparse.csr_array:
    """Symmetric table of weighted counts within `window` places of the same sentence.

    Parameters
    ----------
    harmonic
        A neighbor at distance d counts 1/d (section 4.2); else 1.
    """
    require(window >= 1, "window must be at least 1", window)
    require(len(tokens) >= 2, "tokens must be at least 2", len(tokens))
    most = int(tokens.max())
    require(most < vocab_size, f"tokens must be below vocab_size = {vocab_size}", most)
    total = sparse.csr_array((vocab_size, vocab_size))
    for distance in range(1, min(window, len(tokens) - 1) + 1):
        same = sentence[distance:] == sentence[:-distance]
        pairs = tokens[:-distance][same].numpy(), tokens[distance:][same].numpy()
        counts = np.full(len(pairs[0]), 1 / distance if harmonic else 1.0)
        # as CSR, a pair that occurs twice is summed
        total += sparse.coo_array((counts, pairs), shape=total.shape).tocsr()
    return (total + total.T).tocsr()


def weight(
    x: Float[Tensor, "..."], x_max: float = 100.0, alpha: float = 0.75
) -> Float[Tensor, "..."]:
    r"""How much a count matters, $\min(1, (x / x_{\max})^\alpha)$ (eq. 9); all alike if α is 0."""
    require(x_max > 0, "x_max must be above 0", x_max)
    require(alpha >= 0, "alpha must be at least 0", alpha)
    return (x / x_max).clamp(max=1.0) ** alpha


class Entries(NamedTuple):
    """Some entries of the table: row, column, log-count and weight."""

    row: Int[Tensor, " batch"]
    column: Int[Tensor, " batch"]
    log_count: Float[Tensor, " batch"]
    weight: Float[Tensor, " batch"]


class GloVe:
    r"""Word and context vectors, each with its bias as last column, fitted by AdaGrad.

    Parameters
    ----------
    lr, start
        Of AdaGrad: each number moves by $-\eta g / \sqrt{s + \sum g^2}$, with $s$ the `start`;
        the sum includes the present gradient. 0.05 and 1 as in the authors' code.
    """

    def __init__(
        self,
        vocab_size: int,
        dim: int = 50,
        *,
        lr: float = 0.05,
        start: float = 1.0,
        generator: torch.Generator,
    ):
        require(dim >= 1, "dim must be at least 1", dim)
        require(start > 0, "start must be above 0", start)
        self.lr = lr
        self.words, self.contexts = (
            (torch.rand(vocab_size, dim + 1, generator=generator) - 0.5) / dim for _ in range(2)
        )
        self.squares = [torch.full_like(self.words, start) for _ in range(2)]

    def gradients(self, entries: Entries) -> tuple[Tensor, Tensor, Tensor]:
        """Summed loss, and its gradients by rows of words and of contexts, (batch, dim + 1)."""
        w, c = embedding(entries.row, self.words), embedding(entries.column, self.contexts)
        error = (w[:, :-1] * c[:, :-1]).sum(dim=1) + w[:, -1] + c[:, -1] - entries.log_count
        pull = (entries.weight * error)[:, None]
        by_w, by_c = pull * c, pull * w
        by_w[:, -1], by_c[:, -1] = pull[:, 0], pull[:, 0]
        return 0.5 * (entries.weight * error**2).sum(), by_w, by_c

    def step(self, entries: Entries) -> float:
        """One step of AdaGrad on the summed loss of some entries; the loss before it."""
        loss, *gradients = self.gradients(entries)
        tables, places = (self.words, self.contexts), (entries.row, entries.column)
        for table, squares, place, rows in zip(
            tables, self.squares, places, gradients, strict=True
        ):
            once, at = place.unique(return_inverse=True)
            # summed before they are squared: AdaGrad sees one gradient per step
            gradient = rows.new_zeros(len(once), rows.shape[1]).index_add_(0, at, rows)
            squares.index_add_(0, once, gradient**2)
            table.index_add_(0, once, gradient / squares[once].sqrt(), alpha=-self.lr)
        return float(loss)

    def fit(
        self,
        counts: sparse.csr_array,
        *,
        epochs: int = 15,
        x_max: float = 100.0,
        alpha: float = 0.75,
        batch_size: int = 4096,
        generator: torch.Generator,
    ) -> list[float]:
        """Pass over all entries above zero in random order; the mean loss of each epoch."""
        table = counts.tocoo()
        shape = self.words.shape[0]
        require(table.shape == (shape, shape), f"counts must be {shape} × {shape}", table.shape)
        require(table.nnz and table.data.min() > 0, "counts must be stored above 0", table.nnz)
        x = torch.tensor(table.data)
        row, column = (torch.tensor(place).long() for place in table.coords)
        kind = self.words.dtype
        entries = Entries(row, column, x.log().to(kind), weight(x, x_max, alpha).to(kind))
        losses = []
        for _ in range(epochs):
            order = torch.randperm(len(x), generator=generator)
            batches = (Entries(*(f[part] for f in entries)) for part in order.split(batch_size))
            losses.append(sum(map(self.step, batches)) / len(x))
        return losses

    @property
    def vectors(self) -> Float[Tensor, "vocab dim"]:
        """Sum of word and context vectors, without biases (section 4.2)."""
        return self.words[:, :-1] + self.contexts[:, :-1]


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
