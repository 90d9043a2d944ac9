"""Batches that are a pure function of (seed, step): resume needs no saved position.

*Concatenation* reads the split as one stream, cut into windows of L + 1 tokens that overlap by one,
so that each token is predicted once an epoch. Every epoch shifts the cuts by a random offset and
visits its windows in a random order: a keyed permutation of 0 … n - 1, computed for the few indices
that are asked for instead of shuffled for all of them. It is a Feistel network on 2h bits,

$$(l, r) \\mapsto (r,\\; l \\oplus F_k(r)) , \\qquad r = 1 \\dots 8 ,$$

which is a bijection whatever F is; a value of n or more is encrypted again until it is below n
(cycle walking), which makes it one of 0 … n - 1. Whoever asks for step 1,000, in whatever order and
in whatever process, gets the same batch.

*Best fit* packs whole documents into rows (week 15); it holds the documents and rows in memory,
about 40 bytes per token, and concatenation nothing.

Sources: Luby & Rackoff, "How to construct pseudorandom permutations from pseudorandom functions"
(1988); Black & Rogaway, "Ciphers with arbitrary finite domains" (2002), section 3, for cycle
walking; Ding et al., "Fewer truncations improve language modeling" (2024), for best fit.
"""

from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int64, UInt64
from torch import Tensor

from shared.require import require
from tiny_gpt.data.shards import Split
from week15.packing import Packed, mix, pack_best_fit

__all__ = ["IGNORED", "Batch", "Batches", "permuted"]

IGNORED = -100  # a target without loss, as in torch.nn.functional.cross_entropy
ROUNDS = 8
BLOCK = 2048  # windows whose starts are computed at once


class Batch(NamedTuple):
    """One step's tokens; the targets are the inputs one later, `IGNORED` where none is to come.

    Positions count from where each document (or the window) starts; segments tell documents apart
    and are -1 at padding. Both are None without `document_mask`.
    """

    inputs: Int64[Tensor, "batch context"]
    targets: Int64[Tensor, "batch context"]
    positions: Int64[Tensor, "batch context"] | None
    segments: Int64[Tensor, "batch context"] | None


