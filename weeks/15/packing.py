r"""Packing, mixing and ordering: from documents of any length to rows of one length.

*Concatenation* writes all documents one after the other and cuts every L tokens: nothing is wasted,
but the cuts fall anywhere. *Best fit* puts each piece where the least room remains and cuts only
what is longer than a row. Sources are mixed with probabilities tempered by T,

$$p_i = \frac{n_i^{1/T}}{\sum_j n_j^{1/T}} ,$$

so that a source of n_i tokens is read p_i N / n_i times in N tokens of training.

>>> packed = pack_best_fit([np.array([5, 6, 7]), np.array([8])], length=6, separator=0)
>>> packed.tokens.tolist(), packed.segments.tolist(), packed.positions.tolist()
([[5, 6, 7, 0, 8, 0]], [[0, 0, 0, 0, 1, 1]], [[0, 1, 2, 3, 0, 1]])
>>> bool(attention_mask(packed.segments)[0, 4, :4].any())  # 8 sees nothing of the first
False
>>> mixture_weights(np.array([900, 100]), temperature=2.0).round(3).tolist()
[0.75, 0.25]

Sources: Ding et al., "Fewer truncations improve language modeling" (2024), section 2; Raffel et
al., "Exploring the limits of transfer learning" (2020), section 3.5.2; Platanios et al.,
"Competence-based curriculum learning" (2019), equation 7.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from shared.require import require

PAD = -1  # as segment: no document

Tokens = Int[np.ndarray, " _"]  # of any length, each document its own
Piece = tuple[int, int, int]  # document, start, end


@dataclass(frozen=True)
class Packed:
    """Rows of tokens and where they are from.

    Attributes
    ----------
    tokens
        (rows, length)
    segments
        (rows, length) the document's index, -1 where there is padding.
    positions
        (rows, length) counted from the start of the piece, not of the row.
    n_truncated
        Documents that are spread over more than one piece.
    """

    tokens: Int[np.ndarray, "rows length"]
    segments: Int[np.ndarray, "rows length"]
    positions: Int[np.ndarray, "rows length"]
    n_truncated: int

    @property
    def waste(self) -> float:
        """Share of the places that hold padding."""
        return float(np.mean(self.segments == PAD))


def pack_concat(documents: Sequence[Tokens], length: int, separator: int) -> Packed:
    """Concatenate, a separator after each document, and cut into rows."""
    ended = _with_separator(documents, length, separator)
    rows: list[list[Piece]] = [[]]
    room = length
    for i, document in enumerate(ended):
        start = 0
        while start < len(document):
            if not room:
                rows.append([])
                room = length
            end = min(len(document), start + room)
            rows[-1].append((i, start, end))
            room -= end - start
            start = end
    return _fill(ended, rows, length, separator)


def pack_best_fit(documents: Sequence[Tokens], length: int, separator: int) -> Packed:
    """Cut only documents longer than a row; the longest piece first, where it leaves least room.

    References
    ----------
    Ding et al. (2024), algorithm 1: best-fit-decreasing, by counting sort and a tree of rooms; the
    tree is here one integer whose bit r says that a row has r places left.
    """
    ended = _with_separator(documents, length, separator)
    pieces = [
        (i, start, min(start + length, len(document)))
        for i, document in enumerate(ended)
        for start in range(0, len(document), length)
    ]
    rows: list[list[Piece]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]
    rooms = 0
    for piece in sorted(pieces, key=lambda piece: piece[1] - piece[2]):  # stable: ties as they came
        size = piece[2] - piece[1]
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1  # the lowest bit: the least room
            row = with_room[room].pop()
            rooms ^= (not with_room[room]) << room
        else:
            row, room = len(rows), length
            rows.append([])
        rows[row].append(piece)
        with_room[room - size].append(row)
        rooms |= (1 << (room - size)) & ~1  # a full row is out
    return _fill(ended, rows or [[]], length, separator)


def _with_separator(documents: Sequence[Tokens], length: int, separator: int) -> list[Tokens]:
    require(length >= 1, "length must be at least 1", length)
    return [np.append(document, separator) for document in documents]


def _fill(ended: list[Tokens], rows: list[list[Piece]], length: int, pad: int) -> Packed:
    tokens = np.full((len(rows), length), pad, dtype=np.int64)
    segments, positions = np.full_like(tokens, PAD), np.zeros_like(tokens)
    pieces_of = np.zeros(len(ended), dtype=np.int64)
    for r, row in enumerate(rows):
        at = 0
        for i, start, end in row:
            place = slice(at, at := at + end - start)
            tokens[r, place] = ended[i][start:end]
            segments[r, place] = i
            positions[r, place] = np.arange(end - start)
            pieces_of[i] += 1
    return Packed(tokens, segments, positions, int((pieces_of > 1).sum()))


def attention_mask(
    segments: Int[np.ndarray, "rows length"],
) -> Bool[np.ndarray, "rows length length"]:
    """True where a query (second axis) may look: at its own document, not ahead, never at padding.

    A row of padding sees nothing; its softmax has no term and its loss must be masked.
    """
    same = segments[:, :, None] == segments[:, None, :]
    causal = np.tri(segments.shape[1], dtype=bool)
    return same & causal & (segments != PAD)[:, None, :]


def mixture_weights(
    sizes: Int[np.ndarray, " sources"], temperature: float
) -> Float[np.ndarray, " sources"]:
    """p_i ∝ n_i^(1/T): 1 as large as they are, ∞ all alike; sizes in tokens."""
    require(temperature > 0, "temperature must be above 0", temperature)
    there = len(sizes) and sizes.min() >= 1
    require(there, "sizes must be at least 1 token each", sizes.tolist())
    logits = np.log(sizes) / temperature
    weights = np.exp(logits - logits.max())  # 1e12 to the power of 1/0.01 would overflow
    return weights / weights.sum()


def expected_epochs(
    weights: Float[np.ndarray, " sources"], sizes: Int[np.ndarray, " sources"], n_tokens: int
) -> Float[np.ndarray, " sources"]:
    """How often each source is read in `n_tokens` of training."""
    return weights * n_tokens / sizes


def draw_sources(
    weights: Float[np.ndarray, " sources"], seed: int, steps: Int[np.ndarray, " n"]
) -> Int[np.ndarray, " n"]:
    """The source of each step: a pure function of (seed, step).

    There is no generator whose state could be lost: a run that is resumed at step 1,000, or split
    over eight readers, draws what the straight run would have drawn.

    References
    ----------
    Steele, Lea & Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64.
    """
    least = steps.min() if len(steps) else 0
    require(least >= 0, "steps must be at least 0", least)
    start = mix(np.array([seed % 2**64], dtype=np.uint64))
    state = start + (steps.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    uniform = (mix(state) >> np.uint64(11)) * 2.0**-53
    edges = np.cumsum(weights) / weights.sum()  # the last one exactly 1, above every uniform
    return np.searchsorted(edges, uniform, side="right")


def mix(z: UInt64[np.ndarray, "*shape"]) -> UInt64[np.ndarray, "*shape"]:
    """SplitMix64's finalizer, modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def curriculum_pool(
    difficulty: Float[np.ndarray, " n"], step: int, n_steps: int, start: float = 0.1
) -> Int[np.ndarray, " pool"]:
    """Documents that may be drawn at a step: the easiest share, which grows until all are in.

    References
    ----------
    Platanios et al. (2019), equation 7: c(t) = min(1, √(t (1 - c₀²)/T + c₀²)).
    """
    require(0 < start <= 1, "start must be above 0 and at most 1", start)
    possible = n_steps >= 1 and step >= 0
    require(possible, "step must be at least 0 of n_steps >= 1", f"{step} of {n_steps}")
    share = min(1.0, np.sqrt(step * (1 - start**2) / n_steps + start**2))
    order = np.argsort(difficulty, kind="stable")
    return order[: max(1, round(share * len(order)))] if len(order) else order
