"""When a run stops, and that no two runs write into one folder."""

import math
import os
import signal
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from shared.errors import UserError
from tiny_gpt.seal import refuse_inside
from tiny_gpt.settings import seconds_of
from tiny_gpt.training.distributed import World

__all__ = ["Interruption", "one_writer", "refuse_to_mix"]


class Interruption:
    """SIGTERM, Ctrl-C or the time limit: asked for, the run ends after the step it is in.

    A second Ctrl-C does not wait.
    """

    def __init__(self, max_time: str | None):
        self.deadline = time.monotonic() + seconds_of(max_time) if max_time else math.inf
        self.signaled = False
        self._before: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _notice(self, number, frame):
        if self.signaled and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signaled = True

    def asked(self, world: World) -> bool:
        """Whether to stop now; all processes answer alike."""
        return world.any(self.signaled or time.monotonic() >= self.deadline)


@contextmanager
def one_writer(run: Path, world: World):
    """Two runs in one folder would destroy each other; the lock ends with the process."""
    try:
        import fcntl
    except ImportError:  # Windows
        fcntl = None
    if world.rank != 0 or fcntl is None:
        yield
        return
    refuse_inside(run / "log.jsonl")
    try:
        run.mkdir(parents=True, exist_ok=True)
        # A link would lead elsewhere, and a pipe's other end may never come.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
        lock = os.open(run / ".lock", flags, 0o666)
    except OSError as error:
        raise UserError(f"out {run} cannot be written ({error.strerror})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"out {run} is being trained by another process") from None
        yield
    finally:
        os.close(lock)


def refuse_to_mix(run: Path) -> None:
    """A run is written into a new folder, an empty one, or that of a run."""
    names = set(os.listdir(run)) if run.is_dir() else set()
    if names and not names & {".lock", "settings.toml", "log.jsonl", "checkpoints", "best"}:
        raise UserError(f"out {run} holds something else than a run; choose another folder")
