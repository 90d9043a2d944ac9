r"""Continuous batching: who is computed with whom is decided anew before each token.

Reading a model's weights costs the same for one row as for eight, so rows should share a pass. But
requests come when they like and end when they like. A scheduler works in steps, each of which
gives one token to every running request: what has ended makes room at once, what waits enters as
soon as the pool has blocks for it (first come, first served). If the pool runs dry, the youngest
request gives its blocks back and waits; it keeps its tokens and its place in its random numbers,
and reads everything again when it returns. A request whose beginning is still in the pool shares
those blocks.

>>> from week18.llama3 import Llama, LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> scheduler = Scheduler(model, n_blocks=8, block_size=4)
>>> first = scheduler.submit(Request([3, 1, 4], max_new_tokens=2))
>>> second = scheduler.submit(Request([5, 9], max_new_tokens=1))
>>> [sorted(scheduler.step()) == ids for ids in ([first, second], [first])]
[True, True]
>>> len(scheduler.finished[first]), scheduler.idle
(2, True)

`uv run weeks/19/batching.py` measures it. Sources: Yu et al., "Orca" (2022), sections 3.1 and 4.1
(scheduling by iteration); Kwon et al., "Efficient memory management for large language model
serving with PagedAttention" (2023), section 4.5 (preemption, recomputation).
"""

from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor, nn

from shared.require import require
from week19.paged_cache import PagedKVCache
from week19.sampling import greedy

Choose = Callable[..., Int[Tensor, " batch"]]


@dataclass(frozen=True)
class Request:
    """A text to go on with, and how.

    Attributes
    ----------
    choose
        `choose(logits, history, generator)`, as `week19.sampling` does it.
    seed
        Of the request's own generator: its draws depend on nobody else's.
    stop
        Tokens of which any ends the answer; it is the last of its tokens.
    """

    prompt: Sequence[int]
    max_new_tokens: int
    choose: Choose = greedy
    seed: int = 0
    stop: Collection[int] = ()


@dataclass(eq=False)
class _Row:
    """A request on its way: all its tokens, and its sequence in the pool while it runs."""

    number: int
    request: Request
    tokens: list[int]
    generator: torch.Generator
    sequence: int = field(default=-1)

    @property
    def written(self) -> list[int]:
        return self.tokens[len(self.request.prompt) :]

    @property
    def ended(self) -> bool:
        new, request = self.written, self.request
        return len(new) >= request.max_new_tokens or bool(new and new[-1] in request.stop)


