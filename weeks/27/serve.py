r"""A server of a language model: requests come and go at any time, the model never waits for them.

Two worlds meet. Requests live in an **event loop**, thousands at a time, each waiting for a token
or for its reader. The model lives in a **thread** and does one thing after another: a step gives
one token to every request that runs (week 19's scheduler). Between two steps it looks into its
inbox, so that a new request runs with the next step and one whose reader has left is gone before
it. A step for $B$ requests takes about $a + bB$ seconds, $a$ for reading the weights. So $B$ places
give

$$\frac{B\,(a + b)}{a + bB}$$

times the tokens per second of one: nearly $B$ times where $a$ is all, and nothing where it is
nothing. More than it has room for is refused at once (`Full`): a queue without an end only makes
everybody late.

>>> from week18.llama3 import Llama, LlamaConfig
>>> model = Llama(LlamaConfig(vocab_size=50), torch.Generator().manual_seed(0))
>>> async def two():
...     with Engine(Scheduler(model, n_blocks=8, block_size=4), most=2) as engine:
...         streams = [engine.submit(Request([3, 1, 4], n)) for n in (2, 5)]
...         return [len([token async for token in stream]) for stream in streams]
>>> asyncio.run(two())
[2, 5]

    uv run weeks/27/serve.py

Sources: Yu et al., "Orca" (2022), section 4.1; Kwon et al., "Efficient memory management for large
language model serving with PagedAttention" (2023), section 5.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from shared.require import require
from week19.scheduler import Request, Scheduler
from week27.streaming import Writing


class Full(Exception):
    """The server has as many requests as it takes; come again later."""


class Broken(Exception):
    """The model failed, and with it every request that ran."""


class Stream:
    """The tokens of one request as they come: `async for token in stream`.

    Attributes
    ----------
    number
        The scheduler's, as soon as the request is there.
    """

    def __init__(self, engine: "Engine", request: Request):
        self.request, self.number = request, -1
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._events: asyncio.Queue = asyncio.Queue()
        self._over = False

    def __aiter__(self) -> "Stream":
        return self

    async def __anext__(self) -> int:
        event = StopAsyncIteration() if self._over else await self._events.get()
        if isinstance(event, Exception):
            self._over = True
            raise event
        return event

    def cancel(self) -> None:
        """Nobody reads on: its place and its blocks are free before the next step."""
        self._engine._leave(self)

    def _send(self, event: int | Exception) -> None:
        """Called by the thread."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._receive, event)

    def _receive(self, event: int | Exception) -> None:
        if isinstance(event, Exception):
            self._engine.active.discard(self)
        self._events.put_nowait(event)


class Engine:
    """A scheduler in a thread of its own, and the way to it from an event loop.

    Parameters
    ----------
    scheduler
        Nobody else may touch it while the engine runs.
    most
        Requests that run or wait; the next one is refused.

    Attributes
    ----------
    active
        Streams that run or wait.
    running, used_blocks
        Requests that ran in the last step, and blocks of the pool that they hold.
    error
        What broke the model, if anything did; from then on every request is refused.
    """

    def __init__(self, scheduler: Scheduler, *, most: int = 64):
        require(most >= 1, "most must be at least 1", most)
        self.scheduler, self.most = scheduler, most
        self.active: set[Stream] = set()
        self.running = self.used_blocks = 0
        self.error: Exception | None = None
        self._streams: dict[int, Stream] = {}
        # What to do between two steps, and whom to tell if nobody will.
        self._inbox: SimpleQueue[tuple[Callable[[], Any], Callable] | None] = SimpleQueue()
        self._over = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._threads = torch.get_num_threads()

    def __enter__(self) -> "Engine":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._inbox.put(None)
        self._thread.join()

    # ---- in the event loop

    def submit(self, request: Request) -> Stream:
        """Let a request in.

        What the scheduler finds wrong with it is raised when its first token is asked for.

        Raises
        ------
        Full
            There are `most` already.
        Broken
            The model failed, or the engine is closed.
        """
        if self._over:
            raise Broken("the model failed" if self.error else "closed") from self.error
        if len(self.active) >= self.most:
            raise Full(f"{self.most} requests are running or waiting")
        stream = Stream(self, request)
        self.active.add(stream)
        self._put(partial(self._enter, stream), stream._send)
        return stream

    async def call(self, work: Callable[[], Any]) -> Any:
        """Do something with the model between two steps."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def answer(result: Any, error: Exception | None) -> None:
            if not future.done():  # it is, if whoever asked has left
                future.set_exception(error) if error else future.set_result(result)

        def tell(error: Exception | None, result: Any = None) -> None:
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(answer, result, error)

        def job() -> None:
            try:
                tell(None, None if future.cancelled() else work())
            except Exception as error:
                tell(error)

        self._put(job, tell)
        return await future

    def _put(self, job: Callable[[], Any], refuse: Callable[[Exception], Any]) -> None:
        self._inbox.put((job, refuse))
        if self._over:  # the thread will not look any more
            self._refuse_all()

    def _leave(self, stream: Stream) -> None:
        if stream in self.active:
            self.active.discard(stream)
            self._put(partial(self._drop, stream), lambda error: None)

    # ---- in the thread

    def _work(self) -> None:
        torch.set_num_threads(self._threads)
        try:
            while True:
                # Blocks where there is nothing else to do.
                while self.scheduler.idle or not self._inbox.empty():
                    job = self._inbox.get()
                    if job is None:
                        return
                    job[0]()
                    self._look()
                self._step()
                self._look()
        except Exception as error:
            self.error = error
        finally:
            self._over = True
            self._refuse_all()

    def _enter(self, stream: Stream) -> None:
        try:
            stream.number = self.scheduler.submit(stream.request)
        except ValueError as error:
            stream._send(error)
            return
        self._streams[stream.number] = stream

    def _drop(self, stream: Stream) -> None:
        if self._streams.pop(stream.number, None) is not None:  # it may have ended meanwhile
            self.scheduler.cancel(stream.number)

    def _look(self) -> None:
        self.running = len(self.scheduler.running)
        self.used_blocks = self.scheduler.used_blocks

    def _step(self) -> None:
        for number, token in self.scheduler.step().items():
            self._streams[number]._send(token)
            if self.scheduler.finished.pop(number, None) is not None:
                self._streams.pop(number)._send(StopAsyncIteration())

    def _refuse_all(self) -> None:
        """Nobody waits for a thread that has ended."""
        why = Broken("the model failed" if self.error else "the server is closed")
        while self._streams:
            self._streams.popitem()[1]._send(why)
        with contextlib.suppress(Empty):
            while True:
                job = self._inbox.get_nowait()
                if job is not None:
                    job[1](why)


async def write(
    engine: Engine,
    request: Request,
    decode: Callable[[Sequence[int]], str],
    *,
    stops: Collection[str] = (),
    ends: Collection[int] = (),
) -> AsyncIterator[str]:
    """An answer's text, piece by piece; whoever stops listening ends the request.

    Parameters
    ----------
    decode
        Text of tokens.
    stops
        Texts before which the answer ends.
    ends
        Tokens that end it and are not part of its text.
    """
    stream, writing = engine.submit(request), Writing(decode, stops=stops, ends=ends)
    try:
        async for token in stream:
            if piece := writing.feed(token):
                yield piece
            if writing.finished:
                return
        if piece := writing.end():
            yield piece
    finally:
        stream.cancel()


if __name__ == "__main__":
    from shared.study import hand_over

    hand_over(__file__)
