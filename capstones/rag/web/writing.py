"""An answer that is written in a thread of its own while lines of JSON go out to its reader.

The thread, not the reader, holds one of the few places for answers being written: who leaves
early makes it stop, and the place is free when it has stopped.
"""

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict
from typing import Any

from rag.types import Answer
from shared.errors import UserError

Pieces = Iterator[str | Answer]


def written(
    write: Callable[[threading.Event], Pieces],
    stop: threading.Event,
    done: Callable[[], None],
    seconds: float,
) -> AsyncIterator[str]:
    """Begin; give lines for each piece of text, last one for the answer, or for what went wrong.

    Parameters
    ----------
    write
        Begins to write, and stops when the event is set.
    stop
        Set it when nobody reads any more.
    done
        Called by the thread when it ends, however it ends.
    seconds
        When the answer is broken off.
    """
    loop, lines = asyncio.get_running_loop(), asyncio.Queue()

    def say(value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            loop.call_soon_threadsafe(lines.put_nowait, value and line(value))

    def work() -> None:
        try:
            for piece in write(stop):
                say({"answer": asdict(piece)} if isinstance(piece, Answer) else {"piece": piece})
                if stop.is_set():
                    break
        except (UserError, ValueError) as error:
            say({"error": str(error)})
        except Exception as error:
            say({"error": f"the server failed ({type(error).__name__})"})
            raise
        finally:
            done()
            say(None)

    threading.Thread(target=work, daemon=True).start()  # now, not when the first line is asked for
    return _until(lines, stop, seconds)


async def _until(lines: asyncio.Queue, stop: threading.Event, seconds: float) -> AsyncIterator[str]:
    """What the thread says; it is told to stop when the time is over or nobody listens."""
    end = time.monotonic() + seconds
    try:
        while said := await asyncio.wait_for(lines.get(), end - time.monotonic()):
            yield said
    except TimeoutError:
        yield line({"error": f"the answer took longer than {seconds:g} s and was broken off"})
    finally:
        stop.set()


def line(value: Any) -> str:
    """A line of JSON, NumPy's numbers as Python's."""
    return json.dumps(value, ensure_ascii=False, default=lambda number: number.item()) + "\n"