class Scheduler:
    """Requests that share one model and one pool of blocks.

    Parameters
    ----------
    model
        A `Llama`, or a module that has its `config` and `embed` and is called like it.
    n_blocks, block_size
        The pool, see `PagedKVCache`.
    max_batch
        Most requests that run at a time.
    sharing
        Whether beginnings that are in the pool are shared, those of ended requests too as long as
        nobody needs their blocks.

    Attributes
    ----------
    finished
        The new tokens of what has ended, by number.
    preemptions, read, shared
        How often a request had to give its blocks back; tokens that were read, and those that
        were found in the pool instead.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        n_blocks: int,
        block_size: int = 16,
        max_batch: int = 8,
        sharing: bool = True,
    ):
        require(max_batch >= 1, "max_batch must be at least 1", max_batch)
        self.model, self.max_batch, self.sharing = model, max_batch, sharing
        self.pool = PagedKVCache(model, n_blocks=n_blocks, block_size=block_size)
        self.finished: dict[int, list[int]] = {}
        self.preemptions = self.read = self.shared = 0
        self._waiting: deque[_Row] = deque()
        self._running: list[_Row] = []  # the oldest first
        self._kept: dict[int, list[int]] = {}  # ended sequences, the one ended first in front
        self._next = 0

    @property
    def idle(self) -> bool:
        """Whether nothing runs or waits."""
        return not (self._running or self._waiting)

    @property
    def running(self) -> list[int]:
        """Numbers of the requests that the next step goes on with."""
        return [row.number for row in self._running]

    @property
    def waiting(self) -> list[int]:
        """Numbers of the requests that wait, the next one first."""
        return [row.number for row in self._waiting]

    @property
    def used_blocks(self) -> int:
        """Blocks of the requests that run; what is only kept for sharing does not count."""
        return len({b for row in self._running for b in self.pool.blocks(row.sequence)})

    def submit(self, request: Request) -> int:
        """Queue a request; returns its number.

        Raises
        ------
        ValueError
            If it could not run even alone: it has no tokens, unknown ones, or too many for the
            context or the pool.
        """
        prompt, new = [int(token) for token in request.prompt], request.max_new_tokens
        vocab, most = self.model.config.vocab_size, self.model.config.context
        require(len(prompt) >= 1, "prompt must hold at least one token", "none")
        known = all(0 <= token < vocab for token in prompt)
        require(
            known, f"prompt must hold tokens from 0 to {vocab - 1}", f"{min(prompt)}..{max(prompt)}"
        )
        require(new >= 1, "max_new_tokens must be at least 1", new)
        n = len(prompt) + new - 1  # the last token is never read
        require(n <= most, f"prompt and new tokens must fit in context = {most}", n)
        room = self.pool.n_blocks * self.pool.block_size
        require(n <= room, f"prompt and new tokens must fit in the pool of {room}", n)
        generator = torch.Generator(self.model.embed.weight.device).manual_seed(request.seed)
        self._next += 1
        self._waiting.append(_Row(self._next, request, prompt, generator))
        return self._next

    def cancel(self, number: int) -> None:
        """Forget a request that waits or runs; its blocks are free at once."""
        row = next((r for r in (*self._running, *self._waiting) if r.number == number), None)
        require(row is not None, "number must be of a request that waits or runs", number)
        if row in self._running:
            self.pool.remove(row.sequence)
            self._running.remove(row)
        else:
            self._waiting.remove(row)

    def forget(self) -> None:
        """Free the blocks that are only kept for sharing."""
        while self._kept:
            self._drop_oldest()

    @torch.inference_mode()
    def step(self) -> dict[int, int]:
        """Admit what fits, then one token for each running request, by number."""
        self._admit()
        self._make_room()
        if not self._running:
            return {}
        batch = self.pool.batch([row.sequence for row in self._running])
        batch.last = torch.tensor([row.tokens[-2:][0] for row in self._running])
        last = torch.tensor([[row.tokens[-1]] for row in self._running])
        device = self.model.embed.weight.device
        logits = self.model(
            last.to(device), cache=batch, mask=batch.mask, positions=batch.positions
        )
        self.read += len(self._running)
        found = {}
        for row, own in zip(list(self._running), logits, strict=True):
            history = torch.tensor([row.tokens], device=device)
            found[row.number] = int(row.request.choose(own, history, row.generator))
            row.tokens.append(found[row.number])
            if row.ended:
                self._end(row)
        return found

    # ---- the pool's blocks

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.max_batch:
            row = self._waiting[0]
            row.sequence = self._enter(row.tokens)
            missing = len(row.tokens) - self.pool.length(row.sequence)
            # one block to spare for each that runs, or it might soon be out again
            need = self.pool.blocks_to_get([row.sequence], missing) + len(self._running)
            while need > self.pool.n_free and self._kept:
                self._drop_oldest()
            if need > self.pool.n_free:
                self.pool.remove(row.sequence)
                return
            self._running.append(self._waiting.popleft())
            if missing > 1:  # the last token is for the step
                self._read(row.sequence, row.tokens[:-1], missing - 1)

    def _enter(self, tokens: list[int]) -> int:
        """A sequence that begins with the whole blocks of another one, as far as they agree."""
        running = {row.sequence: row.tokens for row in self._running}
        best, common = None, 0
        for sequence, other in ({**running, **self._kept} if self.sharing else {}).items():
            most = min(len(tokens) - 1, self.pool.length(sequence))  # one is left to be read
            n = next((i for i in range(most) if tokens[i] != other[i]), most)
            n -= n % self.pool.block_size
            if n > common:
                best, common = sequence, n
        if best is None:
            return self.pool.add()
        sequence = self.pool.fork(best)
        self.pool.crop(sequence, common)
        self.shared += common
        return sequence

    def _read(self, sequence: int, tokens: list[int], new: int) -> None:
        batch = self.pool.batch([sequence], new=new)
        batch.last = torch.tensor(tokens[-new - 1 :][:1])
        device = self.model.embed.weight.device
        row = torch.tensor([tokens[-new:]], device=device)
        self.model(row, cache=batch, mask=batch.mask, positions=batch.positions)
        self.read += new

    def _make_room(self) -> None:
        def short() -> bool:
            rows = [row.sequence for row in self._running]
            return bool(rows) and self.pool.blocks_to_get(rows, 1) > self.pool.n_free

        while short():
            if self._kept:
                self._drop_oldest()
                continue
            youngest = self._running.pop()
            self.pool.remove(youngest.sequence)
            self._waiting.appendleft(youngest)
            self.preemptions += 1

    def _end(self, row: _Row) -> None:
        self.finished[row.number] = row.written
        self._running.remove(row)
        if self.sharing:
            self._kept[row.sequence] = row.tokens
        else:
            self.pool.remove(row.sequence)

    def _drop_oldest(self) -> None:
        oldest = next(iter(self._kept))
        del self._kept[oldest]
        self.pool.remove(oldest)
