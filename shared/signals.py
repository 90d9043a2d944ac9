"""Ctrl-C and SIGTERM end a program by one line, whatever it is doing."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

__all__ = ["at_once", "like_ctrl_c"]

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}


def at_once(name: str) -> None:
    """While the program `name` is imported, a signal ends it; there is nothing to clear away."""
    module = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if sys.argv[:1] == ["-m"] else []
    program = Path((module or sys.argv or [""])[0]).stem.replace("_", "-")
    if program != name or threading.current_thread() is not threading.main_thread():
        return
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # a shell's background job has no Ctrl-C
            signal.signal(number, partial(_end, name))


def _end(name, number, frame):
    os.write(2, f"{name}: {WORDS[number]}\n".encode())
    os._exit(128 + number)


@contextmanager
def like_ctrl_c(*more: int) -> Iterator[None]:
    """Both signals, and `more`, raise KeyboardInterrupt: what is half done is cleared away."""

    def stop(number, frame):
        raise KeyboardInterrupt("" if number == signal.SIGINT else "terminated")

    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    heard = [number for number in (*WORDS, *more) if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            # Of a program, all that was to be done is done: only its status is left to give.
            over = isinstance(handler, partial) and handler.func is _end
            signal.signal(number, signal.SIG_IGN if over else handler)
