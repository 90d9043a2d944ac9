"""What a run writes down: `log.jsonl`, a function of the settings alone, and `timing.jsonl`."""

import json
import math
import os
import time
from functools import partial
from pathlib import Path
from typing import Any

from shared.artifacts import inside
from shared.errors import UserError

__all__ = ["Log", "finite"]


def finite(value: float) -> float | str:
    """JSON has no NaN; a log line that says so is better than none."""
    return value if math.isfinite(value) else str(value)


class Log:
    """`log.jsonl`, the same bytes however often a run was interrupted, and `timing.jsonl`.

    A resumed run cuts the log back to the length that its checkpoint knows as `bytes_written`.
    """

    def __init__(self, run: Path, writes: bool, *, tensorboard: bool = False):
        self.path, self.writes, self.began = run / "log.jsonl", writes, time.perf_counter()
        self.bytes_written, self.board, self._writer = 0, None, None
        if not writes:
            return
        for name in ("log.jsonl", "timing.jsonl"):
            if os.path.lexists(run / name):
                inside(run, name)
        self._log = self.path.open("ab")
        self._timing = (run / "timing.jsonl").open("ab")
        self.bytes_written = self._log.tell()
        if tensorboard:
            if (run / "tensorboard").is_symlink():
                raise UserError(f"{run / 'tensorboard'} is a link: it would lead out of the run")
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise UserError("tensorboard must be installed to write its event files") from None

            self._writer = partial(SummaryWriter, str(run / "tensorboard"))

    def write(self, line: dict[str, Any], speed: float | None = None) -> None:
        """One step with its tokens per second, or one evaluation."""
        if not self.writes:
            return
        data = (json.dumps(line) + "\n").encode()
        self._log.write(data)
        self.bytes_written += len(data)
        if speed is not None:
            seconds = round(time.perf_counter() - self.began, 4)
            timing = {"step": line["step"], "seconds": seconds}
            timing["tokens_per_second"] = round(speed, 1)
            self._timing.write((json.dumps(timing) + "\n").encode())
        if self._writer and self.board is None:  # steps that are done again replace the old ones
            self.board = self._writer(purge_step=line["step"])
        for name, value in line.items() if self.board else ():
            if name != "step" and isinstance(value, int | float):
                self.board.add_scalar(name, value, line["step"])

    def truncate(self, n_bytes: int) -> None:
        """Forget what was written after the checkpoint that is resumed."""
        if not self.writes:
            return
        self._log.truncate(n_bytes)
        self._log.seek(0, os.SEEK_END)
        self.bytes_written = n_bytes

    def flush(self) -> None:
        """What a checkpoint counts on is on the disk before it."""
        if self.writes:
            for stream in (self._log, self._timing):
                stream.flush()
                os.fsync(stream.fileno())

    def close(self) -> None:
        """Flush and close all files."""
        if self.writes and not self._log.closed:
            self.flush()
            for stream in (self._log, self._timing, self.board):
                if stream:
                    stream.close()
