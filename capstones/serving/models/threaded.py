"""Answers that a thread writes, one at a time: what is no language model of the engine's.

Such an answer counts no tokens: what writes it may have none.
"""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from serving.engine.backend import Limits
from serving.engine.metrics import Metrics
from serving.errors import ApiError, refused
from serving.types import Asked, Piece, Turns

Write = Callable[[threading.Event], Iterator[Piece]]  # the last piece says why it ends


class ThreadAnswer:
    """One answer that a thread writes; see `serving.types.Answer`."""

    def __init__(self, write: Write, backend: "ThreadBackend"):
        self.n_prompt = self.n_written = 0
        self._stop, self._backend, self._start = threading.Event(), backend, time.perf_counter()
        self._loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue()
        self._over = False
        threading.Thread(target=self._work, args=(write,), daemon=True).start()

    def _work(self, write: Write) -> None:
        def say(value: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
                self._loop.call_soon_threadsafe(self._pieces.put_nowait, value)

        try:
            with self._backend.turn:
                if not self._stop.is_set():
                    for piece in write(self._stop):
                        say(piece)
                        if self._stop.is_set():
                            break
        except Exception as error:
            say(error)
        finally:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._backend.answers.discard, self)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        metrics, begun = self._backend.metrics, False
        try:
            while True:
                piece = await self._pieces.get()
                if isinstance(piece, ApiError):
                    raise piece
                if isinstance(piece, Exception):
                    failure = f"the pipeline failed ({type(piece).__name__})"
                    raise ApiError(500, failure) from piece
                if piece.finish is not None:
                    break
                if not begun:
                    begun = True
                    metrics.first.observe(time.perf_counter() - self._start)
                yield piece
            self._over = True
            metrics.ended(piece.finish)
            metrics.whole.observe(time.perf_counter() - self._start)
            yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """See `serving.types.Answer`."""
        self._stop.set()
        self._backend.answers.discard(self)
        if not self._over:
            self._over = True
            self._backend.metrics.ended("abort")


class ThreadBackend:
    """What answers conversations in a thread; see `serving.types.Backend`.

    A subclass says in `write` how.
    """

    what = "assistants are"  # said of what cannot be completed

    def __init__(self, limits: Limits, metrics: Metrics):
        self.limits, self.metrics = limits, metrics
        self.answers: set[ThreadAnswer] = set()
        self.turn = threading.Lock()
        metrics.watch(metrics.running, lambda: min(1, self.active))
        metrics.watch(metrics.waiting, lambda: max(0, self.active - 1))

    @property
    def active(self) -> int:
        """See `serving.types.Backend`."""
        return len(self.answers)

    def begin(self, asked: Asked) -> list[ThreadAnswer]:
        """See `serving.types.Backend`; conversations only, and one answer to each."""
        turns = self._turns(asked)
        if asked.max_tokens == 0:
            return []
        if self.active > self.limits.max_queue:
            message = f"{self.active} answers are being written or wait; come again"
            raise ApiError(429, message, code="overloaded", wait=1)
        answer = ThreadAnswer(lambda stop: self.write(turns, stop), self)
        self.answers.add(answer)
        return [answer]

    def write(self, turns: Turns, stop: threading.Event) -> Iterator[Piece]:
        """The answer to a conversation that ends with the user, piece by piece, until `stop`."""
        raise NotImplementedError(f"{type(self).__name__} must say how it writes")

    def _turns(self, asked: Asked) -> Turns:
        if isinstance(asked.prompt, str) or not isinstance(asked.prompt[0], tuple):
            raise refused(f"{self.what} asked at /v1/chat/completions", param="prompt")
        wanted = {"n": asked.n > 1, "logprobs": asked.top is not None, "stop": asked.stops}
        if name := next((name for name, value in wanted.items() if value), None):
            raise refused(f"{name} is not supported by this model", param=name)
        turns: Turns = tuple(turn for turn in asked.prompt if turn[0] != "system")
        if not turns or turns[-1][0] != "user" or not turns[-1][1].strip():
            raise refused("messages must end with a question of the user's", param="messages")
        return turns

    def close(self) -> None:
        """See `serving.types.Backend`."""
        for answer in tuple(self.answers):
            answer.cancel()
        with self.turn:
            self.release()

    def release(self) -> None:
        """Give back what is held, once no thread writes any more."""
