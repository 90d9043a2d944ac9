"""Work spread over processes whose results come back in the order of the work.

Nothing that is made depends on how many there are. They are started ("spawn": no lock or thread is
copied) only when there is enough to do, and end with their parent, however it ends.
"""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any, TypeVar

__all__ = ["Workers"]

In, Out = TypeVar("In"), TypeVar("Out")


class Workers:
    """Processes that are started when there is enough to do; a context manager."""

    def __init__(self, n: int):
        self.n = n
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: Callable[[In], Out], chunks: Iterable[In]) -> Iterator[tuple[In, Out]]:
        """Each chunk and what `function` makes of it, in order; few are underway at a time."""
        chunks = iter(chunks)
        first = list(islice(chunks, self.n)) if self.n > 1 else []
        if len(first) == self.n > 1 and self._pool is None:  # else not worth a second of starting
            self._pool = ProcessPoolExecutor(
                self.n, multiprocessing.get_context("spawn"), initializer=_follow_parent
            )
        chunks = chain(first, chunks)
        if self._pool is None:
            for chunk in chunks:
                yield chunk, function(chunk)
            return
        underway: deque[tuple[In, Any]] = deque()
        for chunk in chunks:
            with _unheard():  # the first one starts the processes
                underway.append((chunk, self._pool.submit(function, chunk)))
            if len(underway) > 2 * self.n:
                chunk, future = underway.popleft()
                yield chunk, future.result()
        while underway:
            chunk, future = underway.popleft()
            yield chunk, future.result()


@contextmanager
def _unheard() -> Iterator[None]:
    """Processes started here leave Ctrl-C and SIGTERM to their parent, from their first moment."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _follow_parent() -> None:
    """End when the parent ends, even by SIGKILL, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
