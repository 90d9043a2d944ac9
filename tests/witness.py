"""Whether processes have begun and ended, asked of a pipe that they hold: no number, no clock."""

import os
import select
from contextlib import suppress
from pathlib import Path


class Witness:
    """A named pipe: who opens it and writes a byte has begun; once nobody holds it, all ended."""

    def __init__(self, path: Path):
        self.path = path
        os.mkfifo(path)

    def __enter__(self):
        self._end = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
        return self

    def __exit__(self, *_):
        os.close(self._end)

    def begun(self) -> bool:
        """Whether a byte was written that was not asked for yet."""
        with suppress(BlockingIOError):
            return bool(os.read(self._end, 1))
        return False

    def ended(self, seconds: float = 60) -> bool:
        """Whether nobody holds it any more, or soon."""
        readable = select.select([self._end], [], [], seconds)[0]
        return bool(readable) and not os.read(self._end, 1)
