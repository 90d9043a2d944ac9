"""One process or many: every process takes every w-th batch, and the journal brings them together.

Processes are those that `torchrun` or `accelerate` started; they share the cache folder and nothing
else. The plan of batches knows nothing of them, so the numbers do not either, and a run may be
resumed with another number of processes.

When process 0 has done its share it waits while others are alive, each of which holds a lock that
the system lets go whenever and however it ends. What they leave undone it does itself.

>>> World(rank=1, size=3).share("abcdefg")
['b', 'e']
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.errors import UserError


@dataclass
class World:
    """This process among those of its run.

    Attributes
    ----------
    rank, size
        Its number, from 0, and how many there are.
    patience
        Seconds without any news from the others after which process 0 gives up.
    """

    rank: int = 0
    size: int = 1
    patience: float = 1800.0

    def share(self, batches: Sequence[Any]) -> list[Any]:
        """Every size-th batch; each is in exactly one process's share."""
        return list(batches[self.rank :: self.size])

    @contextlib.contextmanager
    def alive(self, folder: Path) -> Iterator[None]:
        """Show process 0 that this one is at work, until it ends however it ends."""
        if self.rank == 0:
            yield
            return
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock(folder, self.rank), os.O_CREAT | os.O_RDWR, 0o644)
        try:
            _flock(descriptor, shared=True)
            yield
        finally:
            os.close(descriptor)

    def wait(
        self,
        folder: Path,
        refresh: Callable[[], int],
        done: Callable[[], bool],
        *,
        step: float = 0.05,
    ) -> None:
        """Until all is done or no other process is alive.

        Parameters
        ----------
        folder
            The journal's.
        refresh
            Reads what others have written; tells how much it was.
        done
            Whether nothing is missing any more.
        step
            Seconds between two looks.

        Raises
        ------
        UserError
            Others are alive, but nothing has come from them for long.
        """
        news = time.monotonic()
        while True:
            working = [rank for rank in range(1, self.size) if _held(_lock(folder, rank))]
            if refresh():  # after the look at who is alive, so that nothing slips between
                news = time.monotonic()
            if done() or not working:
                return
            if time.monotonic() - news > self.patience:
                names = ", ".join(map(str, working))
                raise UserError(
                    f"process {names} of {self.size} has answered nothing for "
                    f"{self.patience:g} seconds; end it and run again, what was answered is kept"
                )
            time.sleep(step)


def find_world() -> World:
    """As the variables RANK and WORLD_SIZE say; one process where they are not set.

    Raises
    ------
    UserError
        They are no numbers, or do not fit each other.
    """
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    if not all(text.isdecimal() for text in given) or int(given[0]) >= int(given[1]):
        raise UserError(
            f"RANK and WORLD_SIZE must be numbers, the first the smaller, got {' and '.join(given)}"
        )
    return World(int(given[0]), int(given[1]))


def _lock(folder: Path, rank: int) -> Path:
    return folder / f"process-{rank}.lock"


def _flock(descriptor: int, *, shared: bool) -> bool:
    """Take a lock; without waiting, if it is not to be shared. Where nothing can be locked: no."""
    try:
        import fcntl
    except ImportError:  # Windows
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _held(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:  # it has not begun
        return True
    try:
        return not _flock(descriptor, shared=False)
    finally:
        os.close(descriptor)
