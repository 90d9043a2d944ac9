r"""The lattice: all segmentations of many words at once, summed without listing them.

A segmentation is a path from a word's beginning to its end; an edge is a piece. The probability of
all paths to a node adds up from the nodes before it,

$$\alpha_j = \sum_{i \to j} \alpha_i \, p(t_{ij}) ,$$

and from the end likewise, so that exponentially many paths take two passes over the edges.

>>> lattice = Lattice(["aba"], ["a", "b", "ab"])  # a b a, or ab a
>>> log_likelihood, counts = lattice.expected_counts(np.log([0.5, 0.2, 0.3]), np.ones(1))
>>> round(float(np.exp(log_likelihood[0])), 3)  # 0.5 * 0.2 * 0.5 + 0.3 * 0.5
0.2
>>> counts.round(2).tolist()
[1.25, 0.25, 0.75]

Source: Kudo, "Subword regularization" (2018), section 3.2, the forward-backward algorithm.
"""

from array import array
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from shared.require import require


class Lattice:
    """All segmentations of many words at once, as edges between the positions in the words.

    An edge is a piece from one position to a later one. Words do not touch, so one pass over
    position 1, 2, 3, … does all of them together.

    Parameters
    ----------
    words
        Words, not empty, each to be spelled by the pieces in at least one way.
    pieces
        The vocabulary, in the order of the probabilities that come later.
    """

    def __init__(self, words: Sequence[str], pieces: Sequence[str]):
        ids = {piece: i for i, piece in enumerate(pieces)}
        longest = max(map(len, pieces), default=0)
        edges, first = array("q"), 0
        self._first, self._last = [], []  # each word's nodes at its two ends
        for word in words:
            for end in range(1, len(word) + 1):
                for start in range(max(0, end - longest), end):
                    if (piece := ids.get(word[start:end])) is not None:
                        edges.extend((end, start, first, piece))
            self._first.append(first)
            self._last.append(first + len(word))
            first += len(word) + 1
        self.n_nodes = first
        end, start, base, piece = np.frombuffer(edges, dtype=np.int64).reshape(-1, 4).T
        self._set(np.stack([end, start, base + start, base + end, piece]), len(pieces))

    def _set(self, edges: Int[np.ndarray, "5 edge"], n_pieces: int) -> None:
        end, start, self._from, self._to, self._piece = self._edges = edges
        self.n_pieces = n_pieces
        self._forward = _groups(end)
        self._backward = _groups(start)[::-1]

    def keep(self, pieces: Int[np.ndarray, " kept"]) -> None:
        """Drop all other pieces' edges; piece number `pieces[i]` becomes number i."""
        number = np.full(self.n_pieces, -1)
        number[pieces] = np.arange(len(pieces))
        edges = np.vstack([self._edges[:4], number[self._piece]])
        self._set(edges[:, edges[4] >= 0], len(pieces))

    def forward(self, log_p: Float[np.ndarray, " piece"]) -> Float[np.ndarray, " node"]:
        """The log of all paths' total probability from a word's beginning to each node."""
        alpha = np.full(self.n_nodes, -np.inf)
        alpha[self._first] = 0.0
        for edges in self._forward:
            through = alpha[self._from[edges]] + log_p[self._piece[edges]]
            np.logaddexp.at(alpha, self._to[edges], through)
        return alpha

    def backward(self, log_p: Float[np.ndarray, " piece"]) -> Float[np.ndarray, " node"]:
        """The same from each node to the word's end."""
        beta = np.full(self.n_nodes, -np.inf)
        beta[self._last] = 0.0
        for edges in self._backward:
            through = beta[self._to[edges]] + log_p[self._piece[edges]]
            np.logaddexp.at(beta, self._from[edges], through)
        return beta

    def expected_counts(
        self, log_p: Float[np.ndarray, " piece"], frequency: Float[np.ndarray, " word"]
    ) -> tuple[Float[np.ndarray, " word"], Float[np.ndarray, " piece"]]:
        r"""Each word's log-likelihood, and how often each piece is used: the E step.

        An edge's share of its word is $\alpha_{\text{from}}\, p(t)\, \beta_{\text{to}} / P(x)$.
        """
        alpha, beta = self.forward(log_p), self.backward(log_p)
        log_likelihood = alpha[self._last]
        cut_off = np.isneginf(log_likelihood)
        must = f"pieces must spell every word, but word {cut_off.argmax()} has no segmentation"
        require(not cut_off.any(), must)
        length = np.subtract(self._last, self._first) + 1
        total, weight = np.repeat(log_likelihood, length), np.repeat(frequency, length)
        inside = alpha[self._from] + log_p[self._piece] + beta[self._to] - total[self._from]
        share = np.exp(inside) * weight[self._from]
        return log_likelihood, np.bincount(self._piece, share, minlength=self.n_pieces)


def _groups(position: Int[np.ndarray, " edge"]) -> list[np.ndarray]:
    """Indices of the edges at position 0, at position 1, and so on."""
    order = np.argsort(position, kind="stable")
    return np.split(order, np.cumsum(np.bincount(position))[:-1]) if len(order) else []
