"""A paged key-value cache: sequences of unequal length share one pool of blocks.

A cache in one piece reserves each row's longest possible length. Here a sequence takes a block of
a few tokens when it needs one, so that at most its last block is partly empty, and sequences with
a common beginning share its blocks. Reduced: vLLM's kernel reads the blocks where they lie, this
gathers them before each attention.

>>> from week18.llama3 import Llama, LlamaConfig
>>> pool = PagedKVCache(Llama(LlamaConfig(vocab_size=50)), n_blocks=6, block_size=4)
>>> a = pool.add()
>>> pool.batch([a], new=6).advance(6)  # a model's call stores the tokens and advances
>>> b = pool.fork(a)
>>> pool.n_free, pool.blocks(a) == pool.blocks(b)  # two blocks, shared by both
(4, True)

`uv run weeks/19/kv_cache.py` measures both caches. Kwon et al., "Efficient memory management for
large language model serving with PagedAttention" (2023), sections 4.1 to 4.4.
"""

from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from shared.require import require


class PagedKVCache:
    """Keys and values of many sequences in blocks of a common pool, as an operating system pages.

    A sequence owns whole blocks, listed in its table, so at most one block each is partly empty.
    Blocks are counted by their owners: a fork shares them and copies one only when it has to
    write into it (copy on write).

    Parameters
    ----------
    model
        Gives sizes, dtype and device.
    n_blocks, block_size
        The pool: blocks, and tokens in each.
    """

    def __init__(self, model: nn.Module, *, n_blocks: int, block_size: int = 16):
        for name, value in (("n_blocks", n_blocks), ("block_size", block_size)):
            require(value >= 1, f"{name} must be at least 1", value)
        config, weight = model.config, model.embed.weight
        slots = (config.n_layers, n_blocks * block_size, config.n_kv_heads, config.head_dim)
        with torch.inference_mode(False):
            self._k = torch.zeros(slots, dtype=weight.dtype, device=weight.device)
            self._v = torch.zeros_like(self._k)
        self.n_blocks, self.block_size = n_blocks, block_size
        self._free = list(range(n_blocks))[::-1]
        self._owners = [0] * n_blocks
        self._tables: dict[int, list[int]] = {}
        self._lengths: dict[int, int] = {}
        self._next = 0

    @property
    def n_free(self) -> int:
        """Blocks that nobody owns."""
        return len(self._free)

    @property
    def fragmentation(self) -> float:
        """Share of the owned blocks' slots that hold no token."""
        filled: dict[int, int] = {}  # of a shared block, what its fullest owner uses
        for i, table in self._tables.items():
            for n, block in enumerate(table):
                used = min(self.block_size, self._lengths[i] - n * self.block_size)
                filled[block] = max(filled.get(block, 0), used)
        return 1 - sum(filled.values()) / (self.block_size * len(filled)) if filled else 0.0

    def length(self, sequence: int) -> int:
        """Tokens stored of a sequence."""
        return self._lengths[self._known(sequence)]

    def blocks(self, sequence: int) -> tuple[int, ...]:
        """The sequence's table."""
        return tuple(self._tables[self._known(sequence)])

    def add(self) -> int:
        """A new, empty sequence; returns its id."""
        return self._enter([], 0)

    def fork(self, sequence: int) -> int:
        """A new sequence with the same tokens, sharing all blocks."""
        self.crop(sequence, self.length(sequence))  # blocks reserved and not used are not shared
        table = self._tables[sequence]
        for block in table:
            self._owners[block] += 1
        return self._enter(list(table), self._lengths[sequence])

    def remove(self, sequence: int) -> None:
        """Forget a sequence; blocks that it alone owned are free."""
        self.crop(sequence, 0)
        del self._tables[sequence], self._lengths[sequence]

    def crop(self, sequence: int, length: int) -> None:
        """Forget a sequence's tokens after the first `length`, and its blocks after those."""
        now = self.length(sequence)
        require(0 <= length <= now, f"length must be between 0 and {now}", length)
        table, kept = self._tables[sequence], -(-length // self.block_size)
        for block in reversed(table[kept:]):
            self._release(block)
        del table[kept:]
        self._lengths[sequence] = length

    def batch(self, sequences: Sequence[int], *, new: int = 1) -> "PagedBatch":
        """What to pass to the model with the next `new` tokens of each of these sequences.

        If the pool has too few free blocks, that is a ValueError, and nothing is changed.
        """
        different = len(set(sequences)) == len(sequences) > 0
        require(different, "sequences must be different, and at least one", sequences)
        require(new >= 1, "new must be at least 1", new)
        missing, free = self.blocks_to_get(sequences, new), len(self._free)
        must = f"{new} tokens for {len(sequences)} sequences need {missing} blocks"
        require(missing <= free, must, f"{free} free of {self.n_blocks}")
        for i in sequences:
            self._reserve(i, new)
        return PagedBatch(self, sequences, new)

    def blocks_to_get(self, sequences: Sequence[int], new: int) -> int:
        """Blocks that `batch` would take from the free ones."""
        grown = {i: -(-(self.length(i) + new) // self.block_size) for i in sequences}
        missing = sum(max(0, n - len(self._tables[i])) for i, n in grown.items())
        writers = Counter(self._unfinished_block(i) for i in sequences)
        del writers[None]
        # Of the owners of a block one may keep it, if all of them are going to write.
        return missing + sum(min(n, self._owners[block] - 1) for block, n in writers.items())

    def _enter(self, table: list[int], length: int) -> int:
        self._next += 1
        self._tables[self._next], self._lengths[self._next] = table, length
        return self._next

    def _known(self, sequence: int) -> int:
        known = self._tables
        require(sequence in known, f"sequence must be one of {sorted(known)}", sequence)
        return sequence

    def _unfinished_block(self, sequence: int) -> int | None:
        """The block, partly filled, that the next token goes into."""
        n, used = divmod(self.length(sequence), self.block_size)
        return self._tables[sequence][n] if used else None

    def _reserve(self, sequence: int, new: int) -> None:
        table, size = self._tables[sequence], self.block_size
        old = self._unfinished_block(sequence)
        if old is not None and self._owners[old] > 1:
            fresh = self._take()
            for pool in (self._k, self._v):
                pool[:, fresh * size : (fresh + 1) * size] = pool[:, old * size : (old + 1) * size]
            self._release(old)
            table[table.index(old)] = fresh
        while len(table) * size < self._lengths[sequence] + new:
            table.append(self._take())

    def _take(self) -> int:
        block = self._free.pop()
        self._owners[block] = 1
        return block

    def _release(self, block: int) -> None:
        self._owners[block] -= 1
        if self._owners[block] == 0:
            self._free.append(block)


class PagedBatch:
    """Some sequences of a `PagedKVCache` as one batch, the shorter ones padded on the left.

    Good for one call of the model: `model(tokens, cache=b, mask=b.mask, positions=b.positions)`.

    Attributes
    ----------
    last
        For models that ask: the token before the new ones of each sequence.
    """

    last: Int[Tensor, " batch"] | None = None

    def __init__(self, pool: PagedKVCache, sequences: Sequence[int], new: int):
        self._pool, self._sequences, self._new = pool, tuple(sequences), new
        lengths = torch.tensor([pool.length(i) for i in sequences])
        self.length = int(lengths.max())
        place = torch.arange(self.length + new) - (self.length - lengths)[:, None]
        slots = []
        for i, row in zip(sequences, place.clamp(min=0), strict=True):
            # Padding reads the row's own first slot: another's might hold NaN, and 0 · NaN is NaN.
            block = torch.tensor(pool.blocks(i))[row // pool.block_size]
            slots.append(block * pool.block_size + row % pool.block_size)
        device = pool._k.device
        self._slots = torch.stack(slots).to(device)
        self.positions = place[:, self.length :].to(device)
        self.mask = None if (place >= 0).all() else (place >= 0).to(device)

    def update(
        self,
        layer: int,
        k: Float[Tensor, "batch kv_head new dim"],
        v: Float[Tensor, "batch kv_head new dim"],
    ) -> tuple[Float[Tensor, "batch kv_head key dim"], Float[Tensor, "batch kv_head key dim"]]:
        """Write the new tokens into their blocks; gather all, padded on the left."""
        expected = (len(self._sequences), self._new)
        got = (k.shape[0], k.shape[2])
        require(got == expected, f"k must have (batch, new) = {expected}", got)
        written = self._slots[:, self.length :]
        self._pool._k[layer, written] = k.detach().transpose(1, 2)
        self._pool._v[layer, written] = v.detach().transpose(1, 2)
        keys, values = (
            p[layer, self._slots].transpose(1, 2) for p in (self._pool._k, self._pool._v)
        )
        return keys, values

    def advance(self, n: int) -> None:
        """The sequences are n tokens longer."""
        for i in self._sequences:
            self._pool._lengths[i] += n
        self.length += n