class Batches:
    """A split's batches by step; steps run on over the end of an epoch, no window is dropped.

    Parameters
    ----------
    packing
        ``"concat"`` cuts the stream anywhere and predicts across documents; ``"bestfit"`` cuts
        only documents longer than a row, fills up with padding, and does neither.
    document_mask
        Whether batches say which document each token is from.
    """

    def __init__(
        self,
        split: Split,
        *,
        context: int,
        batch_size: int,
        seed: int,
        packing: Literal["concat", "bestfit"] = "concat",
        document_mask: bool = False,
    ):
        require(context >= 1, "context must be at least 1", context)
        require(batch_size >= 1, "batch_size must be at least 1", batch_size)
        must = "packing must be 'concat' or 'bestfit'"
        require(packing in ("concat", "bestfit"), must, repr(packing))
        self.split, self.context, self.batch_size = split, context, batch_size
        self.seed, self.document_mask = seed, document_mask
        self._rows = None
        if packing == "bestfit":
            self._rows = _rows(split, context + 1)
            self.n_windows, self._n_shifts = len(self._rows.tokens), 1
        else:
            fitting = (split.n_tokens - 1) // context
            must = f"split {split.name!r} must have at least context + 1 = {context + 1} tokens"
            require(fitting >= 1, must, split.n_tokens)
            # One window less than fit leaves room to shift them all by up to a window.
            self.n_windows = max(1, fitting - 1)
            spare = split.n_tokens - 1 - self.n_windows * context
            self._n_shifts = min(context, spare + 1)
        self.steps_per_epoch = -(-self.n_windows // batch_size)
        self._block_steps = max(1, BLOCK // batch_size)
        self._block: tuple[int, Int64[np.ndarray, " n"]] = (-1, np.empty(0, dtype=np.int64))

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counted from 0."""
        require(step >= 0, "step must be at least 0", step)
        starts = self._starts(step)
        if self._rows is not None:
            return self._packed(starts)
        rows = torch.from_numpy(self.split.gather(starts, self.context + 1))
        positions = segments = None
        if self.document_mask:
            index = starts[:, None] + np.arange(self.context)
            offsets = self.split.offsets
            documents = np.searchsorted(offsets, index, side="right") - 1
            begins = np.maximum(offsets[documents], starts[:, None])
            positions, segments = torch.from_numpy(index - begins), torch.from_numpy(documents)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous(), positions, segments)

    def _starts(self, step: int) -> Int64[np.ndarray, " batch"]:
        """Where the windows of a step start; a block of steps is kept, which changes nothing."""
        block, within = divmod(step, self._block_steps)
        kept, starts = self._block
        if kept != block:
            n = self._block_steps * self.batch_size
            starts = self._starts_of(np.arange(block * n, (block + 1) * n))
            self._block = (block, starts)
        return starts[within * self.batch_size : (within + 1) * self.batch_size]

    def _starts_of(self, drawn: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
        """First tokens (or rows) of the windows that are drawn first, second, …"""
        epochs, index = np.divmod(drawn, self.n_windows)
        window = permuted(index, self.n_windows, _keys(self.seed, epochs, 0))
        if self._rows is not None:
            return window
        shift = mix(_keys(self.seed, epochs, 1)) % np.uint64(self._n_shifts)
        return window * self.context + shift.astype(np.int64)

    def _packed(self, rows: Int64[np.ndarray, " batch"]) -> Batch:
        tokens, segments = self._rows.tokens[rows], self._rows.segments[rows]
        inputs, targets = tokens[:, :-1], tokens[:, 1:].copy()
        predicted = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] >= 0)
        targets[~predicted] = IGNORED
        inputs, targets = torch.from_numpy(inputs.copy()), torch.from_numpy(targets)
        if not self.document_mask:
            return Batch(inputs, targets, None, None)
        positions = torch.from_numpy(self._rows.positions[rows][:, :-1].copy())
        return Batch(inputs, targets, positions, torch.from_numpy(segments[:, :-1].copy()))


def permuted(
    index: Int64[np.ndarray, " n"], size: int, keys: UInt64[np.ndarray, " n"]
) -> Int64[np.ndarray, " n"]:
    """Where a permutation of 0 … `size` - 1, one for each key, takes each index."""
    within = size >= 1 and (not len(index) or 0 <= index.min() <= index.max() < size)
    require(within, f"index must lie between 0 and size - 1, where size = {size}")
    half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
    low = np.uint64((1 << int(half)) - 1)
    found = index.astype(np.uint64)
    walking = np.arange(len(index)) if size > 1 else np.empty(0, dtype=np.int64)
    while len(walking):
        left, right = found[walking] >> half, found[walking] & low
        for r in range(ROUNDS):
            key = keys[walking] + np.uint64(r)
            left, right = right, left ^ (mix(mix(key) ^ right) & low)
        found[walking] = (left << half) | right
        walking = walking[found[walking] >= size]
    return found.astype(np.int64)


def _keys(seed: int, epochs: Int64[np.ndarray, " n"], stream: int) -> UInt64[np.ndarray, " n"]:
    """A key for each epoch; streams tell permutations from shifts."""
    start = mix(np.array([seed % 2**64], dtype=np.uint64) + np.uint64(stream))
    return mix(start + (epochs.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15))


def _rows(split: Split, length: int) -> Packed:
    """The documents, each closed by the `end_of_text` it had, in rows."""
    end = split.end_of_text
    require(end is not None, "packing='bestfit' needs documents that end in end_of_text", end)
    require(split.n_tokens, f"split {split.name!r} must have tokens to pack", split.n_tokens)
    documents = [split.read(a, b - 1) for a, b in pairwise(split.offsets.tolist())]
    return pack_best_fit(documents, length, end)
