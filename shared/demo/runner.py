"""The chain, step after step: what is done is not done again, and no child outlives it."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from shared.demo.steps import Step
from shared.errors import UserError
from shared.files import write_atomic
from shared.require import require

__all__ = ["Chain", "StepError", "alone"]

ADDRESS = re.compile(r"at (http://\S+)/v1$", re.MULTILINE)
START, END = 180.0, 30.0  # seconds that a server has to be ready, and a program to end
TAIL = 8  # lines of a log that a failure shows


class StepError(UserError):
    """A step that failed; what is done stays done."""

    status = 1


class Chain:
    """Runs steps in a folder.

    Parameters
    ----------
    out
        The folder.
    steps
        What to do.
    console
        Where progress goes.
    start
        The step from which on all is done again.

    Attributes
    ----------
    held
        What the steps' programs keep open, see `alone`.
    """

    def __init__(self, out: Path, steps: Sequence[Step], console: Console, *, start: str = ""):
        names = [step.name for step in steps]
        must = f"--from must be one of {', '.join(names)}"
        require(not start or start in names, must, repr(start), error=UserError)
        self.out, self.steps, self.console, self.start = out, steps, console, start
        self.material, self.held = "", ()
        self.places = {"out": Path(os.path.relpath(out)).as_posix()}
        self.versions = {name: importlib.metadata.version(name) for name in ("ml-studies", "torch")}
        self.versions["python"] = platform.python_version()

    def run(self, material: str) -> None:
        """Do what is not done.

        Parameters
        ----------
        material
            A digest of the files that the steps work on.

        Raises
        ------
        StepError
            A step failed.
        """
        self.material = material
        names = [step.name for step in self.steps]
        if self.start:
            for step in self.steps[names.index(self.start) :]:
                self._forget(step)
        left = [step for step in self.steps if not (step.serves or self._done(step))]
        if not left:
            self.console.print("all steps are done; --from STEP does again from there")
            return
        first = names.index(left[0].name)
        for step in self.steps[first + 1 :]:
            self._forget(step)
        if any(self._done(step) for step in self.steps[:first]):
            self.console.print(f"going on from {left[0].name}: what comes before it is done")
        with ExitStack() as servers:
            for number, step in enumerate(self.steps, 1):
                if number <= first and not step.serves:
                    continue
                typed = step.typed(self.places)
                self.console.print(f"\n{step.name}: {step.why}", style="bold", soft_wrap=True)
                self.console.print(f"$ {typed}", style="cyan", soft_wrap=True)
                started = time.monotonic()
                if step.serves:
                    self.places["url"] = self._serve(step, servers)
                else:
                    self._do(step)
                took = f"{number}/{len(self.steps)} {step.name}, {time.monotonic() - started:.0f} s"
                where = f", at {self.places['url']}" if step.serves else ""
                self.console.print(f"✓ {took}{where}", style="green")

    def log(self, step: Step) -> Path:
        """What the step's program said."""
        return self.out / "logs" / f"{step.name}.log"

    def mark(self, step: Step) -> dict[str, Any]:
        """What is known of a step; nothing if it never began."""
        with suppress(OSError, ValueError):
            found = json.loads((self.out / "marks" / f"{step.name}.json").read_bytes())
            if isinstance(found, dict):
                return found
        return {}

    def _part(self, step: Step) -> Path:
        """What it prints, until it is all there."""
        return self.out / f".{step.stdout}.part"

    def _digest(self, step: Step) -> str:
        what = [step.program, step.words, step.stdin, step.stdout, self.material, self.versions]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()

    def _done(self, step: Step) -> bool:
        mark = self.mark(step)
        finished = mark.get("done") is True and mark.get("digest") == self._digest(step)
        return finished and step.done(self.out)

    def _forget(self, step: Step) -> None:
        (self.out / "marks" / f"{step.name}.json").unlink(missing_ok=True)

    def _note(self, step: Step, seconds: float = 0.0, *, done: bool = False) -> None:
        typed = step.typed(self.places)
        mark = {"digest": self._digest(step), "done": done, "seconds": seconds, "typed": typed}
        write_atomic(self.out / "marks" / f"{step.name}.json", json.dumps(mark))

    def _do(self, step: Step) -> None:
        begun = self.mark(step)
        if begun.get("done") or begun.get("digest") != self._digest(step):
            for name in step.leaves:  # of another time; what was begun, its program goes on with
                _remove(self.out / name.split("/")[0])
        self._note(step)
        started = time.monotonic()
        with ExitStack() as files:
            log = files.enter_context(self.log(step).open("wb"))
            given: int | IO[bytes] = subprocess.DEVNULL
            if step.stdin:
                given = files.enter_context((self.out / step.stdin).open("rb"))
            said: IO[bytes] = log
            if step.stdout:
                said = files.enter_context(self._part(step).open("wb"))
            command = step.command(self.places)
            streams = {"stdin": given, "stdout": said, "stderr": log, "pass_fds": self.held}
            process = files.enter_context(child(command, **streams))
            self._watch(step, process, lambda: process.poll() is not None)
        if process.returncode:
            raise self._failed(step, f"status {process.returncode}")
        if step.stdout:
            os.replace(self._part(step), self.out / step.stdout)
        if not step.done(self.out):
            missing = ", ".join(name for name in step.leaves if not (self.out / name).exists())
            raise self._failed(step, f"it did not leave {missing}")
        self._note(step, time.monotonic() - started, done=True)

    def _serve(self, step: Step, servers: ExitStack) -> str:
        """Start a server that ends with `servers`; its address, once it answers there."""
        log, deadline = servers.enter_context(self.log(step).open("wb")), time.monotonic() + START
        command, given = step.command(self.places), subprocess.DEVNULL
        process = servers.enter_context(child(command, stdin=given, stdout=log, stderr=log))

        def address() -> re.Match | None:
            return ADDRESS.search(self.log(step).read_text(encoding="utf-8", errors="replace"))

        over = lambda: process.poll() is not None or time.monotonic() > deadline  # noqa: E731
        self._watch(step, process, lambda: address() or over())
        found = address()
        if found is None or process.poll() is not None:
            raise self._failed(step, "it is not ready")
        self._note(step, done=True)
        return found[1]

    def _watch(self, step: Step, process: subprocess.Popen, over: Callable[[], Any]) -> None:
        """Wait; on a terminal with the time and the last that the program said."""
        columns = (
            SpinnerColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}", markup=False),
        )
        off = not self.console.is_terminal
        with Progress(*columns, console=self.console, transient=True, disable=off) as progress:
            bar = progress.add_task(step.name, total=None)
            while not over():
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                if not off and (last := self._last(step, 1)):
                    progress.update(bar, description=last[0][:70])

    def _last(self, step: Step, number: int) -> list[str]:
        lines = self.log(step).read_text(encoding="utf-8", errors="replace").splitlines()
        return [line for line in lines if line.strip()][-number:]

    def _failed(self, step: Step, how: str) -> StepError:
        for line in self._last(step, TAIL):
            self.console.print(f"  {line}", style="dim", soft_wrap=True)
        typed, log = step.typed(self.places), os.path.relpath(self.log(step))
        return StepError(f"{step.name} failed ({how}): {typed}; its log is {log}")


@contextmanager
def alone(path: Path) -> Iterator[tuple[int, ...]]:
    """Hold a file against other demos; what a program must keep open to hold it too.

    A demo that is killed cannot end its program, which then still writes into the folder.

    Raises
    ------
    UserError
        Another holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        path.touch()
        yield ()
        return
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = "another demo, or the last step of one that was killed"
            raise UserError(f"--out {path.parent} is being worked on by {what}") from None
        except OSError:  # some network file systems cannot lock
            pass
        yield (file.fileno(),)


@contextmanager
def child(command: Sequence[str], **streams: Any) -> Iterator[subprocess.Popen]:
    """A process that is ended with the block, however that ends.

    It has a session of its own: Ctrl-C reaches it as the one SIGTERM from here, by which programs
    keep what is half done.
    """
    process = subprocess.Popen(command, start_new_session=True, **streams)
    try:
        yield process
    finally:
        try:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END)
        finally:  # also when Ctrl-C comes a second time
            process.kill()
            process.wait()


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
